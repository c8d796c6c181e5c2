//! What is asked of a session, and what two speakers agree on.
use super::reason::Reason;
use crate::{
    attribute::NextHop,
    family::{Families, Family},
    message::{
        Capability, ExtendedNextHop, GracefulFamily, GracefulRestart, Notification, Open, code,
    },
    rib,
    route::Manner,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// A session with one peer. A session whose configuration changes begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our AS, as this peer is to see it: nobody else's stands in paths.
    pub local_as: u32,
    /// The peer's AS.
    pub remote_as: RemoteAs,
    /// Our BGP identifier. Not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// After how long without a message the session is down: 0 for never, or 3 to 65,535 seconds
    /// (RFC 4271 section 4.2).
    pub hold_time: HoldTime,
    /// How often a KEEPALIVE is sent at most; never less often than three times in the hold time that
    /// is agreed on. `None` for that.
    pub keepalive: Option<Duration>,
    /// Between two attempts to connect, and how long one may take.
    pub connect_retry: Duration,
    /// Only the peer connects.
    pub passive: bool,
    /// What routes are to be carried.
    pub families: Families,
    /// Whether the peer is asked to keep routes while this speaker restarts: after how many seconds it
    /// no longer does, at most 4095 (RFC 4724 section 3).
    pub graceful_restart: Option<u16>,
    /// How many different prefixes the peer may announce, which are counted and dropped. `None`: any
    /// number; then they are not even counted apart.
    pub prefix_limit: Option<u32>,
}

/// Which AS the peer may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAs {
    /// This one.
    Is(u32),
    /// The same as ours.
    Internal,
    /// Any but ours.
    External,
}

impl RemoteAs {
    fn allows(self, local: u32, remote: u32) -> bool {
        match self {
            Self::Is(asn) => remote == asn,
            Self::Internal => remote == local,
            Self::External => remote != local,
        }
    }

    fn expected(self, local: u32) -> String {
        match self {
            Self::Is(asn) => format!("AS {asn}"),
            Self::Internal => format!("AS {local}, which is ours"),
            Self::External => format!("any other than AS {local}, which is ours"),
        }
    }
}

/// A hold time in whole seconds: 0, or at least 3 (RFC 4271 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldTime(u16);

impl HoldTime {
    /// `None` for 1 and 2.
    pub fn new(seconds: u16) -> Option<Self> {
        (!matches!(seconds, 1 | 2)).then_some(Self(seconds))
    }

    /// Seconds.
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for HoldTime {
    /// What RFC 4271 section 10 proposes.
    fn default() -> Self {
        Self(90)
    }
}

/// The addresses of a connection, as its owner finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Our address in it.
    pub local: IpAddr,
    /// An IPv4 address by which the peer reaches us, if the connection's own is none.
    pub ipv4: Option<Ipv4Addr>,
    /// A global IPv6 address by which the peer reaches us, if the connection's own is none.
    pub ipv6: Option<Ipv6Addr>,
    /// Our link-local address on the link to the peer, if the peer is on a link of ours.
    pub link_local: Option<Ipv6Addr>,
}

impl Endpoint {
    /// An end of which nothing else is known.
    pub fn new(local: IpAddr) -> Self {
        Self { local, ipv4: None, ipv6: None, link_local: None }
    }

    /// Next hops of routes: always this speaker itself.
    fn next_hops(&self, extended: bool) -> rib::NextHops {
        let (mut ipv4, mut ipv6, mut link_local) = (self.ipv4, self.ipv6, self.link_local);
        match self.local {
            IpAddr::V4(local) => ipv4 = Some(local),
            IpAddr::V6(local) if local.is_unicast_link_local() => link_local = Some(local),
            IpAddr::V6(local) => ipv6 = Some(local),
        }
        // RFC 2545 section 3: the link-local address comes second. Where there is no global one,
        // it is both: that is what routers send between links that have nothing else.
        let v6 = ipv6.or(link_local).map(|global| NextHop::V6 { global, link_local });
        // RFC 8950 section 3: where IPv4 routes have no IPv4 next hop, the peer must know of others.
        let ipv4 = ipv4.map(NextHop::V4).or(v6.filter(|_| extended));
        rib::NextHops { ipv4, ipv6: v6 }
    }
}

/// What a session was agreed to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub remote_as: u32,
    /// The peer's identifier.
    pub remote_id: Ipv4Addr,
    /// The peer is of the same AS.
    pub internal: bool,
    /// The lesser of both hold times; zero: none.
    pub hold_time: Duration,
    /// How often a KEEPALIVE is sent; zero: never.
    pub keepalive: Duration,
    /// Both carry them.
    pub families: Families,
    /// AS numbers take four octets (RFC 6793).
    pub four_octets: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Both know the beginning and the end of a refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// What the peer says of its restarts, if both keep routes.
    pub graceful_restart: Option<GracefulRestart>,
    /// Routes are kept after a NOTIFICATION, too (RFC 8538).
    pub notification: bool,
}

const IPV6: u16 = 2;

impl Config {
    /// Our OPEN. `restarting`: this speaker has just restarted. `forwarding`: whatever routes the peer
    /// has kept of us, the kernel has gone on forwarding for them.
    pub(crate) fn open(&self, restarting: bool, forwarding: bool) -> Open {
        let families = || self.families.iter().map(|family| family.wire());
        let mut capabilities: Vec<_> = families().map(Capability::Multiprotocol).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::EnhancedRouteRefresh);
        if self.families.contains(&Family::Ipv4Unicast) {
            let wire = Family::Ipv4Unicast.wire();
            capabilities.push(Capability::ExtendedNextHop(vec![ExtendedNextHop {
                afi: wire.afi,
                safi: wire.safi.into(),
                next_hop_afi: IPV6,
            }]));
        }
        if let Some(restart_time) = self.graceful_restart {
            let families = families().map(|family| GracefulFamily { family, forwarding });
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting,
                notification: true,
                restart_time,
                families: families.collect(),
            }));
        }
        Open::new(self.local_as, self.hold_time.seconds(), self.router_id, capabilities)
    }

    /// What comes of the peer's OPEN.
    pub(super) fn negotiate(&self, open: &Open) -> Result<Negotiated, Reason> {
        let remote_as = open.asn();
        let refuse = |subcode, data: &[u8], why: String| Reason::Refused {
            notification: Notification::new(code::OPEN, subcode, data),
            why,
        };
        if !self.remote_as.allows(self.local_as, remote_as) {
            let expected = self.remote_as.expected(self.local_as);
            return Err(refuse(
                2,
                &[],
                format!("the peer is of AS {remote_as}; expected {expected}"),
            ));
        }
        let internal = remote_as == self.local_as;
        // RFC 6286 section 2.2: only speakers of one AS must differ.
        if internal && open.identifier == self.router_id {
            let id = self.router_id;
            return Err(refuse(3, &[], format!("the peer has our own BGP identifier, {id}")));
        }
        let has = |wanted: &Capability| open.capabilities.contains(wanted);
        let multiprotocol =
            open.capabilities.iter().any(|one| matches!(one, Capability::Multiprotocol(_)));
        let carries = |family: &Family| {
            // RFC 4760 section 8: a speaker that says nothing of families has IPv4 only.
            has(&Capability::Multiprotocol(family.wire()))
                || (!multiprotocol && *family == Family::Ipv4Unicast)
        };
        let families: Families = self.families.iter().copied().filter(carries).collect();
        if families.is_empty() {
            let mut data = Vec::new();
            for family in &self.families {
                let wire = family.wire();
                data.extend_from_slice(&[1, 4]);
                data.extend_from_slice(&wire.afi.to_be_bytes());
                data.extend_from_slice(&[0, wire.safi]);
            }
            let wanted: Vec<_> = self.families.iter().map(ToString::to_string).collect();
            let why = format!("the peer does not carry {}", wanted.join(" or "));
            // RFC 5492 section 3.
            return Err(refuse(7, &data, why));
        }
        let hold_time = Duration::from_secs(self.hold_time.seconds().min(open.hold_time).into());
        let third = hold_time / 3;
        let asked = self.keepalive.filter(|asked| !asked.is_zero());
        let wire = Family::Ipv4Unicast.wire();
        let extended = |one: &Capability| match one {
            Capability::ExtendedNextHop(list) => list.iter().any(|entry| {
                (entry.afi, entry.safi, entry.next_hop_afi) == (wire.afi, wire.safi.into(), IPV6)
            }),
            _ => false,
        };
        let theirs = open.capabilities.iter().find_map(|one| match one {
            Capability::GracefulRestart(graceful) => Some(graceful.clone()),
            _ => None,
        });
        let graceful_restart = theirs.filter(|_| self.graceful_restart.is_some());
        Ok(Negotiated {
            remote_as,
            remote_id: open.identifier,
            internal,
            hold_time,
            keepalive: asked.map_or(third, |asked| asked.min(third)),
            families,
            four_octets: open.four_octet_as().is_some(),
            extended_next_hop: open.capabilities.iter().any(extended),
            enhanced_refresh: has(&Capability::EnhancedRouteRefresh),
            notification: graceful_restart.as_ref().is_some_and(|theirs| theirs.notification),
            graceful_restart,
        })
    }
}

impl Negotiated {
    /// How routes are told over this connection.
    pub(super) fn peer(&self, local_as: u32, endpoint: &Endpoint) -> rib::Peer {
        let mut next_hops = endpoint.next_hops(self.extended_next_hop);
        if !self.families.contains(&Family::Ipv4Unicast) {
            next_hops.ipv4 = None;
        }
        if !self.families.contains(&Family::Ipv6Unicast) {
            next_hops.ipv6 = None;
        }
        let manner = Manner { local_as, internal: self.internal, four_octets: self.four_octets };
        rib::Peer { next_hops, manner }
    }
}

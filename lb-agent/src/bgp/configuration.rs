//! `BGPPeer`, `BGPAdvertisement`, `BFDProfile` and `Community`, as far as they are valid, read.
//!
//! What [`crate::validate`] finds wrong is left out, so that nothing here can fail: a value that
//! cannot be meant has kept its object out.
use crate::{
    api::{BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, DynamicAsn},
    snapshot::LabelSelector,
    validate::{self, Entry, Kind, LINK_BANDWIDTH, Objects, TTL_SECURITY, Verdict},
};
use lb_bgp::{
    Family, Route,
    bfd::{self, TTL},
    session::{self, HoldTime, RemoteAs},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// The usual port (RFC 4271 section 8.2.1.2), and what 0 stands for in v1beta1.
const PORT: u16 = 179;
/// Between two attempts to connect, where no connectTime is given.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For how long peers keep routes while the agent restarts, in seconds: FRR's default, and so MetalLB's.
const RESTART_TIME: u16 = 120;
/// BFD's intervals and multiplier, where a profile gives none: FRR's, and so MetalLB's.
const BFD_INTERVAL: Duration = Duration::from_millis(300);
const BFD_MULTIPLIER: NonZeroU8 = NonZeroU8::new(3).unwrap();
/// The lowest TTL over several hops, where a profile gives none: FRR's.
const BFD_MINIMUM_TTL: u8 = 254;

/// All that is asked for about BGP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// `BGPPeer`s by name.
    pub peers: BTreeMap<String, Arc<Peer>>,
    /// `BGPAdvertisement`s by name.
    pub advertisements: BTreeMap<String, Advertisement>,
}

/// A `BGPPeer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub target: Target,
    /// Its TCP port.
    pub port: u16,
    /// The address that nodes speak from.
    pub source: Option<IpAddr>,
    /// The VRF that it is in.
    pub vrf: Option<String>,
    /// It is several hops away: its packets may have any TTL.
    pub multihop: bool,
    /// What comes from further away is not taken (RFC 5082).
    pub ttl_security: bool,
    /// The session's password (RFC 2385).
    pub password: Option<Password>,
    /// BFD beside the session.
    pub bfd: Option<bfd::Config>,
    /// The node's identifier, if it is not to be the node's own address.
    pub router_id: Option<Ipv4Addr>,
    /// The nodes that speak to it; empty: all.
    pub node_selectors: Vec<LabelSelector>,
    /// The session, but for the node's identifier.
    session: session::Config,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At an address.
    Address(IpAddr),
    /// The only other router on this interface.
    Interface(String),
}

/// Where a password is. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// In the peer itself.
    Given(String),
    /// In this Secret, under the key `password`.
    Secret(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(..)"),
            Self::Secret(name) => f.debug_tuple("Secret").field(name).finish(),
        }
    }
}

/// A `BGPAdvertisement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Length of prefixes of IPv4 addresses.
    pub aggregation_length: u8,
    /// The same for IPv6.
    pub aggregation_length_v6: u8,
    /// LOCAL_PREF; 0 is as good as none.
    pub local_pref: u32,
    /// What its routes carry otherwise.
    pub route: Route,
    /// Names of pools.
    pub pools: BTreeSet<String>,
    /// On pools' labels. Both empty: all pools.
    pub pool_selectors: Vec<LabelSelector>,
    /// The nodes that announce; empty: all.
    pub node_selectors: Vec<LabelSelector>,
    /// The Services that are announced; empty: all.
    pub service_selectors: Vec<LabelSelector>,
    /// The peers that are told; empty: all.
    pub peers: BTreeSet<String>,
    /// Routers are told how many endpoints the node has, to weigh nodes by.
    pub link_bandwidth: bool,
}

impl Configuration {
    /// What of the objects is valid.
    pub fn new(objects: &Objects, verdict: &Verdict) -> Self {
        let communities = objects.communities.iter();
        let aliases: BTreeMap<&str, &str> = communities
            .filter(|(name, _)| verdict.is_valid(Kind::Community, name))
            .flat_map(|(_, entry)| &entry.spec.communities)
            .map(|alias| (alias.name.as_str(), alias.value.as_str()))
            .collect();
        let profiles = &objects.bfd_profiles;
        let peers = objects.peers.iter().filter(|(name, _)| verdict.is_valid(Kind::Peer, name));
        let peers = peers.filter_map(|(name, entry)| {
            let profile = given(entry.spec.bfd_profile.as_ref());
            let profile = profile.and_then(|name| profiles.get(name));
            let peer = Peer::new(entry, profile.map(|entry| &entry.spec))?;
            Some((name.clone(), Arc::new(peer)))
        });
        let advertisements = objects.bgp_advertisements.iter();
        let advertisements = advertisements
            .filter(|(name, _)| verdict.is_valid(Kind::BgpAdvertisement, name))
            .map(|(name, entry)| (name.clone(), Advertisement::new(entry, &aliases)));
        Self { peers: peers.collect(), advertisements: advertisements.collect() }
    }
}

/// Passes on what of the objects is valid, if it is another than before.
pub fn publish(objects: &Objects, verdict: &Verdict, to: &watch::Sender<Arc<Configuration>>) {
    let now = Configuration::new(objects, verdict);
    to.send_if_modified(|known| {
        let changed = **known != now;
        if changed {
            *known = Arc::new(now);
        }
        changed
    });
}

/// Empty counts as absent, as everywhere in MetalLB.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn selectors(list: &[crate::api::LabelSelector]) -> Vec<LabelSelector> {
    list.iter().cloned().map(LabelSelector::from).collect()
}

impl Peer {
    fn new(entry: &Entry<BGPPeerSpec>, profile: Option<&BFDProfileSpec>) -> Option<Self> {
        let spec = &entry.spec;
        let asn = |asn: i64| u32::try_from(asn).ok().filter(|asn| *asn != 0);
        let remote_as = match spec.dynamic_asn {
            Some(DynamicAsn::Internal) => RemoteAs::Internal,
            Some(DynamicAsn::External) => RemoteAs::External,
            None => RemoteAs::Is(asn(spec.peer_asn?)?),
        };
        let target = match given(spec.peer_address.as_ref()) {
            Some(address) => Target::Address(address.parse().ok()?),
            None => Target::Interface(given(spec.interface.as_ref())?.to_owned()),
        };
        let families = match &target {
            Target::Address(IpAddr::V4(_)) if !spec.dual_stack_address_family => {
                [Family::Ipv4Unicast].into()
            }
            Target::Address(IpAddr::V6(_)) if !spec.dual_stack_address_family => {
                [Family::Ipv6Unicast].into()
            }
            Target::Address(_) | Target::Interface(_) => Family::ALL.into(),
        };
        let duration = |text: &Option<String>| validate::duration(text.as_ref()?);
        let (hold, keepalive) = (duration(&spec.hold_time), duration(&spec.keepalive_time));
        let hold = hold.or(keepalive.map(|keepalive| keepalive.saturating_mul(3)));
        let hold = hold.map(|hold| u16::try_from(hold.as_secs()).unwrap_or(u16::MAX));
        let secret = spec.password_secret.as_ref().and_then(|secret| given(secret.name.as_ref()));
        let password = given(spec.password.as_ref()).map(|text| Password::Given(text.to_owned()));
        let multihop = spec.ebgp_multi_hop == Some(true);
        Some(Self {
            target,
            port: u16::try_from(spec.peer_port).ok().filter(|port| *port != 0).unwrap_or(PORT),
            source: given(spec.source_address.as_ref()).and_then(|text| text.parse().ok()),
            vrf: given(spec.vrf.as_ref()).map(str::to_owned),
            multihop,
            ttl_security: entry.annotations.contains_key(TTL_SECURITY),
            password: secret.map(|name| Password::Secret(name.to_owned())).or(password),
            bfd: profile.map(|profile| bfd_config(profile, multihop)),
            router_id: given(spec.router_id.as_ref()).and_then(|text| text.parse().ok()),
            node_selectors: selectors(&spec.node_selectors),
            session: session::Config {
                local_as: asn(spec.local_asn.unwrap_or(spec.my_asn))?,
                remote_as,
                router_id: Ipv4Addr::UNSPECIFIED,
                hold_time: hold.and_then(HoldTime::new).unwrap_or_default(),
                keepalive,
                connect_retry: duration(&spec.connect_time).unwrap_or(CONNECT_TIME),
                passive: false,
                families,
                graceful_restart: (spec.enable_graceful_restart == Some(true))
                    .then_some(RESTART_TIME),
                // Of the agent, and the same for all.
                prefix_limit: None,
            },
        })
    }

    /// The session of a node with this identifier.
    pub fn session(&self, router_id: Ipv4Addr) -> session::Config {
        session::Config { router_id, ..self.session.clone() }
    }

    /// Whether routes of a family can be told to it.
    pub fn carries(&self, family: Family) -> bool {
        self.session.families.contains(&family)
    }
}

/// Echo is not supported, and left out.
fn bfd_config(profile: &BFDProfileSpec, multihop: bool) -> bfd::Config {
    let interval = |ms: Option<i32>| {
        let ms = ms.and_then(|ms| u64::try_from(ms).ok());
        ms.map_or(BFD_INTERVAL, Duration::from_millis)
    };
    let octet = |number: Option<i32>| number.and_then(|number| u8::try_from(number).ok());
    let minimum_ttl = octet(profile.minimum_ttl).unwrap_or(BFD_MINIMUM_TTL);
    bfd::Config {
        desired_min_tx: interval(profile.transmit_interval),
        required_min_rx: interval(profile.receive_interval),
        detect_multiplier: octet(profile.detect_multiplier)
            .and_then(NonZeroU8::new)
            .unwrap_or(BFD_MULTIPLIER),
        passive: profile.passive_mode == Some(true),
        minimum_ttl: if multihop { minimum_ttl } else { TTL },
    }
}

impl Advertisement {
    fn new(entry: &Entry<BGPAdvertisementSpec>, aliases: &BTreeMap<&str, &str>) -> Self {
        let spec = &entry.spec;
        let mut route = Route::default();
        for text in &spec.communities {
            let text = aliases.get(text.as_str()).copied().unwrap_or(text);
            if let Ok(community) = text.parse() {
                route.communities.insert(community);
            } else if let Ok(large) = text.parse() {
                route.large_communities.insert(large);
            }
        }
        let length = |length: i32| u8::try_from(length).unwrap_or(u8::MAX);
        let local_pref = spec.local_pref.unwrap_or_default();
        let local_pref = u32::try_from(local_pref).unwrap_or_default();
        route.local_pref = Some(local_pref).filter(|local_pref| *local_pref != 0);
        Self {
            aggregation_length: length(spec.aggregation_length).min(32),
            aggregation_length_v6: length(spec.aggregation_length_v6).min(128),
            local_pref,
            route,
            pools: spec.ip_address_pools.iter().cloned().collect(),
            pool_selectors: selectors(&spec.ip_address_pool_selectors),
            node_selectors: selectors(&spec.node_selectors),
            service_selectors: selectors(&spec.service_selectors),
            peers: spec.peers.iter().cloned().collect(),
            link_bandwidth: entry.annotations.contains_key(LINK_BANDWIDTH),
        }
    }
}

//! How other nodes are reached: by which interface and from which address, as the kernel's
//! routes say, and the link-layer address to send to, which the kernel keeps resolved.
//!
//! For each node on a link of ours, and for each router in front of the others, there is a
//! neighbour entry that the kernel itself keeps fresh (`NTF_EXT_MANAGED`, as
//! `ip neighbour add ... managed`), also while no agent runs. Only entries that bear Herald's
//! mark are ever removed.
use super::{
    Error,
    netlink::{self, PROTOCOL},
    routes::{Path, destination, lookup},
    uplinks::{Links, Uplink},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::RouteProtocol,
};
use rtnetlink::{Handle, MulticastGroup, packet_core::NetlinkPayload};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::{sync::watch, time};

/// How an address of a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface with the route: sockets send by this one.
    pub device: u32,
    /// Index of the interface that frames leave by: that below `device`, if it is a VLAN's.
    pub ifindex: u32,
    /// The VLAN that frames there are tagged with; 0 is none.
    pub vlan: u16,
    /// The link-layer address to send to: the node's own, or its router's.
    pub mac: [u8; 6],
    /// Our link-layer address.
    pub source_mac: [u8; 6],
    /// Our address towards the node, of the same family.
    pub source: IpAddr,
    /// Largest IP packet, in bytes, that the path takes.
    pub mtu: u16,
    /// No router stands between: `mac` is the node's own.
    pub on_link: bool,
}

/// The InternalIPs of nodes that are reached by an uplink and whose next hop has been resolved.
/// An address stays here with its last known link-layer address while that cannot be resolved.
pub type NextHops = BTreeMap<IpAddr, NextHop>;

/// A neighbour entry's place.
type Place = (u32, IpAddr);

/// What a neighbour message says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    ifindex: u32,
    /// If it can be sent to.
    mac: Option<[u8; 6]>,
    managed: bool,
    /// Somebody has written it down: it needs no resolving.
    permanent: bool,
    ours: bool,
}

impl Entry {
    fn parse(message: &NeighbourMessage) -> Option<Self> {
        let usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        let (mut address, mut mac, mut managed, mut ours) = (None, None, false, false);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                    address = Some(IpAddr::V4(*a));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                    address = Some(IpAddr::V6(*a));
                }
                NeighbourAttribute::LinkLayerAddress(a) => mac = a.as_slice().try_into().ok(),
                NeighbourAttribute::ExtFlags(flags) => {
                    managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
                _ => {}
            }
        }
        let mac = mac.filter(|_| usable);
        Some(Self {
            address: address?,
            ifindex: message.header.ifindex,
            mac,
            managed,
            permanent: message.header.state == NeighbourState::Permanent,
            ours,
        })
    }
}

/// Bursts of changes are answered together.
const SETTLE: Duration = Duration::from_millis(100);
/// Should a message be missed, or an entry be removed by hand.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Finds how other nodes are reached, keeps their next hops resolved, and publishes what is
/// known of them. Ends when nobody wants any more.
///
/// # Errors
///
/// [`Error::Netlink`] if the socket fails.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn follow(
    mut wanted: watch::Receiver<Option<BTreeSet<IpAddr>>>,
    mut links: watch::Receiver<Option<Links>>,
    next_hops: watch::Sender<NextHops>,
) -> Result<(), Error> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(|e| Error::Netlink { what: "open a socket".into(), error: e.to_string() })?;
    tokio::spawn(connection);
    let mut keeper = Keeper {
        handle,
        wanted: BTreeSet::new(),
        uplinks: Vec::new(),
        paths: BTreeMap::new(),
        resolved: BTreeMap::new(),
        next_hops,
    };
    let mut check = time::interval(CHECK_EVERY);
    check.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            changed = links.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            _ = check.tick() => {}
            message = messages.next() => {
                let mut next = message;
                let mut stale = false;
                let mut settled = false;
                while let Some((message, _)) = next {
                    stale |= match &message.payload {
                        NetlinkPayload::InnerMessage(message) => keeper.observe(message),
                        NetlinkPayload::Overrun(_) => true,
                        _ => false,
                    };
                    next = messages.next().now_or_never().flatten();
                    if next.is_none() && stale && !settled {
                        settled = true;
                        time::sleep(SETTLE).await;
                        next = messages.next().now_or_never().flatten();
                    }
                }
                keeper.publish();
                if !stale {
                    continue;
                }
            }
        }
        let found = links.borrow_and_update().clone();
        let (Some(wanted), Some(links)) = (wanted.borrow_and_update().clone(), found) else {
            continue;
        };
        keeper.wanted = wanted;
        keeper.uplinks = links.uplinks;
        keeper.keep().await?;
    }
}

struct Keeper {
    handle: Handle,
    wanted: BTreeSet<IpAddr>,
    uplinks: Vec<Uplink>,
    /// Of the wanted addresses that an uplink leads to.
    paths: BTreeMap<IpAddr, Path>,
    /// The next hops of `paths`, as last seen.
    resolved: BTreeMap<Place, [u8; 6]>,
    next_hops: watch::Sender<NextHops>,
}

/// Whom to send to for this address.
fn next_hop(address: IpAddr, path: &Path) -> Place {
    (path.device, path.gateway.unwrap_or(address))
}

impl Keeper {
    /// Takes a message in. True if entries or routes have to be looked at again.
    fn observe(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => {
                if let Some(entry) = Entry::parse(message) {
                    self.learn(&entry);
                }
                false
            }
            // An interface that loses its carrier loses its entries.
            RouteNetlinkMessage::DelNeighbour(message) => {
                Entry::parse(message).is_some_and(|entry| self.is_kept(&entry))
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                // Routes to pods come and go all the time.
                destination(route).is_some_and(|to| self.wanted.iter().any(|a| to.contains(a)))
            }
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
            _ => false,
        }
    }

    fn is_kept(&self, entry: &Entry) -> bool {
        let place = (entry.ifindex, entry.address);
        self.paths.iter().any(|(address, path)| next_hop(*address, path) == place)
    }

    fn learn(&mut self, entry: &Entry) {
        let Some(mac) = entry.mac.filter(|_| self.is_kept(entry)) else { return };
        self.resolved.insert((entry.ifindex, entry.address), mac);
    }

    /// What can be sent to, from what is known.
    fn known(&self) -> NextHops {
        let hop = |(address, path): (&IpAddr, &Path)| {
            let mac = *self.resolved.get(&next_hop(*address, path))?;
            let uplink = self.uplinks.iter().find(|uplink| uplink.device == path.device)?;
            let own = || {
                let mut own = uplink.addresses.iter().map(ipnet::IpNet::addr);
                own.find(|a| a.is_ipv4() == address.is_ipv4())
            };
            let source = path.source.filter(|a| a.is_ipv4() == address.is_ipv4());
            let mtu = path.mtu.map_or(uplink.mtu, |mtu| mtu.min(uplink.mtu));
            let hop = NextHop {
                device: path.device,
                ifindex: uplink.ifindex,
                vlan: uplink.vlan,
                mac,
                source_mac: uplink.mac,
                source: source.or_else(own)?,
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
                on_link: path.gateway.is_none(),
            };
            Some((*address, hop))
        };
        self.paths.iter().filter_map(hop).collect()
    }

    fn publish(&self) {
        let known = self.known();
        self.next_hops.send_if_modified(|published| {
            let changed = *published != known;
            if changed {
                for (address, hop) in known.iter().filter(|(a, h)| published.get(a) != Some(h)) {
                    tracing::debug!(%address, ?hop, "next hop");
                }
                *published = known;
            }
            changed
        });
    }

    async fn keep(&mut self) -> Result<(), Error> {
        let mut paths = BTreeMap::new();
        for address in &self.wanted {
            if let Some(path) = self.path_to(*address).await?
                && self.uplinks.iter().any(|uplink| uplink.device == path.device)
            {
                paths.insert(*address, path);
            }
        }
        self.paths = paths;
        let wanted: BTreeSet<Place> =
            self.paths.iter().map(|(a, path)| next_hop(*a, path)).collect();
        self.resolved.retain(|place, _| wanted.contains(place));
        let mut there = BTreeSet::new();
        for entry in entries(&self.handle).await? {
            let place = (entry.ifindex, entry.address);
            if wanted.contains(&place) {
                if let Some(mac) = entry.mac {
                    self.resolved.insert(place, mac);
                }
                if entry.permanent || entry.managed && entry.ours {
                    there.insert(place);
                }
            } else if entry.ours {
                remove(&self.handle, &entry).await?;
            }
        }
        self.publish();
        for (ifindex, address) in wanted.difference(&there) {
            add(&self.handle, *address, *ifindex).await?;
        }
        Ok(())
    }

    /// How the kernel reaches an address.
    async fn path_to(&self, address: IpAddr) -> Result<Option<Path>, Error> {
        match self.handle.route().get(lookup(address)).execute().try_next().await {
            Ok(route) => Ok(route.as_ref().and_then(Path::parse)),
            // No route: ENETUNREACH, EHOSTUNREACH, and what blackhole and prohibit routes say.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(netlink::failed(format!("look up the route to {address}"))(error)),
        }
    }
}

async fn entries(handle: &Handle) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut messages = handle.neighbours().get().set_address_family(family).execute();
        while let Some(message) =
            messages.try_next().await.map_err(netlink::failed("read neighbours"))?
        {
            entries.extend(Entry::parse(&message));
        }
    }
    Ok(entries)
}

async fn add(handle: &Handle, address: IpAddr, ifindex: u32) -> Result<(), Error> {
    let mut request = handle
        .neighbours()
        .add(ifindex, address)
        .state(NeighbourState::None)
        // Exempt from garbage collection.
        .flags(NeighbourFlags::ExtLearned)
        .replace();
    request.message_mut().attributes.extend([
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ]);
    match request.execute().await {
        // The interface is gone or going; netlink will tell.
        Err(e) if netlink::is_errno(&e, libc::ENODEV) || netlink::is_errno(&e, libc::ENETDOWN) => {
            Ok(())
        }
        done => done.map_err(netlink::failed(format!("keep {address} resolved"))),
    }
}

async fn remove(handle: &Handle, entry: &Entry) -> Result<(), Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = match entry.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = entry.ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(entry.address.into())];
    match handle.neighbours().del(message).execute().await {
        Err(e) if netlink::is_errno(&e, libc::ENOENT) || netlink::is_errno(&e, libc::ENODEV) => {
            Ok(())
        }
        done => done.map_err(netlink::failed(format!("forget {}", entry.address))),
    }
}

/// Removes all entries that Herald made; returns how many.
///
/// # Errors
///
/// [`Error::Netlink`]
pub async fn remove_all(handle: &Handle) -> Result<usize, Error> {
    let mut removed = 0;
    for entry in entries(handle).await?.iter().filter(|entry| entry.ours) {
        remove(handle, entry).await?;
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uplink;

    fn keeper() -> Keeper {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        drop(connection);
        Keeper {
            handle,
            wanted: ["10.0.0.2", "10.1.0.2"].map(|a| a.parse().unwrap()).into(),
            uplinks: vec![Uplink {
                vlan: 100,
                device: 4,
                addresses: vec!["10.0.0.1/24".parse().unwrap()],
                ..uplink(2, "eth0.100")
            }],
            paths: BTreeMap::new(),
            resolved: BTreeMap::new(),
            next_hops: watch::Sender::default(),
        }
    }

    fn neighbour(ifindex: u32, address: &str, last: u8) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Reachable;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.parse::<IpAddr>().unwrap().into()),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]),
        ];
        RouteNetlinkMessage::NewNeighbour(message)
    }

    #[tokio::test]
    async fn nodes_behind_a_router_are_reached_by_it() {
        let mut keeper = keeper();
        let [near, far]: [IpAddr; 2] = ["10.0.0.2", "10.1.0.2"].map(|a| a.parse().unwrap());
        let router: IpAddr = "fe80::1".parse().unwrap();
        let source: IpAddr = "10.0.0.9".parse().unwrap();
        let path = Path { device: 4, gateway: None, source: Some(source), mtu: None };
        keeper.paths.insert(near, path);
        let routed = Path { gateway: Some(router), mtu: Some(1400), source: None, ..path };
        keeper.paths.insert(far, routed);
        assert!(keeper.known().is_empty(), "nothing is resolved");
        assert!(!keeper.observe(&neighbour(4, "10.0.0.2", 2)));
        assert!(!keeper.observe(&neighbour(4, "fe80::1", 3)));
        // The same address on another link is another's.
        assert!(!keeper.observe(&neighbour(5, "fe80::1", 4)));
        let known = keeper.known();
        let expected = NextHop {
            device: 4,
            ifindex: 2,
            vlan: 100,
            mac: [2, 0, 0, 0, 0, 2],
            source_mac: [2, 0, 0, 0, 0, 2],
            source,
            mtu: 1500,
            on_link: true,
        };
        assert_eq!(known[&near], expected);
        let expected = NextHop {
            mac: [2, 0, 0, 0, 0, 3],
            source: "10.0.0.1".parse().unwrap(),
            mtu: 1400,
            on_link: false,
            ..expected
        };
        assert_eq!(known[&far], expected);
    }

    #[tokio::test]
    async fn only_routes_that_lead_to_nodes_are_looked_at() {
        let mut keeper = keeper();
        let mut route = lookup("10.244.0.7".parse().unwrap());
        assert!(!keeper.observe(&RouteNetlinkMessage::NewRoute(route.clone())), "to a pod");
        route.header.destination_prefix_length = 0;
        route.attributes.clear();
        assert!(keeper.observe(&RouteNetlinkMessage::DelRoute(route)), "the default route");
        let route = lookup("10.1.0.2".parse().unwrap());
        assert!(keeper.observe(&RouteNetlinkMessage::NewRoute(route)));
    }

    #[test]
    fn failed_entries_have_no_address_to_send_to() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = NeighbourState::Stale;
        message.attributes = vec![
            NeighbourAttribute::Destination(IpAddr::from([10, 0, 0, 2]).into()),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 2]),
            NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        let entry = Entry::parse(&message).unwrap();
        assert_eq!((entry.mac, entry.ours, entry.managed), (Some([2, 0, 0, 0, 0, 2]), true, false));
        message.header.state = NeighbourState::Failed;
        assert_eq!(Entry::parse(&message).unwrap().mac, None);
        message.attributes.clear();
        assert_eq!(Entry::parse(&message), None);
    }
}

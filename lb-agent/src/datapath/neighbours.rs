//! The link-layer addresses of other nodes, kept resolved by the kernel.
//!
//! For each address of a node that is on a link of ours there is a neighbour entry that
//! the kernel itself keeps fresh (`NTF_EXT_MANAGED`, as `ip neighbour add ... managed`),
//! also while no agent runs. Only entries that bear Herald's mark are ever removed.
use super::{
    Error,
    netlink::{self, PROTOCOL},
    uplinks::Uplink,
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, packet_core::NetlinkPayload};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::{sync::watch, time};

/// How an address is reached on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The uplink.
    pub ifindex: u32,
}

/// Resolved addresses of nodes. An address stays here with its last known link-layer
/// address while it cannot be resolved.
pub type Neighbours = BTreeMap<IpAddr, Neighbour>;

/// What a neighbour message says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    ifindex: u32,
    /// If it can be sent to.
    mac: Option<[u8; 6]>,
    managed: bool,
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
        Some(Self { address: address?, ifindex: message.header.ifindex, mac, managed, ours })
    }
}

/// Bursts of changes are answered together.
const SETTLE: Duration = Duration::from_millis(100);
/// Should a message be missed, or an entry be removed by hand.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Keeps the addresses of other nodes resolved that are on a link of ours, and publishes
/// what is known of them. Ends when nobody wants any more.
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
    mut uplinks: watch::Receiver<Option<Vec<Uplink>>>,
    neighbours: watch::Sender<Neighbours>,
) -> Result<(), Error> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(|e| Error::Netlink { what: "open a socket".into(), error: e.to_string() })?;
    tokio::spawn(connection);
    let mut keeper = Keeper { handle, on_link: BTreeMap::new(), neighbours };
    let mut check = time::interval(CHECK_EVERY);
    check.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            changed = uplinks.changed() => {
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
                if !stale {
                    continue;
                }
            }
        }
        let wanted = wanted.borrow_and_update().clone();
        let uplinks = uplinks.borrow_and_update().clone();
        if let (Some(wanted), Some(uplinks)) = (wanted, uplinks) {
            keeper.keep(&wanted, &uplinks).await?;
        }
    }
}

struct Keeper {
    handle: Handle,
    /// Addresses that are on a link, and by which interface.
    on_link: BTreeMap<IpAddr, u32>,
    neighbours: watch::Sender<Neighbours>,
}

impl Keeper {
    /// Takes a message in. True if routes and entries have to be looked at anew.
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
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => true,
            _ => false,
        }
    }

    fn is_kept(&self, entry: &Entry) -> bool {
        self.on_link.get(&entry.address) == Some(&entry.ifindex)
    }

    fn learn(&self, entry: &Entry) {
        let Some(mac) = entry.mac.filter(|_| self.is_kept(entry)) else { return };
        let neighbour = Neighbour { mac, ifindex: entry.ifindex };
        self.neighbours.send_if_modified(|known| {
            let changed = known.get(&entry.address) != Some(&neighbour);
            if changed {
                tracing::debug!(address = %entry.address, ?neighbour, "neighbour");
                known.insert(entry.address, neighbour);
            }
            changed
        });
    }

    async fn keep(&mut self, wanted: &BTreeSet<IpAddr>, uplinks: &[Uplink]) -> Result<(), Error> {
        let mut on_link = BTreeMap::new();
        for address in wanted {
            if let Some(ifindex) = self.link_of(*address).await?
                && uplinks.iter().any(|uplink| uplink.ifindex == ifindex)
            {
                on_link.insert(*address, ifindex);
            }
        }
        self.on_link = on_link;
        self.neighbours.send_if_modified(|known| {
            let before = known.len();
            known.retain(|address, n| self.on_link.get(address) == Some(&n.ifindex));
            known.len() != before
        });
        let mut there = BTreeSet::new();
        for entry in entries(&self.handle).await? {
            if self.is_kept(&entry) {
                self.learn(&entry);
                if entry.managed && entry.ours {
                    there.insert(entry.address);
                }
            } else if entry.ours {
                remove(&self.handle, &entry).await?;
            }
        }
        for (address, ifindex) in &self.on_link {
            if !there.contains(address) {
                add(&self.handle, *address, *ifindex).await?;
            }
        }
        Ok(())
    }

    /// The interface by which the kernel reaches an address without a gateway.
    async fn link_of(&self, address: IpAddr) -> Result<Option<u32>, Error> {
        let request = match address {
            IpAddr::V4(a) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(a, 32).build()
            }
            IpAddr::V6(a) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(a, 128).build()
            }
        };
        match self.handle.route().get(request).execute().try_next().await {
            Ok(route) => Ok(route.as_ref().and_then(on_link)),
            // No route: ENETUNREACH, EHOSTUNREACH, and what blackhole and prohibit routes say.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(netlink::failed(format!("look up the route to {address}"))(error)),
        }
    }
}

/// The interface of a route without a gateway.
fn on_link(route: &RouteMessage) -> Option<u32> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut ifindex = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    ifindex
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

    #[test]
    fn only_routes_without_a_gateway_are_on_link() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(4)];
        assert_eq!(on_link(&route), Some(4));
        route.header.kind = RouteType::Local;
        assert_eq!(on_link(&route), None);
        route.header.kind = RouteType::Unicast;
        let gateway = IpAddr::from([10, 0, 0, 1]);
        route.attributes.push(RouteAttribute::Gateway(gateway.into()));
        assert_eq!(on_link(&route), None);
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

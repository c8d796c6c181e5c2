//! Which interfaces VIP traffic arrives on, as netlink tells: never from /sys/class/net,
//! which may show another network namespace.
use super::{Error, netlink};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, packet_core::NetlinkPayload};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::sync::watch;

/// An interface on which VIP traffic arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Its addresses, with their prefix lengths, in order.
    pub addresses: Vec<IpNet>,
}

/// Which interfaces are uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// This node's InternalIPs: interfaces that carry one are uplinks by default.
    pub internal_ips: Vec<IpAddr>,
    /// Names, with `*` and `?`: if there are any, these are uplinks rather than the defaults.
    pub only: Vec<String>,
    /// Names that are uplinks in any case: those that L2Advertisements mention.
    pub also: BTreeSet<String>,
}

/// Whether a name matches a pattern: `*` is any run of characters, `?` any one.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    if first == '*' {
        let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
        return ends.into_iter().any(|at| matches(rest, &name[at..]));
    }
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|c| (first == '?' || first == c) && matches(rest, characters.as_str()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    mac: Option<[u8; 6]>,
    up: bool,
    ethernet: bool,
    /// The bond, bridge or team that it is a port of, or its VRF.
    controller: Option<u32>,
    is_vrf: bool,
}

/// Interfaces, their addresses and the default routes, in step with netlink's messages.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNet)>,
    default_routes: BTreeSet<u32>,
}

impl Interfaces {
    /// Takes a message in. True if default routes have to be read anew: the kernel does
    /// not tell of each that goes (with its interface, say, or by being replaced).
    pub fn observe(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(link) => return self.observe_link(link),
            // A port that leaves its bridge is told of as deleted, too, in the bridge's family.
            RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.links.remove(&link.header.index);
                self.addresses.retain(|(index, _)| *index != link.header.index);
                self.default_routes.remove(&link.header.index);
            }
            RouteNetlinkMessage::NewAddress(address) => self.addresses.extend(prefix(address)),
            RouteNetlinkMessage::DelAddress(address) => {
                if let Some(entry) = prefix(address) {
                    self.addresses.remove(&entry);
                }
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                return is_default(route);
            }
            _ => {}
        }
        false
    }

    fn observe_link(&mut self, message: &LinkMessage) -> bool {
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let index = message.header.index;
        let mut link = Link {
            name: String::new(),
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            controller: None,
            is_vrf: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(info) => {
                    link.is_vrf = info.contains(&LinkInfo::Kind(InfoKind::Vrf));
                }
                _ => {}
            }
        }
        let up = link.up;
        let before = self.links.insert(index, link);
        before.is_some_and(|before| before.up != up) && self.default_routes.contains(&index)
    }

    /// Replaces the default routes by these.
    pub fn set_default_routes<'a>(&mut self, routes: impl IntoIterator<Item = &'a RouteMessage>) {
        self.default_routes = routes
            .into_iter()
            .filter(|route| is_default(route))
            .flat_map(|route| &route.attributes)
            .flat_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => vec![*index],
                RouteAttribute::MultiPath(hops) => {
                    hops.iter().map(|hop| hop.interface_index).collect()
                }
                _ => Vec::new(),
            })
            .collect();
    }

    /// The interface that traffic of this one comes in by: itself, or the bond, team or
    /// bridge that it is a port of.
    fn top(&self, mut index: u32) -> u32 {
        // A bound against tables that change while they are read.
        for _ in 0..8 {
            let controller = self
                .links
                .get(&index)
                .and_then(|link| link.controller)
                .filter(|above| self.links.get(above).is_some_and(|link| !link.is_vrf));
            match controller {
                Some(above) => index = above,
                None => break,
            }
        }
        index
    }

    /// The uplinks, in order of their index. Interfaces that are down or are no Ethernet are none.
    pub fn uplinks(&self, selection: &Selection) -> Vec<Uplink> {
        let Selection { internal_ips, only, also } = selection;
        let named = |index: &u32| {
            let name = self.links[index].name.as_str();
            also.contains(name) || only.iter().any(|pattern| matches(pattern, name))
        };
        let mut chosen: BTreeSet<u32> =
            self.links.keys().filter(|index| named(index)).map(|index| self.top(*index)).collect();
        if only.is_empty() {
            chosen.extend(&self.default_routes);
            chosen.extend(
                self.addresses
                    .iter()
                    .filter(|(_, prefix)| internal_ips.contains(&prefix.addr()))
                    .map(|(index, _)| self.top(*index)),
            );
        }
        chosen
            .into_iter()
            .filter_map(|ifindex| {
                let link = self.links.get(&ifindex).filter(|link| link.up && link.ethernet)?;
                let addresses = self
                    .addresses
                    .range((ifindex, IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))..)
                    .take_while(|(index, _)| *index == ifindex)
                    .map(|(_, prefix)| *prefix)
                    .collect();
                Some(Uplink { ifindex, name: link.name.clone(), mac: link.mac?, addresses })
            })
            .collect()
    }
}

fn is_default(route: &RouteMessage) -> bool {
    let RouteHeader { destination_prefix_length, table, .. } = route.header;
    destination_prefix_length == 0 && table == RouteHeader::RT_TABLE_MAIN
}

/// The interface and prefix in an address message.
fn prefix(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links the other attribute is the peer's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
}

/// Reads everything anew.
async fn read(handle: &Handle) -> Result<Interfaces, Error> {
    let mut interfaces = Interfaces::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(netlink::failed("read interfaces"))? {
        interfaces.observe_link(&link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) =
        addresses.try_next().await.map_err(netlink::failed("read addresses"))?
    {
        interfaces.addresses.extend(prefix(&address));
    }
    let mut defaults = Vec::new();
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await.map_err(netlink::failed("read routes"))? {
            if is_default(&route) {
                defaults.push(route);
            }
        }
    }
    interfaces.set_default_routes(&defaults);
    Ok(interfaces)
}

/// Changes come in bursts: an interface that comes up has a dozen messages.
const SETTLE: Duration = Duration::from_millis(20);

/// Publishes the uplinks, and again whenever they change, as soon as there is a selection.
/// Ends when nobody selects any more.
///
/// # Errors
///
/// [`Error::Netlink`] if the socket fails.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn follow(
    mut selection: watch::Receiver<Option<Selection>>,
    uplinks: watch::Sender<Option<Vec<Uplink>>>,
) -> Result<(), Error> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(|e| Error::Netlink { what: "open a socket".into(), error: e.to_string() })?;
    tokio::spawn(connection);
    // After the subscription, so that nothing falls between.
    let mut interfaces = read(&handle).await?;
    loop {
        if let Some(selection) = &*selection.borrow_and_update() {
            let found = interfaces.uplinks(selection);
            uplinks.send_if_modified(|published| {
                let changed = published.as_ref() != Some(&found);
                if changed {
                    let names: Vec<_> = found.iter().map(|u| u.name.as_str()).collect();
                    tracing::info!(uplinks = names.join(","), "uplinks changed");
                    *published = Some(found);
                }
                changed
            });
        }
        tokio::select! {
            changed = selection.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            message = messages.next() => {
                let mut next = message;
                let mut stale = false;
                let mut settled = false;
                while let Some((message, _)) = next {
                    stale |= match &message.payload {
                        NetlinkPayload::InnerMessage(message) => interfaces.observe(message),
                        // The kernel had more to tell than the socket could hold.
                        NetlinkPayload::Overrun(_) => true,
                        _ => false,
                    };
                    next = messages.next().now_or_never().flatten();
                    if next.is_none() && !settled {
                        settled = true;
                        tokio::time::sleep(SETTLE).await;
                        next = messages.next().now_or_never().flatten();
                    }
                }
                if stale {
                    interfaces = read(&handle).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Which interfaces VIP traffic arrives on, and by which replies leave, as netlink tells: never
//! from /sys/class/net, which may show another network namespace.
mod carrier;

use self::carrier::Carriers;
use super::{
    Error,
    excluded::Excluded,
    netlink,
    routes::{devices, is_default, leaves},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, VlanProtocol,
    },
    route::RouteMessage,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, packet_core::NetlinkPayload};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};

/// An interface on which VIP traffic arrives.
///
/// Of a VLAN device (`eth0.100`), frames arrive on the device below it and have the VLAN's tag:
/// there the XDP program is attached, which stands before the kernel takes tags off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Index of the interface on which frames arrive: its own, or that of the device below.
    pub ifindex: u32,
    /// The VLAN that frames there are tagged with; 0 is none.
    pub vlan: u16,
    /// Its own index: addresses, routes and neighbours are this one's.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// The name of the interface with index `ifindex`.
    pub lower: String,
    /// The ports of `lower` where that is a bond or a team: frames arrive on them first.
    pub ports: Vec<String>,
    /// Whether VIPs may be announced on it; its traffic is steered in any case.
    pub announces: bool,
    /// Whether its cable is plugged in at both ends: else no VIP is announced on it.
    pub carrier: bool,
    /// Whether that is to be relied on: it has not just come back. Until then others had better announce.
    pub settled: bool,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Its addresses, with their prefix lengths, in order.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// No driver stands behind it that could have native XDP: a bridge, or a VLAN of what is
    /// itself a bridge, a VLAN or unknown.
    pub without_driver: bool,
}

/// An interface by which packets leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its packets have no link-layer header: tunnels, for the most part.
    pub bare: bool,
}

/// What the programs are attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// In order of their device's index.
    pub uplinks: Vec<Uplink>,
    /// In order of their index, uplinks among them.
    pub egress: Vec<Egress>,
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
    /// Those on which no VIP is announced.
    pub excluded: Excluded,
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

/// What matters of an interface's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Other,
    Bridge,
    Vrf,
    /// Its 802.1Q identifier; none where the tag is another's (802.1ad).
    Vlan(Option<u16>),
}

/// What its frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Ethernet,
    /// The IP header.
    Bare,
    /// Something else, or nothing that leaves the node.
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    mac: Option<[u8; 6]>,
    mtu: u32,
    up: bool,
    carrier: bool,
    layer: Layer,
    /// The bond, bridge or team that it is a port of, or its VRF.
    controller: Option<u32>,
    /// The device below it, in this network namespace.
    below: Option<u32>,
    kind: Kind,
}

/// Interfaces, their addresses and the routes that matter, in step with netlink's messages.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNet)>,
    default_routes: BTreeSet<u32>,
    /// By which routes lead to other hosts. May hold too many while `routes_changed`.
    routed: BTreeSet<u32>,
    /// A route went: what is in `routed` may have lost its last.
    routes_changed: bool,
    carriers: Carriers,
    /// An interface has lost its carrier: others are to announce at once.
    carrier_lost: bool,
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
                self.carriers.forget(link.header.index);
                self.addresses.retain(|(index, _)| *index != link.header.index);
                self.default_routes.remove(&link.header.index);
                self.routed.remove(&link.header.index);
            }
            RouteNetlinkMessage::NewAddress(address) => self.addresses.extend(prefix(address)),
            RouteNetlinkMessage::DelAddress(address) => {
                if let Some(entry) = prefix(address) {
                    self.addresses.remove(&entry);
                }
            }
            RouteNetlinkMessage::NewRoute(route) => {
                // A new default route may have replaced one without a word about that.
                if is_default(route) {
                    return true;
                }
                self.learn_route(route);
            }
            RouteNetlinkMessage::DelRoute(route) => {
                self.routes_changed |= leaves(route);
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
        let link = Link::parse(message);
        let (up, carrier) = (link.up, link.carrier);
        self.carriers.observe(Instant::now(), index, up && carrier);
        let before = self.links.insert(index, link);
        self.carrier_lost |= !carrier && before.as_ref().is_some_and(|before| before.carrier);
        let known = self.default_routes.contains(&index) || self.routed.contains(&index);
        before.is_some_and(|before| before.up != up) && known
    }

    /// Takes a route in.
    fn learn_route(&mut self, route: &RouteMessage) {
        if is_default(route) {
            self.default_routes.extend(devices(route));
        }
        if leaves(route) {
            self.routed.extend(devices(route));
        }
    }

    /// The interface that traffic of this one comes in by: itself, or the bond, team or
    /// bridge that it is a port of.
    fn top(&self, mut index: u32) -> u32 {
        // A bound against tables that change while they are read.
        for _ in 0..8 {
            let controller =
                self.links.get(&index).and_then(|link| link.controller).filter(|above| {
                    self.links.get(above).is_some_and(|link| link.kind != Kind::Vrf)
                });
            match controller {
                Some(above) => index = above,
                None => break,
            }
        }
        index
    }

    /// The uplinks, in order of their index. Interfaces that are down or are no Ethernet are none.
    pub fn uplinks(&self, selection: &Selection) -> Vec<Uplink> {
        let Selection { internal_ips, only, also, excluded } = selection;
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
        chosen.into_iter().filter_map(|device| self.uplink(device, excluded)).collect()
    }

    fn uplink(&self, device: u32, excluded: &Excluded) -> Option<Uplink> {
        let usable =
            |index: u32| self.links.get(&index).filter(|l| l.up && l.layer == Layer::Ethernet);
        let link = usable(device)?;
        let addresses = self
            .addresses
            .range((device, IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))..)
            .take_while(|(index, _)| *index == device)
            .map(|(_, prefix)| *prefix)
            .collect();
        let below = match (link.kind, link.below) {
            (Kind::Vlan(Some(vlan)), Some(below)) => usable(below)
                .filter(|lower| lower.kind == Kind::Other)
                .map(|lower| (below, vlan, lower)),
            _ => None,
        };
        let without_driver = below.is_none() && matches!(link.kind, Kind::Bridge | Kind::Vlan(_));
        let (ifindex, vlan, lower) = below.unwrap_or((device, 0, link));
        let ports = if without_driver {
            Vec::new()
        } else {
            self.links
                .values()
                .filter(|port| port.controller == Some(ifindex))
                .map(|port| port.name.clone())
                .collect()
        };
        Some(Uplink {
            ifindex,
            vlan,
            device,
            name: link.name.clone(),
            lower: lower.name.clone(),
            ports,
            announces: !excluded.contains(&link.name),
            carrier: link.carrier,
            settled: self.carriers.counts(Instant::now(), device),
            mac: link.mac?,
            addresses,
            mtu: link.mtu,
            without_driver,
        })
    }

    /// Uplinks, and the interfaces by which packets leave: those and all with a route to other
    /// hosts.
    pub fn links(&self, selection: &Selection) -> Links {
        let uplinks = self.uplinks(selection);
        let mut indices: BTreeSet<u32> = uplinks.iter().map(|uplink| uplink.device).collect();
        indices.extend(&self.routed);
        let egress = indices
            .into_iter()
            .filter_map(|ifindex| {
                let link = self.links.get(&ifindex).filter(|link| link.up)?;
                let bare = match link.layer {
                    Layer::Ethernet => false,
                    Layer::Bare => true,
                    Layer::Foreign => return None,
                };
                Some(Egress { ifindex, name: link.name.clone(), bare })
            })
            .collect();
        Links { uplinks, egress }
    }
}

impl Link {
    fn parse(message: &LinkMessage) -> Self {
        use LinkLayerType as Type;
        let layer = match message.header.link_layer_type {
            Type::Ether => Layer::Ethernet,
            // What `eth_type_trans` or the like is never called for: their skbs begin with IP.
            Type::None
            | Type::Tunnel
            | Type::Tunnel6
            | Type::Sit
            | Type::Ipgre
            | Type::Ip6gre
            | Type::Ppp
            | Type::Rawip => Layer::Bare,
            _ => Layer::Foreign,
        };
        let mut link = Self {
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            layer,
            controller: None,
            below: None,
            kind: Kind::Other,
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => link.below = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(info) => link.kind = kind(info),
                _ => {}
            }
        }
        link.below = link.below.filter(|_| !elsewhere);
        link
    }
}

fn kind(info: &[LinkInfo]) -> Kind {
    let mut kind = Kind::Other;
    let (mut id, mut foreign) = (None, false);
    for info in info {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => kind = Kind::Bridge,
            LinkInfo::Kind(InfoKind::Vrf) => kind = Kind::Vrf,
            LinkInfo::Kind(InfoKind::Vlan) => kind = Kind::Vlan(None),
            LinkInfo::Data(InfoData::Vlan(data)) => {
                for data in data {
                    match data {
                        InfoVlan::Id(vlan) => id = Some(*vlan),
                        InfoVlan::Protocol(protocol) => {
                            foreign = *protocol != VlanProtocol::Ieee8021Q;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match kind {
        Kind::Vlan(_) => Kind::Vlan(id.filter(|id| *id != 0 && !foreign)),
        other => other,
    }
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

/// Reads everything.
pub(super) async fn read(handle: &Handle) -> Result<Interfaces, Error> {
    read_again(handle, Carriers::default()).await
}

/// Reads everything anew, but for what is remembered of carriers.
async fn read_again(handle: &Handle, carriers: Carriers) -> Result<Interfaces, Error> {
    let mut interfaces = Interfaces { carriers, ..Interfaces::default() };
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(netlink::failed("read interfaces"))? {
        interfaces.observe_link(&link);
    }
    let Interfaces { links, carriers, .. } = &mut interfaces;
    carriers.retain(|index| links.contains_key(&index));
    let mut addresses = handle.address().get().execute();
    while let Some(address) =
        addresses.try_next().await.map_err(netlink::failed("read addresses"))?
    {
        interfaces.addresses.extend(prefix(&address));
    }
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await.map_err(netlink::failed("read routes"))? {
            interfaces.learn_route(&route);
        }
    }
    Ok(interfaces)
}

/// Changes come in bursts: an interface that comes up has a dozen messages.
const SETTLE: Duration = Duration::from_millis(20);

/// Routes that go are no reason for haste: a program that is attached in vain harms nobody.
const ROUTES_SETTLE: Duration = Duration::from_secs(1);

/// Publishes the links, and again whenever they change, as soon as there is a selection.
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
    links: watch::Sender<Option<Links>>,
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
    let mut read_at = None;
    loop {
        if let Some(selection) = &*selection.borrow_and_update() {
            let found = interfaces.links(selection);
            links.send_if_modified(|published| {
                let changed = published.as_ref() != Some(&found);
                if changed {
                    let uplinks: Vec<_> = found.uplinks.iter().map(|u| u.name.as_str()).collect();
                    let egress: Vec<_> = found.egress.iter().map(|e| e.name.as_str()).collect();
                    tracing::info!(
                        uplinks = uplinks.join(","),
                        egress = egress.join(","),
                        "links changed"
                    );
                    *published = Some(found);
                }
                changed
            });
        }
        if interfaces.routes_changed && read_at.is_none() {
            read_at = Some(Instant::now() + ROUTES_SETTLE);
        }
        let carrier_at = interfaces.carriers.next_deadline(Instant::now());
        tokio::select! {
            changed = selection.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = time::sleep_until(carrier_at.unwrap_or_else(Instant::now).into()), if carrier_at.is_some() => {}
            () = time::sleep_until(read_at.unwrap_or_else(Instant::now).into()), if read_at.is_some() => {
                read_at = None;
                interfaces = read_again(&handle, interfaces.carriers).await?;
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
                    if next.is_none() && !settled && !interfaces.carrier_lost {
                        settled = true;
                        time::sleep(SETTLE).await;
                        next = messages.next().now_or_never().flatten();
                    }
                }
                interfaces.carrier_lost = false;
                if stale {
                    interfaces = read_again(&handle, interfaces.carriers).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

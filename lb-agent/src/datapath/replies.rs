//! Whether the replies of this node's endpoints leave by an interface that sees them.
//!
//! Herald writes the VIP back into replies as they leave. A pod with an interface of its own
//! on the network (macvlan, ipvlan, SR-IOV), or a rule that sends its packets another way, takes
//! them past that. The kernel is asked rather than the traffic: for each endpoint, by which
//! interface a packet from it to a client leaves, for a client on each link of ours and for one
//! behind the default route. What it says is known before the first client comes, and an
//! endpoint that answers nobody (it drops, it only receives) is not taken for one that is unseen.
use super::{
    Error, netlink,
    routes::{Path, lookup, lookup_reply},
    uplinks::{Links, Uplink},
};
use crate::{plan::Plan, snapshot::Protocol};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use lb_common::maps::ServiceStats;
use netlink_packet_route::route::{RouteMessage, RouteType};
use rtnetlink::Handle;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};

/// What is to be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The addresses of this node's endpoints.
    pub endpoints: BTreeSet<IpAddr>,
    /// The node's interfaces.
    pub links: Links,
    /// Those that carry the egress program.
    pub egress: BTreeSet<u32>,
}

/// Endpoints whose replies pass unseen, each with where they pass.
pub type Unseen = BTreeMap<IpAddr, String>;

/// Rules change without a message that we follow.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Pods come in bursts.
const SETTLE: Duration = Duration::from_millis(100);

/// Stand for all clients behind the default route: addresses that nobody has (RFC 5737,
/// RFC 3849).
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Answers questions, and again now and then. Ends when nobody asks any more.
///
/// # Errors
///
/// [`Error::Netlink`] if the socket fails.
pub async fn follow(
    handle: Handle,
    mut question: watch::Receiver<Option<Question>>,
    answer: watch::Sender<Unseen>,
) -> Result<(), Error> {
    let mut check = time::interval(CHECK_EVERY);
    check.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = question.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                time::sleep(SETTLE).await;
            }
            _ = check.tick() => {}
        }
        let Some(question) = question.borrow_and_update().clone() else { continue };
        let mut unseen = Unseen::new();
        for endpoint in &question.endpoints {
            if let Some(reason) = look_up(&handle, &question, *endpoint).await? {
                unseen.insert(*endpoint, reason);
            }
        }
        answer.send_if_modified(|before| {
            let changed = *before != unseen;
            if changed {
                *before = unseen;
            }
            changed
        });
    }
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its address is the node's own.
    Host,
    /// Behind this interface.
    Behind(u32),
    /// Nowhere, as far as the kernel knows (now).
    Unknown,
}

fn place(route: Option<&RouteMessage>) -> Place {
    match route {
        Some(route) if route.header.kind == RouteType::Local => Place::Host,
        Some(route) => Path::parse(route).map_or(Place::Unknown, |path| Place::Behind(path.device)),
        None => Place::Unknown,
    }
}

/// Clients for whom to ask: another address of each of our links, and one that is far away.
fn clients(links: &Links, endpoint: IpAddr) -> BTreeSet<IpAddr> {
    let on_links = links.uplinks.iter().flat_map(|uplink| &uplink.addresses).filter_map(neighbour);
    on_links
        .chain(ANYWHERE)
        .filter(|client| client.is_ipv4() == endpoint.is_ipv4() && *client != endpoint)
        .collect()
}

/// Another address of a prefix, if it has any.
fn neighbour(prefix: &IpNet) -> Option<IpAddr> {
    let link_local = matches!(prefix.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
    // The first of an IPv6 prefix is its routers' (RFC 4291 section 2.6.1).
    let mut hosts = prefix.hosts().take(3).filter(|host| *host != prefix.network());
    hosts.find(|host| *host != prefix.addr() && !link_local)
}

/// Whether an address is one of an uplink's network. What else leads there, leads to a router:
/// the default route takes a pod whose own route is not there yet, or not any more.
fn on_network(uplink: &Uplink, endpoint: IpAddr) -> bool {
    uplink.addresses.iter().any(|prefix| prefix.contains(&endpoint))
}

async fn look_up(
    handle: &Handle,
    question: &Question,
    endpoint: IpAddr,
) -> Result<Option<String>, Error> {
    let Question { links, egress, .. } = question;
    let place = place(ask(handle, lookup(endpoint)).await?.as_ref());
    let from = match place {
        Place::Unknown => return Ok(None),
        Place::Host => None,
        Place::Behind(device) => {
            if let Some(uplink) = links.uplinks.iter().find(|u| u.device == device) {
                return Ok(on_network(uplink, endpoint).then(|| {
                    format!(
                        "it is on the network behind {} itself, and answers clients directly",
                        uplink.name
                    )
                }));
            }
            Some(device)
        }
    };
    for client in clients(links, endpoint) {
        let reply = ask(handle, lookup_reply(endpoint, client, from)).await?;
        let Some(path) = reply.as_ref().and_then(Path::parse) else { continue };
        if !egress.contains(&path.device) {
            let name = netlink::name(handle, path.device).await?;
            return Ok(Some(format!("its replies to {client} leave by {name}")));
        }
    }
    Ok(None)
}

/// A route, if the kernel has one.
async fn ask(handle: &Handle, question: RouteMessage) -> Result<Option<RouteMessage>, Error> {
    match handle.route().get(question).execute().try_next().await {
        Ok(route) => Ok(route),
        // There is none, or the kernel would drop the packet (reverse path filter).
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(netlink::failed("look up the route of replies")(error)),
    }
}

/// Notices that much is delivered and nothing comes back.
///
/// Counted over all Services, so it is a hint, not a judgement: what it finds is logged.
#[derive(Debug, Default)]
pub struct Silence {
    last: Option<(Instant, u64, u64)>,
}

/// Over how long packets are compared.
const WATCH: Duration = Duration::from_secs(60);
/// So many packets have some answer.
const ENOUGH: u64 = 1000;

impl Silence {
    /// Whether the counters are worth reading now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(since, ..)| now.duration_since(since) >= WATCH)
    }

    /// Takes the counters: packets delivered to TCP endpoints and replies seen since the maps
    /// were made. Returns how many went unanswered in the last minute, if that is odd.
    pub fn observe(&mut self, now: Instant, delivered: u64, replied: u64) -> Option<u64> {
        let Some((_, delivered_then, replied_then)) = self.last else {
            self.last = Some((now, delivered, replied));
            return None;
        };
        if !self.is_due(now) {
            return None;
        }
        self.last = Some((now, delivered, replied));
        let more = delivered.saturating_sub(delivered_then);
        (more >= ENOUGH && replied == replied_then).then_some(more)
    }
}

/// Packets delivered to endpoints that must answer if they work at all.
pub fn delivered_by_tcp<'a>(
    plan: &Plan,
    stats: impl IntoIterator<Item = &'a (crate::plan::ServiceAddress, ServiceStats)>,
) -> u64 {
    let direct = |address| plan.services.get(address).is_some_and(|planned| !planned.kernel);
    stats
        .into_iter()
        .filter(|(address, _)| address.protocol == Protocol::Tcp && direct(address))
        .map(|(_, stats)| stats.delivered_packets)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ip, uplink};

    #[test]
    fn clients_on_each_link_and_far_away_are_asked_for() {
        let mut eth0 = uplink(2, "eth0");
        eth0.addresses = ["10.0.0.1/24", "10.9.0.2/32", "fd00::7/64", "fe80::1/64"]
            .map(|prefix| prefix.parse().unwrap())
            .into();
        let links = Links { uplinks: vec![eth0], egress: Vec::new() };
        let of = |endpoint| {
            clients(&links, ip(endpoint)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("10.244.0.7"), ["10.0.0.2", "203.0.113.1"]);
        assert_eq!(of("fd01::7"), ["2001:db8::1", "fd00::1"]);
    }

    #[test]
    fn the_network_of_an_uplink_is_that_of_its_prefixes() {
        let mut eth0 = uplink(2, "eth0");
        eth0.addresses = ["10.0.0.1/24", "fd00::7/64"].map(|p| p.parse().unwrap()).into();
        let on = |endpoint| on_network(&eth0, ip(endpoint));
        assert!(on("10.0.0.9") && on("fd00::9"));
        assert!(!on("10.244.1.3") && !on("fd01::9"));
    }

    #[test]
    fn places_are_told_by_the_route() {
        let mut route = RouteMessage::default();
        assert_eq!(place(None), Place::Unknown);
        route.header.kind = RouteType::Local;
        assert_eq!(place(Some(&route)), Place::Host);
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![netlink_packet_route::route::RouteAttribute::Oif(9)];
        assert_eq!(place(Some(&route)), Place::Behind(9));
        route.header.kind = RouteType::BlackHole;
        assert_eq!(place(Some(&route)), Place::Unknown);
    }

    #[test]
    fn silence_is_noticed_after_a_minute() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        assert_eq!(silence.observe(start, 5_000, 7), None);
        assert_eq!(silence.observe(after(30), 9_000, 7), None, "too early");
        assert_eq!(silence.observe(after(60), 9_000, 7), Some(4_000));
        assert_eq!(silence.observe(after(120), 9_500, 7), None, "too few");
        assert_eq!(silence.observe(after(180), 19_500, 8), None, "answered");
        // Maps that were made anew begin at 0.
        assert_eq!(silence.observe(after(240), 10, 0), None);
    }
}

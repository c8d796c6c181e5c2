//! From a [`World`] to the maps of the object, and back.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use aya::{Pod, maps::lpm_trie::Key as Prefix};
use lb_common::{
    filter,
    hash::row_mask,
    maps::{
        Affinity, AffinityKey, Announced, AnnouncedKey, Budget, ELSEWHERE_ASKED,
        ELSEWHERE_ASKED_AGAIN, ELSEWHERE_NOBODY, ELSEWHERE_NODE, ENDPOINT_PRESENT, Elsewhere,
        Endpoint, FLOW_CLOSED_AT, FLOW_CLOSING, FLOW_KERNEL, Flow, FlowKey, FragmentKey,
        Fragmented, MacKey, MacOwner, NO_ENDPOINT, NO_NODE, NO_RANGE, NODE_LINK, NODE_TUNNEL, Node,
        RangeKey, Row, SERVICE_CLIENT_IP, SERVICE_HERE, SERVICE_KERNEL, SERVICE_RANGES,
        SERVICE_TAKEN_OVER, Sampling, Service, ServiceKey, Settings, TO_CLIENT, TO_ENDPOINT,
        Uplink, Vip, VipKey,
    },
};

use super::{
    object::DataPath,
    world::{self, Answer, World},
};

/// Some 150 years ahead of any clock.
const NEVER: u64 = u64::MAX / 4;

/// Converts between the suites' seconds, of which 0 is now, and the maps'.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What 0 is in the maps: seconds of `CLOCK_MONOTONIC`.
    pub base: u32,
}

/// How far from now the suites set everything at least: what the program writes is nearer.
const DISTANCE: u32 = 100;

impl Clock {
    fn to_map(self, relative: i32) -> u32 {
        self.base.saturating_add_signed(relative)
    }

    /// What the program wrote as now or little later is 0.
    fn to_world(self, second: u32) -> i32 {
        if (self.base.saturating_sub(1)..self.base + DISTANCE).contains(&second) {
            0
        } else {
            second as i32 - self.base as i32
        }
    }
}

/// The maps that the program writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// `FLOWS`
    pub flows: BTreeMap<world::FlowKey, world::Flow>,
    /// `PENDING`
    pub pending: BTreeMap<world::FlowKey, world::Flow>,
    /// `AFFINITY`
    pub affinity: BTreeMap<world::AffinityKey, world::Affinity>,
    /// `ELSEWHERE`
    pub elsewhere: BTreeMap<world::FlowKey, world::Elsewhere>,
    /// `FRAGMENTED`
    pub fragmented: BTreeMap<world::FragmentKey, world::Fragmented>,
}

impl Learnt {
    /// What a world has of it.
    pub fn of(world: &World) -> Self {
        Self {
            flows: world.flows.clone(),
            pending: world.pending.clone(),
            affinity: world.affinity.clone(),
            elsewhere: world.elsewhere.clone(),
            fragmented: world.fragmented.clone(),
        }
    }
}

impl DataPath {
    /// Fills the maps from a [`World`], whatever they hold.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn install(&mut self, world: &World, clock: Clock) -> Result<()> {
        let mut ingress_filter = vec![0u64; filter::WORDS as usize];
        let ports = |vip| world.services.keys().filter(|(at, _)| at.ip() == vip).count() as u32;
        let vips = world
            .vips
            .iter()
            .map(|&vip| (VipKey { vip: octets(vip) }, Vip { flags: 0, ports: ports(vip) }));
        self.replace("VIPS", vips)?;
        for &address in world.vips.iter().chain(&world.addresses) {
            set_bit(&mut ingress_filter, filter::vip_bit(&octets(address)));
        }
        let announced = world.announced.iter().map(|(&(vip, ifindex, vlan), &mac)| {
            let key = AnnouncedKey { vip: octets(vip), ifindex, vlan, pad: 0 };
            (key, Announced { mac, ..Announced::default() })
        });
        self.replace("ANNOUNCED", announced)?;
        self.set_services(world, clock)?;
        for (index, node) in (0..).zip(world.nodes.iter()) {
            self.array("NODES")?.set(index, self::node(node), 0)?;
        }
        let macs = world
            .node_macs
            .iter()
            .map(|(&(mac, vlan), &node)| (MacKey { mac, vlan }, MacOwner { node: node.into() }));
        self.replace("NODE_MACS", macs)?;
        for (mac, _) in world.node_macs.keys() {
            set_bit(&mut ingress_filter, filter::mac_bit(mac));
        }
        self.set_endpoints(world)?;
        self.write_filter("INGRESS_FILTER", &ingress_filter)?;
        let mut ranges = self.trie::<RangeKey, u32>("SOURCE_RANGES")?;
        let old: Vec<_> = ranges.keys().collect::<Result<_, _>>()?;
        for key in old {
            ranges.remove(&key)?;
        }
        for (set, prefixes) in world.ranges.iter() {
            for &(address, length) in prefixes {
                let v4 = if address.is_ipv4() { 96 } else { 0 };
                let key = RangeKey { ranges: set.to_be_bytes(), client: octets(address) };
                ranges.insert(&Prefix::new(32 + v4 + u32::from(length), key), 1, 0)?;
            }
        }
        self.configure(world, clock)?;
        self.set_learnt(&Learnt::of(world), clock)
    }

    fn set_services(&mut self, world: &World, clock: Clock) -> Result<()> {
        let mut next_row = world.fragment_rows.len() as u32;
        let rows: Vec<Row> = world.fragment_rows.iter().map(row).collect();
        self.write_rows(0, &rows)?;
        let mut starts: BTreeMap<Vec<world::Row>, u32> = BTreeMap::new();
        let mut next_endpoint = 0;
        let mut values = Vec::new();
        for (&(at, proto), service) in world.services.iter() {
            let mut start_of = |rows: &Vec<world::Row>| -> Result<u32> {
                if let Some(&start) = starts.get(rows) {
                    return Ok(start);
                }
                let start = next_row;
                starts.insert(rows.clone(), start);
                self.write_rows(start, &rows.iter().map(row).collect::<Vec<_>>())?;
                next_row += rows.len() as u32;
                Ok(start)
            };
            let rows_start = start_of(&service.rows)?;
            let previous_start = start_of(&service.previous)?;
            let endpoint = |endpoint: Option<u32>| endpoint.unwrap_or(NO_ENDPOINT);
            let (one, endpoints_start) = match service.endpoints[..] {
                [one] => (endpoint(one), NO_RANGE),
                _ => {
                    let mut map = self.array::<u32>("ROW_ENDPOINTS")?;
                    for (index, &each) in (next_endpoint..).zip(&service.endpoints) {
                        map.set(index, endpoint(each), 0)?;
                    }
                    next_endpoint += service.endpoints.len() as u32;
                    // What counts is the range: the other would be a wrong answer.
                    (NO_ENDPOINT, next_endpoint - service.endpoints.len() as u32)
                }
            };
            let flag = |set, flag| if set { flag } else { 0 };
            let (rows, previous) = (service.rows.len() as u32, service.previous.len() as u32);
            let value = Service {
                rows_start,
                rows,
                mask: row_mask(rows),
                flags: flag(service.kernel, SERVICE_KERNEL)
                    | flag(service.client_ip, SERVICE_CLIENT_IP)
                    | flag(service.here, SERVICE_HERE)
                    | flag(service.taken_over, SERVICE_TAKEN_OVER)
                    | flag(service.ranges.is_some(), SERVICE_RANGES),
                stats: service.stats,
                endpoint: one,
                endpoints_start,
                changed_s: clock.to_map(service.changed),
                previous_start,
                previous_rows: previous,
                previous_mask: row_mask(previous),
                affinity_s: service.affinity,
                ranges: service.ranges.unwrap_or(0),
                pad: 0,
            };
            values.push((service_key(at, proto), value));
        }
        self.replace("SERVICES", values)
    }

    fn set_endpoints(&mut self, world: &World) -> Result<()> {
        let mut egress_filter = vec![0u64; filter::WORDS as usize];
        for (index, endpoint) in (0..).zip(world.endpoints.iter()) {
            let value = endpoint.map_or_else(Endpoint::default, |at| Endpoint {
                address: octets(at.ip()),
                port: at.port().to_be_bytes(),
                flags: ENDPOINT_PRESENT,
                pad: 0,
            });
            self.array("ENDPOINTS")?.set(index, value, 0)?;
            if let Some(at) = endpoint {
                for proto in world::PROTOCOLS {
                    let bit = filter::reply_bit(&value.address, at.port().to_be_bytes(), proto);
                    set_bit(&mut egress_filter, bit);
                }
            }
        }
        self.write_filter("EGRESS_FILTER", &egress_filter)
    }

    /// Writes `SETTINGS` and the budgets.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn configure(&mut self, world: &World, clock: Clock) -> Result<()> {
        let interval = |budget| match budget {
            world::Budget::Unlimited => 0,
            world::Budget::Exhausted => 1_000_000,
        };
        let deadline = |ahead| if ahead { u64::MAX } else { 1 };
        let fragments = world.fragment_rows.len() as u32;
        let mut settings = Settings {
            announce_until_ns: deadline(world.announcing),
            fresh_until_ns: deadline(world.fresh),
            echo_interval_ns: interval(world.echo),
            refuse_interval_ns: interval(world.refuse),
            cookies: world.cookies,
            started_s: clock.to_map(world.started),
            udp_window_s: world.udp_window,
            settle_s: world.settle,
            fragment_rows_start: 0,
            fragment_rows: fragments,
            mss_v4: world.mss.0,
            mss_v6: world.mss.1,
            tunnel_port: world.tunnel_port.to_be_bytes(),
            ..Settings::default()
        };
        for (slot, (&(ifindex, vlan), &mac)) in settings.uplinks.iter_mut().zip(&world.uplinks) {
            *slot = Uplink { ifindex, vlan, mac };
        }
        self.array("SETTINGS")?.set(0, settings, 0)?;
        let sampling = Sampling { one_in: world.sample.into(), until_s: u32::MAX };
        self.array("SAMPLING")?.set(0, sampling, 0)?;
        self.set_per_cpu("ECHO_BUDGET", left(world.echo))?;
        self.set_per_cpu("REFUSE_BUDGET", left(world.refuse))?;
        self.allow_claims(world.claims)
    }

    /// Says whether claims of VIPs are told, until some were.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn allow_claims(&mut self, claims: world::Budget) -> Result<()> {
        self.set_per_cpu("CLAIM_BUDGET", left(claims))
    }

    /// Replaces all that the program has learnt.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn set_learnt(&mut self, learnt: &Learnt, clock: Clock) -> Result<()> {
        let flows = |flows: &BTreeMap<world::FlowKey, world::Flow>| -> Vec<_> {
            flows.iter().map(|(key, value)| (flow_key(key), flow(value, clock))).collect()
        };
        self.replace("FLOWS", flows(&learnt.flows))?;
        self.replace("PENDING", flows(&learnt.pending))?;
        let affinity = learnt.affinity.iter().map(|(key, value)| {
            let &world::AffinityKey { client, vip, protocol: proto } = key;
            let (client, vip, port) = (octets(client), octets(vip.ip()), vip.port().to_be_bytes());
            let value = Affinity {
                address: octets(value.at.ip()),
                port: value.at.port().to_be_bytes(),
                pad: [0; 2],
                endpoint: value.endpoint,
                seen_s: clock.to_map(value.seen),
                pad2: 0,
            };
            (AffinityKey { client, vip, port, proto, pad: [0; 5] }, value)
        });
        self.replace("AFFINITY", affinity)?;
        let elsewhere = learnt.elsewhere.iter().map(|(key, value)| {
            let (node, verdict) = match value.answer {
                Answer::Asked => (0, ELSEWHERE_ASKED),
                Answer::AskedAgain => (0, ELSEWHERE_ASKED_AGAIN),
                Answer::Node(node) => (node, ELSEWHERE_NODE),
                Answer::Nobody => (0, ELSEWHERE_NOBODY),
            };
            // An entry that the program wrote would soon count no more.
            let until = if value.until == 0 { world::FAR_AHEAD } else { value.until };
            (flow_key(key), Elsewhere { node, verdict, until_s: clock.to_map(until) })
        });
        self.replace("ELSEWHERE", elsewhere)?;
        let now = monotonic_s();
        let fragmented = learnt.fragmented.iter().map(|(key, value)| {
            let ports = value.ports;
            let value = Fragmented {
                source_port: ports.0.to_be_bytes(),
                destination_port: ports.1.to_be_bytes(),
                // They count for a second only.
                seen_s: if value.seen == 0 { now } else { clock.to_map(value.seen) },
            };
            (fragment_key(key), value)
        });
        self.replace("FRAGMENTED", fragmented)
    }

    /// What the program has learnt.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn learnt(&self, clock: Clock) -> Result<Learnt> {
        let flows = |name: &str| -> Result<BTreeMap<_, _>> {
            let entries = self.entries::<FlowKey, Flow>(name)?;
            Ok(entries.iter().map(|(k, v)| (plain_key(k), plain_flow(v, clock))).collect())
        };
        let affinity = self.entries::<AffinityKey, Affinity>("AFFINITY")?;
        let elsewhere = self.entries::<FlowKey, Elsewhere>("ELSEWHERE")?;
        let fragmented = self.entries::<FragmentKey, Fragmented>("FRAGMENTED")?;
        let affinity = affinity.iter().map(|(key, value)| {
            let client = address(key.client);
            let vip = socket(key.vip, key.port);
            let at = socket(value.address, value.port);
            let seen = clock.to_world(value.seen_s);
            (
                world::AffinityKey { client, vip, protocol: key.proto },
                world::Affinity { at, endpoint: value.endpoint, seen },
            )
        });
        let elsewhere = elsewhere.iter().map(|(key, value)| {
            let answer = match value.verdict {
                ELSEWHERE_NODE => Answer::Node(value.node),
                ELSEWHERE_NOBODY => Answer::Nobody,
                ELSEWHERE_ASKED_AGAIN => Answer::AskedAgain,
                _ => Answer::Asked,
            };
            let until = clock.to_world(value.until_s);
            (plain_key(key), world::Elsewhere { answer, until })
        });
        let fragmented = fragmented.iter().map(|(key, value)| {
            let port = u16::from_be_bytes;
            let ports = (port(value.source_port), port(value.destination_port));
            let seen = clock.to_world(value.seen_s);
            (plain_fragment_key(key), world::Fragmented { ports, seen })
        });
        Ok(Learnt {
            flows: flows("FLOWS")?,
            pending: flows("PENDING")?,
            affinity: affinity.collect(),
            elsewhere: elsewhere.collect(),
            fragmented: fragmented.collect(),
        })
    }

    fn entries<K: Pod, V: Pod>(&self, name: &str) -> Result<Vec<(K, V)>> {
        let map = self.read_hash::<K, V>(name)?;
        map.iter().collect::<Result<_, _>>().with_context(|| format!("map {name}"))
    }

    fn replace<K: Pod, V: Pod>(
        &mut self,
        name: &str,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let mut map = self.hash::<K, V>(name)?;
        let old: Vec<K> = map.keys().collect::<Result<_, _>>()?;
        for key in old {
            map.remove(&key)?;
        }
        for (key, value) in entries {
            map.insert(key, value, 0).with_context(|| format!("map {name}"))?;
        }
        Ok(())
    }
}

/// Seconds of `CLOCK_MONOTONIC`, not ahead of the coarse clock that the program reads.
pub fn monotonic_s() -> u32 {
    const COARSE_NS: u64 = 20_000_000;
    ((lb_agent::system::monotonic_ns() - COARSE_NS) / 1_000_000_000) as u32
}

fn set_bit(words: &mut [u64], bit: u32) {
    words[bit as usize / 64] |= 1 << (bit % 64);
}

/// An address as the maps hold it.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The key of a VIP:port.
pub fn service_key(at: SocketAddr, proto: u8) -> ServiceKey {
    ServiceKey { vip: octets(at.ip()), port: at.port().to_be_bytes(), proto, pad: 0, pad2: 0 }
}

fn row(row: &world::Row) -> Row {
    let mut nodes = [NO_NODE; 4];
    nodes[..row.len()].copy_from_slice(row);
    Row { nodes }
}

fn node(node: &world::Node) -> Node {
    let flag = |set, flag| if set { flag } else { 0 };
    Node {
        address: octets(node.address),
        source: octets(node.source),
        cookie: node.cookie,
        ifindex: node.ifindex,
        flags: flag(node.link, NODE_LINK) | flag(node.tunnel, NODE_TUNNEL),
        mac: node.mac,
        source_mac: node.source_mac,
        vlan: node.vlan,
        mtu: node.mtu,
    }
}

fn flow_key(key: &world::FlowKey) -> FlowKey {
    FlowKey {
        client: octets(key.client.ip()),
        peer: octets(key.peer.ip()),
        client_port: key.client.port().to_be_bytes(),
        peer_port: key.peer.port().to_be_bytes(),
        proto: key.protocol,
        direction: if key.to_client { TO_CLIENT } else { TO_ENDPOINT },
        pad: [0; 2],
    }
}

fn flow(flow: &world::Flow, clock: Clock) -> Flow {
    let kernel = if flow.endpoint.is_none() { FLOW_KERNEL } else { 0 };
    let closed_at = if flow.closed_at.is_some() { FLOW_CLOSED_AT } else { 0 };
    let [_, a, b, c] = flow.closed_at.unwrap_or(0).to_be_bytes();
    Flow {
        peer: octets(flow.peer.ip()),
        peer_port: flow.peer.port().to_be_bytes(),
        client_port: flow.client_port.to_be_bytes(),
        endpoint: flow.endpoint.unwrap_or(NO_ENDPOINT),
        // One that is closing is another after seconds.
        seen_s: if flow.seen == 0 { monotonic_s() } else { clock.to_map(flow.seen) },
        state: kernel | closed_at | if flow.closing { FLOW_CLOSING } else { 0 },
        closed_at: [a, b, c],
    }
}

fn fragment_key(key: &world::FragmentKey) -> FragmentKey {
    FragmentKey {
        source: octets(key.source),
        destination: octets(key.destination),
        id: key.id,
        proto: key.protocol,
        direction: if key.to_client { TO_CLIENT } else { TO_ENDPOINT },
        pad: [0; 2],
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

fn socket(octets: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(address(octets), u16::from_be_bytes(port))
}

/// A flow's key, from the maps'.
pub fn plain_key(key: &FlowKey) -> world::FlowKey {
    world::FlowKey {
        client: socket(key.client, key.client_port),
        peer: socket(key.peer, key.peer_port),
        protocol: key.proto,
        to_client: key.direction == TO_CLIENT,
    }
}

fn plain_fragment_key(key: &FragmentKey) -> world::FragmentKey {
    world::FragmentKey {
        source: address(key.source),
        destination: address(key.destination),
        id: key.id,
        protocol: key.proto,
        to_client: key.direction == TO_CLIENT,
    }
}

fn plain_flow(flow: &Flow, clock: Clock) -> world::Flow {
    let [a, b, c] = flow.closed_at;
    let closed_at = u32::from_be_bytes([0, a, b, c]);
    world::Flow {
        peer: socket(flow.peer, flow.peer_port),
        client_port: u16::from_be_bytes(flow.client_port),
        endpoint: (flow.state & FLOW_KERNEL == 0).then_some(flow.endpoint),
        closing: flow.state & FLOW_CLOSING != 0,
        closed_at: (flow.state & FLOW_CLOSED_AT != 0).then_some(closed_at),
        seen: clock.to_world(flow.seen_s),
    }
}

fn left(budget: world::Budget) -> Budget {
    let next_ns = match budget {
        world::Budget::Unlimited => 0,
        world::Budget::Exhausted => NEVER,
    };
    Budget { next_ns }
}

//! The real object, loaded without pins into maps of its own.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{Program, SchedClassifier, Xdp, XdpMode, xdp::XdpLinkId},
};
use lb_common::{
    filter,
    maps::{
        Announced, AnnouncedKey, ENDPOINT_PRESENT, EchoBudget, Endpoint, FLOW_CLOSING, MacKey,
        MacOwner, NO_ENDPOINT, NO_NODE, Node, Row, SERVICE_CLIENT_IP, SERVICE_KERNEL, Service,
        ServiceKey, ServiceStats, Settings, TO_CLIENT, TO_ENDPOINT, Uplink, Vip, VipKey,
    },
    outcome::Counters,
};

use super::world::{self, Echo, World};

/// The programs by name.
pub mod program {
    /// XDP, on every uplink.
    pub const INGRESS: &str = "herald_ingress";
    /// TCX egress, on every uplink.
    pub const EGRESS: &str = "herald_egress";
}

/// How large the maps are made.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Elements of `ROWS`.
    pub rows: u32,
    /// Entries of `FLOWS`.
    pub flows: u32,
    /// Entries of `PENDING`.
    pub pending: u32,
    /// Entries of `SERVICES`, and elements of `SERVICE_STATS`.
    pub services: u32,
    /// Elements of `ENDPOINTS`.
    pub endpoints: u32,
}

impl Capacity {
    /// Enough for the suites, and quickly made.
    pub const SMALL: Self =
        Self { rows: 4096, flows: 1024, pending: 1024, services: 256, endpoints: 64 };
    /// As the agent makes them.
    pub const PRODUCTION: Self = Self {
        rows: lb_common::maps::DEFAULT_ROWS,
        flows: lb_common::maps::DEFAULT_FLOWS,
        pending: lb_common::maps::PENDING_FLOWS,
        services: lb_common::maps::MAX_SERVICES,
        endpoints: lb_common::maps::MAX_ENDPOINTS,
    };
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program's return value.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// What the kernel measured, averaged over the repetitions.
    pub duration: Duration,
}

/// The loaded programs and their maps.
pub struct DataPath {
    ebpf: Ebpf,
}

impl DataPath {
    /// Loads both programs; nothing is attached or pinned.
    ///
    /// # Errors
    /// Not root, or the kernel refuses a map or a program.
    pub fn load(capacity: Capacity) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let Capacity { rows, flows, pending, services, endpoints } = capacity;
        for (name, entries) in [
            ("ROWS", rows),
            ("FLOWS", flows),
            ("PENDING", pending),
            ("SERVICES", services),
            ("SERVICE_STATS", services),
            ("ENDPOINTS", endpoints),
        ] {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .load(lb_agent::OBJECT)
            .context("the kernel does not take Herald's maps (these tests need root)")?;
        let ingress: &mut Xdp = program_mut(&mut ebpf, program::INGRESS)?;
        ingress.load().context(program::INGRESS)?;
        let egress: &mut SchedClassifier = program_mut(&mut ebpf, program::EGRESS)?;
        egress.load().context(program::EGRESS)?;
        Ok(Self { ebpf })
    }

    /// Verified instructions and bytes of machine code of a program.
    ///
    /// # Errors
    /// No such program, or the kernel does not tell.
    pub fn size(&self, name: &str) -> Result<(u32, u32)> {
        let info = self.ebpf.program(name).context("no such program")?.info()?;
        let verified = info.verified_instruction_count().context("kernel older than 5.16")?;
        Ok((verified, info.size_jitted()))
    }

    /// The ingress program.
    ///
    /// # Errors
    /// The object has none.
    pub fn ingress_program(&self) -> Result<&Xdp> {
        program_ref(&self.ebpf, program::INGRESS)
    }

    /// The egress program.
    ///
    /// # Errors
    /// The object has none.
    pub fn egress_program(&self) -> Result<&SchedClassifier> {
        program_ref(&self.ebpf, program::EGRESS)
    }

    /// Attaches the ingress program, in native mode, to an interface of the calling
    /// thread's namespace, until `detach` or the end of this object.
    ///
    /// # Errors
    /// No such interface, or it does not take the program.
    pub fn attach(&mut self, ifindex: u32) -> Result<XdpLinkId> {
        let ingress: &mut Xdp = program_mut(&mut self.ebpf, program::INGRESS)?;
        Ok(ingress.attach_to_if_index(ifindex, XdpMode::Driver)?)
    }

    /// Takes it off again.
    ///
    /// # Errors
    /// The kernel does not let go.
    pub fn detach(&mut self, link: XdpLinkId) -> Result<()> {
        let ingress: &mut Xdp = program_mut(&mut self.ebpf, program::INGRESS)?;
        Ok(ingress.detach(link)?)
    }

    /// The ingress program on a frame that arrives on `ifindex`.
    ///
    /// # Errors
    /// The kernel refuses to run it, as it does for frames of less than 14 bytes and
    /// for interfaces that the calling thread's network namespace does not have.
    pub fn ingress(&self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Run> {
        run(self.ingress_program()?, frame, Some(&xdp_md(frame, ifindex)), repeat)
    }

    /// The egress program on a frame that is about to leave.
    ///
    /// # Errors
    /// The kernel refuses to run it, as it does for frames of less than 15 bytes.
    pub fn egress(&self, frame: &[u8], repeat: u32) -> Result<Run> {
        run(self.egress_program()?, frame, None, repeat)
    }

    /// Fills the maps from a [`World`]; they are expected to be empty.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn install(&mut self, world: &World) -> Result<()> {
        let mut ingress_filter = vec![0u64; filter::WORDS as usize];
        let mut egress_filter = ingress_filter.clone();
        for &vip in &world.vips {
            let key = VipKey { vip: octets(vip) };
            let ports = world.services.keys().filter(|(at, _)| at.ip() == vip).count() as u32;
            self.hash("VIPS")?.insert(key, Vip { flags: 0, ports }, 0)?;
            set_bit(&mut ingress_filter, filter::vip_bit(&key.vip));
        }
        for (&(vip, ifindex), &mac) in &world.announced {
            let key = AnnouncedKey { vip: octets(vip), ifindex, pad: 0 };
            self.hash("ANNOUNCED")?.insert(key, Announced { mac, pad: [0; 2] }, 0)?;
        }
        let mut ranges: BTreeMap<Vec<[u8; 16]>, u32> = BTreeMap::new();
        let mut next_row = 0;
        for (&(at, proto), service) in world.services.iter() {
            let rows: Vec<Row> = service.rows.iter().map(row).collect();
            let identity = rows.iter().map(row_bytes).collect();
            let start = *ranges.entry(identity).or_insert(next_row);
            if start == next_row {
                self.write_rows(start, &rows)?;
                next_row += rows.len() as u32;
            }
            let value = Service {
                rows_start: start,
                rows: rows.len() as u32,
                stats: service.stats,
                flags: if service.kernel { SERVICE_KERNEL } else { 0 }
                    | if service.client_ip { SERVICE_CLIENT_IP } else { 0 },
            };
            self.hash("SERVICES")?.insert(service_key(at, proto), value, 0)?;
        }
        for (index, node) in (0..).zip(&world.nodes) {
            let &world::Node { mac, source_mac, ifindex } = node;
            let value = Node { address: [0; 16], mac, source_mac, ifindex };
            self.array("NODES")?.set(index, value, 0)?;
        }
        for &mac in &world.node_macs {
            let node = world.nodes.iter().position(|n| n.mac == mac).unwrap_or(0) as u32;
            self.hash("NODE_MACS")?.insert(MacKey { mac, pad: [0; 2] }, MacOwner { node }, 0)?;
            set_bit(&mut ingress_filter, filter::mac_bit(&mac));
        }
        for (index, endpoint) in (0..).zip(&world.endpoints) {
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
        self.write_filter("INGRESS_FILTER", &ingress_filter)?;
        self.write_filter("EGRESS_FILTER", &egress_filter)?;
        self.configure(world)?;
        self.set_flows(world)
    }

    /// Writes what of a [`World`] may differ between two frames of one suite: deadline and echo limit.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn configure(&mut self, world: &World) -> Result<()> {
        let mut settings = Settings {
            announce_until_ns: if world.announcing { u64::MAX } else { 1 },
            echo_interval_ns: match world.echo {
                Echo::Unlimited => 0,
                Echo::Exhausted => 1_000_000,
            },
            ..Settings::default()
        };
        settings.uplinks[0] = Uplink { ifindex: world.ifindex, mac: world.mac, pad: [0; 2] };
        self.array("SETTINGS")?.set(0, settings, 0)?;
        let next_ns = match world.echo {
            Echo::Unlimited => 0,
            // Some 150 years ahead of any clock.
            Echo::Exhausted => u64::MAX / 4,
        };
        let budget = EchoBudget { next_ns };
        let values = aya::maps::PerCpuValues::try_from(vec![budget; cpus()?])?;
        let mut map = PerCpuArray::try_from(self.map_mut("ECHO_BUDGET")?)?;
        map.set(0, values, 0)?;
        Ok(())
    }

    /// Replaces all flows by those of a [`World`].
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn set_flows(&mut self, world: &World) -> Result<()> {
        for (name, flows) in [("FLOWS", &world.flows), ("PENDING", &world.pending)] {
            let mut map = self.hash::<lb_common::maps::FlowKey, lb_common::maps::Flow>(name)?;
            let old: Vec<_> = map.keys().collect::<Result<_, _>>()?;
            for key in old {
                map.remove(&key)?;
            }
            for (key, value) in flows {
                map.insert(flow_key(key), flow(value), 0)?;
            }
        }
        Ok(())
    }

    /// The flows that the maps hold: `FLOWS`, then `PENDING`.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn flows(&mut self) -> Result<[BTreeMap<world::FlowKey, world::Flow>; 2]> {
        let mut read = |name| -> Result<_> {
            let map = self.hash::<lb_common::maps::FlowKey, lb_common::maps::Flow>(name)?;
            map.iter()
                .map(|entry| entry.map(|(key, value)| (plain_key(&key), plain_flow(&value))))
                .collect::<Result<_, _>>()
                .with_context(|| format!("map {name}"))
        };
        Ok([read("FLOWS")?, read("PENDING")?])
    }

    /// All outcomes' counters, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let map = self.ebpf.map("COUNTERS").context("no map COUNTERS")?;
        let map: PerCpuArray<_, Counters> = PerCpuArray::try_from(map)?;
        let mut sum = Counters::default();
        for counters in map.get(&0, 0)?.iter() {
            sum.add(counters);
        }
        Ok(sum)
    }

    /// A Service's statistics, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn service_stats(&self, index: u32) -> Result<ServiceStats> {
        let map = self.ebpf.map("SERVICE_STATS").context("no map SERVICE_STATS")?;
        let map: PerCpuArray<_, ServiceStats> = PerCpuArray::try_from(map)?;
        let mut sum = ServiceStats::default();
        for stats in map.get(&index, 0)?.iter() {
            sum.delivered_packets += stats.delivered_packets;
            sum.delivered_bytes += stats.delivered_bytes;
            sum.forwarded_packets += stats.forwarded_packets;
            sum.forwarded_bytes += stats.forwarded_bytes;
        }
        Ok(sum)
    }

    /// Writes consecutive rows.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn write_rows(&mut self, start: u32, rows: &[Row]) -> Result<()> {
        let mut map = self.array::<Row>("ROWS")?;
        for (index, row) in (start..).zip(rows) {
            map.set(index, row, 0)?;
        }
        Ok(())
    }

    /// Writes one of the two filters.
    ///
    /// # Errors
    /// The kernel refuses a word.
    pub fn write_filter(&mut self, name: &str, words: &[u64]) -> Result<()> {
        let mut map = self.array::<u64>(name)?;
        for (index, word) in (0..).zip(words) {
            map.set(index, word, 0)?;
        }
        Ok(())
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    /// A hash map of the object.
    ///
    /// # Errors
    /// No such map, or not of these types.
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        HashMap::try_from(self.map_mut(name)?).with_context(|| format!("map {name}"))
    }

    /// The same to read from only.
    ///
    /// # Errors
    /// No such map, or not of these types.
    pub fn read_hash<K: Pod, V: Pod>(&self, name: &str) -> Result<HashMap<&MapData, K, V>> {
        let map = self.ebpf.map(name).with_context(|| format!("no map {name}"))?;
        HashMap::try_from(map).with_context(|| format!("map {name}"))
    }

    /// An array of the object.
    ///
    /// # Errors
    /// No such map, or not of this type.
    pub fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Array::try_from(self.map_mut(name)?).with_context(|| format!("map {name}"))
    }
}

fn cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))
}

fn program_ref<'a, P>(ebpf: &'a Ebpf, name: &str) -> Result<&'a P>
where
    &'a P: TryFrom<&'a Program>,
{
    let Some(program) = ebpf.program(name) else { bail!("the object has no program {name}") };
    program.try_into().ok().with_context(|| format!("{name} is of another type"))
}

fn program_mut<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let Some(program) = ebpf.program_mut(name) else { bail!("the object has no program {name}") };
    program.try_into().ok().with_context(|| format!("{name} is of another type"))
}

/// The context of a frame that arrives on `ifindex`.
pub fn xdp_md(frame: &[u8], ifindex: u32) -> Vec<u8> {
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let words = [0, frame.len() as u32, 0, ifindex, 0, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Runs a program on a frame, `repeat` times on the same buffer.
///
/// # Errors
/// The kernel refuses to.
pub fn run<P>(program: &P, frame: &[u8], context: Option<&[u8]>, repeat: u32) -> Result<Run>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::TestRunResult>,
{
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = context;
    options.repeat = repeat;
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok(Run { action: result.return_value, frame: out, duration: result.duration })
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
    nodes[..row.nodes.len()].copy_from_slice(&row.nodes);
    Row { nodes, endpoint: row.endpoint.unwrap_or(NO_ENDPOINT), first: row.first, pad: [0; 3] }
}

fn row_bytes(row: &Row) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (chunk, node) in bytes.chunks_mut(2).zip(row.nodes) {
        chunk.copy_from_slice(&node.to_ne_bytes());
    }
    bytes[8..12].copy_from_slice(&row.endpoint.to_ne_bytes());
    bytes[12] = row.first;
    bytes
}

fn flow_key(key: &world::FlowKey) -> lb_common::maps::FlowKey {
    lb_common::maps::FlowKey {
        client: octets(key.client.ip()),
        peer: octets(key.peer.ip()),
        client_port: key.client.port().to_be_bytes(),
        peer_port: key.peer.port().to_be_bytes(),
        proto: key.protocol,
        direction: if key.to_client { TO_CLIENT } else { TO_ENDPOINT },
        pad: [0; 2],
    }
}

fn flow(flow: &world::Flow) -> lb_common::maps::Flow {
    lb_common::maps::Flow {
        peer: octets(flow.peer.ip()),
        peer_port: flow.peer.port().to_be_bytes(),
        client_port: flow.client_port.to_be_bytes(),
        endpoint: flow.endpoint,
        state: if flow.closing { FLOW_CLOSING } else { 0 },
        pad: [0; 7],
    }
}

fn socket(octets: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), u16::from_be_bytes(port))
}

fn plain_key(key: &impl Borrow<lb_common::maps::FlowKey>) -> world::FlowKey {
    let key = key.borrow();
    world::FlowKey {
        client: socket(key.client, key.client_port),
        peer: socket(key.peer, key.peer_port),
        protocol: key.proto,
        to_client: key.direction == TO_CLIENT,
    }
}

fn plain_flow(flow: &impl Borrow<lb_common::maps::Flow>) -> world::Flow {
    let flow = flow.borrow();
    world::Flow {
        peer: socket(flow.peer, flow.peer_port),
        client_port: u16::from_be_bytes(flow.client_port),
        endpoint: flow.endpoint,
        closing: flow.state & FLOW_CLOSING != 0,
    }
}

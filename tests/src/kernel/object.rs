//! The real object, loaded without pins into maps of its own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, RingBuf},
    programs::{Program, SchedClassifier, Xdp, XdpMode, xdp::XdpLinkId},
};
use lb_common::{
    maps::{Event, Row, Sample, ServiceStats},
    outcome::Counters,
};

pub use super::tables::{octets, service_key};

/// The programs by name.
pub mod program {
    /// XDP, on every uplink.
    pub const INGRESS: &str = "herald_ingress";
    /// TCX ingress, where XDP cannot be.
    pub const INGRESS_TC: &str = "herald_ingress_tc";
    /// TCX egress, on every uplink.
    pub const EGRESS: &str = "herald_egress";
}

/// How large the maps are made.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Elements of `ROWS`.
    pub rows: u32,
    /// Elements of `ROW_ENDPOINTS`.
    pub row_endpoints: u32,
    /// Entries of `FLOWS`.
    pub flows: u32,
    /// Entries of `PENDING`.
    pub pending: u32,
    /// Entries of each of `AFFINITY`, `ELSEWHERE` and `FRAGMENTED`.
    pub learnt: u32,
    /// Entries of `SERVICES`, and elements of `SERVICE_STATS`.
    pub services: u32,
    /// Elements of `ENDPOINTS`.
    pub endpoints: u32,
}

impl Capacity {
    /// Enough for the suites, and quickly made.
    pub const SMALL: Self = Self {
        rows: 8192,
        row_endpoints: 8192,
        flows: 1024,
        pending: 1024,
        learnt: 4096,
        services: 512,
        endpoints: 256,
    };
    /// As the agent makes them.
    pub const PRODUCTION: Self = Self {
        rows: lb_common::maps::DEFAULT_ROWS,
        row_endpoints: lb_common::maps::DEFAULT_ROW_ENDPOINTS,
        flows: lb_common::maps::DEFAULT_FLOWS,
        pending: lb_common::maps::PENDING_FLOWS,
        learnt: lb_common::maps::MAX_ELSEWHERE,
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
    events: RingBuf<MapData>,
    samples: RingBuf<MapData>,
}

impl DataPath {
    /// Loads both programs; nothing is attached or pinned.
    ///
    /// # Errors
    /// Not root, or the kernel refuses a map or a program.
    pub fn load(capacity: Capacity) -> Result<Self> {
        Self::load_object(lb_agent::OBJECT, capacity)
    }

    /// The same of another object than the agent's, with the same maps.
    ///
    /// # Errors
    /// As above.
    pub fn load_object(object: &[u8], capacity: Capacity) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let Capacity { rows, row_endpoints, flows, pending, learnt, services, endpoints } =
            capacity;
        for (name, entries) in [
            ("ROWS", rows),
            ("FLOWS", flows),
            ("PENDING", pending),
            ("SERVICES", services),
            ("SERVICE_STATS", services),
            ("ENDPOINTS", endpoints),
            ("ROW_ENDPOINTS", row_endpoints),
            ("AFFINITY", learnt),
            ("ELSEWHERE", learnt),
            ("FRAGMENTED", learnt),
        ] {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .load(object)
            .context("the kernel does not take Herald's maps (these tests need root)")?;
        let ingress: &mut Xdp = program_mut(&mut ebpf, program::INGRESS)?;
        ingress.load().context(program::INGRESS)?;
        for name in [program::EGRESS, program::INGRESS_TC] {
            let classifier: &mut SchedClassifier = program_mut(&mut ebpf, name)?;
            classifier.load().context(name)?;
        }
        let events = RingBuf::try_from(ebpf.take_map("EVENTS").context("no map EVENTS")?)?;
        let samples = RingBuf::try_from(ebpf.take_map("SAMPLES").context("no map SAMPLES")?)?;
        Ok(Self { ebpf, events, samples })
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

    /// Attaches the ingress program, in generic mode, to an interface that no frames arrive on: a
    /// test run then finds it among the programs that the kernel calls directly. For one that is
    /// not there it rewrites that code before and after each run, and waits for RCU both times
    /// (`bpf_dispatcher_update`), which takes milliseconds.
    ///
    /// # Errors
    /// No such interface, or it has a program.
    pub fn hold(&mut self, ifindex: u32) -> Result<()> {
        let ingress: &mut Xdp = program_mut(&mut self.ebpf, program::INGRESS)?;
        ingress.attach_to_if_index(ifindex, XdpMode::Skb)?;
        Ok(())
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

    /// The ingress program of TCX on a frame that arrives on `lo`.
    ///
    /// # Errors
    /// The kernel refuses to run it, as it does for frames without a whole IP header.
    pub fn ingress_tc(&self, frame: &[u8]) -> Result<Run> {
        let program: &SchedClassifier = program_ref(&self.ebpf, program::INGRESS_TC)?;
        run(program, frame, None, 1)
    }

    /// The egress program on a frame that is about to leave.
    ///
    /// # Errors
    /// The kernel refuses to run it, as it does for frames of less than 15 bytes.
    pub fn egress(&self, frame: &[u8], repeat: u32) -> Result<Run> {
        run(self.egress_program()?, frame, None, repeat)
    }

    /// What the program has told the agent since it was asked last.
    ///
    /// # Errors
    /// An event has another size.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.push(read_event(&bytes)?);
        }
        Ok(events)
    }

    /// The samples since they were asked for last: outcome, length, and the bytes held.
    ///
    /// # Errors
    /// A sample has another size.
    pub fn samples(&mut self) -> Result<Vec<(u32, u32, Vec<u8>)>> {
        let mut samples = Vec::new();
        while let Some(bytes) = self.samples.next() {
            ensure!(bytes.len() == size_of::<Sample>(), "a sample of {} bytes", bytes.len());
            let word = |at: usize| u32_at(&bytes, at);
            let held = word(20) as usize;
            samples.push((word(12), word(16), bytes[32..].get(..held).unwrap_or(&[]).to_vec()));
        }
        Ok(samples)
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

    /// A trie of the object.
    ///
    /// # Errors
    /// No such map, or not of these types.
    pub fn trie<K: Pod, V: Pod>(&mut self, name: &str) -> Result<LpmTrie<&mut MapData, K, V>> {
        LpmTrie::try_from(self.map_mut(name)?).with_context(|| format!("map {name}"))
    }

    /// Sets every CPU's value of a per-CPU array's first element.
    ///
    /// # Errors
    /// No such map, or not of this type.
    pub fn set_per_cpu<V: Pod>(&mut self, name: &str, value: V) -> Result<()> {
        let values = aya::maps::PerCpuValues::try_from(vec![value; cpus()?])?;
        let mut map = PerCpuArray::try_from(self.map_mut(name)?)?;
        Ok(map.set(0, values, 0)?)
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

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_event(bytes: &[u8]) -> Result<Event> {
    ensure!(bytes.len() == size_of::<Event>(), "an event of {} bytes", bytes.len());
    let array = |at: usize| -> [u8; 16] {
        let mut array = [0; 16];
        array.copy_from_slice(&bytes[at..at + 16]);
        array
    };
    let flow = lb_common::maps::FlowKey {
        client: array(0),
        peer: array(16),
        client_port: [bytes[32], bytes[33]],
        peer_port: [bytes[34], bytes[35]],
        proto: bytes[36],
        direction: bytes[37],
        pad: [bytes[38], bytes[39]],
    };
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[54..60]);
    Ok(Event {
        flow,
        kind: u32_at(bytes, 40),
        node: u32_at(bytes, 44),
        ifindex: u32_at(bytes, 48),
        vlan: u16::from_ne_bytes([bytes[52], bytes[53]]),
        mac,
        pad: u32_at(bytes, 60),
    })
}

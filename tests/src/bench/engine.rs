//! Runs a production program many times, each time on a fresh packet.
//!
//! The program that the kernel is asked to repeat is the bench's own (`lb-ebpf`'s
//! program `bench`): it restores the packet, puts the next client into it and
//! tail-calls the target. The target is the production program as it was loaded, not
//! a copy; the cost of the rest is that of the same with an empty target. Repeating the
//! production program itself would be wrong for all that edit their packet.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, ProgramArray},
    programs::{ProgramFd, SchedClassifier, Xdp},
};

use crate::kernel::{acceptance::Direction, object};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

/// Bytes of the packet that are restored; no packet is shorter.
pub const TEMPLATE: usize = 86;
const WORDS: usize = TEMPLATE.div_ceil(8);

/// What stands in a packet's place for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Nothing varies.
    Fixed,
    /// The source, IPv4.
    SourceV4,
    /// The source, IPv6.
    SourceV6,
    /// The destination, IPv4.
    DestinationV4,
    /// The destination, IPv6.
    DestinationV6,
}

/// The packets of a run.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The packet.
    pub frame: Vec<u8>,
    /// What varies.
    pub client: Client,
    /// Number of clients, a power of two.
    pub clients: u32,
    /// The first client.
    pub first: u32,
    /// Whether 64 VIPs and 32 ports of each vary as well.
    pub spread: bool,
}

/// The least that something costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Nothing at all: what is taken off everything else.
    Null,
    /// `return XDP_TX`.
    Tx,
    /// The link-layer addresses exchanged.
    Swap,
    /// Room made for a tunnel's headers, and taken away again by the bench.
    Grow,
    /// One hash lookup among 10,000 keys of 24 bytes.
    Lookup,
}

impl Floor {
    fn program(self) -> &'static str {
        match self {
            Self::Null => "bench_null",
            Self::Tx => "bench_tx",
            Self::Swap => "bench_swap",
            Self::Grow => "bench_grow",
            Self::Lookup => "bench_lookup",
        }
    }
}

/// The bench's own programs, loaded.
pub struct Engine {
    ebpf: Ebpf,
    ifindex: u32,
}

impl Engine {
    /// Loads them; frames arrive on `ifindex`.
    ///
    /// # Errors
    /// Not root, or built without the object.
    pub fn load(ifindex: u32) -> Result<Self> {
        ensure!(!OBJECT.is_empty(), "built with LB_BPF_OBJECT=none: build again without it");
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("the bench's kernel programs")?;
        let floors = ["bench_null", "bench_tx", "bench_swap", "bench_grow", "bench_lookup"];
        for name in floors.into_iter().chain(["bench_restore"]) {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        for name in ["bench_restore_egress", "bench_null_egress"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        let map = ebpf.map_mut("LOOKUP").context("no map LOOKUP")?;
        let mut lookup: HashMap<_, [u64; 3], u64> = HashMap::try_from(map)?;
        for key in 0..10_000 {
            lookup.insert([key, 0, 0], 1, 0)?;
        }
        Ok(Self { ebpf, ifindex })
    }

    /// The interface that frames arrive on.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The empty program, once, with nothing of the bench's around it.
    ///
    /// # Errors
    /// The kernel refuses to.
    pub fn null_once(&self, frame: &[u8]) -> Result<Duration> {
        let program = self.ebpf.program("bench_null").context("bench_null")?;
        let program: &Xdp = program.try_into()?;
        let context = object::xdp_md(frame, self.ifindex);
        Ok(object::run(program, frame, Some(&context), 1)?.duration)
    }

    fn floor_fd(&self, floor: Floor, direction: Direction) -> Result<ProgramFd> {
        let name = match (direction, floor) {
            (Direction::Ingress, floor) => floor.program(),
            (Direction::Egress, Floor::Null) => "bench_null_egress",
            (Direction::Egress, _) => bail!("no such floor for the egress program"),
        };
        let program = self.ebpf.program(name).context(name)?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Runs `repeat` packets through one of the floors; the return value and the mean time.
    ///
    /// # Errors
    /// The kernel refuses to.
    pub fn run_floor(
        &mut self,
        floor: Floor,
        direction: Direction,
        traffic: &Traffic,
        repeat: u32,
    ) -> Result<(u32, Duration)> {
        let target = self.floor_fd(floor, direction)?;
        self.run(&target, direction, traffic, repeat)
    }

    /// Runs `repeat` packets through a program; the return value of the last one and the
    /// mean time, the bench's own share included.
    ///
    /// # Errors
    /// The kernel refuses to.
    pub fn run(
        &mut self,
        target: &ProgramFd,
        direction: Direction,
        traffic: &Traffic,
        repeat: u32,
    ) -> Result<(u32, Duration)> {
        self.prepare(traffic)?;
        let (targets, name) = match direction {
            Direction::Ingress => ("TARGETS", "bench_restore"),
            Direction::Egress => ("TARGETS_EGRESS", "bench_restore_egress"),
        };
        let map = self.ebpf.map_mut(targets).context(targets)?;
        ProgramArray::try_from(map)?.set(0, target, 0).context("a program to call")?;
        let program = self.ebpf.program(name).context(name)?;
        let run = match direction {
            Direction::Ingress => {
                let program: &Xdp = program.try_into()?;
                let context = object::xdp_md(&traffic.frame, self.ifindex);
                object::run(program, &traffic.frame, Some(&context), repeat)?
            }
            Direction::Egress => {
                let program: &SchedClassifier = program.try_into()?;
                object::run(program, &traffic.frame, None, repeat)?
            }
        };
        Ok((run.action, run.duration))
    }

    fn prepare(&mut self, traffic: &Traffic) -> Result<()> {
        ensure!(traffic.frame.len() >= TEMPLATE, "a packet of {} bytes", traffic.frame.len());
        ensure!(traffic.clients.is_power_of_two(), "{} clients", traffic.clients);
        let mut words = [0u64; WORDS];
        for (word, bytes) in words.iter_mut().zip(traffic.frame[..TEMPLATE].chunks(8)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(eight);
        }
        let map = self.ebpf.map_mut("PACKET").context("no map PACKET")?;
        Array::<_, [u64; WORDS]>::try_from(map)?.set(0, words, 0)?;
        let client = match traffic.client {
            Client::Fixed => 0,
            Client::SourceV4 => 1,
            Client::SourceV6 => 2,
            Client::DestinationV4 => 3,
            Client::DestinationV6 => 4,
        };
        let length = u32::try_from(traffic.frame.len())?;
        let spread = u32::from(traffic.spread);
        let plan = [client, traffic.clients - 1, spread, 0, traffic.first, length];
        let map = self.ebpf.map_mut("PLAN").context("no map PLAN")?;
        Array::<_, [u32; 6]>::try_from(map)?.set(0, plan, 0)?;
        Ok(())
    }
}

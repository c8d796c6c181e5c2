//! The data path as the agent holds it: programs on uplinks, and maps that say what the plan says.
use super::{
    Error, Options,
    diff::{self, Changes, Inputs, NewlyAnnounced, Problem},
    maps::Maps,
    neighbours::Neighbours,
    object::{Attached, Interface, Object},
    state::{Contents, State, UDP_WINDOW_S},
    uplinks::Uplink,
};
use crate::{plan::Plan, system};
use lb_common::maps::{MAX_UPLINKS, NO_NODE, THIS_NODE};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

/// How long, in nanoseconds, VIPs are announced after the agent last said that it is
/// there. Then it is taken to be gone for good, and steering alone goes on.
pub const DEAD_MAN_NS: u64 = 60_000_000_000;

/// Nanoseconds per answered echo request and CPU: 1,000 a second each.
pub const ECHO_INTERVAL_NS: u64 = 1_000_000;

/// Nanoseconds per refusal (TCP reset, ICMP error) and CPU: 1,000 a second each.
pub const REFUSE_INTERVAL_NS: u64 = 1_000_000;

/// For how many seconds after a change of its rows a Service refuses no flow that nobody
/// knows: others may not have the new rows yet.
pub const SETTLE_S: u32 = 30;

/// How long, in nanoseconds, the tables count as what the cluster is now after the agent last
/// said so: several times the pause between two of its calls.
pub const FRESH_NS: u64 = 15_000_000_000;

/// The loaded programs, their maps, and what stands in them.
pub struct Datapath {
    object: Object,
    maps: Maps,
    state: State,
    /// Interfaces that carry the programs of this agent.
    attached: BTreeSet<u32>,
    /// Whether what is announced is what a plan of this agent says.
    applied: bool,
}

/// What came of applying a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many changes of maps it took.
    pub writes: usize,
    /// VIPs that are announced from now on: to be made known on the link.
    pub newly_announced: Vec<NewlyAnnounced>,
    /// What does not fit into the maps. The rest is in force.
    pub problems: Vec<Problem>,
    /// Uplinks that do not carry the programs, and why. The others do.
    pub not_attached: Vec<Error>,
    /// When (`CLOCK_MONOTONIC`, ns) applying again may cure a problem.
    pub retry_at: Option<u64>,
}

impl Datapath {
    /// Loads programs and maps, and reads what an earlier agent left in them. Nothing that
    /// stands in the kernel changes.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(options: &Options) -> Result<Self, Error> {
        let mut object = Object::load(options)?;
        let mut maps = Maps::new(&mut object)?;
        if object.is_fresh() {
            // 0 stands for maps whose age nobody knows.
            let started_s = (system::monotonic_ns() / 1_000_000_000).max(1);
            maps.change_settings(|settings| settings.started_s = started_s as u32)?;
        }
        let contents = if object.is_fresh() {
            Contents::empty(maps.rows().len(), maps.rows().row_endpoints())
        } else {
            maps.read()?
        };
        tracing::info!(
            pin_dir = %options.pin_dir.display(),
            adopted = !object.is_fresh(),
            vips = contents.vips.len(),
            services = contents.services.len(),
            "kernel program loaded"
        );
        Ok(Self {
            object,
            maps,
            state: State::adopt(contents),
            attached: BTreeSet::new(),
            applied: false,
        })
    }

    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What stands in the maps, but for flows, rows and counters.
    pub fn contents(&self) -> &Contents {
        self.state.contents()
    }

    /// Brings the kernel to what the plan says: programs onto all uplinks and off all other
    /// interfaces, then the maps, differences only.
    ///
    /// All inputs must be complete: what they lack is removed from the kernel. An agent
    /// that has just started calls this only once it knows its snapshot and its uplinks.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses a write. What stands in the maps was then read
    /// anew, and applying again goes on from there.
    pub fn apply(
        &mut self,
        plan: &Plan,
        me: &str,
        uplinks: &[Uplink],
        neighbours: &Neighbours,
    ) -> Result<Applied, Error> {
        let (usable, not_attached) = self.attach(uplinks);
        let inputs = Inputs { plan, me, uplinks: &usable, neighbours };
        let now = system::monotonic_ns();
        let Changes { writes, newly_announced, problems, retry_at } =
            diff::changes(&mut self.state, inputs, self.maps.rows(), now);
        for write in &writes {
            if let Err(error) = self.maps.write(write) {
                self.state = State::adopt(self.maps.read()?);
                return Err(error);
            }
        }
        if !self.applied {
            self.applied = true;
            self.renew(false)?;
        }
        self.detach_others(uplinks)?;
        Ok(Applied { writes: writes.len(), newly_announced, problems, not_attached, retry_at })
    }

    /// Attaches to new uplinks. Returns those that carry the programs.
    fn attach(&mut self, uplinks: &[Uplink]) -> (Vec<Uplink>, Vec<Error>) {
        let mut usable = Vec::new();
        let mut errors = Vec::new();
        for uplink in uplinks {
            if usable.len() == MAX_UPLINKS {
                errors.push(Error::TooManyUplinks { interface: uplink.name.clone() });
                break;
            }
            // An interface may be made anew with its old index.
            if !(self.attached.contains(&uplink.ifindex) && self.object.carries(uplink.ifindex)) {
                let interface = Interface { ifindex: uplink.ifindex, name: uplink.name.clone() };
                match self.object.attach(&interface) {
                    Ok(attached) => tracing::info!(
                        interface = uplink.name,
                        replaced = attached == Attached::Replaced,
                        "programs attached"
                    ),
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                }
                self.attached.insert(uplink.ifindex);
            }
            usable.push(uplink.clone());
        }
        (usable, errors)
    }

    fn detach_others(&mut self, uplinks: &[Uplink]) -> Result<(), Error> {
        for ifindex in self.object.attached() {
            if !uplinks.iter().any(|uplink| uplink.ifindex == ifindex) {
                self.object.detach(ifindex)?;
                self.attached.remove(&ifindex);
                tracing::info!(ifindex, "programs detached: no uplink any more");
            }
        }
        Ok(())
    }

    /// Says that the agent is there: VIPs are announced for another [`DEAD_MAN_NS`]. To be
    /// called several times in that time.
    ///
    /// Where the deadline has passed, others have taken the VIPs over. What an earlier agent
    /// announced then stays silent until a plan has been applied.
    ///
    /// `fresh` says that what was applied last is what the cluster is now: only then, and for
    /// [`FRESH_NS`], is anything refused.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn renew(&mut self, fresh: bool) -> Result<(), Error> {
        let now = system::monotonic_ns();
        let applied = self.applied;
        self.maps.change_settings(|settings| {
            settings.echo_interval_ns = ECHO_INTERVAL_NS;
            settings.refuse_interval_ns = REFUSE_INTERVAL_NS;
            settings.udp_window_s = UDP_WINDOW_S;
            settings.settle_s = SETTLE_S;
            if applied && fresh {
                settings.fresh_until_ns = now + FRESH_NS;
            }
            if applied || settings.announce_until_ns > now {
                settings.announce_until_ns = now + DEAD_MAN_NS;
            }
        })
    }

    /// Stops announcing at once: this node is leaving, and others take over. Steering goes on.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn stop_announcing(&mut self) -> Result<(), Error> {
        self.maps.change_settings(|settings| settings.announce_until_ns = 0)
    }

    /// The addresses of the nodes that rows in force name, this node's left out.
    pub fn nodes_in_rows(&self) -> BTreeSet<IpAddr> {
        let contents = self.contents();
        let ranges: BTreeSet<_> =
            contents.services.values().map(|s| (s.rows_start, s.rows)).collect();
        let rows = ranges.into_iter().flat_map(|(start, rows)| start..start.saturating_add(rows));
        let named: BTreeSet<u32> = rows
            .filter_map(|index| self.maps().rows().get(index))
            .flat_map(|row| row.nodes)
            .filter(|node| ![THIS_NODE, NO_NODE].contains(node))
            .map(u32::from)
            .collect();
        named
            .iter()
            .filter_map(|node| contents.nodes.get(node))
            .map(|node| super::address_from_bytes(node.address))
            .collect()
    }

    /// The IPv6 VIPs that are announced, by interface: their solicited-node groups have to
    /// be joined there.
    pub fn announced_v6(&self) -> BTreeMap<u32, BTreeSet<Ipv6Addr>> {
        let mut announced: BTreeMap<u32, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for key in self.contents().announced.keys() {
            if let IpAddr::V6(vip) = super::address_from_bytes(key.vip) {
                announced.entry(key.ifindex).or_default().insert(vip);
            }
        }
        announced
    }
}

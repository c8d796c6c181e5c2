//! The data path as the agent holds it: programs on uplinks, and maps that say what the plan says.
use super::{
    Error, IngressMode, Options,
    attach::{Attached, Carried, Target},
    diff::{self, Changes, Inputs, NewlyAnnounced, Problem},
    maps::Maps,
    object::Object,
    pins::{LinkKind, Pins},
    reach::Reach,
    state::{Contents, State, UDP_WINDOW_S, Write},
    tunnels::{Mss, largest_segments},
    uplinks::{Links, Uplink},
};
use crate::{
    plan::{Plan, PlannedService, ServiceAddress},
    system,
};
use aya::maps::{Array, MapData};
use imbl::OrdMap;
use lb_common::maps::{
    MAX_UPLINKS, NO_NODE, SERVICE_HERE, SERVICE_TAKEN_OVER, ServiceKey, Settings, THIS_NODE,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// How long, in nanoseconds, VIPs are announced after the agent last said that it is
/// there. Then it is taken to be gone for good, and steering alone goes on.
pub const DEAD_MAN_NS: u64 = 60_000_000_000;

/// Most interfaces that the egress program is attached to.
pub const MAX_EGRESS: usize = 64;

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
    /// Which uplinks carry the programs of this agent, by their device.
    uplinks: BTreeMap<u32, Placed>,
    /// Interfaces that carry its egress program.
    egress: BTreeSet<u32>,
    /// What the maps call an uplink, and the device that it is.
    devices: BTreeMap<(u32, u16), u32>,
    /// UDP port of the tunnels.
    tunnel_port: u16,
    /// What SYN-ACKs were last told.
    mss: Option<Mss>,
    announcements: u64,
    /// Whether what is announced is what a plan of this agent says.
    applied: bool,
    /// See [`is_upgrading`](Self::is_upgrading).
    upgrading: bool,
}

/// The settings of an agent of an earlier version, if they looked as they do now.
fn earlier_settings(pins: &Pins) -> Option<Settings> {
    pins.open_earlier::<Array<MapData, Settings>>("SETTINGS")?.get(&0, 0).ok()
}

/// An uplink as the maps call it, by the interface that carries its ingress program: where that sees
/// frames without their tag, the device is what counts.
fn as_carried(uplink: &Uplink, on: u32) -> Uplink {
    if on == uplink.device {
        Uplink { ifindex: on, vlan: 0, ..uplink.clone() }
    } else {
        uplink.clone()
    }
}

/// Where an uplink's ingress program is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    name: String,
    mode: IngressMode,
    on: u32,
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
    /// Other interfaces by which replies may leave unchanged, and why.
    pub no_egress: Vec<Error>,
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
        let upgrading = object.is_upgrade();
        if object.is_fresh() {
            // 0 stands for maps whose age nobody knows.
            let started_s = (system::monotonic_ns() / 1_000_000_000).max(1);
            let earlier = upgrading.then(|| earlier_settings(object.pins())).flatten();
            maps.change_settings(|settings| {
                settings.started_s = started_s as u32;
                if let Some(earlier) = earlier {
                    // What is on its way in tunnels is to be taken, and flows are as old as they were.
                    settings.cookies = earlier.cookies;
                    settings.started_s = earlier.started_s;
                }
            })?;
        }
        let contents = if object.is_fresh() && !upgrading {
            Contents::empty(maps.rows().len(), maps.rows().row_endpoints())
        } else {
            maps.read()?
        };
        tracing::info!(
            pin_dir = %options.pin_dir.display(),
            adopted = !object.is_fresh(),
            upgrading,
            vips = contents.vips.len(),
            services = contents.services.len(),
            "kernel program loaded"
        );
        Ok(Self {
            object,
            maps,
            state: State::adopt(contents),
            uplinks: BTreeMap::new(),
            egress: BTreeSet::new(),
            devices: BTreeMap::new(),
            tunnel_port: options.tunnel_port,
            mss: None,
            announcements: 1,
            applied: false,
            upgrading,
        })
    }

    /// Whether the tables, or the flows, of an earlier agent were there: its programs have gone on.
    pub fn is_adopted(&self) -> bool {
        !self.object.is_fresh() || self.object.is_upgrade()
    }

    /// Whether programs of an earlier version still do the work, with tables of their own.
    pub fn is_upgrading(&self) -> bool {
        self.upgrading
    }

    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    pub(super) fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    pub(super) fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// What stands in the maps, but for flows, rows and counters.
    pub fn contents(&self) -> &Contents {
        self.state.contents()
    }

    /// The plan of each Service that stands in the maps as it was planned.
    pub fn standing(&self) -> &OrdMap<ServiceAddress, Arc<PlannedService>> {
        &self.state.standing
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
        links: &Links,
        reach: &Reach,
    ) -> Result<Applied, Error> {
        if self.upgrading {
            // Tables first: the programs that take the others' place are to find them full.
            let usable = self.carried_before(&links.uplinks);
            self.write(plan, me, &usable, reach)?;
        }
        let (usable, not_attached) = self.attach(&links.uplinks);
        let no_egress = self.attach_egress(links);
        if std::mem::take(&mut self.upgrading) {
            self.object.pins().remove_old_versions()?;
        }
        let Changes { writes, newly_announced, problems, retry_at } =
            self.write(plan, me, &usable, reach)?;
        self.detach_others(links)?;
        let writes = writes.len();
        Ok(Applied { writes, newly_announced, problems, not_attached, no_egress, retry_at })
    }

    /// Brings the tables to what the plan says, given what carries the programs.
    fn write(
        &mut self,
        plan: &Plan,
        me: &str,
        usable: &[Uplink],
        reach: &Reach,
    ) -> Result<Changes, Error> {
        let devices = usable.iter().map(|u| ((u.ifindex, u.vlan), u.device)).collect();
        if self.devices != devices {
            self.devices = devices;
            self.announcements += 1;
        }
        self.set_mss(largest_segments(plan, me, usable, reach))?;
        let inputs = Inputs { plan, me, uplinks: usable, reach };
        let now = system::monotonic_ns();
        let changes = diff::changes(&mut self.state, inputs, self.maps.rows(), now);
        let writes = &changes.writes;
        self.announcements += u64::from(writes.iter().any(|w| matches!(w, Write::Announced(..))));
        for write in writes {
            if let Err(error) = self.maps.write(write) {
                self.announcements += 1;
                let proxied = std::mem::take(&mut self.state.proxied);
                self.state = State { proxied, ..State::adopt(self.maps.read()?) };
                return Err(error);
            }
        }
        if !self.applied {
            self.applied = true;
            self.renew(false)?;
        }
        Ok(changes)
    }

    /// The uplinks that carry programs of an earlier version, as the maps call them.
    fn carried_before(&self, uplinks: &[Uplink]) -> Vec<Uplink> {
        let carried = uplinks
            .iter()
            .filter_map(|uplink| Some(as_carried(uplink, self.object.earlier_carrier(uplink)?)));
        carried.take(MAX_UPLINKS).collect()
    }

    /// Says of which Services, none of them in force yet, connections with kube-proxy are still
    /// to be looked up when the next plan is applied: they go on with it until
    /// [`end_takeover`](Self::end_takeover).
    pub fn take_over(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.state.taken_over.extend(services);
    }

    /// Whether there are Services to be taken over, or that were and have not been looked up.
    pub fn taking_over(&self) -> bool {
        !self.state.taken_over.is_empty()
    }

    /// The Services that are in force and were [taken over](Self::take_over), by this agent or by
    /// one that did not get to the end of it.
    pub fn taken_over(&self) -> impl Iterator<Item = &ServiceKey> {
        let services = &self.contents().services;
        self.state.taken_over.iter().filter(|key| services.contains_key(key))
    }

    /// Ends it: the flow table has their connections now. `proxied` are those that the agent has found
    /// any of; the program may have seen others begin meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]: it has not ended.
    pub fn end_takeover(&mut self, proxied: &BTreeSet<ServiceKey>) -> Result<(), Error> {
        for key in self.state.taken_over.clone() {
            if let Some(service) = self.state.contents.services.get_mut(&key) {
                service.flags &= !SERVICE_TAKEN_OVER;
                let flags = service.flags;
                service.flags |= SERVICE_HERE;
                self.maps.write(&Write::Service(key, Some(*service)))?;
                // From here on the program notes no more of them.
                let noted = self.maps.service_stats(service.stats)?.delivered_packets > 0;
                if noted || proxied.contains(&key) {
                    self.state.proxied.insert(key);
                } else {
                    service.flags = flags;
                    self.maps.write(&Write::Service(key, Some(*service)))?;
                }
            }
            self.state.taken_over.remove(&key);
        }
        Ok(())
    }

    /// Attaches to new uplinks. Returns those that carry the programs, as the maps call them.
    fn attach(&mut self, uplinks: &[Uplink]) -> (Vec<Uplink>, Vec<Error>) {
        let mut usable = Vec::new();
        let mut errors = Vec::new();
        for uplink in uplinks {
            if usable.len() == MAX_UPLINKS {
                errors.push(Error::TooManyUplinks { interface: uplink.name.clone() });
                break;
            }
            let on = match self.attach_uplink(uplink) {
                Ok(on) => Some(on),
                Err(error) => {
                    self.uplinks.remove(&uplink.device);
                    errors.push(error);
                    // What an earlier agent attached goes on serving.
                    self.object.carrier(uplink)
                }
            };
            usable.extend(on.map(|on| as_carried(uplink, on)));
        }
        (usable, errors)
    }

    /// Returns the interface that carries the ingress program.
    fn attach_uplink(&mut self, uplink: &Uplink) -> Result<u32, Error> {
        // An interface may be made anew with its old index, or below it another one.
        if let Some(placed) = self.uplinks.get_mut(&uplink.device)
            && [uplink.device, uplink.ifindex].contains(&placed.on)
            && self.object.carries(placed.mode.into(), placed.on)
            && self.object.carries(LinkKind::Egress, uplink.device)
        {
            placed.name.clone_from(&uplink.name);
            return Ok(placed.on);
        }
        let Carried { attached, mode, on, instead_of } =
            self.object.attach(&Target::from(uplink))?;
        if let Some(reason) = instead_of {
            tracing::warn!(
                interface = uplink.name,
                "by {} rather than native XDP, since {}",
                mode.name(),
                reason.cause()
            );
        }
        tracing::info!(
            interface = uplink.name,
            mode = mode.name(),
            replaced = attached == Attached::Replaced,
            "programs attached"
        );
        self.egress.insert(uplink.device);
        self.uplinks.insert(uplink.device, Placed { name: uplink.name.clone(), mode, on });
        Ok(on)
    }

    /// Attaches the egress program to all other interfaces that packets leave by.
    fn attach_egress(&mut self, links: &Links) -> Vec<Error> {
        let mut errors = Vec::new();
        let is_uplink = |ifindex| links.uplinks.iter().any(|uplink| uplink.device == ifindex);
        let mut room = MAX_EGRESS.saturating_sub(links.uplinks.len());
        for egress in links.egress.iter().filter(|egress| !is_uplink(egress.ifindex)) {
            if room == 0 {
                errors.push(Error::TooManyEgress { interface: egress.name.clone() });
                break;
            }
            room -= 1;
            if self.egress.contains(&egress.ifindex)
                && self.object.carries(LinkKind::Egress, egress.ifindex)
            {
                continue;
            }
            match self.object.attach_egress(egress) {
                Ok(_) => {
                    tracing::info!(interface = egress.name, "replies that leave by it are seen");
                    self.egress.insert(egress.ifindex);
                }
                Err(error) => {
                    self.egress.remove(&egress.ifindex);
                    errors.push(error);
                }
            }
        }
        errors
    }

    fn detach_others(&mut self, links: &Links) -> Result<(), Error> {
        let devices: BTreeSet<u32> = links.uplinks.iter().map(|uplink| uplink.device).collect();
        self.uplinks.retain(|device, _| devices.contains(device));
        let leaves = |ifindex: u32| {
            devices.contains(&ifindex) || links.egress.iter().any(|e| e.ifindex == ifindex)
        };
        self.egress.retain(|ifindex| leaves(*ifindex));
        let placed: BTreeSet<(LinkKind, u32)> =
            self.uplinks.values().map(|placed| (placed.mode.into(), placed.on)).collect();
        // What could not be attached this time may still carry what an earlier agent attached.
        let failed = |ifindex: u32| {
            links.uplinks.iter().any(|uplink| {
                !self.uplinks.contains_key(&uplink.device)
                    && [uplink.device, uplink.ifindex].contains(&ifindex)
            })
        };
        let unwanted: Vec<_> = self
            .object
            .links()
            .into_iter()
            .filter(|link| match link.kind {
                LinkKind::Egress => !leaves(link.ifindex),
                kind => !placed.contains(&(kind, link.ifindex)) && !failed(link.ifindex),
            })
            .collect();
        // Ingress first, so that no flow begins whose replies would not be rewritten.
        let (egress, ingress): (Vec<_>, Vec<_>) =
            unwanted.into_iter().partition(|link| link.kind == LinkKind::Egress);
        for link in ingress.into_iter().chain(egress) {
            self.object.detach(link.kind, link.ifindex)?;
            tracing::info!(ifindex = link.ifindex, program = link.kind.name(), "detached");
        }
        Ok(())
    }

    fn set_mss(&mut self, mss: Mss) -> Result<(), Error> {
        if self.mss == Some(mss) {
            return Ok(());
        }
        let port = self.tunnel_port.to_be_bytes();
        self.maps.change_settings(|settings| {
            settings.tunnel_port = port;
            settings.mss_v4 = mss.v4;
            settings.mss_v6 = mss.v6;
        })?;
        tracing::info!(
            v4 = mss.v4,
            v6 = mss.v6,
            "largest TCP segments that leave room for tunnels"
        );
        self.mss = Some(mss);
        Ok(())
    }

    /// How each uplink carries the ingress program, by name.
    pub fn ingress_modes(&self) -> BTreeMap<String, IngressMode> {
        self.uplinks.values().map(|placed| (placed.name.clone(), placed.mode)).collect()
    }

    /// The interfaces whose egress program sees replies.
    pub fn egress(&self) -> &BTreeSet<u32> {
        &self.egress
    }

    /// Says that the agent is there: VIPs are announced for another [`DEAD_MAN_NS`]. To be
    /// called several times in that time.
    ///
    /// Where the deadline has passed, others have taken the VIPs over. What an earlier agent
    /// announced then stays silent until a plan has been applied.
    ///
    /// `fresh` says that what was applied last is what the cluster is now: only then, and for
    /// [`FRESH_NS`], is anything refused. Returns whether it is.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn renew(&mut self, fresh: bool) -> Result<bool, Error> {
        let now = system::monotonic_ns();
        let applied = self.applied;
        self.maps.change_settings(|settings| {
            settings.echo_interval_ns = ECHO_INTERVAL_NS;
            settings.refuse_interval_ns = REFUSE_INTERVAL_NS;
            settings.udp_window_s = UDP_WINDOW_S;
            settings.settle_s = SETTLE_S;
            // Somebody began to uninstall, and did not come to the end.
            settings.withdrawn = 0;
            if applied && fresh {
                settings.fresh_until_ns = now + FRESH_NS;
            }
            if applied || settings.announce_until_ns > now {
                settings.announce_until_ns = now + DEAD_MAN_NS;
            }
        })?;
        Ok(applied && fresh)
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

    /// The VIPs that are announced, with the interface to announce them by and the link-layer
    /// address that answers for them.
    pub fn announced(&self) -> impl Iterator<Item = (IpAddr, u32, [u8; 6])> {
        self.contents().announced.iter().map(|(key, value)| {
            let device = self.devices.get(&(key.ifindex, key.vlan)).copied();
            (super::address_from_bytes(key.vip), device.unwrap_or(key.ifindex), value.mac)
        })
    }

    /// A number that is another whenever [`announced`](Self::announced) may be.
    pub fn announcements(&self) -> u64 {
        self.announcements
    }

    /// The IPv6 VIPs that are announced, by interface: their solicited-node groups have to
    /// be joined there.
    pub fn announced_v6(&self) -> BTreeMap<u32, BTreeSet<Ipv6Addr>> {
        let mut announced: BTreeMap<u32, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for (vip, device, _) in self.announced() {
            if let IpAddr::V6(vip) = vip {
                announced.entry(device).or_default().insert(vip);
            }
        }
        announced
    }
}

//! Speaks for the VIPs that this node announces, and heeds who else does: a task of its own, so that
//! announcing keeps its pace while the next plan is made.
use crate::{
    datapath::{
        apply::Datapath,
        diff::NewlyAnnounced,
        neighbours::NextHops,
        uplinks::{Links, Uplink},
    },
    deadline::until,
    l2::{
        Announcement, Announcer,
        conflicts::{Action, Conflicts, Place, Policy},
    },
    membership::Alive,
    metrics::View,
    plan::{Interfaces, Notice, Plan, PlannedVip},
    source::Source,
    system::FrameSocket,
};
use imbl::ordmap::DiffItem;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

/// The reason of notices about a VIP that another host claims.
const ADDRESS_CONFLICT: &str = "AddressConflict";
/// Of the Services that share an address, so many are told.
const TOLD: usize = 16;
/// How much traffic a VIP has is looked up for so many at a time: some milliseconds of system calls.
const LOOKED_UP: usize = 1000;

/// A frame by which somebody claims a VIP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) vip: IpAddr,
    pub(super) mac: [u8; 6],
    /// Index and VLAN of the interface on which it arrived.
    pub(super) arrived: (u32, u16),
}

/// What the kernel answers for.
#[derive(Clone, Debug, Default)]
struct Announced {
    all: BTreeSet<Announcement>,
    /// How much traffic those have that came last.
    busy: BTreeMap<IpAddr, u64>,
}

/// Tells the task what to announce.
pub(super) struct Announcing {
    announced: watch::Sender<Announced>,
    probes: mpsc::UnboundedSender<IpAddr>,
    /// [`Datapath::announcements`] when the task was told.
    told: u64,
    /// VIPs that no node has announced yet.
    fresh: BTreeSet<IpAddr>,
    policy: Policy,
}

/// What the task is given.
pub(super) struct Parts<S> {
    pub(super) source: Arc<S>,
    pub(super) view: Arc<View>,
    pub(super) policy: Policy,
    pub(super) claims: mpsc::Receiver<Claim>,
    pub(super) alive: watch::Receiver<Arc<Alive>>,
    pub(super) next_hops: watch::Receiver<NextHops>,
    pub(super) links: watch::Receiver<Option<Links>>,
    /// What is not to be announced, although it is this node's.
    pub(super) withdrawn: watch::Sender<BTreeSet<Place>>,
}

impl Announcing {
    /// What the kernel answers for on the link from now on.
    pub(super) fn follow(&mut self, datapath: &Datapath, new: &[NewlyAnnounced]) {
        if self.told == datapath.announcements() {
            return;
        }
        self.told = datapath.announcements();
        let vips: BTreeSet<IpAddr> = new.iter().map(|new| new.vip).take(LOOKED_UP).collect();
        let busy = match vips.len() {
            0 | 1 => BTreeMap::new(),
            _ => vips.into_iter().map(|vip| (vip, datapath.traffic(vip))).collect(),
        };
        let all = datapath
            .announced()
            .map(|(vip, ifindex, mac)| Announcement { vip, ifindex, mac })
            .collect();
        self.announced.send_replace(Announced { all, busy });
    }

    /// This node is leaving: it speaks for nothing any more, though its kernel answers until others
    /// have taken over.
    pub(super) fn end(&self) {
        self.announced.send_replace(Announced::default());
    }

    /// A plan is in force. An address that no node has announced before is asked for: somebody else
    /// may have it. What other nodes announced until now is known to be ours, and so is what is
    /// announced already when this agent starts.
    pub(super) fn planned(&mut self, before: &Plan, now: &Plan, first: bool) {
        for item in before.vips.diff(&now.vips) {
            let (vip, planned, new) = match item {
                DiffItem::Add(vip, planned) => (vip, planned, !first),
                DiffItem::Update { new: (vip, planned), .. } => (vip, planned, false),
                DiffItem::Remove(vip, _) => {
                    self.fresh.remove(vip);
                    continue;
                }
            };
            if planned.owner.is_none() {
                self.fresh.extend(new.then_some(*vip));
                continue;
            }
            let fresh = self.fresh.remove(vip) || new;
            // No other agent says which conflicts it has seen. The answers come behind the first
            // announcements, so that nothing waits for them.
            let came = self.policy == Policy::Withdraw;
            if planned.announce.is_some() && (fresh || came) {
                // The task ends with the agent only.
                let _ = self.probes.send(*vip);
            }
        }
    }
}

/// The plan without what is not to be announced.
pub(super) fn withhold(plan: &Plan, withdrawn: &BTreeSet<Place>, uplinks: &[Uplink]) -> Plan {
    let mut plan = plan.clone();
    let mut touched = BTreeSet::new();
    for (vip, device) in withdrawn {
        let Some(uplink) = uplinks.iter().find(|uplink| uplink.device == *device) else { continue };
        let Some(planned) = plan.vips.get_mut(vip) else { continue };
        let PlannedVip { announce: Some(announce), services, .. } = Arc::make_mut(planned) else {
            continue;
        };
        touched.extend(services.iter().cloned());
        let mut named = match announce {
            Interfaces::All => uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
            Interfaces::Named(names) => std::mem::take(names),
        };
        named.remove(&uplink.name);
        *announce = Interfaces::Named(named);
    }
    // A Service of which nothing is left is not shown as announced.
    let left = |vip: &PlannedVip| {
        let nowhere = Interfaces::Named(BTreeSet::new());
        vip.announce.as_ref().is_some_and(|announce| *announce != nowhere)
    };
    for service in touched {
        if !plan.vips.values().any(|vip| left(vip) && vip.services.contains(&service)) {
            plan.announcing.remove(&service);
        }
    }
    plan
}

/// Starts the task, which runs as long as what is returned.
pub(super) fn start<S: Source>(parts: Parts<S>) -> (Announcing, impl Future<Output = ()>) {
    let (announced, follow) = watch::channel(Announced::default());
    let (probes, asked) = mpsc::unbounded_channel();
    let policy = parts.policy;
    let told = Announcing { announced, probes, told: 0, fresh: BTreeSet::new(), policy };
    let task = Task {
        announcer: Announcer::default(),
        conflicts: Conflicts::new(policy),
        sockets: BTreeMap::new(),
        parts,
    };
    (told, task.run(follow, asked))
}

struct Task<S> {
    announcer: Announcer,
    conflicts: Conflicts,
    sockets: BTreeMap<u32, FrameSocket>,
    parts: Parts<S>,
}

impl<S: Source> Task<S> {
    async fn run(
        mut self,
        mut announced: watch::Receiver<Announced>,
        mut probes: mpsc::UnboundedReceiver<IpAddr>,
    ) {
        let mut alive = self.parts.alive.borrow().keys().cloned().collect::<BTreeSet<_>>();
        loop {
            let next = [self.announcer.next_deadline(), self.conflicts.next_deadline()];
            tokio::select! {
                // What is asked for is told first.
                biased;
                changed = announced.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Announced { all, busy } = announced.borrow_and_update().clone();
                    self.announcer.update(Instant::now(), all, &busy);
                    self.forget_sockets();
                }
                changed = self.parts.alive.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now: BTreeSet<_> = self.parts.alive.borrow_and_update().keys().cloned().collect();
                    // Who was out of sight may have announced what is this node's, in its own part
                    // of a network that was in two.
                    if !now.is_subset(&alive) {
                        self.announcer.repeat_all(Instant::now());
                    }
                    alive = now;
                }
                Some(vip) = probes.recv() => self.announcer.probe_everywhere(Instant::now(), vip),
                Some(claim) = self.parts.claims.recv() => self.heed(claim),
                () = until(next.into_iter().flatten().min()) => {}
            }
            self.resolve().await;
            self.speak();
        }
    }

    fn forget_sockets(&mut self) {
        let links = self.parts.links.borrow();
        let uplinks = uplinks(&links);
        self.sockets.retain(|ifindex, _| uplinks.iter().any(|u| u.device == *ifindex));
    }

    /// Sends the frames that are due.
    fn speak(&mut self) {
        for outgoing in self.announcer.poll(Instant::now()) {
            let ifindex = outgoing.ifindex;
            if outgoing.gratuitous {
                self.parts.view.own.announced(outgoing.vip);
            }
            let socket = match self.sockets.entry(ifindex) {
                Entry::Occupied(socket) => Ok(socket.into_mut()),
                Entry::Vacant(vacant) => FrameSocket::open(ifindex).map(|s| vacant.insert(s)),
            };
            if let Err(error) = socket.and_then(|socket| socket.send(&outgoing.frame)) {
                // It is repeated; and an interface that is down has nobody to hear it.
                debug!(ifindex, %error, "gratuitous frame not sent");
                self.sockets.remove(&ifindex);
            }
        }
    }

    /// Somebody claims a VIP.
    fn heed(&mut self, claim: Claim) {
        let Claim { vip, mac, arrived } = claim;
        // Where the program sees frames without their tag, it is on the device itself.
        let by = |u: &&Uplink| (u.ifindex, u.vlan) == arrived || (u.device, 0) == arrived;
        let device = uplinks(&self.parts.links.borrow()).iter().find(by).map(|u| u.device);
        let Some(device) = device else { return };
        let place = (vip, device);
        // The kernel program may have seen it before it was told who the agents' nodes are, and it
        // knows them by the addresses only that packets are sent to.
        if !self.is_ours(place) || self.parts.is_node(mac) {
            return;
        }
        self.parts.view.own.claimed(vip);
        let now = Instant::now();
        if let Some(Action::Defend(place)) = self.conflicts.claim(now, place, mac)
            && let Some(announcement) = self.announcer.find(place)
        {
            self.announcer.repeat(now, &announcement);
        }
    }

    /// Whether a VIP is this node's to announce on an interface.
    fn is_ours(&self, place: Place) -> bool {
        self.announcer.find(place).is_some()
            || self.parts.withdrawn.borrow().contains(&place) && {
                let plan = self.parts.view.plan();
                plan.vips.get(&place.0).is_some_and(|planned| planned.announce.is_some())
            }
    }

    /// Does what is due about conflicts.
    async fn resolve(&mut self) {
        let now = Instant::now();
        if self.conflicts.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let mut conflicts =
            std::mem::replace(&mut self.conflicts, Conflicts::new(self.parts.policy));
        let is_node = |mac| self.parts.is_node(mac);
        let actions = conflicts.poll(now, is_node, |place| self.is_ours(place));
        self.conflicts = conflicts;
        let withdrawn = self.conflicts.withdrawn();
        self.parts.withdrawn.send_if_modified(|known| {
            let changed = *known != withdrawn;
            *known = withdrawn;
            changed
        });
        for action in actions {
            match action {
                Action::Defend(_) | Action::Withdraw(_) => {}
                Action::Ask(place) => self.ask(now, place),
                Action::Tell(place, mac) => self.tell(place, mac).await,
                Action::Restore((vip, device)) => {
                    let interface = self.parts.interface(device);
                    info!(%vip, interface, "nobody else answers for it any more: announced again");
                }
                Action::Over((vip, device)) => {
                    let interface = self.parts.interface(device);
                    info!(%vip, interface, "no other host has claimed it for ten minutes");
                }
            }
        }
        let named = |((vip, device), withdrawn)| ((vip, self.parts.interface(device)), withdrawn);
        self.parts.view.own.set_conflicts(self.conflicts.standing().map(named).collect());
    }

    /// Asks who has a VIP that is not announced.
    fn ask(&mut self, now: Instant, (vip, ifindex): Place) {
        let links = self.parts.links.borrow();
        if let Some(Uplink { mac, .. }) = uplinks(&links).iter().find(|u| u.device == ifindex) {
            self.announcer.probe(now, Announcement { vip, ifindex, mac: *mac });
        }
    }

    async fn tell(&self, (vip, device): Place, mac: [u8; 6]) {
        let plan = self.parts.view.plan();
        let Some(planned) = plan.vips.get(&vip) else { return };
        let message = message(vip, mac, &self.parts.interface(device), self.parts.policy);
        for service in planned.services.iter().take(TOLD) {
            let notice = Notice {
                kind: "Service",
                object: service.clone(),
                warning: true,
                reason: ADDRESS_CONFLICT,
                message: message.as_str().into(),
            };
            self.parts.source.notify(&notice).await;
        }
    }
}

impl<S> Parts<S> {
    /// Whether a link-layer address is that of a node, this one or another, with an agent or without.
    fn is_node(&self, mac: [u8; 6]) -> bool {
        let hops = || self.next_hops.borrow().values().any(|hop| hop.on_link && hop.mac == mac);
        let told = || self.alive.borrow().values().any(|node| node.macs().any(|told| told == mac));
        let own = || uplinks(&self.links.borrow()).iter().any(|uplink| uplink.mac == mac);
        hops() || told() || own()
    }

    /// The name of an interface.
    fn interface(&self, device: u32) -> String {
        let links = self.links.borrow();
        let uplink = uplinks(&links).iter().find(|uplink| uplink.device == device);
        uplink.map_or_else(|| format!("interface {device}"), |uplink| uplink.name.clone())
    }
}

/// None before they are known.
fn uplinks(links: &Option<Links>) -> &[Uplink] {
    links.as_ref().map_or(&[], |links| &links.uplinks)
}

fn message(vip: IpAddr, mac: [u8; 6], interface: &str, policy: Policy) -> String {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let done = match policy {
        Policy::Defend => "Herald goes on announcing it, so that clients reach one or the other",
        Policy::Withdraw => {
            "it is not announced there until nobody else answers for it (--address-conflict withdraw)"
        }
    };
    format!(
        "the host with link-layer address {mac} claims {vip} on {interface}: {done}. Free the \
         address there (a router may answer for others by proxy ARP), or take it out of the pool."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::ObjectName,
        testing::{ip, uplink},
    };

    fn plan(vips: &[(&str, Option<&str>)]) -> Plan {
        let planned = |owner: Option<&str>| PlannedVip {
            owner: owner.map(Into::into),
            announce: (owner == Some("me")).then_some(Interfaces::All),
            services: [ObjectName::new("default", "web")].into(),
        };
        let vips = vips.iter().map(|(vip, owner)| (ip(vip), Arc::new(planned(*owner))));
        Plan { vips: vips.collect(), ..Plan::default() }
    }

    /// Which VIPs are asked for, plan after plan.
    fn probed(policy: Policy, plans: &[&[(&str, Option<&str>)]]) -> Vec<Vec<IpAddr>> {
        let (announced, _follow) = watch::channel(Announced::default());
        let (probes, mut asked) = mpsc::unbounded_channel();
        let mut told = Announcing { announced, probes, told: 0, fresh: BTreeSet::new(), policy };
        let mut before = Plan::default();
        let mut log = Vec::new();
        for (at, vips) in plans.iter().enumerate() {
            let now = plan(vips);
            told.planned(&before, &now, at == 0);
            before = now;
            log.push(std::iter::from_fn(|| asked.try_recv().ok()).collect());
        }
        log
    }

    #[test]
    fn who_else_has_an_address_is_asked_when_it_is_new_only() {
        let (a, b, c) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
        let (me, other) = (Some("me"), Some("other"));
        let plans: [&[_]; 6] = [
            // The agent starts: it may have been announced for years.
            &[(a, me)],
            &[(a, me), (b, me), (c, None)],
            // A node fails, an endpoint becomes ready.
            &[(a, other), (b, other), (c, me)],
            // It comes back.
            &[(a, me), (b, me), (c, other)],
            &[(a, me), (c, None)],
            &[(a, me), (b, me), (c, me)],
        ];
        let expected = [vec![], vec![ip(b)], vec![ip(c)], vec![], vec![], vec![ip(b)]];
        assert_eq!(probed(Policy::Defend, &plans), expected);
    }

    #[test]
    fn who_would_withdraw_asks_for_all_that_comes() {
        let plans: [&[_]; 2] = [&[("10.0.0.1", Some("other"))], &[("10.0.0.1", Some("me"))]];
        assert_eq!(probed(Policy::Withdraw, &plans), [vec![], vec![ip("10.0.0.1")]]);
    }

    #[test]
    fn what_is_withdrawn_is_announced_on_other_interfaces() {
        let mut plan = plan(&[("10.0.0.1", Some("me")), ("10.0.0.2", Some("me"))]);
        let [first, second] = ["first", "second"].map(|name| ObjectName::new("default", name));
        for (vip, service) in [("10.0.0.1", &first), ("10.0.0.2", &second)] {
            Arc::make_mut(plan.vips.get_mut(&ip(vip)).unwrap()).services = [service.clone()].into();
            plan.announcing.insert(service.clone(), Arc::default());
        }
        let uplinks = [uplink(2, "eth0"), uplink(3, "eth1")];
        let on = |withdrawn: &[u32]| {
            let places = withdrawn.iter().map(|device| (ip("10.0.0.1"), *device)).collect();
            let plan = withhold(&plan, &places, &uplinks);
            assert_eq!(plan.vips[&ip("10.0.0.2")].announce, Some(Interfaces::All));
            assert!(plan.announcing.contains_key(&second));
            assert_eq!(plan.announcing.contains_key(&first), withdrawn != [2, 3]);
            plan.vips[&ip("10.0.0.1")].announce.clone()
        };
        let named = |names: &[&str]| {
            Some(Interfaces::Named(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        assert_eq!(on(&[]), Some(Interfaces::All));
        assert_eq!(on(&[2]), named(&["eth1"]));
        assert_eq!(on(&[2, 3]), named(&[]));
        assert_eq!(on(&[9]), Some(Interfaces::All), "an interface that is gone");
    }
}

//! Keeps the kernel at what the newest snapshot, the living nodes and the links ask for.
use super::{
    announce::{self, Announcing},
    handover::{self, Handover},
    network::Network,
    stopping::Stop,
};
use crate::{
    bgp::{self, plan::silence},
    datapath::{
        Error,
        apply::{Applied, Datapath},
        diff::NewlyAnnounced,
        multicast,
        neighbours::NextHops,
        reach::{Forward, Peers, Reach},
        replies::{Question, Silence, Unseen, delivered_by_tcp},
        uplinks::Links,
    },
    deadline::until,
    duty_cycle::{DutyCycle, Limits},
    l2::conflicts::Place,
    membership::{Alive, Departure},
    metrics::View,
    plan::{
        Basis, NODE_WITHOUT_AGENT, Notice, Plan, PlanCache, PlanOptions, owner::NO_ADVERTISEMENT,
        plan_with,
    },
    snapshot::Snapshot,
    source::{Source, notices::Standing},
    system,
};
use imbl::{OrdSet, ordmap::DiffItem};
use rtnetlink::Handle;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::block_in_place, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often the dead man's deadline, 60 s ahead, is moved.
const RENEW: Duration = Duration::from_secs(5);
/// How often memory that is free is given back.
const GIVE_BACK: Duration = Duration::from_secs(15);
/// How often code that is not used is taken out of memory, and when for the first time: once the start,
/// which needs the most, is over.
const FORGET: Duration = Duration::from_secs(600);
const FORGET_FIRST: Duration = Duration::from_secs(20);
/// Nodes that go together, and links, are planned together.
const SETTLE: Duration = Duration::from_millis(2);
/// Planning and applying may take a third of the time, so that the allocator's writes, which bring
/// a snapshot each some milliseconds, do not wait for it; but no change waits long, and the few that
/// make a Service do not wait at all.
const DUTY: Limits = Limits {
    one_in: 3,
    least: Duration::ZERO,
    burst: Duration::from_millis(40),
    longest: Duration::from_millis(60),
};
/// When what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a leaving node goes on answering, so that others have taken over by then: they
/// hear of it at once, plan and apply in milliseconds.
const HAND_OVER: Duration = Duration::from_millis(200);
/// How long one that restarts tells so: two hellos more than the first, since one may be lost.
const TOLD: Duration = Duration::from_millis(450);
/// How long a node that starts waits at most for the ways to the others.
const WAYS: Duration = Duration::from_secs(3);
/// How long after its start an agent says nothing about nodes that it has not heard of: those that
/// start with it load their programs for a second or two before they are heard.
const FIRST_HEARD: Duration = Duration::from_secs(10);

/// What steering goes by, each as last seen.
pub(super) struct Inputs {
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) alive: watch::Receiver<Arc<Alive>>,
    pub(super) links: watch::Receiver<Option<Links>>,
    pub(super) next_hops: watch::Receiver<NextHops>,
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) unseen: watch::Receiver<Unseen>,
    pub(super) withdrawn: watch::Receiver<BTreeSet<Place>>,
    pub(super) bgp: watch::Receiver<Arc<bgp::Configuration>>,
}

impl Inputs {
    /// Waits for a change; `None` once nothing can change any more, else whether it may wait for
    /// others.
    async fn changed(&mut self) -> Option<bool> {
        let (changed, may_wait) = tokio::select! {
            changed = self.snapshots.changed() => (changed, true),
            // A node that is gone takes packets until the tables say so.
            changed = self.alive.changed() => (changed, false),
            changed = self.links.changed() => (changed, false),
            changed = self.next_hops.changed() => (changed, false),
            changed = self.peers.changed() => (changed, false),
            changed = self.unseen.changed() => (changed, false),
            changed = self.withdrawn.changed() => (changed, false),
            changed = self.bgp.changed() => (changed, true),
        };
        changed.is_ok().then_some(may_wait)
    }

    /// Waits until then, or only for what comes together with a change that cannot wait: `false` once
    /// nothing can change any more.
    async fn rest(&mut self, until: Option<Instant>) -> bool {
        let now = Instant::now();
        let mut until = until.unwrap_or(now + SETTLE);
        while until > Instant::now() {
            tokio::select! {
                () = time::sleep_until(until.into()) => {}
                changed = self.changed() => match changed {
                    Some(true) => {}
                    Some(false) => until = until.min(Instant::now() + SETTLE),
                    None => return false,
                },
            }
        }
        true
    }

    /// Waits until the ways to all other nodes that live are known: what is to be sent to one
    /// before would be dropped.
    async fn all_reachable(&mut self, me: &str) {
        loop {
            let attachable = self.links.borrow().is_some();
            if attachable && self.reach_all(me) || self.changed().await.is_none() {
                return;
            }
        }
    }

    /// Whether the ways to all other nodes that live are known, tunnels among them where there is an
    /// agent to say what they must carry.
    fn reach_all(&self, me: &str) -> bool {
        let snapshot = self.snapshots.borrow().clone();
        let (hops, peers) = (self.next_hops.borrow(), self.peers.borrow());
        self.alive.borrow().iter().filter(|(name, _)| *name != me).all(|(name, alive)| {
            let node = snapshot.as_ref().and_then(|snapshot| snapshot.nodes.get(name));
            let hop =
                node.is_none_or(|node| node.internal_ips.iter().any(|ip| hops.contains_key(ip)));
            hop && (!alive.agent || peers.cookies.contains_key(name))
        })
    }

    /// Whether somebody has come or gone who is not planned with, or cannot be sent anything yet.
    fn is_behind(&self, me: &str) -> bool {
        self.alive.has_changed().is_ok_and(|changed| changed) || !self.reach_all(me)
    }
}

/// The loop and what it keeps.
pub(super) struct Steering<S> {
    source: Arc<S>,
    /// Whether this agent is the one that tells users what all agents see alike.
    reporter: watch::Receiver<bool>,
    parts: Parts,
    cache: PlanCache,
    /// What was told that all nodes see alike, and what only this one.
    standing: Standing,
    standing_here: Standing,
    silence: Silence,
    /// The plan that is in force, and the snapshot that it was made from.
    plan: Arc<Plan>,
    planned_from: Option<Arc<Snapshot>>,
    /// [`Datapath::announcements`] when groups were joined.
    joined: Option<u64>,
    /// What failed last time, so that it is said once.
    troubles: BTreeSet<String>,
    /// An uplink has carried the programs.
    started: bool,
    /// The other agents have been told that this node takes packets; and when they are at the latest,
    /// from the first plan in force on.
    told: bool,
    tell_by: Option<Instant>,
    /// The kernel was told that the tables are fresh.
    refuses: bool,
    /// Until when nodes may not have been heard for no other reason than that it is early.
    early_until: Option<Instant>,
    /// When a change is planned at the earliest.
    duty: DutyCycle,
}

const NO_UPLINK: &str = "no interface has one of this node's InternalIPs or a default route, so no \
    VIP is served: name interfaces with --interfaces";

/// What steering is given.
pub(super) struct Parts {
    pub(super) node: String,
    pub(super) options: PlanOptions,
    pub(super) forward: Forward,
    /// Whose replies shall be looked for.
    pub(super) question: watch::Sender<Option<Question>>,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) network: Network,
    pub(super) netlink: Handle,
    pub(super) announcing: Announcing,
    pub(super) view: Arc<View>,
    pub(super) handover: Arc<Handover>,
    /// Told once this node serves what it announces.
    pub(super) serves: watch::Sender<bool>,
    /// For how long it is not known who is alive.
    pub(super) starting: Duration,
}

impl<S: Source> Steering<S> {
    pub(super) fn new(source: Arc<S>, parts: Parts) -> Self {
        Self {
            reporter: source.may_allocate(),
            source,
            parts,
            cache: PlanCache::default(),
            standing: Standing::default(),
            standing_here: Standing::default(),
            silence: Silence::default(),
            plan: Arc::default(),
            planned_from: None,
            joined: None,
            troubles: BTreeSet::new(),
            started: false,
            told: false,
            tell_by: None,
            refuses: false,
            early_until: Some(Instant::now() + FIRST_HEARD),
            duty: DutyCycle::new(DUTY),
        }
    }

    /// Runs until cancelled.
    ///
    /// # Errors
    ///
    /// No uplink takes the programs, from the start.
    pub(super) async fn run(
        &mut self,
        mut inputs: Inputs,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut renew = time::interval(RENEW);
        renew.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut give_back = time::interval(GIVE_BACK);
        give_back.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut forget = time::interval_at(time::Instant::now() + FORGET_FIRST, FORGET);
        // Until it is over, all nodes count as alive, and most may never have had an agent: packets
        // of kube-proxy's connections would be sent to kernels that do not know them. What stands in
        // the kernel after an earlier agent goes on meanwhile, and its rows say who has one.
        if lock(&self.parts.datapath).nodes_in_rows().is_empty() {
            if let Some(snapshot) = inputs.snapshots.borrow().clone() {
                self.parts.network.update(&snapshot);
            }
            let starting = async {
                time::sleep(self.parts.starting).await;
                let _late = time::timeout(WAYS, inputs.all_reachable(&self.parts.node)).await;
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = starting => {}
            }
        }
        let mut retry_at = self.update(&mut inputs).await?;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = inputs.changed() => {
                    let Some(may_wait) = changed else { return Ok(()) };
                    if !inputs.rest(self.duty.ready().filter(|_| may_wait)).await {
                        return Ok(());
                    }
                    retry_at = self.update(&mut inputs).await?;
                }
                () = until(retry_at) => retry_at = self.update(&mut inputs).await?,
                _ = give_back.tick() => block_in_place(system::give_memory_back),
                _ = forget.tick() => {
                    if let Err(error) = system::forget_code() {
                        debug!("the program's code stays in memory: {error}");
                    }
                }
                () = until(self.early_until) => {
                    self.early_until = None;
                    self.tell().await;
                }
                _ = renew.tick() => {
                    self.renew();
                    // An interface that was down has lost its groups.
                    self.joined = None;
                    if let Err(error) = self.join_groups().await {
                        debug!("{error}");
                    }
                }
            }
        }
    }

    /// Says how this agent goes, and stays until the others have heard it. Leaving, it stops answering
    /// once they have taken the VIPs over; but if there is nobody else, it goes on answering until the
    /// dead man's deadline. Restarting, it goes on in any case.
    pub(super) async fn stop(&mut self, meant: &Stop, alive: usize) {
        let liveness = self.parts.network.liveness();
        match meant {
            Stop::Leaving(reason) => {
                info!(%reason, "leaving: others take the VIPs over, and the kernel goes on steering");
                self.parts.announcing.end();
                liveness.leave(Departure::Stopping);
                if alive < 2 {
                    return;
                }
                time::sleep(HAND_OVER).await;
                if let Err(error) = lock(&self.parts.datapath).stop_announcing() {
                    warn!("{error}");
                }
            }
            Stop::Restarting => {
                info!("stopping, to be started again: the kernel goes on announcing and steering");
                liveness.leave(Departure::Restarting);
                self.renew();
                if alive > 1 {
                    time::sleep(TOLD).await;
                }
            }
        }
    }

    /// Plans, and brings the kernel there. Returns when to try again what failed.
    async fn update(&mut self, inputs: &mut Inputs) -> Result<Option<Instant>, Error> {
        let Some(snapshot) = inputs.snapshots.borrow_and_update().clone() else { return Ok(None) };
        let alive = Arc::clone(&inputs.alive.borrow_and_update());
        let reach = Reach {
            next_hops: inputs.next_hops.borrow_and_update().clone(),
            peers: inputs.peers.borrow_and_update().clone(),
            forward: self.parts.forward,
        };
        self.parts.network.update(&snapshot);
        self.tell_leaving(&snapshot);
        // Without it there would be no uplink, and all would be taken out of the kernel.
        let Some(links) = inputs.links.borrow_and_update().clone() else { return Ok(None) };
        let uplinks = &links.uplinks;
        let withdrawn = inputs.withdrawn.borrow_and_update().clone();

        self.parts.options.routed_pools =
            silence::pools(&inputs.bgp.borrow_and_update(), &snapshot);
        self.parts.options.unseen = inputs.unseen.borrow_and_update().clone();
        let started = Instant::now();
        let Parts { node, options, datapath, handover, .. } = &self.parts;
        let cache = &mut self.cache;
        let (plan, announcing, applied) = block_in_place(|| {
            let plan = plan_with(&snapshot, node, &alive, options, cache);
            let mut datapath = lock(datapath);
            let before = self.planned_from.as_deref();
            let mut changes = handover::changes(&plan, before, &datapath);
            datapath.take_over(std::mem::take(&mut changes.first));
            let wanted = announce::withhold(&plan, &withdrawn, uplinks);
            let applied = (|| {
                if datapath.taking_over() {
                    let quiet = handover::before_announcing(&wanted, &datapath);
                    datapath.apply(&quiet, node, &links, &reach)?;
                    handover.adopt(&mut datapath)?;
                }
                datapath.apply(&wanted, node, &links, &reach)
            })();
            handover.after(changes, datapath.contents());
            (plan, wanted.announcing, applied)
        });
        self.duty.worked(started, Instant::now());
        self.parts.view.own.updates.add(1);
        let mut troubles = BTreeSet::new();
        let mut retry_at;
        match applied {
            Ok(mut applied) => {
                let none = applied.not_attached.len() == uplinks.len();
                if none && !self.started {
                    if let Some(reason) = applied.not_attached.pop() {
                        return Err(reason);
                    }
                    troubles.insert(NO_UPLINK.into());
                }
                self.started |= !none;
                // Only now: from then on others send packets here, and a kernel without the
                // programs and their tables would leave them to kube-proxy. Nor before these
                // tables have everybody who has come while they were made, as others' have: a
                // flow of theirs that this node is asked for next would be looked for nowhere.
                retry_at = retry_of(&applied, &mut troubles);
                let now = Instant::now();
                let by = *self.tell_by.get_or_insert(now + WAYS);
                self.told |= by <= now || !inputs.is_behind(&self.parts.node);
                if self.told {
                    self.parts.network.tell_interfaces(uplinks);
                    self.parts.serves.send_if_modified(|serves| !std::mem::replace(serves, true));
                } else {
                    retry_at = Some(retry_at.map_or(by, |at| at.min(by)));
                }
                debug!(writes = applied.writes, took = ?started.elapsed(), "plan applied");
                self.ask_for_replies(&plan, &links);
                let first = self.planned_from.replace(Arc::clone(&snapshot)).is_none();
                let (options, me) = (self.parts.options.clone(), self.parts.node.clone());
                let basis = Basis { snapshot, alive, options, me };
                self.in_force(plan, basis, &applied.newly_announced, first).await;
                self.source.report_announced(&announcing);
            }
            Err(error) => {
                self.parts.view.own.update_errors.add(1);
                troubles.insert(error.to_string());
                retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
        if let Err(error) = self.join_groups().await {
            troubles.insert(error.to_string());
            retry_at = Some(Instant::now() + RETRY_AFTER);
        }
        for new in troubles.difference(&self.troubles) {
            warn!("{new}");
        }
        self.troubles = troubles;
        // From the first plan on, and after troubles: a client need not wait until the next turn.
        if !self.refuses && self.fresh() {
            self.renew();
        }
        Ok(retry_at)
    }

    /// Says what is to come of it that this agent stops, when that changes.
    fn tell_leaving(&self, snapshot: &Snapshot) {
        let of = |snapshot: &Snapshot| snapshot.nodes.get(&self.parts.node)?.leaving.clone();
        let (now, before) = (of(snapshot), self.planned_from.as_deref().and_then(of));
        match now {
            Some(reason) if before.is_none() => {
                info!(%reason, "this node is on its way out: once its agent is told to stop, others take its VIPs over");
            }
            None if before.is_some() => info!("this node stays"),
            _ => {}
        }
    }

    /// A plan stands in the kernel: the network is told first, then people.
    async fn in_force(&mut self, plan: Plan, basis: Basis, new: &[NewlyAnnounced], first: bool) {
        let plan = Arc::new(plan);
        self.parts.announcing.follow(&lock(&self.parts.datapath), new);
        self.parts.announcing.planned(&self.plan, &plan, first);
        if log_owners(&self.plan, &plan) {
            self.parts.view.own.retain_vips(|vip| plan.vips.contains_key(vip));
        }
        self.plan = Arc::clone(&plan);
        let alive = basis.alive.len();
        self.parts.view.applied(plan, Some(Arc::new(basis)), alive);
        self.tell().await;
    }

    /// Tells people what the plan in force has to say that was not said before.
    async fn tell(&mut self) {
        let Plan { notices, local_notices, .. } = &*self.plan;
        // All agents see the same; one of them tells it.
        let reports = *self.reporter.borrow();
        let notices = if reports { notices.clone() } else { OrdSet::new() };
        let early = self.early_until.is_some();
        // Nor may all that is asked for about BGP have been read.
        let later = |notice: &Notice| {
            early && [NODE_WITHOUT_AGENT, NO_ADVERTISEMENT].contains(&notice.reason)
        };
        let new = self.standing.update_but(notices, later);
        let here = self.standing_here.update(local_notices.clone());
        for notice in new.into_iter().chain(here) {
            self.source.notify(&notice).await;
        }
    }

    /// Has it found out whose replies are seen.
    fn ask_for_replies(&self, plan: &Plan, links: &Links) {
        let endpoints = plan.local_endpoints.iter().map(|endpoint| endpoint.address).collect();
        let egress = lock(&self.parts.datapath).egress().clone();
        let question = Question { endpoints, links: links.clone(), egress };
        self.parts.question.send_if_modified(|asked| {
            let changed = asked.as_ref() != Some(&question);
            if changed {
                *asked = Some(question);
            }
            changed
        });
    }

    async fn join_groups(&mut self) -> Result<(), Error> {
        let (announcements, announced) = {
            let datapath = lock(&self.parts.datapath);
            if self.joined == Some(datapath.announcements()) {
                return Ok(());
            }
            (datapath.announcements(), datapath.announced_v6())
        };
        multicast::sync(&self.parts.netlink, &announced).await?;
        self.joined = Some(announcements);
        Ok(())
    }

    /// Whether the tables are what the cluster is now, as far as this agent can know.
    fn fresh(&self) -> bool {
        // While nodes may only not have been heard yet, that all endpoints are on such is nobody's refusal.
        let unheard = self.early_until.is_some()
            && self.plan.notices.iter().any(|notice| notice.reason == NODE_WITHOUT_AGENT);
        self.troubles.is_empty() && self.source.in_sync() && !unheard
    }

    fn renew(&mut self) {
        let fresh = self.fresh();
        self.parts.view.own.stale.set(usize::from(!fresh));
        let mut datapath = lock(&self.parts.datapath);
        match datapath.renew(fresh) {
            Ok(refuses) => {
                self.refuses = refuses;
                self.parts.view.renewed(Instant::now());
            }
            Err(error) => warn!("{error}"),
        }
        let now = Instant::now();
        if !self.silence.is_due(now) {
            return;
        }
        let (Ok(counters), Ok(stats)) = (datapath.counters(), datapath.service_stats()) else {
            return;
        };
        let delivered = delivered_by_tcp(&self.plan, &stats);
        if let Some(unanswered) = self.silence.observe(now, delivered, counters.replied) {
            warn!(
                "{unanswered} packets went to TCP endpoints within a minute, and no reply was seen: do their replies leave by another way? `lb-agent check` lists the interfaces that are looked at; --delivery kernel leaves them to kube-proxy"
            );
        }
    }
}

/// The data path, whoever held it last.
pub(super) fn lock(datapath: &Mutex<Datapath>) -> MutexGuard<'_, Datapath> {
    // Nothing in it is left half done by a panic: what it knows of the maps is written
    // before them, and read anew when a write fails.
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retry_of(applied: &Applied, troubles: &mut BTreeSet<String>) -> Option<Instant> {
    let Applied { writes: _, newly_announced: _, problems, not_attached, no_egress, retry_at } =
        applied;
    troubles.extend(problems.iter().map(ToString::to_string));
    troubles.extend(not_attached.iter().chain(no_egress).map(ToString::to_string));
    if !not_attached.is_empty() {
        return Some(Instant::now() + RETRY_AFTER);
    }
    let pause = retry_at.as_ref()?.saturating_sub(system::monotonic_ns());
    Some(Instant::now() + Duration::from_nanos(pause))
}

/// Logs who announces what from now on. Returns whether there are VIPs no more.
fn log_owners(before: &Plan, now: &Plan) -> bool {
    let mut gone = false;
    for item in before.vips.diff(&now.vips) {
        let (vip, planned) = match item {
            DiffItem::Add(vip, planned) => (vip, planned),
            DiffItem::Update { old: (_, old), new: (vip, planned) } => {
                if old.owner == planned.owner {
                    continue;
                }
                (vip, planned)
            }
            DiffItem::Remove(vip, _) => {
                gone = true;
                info!(%vip, "no VIP any more");
                continue;
            }
        };
        info!(%vip, node = planned.owner.as_deref().unwrap_or("none"), "announced by");
    }
    gone
}

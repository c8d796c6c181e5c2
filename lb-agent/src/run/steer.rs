//! Keeps the kernel at what the newest snapshot, the living nodes and the links ask for.
use super::{
    handover::{self, Handover},
    network::Network,
};
use crate::{
    datapath::{
        Error,
        apply::{Applied, Datapath},
        multicast,
        neighbours::NextHops,
        reach::{Forward, Peers, Reach},
        replies::{Question, Silence, Unseen, delivered_by_tcp},
        uplinks::{Links, Uplink},
    },
    l2::{Announcement, Announcer},
    membership::{Alive, Departure},
    metrics::View,
    plan::{NODE_WITHOUT_AGENT, Notice, Plan, PlanCache, PlanOptions, plan_with},
    snapshot::Snapshot,
    source::{Source, notices::Standing},
    system::{self, FrameSocket},
};
use imbl::{OrdSet, ordmap::DiffItem};
use rtnetlink::Handle;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    num::NonZeroU32,
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
/// Nodes that go together, and links, are planned together.
const SETTLE: Duration = Duration::from_millis(2);
/// Planning and applying may take a third of the time, so that the allocator's writes, which bring
/// a snapshot each some milliseconds, do not wait for it; but no change waits longer than this.
const LONGEST_REST: Duration = Duration::from_millis(60);
/// When what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a leaving node goes on answering, so that others have taken over by then: they
/// hear of it at once, plan and apply in milliseconds.
const HAND_OVER: Duration = Duration::from_millis(200);
/// How long a node that starts waits at most for the ways to the others.
const WAYS: Duration = Duration::from_secs(3);
/// How long after its start an agent says nothing about nodes that it has not heard of: those that
/// start with it load their programs for a second or two before they are heard.
const FIRST_HEARD: Duration = Duration::from_secs(10);
/// Gratuitous frames a second: a hundred VIPs move in a tenth of a second, and no switch
/// sees a storm.
const ANNOUNCEMENTS: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

/// What steering goes by, each as last seen.
pub(super) struct Inputs {
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) alive: watch::Receiver<Arc<Alive>>,
    pub(super) links: watch::Receiver<Option<Links>>,
    pub(super) next_hops: watch::Receiver<NextHops>,
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) unseen: watch::Receiver<Unseen>,
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
        };
        changed.is_ok().then_some(may_wait)
    }

    /// Waits until the ways to all other nodes that live are known: what is to be sent to one
    /// before would be dropped.
    async fn all_reachable(&mut self, me: &str) {
        loop {
            let snapshot = self.snapshots.borrow().clone();
            let all = self.alive.borrow().keys().filter(|name| *name != me).all(|name| {
                let hops = self.next_hops.borrow();
                let node = snapshot.as_ref().and_then(|snapshot| snapshot.nodes.get(name));
                node.is_none_or(|node| node.internal_ips.iter().any(|ip| hops.contains_key(ip)))
            });
            let attachable = self.links.borrow().is_some();
            if all && attachable || self.changed().await.is_none() {
                return;
            }
        }
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
    announcer: Announcer,
    sockets: BTreeMap<u32, FrameSocket>,
    silence: Silence,
    /// The plan that is in force, and the snapshot that it was made from.
    plan: Arc<Plan>,
    planned_from: Option<Arc<Snapshot>>,
    /// [`Datapath::announcements`] when the announcer was told, and when groups were joined.
    announced: u64,
    joined: Option<u64>,
    /// What failed last time, so that it is said once.
    troubles: BTreeSet<String>,
    /// An uplink has carried the programs.
    started: bool,
    /// The kernel was told that the tables are fresh.
    refuses: bool,
    /// Until when nodes may not have been heard for no other reason than that it is early.
    early_until: Option<Instant>,
    /// When a change is planned at the earliest.
    rest_until: Instant,
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
    pub(super) view: Arc<View>,
    pub(super) handover: Arc<Handover>,
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
            announcer: Announcer::new(ANNOUNCEMENTS),
            sockets: BTreeMap::new(),
            silence: Silence::default(),
            plan: Arc::default(),
            planned_from: None,
            announced: 0,
            joined: None,
            troubles: BTreeSet::new(),
            started: false,
            refuses: false,
            early_until: Some(Instant::now() + FIRST_HEARD),
            rest_until: Instant::now(),
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
            let announce_at = self.announcer.next_deadline();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = inputs.changed() => {
                    let Some(may_wait) = changed else { return Ok(()) };
                    let ready =
                        if may_wait { self.rest_until } else { Instant::now() + SETTLE };
                    time::sleep_until(ready.into()).await;
                    retry_at = self.update(&mut inputs).await?;
                }
                () = until(retry_at) => retry_at = self.update(&mut inputs).await?,
                () = until(announce_at) => self.announce(),
                _ = give_back.tick() => block_in_place(system::give_memory_back),
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

    /// Leaves: others take the VIPs over, then this node stops answering for them. If there
    /// is nobody else, it goes on answering until the dead man's deadline.
    pub(super) async fn leave(&self, alive: usize) {
        self.parts.network.liveness().leave(Departure::Stopping);
        if alive < 2 {
            return;
        }
        time::sleep(HAND_OVER).await;
        if let Err(error) = lock(&self.parts.datapath).stop_announcing() {
            warn!("{error}");
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
        // Without it there would be no uplink, and all would be taken out of the kernel.
        let Some(links) = inputs.links.borrow_and_update().clone() else { return Ok(None) };
        let uplinks = &links.uplinks;

        self.parts.options.unseen = inputs.unseen.borrow_and_update().clone();
        let started = Instant::now();
        let Parts { node, options, datapath, handover, .. } = &self.parts;
        let cache = &mut self.cache;
        let (plan, applied) = block_in_place(|| {
            let plan = plan_with(&snapshot, node, &alive, options, cache);
            let mut datapath = lock(datapath);
            let before = self.planned_from.as_deref();
            let mut changes = handover::changes(&plan, before, &datapath);
            datapath.take_over(std::mem::take(&mut changes.first));
            let applied = (|| {
                if datapath.taking_over() {
                    let quiet = handover::before_announcing(&plan, &datapath);
                    datapath.apply(&quiet, node, &links, &reach)?;
                    handover.adopt(&mut datapath)?;
                }
                datapath.apply(&plan, node, &links, &reach)
            })();
            handover.after(changes, datapath.contents());
            (plan, applied)
        });
        self.rest_until = Instant::now() + (2 * started.elapsed()).min(LONGEST_REST);
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
                // programs and their tables would leave them to kube-proxy.
                self.parts.network.tell_interfaces(uplinks);
                debug!(writes = applied.writes, took = ?started.elapsed(), "plan applied");
                retry_at = retry_of(&applied, &mut troubles);
                self.ask_for_replies(&plan, &links);
                self.planned_from = Some(snapshot);
                self.in_force(plan, uplinks, alive.len()).await;
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

    /// A plan stands in the kernel: the network is told first, then people.
    async fn in_force(&mut self, plan: Plan, uplinks: &[Uplink], alive: usize) {
        let plan = Arc::new(plan);
        self.follow_announced(uplinks);
        self.announce();
        if log_owners(&self.plan, &plan) {
            self.parts.view.own.retain_vips(|vip| plan.vips.contains_key(vip));
        }
        self.plan = Arc::clone(&plan);
        self.source.report_announced(&plan.announcing);
        self.parts.view.applied(plan, alive);
        self.tell().await;
    }

    /// Tells people what the plan in force has to say that was not said before.
    async fn tell(&mut self) {
        let Plan { notices, local_notices, .. } = &*self.plan;
        // All agents see the same; one of them tells it.
        let reports = *self.reporter.borrow();
        let notices = if reports { notices.clone() } else { OrdSet::new() };
        let early = self.early_until.is_some();
        let later = |notice: &Notice| early && notice.reason == NODE_WITHOUT_AGENT;
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

    /// What the kernel now answers for on the link.
    fn follow_announced(&mut self, uplinks: &[Uplink]) {
        self.sockets.retain(|ifindex, _| uplinks.iter().any(|u| u.device == *ifindex));
        let datapath = lock(&self.parts.datapath);
        if self.announced == datapath.announcements() {
            return;
        }
        self.announced = datapath.announcements();
        let announced = datapath
            .announced()
            .map(|(vip, ifindex, mac)| Announcement { vip, ifindex, mac })
            .collect();
        self.announcer.update(Instant::now(), announced);
    }

    /// Sends the gratuitous frames that are due.
    fn announce(&mut self) {
        for outgoing in self.announcer.poll(Instant::now()) {
            let ifindex = outgoing.ifindex;
            self.parts.view.own.announced(outgoing.vip);
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
        self.troubles.is_empty() && self.source.in_sync()
    }

    fn renew(&mut self) {
        let fresh = self.fresh();
        self.parts.view.own.stale.set(usize::from(!fresh));
        let mut datapath = lock(&self.parts.datapath);
        match datapath.renew(fresh) {
            Ok(refuses) => self.refuses = refuses,
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

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
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

//! The Kubernetes API as a source.
//!
//! Ten watches fill one [`view`]; a publisher makes snapshots of it. Losing the API
//! changes nothing but that nothing changes any more. Reading happens under the rights of
//! `deploy/herald.yaml` and no others: a kind that may not be read, or is not defined yet,
//! is tried again with a growing pause, and until each that a snapshot is made of has been
//! read once there is none at all, since a view without pools would take all addresses back.
mod assign;
mod client;
pub mod election;
mod events;
mod follow;
mod health;
pub mod last_seen;
mod last_seen_bgp;
mod lease;
pub mod membership;
mod pace;
mod report;
mod rivals;
mod secrets;
mod service_status;
mod usage;
mod view;

pub use client::ClientError;

use self::{
    election::Timing,
    events::Events,
    follow::Follow,
    health::Health,
    lease::Holder,
    membership::MembershipSecret,
    report::Report,
    secrets::Secrets,
    service_status::{Announced, Told, Writer},
    usage::Usage,
    view::View,
};
use super::{
    AssignError, Assignment, Source,
    convert::SERVICE_NAME,
    index::{self, Scope},
};
use crate::{
    api::{BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement},
    bgp::{self, speaker::Passwords},
    ipam::PoolUsage,
    plan::{Announcing, Notice},
    snapshot::{ObjectName, Snapshot},
    webhook,
};
use imbl::OrdMap;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch::{self, Receiver},
    time::timeout_at,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The Lease of the agent that allocates.
pub const ALLOCATOR_LEASE: &str = "herald-allocator";

/// What the name of a node's Lease begins with.
pub const NODE_LEASE_PREFIX: &str = "herald-node-";

/// A write must have ended before another agent may take the Lease over, even if it was
/// sent in the last moment: between stepping down and that lie five seconds.
const WRITE_AFTER_TERM: Duration = Duration::from_secs(4);

/// How to reach the API, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--kubeconfig`; absent: as a pod, or by `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Which objects are ours.
    pub scope: Scope,
    /// `--node-name`: holder of Leases, origin of Events.
    pub node: String,
    /// The port that configuration is checked at before it is stored; `None` for not at all.
    pub webhook: Option<u16>,
    /// `--state-dir`: where what was last seen is kept.
    pub state: PathBuf,
}

/// The Kubernetes API as a source.
pub struct Kubernetes {
    client: Client,
    namespace: String,
    state: PathBuf,
    view: Arc<View>,
    health: Arc<Health>,
    usage: watch::Sender<Usage>,
    node: String,
    announced: watch::Sender<Option<Announced<Announcing>>>,
    routed: watch::Sender<Option<Announced<BTreeSet<String>>>>,
    bgp: watch::Sender<Arc<bgp::Configuration>>,
    passwords: watch::Sender<Arc<Passwords>>,
    tasks: TaskTracker,
}

impl Kubernetes {
    /// Starts to follow the API. Whether it answers shows only later: it is tried for ever.
    ///
    /// After `stop`, [`Kubernetes::stopped`] waits until the allocator's Lease is given up.
    /// It is cancelled from here, too, if a task fails by a fault of its own.
    ///
    /// # Errors
    /// Where nothing tells how to reach an API.
    pub async fn start(options: Options, stop: CancellationToken) -> Result<Self, ClientError> {
        let Options { kubeconfig, scope, node, webhook, state } = options;
        let (client, server) = client::connect(kubeconfig.as_deref()).await?;
        tracing::info!("following the Kubernetes API at {server}");
        let (events, writer) = Events::new(&scope.namespace);
        let health = Arc::new(Health::new(server));
        let view = Arc::new(View::new(events));
        let usage = watch::Sender::default();
        let tasks = TaskTracker::new();
        let namespace = scope.namespace.clone();
        let (bgp, passwords) = (watch::Sender::default(), watch::Sender::default());
        let source = Self {
            client,
            namespace,
            view,
            health,
            usage,
            node: node.clone(),
            announced: watch::Sender::default(),
            routed: watch::Sender::default(),
            bgp,
            passwords,
            tasks,
            state,
        };
        source.follow(&scope, &stop);
        source.hold_leases(&scope.namespace, &node, &stop);
        let pools = Api::namespaced(source.client.clone(), &scope.namespace);
        let (counters, may) = (source.usage.subscribe(), source.view.may_allocate());
        let health = Arc::clone(&source.health);
        source.spawn(&stop, async move { usage::write(pools, counters, may, &health).await });
        source.look_for_rivals(&scope.namespace, &stop);
        source.tell_announced(source.announced.subscribe(), &stop);
        source.tell_announced(source.routed.subscribe(), &stop);
        let publishing = Arc::clone(&source.view);
        source.spawn(&stop, async move { publishing.publish().await });
        source.aside(&stop, last_seen::keep(Arc::clone(&source.view), source.state.clone()));
        let (judged, configuration) = watch::channel(None);
        let secrets = Secrets {
            client: source.client.clone(),
            namespace: scope.namespace.clone(),
            health: Arc::clone(&source.health),
            passwords: source.passwords.clone(),
        };
        source.spawn(&stop, secrets.judge(source.view.configuration(), judged));
        source.spawn(&stop, follow_bgp(configuration.clone(), source.bgp.clone()));
        let keeper = last_seen_bgp::Keeper {
            configuration: configuration.clone(),
            bgp: source.bgp.clone(),
            passwords: source.passwords.clone(),
            directory: source.state.clone(),
        };
        source.aside(&stop, keeper.run());
        let report = Report {
            client: source.client.clone(),
            namespace: scope.namespace.clone(),
            node: node.clone(),
            view: Arc::clone(&source.view),
            configuration: configuration.clone(),
            health: Arc::clone(&source.health),
        };
        source.spawn(&stop, report.run());
        if let Some(port) = webhook {
            let parts = webhook::Parts {
                port,
                namespace: scope.namespace.clone(),
                configuration,
                leads: source.view.may_allocate(),
            };
            source.aside(&stop, webhook::run(source.client.clone(), parts));
        }
        source.spawn(&stop, writer.run(source.client.clone(), node));
        source.tasks.close();
        Ok(source)
    }

    /// The keys by which agents know each other.
    pub fn membership_secret(&self) -> MembershipSecret {
        MembershipSecret::new(self.client.clone(), self.namespace.clone(), self.state.clone())
    }

    /// Waits until everything has ended that `stop` ends.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }

    fn spawn(&self, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let stop = stop.clone();
        self.tasks.spawn(async move {
            // Should it end by a panic, nothing would follow the API any more: a new agent
            // adopts what stands in the kernel, so it is better to stop.
            let _stop = stop.clone().drop_guard();
            stop.run_until_cancelled(task).await;
        });
    }

    /// Without this the agent goes on, should it end by a panic.
    fn aside(&self, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let stop = stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn follow(&self, scope: &Scope, stop: &CancellationToken) {
        let scope = Arc::new(scope.clone());
        let client = &self.client;
        macro_rules! follow {
            ($kind:ty, $api:expr, $label:expr) => {{
                let api = $api;
                let (view, health) = (Arc::clone(&self.view), Arc::clone(&self.health));
                let scope = Arc::clone(&scope);
                self.spawn(stop, async move {
                    let (view, health, scope) = (&*view, &*health, &*scope);
                    Follow { view, health, scope, label: $label }.run::<$kind>(api).await;
                });
            }};
        }
        follow!(Service, Api::all(client.clone()), None);
        follow!(EndpointSlice, Api::all(client.clone()), Some(SERVICE_NAME));
        follow!(Node, Api::all(client.clone()), None);
        follow!(Namespace, Api::all(client.clone()), None);
        follow!(IPAddressPool, Api::namespaced(client.clone(), &scope.namespace), None);
        follow!(L2Advertisement, Api::namespaced(client.clone(), &scope.namespace), None);
        follow!(BGPAdvertisement, Api::namespaced(client.clone(), &scope.namespace), None);
        follow!(BGPPeer, Api::namespaced(client.clone(), &scope.namespace), None);
        follow!(BFDProfile, Api::namespaced(client.clone(), &scope.namespace), None);
        follow!(Community, Api::namespaced(client.clone(), &scope.namespace), None);
    }

    fn look_for_rivals(&self, namespace: &str, stop: &CancellationToken) {
        let (client, namespace) = (self.client.clone(), namespace.to_owned());
        let (view, health) = (Arc::clone(&self.view), Arc::clone(&self.health));
        self.spawn(stop, async move {
            rivals::look(client, &namespace, view.may_allocate(), &view, &health).await;
        });
    }

    fn tell_announced<T: Told>(
        &self,
        announced: watch::Receiver<Option<Announced<T>>>,
        stop: &CancellationToken,
    ) {
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        let nodes = Api::<Node>::all(self.client.clone());
        let (node, health) = (self.node.clone(), Arc::clone(&self.health));
        self.spawn(stop, async move {
            let owner = lease::owner(&nodes, &node).await;
            Writer::new(client, &namespace, node, owner, &health).run(announced).await;
        });
    }

    fn hold_leases(&self, namespace: &str, node: &str, stop: &CancellationToken) {
        let leases = Api::namespaced(self.client.clone(), namespace);
        let (view, health) = (Arc::clone(&self.view), Arc::clone(&self.health));
        let (api, me, until) = (leases.clone(), node.to_owned(), stop.clone());
        self.tasks.spawn(async move {
            let _stop = until.clone().drop_guard();
            let holder = Holder {
                api,
                name: ALLOCATOR_LEASE.to_owned(),
                me,
                timing: Timing::ALLOCATOR,
                owner: None,
                health: &health,
                release: true,
            };
            holder.run(until, |held| view.leading(held)).await;
        });
        let (health, me, until) = (Arc::clone(&self.health), node.to_owned(), stop.clone());
        let nodes = Api::<Node>::all(self.client.clone());
        self.tasks.spawn(async move {
            let _stop = until.clone().drop_guard();
            let owner = until.run_until_cancelled(lease::owner(&nodes, &me)).await.flatten();
            let holder = Holder {
                api: leases,
                name: format!("{NODE_LEASE_PREFIX}{me}"),
                me,
                timing: Timing::PRESENCE,
                owner,
                health: &health,
                // It says that the node has an agent, and a restart does not change that.
                release: false,
            };
            holder.run(until, |_| {}).await;
        });
    }
}

/// Shows a value to those who follow it, if it is another one.
fn replace<T: Clone + PartialEq>(shown: &watch::Sender<T>, now: &T) {
    shown.send_if_modified(|last| {
        let changed = last != now;
        if changed {
            last.clone_from(now);
        }
        changed
    });
}

/// Passes on what of the configuration is about BGP, for ever.
async fn follow_bgp(
    mut from: watch::Receiver<Option<Arc<index::Configuration>>>,
    to: watch::Sender<Arc<bgp::Configuration>>,
) {
    loop {
        let now = from.borrow_and_update().clone();
        if let Some(now) = now {
            bgp::configuration::publish(&now.objects, &now.verdict, &to);
        }
        if from.changed().await.is_err() {
            return;
        }
    }
}

impl Source for Kubernetes {
    fn bgp(&self) -> watch::Receiver<Arc<bgp::Configuration>> {
        self.bgp.subscribe()
    }

    fn passwords(&self) -> watch::Receiver<Arc<Passwords>> {
        self.passwords.subscribe()
    }

    fn snapshots(&self) -> Receiver<Option<Arc<Snapshot>>> {
        self.view.snapshots()
    }

    fn in_sync(&self) -> bool {
        self.health.in_sync(Instant::now())
    }

    fn may_allocate(&self) -> Receiver<bool> {
        self.view.may_allocate()
    }

    async fn assign(&self, assignment: &Assignment) -> Result<(), AssignError> {
        let service = &assignment.service;
        let term_end = self.view.may_allocate_until(Instant::now());
        let term_end = term_end.ok_or(AssignError::NotAllocator)?;
        let conflict = || AssignError::Conflict(service.clone());
        let current = self.view.service(service).ok_or_else(conflict)?;
        if current.resource_version != assignment.resource_version {
            return Err(conflict());
        }
        let _writing = self.view.writing();
        let write = assign::write(&self.client, &current, assignment);
        let reason = match timeout_at((term_end + WRITE_AFTER_TERM).into(), write).await {
            Ok(Ok(())) => return Ok(()),
            // Gone counts as changed: the next snapshot has it no more.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                return Err(conflict());
            }
            Ok(Err(e)) => self.health.explain("write the status of Services", &e),
            Err(_) => "the Kubernetes API gives no answer".to_owned(),
        };
        Err(AssignError::Failed { service: service.clone(), reason })
    }

    fn report_usage(&self, usage: &BTreeMap<String, PoolUsage>) {
        replace(&self.usage, usage);
    }

    fn report_announced(&self, announced: &OrdMap<ObjectName, Arc<Announcing>>) {
        replace(&self.announced, &Some(announced.clone()));
    }

    fn report_routed(&self, routed: &OrdMap<ObjectName, Arc<BTreeSet<String>>>) {
        replace(&self.routed, &Some(routed.clone()));
    }

    async fn forget_routed(&self) {
        // Nor may the writer that runs say it again.
        replace(&self.routed, &Some(OrdMap::new()));
        let (client, node) = (self.client.clone(), self.node.clone());
        let writer =
            Writer::<BTreeSet<String>>::new(client, &self.namespace, node, None, &self.health);
        writer.end().await;
    }

    async fn notify(&self, notice: &Notice) {
        self.view.notify(notice.clone());
    }
}

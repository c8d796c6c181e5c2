//! The Lease of an [`Election`] in the API.
use super::{
    election::{Action, Election, Record, Reply, Request, Timing},
    health::Health,
};
use crate::source::COMPONENT;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// At stop, the API gets that long to take note.
const FAREWELL: Duration = Duration::from_secs(2);

/// A Lease that is to be held.
pub(super) struct Holder<'a> {
    pub(super) api: Api<Lease>,
    pub(super) name: String,
    pub(super) me: String,
    pub(super) timing: Timing,
    /// With what it shall vanish.
    pub(super) owner: Option<OwnerReference>,
    pub(super) health: &'a Health,
    /// Give it up at stop, so that another can have it at once.
    pub(super) release: bool,
}

impl Holder<'_> {
    /// Tries to get and to keep it until `stop`. `held` is told until when it is ours
    /// unless it is renewed, at each change.
    pub(super) async fn run(self, stop: CancellationToken, held: impl Fn(Option<Instant>)) {
        let mut election = Election::new(self.me.clone(), self.timing, Instant::now());
        let mut stored = None;
        while !stop.is_cancelled() {
            let now = Instant::now();
            let until = election.held_until(now);
            held(until);
            match election.next(now, Timestamp::now()) {
                Action::Wait(at) => {
                    let at = until.map_or(at, |until| at.min(until));
                    tokio::select! {
                        () = sleep_until(at.into()) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Action::Ask(request, give_up) => {
                    let asked = timeout_at(give_up.into(), self.ask(&request, &mut stored)).await;
                    let reply = asked.unwrap_or(Reply::Failed);
                    election.reply(now, Instant::now(), &request, reply);
                }
            }
        }
        held(None);
        if self.release
            && let Some(request) = election.release(Instant::now(), Timestamp::now())
        {
            // Where that fails, the others wait until it has run out.
            let _ = timeout(FAREWELL, self.ask(&request, &mut stored)).await;
        }
    }

    async fn ask(&self, request: &Request, stored: &mut Option<Lease>) -> Reply {
        let params = PostParams { field_manager: Some(COMPONENT.to_owned()), dry_run: false };
        let answer = match request {
            Request::Read => self.api.get(&self.name).await,
            Request::Create(record) => self.api.create(&params, &self.lease(None, record)).await,
            Request::Replace(record) => {
                let lease = self.lease(stored.take(), record);
                self.api.replace(&self.name, &params, &lease).await
            }
        };
        match answer {
            Ok(lease) => {
                self.health.succeeded(&self.name);
                let record = record(&lease);
                *stored = Some(lease);
                Reply::Record(record)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Reply::Conflict,
            Err(kube::Error::Api(status))
                if status.code == 404 && !matches!(request, Request::Create(_)) =>
            {
                Reply::Absent
            }
            Err(e) => {
                let what = format!("hold the Lease {}", self.name);
                self.health.failed(&self.name, &self.health.explain(&what, &e));
                Reply::Failed
            }
        }
    }

    /// The Lease with a new record; all else in it stays.
    fn lease(&self, stored: Option<Lease>, record: &Record) -> Lease {
        let mut lease = stored.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(record.holder.clone());
        spec.lease_duration_seconds = i32::try_from(record.duration.as_secs()).ok();
        spec.lease_transitions = Some(record.transitions);
        spec.acquire_time = Some(MicroTime(record.acquired));
        spec.renew_time = Some(MicroTime(record.renewed));
        lease
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
        acquired: spec.acquire_time.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        renewed: spec.renew_time.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
    }
}

/// A Node as the owner of something. `None` where the API knows no such Node; asked
/// until there is an answer.
pub(super) async fn owner(nodes: &Api<Node>, name: &str) -> Option<OwnerReference> {
    loop {
        match timeout(Duration::from_secs(5), nodes.get_metadata(name)).await {
            Ok(Ok(node)) => {
                return Some(OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.to_owned(),
                    uid: node.metadata.uid?,
                    ..OwnerReference::default()
                });
            }
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => return None,
            _ => sleep(Duration::from_secs(2)).await,
        }
    }
}

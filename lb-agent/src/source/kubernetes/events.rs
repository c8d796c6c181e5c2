//! Events on the objects that notices are about.
use crate::{
    plan::Notice,
    snapshot::ObjectName,
    source::{
        COMPONENT,
        notices::{self, Telling, Told},
    },
};
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, warn};

/// Notices that may wait: those of giving addresses to some thousand Services at once.
const QUEUE: usize = 8192;
const AT_ONCE: usize = 4;
/// Addresses go before Events: while some are being written, each Event waits that long.
const YIELD: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);
/// `note` may be a kilobyte long.
const LONGEST_NOTE: usize = 1000;

/// Where notices go in.
#[derive(Clone, Debug)]
pub(super) struct Events {
    queue: mpsc::Sender<Item>,
    told: Arc<Mutex<Told>>,
    /// How many addresses are being written.
    writes: watch::Sender<usize>,
    dropped: Arc<AtomicU64>,
    /// The namespace of kinds whose notices name none.
    namespace: Arc<str>,
}

#[derive(Debug)]
struct Item {
    notice: Notice,
    uid: Option<String>,
    telling: Telling,
}

/// Where they come out.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Receiver<Item>,
    told: Arc<Mutex<Told>>,
    writes: watch::Receiver<usize>,
}

/// As long as it lives, an address is being written.
#[derive(Debug)]
pub(super) struct Writing(watch::Sender<usize>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.send_modify(|writes| *writes -= 1);
    }
}

impl Events {
    /// A queue. Notices that name no namespace are about objects in `namespace`.
    pub(super) fn new(namespace: &str) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let told = Arc::<Mutex<Told>>::default();
        let writes = watch::Sender::default();
        let writer =
            Writer { queue: receiver, told: Arc::clone(&told), writes: writes.subscribe() };
        let dropped = Arc::default();
        (Self { queue: sender, told, writes, dropped, namespace: namespace.into() }, writer)
    }

    /// Notes that an address is being written.
    pub(super) fn writing(&self) -> Writing {
        self.writes.send_modify(|writes| *writes += 1);
        Writing(self.writes.clone())
    }

    /// Logs a notice and queues its Event, unless it has just been told.
    pub(super) fn send(&self, mut notice: Notice, uid: Option<String>) {
        if notice.object.namespace.is_empty() {
            notice.object = ObjectName::new(&self.namespace, &notice.object.name);
        }
        let telling = lock(&self.told).judge(Instant::now(), &notice);
        if telling == Telling::Nothing {
            return;
        }
        notices::log(&notice);
        if let Err(mpsc::error::TrySendError::Full(item)) =
            self.queue.try_send(Item { notice, uid, telling })
        {
            lock(&self.told).failed(&item.notice);
            if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                warn!("more Events than the API takes: some are only logged");
            }
        }
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Writes Events for ever, as the agent on `node`.
    pub(super) async fn run(mut self, client: Client, node: String) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let node: Arc<str> = node.into();
        let mut tasks = JoinSet::new();
        while let Some(item) = self.queue.recv().await {
            let _ = timeout(YIELD, self.writes.wait_for(|writes| *writes == 0)).await;
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            while tasks.try_join_next().is_some() {}
            let (client, node, told) = (client.clone(), Arc::clone(&node), Arc::clone(&self.told));
            tasks.spawn(async move {
                write(client, &node, &told, item).await;
                drop(permit);
            });
        }
    }
}

async fn write(client: Client, node: &str, told: &Mutex<Told>, item: Item) {
    let Item { notice, uid, telling } = item;
    let events = Api::<Event>::namespaced(client, &notice.object.namespace);
    let now = Timestamp::now();
    let written = match telling {
        Telling::Nothing => return,
        Telling::Again { first, count } => {
            let name = name(&notice, first.get().into());
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            let series = EventSeries { count, last_observed_time: MicroTime(now) };
            let patch = Patch::Merge(serde_json::json!({ "series": series }));
            let params = PatchParams::default();
            let patched = timeout(PATIENCE, events.patch(&name, &params, &patch)).await;
            match patched {
                // The API server has forgotten it.
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => None,
                other => Some(other),
            }
        }
        Telling::New => None,
    };
    let written = match written {
        Some(written) => written,
        None => {
            // There is such a time until the year 2554.
            lock(told).at(&notice, u64::try_from(now.as_nanosecond()).unwrap_or_default());
            let event = event(&notice, uid, node, now);
            timeout(PATIENCE, events.create(&PostParams::default(), &event)).await
        }
    };
    let error = match written {
        Ok(Ok(_)) => return,
        Ok(Err(e)) => e.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    debug!("Event {} on {} not written: {error}", notice.reason, notice.object);
    lock(told).failed(&notice);
}

/// The name of the Event of a notice that is told at that time, in nanoseconds since 1970; as
/// Kubernetes' own components make it.
fn name(notice: &Notice, time: i128) -> String {
    let stem = &notice.object.name;
    format!("{}.{time:x}", &stem[..stem.floor_char_boundary(230)])
}

fn event(notice: &Notice, uid: Option<String>, node: &str, now: Timestamp) -> Event {
    let Notice { kind, object, warning, reason, message } = notice;
    let api_version = match *kind {
        "Service" | "Node" | "Namespace" => "v1",
        "DaemonSet" | "Deployment" => "apps/v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "BGPPeer" => "metallb.io/v1beta2",
        _ => "metallb.io/v1beta1",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name(notice, now.as_nanosecond())),
            namespace: Some(object.namespace.to_string()),
            ..ObjectMeta::default()
        },
        action: Some((*reason).to_owned()),
        reason: Some((*reason).to_owned()),
        note: Some(message[..message.floor_char_boundary(LONGEST_NOTE)].to_owned()),
        type_: Some(if *warning { "Warning" } else { "Normal" }.to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some((*kind).to_owned()),
            name: Some(object.name.to_string()),
            namespace: Some(object.namespace.to_string()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(kind: &'static str, namespace: &str, message: &str) -> Notice {
        Notice {
            kind,
            object: ObjectName::new(namespace, "web"),
            warning: true,
            reason: "AllocationFailed",
            message: message.into(),
        }
    }

    #[test]
    fn an_event_is_about_its_object() {
        let notice = notice("Service", "shop", &"ä".repeat(2000));
        let event = event(&notice, Some("u".to_owned()), "n1", Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert!(event.note.unwrap().len() <= 1024);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reporting_controller.as_deref(), Some("herald"));
        assert_eq!(event.reporting_instance.as_deref(), Some("n1"));
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.api_version.as_deref(), Some("v1"));
        assert_eq!(regarding.uid.as_deref(), Some("u"));
    }

    #[test]
    fn what_has_just_been_told_is_not_queued_and_own_objects_get_their_namespace() {
        let (events, mut writer) = Events::new("metallb-system");
        events.send(notice("IPAddressPool", "", "bad"), None);
        events.send(notice("IPAddressPool", "", "bad"), None);
        events.send(notice("IPAddressPool", "", "worse"), None);
        let mut queued = Vec::new();
        while let Ok(item) = writer.queue.try_recv() {
            assert_eq!(item.telling, Telling::New);
            queued.push((item.notice.object.namespace.to_string(), item.notice.message));
        }
        let expected = ["bad", "worse"].map(|m| ("metallb-system".to_owned(), m.into()));
        assert_eq!(queued, expected);
    }
}

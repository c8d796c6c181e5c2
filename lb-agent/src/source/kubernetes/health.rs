//! What is the matter with the API, said once per change of reason.
use kube::{core::Status, runtime::watcher};
use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{debug, error, info, warn};

/// What keeps each task from its work, by its name.
#[derive(Debug)]
pub(super) struct Health {
    server: String,
    reasons: Mutex<BTreeMap<String, Reason>>,
    /// When any task was answered last.
    heard: Mutex<Option<Instant>>,
}

/// Why a task fails.
#[derive(Debug)]
struct Reason {
    text: String,
    /// What the agent serves by may be out of date because of it.
    stale: bool,
}

/// How long an API that has not answered counts as there. It is asked for the allocator's
/// Lease every two seconds, and what it sends by watches comes as soon.
const SILENCE: Duration = Duration::from_secs(6);

impl Health {
    /// That of the API at an address.
    pub(super) fn new(server: String) -> Self {
        Self { server, reasons: Mutex::default(), heard: Mutex::default() }
    }

    /// A task could not do what it must, and what the agent serves by may be out of date. Said if no
    /// other task has failed for that reason.
    pub(super) fn failed(&self, task: &str, reason: &str) {
        self.note(task, reason, true);
    }

    /// The same of a task without which the agent serves no worse.
    pub(super) fn failed_aside(&self, task: &str, reason: &str) {
        self.note(task, reason, false);
    }

    fn note(&self, task: &str, reason: &str, stale: bool) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.values().any(|r| r.text == reason) {
            debug!(task, reason, "still failing");
        } else if stale {
            error!("{reason}; trying on, and what is known stays in force");
        } else {
            warn!("{reason}; trying on, and everything else goes on");
        }
        reasons.insert(task.to_owned(), Reason { text: reason.to_owned(), stale });
    }

    /// A task goes on.
    pub(super) fn succeeded(&self, task: &str) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Reason { text, .. }) = reasons.remove(task)
            && !reasons.values().any(|r| r.text == text)
        {
            info!("no more: {text}");
        }
    }

    /// Whether the API has answered lately, and nothing fails by which the agent serves.
    pub(super) fn in_sync(&self, now: Instant) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = |reasons: &BTreeMap<String, Reason>| reasons.values().any(|r| r.stale);
        heard.is_some_and(|at| now.saturating_duration_since(at) < SILENCE)
            && !stale(&self.reasons.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is wrong with a watch; `None` for what happens in the best of clusters.
    pub(super) fn of_watch(&self, kind: &str, error: &watcher::Error) -> Option<String> {
        match error {
            watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) => {
                Some(self.explain(&format!("list and watch {kind}s"), e))
            }
            // The next attempt to start it shows whether there is something wrong.
            watcher::Error::WatchError(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::NoResourceVersion => None,
        }
    }

    /// What is wrong, for people: what was refused or cannot be reached, and the way out.
    pub(super) fn explain(&self, what: &str, error: &kube::Error) -> String {
        let server = &self.server;
        match error {
            kube::Error::Api(status) if status.code == 401 => format!(
                "the Kubernetes API at {server} does not accept the credentials (401): renew them \
                 in the kubeconfig"
            ),
            kube::Error::Api(status) => match (status.code, way_out(status)) {
                (code, Some(way_out)) => {
                    format!("cannot {what}: {} ({code}): {way_out}", text(status))
                }
                (code, None) => {
                    format!("cannot {what}: the API at {server} says {code}: {}", text(status))
                }
            },
            error => format!(
                "cannot reach the Kubernetes API at {server}: {}: check that it is up, and the \
                 address and credentials in the kubeconfig",
                root(error)
            ),
        }
    }
}

fn text(status: &Status) -> &str {
    if status.message.is_empty() { &status.reason } else { status.message.trim() }
}

fn way_out(status: &Status) -> Option<&'static str> {
    match status.code {
        403 => Some("give the agent the rules of deploy/herald.yaml"),
        404 if status.message.contains("namespaces") => {
            Some("create the namespace (deploy/herald.yaml), or correct --namespace")
        }
        404 => Some("the definitions are missing: lb-agent crds | kubectl apply -f -"),
        _ => None,
    }
}

/// The innermost cause: the outer ones only say who passed it on.
fn root(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        }))
    }

    #[test]
    fn what_is_not_needed_makes_nothing_stale() {
        let health = Health::new("https://192.0.2.1:6443".to_owned());
        let now = Instant::now();
        assert!(!health.in_sync(now), "nothing was heard yet");
        health.succeeded("Service");
        health.failed_aside("BGPPeer", "no BGPPeers");
        assert!(health.in_sync(now));
        health.failed("Node", "no Nodes");
        assert!(!health.in_sync(now));
        health.succeeded("Node");
        assert!(health.in_sync(now));
        assert!(!health.in_sync(now + 2 * SILENCE), "it has not been heard of for long");
    }

    #[test]
    fn errors_name_the_thing_and_the_way_out() {
        let health = Health::new("https://192.0.2.1:6443".to_owned());
        let says = |e: &kube::Error| health.explain("list and watch Nodes", e);
        for (error, parts) in [
            (
                status(403, "nodes is forbidden"),
                ["list and watch Nodes", "forbidden", "herald.yaml"],
            ),
            (status(401, "Unauthorized"), ["(401)", "credentials", "kubeconfig"]),
            (status(404, "404 page not found"), ["404", "definitions", "lb-agent crds"]),
            (status(404, "namespaces \"a\" not found"), ["404", "create", "--namespace"]),
            (status(500, "etcd is away"), ["https://192.0.2.1:6443", "500", "etcd is away"]),
        ] {
            let text = says(&error);
            for part in parts {
                assert!(text.contains(part), "{text}");
            }
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = says(&kube::Error::ReadEvents(refused));
        assert!(
            text.contains("cannot reach the Kubernetes API at https://192.0.2.1:6443"),
            "{text}"
        );
        assert!(text.contains("connection refused"), "{text}");
    }
}

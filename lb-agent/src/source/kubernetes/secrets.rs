//! Whether the Secrets that BGPPeers name hold a password.
//!
//! They are read one by one, by name: a watch would need the right to read all Secrets of the
//! namespace, MetalLB's memberlist and the webhook's key among them. So one that changes is noticed
//! after a while. Passwords go to the BGP speaker, and nowhere else.
use super::health::Health;
use crate::{
    bgp::speaker::Passwords,
    source::index::Configuration,
    validate::{self, BASIC_AUTH, PasswordSecret},
};
use k8s_openapi::ByteString;
use kube::{Client, api::GetParams, core::Request};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

const TASK: &str = "Secrets of BGPPeers";
const PATIENCE: Duration = Duration::from_secs(5);
/// One that holds a password is looked at again after so long: by every agent of the cluster.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// One that does not, or was not read, is waited for.
const WAITED_FOR: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Secrets {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) health: Arc<Health>,
    /// Where the passwords go.
    pub(super) passwords: watch::Sender<Arc<Passwords>>,
}

impl Secrets {
    /// Passes the configuration on for ever, judged by the Secrets, too.
    pub(super) async fn judge(
        self,
        mut from: watch::Receiver<Option<Arc<Configuration>>>,
        to: watch::Sender<Option<Arc<Configuration>>>,
    ) {
        let mut known = BTreeMap::new();
        loop {
            let now = from.borrow_and_update().clone();
            let mut pause = None;
            if let Some(now) = now {
                let names = now.objects.names_of_password_secrets();
                known.retain(|name: &String, _| names.contains(name.as_str()));
                self.passwords.send_if_modified(|known| {
                    let gone = known.0.keys().any(|name| !names.contains(name.as_str()));
                    if gone {
                        Arc::make_mut(known).0.retain(|name, _| names.contains(name.as_str()));
                    }
                    gone
                });
                // Nothing waits for an API that does not answer.
                pass_on(&now, &known, &to);
                if !names.is_empty() {
                    let all = self.read(names, &mut known).await;
                    let good = known.values().all(|secret| *secret == PasswordSecret::WellFormed);
                    pause = Some(if all && good { LOOK_AGAIN } else { WAITED_FOR });
                    pass_on(&now, &known, &to);
                }
            }
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return },
                () = async {
                    match pause {
                        Some(pause) => sleep(pause).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Reads them. Whether all answers have come: what was known of the others stays.
    async fn read(
        &self,
        names: BTreeSet<&str>,
        known: &mut BTreeMap<String, PasswordSecret>,
    ) -> bool {
        for name in names {
            match timeout(PATIENCE, self.read_one(name)).await {
                Ok(Ok((secret, password))) => {
                    known.insert(name.to_owned(), secret);
                    self.keep(name, password);
                }
                Ok(Err(e)) => {
                    let what = "read the Secrets that BGPPeers name";
                    self.health.failed_aside(TASK, &self.health.explain(what, &e));
                    return false;
                }
                Err(_) => return false,
            }
        }
        self.health.succeeded(TASK);
        true
    }

    fn keep(&self, name: &str, password: Option<String>) {
        self.passwords.send_if_modified(|known| {
            let changed = known.0.get(name) != password.as_ref();
            if changed {
                let all = &mut Arc::make_mut(known).0;
                match password {
                    Some(password) => all.insert(name.to_owned(), password),
                    None => all.remove(name),
                };
            }
            changed
        });
    }

    /// What there is, and the password, if there is one.
    async fn read_one(&self, name: &str) -> kube::Result<(PasswordSecret, Option<String>)> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let request = Request::new(path).get(name, &GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        match self.client.request::<Shape>(request).await {
            Ok(shape) => Ok(shape.judge()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Ok((PasswordSecret::Missing, None))
            }
            Err(e) => Err(e),
        }
    }
}

fn pass_on(
    now: &Arc<Configuration>,
    known: &BTreeMap<String, PasswordSecret>,
    to: &watch::Sender<Option<Arc<Configuration>>>,
) {
    let judged = if known.is_empty() {
        Arc::clone(now)
    } else {
        let mut objects = now.objects.clone();
        objects.password_secrets.clone_from(known);
        let verdict = validate::judge(&objects);
        Arc::new(Configuration { objects, verdict })
    };
    to.send_if_modified(|last| {
        let changed = last.as_ref() != Some(&judged);
        if changed {
            *last = Some(judged);
        }
        changed
    });
}

/// What is read of a Secret.
#[derive(Deserialize)]
struct Shape {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: Option<BTreeMap<String, Option<ByteString>>>,
}

impl Shape {
    fn judge(self) -> (PasswordSecret, Option<String>) {
        let given = self.data.and_then(|mut data| data.remove("password")).flatten();
        let given = given.filter(|given| !given.0.is_empty());
        match given {
            _ if self.kind != BASIC_AUTH => (PasswordSecret::OtherType(self.kind), None),
            // RFC 2385 takes any bytes; MetalLB, and so whoever has written it, takes text.
            Some(ByteString(bytes)) => {
                let text = String::from_utf8(bytes).ok();
                let told = if text.is_some() {
                    PasswordSecret::WellFormed
                } else {
                    PasswordSecret::NoPassword
                };
                (told, text)
            }
            None => (PasswordSecret::NoPassword, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_and_the_key_decide() {
        let judge = |text| serde_json::from_str::<Shape>(text).unwrap().judge().0;
        let other = |kind: &str| PasswordSecret::OtherType(kind.to_owned());
        for (text, expected) in [
            (
                r#"{"kind": "Secret", "type": "kubernetes.io/basic-auth",
                    "data": {"password": "cA==", "username": null}}"#,
                PasswordSecret::WellFormed,
            ),
            (r#"{"type": "Opaque", "data": {"password": "cA=="}}"#, other("Opaque")),
            (r#"{"data": {"password": "cA=="}}"#, other("")),
            (
                r#"{"type": "kubernetes.io/basic-auth", "data": {"password": ""}}"#,
                PasswordSecret::NoPassword,
            ),
            (
                r#"{"type": "kubernetes.io/basic-auth", "data": {"username": "cA=="}}"#,
                PasswordSecret::NoPassword,
            ),
            (r#"{"type": "kubernetes.io/basic-auth", "data": null}"#, PasswordSecret::NoPassword),
        ] {
            assert_eq!(judge(text), expected, "{text}");
        }
    }
}

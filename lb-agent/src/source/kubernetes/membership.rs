//! The Secret with the keys by which agents know each other.
//!
//! It is shipped empty, so that agents need no right to create Secrets (who may create some may
//! have a token made for any account of the namespace). Whoever finds it so fills it, if it is still as
//! it was read: of several that start together one succeeds, and the others find its key. Who
//! already has keys when it is emptied puts them back.
//!
//! What was read is kept in a file that only this agent may read, for when it starts while the API
//! server is away.
use super::last_seen;
use crate::membership::keys::{BadKeys, Keyring, MADE};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};
use tokio::time::timeout;
use tracing::{info, warn};

/// The Secret's name.
pub const NAME: &str = "herald-membership";
/// The name in it of the key that agents make.
const FIRST: &str = "key-1";
const PATIENCE: Duration = Duration::from_secs(5);
/// Where they are kept, in `--state-dir`: JSON, name by name, base64.
const FILE: &str = "membership-keys.json";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody has made it.
    #[error(
        "there is no Secret {0}/{NAME}: apply deploy/herald.yaml, or use --membership-secret-file"
    )]
    Missing(String),
    /// It may not be read or written, or was written by another just now.
    #[error("Secret {NAME}: {0}")]
    Api(#[from] kube::Error),
    /// The API does not answer.
    #[error("Secret {NAME}: no answer")]
    Silence(#[from] tokio::time::error::Elapsed),
    /// It holds something else.
    #[error("Secret {NAME}: {0}")]
    Bad(#[from] BadKeys),
    /// The system has none to give.
    #[error("no randomness for a key: {0}")]
    Randomness(std::io::Error),
}

/// See the module. Nothing of it prints.
pub struct MembershipSecret {
    client: Client,
    namespace: String,
    state: PathBuf,
    known: BTreeMap<String, ByteString>,
}

impl MembershipSecret {
    pub(super) fn new(client: Client, namespace: String, state: PathBuf) -> Self {
        Self { client, namespace, state, known: BTreeMap::new() }
    }

    /// What was read last, by this agent or the one before it.
    pub fn last_seen(&mut self) -> Option<Keyring> {
        let text = fs::read(self.state.join(FILE)).ok()?;
        let known = serde_json::from_slice(&text).ok()?;
        let ring = ring_of(&known).ok()?;
        self.known = known;
        Some(ring)
    }

    /// Reads it, and fills it if it is empty.
    ///
    /// # Errors
    ///
    /// It cannot be read, or does not hold what it should. Later it may.
    pub async fn look(&mut self) -> Result<Keyring, Failure> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = match timeout(PATIENCE, secrets.get(NAME)).await? {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Failure::Missing(self.namespace.clone()));
            }
            read => read?,
        };
        let mut data = secret.data.unwrap_or_default();
        if data.is_empty() {
            data.clone_from(&self.known);
            if data.is_empty() {
                let mut key = [0; MADE];
                getrandom::fill(&mut key).map_err(|e| Failure::Randomness(e.into()))?;
                data.insert(FIRST.to_owned(), ByteString(key.to_vec()));
            }
            let patch = json!({
                "metadata": { "resourceVersion": secret.metadata.resource_version },
                "data": data,
            });
            let params = PatchParams::default();
            timeout(PATIENCE, secrets.patch(NAME, &params, &Patch::Merge(patch))).await??;
            info!("Secret {NAME} has the key by which agents know each other");
        }
        let ring = ring_of(&data)?;
        if self.known != data {
            let kept = last_seen::replace(&self.state, FILE, |file| {
                serde_json::to_writer(file, &data).map_err(Into::into)
            });
            if let Err(error) = kept {
                warn!("{}: the keys cannot be kept ({error})", self.state.display());
            }
        }
        self.known = data;
        Ok(ring)
    }
}

fn ring_of(data: &BTreeMap<String, ByteString>) -> Result<Keyring, BadKeys> {
    let named = data.iter().map(|(name, key)| (name.clone(), key.0.clone()));
    Keyring::from_named(&named.collect())
}

//! Keeps the certificate: every agent reads it, the one that allocates makes and renews it, and
//! tells API servers whom to trust.
use super::{
    certificate::{Bundle, MADE_AT},
    server::Certificate,
};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// The Secret, which is shipped empty, so that agents need no right to create any.
const SECRET: &str = "metallb-webhook-cert";
/// Who calls the webhook, and for what.
const CONFIGURATION: &str = "metallb-webhook-configuration";
/// The kind with two versions, whose definition may ask for conversions.
const CONVERTED: &str = "bgppeers.metallb.io";

/// How long API servers may take to learn whom to trust.
const PROPAGATION: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);
/// Until there is a certificate; and once there is one: the allocator mends what others have
/// undone, the others look whether there is a new one.
const SOON: Duration = Duration::from_secs(5);
const LEADER_LOOKS: Duration = Duration::from_secs(60);
const OTHERS_LOOK: Duration = Duration::from_secs(600);

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer")]
    Silence(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Certificate(#[from] super::certificate::CertificateError),
}

/// See the module.
pub(super) struct Keeper {
    client: Client,
    namespace: String,
    leads: watch::Receiver<bool>,
    certificate: Arc<Certificate>,
    shown: Option<Bundle>,
    said: Option<String>,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        namespace: String,
        leads: watch::Receiver<bool>,
        certificate: Arc<Certificate>,
    ) -> Self {
        Self { client, namespace, leads, certificate, shown: None, said: None }
    }

    /// Keeps it for ever.
    pub(super) async fn run(mut self) {
        loop {
            let leads = *self.leads.borrow_and_update();
            match self.look(leads).await {
                Ok(()) => self.said = None,
                Err(failure) => self.say(&failure),
            }
            let pause = match (&self.shown, leads) {
                (None, _) => SOON,
                (Some(_), true) => LEADER_LOOKS,
                (Some(_), false) => OTHERS_LOOK,
            };
            tokio::select! {
                () = sleep(pause) => {}
                changed = self.leads.changed() => if changed.is_err() { return },
            }
        }
    }

    fn say(&mut self, failure: &Failure) {
        let text = match failure {
            Failure::Api(kube::Error::Api(status)) if status.code == 404 => {
                format!("there is no Secret {}/{SECRET}", self.namespace)
            }
            failure => failure.to_string(),
        };
        if self.said.as_ref() != Some(&text) {
            info!(
                "the webhook has no certificate: {text}. Objects are not refused, but judged once \
                 they are there. To have it, apply deploy/herald.yaml; to do without, use \
                 --webhook-mode disabled"
            );
            self.said = Some(text);
        }
    }

    async fn look(&mut self, leads: bool) -> Result<(), Failure> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = timeout(PATIENCE, secrets.get(SECRET)).await??;
        let annotations = secret.metadata.annotations.clone().unwrap_or_default();
        let mut found = Bundle::read(&annotations, &secret.data.clone().unwrap_or_default());
        // One that cannot be served with is as good as none.
        if found.as_ref().is_some_and(|bundle| bundle.certified_key().is_err()) {
            found = None;
        }
        let now = Timestamp::now();
        if leads && found.as_ref().is_none_or(|bundle| bundle.is_due(now)) {
            let made = Bundle::make(&self.namespace, now, found.as_ref())?;
            self.trust(&made.ca).await;
            if found.is_some() {
                // What is served now is trusted still; nobody must show the new one too early.
                sleep(PROPAGATION).await;
            }
            self.store(&secrets, &secret, &made).await?;
            info!("the webhook has a new certificate");
            found = Some(made);
        } else if let (true, Some(bundle)) = (leads, &found) {
            self.trust(&bundle.ca).await;
        }
        if let Some(bundle) = found
            && self.shown.as_ref() != Some(&bundle)
        {
            self.certificate.set(bundle.certified_key()?);
            self.shown = Some(bundle);
        }
        Ok(())
    }

    /// Writes the Secret, if it is as it was read.
    async fn store(
        &self,
        secrets: &Api<Secret>,
        secret: &Secret,
        bundle: &Bundle,
    ) -> Result<(), Failure> {
        let patch = json!({
            "metadata": {
                "resourceVersion": secret.metadata.resource_version,
                "annotations": { MADE_AT: bundle.made_at.to_string() },
            },
            "data": bundle.data(),
        });
        let params = PatchParams::default();
        timeout(PATIENCE, secrets.patch(SECRET, &params, &Patch::Merge(patch))).await??;
        Ok(())
    }

    /// Tells API servers whom to trust. Where nobody calls, there is nobody to tell.
    async fn trust(&self, ca: &str) {
        for told in [self.trust_reviews(ca).await, self.trust_conversions(ca).await] {
            match told {
                Ok(()) => {}
                Err(Failure::Api(kube::Error::Api(status))) if status.code == 404 => {
                    debug!("webhook: {}", status.message);
                }
                Err(failure) => warn!("API servers cannot be told to trust the webhook: {failure}"),
            }
        }
    }

    async fn trust_reviews(&self, ca: &str) -> Result<(), Failure> {
        let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let configuration = timeout(PATIENCE, api.get(CONFIGURATION)).await??;
        let wanted = ByteString(ca.as_bytes().to_vec());
        let behind = configuration.webhooks.into_iter().flatten();
        let behind = behind.filter(|w| w.client_config.ca_bundle.as_ref() != Some(&wanted));
        let webhooks: Vec<_> = behind
            .map(|w| json!({ "name": w.name, "clientConfig": { "caBundle": wanted } }))
            .collect();
        if webhooks.is_empty() {
            return Ok(());
        }
        // Webhooks are told apart by their names.
        let patch = Patch::Strategic(json!({ "webhooks": webhooks }));
        Self::patch(&api, CONFIGURATION, &patch).await
    }

    /// Only where the definition asks: Herald's own does not.
    async fn trust_conversions(&self, ca: &str) -> Result<(), Failure> {
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let definition = timeout(PATIENCE, api.get(CONVERTED)).await??;
        let wanted = ByteString(ca.as_bytes().to_vec());
        let conversion = definition.spec.conversion.and_then(|c| c.webhook?.client_config);
        if conversion.is_none_or(|client| client.ca_bundle.as_ref() == Some(&wanted)) {
            return Ok(());
        }
        let client = json!({ "clientConfig": { "caBundle": wanted } });
        let patch = Patch::Merge(json!({ "spec": { "conversion": { "webhook": client } } }));
        Self::patch(&api, CONVERTED, &patch).await
    }

    async fn patch<K>(api: &Api<K>, name: &str, patch: &Patch<Value>) -> Result<(), Failure>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        timeout(PATIENCE, api.patch(name, &PatchParams::default(), patch)).await??;
        info!("API servers trust the webhook's certificate by {name}");
        Ok(())
    }
}

//! The webhook: refuses configuration that cannot be used before it is stored.
//!
//! A convenience, never a condition. It makes and renews its certificate by itself, and where it
//! is off, or does not answer, what is wrong with an object is told by its status and by Events,
//! and its neighbours work ([`crate::validate`]). Every agent serves it, so that it answers as
//! long as one does; the agent that allocates keeps the certificate. The listener takes requests
//! from anybody who reaches it, as all webhooks do whose API server shows no certificate of its
//! own: so what one caller can make it do or hold is bounded.
mod certificate;
mod convert;
mod keeper;
mod review;
mod server;

/// For the fuzz targets (`fuzz/`).
#[cfg(feature = "fuzz")]
pub mod fuzz {
    use super::{convert, review};
    use crate::source::index::Configuration;
    use serde_json::Value;

    /// The answer to an `AdmissionReview`.
    ///
    /// # Errors
    /// What is wrong with the review itself.
    pub fn review(
        body: &[u8],
        namespace: &str,
        known: Option<&Configuration>,
    ) -> Result<Value, String> {
        review::answer(body, namespace, known)
    }

    /// The answer to a `ConversionReview`.
    ///
    /// # Errors
    /// What is wrong with the review itself.
    pub fn convert(body: &[u8]) -> Result<Value, String> {
        convert::answer(body)
    }
}

use crate::source::index::Configuration;
use keeper::Keeper;
use kube::Client;
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;

/// What the webhook needs.
#[derive(Debug)]
pub struct Parts {
    /// Where to listen.
    pub port: u16,
    /// The namespace whose objects count.
    pub namespace: String,
    /// What is known of the configuration.
    pub configuration: watch::Receiver<Option<Arc<Configuration>>>,
    /// Whether this agent keeps the certificate.
    pub leads: watch::Receiver<bool>,
}

/// Serves for ever. What goes wrong is logged, and stops nothing else.
pub async fn run(client: Client, parts: Parts) {
    let Parts { port, namespace, configuration, leads } = parts;
    let certificate = Arc::new(server::Certificate::default());
    let keeper = Keeper::new(client, namespace.clone(), leads, Arc::clone(&certificate));
    let answers = Arc::new(server::Answers { namespace, configuration });
    // Both families, where the machine has both.
    let addresses = ["[::]", "0.0.0.0"].map(|any| format!("{any}:{port}").parse::<SocketAddr>());
    let addresses = addresses.into_iter().flatten().collect();
    tokio::join!(keeper.run(), server::run(addresses, certificate, answers));
}

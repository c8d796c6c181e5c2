//! The webhook's listener: TLS, a few connections, small requests, short waits.
use super::{convert, review};
use crate::source::index::Configuration;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use limits::LIMITS;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

/// What strangers can make the agent hold.
mod limits {
    use std::time::Duration;

    pub(super) struct Limits {
        /// Connections at a time; more wait in the kernel's queue.
        pub(super) connections: usize,
        /// Bytes of a request: an object, what it was before, and what goes round it.
        pub(super) body: usize,
        /// From the connection to the end of the handshake.
        pub(super) handshake: Duration,
        /// Between requests, and for the head of one.
        pub(super) idle: Duration,
        /// For a whole connection: API servers come again.
        pub(super) connection: Duration,
    }

    pub(super) const LIMITS: Limits = Limits {
        connections: 32,
        body: 1 << 20,
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(20),
        connection: Duration::from_secs(120),
    };
}

/// When a port that is taken is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// The certificate in force; none until there is one.
#[derive(Default)]
pub(super) struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl Certificate {
    /// From now on this one is shown.
    pub(super) fn set(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificate").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What answers are made of.
pub(super) struct Answers {
    pub(super) namespace: String,
    pub(super) configuration: watch::Receiver<Option<Arc<Configuration>>>,
}

/// Listens on the first of the addresses that can be had, and serves for ever.
pub(super) async fn run(
    addresses: Vec<SocketAddr>,
    certificate: Arc<Certificate>,
    answers: Arc<Answers>,
) {
    let listener = listen(&addresses).await;
    let Some(tls) = tls(certificate) else { return };
    let router = router(answers);
    let permits = Arc::new(Semaphore::new(LIMITS.connections));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, for one.
                debug!("webhook: accepting: {error}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _ = timeout(LIMITS.connection, serve(stream, tls, router)).await;
            drop(permit);
        });
    }
}

async fn listen(addresses: &[SocketAddr]) -> TcpListener {
    let mut said = false;
    loop {
        let mut failure = None;
        for address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    info!("the webhook listens on {address}");
                    return listener;
                }
                Err(error) => failure = Some((address, error)),
            }
        }
        if let (Some((address, error)), false) = (failure, said) {
            warn!(
                "the webhook cannot listen on {address}: {error}: free the port, or choose another \
                 with --webhook-port, or --webhook-mode disabled; trying on"
            );
            said = true;
        }
        sleep(TRY_AGAIN).await;
    }
}

fn tls(certificate: Arc<Certificate>) -> Option<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .inspect_err(|error| warn!("the webhook cannot serve TLS: {error}"))
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    Some(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, router: Router) {
    let stream = match timeout(LIMITS.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!("webhook: handshake: {error}"),
        Err(_) => return debug!("webhook: handshake: too slow"),
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMITS.idle)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!("webhook: {error}");
    }
}

fn router(answers: Arc<Answers>) -> Router {
    // One path a kind, as MetalLB has them, so that its own configuration of webhooks works. Which
    // kind it is stands in the request.
    let mut router = Router::new().route("/convert", post(convert_route));
    for kind in [
        "v1beta2-bgppeer",
        "v1beta1-bfdprofile",
        "v1beta1-bgpadvertisement",
        "v1beta1-community",
        "v1beta1-ipaddresspool",
        "v1beta1-l2advertisement",
    ] {
        router = router.route(&format!("/validate-metallb-io-{kind}"), post(review_route));
    }
    router.layer(DefaultBodyLimit::max(LIMITS.body)).with_state(answers)
}

async fn review_route(State(answers): State<Arc<Answers>>, body: Bytes) -> Response {
    let configuration = answers.configuration.borrow().clone();
    respond(review::answer(&body, &answers.namespace, configuration.as_deref()))
}

async fn convert_route(body: Bytes) -> Response {
    respond(convert::answer(&body))
}

fn respond(answer: Result<Value, String>) -> Response {
    match answer {
        Ok(answer) => {
            ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

//! The agent's one TCP listener: metrics, and whether it is well. Plain HTTP, by default
//! on loopback, read-only, without secrets.
use crate::metrics::{self, View};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Opens the listener.
///
/// # Errors
///
/// The address is not this machine's, or another process has it.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until cancelled.
///
/// # Errors
///
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    view: Arc<View>,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(view);
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn scrape(State(view): State<Arc<View>>) -> Response {
    match metrics::scrape(&view) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Ready once a plan stands in the kernel. It does not become unready when the API goes
/// away: the kernel goes on with the last plan.
async fn ready(State(view): State<Arc<View>>) -> (StatusCode, &'static str) {
    if view.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no plan stands in the kernel yet\n")
    }
}

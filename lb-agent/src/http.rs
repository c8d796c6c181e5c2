//! The agent's one TCP listener: metrics, status, a page that shows it, and whether it is well. Plain HTTP, by
//! default on loopback, read-only, without secrets.
use crate::{
    inspect::status::Status,
    metrics::{self, View},
    running::Running,
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, runtime::Handle, sync::Mutex, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

const JSON: &str = "application/json";
/// The page loads nothing from elsewhere, and nobody shows it within theirs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'";
/// For how long an answer that is made of all maps is given again: however many look, they cost no more.
const FRESH: Duration = Duration::from_secs(1);

/// What the answers are made of.
struct Served {
    view: Arc<View>,
    pin_dir: PathBuf,
    /// The last answer about the node, and when it was made.
    node: Mutex<Option<(Instant, String)>>,
}

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
    pin_dir: PathBuf,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let served = Served { view, pin_dir, node: Mutex::new(None) };
    let page = |kind, text: &'static str| {
        get(move || async move {
            ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)], text)
        })
    };
    let router = Router::new()
        .route("/", page("text/html; charset=utf-8", include_str!("http/page.html")))
        .route("/page.css", page("text/css; charset=utf-8", include_str!("http/page.css")))
        .route("/page.js", page("text/javascript; charset=utf-8", include_str!("http/page.js")))
        .route("/status/node", get(node))
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(Arc::new(served));
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn scrape(State(served): State<Arc<Served>>) -> Response {
    let scrape = move || metrics::scrape(&served.view).map_err(|error| error.to_string());
    answer(metrics::CONTENT_TYPE, blocking(scrape).await)
}

/// What is made of all maps, or of all Services, takes milliseconds: not on a thread that sends heartbeats.
async fn blocking(
    make: impl FnOnce() -> Result<String, String> + Send + 'static,
) -> Result<String, String> {
    spawn_blocking(make).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// A text, or why there is none.
fn answer(kind: &'static str, text: Result<String, String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// What `lb-agent status` shows.
async fn node(State(served): State<Arc<Served>>) -> Response {
    let mut last = served.node.lock().await;
    if let Some((made, text)) = &*last
        && made.elapsed() < FRESH
    {
        return answer(JSON, Ok(text.clone()));
    }
    let (view, pin_dir) = (Arc::clone(&served.view), served.pin_dir.clone());
    let runtime = Handle::current();
    let text = blocking(move || {
        let status = Status::with(&pin_dir, Ok(Running::of(&view)));
        let status = runtime.block_on(status).map_err(|error| error.to_string())?;
        serde_json::to_string(&status).map_err(|error| error.to_string())
    });
    let text = text.await;
    if let Ok(text) = &text {
        *last = Some((Instant::now(), text.clone()));
    }
    answer(JSON, text)
}

/// What the agent itself knows, as `lb-agent status` asks for it.
async fn status(State(served): State<Arc<Served>>) -> Response {
    let told = move || {
        serde_json::to_string(&Running::of(&served.view)).map_err(|error| error.to_string())
    };
    answer(JSON, blocking(told).await)
}

/// Healthy as long as the agent moves the deadline after which its kernel would stop announcing.
async fn healthy(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    if served.view.is_alive(Instant::now()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the kernel's deadline is not moved any more\n")
    }
}

/// Ready once a plan stands in the kernel. It does not become unready when the API goes
/// away: the kernel goes on with the last plan.
async fn ready(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    if served.view.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no plan stands in the kernel yet\n")
    }
}

//! The Kubernetes API without TLS, by way of `kubectl proxy`: for what asks too often for a
//! kubectl each time.
use super::{control_plane::ControlPlane, namespace::Namespace};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

const PORT: u16 = 8001;
const LIMIT: Duration = Duration::from_secs(20);

/// The media type of a JSON object that is merged into another (RFC 7386).
pub const MERGE: &str = "application/merge-patch+json";
/// The media type of a JSON object.
pub const JSON: &str = "application/json";

/// A way to the API, as administrator.
pub struct Api {
    namespace: Namespace,
}

impl Api {
    /// Starts the proxy.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(control: &ControlPlane) -> Result<Self> {
        control.start_proxy(PORT)?;
        let api = Self { namespace: control.host.namespace.clone() };
        wait::until_true(LIMIT, "kubectl proxy serves", || {
            api.get("/api/v1/namespaces/default").map(|_| true)
        })?;
        Ok(api)
    }

    /// The object at a path.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, JSON, "")
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("POST", path, JSON, &body.to_string())
    }

    /// Merges fields into an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("PATCH", path, MERGE, &body.to_string())
    }

    /// Deletes an object, after so many seconds.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn delete(&self, path: &str, grace: u32) -> Result<Value> {
        self.call("DELETE", &format!("{path}?gracePeriodSeconds={grace}"), JSON, "")
    }

    fn call(&self, method: &str, path: &str, media: &str, body: &str) -> Result<Value> {
        let what = || format!("{method} {path}");
        let mut stream = self.namespace.connect(([127, 0, 0, 1], PORT).into(), LIMIT)?;
        // HTTP/1.0: the answer comes in one piece and ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: {JSON}\r\nContent-Type: \
             {media}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).with_context(what)?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).with_context(what)?;
        let answer = String::from_utf8_lossy(&answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("{}: no answer", what())
        };
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status.starts_with('2'), "{}: {status}: {}", what(), body.trim());
        serde_json::from_str(body).with_context(what)
    }
}

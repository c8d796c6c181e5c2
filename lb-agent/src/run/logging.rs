//! What is logged, and how.
use super::options::LogFormat;
use crate::exit::{Exit, ExitContext as _};
use anyhow::{Context as _, anyhow};
use tracing_subscriber::EnvFilter;

/// What the libraries log about each failed request is said by
/// [`crate::source::kubernetes`] once per reason, in words that say what to do.
const QUIET: &str = "kube_client=off,kube_runtime::watcher=off";

/// Starts logging to standard error.
pub(super) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .with_context(|| {
            format!(
                "--log-level {filter:?} is no filter: try `info`, or `info,lb_agent::plan=debug`"
            )
        })
        .exit_with(Exit::Usage)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(false).try_init(),
        LogFormat::Json => logs.json().try_init(),
    }
    .map_err(|error| anyhow!("logging cannot be started: {error}"))
}

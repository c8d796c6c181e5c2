//! `lb-agent bundle`: what somebody who helps from afar wants to see, in one file.
use super::{maps, status::Status};
use crate::{datapath::check, running};
use anyhow::{Context as _, Result};
use std::{fs::File, net::SocketAddr, path::Path, time::SystemTime};

const README: &str = "\
What lb-agent bundle has found out about one node. It names the node, its Services, addresses and routers; it
has no passwords, keys, tunnel cookies or contents of packets. What could not be found out says why.

status.txt, status.json   lb-agent status
check.txt, check.json     lb-agent check
maps.txt, maps.json       lb-agent maps
metrics.txt               the agent's /metrics

The logs are elsewhere:
  kubectl logs -n metallb-system daemonset/herald --all-pods --prefix
  kubectl logs -n metallb-system POD --previous      # of an agent that has crashed
  kubectl get events -A --sort-by=.lastTimestamp
";

/// Writes it to a file, which must not exist.
///
/// # Errors
///
/// The file cannot be written. What cannot be found out stands in the file.
pub async fn write(file: &Path, pin_dir: &Path, agent: SocketAddr) -> Result<()> {
    let cannot = || format!("{} cannot be written", file.display());
    let mut bundle = tar::Builder::new(File::create_new(file).with_context(cannot)?);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now);
        bundle.append_data(&mut header, Path::new("herald").join(name), text.as_bytes())
    };
    let mut parts = vec![("README.txt", README.to_owned())];
    parts.extend(described(
        ["status.txt", "status.json"],
        Status::read(pin_dir, agent).await.map_err(Into::into),
        Status::text,
    ));
    parts.extend(described(
        ["check.txt", "check.json"],
        check::report(pin_dir, &[]).await.map_err(Into::into),
        check::Report::table,
    ));
    parts.extend(described(
        ["maps.txt", "maps.json"],
        maps::list(pin_dir).map_err(Into::into),
        |maps| maps::text(maps),
    ));
    let metrics = running::get(agent, "/metrics").await;
    let metrics = metrics.map(|text| String::from_utf8_lossy(&text).into_owned());
    parts.push((
        "metrics.txt",
        metrics.unwrap_or_else(|e| format!("nobody answers at {agent}: {e}\n")),
    ));
    for (name, text) in parts {
        add(name, &text).with_context(cannot)?;
    }
    bundle.into_inner().and_then(|file| file.sync_all()).with_context(cannot)
}

/// The same for people and for scripts; or why there is nothing.
fn described<T: serde::Serialize>(
    names: [&'static str; 2],
    found: Result<T>,
    text: impl Fn(&T) -> String,
) -> Vec<(&'static str, String)> {
    let found = found.and_then(|found| {
        let json = serde_json::to_string_pretty(&found)? + "\n";
        Ok([text(&found), json])
    });
    match found {
        Ok(texts) => names.into_iter().zip(texts).collect(),
        Err(error) => vec![(names[0], format!("{error:#}\n"))],
    }
}

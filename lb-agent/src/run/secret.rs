//! Where the keys come from by which agents know each other.
use crate::{
    membership::keys::Keyring,
    source::kubernetes::membership::{Failure, MembershipSecret},
};
use anyhow::Context as _;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

/// How often a file or the Secret is read again.
const READ_AGAIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The same until there is a key.
const WAITED_FOR: Duration = Duration::from_secs(2);

/// Nobody is to be known by a key.
pub(super) fn none() -> watch::Receiver<Keyring> {
    warn!(
        "agents are not authenticated: whoever can write to them decides which nodes are alive. Give them keys by --membership-secret-file"
    );
    watch::channel(Keyring::default()).1
}

fn read(file: &Path) -> anyhow::Result<Keyring> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("--membership-secret-file {} cannot be read", file.display()))?;
    Keyring::from_lines(&text)
        .with_context(|| format!("--membership-secret-file {}", file.display()))
}

/// Those of a file.
///
/// # Errors
///
/// It cannot be read, or holds something else. What it becomes later is warned of.
pub(super) fn of_file(file: PathBuf) -> anyhow::Result<watch::Receiver<Keyring>> {
    let (publish, keys) = watch::channel(read(&file)?);
    tokio::spawn(async move {
        let mut said = None;
        while !publish.is_closed() {
            sleep(READ_AGAIN).await;
            match read(&file) {
                Ok(read) => {
                    said = None;
                    change(&publish, read);
                }
                Err(error) => say(&mut said, &format!("{error:#}")),
            }
        }
    });
    Ok(keys)
}

/// Those of the cluster's Secret, once it can be read.
pub(super) async fn of_cluster(mut secret: MembershipSecret) -> watch::Receiver<Keyring> {
    let mut said = None;
    let first = loop {
        match secret.look().await {
            Ok(first) => break first,
            // Another was faster.
            Err(Failure::Api(kube::Error::Api(status))) if status.code == 409 => {}
            Err(failure) => {
                // The API server is away, say. The others have these, too.
                if let Some(last_seen) = secret.last_seen() {
                    say(
                        &mut said,
                        &format!("going on with the keys that were last seen: {failure}"),
                    );
                    break last_seen;
                }
                say(&mut said, &format!("waiting: {failure}"));
                sleep(WAITED_FOR).await;
            }
        }
    };
    let (publish, keys) = watch::channel(first);
    tokio::spawn(async move {
        let mut said = None;
        while !publish.is_closed() {
            sleep(LOOK_AGAIN).await;
            match secret.look().await {
                Ok(read) => {
                    said = None;
                    change(&publish, read);
                }
                Err(Failure::Silence(_)) => {}
                Err(failure) => say(&mut said, &failure.to_string()),
            }
        }
    });
    keys
}

fn change(publish: &watch::Sender<Keyring>, read: Keyring) {
    publish.send_if_modified(|keys| {
        let changed = *keys != read;
        if changed {
            info!(keys = ?read, "agents know each other by other keys");
            *keys = read;
        }
        changed
    });
}

/// Once, until it is something else.
fn say(said: &mut Option<String>, text: &str) {
    if said.as_deref() != Some(text) {
        warn!("{text}");
        *said = Some(text.to_owned());
    }
}

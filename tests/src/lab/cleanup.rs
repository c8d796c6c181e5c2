//! Leaving nothing behind: not on success, failure, panic or Ctrl-C, and after SIGKILL the
//! next run clears what was left.
//!
//! Everything of a laboratory carries its prefix: namespaces `hlab<pid>-NAME`, pins
//! `/sys/fs/bpf/herald-lab<pid>-NAME`, and its processes live in its namespaces.
use super::command;
use crate::{system, wait};
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const RECORDS: &str = "/run/herald-lab";
const KEPT: &str = "kept";

/// The prefixes of this process's laboratories. Held while anything is made, so that
/// nothing is made once the end has begun.
static OWN: Mutex<Vec<String>> = Mutex::new(vec![]);

fn own() -> MutexGuard<'static, Vec<String>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes Ctrl-C, SIGTERM and SIGHUP remove this process's laboratories. To be called first
/// thing in `main`.
pub fn on_interrupt() {
    system::on_interrupt(|| {
        eprintln!("interrupted: removing the laboratory");
        // Never given back: whoever wants to make something waits for the end.
        let own = own();
        for prefix in own.iter() {
            remove_parts(prefix, false);
        }
        std::mem::forget(own);
    });
}

/// Chooses the prefix of a new laboratory, and records whose it is.
///
/// # Errors
/// The record cannot be written.
pub(super) fn begin() -> Result<String> {
    let mut own = own();
    let pid = process::id();
    // One process may have several, one after another or side by side.
    let prefix = (0..)
        .map(|n| if n == 0 { format!("hlab{pid}") } else { format!("hlab{pid}_{n}") })
        // A folder that is there has the logs of a case that failed.
        .find(|prefix| {
            !own.contains(prefix) && !record(prefix).exists() && !directory(prefix).exists()
        })
        .unwrap_or_default();
    fs::create_dir_all(RECORDS).with_context(|| format!("making {RECORDS}"))?;
    fs::write(record(&prefix), format!("{pid} {}", start_time(pid).unwrap_or_default()))?;
    own.push(prefix.clone());
    Ok(prefix)
}

/// Where a laboratory's logs and captures lie.
pub fn directory(prefix: &str) -> PathBuf {
    env::temp_dir().join("herald-lab").join(prefix)
}

/// Where something of a laboratory is pinned.
pub(super) fn pin_directory(prefix: &str, name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("{}{name}", pin_prefix(prefix)))
}

fn pin_prefix(prefix: &str) -> String {
    format!("herald-{}-", prefix.trim_start_matches('h'))
}

/// Somewhere to pin things without a laboratory. Dropping it removes them, and so does what
/// [`on_interrupt`] waits for.
#[derive(Debug)]
pub struct Pins {
    prefix: String,
}

impl Pins {
    /// A place of its own, which is made when something is pinned there.
    ///
    /// # Errors
    /// It cannot be recorded whose it is.
    pub fn new() -> Result<Self> {
        sweep()?;
        Ok(Self { prefix: begin()? })
    }

    /// The folder.
    pub fn directory(&self) -> PathBuf {
        pin_directory(&self.prefix, "pins")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        remove(&self.prefix, false);
    }
}

fn record(prefix: &str) -> PathBuf {
    Path::new(RECORDS).join(prefix)
}

/// Does something that makes parts of a laboratory, unless the end has begun.
pub(super) fn unless_ending<T>(action: impl FnOnce() -> T) -> T {
    let _making = own();
    action()
}

/// Starts a process of the laboratory, in a process group of its own: Ctrl-C is for us,
/// who then end it in order.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> Result<Child> {
    unless_ending(|| {
        system::unblock_signals(command.process_group(0))
            .spawn()
            .with_context(|| format!("`{}`", command::text(command)))
    })
}

/// Leaves a laboratory standing after its maker has ended.
pub(super) fn keep(prefix: &str) -> Result<()> {
    let mut own = own();
    fs::write(record(prefix), KEPT)?;
    own.retain(|p| p != prefix);
    Ok(())
}

/// Ends everything of a laboratory, whose logs are still there for [`remove`].
pub(super) fn take_down(prefix: &str) {
    end_parts(prefix);
}

/// Removes a laboratory; its logs, too, unless they are wanted.
pub(super) fn remove(prefix: &str, keep_logs: bool) {
    remove_parts(prefix, keep_logs);
    own().retain(|p| p != prefix);
}

/// Removes what laboratories of processes that are no more have left.
///
/// # Errors
/// The records cannot be read.
pub fn sweep() -> Result<()> {
    for (prefix, text) in records()? {
        let mut words = text.split(' ');
        let pid = words.next().and_then(|w| w.parse::<u32>().ok());
        let since = words.next();
        let alive = pid.is_some_and(|pid| start_time(pid).as_deref() == since);
        if text != KEPT && !alive {
            remove_parts(&prefix, false);
        }
    }
    Ok(())
}

/// Removes the laboratories that were kept, and names them.
///
/// # Errors
/// The records cannot be read.
pub fn remove_kept() -> Result<Vec<String>> {
    let kept: Vec<_> =
        records()?.into_iter().filter(|(_, text)| text == KEPT).map(|(prefix, _)| prefix).collect();
    for prefix in &kept {
        remove_parts(prefix, false);
    }
    Ok(kept)
}

fn records() -> Result<Vec<(String, String)>> {
    let Ok(entries) = fs::read_dir(RECORDS) else { return Ok(vec![]) };
    entries
        .map(|entry| {
            let entry = entry?;
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            Ok((entry.file_name().to_string_lossy().into_owned(), text))
        })
        .collect()
}

/// When a process was started (field 22 of proc_pid_stat(5)): a number may have a new owner.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is in brackets and may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(Into::into)
}

/// Does not stop at what fails: the rest goes all the same, and the record stays for the
/// next sweep.
fn remove_parts(prefix: &str, keep_logs: bool) {
    let mut clean = end_parts(prefix);
    let directory = directory(prefix);
    if !keep_logs && directory.exists() {
        clean &= fs::remove_dir_all(&directory).is_ok();
    }
    if clean {
        let _ = fs::remove_file(record(prefix));
    } else {
        eprintln!(
            "not everything of laboratory {prefix} could be removed; the next run tries again"
        );
    }
}

/// Its processes, namespaces and pins. Returns whether all are gone.
fn end_parts(prefix: &str) -> bool {
    let namespaces = entries("/run/netns", &format!("{prefix}-"));
    let inodes: BTreeSet<u64> =
        namespaces.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.ino()).collect();
    let ended = wait::until_true(Duration::from_secs(5), "processes end", || {
        let pids = processes_in(&inodes);
        if !pids.is_empty() {
            // Some have ended meanwhile, of which `kill` complains.
            let _ = command::run(
                Command::new("kill").arg("-KILL").args(pids.iter().map(u32::to_string)),
            );
        }
        Ok(pids.is_empty())
    });
    let mut clean = ended.is_ok();
    if !namespaces.is_empty() {
        let batch: String = namespaces
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| format!("netns del {}\n", name.to_string_lossy()))
            .collect();
        let mut ip = Command::new("ip");
        clean &= command::run_with_input(ip.args(["-force", "-batch", "-"]), &batch).is_ok();
    }
    for pin in entries("/sys/fs/bpf", &pin_prefix(prefix)) {
        clean &=
            if pin.is_dir() { fs::remove_dir_all(&pin) } else { fs::remove_file(&pin) }.is_ok();
    }
    clean
}

fn entries(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Processes whose main thread lives in one of the namespaces.
fn processes_in(inodes: &BTreeSet<u64>) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|&pid| pid != process::id())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino()))
        })
        .collect()
}

//! Frames recorded by tcpdump.
use super::{cleanup, command, namespace::Namespace};
use crate::wait;
use anyhow::Result;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running tcpdump.
pub struct Capture {
    child: Child,
    /// Where the frames are.
    pub file: PathBuf,
}

impl Capture {
    /// Starts one on an interface; returns once it records.
    ///
    /// # Errors
    /// tcpdump is not installed, or there is no such interface.
    pub fn start(directory: &Path, namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::with(directory, namespace, interface, &["-s", "256"])
    }

    /// Starts one that keeps the latest 40 million bytes, in two files, of frames' headers.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn latest(directory: &Path, namespace: &Namespace, interface: &str) -> Result<Self> {
        // It would have no right to make the second file as the user that it becomes otherwise.
        Self::with(
            directory,
            namespace,
            interface,
            &["-s", "128", "-C", "20", "-W", "2", "-Z", "root"],
        )
    }

    fn with(
        directory: &Path,
        namespace: &Namespace,
        interface: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let name = format!("{}-{interface}", namespace.name);
        let file = directory.join(format!("{name}.pcap"));
        let log = directory.join(format!("{name}.tcpdump.log"));
        let mut tcpdump = namespace.command(command::find("tcpdump")?);
        // -U: every frame is in the file at once, even if tcpdump is killed.
        tcpdump.args(["-i", interface, "-n", "-U"]).args(arguments).arg("-w").arg(&file);
        tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = cleanup::spawn(&mut tcpdump)?;
        wait::until_true(Duration::from_secs(5), "tcpdump records", || {
            Ok(fs::read_to_string(&log)?.contains("listening on"))
        })?;
        Ok(Self { child, file })
    }

    /// Ends it in order, so that the file is complete.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        // It may have ended by itself, with its interface.
        let _ = command::run(Command::new("kill").args(["-INT", &pid]));
        let _ = self.child.wait();
    }
}

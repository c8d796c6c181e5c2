//! All frames of the LAN, recorded by tcpdump, for whom the [latest](super::recorder) are not enough.
use super::{cleanup, command, namespace::Namespace};
use crate::wait;
use anyhow::Result;
use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running tcpdump.
pub(super) struct Capture {
    child: Child,
}

impl Capture {
    /// Starts one on an interface with `HERALD_CAPTURE=1`; returns once it records.
    ///
    /// # Errors
    /// tcpdump is not installed, or there is no such interface.
    pub(super) fn if_asked(
        directory: &Path,
        namespace: &Namespace,
        interface: &str,
    ) -> Result<Option<Self>> {
        if env::var("HERALD_CAPTURE").is_ok_and(|v| v == "1") {
            Self::start(directory, namespace, interface).map(Some)
        } else {
            Ok(None)
        }
    }

    fn start(directory: &Path, namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = format!("{}-{interface}-all", namespace.name);
        let file = directory.join(format!("{name}.pcap"));
        let log = directory.join(format!("{name}.tcpdump.log"));
        let mut tcpdump = namespace.command(command::find("tcpdump")?);
        // -U: every frame is in the file at once, even if tcpdump is killed.
        tcpdump.args(["-i", interface, "-n", "-s", "256", "-U", "-w"]).arg(&file);
        tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = cleanup::spawn(&mut tcpdump)?;
        wait::until_true(Duration::from_secs(5), "tcpdump records", || {
            Ok(fs::read_to_string(&log)?.contains("listening on"))
        })?;
        Ok(Self { child })
    }

    /// Ends it in order, so that the file is complete.
    pub(super) fn stop(mut self) {
        let pid = self.child.id().to_string();
        // It may have ended by itself, with its interface.
        let _ = command::run(Command::new("kill").args(["-INT", &pid]));
        let _ = self.child.wait();
    }
}

//! The latest frames of each laboratory's links, for the case that fails: they are in memory, and
//! become a file only then.
use super::namespace::Namespace;
use crate::system::FrameRing;
use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::BufWriter,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How often room is made: 16 Ki frames may come in between, 800,000 a second.
const TICK: Duration = Duration::from_millis(20);

/// Whether a laboratory's frames are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// The latest are: up to 64 Ki, and of each the headers.
    #[default]
    Latest,
    /// None: for those who measure.
    None,
}

/// Records an interface until it is dropped, or the frames are wanted.
pub(super) struct Recorder {
    name: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<FrameRing>>,
}

impl Recorder {
    /// Begins to.
    ///
    /// # Errors
    /// No such interface, or not root.
    pub(super) fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = format!("{}-{interface}", namespace.name);
        let ring = namespace.enter(|| Ok(FrameRing::open(interface)?));
        let mut ring = ring.with_context(|| format!("recording {name}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Relaxed) {
                    ring.make_room();
                    thread::park_timeout(TICK);
                }
                ring
            }
        });
        Ok(Self { name, stop, thread: Some(thread) })
    }

    fn end(&mut self) -> Option<FrameRing> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        thread.join().ok()
    }

    /// Ends, and writes what there is to a file in this folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(mut self, directory: &Path) -> Result<()> {
        let Some(mut ring) = self.end() else { return Ok(()) };
        let file = directory.join(format!("{}.pcap", self.name));
        let mut to = BufWriter::new(File::create(&file)?);
        ring.write(&mut to).with_context(|| format!("writing {}", file.display()))?;
        to.into_inner()?;
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

//! What the kernel program says of each frame: only in the flavour that logs.
use aya::Ebpf;
use aya_log::EbpfLogger;
use std::{thread, time::Duration};

/// How often the program's ring is emptied.
const FLUSH: Duration = Duration::from_millis(50);

/// Passes the program's records on to the agent's log, at level debug.
///
/// Without them the program works all the same, so what goes wrong is only logged.
pub(super) fn follow(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!("what the kernel program logs cannot be read: {error}");
            return;
        }
    };
    let flush = move || {
        loop {
            logger.flush();
            thread::sleep(FLUSH);
        }
    };
    if let Err(error) = thread::Builder::new().name("frame-log".to_owned()).spawn(flush) {
        tracing::warn!("what the kernel program logs cannot be read: {error}");
    }
}

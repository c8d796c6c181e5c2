//! Ports that clients take in turn, below those that the kernel gives out.
//!
//! A UDP flow stays where it was begun for minutes: whoever asks later from the same port is taken
//! for it. So what begins thousands of flows, what begins flows while nodes are away, and what
//! counts where new flows go each have a range of their own.
use super::namespace::udp_here_from;
use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// Of what counts where new flows go.
pub(super) static SPREAD: Ports = Ports::of(1_024..10_000);

/// Of what begins flows all the time, to see a gap, or keeps many through a change.
pub(super) static PROBES: Ports = Ports::of(10_000..32_000);

/// A range, and which of it is next.
pub(super) struct Ports {
    range: Range<u16>,
    next: AtomicU16,
}

impl Ports {
    const fn of(range: Range<u16>) -> Self {
        Self { range, next: AtomicU16::new(0) }
    }

    /// A UDP socket of the calling thread's namespace, of the next port that is free, connected
    /// to `to`.
    ///
    /// # Errors
    /// There is no route, or each port is taken.
    pub(super) fn udp_here(&self, to: SocketAddr) -> std::io::Result<UdpSocket> {
        for _ in self.range.clone() {
            let turn = self.next.fetch_add(1, Relaxed) % (self.range.end - self.range.start);
            match udp_here_from(self.range.start + turn, to) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                made => return made,
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}

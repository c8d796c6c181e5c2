//! What the data path has to make of a frame, written down a second time.
//!
//! It shares no code with the kernel program or with `lb-common`: it has its own
//! header parsing, works on `std::net` addresses, and sums checksums over the whole
//! packet where the data path adjusts them by what changed. It follows the design
//! document, the acceptance table and the RFCs named at each rule.

mod checksum;
mod egress;
mod flows;
mod hash;
mod headers;
mod ingress;
mod neighbours;

pub use checksum::is_valid as checksums_are_valid;
pub use egress::egress;
pub use ingress::ingress;

/// XDP_DROP
pub const DROP: u32 = 1;
/// XDP_PASS
pub const PASS: u32 = 2;
/// XDP_TX
pub const TX: u32 = 3;
/// XDP_REDIRECT
pub const REDIRECT: u32 = 4;
/// TCX_NEXT
pub const NEXT: u32 = u32::MAX;
/// TCX_DROP
pub const SHOT: u32 = 2;

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The program's return value.
    pub action: u32,
    /// The counter that rises by one.
    pub counter: &'static str,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The Service whose statistics rise by one packet.
    pub service: Option<Tally>,
}

/// Which statistics of a Service a frame adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Delivered here; the index of the statistics.
    Delivered(u32),
    /// Sent on; the index of the statistics.
    Forwarded(u32),
}

impl Verdict {
    fn untouched(action: u32, counter: &'static str, frame: &[u8]) -> Self {
        Self { action, counter, frame: frame.to_vec(), service: None }
    }
}

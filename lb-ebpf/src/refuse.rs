//! Refusing a packet, so that its sender need not wait (docs/data-path.md, section 5).
use crate::{frame::Frame, packet::Packet, verdict::Verdict};
use lb_common::outcome::Outcome;

/// Refuses a packet to a VIP, in a frame for this node; where nothing may be refused it becomes
/// `otherwise`.
#[inline(never)]
pub(crate) fn refuse<F: Frame, const V6: bool>(
    _frame: &F,
    _packet: &Packet,
    otherwise: Outcome,
) -> Verdict {
    otherwise.into()
}

/// Answers a packet that is larger than `mtu`, which is what a tunnel has room for.
#[inline(never)]
pub(crate) fn too_big<F: Frame, const V6: bool>(
    _frame: &F,
    _packet: &Packet,
    _mtu: u32,
) -> Verdict {
    Outcome::DropTooBig.into()
}

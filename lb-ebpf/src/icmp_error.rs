//! ICMP errors about a VIP's flow (docs/data-path.md, section 6).
use crate::{flows::Target, frame::Frame, packet::Packet, verdict::Verdict};
use lb_common::outcome::Outcome;

/// Reads the packet that an ICMP error to a VIP quotes. `packet` is the error: its protocol is
/// ICMP or ICMPv6, its ports are 0.
///
/// With [`Verdict::NONE`], `packet.flow` has become the flow that the error is about and
/// `packet.is_error` is set: it is steered from here like a packet of that flow.
#[inline(never)]
pub(crate) fn read<F: Frame, const V6: bool>(_frame: &F, _packet: &mut Packet) -> Verdict {
    Outcome::DropIcmp.into()
}

/// Rewrites an ICMP error, that `read` has read, to be about the flow as its endpoint knows it.
#[inline(never)]
pub(crate) fn deliver<F: Frame, const V6: bool>(
    _frame: &F,
    _packet: &Packet,
    _target: &Target,
) -> Verdict {
    Outcome::DropIcmp.into()
}

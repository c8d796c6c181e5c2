//! Who else claims a VIP (RFC 5227 section 2.4, RFC 4862 section 5.4.4).
use crate::{
    events,
    frame::Frame,
    maps::{is_agent, is_uplink},
};
use lb_common::{maps::VipKey, outcome::Outcome};

/// Judges a frame from `sender` by which somebody says that a VIP is at `claimed`. Another agent
/// announces by such frames, and this node's own come back where a switch or a bond loops them;
/// whoever repeats what one of us said (a switch that answers in the name of hosts that it knows)
/// names our link-layer address. Anybody else is a conflict.
#[inline(always)]
pub(crate) fn judge<F: Frame>(
    frame: &F,
    vip: [u8; 16],
    sender: [u16; 3],
    claimed: [u16; 3],
    vlan: u16,
) -> Outcome {
    if is_ours(sender, vlan) || is_ours(claimed, vlan) {
        return Outcome::Passed;
    }
    events::claim(frame, &VipKey { vip }, &claimed, vlan);
    Outcome::PassedClaim
}

#[inline(always)]
fn is_ours(mac: [u16; 3], vlan: u16) -> bool {
    is_agent(mac, vlan) || is_uplink(mac)
}

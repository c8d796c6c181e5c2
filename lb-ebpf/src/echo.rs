//! Echo requests to a VIP, answered in place (RFC 792, RFC 4443 section 4.2).
use crate::{
    budget,
    frame::Frame,
    maps::{ECHO_BUDGET, SETTINGS, is_vip},
    packet::{Packet, at, is_for_us},
};
use lb_common::{
    checksum::Difference,
    outcome::Outcome,
    wire::{
        Ethernet, Icmp, Ipv4, Ipv6,
        length::{ETHERNET, IPV4, IPV6},
    },
};

const V4_REQUEST: u8 = 8;
const V4_REPLY: u8 = 0;
const V6_REQUEST: u8 = 128;
const V6_REPLY: u8 = 129;
/// Type, code, checksum, identifier, sequence number.
const ECHO_LENGTH: usize = 8;
/// RFC 1700 "IP time to live".
const TTL: u8 = 64;

/// An ICMP message to a VIP.
#[inline(always)]
pub(crate) fn v4<F: Frame>(frame: &F, packet: &Packet) -> Result<Outcome, Outcome> {
    let (Some(ethernet), Some(ip), Some(icmp)) = (
        at::<_, Ethernet>(frame, 0),
        at::<_, Ipv4>(frame, ETHERNET),
        at::<_, Icmp>(frame, ETHERNET + IPV4),
    ) else {
        return Err(Outcome::DropMalformed);
    };
    permit(frame, packet, icmp, V4_REQUEST)?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        turn_around(ethernet);
        core::mem::swap(&mut (*ip).source, &mut (*ip).destination);
        let old = u16::from_ne_bytes([(*ip).ttl, (*ip).protocol]);
        let new = u16::from_ne_bytes([TTL, (*ip).protocol]);
        (*ip).check = Difference::new().word(old, new).apply((*ip).check);
        (*ip).ttl = TTL;
        become_reply(icmp, V4_REPLY);
    }
    Ok(Outcome::EchoAnswered)
}

/// An ICMPv6 message to a VIP.
#[inline(always)]
pub(crate) fn v6<F: Frame>(frame: &F, packet: &Packet) -> Result<Outcome, Outcome> {
    let (Some(ethernet), Some(ip), Some(icmp)) = (
        at::<_, Ethernet>(frame, 0),
        at::<_, Ipv6>(frame, ETHERNET),
        at::<_, Icmp>(frame, ETHERNET + IPV6),
    ) else {
        return Err(Outcome::DropMalformed);
    };
    permit(frame, packet, icmp, V6_REQUEST)?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        turn_around(ethernet);
        // Exchanging the addresses leaves the pseudo-header's sum as it was.
        core::mem::swap(&mut (*ip).source, &mut (*ip).destination);
        (*ip).hop_limit = TTL;
        become_reply(icmp, V6_REPLY);
    }
    Ok(Outcome::EchoAnswered)
}

/// Whether this is an echo request to a VIP, sent to us, within the rate limit.
#[inline(always)]
fn permit<F: Frame>(
    frame: &F,
    packet: &Packet,
    icmp: *const Icmp,
    request: u8,
) -> Result<(), Outcome> {
    if (packet.payload as usize) < ECHO_LENGTH {
        return Err(Outcome::DropMalformed);
    }
    // SAFETY: the caller has checked the bounds.
    if unsafe { (*icmp).kind != request || (*icmp).code != 0 } {
        return Err(Outcome::DropIcmp);
    }
    // What is not so falls to `refuse`, which tells the reasons apart.
    if !is_vip(packet.flow.peer) || !is_for_us(frame, packet.vlan()) || !within_budget() {
        return Err(Outcome::EchoLimited);
    }
    Ok(())
}

/// Whether this CPU may answer one more echo request now.
#[inline(always)]
fn within_budget() -> bool {
    SETTINGS.get(0).is_some_and(|settings| budget::allows(&ECHO_BUDGET, settings.echo_interval_ns))
}

/// # Safety
/// The pointer is good.
#[inline(always)]
unsafe fn turn_around(ethernet: *mut Ethernet) {
    // SAFETY: as the caller promises.
    unsafe {
        core::mem::swap(&mut (*ethernet).destination, &mut (*ethernet).source);
    }
}

/// # Safety
/// The pointer is good.
#[inline(always)]
unsafe fn become_reply(icmp: *mut Icmp, reply: u8) {
    // SAFETY: as the caller promises.
    unsafe {
        let old = u16::from_ne_bytes([(*icmp).kind, 0]);
        let new = u16::from_ne_bytes([reply, 0]);
        (*icmp).check = Difference::new().word(old, new).apply((*icmp).check);
        (*icmp).kind = reply;
    }
}

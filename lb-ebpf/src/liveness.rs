//! Whether this node serves: asked by other agents, answered here, so that no process of the node
//! can delay it.
use crate::{
    frame::Frame,
    maps::{SETTINGS, now_ns},
    packet::at,
};
use lb_common::{
    checksum::Difference,
    tunnel::{ANSWER, GUE_VERSION_LENGTH, Gue, Liveness, overhead},
    wire::{
        Ethernet, Ipv4, Ipv6, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// RFC 1700 "IP time to live".
const TTL: u8 = 64;

/// Turns a question into its answer, whose headers are sound and have been checked.
///
/// Questions come without the checksum of UDP (RFC 6935 for IPv6), and so does the answer: there is
/// none to be kept in step, nor one that the kernel or a card has yet to fill in.
#[inline(always)]
pub(crate) fn answer<F: Frame, const V6: bool>(frame: &F, gue: &Gue) -> Option<()> {
    if gue.version_length != GUE_VERSION_LENGTH
        || gue.flags != 0
        || gue.protocol != protocol::NO_NEXT_HEADER
    {
        return None;
    }
    let transport = ETHERNET + if V6 { IPV6 } else { IPV4 };
    let announces_ms = announces_ms()?;
    let ethernet = at::<_, Ethernet>(frame, 0)?;
    let udp = at::<_, Udp>(frame, transport)?;
    let header = at::<_, Gue>(frame, transport + size_of::<Udp>())?;
    // What follows the header may not be part of the datagram; it lies in the frame, at least.
    let liveness = at::<_, Liveness>(frame, ETHERNET + overhead(V6))?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        if (*udp).check != 0
            || usize::from(u16::from_be((*udp).length))
                != overhead(V6) - (transport - ETHERNET) + size_of::<Liveness>()
        {
            return None;
        }
        if V6 {
            let ip = at::<_, Ipv6>(frame, ETHERNET)?;
            core::mem::swap(&mut (*ip).source, &mut (*ip).destination);
            (*ip).hop_limit = TTL;
        } else {
            let ip = at::<_, Ipv4>(frame, ETHERNET)?;
            core::mem::swap(&mut (*ip).source, &mut (*ip).destination);
            let old = u16::from_ne_bytes([(*ip).ttl, (*ip).protocol]);
            let new = u16::from_ne_bytes([TTL, (*ip).protocol]);
            (*ip).check = Difference::new().word(old, new).apply((*ip).check);
            (*ip).ttl = TTL;
        }
        core::mem::swap(&mut (*ethernet).destination, &mut (*ethernet).source);
        core::mem::swap(&mut (*udp).source, &mut (*udp).destination);
        (*header).position = ANSWER;
        (*liveness).announces_ms = announces_ms.to_be();
    }
    Some(())
}

/// For how many milliseconds this node goes on announcing VIPs without a word from its agent. `None`
/// if it is about to serve no more.
#[inline(always)]
fn announces_ms() -> Option<u32> {
    let settings = SETTINGS.get(0)?;
    if settings.withdrawn != 0 {
        return None;
    }
    let left = settings.announce_until_ns.saturating_sub(now_ns()) / 1_000_000;
    Some(if left > u64::from(u32::MAX) { u32::MAX } else { left as u32 })
}

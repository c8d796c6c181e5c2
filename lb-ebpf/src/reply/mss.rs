//! The MSS option of a SYN-ACK (RFC 9293 section 3.7.1): the client's segments are to fit a
//! tunnel between two nodes.
use crate::packet::at;
use aya_ebpf::programs::TcContext;
use core::mem::offset_of;
use lb_common::wire::Tcp;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;
const OPTIONS: usize = size_of::<Tcp>();
/// Kind and length, then the value.
const VALUE: usize = 2;
/// Most bytes of options.
const LONGEST: usize = 40;
/// Most options that are looked at, the paddings among them. No stack in use sends more
/// before an MSS, and each costs the verifier as much as all the rest of the program.
const STEPS: usize = 12;

/// Lowers the MSS of the segment at `transport` to `limit` if that is not 0; false if the
/// kernel refused the change.
#[inline(never)]
pub(super) fn lower(ctx: &TcContext, transport: usize, limit: u16) -> bool {
    if limit == 0 {
        return true;
    }
    let Some((value, mss)) = find(ctx, transport) else { return true };
    if mss <= limit {
        return true;
    }
    // The checksum's words begin at even offsets from the TCP header.
    let odd = (value - transport) & 1 != 0;
    let word = |mss: u16| u64::from(if odd { mss } else { mss.to_be() });
    let check = transport + offset_of!(Tcp, check);
    ctx.skb.l4_csum_replace(check, word(mss), word(limit), 2).is_ok()
        && ctx.skb.store(value, &limit.to_be_bytes(), 0).is_ok()
}

/// Where the option's value stands, and the value.
#[inline(always)]
fn find(ctx: &TcContext, transport: usize) -> Option<(usize, u16)> {
    let tcp = at::<_, Tcp>(ctx, transport)?;
    // SAFETY: `at` has checked the bounds.
    let header = unsafe { usize::from((*tcp).data_offset >> 4) * 4 };
    if header <= OPTIONS {
        return None;
    }
    let end = header - OPTIONS;
    let mut offset = 0;
    let mut step = 0;
    while step < STEPS {
        step += 1;
        if offset >= end || offset >= LONGEST {
            return None;
        }
        let option = transport + OPTIONS + offset;
        // Nothing is lost where the packet ends after one byte: it cannot be an MSS.
        // SAFETY: `at` has checked the bounds.
        let [kind, length] = unsafe { *at::<_, [u8; 2]>(ctx, option)? };
        if kind == END {
            return None;
        }
        if kind == NO_OPERATION {
            offset += 1;
            continue;
        }
        // One of another length is skipped, as its receiver does.
        if kind == MSS && length == MSS_LENGTH {
            if offset + usize::from(MSS_LENGTH) > end {
                return None;
            }
            // SAFETY: `at` has checked the bounds.
            let value = unsafe { *at::<_, [u8; 2]>(ctx, option + VALUE)? };
            return Some((option + VALUE, u16::from_be_bytes(value)));
        }
        if length < 2 {
            return None;
        }
        offset += usize::from(length);
    }
    None
}

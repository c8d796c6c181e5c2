//! Frames for `lb-agent watch` (docs/data-path.md, section 8).
use crate::{
    frame::Frame,
    maps::{SAMPLES, SETTINGS, now_ns},
    packet::linear_length,
    verdict::Verdict,
};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use core::ptr::addr_of_mut;
use lb_common::{maps::SAMPLE_BYTES, outcome::Outcome};

/// [`Sample::program`](lb_common::maps::Sample::program).
pub(crate) const INGRESS: u32 = 0;
/// [`Sample::program`](lb_common::maps::Sample::program).
pub(crate) const EGRESS: u32 = 1;
/// [`Sample::program`](lb_common::maps::Sample::program).
pub(crate) const EGRESS_L3: u32 = 2;

/// Samples one in so many frames that concern a VIP.
#[inline(always)]
pub(crate) fn take<F: Frame>(frame: &F, program: u32, verdict: Verdict) {
    if verdict.is(Outcome::Passed) || verdict.is(Outcome::EgressPassed) {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.sample_one_in != 0 {
        write(frame, program, verdict, settings.sample_one_in);
    }
}

#[inline(never)]
fn write<F: Frame>(frame: &F, program: u32, verdict: Verdict, one_in: u32) -> u32 {
    // SAFETY: plain helper.
    let random = unsafe { bpf_get_prandom_u32() };
    if one_in == 0 || random % one_in != 0 {
        return 0;
    }
    let linear = linear_length(frame);
    let Some(mut entry) = SAMPLES.reserve(0) else { return 0 };
    let sample = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and every byte pattern is valid.
    let bytes = unsafe { addr_of_mut!((*sample).bytes) }.cast::<u8>();
    let whole = linear.min(SAMPLE_BYTES) as u32;
    // A frame is never empty; this is how the verifier sees that, and the upper bound.
    let captured = (whole.wrapping_sub(1) & (SAMPLE_BYTES as u32 - 1)) + 1;
    // SAFETY: there is room for as many bytes.
    unsafe { frame.copy_out(0, bytes, captured) };
    // SAFETY: as above.
    unsafe {
        (*sample).time_ns = now_ns();
        (*sample).ifindex = frame.ifindex();
        (*sample).outcome = verdict.number();
        (*sample).length = frame.whole_length() as u32;
        (*sample).captured = captured;
        (*sample).program = program;
        (*sample).pad = 0;
    }
    entry.submit(0);
    1
}

//! How much this node may be made to answer: the generic cell rate algorithm (ITU-T I.371),
//! per CPU.
use crate::maps::now_ns;
use aya_ebpf::btf_maps::PerCpuArray;
use lb_common::maps::Budget;

/// How far a CPU may run ahead of its rate: longer than the coarse clock's step (4 ms at
/// 250 Hz), short enough to keep a flood small.
const BURST_NS: u64 = 100_000_000;

/// Whether this CPU may answer one more now, if each answer uses `interval_ns` of its budget.
#[inline(always)]
pub(crate) fn allows(budget: &PerCpuArray<Budget, 1>, interval_ns: u64) -> bool {
    let Some(budget) = budget.get_ptr_mut(0) else { return false };
    let now = now_ns();
    // SAFETY: the slot is this CPU's, and a program is not preempted by another on its CPU.
    unsafe {
        let next = if (*budget).next_ns > now { (*budget).next_ns } else { now };
        if next - now > BURST_NS {
            return false;
        }
        (*budget).next_ns = next + interval_ns;
    }
    true
}

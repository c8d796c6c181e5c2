//! Where a frame starts and ends.
//!
//! The context's fields have 32 bits, but what the verifier puts there are pointers. Read as
//! numbers of 32 bits, the compiler may keep them and widen them later, which makes numbers of
//! them for the verifier, too, and has the program refused.

/// Reads the pointer at `OFFSET` of a context.
///
/// # Safety
/// `context` is a program's context, and has a pointer there.
#[inline(always)]
pub(super) unsafe fn pointer<const OFFSET: usize, T>(context: *const T) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let pointer: usize;
        // SAFETY: as the caller promises; the instruction only reads.
        unsafe {
            core::arch::asm!(
                "{pointer} = *(u32 *)({context} + {offset})",
                pointer = out(reg) pointer,
                context = in(reg) context,
                offset = const OFFSET,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as the caller promises.
        unsafe { context.cast::<u8>().add(OFFSET).cast::<u32>().read_unaligned() as usize }
    }
}

//! Access to the bytes of a frame.
use aya_ebpf::programs::XdpContext;

/// A header at an offset, if all of it lies inside the frame.
///
/// The pointer is good until the frame's head or tail is moved.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The frame's length.
#[inline(always)]
pub(crate) fn length(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

//! The system calls that no safe library offers: the one module of the agent with `unsafe`.
//!
//! Each function is a thin, safe wrapper; what is done with the results stands elsewhere.
use aya::{
    maps::{MapData, RingBuf},
    programs::TcAttachType,
};
use lb_common::maps::Row;
use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

mod resident;
mod sockets;

pub use resident::{forget_code, give_memory_back, keep_little_memory};
pub use sockets::{
    FrameSocket, addresses_beside, await_datagrams, demand_ttl, interface_index, only_icmpv6,
    receive_buffer, receive_with_ttl, sign_with_md5, tell_ttl, without_checksums,
};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock that `bpf_ktime_get_ns` reads in the kernel.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill. The clock exists on every
    // kernel, so the call cannot fail; if it did, the time would be 0.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    // Neither is ever negative on this clock.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| io::Error::other(error.to_string()))
}

/// Whether the path lies on a BPF file system.
///
/// # Errors
///
/// Those of statfs(2); `NotFound` if the path does not exist.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: all zeros is a valid statfs: it is made of integers.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: a C string that outlives the call, and a statfs for it to fill.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The type of f_type differs between libcs; the magic number fits all of them.
    Ok(stat.f_type as u64 == libc::BPF_FS_MAGIC as u64)
}

/// Mounts a BPF file system: `mount -t bpf bpf PATH`.
///
/// # Errors
///
/// Those of mount(2).
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: all pointers are C strings that outlive the call; bpffs needs no data.
    let done =
        unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, ptr::null()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread run before others that have no such wish.
///
/// # Errors
///
/// `PermissionDenied` without `CAP_SYS_NICE`.
pub fn hurry_this_thread() -> io::Result<()> {
    // 0 is the calling thread (setpriority(2), "C library/kernel differences").
    // SAFETY: a plain system call without pointers.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a ring that the kernel fills awaitable.
///
/// # Errors
///
/// Those of epoll_ctl(2).
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn await_readable(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor and keeps it until it is dropped, which AsyncFd does
    // after it has deregistered it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}

/// What ethtool's flags and its question for the driver have in common.
fn ethtool<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    /// `struct ifreq` (netdevice(7)).
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut libc::c_void,
        /// The union is larger than a pointer.
        rest: [u8; 16],
    }
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut name = [0; libc::IFNAMSIZ];
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut request = Request { name, data: (&raw mut *argument).cast(), rest: [0; 16] };
    // SAFETY: an ifreq, whose pointer leads to a structure of the size that its command (the
    // first field) asks for: the two callers below see to that. Both outlive the call.
    let done =
        unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct ethtool_value`
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

fn ethtool_flags(interface: &str) -> io::Result<u32> {
    let mut flags = EthtoolValue { command: ETHTOOL_GFLAGS, data: 0 };
    ethtool(interface, &mut flags)?;
    Ok(flags.data)
}

/// Whether a network card takes VLAN tags off the frames that it receives.
///
/// # Errors
///
/// `ENODEV` if there is no such interface. One that knows nothing of ethtool takes none off.
pub fn strips_vlan_tags(interface: &str) -> io::Result<bool> {
    match ethtool_flags(interface) {
        Ok(flags) => Ok(flags & ETH_FLAG_RXVLAN != 0),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has a network card leave VLAN tags in the frames that it receives
/// (`ethtool -K INTERFACE rx-vlan-offload off`). True if that was not so before.
///
/// # Errors
///
/// `EOPNOTSUPP` or what else the driver says if it cannot; `ENODEV` if there is no such interface.
pub fn keep_vlan_tags(interface: &str) -> io::Result<bool> {
    if !strips_vlan_tags(interface)? {
        return Ok(false);
    }
    let data = ethtool_flags(interface)? & !ETH_FLAG_RXVLAN;
    ethtool(interface, &mut EthtoolValue { command: ETHTOOL_SFLAGS, data })?;
    // Some drivers say yes and leave it as it is.
    if strips_vlan_tags(interface)? {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(true)
}

/// The name of an interface's driver.
///
/// # Errors
///
/// `EOPNOTSUPP` if it does not say; `ENODEV` if there is no such interface.
pub fn driver(interface: &str) -> io::Result<String> {
    /// `struct ethtool_drvinfo`
    #[repr(C)]
    struct Info {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut info = Info { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, &mut info)?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Words of 64 bits in a row.
const _: () = assert!(size_of::<Row>() == 8);

/// How many elements are mapped at once: 64 KiB, a whole number of pages of any size in use.
const WINDOW: u32 = 8192;

/// An array map of words of eight bytes (`ROWS`, say) that is read and written in memory.
///
/// The kernel's programs read it at any time, so elements are accessed as atomic words.
/// A row is nevertheless not written in one step: write only what nobody is pointed to.
///
/// Only a [window](WINDOW) of it is mapped at a time: pages of an array that are mapped count as
/// the process's memory, whether or not it looks at them.
#[derive(Debug)]
pub struct MappedRows {
    map: OwnedFd,
    rows: u32,
    window: Mutex<Window>,
}

/// A mapped part of an array.
#[derive(Debug)]
struct Window {
    start: NonNull<AtomicU64>,
    /// The first element in it.
    first: u32,
    /// How many there are.
    len: usize,
}

// SAFETY: the mapping belongs to the value, and it is only accessed through atomics.
unsafe impl Send for Window {}

impl Window {
    /// Maps the window that an element is in.
    fn new(map: BorrowedFd<'_>, rows: u32, index: u32) -> io::Result<Self> {
        let first = index - index % WINDOW;
        let len = rows.saturating_sub(first).min(WINDOW) as usize;
        let offset = libc::off_t::from(first) * size_of::<Row>() as libc::off_t;
        // SAFETY: the kernel chooses the address, so that no memory in use is touched. It
        // refuses to map more pages than the array has (kernel/bpf/arraymap.c, array_map_mmap).
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len * size_of::<Row>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, first, len })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is this long, page-aligned, initialised (the kernel gives zeroed
        // pages) and lives as long as the value. Atomics may change behind a shared reference.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Those from an element on; none if it is elsewhere.
    fn from(&self, index: u32) -> &[AtomicU64] {
        let at = index.checked_sub(self.first).map(|at| at as usize);
        at.and_then(|at| self.words().get(at..)).unwrap_or_default()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this is what `new` mapped, and no reference into it outlives the value.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<Row>());
        }
    }
}

impl MappedRows {
    /// Takes an array map of `rows` elements made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    ///
    /// `EPERM`, `EINVAL` or `ENOTSUP` if the descriptor is no such map or the map is smaller.
    pub fn new(map: BorrowedFd<'_>, rows: u32) -> io::Result<Self> {
        // That the last can be mapped shows that all can.
        Window::new(map, rows, rows.saturating_sub(1))?;
        let window = Mutex::new(Window::new(map, rows, 0)?);
        Ok(Self { map: map.try_clone_to_owned()?, rows, window })
    }

    /// The window with an element in it; none if the element is outside, or the kernel has no
    /// memory to map it.
    fn window(&self, index: u32) -> Option<MutexGuard<'_, Window>> {
        if index >= self.rows {
            return None;
        }
        // A window is never half there.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.from(index).is_empty() {
            *window = Window::new(self.map.as_fd(), self.rows, index).ok()?;
        }
        Some(window)
    }

    /// Number of rows.
    pub fn len(&self) -> u32 {
        self.rows
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// An element's eight bytes, if the index is inside.
    pub fn word(&self, index: u32) -> Option<u64> {
        Some(self.window(index)?.from(index).first()?.load(Ordering::Relaxed))
    }

    /// A row, if the index is inside.
    pub fn get(&self, index: u32) -> Option<Row> {
        self.word(index).map(from_word)
    }

    /// Writes consecutive elements. False if they do not fit, and then nothing is written, or if
    /// the kernel has no memory to map them: then nothing may point to them.
    #[must_use]
    pub fn write_words(&self, start: u32, mut values: impl ExactSizeIterator<Item = u64>) -> bool {
        if values.len() > self.rows.saturating_sub(start) as usize {
            return false;
        }
        let mut at = start;
        while values.len() > 0 {
            let Some(window) = self.window(at) else { return false };
            for word in window.from(at) {
                let Some(value) = values.next() else { break };
                word.store(value, Ordering::Relaxed);
                at += 1;
            }
        }
        // Before the update of the Service that points here, which is a system call.
        fence(Ordering::Release);
        true
    }

    /// Writes consecutive rows, as [`write_words`](Self::write_words) does.
    #[must_use]
    pub fn write(&self, start: u32, rows: &[Row]) -> bool {
        self.write_words(start, rows.iter().map(to_word))
    }
}

/// The row as one word, byte for byte as `repr(C)` lays it out.
fn to_word(row: &Row) -> u64 {
    let mut bytes = [0; 8];
    for (bytes, node) in bytes.chunks_exact_mut(2).zip(row.nodes) {
        bytes.copy_from_slice(&node.to_ne_bytes());
    }
    u64::from_ne_bytes(bytes)
}

fn from_word(word: u64) -> Row {
    let bytes = word.to_ne_bytes();
    Row { nodes: std::array::from_fn(|n| u16::from_ne_bytes([bytes[2 * n], bytes[2 * n + 1]])) }
}

/// What a pinned link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// The interface, in whichever network namespace it is; 0 once the interface is gone.
    pub ifindex: u32,
    /// The program.
    pub program_id: u32,
}

/// Opens what is pinned at a path.
fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;

    /// `union bpf_attr` of `BPF_OBJ_GET`, its first fields.
    #[repr(C)]
    struct Get {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }

    let pathname = c_path(pin)?;
    let mut get = Get { pathname: pathname.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: a prefix of union bpf_attr with its size, as the kernel allows; the path is a
    // C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut get, size_of::<Get>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches a pinned link at once. Removing its pin alone detaches it some time later.
///
/// # Errors
///
/// `NotFound` if there is no such pin; `EINVAL` if it is no link.
pub fn detach_link(pin: &Path) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;

    /// `union bpf_attr` of `BPF_LINK_DETACH`.
    #[repr(C)]
    struct Detach {
        link_fd: u32,
    }

    let fd = open_pin(pin)?;
    let mut detach = Detach { link_fd: fd.as_raw_fd() as u32 };
    // SAFETY: a prefix of union bpf_attr with its size, as the kernel allows.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut detach, size_of::<Detach>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks what a pinned XDP or TCX link is attached to, which aya does not tell.
///
/// # Errors
///
/// `NotFound` if there is no such pin; `EINVAL` if it is no link.
pub fn link_target(pin: &Path) -> io::Result<LinkTarget> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

    /// `union bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
    #[repr(C)]
    struct GetInfo {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    /// `struct bpf_link_info` up to what `xdp` and `tcx` have in common.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        prog_id: u32,
        pad: u32,
        ifindex: u32,
        pad2: u32,
    }

    let fd = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let mut get_info = GetInfo {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: as above; the kernel writes at most `info_len` bytes to `info`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut get_info,
            size_of::<GetInfo>(),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(LinkTarget { ifindex: info.ifindex, program_id: info.prog_id })
}

/// The ids of the TCX programs on one side of an interface, in the order in which they run. aya asks for
/// their descriptors, too, which only CAP_SYS_ADMIN gets.
///
/// # Errors
///
/// `EPERM` without CAP_NET_ADMIN; `EINVAL` without TCX in the kernel, or such an interface.
pub fn tcx_programs(ifindex: u32, side: TcAttachType) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    /// Most programs on a side (`BPF_MPROG_MAX`, `include/linux/bpf_mprog.h`).
    const MOST: usize = 64;

    /// `union bpf_attr` of `BPF_PROG_QUERY`.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }

    let mut ids = [0u32; MOST];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: match side {
            TcAttachType::Egress => BPF_TCX_EGRESS,
            _ => BPF_TCX_INGRESS,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: a prefix of union bpf_attr with its size; the kernel writes at most `count` ids.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_laid_out_as_the_kernel_reads_them() {
        let row = Row { nodes: [1, 2, 0xffff, 4] };
        let word = to_word(&row);
        // SAFETY: both are 8 bytes without padding, valid for every pattern.
        let same: Row = unsafe { mem::transmute(word) };
        assert_eq!(same, row);
        assert_eq!(from_word(word), row);
    }

    #[test]
    fn the_clock_goes_on() {
        let before = monotonic_ns();
        assert!(before > 0 && monotonic_ns() >= before);
    }

    #[test]
    fn proc_is_not_bpffs_and_a_missing_path_is_an_error() {
        assert!(!is_bpffs(Path::new("/proc")).unwrap());
        let error = is_bpffs(Path::new("/proc/none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

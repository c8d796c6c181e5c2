//! The system calls that std has no safe form of.
mod ring;

pub use ring::FrameRing;

use std::{
    ffi::CString,
    fs::File,
    io,
    mem::{size_of, size_of_val, zeroed},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt as _},
    },
    path::Path,
    process::{self, Command},
    ptr, thread,
    time::Instant,
};

/// Whether this process may make namespaces and load programs.
pub fn is_root() -> bool {
    // SAFETY: reads a number, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Moves the calling thread into a network namespace, for good: meant for threads of their own.
///
/// # Errors
/// The namespace is not there, or the process is not root.
pub fn enter_network_namespace(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor is open; the call changes nothing but this thread's namespace.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Runs `action` once when SIGINT, SIGTERM or SIGHUP arrives, then exits as such a process
/// does (128 + the signal's number).
///
/// To be called before any thread is started, since threads inherit the mask. Children get
/// an empty mask from std.
///
/// # Panics
/// The mask cannot be set, which the kernel does not do for valid arguments.
pub fn on_interrupt(action: impl FnOnce() + Send + 'static) {
    // SAFETY: the set is initialised by sigemptyset before it is used, and is ours.
    let set = unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()), 0);
        set
    };
    thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live locals.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        action();
        process::exit(128 + signal);
    });
}

/// Lets a program that is to be started receive all signals: it would inherit the mask of
/// [`on_interrupt`], and could not be told to stop.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and calls only functions that are
    // async-signal-safe (signal-safety(7)), on its own locals.
    unsafe {
        command.pre_exec(|| {
            let mut none: libc::sigset_t = zeroed();
            libc::sigemptyset(&mut none);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut()) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        })
    }
}

/// A socket that sends and receives whole frames on one interface.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// No such interface, or not root.
    pub fn open(interface: &str) -> io::Result<Self> {
        Ok(Self(open_packet_socket(interface, |_| Ok(()))?.0))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The interface is down, or the frame longer than its MTU.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame that arrived before `deadline`, frames of our own sending left out.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // Rounded up, so that the last millisecond is waited and not spun.
            let timeout = left.as_micros().div_ceil(1000).min(60_000) as i32;
            // SAFETY: one live pollfd.
            if check(unsafe { libc::poll(&mut poll, 1, timeout) })? == 0 {
                return Ok(None);
            }
            // SAFETY: plain data, for which all zeroes is a value.
            let mut from: libc::sockaddr_ll = unsafe { zeroed() };
            let mut from_length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are live, and their lengths are their own.
            let length = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    ptr::from_mut(&mut from).cast(),
                    &mut from_length,
                )
            };
            if length < 0 {
                return Err(io::Error::last_os_error());
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                buffer.truncate(length as usize);
                return Ok(Some(buffer));
            }
        }
    }
}

/// A packet socket on an interface of the calling thread's namespace, and the interface's index.
/// `prepare` is called before anything is received.
fn open_packet_socket(
    interface: &str,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<(OwnedFd, libc::c_int)> {
    let name = CString::new(interface)?;
    // SAFETY: a C string that lives through the call.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as libc::c_int;
    if ifindex == 0 {
        return Err(io::Error::last_os_error());
    }
    // Of no protocol: nothing comes before it is bound to one.
    // SAFETY: no pointers.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: just opened, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    prepare(&socket)?;
    // SAFETY: plain data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex;
    // SAFETY: the pointer and length are those of a live sockaddr_ll.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok((socket, ifindex))
}

/// `BPF_PROG_LOAD`'s part of `union bpf_attr` (`linux/bpf.h`), up to the program's name.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// `BPF_OBJ_PIN`'s part.
#[repr(C)]
#[derive(Default)]
struct ObjectPin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an XDP program that does nothing but return `action` (1 drops, 2 passes).
///
/// The laboratory's ports need one: a veth takes frames that its peer's program sends only
/// if it has a program itself.
///
/// # Errors
/// Not root, or `pin` is there already or not in a BPF file system.
pub fn pin_constant_xdp_program(name: &str, action: i32, pin: &Path) -> io::Result<()> {
    const PROG_LOAD: libc::c_long = 5;
    const OBJ_PIN: libc::c_long = 6;
    const TYPE_XDP: u32 = 6;
    // r0 = action; exit
    let instructions = [0xb7 | u64::from(action as u32) << 32, 0x95];
    let mut load = ProgramLoad {
        kind: TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..ProgramLoad::default()
    };
    let length = name.len().min(15);
    load.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // SAFETY: the attributes and what they point to live through the call; their layout is the kernel's.
    let fd = check_long(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<ProgramLoad>())
    })? as i32;
    // SAFETY: just opened, and owned by nobody else.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = ObjectPin {
        path: path.as_ptr() as u64,
        fd: program.as_raw_fd() as u32,
        ..ObjectPin::default()
    };
    // SAFETY: as above.
    check_long(unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_PIN, &attributes, size_of::<ObjectPin>())
    })?;
    Ok(())
}

/// Has a program that is to be started, and what it starts, run on what others leave of the
/// processors (`SCHED_IDLE`, sched(7)).
pub fn yield_to_others(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and calls only a function that is
    // async-signal-safe: a system call that changes nothing but this process's scheduling.
    unsafe {
        command.pre_exec(|| {
            let none: libc::sched_param = zeroed();
            check(libc::sched_setscheduler(0, libc::SCHED_IDLE, &none)).map(drop)
        })
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

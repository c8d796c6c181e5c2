//! Sockets.
use std::{
    io, mem,
    net::UdpSocket,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A socket that sends whole frames by one interface and receives nothing.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens a socket for the interface with this index in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without `CAP_NET_RAW`; `ENXIO` or `ENODEV` if there is no such interface.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        // Protocol 0: the kernel queues no frames to it.
        // SAFETY: a plain system call without pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a valid sockaddr_ll: it is made of integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_ifindex =
            i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: the pointer and the length are those of one initialised sockaddr_ll.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends a frame, Ethernet header included. Does not block.
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `ENOBUFS` if the interface's queue is full, `ENETDOWN` if it is down,
    /// `ENXIO` if it is gone, `EMSGSIZE` if the frame is longer than its MTU allows.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of the slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        // A packet socket sends a frame whole or not at all.
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one initialised integer.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a UDP socket send without checksums and, over IPv6, receive so (RFC 6935): then no card is to
/// fill them in later in what a program sends back.
///
/// # Errors
///
/// Those of setsockopt(2).
pub fn without_checksums(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    // `linux/udp.h`.
    const UDP_NO_CHECK6_TX: libc::c_int = 101;
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    if ipv6 {
        set_option(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)?;
        set_option(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    } else {
        set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
    }
}

/// Lets a socket keep so many bytes that are not read yet, whatever the system's limit.
///
/// # Errors
///
/// `PermissionDenied` without `CAP_NET_ADMIN`.
pub fn receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Makes a socket awaitable.
///
/// # Errors
///
/// Those of epoll_ctl(2).
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn await_datagrams(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: the socket owns its descriptor, which stays the same and open as long as it lives.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

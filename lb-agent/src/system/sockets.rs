//! Sockets.
use std::{
    io, mem,
    net::{IpAddr, SocketAddr, UdpSocket},
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

/// Has a TCP socket sign and demand signatures (RFC 2385) with one peer: one that connects, before that,
/// or one that listens. An empty password takes that back.
///
/// # Errors
///
/// `InvalidInput` for a password that is longer than 80 bytes; `ENOPROTOOPT` or `ENOENT` where the kernel was
/// built without `CONFIG_TCP_MD5SIG`.
pub fn sign_with_md5(socket: BorrowedFd<'_>, peer: SocketAddr, password: &[u8]) -> io::Result<()> {
    const KEY: usize = 80;
    /// `struct tcp_md5sig` of `linux/tcp.h`.
    #[repr(C)]
    struct Signature {
        address: libc::sockaddr_storage,
        flags: u8,
        prefix_length: u8,
        key_length: u16,
        ifindex: libc::c_int,
        key: [u8; KEY],
    }
    // SAFETY: all zeros is valid: it is made of integers.
    let mut signature: Signature = unsafe { mem::zeroed() };
    let Some(key) = signature.key.get_mut(..password.len()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a password of more than 80 bytes",
        ));
    };
    key.copy_from_slice(password);
    signature.key_length = password.len() as u16;
    let address = socket2::SockAddr::from(peer);
    // SAFETY: both have room for any address of a socket, and `len` is within both.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut signature.address).cast::<u8>(),
            address.len() as usize,
        );
    }
    // SAFETY: the pointer and the length are those of one initialised structure.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            (&raw const signature).cast(),
            size_of::<Signature>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The index of an interface of the calling thread's network namespace.
///
/// # Errors
///
/// `ENODEV` if there is none of that name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the pointer is that of a string that ends with a NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// All addresses of the interfaces of the calling thread's network namespace that have this one, itself included.
///
/// # Errors
///
/// Those of getifaddrs(3).
pub fn addresses_beside(one: IpAddr) -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is that of a variable that takes the list.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all: Vec<(String, IpAddr)> = Vec::new();
    let mut next = first;
    // SAFETY: each entry is null or valid until the list is freed, and its name ends with a NUL.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: as above.
        let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
        // SAFETY: as above; an address is as long as its family says, and may be missing.
        let address = unsafe {
            match entry.ifa_addr.as_ref().map(|address| libc::c_int::from(address.sa_family)) {
                Some(libc::AF_INET) => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    Some(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()))
                }
                Some(libc::AF_INET6) => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    Some(IpAddr::from(address.sin6_addr.s6_addr))
                }
                _ => None,
            }
        };
        all.extend(address.map(|address| (name.to_string_lossy().into_owned(), address)));
    }
    // SAFETY: the list is that of above, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    let has_it = |name: &str| all.iter().any(|(of, address)| of == name && *address == one);
    Ok(all.iter().filter(|(name, _)| has_it(name)).map(|(_, address)| *address).collect())
}

/// Lets through to a raw socket of ICMPv6 only messages of these types (RFC 3542 section 3.2).
///
/// # Errors
///
/// Those of setsockopt(2).
pub fn only_icmpv6(socket: BorrowedFd<'_>, types: &[u8]) -> io::Result<()> {
    // `linux/icmpv6.h`; a bit that is set keeps its type out.
    const ICMPV6_FILTER: libc::c_int = 1;
    let mut filter = [u32::MAX; 8];
    for kind in types {
        filter[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    }
    // SAFETY: the pointer and the length are those of one initialised array.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMPV6_FILTER,
            filter.as_ptr().cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives a datagram, with who sent it and its TTL or hop limit, for which the socket has been
/// [asked](tell_ttl). Does not block if the socket does not.
///
/// # Errors
///
/// Those of recvmsg(2); `InvalidData` if there is no address.
pub fn receive_with_ttl(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<u8>)> {
    // Room for one message of one integer, aligned as `cmsghdr` is.
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the storage is as large as the kernel is told, and initialised from what it says.
    let received = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            let mut message: libc::msghdr = mem::zeroed();
            message.msg_name = storage.cast();
            message.msg_namelen = *length;
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let received = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            *length = message.msg_namelen;
            let mut ttl = None;
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while let Some(at) = header.as_ref() {
                if (at.cmsg_level, at.cmsg_type) == (libc::IPPROTO_IP, libc::IP_TTL)
                    || (at.cmsg_level, at.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)
                {
                    let value = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                    ttl = u8::try_from(value).ok();
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
            Ok((received as usize, ttl))
        })
    };
    let ((length, ttl), from) = received?;
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((length, from, ttl))
}

/// Has a TCP socket drop what comes with a lower TTL or hop limit (RFC 5082 section 3).
///
/// # Errors
///
/// Those of setsockopt(2).
pub fn demand_ttl(socket: BorrowedFd<'_>, ipv6: bool, lowest: u32) -> io::Result<()> {
    let lowest = libc::c_int::try_from(lowest).unwrap_or(libc::c_int::MAX);
    if ipv6 {
        // `linux/in6.h`.
        const IPV6_MINHOPCOUNT: libc::c_int = 73;
        set_option(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, lowest)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, lowest)
    }
}

/// Has a UDP socket tell the TTL or hop limit of what it receives.
///
/// # Errors
///
/// Those of setsockopt(2).
pub fn tell_ttl(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
    }
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

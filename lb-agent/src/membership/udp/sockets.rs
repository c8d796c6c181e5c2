//! Plain work with sockets.
use super::{
    AsyncFd, BTreeSet, Error, Interest, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket, debug,
    io, system, warn,
};
use crate::membership::{
    NO_INTERFACE,
    envelope::MAX_LENGTH,
    told::{is_down, is_name},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{future::poll_fn, os::fd::AsFd as _, task::Poll};

/// Bytes that may wait in a socket: what a thousand agents send at once when one starts.
const BUFFER: usize = 4 << 20;
/// So many datagrams of a socket are taken in before anything is sent.
const TOGETHER: usize = 4096;

/// How many frames these interfaces have received; `None` if that cannot be told. Those without carrier
/// receive none.
pub(super) fn frames_received(interfaces: &BTreeSet<String>) -> Option<u64> {
    let known = || interfaces.iter().filter(|name| *name != NO_INTERFACE && is_name(name));
    if known().next().is_none() {
        return interfaces.iter().any(|told| is_down(told)).then_some(0);
    }
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let mut sum = 0u64;
    for line in all.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        if known().any(|known| known == name.trim()) {
            sum = sum.wrapping_add(counters.split_whitespace().nth(1)?.parse().ok()?);
        }
    }
    Some(sum)
}

/// Waits until a datagram arrives at any of the sockets.
pub(super) async fn readable(agents: &[AsyncFd<UdpSocket>], probes: &[AsyncFd<UdpSocket>]) {
    poll_fn(|context| {
        let ready = |socket: &AsyncFd<UdpSocket>| match socket.poll_read_ready(context) {
            Poll::Ready(Ok(mut guard)) => {
                guard.retain_ready();
                true
            }
            Poll::Ready(Err(_)) | Poll::Pending => false,
        };
        // All are to wake this task.
        let count = agents.iter().chain(probes).map(ready).filter(|ready| *ready).count();
        if count > 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Reads all that waits in a socket.
pub(super) fn drain(socket: &AsyncFd<UdpSocket>, mut take: impl FnMut(SocketAddr, &[u8])) {
    let mut buffer = [0; MAX_LENGTH + 1];
    let mut receive = |socket: &UdpSocket| {
        let (length, from) = socket.recv_from(&mut buffer)?;
        take(from, &buffer[..length]);
        io::Result::Ok(())
    };
    for _ in 0..TOGETHER {
        // Whatever the runtime knows of it: it may not have looked since.
        match receive(socket.get_ref()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Now the runtime is to know, too.
                match socket.try_io(Interest::READABLE, &mut receive) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Ok(()) | Err(_) => {}
                }
            }
            // Errors of earlier sends, such as an unreachable port, come in here.
            Err(error) => debug!("socket: {error}"),
        }
    }
}

pub(super) fn send_to(sockets: &[AsyncFd<UdpSocket>], to: SocketAddr, bytes: &[u8]) {
    let fits = |socket: &&AsyncFd<UdpSocket>| {
        socket.get_ref().local_addr().is_ok_and(|local| local.is_ipv6() == to.is_ipv6())
    };
    if let Some(socket) = sockets.iter().find(fits) {
        // The kernel's buffer takes it or it is lost: another follows soon.
        if let Err(error) = socket.get_ref().send_to(bytes, to) {
            debug!(%to, "datagram not sent: {error}");
        }
    }
}

/// Binds the port on each address; on all addresses of a family where one cannot be had
/// because no interface has it (yet), or none is known.
pub(super) fn bind(addresses: &[IpAddr], port: u16) -> Result<Vec<UdpSocket>, Error> {
    let mut bound = Vec::new();
    let mut wild = BTreeSet::new();
    let open = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        socket(address).map_err(|source| Error::Bind { address, source })
    };
    for address in addresses {
        match open(*address) {
            Err(Error::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrNotAvailable => {
                warn!("no interface has the InternalIP {address}: listening on all addresses");
                wild.insert(address.is_ipv6());
            }
            other => bound.push((*address, other?)),
        }
    }
    if addresses.is_empty() {
        wild = [false, true].into();
    }
    for ipv6 in wild {
        let any = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        bound.retain(|(address, _)| address.is_ipv6() != ipv6);
        match open(any) {
            Ok(socket) => bound.push((any, socket)),
            // A machine without IPv6.
            Err(Error::Bind { source, .. })
                if ipv6 && source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bound.into_iter().map(|(_, socket)| socket).collect())
}

pub(super) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    if let Err(error) = system::receive_buffer(socket.as_fd(), BUFFER) {
        debug!("a socket has the usual buffer: {error}");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

//! The kernel's connection tracking, as far as Herald has to do with it.
//!
//! kube-proxy's connections live there: the [last resort](crate::resort) looks for flows that
//! it began, and when a VIP:port changes hands ([`takeover`]), entries of finished connections
//! that would be in the way of new ones are removed. Nothing else is changed.
pub mod message;
pub mod takeover;

pub use message::{Entry, Phase, Tuple};

use message::{Reply, delete, get, list, replies};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use socket2::SockRef;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use takeover::{Look, Takeover, looks};

/// The kernel answers at once; what takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries that are deleted with one system call.
const BATCH: usize = 64;
/// Of the largest datagram that the kernel sends (`NLMSG_GOODSIZE` and dumps' 32 KiB).
const BUFFER: usize = 64 << 10;

/// A socket to the kernel's connection tracking. Its calls block, for microseconds as a rule,
/// while a [list](Self::list) takes as long as there are entries.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// `EPROTONOSUPPORT` if the kernel has no netfilter.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let options = SockRef::from(&socket);
        options.set_read_timeout(Some(PATIENCE))?;
        // As much as may be had: replies wait there.
        let _smaller = options.set_recv_buffer_size(4 << 20);
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), sequence: 0 })
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.send(request, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<(u32, Reply)>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        Ok(replies(&self.buffer))
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// The connection that began with packets of this tuple.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `Unsupported` or `InvalidInput` where the
    /// kernel has no connection tracking (loaded).
    pub fn get(&mut self, wanted: &Tuple) -> io::Result<Option<Entry>> {
        let sequence = self.next_sequence();
        self.send(&get(wanted, sequence))?;
        loop {
            for (of, reply) in self.receive()? {
                match reply {
                    _ if of != sequence => {}
                    // The kernel looks for both directions.
                    Reply::Entry(entry) => {
                        return Ok((entry.original == *wanted).then_some(*entry));
                    }
                    Reply::Status(libc::ENOENT) => return Ok(None),
                    Reply::Status(error) => return Err(io::Error::from_raw_os_error(error)),
                    Reply::Done | Reply::Other => {}
                }
            }
        }
    }

    /// All connections of a family, those to one IPv4 address only if one is given; handed to `each`.
    ///
    /// # Errors
    ///
    /// As with [`get`](Self::get); `EINTR`-like interruptions of the list are not errors, since
    /// who looks again finds what was missed.
    pub fn list(
        &mut self,
        ipv6: bool,
        destination: Option<Ipv4Addr>,
        mut each: impl FnMut(Entry),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        self.send(&list(ipv6, destination, sequence))?;
        loop {
            for (of, reply) in self.receive()? {
                match reply {
                    _ if of != sequence => {}
                    Reply::Entry(entry) => each(*entry),
                    Reply::Done | Reply::Status(0) => return Ok(()),
                    Reply::Status(error) => return Err(io::Error::from_raw_os_error(error)),
                    Reply::Other => {}
                }
            }
        }
    }

    /// All connections to these addresses, and perhaps to others; handed to `each`.
    ///
    /// # Errors
    ///
    /// As with [`get`](Self::get).
    pub fn connections(
        &mut self,
        to: &BTreeSet<IpAddr>,
        mut each: impl FnMut(Entry),
    ) -> io::Result<()> {
        looks(to).iter().try_for_each(|look| self.look(look, &mut each))
    }

    fn look(&mut self, look: &Look, each: impl FnMut(Entry)) -> io::Result<()> {
        match *look {
            Look::Family(ipv6) => self.list(ipv6, None, each),
            Look::To(address) => self.list(false, Some(address), each),
        }
    }

    /// Removes connections. Returns how many were still there.
    ///
    /// # Errors
    ///
    /// As with [`get`](Self::get).
    pub fn delete(&mut self, entries: &[Entry]) -> io::Result<usize> {
        let mut deleted = 0;
        for batch in entries.chunks(BATCH) {
            let mut requests = Vec::new();
            let mut unanswered = BTreeSet::new();
            for entry in batch {
                let sequence = self.next_sequence();
                unanswered.insert(sequence);
                requests.extend(delete(entry, sequence));
            }
            self.send(&requests)?;
            while !unanswered.is_empty() {
                for (of, reply) in self.receive()? {
                    let Reply::Status(status) = reply else { continue };
                    match status {
                        _ if !unanswered.remove(&of) => {}
                        0 => deleted += 1,
                        libc::ENOENT => {}
                        error => return Err(io::Error::from_raw_os_error(error)),
                    }
                }
            }
        }
        Ok(deleted)
    }
}

/// What came of a [sweep](Sweeper::sweep).
#[derive(Debug, Default)]
pub struct Swept {
    /// How many entries were removed.
    pub removed: usize,
    /// The connections that were found to be over.
    pub over: Vec<Entry>,
}

/// Carries out what [`takeover`] decides.
#[derive(Debug)]
pub struct Sweeper {
    /// What to remove, and when to look for it.
    pub takeover: Takeover,
    conntrack: Conntrack,
}

impl Sweeper {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As with [`Conntrack::open`].
    pub fn open() -> io::Result<Self> {
        Ok(Self { takeover: Takeover::default(), conntrack: Conntrack::open()? })
    }

    /// Looks, if it is time to, and removes what is in the way.
    ///
    /// # Errors
    ///
    /// As with [`Conntrack::get`].
    pub fn sweep(&mut self) -> io::Result<Swept> {
        let Self { takeover, conntrack } = self;
        let Some(mut pass) = takeover.begin(Instant::now()) else { return Ok(Swept::default()) };
        for look in pass.looks.clone() {
            conntrack.look(&look, |entry| takeover.see(&mut pass, &entry))?;
        }
        let over = takeover.end(pass, Instant::now());
        Ok(Swept { removed: conntrack.delete(&over)?, over })
    }
}

//! Many sockets that one thread sees to as something comes: with few system calls, for a machine's
//! processors are for those who are tested.
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use std::os::fd::AsFd;

/// As many events are taken at once.
const EVENTS: usize = 256;

/// What becomes of a socket that was seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is kept.
    GoOn,
    /// It is dropped.
    End,
}

/// Sockets that do not block, and what belongs to them.
pub(super) struct Ready<T> {
    epoll: Epoll,
    /// By the numbers that the kernel returns.
    sockets: Vec<Option<T>>,
    free: Vec<usize>,
    events: Vec<EpollEvent>,
}

impl<T: AsFd> Ready<T> {
    /// None yet.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, sockets: vec![], free: vec![], events: vec![EpollEvent::empty(); EVENTS] })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    /// One more.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn add(&mut self, socket: T) -> nix::Result<()> {
        let number = self.free.last().copied().unwrap_or(self.sockets.len());
        // Edges: told of once when it opens, and each time that something comes.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, number as u64))?;
        if self.free.pop().is_some() {
            self.sockets[number] = Some(socket);
        } else {
            self.sockets.push(Some(socket));
        }
        Ok(())
    }

    /// Waits until something has happened to one or more of them, but no longer than `limit`, and
    /// lets `see` do with each of those all that it can without blocking.
    ///
    /// # Errors
    /// None that the kernel has for an epoll of our own.
    pub(super) fn await_events(
        &mut self,
        limit: EpollTimeout,
        mut see: impl FnMut(&mut T) -> Then,
    ) -> nix::Result<()> {
        let mut limit = limit;
        loop {
            let count = match self.epoll.wait(&mut self.events, limit) {
                Err(Errno::EINTR) => 0,
                result => result?,
            };
            for event in 0..count {
                let number = self.events[event].data() as usize;
                let Some(socket) = &mut self.sockets[number] else { continue };
                if see(socket) == Then::End {
                    self.end(number);
                }
            }
            if count < EVENTS {
                return Ok(());
            }
            limit = EpollTimeout::ZERO;
        }
    }

    /// Lets `see` look at all of them.
    pub(super) fn each(&mut self, mut see: impl FnMut(&mut T) -> Then) {
        for number in 0..self.sockets.len() {
            let Some(socket) = &mut self.sockets[number] else { continue };
            if see(socket) == Then::End {
                self.end(number);
            }
        }
    }

    fn end(&mut self, number: usize) {
        // Once it is closed the kernel knows nothing of it.
        self.sockets[number] = None;
        self.free.push(number);
    }
}

//! New TCP connections at a steady rate, each for one request: what a change of the cluster does to
//! those that are just being opened.
//!
//! The loop is open: each connection begins when its moment has come, however many still wait.
use super::{
    connections::SLOW,
    namespace::Namespace,
    pod,
    probe::Running,
    ready::{Ready, Then},
    scenario::WEB_PORT,
};
use crate::wait;
use anyhow::{Context as _, Result, ensure};
use nix::sys::epoll::EpollTimeout;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A connection that has not been opened and answered by then has failed: TCP has repeated its SYN
/// twice.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many at most wait at a time, to each address: a generator that cannot keep up says so, rather
/// than fill the machine.
const WAITING: usize = 4000;

/// How often others learn what has come, and those are looked for whose time is over.
const PUBLISH: Duration = Duration::from_millis(50);

/// How often what has come is looked at, and what is due is begun: several at once cost less than a
/// wakeup for each.
const TICK: Duration = Duration::from_millis(1);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";

/// How a connection failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The client's end, if the kernel had given it one.
    pub local: Option<SocketAddr>,
    /// Since the load began.
    pub at: Duration,
    /// Since it was begun itself. From a second on, its SYN was lost (RFC 6298 section 2.1).
    pub waited: Duration,
    /// What happened.
    pub what: String,
}

/// What became of the connections of a while.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// For how long they were begun.
    pub lasted: Duration,
    /// How many of them each pod answered.
    pub pods: BTreeMap<String, usize>,
    /// How long each took that was answered, from the connect to the whole answer.
    pub took: Vec<Duration>,
    /// Those that were not.
    pub failures: Vec<Failure>,
    /// How late the generator was at most in beginning one: others had the machine.
    pub behind: Duration,
    /// How many were never begun since [`WAITING`] others were waiting.
    pub left_out: usize,
}

impl Report {
    /// How many ended in a second.
    pub fn rate(&self) -> f64 {
        (self.took.len() + self.failures.len()) as f64 / self.lasted.as_secs_f64()
    }

    /// What a share of those that were answered took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut took = self.took.clone();
        let last = took.len().saturating_sub(1);
        let at = ((took.len() as f64 * share) as usize).min(last);
        if took.is_empty() { Duration::ZERO } else { *took.select_nth_unstable(at).1 }
    }

    /// The slowest that was answered.
    pub fn slowest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }

    /// How many took longer than [`SLOW`].
    pub fn slow(&self) -> usize {
        self.took.iter().filter(|took| **took > SLOW).count()
    }

    /// Checks that all were answered.
    ///
    /// # Errors
    /// Says how many were not, and why the first were not.
    pub fn check(&self) -> Result<()> {
        let shown: Vec<_> = self.failures.iter().take(6).map(ToString::to_string).collect();
        ensure!(
            self.failures.is_empty(),
            "{} of {} connections failed: {}",
            self.failures.len(),
            self.took.len() + self.failures.len(),
            shown.join("; ")
        );
        Ok(())
    }

    fn add(&mut self, other: &mut Self) {
        self.took.append(&mut other.took);
        self.failures.append(&mut other.failures);
        for (pod, count) in std::mem::take(&mut other.pods) {
            *self.pods.entry(pod).or_default() += count;
        }
        self.behind = self.behind.max(std::mem::take(&mut other.behind));
        self.left_out += std::mem::take(&mut other.left_out);
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, at, waited, what } = self;
        let local = local.map(|local| local.to_string()).unwrap_or_default();
        let waited = waited.as_secs_f64() * 1e3;
        write!(
            f,
            "{local} {what} after {waited:.0} ms, {:.1} s from the beginning",
            at.as_secs_f64()
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{:.0} connections/s for {:.1} s, {} failed, p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, \
             slowest {:.1} ms, {} over {} ms; the client up to {:.1} ms behind, {} left out",
            self.rate(),
            self.lasted.as_secs_f64(),
            self.failures.len(),
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.quantile(0.999)),
            ms(self.slowest()),
            self.slow(),
            SLOW.as_millis(),
            ms(self.behind),
            self.left_out,
        )
    }
}

/// Connections that are begun until they are stopped.
pub struct Openings {
    running: Vec<Running<()>>,
    shared: Arc<Mutex<Report>>,
    since: Instant,
}

fn lock(shared: &Mutex<Report>) -> MutexGuard<'_, Report> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Openings {
    /// Begins `per_second` connections a second in all, evenly to these addresses, from a thread for
    /// each.
    ///
    /// # Errors
    /// There are no addresses, or no connections.
    pub fn begin(from: &Namespace, vips: &[IpAddr], per_second: u32) -> Result<Self> {
        ensure!(per_second > 0 && !vips.is_empty(), "nothing to do");
        let interval = Duration::from_secs(1) * u32::try_from(vips.len())? / per_second;
        let shared = Arc::new(Mutex::new(Report::default()));
        let since = Instant::now();
        let running = { vips.iter() }
            .map(|&vip| {
                let shared = Arc::clone(&shared);
                let to = (vip, WEB_PORT).into();
                Running::start(from, move |stop| {
                    Driver::new(to, since)?.drive(stop, &shared, interval)
                })
            })
            .collect();
        Ok(Self { running, shared, since })
    }

    /// Goes on for so long.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn run_for(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        wait::until_true(2 * time, "connections are begun", || {
            ensure!(self.running.iter().all(|running| !running.is_over()), "the client has ended");
            Ok(Instant::now() >= until)
        })
    }

    /// What became of those that have ended since the last time.
    pub fn report(&mut self) -> Report {
        let mut report = Report::default();
        report.add(&mut lock(&self.shared));
        let now = Instant::now();
        report.lasted = now - self.since;
        self.since = now;
        report
    }

    /// Begins no more, waits for the rest, and tells what became of it.
    ///
    /// # Errors
    /// The client's own kernel refuses something.
    pub fn stop(mut self) -> Result<Report> {
        self.running.drain(..).try_for_each(Running::stop)?;
        Ok(self.report())
    }
}

/// One that has been begun.
struct Opening {
    socket: Socket,
    local: Option<SocketAddr>,
    begun: Instant,
    asked: bool,
    /// What has come of the answer.
    answer: Vec<u8>,
}

impl AsFd for Opening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Opening {
    /// Asks once it is open, and takes the answer. Returns the pod's name once that is whole.
    fn go_on(&mut self) -> Result<Option<String>> {
        if !self.asked {
            // Of one that could not be opened this says why.
            self.socket.write_all(REQUEST).context("asking")?;
            // The answer is acknowledged by what closes the connection.
            self.socket.set_tcp_quickack(false)?;
            self.asked = true;
            return Ok(None);
        }
        let mut buffer = [0; 1024];
        loop {
            let length = match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                result => result.context("waiting for the answer")?,
            };
            ensure!(length > 0, "closed before the answer");
            self.answer.extend_from_slice(&buffer[..length]);
            // The body is one line, and the head has none that begins with a brace.
            if self.answer.ends_with(b"}\n") {
                return Ok(Some(pod::name(&self.answer)?.to_owned()));
            }
        }
    }
}

/// Begins connections to an address, and sees to them.
struct Driver {
    to: SocketAddr,
    since: Instant,
    waiting: Ready<Opening>,
    own: Report,
}

impl Driver {
    fn new(to: SocketAddr, since: Instant) -> Result<Self> {
        Ok(Self { to, since, waiting: Ready::new()?, own: Report::default() })
    }

    /// In even intervals until told to stop, and then until the last has ended.
    fn drive(
        mut self,
        stop: &AtomicBool,
        shared: &Mutex<Report>,
        interval: Duration,
    ) -> Result<()> {
        let mut tick = Instant::now();
        let mut next = tick;
        let mut published = tick;
        loop {
            self.look()?;
            let now = Instant::now();
            let stopping = stop.load(Relaxed);
            if published + PUBLISH <= now || stopping {
                self.give_up(now);
                lock(shared).add(&mut self.own);
                published = now;
            }
            if !stopping {
                self.own.behind = self.own.behind.max(now.saturating_duration_since(next));
                while next <= now {
                    next += interval;
                    self.begin()?;
                }
            } else if self.waiting.len() == 0 {
                return Ok(());
            }
            tick = (tick + TICK).max(now);
            wait::sleep_until(tick);
        }
    }

    fn begin(&mut self) -> Result<()> {
        if self.waiting.len() >= WAITING {
            self.own.left_out += 1;
            return Ok(());
        }
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(self.to), kind, Some(Protocol::TCP))?;
        let begun = Instant::now();
        let connected = socket.connect(&self.to.into());
        // Now: of a connection that is refused the kernel forgets it.
        let local = socket.local_addr()?.as_socket();
        match connected {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                let what = format!("connecting: {error}");
                let (at, waited) = (self.since.elapsed(), begun.elapsed());
                self.own.failures.push(Failure { local, at, waited, what });
            }
            _ => {
                self.waiting.add(Opening { socket, local, begun, asked: false, answer: vec![] })?;
            }
        }
        Ok(())
    }

    /// Takes what has come.
    fn look(&mut self) -> Result<()> {
        let Self { since, waiting, own, .. } = self;
        waiting.await_events(EpollTimeout::ZERO, |opening| {
            match opening.go_on() {
                Ok(None) => return Then::GoOn,
                Ok(Some(pod)) => {
                    own.took.push(opening.begun.elapsed());
                    *own.pods.entry(pod).or_default() += 1;
                }
                Err(error) => own.failures.push(Failure {
                    local: opening.local,
                    at: since.elapsed(),
                    waited: opening.begun.elapsed(),
                    what: format!("{error:#}"),
                }),
            }
            Then::End
        })?;
        Ok(())
    }

    /// Ends those whose time is over.
    fn give_up(&mut self, now: Instant) {
        let Self { since, waiting, own, .. } = self;
        waiting.each(|opening| {
            if opening.begun + PATIENCE >= now {
                return Then::GoOn;
            }
            own.failures.push(Failure {
                local: opening.local,
                at: since.elapsed(),
                waited: opening.begun.elapsed(),
                what: format!("no answer for {PATIENCE:?}"),
            });
            Then::End
        });
    }
}

//! Many TCP connections at once, each with a request in regular intervals: what a change of the
//! cluster does to them.
use super::{namespace::Namespace, pod::Answer, probe::Running};
use crate::wait;
use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// What is a stall, usually: TCP's own repetitions fill a short gap unnoticed.
pub const STALL: Duration = Duration::from_secs(2);

/// What a client notices; a segment that is lost costs twice as much at least (RFC 6298).
pub const SLOW: Duration = Duration::from_millis(100);

/// How often others learn how far the connections are.
const PUBLISH: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many connections are open at any time.
    pub connections: usize,
    /// Between two requests of one.
    pub interval: Duration,
    /// After how long one is closed by the client, in order, and another opened; none lives for
    /// ever.
    pub life: Option<Duration>,
    /// An answer, or the opening, that takes longer is a failure.
    pub patience: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self { connections: 300, interval: Duration::from_millis(250), life: None, patience: STALL }
    }
}

/// How a connection was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It could not be opened.
    NotOpened(String),
    /// It was reset.
    Reset,
    /// The other side closed it.
    Closed,
    /// An answer came, but late.
    Stalled(Duration),
    /// No answer came till the end.
    Silent(Duration),
    /// Something else, which does not happen.
    Strange(String),
}

/// A connection that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The client's end.
    pub local: Option<SocketAddr>,
    /// The pod that had answered on it.
    pub pod: Option<String>,
    /// Since the beginning.
    pub at: Duration,
    /// How.
    pub what: Broken,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, pod, at, what } = self;
        let local = local.map(|l| l.to_string()).unwrap_or_default();
        let pod = pod.as_deref().unwrap_or("no pod yet");
        write!(f, "{local} ({pod}) {what:?} after {:.1} s", at.as_secs_f64())
    }
}

/// What became of all.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections begun.
    pub opened: usize,
    /// Requests answered.
    pub answers: usize,
    /// How many connections each pod served.
    pub pods: BTreeMap<String, usize>,
    /// Those that were broken.
    pub failures: Vec<Failure>,
    /// The longest time that an answer, or the opening, took.
    pub longest: Duration,
    /// How many took longer than [`SLOW`].
    pub slow: usize,
}

impl Report {
    /// Checks that nothing was broken.
    ///
    /// # Errors
    /// Says how many were, and how the first were.
    pub fn check(&self) -> Result<()> {
        self.check_but(&[])
    }

    /// Checks that all connections to `lost` pods were broken, and no others.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check_but(&self, lost: &[&str]) -> Result<()> {
        let expected =
            |failure: &&Failure| failure.pod.as_deref().is_some_and(|pod| lost.contains(&pod));
        let wrong: Vec<_> = self.failures.iter().filter(|f| !expected(f)).collect();
        let mut shown = String::new();
        for failure in wrong.iter().take(6) {
            shown += &format!("; {failure}");
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} connections were broken{shown}",
            wrong.len(),
            self.opened
        );
        for pod in lost {
            let had = self.pods.get(*pod).copied().unwrap_or_default();
            let broken = self.failures.iter().filter(|f| f.pod.as_deref() == Some(*pod)).count();
            ensure!(had == broken, "{broken} of the {had} connections to {pod} were broken");
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opened, answers, pods, failures, longest, slow } = self;
        let shares: Vec<_> = pods.iter().map(|(pod, n)| format!("{pod} {n}")).collect();
        write!(
            f,
            "{opened} connections ({}), {answers} answers, {} broken, the slowest answer {} ms, \
             {slow} slower than {} ms",
            shares.join(", "),
            failures.len(),
            longest.as_millis(),
            SLOW.as_millis()
        )
    }
}

/// What the thread that serves the connections tells of each.
#[derive(Clone, Debug, Default)]
struct Progress {
    answers: u64,
    pod: Option<String>,
    open: bool,
    broken: bool,
    /// Since when it waits for an answer.
    waits: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    progress: Vec<Progress>,
    report: Report,
}

/// Connections that are open, until they are stopped.
pub struct Connections {
    running: Running<()>,
    shared: Arc<Mutex<Shared>>,
    load: Load,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// Opens them; returns once each has had an answer.
    ///
    /// # Errors
    /// Some do not get that far.
    pub fn open(from: &Namespace, to: SocketAddr, load: Load) -> Result<Self> {
        let progress = vec![Progress::default(); load.connections];
        let shared = Arc::new(Mutex::new(Shared { progress, ..Shared::default() }));
        let running = Running::start(from, {
            let shared = Arc::clone(&shared);
            move |stop| drive(stop, &shared, to, load)
        });
        let connections = Self { running, shared, load };
        let result = connections.await_answers(1);
        let shared = lock(&connections.shared);
        result.and_then(|()| shared.report.check()).with_context(|| format!("opening to {to}"))?;
        drop(shared);
        Ok(connections)
    }

    /// Waits until each connection that is not broken has had `count` more answers; one that gets
    /// none for long will be told of at the end.
    ///
    /// # Errors
    /// None gets any within four times what they take, and eight seconds.
    pub fn await_answers(&self, count: u64) -> Result<()> {
        let counts = || lock(&self.shared).progress.iter().map(|p| p.answers).collect::<Vec<_>>();
        let before = counts();
        let limit = self.load.interval * u32::try_from(4 * count)? + Duration::from_secs(8);
        let all = wait::until_true(limit, "all connections get answers", || {
            let shared = lock(&self.shared);
            let mut all = shared.progress.iter().zip(&before);
            Ok(all.all(|(progress, before)| progress.broken || progress.answers >= before + count))
        });
        match all {
            Err(error) if counts() == before => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until each connection to one of `pods` is broken, or gets no answer any more.
    ///
    /// # Errors
    /// Some still get answers after six times as long.
    pub fn await_silence(&self, pods: &[&str]) -> Result<()> {
        let patience = self.load.patience;
        wait::until_true(6 * patience, &format!("{} are silent", pods.join(", ")), || {
            let shared = lock(&self.shared);
            let mut theirs = shared
                .progress
                .iter()
                .filter(|p| p.pod.as_deref().is_some_and(|pod| pods.contains(&pod)));
            Ok(theirs.all(|p| p.broken || p.waits.is_some_and(|since| since.elapsed() > patience)))
        })
    }

    /// How many of those that are open now each pod serves.
    pub fn pods(&self) -> BTreeMap<String, usize> {
        let mut pods = BTreeMap::new();
        for progress in lock(&self.shared).progress.iter().filter(|p| p.open) {
            if let Some(pod) = &progress.pod {
                *pods.entry(pod.clone()).or_default() += 1;
            }
        }
        pods
    }

    /// Ends all, and tells what became of them.
    ///
    /// # Errors
    /// The client's own kernel refuses something.
    pub fn stop(self) -> Result<Report> {
        self.running.stop()?;
        Ok(lock(&self.shared).report.clone())
    }
}

enum State {
    /// Not open; the next attempt is due.
    None,
    Opening,
    /// The next request is due.
    Idle,
    Waiting,
    /// For good.
    Broken,
}

struct Slot {
    state: State,
    socket: Option<Socket>,
    local: Option<SocketAddr>,
    opened: Instant,
    /// When the next request, or attempt to open, is due; while waiting, when it was sent.
    moment: Instant,
    received: Vec<u8>,
    /// The first answer, byte by byte: all of a connection are the same.
    first: Vec<u8>,
    progress: Progress,
}

/// Serves all connections until told to stop.
fn drive(stop: &AtomicBool, shared: &Mutex<Shared>, to: SocketAddr, load: Load) -> Result<()> {
    let begin = Instant::now();
    let count = u32::try_from(load.connections)?.max(1);
    let mut slots: Vec<_> = (0..count)
        // All over the interval, not at once.
        .map(|i| Slot::new(begin + load.interval * i / count))
        .collect();
    let mut report = Report::default();
    let mut driver = Driver { to, load, begin, report: &mut report };
    let mut published = begin;
    loop {
        let now = Instant::now();
        slots.iter_mut().try_for_each(|slot| driver.act(slot, now))?;
        if stop.load(Relaxed) {
            slots.iter_mut().for_each(|slot| driver.end(slot));
            driver.publish(shared, &slots);
            return Ok(());
        }
        if published + PUBLISH <= now {
            driver.publish(shared, &slots);
            published = now;
        }
        let next = slots.iter().filter_map(Slot::due).min();
        let pause = next.map_or(load.interval, |next| next.saturating_duration_since(now));
        for position in await_events(pause.min(PUBLISH), &slots)? {
            driver.take(&mut slots[position]);
        }
        // Several at once cost less, and machines are small.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for events; returns the positions of those that have some.
fn await_events(limit: Duration, slots: &[Slot]) -> Result<Vec<usize>> {
    let (positions, mut polled): (Vec<_>, Vec<_>) = slots
        .iter()
        .enumerate()
        .filter_map(|(position, slot)| {
            let socket = slot.socket.as_ref()?;
            let opening = matches!(slot.state, State::Opening);
            let flags = if opening { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            Some((position, PollFd::new(socket.as_fd(), flags)))
        })
        .unzip();
    // Rounded up: what is due in less than a millisecond is waited for once.
    let timeout = PollTimeout::try_from(i32::try_from(limit.as_micros().div_ceil(1000))?)?;
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = positions.into_iter().zip(&polled);
    Ok(ready.filter(|(_, p)| p.any().unwrap_or(true)).map(|(position, _)| position).collect())
}

impl Slot {
    fn new(moment: Instant) -> Self {
        Self {
            state: State::None,
            socket: None,
            local: None,
            opened: moment,
            moment,
            received: vec![],
            first: vec![],
            progress: Progress::default(),
        }
    }

    fn due(&self) -> Option<Instant> {
        matches!(self.state, State::None | State::Idle).then_some(self.moment)
    }
}

struct Driver<'a> {
    to: SocketAddr,
    load: Load,
    begin: Instant,
    report: &'a mut Report,
}

impl Driver<'_> {
    fn publish(&self, shared: &Mutex<Shared>, slots: &[Slot]) {
        let mut shared = lock(shared);
        for (progress, slot) in shared.progress.iter_mut().zip(slots) {
            progress.clone_from(&slot.progress);
        }
        shared.report.clone_from(self.report);
    }

    /// Does what is due.
    fn act(&mut self, slot: &mut Slot, now: Instant) -> Result<()> {
        match slot.state {
            State::None if slot.moment <= now => self.open(slot, now)?,
            State::Opening if slot.moment + self.load.patience < now => {
                let patience = self.load.patience;
                self.fail(slot, Broken::NotOpened(format!("no answer for {patience:?}")));
            }
            State::Idle if slot.moment <= now => {
                let over = self.load.life.is_some_and(|life| slot.opened + life <= now);
                if over {
                    slot.socket = None;
                    slot.progress.open = false;
                    self.open(slot, now)?;
                } else {
                    self.ask(slot, now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, slot: &mut Slot, now: Instant) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        *slot = Slot {
            state: State::Opening,
            opened: now,
            progress: Progress { answers: slot.progress.answers, ..Progress::default() },
            ..Slot::new(now)
        };
        self.report.opened += 1;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                self.fail(slot, Broken::NotOpened(error.to_string()));
            }
            _ => {
                slot.local = socket.local_addr()?.as_socket();
                slot.socket = Some(socket);
            }
        }
        Ok(())
    }

    fn ask(&mut self, slot: &mut Slot, now: Instant) {
        let Some(socket) = &mut slot.socket else { return };
        match socket.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n") {
            Ok(()) => {
                slot.state = State::Waiting;
                slot.moment = now;
                slot.progress.waits = Some(now);
            }
            Err(error) => self.fail(slot, broken_by(&error)),
        }
    }

    /// Takes what has come.
    fn take(&mut self, slot: &mut Slot) {
        let Some(socket) = &mut slot.socket else { return };
        if matches!(slot.state, State::Opening) {
            match socket.take_error() {
                Ok(None) => {
                    self.took(slot.opened.elapsed());
                    slot.progress.open = true;
                    self.ask(slot, Instant::now());
                }
                Ok(Some(error)) | Err(error) => {
                    self.fail(slot, Broken::NotOpened(error.to_string()));
                }
            }
            return;
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer) {
            Ok(0) => self.fail(slot, Broken::Closed),
            Ok(length) => {
                slot.received.extend_from_slice(&buffer[..length]);
                // The body is one line, and the head has none that begins with a brace.
                if slot.received.ends_with(b"}\n") {
                    self.answered(slot);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
            Err(error) => self.fail(slot, broken_by(&error)),
        }
    }

    fn answered(&mut self, slot: &mut Slot) {
        let answer = std::mem::take(&mut slot.received);
        if slot.first.is_empty() {
            let body = answer.iter().position(|&byte| byte == b'{').unwrap_or(0);
            match serde_json::from_slice::<Answer>(&answer[body..]) {
                Ok(parsed) => {
                    *self.report.pods.entry(parsed.pod.clone()).or_default() += 1;
                    slot.progress.pod = Some(parsed.pod);
                    slot.first = answer;
                }
                Err(error) => return self.fail(slot, Broken::Strange(error.to_string())),
            }
        } else if slot.first != answer {
            let text = String::from_utf8_lossy(&answer).into_owned();
            return self.fail(slot, Broken::Strange(text));
        }
        let took = slot.moment.elapsed();
        self.report.answers += 1;
        self.took(took);
        slot.progress.answers += 1;
        slot.progress.waits = None;
        slot.state = State::Idle;
        slot.moment = (slot.moment + self.load.interval).max(Instant::now());
        if took > self.load.patience {
            self.tell(slot, Broken::Stalled(took));
        }
    }

    /// At the end, one that still waits for an answer is told of.
    fn end(&mut self, slot: &mut Slot) {
        let waited = slot.moment.elapsed();
        if matches!(slot.state, State::Waiting) && waited > self.load.patience {
            self.report.longest = self.report.longest.max(waited);
            self.fail(slot, Broken::Silent(waited));
        }
    }

    fn took(&mut self, time: Duration) {
        self.report.longest = self.report.longest.max(time);
        self.report.slow += usize::from(time > SLOW);
    }

    fn tell(&mut self, slot: &Slot, what: Broken) {
        self.report.failures.push(Failure {
            local: slot.local,
            pod: slot.progress.pod.clone(),
            at: self.begin.elapsed(),
            what,
        });
    }

    /// It is broken for good, but where connections follow on each other.
    fn fail(&mut self, slot: &mut Slot, what: Broken) {
        self.tell(slot, what);
        slot.socket = None;
        slot.progress.open = false;
        if self.load.life.is_some() {
            slot.state = State::None;
            slot.moment = Instant::now() + self.load.interval;
        } else {
            slot.progress.broken = true;
            slot.state = State::Broken;
        }
    }
}

fn broken_by(error: &io::Error) -> Broken {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Broken::Reset,
        // An ICMP error, or TCP's own patience was at its end.
        _ => Broken::Strange(error.to_string()),
    }
}

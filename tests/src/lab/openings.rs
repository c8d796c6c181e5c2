//! New TCP connections at a steady rate, each for one request: what a change of the cluster does to
//! those that are just being opened.
//!
//! The loop is open: each connection begins when its moment has come, however many still wait.
use super::{
    connections::SLOW, namespace::Namespace, pod::Answer, probe::Running, scenario::WEB_PORT,
};
use crate::wait;
use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    task::{self, LocalSet},
    time,
};

/// A connection that has not been opened and answered by then has failed: TCP has repeated its SYN
/// twice.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many at most wait at a time, to each address: a generator that cannot keep up says so, rather
/// than fill the machine.
const WAITING: usize = 4000;

/// How often others learn what has come.
const PUBLISH: Duration = Duration::from_millis(50);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";

/// How a connection failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The client's end, if the kernel had given it one.
    pub local: Option<SocketAddr>,
    /// Since the load began.
    pub at: Duration,
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
        let Self { local, at, what } = self;
        let local = local.map(|local| local.to_string()).unwrap_or_default();
        write!(f, "{local} {what} after {:.1} s", at.as_secs_f64())
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
                    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                    LocalSet::new().block_on(&runtime, drive(stop, &shared, to, interval, since))
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

/// Begins connections to an address in even intervals until told to stop.
async fn drive(
    stop: &AtomicBool,
    shared: &Mutex<Report>,
    to: SocketAddr,
    interval: Duration,
    since: Instant,
) -> Result<()> {
    let own = Rc::new(RefCell::new(Report::default()));
    let mut next = Instant::now();
    let mut published = next;
    loop {
        let now = Instant::now();
        let stopping = stop.load(Relaxed);
        // Each task has one of its own.
        let waiting = Rc::strong_count(&own) - 1;
        if published + PUBLISH <= now || stopping {
            lock(shared).add(&mut own.borrow_mut());
            published = now;
        }
        if stopping {
            if waiting == 0 {
                return Ok(());
            }
            time::sleep(PUBLISH).await;
            continue;
        }
        {
            let mut own = own.borrow_mut();
            own.behind = own.behind.max(now.saturating_duration_since(next));
        }
        while next <= now {
            next += interval;
            if Rc::strong_count(&own) > WAITING {
                own.borrow_mut().left_out += 1;
                continue;
            }
            let own = Rc::clone(&own);
            task::spawn_local(async move {
                let mut local = None;
                let begun = Instant::now();
                let result = time::timeout(PATIENCE, once(to, &mut local)).await;
                let took = begun.elapsed();
                let mut own = own.borrow_mut();
                let what = match result {
                    Ok(Ok(pod)) => {
                        own.took.push(took);
                        *own.pods.entry(pod).or_default() += 1;
                        return;
                    }
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => format!("no answer for {PATIENCE:?}"),
                };
                own.failures.push(Failure { local, at: since.elapsed(), what });
            });
        }
        time::sleep_until(next.into()).await;
    }
}

/// Opens one, asks, and closes it in order. Returns the pod's name.
async fn once(to: SocketAddr, local: &mut Option<SocketAddr>) -> Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            return Err(error).context("connecting");
        }
        _ => {}
    }
    // Not by tokio's own means: of a connection that is refused they would not tell the port.
    *local = socket.local_addr()?.as_socket();
    let mut stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err).context("connecting")?;
    stream.write_all(REQUEST).await.context("asking")?;
    let mut answer = Vec::with_capacity(1024);
    // The body is one line, and the head has none that begins with a brace.
    while !answer.ends_with(b"}\n") {
        let length = stream.read_buf(&mut answer).await.context("waiting for the answer")?;
        if length == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof))
                .context("waiting for the answer");
        }
    }
    let body = answer.iter().position(|&byte| byte == b'{').unwrap_or(0);
    Ok(serde_json::from_slice::<Answer>(&answer[body..])?.pod)
}

//! What a client sends: single requests, many to see how they spread, and steady streams
//! to see what is lost.
use super::{
    namespace::{Namespace, udp_here},
    pod::Answer,
    ports::{PROBES, SPREAD},
};
use crate::{system, wait};
use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a single request may take.
const LIMIT: Duration = Duration::from_secs(2);

/// One HTTP request on a connection of its own.
///
/// # Errors
/// No connection, or no answer of a pod within two seconds.
pub fn http(from: &Namespace, address: IpAddr, port: u16) -> Result<Answer> {
    Connection::open(from, address, port)?.request()
}

/// One UDP probe from a socket of its own.
///
/// # Errors
/// No answer within two seconds.
pub fn udp(from: &Namespace, address: IpAddr, port: u16) -> Result<Answer> {
    let socket = from.udp((address, port).into())?;
    exchange(&socket, LIMIT)
}

fn exchange(socket: &UdpSocket, patience: Duration) -> Result<Answer> {
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"probe")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(serde_json::from_slice(&buffer[..length])?)
}

/// A connection that is kept, for one request after another.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// Refused, or not within two seconds.
    pub fn open(from: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        Ok(Self(BufReader::new(from.connect((address, port).into(), LIMIT)?)))
    }

    /// The same from an address and port of one's own choice.
    ///
    /// # Errors
    /// As [`Self::open`]; or the port is taken.
    pub fn open_from(
        from: &Namespace,
        local: SocketAddr,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Self> {
        from.enter(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&local.into()).with_context(|| format!("binding to {local}"))?;
            socket
                .connect_timeout(&to.into(), patience)
                .with_context(|| format!("connecting from {local} to {to}"))?;
            Self::over(socket.into(), patience)
        })
    }

    fn here(to: SocketAddr, patience: Duration) -> Result<Self> {
        Self::over(TcpStream::connect_timeout(&to, patience)?, patience)
    }

    fn over(stream: TcpStream, patience: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks once.
    ///
    /// # Errors
    /// The connection is broken, or nothing comes within two seconds.
    pub fn request(&mut self) -> Result<Answer> {
        self.exchange(0, 0)
    }

    /// Sends `up` bytes with the request, and gets `down` bytes in the answer.
    ///
    /// # Errors
    /// As [`Self::request`]; or the answer has another length.
    pub fn exchange(&mut self, up: usize, down: usize) -> Result<Answer> {
        let request =
            format!("GET /{down} HTTP/1.1\r\nHost: web\r\nX-Bytes: {}\r\n\r\n", "x".repeat(up));
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut length = None;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection was closed");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        self.0.read_exact(&mut body)?;
        let answer: Answer = serde_json::from_slice(&body)?;
        let length = answer.echo.as_ref().map_or(0, String::len);
        ensure!(length == down, "asked for {down} bytes, got {length}");
        Ok(answer)
    }
}

/// Over what many requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HTTP, a connection for each.
    Tcp,
    /// A datagram each, from a socket of its own.
    Udp,
}

/// How many requests spread.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// Answers of each pod.
    pub pods: BTreeMap<String, usize>,
    /// Answers from each node.
    pub nodes: BTreeMap<String, usize>,
    /// The client's addresses that pods saw.
    pub clients: BTreeSet<IpAddr>,
    /// Requests that were not answered, and why the first was not.
    pub failed: usize,
    /// The first failure.
    pub first_failure: Option<String>,
}

/// Sends `count` requests, one after another, and gives up after five that failed.
///
/// # Errors
/// The namespace is gone; requests that fail are counted.
pub fn spread(from: &Namespace, over: Over, to: SocketAddr, count: usize) -> Result<Spread> {
    spread_with(from, over, to, count, (LIMIT, 5), |to| SPREAD.udp_here(to))
}

/// The same for looking whether things are as they shall be yet: soon gives up, and its datagrams come from
/// any port, since those that it sends too early may be remembered.
///
/// # Errors
/// As [`spread`].
pub fn try_spread(from: &Namespace, over: Over, to: SocketAddr, count: usize) -> Result<Spread> {
    spread_with(from, over, to, count, (Duration::from_millis(100), 1), udp_here)
}

fn spread_with(
    from: &Namespace,
    over: Over,
    to: SocketAddr,
    count: usize,
    (patience, failures): (Duration, usize),
    udp: impl Fn(SocketAddr) -> std::io::Result<UdpSocket> + Sync,
) -> Result<Spread> {
    from.enter(|| {
        let mut spread = Spread::default();
        for _ in 0..count {
            let answer = match over {
                Over::Tcp => Connection::here(to, patience).and_then(|mut c| c.request()),
                Over::Udp => udp(to).map_err(Into::into).and_then(|s| exchange(&s, patience)),
            };
            match answer {
                Ok(answer) => {
                    *spread.pods.entry(answer.pod).or_default() += 1;
                    *spread.nodes.entry(answer.node).or_default() += 1;
                    spread.clients.insert(answer.client);
                }
                Err(error) => {
                    spread.failed += 1;
                    spread.first_failure.get_or_insert_with(|| format!("{error:#}"));
                    // A dead path shows soon enough; what remains would only take time.
                    if spread.failed == failures {
                        break;
                    }
                }
            }
        }
        Ok(spread)
    })
}

impl Spread {
    /// Checks that each of `pods` got a fair share, and nobody else anything; that nothing failed;
    /// and that all saw `client`.
    ///
    /// Fair is an even share, give or take 15 % for the rows, which are not exactly as many for
    /// each pod, and four standard deviations for the flows' hashes.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self, pods: &[&str], client: IpAddr) -> Result<()> {
        if let Some(failure) = &self.first_failure {
            bail!("{} requests failed, the first: {failure}", self.failed);
        }
        let even = self.pods.values().sum::<usize>() as f64 / pods.len() as f64;
        let tolerance = 0.15 + 4.0 / even.sqrt();
        for pod in pods {
            let share = *self.pods.get(*pod).unwrap_or(&0) as f64 / even;
            ensure!(
                share > 0.0 && (share - 1.0).abs() <= tolerance,
                "{pod} got {:.0} % of an even share: {self}",
                share * 100.0
            );
        }
        ensure!(self.pods.len() == pods.len(), "pods answered that should not: {self}");
        ensure!(
            self.clients == BTreeSet::from([client]),
            "the client is {client}, but the pods saw {:?}",
            self.clients
        );
        Ok(())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares: Vec<_> = self.pods.iter().map(|(pod, n)| format!("{pod} {n}")).collect();
        f.write_str(&shares.join(", "))
    }
}

/// A thread that probes until it is stopped.
pub struct Running<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Running<T> {
    /// Starts one in a namespace; `body` is to end soon once it is told to stop.
    pub fn start(
        from: &Namespace,
        body: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
    ) -> Self {
        let path = from.path();
        Self::start_here(move |stop| {
            system::enter_network_namespace(&path)?;
            body(stop)
        })
    }

    /// The same in the namespace of this process.
    pub fn start_here(body: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || body(&stop)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Whether it has ended by itself.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the probing, and tells what was seen.
    ///
    /// # Errors
    /// It ended by itself, with an error.
    ///
    /// # Panics
    /// Where the thread did.
    pub fn stop(mut self) -> Result<T> {
        self.stop.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => bail!("already stopped"),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// What probes from ever new sockets saw.
#[derive(Clone, Debug)]
pub struct Gaps {
    /// How many were sent.
    pub sent: usize,
    /// When each answered one was sent, in order.
    pub answered: Vec<Instant>,
}

impl Gaps {
    /// How many were not answered.
    pub fn lost(&self) -> usize {
        self.sent - self.answered.len()
    }

    /// The longest time between the sending of two answered probes.
    pub fn longest(&self) -> Duration {
        self.answered.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(Duration::MAX)
    }
}

/// Sends a UDP probe every `interval`, each from a socket of its own, so that no dead
/// flow hides that others live again.
pub fn watch_gaps(from: &Namespace, to: SocketAddr, interval: Duration) -> Running<Gaps> {
    Running::start(from, move |stop| {
        let mut gaps = Gaps { sent: 0, answered: vec![] };
        let mut waiting: VecDeque<(Instant, UdpSocket)> = VecDeque::new();
        let mut buffer = [0; 2048];
        let mut next = Instant::now();
        loop {
            let stopping = stop.load(Relaxed);
            if !stopping {
                // While a link is down there may be no route: such a probe is lost.
                if let Ok(socket) = PROBES.udp_here(to) {
                    socket.set_nonblocking(true)?;
                    let now = Instant::now();
                    if socket.send(b"probe").is_ok() {
                        waiting.push_back((now, socket));
                    }
                }
                gaps.sent += 1;
            }
            next += interval;
            wait::sleep_until(next);
            waiting.retain(|(sent, socket)| {
                let open = socket.recv(&mut buffer).is_err();
                if !open {
                    gaps.answered.push(*sent);
                }
                open && sent.elapsed() < Duration::from_secs(1)
            });
            if stopping && (waiting.is_empty() || waiting.iter().all(|(s, _)| s.elapsed() > LIMIT))
            {
                gaps.answered.sort_unstable();
                return Ok(gaps);
            }
        }
    })
}

/// What one running flow saw.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// How many datagrams were sent.
    pub sent: usize,
    /// How many different ones came back.
    pub answered: usize,
    /// Who answered.
    pub pods: BTreeSet<String>,
}

impl Flow {
    /// Datagrams that did not come back.
    pub fn lost(&self) -> usize {
        self.sent - self.answered
    }
}

/// Sends numbered datagrams from one socket, one every `interval`.
pub fn watch_flow(from: &Namespace, to: SocketAddr, interval: Duration) -> Running<Flow> {
    Running::start(from, move |stop| {
        let socket = udp_here(to)?;
        let receiver = socket.try_clone()?;
        receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_flow(&receiver, &done));
            let mut sent = 0;
            let mut next = Instant::now();
            while !stop.load(Relaxed) {
                // An ICMP error of an earlier one may be reported here; it counts by its loss.
                let _ = socket.send(sent.to_string().as_bytes());
                sent += 1;
                next += interval;
                wait::sleep_until(next);
            }
            done.store(true, Relaxed);
            let (numbers, pods) =
                receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Flow { sent, answered: numbers.len(), pods })
        })
    })
}

/// Takes answers until none comes for a while after the end.
fn receive_flow(
    socket: &UdpSocket,
    done: &AtomicBool,
) -> Result<(BTreeSet<usize>, BTreeSet<String>)> {
    let (mut numbers, mut pods) = (BTreeSet::new(), BTreeSet::new());
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer: Answer = serde_json::from_slice(&buffer[..length])?;
                numbers.insert(answer.echo.unwrap_or_default().parse()?);
                pods.insert(answer.pod);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if done.load(Relaxed) {
                    return Ok((numbers, pods));
                }
            }
            // An ICMP error of an earlier datagram.
            Err(_) => {}
        }
    }
}

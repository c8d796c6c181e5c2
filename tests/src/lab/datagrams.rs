//! Many UDP flows at once, each from a port of its own that it keeps: what a change of the
//! cluster does to them.
use super::{namespace::Namespace, pod::Answer, ports::PROBES, probe::Running};
use crate::wait;
use anyhow::{Result, bail, ensure};
use std::{
    fmt,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Between two datagrams of a flow.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// An answer that has not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The client's port.
    pub port: u16,
    /// Datagrams sent.
    pub sent: usize,
    /// Those that were answered.
    pub answered: usize,
    /// The pods that answered, in the order in which they first did.
    pub pods: Vec<String>,
    /// The first and the last number that was not answered.
    pub missing: Option<(usize, usize)>,
}

/// What became of all.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The flows.
    pub flows: Vec<Flow>,
}

impl Report {
    /// Datagrams without an answer.
    pub fn lost(&self) -> usize {
        self.flows.iter().map(|flow| flow.sent - flow.answered).sum()
    }

    /// Checks that each flow was answered by one pod only.
    ///
    /// # Errors
    /// Says which was not.
    pub fn check_pods(&self) -> Result<()> {
        let mut moved = self.flows.iter().filter(|flow| flow.pods.len() != 1);
        if let Some(first) = moved.next() {
            bail!(
                "{} of {} flows moved, the one from port {} by {}",
                moved.count() + 1,
                self.flows.len(),
                first.port,
                first.pods.join(" to ")
            );
        }
        Ok(())
    }

    /// The same, and that every datagram was answered.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self) -> Result<()> {
        self.check_pods()?;
        let flow = self.flows.iter().find(|flow| flow.missing.is_some());
        ensure!(flow.is_none(), "{self}; the first: {flow:?}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent: usize = self.flows.iter().map(|flow| flow.sent).sum();
        write!(f, "{} of {sent} datagrams of {} flows lost", self.lost(), self.flows.len())
    }
}

/// Flows that go on until they are stopped.
pub struct Datagrams {
    running: Running<Report>,
    /// Rounds sent.
    rounds: Arc<AtomicUsize>,
}

impl Datagrams {
    /// Begins them.
    pub fn begin(from: &Namespace, to: SocketAddr, flows: usize) -> Self {
        let rounds = Arc::new(AtomicUsize::new(0));
        let running = Running::start(from, {
            let rounds = Arc::clone(&rounds);
            move |stop| drive(stop, &rounds, to, flows)
        });
        Self { running, rounds }
    }

    /// Waits until each flow has sent `count` more datagrams.
    ///
    /// # Errors
    /// Their thread has ended.
    pub fn await_rounds(&self, count: usize) -> Result<()> {
        let goal = self.rounds.load(Relaxed) + count;
        let limit = INTERVAL * u32::try_from(4 * count)? + Duration::from_secs(8);
        wait::until_true(limit, "datagrams are sent", || Ok(self.rounds.load(Relaxed) >= goal))
    }

    /// Ends them, and tells what became of them.
    ///
    /// # Errors
    /// The client's own kernel refuses something.
    pub fn stop(self) -> Result<Report> {
        self.running.stop()
    }
}

struct Client {
    socket: UdpSocket,
    flow: Flow,
    /// By number, whether it was answered.
    answers: Vec<bool>,
}

fn drive(stop: &AtomicBool, rounds: &AtomicUsize, to: SocketAddr, flows: usize) -> Result<Report> {
    let mut clients = (0..flows)
        .map(|_| {
            let socket = PROBES.udp_here(to)?;
            socket.set_nonblocking(true)?;
            let flow = Flow { port: socket.local_addr()?.port(), ..Flow::default() };
            Ok(Client { socket, flow, answers: vec![] })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut next = Instant::now();
    while !stop.load(Relaxed) {
        for client in &mut clients {
            client.receive()?;
            let number = client.flow.sent.to_string();
            // An ICMP error of an earlier one may be reported here; it counts by its loss.
            let _ = client.socket.send(number.as_bytes());
            client.flow.sent += 1;
            client.answers.push(false);
        }
        rounds.fetch_add(1, Relaxed);
        next += INTERVAL;
        wait::sleep_until(next);
    }
    let end = Instant::now() + PATIENCE;
    loop {
        for client in &mut clients {
            client.receive()?;
        }
        let complete = clients.iter().all(|client| client.flow.answered == client.flow.sent);
        if complete || Instant::now() > end {
            break;
        }
        wait::sleep_until(Instant::now() + Duration::from_millis(10));
    }
    Ok(Report { flows: clients.into_iter().map(Client::result).collect() })
}

impl Client {
    /// Takes all answers that are there.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                // An ICMP error of an earlier datagram.
                Err(_) => continue,
            };
            let answer: Answer = serde_json::from_slice(&buffer[..length])?;
            let number: usize = answer.echo.unwrap_or_default().parse()?;
            ensure!(number < self.answers.len(), "an answer to what was not sent: {number}");
            if !self.answers[number] {
                self.answers[number] = true;
                self.flow.answered += 1;
            }
            if !self.flow.pods.contains(&answer.pod) {
                self.flow.pods.push(answer.pod);
            }
        }
    }

    fn result(mut self) -> Flow {
        let missing = |answered: &&bool| !**answered;
        let first = self.answers.iter().position(|answered| missing(&answered));
        let last = self.answers.iter().rposition(|answered| missing(&answered));
        self.flow.missing = first.zip(last);
        self.flow
    }
}

//! Clients that have said all they have to say, and go on receiving.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{agent::Agent, routed::Routed, scenario, scenario::WEB_PORT},
    suite, wait,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Connections to each address.
const CONNECTIONS: usize = 6;

/// Bytes of an answer: many times what the client takes in before it reads.
const ANSWER: usize = 2_000_000;
const BUFFER: usize = 32 * 1024;

/// So long a client reads nothing, and says nothing but in answer to the probes of its window, which
/// come at 0.2, 0.6, 1.4, 3 and 6.2 seconds. After three seconds its port may be another's.
const SILENCE: Duration = Duration::from_secs(8);

/// How long an answer may take then: without agents two questions that nobody answers come first, and
/// TCP's intervals have grown by then.
const LIMIT: Duration = Duration::from_secs(90);

/// Nothing of their answers is lost, with the agents' help or, in a full run, without any agent.
pub(crate) fn go_on(routed: &mut Routed) -> Result<()> {
    silent_for_a_while(routed, |_| Ok(()))?;
    if !suite::full() {
        return Ok(());
    }
    silent_for_a_while(routed, |routed| routed.cluster.agents.drain(..).try_for_each(Agent::kill))?;
    routed.cluster.agents = scenario::start_agents(&routed.cluster.lab, &routed.cluster.options)?;
    routed.await_all_serve()
}

fn silent_for_a_while(
    routed: &mut Routed,
    meanwhile: impl FnOnce(&mut Routed) -> Result<()>,
) -> Result<()> {
    let mut streams = vec![];
    for vip in routed.cluster.vips {
        for _ in 0..CONNECTIONS {
            streams.push(routed.remote()?.namespace.enter(|| ask_and_close(vip))?);
        }
    }
    let until = Instant::now() + SILENCE;
    meanwhile(routed)?;
    wait::sleep_until(until);
    thread::scope(|scope| {
        let reading: Vec<_> = streams.iter().map(|s| scope.spawn(|| read_all(s))).collect();
        reading.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Sends a request, and ends the client's side.
fn ask_and_close(vip: IpAddr) -> Result<TcpStream> {
    let to = SocketAddr::new(vip, WEB_PORT);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    let mut stream: TcpStream = socket.into();
    write!(stream, "GET /{ANSWER} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    Ok(stream)
}

fn read_all(mut stream: &TcpStream) -> Result<()> {
    let begun = Instant::now();
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("after {} bytes and {:?}", answer.len(), begun.elapsed()))?;
    let took = begun.elapsed();
    ensure!(answer.len() > ANSWER, "{} bytes came in {took:?}", answer.len());
    ensure!(took < LIMIT, "the answer took {took:?}");
    Ok(())
}

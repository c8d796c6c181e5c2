//! TCP and UDP through a VIP, both families.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        agent::Agent,
        maps,
        probe::{self, Connection, Over},
        scenario::{self, Cluster, WEB_PORT},
    },
    wait,
};
use lb_common::outcome::Outcome;
use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// A SYN is repeated after a second, and a client that is told nothing waits for longer.
const AT_ONCE: Duration = Duration::from_millis(500);

/// All pods of all nodes get their share, and see the client's own address.
pub(crate) fn spread(cluster: &Cluster) -> Result<()> {
    let nodes = scenario::node_names(&cluster.lab);
    for over in [Over::Tcp, Over::Udp] {
        for vip in cluster.vips {
            scenario::check_spread(&cluster.lab, over, vip, &nodes, 600)?;
        }
    }
    Ok(())
}

/// All requests of a connection are answered by one pod.
pub(crate) fn connection_stays(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        for _ in 0..20 {
            let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT)?;
            let pods =
                (0..20).map(|_| Ok(connection.request()?.pod)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(pods.len() == 1, "one connection was answered by {pods:?}");
        }
    }
    Ok(())
}

/// Segments of full size both ways, and replies that the pod's kernel leaves to the interface
/// to cut up and to sum.
pub(crate) fn large_transfers(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        for _ in 0..12 {
            let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT)?;
            for (up, down) in [(100, 1_000_000), (300_000, 100), (1459, 1461)] {
                connection.exchange(up, down)?;
            }
        }
    }
    Ok(())
}

/// A port that no Service has is refused at once, and counters say so.
pub(crate) fn unknown_port(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        check_refused(cluster, (vip, 81).into())?;
    }
    refusals_are_limited(cluster)?;
    // What is next to it is served.
    probe::http(&cluster.lab.client.namespace, cluster.vips[0], WEB_PORT)?;
    Ok(())
}

/// How often all nodes together did something.
pub(crate) fn counted(cluster: &Cluster, outcome: Outcome) -> Result<u64> {
    let of = |agent: &Agent| Ok(maps::counters(&agent.pin_directory)?.get(outcome));
    cluster.agents.iter().map(of).sum()
}

/// Checks that a TCP connection and a datagram are refused: the client hears of it sooner than
/// any timeout or repetition would tell.
pub(crate) fn check_refused(cluster: &Cluster, to: SocketAddr) -> Result<()> {
    let client = &cluster.lab.client.namespace;
    let before = counted(cluster, Outcome::RefusedReset)?;
    let error = client.enter(|| {
        let begun = Instant::now();
        let result = TcpStream::connect_timeout(&to, 2 * AT_ONCE);
        ensure!(begun.elapsed() < AT_ONCE, "{to}: {result:?} after {:?}", begun.elapsed());
        result.err().with_context(|| format!("somebody serves {to}"))
    })?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{to}: {error}");
    let reset = counted(cluster, Outcome::RefusedReset)? - before;
    ensure!(reset == 1, "{to}: {reset} resets were counted");

    let before = counted(cluster, Outcome::RefusedUnreachable)?;
    let socket = client.udp(to)?;
    socket.set_read_timeout(Some(AT_ONCE))?;
    socket.send(b"probe")?;
    let result = socket.recv(&mut [0; 16]);
    let kind = result.as_ref().err().map(io::Error::kind);
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{to}: {result:?}");
    let unreachable = counted(cluster, Outcome::RefusedUnreachable)? - before;
    ensure!(unreachable == 1, "{to}: {unreachable} were told unreachable");
    Ok(())
}

/// A flood to a port that is not there is answered as often as a node may, and no oftener.
fn refusals_are_limited(cluster: &Cluster) -> Result<()> {
    const FLOOD: u64 = 5_000;
    let answered = || counted(cluster, Outcome::RefusedUnreachable);
    let limited = || counted(cluster, Outcome::RefuseLimited);
    let (answered_before, limited_before) = (answered()?, limited()?);
    let socket = cluster.lab.client.namespace.udp((cluster.vips[0], 81).into())?;
    let mut sent = 0;
    while sent < FLOOD {
        // What fails tells of a refusal of an earlier one.
        sent += u64::from(socket.send(b"probe").is_ok());
    }
    // What a queue on the way had no room for is counted by nobody.
    wait::until_true(Duration::from_secs(5), "some are not answered", || {
        Ok(limited()? > limited_before)
    })?;
    let (answered, limited) = (answered()? - answered_before, limited()? - limited_before);
    ensure!(answered > 0, "none is answered");
    ensure!(answered + limited <= FLOOD, "{answered} answered and {limited} not, of {FLOOD}");
    ensure!(answered < FLOOD / 2, "{answered} of {FLOOD} were answered");
    Ok(())
}

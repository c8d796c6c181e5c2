//! A VIP's port changes hands between kube-proxy and Herald while clients use few ports again
//! and again: connection tracking is not in their way.
//!
//! To the kernel, direct delivery is a client that writes to the pod itself: that is what
//! the clients do here, since the rest of Herald is not what is tried.
use anyhow::{Context, Result, anyhow, ensure};
use herald_tests::{
    lab::{Lab, Shape, command::run},
    suite,
};
use lb_agent::conntrack::{
    Sweeper,
    takeover::{Hands, Port},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const SHORT: u16 = 9090;
const LONG: u16 = 9091;
const CLIENTS: u16 = 8;
const PORTS: u16 = 40;
/// A SYN that is dropped is repeated after a second. What takes less was scheduling.
const SLOW: Duration = Duration::from_millis(400);

/// What came of the connections of one phase.
#[derive(Debug, Default)]
struct Outcome {
    done: usize,
    failed: Vec<String>,
    translated: usize,
    slowest: Duration,
}

pub(crate) fn few_ports() -> Result<()> {
    let lab = Lab::new(Shape { nodes: 1, pods_per_node: 1, ..Shape::default() })?;
    let (node, pod, client) = (&lab.nodes[0], &lab.pods[0], &lab.client);
    // kube-proxy's part.
    node.namespace.feed(
        "nft",
        &["-f", "-"],
        &format!(
            "table ip hand_over {{ chain prerouting {{ type nat hook prerouting priority -100;\n\
             ip daddr {VIP} tcp dport {SHORT} dnat to {pod}:{SHORT}\n\
             ip daddr {VIP} tcp dport {LONG} dnat to {pod}:{LONG}\n}}\n}}\n",
            pod = pod.ipv4
        ),
    )?;
    for to in [VIP, pod.ipv4] {
        let via = node.ipv4.to_string();
        run(client.namespace.command("ip").args([
            "route",
            "replace",
            &to.to_string(),
            "via",
            &via,
        ]))?;
    }
    let (short, long) = pod.namespace.enter(|| {
        let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        Ok((listen(SHORT)?, listen(LONG)?))
    })?;
    let mut sweeper = node.namespace.enter(|| Ok(Sweeper::open()?))?;

    let (stop, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let direct = AtomicBool::new(false);
    let (rate, phase) = if suite::full() { (5000, 6) } else { (2000, 4) };
    let outcomes = Mutex::new(BTreeMap::<&str, Outcome>::new());
    let (vip, pod_address) = (SocketAddr::from((VIP, SHORT)), SocketAddr::from((pod.ipv4, SHORT)));
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            for stream in short.incoming().flatten() {
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                let _ = tell_port(stream);
            }
        });
        scope.spawn(|| long.accept().map(|(stream, _)| echo(stream)));
        let mut lasting = client.namespace.connect((VIP, LONG).into(), Duration::from_secs(5))?;
        exchange(&mut lasting)?;
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let (outcomes, direct, stop) = (&outcomes, &direct, &stop);
            let pause = Duration::from_secs(1) * u32::from(CLIENTS) / rate;
            clients.push(scope.spawn(move || {
                client.namespace.enter(|| {
                    let mut next = Instant::now();
                    for at in (0..PORTS).cycle() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let is_direct = direct.load(Ordering::Relaxed);
                        let to = if is_direct { pod_address } else { vip };
                        let port = 20_000 + n * PORTS + at;
                        let began = Instant::now();
                        let result = connection(client.ipv4, port, to);
                        let took = began.elapsed();
                        let mut outcomes = outcomes.lock().unwrap();
                        let name = if is_direct { "direct" } else { "kernel" };
                        let outcome = outcomes.entry(name).or_default();
                        outcome.slowest = outcome.slowest.max(took);
                        match result {
                            Ok(seen) => {
                                outcome.done += 1;
                                outcome.translated += usize::from(seen != port);
                            }
                            Err(error) => outcome.failed.push(format!("{port} to {to}: {error:#}")),
                        }
                        drop(outcomes);
                        next += pause;
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                        // What was missed is not made up for.
                        next = next.max(Instant::now() - pause);
                    }
                    Ok(())
                })
            }));
        }
        let removed = Cell::new(0);
        let sweep = |sweeper: &mut Sweeper| -> Result<()> {
            removed.set(removed.get() + sweeper.sweep()?.removed);
            Ok(())
        };
        let sweep_for = |sweeper: &mut Sweeper, seconds: u64| -> Result<()> {
            let until = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < until {
                sweep(sweeper)?;
                let next = sweeper.takeover.next_deadline().unwrap_or(until).min(until);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        };
        let port = Port { vip: VIP.into(), port: SHORT, protocol: 6 };
        let mut all = || -> Result<()> {
            sweep_for(&mut sweeper, phase)?;
            direct.store(true, Ordering::Relaxed);
            sweeper.takeover.changes(port, Hands::Direct, Instant::now());
            sweep_for(&mut sweeper, phase)?;
            exchange(&mut lasting).context("a connection that kube-proxy began")?;
            direct.store(false, Ordering::Relaxed);
            sweeper.takeover.changes(port, Hands::Kernel([pod_address].into()), Instant::now());
            sweep_for(&mut sweeper, phase)?;
            exchange(&mut lasting)
        };
        let result = all();
        stop.store(true, Ordering::Relaxed);
        drop(lasting);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        // The listener's thread sees one more.
        closed.store(true, Ordering::Relaxed);
        let _ = client.namespace.connect(pod_address, Duration::from_secs(1));
        println!("removed {} entries of finished connections", removed.get());
        result
    })?;
    for (name, outcome) in outcomes.into_inner()? {
        println!(
            "{name}: {} connections, {} failed, {} with another port, slowest {:?}",
            outcome.done,
            outcome.failed.len(),
            outcome.translated,
            outcome.slowest
        );
        ensure!(outcome.done > 1000, "{name}: only {} connections", outcome.done);
        ensure!(outcome.failed.is_empty(), "{name}: {:?}", &outcome.failed[..1]);
        ensure!(outcome.slowest < SLOW, "{name}: a connection took {:?}", outcome.slowest);
        // Before the first look, and when a connection ended between two.
        ensure!(
            outcome.translated <= usize::from(2 * CLIENTS * PORTS),
            "{name}: {} of {} clashed",
            outcome.translated,
            outcome.done
        );
    }
    Ok(())
}

/// The port that the pod sees.
fn connection(from: Ipv4Addr, port: u16, to: SocketAddr) -> Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((from, port)).into()).context("bind")?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).context("connect")?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut seen = [0; 2];
    stream.read_exact(&mut seen).context("read")?;
    // The pod ends first, so that the port is free at once.
    stream.read_to_end(&mut Vec::new()).context("end")?;
    Ok(u16::from_be_bytes(seen))
}

fn tell_port(mut stream: TcpStream) -> Result<()> {
    let port = stream.peer_addr()?.port();
    Ok(stream.write_all(&port.to_be_bytes())?)
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    Ok(stream.read_exact(&mut [0])?)
}

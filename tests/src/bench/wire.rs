//! ARP over a veth: our answers next to the kernel's own.
//!
//! Two threads, each in a network namespace of its own, joined by a veth; both
//! namespaces go when the threads end, however they end.

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode},
};
use nix::sched::{CloneFlags, unshare};

use super::report::Judged;
use crate::{
    kernel::{
        tables::{Clock, monotonic_s},
        frames::{self, Arp, BROADCAST, Link, Mac},
        object::{Capacity, DataPath},
        world::{self, Family, MY_MAC, NEIGHBOUR_MAC, World},
    },
    system::PacketSocket,
};

const NODE: &str = "node0";
const CLIENT: &str = "client0";
/// The node's own address, which its kernel answers for.
const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Who asks.
const ASKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 33);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// XDP, for a VIP.
    Herald,
    /// The kernel, for the node's address, without any XDP program.
    Kernel,
    /// The kernel, for the node's address, behind Herald's program.
    KernelBehindHerald,
}

/// One answerer's figures.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Round-trip times of single requests, ns, sorted.
    pub round_trips: Vec<u64>,
    /// Requests of the floods.
    pub asked: u64,
    /// Answers that came back.
    pub answered: u64,
    /// How long the floods took.
    pub flooded: Duration,
}

impl Figures {
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.round_trips.len().saturating_sub(1);
        self.round_trips.get(last * percent / 100).map_or(f64::NAN, |&ns| ns as f64 / 1000.0)
    }

    fn answered_percent(&self) -> f64 {
        100.0 * self.answered as f64 / self.asked as f64
    }

    fn per_second(&self) -> f64 {
        self.answered as f64 / self.flooded.as_secs_f64()
    }
}

/// Everybody's figures.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    /// XDP, for a VIP.
    pub herald: Figures,
    /// The kernel, without XDP.
    pub kernel: Figures,
    /// The kernel, behind Herald's program.
    pub kernel_behind_herald: Figures,
}

impl Wire {
    /// The figures, ours held against the kernel's own.
    pub fn judged(&self) -> Vec<Judged> {
        let kernel = &self.kernel;
        let mut all = Vec::new();
        for (name, figures) in [
            ("Herald, for a VIP", &self.herald),
            ("the kernel, for its own address", kernel),
            ("the kernel, behind Herald's program", &self.kernel_behind_herald),
        ] {
            let ours = name.starts_with("Herald");
            let target = |text: String, met: bool| {
                if ours { (Some(text), Some(met)) } else { (None, None) }
            };
            let p50 = figures.percentile(50);
            let bound = kernel.percentile(50);
            let (wanted, met) = target(format!("≤ {bound:.1}"), p50 <= bound);
            all.push(Judged {
                name: format!("{name}: ping-pong p50"),
                figure: p50,
                between: Some((figures.percentile(0), figures.percentile(99))),
                unit: "µs",
                target: wanted,
                met,
                note: "least to p99".to_owned(),
            });
            let percent = figures.answered_percent();
            let (wanted, met) = target("100 %".to_owned(), figures.answered == figures.asked);
            all.push(Judged {
                name: format!("{name}: flood, answered"),
                figure: percent,
                between: None,
                unit: "%",
                target: wanted,
                met,
                note: format!("{} of {}", figures.answered, figures.asked),
            });
            let (rate, bound) = (figures.per_second() / 1000.0, kernel.per_second() / 1000.0);
            let (wanted, met) = target(format!("≥ {bound:.0}"), rate >= bound);
            all.push(Judged {
                name: format!("{name}: flood, answers"),
                figure: rate,
                between: None,
                unit: "thousand/s",
                target: wanted,
                met,
                note: String::new(),
            });
        }
        all
    }
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds, the answerers taking turns in each.
    pub rounds: u32,
    /// Single requests in a round.
    pub single: u32,
    /// Requests of a flood in a round.
    pub flood: u32,
}

/// Asks everybody.
///
/// # Errors
/// Not root, no veth, or an answer that is wrong.
pub fn measure(effort: Effort) -> Result<Wire> {
    let (to_node, orders) = channel();
    let (to_client, done) = channel();
    thread::scope(|scope| {
        let node = scope.spawn(move || node(&orders, &to_client));
        let client = scope.spawn(move || client(&to_node, &done, effort));
        let client = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let node = node.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The node's error says more: the client only sees that it is gone.
        node.and(client)
    })
}

/// What the client tells the node.
enum Order {
    /// The client's thread, whose namespace gets the other end.
    Join(i32),
    /// Have the program attached, or not.
    Attach(bool),
}

fn ip(arguments: &str) -> Result<()> {
    let done = Command::new("ip").args(arguments.split_whitespace()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "ip {arguments}: {}", said.trim());
    Ok(())
}

fn own_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no new network namespace (this needs root)")
}

/// How many frames have arrived on an interface.
fn arrived(name: &str) -> Result<u64> {
    // Only /proc/thread-self shows this thread's namespace; sysfs that of its mount.
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let columns: Vec<&str> = line.context("no such interface")?.split_whitespace().collect();
    // Bytes, then packets.
    Ok(columns.get(1).context("no such column")?.parse()?)
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn node(orders: &Receiver<Order>, done: &Sender<()>) -> Result<()> {
    own_namespace()?;
    let Ok(Order::Join(thread)) = orders.recv() else { return Ok(()) };
    ip(&format!("link add {NODE} type veth peer name {CLIENT} netns {thread}"))?;
    // Without an IPv6 address of its own, so that nothing but answers is ever sent.
    ip(&format!("link set {NODE} address {} addrgenmode none up", mac_text(MY_MAC)))?;
    ip(&format!("addr add {NODE_ADDRESS}/24 dev {NODE}"))?;
    let ifindex = interface_index(NODE)?;
    let mut path = DataPath::load(Capacity::SMALL)?;
    let clock = Clock { base: monotonic_s() };
    path.install(&World::new(ifindex, 77), clock)?;
    let mut link = None;
    done.send(())?;
    while let Ok(order) = orders.recv() {
        match order {
            Order::Join(_) => bail!("joined already"),
            Order::Attach(true) => link = Some(path.attach(ifindex)?),
            Order::Attach(false) => {
                if let Some(link) = link.take() {
                    path.detach(link)?;
                }
            }
        }
        done.send(())?;
    }
    Ok(())
}

fn interface_index(name: &str) -> Result<u32> {
    let shown = Command::new("ip").args(["-json", "link", "show", name]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let index = links[0]["ifindex"].as_u64().with_context(|| format!("no interface {name}"))?;
    Ok(u32::try_from(index)?)
}

fn client(node: &Sender<Order>, done: &Receiver<()>, effort: Effort) -> Result<Wire> {
    own_namespace()?;
    let tell = |order| -> Result<()> {
        node.send(order).context("the node is gone")?;
        done.recv().context("the node is gone")
    };
    tell(Order::Join(nix::unistd::gettid().as_raw()))?;
    ip(&format!("link set {CLIENT} address {} addrgenmode none up", mac_text(NEIGHBOUR_MAC)))?;
    // A veth takes what its peer's program sends only with a program of its own.
    let mut ebpf = EbpfLoader::new().load(lb_agent::OBJECT)?;
    let pass: &mut Xdp = ebpf.program_mut("herald_pass").context("herald_pass")?.try_into()?;
    pass.load()?;
    pass.attach_to_if_index(interface_index(CLIENT)?, XdpMode::Driver)?;
    let socket = PacketSocket::open(CLIENT)?;
    let mut wire = Wire::default();
    for _ in 0..effort.rounds {
        ask(&socket, Answerer::Kernel, effort, &mut wire.kernel)?;
        tell(Order::Attach(true))?;
        ask(&socket, Answerer::Herald, effort, &mut wire.herald)?;
        ask(&socket, Answerer::KernelBehindHerald, effort, &mut wire.kernel_behind_herald)?;
        tell(Order::Attach(false))?;
    }
    for figures in [&mut wire.herald, &mut wire.kernel, &mut wire.kernel_behind_herald] {
        figures.round_trips.sort_unstable();
    }
    Ok(wire)
}

fn ask(socket: &PacketSocket, whom: Answerer, effort: Effort, figures: &mut Figures) -> Result<()> {
    let target = match whom {
        Answerer::Herald => match world::vip(Family::V4) {
            std::net::IpAddr::V4(vip) => vip,
            std::net::IpAddr::V6(_) => bail!("an IPv6 VIP"),
        },
        Answerer::Kernel | Answerer::KernelBehindHerald => NODE_ADDRESS,
    };
    let link = Link { from: NEIGHBOUR_MAC, to: BROADCAST };
    let (sender_mac, sender) = (link.from, ASKER);
    let arp = Arp { reply: false, sender_mac, sender, target_mac: [0; 6], target };
    let request = frames::arp(link, arp);
    // The first ones make neighbour entries and wake the cores.
    for number in 0..effort.single + 100 {
        let sent = Instant::now();
        socket.send(&request)?;
        await_answer(socket, target, sent)?;
        if number >= 100 {
            figures.round_trips.push(sent.elapsed().as_nanos() as u64);
        }
    }
    let before = arrived(CLIENT)?;
    let begun = Instant::now();
    for _ in 0..effort.flood {
        socket.send(&request)?;
    }
    // Until all have been answered, or nothing has come for a while.
    let mut last = (begun.elapsed(), 0);
    loop {
        let answered = arrived(CLIENT)? - before;
        let now = begun.elapsed();
        if answered != last.1 {
            last = (now, answered);
        }
        if answered >= u64::from(effort.flood) || now - last.0 > Duration::from_millis(200) {
            break;
        }
    }
    ensure!(last.1 <= u64::from(effort.flood), "{} answers to {} requests", last.1, effort.flood);
    figures.asked += u64::from(effort.flood);
    figures.answered += last.1;
    figures.flooded += last.0;
    // What the flood left in the socket.
    while socket.receive(Instant::now())?.is_some() {}
    Ok(())
}

fn await_answer(socket: &PacketSocket, target: Ipv4Addr, sent: Instant) -> Result<()> {
    while let Some(frame) = socket.receive(sent + PATIENCE)? {
        let is_reply = frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2]);
        if is_reply && frame.get(28..32) == Some(&target.octets()) {
            ensure!(
                frame[22..28] == MY_MAC,
                "{target} is at {}",
                mac_text(frame[22..28].try_into()?)
            );
            return Ok(());
        }
    }
    bail!("{target} does not answer")
}

//! Agents speak to FRR and GoBGP, each of which says in its own words what it has been told.
//!
//! ```text
//!   node1 ─┬─ LAN ─┬─ GoBGP (the client)
//!   node2 ─┘       └─ FRR of the router ── FRR of the client behind it, two hops away
//!   node3 ── a link ──┘ which has a session without addresses as well
//! ```
use crate::speaker;
use anyhow::{Context as _, Result, bail, ensure};
use herald_tests::{
    lab::{
        Cut, Lab, Outside, Shape,
        addresses::{self, REMOTE},
        bgp::{FAST_AND_WEB, NODES_AS, ROUTER_AS},
        connections::Load,
        frr::{self, Frr, Kernel},
        gobgp::{self, GoBgp},
        routed::router,
        scenario::{self, Cluster, START_LIMIT},
        traffic::Traffic,
    },
    wait,
};
use jiff::Timestamp;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

/// From a cut link to the router without the node's routes: BFD finds it within 150 ms; the rest is the
/// router's, on a machine that does other things as well.
const NOTICED: Duration = Duration::from_secs(2);
/// BFD's detection time (RFC 5880 section 6.8.4) there: three intervals of 50 ms.
const DETECTION: Duration = Duration::from_millis(150);
/// The position of the node on a link of its own.
const FAR: usize = 2;
/// UDP flows to each address.
const FLOWS: usize = 40;

/// The routers and the agents that speak to them.
pub(crate) struct Peered {
    router: Frr,
    /// Two hops away from the nodes.
    far: Frr,
    gobgp: GoBgp,
    cluster: Cluster,
}

/// Checks that the routers' programs are installed.
pub(crate) fn check_programs() -> Result<()> {
    frr::check_programs()?;
    gobgp::check_programs()
}

/// What the agents are told of a peer, and on which node.
fn peer(name: &str, node: &str, spec: &str) -> String {
    // The router demands that packets of this one come from one hop away, and so does the node.
    let secure = name == "both";
    let more = if secure { ", annotations: {herald-lb.io/ttl-security: required}" } else { "" };
    format!(
        "---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: \
         metallb-system{more}}}\nspec: {{myASN: {NODES_AS}, peerASN: {ROUTER_AS}, holdTime: 30s, \
         connectTime: 1s, {spec}, nodeSelectors: [{{matchExpressions: [{{key: \
         kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}\n"
    )
}

fn manifests(lab: &Lab, folder: &Path) -> Result<()> {
    let mut text = FAST_AND_WEB.to_owned();
    text.push_str(
        "---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: all, namespace: \
         metallb-system, annotations: {herald-lb.io/link-bandwidth: endpoints}}\nspec: {communities: \
         [web, 'large:64512:1:2']}\n",
    );
    let (near4, near6) = addresses::gateway(lab.nodes[0].ipv4);
    let (far4, _) = addresses::gateway(lab.nodes[FAR].ipv4);
    let (remote, client) = (REMOTE.0, lab.client.ipv4);
    text += &peer("ipv4", "node1", &format!("peerAddress: {near4}, password: lab"));
    text += &peer(
        "ipv6",
        "node1",
        &format!("peerAddress: '{near6}', password: lab6, enableGracefulRestart: true"),
    );
    text += &peer(
        "both",
        "node3",
        &format!("peerAddress: {far4}, dualStackAddressFamily: true, enableGracefulRestart: true"),
    );
    text += &peer("unnumbered", "node3", "interface: eth0");
    text += &peer(
        "multihop",
        "node1, node2, node3",
        &format!("peerAddress: {remote}, ebgpMultiHop: true, dualStackAddressFamily: true"),
    );
    text +=
        &peer("gobgp", "node1", &format!("peerAddress: {client}, dualStackAddressFamily: true"));
    Ok(fs::write(folder.join("bgp.yaml"), text)?)
}

/// The configuration of the router's bgpd. `eth1` leads to node3.
fn router_config(lab: &Lab) -> Result<String> {
    let (one, far) = (&lab.nodes[0], &lab.nodes[FAR]);
    let (one4, one6, far4) = (one.ipv4, one.ipv6, far.ipv4);
    let mut text = format!(
        "router bgp {ROUTER_AS}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default \
         ipv4-unicast\n timers bgp 10 30\n",
        router(lab)?.host.ipv4
    );
    for (address, more) in [
        (IpAddr::from(one4), "password lab"),
        (one6.into(), "password lab6"),
        // With it, FRR 8.4 speaks BFD as over several hops: not beside the other.
        (far4.into(), "ttl-security hops 1"),
    ] {
        writeln!(
            text,
            " neighbor {address} remote-as {NODES_AS}\n neighbor {address} timers connect 1"
        )?;
        for line in more.lines() {
            writeln!(text, " neighbor {address} {line}")?;
        }
    }
    write!(
        text,
        " neighbor eth1 interface remote-as {NODES_AS}\n address-family ipv4 unicast\n  neighbor \
         {one4} activate\n  neighbor {far4} activate\n  neighbor eth1 activate\n \
         exit-address-family\n address-family ipv6 unicast\n  neighbor {one6} activate\n  neighbor \
         {far4} activate\n  neighbor eth1 activate\n exit-address-family\n"
    )?;
    Ok(text)
}

fn far_config(lab: &Lab) -> Result<String> {
    let mut text = format!(
        "router bgp {ROUTER_AS}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network \
         import-check\n",
        REMOTE.0
    );
    for node in &lab.nodes {
        let address = node.ipv4;
        write!(
            text,
            " neighbor {address} remote-as {NODES_AS}\n neighbor {address} ebgp-multihop 3\n neighbor \
             {address} passive\n address-family ipv6 unicast\n  neighbor {address} activate\n \
             exit-address-family\n"
        )?;
    }
    Ok(text)
}

fn gobgp_config(lab: &Lab) -> String {
    let family = |name| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n"
        )
    };
    format!(
        "[global.config]\nas = {ROUTER_AS}\nrouter-id = \"{}\"\n[[neighbors]]\n[neighbors.config]\n\
         neighbor-address = \"{}\"\npeer-as = {NODES_AS}\n[neighbors.timers.config]\nconnect-retry = 1\n\
         {}{}",
        lab.client.ipv4,
        lab.nodes[0].ipv4,
        family("ipv4-unicast"),
        family("ipv6-unicast")
    )
}

/// Starts all; returns once each session is up.
pub(crate) fn cluster() -> Result<Peered> {
    let shape = Shape { router: Outside::RouterAndNode, ..Shape::default() };
    let lab = Lab::new(shape)?;
    let mut options = scenario::on_manifests(&lab)?;
    // FRR connects as well, often at the same time.
    options.arguments =
        ["--bgp-listen-port", "179", "--bgp-prefix-limit", "1000"].map(str::to_owned).into();
    let begun = (|| {
        manifests(&lab, &lab.directory.join("manifests"))?;
        let agents = scenario::start_agents(&lab, &options)?;
        let outside = router(&lab)?;
        let router = Frr::start(&lab, &outside.host, Kernel::Routes, &router_config(&lab)?)?;
        let far = Frr::start(&lab, &outside.remote, Kernel::Untouched, &far_config(&lab)?)?;
        let gobgp = GoBgp::start(&lab, &lab.client, &gobgp_config(&lab))?;
        Ok((agents, router, far, gobgp))
    })();
    let (agents, router, far, gobgp) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(lab.failed(error)),
    };
    let vips = addresses::both(addresses::FIRST_VIPS);
    let cluster = Cluster { agents, options, control: None, vips, lab };
    let peered = Peered { router, far, gobgp, cluster };
    match peered.await_routes() {
        Ok(()) => Ok(peered),
        Err(error) => Err(peered.failed(error)),
    }
}

impl Peered {
    /// Says that something failed, and keeps the logs.
    pub(crate) fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        let said = self.router.tell("show bgp summary").unwrap_or_default();
        self.cluster.failed(error.context(format!("FRR says:\n{said}")))
    }

    /// The peers of the router's that an address was told by, by their addresses or interfaces.
    fn tellers(&self, vip: IpAddr) -> Result<BTreeMap<String, Value>> {
        tellers(&self.router, vip)
    }

    /// Who has to tell the router of an address.
    fn expected(&self, vip: IpAddr) -> BTreeSet<String> {
        let (one, far) = (&self.cluster.lab.nodes[0], &self.cluster.lab.nodes[FAR]);
        let first = if vip.is_ipv4() { one.ipv4.to_string() } else { one.ipv6.to_string() };
        [first, far.ipv4.to_string(), "eth1".to_owned()].into()
    }

    /// Waits until the router has all routes.
    fn await_routes(&self) -> Result<()> {
        for vip in self.cluster.vips {
            wait::until_true(3 * START_LIMIT, &format!("FRR has all routes to {vip}"), || {
                let tellers: BTreeSet<_> = self.tellers(vip)?.into_keys().collect();
                ensure!(tellers == self.expected(vip), "they are of {tellers:?}");
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// How often the router's session with a peer has come up, and whether it is.
    fn session(&self, peer: &str) -> Result<(u64, bool)> {
        let all = self.router.json("show bgp neighbors json")?;
        let one = &all[peer];
        let count = one["connectionsEstablished"].as_u64().context("no such neighbour")?;
        Ok((count, one["bgpState"] == "Established"))
    }
}

/// The peers that a router was told of an address by, with the path.
fn tellers(router: &Frr, vip: IpAddr) -> Result<BTreeMap<String, Value>> {
    let (family, length) = if vip.is_ipv4() { ("ipv4", 32) } else { ("ipv6", 128) };
    let told = router.json(&format!("show bgp {family} unicast {vip}/{length} json"))?;
    let paths = told["paths"].as_array().cloned().unwrap_or_default();
    let by = |path: Value| {
        let peer = &path["peer"];
        let name = peer["interface"].as_str().or(peer["peerId"].as_str()).unwrap_or_default();
        (name.to_owned(), path)
    };
    Ok(paths.into_iter().filter(|path| path["valid"] == true).map(by).collect())
}

fn check_communities(path: &Value) -> Result<()> {
    ensure!(path["community"]["string"] == "64512:80", "{path}");
    ensure!(path["largeCommunity"]["string"] == "64512:1:2", "{path}");
    // Each node has two endpoints, told as 1 Gbit/s each.
    let share = path["extendedCommunity"]["string"].as_str().unwrap_or_default();
    ensure!(share.starts_with(&format!("LB:{NODES_AS}:250000000")), "{path}");
    let asn = NODES_AS.to_string();
    ensure!(path["aspath"]["string"].as_str() == Some(&asn), "{path}");
    Ok(())
}

/// Each session is up as it is meant to be: either family, both over one, signed, over two hops, without
/// addresses; and each route has its communities and a next hop that leads to the node.
pub(crate) fn routes(peered: &mut Peered) -> Result<()> {
    let lab = &peered.cluster.lab;
    for vip in peered.cluster.vips {
        for (peer, path) in peered.tellers(vip)? {
            check_communities(&path)?;
            let hops = path["nexthops"].as_array().context("a path has next hops")?;
            let used = hops.iter().find(|hop| hop["used"] == true).context("none is used")?;
            let hop: IpAddr = used["ip"].as_str().context("it has an address")?.parse()?;
            // RFC 8950 where the session has link-local addresses only.
            let local = matches!(hop, IpAddr::V6(hop) if hop.is_unicast_link_local());
            let family = if peer == "eth1" { local } else { hop.is_ipv4() == vip.is_ipv4() };
            ensure!(family, "{peer}: {path}");
        }
        wait::until_true(START_LIMIT, "the router two hops away has all routes", || {
            let told = tellers(&peered.far, vip)?;
            let nodes: BTreeSet<_> = lab.nodes.iter().map(|node| node.ipv4.to_string()).collect();
            ensure!(told.keys().eq(&nodes), "{vip}: {told:?}");
            told.values().try_for_each(check_communities)?;
            Ok(true)
        })?;
        let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
        wait::until_true(START_LIMIT, "GoBGP has the routes", || {
            let table = peered.gobgp.json(&["global", "rib", "-a", family])?;
            let length = if vip.is_ipv4() { 32 } else { 128 };
            let paths = table[format!("{vip}/{length}")].to_string();
            // 64512:80, as it prints them.
            let community = (64512u32 << 16) + 80;
            ensure!(paths.contains(&community.to_string()), "{table}");
            ensure!(paths.contains("\"LocalData2\":2"), "{paths}");
            Ok(true)
        })?;
    }
    Ok(())
}

/// A session that the router ends comes back, one whose configuration changes begins anew, and neither
/// disturbs the others.
pub(crate) fn sessions_apart(peered: &mut Peered) -> Result<()> {
    let (one4, one6, far4) = {
        let lab = &peered.cluster.lab;
        (
            lab.nodes[0].ipv4.to_string(),
            lab.nodes[0].ipv6.to_string(),
            lab.nodes[FAR].ipv4.to_string(),
        )
    };
    let others = [one6.as_str(), far4.as_str(), "eth1"];
    let ups = |peered: &Peered| others.map(|peer| peered.session(peer).ok());
    let before = ups(peered);
    let (count, _) = peered.session(&one4)?;
    let shut = format!("neighbor {one4} shutdown message maintenance");
    let bgp = format!("router bgp {ROUTER_AS}");
    peered.router.tell_all(&["configure terminal", &bgp, &shut])?;
    wait::until_true(START_LIMIT, "the agent tells why the session ended", || {
        let printed = peered.cluster.agents[0].printed()?;
        Ok(printed.contains("BGPSessionDown") && printed.contains("maintenance"))
    })?;
    let no_shut = format!("no neighbor {one4} shutdown");
    peered.router.tell_all(&["configure terminal", &bgp, &no_shut])?;
    wait::until_true(3 * START_LIMIT, "the session is up again", || {
        Ok(peered.session(&one4)? == (count + 1, true))
    })?;
    let file = peered.cluster.folder()?.join("bgp.yaml");
    let text = fs::read_to_string(&file)?;
    let changed = text.replacen("holdTime: 30s", "holdTime: 45s", 1);
    fs::write(&file, changed)?;
    wait::until_true(3 * START_LIMIT, "the session begins anew", || {
        Ok(peered.session(&one4)? == (count + 2, true))
    })?;
    peered.await_routes()?;
    ensure!(ups(peered) == before, "before: {before:?}, now: {:?}", ups(peered));
    Ok(())
}

/// Agents are restarted, as in an upgrade: nothing is lost, and the router keeps the routes of sessions
/// with graceful restart.
pub(crate) fn agents_restart(peered: &mut Peered) -> Result<()> {
    let remote = router(&peered.cluster.lab)?.remote.namespace.clone();
    let traffic = Traffic::begin(&remote, &peered.cluster.vips, Load::default(), FLOWS)?;
    traffic.settle(2)?;
    let vip = peered.cluster.vips[1];
    for position in [0, FAR] {
        let node = &peered.cluster.lab.nodes[position];
        let peer = if position == 0 { node.ipv6.to_string() } else { node.ipv4.to_string() };
        let (count, _) = peered.session(&peer)?;
        let kept = |peered: &Peered| -> Result<()> {
            let told = peered.tellers(vip)?;
            ensure!(told.contains_key(&peer), "{vip}: {peer} is missing among {:?}", told.keys());
            Ok(())
        };
        let status = peered.cluster.agents.remove(position).terminate(START_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        kept(peered)?;
        let stale = peered.tellers(vip)?[&peer]["stale"] == true;
        ensure!(
            stale,
            "FRR does not know that the agent of {} is away",
            peered.cluster.lab.nodes[position].name
        );
        peered.cluster.start_agent(position)?;
        wait::until_true(3 * START_LIMIT, &format!("the session with {peer} is up again"), || {
            kept(peered)?;
            Ok(peered.session(&peer)? == (count + 1, true))
        })?;
        peered.await_routes()?;
        traffic.settle(1)?;
    }
    let outcome = traffic.stop()?;
    outcome.check()?;
    println!("{outcome}");
    Ok(())
}

/// A link is cut without loss of carrier: BFD tells the router, long before the hold time is over. It is
/// spoken only meanwhile, since so fast a one finds fault with a machine that does other things as well.
pub(crate) fn link_is_cut(peered: &mut Peered) -> Result<()> {
    let node = peered.cluster.lab.nodes[0].clone();
    let (vip, peer) = (peered.cluster.vips[0], node.ipv4.to_string());
    let file = peered.cluster.folder()?.join("bgp.yaml");
    let without = fs::read_to_string(&file)?;
    fs::write(&file, without.replace("password: lab,", "password: lab, bfdProfile: fast,"))?;
    let configure = |peered: &Peered, line: String| {
        let bgp = format!("router bgp {ROUTER_AS}");
        peered.router.tell_all(&["configure terminal", &bgp, &line])
    };
    configure(peered, format!("neighbor {peer} bfd 3 50 50"))?;
    wait::until_true(START_LIMIT, "BFD and the route are up", || {
        let sessions = peered.router.json("show bfd peers json")?;
        let up = sessions.to_string().contains("\"status\":\"up\"");
        Ok(up && peered.tellers(vip)?.contains_key(&peer))
    })?;
    let cut = Timestamp::now();
    peered.cluster.lab.cut(&node, Cut::Silent)?;
    let began = Instant::now();
    let gone = wait::until_true(START_LIMIT, "the router has the route no more", || {
        Ok(!peered.tellers(vip)?.contains_key(&peer))
    });
    let took = began.elapsed();
    peered.cluster.lab.mend(&node)?;
    gone?;
    let found = speaker::bfd_found(&peered.cluster.agents[0], cut, DETECTION)?;
    println!(
        "FRR has the route of {} no more {took:?} after its link was cut; BFD there found it after {found:?}",
        node.name
    );
    ensure!(took < NOTICED, "{took:?}");
    configure(peered, format!("no neighbor {peer} bfd"))?;
    fs::write(&file, without)?;
    peered.await_routes()
}

/// The last octet of the first hostile peer's address.
const HOSTILE: u8 = 50;

/// What a peer may come up with.
#[derive(Clone, Copy, Debug)]
enum Hostility {
    /// Bytes that are no BGP.
    Garbage,
    /// A header that tells of a longer message than there may be.
    Oversized,
    /// Nothing more, once the session is up.
    Silent,
    /// An OPEN of another AS.
    OtherAs,
    /// A session that announces more prefixes than it may.
    Prefixes,
    /// The same, each UPDATE malformed.
    Malformed,
}

impl Hostility {
    const ALL: [Self; 6] = [
        Self::Garbage,
        Self::Oversized,
        Self::Silent,
        Self::OtherAs,
        Self::Prefixes,
        Self::Malformed,
    ];

    /// What the agent says of it.
    fn reason(self) -> &'static str {
        match self {
            Self::Garbage => "marker",
            Self::Oversized => "length",
            Self::Silent => "nothing was heard of the peer for 3 s",
            Self::OtherAs => "the peer is of AS 64999; expected AS 64666",
            Self::Prefixes => "the peer announces more than 1000 prefixes",
            Self::Malformed => "UPDATE",
        }
    }

    /// Does it to a connection, until that is closed.
    fn act(self, mut stream: &TcpStream) -> Result<()> {
        let end = |mut stream: &TcpStream| {
            let mut rest = [0; 4096];
            // Whatever ends it: that it ends is what is waited for.
            while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
        };
        match self {
            Self::Garbage => stream.write_all(&[0x47; 8192])?,
            Self::Oversized => stream.write_all(&message(2, &[0; 4100]))?,
            Self::Silent => stream.write_all(&[open(64_666), message(4, &[])].concat())?,
            Self::OtherAs => stream.write_all(&open(64_999))?,
            Self::Prefixes | Self::Malformed => {
                stream.write_all(&open(64_666))?;
                stream.write_all(&message(4, &[]))?;
                // The agent may have had enough before the last.
                let _ = (0..200u8).try_for_each(|block| stream.write_all(&self.update(block)));
            }
        }
        end(stream);
        Ok(())
    }

    /// 200 prefixes with usual attributes; malformed: of a path that ends in its middle, and withdrawn
    /// prefixes that are longer than the message.
    fn update(self, block: u8) -> Vec<u8> {
        // ORIGIN, AS_PATH 64666, NEXT_HOP: RFC 4271 section 4.3.
        let attributes = [
            &[0x40, 1, 1, 0][..],
            &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x9a],
            &[0x40, 3, 4, 10, 77, 0, 50],
        ]
        .concat();
        let withdrawn: u16 = if matches!(self, Self::Malformed) { u16::MAX } else { 0 };
        let mut body = withdrawn.to_be_bytes().to_vec();
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(attributes);
        body.extend((0..200u8).flat_map(|last| [32, 172, 16, block, last]));
        message(2, &body)
    }
}

/// A message of BGP (RFC 4271 section 4.1).
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(((19 + body.len()) as u16).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// An OPEN with IPv4 unicast and AS numbers of four octets.
fn open(asn: u32) -> Vec<u8> {
    let [a, b, c, d] = asn.to_be_bytes();
    let capabilities = [&[1, 4, 0, 1, 0, 1][..], &[65, 4, a, b, c, d]].concat();
    let mut body = vec![4, c, d, 0, 30, 10, 77, 0, 50];
    body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend(capabilities);
    message(1, &body)
}

/// Whatever a peer sends, or does not: its session ends, the agent says why, and the other sessions do not
/// notice. Nor does who is no peer get anywhere.
pub(crate) fn hostile_peer(peered: &mut Peered) -> Result<()> {
    let lab = &peered.cluster.lab;
    let host = lab.add_host("hostile", addresses::host(HOSTILE))?;
    let node = lab.nodes[0].ipv4;
    let others = [node.to_string(), lab.nodes[0].ipv6.to_string()];
    let sessions = |peered: &Peered| others.each_ref().map(|peer| peered.session(peer).ok());
    let before = sessions(peered);
    let file = peered.cluster.folder()?.join("hostile.yaml");
    let listener = host.namespace.enter(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179))?))?;
    let mut text = String::new();
    for (hostility, last) in Hostility::ALL.iter().zip(HOSTILE..) {
        let (address, _, _) = addresses::host(last);
        if last != HOSTILE {
            host.namespace.ip(&format!("addr add {address}/24 dev eth0\n"))?;
        }
        let name = format!("{hostility:?}").to_lowercase();
        text += &peer(&name, "node1", &format!("peerAddress: {address}"));
    }
    // It listens as well, but not for what is signed.
    let unsigned = HOSTILE + Hostility::ALL.len() as u8;
    let (address, _, _) = addresses::host(unsigned);
    host.namespace.ip(&format!("addr add {address}/24 dev eth0\n"))?;
    text += &peer("signed", "node1", &format!("peerAddress: {address}, password: other"));
    let text = text.replace(&format!("peerASN: {ROUTER_AS}"), "peerASN: 64666");
    fs::write(&file, text.replace("holdTime: 30s", "holdTime: 3s"))?;
    thread::scope(|scope| {
        let mut acting = Vec::new();
        for _ in Hostility::ALL {
            let (stream, from) = listener.accept()?;
            ensure!(from.ip() == node, "{from}");
            stream.set_read_timeout(Some(START_LIMIT))?;
            let IpAddr::V4(at) = stream.local_addr()?.ip() else { bail!("{stream:?}") };
            let hostility = Hostility::ALL[usize::from(at.octets()[3] - HOSTILE)];
            let act = move || hostility.act(&stream).with_context(|| format!("{hostility:?}"));
            acting.push(scope.spawn(act));
        }
        let mut acted = acting.into_iter().map(ScopedJoinHandle::join);
        acted.try_for_each(|acted| acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let reasons = Hostility::ALL.map(|one| (format!("{one:?}").to_lowercase(), one.reason()));
    let other_password = ("signed".to_owned(), "its password is another or none");
    for (name, reason) in reasons.into_iter().chain([other_password]) {
        wait::until_true(START_LIMIT, &format!("the agent tells of {name}"), || {
            let printed = peered.cluster.agents[0].printed()?;
            let name = format!("metallb-system/{name}:");
            let parts = [name.as_str(), "BGPSessionDown", reason];
            let told = |line: &str| parts.iter().all(|part| line.contains(part));
            Ok(printed.lines().any(told))
        })?;
    }
    fs::remove_file(&file)?;
    // No peer any more: taken from nobody.
    wait::until_true(START_LIMIT, "a stranger's connection is closed", || {
        let mut stream = host.namespace.connect((node, 179).into(), START_LIMIT)?;
        let closed = stream.read(&mut [0; 1]);
        Ok(closed.is_ok_and(|count| count == 0))
    })?;
    ensure!(sessions(peered) == before, "before: {before:?}, now: {:?}", sessions(peered));
    peered.await_routes()
}

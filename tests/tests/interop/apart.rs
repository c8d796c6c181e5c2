//! Routers that have the same address, in two VRFs or on two links, told apart by where they are.
//!
//! ```text
//!   near ── near ┐            near ── near ┐
//!   10.99.0.1    ├ node1      fe80::1      ├ node1
//!   far ──── far ┘            far ──── far ┘
//! ```
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Host, Lab, Shape, addresses,
        bgp::{Bird, FAST_AND_WEB, NODES_AS, ROUTER_AS},
        scenario::{self, Cluster, START_LIMIT},
    },
    wait,
};
use std::{fmt::Write as _, fs, net::IpAddr};

/// The node's interfaces to the two routers, which are their names, too.
const LINKS: [&str; 2] = ["near", "far"];
/// Each router's addresses, the same: the one that it is spoken to by, and the one that it speaks by.
const DIALED: &str = "10.99.0.1";
const DIALING: &str = "10.99.0.2";
/// The node's on both links.
const NODE: (&str, &str) = ("10.99.0.11", "fd99::11");
/// What the node speaks from where it begins, and the identifier and the AS that it shows: none of them is what it
/// would take by itself.
const SOURCE: &str = "10.99.0.12";
const IDENTIFIER: &str = "192.0.2.77";
const SHOWN_AS: u32 = 64_600;
/// Both ends' on both links, where there are no others.
const LOCAL: (&str, &str) = ("fe80::1", "fe80::11");
/// Nobody listens there: what is up by it was begun by the router.
const NO_PORT: u16 = 1179;

/// Three packets at 50 ms; a second for the rest, on a machine that does other things as well.
const BFD: &str = "protocol device { scan time 10; }\n\
                   protocol bfd { interface \"*\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }; }\n";

struct Apart {
    routers: Vec<Bird>,
    cluster: Cluster,
}

/// A node with a link to each of two routers, and an agent that is told of them by `manifests`.
fn begin(prepare: impl FnOnce(&Lab, &[Host]) -> Result<(String, Vec<Bird>)>) -> Result<Apart> {
    let lab = Lab::new(Shape { nodes: 1, ..Shape::default() })?;
    let begun = (|| {
        let mut options = scenario::on_manifests(&lab)?;
        options.arguments = ["--bgp-listen-port", "179"].map(str::to_owned).into();
        let routers: Vec<_> = LINKS
            .iter()
            .zip(50..)
            .map(|(name, last)| lab.add_host(name, addresses::host(last)))
            .collect::<Result<_>>()?;
        let (text, birds) = prepare(&lab, &routers)?;
        fs::write(lab.directory.join("manifests/bgp.yaml"), text)?;
        let agents = scenario::start_agents(&lab, &options)?;
        Ok((options, birds, agents))
    })();
    let (options, routers, agents) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(lab.failed(error)),
    };
    let vips = addresses::both(addresses::FIRST_VIPS);
    let cluster = Cluster { agents, options, control: None, vips, lab };
    Ok(Apart { routers, cluster })
}

/// A link between the node and a router; each end has its name.
fn link(node: &Host, router: &Host, name: &str, more: (&str, &str)) -> Result<()> {
    let (of_node, of_router) = more;
    node.namespace.ip(&format!(
        "link add {name} type veth peer name {name} netns {}\nlink set {name} up\n{of_node}",
        router.namespace.name
    ))?;
    router.namespace.ip(&format!("link set {name} up\n{of_router}"))
}

fn peer(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: \
         metallb-system}}\nspec: {{myASN: {NODES_AS}, {spec}, connectTime: 1s, bfdProfile: fast}}\n"
    )
}

fn advertisement(spec: &str) -> String {
    format!(
        "{FAST_AND_WEB}---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: \
         all, namespace: metallb-system}}\nspec: {{{spec}}}\n"
    )
}

impl Apart {
    fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        let said = |bird: &Bird| bird.tell("show protocols all").unwrap_or_default();
        let said: Vec<_> = self.routers.iter().map(said).collect();
        self.cluster.failed(error.context(format!("BIRD says:\n{}", said.join("\n"))))
    }

    /// Waits until a router has so many sessions, all of BFD's as well, and each address by all of them.
    fn await_up(&self, router: usize, sessions: usize, vips: &[IpAddr]) -> Result<()> {
        let bird = &self.routers[router];
        let what = format!("router {} has {sessions} sessions and their routes", LINKS[router]);
        wait::until_true(3 * START_LIMIT, &what, || {
            let protocols = bird.tell("show protocols")?;
            let up = protocols.matches("Established").count();
            ensure!(up == sessions, "{protocols}");
            let bfd = bfd_up(bird)?;
            ensure!(bfd == sessions, "{bfd} of BFD's: {}", bird.tell("show bfd sessions")?);
            for vip in vips {
                let routes = bird.tell(&format!("show route for {vip} all"))?;
                let paths = routes.matches("BGP.next_hop").count();
                ensure!(paths == sessions, "{routes}");
            }
            Ok(true)
        })
    }

    /// Cuts the first link without loss of carrier: its router's sessions are found to be gone by BFD, and nothing
    /// happens to those of the other.
    fn cut_one(&self, sessions: usize, vips: &[IpAddr]) -> Result<()> {
        let since = |bird: &Bird| -> Result<Vec<String>> {
            let protocols = bird.tell("show protocols")?;
            let up = protocols.lines().filter(|line| line.contains("Established"));
            Ok(up.map(str::to_owned).collect())
        };
        let before = since(&self.routers[1])?;
        let node = &self.cluster.lab.nodes[0].namespace;
        let block = format!(
            "table netdev cut {{\n chain in {{\n type filter hook ingress device {} priority 0;\n drop\n \
             }}\n}}\n",
            LINKS[0]
        );
        node.feed("nft", &["-f", "-"], &block)?;
        let gone =
            wait::until_true(START_LIMIT, "the agent has lost the router of the cut link", || {
                let printed = self.cluster.agents[0].printed()?;
                let lost = |line: &&str| line.contains("BGPSessionDown") && line.contains("BFD");
                Ok(printed.lines().filter(lost).count() == sessions)
            });
        let undone = node.output("nft", &["delete", "table", "netdev", "cut"]);
        gone?;
        undone?;
        let now = since(&self.routers[1])?;
        ensure!(now == before, "before: {before:?}, now: {now:?}");
        self.await_up(0, sessions, vips)
    }
}

fn bfd_up(bird: &Bird) -> Result<usize> {
    let sessions = bird.tell("show bfd sessions")?;
    let up = sessions.lines().filter(|line| line.split_whitespace().nth(2) == Some("Up"));
    Ok(up.count())
}

/// Two routers with the same addresses and other passwords, one of them in a VRF: each has a session that the
/// agent begins and one that it begins itself, both with BFD beside them. Where the kernel has no VRFs, an
/// interface stands for one, since sockets are bound to either alike; but then no second socket can listen
/// beside the one that is bound to nothing, so that the agent begins the only session there.
pub(crate) fn vrfs() -> Result<()> {
    let mut vrfs = false;
    let apart = begin(|lab, routers| {
        let node = &lab.nodes[0];
        let has_vrfs =
            node.namespace.ip("link add blue type vrf table 10\nlink set blue up\n").is_ok();
        println!("this kernel has {} VRFs", if has_vrfs { "real" } else { "no" });
        let vrf = if has_vrfs { "blue" } else { LINKS[1] };
        let (v4, v6) = NODE;
        for (position, (router, name)) in routers.iter().zip(LINKS).enumerate() {
            let member = if has_vrfs && position == 1 { " master blue" } else { "" };
            node.namespace.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            node.namespace.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
            // Of equal routes outside of VRFs the first is used where no interface is named.
            let of_node = format!(
                "link set {name} up{member}\naddr add {v4}/24 dev {name}\naddr add {SOURCE}/24 dev {name}\n\
                 addr add {v6}/64 dev {name} nodad\n"
            );
            let of_router = format!(
                "addr add {DIALED}/24 dev {name}\naddr add {DIALING}/24 dev {name}\n\
                 addr add fd99::1/64 dev {name} nodad\n"
            );
            link(node, router, name, (&of_node, &of_router))?;
        }
        let mut text = advertisement("");
        let mut birds = Vec::new();
        for (router, name) in routers.iter().zip(LINKS) {
            let place = if name == LINKS[1] { format!(", vrf: {vrf}") } else { String::new() };
            let more = format!(
                "dynamicASN: external, localASN: {SHOWN_AS}, routerID: {IDENTIFIER}, \
                 holdTime: 30s, keepaliveTime: 7s, password: {name}, dualStackAddressFamily: true{place}"
            );
            let dialed = format!("peerAddress: {DIALED}, sourceAddress: {SOURCE}, {more}");
            text += &peer(&format!("{name}-dialed"), &dialed);
            let port = format!("peerAddress: {DIALING}, peerPort: {NO_PORT}, {more}");
            let kinds = [("dialed", DIALED, SOURCE, "passive;"), ("dialing", DIALING, v4, "")];
            let kinds = &kinds[..sessions(has_vrfs, name)];
            if kinds.len() > 1 {
                text += &peer(&format!("{name}-dialing"), &port);
            }
            let mut config = format!("router id {};\n{BFD}", router.ipv4);
            for (kind, own, neighbor, passive) in kinds {
                write!(
                    config,
                    "protocol bgp {kind} {{\n local {own} as {ROUTER_AS}; neighbor {neighbor} as \
                     {SHOWN_AS}; direct; {passive} password \"{name}\"; connect delay time 1; connect retry time 1; error \
                     wait time 1, 2; bfd on;\n ipv4 {{ import all; export none; }};\n ipv6 {{ \
                     import all; export none; }};\n}}\n"
                )?;
            }
            birds.push(Bird::start(lab, &router.namespace, name, &config)?);
        }
        vrfs = has_vrfs;
        Ok((text, birds))
    })?;
    let vips = apart.cluster.vips;
    let result = (0..2)
        .try_for_each(|router| apart.await_up(router, sessions(vrfs, LINKS[router]), &vips))
        .and_then(|()| as_configured(&apart))
        .and_then(|()| apart.cut_one(2, &vips));
    result.map_err(|error| apart.failed(error))
}

/// How many sessions a router has.
fn sessions(has_vrfs: bool, name: &str) -> usize {
    if has_vrfs || name == LINKS[0] { 2 } else { 1 }
}

/// The node shows what its BGPPeer says. IPv6 routes of a session over IPv4 have the next hop that the router can
/// reach: of the interface that the session is by, not the node's InternalIP, which is another's.
fn as_configured(apart: &Apart) -> Result<()> {
    for bird in &apart.routers {
        let session = bird.tell("show protocols all dialed")?;
        let has = |name: &str, value: &str| {
            let line = session.lines().find_map(|line| line.trim().strip_prefix(name));
            line.is_some_and(|line| line.trim().ends_with(value))
        };
        let timers = has("Hold timer:", "/30") && has("Keepalive timer:", "/10");
        ensure!(has("Neighbor ID:", IDENTIFIER) && timers, "{session}");
        let routes = bird.tell(&format!("show route for {} all", apart.cluster.vips[0]))?;
        let path = |line: &str| line.trim().strip_prefix("BGP.as_path: ").map(str::to_owned);
        let mut paths = routes.lines().filter_map(path);
        ensure!(paths.all(|path| path == SHOWN_AS.to_string()), "{routes}");
        let routes = bird.tell(&format!("show route for {} all", apart.cluster.vips[1]))?;
        let hops: Vec<_> =
            routes.lines().filter_map(|line| line.split_once("BGP.next_hop: ")).collect();
        ensure!(
            hops.iter().all(|(_, hop)| hop.split_whitespace().next() == Some(NODE.1)),
            "{routes}"
        );
    }
    Ok(())
}

/// Two routers with the same link-local address, on a link each, found by their router advertisements: a session
/// with each, and BFD beside it. They are of the nodes' AS, and told prefixes that are shorter, with a preference.
pub(crate) fn links() -> Result<()> {
    let apart = begin(|lab, routers| {
        let node = &lab.nodes[0];
        let (of_router, of_node) = LOCAL;
        let mut text =
            advertisement("localPref: 150, aggregationLength: 30, aggregationLengthV6: 126");
        let mut birds = Vec::new();
        for (router, name) in routers.iter().zip(LINKS) {
            for host in [node, router] {
                host.namespace.sysctl("net/ipv6/conf/default/addr_gen_mode", "1")?;
            }
            let address = |address| format!("addr add {address}/64 dev {name} nodad\n");
            link(node, router, name, (&address(of_node), &address(of_router)))?;
            text += &peer(name, &format!("dynamicASN: internal, interface: {name}"));
            let config = format!(
                "router id {};\n{BFD}protocol radv {{ interface \"{name}\" {{ max ra interval 4; min ra \
                 interval 3; default lifetime 0; }}; }}\n\
                 protocol bgp unnumbered {{\n local as {NODES_AS}; neighbor {of_node}%{name} as {NODES_AS}; \
                 direct; connect delay time 1; connect retry time 1; error wait time 1, 2; bfd on;\n ipv4 {{ \
                 import all; export none; extended next hop on; }};\n ipv6 {{ import all; export none; \
                 }};\n}}\n",
                router.ipv4
            );
            birds.push(Bird::start(lab, &router.namespace, name, &config)?);
        }
        Ok((text, birds))
    })?;
    let vips = apart.cluster.vips;
    let result = (0..2)
        .try_for_each(|router| apart.await_up(router, 1, &vips))
        .and_then(|()| preferred(&apart))
        .and_then(|()| apart.cut_one(1, &vips));
    result.map_err(|error| apart.failed(error))
}

fn preferred(apart: &Apart) -> Result<()> {
    for bird in &apart.routers {
        for (vip, prefix) in apart.cluster.vips.iter().zip(["10.77.0.200/30", "fd77::200/126"]) {
            let routes = bird.tell(&format!("show route for {vip} all"))?;
            ensure!(routes.contains(prefix) && routes.contains("BGP.local_pref: 150"), "{routes}");
        }
    }
    Ok(())
}

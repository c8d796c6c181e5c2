//! The LAN's way out: a router, and a client behind it.
//!
//! ```text
//!   br0 ── eth0 ┐
//!               ├ router ── out0 ── eth0 ── remote
//!   br1 ── eth1 ┘
//! ```
use super::{Host, Switch, addresses, namespace::Namespace};
use anyhow::Result;

/// The router's interface towards the client behind it.
const OUT: &str = "out0";

/// A router that spreads by ports what it has several ways for (its BGP daemon is
/// [`super::bgp`]'s), and the client behind it.
pub struct Router {
    /// The router, on the LAN.
    pub host: Host,
    /// The client.
    pub remote: Host,
}

impl Router {
    pub(super) fn new(switch: &Switch<'_>) -> Result<Self> {
        let host = switch.plug_without_routes("router", addresses::GATEWAY, true)?;
        let far = Switch { bridge: super::FAR_BRIDGE, ..*switch };
        far.connect(&host.namespace, "router", "eth1", addresses::FAR_GATEWAY)?;
        // Ports take part in the choice, as in most data centres.
        for family in ["ipv4", "ipv6"] {
            host.namespace.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let remote = remote(switch.prefix, &host.namespace)?;
        Ok(Self { host, remote })
    }

    /// Lets no packet to the client through that is larger than `mtu`, as a narrower link further
    /// on would; what may not be fragmented is answered with an ICMP error.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn narrow(&self, mtu: u16) -> Result<()> {
        self.host.namespace.ip(&format!(
            "route replace 198.51.100.0/24 dev {OUT} mtu lock {mtu}\n\
             route replace 2001:db8:51::/64 dev {OUT} metric 1 mtu lock {mtu}\n"
        ))
    }

    /// Takes [`Self::narrow`] back.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn widen(&self) -> Result<()> {
        self.host.namespace.ip(&format!(
            "route replace 198.51.100.0/24 dev {OUT}\nroute del 2001:db8:51::/64 dev {OUT} metric 1\n"
        ))
    }
}

/// A host on a link of its own at the router.
fn remote(prefix: &str, router: &Namespace) -> Result<Host> {
    let namespace = Namespace::create(prefix, "remote")?;
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    let (ipv4, ipv6) = addresses::REMOTE;
    let (gateway4, gateway6) = addresses::REMOTE_GATEWAY;
    let mac = [0x02, 0x51, 0, 0, 0, 0x10];
    router.ip(&format!(
        "link add {OUT} type veth peer name eth0 address {} netns {}\n\
         addr add {gateway4}/24 dev {OUT}\n\
         addr add {gateway6}/64 dev {OUT} nodad\n\
         link set {OUT} up\n",
        addresses::mac_text(mac),
        namespace.name
    ))?;
    namespace.ip(&format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {ipv4}/24 brd + dev eth0\n\
         addr add {ipv6}/64 dev eth0 nodad\n\
         route add default via {gateway4}\n\
         route add ::/0 via {gateway6} dev eth0\n"
    ))?;
    // Segments and sums are made here: what the router passes on has no mark of being unfinished.
    namespace.output("ethtool", &["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"])?;
    Ok(Host { name: "remote".into(), namespace, ipv4, ipv6, mac, port: OUT.into() })
}

impl super::Lab {
    /// Makes the switch drop what a node sends with a source address that is not its own, as clouds
    /// and hypervisors do: its own are those of its pods and the VIPs.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn refuse_foreign_sources(&self) -> Result<()> {
        let mut rules = String::new();
        for (i, node) in (1u8..).zip(&self.nodes) {
            let (pods4, pods6) = addresses::pod_prefixes(i);
            let (port, v4, v6) = (&node.port, node.ipv4, node.ipv6);
            rules += &format!(
                "iifname \"{port}\" ip saddr != {{ {v4}, {pods4}, 10.77.0.200-10.77.0.239 }} \
                 counter drop\n\
                 iifname \"{port}\" ip6 saddr != {{ {v6}, {pods6}, fd77::200-fd77::2ff, \
                 fe80::/10, :: }} counter drop\n"
            );
        }
        let table = format!(
            "table bridge lab_ports {{\n chain forward {{\n type filter hook forward priority \
             0;\n{rules} }}\n}}\n"
        );
        self.lan.feed("nft", &["-f", "-"], &table).map(drop)
    }

    /// How many frames that has dropped.
    ///
    /// # Errors
    /// It is not in force.
    pub fn foreign_sources_refused(&self) -> Result<u64> {
        let text = self.lan.output("nft", &["list", "chain", "bridge", "lab_ports", "forward"])?;
        let words: Vec<_> = text.split_whitespace().collect();
        let counts = words.windows(2).filter(|w| w[0] == "packets");
        Ok(counts.filter_map(|w| w[1].parse::<u64>().ok()).sum())
    }
}

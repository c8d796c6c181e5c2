//! Cables that are plugged in elsewhere, and interfaces that come, go and change.
use super::{
    BRIDGE, FAR_BRIDGE, Host, Lab, Switch, addresses, attach, namespace::Namespace, pass_pin,
};
use anyhow::Result;
use std::fmt::Write as _;

impl Lab {
    /// Plugs these hosts into the other bridge: from then on they see each other only.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn part(&self, hosts: &[&Host]) -> Result<()> {
        hosts.iter().try_for_each(|host| {
            self.lan.ip(&format!("link set {} master {FAR_BRIDGE}\n", host.port))
        })
    }

    /// A further host on the other bridge, with an address of the LAN.
    ///
    /// # Errors
    /// The name or the address is taken.
    pub fn add_host_beyond(&self, name: &str, address: addresses::OnLan) -> Result<Host> {
        Switch { prefix: &self.prefix, lan: &self.lan, bridge: FAR_BRIDGE }
            .plug(name, address, false)
    }

    /// Gives a node an interface more, plugged into the other bridge, that has no addresses. The
    /// host that is returned is the same node, as it is seen there.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add_interface(&self, node: &Host, interface: &str, mac: [u8; 6]) -> Result<Host> {
        let port = format!("p-{}-{interface}", node.name);
        let (lan, text) = (&self.lan, addresses::mac_text(mac));
        lan.ip(&format!(
            "link add {port} type veth peer name {interface} address {text} netns {}\n\
             link set {port} master {FAR_BRIDGE}\n\
             link set {port} up\n",
            node.namespace.name
        ))?;
        node.namespace.ip(&format!("link set {interface} up\n"))?;
        node.namespace.output("ethtool", &["-K", interface, "tx", "off"])?;
        attach(lan, &port, &pass_pin(&self.prefix))?;
        Ok(Host { mac, port, ..node.clone() })
    }

    /// Takes a node's `eth0` away, routes and addresses with it. Returns what [`Self::put_back`] needs.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn take_away(&self, node: &Host) -> Result<String> {
        let routes = routes(&node.namespace)?;
        node.namespace.ip("link del eth0\n")?;
        Ok(routes)
    }

    /// Makes it anew, with another index.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn put_back(&self, node: &Host, routes: &str) -> Result<()> {
        let switch = Switch { prefix: &self.prefix, lan: &self.lan, bridge: BRIDGE };
        let address = (node.ipv4, node.ipv6, node.mac);
        let host = switch.connect(&node.namespace, &node.name, "eth0", address)?;
        attach(&self.lan, &host.port, &pass_pin(&self.prefix))?;
        node.namespace.ip(routes)
    }
}

/// The routes by `eth0` that somebody has made.
fn routes(namespace: &Namespace) -> Result<String> {
    let mut batch = String::new();
    for family in ["-4", "-6"] {
        let text = namespace.output("ip", &[family, "route", "show", "dev", "eth0"])?;
        for line in text.lines().filter(|line| !line.contains("proto kernel")) {
            let line =
                if family == "-6" { line.replacen("default", "::/0", 1) } else { line.into() };
            writeln!(batch, "route add {line} dev eth0")?;
        }
    }
    Ok(batch)
}

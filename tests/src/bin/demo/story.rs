//! What the demo shows, step by step.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Cut, Host, Lab, addresses,
        agent::Agent,
        control_plane::{ControlPlane, VERSION},
        probe::{Over, Spread},
        scenario::{self, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
    },
    wait,
};
use std::{collections::BTreeMap, net::IpAddr, time::Instant};

/// Questions asked for each address.
const QUESTIONS: usize = 50;
/// Requests for each family and protocol: 100 for each pod.
const REQUESTS: usize = 600;

/// The demo under way.
pub(crate) struct Story<'a> {
    lab: &'a Lab,
    pub(crate) agents: Vec<Agent>,
    pub(crate) control: Option<ControlPlane>,
    pub(crate) vips: [IpAddr; 2],
}

/// Prints a line: what it is about, and what there is to say.
fn line(subject: &str, text: &str) {
    println!("  {subject:<10} {text}");
}

impl<'a> Story<'a> {
    /// Starts the control plane, if there is to be one, and the agents.
    pub(crate) fn begin(lab: &'a Lab, kubernetes: bool) -> Result<Self> {
        println!("Herald on a LAN of three nodes, each of them a network namespace\n");
        line(
            "lan",
            &format!(
                "10.77.0.0/24 and fd77::/64: {}, two pods on each, and a client",
                scenario::node_names(lab).join(", ")
            ),
        );
        let (control, options) = if kubernetes {
            let start = Instant::now();
            let (control, options) = scenario::control_plane(lab)?;
            line(
                "cluster",
                &format!(
                    "etcd, kube-apiserver {VERSION} and kube-proxy on each node, up after {:.1} s",
                    start.elapsed().as_secs_f64()
                ),
            );
            (Some(control), options)
        } else {
            (None, scenario::on_manifests(lab)?)
        };
        let start = Instant::now();
        let mut agents = scenario::start_agents(lab, &options)?;
        let vips = match &control {
            Some(control) => scenario::external_addresses(control, &mut agents)?,
            // The first of the pool: a folder has no status to read them from.
            None => addresses::both(addresses::FIRST_VIPS),
        };
        for &vip in &vips {
            scenario::await_owner(lab, &mut agents, vip, START_LIMIT)?;
        }
        for &vip in &vips {
            scenario::await_serving(lab, vip, &scenario::node_names(lab), START_LIMIT)?;
        }
        let source =
            if kubernetes { "--kubeconfig agent.kubeconfig" } else { "--manifests examples/" };
        line(
            "agents",
            &format!(
                "lb-agent run {source} on each node; all pods serve after {:.1} s",
                start.elapsed().as_secs_f64()
            ),
        );
        if let Some(control) = &control {
            println!("\n  $ kubectl get svc -A");
            for row in control.kubectl(&["get", "svc", "-A"])?.lines() {
                println!("  {row}");
            }
        } else {
            let text: Vec<_> = vips.iter().map(ToString::to_string).collect();
            line("service", &format!("default/web has {}", text.join(" and ")));
        }
        println!();
        Ok(Self { lab, agents, control, vips })
    }

    /// Shows everything; the first thing that does not hold is an error.
    pub(crate) fn tell(&mut self) -> Result<()> {
        for &vip in &self.vips {
            self.ask(vip)?;
        }
        println!();
        let nodes = scenario::node_names(self.lab);
        for over in [Over::Tcp, Over::Udp] {
            for &vip in &self.vips {
                self.request(over, vip, &nodes)?;
            }
        }
        println!();
        let vip = self.vips[0];
        self.cut(vip)?;
        for agent in &mut self.agents {
            agent.check()?;
        }
        println!(
            "\nAll pods of all nodes got their share and saw the client's own address; another node \
             took over in time."
        );
        Ok(())
    }

    /// Who answers for an address, and how fast.
    fn ask(&self, vip: IpAddr) -> Result<()> {
        let owner = scenario::settled_owner(self.lab, vip)?;
        let mut times = vec![];
        for _ in 0..QUESTIONS {
            let answers = scenario::answers(self.lab, vip)?;
            ensure!(
                answers.len() == 1 && answers[0].mac == owner.mac,
                "{vip}: {} alone should answer, but: {answers:?}",
                owner.name
            );
            times.push(answers[0].after);
        }
        times.sort_unstable();
        line(
            if vip.is_ipv4() { "ARP" } else { "NDP" },
            &format!(
                "{vip} is at {} ({}): answered {QUESTIONS} of {QUESTIONS} times, by nobody else, \
                 after {} µs (median)",
                addresses::mac_text(owner.mac),
                owner.name,
                times[times.len() / 2].as_micros()
            ),
        );
        Ok(())
    }

    /// How requests spread.
    fn request(&self, over: Over, vip: IpAddr, nodes: &[&str]) -> Result<()> {
        let spread = scenario::check_spread(self.lab, over, vip, nodes, REQUESTS)?;
        let name = match over {
            Over::Tcp => "HTTP",
            Over::Udp => "UDP",
        };
        line(name, &format!("{REQUESTS} × {}: {}", socket(vip), self.by_node(&spread)));
        let clients: Vec<_> = spread.clients.iter().map(ToString::to_string).collect();
        line("", &format!("client as the pods see it: {}", clients.join(", ")));
        Ok(())
    }

    /// The shares of each node's pods.
    fn by_node(&self, spread: &Spread) -> String {
        let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for pod in &self.lab.pods {
            if let Some(count) = spread.pods.get(&pod.name) {
                let shares = nodes.entry(&self.lab.nodes[pod.node].name).or_default();
                shares.push(format!("{} {count}", pod.name));
            }
        }
        let nodes: Vec<_> =
            nodes.iter().map(|(node, pods)| format!("{node} ({})", pods.join(", "))).collect();
        nodes.join(" ")
    }

    /// Cuts the owner off, and mends it.
    fn cut(&self, vip: IpAddr) -> Result<()> {
        let lab = self.lab;
        let owner = scenario::settled_owner(lab, vip)?;
        line(
            "cut",
            &format!("{}, the owner of {vip}, at the switch; the client goes on", owner.name),
        );
        let taken = scenario::takeover(lab, vip, owner, &scenario::others(lab, owner), || {
            lab.cut(owner, Cut::Port)
        })?;
        line(
            "takeover",
            &format!(
                "{} answers for {vip}: the client's longest gap was {} ms ({} probes lost, one \
                 every 2 ms)",
                taken.owner.name,
                taken.gap.as_millis(),
                taken.lost
            ),
        );
        ensure!(
            taken.gap <= TAKEOVER_LIMIT,
            "the takeover took {} ms, the limit is {} ms",
            taken.gap.as_millis(),
            TAKEOVER_LIMIT.as_millis()
        );
        self.request(Over::Tcp, vip, &scenario::others(lab, owner))?;
        self.mend(vip, owner)
    }

    fn mend(&self, vip: IpAddr, cut: &Host) -> Result<()> {
        let start = Instant::now();
        self.lab.mend(cut)?;
        let nodes = scenario::node_names(self.lab);
        scenario::await_serving(self.lab, vip, &nodes, 2 * TAKEOVER_LIMIT)?;
        let seconds = start.elapsed().as_secs_f64();
        let owner =
            wait::until(TAKEOVER_LIMIT, "one node answers", || scenario::owner(self.lab, vip))?;
        line(
            "mended",
            &format!(
                "{} is back: all six pods serve again after {seconds:.1} s, {} answers for {vip}",
                cut.name, owner.name
            ),
        );
        self.request(Over::Tcp, vip, &nodes)
    }
}

/// Address and port as in a URL.
fn socket(vip: IpAddr) -> String {
    std::net::SocketAddr::from((vip, WEB_PORT)).to_string()
}

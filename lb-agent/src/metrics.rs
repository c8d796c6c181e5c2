//! What the agent tells Prometheus, read from the kernel's counters at each scrape.
//!
//! Names that MetalLB has are kept where they mean the same.
mod bgp;
mod own;
mod pools;

pub use bgp::BgpPeer;
pub use own::{Number, Own};

use crate::{
    bgp::plan::Services,
    datapath::IngressMode,
    ipam::PoolUsage,
    plan::{Announcers, Basis, EndpointShare, EndpointShares, Plan, ServiceAddress},
    snapshot::ObjectName,
};
use lb_common::{
    maps::ServiceStats,
    outcome::{Counters, Outcome},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

/// An agent that has not moved the deadline for so long is stuck: it does so every 5 s. Half of
/// those 60 s are then left for the next one.
const STUCK: Duration = Duration::from_secs(30);

/// The kernel's counters, summed over CPUs.
#[derive(Clone, Debug, Default)]
pub struct KernelStats {
    /// Frames by outcome.
    pub frames: Counters,
    /// Answers to ARP requests and neighbour solicitations, by VIP.
    pub answered: BTreeMap<IpAddr, u64>,
    /// Packets and bytes by VIP:port.
    pub services: Vec<(ServiceAddress, ServiceStats)>,
    /// How each uplink carries the ingress program, by name.
    pub ingress: BTreeMap<String, IngressMode>,
}

/// Reads the kernel's counters; `None` where they cannot be read.
pub type ReadStats = Box<dyn Fn() -> Option<KernelStats> + Send + Sync>;

/// What the agent shows of itself.
pub struct View {
    node: String,
    plan: Mutex<(Arc<Plan>, Option<Arc<Basis>>)>,
    shares: Mutex<EndpointShares>,
    ready: AtomicBool,
    renewed: Mutex<Option<Instant>>,
    alive: AtomicI64,
    allocator: AtomicBool,
    pools: Mutex<Option<BTreeMap<String, PoolUsage>>>,
    read: ReadStats,
    bgp: Mutex<Vec<BgpPeer>>,
    routed: Mutex<Services>,
    /// What the agent counts itself.
    pub own: Own,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("node", &self.node).finish_non_exhaustive()
    }
}

impl View {
    /// A view of the agent of `node`.
    pub fn new(node: String, read: ReadStats) -> Self {
        Self {
            node,
            plan: Mutex::default(),
            shares: Mutex::default(),
            ready: AtomicBool::new(false),
            renewed: Mutex::default(),
            alive: AtomicI64::new(0),
            allocator: AtomicBool::new(false),
            pools: Mutex::default(),
            read,
            bgp: Mutex::default(),
            routed: Mutex::default(),
            own: Own::default(),
        }
    }

    /// A plan stands in the kernel that was made of `basis`.
    pub fn applied(&self, plan: Arc<Plan>, basis: Option<Arc<Basis>>, alive: usize) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = (plan, basis);
        self.alive.store(i64::try_from(alive).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.ready.store(true, Ordering::Relaxed);
    }

    /// The deadline after which the kernel would stop announcing was moved.
    pub fn renewed(&self, now: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether the deadline is being moved, once it has been.
    pub fn is_alive(&self, now: Instant) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_none_or(|renewed| now.saturating_duration_since(renewed) < STUCK)
    }

    /// Whether this agent is the one that allocates.
    pub fn allocates(&self, allocator: bool) {
        self.allocator.store(allocator, Ordering::Relaxed);
    }

    /// How full each pool is, by name; `None` where another agent allocates.
    pub fn pools(&self, usage: Option<BTreeMap<String, PoolUsage>>) {
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }

    /// How the sessions with BGP peers are.
    pub fn bgp(&self, peers: Vec<BgpPeer>) {
        *self.bgp.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// What this node announces by BGP.
    pub fn routed(&self, services: Services) {
        *self.routed.lock().unwrap_or_else(PoisonError::into_inner) = services;
    }

    /// The name of the agent's node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether this agent allocates.
    pub fn is_allocator(&self) -> bool {
        self.allocator.load(Ordering::Relaxed)
    }

    /// How many nodes this agent takes to be alive, its own included.
    pub fn nodes_alive(&self) -> i64 {
        self.alive.load(Ordering::Relaxed)
    }

    /// How the sessions with BGP peers are.
    pub fn peers(&self) -> Vec<BgpPeer> {
        self.bgp.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a plan stands in the kernel.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The plan that stands in the kernel.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan_and_basis().0
    }

    /// The same, and what it was made of.
    pub fn plan_and_basis(&self) -> (Arc<Plan>, Option<Arc<Basis>>) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which part of new flows each endpoint of each port takes, whichever node it is on. What must be
    /// computed for it is so until then; what comes later is missing, and there the next time.
    pub fn endpoint_shares(&self, until: Instant) -> HashMap<ServiceAddress, Arc<[EndpointShare]>> {
        let (plan, Some(basis)) = self.plan_and_basis() else { return HashMap::new() };
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.of(&basis, &plan, || Instant::now() < until)
    }

    /// Why each VIP is announced by whom it is.
    pub fn announcers(&self) -> BTreeMap<IpAddr, Announcers> {
        let (plan, Some(basis)) = self.plan_and_basis() else { return BTreeMap::new() };
        let routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        basis.announcers(&plan, &routed)
    }
}

/// The text of a scrape, in the OpenMetrics format.
pub fn scrape(view: &Arc<View>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(FromView(Arc::clone(view))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The content type that goes with [`scrape`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct FromView(Arc<View>);

impl Collector for FromView {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = &*self.0;
        let plan = view.plan();
        gauge(
            &mut encoder,
            "herald_ready",
            "1 once a plan stands in the kernel",
            i64::from(view.is_ready()),
        )?;
        gauge(
            &mut encoder,
            "metallb_k8s_client_config_loaded_bool",
            "1 once a configuration is in force",
            i64::from(view.is_ready()),
        )?;
        gauge(
            &mut encoder,
            "herald_allocator",
            "1 while this agent gives Services their addresses",
            i64::from(view.is_allocator()),
        )?;
        gauge(
            &mut encoder,
            "herald_nodes_alive",
            "Nodes that this agent takes to be alive, itself included",
            view.nodes_alive(),
        )?;
        gauge(
            &mut encoder,
            "herald_vips",
            "VIPs of the cluster",
            i64::try_from(plan.vips.len()).unwrap_or(i64::MAX),
        )?;
        self.announced(&mut encoder, &plan)?;
        let usage = view.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pools::encode(&mut encoder, &usage.unwrap_or_default())?;
        view.own.encode(&mut encoder)?;
        bgp::encode(&mut encoder, &view.peers())?;
        let Some(stats) = (view.read)() else { return Ok(()) };
        uplinks(&mut encoder, &stats.ingress)?;
        frames(&mut encoder, &stats.frames)?;
        answered(&mut encoder, &stats.answered)?;
        services(&mut encoder, &stats, Unit::Packets)?;
        services(&mut encoder, &stats, Unit::Bytes)
    }
}

impl FromView {
    fn announced(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        plan: &Plan,
    ) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(1i64);
        let mut family = encoder.encode_descriptor(
            "metallb_speaker_announced",
            "Services whose address this node announces",
            None,
            gauge.metric_type(),
        )?;
        let mut encode = |service: &ObjectName, protocol, vip: &IpAddr| {
            let (service, ip) = (service.to_string(), vip.to_string());
            let labels = [
                ("service", service.as_str()),
                ("protocol", protocol),
                ("node", self.0.node.as_str()),
                ("ip", ip.as_str()),
            ];
            gauge.encode(family.encode_family(&labels)?)
        };
        for (vip, planned) in plan.vips.iter().filter(|(_, p)| p.announce.is_some()) {
            planned.services.iter().try_for_each(|service| encode(service, "layer2", vip))?;
        }
        let routed = self.0.routed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (service, announced) in &routed {
            announced.addresses.iter().try_for_each(|vip| encode(service, "bgp", vip))?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn uplinks(
    encoder: &mut DescriptorEncoder<'_>,
    modes: &BTreeMap<String, IngressMode>,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(1i64);
    let mut family = encoder.encode_descriptor(
        "herald_uplink",
        "Interfaces on which VIPs are served, by how the kernel program is attached",
        None,
        gauge.metric_type(),
    )?;
    for (interface, mode) in modes {
        let labels = [("interface", interface.as_str()), ("mode", mode.name())];
        gauge.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn frames(encoder: &mut DescriptorEncoder<'_>, frames: &Counters) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family =
        encoder.encode_descriptor("herald_frames", "Frames by what became of them", None, kind)?;
    for &outcome in Outcome::ALL {
        let counter = ConstCounter::new(frames.get(outcome));
        counter.encode(family.encode_family(&[("outcome", outcome.name())])?)?;
    }
    Ok(())
}

/// What is asked for where it is announced is answered: one count serves both of MetalLB's metrics.
fn answered(encoder: &mut DescriptorEncoder<'_>, by_vip: &BTreeMap<IpAddr, u64>) -> fmt::Result {
    for (name, help) in [
        ("metallb_layer2_requests_received", "ARP requests and neighbour solicitations for a VIP"),
        ("metallb_layer2_responses_sent", "Answers to ARP requests and neighbour solicitations"),
    ] {
        // A gauge by its type, since OpenMetrics would have MetalLB's name end in _total.
        let kind = ConstGauge::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (vip, answered) in by_vip {
            let vip = vip.to_string();
            ConstGauge::new(*answered).encode(family.encode_family(&[("ip", vip.as_str())])?)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Unit {
    Packets,
    Bytes,
}

fn services(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &KernelStats,
    unit: Unit,
) -> Result<(), fmt::Error> {
    let (name, help) = match unit {
        Unit::Packets => ("herald_service_packets", "Packets to a VIP's port, by where they went"),
        Unit::Bytes => ("herald_service_bytes", "Bytes to a VIP's port, by where they went"),
    };
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (address, counted) in &stats.services {
        let ServiceStats { delivered_packets, delivered_bytes, forwarded_packets, forwarded_bytes } =
            *counted;
        let (delivered, forwarded) = match unit {
            Unit::Packets => (delivered_packets, forwarded_packets),
            Unit::Bytes => (delivered_bytes, forwarded_bytes),
        };
        let (ip, port) = (address.vip.to_string(), address.port.to_string());
        let protocol = address.protocol.to_string();
        for (to, value) in [("endpoint", delivered), ("node", forwarded)] {
            let labels = [
                ("ip", ip.as_str()),
                ("port", port.as_str()),
                ("protocol", protocol.as_str()),
                ("to", to),
            ];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bgp::plan::Announced,
        plan::{Interfaces, PlannedVip},
        snapshot::Protocol,
    };

    #[test]
    fn a_scrape_names_outcomes_services_and_what_is_announced() {
        let read: ReadStats = Box::new(|| {
            let frames = Counters { arp_answered: 3, ..Counters::default() };
            let address = ServiceAddress {
                vip: "10.0.0.1".parse().unwrap(),
                port: 80,
                protocol: Protocol::Tcp,
            };
            let stats = ServiceStats { forwarded_packets: 7, ..ServiceStats::default() };
            let ingress = [("eth0".to_owned(), IngressMode::Tcx)].into();
            let answered = [("10.0.0.1".parse().unwrap(), 5)].into();
            Some(KernelStats { frames, answered, services: vec![(address, stats)], ingress })
        });
        let view = Arc::new(View::new("node-1".into(), read));
        assert!(!view.is_ready());
        let vip = PlannedVip {
            owner: Some("node-1".into()),
            announce: Some(Interfaces::All),
            services: [ObjectName::new("default", "web")].into(),
        };
        let plan = Plan {
            vips: imbl::OrdMap::unit("10.0.0.1".parse().unwrap(), Arc::new(vip)),
            ..Plan::default()
        };
        view.applied(Arc::new(plan), None, 3);
        let addresses = ["2001:db8::1".parse().unwrap()].into();
        let routed = Announced { addresses, ..Announced::default() };
        view.routed(Services::unit(ObjectName::new("default", "db"), Arc::new(routed)));
        view.own.asked.add(2);
        view.own.links_disproved.set(1);
        let announced = "10.0.0.1".parse().unwrap();
        view.own.announced(announced);
        view.own.announced("10.0.0.2".parse().unwrap());
        view.own.retain_vips(|vip| *vip == announced);
        let text = scrape(&view).unwrap();
        for line in [
            "herald_ready 1",
            "herald_nodes_alive 3",
            r#"herald_uplink{interface="eth0",mode="tcx"} 1"#,
            r#"herald_frames_total{outcome="arp_answered"} 3"#,
            r#"herald_service_packets_total{ip="10.0.0.1",port="80",protocol="TCP",to="node"} 7"#,
            r#"metallb_speaker_announced{service="default/web",protocol="layer2",node="node-1",ip="10.0.0.1"} 1"#,
            r#"metallb_speaker_announced{service="default/db",protocol="bgp",node="node-1",ip="2001:db8::1"} 1"#,
            r#"herald_flow_questions_total{outcome="asked"} 2"#,
            "herald_conntrack_deleted_total 0",
            r#"metallb_layer2_gratuitous_sent{ip="10.0.0.1"} 1"#,
            r#"metallb_layer2_requests_received{ip="10.0.0.1"} 5"#,
            r#"metallb_layer2_responses_sent{ip="10.0.0.1"} 5"#,
            "metallb_k8s_client_updates_total 0",
            "metallb_k8s_client_config_loaded_bool 1",
            "metallb_k8s_client_config_stale_bool 0",
            r#"herald_link_proofs{state="disproved"} 1"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("10.0.0.2"), "{text}");
    }

    #[test]
    fn the_documentation_knows_every_metric() {
        let documented = include_str!("../../docs/observe.md");
        for name in exposed().values() {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/observe.md");
        }
    }

    /// Names of series as a scrape of the allocator shows them, that is, of counters with their suffix;
    /// and the bare ones.
    fn exposed() -> BTreeMap<String, String> {
        let read: ReadStats = Box::new(|| Some(KernelStats::default()));
        let view = Arc::new(View::new("node-1".into(), read));
        view.pools(Some([("lan".to_owned(), PoolUsage::default())].into()));
        let text = scrape(&view).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let name = |(name, kind): (&str, &str)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), name.to_owned())
        };
        types.map(name).collect()
    }

    #[test]
    fn alerts_dashboard_and_documentation_name_no_other_metrics() {
        let exposed = exposed();
        let name = regex::Regex::new(r"\b(?:herald|metallb)_[a-z0-9_]+").unwrap();
        let names = |text: &'static str| name.find_iter(text).map(|found| found.as_str());
        for (file, text) in [
            ("alerts.yaml", include_str!("../../deploy/chart/templates/alerts.yaml")),
            ("dashboard.json", include_str!("../../deploy/chart/files/dashboard.json")),
        ] {
            assert!(names(text).count() > 5, "{file} names hardly any metric");
            for found in names(text) {
                assert!(exposed.contains_key(found), "{file}: {found} is no series");
            }
        }
        // There, counters go by their bare names, too.
        for found in names(include_str!("../../docs/observe.md")) {
            let known =
                exposed.iter().any(|(series, bare)| [series, bare].contains(&&found.to_owned()));
            // The program's own names and labels.
            let other = found.starts_with("herald_ingress") || found.starts_with("herald_egress");
            assert!(known || other, "docs/observe.md: {found} is no metric");
        }
    }

    #[test]
    fn an_agent_that_does_not_move_the_deadline_is_not_alive() {
        let view = View::new("node-1".into(), Box::new(|| None));
        let now = Instant::now();
        assert!(view.is_alive(now), "nothing is pinned yet");
        view.renewed(now);
        assert!(view.is_alive(now + STUCK / 2));
        assert!(!view.is_alive(now + STUCK));
    }

    #[test]
    fn without_the_kernels_counters_the_rest_is_told() {
        let view = Arc::new(View::new("node-1".into(), Box::new(|| None)));
        assert!(scrape(&view).unwrap().contains("herald_ready 0"));
    }
}

//! What the agent counts itself.
use crate::{membership::members::Counts, resort::Knowledge};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A number that only grows, or, of a gauge, is set.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the agent counts itself, since it started.
#[derive(Debug, Default)]
pub struct Own {
    /// Flows that the other agents were asked about.
    pub asked: Number,
    /// Flows that they were not asked about, because there were too many at once.
    pub not_asked: Number,
    /// Answers to others: this node knows the flow.
    pub known: Number,
    /// Answers to others: it does not.
    pub not_known: Number,
    /// Flows that turned out to be at this node.
    pub found_here: Number,
    /// At another.
    pub found_elsewhere: Number,
    /// At none.
    pub found_nowhere: Number,
    /// Flows of which nothing could be said, because a node that lives did not answer.
    pub not_found: Number,
    /// Entries of finished connections that were removed from the kernel's connection tracking.
    pub conntrack_deleted: Number,
    /// New cookies.
    pub cookies: Number,
    /// Links that let clients' addresses through, at this moment.
    pub links_proven: Number,
    /// Links that do not.
    pub links_disproved: Number,
    /// Plans that were to be brought into the kernel, those that failed among them.
    pub updates: Number,
    /// Those that failed.
    pub update_errors: Number,
    /// 1 while what is in force may not be what the API says now.
    pub stale: Number,
    /// Gratuitous frames, by VIP.
    gratuitous: Mutex<BTreeMap<IpAddr, u64>>,
    /// Frames by which hosts that are no nodes claimed a VIP that this node announces, by VIP, as far
    /// as the kernel told.
    claims: Mutex<BTreeMap<IpAddr, u64>>,
    /// VIPs that are claimed, by interface, and whether they are withdrawn there.
    conflicts: Mutex<BTreeMap<(IpAddr, String), bool>>,
    /// What agents sent each other, and what came of it.
    members: Mutex<Counts>,
}

impl Own {
    /// Takes what was counted of other nodes.
    pub fn set_members(&self, counts: Counts) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Counts an answer to another agent.
    pub fn answered(&self, knowledge: Knowledge) {
        let known = knowledge != Knowledge::Nothing;
        (if known { &self.known } else { &self.not_known }).add(1);
    }

    /// Counts a gratuitous frame.
    pub fn announced(&self, vip: IpAddr) {
        *lock(&self.gratuitous).entry(vip).or_default() += 1;
    }

    /// Counts a frame by which another host claims a VIP of this node.
    pub fn claimed(&self, vip: IpAddr) {
        *lock(&self.claims).entry(vip).or_default() += 1;
    }

    /// Takes which VIPs of this node others claim, on which interfaces, and whether they are
    /// withdrawn there.
    pub fn set_conflicts(&self, conflicts: BTreeMap<(IpAddr, String), bool>) {
        *lock(&self.conflicts) = conflicts;
    }

    /// Forgets what was counted for addresses that are no VIPs any more: their series would stay
    /// for ever.
    pub fn retain_vips(&self, is_vip: impl Fn(&IpAddr) -> bool) {
        lock(&self.gratuitous).retain(|vip, _| is_vip(vip));
        lock(&self.claims).retain(|vip, _| is_vip(vip));
    }

    /// What MetalLB's client of the API tells, and its layer 2 speaker.
    fn encode_metallb(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        counter(
            encoder,
            "metallb_k8s_client_updates",
            "Plans made of what the API says and brought into the kernel, failures included",
            &self.updates,
        )?;
        counter(
            encoder,
            "metallb_k8s_client_update_errors",
            "Plans that could not be brought into the kernel",
            &self.update_errors,
        )?;
        let stale = ConstGauge::new(self.stale.get());
        stale.encode(encoder.encode_descriptor(
            "metallb_k8s_client_config_stale_bool",
            "1 while the configuration in force may not be what the API says now",
            None,
            stale.metric_type(),
        )?)?;
        // A gauge by its type, since OpenMetrics would have MetalLB's name end in _total.
        let kind = ConstGauge::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(
            "metallb_layer2_gratuitous_sent",
            "Gratuitous ARP frames and unsolicited neighbour advertisements sent for a VIP",
            None,
            kind,
        )?;
        for (vip, sent) in &*lock(&self.gratuitous) {
            let vip = vip.to_string();
            ConstGauge::new(*sent).encode(family.encode_family(&[("ip", vip.as_str())])?)?;
        }
        Ok(())
    }

    fn encode_conflicts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(
            "herald_vip_claims",
            "Frames by which hosts that are no nodes claimed a VIP that this node announces, of a flood only a part",
            None,
            kind,
        )?;
        for (vip, claims) in &*lock(&self.claims) {
            let vip = vip.to_string();
            ConstCounter::new(*claims).encode(family.encode_family(&[("ip", vip.as_str())])?)?;
        }
        let kind = ConstGauge::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(
            "herald_vip_conflict",
            "1 for a VIP of this node that another host claims too, by what is done about it",
            None,
            kind,
        )?;
        for ((vip, interface), withdrawn) in &*lock(&self.conflicts) {
            let vip = vip.to_string();
            let state = if *withdrawn { "withdrawn" } else { "defended" };
            let labels = [("ip", vip.as_str()), ("interface", interface), ("state", state)];
            ConstGauge::new(1u64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_members(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = *self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |value: u64| Number(AtomicU64::new(value));
        counters(
            encoder,
            "herald_member_probes",
            "Probes of other nodes' kernel programs, and their answers",
            "what",
            &[("sent", &number(counts.probes)), ("answered", &number(counts.answers))],
        )?;
        counters(
            encoder,
            "herald_member_datagrams",
            "Datagrams between agents; forged ones carry no key of this cluster, old ones came before or too late",
            "what",
            &[
                ("sent", &number(counts.sent)),
                ("received", &number(counts.received)),
                ("forged", &number(counts.forged)),
                ("old", &number(counts.old)),
            ],
        )?;
        counters(
            encoder,
            "herald_member_troubles",
            "How often this agent found a node's kernel not to answer or an agent to be silent, and how often this node's VIPs were taken away",
            "what",
            &[
                ("unseen", &number(counts.unseen)),
                ("silent", &number(counts.silent)),
                ("lost", &number(counts.lost)),
            ],
        )
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_metallb(encoder)?;
        self.encode_members(encoder)?;
        counters(
            encoder,
            "herald_flow_questions",
            "Flows that no node of their row knew, by whether the other agents were asked",
            "outcome",
            &[("asked", &self.asked), ("too_many", &self.not_asked)],
        )?;
        counters(
            encoder,
            "herald_flow_answers",
            "Answers to other agents' questions about flows",
            "answer",
            &[("yes", &self.known), ("no", &self.not_known)],
        )?;
        counters(
            encoder,
            "herald_flow_verdicts",
            "Where flows were found that no node of their row knew; unknown if not all living nodes answered",
            "found",
            &[
                ("here", &self.found_here),
                ("elsewhere", &self.found_elsewhere),
                ("nowhere", &self.found_nowhere),
                ("unknown", &self.not_found),
            ],
        )?;
        counter(
            encoder,
            "herald_conntrack_deleted",
            "Entries of finished connections removed from connection tracking when a VIP's port changed hands",
            &self.conntrack_deleted,
        )?;
        counter(
            encoder,
            "herald_cookie_rotations",
            "New cookies that tunnelled packets to this node have to carry",
            &self.cookies,
        )?;
        self.encode_conflicts(encoder)?;
        let gauge = ConstGauge::new(0u64);
        let mut family = encoder.encode_descriptor(
            "herald_link_proofs",
            "Links to other nodes, by whether frames with clients' addresses get through",
            None,
            gauge.metric_type(),
        )?;
        for (state, value) in [("proven", &self.links_proven), ("disproved", &self.links_disproved)]
        {
            ConstGauge::new(value.get()).encode(family.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    // A count is never half done.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &Number,
) -> fmt::Result {
    let counter = ConstCounter::new(value.get());
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, &Number)],
) -> fmt::Result {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (of, value) in values {
        let counter = ConstCounter::new(value.get());
        counter.encode(family.encode_family(&[(label, *of)])?)?;
    }
    Ok(())
}

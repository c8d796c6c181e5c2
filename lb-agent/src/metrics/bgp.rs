//! Sessions with BGP peers.
use lb_bgp::{rib::RouteCounts, session::Counters};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
};
use std::{fmt, net::SocketAddr};

/// How the session with a peer is.
#[derive(Clone, Debug)]
pub struct BgpPeer {
    /// The peer, as MetalLB's metrics name it.
    pub peer: SocketAddr,
    /// The session is up.
    pub up: bool,
    /// Its routes.
    pub routes: RouteCounts,
    /// What was counted.
    pub counters: Counters,
    /// BFD finds the peer; `None` without BFD.
    pub bfd_up: Option<bool>,
}

type Read = fn(&BgpPeer) -> Option<u64>;

/// Name, help, and what to read. All are gauges by their type, since OpenMetrics would have MetalLB's names
/// of counters end otherwise.
const ALL: [(&str, &str, Read); 13] = [
    ("metallb_bgp_session_up", "1 while the session is up", |p| Some(u64::from(p.up))),
    ("metallb_bgp_updates_total", "UPDATEs sent", |p| Some(p.counters.updates_sent)),
    ("metallb_bgp_announced_prefixes_total", "Prefixes that the peer has been told", |p| {
        Some(p.routes.announced as u64)
    }),
    ("metallb_bgp_pending_prefixes_total", "Prefixes whose change it has yet to be told", |p| {
        Some(p.routes.pending as u64)
    }),
    ("metallb_bgp_opens_sent", "OPENs sent", |p| Some(p.counters.opens_sent)),
    ("metallb_bgp_opens_received", "OPENs received", |p| Some(p.counters.opens_received)),
    ("metallb_bgp_notifications_sent", "NOTIFICATIONs sent", |p| {
        Some(p.counters.notifications_sent)
    }),
    ("metallb_bgp_keepalives_sent", "KEEPALIVEs sent", |p| Some(p.counters.keepalives_sent)),
    ("metallb_bgp_keepalives_received", "KEEPALIVEs received", |p| {
        Some(p.counters.keepalives_received)
    }),
    ("metallb_bgp_updates_total_received", "UPDATEs received", |p| {
        Some(p.counters.updates_received)
    }),
    (
        "herald_bgp_prefixes_received",
        "Prefixes that the peer has announced, each as often as it was",
        |p| Some(p.counters.prefixes_announced),
    ),
    (
        "herald_bgp_faults_received",
        "Faults in what the peer announces that did not end the session",
        |p| Some(p.counters.faults),
    ),
    ("metallb_bfd_session_up", "1 while BFD finds the peer", |p| p.bfd_up.map(u64::from)),
];

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, peers: &[BgpPeer]) -> fmt::Result {
    for (name, help, read) in ALL {
        let kind = ConstGauge::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (peer, value) in peers.iter().filter_map(|peer| Some((peer, read(peer)?))) {
            let peer = peer.peer.to_string();
            ConstGauge::new(value).encode(family.encode_family(&[("peer", peer.as_str())])?)?;
        }
    }
    Ok(())
}

//! A Service that kube-proxy served until just now: its connections go on with it while the agent
//! is still looking for them in connection tracking.
use crate::{
    maps::{ELSEWHERE, now_s},
    packet::Packet,
};
use lb_common::{
    maps::{ELSEWHERE_BEGUN, Elsewhere, NO_NODE},
    wire::protocol,
};

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
/// For how many seconds a flow is remembered to have begun since: longer than the agent looks.
const BEGUN_S: u32 = 30;

/// Whether a packet of no known flow, at its first hop, is one of kube-proxy's connection. What
/// begins a flow is Herald's, and its later packets are known by that wherever they go.
#[inline(never)]
pub(crate) fn is_proxied(packet: &Packet) -> bool {
    let flow = &packet.flow;
    if flow.proto == protocol::UDP {
        return false;
    }
    if packet.begins && !packet.is_error {
        let begun = Elsewhere {
            node: NO_NODE,
            verdict: ELSEWHERE_BEGUN,
            until_s: now_s().wrapping_add(BEGUN_S),
        };
        let _ = ELSEWHERE.insert(flow, begun, ANY);
        return false;
    }
    let Some(elsewhere) = ELSEWHERE.get_ptr(flow) else { return true };
    // SAFETY: entries of an LRU map may be reused while they are read; the worst that comes of
    // it is one packet to where another flow goes.
    unsafe { now_s() >= (*elsewhere).until_s }
}

//! Flows that no node of their row knows: what the other agents said, and asking them.
use crate::{
    events,
    maps::{ELSEWHERE, SETTINGS, now_s},
    packet::Packet,
    step::Step,
};
use lb_common::{
    maps::{
        ELSEWHERE_ASKED, ELSEWHERE_ASKED_AGAIN, ELSEWHERE_NOBODY, ELSEWHERE_NOBODY_S,
        ELSEWHERE_NODE, Elsewhere, FlowKey, NO_NODE, Service, THIS_NODE,
    },
    outcome::Outcome,
    tunnel::LAST,
    wire::TCP_RST,
};

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
/// For how many seconds nobody is asked again.
const ASKED_S: u32 = 2;
/// For how many seconds after that it counts that there was no answer.
const UNANSWERED_S: u32 = 60;

/// What is known of a flow, if it still counts: the node, the verdict, and until when.
#[inline(always)]
fn look(flow: &FlowKey) -> Option<(u16, u16, u32)> {
    let elsewhere = ELSEWHERE.get_ptr(flow)?;
    // SAFETY: entries of an LRU map may be reused while they are read; the worst that comes of
    // it is one packet to a node that does not know its flow, which drops it.
    unsafe {
        let Elsewhere { node, verdict, until_s } = *elsewhere;
        (now_s() < until_s).then_some((node, verdict, until_s))
    }
}

/// Whether a flow that this node remembers is here, and nowhere else: the agents say so, or have
/// been asked twice, lastly within a minute, and were not there to answer.
#[inline(never)]
pub(crate) fn is_known_here(flow: &FlowKey) -> u32 {
    let Some(elsewhere) = ELSEWHERE.get_ptr(flow) else { return 0 };
    // SAFETY: entries of an LRU map may be reused while they are read; the worst that comes of
    // it is one packet that is asked about, or goes to an endpoint whose stack refuses it.
    let Elsewhere { node, verdict, until_s } = unsafe { *elsewhere };
    let now = now_s();
    let here = if now < until_s {
        verdict == ELSEWHERE_NODE && node == THIS_NODE
    } else {
        verdict == ELSEWHERE_ASKED_AGAIN && now - until_s < UNANSWERED_S
    };
    u32::from(here)
}

/// What an entry is to say when the agents are to be asked: whether it is not the first time.
#[inline(always)]
fn asked(flow: &FlowKey, now: u32) -> u16 {
    let Some(elsewhere) = ELSEWHERE.get_ptr(flow) else { return ELSEWHERE_ASKED };
    // SAFETY: as above.
    let Elsewhere { verdict, until_s, .. } = unsafe { *elsewhere };
    let unanswered = verdict == ELSEWHERE_ASKED || verdict == ELSEWHERE_ASKED_AGAIN;
    if unanswered && now.wrapping_sub(until_s) < UNANSWERED_S {
        ELSEWHERE_ASKED_AGAIN
    } else {
        ELSEWHERE_ASKED
    }
}

/// Whether a UDP flow that is not known here was found elsewhere lately, or may have been: it is
/// looked for as long as it lasts. UDP is never asked about, so this is what an entry of its says.
#[inline(never)]
pub(crate) fn is_sought(packet: &Packet) -> u32 {
    u32::from(look(&packet.flow).is_some())
}

/// Notes that a UDP flow is looked for. One that is nowhere comes back, and is known here then.
#[inline(never)]
pub(crate) fn note_sought(packet: &Packet) -> u32 {
    let window = SETTINGS.get(0).map_or(0, |settings| settings.udp_window_s);
    let until_s = now_s().wrapping_add(window);
    let key = &packet.flow;
    if let Some(elsewhere) = ELSEWHERE.get_ptr_mut(key) {
        // SAFETY: as above; and a store of another value than the one that stands there does no
        // more harm to another flow than that.
        unsafe {
            if (*elsewhere).until_s != until_s {
                (*elsewhere).until_s = until_s;
            }
        }
        return 0;
    }
    let sought = Elsewhere { node: NO_NODE, verdict: ELSEWHERE_ASKED, until_s };
    let _ = ELSEWHERE.insert(key, sought, ANY);
    0
}

/// What the row's node does before it sends an unknown packet to the next: uses an answer
/// that has come in. [`Step::NONE`] if there is none.
#[inline(always)]
pub(crate) fn answer(packet: &Packet, service: &Service) -> Step {
    match look(&packet.flow) {
        Some((node, ELSEWHERE_NODE, _)) if node != THIS_NODE && node != NO_NODE => {
            Step::send_elsewhere(node)
        }
        Some((_, ELSEWHERE_NOBODY, until_s)) if !packet.is_error && counts(until_s, service) => {
            nobody(service)
        }
        _ => Step::NONE,
    }
}

/// The end of the row. `at` is the position of this node in it, `first` the row's node.
#[inline(always)]
pub(crate) fn last_resort(packet: &Packet, service: &Service, at: u8, first: u16) -> Step {
    if packet.is_error {
        return Step::done(Outcome::DropIcmpUnknown);
    }
    // This node's agent may be away: the row's node has one, too.
    let asked_before = if at < LAST && first != THIS_NODE && first != NO_NODE {
        Step::send(first, LAST)
    } else {
        Step::done(Outcome::DropAsked)
    };
    match look(&packet.flow) {
        Some((node, ELSEWHERE_NODE, _)) if node != THIS_NODE && node != NO_NODE => {
            if at >= LAST {
                return Step::done(Outcome::DropHops);
            }
            return Step::send_elsewhere(node);
        }
        Some((_, ELSEWHERE_NOBODY, until_s)) if counts(until_s, service) => return nobody(service),
        Some((_, ELSEWHERE_ASKED | ELSEWHERE_ASKED_AGAIN, _)) => return asked_before,
        _ => {}
    }
    if packet.flags & TCP_RST != 0 {
        return Step::done(Outcome::DropUnknownFlow);
    }
    let flow = &packet.flow;
    let now = now_s();
    let verdict = asked(flow, now);
    let asked = Elsewhere { node: NO_NODE, verdict, until_s: now.wrapping_add(ASKED_S) };
    let _ = ELSEWHERE.insert(flow, asked, ANY);
    events::unknown_flow(flow, first);
    if verdict == ELSEWHERE_ASKED_AGAIN { asked_before } else { Step::done(Outcome::DropAsked) }
}

/// Whether that nobody knows a flow was found out after the row's last change. Before it, this node may
/// have been alone behind a cut link, and have asked nobody.
#[inline(always)]
const fn counts(until_s: u32, service: &Service) -> bool {
    until_s.wrapping_sub(ELSEWHERE_NOBODY_S) > service.changed_s
}

/// Nobody knows the flow: that is certain once the tables have stood for a while.
#[inline(always)]
fn nobody(service: &Service) -> Step {
    let settle_s = SETTINGS.get(0).map_or(u32::MAX, |settings| settings.settle_s);
    if now_s().saturating_sub(service.changed_s) >= settle_s {
        Step::refuse(Outcome::DropUnknownFlow)
    } else {
        Step::done(Outcome::DropUnknownFlow)
    }
}

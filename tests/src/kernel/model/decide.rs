//! *Decide at position k* and *last resort*: section 2.

use super::{
    super::world::{Answer, Elsewhere, NOBODY, World},
    Case, Dropped, Event, Kind, Packet, RST, Verdict, affinity, deliver, flows, refuse,
    send::{self, Way},
    steer::Steering,
    tunnel::END,
};
use lb_common::maps::ELSEWHERE_NOBODY_S;

/// Where a packet that no flow of this node's is goes from position `k`.
pub(super) fn decide(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    k: u8,
) -> Result<Verdict, Dropped> {
    let error = packet.kind == Kind::Error;
    let client_ip = to.service.client_ip && !error;
    if client_ip && (packet.begins() || packet.protocol == 17) {
        if let Some(endpoint) = affinity::endpoint(world, packet, to) {
            return deliver::new(world, case, packet, to, Some(endpoint));
        }
        return looked_for(world, case, packet, to, k);
    }
    if packet.begins() {
        return begins(world, case, packet, to, k);
    }
    if packet.protocol == 17 && !error {
        return looked_for(world, case, packet, to, k);
    }
    if to.is_here()
        && k < 3
        && let Some(node) = elsewhere(world, case, packet, to, k).transpose()
    {
        return node;
    }
    if k < 3
        && let Some((node, place)) = to.next(to.unasked(k)..4)
    {
        return send::on(world, case, packet, to, node, Way::Position(place.max(k + 1)));
    }
    last_resort(world, case, packet, to, k)
}

fn begins(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    k: u8,
) -> Result<Verdict, Dropped> {
    if deliver::has_endpoint(to) {
        return deliver::new(world, case, packet, to, to.endpoint);
    }
    match to.first() {
        Some(node) if k < 3 => send::on(world, case, packet, to, node, Way::Position(k + 1)),
        _ => refuse::refuse(world, case, packet, "drop_no_endpoint"),
    }
}

/// UDP, and what looks for its client's affinity: along the row for a while after a change,
/// and back to the row's node.
fn looked_for(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    k: u8,
) -> Result<Verdict, Dropped> {
    let here = |world: &mut World| {
        if deliver::has_endpoint(to) {
            deliver::new(world, case, packet, to, to.endpoint)
        } else if packet.begins() {
            refuse::refuse(world, case, packet, "drop_no_endpoint")
        } else {
            Err("drop_no_endpoint")
        }
    };
    if k == 3
        && !deliver::has_endpoint(to)
        && let Some(first) = to.first()
    {
        return send::on(world, case, packet, to, first, Way::Position(END));
    }
    if k >= 3 || (k == 0 && to.is_here() && is_settled(world, packet, to)) {
        return here(world);
    }
    if k == 0
        && let Some(first) = to.first()
    {
        return send::on(world, case, packet, to, first, Way::Position(1));
    }
    if let Some((node, place)) = to.next(to.unasked(k)..3) {
        if k == 0 && to.is_here() && !to.service.client_ip {
            let looked_for = Elsewhere { answer: Answer::Asked, until: 0 };
            world.elsewhere.entry(packet.forth()).or_insert(looked_for).until = 0;
        }
        return send::on(world, case, packet, to, node, Way::Position(place.max(k + 1)));
    }
    match to.first() {
        // Back, after a look at those of before.
        Some(node) => send::on(world, case, packet, to, node, Way::Position(3)),
        None => here(world),
    }
}

/// Whether nobody else may still have flows or affinities of the row.
fn is_settled(world: &World, packet: &Packet, to: &Steering) -> bool {
    let window = if to.service.client_ip { to.service.affinity } else { world.udp_window };
    let passed = |since: i32| -since >= window as i32;
    let same = !to.service.client_ip && to.before.is_some() && to.before == to.row.first().copied();
    // Once it has been looked for, it is so as long as it goes on.
    let looked_for = !to.service.client_ip
        && world.elsewhere.get(&packet.forth()).is_some_and(|entry| entry.until >= 0);
    passed(world.started) && (passed(to.service.changed) || same) && !looked_for
}

/// What came of asking the others, if it is an answer.
fn elsewhere(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    k: u8,
) -> Result<Option<Verdict>, Dropped> {
    let entry = world.elsewhere.get(&packet.forth()).filter(|entry| entry.until >= 0);
    let answer = entry.map(|entry| match entry.answer {
        // Found out before the row changed.
        Answer::Nobody if entry.until - ELSEWHERE_NOBODY_S as i32 <= to.service.changed => {
            Answer::Asked
        }
        answer => answer,
    });
    match answer {
        // No other node.
        Some(Answer::Node(0 | NOBODY)) => Ok(None),
        Some(Answer::Node(_)) if k >= 3 => Err("drop_hops"),
        Some(Answer::Node(node)) => {
            send::on(world, case, packet, to, node, Way::Elsewhere).map(Some)
        }
        Some(Answer::Nobody) if packet.kind == Kind::Error => Ok(None),
        Some(Answer::Nobody) => {
            if -to.service.changed < world.settle as i32 {
                return Err("drop_unknown_flow");
            }
            refuse::refuse(world, case, packet, "drop_unknown_flow").map(Some)
        }
        Some(Answer::Asked | Answer::AskedAgain) | None => Ok(None),
    }
}

/// For what no node of the row knows.
pub(super) fn last_resort(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    k: u8,
) -> Result<Verdict, Dropped> {
    if packet.kind == Kind::Error {
        return Err("drop_icmp_unknown");
    }
    if let Some(verdict) = elsewhere(world, case, packet, to, k)? {
        return Ok(verdict);
    }
    let key = packet.forth();
    let counts = |entry: &Elsewhere| {
        entry.until >= 0 && matches!(entry.answer, Answer::Asked | Answer::AskedAgain)
    };
    let asked = world.elsewhere.get(&key).is_some_and(counts);
    let again = world.elsewhere.get(&key).is_some_and(flows::is_unanswered);
    if !asked && packet.flags() & RST != 0 {
        return Err("drop_unknown_flow");
    }
    let mut verdict = match to.first().filter(|_| k < 3 && (asked || again)) {
        Some(first) => send::on(world, case, packet, to, first, Way::Position(3))
            .unwrap_or_else(|reason| Verdict::untouched(super::DROP, reason, case.frame)),
        None => Verdict::untouched(super::DROP, "drop_asked", case.frame),
    };
    if !asked {
        // Written as now and little more: the rig reads it so.
        let answer = if again { Answer::AskedAgain } else { Answer::Asked };
        world.elsewhere.insert(key, Elsewhere { answer, until: 0 });
        let node = to.row.first().copied().unwrap_or(NOBODY);
        verdict.event = Some(Event::Unknown(key, node));
    }
    Ok(verdict)
}

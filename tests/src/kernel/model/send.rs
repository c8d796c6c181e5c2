//! Sending on, by link or tunnel: section 2.

use super::{
    super::world::World,
    Case, Dropped, Packet, REDIRECT, Sent, TX, Tally, Verdict, checksum,
    headers::{Ip, PACKET},
    refuse,
    steer::Steering,
    tunnel,
};

/// Where a packet is sent on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A place in the row.
    Position(u8),
    /// The node of which another agent said that it knows the flow.
    Elsewhere,
    /// The node of a fragment.
    Fragment,
}

/// Sends a packet of a Service on.
pub(super) fn on(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    node: u16,
    way: Way,
) -> Result<Verdict, Dropped> {
    let verdict = send(world, case, node, to.hash, way, packet.kind == super::Kind::Error)?;
    let service = verdict.sent.map(|_| Tally::Forwarded(to.service.stats));
    Ok(Verdict { service, ..verdict })
}

/// Sends a packet on.
pub(super) fn send(
    world: &World,
    case: &Case<'_>,
    node: u16,
    hash: u32,
    way: Way,
    error: bool,
) -> Result<Verdict, Dropped> {
    let Case { frame, ip, arrival } = case;
    let index = node;
    let node = world.nodes.get(usize::from(node)).filter(|node| node.ifindex != 0);
    let node = node.ok_or("drop_no_next_hop")?;
    let first_hop = !arrival.agent && arrival.tunnel.is_none();
    let link = node.link && first_hop && way == Way::Position(0);
    if !link && !node.tunnel {
        return Err("drop_no_next_hop");
    }
    // RFC 1812 section 5.3.1: a packet whose TTL would come to 0 is not forwarded.
    if ip.ttl <= 1 {
        return Err("drop_ttl");
    }
    let mut sent = frame.to_vec();
    sent[ip.ttl_at()] = ip.ttl - 1;
    renew_ttl(frame, &mut sent, ip);
    let position = match way {
        Way::Position(position) => position,
        Way::Elsewhere => 3,
        Way::Fragment => tunnel::FRAGMENT,
    };
    if link {
        sent[..6].copy_from_slice(&node.mac);
        sent[6..12].copy_from_slice(&node.source_mac);
    } else {
        let room = usize::from(node.mtu).saturating_sub(tunnel::overhead(node));
        if ip.length() > room {
            return refuse::too_big(world, case, room as u16, error);
        }
        sent = tunnel::outer(world, node, &sent, ip, hash, position);
    }
    if node.vlan != 0 {
        sent = super::headers::tagged(&sent, node.vlan);
    }
    let stays = node.ifindex == world.ifindex;
    let counter = match (way, link, stays) {
        (Way::Elsewhere, _, true) => "elsewhere",
        (Way::Elsewhere, _, false) => "elsewhere_redirected",
        (Way::Position(1..), _, true) => "second_chance",
        (Way::Position(1..), _, false) => "second_chance_redirected",
        (_, true, true) => "forwarded",
        (_, true, false) => "redirected",
        (_, false, true) => "tunnelled",
        (_, false, false) => "tunnelled_redirected",
    };
    let sent_to = Sent { node: index, position: (!link).then_some(position) };
    let action = if stays { TX } else { REDIRECT };
    Ok(Verdict { sent: Some(sent_to), ..Verdict::new(action, counter, sent) })
}

fn renew_ttl(before: &[u8], after: &mut [u8], ip: &Ip) {
    if ip.is_v4() {
        checksum::renew_header(before, after, PACKET);
    }
}

//! Refusals and ICMP errors of our own: section 5.

use std::net::IpAddr;

use super::{
    super::world::{Budget, World},
    ACK, Case, Dropped, FIN, Kind, Packet, RST, SYN, TX, Verdict, checksum,
    headers::{Ip, PACKET, number, put, wire},
};

/// Refuses a packet, or drops it with a counter.
pub(super) fn refuse(
    world: &World,
    case: &Case<'_>,
    packet: &Packet,
    otherwise: Dropped,
) -> Result<Verdict, Dropped> {
    // Never an error about an error (RFC 1122 section 3.2.2).
    let is_error = packet.kind == Kind::Error;
    if !world.fresh || is_error || packet.flags() & RST != 0 || !may_be_answered(case) {
        return Err(otherwise);
    }
    if packet.protocol != 6 && !is_quotable(case) {
        return Err(otherwise);
    }
    if world.refuse == Budget::Exhausted {
        return Err("refuse_limited");
    }
    if packet.protocol == 6 {
        return Ok(Verdict::new(TX, "refused_reset", reset(case, packet)));
    }
    let (kind, code) = if case.ip.is_v4() { (3, 3) } else { (1, 4) };
    Ok(Verdict::new(TX, "refused_unreachable", error(case, kind, code, 0)))
}

/// Answers a packet that is too large for its tunnel.
pub(super) fn too_big(
    world: &World,
    case: &Case<'_>,
    room: u16,
    error_itself: bool,
) -> Result<Verdict, Dropped> {
    let ip = &case.ip;
    if error_itself || !may_be_answered(case) || !is_quotable(case) {
        return Err("drop_too_big");
    }
    if world.refuse == Budget::Exhausted {
        return Err("refuse_limited");
    }
    let (kind, code) = if ip.is_v4() { (3, 4) } else { (2, 0) };
    Ok(Verdict::new(TX, "too_big_answered", error(case, kind, code, room)))
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.4.
fn may_be_answered(case: &Case<'_>) -> bool {
    let one_host = match case.ip.source {
        IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_broadcast() && !v4.is_loopback() && !v4.is_unspecified()
        }
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_loopback() && !v6.is_unspecified(),
    };
    one_host && !case.ip.is_later_fragment()
}

/// Whether the header is a plain one, so that its quote shows the ports.
fn is_quotable(case: &Case<'_>) -> bool {
    let ip = &case.ip;
    let header = if ip.is_v4() { 20 } else { 40 };
    ip.upper == PACKET + header || is_behind_fragment_header(ip)
}

fn is_behind_fragment_header(ip: &Ip) -> bool {
    !ip.is_v4() && ip.fragment.is_some_and(|fragment| fragment.first) && ip.upper == PACKET + 48
}

/// A packet from the VIP back to where the frame came from.
fn answer(case: &Case<'_>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let Case { frame, ip, .. } = case;
    let mut answer = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    let length = payload.len() as u16;
    if ip.is_v4() {
        answer.extend([0x45, 0]);
        answer.extend((20 + length).to_be_bytes());
        answer.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    } else {
        answer.extend([0x60, 0, 0, 0]);
        answer.extend(length.to_be_bytes());
        answer.extend([protocol, 64]);
    }
    answer.extend(wire(ip.destination));
    answer.extend(wire(ip.source));
    answer.extend(payload);
    checksum::write(&mut answer);
    answer
}

/// RFC 9293 section 3.10.7.1.
fn reset(case: &Case<'_>, packet: &Packet) -> Vec<u8> {
    let Case { frame, ip, .. } = case;
    let at = ip.upper;
    let flags = packet.flags();
    let mut tcp = vec![0; 20];
    put(&mut tcp, 0, packet.vip.port());
    put(&mut tcp, 2, packet.client.port());
    if flags & ACK != 0 {
        tcp[4..8].copy_from_slice(&frame[at + 8..at + 12]);
        tcp[13] = RST;
    } else {
        let sequence = u32::from(number(frame, at + 4)) << 16 | u32::from(number(frame, at + 6));
        let header = usize::from(frame[at + 12] >> 4) * 4;
        // A first fragment may end inside the header.
        let mut length = (ip.end - at).saturating_sub(header) as u32;
        length += u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        tcp[8..12].copy_from_slice(&sequence.wrapping_add(length).to_be_bytes());
        tcp[13] = RST | ACK;
    }
    tcp[12] = 5 << 4;
    answer(case, 6, &tcp)
}

/// An ICMP error that quotes the IP header and 8 bytes.
fn error(case: &Case<'_>, kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let Case { frame, ip, .. } = case;
    let quoted = match ip.is_v4() {
        true => 28,
        false if is_behind_fragment_header(ip) => 56,
        false => 48,
    };
    let [high, low] = mtu.to_be_bytes();
    let mut message = vec![kind, code, 0, 0, 0, 0, high, low];
    message.extend(&frame[PACKET..(PACKET + quoted).min(ip.end)]);
    answer(case, if ip.is_v4() { 1 } else { 58 }, &message)
}

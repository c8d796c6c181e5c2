//! ICMP errors about a VIP's flow: section 6.

use std::net::{IpAddr, SocketAddr};

use super::{
    super::world::{Flow, World},
    Case, Dropped, Kind, PASS, Packet, Tally, Verdict, checksum,
    headers::{Ip, number, put, set_address, v4, v6},
    steer,
};

/// The packet that an error quotes.
pub(super) struct Quoted {
    /// Where it begins in the frame, and its transport header.
    pub(super) at: usize,
    pub(super) upper: usize,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: u8,
}

/// Reads it, if it is one whose ports can be told.
pub(super) fn quoted(frame: &[u8], ip: &Ip) -> Option<Quoted> {
    let at = ip.upper + 8;
    let header = if ip.is_v4() { 20 } else { 40 };
    let upper = at + header;
    if upper + 8 > ip.end {
        return None;
    }
    let (source, destination, protocol): (IpAddr, IpAddr, u8) = if ip.is_v4() {
        // Without options, and not a later fragment.
        if frame[at] != 0x45 || number(frame, at + 6) & 0x1fff != 0 {
            return None;
        }
        (v4(frame, at + 12).into(), v4(frame, at + 16).into(), frame[at + 9])
    } else {
        if frame[at] >> 4 != 6 {
            return None;
        }
        (v6(frame, at + 8).into(), v6(frame, at + 24).into(), frame[at + 6])
    };
    if !matches!(protocol, 6 | 17 | 132) {
        return None;
    }
    let port = |offset| number(frame, upper + offset);
    let source = SocketAddr::new(source, port(0));
    let destination = SocketAddr::new(destination, port(2));
    Some(Quoted { at, upper, source, destination, protocol })
}

/// An error to a VIP.
pub(super) fn arrive(world: &mut World, case: &Case<'_>) -> Result<Verdict, Dropped> {
    let quoted = quoted(case.frame, &case.ip).ok_or("drop_icmp")?;
    if quoted.source.ip() != case.ip.destination {
        return Err("drop_icmp");
    }
    let packet = Packet {
        client: quoted.destination,
        vip: quoted.source,
        protocol: quoted.protocol,
        kind: Kind::Error,
    };
    steer::steer(world, case, &packet)
}

/// To the endpoint, which knows the flow by its own address.
pub(super) fn deliver(case: &Case<'_>, packet: &Packet, flow: &Flow, stats: u32) -> Verdict {
    let Case { frame, ip, .. } = case;
    if flow.endpoint.is_none() {
        let service = Some(Tally::Delivered(stats));
        return Verdict { service, ..Verdict::untouched(PASS, "delivered_kernel", frame) };
    }
    let mut delivered = frame.to_vec();
    if let Some(quoted) = quoted(frame, ip) {
        let source_at = quoted.at + if ip.is_v4() { 12 } else { 8 };
        set(&mut delivered, source_at, flow.peer.ip());
        if packet.protocol != 132 {
            put(&mut delivered, quoted.upper, flow.peer.port());
            put(&mut delivered, quoted.upper + 2, flow.client_port);
        }
        checksum::renew_quoted(frame, &mut delivered, quoted.at, ip.end, packet.protocol);
    }
    set_address(&mut delivered, false, flow.peer.ip());
    checksum::renew(frame, &mut delivered, ip);
    Verdict::new(PASS, "delivered_icmp", delivered)
}

/// Writes an address.
pub(super) fn set(frame: &mut [u8], at: usize, address: IpAddr) {
    let octets = super::headers::wire(address);
    frame[at..at + octets.len()].copy_from_slice(&octets);
}

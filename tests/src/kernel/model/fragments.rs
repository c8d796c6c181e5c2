//! Fragments: section 4.

use std::net::SocketAddr;

use super::{
    super::world::{FragmentKey, Fragmented, NOBODY, World},
    Arrival, Case, Dropped, Kind, Packet, Verdict,
    hash::flow_hash,
    headers::Ip,
    send::{self, Way},
    steer,
    tunnel::FRAGMENT,
};

/// The key of a fragment's datagram, and its identification.
pub(super) fn key(ip: &Ip, to_client: bool) -> Option<FragmentKey> {
    let fragment = ip.fragment?;
    let Ip { source, destination, protocol, .. } = *ip;
    Some(FragmentKey { source, destination, id: fragment.id, protocol, to_client })
}

/// The ports that a datagram's first fragment said, if that was not too long ago.
pub(super) fn ports(world: &World, key: &FragmentKey) -> Option<(u16, u16)> {
    // A second, rounded up.
    world.fragmented.get(key).filter(|noted| -noted.seen <= 1).map(|noted| noted.ports)
}

/// A fragment to a VIP.
pub(super) fn arrive(world: &mut World, case: &Case<'_>) -> Result<Verdict, Dropped> {
    let Case { frame, ip, arrival } = case;
    let key = key(ip, false).ok_or("drop_fragment")?;
    if arrival.tunnel.is_none() {
        let [a, b, c, d] = key.id;
        let at = |address, high, low| SocketAddr::new(address, u16::from_be_bytes([high, low]));
        let hash = flow_hash(at(ip.source, a, b), at(ip.destination, c, d), ip.protocol);
        let rows = &world.fragment_rows;
        if rows.is_empty() {
            return Err("drop_fragment");
        }
        let node = rows[hash as usize % rows.len()][0];
        if node == NOBODY {
            return Err("drop_fragment");
        }
        if node != 0 {
            return send::send(world, case, node, hash, Way::Fragment, false);
        }
    }
    // From its node it goes on by tunnel only: by link it would come back.
    let direct = matches!(arrival.tunnel, None | Some(FRAGMENT));
    let arrival = if direct { Arrival { agent: true, tunnel: None } } else { *arrival };
    let case = &Case { frame, ip: *ip, arrival };
    if !ip.is_later_fragment() {
        let packet = steer::read(case.frame, ip)?;
        let ports = (packet.client.port(), packet.vip.port());
        world.fragmented.insert(key, Fragmented { ports, seen: 0 });
        return steer::steer(world, case, &packet);
    }
    let (source, destination) = ports(world, &key).ok_or("drop_fragment")?;
    let packet = Packet {
        client: SocketAddr::new(ip.source, source),
        vip: SocketAddr::new(ip.destination, destination),
        protocol: ip.protocol,
        kind: Kind::Later,
    };
    steer::steer(world, case, &packet)
}

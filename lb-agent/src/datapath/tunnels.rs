//! What tunnels between nodes ask of TCP: segments that leave room for their headers.
use super::{reach::Reach, uplinks::Uplink};
use crate::plan::Plan;
use lb_common::tunnel::mss;

/// The largest TCP payload of a segment from a client. 0 leaves it to the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mss {
    /// Over IPv4.
    pub v4: u16,
    /// Over IPv6.
    pub v6: u16,
}

/// The largest segments that get to every node in a tunnel, whichever uplink they come in by. A
/// node that stands alone needs no tunnel.
pub fn largest_segments(plan: &Plan, me: &str, uplinks: &[Uplink], reach: &Reach) -> Mss {
    let others = plan.nodes.iter().filter(|node| node.name != me);
    let mut addresses = others.flat_map(|node| &node.addresses).peekable();
    if addresses.peek().is_none() {
        return Mss::default();
    }
    let mut smallest = u16::MAX;
    let mut outer_v6 = false;
    for address in addresses {
        outer_v6 |= address.is_ipv6();
        if let Some(hop) = reach.next_hops.get(address) {
            smallest = smallest.min(hop.mtu);
        }
    }
    for uplink in uplinks {
        smallest = smallest.min(u16::try_from(uplink.mtu).unwrap_or(u16::MAX));
    }
    if smallest == u16::MAX && uplinks.is_empty() {
        return Mss::default();
    }
    let (v4, v6) = mss(smallest, outer_v6);
    Mss { v4, v6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        datapath::neighbours::NextHop,
        plan::PlannedNode,
        testing::{ip, next_hop, uplink},
    };
    use std::sync::Arc;

    fn node(name: &str, address: &str) -> PlannedNode {
        PlannedNode { name: name.into(), addresses: vec![ip(address)] }
    }

    #[test]
    fn the_narrowest_way_decides() {
        let all = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2"), node("n3", "fd00::3")];
        let plan = |count: usize| Plan { nodes: Arc::new(all[..count].into()), ..Plan::default() };
        let mut reach = Reach::default();
        let of = |count, reach: &Reach, mtu| {
            let uplink = Uplink { mtu, ..uplink(2, "eth0") };
            let Mss { v4, v6 } = largest_segments(&plan(count), "n1", &[uplink], reach);
            (v4, v6)
        };
        assert_eq!(of(1, &reach, 1500), (0, 0), "alone");
        assert_eq!(of(2, &reach, 1500), (1416, 1396));
        assert_eq!(of(2, &reach, 9000), (8916, 8896));
        assert_eq!(of(2, &reach, 65536), (65451, 65431));
        reach.next_hops.insert(ip("10.0.0.2"), NextHop { mtu: 1400, ..next_hop(2, 2) });
        assert_eq!(of(2, &reach, 9000), (1316, 1296));
        // Over IPv6 the outer header is larger, and any node may be the one.
        assert_eq!(of(3, &reach, 9000), (1296, 1276));
        assert_eq!(largest_segments(&plan(3), "n1", &[], &Reach::default()), Mss::default());
    }
}

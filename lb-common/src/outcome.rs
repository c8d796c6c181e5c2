//! What can become of a frame.
//!
//! One list makes the enum, the counters that `bpftool map dump` prints by name,
//! and the XDP action of each, so that they cannot drift apart.

/// An XDP action, as the kernel numbers them (`enum xdp_action`, `linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// `XDP_DROP`
    Drop = 1,
    /// `XDP_PASS`
    Pass = 2,
    /// `XDP_TX`: back out of the interface it came in by.
    Tx = 3,
    /// `XDP_REDIRECT`
    Redirect = 4,
}

macro_rules! outcomes {
    ($( $(#[doc = $doc:literal])* $variant:ident $field:ident $action:ident, )*) => {
        /// What became of a frame. The discriminant is the position of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Outcome { $( $(#[doc = $doc])* $variant, )* }

        /// The one element (per CPU) of `COUNTERS`: frames by outcome.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $( $(#[doc = $doc])* pub $field: u64, )* }

        impl Outcome {
            /// All outcomes, in the order of their counters.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => stringify!($field), )* }
            }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($( $doc ),*), )* }
            }

            /// What the kernel is told to do with the frame (of the ingress program).
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $( Self::$variant => Action::$action, )* }
            }
        }

        impl Counters {
            /// The counter of an outcome.
            pub fn get(&self, outcome: Outcome) -> u64 {
                match outcome { $( Outcome::$variant => self.$field, )* }
            }

            /// Adds another CPU's counters to these.
            pub fn add(&mut self, other: &Self) {
                $( self.$field = self.$field.wrapping_add(other.$field); )*
            }
        }
    };
}

outcomes! {
    /// Not ours: neither to a VIP nor about one.
    Passed passed Pass,
    /// To a VIP, but in a frame for another host (a switch flooded it).
    PassedOtherHost passed_other_host Pass,
    /// ARP or a neighbour advertisement by which a host that is none of ours claims a VIP.
    PassedClaim passed_claim Pass,
    /// Delivered to an endpoint of this node (destination rewritten).
    Delivered delivered Pass,
    /// Left to this node's kernel (mode `kernel`).
    DeliveredKernel delivered_kernel Pass,
    /// An ICMP error about a VIP's flow, delivered to the flow's endpoint.
    DeliveredIcmp delivered_icmp Pass,
    /// ARP request for a VIP answered.
    ArpAnswered arp_answered Tx,
    /// Neighbour solicitation for a VIP answered.
    NdpAnswered ndp_answered Tx,
    /// Echo request to a VIP answered.
    EchoAnswered echo_answered Tx,
    /// Sent on to the node of the row by rewriting link-layer addresses, by the interface it came in by.
    Forwarded forwarded Tx,
    /// The same, by another interface.
    Redirected redirected Redirect,
    /// Sent on to the node of the row in a tunnel, by the interface it came in by.
    Tunnelled tunnelled Tx,
    /// The same, by another interface.
    TunnelledRedirected tunnelled_redirected Redirect,
    /// Second chance: of a flow that is not known here, sent on to the next node of the row.
    SecondChance second_chance Tx,
    /// The same, by another interface.
    SecondChanceRedirected second_chance_redirected Redirect,
    /// Of a flow that another agent said it knows, sent on to its node.
    Elsewhere elsewhere Tx,
    /// The same, by another interface.
    ElsewhereRedirected elsewhere_redirected Redirect,
    /// Refused with a TCP reset.
    RefusedReset refused_reset Tx,
    /// Refused with ICMP port unreachable (SCTP and UDP).
    RefusedUnreachable refused_unreachable Tx,
    /// Too large for the tunnel it would have to take: answered with ICMP "fragmentation needed" or
    /// ICMPv6 "packet too big".
    TooBigAnswered too_big_answered Tx,
    /// Another agent has asked whether this node serves: answered.
    LivenessAnswered liveness_answered Tx,
    /// A frame by which another agent proves the link; told to the agent.
    ProbeReceived probe_received Drop,
    /// ARP request for a VIP that this node does not announce on this interface.
    ArpNotAnnounced arp_not_announced Drop,
    /// Neighbour solicitation for a VIP that this node does not announce on this interface.
    NdpNotAnnounced ndp_not_announced Drop,
    /// Neighbour solicitation or advertisement for a VIP that fails RFC 4861 section 7.1.1 or 7.1.2.
    NdpInvalid ndp_invalid Drop,
    /// Echo request to a VIP above the rate limit.
    EchoLimited echo_limited Drop,
    /// To be refused or answered with an ICMP error, but above the rate limit.
    RefuseLimited refuse_limited Drop,
    /// To a VIP, but cut short or with lengths that contradict each other.
    DropMalformed drop_malformed Drop,
    /// To a VIP, a fragment whose datagram's first fragment has not been seen of late.
    DropFragment drop_fragment Drop,
    /// To a VIP, with IPv4 options or IPv6 extension headers beyond what is skipped.
    DropOptions drop_options Drop,
    /// To a VIP, ICMP or ICMPv6 other than an echo request or an error.
    DropIcmp drop_icmp Drop,
    /// To a VIP, an ICMP error about a flow that is not known.
    DropIcmpUnknown drop_icmp_unknown Drop,
    /// To a VIP, neither TCP nor UDP nor SCTP nor ICMP.
    DropProtocol drop_protocol Drop,
    /// To a VIP, but no Service has that port, and the tables are not fresh enough to say so.
    DropNoPort drop_no_port Drop,
    /// To a VIP:port whose Service has no endpoint to take it.
    DropNoEndpoint drop_no_endpoint Drop,
    /// To a VIP:port from a client that `loadBalancerSourceRanges` leaves out.
    DropSourceRange drop_source_range Drop,
    /// To be sent on, but TTL or hop limit is used up.
    DropTtl drop_ttl Drop,
    /// To be sent on, but it has been at as many nodes as a row has.
    DropHops drop_hops Drop,
    /// To be sent on, but there is no way to the node (yet).
    DropNoNextHop drop_no_next_hop Drop,
    /// Too large for the tunnel it would have to take, and no ICMP error may be sent about it.
    DropTooBig drop_too_big Drop,
    /// Of a flow that no node of its row knows: the other agents are asked.
    DropAsked drop_asked Drop,
    /// Of a flow that nobody knows, while nothing is refused.
    DropUnknownFlow drop_unknown_flow Drop,
    /// To be delivered, but the flow table would not take the flow.
    DropFlowTable drop_flow_table Drop,
    /// To the port of the tunnels without this node's cookie, or malformed.
    DropTunnel drop_tunnel Drop,
    /// In a tunnel, but to no VIP.
    DropTunnelInner drop_tunnel_inner Drop,
    /// Egress: not a reply of a VIP's flow.
    EgressPassed egress_passed Pass,
    /// Egress: a reply, its source rewritten to the VIP.
    Replied replied Pass,
    /// Egress: an ICMP error about a VIP's flow, rewritten to be the VIP's.
    RepliedIcmp replied_icmp Pass,
    /// Egress: a reply that could not be rewritten; the kernel refused the change.
    DropReply drop_reply Drop,
}

const _: () = assert!(size_of::<Counters>() == 8 * Outcome::ALL.len());

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, made of u64 alone.
unsafe impl aya::Pod for Counters {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_in_the_order_of_the_outcomes() {
        for (position, &outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome as usize, position);
            let mut words = [0u64; Outcome::ALL.len()];
            words[position] = 7;
            // SAFETY: both are `repr(C)` and made of the same number of u64.
            let counters: Counters = unsafe { core::mem::transmute(words) };
            assert_eq!(counters.get(outcome), 7, "{}", outcome.name());
        }
    }
}

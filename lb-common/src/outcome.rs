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
    ($( $(#[$doc:meta])* $variant:ident $field:ident $action:ident, )*) => {
        /// What became of a frame. The discriminant is the position of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Outcome { $( $(#[$doc])* $variant, )* }

        /// The one element (per CPU) of `COUNTERS`: frames by outcome.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $( $(#[$doc])* pub $field: u64, )* }

        impl Outcome {
            /// All outcomes, in the order of their counters.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => stringify!($field), )* }
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
    /// ARP from a host that claims a VIP, or a neighbour advertisement for one.
    PassedClaim passed_claim Pass,
    /// Delivered to an endpoint of this node (destination rewritten).
    Delivered delivered Pass,
    /// Left to this node's kernel (mode `kernel`).
    DeliveredKernel delivered_kernel Pass,
    /// ARP request for a VIP answered.
    ArpAnswered arp_answered Tx,
    /// Neighbour solicitation for a VIP answered.
    NdpAnswered ndp_answered Tx,
    /// Echo request to a VIP answered.
    EchoAnswered echo_answered Tx,
    /// Sent on to the node of the row, by the interface it came in by.
    Forwarded forwarded Tx,
    /// Sent on to the node of the row, by another interface.
    Redirected redirected Redirect,
    /// ARP request for a VIP that this node does not announce on this interface.
    ArpNotAnnounced arp_not_announced Drop,
    /// Neighbour solicitation for a VIP that this node does not announce on this interface.
    NdpNotAnnounced ndp_not_announced Drop,
    /// Neighbour solicitation for a VIP that fails RFC 4861 section 7.1.1.
    NdpInvalid ndp_invalid Drop,
    /// Echo request to a VIP above the rate limit.
    EchoLimited echo_limited Drop,
    /// To a VIP, but cut short or with lengths that contradict each other.
    DropMalformed drop_malformed Drop,
    /// To a VIP, a fragment.
    DropFragment drop_fragment Drop,
    /// To a VIP, with IPv4 options or IPv6 extension headers.
    DropOptions drop_options Drop,
    /// To a VIP, ICMP or ICMPv6 other than an echo request.
    DropIcmp drop_icmp Drop,
    /// To a VIP, neither TCP nor UDP nor ICMP.
    DropProtocol drop_protocol Drop,
    /// To a VIP, but no Service has that port.
    DropNoPort drop_no_port Drop,
    /// To a VIP:port whose Service has no endpoint to take it.
    DropNoEndpoint drop_no_endpoint Drop,
    /// To be sent on, but TTL or hop limit is used up.
    DropTtl drop_ttl Drop,
    /// To be sent on, but it came from an agent's node already.
    DropSecondHop drop_second_hop Drop,
    /// To be sent on, but the node's link-layer address is not known (yet).
    DropNoNextHop drop_no_next_hop Drop,
    /// To be delivered, but the flow table would not take the flow.
    DropFlowTable drop_flow_table Drop,
    /// Egress: not a reply of a VIP's flow.
    EgressPassed egress_passed Pass,
    /// Egress: a reply, its source rewritten to the VIP.
    Replied replied Pass,
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

//! How packets travel between nodes that share no link: Generic UDP Encapsulation
//! (draft-ietf-intarea-gue-09, version 0) with 12 bytes of private data.
//!
//! ```text
//!   outer IP │ UDP │ GUE 4 bytes │ position 1 │ reserved 3 │ cookie 8 │ inner IP packet
//! ```
//! The sizes here are the only place that knows what a tunnel costs.
use crate::wire::{
    Udp,
    length::{IPV4, IPV6},
    protocol,
};

/// The header between UDP and the inner packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Gue {
    /// [`GUE_VERSION_LENGTH`].
    pub version_length: u8,
    /// What follows: 4 is IPv4, 41 is IPv6, 59 is nothing ([`PROBE`], [`QUESTION`], [`ANSWER`]).
    pub protocol: u8,
    /// None.
    pub flags: u16,
    /// At which node of the row the packet arrives: 0 to 3, [`FRAGMENT`], [`END`],
    /// [`PROBE`], [`QUESTION`] or [`ANSWER`].
    pub position: u8,
    /// 0.
    pub reserved: [u8; 3],
    /// What the receiving node asked for, as a native integer; in two halves, because the
    /// header is not aligned.
    pub cookie: [u32; 2],
}

/// What follows the header of a [`QUESTION`] (zeros) and of its [`ANSWER`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// For how many milliseconds the node goes on announcing VIPs without a word from its agent,
    /// network order; 0: it does not (any more, or yet).
    pub announces_ms: u32,
    /// 0.
    pub reserved: u32,
}

/// Version 0, no control message, three words of private data.
pub const GUE_VERSION_LENGTH: u8 = 3;
/// [`Gue::position`] of a probe frame. The sender's address, 16 bytes, follows the header.
pub const PROBE: u8 = 0xff;
/// [`Gue::position`]: asks the node's kernel program whether it serves; [`Liveness`] follows the
/// header, and what stands in the place of the cookie comes back. It needs no cookie: an agent that
/// has just started knows none.
pub const QUESTION: u8 = 0x80;
/// [`Gue::position`]: the program's answer to that. Nobody answers it, so that two nodes cannot be
/// made to talk to each other for ever.
pub const ANSWER: u8 = 0x81;
/// [`Gue::position`]: the last place in a row. Nothing is sent on from there, but to [`END`].
pub const LAST: u8 = 3;
/// [`Gue::position`]: from a node that others take for the row's, and that takes nothing of it, to the
/// node that it takes for the row's itself: its agent may have been away for long. Nothing is sent on
/// from there.
pub const END: u8 = 5;
/// [`Gue::position`]: a fragment on its way to the node that knows its ports, from where it
/// goes on to the row.
pub const FRAGMENT: u8 = 4;

const HEADERS: usize = size_of::<Udp>() + size_of::<Gue>();

/// Bytes that a tunnel adds, by the outer family.
pub const fn overhead(outer_v6: bool) -> usize {
    HEADERS + if outer_v6 { IPV6 } else { IPV4 }
}

/// The largest inner IP packet for a path with this MTU.
pub const fn inner_mtu(path_mtu: u16, outer_v6: bool) -> u16 {
    path_mtu.saturating_sub(overhead(outer_v6) as u16)
}

/// IPv4 header and TCP header, without options (RFC 6691).
const MSS_V4: u16 = 40;
/// IPv6 header and TCP header, without options.
const MSS_V6: u16 = 60;

/// The largest TCP payload per segment that fits the tunnel, for inner IPv4 and IPv6.
pub const fn mss(path_mtu: u16, outer_v6: bool) -> (u16, u16) {
    let inner = inner_mtu(path_mtu, outer_v6);
    (inner.saturating_sub(MSS_V4), inner.saturating_sub(MSS_V6))
}

/// The cookie as [`Gue::cookie`] holds it.
#[inline(always)]
pub const fn cookie_words(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}

/// The outer UDP source port, from the flow hash: receivers and routers spread by it. Within
/// the dynamic ports (RFC 6335 section 6).
#[inline(always)]
pub const fn source_port(flow_hash: u32) -> u16 {
    0xc000 | (flow_hash ^ flow_hash >> 16) as u16 & 0x3fff
}

/// [`Gue::protocol`] for an inner packet.
pub const fn inner_protocol(v6: bool) -> u8 {
    if v6 { protocol::IPV6 } else { protocol::IPV4 }
}

const _: () = assert!(size_of::<Gue>() == 16 && size_of::<Liveness>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_costs_44_bytes_over_ipv4_and_64_over_ipv6() {
        assert_eq!((overhead(false), overhead(true)), (44, 64));
        assert_eq!(inner_mtu(1500, false), 1456);
        assert_eq!(mss(1500, false), (1416, 1396));
        assert_eq!(mss(1500, true), (1396, 1376));
        assert_eq!(inner_mtu(20, true), 0);
    }

    #[test]
    fn source_ports_are_dynamic_and_many() {
        let ports: std::collections::BTreeSet<_> =
            (0..100_000u32).map(|n| source_port(n.wrapping_mul(0x9e37_79b1))).collect();
        assert!(ports.iter().all(|port| *port >= 49_152));
        assert!(ports.len() > 16_000, "{}", ports.len());
    }
}

//! IPv6 extension headers (RFC 8200 section 4).
use crate::{
    frame::Frame,
    packet::{FIRST, LATER, Packet, at},
    verdict::Verdict,
};
use lb_common::{
    outcome::Outcome,
    wire::{Fragment, IPV6_OFFSET_MASK, protocol},
};

/// Most headers that are skipped, and most bytes of them.
const MAX_HEADERS: u32 = 4;
const MAX_BYTES: u32 = 256;
/// In [`Fragment::offset`], network order: more fragments follow.
const MORE: u16 = 1u16.to_be();

/// What hop-by-hop options, routing headers and destination options begin with.
#[repr(C)]
struct Extension {
    next_header: u8,
    /// In units of 8 bytes, without the first.
    length: u8,
    /// Of a routing header only.
    routing_type: u8,
    /// Of a routing header only.
    segments_left: u8,
}

/// Whether a next header is an extension header, or one of those that end the packet's way here.
#[inline(always)]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
            | protocol::AUTHENTICATION
            | protocol::MOBILITY
    )
}

/// Goes on to the transport header: the packet's protocol, offset and payload become what
/// is found there. Behind a fragment header that has to be a transport protocol, since
/// fragments without the first must be known to belong to it. A fragment that is the whole
/// packet is none (RFC 6946).
#[inline(always)]
pub(crate) fn skip<F: Frame>(frame: &F, packet: &mut Packet) -> Verdict {
    let start = packet.transport;
    let mut skipped = 0;
    let mut headers = 0;
    let mut fragment_seen = false;
    // One more for a fragment header and one for what ends the chain.
    let mut i = 0;
    while i < MAX_HEADERS + 2 {
        i += 1;
        let proto = packet.flow.proto;
        if !is_extension(proto) {
            return Verdict::NONE;
        }
        if fragment_seen {
            return Outcome::DropOptions.into();
        }
        let offset = (start + (skipped & 0x1ff)) as usize & 0x1ff;
        let size = match proto {
            protocol::FRAGMENT => {
                let Some(header) = at::<_, Fragment>(frame, offset) else {
                    return Outcome::DropMalformed.into();
                };
                // SAFETY: `at` has checked the bounds.
                unsafe {
                    let field = (*header).offset;
                    packet.fragment_id = (*header).id;
                    packet.flow.proto = (*header).next_header;
                    if field & IPV6_OFFSET_MASK != 0 {
                        packet.fragment = LATER;
                    } else if field & MORE != 0 {
                        packet.fragment = FIRST;
                    }
                }
                fragment_seen = true;
                size_of::<Fragment>() as u32
            }
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let Some(header) = at::<_, Extension>(frame, offset) else {
                    return Outcome::DropMalformed.into();
                };
                headers += 1;
                // SAFETY: `at` has checked the bounds.
                unsafe {
                    if headers > MAX_HEADERS
                        || proto == protocol::ROUTING && (*header).segments_left != 0
                    {
                        return Outcome::DropOptions.into();
                    }
                    packet.flow.proto = (*header).next_header;
                    (u32::from((*header).length) + 1) * 8
                }
            }
            _ => return Outcome::DropOptions.into(),
        };
        skipped += size;
        if skipped > MAX_BYTES {
            return Outcome::DropOptions.into();
        }
        if size > packet.payload {
            return Outcome::DropMalformed.into();
        }
        packet.payload -= size;
        packet.transport = start + skipped;
        packet.has_options = true;
    }
    Outcome::DropOptions.into()
}

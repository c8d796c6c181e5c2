//! Refusing a packet, so that its sender need not wait (docs/data-path.md, section 5).
//!
//! Answers are built in place of what they answer, from the VIP and to where the frame came
//! from. What they quote has a fixed length, so that nothing is summed in a loop.
use crate::{
    budget,
    frame::Frame,
    maps::{REFUSE_BUDGET, SETTINGS, address_words, now_ns},
    packet::{FIRST, LATER, Packet, at},
    verdict::Verdict,
};
use lb_common::{
    checksum::fold,
    maps::Settings,
    outcome::Outcome,
    wire::{
        Ethernet, Fragment, IPV4_DONT_FRAGMENT, IcmpError, Ipv4, Ipv6, TCP_ACK, TCP_FIN, TCP_RST,
        TCP_SYN, Tcp, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// RFC 1700 "IP time to live".
const TTL: u8 = 64;
/// Header length in words, in [`Tcp::data_offset`].
const TCP_WORDS: u8 = ((size_of::<Tcp>() / 4) << 4) as u8;
const ERROR: usize = size_of::<IcmpError>();

/// What an ICMP error says, and what it quotes.
struct Report {
    kind: u8,
    code: u8,
    /// In the place of [`IcmpError::rest`], network order.
    rest: u32,
}

const UNREACHABLE_V4: Report = Report { kind: 3, code: 3, rest: 0 };
const UNREACHABLE_V6: Report = Report { kind: 1, code: 4, rest: 0 };

/// Quoted of IPv4: the header and 8 bytes (RFC 792).
type QuoteV4 = [u32; (IPV4 + 8) / 4];
/// Quoted of IPv6: the header and 8 bytes, as of IPv4.
type QuoteV6 = [u32; (IPV6 + 8) / 4];
/// Quoted of a first fragment of IPv6: its fragment header as well.
type QuoteFragment = [u32; (IPV6 + size_of::<Fragment>() + 8) / 4];
/// Quoted of TCP in a buffer whose checksum is only begun: it lies behind the first 8 bytes.
type QuoteTcpV4 = [u32; (IPV4 + size_of::<Tcp>()) / 4];
/// The same over IPv6.
type QuoteTcpV6 = [u32; (IPV6 + size_of::<Tcp>()) / 4];

/// Whether the tables are what the cluster is now, as far as the agent knows.
#[inline(always)]
pub(crate) fn is_fresh() -> bool {
    SETTINGS.get(0).is_some_and(|settings| now_ns() < settings.fresh_until_ns)
}

/// Refuses a packet to a VIP, in a frame for this node; where nothing may be refused it becomes
/// `otherwise`.
#[inline(never)]
pub(crate) fn refuse<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    otherwise: Verdict,
) -> Verdict {
    let Some(settings) = SETTINGS.get(0) else { return otherwise };
    if now_ns() >= settings.fresh_until_ns || !may_be_answered::<V6>(packet) {
        return otherwise;
    }
    if packet.flow.proto == protocol::TCP {
        // RFC 9293 section 3.10.7.1.
        if packet.flags & TCP_RST != 0 {
            return otherwise;
        }
        if !is_within_budget(settings) {
            return Outcome::RefuseLimited.into();
        }
        return outcome(reset::<F, V6>(frame, packet), Outcome::RefusedReset, otherwise);
    }
    if !is_quotable::<V6>(packet) {
        return otherwise;
    }
    if !is_within_budget(settings) {
        return Outcome::RefuseLimited.into();
    }
    let report = if V6 { UNREACHABLE_V6 } else { UNREACHABLE_V4 };
    outcome(send::<F, V6>(frame, packet, &report), Outcome::RefusedUnreachable, otherwise)
}

/// Answers a packet that is larger than `mtu`, which is what a tunnel has room for. One that
/// may be fragmented, too: its sender lowers its path MTU by the answer, and would hear nothing
/// of what is lost without it.
#[inline(never)]
pub(crate) fn too_big<F: Frame, const V6: bool>(frame: &F, packet: &Packet, mtu: u32) -> Verdict {
    let drop = Verdict::new(Outcome::DropTooBig);
    if !may_be_answered::<V6>(packet) || !is_quotable::<V6>(packet) {
        return drop;
    }
    let Some(settings) = SETTINGS.get(0) else { return drop };
    if !is_within_budget(settings) {
        return Outcome::RefuseLimited.into();
    }
    // RFC 4443 section 3.2 has 32 bits for the MTU, RFC 1191 section 4 the lower 16 of them.
    let (kind, code) = if V6 { (2, 0) } else { (3, 4) };
    let report = Report { kind, code, rest: mtu.to_be() };
    outcome(send::<F, V6>(frame, packet, &report), Outcome::TooBigAnswered, drop)
}

#[inline(always)]
fn outcome(answered: bool, with: Outcome, otherwise: Verdict) -> Verdict {
    if answered { with.into() } else { otherwise }
}

#[inline(always)]
fn is_within_budget(settings: &Settings) -> bool {
    budget::allows(&REFUSE_BUDGET, settings.refuse_interval_ns)
}

/// Whether any error may be sent about a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4):
/// none about an error, a fragment that is not the first, or what names no single sender.
#[inline(always)]
fn may_be_answered<const V6: bool>(packet: &Packet) -> bool {
    const LOOPBACK_V6: u32 = 1u32.to_be();
    let source = address_words(packet.flow.client);
    let is_one_host = if V6 {
        let multicast = source[0].to_be() >> 24 == 0xff;
        let none_or_loopback =
            source[0] | source[1] | source[2] == 0 && (source[3] == 0 || source[3] == LOOPBACK_V6);
        !multicast && !none_or_loopback
    } else {
        let source = source[3].to_be();
        let first = source >> 24;
        source != 0 && first != 127 && first & 0xf0 != 0xe0 && source != u32::MAX
    };
    is_one_host && !packet.is_error && packet.fragment != LATER
}

/// Whether the transport header stands where a quote of fixed length shows its first 8 bytes.
#[inline(always)]
fn is_quotable<const V6: bool>(packet: &Packet) -> bool {
    let at = packet.transport as usize;
    let plain = at == ETHERNET + if V6 { IPV6 } else { IPV4 };
    plain || is_quoted_as_fragment::<V6>(packet)
}

/// Whether it stands behind a fragment header and nothing else.
#[inline(always)]
fn is_quoted_as_fragment<const V6: bool>(packet: &Packet) -> bool {
    V6 && packet.fragment == FIRST
        && packet.transport as usize == ETHERNET + IPV6 + size_of::<Fragment>()
}

/// Turns the frame into a reset (RFC 9293 section 3.10.7.1); false if it could not be.
#[inline(always)]
fn reset<F: Frame, const V6: bool>(frame: &F, packet: &Packet) -> bool {
    let transport = ETHERNET + if V6 { IPV6 } else { IPV4 };
    let Some(tcp) = at::<F, Tcp>(frame, packet.transport_at()) else { return false };
    // SAFETY: `at` has checked the bounds.
    let (sequence, acknowledgment, header) =
        unsafe { ((*tcp).sequence, (*tcp).acknowledgment, u32::from((*tcp).data_offset >> 4) * 4) };
    let (sequence, acknowledgment, flags) = if packet.flags & TCP_ACK != 0 {
        (acknowledgment, 0, TCP_RST)
    } else {
        // A first fragment may end inside the header.
        let mut length = packet.payload.saturating_sub(header);
        length += u32::from(packet.flags & TCP_SYN != 0) + u32::from(packet.flags & TCP_FIN != 0);
        (0, u32::from_be(sequence).wrapping_add(length).to_be(), TCP_RST | TCP_ACK)
    };
    let partial = frame.is_checksum_partial(packet.transport_at() + offset_of_check(protocol::TCP));
    // The kernel would go on to sum from where the header was.
    if partial && packet.transport_at() != transport {
        return false;
    }
    let length = (transport + size_of::<Tcp>()) as i32;
    if !frame.move_tail(length - frame.whole_length() as i32) {
        return false;
    }
    let Some(sum) = write_ip::<F, V6>(frame, packet, protocol::TCP, size_of::<Tcp>()) else {
        return false;
    };
    let Some(tcp) = at::<F, Tcp>(frame, transport) else { return false };
    let reset = Tcp {
        source: u16::from_ne_bytes(packet.flow.peer_port),
        destination: u16::from_ne_bytes(packet.flow.client_port),
        sequence,
        acknowledgment,
        data_offset: TCP_WORDS,
        flags,
        window: 0,
        check: 0,
        urgent: 0,
    };
    let sum = if partial {
        // What the kernel takes up from is the sum of the pseudo-header, not complemented.
        sum
    } else {
        sum + u64::from(reset.source)
            + u64::from(reset.destination)
            + u64::from(sequence)
            + u64::from(acknowledgment)
            + u64::from(u16::from_ne_bytes([TCP_WORDS, flags]))
    };
    let check = if partial { fold(sum) } else { !fold(sum) };
    // SAFETY: `at` has checked the bounds.
    unsafe { *tcp = Tcp { check, ..reset } };
    true
}

/// Turns the frame into an ICMP error about what it holds; false if it could not be.
#[inline(always)]
fn send<F: Frame, const V6: bool>(frame: &F, packet: &Packet, report: &Report) -> bool {
    let proto = packet.flow.proto;
    let check = packet.transport_at() + offset_of_check(proto);
    // SCTP's checksum is no sum of 16-bit words. One that the kernel is still to write is not
    // quoted, and then the frame cannot be cut.
    let partial = proto != protocol::SCTP && frame.is_checksum_partial(check);
    let header = if V6 { IPV6 } else { IPV4 };
    let begun = partial.then_some(header + offset_of_check(protocol::UDP));
    let begun_tcp = partial.then_some(header + offset_of_check(protocol::TCP));
    if is_quoted_as_fragment::<V6>(packet) {
        quote::<F, V6, QuoteFragment>(frame, packet, report, None)
    } else if partial && proto == protocol::TCP {
        if V6 {
            quote::<F, V6, QuoteTcpV6>(frame, packet, report, begun_tcp)
        } else {
            quote::<F, V6, QuoteTcpV4>(frame, packet, report, begun_tcp)
        }
    } else if V6 {
        quote::<F, V6, QuoteV6>(frame, packet, report, begun)
    } else {
        quote::<F, V6, QuoteV4>(frame, packet, report, begun)
    }
}

/// Makes the error, with as many bytes of the packet as `Q` has. `begun` is where in them a
/// checksum stands that the kernel is still to write: what it will write is summed.
#[inline(always)]
fn quote<F: Frame, const V6: bool, Q>(
    frame: &F,
    packet: &Packet,
    report: &Report,
    begun: Option<usize>,
) -> bool {
    let header = if V6 { IPV6 } else { IPV4 };
    let wanted = (ETHERNET + size_of::<Q>()) as i32;
    // The tail first: a buffer of many segments becomes one by it.
    if !frame.move_tail(wanted - frame.whole_length() as i32)
        || !frame.make_room((header + ERROR) as i32)
    {
        return false;
    }
    let message = ETHERNET + header;
    let proto = if V6 { protocol::ICMPV6 } else { protocol::ICMP };
    let Some(pseudo) = write_ip::<F, V6>(frame, packet, proto, ERROR + size_of::<Q>()) else {
        return false;
    };
    let (Some(error), Some(quoted)) =
        (at::<F, IcmpError>(frame, message), at::<F, Q>(frame, message + ERROR))
    else {
        return false;
    };
    let mut sum = u64::from(u16::from_ne_bytes([report.kind, report.code]))
        + u64::from(report.rest)
        // ICMP's checksum, unlike ICMPv6's, covers the message alone.
        + if V6 { pseudo } else { 0 };
    let words = quoted.cast::<u32>();
    let mut transport = 0;
    let mut i = 0;
    while i < size_of::<Q>() / 4 {
        // SAFETY: `at` has checked the bounds of all of `Q`, which is made of u32.
        let word = u64::from(unsafe { *words.add(i) });
        sum += word;
        if i >= header / 4 {
            transport += word;
        }
        i += 1;
    }
    if let Some(at) = begun {
        // SAFETY: `at` has checked the bounds of all of `Q`, in which the checksum lies.
        let begun = unsafe { *quoted.cast::<u16>().add(at / 2) };
        let done = !fold(transport);
        sum += u64::from(!begun) + u64::from(if done == 0 { 0xffff } else { done });
    }
    // SAFETY: `at` has checked the bounds.
    unsafe {
        *error = IcmpError {
            kind: report.kind,
            code: report.code,
            check: !fold(sum),
            rest: report.rest,
        };
    }
    true
}

/// Sends the frame back to where it came from, with an IP header from the VIP to the client.
/// Returns the sum of the pseudo-header.
#[inline(always)]
fn write_ip<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    protocol: u8,
    payload: usize,
) -> Option<u64> {
    let ethernet = at::<F, Ethernet>(frame, 0)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { core::mem::swap(&mut (*ethernet).destination, &mut (*ethernet).source) };
    let source = address_words(packet.flow.peer);
    let destination = address_words(packet.flow.client);
    let payload = payload as u16;
    let mut sum = u64::from(payload.to_be()) + u64::from(u16::from(protocol).to_be());
    if V6 {
        let ip = at::<F, Ipv6>(frame, ETHERNET)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*ip).version_class_label = (6u32 << 28).to_be();
            (*ip).payload_length = payload.to_be();
            (*ip).next_header = protocol;
            (*ip).hop_limit = TTL;
            (*ip).source = source;
            (*ip).destination = destination;
        }
        let mut i = 0;
        while i < 4 {
            sum += u64::from(source[i]) + u64::from(destination[i]);
            i += 1;
        }
    } else {
        let ip = at::<F, Ipv4>(frame, ETHERNET)?;
        let total = (IPV4 as u16 + payload).to_be();
        let addresses = u64::from(source[3]) + u64::from(destination[3]);
        let header = addresses
            + u64::from(u16::from_ne_bytes([0x45, 0]))
            + u64::from(total)
            + u64::from(IPV4_DONT_FRAGMENT)
            + u64::from(u16::from_ne_bytes([TTL, protocol]));
        // SAFETY: `at` has checked the bounds.
        unsafe {
            *ip = Ipv4 {
                version_ihl: 0x45,
                tos: 0,
                total_length: total,
                // Of no meaning where nothing may fragment (RFC 6864 section 4.1).
                id: 0,
                fragment: IPV4_DONT_FRAGMENT,
                ttl: TTL,
                protocol,
                check: !fold(header),
                source: source[3],
                destination: destination[3],
            };
        }
        sum += addresses;
    }
    Some(sum)
}

#[inline(always)]
const fn offset_of_check(proto: u8) -> usize {
    if proto == protocol::TCP {
        core::mem::offset_of!(Tcp, check)
    } else {
        core::mem::offset_of!(Udp, check)
    }
}

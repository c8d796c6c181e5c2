//! From an IP header to what handles it.
use crate::{
    echo, extension, fragment,
    frame::Frame,
    icmp_error,
    ingress::Ingress,
    maps::{address_bytes, is_vip, joined, mapped, may_be_vip},
    packet::{FIRST, LATER, Packet, WHOLE, at, is_for_us, linear_length},
    step::{self, Step},
    tunnel,
    verdict::Verdict,
};
use core::mem::offset_of;
use lb_common::{
    filter::{vip_bit_v4, vip_bit_v6},
    maps::{FlowKey, Service, TO_ENDPOINT},
    outcome::Outcome,
    tunnel::FRAGMENT,
    wire::{
        IPV4_FRAGMENT_MASK, IPV4_OFFSET_MASK, Icmp, Ipv4, Ipv6, SCTP_INIT, Sctp, SctpChunk,
        TCP_ACK, TCP_SYN, Tcp, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// [`look_v4`], [`look_v6`]: what an IP header says at first sight.
pub(crate) const TO_VIP: u32 = 1 << 16;
/// The same: to the port of the tunnels.
pub(crate) const TO_TUNNEL: u32 = 1 << 17;

/// As far as headers are read: in a tunnel and with extension headers, or of an ICMP error the
/// quoted ones.
const HEADERS: usize = 384;

/// Makes all headers readable in a frame that may concern a VIP; its IP header is there already.
#[inline(always)]
fn with_headers<F: Frame, T>(frame: &F, ip: *mut T) -> Option<*mut T> {
    if !F::IS_BUFFER {
        return Some(ip);
    }
    if frame.gather(HEADERS) { at(frame, ETHERNET) } else { None }
}

/// What an IPv4 packet is: [`TO_VIP`], perhaps; [`TO_TUNNEL`]; or an outcome.
#[inline(always)]
pub(crate) fn look_v4<F: Frame>(frame: &F) -> u32 {
    let Some(ip) = at::<_, Ipv4>(frame, ETHERNET) else { return Outcome::Passed as u32 };
    // SAFETY: `at` has checked the bounds.
    let destination = unsafe { (*ip).destination };
    if !may_be_vip(vip_bit_v4(destination)) {
        return Outcome::Passed as u32;
    }
    let Some(ip) = with_headers(frame, ip) else { return Outcome::Passed as u32 };
    // SAFETY: as above.
    unsafe {
        if (*ip).protocol == protocol::UDP
            && (*ip).fragment & IPV4_OFFSET_MASK == 0
            && tunnel::is_port(frame, ETHERNET + usize::from((*ip).version_ihl & 0xf) * 4)
        {
            return TO_TUNNEL;
        }
    }
    TO_VIP
}

/// What an IPv6 packet is: [`TO_VIP`], perhaps; [`TO_TUNNEL`]; or an outcome.
#[inline(always)]
pub(crate) fn look_v6<F: Ingress>(frame: &F, vlan: u16) -> u32 {
    let Some(ip) = at::<_, Ipv6>(frame, ETHERNET) else { return Outcome::Passed as u32 };
    // SAFETY: `at` has checked the bounds.
    let (destination, next_header) = unsafe { ((*ip).destination, (*ip).next_header) };
    let to_vip = may_be_vip(vip_bit_v6(destination));
    // Solicitations go to a group of the VIP or to itself, advertisements to all nodes.
    let to_group = destination[0].to_be() >> 24 == 0xff;
    if (to_vip || to_group && next_header == protocol::ICMPV6) && with_headers(frame, ip).is_none()
    {
        return Outcome::Passed as u32;
    }
    // `is_vip` keeps the answer from depending on which addresses share a bit of the filter.
    if next_header == protocol::ICMPV6 && (to_group || to_vip && is_vip(address_bytes(destination)))
    {
        let verdict = frame.discover(vlan);
        if !verdict.is_none() {
            return verdict.number();
        }
    }
    if !to_vip {
        return Outcome::Passed as u32;
    }
    if next_header == protocol::UDP && tunnel::is_port(frame, ETHERNET + IPV6) {
        return TO_TUNNEL;
    }
    TO_VIP
}

/// A packet to what may be a VIP.
#[inline(always)]
pub(crate) fn handle<F: Ingress, const V6: bool>(
    frame: &F,
    tag: u32,
    arrived: u8,
    service: Option<&Service>,
) -> Verdict {
    let mut packet = Packet::new(tag, arrived);
    let mut step = Step::NONE;
    let mut reason = if V6 { read_v6(frame, &mut packet) } else { read_v4(frame, &mut packet) };
    // Nothing else goes to a fragment's node.
    if reason.is_none() && packet.fragment == WHOLE && arrived == FRAGMENT {
        reason = Outcome::DropTunnel.into();
    }
    if reason.is_none() && packet.fragment != WHOLE {
        step = fragment::place::<F, V6>(frame, &mut packet);
        if step.kind() == step::DONE {
            return step.verdict();
        }
    }
    if reason.is_none() && step.is_none() {
        reason = match packet.flow.proto {
            protocol::TCP | protocol::UDP | protocol::SCTP => transport(frame, &mut packet),
            protocol::ICMP if !V6 => icmp::<F, V6>(frame, &mut packet),
            protocol::ICMPV6 if V6 => icmp::<F, V6>(frame, &mut packet),
            _ => Outcome::DropProtocol.into(),
        };
    }
    if reason.is_none() {
        return frame.steer(V6, &mut packet, step, service);
    }
    if reason.is(Outcome::EchoAnswered) {
        return reason;
    }
    let ours = verify(frame, &packet);
    if ours.is_none() { reason } else { ours }
}

/// Tells what is sent to a VIP of ours, in a frame for this node ([`Verdict::NONE`]), from
/// what merely looked so. Not inlined, since many paths end here and none of them is hot.
#[inline(never)]
pub(crate) fn verify<F: Frame>(frame: &F, packet: &Packet) -> Verdict {
    let vip = is_vip(packet.flow.peer);
    // What comes in a tunnel was in a frame for this node.
    if packet.is_from_tunnel() {
        return if vip { Verdict::NONE } else { Outcome::DropTunnelInner.into() };
    }
    if !vip {
        Outcome::Passed.into()
    } else if !is_for_us(frame, packet.vlan()) {
        Outcome::PassedOtherHost.into()
    } else {
        Verdict::NONE
    }
}

#[inline(always)]
fn read_v4<F: Frame>(frame: &F, packet: &mut Packet) -> Verdict {
    let Some(ip) = at::<_, Ipv4>(frame, ETHERNET) else { return Outcome::DropMalformed.into() };
    // SAFETY: `at` has checked the bounds, and nothing moves the frame here.
    unsafe {
        packet.flow.client = mapped((*ip).source);
        packet.flow.peer = mapped((*ip).destination);
        packet.flow.proto = (*ip).protocol;
        let header = u32::from((*ip).version_ihl & 0xf) * 4;
        let total = u32::from(u16::from_be((*ip).total_length));
        if (*ip).version_ihl >> 4 != 4 || header < IPV4 as u32 || total < header {
            return Outcome::DropMalformed.into();
        }
        packet.has_options = header != IPV4 as u32;
        packet.transport = ETHERNET as u32 + header;
        packet.payload = total - header;
        let fragment = (*ip).fragment;
        if fragment & IPV4_FRAGMENT_MASK != 0 {
            packet.fragment = if fragment & IPV4_OFFSET_MASK != 0 { LATER } else { FIRST };
            packet.fragment_id = u32::from((*ip).id);
        }
    }
    measure(frame, packet)
}

#[inline(always)]
fn read_v6<F: Ingress>(frame: &F, packet: &mut Packet) -> Verdict {
    let Some(ip) = at::<_, Ipv6>(frame, ETHERNET) else { return Outcome::DropMalformed.into() };
    // SAFETY: `at` has checked the bounds, and nothing moves the frame here.
    let version = unsafe {
        packet.flow.client = address_bytes((*ip).source);
        packet.flow.peer = address_bytes((*ip).destination);
        packet.flow.proto = (*ip).next_header;
        packet.transport = (ETHERNET + IPV6) as u32;
        packet.payload = u32::from(u16::from_be((*ip).payload_length));
        (*ip).version_class_label.to_be() >> 28
    };
    if version != 6 {
        return Outcome::DropMalformed.into();
    }
    let measured = measure(frame, packet);
    if measured.is_none() && extension::is_extension(packet.flow.proto) {
        return frame.skip_extensions(packet);
    }
    measured
}

/// Compares the frame's length with what the IP header says.
#[inline(always)]
fn measure<F: Frame>(frame: &F, packet: &mut Packet) -> Verdict {
    let wanted = packet.transport + packet.payload;
    packet.length = linear_length(frame) as u32;
    if wanted > packet.length {
        packet.length = frame.whole_length() as u32;
        if wanted > packet.length {
            return Outcome::DropMalformed.into();
        }
    }
    Verdict::NONE
}

/// The least that a transport header has, in bytes. SCTP's has one chunk at least (RFC 9260
/// section 3).
#[inline(always)]
pub(crate) const fn shortest(proto: u8) -> u32 {
    match proto {
        protocol::TCP => size_of::<Tcp>() as u32,
        protocol::UDP => size_of::<Udp>() as u32,
        _ => (size_of::<Sctp>() + size_of::<SctpChunk>()) as u32,
    }
}

/// The ports, and whether the packet begins a flow. A later fragment has them already.
#[inline(always)]
fn transport<F: Frame>(frame: &F, packet: &mut Packet) -> Verdict {
    if packet.fragment == LATER {
        return Verdict::NONE;
    }
    let malformed = Outcome::DropMalformed.into();
    let offset = packet.transport_at();
    let whole = packet.fragment == WHOLE;
    let payload = packet.payload;
    if payload < shortest(packet.flow.proto) {
        return malformed;
    }
    // SAFETY: `at` has checked the bounds, here and below.
    unsafe {
        match packet.flow.proto {
            protocol::TCP => {
                let Some(tcp) = at::<_, Tcp>(frame, offset) else { return malformed };
                let length = u32::from((*tcp).data_offset >> 4) * 4;
                if length < size_of::<Tcp>() as u32 || whole && length > payload {
                    return malformed;
                }
                set_ports(packet, (*tcp).source, (*tcp).destination);
                packet.flags = (*tcp).flags;
                packet.sequence = (*tcp).sequence;
                packet.begins = (*tcp).flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            }
            protocol::UDP => {
                let Some(udp) = at::<_, Udp>(frame, offset) else { return malformed };
                let length = u32::from(u16::from_be((*udp).length));
                if length < size_of::<Udp>() as u32 || whole && length > payload {
                    return malformed;
                }
                set_ports(packet, (*udp).source, (*udp).destination);
            }
            _ => {
                let Some(sctp) = at::<_, Sctp>(frame, offset) else { return malformed };
                let chunk = at::<_, SctpChunk>(frame, offset + size_of::<Sctp>());
                let Some(chunk) = chunk else { return malformed };
                set_ports(packet, (*sctp).source, (*sctp).destination);
                packet.begins = (*chunk).kind == SCTP_INIT;
            }
        }
    }
    Verdict::NONE
}

#[inline(always)]
fn set_ports(packet: &mut Packet, source: u16, destination: u16) {
    let ports = u32::from_ne_bytes(both(source, destination));
    let rest = u32::from_ne_bytes([packet.flow.proto, TO_ENDPOINT, 0, 0]);
    const { assert!(offset_of!(FlowKey, client_port) == 32 && size_of::<FlowKey>() == 40) };
    // SAFETY: the key's last eight bytes are ports, protocol, direction and padding.
    unsafe { (&raw mut packet.flow).cast::<u64>().add(4).write(joined(ports, rest)) };
}

/// Two 16-bit fields as they stand one behind the other.
#[inline(always)]
const fn both(first: u16, second: u16) -> [u8; 4] {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    [a, b, c, d]
}

/// Whether a message of ICMP (types 3, 4, 11, 12: RFC 792) or ICMPv6 (RFC 4443 section 2.1)
/// is about a packet that somebody could not handle.
#[inline(always)]
const fn is_error(kind: u8, v6: bool) -> bool {
    if v6 { kind >= 1 && kind <= 4 } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// An ICMP message to a VIP. [`Verdict::NONE`]: it is about a flow, which is to be steered.
#[inline(always)]
fn icmp<F: Frame, const V6: bool>(frame: &F, packet: &mut Packet) -> Verdict {
    let Some(icmp) = at::<_, Icmp>(frame, packet.transport_at()) else {
        return Outcome::DropMalformed.into();
    };
    // SAFETY: `at` has checked the bounds.
    let kind = unsafe { (*icmp).kind };
    if is_error(kind, V6) {
        let verdict = icmp_error::read::<F, V6>(frame, packet);
        packet.begins = false;
        packet.flags = 0;
        return verdict;
    }
    if packet.is_from_tunnel() {
        return Outcome::DropIcmp.into();
    }
    if packet.has_options {
        return Outcome::DropOptions.into();
    }
    let answer = if V6 { echo::v6(frame, packet) } else { echo::v4(frame, packet) };
    match answer {
        Ok(outcome) | Err(outcome) => outcome.into(),
    }
}

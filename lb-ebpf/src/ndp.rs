//! Neighbour discovery for VIPs (RFC 4861).
use crate::{
    answer, claim,
    frame::Frame,
    maps::{address_bytes, is_vip, may_be_vip},
    packet::{at, linear_length},
};
use lb_common::{
    checksum::fold,
    filter::vip_bit_v6,
    outcome::Outcome,
    wire::{
        Ethernet, Ipv6, LinkLayerOption, Neighbour,
        length::{ETHERNET, IPV6, LINK_LAYER_OPTION, NEIGHBOUR},
        protocol,
    },
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// RFC 4861 section 7.1.1: a router would have decremented it.
const HOP_LIMIT: u8 = 255;
const SOLICITED: u32 = 0x4000_0000u32.to_be();
const OVERRIDE: u32 = 0x2000_0000u32.to_be();
/// All nodes on the link, ff02::1, and the link-layer group it maps to (RFC 2464 section 7).
const ALL_NODES: [u32; 4] = [0xff02_0000u32.to_be(), 0, 0, 1u32.to_be()];
const ALL_NODES_MAC: [u16; 3] = [0x3333u16.to_be(), 0, 1u16.to_be()];
/// ff02::1:ff00:0/104, the solicited-node groups (RFC 4291 section 2.7.1).
const SOLICITED_NODE: [u32; 3] = [0xff02_0000u32.to_be(), 0, 1u32.to_be()];

const NEIGHBOUR_AT: usize = ETHERNET + IPV6;
/// The advertisement: its header and one option.
const ADVERTISEMENT_LENGTH: usize = NEIGHBOUR + LINK_LAYER_OPTION;
/// Most units of 8 bytes that a solicitation may have: 24 bytes and 64 of options. Only
/// secure neighbour discovery (RFC 3971) has more, and we could not sign an answer.
const MAX_UNITS: usize = 11;
const UNIT: usize = 8;

/// Handles a solicitation for a VIP or an advertisement of one; `None` if it is neither.
#[inline(always)]
pub(crate) fn handle<F: Frame>(frame: &F, vlan: u16) -> Option<Outcome> {
    let ethernet = at::<_, Ethernet>(frame, 0)?;
    let ip = at::<_, Ipv6>(frame, ETHERNET)?;
    let message = at::<_, Neighbour>(frame, NEIGHBOUR_AT)?;
    // SAFETY: `at` has checked the bounds.
    let (kind, target, from) = unsafe { ((*message).kind, (*message).target, (*ethernet).source) };
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return None;
    }
    let vip = address_bytes(target);
    if !may_be_vip(vip_bit_v6(target)) {
        return None;
    }
    let solicitation = kind == SOLICITATION;
    let answer = if solicitation { answer::find(vip, frame.ifindex(), vlan) } else { None };
    // What is announced is a VIP: an answer costs one lookup.
    if answer.is_none() && !is_vip(vip) {
        return None;
    }
    let Some(valid) = validate(frame, ip, message) else { return Some(Outcome::NdpInvalid) };
    if !solicitation {
        let claimed = if valid.has_options { target_link_layer(frame) } else { None };
        return Some(claim::judge(frame, vip, from, claimed.unwrap_or(from), vlan));
    }
    let Some(answer) = answer else { return Some(Outcome::NdpNotAnnounced) };
    // SAFETY: `at` has checked the bounds.
    let destination = unsafe { (*ethernet).destination };
    let to_group = destination[0].to_be() >> 8 & 1 != 0;
    if !to_group && destination != answer.mac {
        return Some(Outcome::PassedOtherHost);
    }
    let Some(answered) = advertise(frame, &valid, target, answer.mac, from) else {
        return Some(Outcome::NdpInvalid);
    };
    answer.count();
    Some(answered)
}

/// The link-layer address that an advertisement with options names, if that comes first, as all
/// hosts have it.
#[inline(always)]
fn target_link_layer<F: Frame>(frame: &F) -> Option<[u16; 3]> {
    let option = at::<_, LinkLayerOption>(frame, NEIGHBOUR_AT + NEIGHBOUR)?;
    // SAFETY: `at` has checked the bounds.
    let LinkLayerOption { kind, length, mac } = unsafe { *option };
    (kind == TARGET_LINK_LAYER && usize::from(length) * UNIT == LINK_LAYER_OPTION).then_some(mac)
}

/// What is wanted of a valid message.
struct Valid {
    source: [u32; 4],
    /// Duplicate address detection: the source is unspecified.
    probe: bool,
    has_options: bool,
}

/// RFC 4861 sections 7.1.1 and 7.1.2: what is asked of both kinds of messages, and of probes.
#[inline(always)]
fn validate<F: Frame>(frame: &F, ip: *const Ipv6, message: *const Neighbour) -> Option<Valid> {
    // SAFETY: the caller has checked the bounds.
    let (source, destination, length, hop_limit, code, version) = unsafe {
        let length = usize::from(u16::from_be((*ip).payload_length));
        let version = (*ip).version_class_label.to_be() >> 28;
        ((*ip).source, (*ip).destination, length, (*ip).hop_limit, (*message).code, version)
    };
    // The answer has the first word of the question.
    if version != 6 || hop_limit != HOP_LIMIT || code != 0 {
        return None;
    }
    if length < NEIGHBOUR || length % UNIT != 0 {
        return None;
    }
    let units = length / UNIT;
    if units > MAX_UNITS {
        return None;
    }
    let mut sum = pseudo_header(source, destination, length as u32);
    let mut next_option = NEIGHBOUR / UNIT;
    let mut has_source_link_layer = false;
    let mut unit = 0;
    while unit < MAX_UNITS {
        if unit >= units {
            break;
        }
        let words = at::<_, [u32; 2]>(frame, NEIGHBOUR_AT + unit * UNIT)?;
        // SAFETY: `at` has checked the bounds.
        let [first, second] = unsafe { *words };
        sum += u64::from(first) + u64::from(second);
        if unit == next_option {
            let [kind, option_units, _, _] = first.to_ne_bytes();
            if option_units == 0 {
                return None;
            }
            has_source_link_layer |= kind == SOURCE_LINK_LAYER;
            next_option += usize::from(option_units);
        }
        unit += 1;
    }
    if fold(sum) != 0xffff || next_option != units {
        return None;
    }
    let probe = source == [0; 4];
    let to_solicited_node = destination[0] == SOLICITED_NODE[0]
        && destination[1] == SOLICITED_NODE[1]
        && destination[2] == SOLICITED_NODE[2]
        && destination[3].to_be() >> 24 == 0xff;
    if probe && (has_source_link_layer || !to_solicited_node) {
        return None;
    }
    Some(Valid { source, probe, has_options: units > NEIGHBOUR / UNIT })
}

/// The sum of the pseudo-header (RFC 8200 section 8.1).
#[inline(always)]
fn pseudo_header(source: [u32; 4], destination: [u32; 4], length: u32) -> u64 {
    let mut sum = u64::from(length.to_be()) + u64::from(u32::from(protocol::ICMPV6).to_be());
    let mut i = 0;
    while i < 4 {
        sum += u64::from(source[i]) + u64::from(destination[i]);
        i += 1;
    }
    sum
}

/// Turns the solicitation into an advertisement (RFC 4861 section 7.2.4).
///
/// The Override flag is set, so that a takeover reaches the asker's cache at once.
#[inline(always)]
fn advertise<F: Frame>(
    frame: &F,
    solicitation: &Valid,
    vip: [u32; 4],
    mac: [u16; 3],
    from: [u16; 3],
) -> Option<Outcome> {
    let (destination, destination_mac, flags) = if solicitation.probe {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (solicitation.source, from, SOLICITED | OVERRIDE)
    };
    let wanted = (NEIGHBOUR_AT + ADVERTISEMENT_LENGTH) as i32;
    let delta = wanted - linear_length(frame) as i32;
    if delta != 0 && !frame.move_tail(delta) {
        return None;
    }
    let ethernet = at::<_, Ethernet>(frame, 0)?;
    let ip = at::<_, Ipv6>(frame, ETHERNET)?;
    let message = at::<_, Neighbour>(frame, NEIGHBOUR_AT)?;
    let option = at::<_, LinkLayerOption>(frame, NEIGHBOUR_AT + NEIGHBOUR)?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        (*ethernet).destination = destination_mac;
        (*ethernet).source = mac;
        (*ip).payload_length = (ADVERTISEMENT_LENGTH as u16).to_be();
        (*ip).hop_limit = HOP_LIMIT;
        (*ip).source = vip;
        (*ip).destination = destination;
        (*message).kind = ADVERTISEMENT;
        (*message).code = 0;
        (*message).flags = flags;
        (*message).target = vip;
        (*option).kind = TARGET_LINK_LAYER;
        (*option).length = (LINK_LAYER_OPTION / UNIT) as u8;
        (*option).mac = mac;
        let mut sum = pseudo_header(vip, destination, ADVERTISEMENT_LENGTH as u32);
        sum += u64::from(u16::from_ne_bytes([ADVERTISEMENT, 0])) + u64::from(flags);
        sum += u64::from(vip[0]) + u64::from(vip[1]) + u64::from(vip[2]) + u64::from(vip[3]);
        sum += u64::from(u16::from_ne_bytes([(*option).kind, (*option).length]));
        sum += u64::from(mac[0]) + u64::from(mac[1]) + u64::from(mac[2]);
        (*message).check = !fold(sum);
    }
    Some(Outcome::NdpAnswered)
}

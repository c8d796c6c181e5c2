//! ARP for VIPs (RFC 826, RFC 5227).
use crate::{
    answer, claim,
    frame::Frame,
    maps::{is_vip, mapped, may_be_vip},
    packet::at,
};
use lb_common::{
    filter::vip_bit_v4,
    outcome::Outcome,
    wire::{Arp, ETHERTYPE_IPV4, Ethernet, length::ETHERNET},
};

const REQUEST: u16 = 1u16.to_be();
const REPLY: u16 = 2u16.to_be();
const ETHERNET_HARDWARE: u16 = 1u16.to_be();
/// Hardware addresses of 6 bytes, protocol addresses of 4.
const LENGTHS: u16 = u16::from_ne_bytes([6, 4]);

#[inline(always)]
const fn address(halves: [u16; 2]) -> u32 {
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(halves) }
}

/// Answers a request for a VIP that this node announces; drops one for a VIP that
/// another node announces, since the kernel would answer it where the VIP is on an
/// interface (kube-ipvs0, say); notes who else claims a VIP.
#[inline(always)]
pub(crate) fn handle<F: Frame>(frame: &F, vlan: u16) -> Outcome {
    let (Some(ethernet), Some(arp)) = (at::<_, Ethernet>(frame, 0), at::<_, Arp>(frame, ETHERNET))
    else {
        return Outcome::Passed;
    };
    // SAFETY: `at` has checked the bounds, and nothing moves the frame here.
    unsafe {
        let target = address((*arp).target);
        let sender = address((*arp).sender);
        let asks = may_be_vip(vip_bit_v4(target));
        let claims = may_be_vip(vip_bit_v4(sender));
        if !asks && !claims {
            return Outcome::Passed;
        }
        if (*arp).hardware_type != ETHERNET_HARDWARE
            || (*arp).protocol_type != ETHERTYPE_IPV4
            || (*arp).lengths != LENGTHS
        {
            return Outcome::Passed;
        }
        let operation = (*arp).operation;
        if claims && (operation == REQUEST || operation == REPLY) && is_vip(mapped(sender)) {
            let (from, claimed) = ((*ethernet).source, (*arp).sender_mac);
            return claim::judge(frame, mapped(sender), from, claimed, vlan);
        }
        if !asks || operation != REQUEST {
            return Outcome::Passed;
        }
        // What is answered is found first: it costs one lookup, as few as can be.
        let vip = mapped(target);
        let Some(answer) = answer::find(vip, frame.ifindex(), vlan) else {
            return if is_vip(vip) { Outcome::ArpNotAnnounced } else { Outcome::Passed };
        };
        // A request goes to everybody or, to check a cache entry, to one host
        // (RFC 1122 section 2.3.2.1); what a switch floods to us by mistake does neither.
        let (destination, mac) = ((*ethernet).destination, answer.mac);
        if destination != [0xffff; 3] && destination != mac {
            return Outcome::PassedOtherHost;
        }
        answer.count();
        (*ethernet).destination = (*ethernet).source;
        (*ethernet).source = mac;
        (*arp).operation = REPLY;
        (*arp).target_mac = (*arp).sender_mac;
        (*arp).sender_mac = mac;
        core::mem::swap(&mut (*arp).sender, &mut (*arp).target);
    }
    Outcome::ArpAnswered
}

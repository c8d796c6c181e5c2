//! IEEE 802.1Q tags: taken off what may concern a VIP, put back where the frame is passed on or
//! answered.
use crate::{
    frame::Frame,
    maps::may_be_vip,
    packet::{at, tag_of},
    verdict::Verdict,
};
use lb_common::{
    filter::{vip_bit_v4, vip_bit_v6},
    outcome::{Action, Outcome},
    wire::{
        Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet, Ipv4, Ipv6,
        Neighbour,
        length::{ETHERNET, IPV6},
        protocol,
    },
};

/// What follows the Ethernet header of a tagged frame.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rest {
    control: u16,
    ethertype: u16,
}

const TAG: usize = size_of::<Rest>();

/// Takes the tag off a frame that may concern a VIP. Returns it as [`tag_of`] has it; 0 if the
/// frame is left as it is.
#[inline(never)]
pub(crate) fn take<F: Frame>(frame: &F) -> u32 {
    let Some(rest) = at::<_, Rest>(frame, ETHERNET) else { return 0 };
    // SAFETY: `at` has checked the bounds.
    let Rest { control, ethertype } = unsafe { *rest };
    if !may_concern(frame, ethertype) || !frame.make_room(-(TAG as i32)) {
        return 0;
    }
    let Some(ethernet) = at::<_, Ethernet>(frame, 0) else { return 0 };
    // SAFETY: `at` has checked the bounds.
    unsafe { (*ethernet).ethertype = ethertype };
    tag_of(control)
}

#[inline(always)]
fn may_concern<F: Frame>(frame: &F, ethertype: u16) -> bool {
    const AT: usize = ETHERNET + TAG;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        match ethertype {
            ETHERTYPE_IPV4 => {
                at::<_, Ipv4>(frame, AT).is_some_and(|ip| may_be_vip(vip_bit_v4((*ip).destination)))
            }
            ETHERTYPE_IPV6 => at::<_, Ipv6>(frame, AT).is_some_and(|ip| {
                may_be_vip(vip_bit_v6((*ip).destination))
                    || (*ip).next_header == protocol::ICMPV6
                        && at::<_, Neighbour>(frame, AT + IPV6)
                            .is_some_and(|message| may_be_vip(vip_bit_v6((*message).target)))
            }),
            ETHERTYPE_ARP => at::<_, Arp>(frame, AT).is_some_and(|arp| {
                let address = |half: [u16; 2]| u32::from(half[0]) | u32::from(half[1]) << 16;
                may_be_vip(vip_bit_v4(address((*arp).target)))
                    || may_be_vip(vip_bit_v4(address((*arp).sender)))
            }),
            _ => false,
        }
    }
}

/// Gives a frame that came with this tag the tag back, unless it is dropped or has been
/// sent on.
#[inline(never)]
pub(crate) fn put_back<F: Frame>(frame: &F, tag: u32, verdict: Verdict) -> Verdict {
    if verdict.is_sent_on() || matches!(verdict.action(), Action::Drop) {
        return verdict;
    }
    if push(frame, tag as u16) != 0 { verdict } else { Outcome::DropMalformed.into() }
}

/// Tags a frame; the control field is in network order. Returns 0 if that was not possible.
#[inline(never)]
pub(crate) fn push<F: Frame>(frame: &F, control: u16) -> u32 {
    if !frame.make_room(TAG as i32) {
        return 0;
    }
    let (Some(ethernet), Some(rest)) =
        (at::<_, Ethernet>(frame, 0), at::<_, Rest>(frame, ETHERNET))
    else {
        return 0;
    };
    // SAFETY: `at` has checked the bounds.
    unsafe {
        *rest = Rest { control, ethertype: (*ethernet).ethertype };
        (*ethernet).ethertype = ETHERTYPE_VLAN;
    }
    1
}

//! Which link-layer address to answer a question about a VIP with.
use crate::maps::{ANNOUNCED, SETTINGS, halves, joined, mac_words, now_ns};
use lb_common::maps::AnnouncedKey;

/// This node's address for a VIP on an interface and VLAN (0 is none), if it announces the VIP there.
///
/// Not once the agent has failed to move its deadline: then it is taken to be gone for
/// good, and another node may have taken the VIP over.
#[inline(always)]
pub(crate) fn mac_for(vip: [u8; 16], ifindex: u32, vlan: u16) -> Option<[u16; 3]> {
    let [low, high] = halves(vip);
    // In whole words, as the lookup reads them: what is stored in halves waits for the store.
    let key = [low, high, joined(ifindex, vlan_and_padding(vlan))];
    // SAFETY: same size, and every byte pattern is valid for the key.
    let key = unsafe { core::mem::transmute::<[u64; 3], AnnouncedKey>(key) };
    // SAFETY: the agent replaces an entry's value as a whole and never frees one that
    // is being read before the end of the RCU section that this program runs in.
    let announced = unsafe { ANNOUNCED.get(key) }?;
    let settings = SETTINGS.get(0)?;
    (now_ns() < settings.announce_until_ns).then_some(mac_words(announced.mac))
}

/// The key's last four bytes.
#[inline(always)]
const fn vlan_and_padding(vlan: u16) -> u32 {
    let [a, b] = vlan.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

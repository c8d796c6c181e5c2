//! Which link-layer address to answer a question about a VIP with.
use crate::maps::{ANNOUNCED, SETTINGS, halves, joined, mac_words, now_ns};
use lb_common::maps::AnnouncedKey;

/// How to answer for a VIP.
pub(crate) struct Answer {
    /// The link-layer address to answer with.
    pub(crate) mac: [u16; 3],
    answered: *mut u64,
}

impl Answer {
    /// Counts an answer.
    #[inline(always)]
    pub(crate) fn count(&self) {
        let answered = self.answered;
        // core has no atomic operations for BPF but load and store.
        #[cfg(target_arch = "bpf")]
        // SAFETY: it points into a map's value, which stays as long as the program runs, and is
        // aligned. All CPUs count by this instruction.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({answered} + 0) += {one}",
                answered = in(reg) answered,
                one = in(reg) 1u64,
                options(nostack),
            );
        }
        #[cfg(not(target_arch = "bpf"))]
        let _ = answered;
    }
}

/// This node's answer for a VIP on an interface and VLAN (0 is none), if it announces the VIP there.
///
/// Not once the agent has failed to move its deadline: then it is taken to be gone for
/// good, and another node may have taken the VIP over.
#[inline(always)]
pub(crate) fn find(vip: [u8; 16], ifindex: u32, vlan: u16) -> Option<Answer> {
    let [low, high] = halves(vip);
    // In whole words, as the lookup reads them: what is stored in halves waits for the store.
    let key = [low, high, joined(ifindex, vlan_and_padding(vlan))];
    // SAFETY: same size, and every byte pattern is valid for the key.
    let key = unsafe { core::mem::transmute::<[u64; 3], AnnouncedKey>(key) };
    // The agent replaces an entry's value as a whole, and the kernel gives none to another entry
    // that is being read before the end of the RCU section that this program runs in.
    let announced = ANNOUNCED.get_ptr_mut(key)?;
    let settings = SETTINGS.get(0)?;
    // SAFETY: it points to a value of the map.
    let (mac, answered) = unsafe { ((*announced).mac, &raw mut (*announced).answered) };
    (now_ns() < settings.announce_until_ns).then_some(Answer { mac: mac_words(mac), answered })
}

/// The key's last four bytes.
#[inline(always)]
const fn vlan_and_padding(vlan: u16) -> u32 {
    let [a, b] = vlan.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

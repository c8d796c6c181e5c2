//! The maps. Their meaning stands at the types in `lb_common::maps`.
//!
//! All are BTF maps, so that `bpftool map dump` names the fields. Capacities of
//! `ROWS` and `FLOWS` are only defaults: the agent sets them when it loads.
use crate::verdict::Verdict;
use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use lb_common::{
    filter,
    maps::{
        Affinity, AffinityKey, Announced, AnnouncedKey, Budget, DEFAULT_FLOWS,
        DEFAULT_ROW_ENDPOINTS, DEFAULT_ROWS, EVENTS_BYTES, Elsewhere, Endpoint, Event, Flow,
        FlowKey, FragmentKey, Fragmented, MAX_AFFINITIES, MAX_ANNOUNCED, MAX_ELSEWHERE,
        MAX_ENDPOINTS, MAX_FRAGMENTED, MAX_NODES, MAX_SERVICES, MAX_SOURCE_RANGES, MAX_UPLINKS,
        MAX_VIPS, MacKey, MacOwner, Node, PENDING_FLOWS, RangeKey, Row, SAMPLES_BYTES, Sample,
        Sampling, Service, ServiceKey, ServiceStats, Settings, Vip, VipKey,
    },
    outcome::{Counters, Outcome},
};

/// `BPF_F_MMAPABLE` (`linux/bpf.h`): the agent writes rows without a system call each.
const MMAPABLE: usize = 1 << 10;

#[btf_map]
pub(crate) static VIPS: HashMap<VipKey, Vip, { MAX_VIPS as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ANNOUNCED: HashMap<AnnouncedKey, Announced, { MAX_ANNOUNCED as usize }> =
    HashMap::new();
#[btf_map]
pub(crate) static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICES as usize }> =
    HashMap::new();
#[btf_map]
pub(crate) static ROWS: Array<Row, { DEFAULT_ROWS as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static ROW_ENDPOINTS: Array<u32, { DEFAULT_ROW_ENDPOINTS as usize }, MMAPABLE> =
    Array::new();
#[btf_map]
pub(crate) static NODES: Array<Node, { MAX_NODES as usize }> = Array::new();
#[btf_map]
pub(crate) static NODE_MACS: HashMap<MacKey, MacOwner, { MAX_NODES as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINTS: Array<Endpoint, { MAX_ENDPOINTS as usize }> = Array::new();
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, { DEFAULT_FLOWS as usize }> = LruHashMap::new();
#[btf_map]
pub(crate) static PENDING: LruHashMap<FlowKey, Flow, { PENDING_FLOWS as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static INGRESS_FILTER: Array<u64, { filter::WORDS as usize }> = Array::new();
#[btf_map]
pub(crate) static EGRESS_FILTER: Array<u64, { filter::WORDS as usize }> = Array::new();
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SERVICE_STATS: PerCpuArray<ServiceStats, { MAX_SERVICES as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static ECHO_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static REFUSE_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static CLAIM_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static ELSEWHERE: LruHashMap<FlowKey, Elsewhere, { MAX_ELSEWHERE as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTED: LruHashMap<FragmentKey, Fragmented, { MAX_FRAGMENTED as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static SOURCE_RANGES: LpmTrie<RangeKey, u32, { MAX_SOURCE_RANGES as usize }> =
    LpmTrie::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub(crate) static SAMPLING: Array<Sampling, 1> = Array::new();
#[btf_map]
pub(crate) static SAMPLES: RingBuf<Sample, { SAMPLES_BYTES as usize }> = RingBuf::new();

/// The one element (per CPU) of `CLOCK`, which nobody else reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    jiffies: u64,
    /// What the coarse clock said then.
    ns: u64,
}

#[btf_map]
static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

/// Counts an outcome.
#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        let position = verdict.number() as usize;
        if position < Outcome::ALL.len() {
            // SAFETY: `Counters` is `repr(C)` and made of as many u64 as there are outcomes;
            // the slot is this CPU's, and a program is not preempted by another on its CPU.
            unsafe { *counters.cast::<u64>().add(position) += 1 };
        }
    }
}

#[inline(always)]
fn bit_is_set(word: Option<&u64>, bit: u32) -> bool {
    word.is_some_and(|word| word >> (bit & 63) & 1 != 0)
}

/// Whether an address may be a VIP, by its bit; false is certain.
#[inline(always)]
pub(crate) fn may_be_vip(bit: u32) -> bool {
    bit_is_set(INGRESS_FILTER.get(bit >> 6), bit)
}

/// Whether an address and port may be an endpoint of this node, by their bit; false is certain.
#[inline(always)]
pub(crate) fn may_be_endpoint(bit: u32) -> bool {
    bit_is_set(EGRESS_FILTER.get(bit >> 6), bit)
}

/// Whether an address is a VIP of the cluster.
#[inline(always)]
pub(crate) fn is_vip(vip: [u8; 16]) -> bool {
    // SAFETY: only the entry's presence is used.
    unsafe { VIPS.get(VipKey { vip }).is_some() }
}

/// Whether a link-layer address may be that of another node with an agent; false is certain.
#[inline(always)]
pub(crate) fn may_be_agent(mac: [u16; 3]) -> bool {
    let bit = filter::mac_bit_words(mac);
    bit_is_set(INGRESS_FILTER.get(bit >> 6), bit)
}

/// Whether a frame comes from the link-layer address of another node with an agent.
#[inline(always)]
pub(crate) fn is_agent(mac: [u16; 3], vlan: u16) -> bool {
    if !may_be_agent(mac) {
        return false;
    }
    let key = MacKey { mac: mac_bytes(mac), vlan };
    // SAFETY: only the entry's presence is used.
    unsafe { NODE_MACS.get(key).is_some() }
}

/// The link-layer address of the interface with this index in a VLAN (0 is none), if it is an
/// uplink.
#[inline(always)]
pub(crate) fn uplink_mac(ifindex: u32, vlan: u16) -> Option<[u16; 3]> {
    let settings = SETTINGS.get(0)?;
    let mut i = 0;
    while i < MAX_UPLINKS {
        let uplink = &settings.uplinks[i];
        if uplink.ifindex == ifindex && uplink.vlan == vlan {
            return Some(mac_words(uplink.mac));
        }
        if uplink.ifindex == 0 {
            return None;
        }
        i += 1;
    }
    None
}

/// Whether a link-layer address is that of one of this node's uplinks.
#[inline(always)]
pub(crate) fn is_uplink(mac: [u16; 3]) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    let mut i = 0;
    while i < MAX_UPLINKS {
        let uplink = &settings.uplinks[i];
        if uplink.ifindex == 0 {
            return false;
        }
        if mac_words(uplink.mac) == mac {
            return true;
        }
        i += 1;
    }
    false
}

/// A link-layer address as the maps hold it.
#[inline(always)]
pub(crate) const fn mac_bytes(mac: [u16; 3]) -> [u8; 6] {
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(mac) }
}

/// A link-layer address as headers hold it.
#[inline(always)]
pub(crate) const fn mac_words(mac: [u8; 6]) -> [u16; 3] {
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(mac) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, exact to two ticks of the kernel (up to 10 ms each): mostly a
/// memory read.
///
/// The coarse clock moves when `jiffies` do (`tick_do_update_jiffies64`), and those are read
/// without a call since Linux 5.6. So it is asked once a tick and CPU.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: plain helper.
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(clock) = CLOCK.get_ptr_mut(0) else { return coarse_ns() };
    // SAFETY: the slot is this CPU's. A program that another interrupts between the two stores
    // leaves a pair that is right, or that the next one takes for an old one.
    unsafe {
        if (*clock).jiffies != jiffies {
            (*clock).ns = coarse_ns();
            (*clock).jiffies = jiffies;
        }
        (*clock).ns
    }
}

#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: plain helper.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Seconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_s() -> u32 {
    (now_ns() / 1_000_000_000) as u32
}

/// Two adjacent words as one: what is stored in halves and read whole waits for the store.
#[inline(always)]
pub(crate) const fn joined(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        first as u64 | (second as u64) << 32
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// An address as the maps hold it.
#[inline(always)]
pub(crate) const fn address_bytes(address: [u32; 4]) -> [u8; 16] {
    let halves = [joined(address[0], address[1]), joined(address[2], address[3])];
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(halves) }
}

/// The halves of an address as the maps hold it.
#[inline(always)]
pub(crate) const fn halves(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(address) }
}

/// An address as headers hold it.
#[inline(always)]
pub(crate) const fn address_words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: same size, and every byte pattern is valid for both.
    unsafe { core::mem::transmute(address) }
}

/// A port as the maps hold it.
#[inline(always)]
pub(crate) const fn port_bytes(port: u16) -> [u8; 2] {
    port.to_ne_bytes()
}

/// An IPv4 address in network order as the maps hold it.
#[inline(always)]
pub(crate) const fn mapped(v4: u32) -> [u8; 16] {
    address_bytes([0, 0, 0xffff_u32.to_be(), v4])
}

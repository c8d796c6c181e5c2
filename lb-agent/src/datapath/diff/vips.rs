//! The VIPs' part: which there are, and which of them this node announces where.
use super::{
    super::{
        address_bytes,
        state::{State, Wanted, Write, empty_filter, upsert},
        uplinks::Uplink,
    },
    Changes, Inputs, NewlyAnnounced, set_bit,
};
use crate::{
    differences,
    plan::{Interfaces, Plan, ServiceAddress},
    snapshot::Protocol,
};
use lb_common::{
    filter::vip_bit,
    maps::{Announced, AnnouncedKey, MAX_ANNOUNCED, MAX_UPLINKS, MAX_VIPS, Vip, VipKey},
};
use std::{collections::BTreeSet, net::IpAddr};

/// The VIPs that have to be looked at.
pub(super) enum Touched {
    /// All, also those that stand in the maps without being planned.
    All,
    /// These.
    Some(BTreeSet<IpAddr>),
}

impl Touched {
    /// `ports` are those that have other ports than before.
    pub(super) fn new(state: &State, inputs: Inputs<'_>, ports: BTreeSet<IpAddr>) -> Self {
        let Some(before) = &state.wanted else { return Self::All };
        if before.uplinks != inputs.uplinks || inputs.plan.vips.len() > MAX_VIPS as usize {
            return Self::All;
        }
        let mut vips = ports;
        vips.extend(differences::keys(&before.vips, &inputs.plan.vips));
        Self::Some(vips)
    }
}

/// What is to be removed once nothing leads there any more.
#[derive(Default)]
pub(super) struct Gone {
    vips: Vec<VipKey>,
    announced: Vec<AnnouncedKey>,
}

/// Writes VIPs and what is announced of them, and notes the bits that the ingress filter needs.
pub(super) fn write(
    state: &mut State,
    inputs: Inputs<'_>,
    touched: &Touched,
    changes: &mut Changes,
) -> Gone {
    let plan = inputs.plan;
    let mut gone = Gone::default();
    // In the order of the map, so that what stands and does not fit stays.
    let served: BTreeSet<IpAddr> = match touched {
        Touched::All => plan.vips.keys().take(MAX_VIPS as usize).copied().collect(),
        Touched::Some(vips) => {
            vips.iter().filter(|vip| plan.vips.contains_key(*vip)).copied().collect()
        }
    };
    let vips_left_out = plan.vips.len().saturating_sub(MAX_VIPS as usize);
    changes.full("VIPS", MAX_VIPS, vips_left_out);
    let mut new = false;
    for vip in &served {
        let key = VipKey { vip: address_bytes(*vip) };
        let value = Vip { flags: 0, ports: ports(plan, *vip) };
        new |= !state.contents.vips.contains_key(&key);
        set_bit(&mut state.vip_filter, vip_bit(&key.vip));
        let map = &mut state.contents.vips;
        upsert(map, key, value, &mut changes.writes, |k, v| Write::Vip(k, Some(v)));
    }
    let standing = &state.contents.vips;
    gone.vips = match touched {
        Touched::All if standing.len() == served.len() && !new => Vec::new(),
        Touched::All => {
            let served: BTreeSet<_> = served.iter().map(|vip| address_bytes(*vip)).collect();
            standing.keys().filter(|key| !served.contains(&key.vip)).copied().collect()
        }
        Touched::Some(vips) => {
            let keys = vips.difference(&served).map(|vip| VipKey { vip: address_bytes(*vip) });
            keys.filter(|key| standing.contains_key(key)).collect()
        }
    };
    if matches!(touched, Touched::All) || !gone.vips.is_empty() {
        let mut filter = empty_filter();
        for vip in plan.vips.keys().take(MAX_VIPS as usize) {
            set_bit(&mut filter, vip_bit(&address_bytes(*vip)));
        }
        state.vip_filter = filter;
    }
    let unannounced = announce(state, inputs, touched, &mut gone, changes);
    let whole = vips_left_out == 0 && unannounced == 0;
    state.wanted =
        whole.then(|| Wanted { vips: plan.vips.clone(), uplinks: inputs.uplinks.to_vec() });
    gone
}

/// The number of a VIP's ports.
fn ports(plan: &Plan, vip: IpAddr) -> u32 {
    let first = ServiceAddress { vip, port: 0, protocol: Protocol::Tcp };
    plan.services.range(first..).take_while(|(address, _)| address.vip == vip).count() as u32
}

/// Writes what is announced, and returns how much found no room.
fn announce(
    state: &mut State,
    inputs: Inputs<'_>,
    touched: &Touched,
    gone: &mut Gone,
    changes: &mut Changes,
) -> usize {
    let Inputs { plan, uplinks, .. } = inputs;
    let mut left_out = 0;
    // Counts what stands and is to go, too: there is room for it later.
    let mut one = |state: &mut State, vip: IpAddr, stale: &mut BTreeSet<AnnouncedKey>| {
        let interfaces = plan.vips.get(&vip).and_then(|planned| planned.announce.as_ref());
        let Some(interfaces) = interfaces else { return };
        let matches = |uplink: &&Uplink| match interfaces {
            _ if !uplink.announces || !uplink.carrier => false,
            Interfaces::All => true,
            Interfaces::Named(names) => names.contains(&uplink.name),
        };
        for uplink in uplinks.iter().take(MAX_UPLINKS).filter(matches) {
            let Uplink { ifindex, vlan, .. } = *uplink;
            let key = AnnouncedKey { vip: address_bytes(vip), ifindex, vlan, pad: 0 };
            let value = Announced { mac: uplink.mac, ..Announced::default() };
            let map = &mut state.contents.announced;
            stale.remove(&key);
            if map.len() >= MAX_ANNOUNCED as usize && !map.contains_key(&key) {
                left_out += 1;
                continue;
            }
            if upsert(map, key, value, &mut changes.writes, |k, v| Write::Announced(k, Some(v))) {
                changes.newly_announced.push(NewlyAnnounced {
                    vip,
                    ifindex: uplink.device,
                    interface: uplink.name.clone(),
                    mac: uplink.mac,
                });
            }
        }
    };
    let mut stale = BTreeSet::new();
    match touched {
        Touched::All => {
            stale.extend(state.contents.announced.keys().copied());
            for vip in plan.vips.keys() {
                one(state, *vip, &mut stale);
            }
        }
        Touched::Some(vips) => {
            for vip in vips {
                let first = AnnouncedKey { vip: address_bytes(*vip), ifindex: 0, vlan: 0, pad: 0 };
                let standing = state.contents.announced.range(first..);
                let standing = standing.take_while(|(key, _)| key.vip == first.vip);
                stale.extend(standing.map(|(key, _)| *key));
                one(state, *vip, &mut stale);
            }
        }
    }
    gone.announced = stale.into_iter().collect();
    changes.full("ANNOUNCED", MAX_ANNOUNCED, left_out);
    left_out
}

/// Removes what is gone.
pub(super) fn remove(state: &mut State, gone: Gone, changes: &mut Changes) {
    let Gone { vips, announced } = gone;
    for key in announced {
        state.contents.announced.remove(&key);
        changes.writes.push(Write::Announced(key, None));
    }
    for key in vips {
        state.contents.vips.remove(&key);
        changes.writes.push(Write::Vip(key, None));
    }
}

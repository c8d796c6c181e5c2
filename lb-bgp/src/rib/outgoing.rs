//! UPDATEs for one session: as many routes in each as fit.
use crate::{
    attribute::{Attribute, MpReach, MpUnreach, NextHop},
    family::Family,
    message::{EMPTY, LONGEST, TooLong, Update},
    prefix,
    route::{Manner, Route},
};
use bytes::Bytes;
use ipnet::IpNet;

/// The next hops that routes have in a session; of a family without one, none are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextHops {
    pub(crate) ipv4: Option<NextHop>,
    pub(crate) ipv6: Option<NextHop>,
}

/// The peer of a session, as far as UPDATEs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) next_hops: NextHops,
    pub(crate) manner: Manner,
}

/// An attribute's flags, type and two octets of length.
const ATTRIBUTE_HEAD: usize = 4;
/// Family and SAFI.
const FAMILY: usize = 3;

impl Peer {
    pub(crate) fn next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4Unicast => self.next_hops.ipv4,
            Family::Ipv6Unicast => self.next_hops.ipv6,
        }
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.next_hop(*family).is_some())
    }

    /// Whether routes of the family stand in the fields that RFC 4271 has for them.
    fn is_plain(&self, family: Family) -> bool {
        matches!((family, self.next_hop(family)), (Family::Ipv4Unicast, Some(NextHop::V4(_))))
    }

    /// An UPDATE that withdraws the first of these routes, and which they are.
    pub(crate) fn withdrawal(
        &self,
        family: Family,
        prefixes: impl Iterator<Item = IpNet>,
    ) -> (Bytes, Vec<IpNet>) {
        let plain = self.is_plain(family);
        let head = if plain { 0 } else { ATTRIBUTE_HEAD + FAMILY };
        let taken = fitting(prefixes, LONGEST - EMPTY - head);
        let mut update = Update::default();
        if plain {
            update.withdrawn.clone_from(&taken);
        } else {
            let prefixes = taken.clone();
            update.attributes.push(Attribute::MpUnreach(MpUnreach { family, prefixes }));
        }
        // It fits: the room was reckoned above.
        (update.encode(self.manner.four_octets).unwrap_or_default(), taken)
    }

    /// An UPDATE that announces the first of these routes, and which they are. `None` if the
    /// route's attributes leave no room for a single one.
    pub(crate) fn announcement(
        &self,
        family: Family,
        route: &Route,
        prefixes: impl Iterator<Item = IpNet>,
    ) -> Option<(Bytes, Vec<IpNet>)> {
        let next_hop = self.next_hop(family)?;
        let mut attributes = route.attributes(next_hop, self.manner);
        let four_octets = self.manner.four_octets;
        let mut encoded = Vec::new();
        attributes.iter().for_each(|one| one.encode(four_octets, &mut encoded));
        let plain = self.is_plain(family);
        let head = if plain { 0 } else { ATTRIBUTE_HEAD + FAMILY + 1 + next_hop.length() + 1 };
        let room = (LONGEST - EMPTY).checked_sub(head + encoded.len())?;
        let taken = fitting(prefixes, room);
        if taken.is_empty() {
            return None;
        }
        let mut update = Update::default();
        if plain {
            update.reachable.clone_from(&taken);
        } else {
            // RFC 7606 section 5.1: first, so that it can be found whatever else is wrong.
            let prefixes = taken.clone();
            attributes.insert(0, Attribute::MpReach(MpReach { family, next_hop, prefixes }));
        }
        update.attributes = attributes;
        update.encode(four_octets).ok().map(|bytes| (bytes, taken))
    }
}

/// As many of the first prefixes as fit.
fn fitting(prefixes: impl Iterator<Item = IpNet>, mut room: usize) -> Vec<IpNet> {
    let fits = |prefix: &IpNet| {
        let left = room.checked_sub(prefix::length(prefix));
        left.inspect(|left| room = *left).is_some()
    };
    prefixes.take_while(fits).collect()
}

/// All of a family has been told (RFC 4724 section 2).
pub(super) fn end_of_rib(family: Family) -> Bytes {
    let attributes = match family {
        Family::Ipv4Unicast => Vec::new(),
        Family::Ipv6Unicast => {
            vec![Attribute::MpUnreach(MpUnreach { family, prefixes: Vec::new() })]
        }
    };
    let update = Update { attributes, ..Update::default() };
    match update.encode(true) {
        Ok(bytes) => bytes,
        Err(TooLong) => Bytes::new(),
    }
}

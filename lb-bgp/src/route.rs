//! What is said of a route.
use crate::attribute::{
    AsPath, Attribute, Community, ExtendedCommunity, LargeCommunity, NextHop, Origin,
};
use std::collections::BTreeSet;

/// LOCAL_PREF of routes for which none is asked, as routers commonly have it.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// What a route that is to be announced carries. Origin, path and next hop are the session's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// LOCAL_PREF, for peers of the same AS: others never see it (RFC 4271 section 5.1.5).
    /// [`DEFAULT_LOCAL_PREF`] if there is none.
    pub local_pref: Option<u32>,
    /// Communities.
    pub communities: BTreeSet<Community>,
    /// Large communities.
    pub large_communities: BTreeSet<LargeCommunity>,
    /// Extended communities, such as the link bandwidth.
    pub extended_communities: BTreeSet<ExtendedCommunity>,
}

/// How this session's peer wants routes to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Our AS, as this peer sees it.
    pub(crate) local_as: u32,
    /// The peer is of the same AS.
    pub(crate) internal: bool,
    /// AS numbers take four octets.
    pub(crate) four_octets: bool,
}

impl Route {
    /// The attributes, but for `MP_REACH_NLRI`, in the order of their types.
    pub(crate) fn attributes(&self, next_hop: NextHop, manner: Manner) -> Vec<Attribute> {
        let Self { local_pref, communities, large_communities, extended_communities } = self;
        // RFC 4271 section 5.1.2: nothing is added for peers of the same AS.
        let path = if manner.internal {
            AsPath::default()
        } else {
            AsPath::sequence(vec![manner.local_as])
        };
        // RFC 6793 section 4.2.2: only where the path could not be written otherwise.
        let as4_path = (!manner.four_octets && path.is_wide()).then(|| path.clone());
        let mut attributes = vec![Attribute::Origin(Origin::Igp), Attribute::AsPath(path)];
        if let NextHop::V4(address) = next_hop {
            attributes.push(Attribute::NextHop(address));
        }
        if manner.internal {
            attributes.push(Attribute::LocalPref(local_pref.unwrap_or(DEFAULT_LOCAL_PREF)));
        }
        if !communities.is_empty() {
            attributes.push(Attribute::Communities(communities.iter().copied().collect()));
        }
        if !extended_communities.is_empty() {
            let list = extended_communities.iter().copied().collect();
            attributes.push(Attribute::ExtendedCommunities(list));
        }
        attributes.extend(as4_path.map(Attribute::As4Path));
        if !large_communities.is_empty() {
            attributes
                .push(Attribute::LargeCommunities(large_communities.iter().copied().collect()));
        }
        attributes
    }
}

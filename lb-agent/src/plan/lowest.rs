//! Which of some nodes has the lowest digest with a VIP, without computing all digests again.
//!
//! With a thousand nodes and ten thousand VIPs the digests are what an election costs. The one
//! that is the lowest of some is the lowest of any fewer that it is among, and of more only the new
//! ones can be lower. So what was worked out before makes the next election quicker, never different.
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// Names of nodes, sorted. An owner's name is another reference to the one here.
pub type Nodes = Arc<Vec<Arc<str>>>;

/// The nodes that an owner was chosen among, and it.
#[derive(Debug)]
struct Chosen {
    among: Nodes,
    owner: Arc<str>,
    digest: [u8; 32],
}

/// The owners chosen so far.
#[derive(Debug, Default)]
pub struct Owners {
    chosen: HashMap<IpAddr, Chosen>,
    /// The lists that were chosen among last, by the advertisements that they come from.
    lists: HashMap<Vec<usize>, Nodes>,
    /// The nodes of a second list that a first one lacks: many VIPs go from one to the other.
    added: Option<(Nodes, Nodes, Nodes)>,
}

impl Owners {
    /// The list of the nodes of some advertisements: the same allocation as long as it is equal.
    pub(super) fn list(&mut self, advertisements: &[usize], nodes: Vec<Arc<str>>) -> Nodes {
        match self.lists.get(advertisements) {
            Some(known) if **known == nodes => Arc::clone(known),
            _ => {
                let nodes = Arc::new(nodes);
                self.lists.insert(advertisements.to_vec(), Arc::clone(&nodes));
                nodes
            }
        }
    }

    /// Forgets a VIP that is none any more.
    pub(super) fn forget(&mut self, vip: IpAddr) {
        self.chosen.remove(&vip);
    }

    /// The node with the lowest SHA-256 of `node#ip`; of equals the first.
    pub(super) fn lowest(&mut self, nodes: &Nodes, vip: IpAddr) -> Option<Arc<str>> {
        let known = self.chosen.get(&vip);
        let known = known.filter(|known| nodes.binary_search(&known.owner).is_ok());
        let (digest, owner) = match known {
            Some(known) if Arc::ptr_eq(&known.among, nodes) => {
                return Some(Arc::clone(&known.owner));
            }
            Some(known) => {
                let standing = (known.digest, Arc::clone(&known.owner));
                let before = Arc::clone(&known.among);
                let added = self.added(&before, nodes);
                lowest(&added, vip).map_or(standing.clone(), |new| new.min(standing))
            }
            None => lowest(nodes, vip)?,
        };
        let among = Arc::clone(nodes);
        self.chosen.insert(vip, Chosen { among, owner: Arc::clone(&owner), digest });
        Some(owner)
    }

    fn added(&mut self, before: &Nodes, now: &Nodes) -> Nodes {
        if let Some((from, to, added)) = &self.added
            && Arc::ptr_eq(from, before)
            && Arc::ptr_eq(to, now)
        {
            return Arc::clone(added);
        }
        let new = now.iter().filter(|node| before.binary_search(node).is_err());
        let added = Arc::new(Vec::from_iter(new.cloned()));
        self.added = Some((Arc::clone(before), Arc::clone(now), Arc::clone(&added)));
        added
    }
}

fn lowest(nodes: &[Arc<str>], vip: IpAddr) -> Option<([u8; 32], Arc<str>)> {
    let vip = vip.to_string();
    let digests = nodes.iter().map(|node| {
        let text = Sha256::new().chain_update(node.as_bytes()).chain_update("#").chain_update(&vip);
        (<[u8; 32]>::from(text.finalize()), node)
    });
    digests.min().map(|(digest, node)| (digest, Arc::clone(node)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever was chosen before, and among whom.
        #[test]
        fn what_was_chosen_before_changes_nothing(
            lists in prop::collection::vec(prop::collection::btree_set(0..12u8, 0..12), 1..12),
        ) {
            let vips = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
            let mut owners = Owners::default();
            for list in lists {
                let nodes = list.iter().map(|n| format!("n{n:02}").into()).collect();
                let nodes = owners.list(&[0], nodes);
                for vip in vips {
                    let fresh = lowest(&nodes, vip).map(|(_, owner)| owner);
                    prop_assert_eq!(owners.lowest(&nodes, vip), fresh);
                }
            }
        }
    }
}

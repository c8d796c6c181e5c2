//! Which links let through frames whose source address is a client's.
//!
//! A first hop that rewrites link-layer addresses sends packets with foreign source
//! addresses. Some networks drop those. So each agent sends [probe frames](super::probe) with
//! a foreign source address over every link that it shares with another; the other's agent
//! tells in its hello whose it has received of late. A link is *proven* when it does, and
//! *disproved* when five frames have been sent to an agent that is heard and that
//! says nothing of them. Each direction of a link is proven by itself.
use crate::datapath::reach::{LinkProof, LinkProofs};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Between two probe frames until something is known.
pub const EAGER: Duration = Duration::from_secs(1);
/// Between two probe frames from then on.
pub const STEADY: Duration = Duration::from_secs(10);
/// So many may go unnoticed.
pub const TRIES: u32 = 5;
/// How long a probe frame that has arrived is told of: two of three may be lost.
pub const LATELY: Duration = Duration::from_secs(31);

/// What a peer on a common link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its agent lives: it is heard.
    pub lives: bool,
    /// It says that our probe frames arrive.
    pub hears: bool,
}

#[derive(Debug)]
struct Link {
    next: Instant,
    /// Frames sent to an agent that lived, since it last said that it hears them.
    unheard: u32,
    proof: Option<LinkProof>,
}

/// The sending side.
#[derive(Debug, Default)]
pub struct Proofs {
    links: BTreeMap<IpAddr, Link>,
    published: Arc<LinkProofs>,
}

impl Proofs {
    /// Takes in what the peers on common links do, all of them, by address. Returns to
    /// which of them a probe frame is due.
    pub fn poll(&mut self, peers: &BTreeMap<IpAddr, Peer>, now: Instant) -> Vec<IpAddr> {
        self.links.retain(|address, _| peers.contains_key(address));
        let mut due = Vec::new();
        for (address, peer) in peers {
            let link =
                self.links.entry(*address).or_insert(Link { next: now, unheard: 0, proof: None });
            if peer.hears {
                link.unheard = 0;
                link.proof = Some(LinkProof::Proven);
            } else if link.unheard < TRIES {
                link.next = link.next.min(now + EAGER);
            }
            if now < link.next {
                continue;
            }
            if peer.lives && !peer.hears {
                if link.unheard >= TRIES {
                    link.proof = Some(LinkProof::Disproved);
                }
                link.unheard = link.unheard.saturating_add(1);
            }
            let settled = peer.hears || link.unheard > TRIES;
            link.next = now + if settled { STEADY } else { EAGER };
            due.push(*address);
        }
        let proofs: LinkProofs =
            self.links.iter().filter_map(|(address, link)| Some((*address, link.proof?))).collect();
        if proofs != *self.published {
            self.published = Arc::new(proofs);
        }
        due
    }

    /// What is known, as of the last [`poll`](Self::poll). Replaced, not changed, when it changes.
    pub fn proofs(&self) -> &Arc<LinkProofs> {
        &self.published
    }

    /// When the next probe frame is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.links.values().map(|link| link.next).min()
    }
}

/// The receiving side: whose probe frames have arrived of late, by the sender's address.
#[derive(Debug, Default)]
pub struct Heard(BTreeMap<IpAddr, Instant>);

impl Heard {
    /// Most senders that are remembered: more than a cluster has nodes on one link. A probe
    /// frame carries this node's cookie, so that only agents can fill this.
    const MOST: usize = 2 * lb_common::maps::MAX_NODES as usize;

    /// A probe frame has arrived.
    pub fn note(&mut self, sender: IpAddr, now: Instant) {
        if self.0.len() < Self::MOST || self.0.contains_key(&sender) {
            self.0.insert(sender, now);
        }
    }

    /// Whether one of this sender's has arrived of late.
    pub fn lately(&self, sender: &IpAddr, now: Instant) -> bool {
        self.0.get(sender).is_some_and(|at| now < *at + LATELY)
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, at| now < *at + LATELY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;

    /// A link whose frames a peer receives, or not, and who is heard, or not.
    struct Lab {
        now: Instant,
        proofs: Proofs,
        heard: Heard,
        through: bool,
        lives: bool,
        sent: u32,
    }

    const PEER: &str = "10.0.0.2";
    const ME: &str = "10.0.0.1";

    impl Lab {
        fn new(through: bool) -> Self {
            let (proofs, heard) = (Proofs::default(), Heard::default());
            Self { now: Instant::now(), proofs, heard, through, lives: true, sent: 0 }
        }

        fn run(&mut self, seconds: u32) -> Option<LinkProof> {
            for _ in 0..seconds * 5 {
                self.now += Duration::from_millis(200);
                let hears = self.lives && self.heard.lately(&ip(ME), self.now);
                let peers = [(ip(PEER), Peer { lives: self.lives, hears })].into();
                for to in self.proofs.poll(&peers, self.now) {
                    assert_eq!(to, ip(PEER));
                    self.sent += 1;
                    if self.through {
                        self.heard.note(ip(ME), self.now);
                    }
                }
                self.heard.expire(self.now);
            }
            self.proofs.proofs().get(&ip(PEER)).copied()
        }
    }

    #[test]
    fn a_link_that_lets_frames_through_is_proven_within_a_second() {
        let mut lab = Lab::new(true);
        assert_eq!(lab.run(1), Some(LinkProof::Proven));
        assert_eq!(lab.run(600), Some(LinkProof::Proven));
        assert!(lab.sent <= 65, "steadily every ten seconds: {}", lab.sent);
    }

    #[test]
    fn one_that_does_not_is_disproved_after_five_frames_and_proven_when_it_does() {
        let mut lab = Lab::new(false);
        assert_eq!(lab.run(4), None);
        assert_eq!(lab.run(3), Some(LinkProof::Disproved));
        lab.sent = 0;
        assert_eq!(lab.run(100), Some(LinkProof::Disproved));
        assert!(lab.sent <= 11, "{}", lab.sent);
        lab.through = true;
        assert_eq!(lab.run(11), Some(LinkProof::Proven));
        // And back: what was proven is not given up for a lost frame.
        lab.through = false;
        assert_eq!(lab.run(20), Some(LinkProof::Proven));
        assert_eq!(lab.run(20), Some(LinkProof::Disproved));
    }

    #[test]
    fn nobody_is_disproved_by_an_agent_that_is_not_there() {
        let mut lab = Lab::new(false);
        lab.lives = false;
        assert_eq!(lab.run(100), None);
        lab.lives = true;
        assert_eq!(lab.run(8), Some(LinkProof::Disproved));
    }

    #[test]
    fn a_peer_that_starts_anew_has_forgotten_but_the_link_stays_proven() {
        let mut lab = Lab::new(true);
        assert_eq!(lab.run(30), Some(LinkProof::Proven));
        lab.lives = false;
        assert_eq!(lab.run(20), Some(LinkProof::Proven));
        lab.heard = Heard::default();
        lab.lives = true;
        for _ in 0..10 {
            assert_eq!(lab.run(1), Some(LinkProof::Proven));
        }
        assert!(lab.heard.lately(&ip(ME), lab.now));
    }

    #[test]
    fn who_leaves_the_link_is_forgotten() {
        let mut lab = Lab::new(true);
        lab.run(2);
        lab.proofs.poll(&BTreeMap::new(), lab.now);
        assert!(lab.proofs.proofs().is_empty() && lab.proofs.next_deadline().is_none());
    }
}

//! From what is reported to who is alive.
use super::{
    AliveNode, Arc, BTreeSet, Departure, Duration, Hearing, Instant, Members, Moves, NodeCookies,
    Peer, Probing, Report, Standing, Trouble, Watch,
};

/// Where frames arrive, the others have so long to be among those who send them: a link that is
/// mended shows by any frame.
const GRACE: Duration = Duration::from_millis(30);
/// The same where this node was deaf lately: it is its own link that was mended, whose port may not forward yet.
/// Were it to think itself alone meanwhile, it would take VIPs, and packets of connections that it does not
/// know, for the moment until the others answer.
const GRACE_AFTER_DEAF: Duration = Duration::from_millis(500);
/// How long that is lately.
const LATELY: Duration = Duration::from_secs(5);
/// Who hears nothing for so long is not to speak, either: what it repeats of its claims may be
/// what gets through.
const DEAF: Duration = Duration::from_millis(200);
/// Two memories of a move are no further apart.
const SAME: Duration = Duration::from_secs(3);
/// What voters' standings depend on are the standings of others: so often it is looked again.
const PASSES: usize = 4;

/// What the view says of a node, before it is one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Facts<'a> {
    interfaces: &'a BTreeSet<String>,
    agent: bool,
    in_rows: bool,
    held_until_s: Option<u64>,
}

impl<'a> From<&'a AliveNode> for Facts<'a> {
    fn from(node: &'a AliveNode) -> Self {
        let AliveNode { interfaces, agent, in_rows, held_until_s } = node;
        Self { interfaces, agent: *agent, in_rows: *in_rows, held_until_s: *held_until_s }
    }
}

impl From<&Facts<'_>> for AliveNode {
    fn from(facts: &Facts<'_>) -> Self {
        let Facts { interfaces, agent, in_rows, held_until_s } = *facts;
        Self { interfaces: interfaces.clone(), agent, in_rows, held_until_s }
    }
}

impl Peer {
    /// What is known of it. Its kernel may be gone: then it is as it `was` when it was last seen.
    fn facts(&self, was: Option<&AliveNode>) -> Facts<'_> {
        let agent = if self.standing.kernel {
            self.standing.agent
        } else {
            !self.report.as_ref().is_some_and(Report::gives_up) && was.is_none_or(|was| was.agent)
        };
        Facts {
            interfaces: &self.interfaces,
            agent,
            in_rows: !self.left_out || self.report.is_some() || self.serves,
            held_until_s: self.report.as_ref().and_then(|report| report.held_until_s),
        }
    }
}

impl Members {
    /// Whether a node's word counts: its agent lives, as far as is known, and runs.
    fn votes(&self, at: usize) -> bool {
        let peer = &self.peers[at];
        let goes = peer.report.as_ref().is_some_and(|report| report.departure.is_some());
        at == self.mine || peer.standing.agent && !goes && !peer.is_deaf()
    }

    /// What most of a node's watchers say of it.
    fn verdict(&self, target: usize) -> Trouble {
        let watchers = self.orders.watchers(target, |watcher| self.votes(watcher));
        let name = &self.peers[target].name;
        let report = |watcher: usize| {
            if watcher == self.mine {
                Some(&self.report)
            } else {
                self.peers[watcher].report.as_ref()
            }
        };
        let says = |watcher: &usize| {
            let trouble = report(*watcher).and_then(|report| report.troubles.get(name));
            trouble.copied().unwrap_or_default()
        };
        let said: Vec<Trouble> = watchers.iter().map(says).filter(|said| !said.unknown).collect();
        let most =
            |of: fn(&Trouble) -> bool| said.iter().filter(|t| of(t)).count() * 2 > said.len();
        Trouble { unseen: most(|t| t.unseen), silent: most(|t| t.silent), unknown: false }
    }

    /// Those of whom anybody says that something is amiss. Who only begins to watch a node does not count, here as
    /// in the [verdict](Self::verdict): in a large cluster that starts, everybody does.
    fn in_trouble(&self) -> BTreeSet<usize> {
        let reports = self.peers.iter().filter_map(|peer| peer.report.as_ref());
        let said = reports.chain([&self.report]).flat_map(|report| report.troubles.iter());
        let amiss = said.filter(|(_, said)| !said.unknown && (said.unseen || said.silent));
        amiss.filter_map(|(name, _)| self.position(name)).collect()
    }

    /// Brings standings, the view and who watches whom up to date.
    pub(super) fn look(&mut self, now: Instant) {
        let troubled = self.in_trouble();
        let before: Vec<Standing> = self.peers.iter().map(|peer| peer.standing).collect();
        for _ in 0..PASSES {
            let mut settled = true;
            for at in 0..self.peers.len() {
                if at == self.mine {
                    continue;
                }
                let verdict =
                    if troubled.contains(&at) { self.verdict(at) } else { Trouble::default() };
                let standing = self.standing(at, verdict, now);
                settled &= standing == self.peers[at].standing;
                self.peers[at].standing = standing;
            }
            if settled {
                break;
            }
        }
        self.accused = troubled.contains(&self.mine) && self.verdict(self.mine).any();
        for (at, before) in before.into_iter().enumerate() {
            let peer = &mut self.peers[at];
            // What was only assumed was never there, and is not missed.
            if before.kernel && !peer.standing.kernel && peer.serves {
                peer.left = Some(now);
            }
            self.stale |= before != peer.standing;
        }
        self.view(now);
        self.note_moves(now);
        self.assign(now);
    }

    /// Says which nodes the rows name that an earlier agent left in the kernel: they had
    /// an agent then, so their kernels have programs. Each is looked for, rather than forgotten
    /// because its agent, too, is just being started again. The others may have been dead, and are
    /// sent nothing before they are heard of; where there are no rows, none is left out.
    pub fn remember(&mut self, nodes: &BTreeSet<String>) {
        for peer in &mut self.peers {
            peer.serves |= nodes.contains(&peer.name);
            peer.left_out = !nodes.is_empty() && !nodes.contains(&peer.name);
        }
        self.refresh = true;
    }

    fn standing(&self, at: usize, verdict: Trouble, now: Instant) -> Standing {
        let peer = &self.peers[at];
        let Some(report) = &peer.report else {
            let assumed = peer.assumed_until.is_some_and(|until| now < until);
            return Standing { kernel: assumed || peer.serves && !verdict.unseen, agent: assumed };
        };
        let unloading = report.departure == Some(Departure::Unloading);
        let kernel = peer.serves && !verdict.unseen && !unloading;
        let agent = kernel && peer.ready && !report.gives_up() && !verdict.silent;
        Standing { kernel, agent }
    }

    /// Who lost its VIPs, and who got them back. That one comes for the first time does not count,
    /// nor what was only assumed.
    fn note_moves(&mut self, now: Instant) {
        let known = now >= self.started + self.timing.starting();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            let owning = peer.may_own;
            if at == self.mine || peer.owning.is_none() && !owning || !known {
                continue;
            }
            if peer.owning.is_some_and(|before| before != owning) {
                peer.moves.note(now, !owning);
                // It is to know in time.
                (peer.greet, self.greeting) = (true, true);
            }
            peer.owning = Some(owning);
        }
    }

    /// Who is taken to be alive.
    pub(super) fn view(&mut self, now: Instant) {
        // Isolation. This node counts in both sets.
        let frozen = self.frozen.take().unwrap_or_default();
        let window = self.timing.window;
        let mut live = vec![false; self.peers.len()];
        let mut reference = live.clone();
        for (at, peer) in self.others() {
            live[at] = peer.standing.kernel;
            let real = peer.report.is_some() || peer.serves;
            let lately =
                real && (peer.standing.kernel || peer.left.is_some_and(|left| now < left + window));
            let departure = peer.report.as_ref().and_then(|report| report.departure);
            reference[at] =
                departure != Some(Departure::Unloading) && (lately || frozen.contains(&peer.name));
        }
        let there = reference.iter().filter(|there| **there).count();
        let left = reference.iter().zip(&live).filter(|(there, lives)| **there && **lives).count();
        self.alone = left == 0 && there > 0;
        self.evidence = self.evidence.filter(|_| self.alone);
        let was_deaf = self.was_deaf.is_some_and(|at| now < at + LATELY);
        let grace = if was_deaf { GRACE_AFTER_DEAF } else { GRACE };
        let nobody = self.evidence.is_some_and(|at| now >= at + grace)
            && self.sign.is_none_or(|sign| now >= sign + self.timing.pace.patience);
        let isolated = there >= 3 && (1 + left) * 2 < there + 1;
        if isolated || self.alone && !nobody {
            live.iter_mut().zip(&reference).for_each(|(lives, there)| *lives |= there);
            let kept = self.peers.iter().zip(&reference).filter(|(_, there)| **there);
            self.frozen = Some(kept.map(|(peer, _)| peer.name.clone()).collect());
        }
        self.waits = self.alone && !nobody;
        self.waits_since = self.waits_since.or(Some(now)).filter(|_| self.waits);
        let since = self.waits_since.map(|since| self.sign.map_or(since, |sign| sign.max(since)));
        let deaf = since.is_some_and(|since| now >= since + DEAF);
        if deaf && self.evidence.is_none() {
            self.was_deaf = Some(now);
        }
        live[self.mine] = true;
        self.show(&live, deaf);
    }

    /// Makes the nodes at these places the view, if it is another one: in a large cluster it is looked at often,
    /// and rarely is.
    fn show(&mut self, live: &[bool], deaf: bool) {
        let own = Facts {
            interfaces: &self.report.interfaces,
            agent: !self.report.gives_up() && !self.accused && !deaf,
            in_rows: true,
            held_until_s: self.report.held_until_s,
        };
        // Both are in the order of names.
        let mut known = self.alive.iter().peekable();
        let mut same = true;
        let mut facts = Vec::with_capacity(live.len());
        for (at, peer) in self.peers.iter().enumerate() {
            while known.next_if(|(name, _)| **name < peer.name).is_some() {
                same = false;
            }
            let was = known.next_if(|(name, _)| **name == peer.name).map(|(_, node)| node);
            let is = live[at].then(|| if at == self.mine { own } else { peer.facts(was) });
            same &= match (was, &is) {
                (Some(was), Some(is)) => *is == Facts::from(was),
                (was, is) => was.is_none() && is.is_none(),
            };
            facts.push(is);
        }
        if !same || known.next().is_some() {
            let shown = self.peers.iter().zip(&facts);
            let node = |(peer, facts): (&Peer, &Option<Facts<'_>>)| {
                Some((peer.name.clone(), AliveNode::from(facts.as_ref()?)))
            };
            self.alive = Arc::new(shown.filter_map(node).collect());
        }
        let owns = |facts: &Option<Facts<'_>>| {
            facts.as_ref().is_some_and(|facts| facts.agent && facts.held_until_s.is_none())
        };
        let may_own: Vec<bool> = facts.iter().map(owns).collect();
        for (peer, may_own) in self.peers.iter_mut().zip(may_own) {
            peer.may_own = may_own;
        }
    }

    /// Who watches whom.
    fn assign(&mut self, now: Instant) {
        let fit: Vec<bool> = (0..self.peers.len()).map(|at| self.votes(at)).collect();
        if fit == self.fit {
            return;
        }
        let close: BTreeSet<usize> =
            self.orders.watchers(self.mine, |watcher| fit[watcher]).into_iter().collect();
        self.hello_due = self.hello_due.min(now + self.timing.hello);
        for at in 0..self.peers.len() {
            if at == self.mine {
                continue;
            }
            let ours = self.orders.watchers(at, |watcher| fit[watcher]).contains(&self.mine);
            let peer = &mut self.peers[at];
            peer.set_close(close.contains(&at), self.timing.hello, now);
            match (&peer.watch, ours) {
                (None, true) => {
                    let (probing, trouble) = (Probing::new(now), Trouble::UNKNOWN);
                    peer.watch = Some(Watch { since: now, probing, trouble, asked: None });
                    self.report.troubles.insert(peer.name.clone(), trouble);
                    self.changed = true;
                    self.watched.push(at);
                }
                (Some(_), false) => {
                    peer.watch = None;
                    self.watched.retain(|watched| *watched != at);
                    if self.report.troubles.remove(&peer.name).is_some() {
                        self.changed = true;
                        // It may have been what decided.
                        self.refresh = true;
                    }
                }
                _ => {}
            }
        }
        self.fit = fit;
    }

    /// What is remembered by whom remembers most. Hardly ever has anybody anything to tell, and this is asked with
    /// each datagram.
    fn longest_memory(&mut self, now: Instant) -> Option<&Moves> {
        self.told = self.told && self.others().any(|(_, peer)| !peer.tells.is_empty());
        if !self.told {
            return None;
        }
        let tells = self.others().filter(|(_, peer)| peer.standing.agent);
        tells.map(|(_, peer)| &peer.tells).max_by_key(|moves| moves.lately(now).count())
    }

    /// Whether this node has to wait before it owns anything: the longest memory counts.
    pub(super) fn hold(&mut self, now: Instant) {
        if let Some(until) = self.longest_memory(now).and_then(|moves| moves.held_until(now)) {
            // Each tells its own memory, in its own time: no reason to say something new.
            let near = |known: Instant| {
                let apart = until.saturating_duration_since(known);
                apart.max(known.saturating_duration_since(until)) < SAME
            };
            self.held_until = self.held_until.filter(|known| near(*known)).or(Some(until));
        }
        let until = self.held_until.filter(|until| now < *until);
        let held = until.map(|until| self.epoch_s + (until - self.began).as_secs());
        if held != self.report.held_until_s {
            self.report.held_until_s = held;
            self.changed = true;
            self.view(now);
        }
    }

    pub(super) fn publish(&mut self) {
        let of = |peer: &super::Peer| Some((peer.name.clone(), peer.report.as_ref()?.cookie?));
        let cookies: NodeCookies = self.others().filter_map(|(_, peer)| of(peer)).collect();
        if cookies != *self.cookies {
            self.cookies = Arc::new(cookies);
        }
        let lives = self.others().filter(|(_, peer)| peer.standing.agent && peer.report.is_some());
        let hearing: Hearing = lives
            .flat_map(|(_, peer)| peer.addresses.iter().map(|a| (*a, peer.hears.clone())))
            .collect();
        if hearing != *self.hearing {
            self.hearing = Arc::new(hearing);
        }
    }
}

//! When to speak unasked. No I/O and no clock: `now` is an argument.
use super::frame::announcement;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// When a VIP that came here is announced, counted from its coming. Some hosts and switches
/// miss the first frames (a port that is just coming up, a full queue); most need one.
const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// How much of its rate the announcer may use at once.
const BURST: Duration = Duration::from_millis(20);

/// A VIP on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// The VIP.
    pub vip: IpAddr,
    /// Index of the interface.
    pub ifindex: u32,
    /// The link-layer address that answers for it.
    pub mac: [u8; 6],
}

/// A frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Which VIP it announces.
    pub vip: IpAddr,
    /// By which interface.
    pub ifindex: u32,
    /// The frame with its Ethernet header.
    pub frame: Bytes,
}

/// Repeats announcements of what came here, at a bounded rate.
#[derive(Debug)]
pub struct Announcer {
    /// What this node announces.
    announced: BTreeSet<Announcement>,
    /// What is still to be said, by time: first rounds, which go before, and repetitions.
    queues: [BTreeSet<(Instant, Announcement)>; 2],
    /// The round and time at which each stands in the queue.
    standing: BTreeMap<Announcement, (usize, Instant, Instant)>,
    /// Between two frames.
    interval: Duration,
    /// When the next frame is due at the full rate.
    next_free: Option<Instant>,
}

impl Announcer {
    /// An announcer that sends at most `rate` frames a second.
    pub fn new(rate: NonZeroU32) -> Self {
        Self {
            announced: BTreeSet::new(),
            queues: Default::default(),
            standing: BTreeMap::new(),
            interval: Duration::from_secs(1) / rate.get(),
            next_free: None,
        }
    }

    /// Takes what this node announces from now on. What is new is told; of what is gone
    /// not a word more is said.
    pub fn update(&mut self, now: Instant, announced: BTreeSet<Announcement>) {
        for gone in self.announced.difference(&announced) {
            if let Some((round, _, due)) = self.standing.remove(gone) {
                self.queues[usize::from(round > 0)].remove(&(due, *gone));
            }
        }
        for new in announced.difference(&self.announced) {
            self.standing.insert(*new, (0, now, now));
            self.queues[0].insert((now, *new));
        }
        self.announced = announced;
    }

    /// The frames that are due, as far as the rate allows.
    pub fn poll(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut out = Vec::new();
        while self.may_send(now)
            && let Some(due) = self.take_due(now)
        {
            for frame in announcement(due.vip, due.mac) {
                out.push(Outgoing { vip: due.vip, ifindex: due.ifindex, frame });
                let from = self.next_free.map_or(now, |at| at.max(now));
                self.next_free = Some(from + self.interval);
            }
            self.schedule_next(due);
        }
        out
    }

    /// When [`Announcer::poll`] has something to say again.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due =
            self.queues.iter().filter_map(|queue| queue.first()).map(|(due, _)| *due).min()?;
        let free = self.next_free.and_then(|at| at.checked_sub(BURST));
        Some(free.map_or(due, |free| due.max(free)))
    }

    fn may_send(&self, now: Instant) -> bool {
        self.next_free.is_none_or(|at| at <= now + BURST)
    }

    fn take_due(&mut self, now: Instant) -> Option<Announcement> {
        self.queues
            .iter_mut()
            .find(|queue| queue.first().is_some_and(|(due, _)| *due <= now))
            .and_then(BTreeSet::pop_first)
            .map(|(_, announcement)| announcement)
    }

    fn schedule_next(&mut self, announcement: Announcement) {
        let Some((round, since, _)) = self.standing.remove(&announcement) else { return };
        let next = round + 1;
        if let Some(offset) = ROUNDS.get(next) {
            let due = since + *offset;
            self.standing.insert(announcement, (next, since, due));
            self.queues[1].insert((due, announcement));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcer(rate: u32) -> Announcer {
        Announcer::new(NonZeroU32::new(rate).unwrap())
    }

    fn on(ifindex: u32, vip: &str) -> Announcement {
        Announcement { vip: vip.parse().unwrap(), ifindex, mac: [2, 0, 0, 0, 0, 1] }
    }

    /// Polls at every deadline up to `until`; the times and numbers of frames.
    fn run(announcer: &mut Announcer, start: Instant, until: Duration) -> Vec<(Duration, usize)> {
        let mut log = Vec::new();
        while let Some(at) = announcer.next_deadline().filter(|at| *at <= start + until) {
            let sent = announcer.poll(at).len();
            assert!(sent > 0, "a deadline without anything to send");
            log.push((at - start, sent));
        }
        log
    }

    #[test]
    fn a_vip_that_came_is_announced_five_times() {
        let start = Instant::now();
        let mut announcer = announcer(1000);
        announcer.update(start, [on(3, "192.0.2.5")].into());
        let log = run(&mut announcer, start, Duration::from_secs(60));
        assert_eq!(log, ROUNDS.map(|at| (at, 2)));
        assert_eq!(announcer.next_deadline(), None);
    }

    #[test]
    fn what_stays_is_not_told_again_but_a_new_link_layer_address_is() {
        let start = Instant::now();
        let mut announcer = announcer(1000);
        announcer.update(start, [on(3, "2001:db8::5")].into());
        run(&mut announcer, start, Duration::from_secs(60));
        announcer.update(start, [on(3, "2001:db8::5")].into());
        assert_eq!(announcer.next_deadline(), None);
        let moved = Announcement { mac: [2, 0, 0, 0, 0, 9], ..on(3, "2001:db8::5") };
        let later = start + Duration::from_secs(60);
        announcer.update(later, [moved].into());
        let sent = announcer.poll(later);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].frame[6..12], moved.mac);
    }

    #[test]
    fn what_is_gone_is_silent_at_once() {
        let start = Instant::now();
        let mut announcer = announcer(1000);
        announcer.update(start, [on(3, "192.0.2.5"), on(3, "192.0.2.6")].into());
        announcer.poll(start);
        announcer.update(start, [on(3, "192.0.2.6")].into());
        let later = announcer.poll(start + Duration::from_secs(1));
        assert!(!later.is_empty());
        assert!(later.iter().all(|o| o.frame[28..32] == [192, 0, 2, 6]), "{later:?}");
    }

    #[test]
    fn many_are_paced_and_newcomers_go_before_repetitions() {
        let start = Instant::now();
        let mut announcer = announcer(100);
        let many: BTreeSet<_> = (0..100u8).map(|n| on(3, &format!("192.0.2.{n}"))).collect();
        announcer.update(start, many.clone());
        let at_once = announcer.poll(start).len();
        assert!((2..=4).contains(&at_once), "{at_once}");
        let log = run(&mut announcer, start, Duration::from_secs(1));
        let sent: usize = at_once + log.iter().map(|(_, n)| n).sum::<usize>();
        assert!((100..=106).contains(&sent), "{sent} in a second");
        let newcomer = on(4, "192.0.2.200");
        let now = start + Duration::from_secs(1);
        announcer.update(now, many.into_iter().chain([newcomer]).collect());
        // Of those that wait for their first round the newcomer is the last; yet it is
        // told before anything is repeated.
        let mut first_rounds = 0;
        while let Some(at) = announcer.next_deadline() {
            for sent in announcer.poll(at) {
                if sent.ifindex == 4 {
                    assert!(first_rounds <= 100, "{first_rounds}");
                    return;
                }
                first_rounds += 1;
            }
        }
        panic!("the newcomer was never announced");
    }
}

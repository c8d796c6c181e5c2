//! Whether a node's data plane answers.
//!
//! Its kernel program answers probes by itself, on the road that clients' frames take and however
//! busy the node's processes are. A probe goes out every 25 ms; when one is overdue, every 10 ms
//! and to all of the node's addresses in turn; what is unanswered for 100 ms (and what a round
//! trip takes) is not there. So it takes the loss of eight probes in a row, within a tenth of a
//! second.
//!
//! What is counted are probes and not only time: while this process does not run, none is sent, so
//! that nobody is blamed for it. An answer brings the probe's random number back, which nobody
//! can know who did not see the probe.
use super::envelope::Random;
use lb_common::tunnel::{ANSWER, GUE_VERSION_LENGTH, Gue, Liveness, QUESTION, cookie_words};
use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

/// "No next header" (RFC 8200 section 4.7).
const NOTHING: u8 = 59;
/// Bytes of a probe, and of its answer, behind the UDP header.
pub const LENGTH: usize = size_of::<Gue>() + size_of::<Liveness>();
/// Fewest unanswered probes that say something.
const FEWEST: usize = 6;
/// No more are waited for.
const MOST: usize = 32;
/// A longer way to a node is not allowed for.
const LONGEST_TRIP: Duration = Duration::from_millis(100);

/// How probes are paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two probes.
    pub steady: Duration,
    /// The same while one is overdue.
    pub eager: Duration,
    /// How long a node may leave all unanswered.
    pub patience: Duration,
    /// How long a node that has been away has to answer all before it counts again.
    pub returning: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { steady: ms(25), eager: ms(10), patience: ms(100), returning: ms(500) }
    }
}

impl Pace {
    /// How long a node that has been away lately so many times has to answer before it counts again.
    fn returning(&self, times: usize) -> Duration {
        self.returning * (1 << times.saturating_sub(1).min(4))
    }
}

/// Returns that are remembered, and for how long.
const LATELY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    at: Instant,
}

/// A node that is probed.
#[derive(Debug)]
pub struct Probing {
    /// When the last one was sent.
    last: Option<Instant>,
    polled: Instant,
    /// Since the last one that was answered; the first of them, and how many. Of `waiting` the
    /// oldest may have been dropped.
    unanswered: Option<(Instant, usize)>,
    /// Whose answer is still taken.
    waiting: VecDeque<Sent>,
    trip: Duration,
    answered: Option<Instant>,
    /// All has been answered since then.
    whole_since: Option<Instant>,
    unseen: bool,
    /// When it was found to be away.
    away: VecDeque<Instant>,
    /// Which of its addresses is asked.
    address: usize,
    announces: Option<Duration>,
    announced: bool,
}

impl Probing {
    /// A node that is probed from now on.
    pub fn new(now: Instant) -> Self {
        Self {
            last: None,
            polled: now,
            unanswered: None,
            waiting: VecDeque::new(),
            trip: Duration::ZERO,
            answered: None,
            whole_since: None,
            unseen: false,
            away: VecDeque::new(),
            address: 0,
            announces: None,
            announced: false,
        }
    }

    /// Whether it has ever answered.
    pub fn is_known(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether it does not answer.
    pub fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// Since when nothing is answered that should have been.
    pub fn overdue_since(&self, pace: &Pace, now: Instant) -> Option<Instant> {
        let (first, _) = self.unanswered?;
        (now >= first + pace.steady + self.trip).then_some(first)
    }

    /// Since when nothing is answered, be it overdue or not.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered.map(|(first, _)| first)
    }

    /// For how long its kernel still announces VIPs without a word from its agent; `None` if it
    /// never has, as far as is known.
    pub fn announces(&self) -> Option<Duration> {
        self.announces.filter(|_| self.announced)
    }

    /// The probe to send now, if one is due.
    pub fn poll(
        &mut self,
        addresses: &[IpAddr],
        pace: &Pace,
        random: &mut Random,
        now: Instant,
    ) -> Option<(IpAddr, u64)> {
        self.polled = now;
        let overdue = self.overdue_since(pace, now).is_some();
        if overdue {
            self.whole_since = None;
        }
        if let Some((_, count)) = self.unanswered
            && self.is_known()
            && !self.unseen
            && count >= FEWEST
            && self.given_up_at(pace).is_some_and(|at| now >= at)
        {
            self.unseen = true;
            self.away.retain(|at| now < *at + LATELY);
            self.away.push_back(now);
        }
        if now < self.due(pace) || addresses.is_empty() {
            return None;
        }
        self.last = Some(now);
        if overdue {
            self.address = self.address.wrapping_add(1);
        }
        let number = random.number();
        if self.waiting.len() == MOST {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Sent { number, at: now });
        let (_, count) = self.unanswered.get_or_insert((now, 0));
        *count += 1;
        Some((addresses[self.address % addresses.len()], number))
    }

    /// When the next probe is due.
    fn due(&self, pace: &Pace) -> Instant {
        // One that is known to be away need not be asked so often.
        let hasty = self.is_known() && !self.unseen;
        let hasty = hasty && self.overdue_since(pace, self.polled).is_some();
        let pause = if hasty { pace.eager } else { pace.steady };
        self.last.map_or(self.polled, |last| last + pause)
    }

    fn given_up_at(&self, pace: &Pace) -> Option<Instant> {
        Some(self.unanswered?.0 + pace.patience + self.trip)
    }

    /// When [`poll`](Self::poll) is due again.
    pub fn next_deadline(&self, pace: &Pace) -> Instant {
        let overdue_at = self.unanswered.map(|(first, _)| first + pace.steady + self.trip);
        let times = [overdue_at, self.given_up_at(pace), Some(self.due(pace))];
        let later = times.into_iter().flatten().filter(|at| *at > self.polled);
        later.min().unwrap_or(self.polled + pace.steady)
    }

    /// Takes an answer in. Returns whether it was one to a probe of ours.
    pub fn answer(&mut self, number: u64, liveness: Answer, pace: &Pace, now: Instant) -> bool {
        let Some(at) = self.waiting.iter().position(|sent| sent.number == number) else {
            return false;
        };
        let sent = self.waiting[at].at;
        self.waiting.drain(..=at);
        let trip = now.saturating_duration_since(sent).min(LONGEST_TRIP);
        // What it takes at best is learned at once, and slowly that it has become more.
        self.trip = if trip < self.trip || self.answered.is_none() {
            trip
        } else {
            (self.trip * 7 + trip) / 8
        };
        self.answered = Some(now);
        self.unanswered = self.waiting.front().map(|first| (first.at, self.waiting.len()));
        self.announces = Some(liveness.announces);
        self.announced |= !liveness.announces.is_zero();
        let whole_since = *self.whole_since.get_or_insert(now);
        if self.unseen && now >= whole_since + pace.returning(self.away.len()) {
            self.unseen = false;
        }
        true
    }

    /// It answers, and was not what was away: it counts at once.
    pub fn absolve(&mut self) {
        if std::mem::take(&mut self.unseen) {
            self.away.pop_back();
        }
    }

    /// Nobody is to blame for what was not heard while this process did not run.
    pub fn forgive(&mut self, stalled: Duration, now: Instant) {
        for at in self.waiting.iter_mut().map(|sent| &mut sent.at) {
            *at = (*at + stalled).min(now);
        }
        if let Some((first, _)) = &mut self.unanswered {
            *first = (*first + stalled).min(now);
        }
    }
}

/// What a node's kernel program says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For how long it goes on announcing VIPs without a word from its agent.
    pub announces: Duration,
}

/// The content of a probe.
pub fn question(number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..5].copy_from_slice(&[GUE_VERSION_LENGTH, NOTHING, 0, 0, QUESTION]);
    let words = cookie_words(number).map(u32::to_ne_bytes);
    bytes[8..16].copy_from_slice(words.as_flattened());
    bytes
}

/// The answer of a kernel program to a probe, for what stands in for one.
pub fn answer(question: &[u8; LENGTH], announces: Duration) -> [u8; LENGTH] {
    let mut bytes = *question;
    bytes[4] = ANSWER;
    let announces = u32::try_from(announces.as_millis()).unwrap_or(u32::MAX);
    bytes[16..20].copy_from_slice(&announces.to_be_bytes());
    bytes
}

/// Reads the answer to a probe: its number, and what it says.
pub fn read_answer(bytes: &[u8]) -> Option<(u64, Answer)> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let (expected, _) =
        question(0).split_first_chunk::<8>().map(|(head, rest)| (*head, rest.len()))?;
    let head = [bytes[0], bytes[1], bytes[2], bytes[3], QUESTION, bytes[5], bytes[6], bytes[7]];
    if bytes[4] != ANSWER || head != expected {
        return None;
    }
    let number = |at: usize| {
        let word = bytes[at..].first_chunk().copied().unwrap_or_default();
        u64::from(u32::from_ne_bytes(word))
    };
    let announces = bytes[16..].first_chunk().copied().map_or(0, u32::from_be_bytes);
    let announces = Duration::from_millis(announces.into());
    Some((number(8) | number(12) << 32, Answer { announces }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;

    const MS: Duration = Duration::from_millis(1);

    struct Lab {
        now: Instant,
        probing: Probing,
        random: Random,
        trip: Duration,
        answers: bool,
        under_way: VecDeque<(Instant, u64)>,
        sent: Vec<(Instant, IpAddr)>,
    }

    impl Lab {
        fn new(trip: Duration) -> Self {
            let now = Instant::now();
            let mut number = 0;
            let random = Random::new(move || {
                number += 1;
                number
            });
            let (under_way, sent) = (VecDeque::new(), Vec::new());
            Self { now, probing: Probing::new(now), random, trip, answers: true, under_way, sent }
        }

        /// Runs until the time is over or it is as wanted. Returns how long that took.
        fn run(&mut self, ms: u64, until: impl Fn(&Probing) -> bool) -> Option<Duration> {
            let (began, end) = (self.now, self.now + Duration::from_millis(ms));
            let addresses = [ip("10.0.0.1"), ip("fd00::1")];
            let pace = Pace::default();
            while self.now < end {
                while let Some((at, number)) = self.under_way.front().copied()
                    && at <= self.now
                {
                    self.under_way.pop_front();
                    let answer = Answer { announces: Duration::from_secs(60) };
                    assert!(self.probing.answer(number, answer, &pace, self.now));
                }
                if let Some((to, number)) =
                    self.probing.poll(&addresses, &pace, &mut self.random, self.now)
                {
                    self.sent.push((self.now, to));
                    if self.answers {
                        self.under_way.push_back((self.now + self.trip, number));
                    }
                }
                if until(&self.probing) {
                    return Some(self.now - began);
                }
                let due = self.under_way.front().map_or(end, |(at, _)| *at);
                let deadline = self.probing.next_deadline(&pace);
                assert!(deadline > self.now, "time passes");
                self.now = deadline.min(due).min(end);
            }
            None
        }
    }

    #[test]
    fn a_node_that_is_gone_is_found_out_in_time() {
        for trip in [MS / 10, MS * 3, MS * 60] {
            for phase in 0..25 {
                let mut lab = Lab::new(trip);
                assert_eq!(lab.run(1000 + phase, Probing::is_unseen), None, "it is there");
                lab.answers = false;
                lab.under_way.clear();
                let took = lab.run(1000, Probing::is_unseen).unwrap();
                let longest = MS * 125 + trip + MS;
                assert!(took >= MS * 75 && took <= longest, "{trip:?} {phase}: {took:?}");
                let asked: std::collections::BTreeSet<_> =
                    lab.sent.iter().rev().take(4).map(|(_, to)| *to).collect();
                assert_eq!(asked.len(), 2, "at all of its addresses");
            }
        }
    }

    #[test]
    fn probes_are_few_while_all_is_well() {
        let mut lab = Lab::new(MS * 2);
        lab.run(10_000, |_| false);
        assert!((395..=405).contains(&lab.sent.len()), "{}", lab.sent.len());
        assert!(lab.sent.iter().all(|(_, to)| *to == lab.sent[0].1));
    }

    #[test]
    fn who_was_away_comes_back_slowly_and_each_time_more_so() {
        let mut lab = Lab::new(MS);
        lab.run(500, |_| false);
        for expected in [500, 1000, 2000] {
            lab.answers = false;
            lab.run(5000, Probing::is_unseen).unwrap();
            lab.answers = true;
            let took = lab.run(20_000, |probing| !probing.is_unseen()).unwrap();
            let least = Duration::from_millis(expected);
            assert!(took >= least && took < least + MS * 60, "{took:?}");
        }
    }

    #[test]
    fn time_that_did_not_pass_for_us_does_not_count() {
        let mut lab = Lab::new(MS);
        lab.run(510, |_| false);
        lab.answers = false;
        lab.run(60, Probing::is_unseen);
        lab.now += Duration::from_secs(5);
        lab.probing.forgive(Duration::from_secs(5), lab.now);
        lab.answers = true;
        assert_eq!(lab.run(1000, Probing::is_unseen), None);
    }

    #[test]
    fn a_node_that_never_answered_is_not_missed() {
        let mut lab = Lab::new(MS);
        lab.answers = false;
        assert_eq!(lab.run(1000, Probing::is_unseen), None);
        assert!(!lab.probing.is_known() && lab.probing.announces().is_none());
        lab.answers = true;
        lab.run(100, |_| false);
        assert!(lab.probing.is_known());
        assert_eq!(lab.probing.announces(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_bytes() {
        let asked = question(0x0102_0304_0506_0708);
        assert_eq!(asked[..8], [3, 59, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(asked[8..16], 0x0102_0304_0506_0708u64.to_le_bytes());
        assert_eq!(read_answer(&asked), None, "a question is no answer");
        let mut answered = asked;
        answered[4] = 0x81;
        answered[16..20].copy_from_slice(&1500u32.to_be_bytes());
        let answer = Answer { announces: Duration::from_millis(1500) };
        assert_eq!(read_answer(&answered), Some((0x0102_0304_0506_0708, answer)));
        assert_eq!(read_answer(&answered[1..]), None);
        answered[0] = 7;
        assert_eq!(read_answer(&answered), None);
    }
}

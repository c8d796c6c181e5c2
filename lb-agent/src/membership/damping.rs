//! Who loses its VIPs often gets them back late.
//!
//! A switch or a client takes an address that moves to and fro for an attack or for a loop. So a
//! node's VIPs move three times in three minutes at most: what they left comes back once, and again
//! only when no more than one move is left in the time before. That they leave a node that is dead
//! is never put off.
//!
//! A node damps itself: it says in its report that it is *held*, and all pass it over as long as
//! somebody else may own the VIP. Were it the others' part, two might disagree about
//! whether it is back, and nobody would answer. But a node that was dead does not know; so the
//! others note how often they saw it go and come, and tell it.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Moves count for so long.
pub const WINDOW: Duration = Duration::from_secs(180);
/// More are not remembered.
const MOST: usize = 8;

/// A node lost its VIPs, or got them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// When.
    pub at: Instant,
    /// Lost, or got back.
    pub lost: bool,
}

/// The moves of a node's VIPs, as one agent saw them; the latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves(VecDeque<Move>);

impl Moves {
    /// Of moves in any order.
    pub fn new(moves: impl Iterator<Item = Move>) -> Self {
        let mut all: Vec<_> = moves.collect();
        all.sort_by_key(|moved| moved.at);
        let skip = all.len().saturating_sub(MOST);
        Self(all.into_iter().skip(skip).collect())
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes one.
    pub fn note(&mut self, at: Instant, lost: bool) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(Move { at, lost });
    }

    /// Those that count.
    pub fn lately(&self, now: Instant) -> impl Iterator<Item = Move> {
        self.0.iter().copied().filter(move |moved| now < moved.at + WINDOW)
    }

    /// Until when the node is to wait before it gets its VIPs back, if it has lost them.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        let moves: Vec<_> = self.lately(now).collect();
        let [.., before, last] = moves[..] else { return None };
        last.lost.then(|| before.at + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn back_at_once_and_then_no_more() {
        let start = Instant::now();
        let mut moves = Moves::default();
        assert_eq!(moves.held_until(start), None);
        moves.note(start, true);
        assert_eq!(moves.held_until(start + S), None, "the first time");
        moves.note(start + S, false);
        assert_eq!(moves.held_until(start + S * 2), None, "it has them");
        moves.note(start + S * 2, true);
        assert_eq!(moves.held_until(start + S * 3), Some(start + S + WINDOW));
        assert_eq!(moves.held_until(start + S + WINDOW), None);
    }

    proptest! {
        /// Whenever a node dies, and however soon it lives again.
        #[test]
        fn three_moves_in_three_minutes(deaths in prop::collection::vec((1..90u64, 1..30u64), 1..40)) {
            let mut now = Instant::now();
            let (mut seen, mut all) = (Moves::default(), Vec::new());
            for (lives, dies) in deaths {
                now += S * lives as u32;
                // It may not have got its VIPs back yet.
                if all.last().is_none_or(|m: &Move| !m.lost) {
                    all.push(Move { at: now, lost: true });
                    seen.note(now, true);
                }
                now += S * dies as u32;
                if seen.held_until(now).is_none() {
                    all.push(Move { at: now, lost: false });
                    seen.note(now, false);
                }
            }
            for four in all.windows(4) {
                prop_assert!(four[3].at - four[0].at >= WINDOW, "{four:?}");
            }
        }
    }
}

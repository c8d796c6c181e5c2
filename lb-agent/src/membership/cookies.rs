//! What proves that a tunnelled packet comes from an agent's node.
//!
//! A source address proves nothing: what pods send leaves with their node's. So each node
//! asks for 64 random bits, its *cookie*, in whatever is tunnelled to it, and tells it to the
//! other agents in its hellos. A new one is made every ten minutes; the one before it is
//! taken for as long again, so that nothing is dropped while the others learn of the new one.
//! The kernel goes on taking both while there is no agent, and the next agent adopts them.
//!
//! Hellos are authenticated, but not encrypted: who can read them on the nodes' network can
//! learn cookies. That is as far as the protection goes.
use std::{
    fmt,
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// How long a cookie is handed out; it is taken for twice as long.
pub const ROTATE: Duration = Duration::from_secs(600);

/// A secret number, not 0. It does not print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie(NonZeroU64);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

impl Cookie {
    /// A cookie with this value; `None` for 0, which stands for none.
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The value.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// One that nobody can guess, from the operating system's source of randomness.
    ///
    /// # Errors
    ///
    /// The system has none to give.
    pub fn random() -> std::io::Result<Self> {
        loop {
            if let Some(cookie) = Self::new(getrandom::u64()?) {
                return Ok(cookie);
            }
        }
    }
}

/// The cookies of this node.
#[derive(Debug)]
pub struct Cookies {
    current: Cookie,
    previous: Option<Cookie>,
    rotate_at: Instant,
}

impl Cookies {
    /// Goes on with what stands in `Settings::cookies`; with `fresh` if nothing does.
    pub fn adopt(pinned: [u64; 2], fresh: Cookie, now: Instant) -> Self {
        let [current, previous] = pinned.map(Cookie::new);
        Self { current: current.unwrap_or(fresh), previous, rotate_at: now + ROTATE }
    }

    /// Takes a fresh cookie if it is time for one, and says whether it did. It has to be
    /// [in force](Self::in_force) before others are told.
    pub fn rotate(&mut self, fresh: impl FnOnce() -> Option<Cookie>, now: Instant) -> bool {
        if now < self.rotate_at {
            return false;
        }
        let Some(fresh) = fresh() else {
            // The old one serves on; the next try is soon.
            self.rotate_at = now + ROTATE / 10;
            return false;
        };
        self.previous = Some(std::mem::replace(&mut self.current, fresh));
        self.rotate_at = now + ROTATE;
        true
    }

    /// When [`rotate`](Self::rotate) is due.
    pub fn next_deadline(&self) -> Instant {
        self.rotate_at
    }

    /// The one that others are told.
    pub fn current(&self) -> Cookie {
        self.current
    }

    /// The values for `Settings::cookies`.
    pub fn in_force(&self) -> [u64; 2] {
        [self.current.get(), self.previous.map_or(0, Cookie::get)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_taken_for_twice_as_long_as_it_is_handed_out() {
        let start = Instant::now();
        let cookie = |n| Cookie::new(n).unwrap();
        let mut cookies = Cookies::adopt([0, 0], cookie(1), start);
        assert_eq!(cookies.in_force(), [1, 0]);
        assert!(!cookies.rotate(|| unreachable!(), start + ROTATE / 2));
        let mut now = cookies.next_deadline();
        assert!(cookies.rotate(|| Some(cookie(2)), now));
        assert_eq!((cookies.in_force(), cookies.current()), ([2, 1], cookie(2)));
        now = cookies.next_deadline();
        assert_eq!(now, start + ROTATE * 2);
        assert!(!cookies.rotate(|| None, now), "no randomness");
        assert_eq!(cookies.in_force(), [2, 1]);
        now = cookies.next_deadline();
        assert!(cookies.rotate(|| Some(cookie(3)), now));
        assert_eq!(cookies.in_force(), [3, 2]);
    }

    #[test]
    fn the_next_agent_adopts_them() {
        let now = Instant::now();
        let cookies = Cookies::adopt([7, 6], Cookie::new(1).unwrap(), now);
        assert_eq!(cookies.in_force(), [7, 6]);
    }

    #[test]
    fn random_ones_differ_and_do_not_print() {
        let (one, two) = (Cookie::random().unwrap(), Cookie::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(format!("{one:?}"), "Cookie(..)");
        assert_eq!(Cookie::new(0), None);
    }
}

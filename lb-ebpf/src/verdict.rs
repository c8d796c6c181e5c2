//! What a function says of a frame.
use lb_common::outcome::{Action, Outcome};

/// An [`Outcome`] as a plain number, or none yet.
///
/// The verifier lets a function that is not inlined return a number only, and knows nothing of
/// an enum's range: the compiler must not take it for granted either.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Verdict(u32);

impl Verdict {
    /// Nothing is settled: the frame goes on.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// An outcome.
    #[inline(always)]
    pub(crate) const fn new(outcome: Outcome) -> Self {
        Self(outcome as u32)
    }

    /// What [`number`](Self::number) gave.
    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Whether it is this outcome.
    #[inline(always)]
    pub(crate) const fn is(self, outcome: Outcome) -> bool {
        self.0 == outcome as u32
    }

    /// Whether the frame goes on.
    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.0 == Self::NONE.0
    }

    /// The position of the outcome's counter.
    #[inline(always)]
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Whether the frame is sent on to another node.
    #[inline(always)]
    pub(crate) const fn is_sent_on(self) -> bool {
        self.0 >= Outcome::Forwarded as u32 && self.0 <= Outcome::ElsewhereRedirected as u32
    }

    /// What the kernel is told to do.
    #[inline(always)]
    pub(crate) const fn action(self) -> Action {
        if self.0 < Outcome::ALL.len() as u32 {
            // SAFETY: the discriminants are 0 up to the number of outcomes.
            let outcome: Outcome = unsafe { core::mem::transmute(self.0) };
            outcome.action()
        } else {
            Action::Drop
        }
    }
}

impl From<Outcome> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self::new(outcome)
    }
}

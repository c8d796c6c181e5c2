//! What is to be done with a packet next.
use crate::verdict::Verdict;
use lb_common::outcome::Outcome;

/// A step as one number, since a function that is not inlined can return no more: the kind
/// in the upper half, what belongs to it in the lower.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Step(u64);

/// [`Step::kind`]: [`Step::verdict`] stands.
pub(crate) const DONE: u32 = 0;
/// [`Step::kind`]: it is refused; [`Step::verdict`] where nothing may be refused.
pub(crate) const REFUSE: u32 = 1;
/// [`Step::kind`]: it is sent to [`Step::node`] at [`Step::position`].
pub(crate) const SEND: u32 = 2;
/// [`Step::kind`]: it is delivered as a new flow to the endpoint with the index [`Step::value`].
pub(crate) const NEW: u32 = 3;
/// [`Step::kind`]: it is delivered to its flow's endpoint.
pub(crate) const KNOWN: u32 = 4;
/// [`Step::kind`]: nothing is settled yet.
const NOTHING: u32 = 5;

/// In the value of [`SEND`]: another agent said that the node knows the flow.
const ELSEWHERE: u32 = 1 << 24;
const POSITION_SHIFT: u32 = 16;

impl Step {
    /// Nothing is settled yet.
    pub(crate) const NONE: Self = Self::new(NOTHING, 0);

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        Self((kind as u64) << 32 | value as u64)
    }

    /// An outcome.
    #[inline(always)]
    pub(crate) const fn done(outcome: Outcome) -> Self {
        Self::new(DONE, outcome as u32)
    }

    /// A verdict; none is [`Step::NONE`].
    #[inline(always)]
    pub(crate) const fn from_verdict(verdict: Verdict) -> Self {
        if verdict.is_none() { Self::NONE } else { Self::new(DONE, verdict.number()) }
    }

    /// It is refused, or becomes `otherwise`.
    #[inline(always)]
    pub(crate) const fn refuse(otherwise: Outcome) -> Self {
        Self::new(REFUSE, otherwise as u32)
    }

    /// It is sent to a node at a position of the row.
    #[inline(always)]
    pub(crate) const fn send(node: u16, position: u8) -> Self {
        Self::new(SEND, node as u32 | (position as u32) << POSITION_SHIFT)
    }

    /// It is sent, at the last position, to a node that is said to know its flow.
    #[inline(always)]
    pub(crate) const fn send_elsewhere(node: u16) -> Self {
        let last = (lb_common::tunnel::LAST as u32) << POSITION_SHIFT;
        Self::new(SEND, node as u32 | last | ELSEWHERE)
    }

    /// It is delivered as a new flow to an endpoint.
    #[inline(always)]
    pub(crate) const fn deliver_new(endpoint: u32) -> Self {
        Self::new(NEW, endpoint)
    }

    /// It is delivered to its flow's endpoint.
    #[inline(always)]
    pub(crate) const fn deliver_known() -> Self {
        Self::new(KNOWN, 0)
    }

    /// What [`number`](Self::number) gave.
    #[inline(always)]
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As one number.
    #[inline(always)]
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Of the constants of this module.
    #[inline(always)]
    pub(crate) const fn kind(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether nothing is settled yet.
    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.kind() == NOTHING
    }

    /// What the kind says.
    #[inline(always)]
    pub(crate) const fn value(self) -> u32 {
        self.0 as u32
    }

    /// The verdict of [`DONE`] and [`REFUSE`].
    #[inline(always)]
    pub(crate) const fn verdict(self) -> Verdict {
        Verdict::from_number(self.value())
    }

    /// Index in `NODES`, of [`SEND`].
    #[inline(always)]
    pub(crate) const fn node(self) -> u16 {
        self.value() as u16
    }

    /// The position in the row, of [`SEND`].
    #[inline(always)]
    pub(crate) const fn position(self) -> u8 {
        (self.value() >> POSITION_SHIFT) as u8
    }

    /// Whether another agent said so, of [`SEND`].
    #[inline(always)]
    pub(crate) const fn is_elsewhere(self) -> bool {
        self.value() & ELSEWHERE != 0
    }
}

//! Holding a `coordination.k8s.io/v1` Lease, without I/O.
//!
//! The rules are those of Kubernetes' own components: a holder renews; others watch the
//! record and take it over when it has not changed for its duration, by their own clock,
//! so that clocks need not agree. A holder that cannot renew steps down well before others
//! may take over. Its validity counts from when the last successful request was *sent*.
use k8s_openapi::jiff::Timestamp;
use std::time::{Duration, Instant};

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After how long without a renewal others may take the Lease over.
    pub duration: Duration,
    /// After how long without a successful renewal the holder steps down.
    pub renew_deadline: Duration,
    /// How often the holder renews, and others look.
    pub retry: Duration,
}

impl Timing {
    /// Of the allocator's Lease: those of Kubernetes' controllers.
    pub const ALLOCATOR: Self = Self {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    /// Of a node's Lease, which nobody else wants: those of the kubelet's.
    pub const PRESENCE: Self = Self {
        duration: Duration::from_secs(40),
        renew_deadline: Duration::from_secs(40),
        retry: Duration::from_secs(10),
    };
}

/// What stands in a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// For how long after a change nobody else may take it.
    pub duration: Duration,
    /// How often it has changed hands.
    pub transitions: i32,
    /// Since when the holder has had it, by the holder's clock.
    pub acquired: Timestamp,
    /// When it was renewed last, by the holder's clock.
    pub renewed: Timestamp,
}

/// What is to be asked of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the Lease.
    Read,
    /// Create it.
    Create(Record),
    /// Write it, if it is still the one that was read or written last.
    Replace(Record),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It stands thus: it was read, or written.
    Record(Record),
    /// There is none.
    Absent,
    /// Somebody else has written it meanwhile.
    Conflict,
    /// No answer, or an error.
    Failed,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until then.
    Wait(Instant),
    /// Ask the API, and give up waiting for the answer at that time.
    Ask(Request, Instant),
}

/// One contender's view of a Lease.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    /// What stands in it, and since when it has stood there unchanged.
    seen: Option<(Record, Instant)>,
    absent: bool,
    /// The Lease is ours, by a request sent at that time.
    renewed: Option<Instant>,
    next: Instant,
}

impl Election {
    /// A contender named `me`, who looks at once.
    pub fn new(me: String, timing: Timing, now: Instant) -> Self {
        Self { me, timing, seen: None, absent: false, renewed: None, next: now }
    }

    /// Until when the Lease is ours, unless it is renewed; `None` where it is not ours.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.renewed.map(|at| at + self.timing.renew_deadline).filter(|until| now < *until)
    }

    /// What to do. `wall` goes into the record for people to read.
    pub fn next(&mut self, now: Instant, wall: Timestamp) -> Action {
        if self.held_until(now).is_none() {
            self.renewed = None;
        }
        if now < self.next {
            return Action::Wait(self.next);
        }
        let patience = now + self.timing.retry.max(self.timing.renew_deadline / 2);
        let give_up = self.held_until(now).map_or(patience, |until| until.min(patience));
        Action::Ask(self.request(now, wall), give_up)
    }

    fn request(&self, now: Instant, wall: Timestamp) -> Request {
        let mine = |acquired, transitions| Record {
            holder: self.me.clone(),
            duration: self.timing.duration,
            transitions,
            acquired,
            renewed: wall,
        };
        match &self.seen {
            None if self.absent => Request::Create(mine(wall, 0)),
            None => Request::Read,
            Some((record, _)) if record.holder == self.me => {
                Request::Replace(mine(record.acquired, record.transitions))
            }
            Some((record, since))
                if record.holder.is_empty() || now >= *since + record.duration =>
            {
                Request::Replace(mine(wall, record.transitions.saturating_add(1)))
            }
            Some(_) => Request::Read,
        }
    }

    /// Takes the answer to a request that was sent at `sent`.
    pub fn reply(&mut self, sent: Instant, now: Instant, request: &Request, reply: Reply) {
        self.absent = matches!(reply, Reply::Absent);
        self.next = now + self.timing.retry;
        let wrote = matches!(request, Request::Create(_) | Request::Replace(_));
        match reply {
            Reply::Record(record) => {
                let mine = record.holder == self.me;
                if mine && wrote {
                    self.renewed = Some(sent);
                    self.next = sent + self.timing.retry;
                } else if !mine {
                    self.renewed = None;
                }
                match &self.seen {
                    Some((seen, _)) if *seen == record => {}
                    _ => self.seen = Some((record, now)),
                }
                if !wrote && !matches!(self.request(now, Timestamp::UNIX_EPOCH), Request::Read) {
                    self.next = now;
                }
            }
            // What was seen is no basis for the next write: look again.
            Reply::Absent => {
                self.seen = None;
                self.renewed = None;
                self.next = now;
            }
            Reply::Conflict => {
                self.seen = None;
                self.next = now;
            }
            Reply::Failed if wrote => self.seen = None,
            Reply::Failed => {}
        }
        // Another's Lease is looked at when it may run out, too.
        if let Some((record, since)) = &self.seen
            && record.holder != self.me
        {
            let end = *since + record.duration;
            if now < end {
                self.next = self.next.min(end);
            }
        }
    }

    /// Gives the Lease up: what to write, if it is ours. Nothing else may be asked afterwards.
    pub fn release(&mut self, now: Instant, wall: Timestamp) -> Option<Request> {
        self.held_until(now)?;
        self.renewed = None;
        let (record, _) = self.seen.as_ref()?;
        Some(Request::Replace(Record {
            holder: String::new(),
            duration: Duration::from_secs(1),
            transitions: record.transitions,
            acquired: record.acquired,
            renewed: wall,
        }))
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;

//! Waiting for a condition, never for an amount of time.
use anyhow::{Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until there is an answer, and returns it.
///
/// # Errors
/// `limit` has passed: says what was awaited, and why the last attempt failed.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            match last {
                Some(error) => bail!("{what}: not within {limit:?}; last attempt: {error:#}"),
                None => bail!("{what}: not within {limit:?}"),
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// It does not within `limit`.
pub fn until_true(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(limit, what, || Ok(condition()?.then_some(())))
}

/// Sleeps until a moment: probes are sent by the clock, so that a late one does not
/// delay those after it.
pub fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

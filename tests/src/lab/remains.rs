//! What a laboratory leaves when it goes while a case of a suite runs: logs and frames, which stay if
//! the case fails. Whether it does is known only after the laboratory has gone.
use super::{cleanup, recorder::Recorder};
use std::{cell::RefCell, path::PathBuf};

/// The logs of a laboratory that is no more, and the frames that it has recorded.
pub(super) struct Remains {
    pub(super) prefix: String,
    pub(super) recorders: Vec<Recorder>,
}

impl Remains {
    /// Keeps them, and returns the folder.
    pub(super) fn keep(self) -> PathBuf {
        let directory = cleanup::directory(&self.prefix);
        for recorder in self.recorders {
            if let Err(error) = recorder.write(&directory) {
                eprintln!("{error:#}");
            }
        }
        cleanup::remove(&self.prefix, true);
        directory
    }

    /// Removes them.
    pub(super) fn remove(self) {
        cleanup::remove(&self.prefix, false);
    }
}

thread_local! {
    /// Those of the case that this thread runs; none if it runs none.
    static OF_CASE: RefCell<Option<Vec<Remains>>> = const { RefCell::new(None) };
}

/// A case begins: what is left from now on is decided upon at its end.
pub(crate) fn begin_case() {
    OF_CASE.set(Some(vec![]));
}

/// The case has ended. If it has failed, all stays; returns the folders.
pub(crate) fn end_case(failed: bool) -> Vec<PathBuf> {
    let all = OF_CASE.take().unwrap_or_default();
    if failed {
        return all.into_iter().map(Remains::keep).collect();
    }
    all.into_iter().for_each(Remains::remove);
    vec![]
}

/// Has the end of the running case decide; gives them back if none runs.
pub(super) fn undecided(remains: Remains) -> Option<Remains> {
    OF_CASE.with_borrow_mut(|of_case| match of_case {
        Some(all) => {
            all.push(remains);
            None
        }
        None => Some(remains),
    })
}

//! What `cargo test` prints, counted.

use std::fmt;
use std::ops::AddAssign;

/// Tests by their result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u32,
    pub(super) failed: u32,
    /// Ignored ones.
    pub(super) skipped: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Reads the output as it comes.
#[derive(Default)]
pub(super) struct Reader {
    counts: Counts,
    failures: Vec<String>,
    /// The last line, which may go on.
    partial: String,
    /// Whether the lines that come now are names of tests that failed.
    listing: bool,
    /// Tests that have ended in the run that is going on.
    ended: u32,
    /// Failures counted before the run that is going on.
    failed_before: u32,
}

impl Reader {
    /// A run of `cargo test` begins.
    pub(super) fn begin(&mut self) {
        self.partial.clear();
        self.failed_before = self.counts.failed;
    }

    /// Takes more output; says what is going on.
    pub(super) fn read(&mut self, text: &str) -> String {
        self.partial += text;
        while let Some(end) = self.partial.find('\n') {
            let line: String = self.partial.drain(..=end).collect();
            self.line(line.trim_end());
        }
        match self.running() {
            Some(test) => format!("{} done, now {test}", self.ended),
            None => format!("{} done", self.ended),
        }
    }

    fn line(&mut self, line: &str) {
        let listed = line.strip_prefix("    ").filter(|_| self.listing);
        self.listing = line == "failures:" || listed.is_some();
        if let Some(name) = listed {
            self.failures.push(name.to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.count(result);
        } else if line.starts_with("test ") && line.contains(" ... ") {
            self.ended += 1;
        }
    }

    fn count(&mut self, result: &str) {
        let of = |what: &str| -> u32 {
            result
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.counts +=
            Counts { passed: of("passed"), failed: of("failed"), skipped: of("ignored") };
    }

    /// The test that runs now, where one runs at a time.
    pub(super) fn running(&self) -> Option<&str> {
        self.partial.lines().last()?.strip_prefix("test ")?.split_once(" ...").map(|(name, _)| name)
    }

    /// A run has ended. One that was unsuccessful without a failed test (it did not compile, or
    /// a test ended the process) counts as a failure: true then.
    pub(super) fn end(&mut self, success: bool) -> bool {
        let died = !success && self.counts.failed == self.failed_before;
        if died {
            self.counts.failed += 1;
        }
        died
    }

    /// All tests so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The names of those that failed.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "     Running unittests src/lib.rs (target/debug/deps/x-1)

running 4 tests
test a::one ... ok
test a::two ... FAILED
test three ... ignored, needs a moon
test four - should panic ... ok

failures:

---- a::two stdout ----
    what it printed
test a::two has a line of its own

failures:
    a::two

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s

running 1 test
test five ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s
";

    #[test]
    fn results_of_several_binaries_are_summed() {
        let mut reader = Reader::default();
        reader.begin();
        // However the output is cut into pieces.
        for piece in OUTPUT.as_bytes().chunks(7) {
            reader.read(std::str::from_utf8(piece).unwrap());
        }
        assert!(!reader.end(false), "there was a failed test to blame");
        assert_eq!(reader.counts(), Counts { passed: 3, failed: 1, skipped: 1 });
        assert_eq!(reader.failures(), ["a::two"]);
        assert_eq!(reader.counts().to_string(), "3 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_run_that_dies_is_a_failure() {
        let mut reader = Reader::default();
        reader.begin();
        reader.read("running 2 tests\ntest one ... ok\ntest two ... ");
        assert_eq!(reader.running(), Some("two"));
        assert!(reader.end(false));
        assert_eq!(reader.counts(), Counts { failed: 1, ..Counts::default() });
    }

    #[test]
    fn a_run_without_tests_counts_nothing() {
        let mut reader = Reader::default();
        reader.begin();
        reader.read("running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.00s\n");
        assert!(!reader.end(true));
        assert_eq!(reader.counts(), Counts::default());
    }
}

//! Values with a form of their own.
use std::time::Duration;

/// Reads a duration as Go's `time.ParseDuration` does (`1m30s`, `500ms`, `0`), without a sign.
/// `None` where it is none, or too long to be meant.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            // The micro sign and the Greek letter.
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = tail;
    }
    // Rounded, since 0.1 s is no sum of powers of two.
    Duration::try_from_secs_f64((total * 1e9).round() / 1e9).ok()
}

/// A BGP community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CommunityValue {
    /// RFC 1997: two numbers of 16 bits.
    Standard(u16, u16),
    /// RFC 8092: three numbers of 32 bits.
    Large(u32, u32, u32),
}

/// Reads `A:B` or `large:A:B:C`.
pub(super) fn community(text: &str) -> Option<CommunityValue> {
    let parts: Vec<_> = text.split(':').collect();
    // A sign is no digit.
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts[..] {
        [a, b] if digits(a) && digits(b) => {
            Some(CommunityValue::Standard(a.parse().ok()?, b.parse().ok()?))
        }
        ["large", a, b, c] if digits(a) && digits(b) && digits(c) => {
            Some(CommunityValue::Large(a.parse().ok()?, b.parse().ok()?, c.parse().ok()?))
        }
        _ => None,
    }
}

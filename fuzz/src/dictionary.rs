//! Words for libFuzzer to put into inputs, found in those that it begins with.

use std::collections::BTreeSet;

/// Longer words are sentences.
const LONGEST: usize = 40;

/// A dictionary in libFuzzer's format: the words of seeds that are text, one a line.
pub(crate) fn of(seeds: &[Vec<u8>]) -> String {
    let texts = seeds.iter().filter_map(|seed| std::str::from_utf8(seed).ok());
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    let words: BTreeSet<&str> = texts
        .flat_map(|text| text.split(|c| !is_part(c)))
        .filter(|word| (2..=LONGEST).contains(&word.len()))
        .collect();
    words.into_iter().map(|word| format!("\"{word}\"\n")).collect()
}

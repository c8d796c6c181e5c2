//! Shares made more even than chance makes them.
//!
//! Scores give every endpoint as many rows as the others on average only. An endpoint whose share is
//! too large gives rows to those that stand second in them and have less than their share, and
//! one whose share is too small gets rows in which it stands second. Whoever had such a row by its
//! score stands right behind, where its flows are found; and it is the same on all nodes, since it
//! goes by who is there and by nothing else.
use lb_common::hash::{row_mask, row_weight};

/// Nobody, where an endpoint's position is meant.
pub(super) const NOBODY: u32 = u32::MAX;

/// Who takes a row's new flows, and who would in its stead: positions in the list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taker {
    pub(super) first: u32,
    /// The next in order that takes new flows and is on another node.
    pub(super) second: u32,
}

/// Shares may deviate by one part in so many.
const PART: u32 = 14;

/// Exchanges first and second of some rows, so that the shares of `taking` of the `endpoints` do not
/// deviate by more than one fourteenth (7 %), where single rows are less than that and there are
/// rows in which the right ones stand next to each other.
pub(super) fn balance(rows: &mut [Taker], endpoints: usize, taking: usize) {
    if taking < 2 {
        return;
    }
    let count = rows.len() as u32;
    let mut shares = vec![0u32; endpoints];
    for (row, taker) in (0..).zip(&*rows) {
        if let Some(share) = shares.get_mut(taker.first as usize) {
            *share += row_weight(row, count);
        }
    }
    let ideal = (row_mask(count) + 1) / taking as u32;
    let (least, most) = (ideal - ideal / PART, ideal + ideal / PART);
    for (row, taker) in (0..).zip(rows) {
        let (first, second) = (taker.first as usize, taker.second as usize);
        let (Some(&has), Some(&would)) = (shares.get(first), shares.get(second)) else { continue };
        let weight = row_weight(row, count);
        let too_many = has > most && would + weight <= ideal;
        let too_few = would < least && has >= ideal + weight;
        if too_many || too_few {
            shares[first] -= weight;
            shares[second] += weight;
            std::mem::swap(&mut taker.first, &mut taker.second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(rows: &[Taker], endpoints: usize) -> Vec<u32> {
        let mut shares = vec![0; endpoints];
        for (row, taker) in (0..).zip(rows) {
            shares[taker.first as usize] += row_weight(row, rows.len() as u32);
        }
        shares
    }

    #[test]
    fn who_has_too_many_gives_to_who_stands_second() {
        let taker = |row: u32| match row % 8 {
            0..=2 => Taker { first: 0, second: 1 + row % 3 },
            other => Taker { first: 1 + other % 3, second: 0 },
        };
        for count in [512, 768, 8192] {
            let before: Vec<_> = (0..count).map(taker).collect();
            let mut after = before.clone();
            balance(&mut after, 4, 4);
            let ideal = (row_mask(count) + 1) / 4;
            assert!(shares(&before, 4)[0] > ideal + ideal / 3);
            for share in shares(&after, 4) {
                assert!(share.abs_diff(ideal) <= ideal / PART, "{share} of {ideal}");
            }
            for (before, after) in before.iter().zip(&after) {
                let (first, second) = (before.first, before.second);
                assert!(after == before || *after == Taker { first: second, second: first });
            }
        }
    }

    #[test]
    fn what_is_even_stays_and_what_cannot_be_evened_too() {
        let even: Vec<_> =
            (0..512).map(|row| Taker { first: row % 2, second: 1 - row % 2 }).collect();
        let alone = vec![Taker { first: 0, second: NOBODY }; 512];
        let nobody = vec![Taker { first: NOBODY, second: NOBODY }; 512];
        for before in [even, alone, nobody] {
            let mut after = before.clone();
            balance(&mut after, 2, 2);
            assert_eq!(after, before);
        }
    }
}

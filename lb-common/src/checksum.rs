//! The Internet checksum, changed in step with the bytes it covers (RFC 1624).
//!
//! Sums are taken over native 16-bit words: the checksum is the same in either byte
//! order (RFC 1071 section 2 (B)), so nothing is swapped.

/// Folds a sum of words to 16 bits by adding the carries (RFC 1071 section 4.1).
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    // 64 bits: at most 2^33 after the first step, then 2^17 + 2^16, then below 2^16 + 1.
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The difference that changed words make to a checksum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference(u64);

impl Difference {
    /// No change yet.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A 16-bit word changed.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Two adjacent words, at an even offset, changed.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, old: u32, new: u32) -> Self {
        // 2^32 is 1 modulo 2^16 - 1, so a 32-bit word stands for its two halves.
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// An IPv6 address changed.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.words(old[0], new[0]).words(old[1], new[1]).words(old[2], new[2]).words(old[3], new[3])
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a sum of 16 bits: what the kernel's checksum helpers take as a difference.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn apply(self, check: u16) -> u16 {
        !fold(self.0 + (!check) as u64)
    }

    /// The UDP checksum after the change: 0 means "none" and stays (RFC 768), and a
    /// computed 0 is sent as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, check: u16) -> u16 {
        if check == 0 {
            return 0;
        }
        match self.apply(check) {
            0 => 0xffff,
            check => check,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, spelled out.
    fn whole(words: &[u16]) -> u16 {
        let mut sum = 0u32;
        for &w in words {
            sum += u32::from(w);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    /// The example of RFC 1624 section 4: 0x5555 becomes 0x3285 under a checksum of 0xdd2f.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(Difference::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn a_change_gives_what_a_new_sum_would() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 48) as u16
        };
        for _ in 0..100_000 {
            let mut words = [0u16; 8];
            words.fill_with(&mut next);
            let before = whole(&words);
            let old = words;
            words[1] = next();
            words[4] = next();
            words[5] = next();
            let pair = |w: [u16; 8]| u32::from(w[4]) | u32::from(w[5]) << 16;
            let after = Difference::new()
                .word(old[1], words[1])
                .words(pair(old), pair(words))
                .apply(before);
            // 0 and 0xffff are the same value in ones' complement; only a sum over
            // nothing but zeros tells them apart.
            let same = |a, b| a == b || (a ^ b) == 0xffff && (a == 0 || b == 0);
            assert!(same(after, whole(&words)), "{after:04x} {:04x}", whole(&words));
        }
    }

    #[test]
    fn changes_add_up_and_are_what_the_kernel_takes() {
        let (one, other) = (Difference::new().word(1, 0x5678), Difference::new().words(3, 1 << 31));
        let both = Difference::new().word(1, 0x5678).words(3, 1 << 31);
        for check in [0, 1, 0x1234, 0xfffe] {
            assert_eq!(one.and(other).apply(check), both.apply(check));
            // `csum_replace_by_diff`: the difference is added to the complement.
            assert_eq!(both.apply(check), !fold(u64::from(!check) + u64::from(both.folded())));
        }
    }

    #[test]
    fn udp_without_checksum_stays_without_and_none_is_never_made() {
        assert_eq!(Difference::new().word(1, 2).apply_udp(0), 0);
        assert_eq!(Difference::new().word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }
}

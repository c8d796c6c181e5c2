//! Reading bytes without going beyond them.

/// What is left of some bytes. Each method takes what it names from the front, or is `None` if
/// there is not so much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}

/// The length of something as one octet; what is longer is cut by the caller's own limits.
pub(crate) fn octet(length: usize) -> u8 {
    debug_assert!(length <= usize::from(u8::MAX));
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// The length of something as two octets, in the same way.
pub(crate) fn two_octets(length: usize) -> u16 {
    debug_assert!(length <= usize::from(u16::MAX));
    u16::try_from(length).unwrap_or(u16::MAX)
}

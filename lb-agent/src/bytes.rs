//! Reading messages of fixed layout piece by piece.

/// The message ends before the piece that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// Takes the next `N` bytes off.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Short> {
    let (taken, left) = rest.split_first_chunk().ok_or(Short)?;
    *rest = left;
    Ok(*taken)
}

/// Takes the next `count` bytes off.
pub(crate) fn take_slice<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Short> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Short)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_taken() {
        let mut rest = &[1, 2, 3, 4, 5][..];
        assert_eq!(take(&mut rest), Ok([1, 2]));
        assert_eq!(take_slice(&mut rest, 2), Ok(&[3, 4][..]));
        assert_eq!(take::<2>(&mut rest), Err(Short));
        assert_eq!(take_slice(&mut rest, 2), Err(Short));
        assert_eq!(rest, [5]);
    }
}

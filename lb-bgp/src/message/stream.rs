//! A connection's bytes, cut into messages (RFC 4271 section 6.1).
use super::{HEADER, Kind, LONGEST, MARKER, Notification, code};
use bytes::{Buf, Bytes, BytesMut};

/// The bytes of a connection that are no whole message yet.
#[derive(Debug, Default)]
pub struct Stream(BytesMut);

/// A header that no message can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The marker is not all ones: this is no BGP, or a byte was lost.
    #[error("the peer's message does not begin with the marker of BGP")]
    Marker,
    /// Such a message cannot be so long.
    #[error("the peer's message claims a length of {0}, which it cannot have")]
    Length(u16),
    /// There is no such message.
    #[error("the peer sent a message of the unknown type {0}")]
    Type(u8),
}

impl HeaderError {
    /// What to tell the peer.
    pub fn notification(&self) -> Notification {
        match self {
            Self::Marker => Notification::new(code::HEADER, 1, &[]),
            Self::Length(length) => Notification::new(code::HEADER, 2, &length.to_be_bytes()),
            Self::Type(kind) => Notification::new(code::HEADER, 3, &[*kind]),
        }
    }
}

impl Stream {
    /// Takes what has come. Messages should be taken out before more is put in: what is kept
    /// is then less than a message.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message's kind and body, if it is there as a whole.
    ///
    /// The header is judged as soon as it is there, so that nobody waits for bytes of a message
    /// that cannot be one.
    ///
    /// # Errors
    ///
    /// A header that no message can have. Nothing that follows it can be read.
    pub fn next_message(&mut self) -> Result<Option<(Kind, Bytes)>, HeaderError> {
        let Some((header, _)) = self.0.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [marker @ .., high, low, kind] = header;
        if marker[..] != MARKER {
            return Err(HeaderError::Marker);
        }
        let claimed = u16::from_be_bytes([*high, *low]);
        let length = usize::from(claimed);
        if !(HEADER..=LONGEST).contains(&length) {
            return Err(HeaderError::Length(claimed));
        }
        let kind = Kind::of(*kind).ok_or(HeaderError::Type(*kind))?;
        if !kind.lengths().contains(&length) {
            return Err(HeaderError::Length(claimed));
        }
        if self.0.len() < length {
            return Ok(None);
        }
        let mut message = self.0.split_to(length);
        message.advance(HEADER);
        Ok(Some((kind, message.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, framed, keepalive};
    use super::*;

    fn header(length: u16, kind: u8) -> Vec<u8> {
        let mut bytes = MARKER.to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes
    }

    #[test]
    fn messages_are_found_however_the_bytes_come() {
        let update = framed(Kind::Update, &[0, 0, 0, 0]);
        let all = [&keepalive()[..], &update, &keepalive()].concat();
        for size in 1..=all.len() {
            let mut stream = Stream::default();
            let mut found = Vec::new();
            for piece in all.chunks(size) {
                stream.push(piece);
                while let Some((kind, body)) = stream.next_message().unwrap() {
                    found.push((kind, body.len()));
                }
            }
            let expected = [(Kind::Keepalive, 0), (Kind::Update, 4), (Kind::Keepalive, 0)];
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn headers_that_cannot_be_are_refused_at_once() {
        let length = HeaderError::Length;
        for (bytes, expected) in [
            ([vec![0xfe], header(19, 4)[1..].to_vec()].concat(), HeaderError::Marker),
            (header(18, 4), length(18)),
            (header(4097, 2), length(4097)),
            (header(20, 4), length(20)),
            (header(28, 1), length(28)),
            (header(22, 2), length(22)),
            (header(20, 3), length(20)),
            (header(22, 5), length(22)),
            (header(19, 0), HeaderError::Type(0)),
            (header(19, 6), HeaderError::Type(6)),
        ] {
            let mut stream = Stream::default();
            stream.push(&bytes);
            assert_eq!(stream.next_message(), Err(expected.clone()), "{expected}");
            let told = expected.notification();
            assert_eq!(told.code, code::HEADER, "{expected}");
        }
        assert_eq!(length(4097).notification().data[..], [0x10, 0x01]);
        assert_eq!(HeaderError::Type(6).notification().data[..], [6]);
    }
}

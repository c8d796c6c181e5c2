//! NOTIFICATION: why a session ends (RFC 4271 section 4.5).
use super::{Kind, LONGEST, framed};
use crate::wire::{Reader, octet};
use bytes::Bytes;
use std::fmt;

/// Error codes.
pub mod code {
    /// RFC 4271 section 6.1.
    pub const HEADER: u8 = 1;
    /// RFC 4271 section 6.2.
    pub const OPEN: u8 = 2;
    /// RFC 4271 section 6.3.
    pub const UPDATE: u8 = 3;
    /// RFC 4271 section 6.5.
    pub const HOLD_TIMER: u8 = 4;
    /// RFC 4271 section 6.6, with the subcodes of RFC 6608.
    pub const STATE_MACHINE: u8 = 5;
    /// RFC 4271 section 6.7, with the subcodes of [`cease`](super::cease).
    pub const CEASE: u8 = 6;
    /// RFC 7313 section 5.
    pub const ROUTE_REFRESH: u8 = 7;
    /// RFC 9687 section 3.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of Cease (RFC 4486 section 3, and those named).
pub mod cease {
    /// The peer announces more routes than it may.
    pub const PREFIX_LIMIT: u8 = 1;
    /// An administrator wants no session for now.
    pub const SHUTDOWN: u8 = 2;
    /// The peer is configured no longer.
    pub const DECONFIGURED: u8 = 3;
    /// An administrator wants the session to begin anew.
    pub const RESET: u8 = 4;
    /// The connection is not wanted.
    pub const REJECTED: u8 = 5;
    /// The configuration has changed.
    pub const CONFIGURATION: u8 = 6;
    /// The other one of two connections is kept.
    pub const COLLISION: u8 = 7;
    /// Memory or the like runs out.
    pub const RESOURCES: u8 = 8;
    /// No routes are to be kept (RFC 8538 section 3). The data are the actual reason.
    pub const HARD_RESET: u8 = 9;
    /// BFD says that the peer is gone (RFC 9384).
    pub const BFD_DOWN: u8 = 10;
}

/// A NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What kind of error it was.
    pub code: u8,
    /// Which one exactly.
    pub subcode: u8,
    /// What belongs to it.
    pub data: Bytes,
}

/// A shutdown communication is cut here: RFC 9003 section 2.
const LONGEST_TEXT: usize = 255;

impl Notification {
    /// One of this kind.
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: Bytes::copy_from_slice(data) }
    }

    /// A Cease without anything to add.
    pub fn cease(subcode: u8) -> Self {
        Self::new(code::CEASE, subcode, &[])
    }

    /// A Cease with a text for the peer's administrator (RFC 9003 section 2); for the subcodes SHUTDOWN
    /// and RESET. It is cut after 255 octets.
    pub fn with_text(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text.as_bytes()[..end];
        Self::new(code::CEASE, subcode, &[&[octet(text.len())], text].concat())
    }

    /// The same, but so that no routes are kept by a peer that would keep them after
    /// a NOTIFICATION (RFC 8538 section 3).
    pub fn hard(self) -> Self {
        let data = [&[self.code, self.subcode], &self.data[..]].concat();
        Self::new(code::CEASE, cease::HARD_RESET, &data)
    }

    /// The message. Data that would make it too long are cut.
    pub fn encode(&self) -> Bytes {
        let data = &self.data[..self.data.len().min(LONGEST - super::HEADER - 2)];
        framed(Kind::Notification, &[&[self.code, self.subcode], data].concat())
    }

    /// Reads the body. `None` if it has less than two octets.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        Some(Self::new(reader.u8()?, reader.u8()?, reader.rest()))
    }

    /// What was said to the administrator.
    pub fn text(&self) -> Option<&str> {
        let (length, text) = self.data.split_first()?;
        let said = self.code == code::CEASE
            && matches!(self.subcode, cease::SHUTDOWN | cease::RESET)
            && usize::from(*length) == text.len();
        said.then(|| str::from_utf8(text).ok())?.filter(|text| !text.is_empty())
    }

    /// What a hard reset wraps.
    pub fn wrapped(&self) -> Option<Self> {
        let hard = self.code == code::CEASE && self.subcode == cease::HARD_RESET;
        hard.then(|| Self::decode(&self.data))?
    }

    fn names(&self) -> (&'static str, Option<&'static str>) {
        let among = |names: &[&'static str]| names.get(usize::from(self.subcode)).copied();
        let among = |names| among(names).filter(|name| !name.is_empty());
        match self.code {
            code::HEADER => (
                "Message Header Error",
                among(&[
                    "",
                    "Connection Not Synchronized",
                    "Bad Message Length",
                    "Bad Message Type",
                ]),
            ),
            code::OPEN => (
                "OPEN Message Error",
                among(&[
                    "",
                    "Unsupported Version Number",
                    "Bad Peer AS",
                    "Bad BGP Identifier",
                    "Unsupported Optional Parameter",
                    "",
                    "Unacceptable Hold Time",
                    "Unsupported Capability",
                    "",
                    "",
                    "",
                    "Role Mismatch",
                ]),
            ),
            code::UPDATE => (
                "UPDATE Message Error",
                among(&[
                    "",
                    "Malformed Attribute List",
                    "Unrecognized Well-known Attribute",
                    "Missing Well-known Attribute",
                    "Attribute Flags Error",
                    "Attribute Length Error",
                    "Invalid ORIGIN Attribute",
                    "",
                    "Invalid NEXT_HOP Attribute",
                    "Optional Attribute Error",
                    "Invalid Network Field",
                    "Malformed AS_PATH",
                ]),
            ),
            code::HOLD_TIMER => ("Hold Timer Expired", None),
            code::STATE_MACHINE => (
                "Finite State Machine Error",
                among(&[
                    "",
                    "Unexpected Message in OpenSent State",
                    "Unexpected Message in OpenConfirm State",
                    "Unexpected Message in Established State",
                ]),
            ),
            code::CEASE => (
                "Cease",
                among(&[
                    "",
                    "Maximum Number of Prefixes Reached",
                    "Administrative Shutdown",
                    "Peer De-configured",
                    "Administrative Reset",
                    "Connection Rejected",
                    "Other Configuration Change",
                    "Connection Collision Resolution",
                    "Out of Resources",
                    "Hard Reset",
                    "BFD Down",
                ]),
            ),
            code::ROUTE_REFRESH => {
                ("ROUTE-REFRESH Message Error", among(&["", "Invalid Message Length"]))
            }
            code::SEND_HOLD_TIMER => ("Send Hold Timer Expired", None),
            _ => ("error of an unknown kind", None),
        }
    }
}

impl fmt::Display for Notification {
    /// By the names that RFCs have for it. What the peer says in words is quoted, without
    /// characters that would do something to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        f.write_str(code)?;
        match subcode {
            Some(subcode) => write!(f, ": {subcode}")?,
            None if self.subcode != 0 => write!(f, ": subcode {}", self.subcode)?,
            None => {}
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if let Some(text) = self.text() {
            write!(f, ", {text:?}")?;
        }
        match self.wrapped() {
            // One layer of them means something.
            Some(inner) if inner.wrapped().is_none() => write!(f, ": {inner}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_told_in_words() {
        let shutdown = Notification::with_text(cease::SHUTDOWN, "moving to rack 7\u{1b}");
        for (notification, expected) in [
            (Notification::new(code::OPEN, 2, &[]), "OPEN Message Error: Bad Peer AS (2/2)"),
            (Notification::new(code::HOLD_TIMER, 0, &[]), "Hold Timer Expired (4/0)"),
            (Notification::new(code::CEASE, 77, &[]), "Cease: subcode 77 (6/77)"),
            (Notification::new(99, 1, &[]), "error of an unknown kind: subcode 1 (99/1)"),
            (shutdown.clone(), "Cease: Administrative Shutdown (6/2), \"moving to rack 7\\u{1b}\""),
            (
                shutdown.hard(),
                "Cease: Hard Reset (6/9): Cease: Administrative Shutdown (6/2), \
                 \"moving to rack 7\\u{1b}\"",
            ),
        ] {
            assert_eq!(notification.to_string(), expected);
            let body = notification.encode();
            assert_eq!(Notification::decode(&body[super::super::HEADER..]), Some(notification));
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let text = "ä".repeat(200);
        let told = Notification::with_text(cease::RESET, &text);
        assert_eq!(told.text().unwrap(), "ä".repeat(127));
        let lies = Notification::new(code::CEASE, cease::SHUTDOWN, &[9, b'x']);
        assert_eq!(lies.text(), None);
    }
}

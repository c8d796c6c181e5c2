//! OPEN: who the speaker is (RFC 4271 section 4.2).
use super::{Capability, Kind, Notification, code, framed};
use crate::{
    attribute::AS_TRANS,
    wire::{Reader, octet, two_octets},
};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// The one version of BGP.
const VERSION: u8 = 4;
/// The optional parameter that capabilities are in (RFC 5492 section 4).
const CAPABILITIES: u8 = 2;
/// The lengths of parameters take two octets (RFC 9072 section 2).
const EXTENDED: u8 = 255;

/// An OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS number as far as two octets say it: else [`AS_TRANS`].
    pub two_octet_as: u16,
    /// Seconds: 0, or at least 3.
    pub hold_time: u16,
    /// The sender's BGP identifier.
    pub identifier: Ipv4Addr,
    /// What it understands.
    pub capabilities: Vec<Capability>,
}

/// An OPEN that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is not of version 4.
    #[error("the peer speaks version {0} of BGP, not 4")]
    Version(u8),
    /// Its parameters do not add up.
    #[error("the optional parameters of the peer's OPEN do not add up")]
    Malformed,
    /// It has a parameter that holds no capabilities.
    #[error("the peer's OPEN has a parameter of type {0}, which is not supported")]
    Parameter(u8),
    /// Its hold time is 1 or 2.
    #[error("the peer's hold time is {0} s: it must be 0, or at least 3 s")]
    HoldTime(u16),
    /// Its identifier is 0.0.0.0.
    #[error("the peer's BGP identifier is 0.0.0.0")]
    Identifier,
    /// Its AS number is 0.
    #[error("the peer says that its AS number is 0")]
    ZeroAs,
}

impl OpenError {
    /// What to tell the peer (RFC 4271 section 6.2).
    pub fn notification(&self) -> Notification {
        let (subcode, data) = match self {
            // The newest version that we speak.
            Self::Version(_) => (1, u16::from(VERSION).to_be_bytes()),
            Self::ZeroAs => (2, [0; 2]),
            Self::Identifier => (3, [0; 2]),
            Self::Parameter(_) => (4, [0; 2]),
            Self::HoldTime(_) => (6, [0; 2]),
            Self::Malformed => (0, [0; 2]),
        };
        let data = if matches!(self, Self::Version(_)) { &data[..] } else { &[] };
        Notification::new(code::OPEN, subcode, data)
    }
}

impl Open {
    /// An OPEN of a speaker that knows AS numbers of four octets.
    pub fn new(asn: u32, hold_time: u16, identifier: Ipv4Addr, others: Vec<Capability>) -> Self {
        let capabilities = [vec![Capability::FourOctetAs(asn)], others].concat();
        let two_octet_as = u16::try_from(asn).unwrap_or(AS_TRANS);
        Self { two_octet_as, hold_time, identifier, capabilities }
    }

    /// The sender's AS number (RFC 6793 section 4.1).
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.two_octet_as))
    }

    /// The same, if the sender knows such of four octets.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|one| match one {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// The message. Capabilities that would make it too long are left out; some hundred octets
    /// of them are far from it.
    pub fn encode(&self) -> Bytes {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            let before = capabilities.len();
            capability.encode(&mut capabilities);
            if capabilities.len() > super::LONGEST - 64 {
                capabilities.truncate(before);
                break;
            }
        }
        let mut body = vec![VERSION];
        body.extend_from_slice(&self.two_octet_as.to_be_bytes());
        body.extend_from_slice(&self.hold_time.to_be_bytes());
        body.extend_from_slice(&self.identifier.octets());
        let length = capabilities.len();
        if length == 0 {
            body.push(0);
        } else if length + 2 <= usize::from(EXTENDED - 1) {
            body.extend_from_slice(&[octet(length + 2), CAPABILITIES, octet(length)]);
        } else {
            body.extend_from_slice(&[EXTENDED, EXTENDED]);
            body.extend_from_slice(&two_octets(length + 3).to_be_bytes());
            body.push(CAPABILITIES);
            body.extend_from_slice(&two_octets(length).to_be_bytes());
        }
        body.extend_from_slice(&capabilities);
        framed(Kind::Open, &body)
    }

    /// Reads the body of an OPEN.
    ///
    /// # Errors
    ///
    /// What is wrong with it in itself; whether it is the OPEN that this peer should send is
    /// for the session to judge.
    pub fn decode(body: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or(OpenError::Malformed)?;
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let two_octet_as = reader.u16().ok_or(OpenError::Malformed)?;
        let hold_time = reader.u16().ok_or(OpenError::Malformed)?;
        let identifier = Ipv4Addr::from(reader.array::<4>().ok_or(OpenError::Malformed)?);
        let mut capabilities = Vec::new();
        for (kind, value) in parameters(&mut reader).ok_or(OpenError::Malformed)? {
            if kind != CAPABILITIES {
                return Err(OpenError::Parameter(kind));
            }
            capabilities.extend(Capability::decode_list(value).ok_or(OpenError::Malformed)?);
        }
        let open = Self { two_octet_as, hold_time, identifier, capabilities };
        if open.asn() == 0 {
            return Err(OpenError::ZeroAs);
        }
        // RFC 6286 section 2.1: any number but zero.
        if identifier.is_unspecified() {
            return Err(OpenError::Identifier);
        }
        if matches!(hold_time, 1 | 2) {
            return Err(OpenError::HoldTime(hold_time));
        }
        Ok(open)
    }
}

/// The optional parameters. `None` if their lengths do not add up.
fn parameters<'a>(reader: &mut Reader<'a>) -> Option<Vec<(u8, &'a [u8])>> {
    let length = reader.u8()?;
    let mut probe = *reader;
    // RFC 9072 section 2: what would be the first parameter's type says it.
    let extended = length != 0 && probe.u8() == Some(EXTENDED);
    let length = if extended {
        *reader = probe;
        reader.u16()?
    } else {
        length.into()
    };
    let mut inside = Reader::new(reader.take(length.into())?);
    let mut list = Vec::new();
    while !inside.is_empty() {
        let kind = inside.u8()?;
        let length = if extended { inside.u16()? } else { inside.u8()?.into() };
        list.push((kind, inside.take(length.into())?));
    }
    reader.is_empty().then_some(list)
}

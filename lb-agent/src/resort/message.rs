//! The datagrams by which agents ask each other who knows a flow.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `Hrlf` |
//! | 1 | version of this layout, 1 |
//! | 1 | kind: 1 question, 2 answer, 3 verdict |
//! | 1 | number of flows |
//! | 1 | 0 |
//! | 8 | the receiver's [cookie](crate::membership::cookies) |
//! | | each flow: client 16, VIP 16 (IPv4 mapped), client's port 2, VIP's port 2, protocol 1 |
//! | | and with it in an answer: knowledge 1 (0 none, 1 open, 2 lively, from 3 on ended and silent for as many seconds more); in a verdict: 1 a node or 0 nobody, and its address 16 |
//!
//! Numbers are big-endian. They travel between the agents' ports, in an [envelope](crate::membership::envelope). A change of the
//! layout is a new version; an agent ignores versions that it does not know.
use crate::{
    bytes::{Short, take},
    datapath::{address_bytes, address_from_bytes},
    membership::cookies::Cookie,
};
use lb_common::maps::{FlowKey, TO_ENDPOINT};
use std::{cmp::Reverse, net::IpAddr};

const MAGIC: [u8; 4] = *b"Hrlf";
const VERSION: u8 = 2;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const VERDICT: u8 = 3;
/// Most flows in a datagram: it stays below 1,280 bytes, which every path takes.
pub const MAX_FLOWS: usize = 20;

/// A flow, as the packets of its client show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    /// The client.
    pub client: IpAddr,
    /// The VIP.
    pub vip: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The VIP's port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

impl FlowId {
    /// As the maps hold it, towards the endpoint.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            client: address_bytes(self.client),
            peer: address_bytes(self.vip),
            client_port: self.client_port.to_be_bytes(),
            peer_port: self.port.to_be_bytes(),
            proto: self.protocol,
            direction: TO_ENDPOINT,
            pad: [0; 2],
        }
    }

    /// Of a key of the maps, towards the endpoint.
    pub fn from_key(key: &FlowKey) -> Self {
        Self {
            client: address_from_bytes(key.client),
            vip: address_from_bytes(key.peer),
            client_port: u16::from_be_bytes(key.client_port),
            port: u16::from_be_bytes(key.peer_port),
            protocol: key.proto,
        }
    }
}

/// How well an agent knows a flow: the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// It does not.
    #[default]
    Nothing,
    /// One that one side at least has ended, and that was silent for so many seconds: of several that
    /// used the same client port one after the other, the one that was heard last is meant.
    Ended(Reverse<u8>),
    /// One that was open when it was last seen.
    Open,
    /// One that was seen in the last minute.
    Lively,
}

impl Knowledge {
    /// The longest silence that is told.
    const LONGEST: u8 = u8::MAX - 3;

    /// A flow that has ended, and was silent for so many seconds.
    pub fn ended(silent_s: u32) -> Self {
        let silent_s = u8::try_from(silent_s).unwrap_or(u8::MAX);
        Self::Ended(Reverse(silent_s.min(Self::LONGEST)))
    }

    /// Whether it is no better than of a flow that has ended.
    pub fn is_doubtful(self) -> bool {
        self < Self::Open
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Open => 1,
            Self::Lively => 2,
            Self::Ended(Reverse(silent_s)) => 3 + silent_s.min(Self::LONGEST),
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Nothing,
            1 => Self::Open,
            2 => Self::Lively,
            silent => Self::Ended(Reverse(silent - 3)),
        }
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<Node> {
    /// This node knows the flow.
    At(Node),
    /// Nobody does.
    Nobody,
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Who knows these?
    Question(Vec<FlowId>),
    /// So well the sender knows these.
    Answer(Vec<(FlowId, Knowledge)>),
    /// For the rows' node: where these are.
    Verdict(Vec<(FlowId, Found<IpAddr>)>),
}

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The receiver's: whoever knows it hears its agent.
    pub cookie: Cookie,
    /// What it says.
    pub body: Body,
}

/// Why a datagram is not such a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as one.
    #[error("not a message between agents")]
    Magic,
    /// Another version of the layout.
    #[error("message of version {0}, which this agent does not know")]
    Version(u8),
    /// It ends too early or goes on after its end.
    #[error("message of the wrong length")]
    Length,
    /// A kind or value that has no meaning.
    #[error("message without meaning")]
    Meaning,
}

impl From<Short> for Malformed {
    fn from(Short: Short) -> Self {
        Self::Length
    }
}

impl Message {
    /// The datagram. What is beyond [`MAX_FLOWS`] is left out.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, flows) = match &self.body {
            Body::Question(flows) => (QUESTION, flows.len()),
            Body::Answer(flows) => (ANSWER, flows.len()),
            Body::Verdict(flows) => (VERDICT, flows.len()),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, kind, flows.min(MAX_FLOWS) as u8, 0]);
        bytes.extend(self.cookie.get().to_be_bytes());
        match &self.body {
            Body::Question(flows) => {
                flows.iter().take(MAX_FLOWS).for_each(|flow| put(&mut bytes, flow));
            }
            Body::Answer(flows) => {
                for (flow, knowledge) in flows.iter().take(MAX_FLOWS) {
                    put(&mut bytes, flow);
                    bytes.push(knowledge.to_byte());
                }
            }
            Body::Verdict(flows) => {
                for (flow, found) in flows.iter().take(MAX_FLOWS) {
                    put(&mut bytes, flow);
                    match found {
                        Found::At(address) => {
                            bytes.push(1);
                            bytes.extend(address_bytes(*address));
                        }
                        Found::Nobody => bytes.extend([0; 17]),
                    }
                }
            }
        }
        bytes
    }

    /// Reads a datagram.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        if take(&mut rest)? != MAGIC {
            return Err(Malformed::Magic);
        }
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let [kind, count, _] = take(&mut rest)?;
        let cookie = Cookie::new(u64::from_be_bytes(take(&mut rest)?)).ok_or(Malformed::Meaning)?;
        let rest = &mut rest;
        let body = match kind {
            QUESTION => Body::Question((0..count).map(|_| flow(rest)).collect::<Result<_, _>>()?),
            ANSWER => Body::Answer((0..count).map(|_| answer(rest)).collect::<Result<_, _>>()?),
            VERDICT => Body::Verdict((0..count).map(|_| verdict(rest)).collect::<Result<_, _>>()?),
            _ => return Err(Malformed::Meaning),
        };
        if rest.is_empty() { Ok(Self { cookie, body }) } else { Err(Malformed::Length) }
    }
}

fn put(bytes: &mut Vec<u8>, flow: &FlowId) {
    bytes.extend(address_bytes(flow.client));
    bytes.extend(address_bytes(flow.vip));
    bytes.extend(flow.client_port.to_be_bytes());
    bytes.extend(flow.port.to_be_bytes());
    bytes.push(flow.protocol);
}

fn flow(rest: &mut &[u8]) -> Result<FlowId, Malformed> {
    let client = address_from_bytes(take(rest)?);
    let vip = address_from_bytes(take(rest)?);
    let client_port = u16::from_be_bytes(take(rest)?);
    let port = u16::from_be_bytes(take(rest)?);
    let [protocol] = take(rest)?;
    Ok(FlowId { client, vip, client_port, port, protocol })
}

fn answer(rest: &mut &[u8]) -> Result<(FlowId, Knowledge), Malformed> {
    let flow = flow(rest)?;
    let [knowledge] = take(rest)?;
    Ok((flow, Knowledge::from_byte(knowledge)))
}

fn verdict(rest: &mut &[u8]) -> Result<(FlowId, Found<IpAddr>), Malformed> {
    let flow = flow(rest)?;
    let [known] = take(rest)?;
    let address = address_from_bytes(take(rest)?);
    match known {
        0 => Ok((flow, Found::Nobody)),
        1 => Ok((flow, Found::At(address))),
        _ => Err(Malformed::Meaning),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;
    use proptest::{collection::vec, prelude::*, sample::Index};

    fn any_flow() -> impl Strategy<Value = FlowId> {
        any::<(IpAddr, IpAddr, u16, u16, u8)>().prop_map(
            |(client, vip, client_port, port, protocol)| FlowId {
                client: client.to_canonical(),
                vip: vip.to_canonical(),
                client_port,
                port,
                protocol,
            },
        )
    }

    fn any_body() -> impl Strategy<Value = Body> {
        let knowledge = any::<u8>().prop_map(Knowledge::from_byte);
        let found = any::<Option<IpAddr>>()
            .prop_map(|at| at.map_or(Found::Nobody, |at| Found::At(at.to_canonical())));
        prop_oneof![
            vec(any_flow(), 0..=MAX_FLOWS).prop_map(Body::Question),
            vec((any_flow(), knowledge), 0..=MAX_FLOWS).prop_map(Body::Answer),
            vec((any_flow(), found), 0..=MAX_FLOWS).prop_map(Body::Verdict),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in any_body(), cookie in 1u64.., cut in any::<Index>()) {
            let message = Message { cookie: Cookie::new(cookie).unwrap(), body };
            let bytes = message.encode();
            prop_assert!(bytes.len() <= 1232, "{} bytes", bytes.len());
            prop_assert_eq!(Message::parse(&bytes), Ok(message));
            prop_assert_eq!(Message::parse(&bytes[..cut.index(bytes.len())]), Err(Malformed::Length));
            prop_assert_eq!(Message::parse(&[bytes, vec![0]].concat()), Err(Malformed::Length));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(kind in 0u8..5, bytes in vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
            let _ = Message::parse(&[&b"Hrlf\x02"[..], &[kind], &bytes].concat());
        }

        #[test]
        fn keys_of_the_maps_name_the_same_flow(flow in any_flow()) {
            prop_assert_eq!(FlowId::from_key(&flow.key()), flow);
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let flow = FlowId {
            client: ip("10.0.0.1"),
            vip: ip("2001:db8::1"),
            client_port: 0x0102,
            port: 80,
            protocol: 6,
        };
        let body = Body::Verdict(vec![(flow, Found::At(ip("10.0.0.2")))]);
        let bytes = Message { cookie: Cookie::new(7).unwrap(), body }.encode();
        let expected = [
            &b"Hrlf\x02\x03\x01\0\0\0\0\0\0\0\0\x07"[..],
            b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01",
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02\0\x50\x06",
            b"\x01\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x02",
        ]
        .concat();
        assert_eq!(bytes, expected);
        let mut newer = bytes;
        newer[4] = 3;
        assert_eq!(Message::parse(&newer), Err(Malformed::Version(3)));
    }
}

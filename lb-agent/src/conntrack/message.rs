//! What is said on the kernel's conntrack socket: netlink (RFC 3549), and in it the messages of
//! `linux/netfilter/nfnetlink_conntrack.h`.
//!
//! Only what Herald asks for is understood. What comes from the kernel is read as if it came
//! from anywhere: what makes no sense is left out.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `NFNL_SUBSYS_CTNETLINK << 8`, and in the low byte `IPCTNL_MSG_CT_…`.
const CONNTRACK: u16 = 1 << 8;
const NEW: u16 = CONNTRACK;
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
/// `CTA_PROTOINFO_TCP_STATE`, `CTA_PROTOINFO_SCTP_STATE`
const STATE: u16 = 1;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_DST` (net/netfilter/nf_internals.h)
const FILTER_DESTINATION: u32 = 1 << 1;
/// `IPS_SEEN_REPLY`
const SEEN_REPLY: u32 = 2;

const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The port that they come from.
    pub source_port: u16,
    /// The port that they go to.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// How far a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being opened.
    Opening,
    /// It is open; or its protocol knows no phases.
    Open,
    /// One side has ended it.
    Closing,
    /// Both sides have ended it; the entry is kept for late packets.
    Over,
    /// It was reset.
    Reset,
}

/// A connection that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The direction that began it, as its packets arrive.
    pub original: Tuple,
    /// The other, as its packets arrive: translation shows in the difference.
    pub reply: Tuple,
    /// Packets of both directions have been seen.
    pub seen_reply: bool,
    /// How far it has got.
    pub phase: Phase,
    /// The kernel's name for it, so that its successor is not taken for it.
    pub id: Option<[u8; 4]>,
    /// It stands in another zone than that of everybody.
    pub zoned: bool,
}

/// A message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A connection.
    Entry(Box<Entry>),
    /// The end of a list.
    Done,
    /// A request was carried out (0), or what is wrong with it (errno).
    Status(i32),
    /// Anything else.
    Other,
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 7);
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &values.concat())
}

fn address(v4: u16, v6: u16, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => attribute(v4, &address.octets()),
        IpAddr::V6(address) => attribute(v6, &address.octets()),
    }
}

fn tuple(kind: u16, tuple: &Tuple) -> Vec<u8> {
    let ip = nested(
        CTA_TUPLE_IP,
        &[
            address(CTA_IP_V4_SRC, CTA_IP_V6_SRC, tuple.source),
            address(CTA_IP_V4_DST, CTA_IP_V6_DST, tuple.destination),
        ],
    );
    let proto = nested(
        CTA_TUPLE_PROTO,
        &[
            attribute(CTA_PROTO_NUM, &[tuple.protocol]),
            attribute(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes()),
        ],
    );
    nested(kind, &[ip, proto])
}

fn request(kind: u16, flags: u16, sequence: u32, ipv6: bool, attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = HEADER + NFGENMSG + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    bytes.extend([family as u8, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// Asks for the connection one of whose directions this is.
pub fn get(wanted: &Tuple, sequence: u32) -> Vec<u8> {
    let attributes = [tuple(CTA_TUPLE_ORIG, wanted)];
    request(GET, 0, sequence, wanted.destination.is_ipv6(), &attributes)
}

/// Has a connection forgotten, unless another has taken its place.
pub fn delete(entry: &Entry, sequence: u32) -> Vec<u8> {
    let mut attributes = vec![tuple(CTA_TUPLE_ORIG, &entry.original)];
    attributes.extend(entry.id.map(|id| attribute(CTA_ID, &id)));
    request(DELETE, NLM_F_ACK, sequence, entry.original.destination.is_ipv6(), &attributes)
}

/// Asks for all connections of a family; for those to one IPv4 address (before translation) only,
/// if one is given.
pub fn list(ipv6: bool, destination: Option<Ipv4Addr>, sequence: u32) -> Vec<u8> {
    let mut attributes = Vec::new();
    if let Some(destination) = destination {
        let ip = nested(CTA_TUPLE_IP, &[attribute(CTA_IP_V4_DST, &destination.octets())]);
        attributes.push(nested(CTA_TUPLE_ORIG, &[ip]));
        attributes.push(nested(
            CTA_FILTER,
            &[
                attribute(CTA_FILTER_ORIG_FLAGS, &FILTER_DESTINATION.to_ne_bytes()),
                attribute(CTA_FILTER_REPLY_FLAGS, &0u32.to_ne_bytes()),
            ],
        ));
    }
    request(GET, NLM_F_DUMP, sequence, ipv6, &attributes)
}

/// The messages of a datagram with their sequence numbers.
pub fn replies(datagram: &[u8]) -> Vec<(u32, Reply)> {
    let mut rest = datagram;
    let mut replies = Vec::new();
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let Some(payload) = rest.get(HEADER..length) else { break };
        replies.push((sequence, reply(kind, payload)));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

fn reply(kind: u16, payload: &[u8]) -> Reply {
    match kind {
        NLMSG_DONE => Reply::Done,
        NLMSG_ERROR => payload.first_chunk().map_or(Reply::Other, |code| {
            Reply::Status(i32::from_ne_bytes(*code).checked_neg().unwrap_or(libc::EIO))
        }),
        NEW => entry(payload.get(NFGENMSG..).unwrap_or_default())
            .map_or(Reply::Other, |entry| Reply::Entry(Box::new(entry))),
        _ => Reply::Other,
    }
}

/// The attributes of a message or of another attribute: kind and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let original = parse_tuple(find(bytes, CTA_TUPLE_ORIG)?)?;
    let status = find(bytes, CTA_STATUS).and_then(<[u8]>::first_chunk);
    Some(Entry {
        original,
        reply: parse_tuple(find(bytes, CTA_TUPLE_REPLY)?)?,
        seen_reply: status.is_some_and(|status| u32::from_be_bytes(*status) & SEEN_REPLY != 0),
        phase: find(bytes, CTA_PROTOINFO).map_or(Phase::Open, phase),
        id: find(bytes, CTA_ID).and_then(|id| id.try_into().ok()),
        zoned: find(bytes, CTA_ZONE).is_some_and(|zone| zone != [0, 0]),
    })
}

fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let ip = find(bytes, CTA_TUPLE_IP)?;
    let proto = find(bytes, CTA_TUPLE_PROTO)?;
    let address = |v4, v6| {
        let v4 = || Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(find(ip, v4)?).ok()?)));
        v4().or_else(|| Some(Ipv6Addr::from(<[u8; 16]>::try_from(find(ip, v6)?).ok()?).into()))
    };
    // Protocols without ports have none here.
    let port = |kind| {
        let port = find(proto, kind).and_then(|port| port.try_into().ok());
        port.map_or(0, u16::from_be_bytes)
    };
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
        protocol: *find(proto, CTA_PROTO_NUM)?.first()?,
    })
}

fn phase(info: &[u8]) -> Phase {
    let state = |kind| find(find(info, kind)?, STATE)?.first().copied();
    if let Some(tcp) = state(CTA_PROTOINFO_TCP) {
        // enum tcp_conntrack
        return match tcp {
            0..=2 | 9 => Phase::Opening,
            3 => Phase::Open,
            4..=6 => Phase::Closing,
            7 => Phase::Over,
            _ => Phase::Reset,
        };
    }
    match state(CTA_PROTOINFO_SCTP) {
        // enum sctp_conntrack
        Some(0 | 2 | 3) => Phase::Opening,
        Some(1) => Phase::Reset,
        Some(5 | 6) => Phase::Closing,
        Some(7) => Phase::Over,
        _ => Phase::Open,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_tuple() -> impl Strategy<Value = Tuple> {
        let v4 = any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (a.into(), b.into()));
        let v6 = any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (a.into(), b.into()));
        (prop_oneof![v4, v6], any::<(u16, u16, u8)>()).prop_map(
            |((source, destination), (source_port, destination_port, protocol))| Tuple {
                source,
                destination,
                source_port,
                destination_port,
                protocol,
            },
        )
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn kernels(entry: &Entry, tcp_state: u8) -> Vec<u8> {
        let mut attributes = vec![
            tuple(CTA_TUPLE_ORIG, &entry.original),
            tuple(CTA_TUPLE_REPLY, &entry.reply),
            attribute(CTA_STATUS, &(if entry.seen_reply { 0x18eu32 } else { 8 }).to_be_bytes()),
            nested(CTA_PROTOINFO, &[nested(CTA_PROTOINFO_TCP, &[attribute(STATE, &[tcp_state])])]),
        ];
        attributes.extend(entry.id.map(|id| attribute(CTA_ID, &id)));
        message(NEW, &[vec![2, 0, 0, 0], attributes.concat()].concat())
    }

    proptest! {
        #[test]
        fn entries_are_read(
            original in any_tuple(), reply in any_tuple(), seen_reply: bool,
            id in any::<Option<[u8; 4]>>(), cut in any::<prop::sample::Index>(),
        ) {
            let entry =
                Entry { original, reply, seen_reply, phase: Phase::Over, id, zoned: false };
            let bytes = kernels(&entry, 7);
            prop_assert_eq!(replies(&bytes), [(7, Reply::Entry(Box::new(entry)))]);
            let two = [bytes.clone(), message(NLMSG_DONE, &[0; 4])].concat();
            prop_assert_eq!(&replies(&two)[1], &(7, Reply::Done));
            // A message that is cut off is none.
            prop_assert!(replies(&bytes[..cut.index(bytes.len())]).is_empty());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            replies(&bytes);
            for kind in [NEW, NLMSG_ERROR, NLMSG_DONE] {
                replies(&message(kind, &bytes));
            }
        }
    }

    #[test]
    fn a_refusal_is_told_by_its_errno() {
        let bytes = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        assert_eq!(replies(&bytes), [(7, Reply::Status(libc::ENOENT))]);
        let bytes = message(NLMSG_ERROR, &i32::MIN.to_ne_bytes());
        assert_eq!(replies(&bytes), [(7, Reply::Status(libc::EIO))]);
    }
}

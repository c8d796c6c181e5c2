//! Netlink messages of the kernel's connection tracking: [`lb_agent::conntrack::message`].

use std::net::Ipv4Addr;

use lb_agent::conntrack::message::{self, Entry, Reply, Tuple, delete, replies};

/// A netlink message's header.
const HEADER: usize = 16;
/// `IPCTNL_MSG_CT_NEW`, as what the kernel tells has it.
const NEW: u16 = 1 << 8;
/// `NLMSG_ERROR`, `NLMSG_DONE`
const OTHERS: [u16; 2] = [2, 3];
/// `struct nfgenmsg`
const FAMILY: usize = 4;
/// `CTA_TUPLE_REPLY`
const REPLY: u8 = 2;

/// Reads a datagram, and asks about what is in it.
pub fn run(data: &[u8]) {
    let replies = replies(data);
    assert!(replies.len() <= data.len() / HEADER, "{} messages", replies.len());
    for (sequence, reply) in replies {
        if let Reply::Entry(entry) = reply {
            // What is sent has lengths that agree, whatever was read.
            for request in [delete(&entry, sequence), message::get(&entry.reply, sequence)] {
                let length = u32::from_ne_bytes([request[0], request[1], request[2], request[3]]);
                assert_eq!(length as usize, request.len());
                assert_eq!(request.len() % 4, 0);
            }
        }
    }
}

/// A netlink message of that kind.
fn message_of(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes
}

/// Entries as the kernel tells them, an end and an error, alone and together.
pub fn seeds() -> Vec<Vec<u8>> {
    let addresses = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];
    let v4 = Tuple {
        source: addresses[0].into(),
        destination: addresses[1].into(),
        source_port: 40_000,
        destination_port: 80,
        protocol: 6,
    };
    let v6 = Tuple {
        source: addresses[0].to_ipv6_mapped().into(),
        destination: addresses[1].to_ipv6_mapped().into(),
        ..v4
    };
    // A request has the first direction, as an entry does; the other differs by its kind.
    let entry = |tuple: &Tuple| {
        let original = message::get(tuple, 0).split_off(HEADER + FAMILY);
        let mut reply = original.clone();
        reply[if cfg!(target_endian = "little") { 2 } else { 3 }] = REPLY;
        let status = attribute(3, &0x18e_u32.to_be_bytes());
        let state = attribute(4, &attribute(1, &attribute(1, &[3])));
        let id = attribute(12, &[1, 2, 3, 4]);
        let family = vec![2, 0, 0, 0];
        message_of(NEW, &[family, original, reply, status, state, id].concat())
    };
    let entries = [entry(&v4), entry(&v6)];
    assert!(entries.iter().all(|seed| matches!(
        replies(seed).as_slice(),
        [(_, Reply::Entry(found))] if Entry { ..**found }.seen_reply
    )));
    let others = OTHERS.map(|kind| message_of(kind, &(-2_i32).to_ne_bytes()));
    let together = [entries.concat(), others.concat()].concat();
    entries.into_iter().chain(others).chain([together]).collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

//! Which header fields differ between two frames, by the names that the acceptance table uses.

use std::{collections::BTreeSet, ops::Range};

const QUOTED_V4: [(&str, Range<usize>); 9] = [
    ("icmp.type", 0..1),
    ("icmp.code", 1..2),
    ("icmp.check", 2..4),
    ("quoted.ip.check", 18..20),
    ("quoted.src", 20..24),
    ("quoted.dst", 24..28),
    ("quoted.sport", 28..30),
    ("quoted.dport", 30..32),
    ("quoted.rest", 32..64),
];
const QUOTED_V6: [(&str, Range<usize>); 8] = [
    ("icmp.type", 0..1),
    ("icmp.code", 1..2),
    ("icmp.check", 2..4),
    ("quoted.src", 16..32),
    ("quoted.dst", 32..48),
    ("quoted.sport", 48..50),
    ("quoted.dport", 50..52),
    ("quoted.rest", 52..84),
];

/// Names and positions of the header fields of a frame.
fn layout(frame: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let mut fields = vec![("eth.dst", 0..6), ("eth.src", 6..12), ("eth.type", 12..14)];
    let (protocol, at) = match frame.get(12..14) {
        Some([0x08, 0x06]) => {
            fields.extend([
                ("arp.types", 14..20),
                ("arp.op", 20..22),
                ("arp.sender_mac", 22..28),
                ("arp.sender", 28..32),
                ("arp.target_mac", 32..38),
                ("arp.target", 38..42),
            ]);
            return fields;
        }
        Some([0x08, 0x00]) if frame.len() >= 34 => {
            let end = 14 + usize::from(frame[14] & 15) * 4;
            fields.extend([
                ("ip.head", 14..15),
                ("ip.class", 15..16),
                ("ip.length", 16..18),
                ("ip.fragment", 18..22),
                ("ip.ttl", 22..23),
                ("ip.protocol", 23..24),
                ("ip.check", 24..26),
                ("ip.src", 26..30),
                ("ip.dst", 30..34),
            ]);
            (frame[23], end)
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 => {
            fields.extend([
                ("ip.class", 14..16),
                ("ip.label", 16..18),
                ("ip.length", 18..20),
                ("ip.protocol", 20..21),
                ("ip.ttl", 21..22),
                ("ip.src", 22..38),
                ("ip.dst", 38..54),
            ]);
            upper_v6(frame)
        }
        _ => return fields,
    };
    let upper: &[(&str, Range<usize>)] = match protocol {
        6 => &[("l4.sport", 0..2), ("l4.dport", 2..4), ("tcp.rest", 4..16), ("l4.check", 16..18)],
        17 => &[("l4.sport", 0..2), ("l4.dport", 2..4), ("udp.length", 4..6), ("l4.check", 6..8)],
        132 => &[("l4.sport", 0..2), ("l4.dport", 2..4), ("sctp.rest", 4..12)],
        58 if matches!(frame.get(at), Some(135 | 136)) => &[
            ("icmp.type", 0..1),
            ("icmp.code", 1..2),
            ("icmp.check", 2..4),
            ("nd.flags", 4..8),
            ("nd.target", 8..24),
            ("nd.option", 24..32),
        ],
        1 if matches!(frame.get(at), Some(3 | 4 | 11 | 12)) => &QUOTED_V4,
        58 if matches!(frame.get(at), Some(1..=4)) => &QUOTED_V6,
        1 | 58 => &[("icmp.type", 0..1), ("icmp.code", 1..2), ("icmp.check", 2..4)],
        _ => &[],
    };
    fields.extend(upper.iter().map(|(name, r)| (*name, at + r.start..at + r.end)));
    fields
}

/// The upper layer behind what extension headers there are.
fn upper_v6(frame: &[u8]) -> (u8, usize) {
    let (mut protocol, mut at) = (frame[20], 54);
    while matches!(protocol, 0 | 43 | 44 | 60) && at + 8 <= frame.len() {
        let length = if protocol == 44 { 8 } else { (usize::from(frame[at + 1]) + 1) * 8 };
        // Of a later fragment everything is payload.
        let later = protocol == 44 && (frame[at + 2] != 0 || frame[at + 3] & 0xf8 != 0);
        protocol = if later { 59 } else { frame[at] };
        at += length;
    }
    (protocol, at)
}

/// A frame without its tag, and the VLAN.
fn untagged(frame: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    if frame.len() < 18 || frame[12..14] != [0x81, 0] {
        return (frame.to_vec(), None);
    }
    ([&frame[..12], &frame[16..]].concat(), Some(&frame[14..16]))
}

/// A frame out of its tunnel, and the tunnel's headers.
fn out_of_tunnel(frame: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let (protocol, udp) = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.len() >= 34 => (frame[23], 34),
        Some([0x86, 0xdd]) if frame.len() >= 54 => (frame[20], 54),
        _ => return (frame.to_vec(), None),
    };
    let inner = udp + 24;
    if protocol != 17 || frame.len() < inner + 20 || frame[udp + 2..udp + 4] != [23, 192] {
        return (frame.to_vec(), None);
    }
    let ethertype: [u8; 2] = if frame[udp + 9] == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let bare = [&frame[..12], &ethertype, &frame[inner..]].concat();
    (bare, Some(&frame[14..inner]))
}

/// A frame without its tag and out of its tunnel.
pub fn bare(frame: &[u8]) -> Vec<u8> {
    let (bare, _) = untagged(frame);
    out_of_tunnel(&bare).0
}

/// Whether an untagged frame is longer than its IP packet says.
pub fn is_padded(frame: &[u8]) -> bool {
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.len() >= 34 => 14 + length(16) < frame.len(),
        Some([0x86, 0xdd]) if frame.len() >= 54 => 54 + length(18) < frame.len(),
        _ => false,
    }
}

/// TTL or hop limit of a packet, out of its tunnel if it is in one.
pub fn ttl(frame: &[u8]) -> Option<u8> {
    let bare = bare(frame);
    match bare.get(12..14) {
        Some([0x08, 0x00]) => bare.get(22).copied(),
        Some([0x86, 0xdd]) => bare.get(21).copied(),
        _ => None,
    }
}

/// What became of a frame, in the table's words: `answer` for one made anew; else the fields
/// that differ, of the inner packet where there is a tunnel; `tag` and `tunnel` where those
/// differ.
pub fn describe(before: &[u8], after: &[u8]) -> BTreeSet<&'static str> {
    let ((before, old_tag), (after, tag)) = (untagged(before), untagged(after));
    let ((before, old_tunnel), (after, tunnel)) = (out_of_tunnel(&before), out_of_tunnel(&after));
    let addresses = |frame: &[u8]| match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..34).map(|both| (both[..4].to_vec(), both[4..].to_vec())),
        Some([0x86, 0xdd]) => {
            frame.get(22..54).map(|both| (both[..16].to_vec(), both[16..].to_vec()))
        }
        _ => None,
    };
    let mut words = match (addresses(&before), addresses(&after)) {
        (Some((source, vip)), Some((from, to)))
            if (&from, &to) == (&vip, &source) && before.len() != after.len()
                && !is_discovery(&after) =>
        {
            BTreeSet::from(["answer"])
        }
        _ => changed(&before, &after),
    };
    if old_tag != tag {
        words.insert("tag");
    }
    if old_tunnel != tunnel {
        words.insert("tunnel");
    }
    words
}

fn is_discovery(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && matches!(frame.get(54), Some(135 | 136))
}

/// The fields (of `after`) whose bytes differ, `payload` for bytes outside of every
/// field, and `length` when the frames' lengths differ.
pub fn changed(before: &[u8], after: &[u8]) -> BTreeSet<&'static str> {
    let layout = layout(after);
    let mut names = BTreeSet::new();
    for position in 0..after.len() {
        if before.get(position) != after.get(position) {
            let field = layout.iter().find(|(_, range)| range.contains(&position));
            names.insert(field.map_or("payload", |(name, _)| name));
        }
    }
    if before.len() != after.len() {
        names.insert("length");
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_port_is_named() {
        let link = crate::kernel::frames::Link { from: [2; 6], to: [3; 6] };
        let before = crate::kernel::frames::tcp(
            link,
            "192.0.2.1:1000".parse().unwrap(),
            "192.0.2.2:80".parse().unwrap(),
            64,
            2,
        );
        let mut after = before.clone();
        after[36] ^= 1;
        after[50] ^= 1;
        assert_eq!(changed(&before, &after), BTreeSet::from(["l4.check", "l4.dport"]));
        after.pop();
        assert!(changed(&before, &after).contains("length"));
    }
}

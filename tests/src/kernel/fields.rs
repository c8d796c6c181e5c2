//! Which header fields differ between two frames, by the names that the acceptance table uses.

use std::{collections::BTreeSet, ops::Range};

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
                ("ip.head", 14..16),
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
                ("ip.head", 14..18),
                ("ip.length", 18..20),
                ("ip.protocol", 20..21),
                ("ip.ttl", 21..22),
                ("ip.src", 22..38),
                ("ip.dst", 38..54),
            ]);
            (frame[20], 54)
        }
        _ => return fields,
    };
    let upper: &[(&str, Range<usize>)] = match protocol {
        6 => &[("l4.sport", 0..2), ("l4.dport", 2..4), ("tcp.rest", 4..16), ("l4.check", 16..18)],
        17 => &[("l4.sport", 0..2), ("l4.dport", 2..4), ("udp.length", 4..6), ("l4.check", 6..8)],
        58 if matches!(frame.get(at), Some(135 | 136)) => &[
            ("icmp.type", 0..1),
            ("icmp.code", 1..2),
            ("icmp.check", 2..4),
            ("nd.flags", 4..8),
            ("nd.target", 8..24),
            ("nd.option", 24..32),
        ],
        1 | 58 => &[("icmp.type", 0..1), ("icmp.code", 1..2), ("icmp.check", 2..4)],
        _ => &[],
    };
    fields.extend(upper.iter().map(|(name, r)| (*name, at + r.start..at + r.end)));
    fields
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

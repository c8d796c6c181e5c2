//! Internet checksums (RFC 1071), over everything that they cover.

use super::headers::{Ip, PACKET, ip, number, put};

/// The sum of 16-bit words modulo 2^16 - 1, an odd last byte filled up with a zero.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        &[high, low] => u64::from(high) << 8 | u64::from(low),
        rest => u64::from(rest[0]) << 8,
    });
    (words.sum::<u64>() % 65_535) as u32
}

/// Where the addresses of an IP header stand that begins at an offset.
fn addresses(v4: bool, at: usize) -> std::ops::Range<usize> {
    if v4 { at + 12..at + 20 } else { at + 8..at + 40 }
}

/// Where the checksum of an upper layer stands in it, and whether it covers the pseudo-header.
fn upper_checksum(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        6 => Some((16, true)),
        17 => Some((6, true)),
        1 => Some((2, false)),
        58 => Some((2, true)),
        // SCTP's covers no addresses, and is no sum.
        _ => None,
    }
}

/// What all words covered by the upper layer's checksum, itself among them, sum up to
/// (without the pseudo-header's length, which the data path never changes).
fn upper_sum(frame: &[u8], ip: &Ip, pseudo: bool) -> u32 {
    let header = if pseudo {
        sum(&frame[addresses(ip.is_v4(), PACKET)]) + u32::from(ip.protocol)
    } else {
        0
    };
    (header + sum(&frame[ip.upper..ip.end])) % 65_535
}

/// The checksum that makes `others`, the sum of all other words, come to `wanted`.
pub(super) fn completing(others: u32, wanted: u32) -> u16 {
    ((wanted + 65_535 - others % 65_535) % 65_535) as u16
}

/// Puts a new header checksum into an IPv4 packet that begins at `at`.
pub(super) fn renew_header(before: &[u8], after: &mut [u8], at: usize) {
    let end = at + usize::from(before[at] & 15) * 4;
    let wanted = sum(&before[at..end]);
    put(after, at + 10, 0);
    let check = completing(sum(&after[at..end]), wanted);
    put(after, at + 10, check);
}

/// Puts new checksums into a frame whose headers were changed, summing up everything.
///
/// A checksum that was right is right again. One that was wrong stays wrong by the same
/// amount, so that the receiver notices (RFC 1624 section 5): a middle box must not
/// repair what was damaged before it.
pub(super) fn renew(before: &[u8], after: &mut [u8], ip: &Ip) {
    if ip.is_v4() {
        renew_header(before, after, PACKET);
    }
    if ip.is_later_fragment() {
        return;
    }
    let Some((offset, pseudo)) = upper_checksum(ip.protocol) else { return };
    let at = ip.upper + offset;
    if ip.end < at + 2 {
        return;
    }
    // UDP: 0 is "none" and stays; a computed 0 is sent as 0xffff (RFC 768).
    let udp = ip.protocol == 17;
    if udp && number(before, at) == 0 {
        return;
    }
    let wanted = upper_sum(before, ip, pseudo);
    put(after, at, 0);
    let check = match completing(upper_sum(after, ip, pseudo), wanted) {
        0 if udp => 0xffff,
        check => check,
    };
    put(after, at, check);
}

/// Puts new checksums into a packet quoted at `at`, of which the frame may hold but a part.
pub(super) fn renew_quoted(before: &[u8], after: &mut [u8], at: usize, end: usize, protocol: u8) {
    let v4 = before[at] >> 4 == 4;
    if v4 {
        renew_header(before, after, at);
    }
    let upper = at + if v4 { 20 } else { 40 };
    let Some((offset, _)) = upper_checksum(protocol) else { return };
    let check_at = upper + offset;
    let udp = protocol == 17;
    if check_at + 2 > end || (udp && number(before, check_at) == 0) {
        return;
    }
    let whole = |frame: &[u8]| sum(&frame[addresses(v4, at)]) + sum(&frame[upper..end]);
    let wanted = whole(before) % 65_535;
    put(after, check_at, 0);
    let check = match completing(whole(after), wanted) {
        0 if udp => 0xffff,
        check => check,
    };
    put(after, check_at, check);
}

/// Writes the upper layer's checksum (and IPv4's) into a packet made from nothing.
pub(super) fn write(frame: &mut [u8]) {
    let Ok(ip) = ip(frame) else { return };
    if ip.is_v4() {
        put(frame, PACKET + 10, 0);
        let check = completing(sum(&frame[PACKET..ip.upper]), 0);
        put(frame, PACKET + 10, check);
    }
    let Some((offset, pseudo)) = upper_checksum(ip.protocol) else { return };
    let at = ip.upper + offset;
    put(frame, at, 0);
    let length = if pseudo { (ip.end - ip.upper) as u32 } else { 0 };
    let check = completing(upper_sum(frame, &ip, pseudo) + length, 0);
    put(frame, at, check);
}

/// Whether the ICMPv6 message of `length` bytes at its place has a right checksum.
pub(super) fn icmpv6_is_right(frame: &[u8], length: u16) -> bool {
    let end = 54 + usize::from(length);
    if end > frame.len() {
        return false;
    }
    let words =
        sum(&frame[addresses(false, PACKET)]) + 58 + sum(&frame[54..end]) + u32::from(length);
    words.is_multiple_of(65_535)
}

/// Whether every checksum of an IP packet, tagged or not, is right: the IPv4 header's and,
/// of a whole packet, TCP's, UDP's (or none) and ICMP's.
pub fn is_valid(frame: &[u8]) -> bool {
    let (frame, _) = super::headers::untagged(frame);
    if super::headers::addresses(&frame).is_none() {
        return true;
    }
    let Ok(ip) = ip(&frame) else { return false };
    if ip.is_v4() && sum(&frame[PACKET..PACKET + usize::from(frame[14] & 15) * 4]) != 0 {
        return false;
    }
    if ip.fragment.is_some() {
        return true;
    }
    let Some((offset, pseudo)) = upper_checksum(ip.protocol) else { return true };
    if ip.end < ip.upper + offset + 2 {
        return false;
    }
    // Without a checksum: IPv4 (RFC 768), and tunnels over IPv6 (RFC 6935).
    if ip.protocol == 17 && number(&frame, ip.upper + offset) == 0 {
        return true;
    }
    let length = if pseudo { (ip.end - ip.upper) as u32 } else { 0 };
    (upper_sum(&frame, &ip, pseudo) + length).is_multiple_of(65_535)
}

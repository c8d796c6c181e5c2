//! Internet checksums (RFC 1071), over everything that they cover.

use super::headers::{Ip, ip, number};

/// The sum of 16-bit words modulo 2^16 - 1, an odd last byte filled up with a zero.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        &[high, low] => u64::from(high) << 8 | u64::from(low),
        rest => u64::from(rest[0]) << 8,
    });
    (words.sum::<u64>() % 65_535) as u32
}

/// The sum of the pseudo-header but for the length (RFC 793, RFC 8200 section 8.1).
fn pseudo_header(frame: &[u8], ip: &Ip) -> u32 {
    let addresses = if ip.source.is_ipv4() { 26..34 } else { 22..54 };
    (sum(&frame[addresses]) + u32::from(ip.protocol)) % 65_535
}

/// Where the checksum of an upper layer stands in it, and whether it covers the pseudo-header.
fn upper_checksum(ip: &Ip) -> Option<(usize, bool)> {
    match ip.protocol {
        6 => Some((16, true)),
        17 => Some((6, true)),
        1 => Some((2, false)),
        58 => Some((2, true)),
        _ => None,
    }
}

/// What all words covered by the upper layer's checksum, itself among them, sum up to
/// (without the pseudo-header's length, which the data path never changes).
fn upper_sum(frame: &[u8], ip: &Ip, pseudo: bool) -> u32 {
    let header = if pseudo { pseudo_header(frame, ip) } else { 0 };
    (header + sum(&frame[ip.upper..])) % 65_535
}

/// The checksum that makes `others`, the sum of all other words, come to `wanted`.
fn completing(others: u32, wanted: u32) -> u16 {
    ((wanted + 65_535 - others) % 65_535) as u16
}

/// Puts new checksums into a frame whose headers were changed, summing up everything.
///
/// A checksum that was right is right again. One that was wrong stays wrong by the same
/// amount, so that the receiver notices (RFC 1624 section 5): a middle box must not
/// repair what was damaged before it.
pub(super) fn renew(before: &[u8], after: &mut [u8]) {
    let (Some(old), Some(new)) = (ip(before), ip(after)) else { return };
    if old.source.is_ipv4() {
        let wanted = sum(&before[14..34]);
        after[24..26].fill(0);
        let check = completing(sum(&after[14..34]), wanted);
        after[24..26].copy_from_slice(&check.to_be_bytes());
    }
    let Some((offset, pseudo)) = upper_checksum(&old) else { return };
    let at = old.upper + offset;
    if after.len() < at + 2 {
        return;
    }
    // UDP: 0 is "none" and stays; a computed 0 is sent as 0xffff (RFC 768).
    let udp = old.protocol == 17;
    if udp && number(before, at) == 0 {
        return;
    }
    let wanted = upper_sum(before, &old, pseudo);
    after[at..at + 2].fill(0);
    let check = match completing(upper_sum(after, &new, pseudo), wanted) {
        0 if udp => 0xffff,
        check => check,
    };
    after[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// Writes an ICMPv6 checksum over a message of `length` bytes that ends the frame.
pub(super) fn write_icmpv6(frame: &mut [u8], length: u16) {
    frame[56..58].fill(0);
    let Some(ip) = ip(frame) else { return };
    let total = (upper_sum(frame, &ip, true) + u32::from(length)) % 65_535;
    let check = completing(total, 0);
    frame[56..58].copy_from_slice(&check.to_be_bytes());
}

/// Whether the ICMPv6 message of `length` bytes at its place has a right checksum.
pub(super) fn icmpv6_is_right(frame: &[u8], length: u16) -> bool {
    let end = 54 + usize::from(length);
    let Some(ip) = frame.get(..end).and_then(ip) else { return false };
    let words = upper_sum(&frame[..end], &ip, true) + u32::from(length);
    words.is_multiple_of(65_535)
}

/// Whether every checksum of an untagged IP packet without options is right: the IPv4
/// header's and, of a whole packet, TCP's, UDP's (or none) and ICMP's.
pub fn is_valid(frame: &[u8]) -> bool {
    let Some(ip) = ip(frame) else { return true };
    let v4 = ip.source.is_ipv4();
    if v4 && (frame[14] & 15 != 5 || sum(&frame[14..34]) != 0) {
        return frame[14] & 15 != 5;
    }
    if v4 && number(frame, 20) & 0x3fff != 0 {
        return true;
    }
    let length = if v4 { number(frame, 16) - 20 } else { number(frame, 18) };
    let end = ip.upper + usize::from(length);
    let Some((offset, pseudo)) = upper_checksum(&ip) else { return true };
    if ip.protocol == 17 && v4 && number(frame, ip.upper + offset) == 0 {
        return true;
    }
    let header = if pseudo { u32::from(length) } else { 0 };
    (upper_sum(&frame[..end], &ip, pseudo) + header).is_multiple_of(65_535)
}

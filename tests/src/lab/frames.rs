//! Questions in ARP and neighbour discovery, asked with frames of our own making, so that
//! every answer is seen and not only the one that the kernel takes.
use super::{Host, namespace::Namespace};
use crate::system::PacketSocket;
use anyhow::Result;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// An answer to a question about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The link-layer address it names.
    pub mac: [u8; 6],
    /// The frame's own source.
    pub frame_source: [u8; 6],
    /// The frame's destination.
    pub frame_destination: [u8; 6],
    /// For a neighbour advertisement: the flags router, solicited and override (RFC 4861
    /// section 4.4), the most significant three bits.
    pub flags: u8,
    /// How long it took.
    pub after: Duration,
}

/// Asks who has an IPv4 address and returns all answers that come within `listen`.
///
/// `sender` is 0.0.0.0 for a probe (RFC 5227 section 2.1.1).
///
/// # Errors
/// The interface is gone.
pub fn arp(
    from: &Namespace,
    mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
    listen: Duration,
) -> Result<Vec<Resolved>> {
    let frame = arp_request(mac, sender, target);
    ask(from, &frame, listen, |answer| Some((arp_answer(answer, sender, target)?, 0)))
}

/// The link-layer address in a frame, if it is an ARP reply to `sender` about `target`.
pub fn arp_answer(frame: &[u8], sender: Ipv4Addr, target: Ipv4Addr) -> Option<[u8; 6]> {
    let arp = frame.get(14..42)?;
    (frame[12..14] == ETHERTYPE_ARP
        && arp[6..8] == [0, 2]
        && arp[14..18] == target.octets()
        && arp[24..28] == sender.octets())
    .then(|| array(&arp[8..14]))
}

/// An ARP request as a broadcast frame (RFC 826).
pub fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, their lengths, request
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Asks who has an IPv6 address and returns all answers that come within `listen`.
///
/// `sender` is `::` for a probe of duplicate address detection (RFC 4862 section 5.4.2), which
/// is answered to all nodes.
///
/// # Errors
/// The interface is gone.
pub fn ndp(
    from: &Namespace,
    mac: [u8; 6],
    sender: Ipv6Addr,
    target: Ipv6Addr,
    listen: Duration,
) -> Result<Vec<Resolved>> {
    let frame = neighbour_solicitation(mac, sender, target);
    let answer_to =
        if sender.is_unspecified() { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { sender };
    ask(from, &frame, listen, |answer| {
        let (ip, icmp) = (answer.get(14..54)?, answer.get(54..)?);
        let advertises = answer[12..14] == ETHERTYPE_IPV6
            && ip[6] == ICMPV6
            && ip[7] == 255
            && ip[24..40] == answer_to.octets()
            && icmp.len() >= 32
            && icmp[0] == 136
            && icmp[8..24] == target.octets()
            && icmp[24..26] == [2, 1];
        let valid = || {
            let (source, destination) = (array(&ip[8..24]), array(&ip[24..40]));
            let length = usize::from(u16::from_be_bytes(array(&ip[4..6])));
            icmp.get(..length).is_some_and(|m| checksum(source, destination, m) == 0)
        };
        (advertises && valid()).then(|| (array(&icmp[26..32]), icmp[4] >> 5))
    })
}

/// A neighbour solicitation to the solicited-node group (RFC 4861 section 4.3). From `::` it
/// carries no source link-layer address, as duplicate address detection requires.
pub fn neighbour_solicitation(mac: [u8; 6], sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let last = target.octets();
    let group =
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, last[13], last[14], last[15]]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !sender.is_unspecified() {
        message.extend([1, 1]);
        message.extend(mac);
    }
    let sum = checksum(sender.octets(), group.octets(), &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0xff, last[13], last[14], last[15]];
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(sender.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// The frame by which a host says to all that it has an address: an ARP announcement (RFC 5227 section
/// 2.3), or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6).
pub fn announcement(mac: [u8; 6], address: IpAddr) -> Vec<u8> {
    let address = match address {
        IpAddr::V4(address) => return arp_request(mac, address, address),
        IpAddr::V6(address) => address,
    };
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(address.octets(), all.octets(), &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(all.octets());
    frame.extend(message);
    frame
}

/// Whether a frame is such an announcement, of this address and by this host, in any of its forms.
pub fn is_announcement(frame: &[u8], mac: [u8; 6], address: IpAddr) -> bool {
    if frame.len() < 42 || frame[6..12] != mac {
        return false;
    }
    match address {
        IpAddr::V4(address) => {
            let address = address.octets();
            frame[..6] == [0xff; 6]
                && frame[12..14] == ETHERTYPE_ARP
                && frame[28..32] == address
                && frame[38..42] == address
        }
        IpAddr::V6(address) => {
            frame.len() >= 86
                && frame[12..14] == ETHERTYPE_IPV6
                && frame[54] == 136
                && frame[58] & 0x40 == 0
                && frame[62..78] == address.octets()
        }
    }
}

/// ICMPv6's checksum (RFC 4443 section 2.3): 0 over a message that carries the right one.
fn checksum(source: [u8; 16], destination: [u8; 16], message: &[u8]) -> u16 {
    let pseudo = (message.len() as u32).to_be_bytes();
    let bytes = source.iter().chain(&destination).chain(&pseudo).chain(&[0, 0, 0, ICMPV6]);
    let mut sum = 0u32;
    for (i, &byte) in bytes.chain(message).enumerate() {
        sum += u32::from(byte) << (8 * (1 - i % 2));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends one frame from `eth0` and collects what `read` takes for an answer.
fn ask(
    from: &Namespace,
    frame: &[u8],
    listen: Duration,
    read: impl Fn(&[u8]) -> Option<([u8; 6], u8)> + Sync,
) -> Result<Vec<Resolved>> {
    from.enter(|| {
        let socket = PacketSocket::open("eth0")?;
        let start = Instant::now();
        socket.send(frame)?;
        let mut answers = vec![];
        while let Some(answer) = socket.receive(start + listen)? {
            let after = start.elapsed();
            if let Some((mac, flags)) = read(&answer) {
                answers.push(Resolved {
                    mac,
                    frame_source: array(&answer[6..12]),
                    frame_destination: array(&answer[..6]),
                    flags,
                    after,
                });
            }
        }
        Ok(answers)
    })
}

/// Asks for an IPv4 address as a host does.
///
/// # Errors
/// The interface is gone.
pub fn arp_from(host: &Host, target: Ipv4Addr, listen: Duration) -> Result<Vec<Resolved>> {
    arp(&host.namespace, host.mac, host.ipv4, target, listen)
}

/// Asks for an IPv6 address as a host does.
///
/// # Errors
/// The interface is gone.
pub fn ndp_from(host: &Host, target: Ipv6Addr, listen: Duration) -> Result<Vec<Resolved>> {
    ndp(&host.namespace, host.mac, host.ipv6, target, listen)
}

/// The first `N` bytes.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_carries_the_right_checksum() {
        let (sender, target) = ("fd77::100".parse().unwrap(), "fd77::200".parse().unwrap());
        let frame = neighbour_solicitation([2, 0x77, 0, 0, 0, 100], sender, target);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(checksum(array(&frame[22..38]), array(&frame[38..54]), &frame[54..]), 0);
        let probe = neighbour_solicitation([2, 0x77, 0, 0, 0, 100], Ipv6Addr::UNSPECIFIED, target);
        assert_eq!(probe.len(), 14 + 40 + 24, "no option in a probe from ::");
    }
}

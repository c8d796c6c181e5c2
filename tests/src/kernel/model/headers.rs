//! An IP packet in an untagged Ethernet frame, as far as the data path looks into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::frames::Mac;

/// Where the IP packet begins.
pub(super) const PACKET: usize = 14;

/// What an IP header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// DSCP and ECN.
    pub(super) class: u8,
    /// Where the upper layer begins in the frame, and where the packet ends.
    pub(super) upper: usize,
    pub(super) end: usize,
    /// Whether there are options or extension headers.
    pub(super) options: bool,
    pub(super) fragment: Option<Fragment>,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) id: [u8; 4],
    pub(super) first: bool,
}

impl Ip {
    pub(super) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// A fragment without transport header.
    pub(super) fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.first)
    }

    /// The length of the packet.
    pub(super) fn length(&self) -> usize {
        self.end - PACKET
    }

    /// Where TTL or hop limit stands.
    pub(super) fn ttl_at(&self) -> usize {
        if self.is_v4() { 22 } else { 21 }
    }
}

/// A 16-bit number in network order.
pub(super) fn number(frame: &[u8], at: usize) -> u16 {
    u16::from(frame[at]) << 8 | u16::from(frame[at + 1])
}

pub(super) fn put(frame: &mut [u8], at: usize, number: u16) {
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// A link-layer address in a frame.
pub(super) fn mac(frame: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[at..at + 6]);
    mac
}

/// The addresses of a frame that claims to have an IP header and is long enough for it.
pub(super) fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match number(frame.get(..14)?, 12) {
        0x0800 if frame.len() >= 34 => Some((v4(frame, 26).into(), v4(frame, 30).into())),
        0x86dd if frame.len() >= 54 => Some((v6(frame, 22).into(), v6(frame, 38).into())),
        _ => None,
    }
}

pub(super) fn v4(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

/// An IPv6 address in a frame.
pub(super) fn v6(frame: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&frame[at..at + 16]);
    octets.into()
}

/// An address as it stands on the wire.
pub(super) fn wire(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Writes the source or destination address of an IP header.
pub(super) fn set_address(frame: &mut [u8], source: bool, address: IpAddr) {
    let at = match (address, source) {
        (IpAddr::V4(_), true) => 26,
        (IpAddr::V4(_), false) => 30,
        (IpAddr::V6(_), true) => 22,
        (IpAddr::V6(_), false) => 38,
    };
    let octets = wire(address);
    frame[at..at + octets.len()].copy_from_slice(&octets);
}

/// Follows the headers of a packet; or the counter of the reason to drop it.
pub(super) fn ip(frame: &[u8]) -> Result<Ip, &'static str> {
    let (source, destination) = addresses(frame).ok_or("drop_malformed")?;
    if source.is_ipv4() { ip_v4(frame, source, destination) } else { ip_v6(frame, source, destination) }
}

fn ip_v4(frame: &[u8], source: IpAddr, destination: IpAddr) -> Result<Ip, &'static str> {
    let (version, header) = (frame[14] >> 4, usize::from(frame[14] & 15) * 4);
    let total = usize::from(number(frame, 16));
    if version != 4 || header < 20 || total < header || PACKET + total > frame.len() {
        return Err("drop_malformed");
    }
    // More fragments, or an offset.
    let word = number(frame, 20);
    let fragment = (word & 0x3fff != 0)
        .then(|| Fragment { id: [frame[18], frame[19], 0, 0], first: word & 0x1fff == 0 });
    Ok(Ip {
        source,
        destination,
        protocol: frame[23],
        ttl: frame[22],
        class: frame[15],
        upper: PACKET + header,
        end: PACKET + total,
        options: header > 20,
        fragment,
    })
}

/// RFC 8200 section 4.
fn ip_v6(frame: &[u8], source: IpAddr, destination: IpAddr) -> Result<Ip, &'static str> {
    let end = 54 + usize::from(number(frame, 18));
    if frame[14] >> 4 != 6 || end > frame.len() {
        return Err("drop_malformed");
    }
    let mut ip = Ip {
        source,
        destination,
        protocol: frame[20],
        ttl: frame[21],
        class: frame[14] << 4 | frame[15] >> 4,
        upper: 54,
        end,
        options: false,
        fragment: None,
    };
    let (mut headers, mut fragment) = (0, false);
    loop {
        if !matches!(ip.protocol, 0 | 43 | 44 | 51 | 60 | 135) {
            return Ok(ip);
        }
        // Behind a fragment header only what later fragments are known by. Authentication and
        // mobility headers end the way.
        if fragment || matches!(ip.protocol, 51 | 135) {
            return Err("drop_options");
        }
        let header = &frame[ip.upper.min(frame.len())..];
        if header.len() < if ip.protocol == 44 { 8 } else { 4 } {
            return Err("drop_malformed");
        }
        let mut length = 8;
        if ip.protocol == 44 {
            fragment = true;
            let word = number(header, 2);
            // One that is the whole is none (RFC 6946).
            if word & 0xfff9 != 0 {
                let id = [header[4], header[5], header[6], header[7]];
                ip.fragment = Some(Fragment { id, first: word & 0xfff8 == 0 });
            }
        } else {
            headers += 1;
            if headers > 4 || (ip.protocol == 43 && header[3] != 0) {
                return Err("drop_options");
            }
            length = (usize::from(header[1]) + 1) * 8;
        }
        ip.protocol = header[0];
        ip.upper += length;
        ip.options = true;
        if ip.upper > 54 + 256 {
            return Err("drop_options");
        }
        if ip.upper > end {
            return Err("drop_malformed");
        }
    }
}

/// Takes an 802.1Q tag out of a frame: the rest, and the tag's control word.
pub(super) fn untagged(frame: &[u8]) -> (Vec<u8>, Option<u16>) {
    if frame.len() < 18 || frame[12..14] != [0x81, 0] {
        return (frame.to_vec(), None);
    }
    ([&frame[..12], &frame[16..]].concat(), Some(number(frame, 14)))
}

/// Puts a tag into a frame.
pub(super) fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    let [high, low] = control.to_be_bytes();
    [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
}

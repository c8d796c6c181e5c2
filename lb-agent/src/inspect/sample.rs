//! A sample of the ring `SAMPLES` in one line.
use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader, err};
use lb_common::{
    maps::{SAMPLE_BYTES, Sample},
    outcome::Outcome,
    tunnel::Gue,
};
use std::{fmt::Write as _, net::IpAddr};

/// Reads a sample as the ring holds it; `None` if it is of another length.
pub fn read(bytes: &[u8]) -> Option<Sample> {
    if bytes.len() != size_of::<Sample>() {
        return None;
    }
    let (words, frame) = bytes.split_at(size_of::<Sample>() - SAMPLE_BYTES);
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(words.get(at..at + 4)?.try_into().ok()?))
    };
    Some(Sample {
        time_ns: u64::from_ne_bytes(words.get(..8)?.try_into().ok()?),
        ifindex: number(8)?,
        outcome: number(12)?,
        length: number(16)?,
        captured: number(20)?,
        program: number(24)?,
        pad: 0,
        bytes: frame.try_into().ok()?,
    })
}

/// The name of what became of a sample's frame.
pub fn outcome(sample: &Sample) -> &'static str {
    Outcome::ALL.get(sample.outcome as usize).map_or("unknown", |outcome| outcome.name())
}

/// The part of the frame that the sample holds.
pub fn frame(sample: &Sample) -> &[u8] {
    let held = (sample.captured as usize).min(sample.bytes.len());
    &sample.bytes[..held]
}

/// What a frame is, in a few words: addresses, ports, flags; inside a tunnel, too.
pub fn describe(frame: &[u8], tunnel_port: u16) -> String {
    let mut text = String::new();
    match LaxPacketHeaders::from_ethernet(frame) {
        Ok(headers) => packet(&mut text, &headers, tunnel_port, 0),
        Err(err::LenError { .. }) => text.push_str("cut short"),
    }
    text
}

fn packet(text: &mut String, headers: &LaxPacketHeaders<'_>, tunnel_port: u16, depth: u8) {
    if let Some(vlan) = headers.vlan_ids().first() {
        let _ = write!(text, "vlan {} ", vlan.value());
    }
    let (source, destination): (IpAddr, IpAddr) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => (IpAddr::from(ip.source), IpAddr::from(ip.destination)),
        Some(NetHeaders::Ipv6(ip, _)) => (IpAddr::from(ip.source), IpAddr::from(ip.destination)),
        Some(NetHeaders::Arp(arp)) => {
            let _ = write!(text, "ARP {:?}", arp.operation);
            return;
        }
        None => {
            text.push_str("not IP");
            return;
        }
    };
    let payload = headers.payload.slice();
    match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            let flags: String = [
                (tcp.syn, "SYN "),
                (tcp.fin, "FIN "),
                (tcp.rst, "RST "),
                (tcp.ack, "ACK "),
                (tcp.psh, "PSH "),
            ]
            .iter()
            .filter_map(|(set, name)| set.then_some(*name))
            .collect();
            let (from, to) = (tcp.source_port, tcp.destination_port);
            let _ = write!(text, "TCP {}", ends(source, from, destination, to));
            let _ = write!(text, " {}", flags.trim_end());
        }
        Some(TransportHeader::Udp(udp)) if udp.destination_port == tunnel_port && depth == 0 => {
            tunnelled(text, source, destination, payload, tunnel_port);
        }
        Some(TransportHeader::Udp(udp)) => {
            let (from, to) = (udp.source_port, udp.destination_port);
            let _ = write!(text, "UDP {}", ends(source, from, destination, to));
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            let _ = write!(text, "ICMP {source} → {destination} type {}", icmp.to_bytes()[0]);
        }
        Some(TransportHeader::Icmpv6(icmp)) => {
            let _ =
                write!(text, "ICMPv6 {source} → {destination} type {}", icmp.icmp_type.type_u8());
        }
        _ => {
            let _ = write!(text, "IP {source} → {destination}");
        }
    }
}

fn ends(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> String {
    use std::net::SocketAddr;
    format!("{} → {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
}

/// The packet inside of a tunnel, behind where the tunnel goes.
fn tunnelled(
    text: &mut String,
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
    tunnel_port: u16,
) {
    let position = payload.get(4).copied().unwrap_or_default();
    let _ = write!(text, "tunnel {source} → {destination} position {position}: ");
    match payload.get(size_of::<Gue>()..).map(LaxPacketHeaders::from_ip) {
        Some(Ok(inner)) => packet(text, &inner, tunnel_port, 1),
        _ => text.push_str("no packet inside"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn syn() -> Vec<u8> {
        let mut frame = vec![];
        PacketBuilder::ethernet2([2; 6], [3; 6])
            .ipv4([192, 0, 2, 1], [10, 77, 0, 200], 64)
            .tcp(40_000, 80, 1, 1000)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frame
    }

    #[test]
    fn frames_are_told_in_a_few_words() {
        assert_eq!(describe(&syn(), 7948), "TCP 192.0.2.1:40000 → 10.77.0.200:80 SYN");
        let gue = [&[3, 4, 0, 0, 2, 0, 0, 0][..], &[9; 8], &syn()[14..]].concat();
        let mut frame = vec![];
        PacketBuilder::ethernet2([2; 6], [3; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(50_000, 7948)
            .write(&mut frame, &gue)
            .unwrap();
        assert_eq!(
            describe(&frame, 7948),
            "tunnel 10.0.0.1 → 10.0.0.2 position 2: TCP 192.0.2.1:40000 → 10.77.0.200:80 SYN"
        );
        assert_eq!(describe(&frame, 1), "UDP 10.0.0.1:50000 → 10.0.0.2:7948");
        assert_eq!(describe(&[0; 5], 1), "cut short");
    }

    #[test]
    fn samples_are_read_as_the_kernel_writes_them() {
        let mut bytes = vec![0; size_of::<Sample>()];
        bytes[..8].copy_from_slice(&77u64.to_ne_bytes());
        for (at, value) in [(8, 3u32), (12, Outcome::SecondChance as u32), (16, 1500), (20, 54)] {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes[32] = 0xaa;
        let sample = read(&bytes).unwrap();
        assert_eq!((sample.time_ns, sample.ifindex, sample.length), (77, 3, 1500));
        assert_eq!((outcome(&sample), frame(&sample).len()), ("second_chance", 54));
        assert_eq!(frame(&sample)[0], 0xaa);
        assert!(read(&bytes[1..]).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_frames_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
            let _ = describe(&bytes, 7948);
        }
    }
}

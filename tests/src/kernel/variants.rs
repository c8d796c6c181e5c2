//! The words behind a frame's comma in `acceptance.md`: how they change it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};

use super::{
    frames::{self, Link},
    world,
};

/// Changes what stands around the inner packet.
pub(super) fn vary_outer(mut frame: Vec<u8>, variant: &str) -> Result<Vec<u8>> {
    let v4 = frame[12..14] == [0x08, 0x00];
    let udp = if v4 { 34 } else { 54 };
    let gue = udp + 8;
    match variant {
        "outer old cookie" | "outer wrong cookie" | "outer no cookie" | "outer protocol 59"
        | "outer protocol 97" => {}
        "outer CE" => frames::set_class(&mut frame, 3),
        "outer padding" => frame.extend([0; 7]),
        "outer other port" => frame[udp + 3] ^= 1,
        "outer GUE version 1" => frame[gue] |= 0x40,
        "outer GUE control" => frame[gue] |= 0x20,
        "outer GUE length 2" => frame[gue] = 2,
        "outer GUE flags" => frame[gue + 2] = 0x80,
        "outer UDP checksum" => frame[udp + 6] = 7,
        "outer UDP length" => frame[udp + 5] ^= 1,
        "outer fragment" if v4 => frame = frames::as_fragment_v4(&frame, 0, true),
        "outer options" if v4 => frame = frames::with_ipv4_options(&frame, 1),
        "outer other host" => frame[..6].copy_from_slice(&world::OTHER_MAC),
        "outer cut" => {
            // Whole by its lengths, but there is no inner header.
            frame.truncate(gue + 16 + 10);
            let length = (frame.len() - udp) as u16;
            frame[udp + 4..udp + 6].copy_from_slice(&length.to_be_bytes());
            let (at, length) = if v4 { (16, length + 20) } else { (18, length) };
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                frames::refresh_ipv4(&mut frame);
            }
        }
        _ => bail!("no variant {variant}"),
    }
    Ok(frame)
}

/// Changes a frame as all of the words say.
pub(super) fn vary_all(mut frame: Vec<u8>, variants: &[&str]) -> Result<Vec<u8>> {
    for variant in variants {
        frame = vary(frame, variant)?;
    }
    Ok(frame)
}

/// Changes a frame as the words behind its name say.
fn vary(mut frame: Vec<u8>, variant: &str) -> Result<Vec<u8>> {
    let v4 = frame[12..14] == [0x08, 0x00];
    let length_at = if v4 { 16 } else { 18 };
    let fragment = |from, to| frames::part(&frame, from, to);
    match variant {
        "" | "hop limit 254" | "option of length 0" => {}
        "other hardware" => frame[15] = 6,
        "other lengths" => frame[18..20].copy_from_slice(&[8, 4]),
        "bad checksum" => frame[56] ^= 0x40,
        "code 1" => {
            // The checksum stays right: the target's neighbour word makes up for it.
            frame[55] = 1;
            let sum = u16::from_be_bytes([frame[56], frame[57]]);
            frame[56..58].copy_from_slice(&(sum - 1).to_be_bytes());
        }
        "padding" => frame.resize(frame.len() + 6, 0),
        "IPv4 options" => frame = frames::with_ipv4_options(&frame, 1),
        "IPv4 options of 40" => frame = frames::with_ipv4_options(&frame, 10),
        "hop-by-hop options" => frame = frames::with_extension(&frame, 0, 8),
        "hop-by-hop options of 48" => frame = frames::with_extension(&frame, 0, 48),
        "routing header" => frame = frames::with_extension(&frame, 43, 24),
        "routing header in use" => {
            frame = frames::with_extension(&frame, 43, 24);
            frame[57] = 1;
        }
        "destination options" => frame = frames::with_extension(&frame, 60, 16),
        "destination options of 256" => frame = frames::with_extension(&frame, 60, 256),
        "destination options of 264" => frame = frames::with_extension(&frame, 60, 264),
        "four headers" | "five headers" => {
            for _ in 0..if variant == "four headers" { 4 } else { 5 } {
                frame = frames::with_extension(&frame, 60, 8);
            }
        }
        "authentication" => frame = frames::with_extension(&frame, 51, 16),
        "mobility" => frame = frames::with_extension(&frame, 135, 8),
        "atomic fragment" => frame = frames::as_fragment_v6(&frame, 0, false),
        "first fragment" => frame = fragment(0, Some(4)),
        "large first fragment" => frame = fragment(0, Some(180)),
        "large later fragment" => frame = fragment(180, Some(360)),
        "short first fragment" => frame = fragment(0, Some(1)),
        "later fragment" => frame = fragment(4, None),
        "middle fragment" => frame = fragment(2, Some(3)),
        "length beyond the frame" => {
            let length = u16::try_from(frame.len())? + 1;
            frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                frames::refresh_ipv4(&mut frame);
            }
        }
        "length short of the header" => {
            let length: u16 = if v4 { 39 } else { 19 };
            frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                frames::refresh_ipv4(&mut frame);
            }
        }
        "data offset 4" => set_data_offset(&mut frame, 4),
        "data offset beyond the packet" => set_data_offset(&mut frame, 15),
        "UDP length 7" => set_udp_length(&mut frame, 7),
        "UDP length beyond the packet" => set_udp_length(&mut frame, 32),
        "version 5" => {
            frame[14] = 0x55;
            frames::refresh_ipv4(&mut frame);
        }
        "may be fragmented" => {
            frame[20] = 0;
            frames::refresh_ipv4(&mut frame);
        }
        "ECT" => frames::set_class(&mut frame, 0xb9),
        "from everybody" => set_source(&mut frame, [255, 255, 255, 255], "ff02::1".parse()?),
        "from nobody" => set_source(&mut frame, [0, 0, 0, 0], "::".parse()?),
        "from itself" => set_source(&mut frame, [127, 0, 0, 1], "::1".parse()?),
        "MSS odd" => frame = with_options(&frame, &[1, 2, 4, 5, 0xb4, 1, 1, 0])?,
        "MSS late" => {
            frame =
                with_options(&frame, &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7, 2, 4, 5, 0xb4])?;
        }
        "MSS 536" => frame = with_options(&frame, &[2, 4, 2, 0x18])?,
        "no MSS" => frame = with_options(&frame, &[1, 1, 4, 2])?,
        "option cut" => frame = with_options(&frame, &[1, 1, 1, 2])?,
        "option of no length" => frame = with_options(&frame, &[9, 0, 2, 4])?,
        _ => {
            let ttl = variant.strip_prefix("TTL ").context("no such variant")?;
            frames::set_ttl(&mut frame, ttl.parse()?);
        }
    }
    Ok(frame)
}

/// The same SYN-ACK with other options.
fn with_options(frame: &[u8], options: &[u8]) -> Result<Vec<u8>> {
    let at = frames::l4_offset(frame);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (from, to): (IpAddr, IpAddr) = if frame[12..14] == [0x08, 0x00] {
        let address = |at: usize| -> Result<[u8; 4]> { Ok(frame[at..at + 4].try_into()?) };
        (address(26)?.into(), address(30)?.into())
    } else {
        let address = |at: usize| -> Result<[u8; 16]> { Ok(frame[at..at + 16].try_into()?) };
        (address(22)?.into(), address(38)?.into())
    };
    let link = Link { from: frame[6..12].try_into()?, to: frame[..6].try_into()? };
    let mut padded = options.to_vec();
    padded.resize(options.len().next_multiple_of(4), 0);
    let (from, to) = (SocketAddr::new(from, port(at)), SocketAddr::new(to, port(at + 2)));
    Ok(frames::syn_ack(link, from, to, &padded))
}

/// Another source; the transport's checksum is wrong then, which nobody looks at.
fn set_source(frame: &mut [u8], v4: [u8; 4], v6: Ipv6Addr) {
    if frame[12..14] == [0x08, 0x00] {
        frame[26..30].copy_from_slice(&v4);
        frames::refresh_ipv4(frame);
    } else {
        frame[22..38].copy_from_slice(&v6.octets());
    }
}

fn set_udp_length(frame: &mut [u8], length: u16) {
    let at = frames::l4_offset(frame) + 4;
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// In units of four bytes.
fn set_data_offset(frame: &mut [u8], words: u8) {
    let at = frames::l4_offset(frame) + 12;
    frame[at] = words << 4;
}

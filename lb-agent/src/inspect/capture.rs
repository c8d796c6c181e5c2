//! Samples as a pcapng file (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read. What
//! became of a frame is its packet's comment.
use super::sample;
use lb_common::maps::Sample;
use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
/// Option: the resolution of time stamps, 9 is nanoseconds.
const IF_TSRESOL: u16 = 9;
const COMMENT: u16 = 1;

/// Writes samples to a file.
#[derive(Debug)]
pub struct Capture<W> {
    to: W,
}

impl<W: Write> Capture<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn new(mut to: W) -> io::Result<Self> {
        let mut section = BYTE_ORDER.to_ne_bytes().to_vec();
        section.extend([1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
        // The section's length is not known.
        section.extend(u64::MAX.to_ne_bytes());
        block(&mut to, SECTION, &section)?;
        let mut interface = ETHERNET.to_ne_bytes().to_vec();
        interface.extend([0; 2]);
        interface.extend((lb_common::maps::SAMPLE_BYTES as u32).to_ne_bytes());
        option(&mut interface, IF_TSRESOL, &[9]);
        option(&mut interface, 0, &[]);
        block(&mut to, INTERFACE, &interface)?;
        Ok(Self { to })
    }

    /// Adds a sample, taken `unix_ns` nanoseconds after 1970.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn add(&mut self, sample: &Sample, unix_ns: u64) -> io::Result<()> {
        let frame = sample::frame(sample);
        let length = frame.len() as u32;
        let mut packet = Vec::with_capacity(frame.len() + 80);
        let (high, low) = ((unix_ns >> 32) as u32, unix_ns as u32);
        for word in [0, high, low, length, sample.length] {
            packet.extend(word.to_ne_bytes());
        }
        packet.extend(frame);
        pad(&mut packet);
        let program = if sample.program == 0 { "ingress" } else { "egress" };
        let comment =
            format!("{} ({program}, interface {})", sample::outcome(sample), sample.ifindex);
        option(&mut packet, COMMENT, comment.as_bytes());
        option(&mut packet, 0, &[]);
        block(&mut self.to, PACKET, &packet)?;
        self.to.flush()
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    to.extend(code.to_ne_bytes());
    to.extend((value.len() as u16).to_ne_bytes());
    to.extend(value);
    pad(to);
}

fn block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (12 + body.len() as u32).to_ne_bytes();
    to.write_all(&kind.to_ne_bytes())?;
    to.write_all(&length)?;
    to.write_all(body)?;
    to.write_all(&length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{maps::SAMPLE_BYTES, outcome::Outcome};

    #[test]
    fn blocks_have_their_lengths_at_both_ends() {
        let mut bytes = vec![];
        let mut capture = Capture::new(&mut bytes).unwrap();
        let sample = Sample {
            time_ns: 5,
            ifindex: 2,
            outcome: Outcome::Delivered as u32,
            length: 61,
            captured: 61,
            program: 0,
            pad: 0,
            bytes: [7; SAMPLE_BYTES],
        };
        capture.add(&sample, 1_700_000_000_000_000_000).unwrap();
        let mut rest = &bytes[..];
        let mut kinds = vec![];
        while !rest.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(length - 4) as usize, length);
            kinds.push(word(0));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET]);
        assert!(String::from_utf8_lossy(&bytes).contains("delivered (ingress, interface 2)"));
    }
}

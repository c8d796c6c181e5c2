//! A failing case as a capture file, to look at with tcpdump or Wireshark.

use std::{io, path::PathBuf};

/// The classic file header: magic, version 2.4, no time zone, snap length, link type 1 (Ethernet).
const HEADER: [u32; 6] = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1];

/// Writes the frames, one second apart, to a new file in the temporary folder and returns its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write<'a>(name: &str, frames: impl IntoIterator<Item = &'a [u8]>) -> io::Result<PathBuf> {
    let mut bytes: Vec<u8> = HEADER.iter().flat_map(|word| word.to_ne_bytes()).collect();
    for (second, frame) in (0u32..).zip(frames) {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        for word in [second, 0, length, length] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame);
    }
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = std::env::temp_dir().join(format!(
        "herald-{}-{}.pcap",
        name.trim_matches('-'),
        std::process::id()
    ));
    std::fs::write(&path, bytes)?;
    Ok(path)
}

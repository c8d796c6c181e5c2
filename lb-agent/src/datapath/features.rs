//! What a network device's driver can do with XDP, as the kernel's `netdev` family of generic
//! netlink tells (`Documentation/netlink/specs/netdev.yaml`; Linux 6.3).
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read as _},
    time::Duration,
};

/// Of `enum netdev_xdp_act`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Native XDP.
    pub const fn native(self) -> bool {
        self.0 & 1 != 0
    }

    /// Native XDP for frames in several buffers, so also for jumbo frames.
    pub const fn multi_buffer(self) -> bool {
        self.0 & 32 != 0
    }
}

const NETLINK_GENERIC: i32 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Bytes of the netlink header, and of that with the generic one behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// A request with one attribute.
fn request(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS + 4];
    bytes[4..6].copy_from_slice(&family.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[16] = command;
    bytes[17] = 1;
    bytes[20..22].copy_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    bytes[22..24].copy_from_slice(&kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The value of an attribute in an answer.
fn attribute(answer: &[u8], wanted: u16) -> io::Result<&[u8]> {
    let malformed = || io::Error::other("malformed answer of generic netlink");
    if u16_at(answer, 4).ok_or_else(malformed)? == NLMSG_ERROR {
        let number = answer.get(HEADER..HEADER + 4).ok_or_else(malformed)?;
        let number = i32::from_ne_bytes(number.try_into().map_err(|_| malformed())?);
        return Err(io::Error::from_raw_os_error(number.saturating_neg()));
    }
    let mut rest = answer.get(HEADERS..).ok_or_else(malformed)?;
    while rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 0).ok_or_else(malformed)?);
        let kind = u16_at(rest, 2).ok_or_else(malformed)?;
        let value = rest.get(4..length).ok_or_else(malformed)?;
        if kind & 0x3fff == wanted {
            return Ok(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn ask(mut socket: &Socket, request: &[u8]) -> io::Result<Vec<u8>> {
    // A socket without a peer sends to the kernel.
    socket.send(request)?;
    let mut buffer = vec![0; 8192];
    let length = socket.read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Asks the kernel what the driver of an interface can do.
///
/// # Errors
///
/// `ENODEV` if there is no such interface, `ENOENT` or `NotFound` if the kernel does not know the
/// question.
pub fn of(ifindex: u32) -> io::Result<Features> {
    let protocol = Protocol::from(NETLINK_GENERIC);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let name = request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = ask(&socket, &name)?;
    let family = u16_at(attribute(&answer, CTRL_ATTR_FAMILY_ID)?, 0);
    let family = family.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let device = ifindex.to_ne_bytes();
    let answer = ask(&socket, &request(family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &device))?;
    let features = attribute(&answer, NETDEV_A_DEV_XDP_FEATURES)?;
    let features = features.first_chunk().ok_or_else(|| io::Error::other("a short answer"))?;
    Ok(Features(u64::from_ne_bytes(*features)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernel_answers() {
        // The loopback has index 1 in every network namespace, and no driver.
        match of(1) {
            Ok(features) => assert!(!features.native()),
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
        assert!(of(u32::MAX).is_err());
    }

    #[test]
    fn attributes_are_found_behind_others() {
        let mut answer = request(20, 1, 7, b"abc");
        answer.extend([12, 0, 3, 0, 33, 0, 0, 0, 0, 0, 0, 0].map(u8::to_le));
        if cfg!(target_endian = "little") {
            assert_eq!(attribute(&answer, 3).unwrap(), [33, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(attribute(&answer, 7).unwrap(), b"abc");
        assert_eq!(attribute(&answer, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Features(33).native() && Features(33).multi_buffer() && !Features(32).native());
    }

    proptest! {
        #[test]
        fn arbitrary_answers_are_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            kind: u16,
        ) {
            let _: io::Result<&[u8]> = attribute(&bytes, kind);
        }
    }
}

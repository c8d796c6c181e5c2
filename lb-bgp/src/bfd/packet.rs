//! Control packets (RFC 5880 section 4.1).
use crate::wire::Reader;
use std::{fmt, num::NonZeroU8, time::Duration};

/// Octets of a packet without authentication.
pub const LENGTH: usize = 24;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session (RFC 5880 section 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Not in use, on purpose: says nothing of the way.
    AdminDown,
    /// The peer is not heard.
    #[default]
    Down,
    /// The peer is heard, but has not said that it hears us.
    Init,
    /// Both hear each other.
    Up,
}

/// Why a session last left Up (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Diagnostic {
    /// It never has.
    #[default]
    None,
    /// Nothing was heard for the detection time.
    DetectionTimeExpired,
    /// Echo packets did not come back.
    EchoFailed,
    /// The peer said that it does not hear us.
    NeighborSignaledDown,
    /// The forwarding plane was reset.
    ForwardingReset,
    /// The path is down, by other means of knowing.
    PathDown,
    /// Something further along the path is down.
    ConcatenatedPathDown,
    /// It was taken out of use.
    AdministrativelyDown,
    /// The same, further along the path.
    ReverseConcatenatedPathDown,
    /// Any other, as it is.
    Other(u8),
}

impl Diagnostic {
    const ALL: [Self; 9] = [
        Self::None,
        Self::DetectionTimeExpired,
        Self::EchoFailed,
        Self::NeighborSignaledDown,
        Self::ForwardingReset,
        Self::PathDown,
        Self::ConcatenatedPathDown,
        Self::AdministrativelyDown,
        Self::ReverseConcatenatedPathDown,
    ];

    fn of(bits: u8) -> Self {
        Self::ALL.get(usize::from(bits)).copied().unwrap_or(Self::Other(bits))
    }

    fn bits(self) -> u8 {
        match self {
            Self::Other(bits) => bits & 0x1f,
            named => Self::ALL.iter().position(|one| *one == named).map_or(0, crate::wire::octet),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no diagnostic",
            Self::DetectionTimeExpired => "control detection time expired",
            Self::EchoFailed => "echo function failed",
            Self::NeighborSignaledDown => "neighbor signaled session down",
            Self::ForwardingReset => "forwarding plane reset",
            Self::PathDown => "path down",
            Self::ConcatenatedPathDown => "concatenated path down",
            Self::AdministrativelyDown => "administratively down",
            Self::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Self::Other(bits) => return write!(f, "diagnostic {bits}"),
        })
    }
}

/// A control packet without authentication. Multipoint is never set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The sender asks for a packet with `is_final` (P).
    pub poll: bool,
    /// The packet answers such a one (F).
    pub is_final: bool,
    /// The sender's BFD goes on when its control plane does not (C).
    pub control_plane_independent: bool,
    /// The sender does not want to be sent packets regularly (D).
    pub demand: bool,
    /// How many packets of the sender's may be missed.
    pub detect_multiplier: NonZeroU8,
    /// The sender's own number for the session. Not zero.
    pub my_discriminator: u32,
    /// The receiver's, as far as the sender knows it; else zero.
    pub your_discriminator: u32,
    /// How often the sender would like to send, as microseconds between two packets.
    pub desired_min_tx: Duration,
    /// How often it can receive; zero: not at all, regularly.
    pub required_min_rx: Duration,
    /// How often it can receive echo packets; zero: not at all.
    pub required_min_echo_rx: Duration,
}

/// A packet that is to be dropped (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// It is shorter than a packet, or than it says.
    #[error("the packet is too short")]
    Short,
    /// It is of another version.
    #[error("the packet is of version {0}, not 1")]
    Version(u8),
    /// It has authentication, and no session does.
    #[error("the packet is authenticated, which is not supported")]
    Authenticated,
    /// Its detection multiplier is zero.
    #[error("the packet's detection multiplier is zero")]
    NoMultiplier,
    /// It is for several receivers.
    #[error("the packet has the multipoint bit set")]
    Multipoint,
    /// Its sender has no number.
    #[error("the packet has no discriminator of its sender's")]
    NoDiscriminator,
    /// It is for nobody, though its sender knows of a session.
    #[error("the packet has no discriminator of ours, though its sender's state is {0:?}")]
    NoYourDiscriminator(State),
}

impl Packet {
    /// The packet as it is sent. Durations beyond 71 minutes are cut to that.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.bits();
        bytes[1] = state << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        bytes[2] = self.detect_multiplier.get();
        bytes[3] = crate::wire::octet(LENGTH);
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            micros(self.required_min_echo_rx),
        ];
        bytes[4..].copy_from_slice(words.map(u32::to_be_bytes).as_flattened());
        bytes
    }

    /// Reads the payload of a UDP datagram, with the checks of RFC 5880 section 6.8.6 that need no
    /// session.
    ///
    /// # Errors
    ///
    /// It is to be dropped.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let mut reader = Reader::new(bytes);
        let [first, flags, multiplier, length] = reader.array().ok_or(PacketError::Short)?;
        if first >> 5 != VERSION {
            return Err(PacketError::Version(first >> 5));
        }
        let authenticated = flags & AUTHENTICATION != 0;
        let least = LENGTH + if authenticated { 2 } else { 0 };
        let length = usize::from(length);
        if length < least || bytes.len() < length {
            return Err(PacketError::Short);
        }
        let detect_multiplier = NonZeroU8::new(multiplier).ok_or(PacketError::NoMultiplier)?;
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let mut word = || reader.u32().ok_or(PacketError::Short);
        let (my_discriminator, your_discriminator) = (word()?, word()?);
        if my_discriminator == 0 {
            return Err(PacketError::NoDiscriminator);
        }
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        if your_discriminator == 0 && matches!(state, State::Init | State::Up) {
            return Err(PacketError::NoYourDiscriminator(state));
        }
        if authenticated {
            return Err(PacketError::Authenticated);
        }
        let mut interval = || word().map(|micros| Duration::from_micros(micros.into()));
        Ok(Self {
            diagnostic: Diagnostic::of(first & 0x1f),
            state,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval()?,
            required_min_rx: interval()?,
            required_min_echo_rx: interval()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Up, diagnostic 1, poll, multiplier 3, 300 ms.
    const SAMPLE: [u8; LENGTH] =
        [0x21, 0xe0, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];

    fn sample() -> Packet {
        Packet {
            diagnostic: Diagnostic::DetectionTimeExpired,
            state: State::Up,
            poll: true,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: NonZeroU8::new(3).unwrap(),
            my_discriminator: 7,
            your_discriminator: 9,
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_millis(300),
            required_min_echo_rx: Duration::ZERO,
        }
    }

    #[test]
    fn a_packet_stands_as_the_rfc_draws_it() {
        assert_eq!(sample().encode(), SAMPLE);
        assert_eq!(Packet::decode(&SAMPLE), Ok(sample()));
    }

    #[test]
    fn packets_that_cannot_be_are_dropped_for_their_reason() {
        let change = |changes: &[(usize, u8)]| {
            let mut bytes = SAMPLE.to_vec();
            changes.iter().for_each(|(at, to)| bytes[*at] = *to);
            bytes
        };
        let authenticated = [change(&[(1, 0xe4), (3, 26)]), vec![1, 2]].concat();
        for (bytes, expected) in [
            (vec![], PacketError::Short),
            (SAMPLE[..23].to_vec(), PacketError::Short),
            (change(&[(3, 23)]), PacketError::Short),
            (change(&[(3, 25)]), PacketError::Short),
            (change(&[(1, 0xe4)]), PacketError::Short),
            (authenticated, PacketError::Authenticated),
            (change(&[(0, 0x01)]), PacketError::Version(0)),
            (change(&[(0, 0x41)]), PacketError::Version(2)),
            (change(&[(2, 0)]), PacketError::NoMultiplier),
            (change(&[(1, 0xe1)]), PacketError::Multipoint),
            (change(&[(7, 0)]), PacketError::NoDiscriminator),
            (change(&[(11, 0)]), PacketError::NoYourDiscriminator(State::Up)),
            (change(&[(11, 0), (1, 0x80)]), PacketError::NoYourDiscriminator(State::Init)),
        ] {
            assert_eq!(Packet::decode(&bytes), Err(expected), "{bytes:?}");
        }
        assert!(Packet::decode(&change(&[(11, 0), (1, 0x40)])).is_ok(), "Down knows of nobody");
        // What follows the packet does not belong to it.
        assert!(Packet::decode(&[&SAMPLE[..], &[9, 9]].concat()).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_alike(mut bytes in proptest::collection::vec(any::<u8>(), 24..30)) {
            bytes[0] = bytes[0] & 0x1f | VERSION << 5;
            bytes[1] &= !(AUTHENTICATION | MULTIPOINT);
            bytes[3] = 24;
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(&packet.encode()[..], &bytes[..LENGTH]);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::decode(&bytes);
        }
    }
}

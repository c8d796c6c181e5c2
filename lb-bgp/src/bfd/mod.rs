//! Bidirectional Forwarding Detection: whether a peer still gets our packets and we its, within a
//! fraction of a second (RFC 5880; over IP, RFC 5881, and over several hops, RFC 5883).
//!
//! [`packet`] is what is sent, [`session`] when, and what is concluded from what comes.
pub mod packet;
pub mod session;
mod timing;

pub use packet::{Diagnostic, Packet, PacketError, State};
pub use session::{Change, Config, Discard, Session};

/// UDP port of sessions over one hop (RFC 5881 section 4). Source ports are 49152 to 65535.
pub const PORT: u16 = 3784;
/// UDP port of sessions over several hops (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
/// TTL or hop limit of what is sent over one hop (RFC 5881 section 5).
pub const TTL: u8 = 255;

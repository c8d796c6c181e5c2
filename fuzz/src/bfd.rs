//! Control packets of BFD: [`lb_bgp::bfd`].

use lb_bgp::bfd::{
    Diagnostic, Packet, State,
    packet::LENGTH,
    session::{Config, Session},
};
use std::{
    num::NonZeroU8,
    time::{Duration, Instant},
};

/// Reads each piece of a packet's length as one, and gives it to a session, which goes on whatever
/// comes; what it says can be read.
pub fn run(data: &[u8]) {
    let mut now = Instant::now();
    let config = Config {
        desired_min_tx: Duration::from_millis(300),
        required_min_rx: Duration::from_millis(300),
        detect_multiplier: NonZeroU8::MIN,
        passive: false,
        minimum_ttl: 255,
    };
    let mut session = Session::new(config, 7, 1, now);
    for piece in data.chunks(LENGTH) {
        if let Ok(packet) = Packet::decode(piece) {
            assert_eq!(packet.encode()[4..], piece[4..LENGTH]);
            let _ = session.receive(&packet, 255, now);
        }
        let mut sent = 0;
        while let Some(packet) = session.poll(now) {
            assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            sent += 1;
            assert!(sent < 4, "packets without end");
        }
        while session.next_change().is_some() {}
        // A little, or until the next deadline.
        now = match session.next_deadline() {
            Some(at) if piece[0] & 1 == 0 => at.max(now),
            _ => now + Duration::from_millis(100),
        };
    }
}

/// Packets in all states, alone and one after another.
pub fn seeds() -> Vec<Vec<u8>> {
    let packet = |state, your_discriminator, poll| Packet {
        diagnostic: Diagnostic::None,
        state,
        poll,
        is_final: !poll,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: NonZeroU8::MIN,
        my_discriminator: 9,
        your_discriminator,
        desired_min_tx: Duration::from_millis(300),
        required_min_rx: Duration::from_millis(300),
        required_min_echo_rx: Duration::ZERO,
    };
    let all = [
        packet(State::Down, 0, false),
        packet(State::Init, 7, false),
        packet(State::Up, 7, true),
        packet(State::Up, 7, false),
        packet(State::AdminDown, 7, false),
    ];
    let mut seeds: Vec<Vec<u8>> = all.iter().map(|packet| packet.encode().to_vec()).collect();
    seeds.push(seeds.concat());
    seeds
}

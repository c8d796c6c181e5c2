//! Heartbeats: [`lb_agent::membership::message`].

use lb_agent::membership::{
    Departure,
    cookies::Cookie,
    message::{Message, begins_as_one},
};

/// As many interfaces or addresses as a message tells of.
const MOST: usize = 64;

/// Reads a datagram; what it says can be said again.
pub fn run(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    assert!(begins_as_one(data));
    if message.interfaces.len() <= MOST && message.heard.len() <= MOST {
        assert_eq!(Message::parse(&message.encode()), Ok(message));
    }
}

/// Messages of all kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let message = |departure, interfaces: &[&str], heard: &[&str]| Message {
        node: "node-1".to_owned(),
        incarnation: 1,
        sequence: 2,
        departure,
        plan_version: 3,
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
        cookie: Cookie::new(4),
        heard: heard.iter().filter_map(|address| address.parse().ok()).collect(),
    };
    let all = [
        message(None, &["eth0", "bond0.100"], &["192.0.2.1", "2001:db8::1"]),
        message(Some(Departure::Stopping), &["."], &[]),
        message(Some(Departure::Unloading), &[], &["192.0.2.2"]),
    ];
    all.iter().map(Message::encode).collect()
}

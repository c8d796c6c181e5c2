//! What agents send each other: [`lb_agent::membership::envelope`] and [`lb_agent::membership::message`].

use lb_agent::membership::{
    Departure,
    cookies::Cookie,
    envelope::{Envelopes, Kind, Opened, Random, sender},
    keys::Keyring,
    message::{Hello, Moved, ROOM, Report, Trouble},
    probing::read_answer,
};
use std::time::{Duration, Instant};

/// As many interfaces or addresses as a message tells of.
const MOST: usize = 64;

/// Reads a datagram, as one that was authenticated and as one that is yet to be; what it says can be
/// said again.
pub fn run(data: &[u8]) {
    let _ = (sender(data), read_answer(data));
    for keys in [Keyring::default(), Keyring::from_lines("0123456789abcdef").unwrap_or_default()] {
        let mut random = Random::new(|| 1);
        let secured = !keys.is_empty();
        let mut envelopes = Envelopes::new("node-2", keys, &mut random);
        if let Ok(opened) = envelopes.open(data, &mut random, Instant::now()) {
            assert!(!secured, "a tag was guessed");
            assert!(!matches!(opened, Opened::Message { .. }), "the session was not proven");
        }
    }
    let Ok(hello) = Hello::parse(data) else { return };
    if hello.report.interfaces.len() > MOST || hello.heard.len() > MOST {
        return;
    }
    let (bytes, told) = hello.encode();
    let again = Hello::parse(&bytes);
    let expected = Hello { news: hello.news[..told].to_vec(), ..hello };
    assert_eq!(again, Ok(expected));
    assert!(told == 0 || bytes.len() <= ROOM);
}

/// Messages of all kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let report = |departure, interfaces: &[&str]| Report {
        node: "node-1".to_owned(),
        incarnation: 1,
        version: 2,
        departure,
        held_until_s: departure.map(|_| 5),
        plan_version: 3,
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
        cookie: Cookie::new(4),
        troubles: [("node-3".to_owned(), Trouble { unseen: true, ..Trouble::UNKNOWN })].into(),
    };
    let hello = |report: Report, heard: &[&str], news: Vec<Report>| Hello {
        answer: true,
        heard: heard.iter().filter_map(|address| address.parse().ok()).collect(),
        moves: vec![Moved { age: Duration::from_secs(9), lost: true }],
        report,
        news,
    };
    let all = [
        hello(report(None, &["eth0", "bond0.100"]), &["192.0.2.1", "2001:db8::1"], Vec::new()),
        hello(report(Some(Departure::Stopping), &["."]), &[], vec![report(None, &["eth1"])]),
        hello(report(Some(Departure::Unloading), &[]), &["192.0.2.2"], Vec::new()),
    ];
    let mut seeds: Vec<_> = all.iter().map(|hello| hello.encode().0).collect();
    let mut random = Random::new(|| 2);
    let mut envelopes = Envelopes::new("node-1", Keyring::default(), &mut random);
    let sealed = [Kind::Hello, Kind::Challenge, Kind::Other]
        .map(|kind| envelopes.seal("node-2", kind, &[0; 8], Instant::now()));
    seeds.extend(sealed);
    seeds
}

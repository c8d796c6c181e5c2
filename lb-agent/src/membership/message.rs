//! What agents tell each other: the content of an [envelope](super::envelope).
//!
//! A *hello* brings its sender's report, and reports of others that have changed of late:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | flags: 1 an answer is wanted |
//! | 1 | number of addresses |
//! | 1 | number of moves |
//! | 1 | number of reports |
//! | | each address of the receiver whose [probe frames](super::proofs) arrive: 16 bytes, IPv4 mapped |
//! | | each [move](super::damping) of the receiver's VIPs: milliseconds since then 4, 1 it lost them or 0 |
//! | | each report, the sender's own first |
//!
//! A report is what an agent says of its node, and of those that it watches:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | flags: 1 the agent stops, 2 its kernel programs go too, 4 it is [held](super::damping), 8 it is started again soon |
//! | 1 | length of the node's name |
//! | 1 | number of uplinks |
//! | 1 | number of nodes in trouble |
//! | 4 | [plan version](crate::plan::PLAN_VERSION) |
//! | 8 | incarnation: larger each time the agent starts |
//! | 8 | version within the incarnation |
//! | 8 | [cookie](super::cookies) that the node asks tunnelled packets to carry; 0 is none yet |
//! | 8 | until when it is held, seconds since 1970; only with flag 4 |
//! | | the node's name |
//! | | each uplink: a length byte and its name |
//! | | each node in trouble: 1 its kernel does not answer, 2 its agent is silent, 4 neither is known yet; a length byte and its name |
//!
//! Numbers are big-endian. A change of the layout is a new version of the envelope.
use super::{Departure, cookies::Cookie};
use crate::{
    bytes::{Short, take, take_slice},
    datapath::{address_bytes, address_from_bytes},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

const ANSWER: u8 = 1;
const STOPPING: u8 = 1;
const UNLOADING: u8 = 2;
const HELD: u8 = 4;
const RESTARTING: u8 = 8;
const UNSEEN: u8 = 1;
const SILENT: u8 = 2;
const UNKNOWN: u8 = 4;
/// Most uplinks that are told of.
const MAX_INTERFACES: usize = 64;
/// Most addresses that are told of.
const MAX_HEARD: usize = 64;
/// Most nodes in trouble that one agent tells of: it watches fewer.
const MAX_TROUBLES: usize = 128;
/// Up to so many bytes, reports of others are added to a hello: with its envelope it then fits every
/// path (1,280 bytes, RFC 8200 section 5).
pub const ROOM: usize = 900;

/// What a watcher finds of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// Its kernel does not answer.
    pub unseen: bool,
    /// Its agent is silent.
    pub silent: bool,
    /// The watcher has just begun, and has no opinion.
    pub unknown: bool,
}

impl Trouble {
    /// What a watcher that has just begun finds.
    pub const UNKNOWN: Self = Self { unseen: false, silent: false, unknown: true };

    /// Whether there is anything to tell.
    pub fn any(self) -> bool {
        self.unseen || self.silent || self.unknown
    }
}

/// What an agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of which node.
    pub node: String,
    /// Larger each time its agent starts.
    pub incarnation: u64,
    /// Larger with each change within an incarnation.
    pub version: u64,
    /// The agent goes.
    pub departure: Option<Departure>,
    /// Until then it may own VIPs only where nobody else can: seconds since 1970 by its own clock.
    pub held_until_s: Option<u64>,
    /// The rules that the agent decides by.
    pub plan_version: u32,
    /// The names of its uplinks, and [what else](super::told) it tells of them.
    pub interfaces: BTreeSet<String>,
    /// What it asks tunnelled packets to carry.
    pub cookie: Option<Cookie>,
    /// The nodes that it watches and that are not as they should be.
    pub troubles: BTreeMap<String, Trouble>,
}

/// A time at which the receiver lost its VIPs, or got them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// How long ago.
    pub age: Duration,
    /// Lost, or got back.
    pub lost: bool,
}

/// A hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The receiver is to write at once.
    pub answer: bool,
    /// The receiver's addresses whose probe frames have arrived at the sender of late.
    pub heard: BTreeSet<IpAddr>,
    /// How often the receiver's VIPs have moved of late, the latest last.
    pub moves: Vec<Moved>,
    /// The sender's report.
    pub report: Report,
    /// Reports of others.
    pub news: Vec<Report>,
}

/// Why the content is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early or goes on after its end.
    #[error("hello of the wrong length")]
    Length,
    /// A name is not UTF-8 or is empty.
    #[error("hello with a name that is not text")]
    Name,
}

impl From<Short> for Malformed {
    fn from(Short: Short) -> Self {
        Self::Length
    }
}

impl Report {
    /// Whether its VIPs are to be others' from now on.
    pub fn gives_up(&self) -> bool {
        self.departure.is_some_and(|departure| departure != Departure::Restarting)
    }

    /// Which of two reports of a node is the later one.
    pub fn order(&self) -> (u64, u64) {
        (self.incarnation, self.version)
    }

    /// Names longer than 255 bytes, which neither nodes nor interfaces can have, make one that
    /// nobody accepts.
    fn write(&self, bytes: &mut Vec<u8>) {
        let interfaces: Vec<_> = self.interfaces.iter().take(MAX_INTERFACES).collect();
        let troubles: Vec<_> = self.troubles.iter().take(MAX_TROUBLES).collect();
        let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
        let mut flags = match self.departure {
            None => 0,
            Some(Departure::Restarting) => RESTARTING,
            Some(Departure::Stopping) => STOPPING,
            Some(Departure::Unloading) => STOPPING | UNLOADING,
        };
        if self.held_until_s.is_some() {
            flags |= HELD;
        }
        bytes.extend([flags, length(&self.node), interfaces.len() as u8, troubles.len() as u8]);
        bytes.extend(self.plan_version.to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.cookie.map_or(0, Cookie::get).to_be_bytes());
        if let Some(until) = self.held_until_s {
            bytes.extend(until.to_be_bytes());
        }
        bytes.extend(self.node.as_bytes());
        for interface in interfaces {
            bytes.push(length(interface));
            bytes.extend(interface.as_bytes());
        }
        for (name, trouble) in troubles {
            let unseen = if trouble.unseen { UNSEEN } else { 0 };
            let silent = if trouble.silent { SILENT } else { 0 };
            let unknown = if trouble.unknown { UNKNOWN } else { 0 };
            bytes.extend([unseen | silent | unknown, length(name)]);
            bytes.extend(name.as_bytes());
        }
    }

    fn read(rest: &mut &[u8]) -> Result<Self, Malformed> {
        let [flags, name_length, interfaces, troubles] = take(rest)?;
        let plan_version = u32::from_be_bytes(take(rest)?);
        let incarnation = u64::from_be_bytes(take(rest)?);
        let version = u64::from_be_bytes(take(rest)?);
        let cookie = Cookie::new(u64::from_be_bytes(take(rest)?));
        let held_until_s =
            if flags & HELD == 0 { None } else { Some(u64::from_be_bytes(take(rest)?)) };
        let node = name(rest, name_length)?;
        let mut report =
            Self { node, incarnation, version, plan_version, cookie, ..Self::default() };
        report.held_until_s = held_until_s;
        // What says more counts.
        let departures = [
            (UNLOADING, Departure::Unloading),
            (STOPPING, Departure::Stopping),
            (RESTARTING, Departure::Restarting),
        ];
        let departure = departures.into_iter().find(|(flag, _)| flags & flag != 0);
        report.departure = departure.map(|(_, departure)| departure);
        for _ in 0..interfaces {
            let [length] = take(rest)?;
            report.interfaces.insert(name(rest, length)?);
        }
        for _ in 0..troubles {
            let [flags, length] = take(rest)?;
            let trouble = Trouble {
                unseen: flags & UNSEEN != 0,
                silent: flags & SILENT != 0,
                unknown: flags & UNKNOWN != 0,
            };
            report.troubles.insert(name(rest, length)?, trouble);
        }
        Ok(report)
    }
}

impl Hello {
    /// The content of an envelope, and how many of `news` there was room for.
    pub fn encode(&self) -> (Vec<u8>, usize) {
        let heard: Vec<_> = self.heard.iter().take(MAX_HEARD).collect();
        let moves = &self.moves[self.moves.len().saturating_sub(u8::MAX.into())..];
        let mut bytes =
            vec![u8::from(self.answer) * ANSWER, heard.len() as u8, moves.len() as u8, 1];
        for address in heard {
            bytes.extend(address_bytes(*address));
        }
        for moved in moves {
            let age = u32::try_from(moved.age.as_millis()).unwrap_or(u32::MAX);
            bytes.extend(age.to_be_bytes());
            bytes.push(moved.lost.into());
        }
        self.report.write(&mut bytes);
        for report in self.news.iter().take(usize::from(u8::MAX) - 1) {
            let before = bytes.len();
            report.write(&mut bytes);
            if bytes.len() > ROOM {
                bytes.truncate(before);
                break;
            }
            bytes[3] += 1;
        }
        let told = usize::from(bytes[3]) - 1;
        (bytes, told)
    }

    /// Reads the content of an envelope.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let [flags, heard, moves, reports] = take(&mut rest)?;
        let mut hello = Self { answer: flags & ANSWER != 0, ..Self::default() };
        for _ in 0..heard {
            hello.heard.insert(address_from_bytes(take(&mut rest)?));
        }
        for _ in 0..moves {
            let age = Duration::from_millis(u32::from_be_bytes(take(&mut rest)?).into());
            let [lost] = take(&mut rest)?;
            hello.moves.push(Moved { age, lost: lost != 0 });
        }
        let Some(others) = reports.checked_sub(1) else { return Err(Malformed::Length) };
        hello.report = Report::read(&mut rest)?;
        for _ in 0..others {
            hello.news.push(Report::read(&mut rest)?);
        }
        if rest.is_empty() { Ok(hello) } else { Err(Malformed::Length) }
    }
}

fn name(rest: &mut &[u8], length: u8) -> Result<String, Malformed> {
    let text = str::from_utf8(take_slice(rest, length.into())?).map_err(|_| Malformed::Name)?;
    if text.is_empty() { Err(Malformed::Name) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> impl Strategy<Value = Report> {
        let departures = vec![Departure::Restarting, Departure::Stopping, Departure::Unloading];
        let departure = prop::option::of(prop::sample::select(departures));
        let interfaces = prop::collection::btree_set("[a-z0-9.]{1,15}", 0..10);
        let trouble = any::<(bool, bool, bool)>().prop_map(|(unseen, silent, unknown)| Trouble {
            unseen,
            silent,
            unknown,
        });
        let troubles = prop::collection::btree_map("[a-z0-9.]{1,63}", trouble, 0..5);
        let numbers = any::<(u64, u64, u32, u64, Option<u64>)>();
        ("[a-z0-9.-]{1,253}", numbers, departure, interfaces, troubles).prop_map(
            |(
                node,
                (incarnation, version, plan_version, cookie, held_until_s),
                departure,
                interfaces,
                troubles,
            )| {
                let cookie = Cookie::new(cookie);
                Report {
                    node,
                    incarnation,
                    version,
                    departure,
                    held_until_s,
                    plan_version,
                    interfaces,
                    cookie,
                    troubles,
                }
            },
        )
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let heard = prop::collection::btree_set(any::<IpAddr>(), 0..10);
        let moved = any::<(u32, bool)>()
            .prop_map(|(age, lost)| Moved { age: Duration::from_millis(age.into()), lost });
        let moves = prop::collection::vec(moved, 0..6);
        (any::<bool>(), heard, moves, report(), prop::collection::vec(report(), 0..4)).prop_map(
            |(answer, heard, moves, report, news)| {
                let heard = heard.iter().map(IpAddr::to_canonical).collect();
                Hello { answer, heard, moves, report, news }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hello in hello(), cut in any::<prop::sample::Index>()) {
            let (bytes, news) = hello.encode();
            let read = Hello::parse(&bytes).unwrap();
            prop_assert_eq!(news, read.news.len());
            prop_assert_eq!(&read.news[..], &hello.news[..news]);
            prop_assert!(news == hello.news.len() || bytes.len() <= ROOM || news == 0);
            prop_assert_eq!(Hello { news: Vec::new(), ..read }, Hello { news: Vec::new(), ..hello });
            let cut = cut.index(bytes.len());
            prop_assert_eq!(Hello::parse(&bytes[..cut]), Err(Malformed::Length));
            let longer = [bytes, vec![0]].concat();
            prop_assert_eq!(Hello::parse(&longer), Err(Malformed::Length));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::parse(&bytes);
            let likely = [&[0, 0, 0, 1][..], &bytes].concat();
            let _ = Hello::parse(&likely);
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let hello = Hello {
            answer: true,
            heard: ["10.0.0.1".parse().unwrap()].into(),
            moves: vec![Moved { age: Duration::from_millis(258), lost: true }],
            report: Report {
                node: "n1".to_owned(),
                incarnation: 0x0102,
                version: 0x0304,
                departure: Some(Departure::Stopping),
                held_until_s: Some(0x0708),
                plan_version: 5,
                interfaces: ["eth0".to_owned()].into(),
                cookie: Cookie::new(0x0506),
                troubles: [("n2".to_owned(), Trouble { silent: true, ..Trouble::default() })]
                    .into(),
            },
            news: Vec::new(),
        };
        let expected = [
            &b"\x01\x01\x01\x01\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\0\0\x01\x02\x01"[..],
            b"\x05\x02\x01\x01\0\0\0\x05\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x03\x04\0\0\0\0\0\0\x05\x06",
            b"\0\0\0\0\0\0\x07\x08",
            b"n1\x04eth0\x02\x02n2",
        ]
        .concat();
        assert_eq!(hello.encode(), (expected, 0));
    }
}

//! What has to go from the kernel's connection tracking when a VIP:port changes hands.
//!
//! A connection that kube-proxy serves is tracked as client → VIP, with replies pod → client.
//! One that Herald serves directly is tracked as client → pod, with the very same replies. Two
//! entries cannot have the same reply. So while an entry of the one kind is there, a new
//! connection of the other kind from the same client port to the same pod clashes with it: the
//! kernel gives it another port on the pod's side where a NAT chain is there to do so, and else,
//! or when it finds none, drops its SYN. Entries of finished connections stay for two minutes,
//! and clients use their ports again.
//!
//! So when a VIP:port changes from the one kind to the other, and when it is served for the
//! first time (kube-proxy may have served it before), the entries of finished connections of
//! the former kind are removed: just after the change, and then as connections that were open
//! at the change come to their end. Those that are open stay: they go on where they are.
//!
//! Not before the change: a client that uses its port again brings a finished entry back to
//! life, and the kernel may give the new one the same place and so the same identifier. It would
//! be removed in its stead, and a connection with it. Once the change is made, no new connection
//! uses an entry of the former kind.
use super::{Entry, Phase};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// After a look that found something to remove.
const SOONEST: Duration = Duration::from_millis(20);
/// Longest pause while connections of the former kind are open.
const LATEST: Duration = Duration::from_secs(5);
/// A pause is at least so many times as long as the look before it: the kernel goes through its
/// whole table to list any part of it, and new connections want that table, too.
const REST: u32 = 3;
/// For how long at least the entries are looked at: connections that were being opened at
/// the change may not show at once.
const SETTLE: Duration = Duration::from_secs(3);
/// The least number of addresses for which the whole table is read at once, rather than by
/// one list each.
const MANY: usize = 8;

/// A VIP's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// How a VIP:port is served on this node from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hands {
    /// By Herald: kube-proxy's finished connections are in the way.
    Direct,
    /// By kube-proxy: finished connections to these endpoints are in the way.
    Kernel(BTreeSet<SocketAddr>),
}

#[derive(Debug)]
struct Job {
    hands: Hands,
    since: Instant,
}

/// Which entries have to go, and when to look for them: for those of all ports at once.
#[derive(Debug, Default)]
pub struct Takeover {
    jobs: BTreeMap<Port, Job>,
    /// By which `Entry::original.destination` the job of an entry is found.
    places: BTreeMap<(IpAddr, u16, u8), Port>,
    next: Option<Instant>,
    pause: Duration,
    rest_until: Option<Instant>,
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// All entries of a family (true is IPv6).
    Family(bool),
    /// The entries whose packets are to this IPv4 address.
    To(Ipv4Addr),
}

/// How to find the entries whose packets are to these addresses, at least. Of IPv6 all are looked
/// at: the kernel (Linux 6.18, at least) takes its filter by an IPv6 address the wrong way round and
/// lists all entries but those that are asked for.
pub(super) fn looks(addresses: &BTreeSet<IpAddr>) -> Vec<Look> {
    let v4 = || {
        addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    };
    let mut looks: Vec<_> =
        if v4().count() < MANY { v4().map(Look::To).collect() } else { vec![Look::Family(false)] };
    if addresses.iter().any(IpAddr::is_ipv6) {
        looks.push(Look::Family(true));
    }
    looks
}

/// One look at the entries.
#[derive(Debug)]
pub struct Pass {
    /// What to list.
    pub looks: Vec<Look>,
    begun: Instant,
    /// The ports of which something was found, be it to remove or still open.
    found: BTreeSet<Port>,
    delete: Vec<Entry>,
}

impl Takeover {
    /// A VIP:port is served in another way than before, from now on.
    pub fn changes(&mut self, port: Port, hands: Hands, now: Instant) {
        self.forget(&port);
        let of = |address: IpAddr, at: u16| (address, at, port.protocol);
        match &hands {
            Hands::Direct => {
                self.places.insert(of(port.vip, port.port), port);
            }
            Hands::Kernel(endpoints) => {
                for endpoint in endpoints {
                    self.places.insert(of(endpoint.ip(), endpoint.port()), port);
                }
            }
        }
        self.jobs.insert(port, Job { hands, since: now });
        self.pause = SOONEST;
        self.next = Some(self.rest_until.map_or(now, |rested| rested.max(now)));
    }

    /// A VIP:port is not served any more.
    pub fn forget(&mut self, port: &Port) {
        let Some(job) = self.jobs.remove(port) else { return };
        let mut of = |address: IpAddr, at: u16| {
            let place = (address, at, port.protocol);
            if self.places.get(&place) == Some(port) {
                self.places.remove(&place);
            }
        };
        match job.hands {
            Hands::Direct => of(port.vip, port.port),
            Hands::Kernel(endpoints) => endpoints.iter().for_each(|at| of(at.ip(), at.port())),
        }
    }

    /// When to look next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// What to look at, if it is time to.
    pub fn begin(&self, now: Instant) -> Option<Pass> {
        self.next.filter(|next| *next <= now)?;
        let addresses = self.places.keys().map(|(address, ..)| *address).collect();
        let (found, delete) = (BTreeSet::new(), Vec::new());
        Some(Pass { looks: looks(&addresses), begun: now, found, delete })
    }

    /// Takes an entry that was found into account.
    pub fn see(&self, pass: &mut Pass, entry: &Entry) {
        let to = entry.original;
        let place = (to.destination, to.destination_port, to.protocol);
        let Some(port) = self.places.get(&place) else { return };
        let Some(job) = self.jobs.get(port) else { return };
        // What another has translated, or tracks apart, is not in the way.
        let plain =
            entry.reply.source == to.destination && entry.reply.source_port == to.destination_port;
        let former = match job.hands {
            Hands::Direct => !plain,
            Hands::Kernel(_) => plain && entry.reply.destination == to.source,
        };
        if !former || entry.zoned {
            return;
        }
        // UDP has no end; its next packet begins a new flow all the same.
        let stateless = !matches!(to.protocol, STREAM | ASSOCIATION);
        if stateless || matches!(entry.phase, Phase::Over | Phase::Reset) {
            pass.delete.push(*entry);
        }
        pass.found.insert(*port);
    }

    /// Ends a look. Returns what is to be removed.
    pub fn end(&mut self, pass: Pass, now: Instant) -> Vec<Entry> {
        let settled = |job: &Job| now >= job.since + SETTLE;
        let over: Vec<Port> = (self.jobs.iter())
            .filter(|(port, job)| settled(job) && !pass.found.contains(port))
            .map(|(port, _)| *port)
            .collect();
        over.iter().for_each(|port| self.forget(port));
        let longest = if self.jobs.values().all(settled) { LATEST } else { SOONEST * 5 };
        let longer = if pass.delete.is_empty() { self.pause * 2 } else { SOONEST };
        self.pause = longer.min(longest);
        let rest = now.saturating_duration_since(pass.begun) * REST;
        self.rest_until = Some(now + rest);
        self.next = (!self.jobs.is_empty()).then(|| now + self.pause.max(rest));
        pass.delete
    }
}

const STREAM: u8 = lb_common::wire::protocol::TCP;
const ASSOCIATION: u8 = lb_common::wire::protocol::SCTP;

#[cfg(test)]
mod tests {
    use super::{super::Tuple, *};
    use crate::testing::ip;

    const VIP: &str = "192.0.2.10";
    const POD: &str = "10.244.1.5";
    const CLIENT: &str = "10.9.9.9";

    fn tuple(from: (&str, u16), to: (&str, u16)) -> Tuple {
        Tuple {
            source: ip(from.0),
            destination: ip(to.0),
            source_port: from.1,
            destination_port: to.1,
            protocol: 6,
        }
    }

    fn entry(client_port: u16, to: (&str, u16), reply_from: (&str, u16), phase: Phase) -> Entry {
        Entry {
            original: tuple((CLIENT, client_port), to),
            reply: tuple(reply_from, (CLIENT, client_port)),
            seen_reply: true,
            phase,
            id: Some([0, 0, 0, 1]),
            zoned: false,
        }
    }

    fn port() -> Port {
        Port { vip: ip(VIP), port: 80, protocol: 6 }
    }

    fn pass(takeover: &mut Takeover, entries: &[Entry], now: Instant) -> Vec<u16> {
        let mut pass = takeover.begin(now).unwrap();
        entries.iter().for_each(|entry| takeover.see(&mut pass, entry));
        takeover.end(pass, now).iter().map(|entry| entry.original.source_port).collect()
    }

    #[test]
    fn finished_connections_of_kube_proxy_go_when_herald_takes_over() {
        let mut takeover = Takeover::default();
        let mut now = Instant::now();
        takeover.changes(port(), Hands::Direct, now);
        assert_eq!(takeover.begin(now).unwrap().looks, [Look::To(VIP.parse().unwrap())]);
        let (vip, pod) = ((VIP, 80), (POD, 8080));
        let mut entries = vec![
            entry(1, vip, pod, Phase::Over),
            entry(2, vip, pod, Phase::Open),
            entry(3, vip, pod, Phase::Reset),
            entry(4, pod, pod, Phase::Over),
            entry(5, (VIP, 81), pod, Phase::Over),
            entry(6, vip, vip, Phase::Over),
            Entry { zoned: true, ..entry(7, vip, pod, Phase::Over) },
        ];
        assert_eq!(pass(&mut takeover, &entries, now), [1, 3]);
        entries.truncate(2);
        entries.remove(0);
        // While one is open, it is looked at again and again, at longer and longer intervals.
        for _ in 0..100 {
            now = takeover.next_deadline().unwrap();
            assert!(pass(&mut takeover, &entries, now).is_empty());
        }
        assert_eq!(takeover.next_deadline(), Some(now + LATEST));
        now += LATEST;
        entries[0].phase = Phase::Over;
        assert_eq!(pass(&mut takeover, &entries, now), [2]);
        now = takeover.next_deadline().unwrap();
        assert!(pass(&mut takeover, &[], now).is_empty());
        assert_eq!(takeover.next_deadline(), None, "done");
    }

    #[test]
    fn finished_direct_connections_go_when_kube_proxy_takes_over() {
        let mut takeover = Takeover::default();
        let now = Instant::now();
        let endpoints = [SocketAddr::new(ip(POD), 8080)].into();
        takeover.changes(port(), Hands::Kernel(endpoints), now);
        assert_eq!(takeover.begin(now).unwrap().looks, [Look::To(POD.parse().unwrap())]);
        let (vip, pod) = ((VIP, 80), (POD, 8080));
        let entries = [
            entry(1, vip, pod, Phase::Over),
            entry(2, pod, pod, Phase::Over),
            entry(3, pod, pod, Phase::Closing),
            entry(4, (POD, 8081), (POD, 8081), Phase::Over),
        ];
        assert_eq!(pass(&mut takeover, &entries, now), [2]);
    }

    #[test]
    fn a_quiet_change_is_looked_at_for_a_few_seconds() {
        let mut takeover = Takeover::default();
        let start = Instant::now();
        takeover.changes(port(), Hands::Direct, start);
        let mut passes = 0;
        while let Some(now) = takeover.next_deadline() {
            assert!(pass(&mut takeover, &[], now).is_empty());
            passes += 1;
            assert!(now <= start + SETTLE * 2);
        }
        assert!((20..100).contains(&passes), "{passes}");
    }

    #[test]
    fn many_changes_read_the_table_once() {
        let mut takeover = Takeover::default();
        let now = Instant::now();
        for n in 0..20u8 {
            let vip = ip(&format!("192.0.2.{n}"));
            takeover.changes(Port { vip, port: 80, protocol: 6 }, Hands::Direct, now);
        }
        assert_eq!(takeover.begin(now).unwrap().looks, [Look::Family(false)]);
        assert_eq!(
            looks(&[ip(VIP), ip("fd77::1")].into()),
            [Look::To(VIP.parse().unwrap()), Look::Family(true)]
        );
        takeover.forget(&Port { vip: ip("192.0.2.3"), port: 80, protocol: 6 });
        assert_eq!((takeover.jobs.len(), takeover.places.len()), (19, 19));
    }

    #[test]
    fn a_slow_look_is_followed_by_a_long_rest() {
        let mut takeover = Takeover::default();
        let now = Instant::now();
        takeover.changes(port(), Hands::Direct, now);
        let pass = takeover.begin(now).unwrap();
        let end = now + Duration::from_secs(1);
        takeover.end(pass, end);
        let rested = end + Duration::from_secs(3);
        assert_eq!(takeover.next_deadline(), Some(rested));
        // Nor does another change cut it short.
        takeover.changes(Port { port: 81, ..port() }, Hands::Direct, end);
        assert_eq!(takeover.next_deadline(), Some(rested));
        assert!(takeover.begin(end).is_none());
    }
}

//! The address pools, parsed: which addresses there are and whom they may be given to.
//!
//! A pool with a malformed or overlapping entry is refused: it gives no new addresses,
//! and a [`Notice`] names the entry. Its other entries still count as Herald's for the
//! Services that already hold an address of theirs, so that a slip in one line takes no
//! running Service down.
use crate::{
    plan::Notice,
    snapshot::{IpAddressPool, Labels, ObjectName, Service, Snapshot, any_matches},
};
use imbl::OrdMap;
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The one that it is not.
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Addresses of one family from `first` to `last`, both included, as integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The family.
    pub family: Family,
    /// The lowest.
    pub first: u128,
    /// The highest.
    pub last: u128,
}

impl Range {
    /// Reads `prefix/length` (host bits are masked off) or `start-end`.
    pub fn parse(entry: &str) -> Result<Self, String> {
        let entry = entry.trim();
        if let Some((start, end)) = entry.split_once('-') {
            let [start, end] = [start, end].map(str::trim);
            let parse = |text: &str| {
                text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"))
            };
            let (start, end) = (parse(start)?, parse(end)?);
            let family = Family::of(start);
            if family != Family::of(end) {
                return Err("one end is IPv4 and the other IPv6".to_owned());
            }
            let (first, last) = (number(start), number(end));
            if first > last {
                return Err("it ends before it starts".to_owned());
            }
            return Ok(Self { family, first, last });
        }
        let net: IpNet = entry.parse().map_err(|_| {
            if entry.parse::<IpAddr>().is_ok() {
                let bits = if entry.contains(':') { 128 } else { 32 };
                format!("a single address is written {entry}/{bits}")
            } else {
                "it is neither a prefix such as 192.0.2.0/24 nor a range such as \
                 192.0.2.10-192.0.2.20"
                    .to_owned()
            }
        })?;
        Ok(Self {
            family: Family::of(net.network()),
            first: number(net.network()),
            last: number(net.broadcast()),
        })
    }

    /// Whether the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        let n = number(address);
        Family::of(address) == self.family && self.first <= n && n <= self.last
    }
}

/// An address as an integer.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address of an integer; of an IPv4 address only the low 32 bits count.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => {
            let [.., a, b, c, d] = number.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// Whether old equipment mistakes the address for a network's or its broadcast's:
/// IPv4 that ends in 0 or 255.
pub fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if matches!(a.octets()[3], 0 | 255))
}

/// A pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub spec: IpAddressPool,
    /// Its well-formed entries, in the order listed.
    pub ranges: Vec<Range>,
    /// It has an entry that is malformed or overlaps, and gives no new addresses.
    pub refused: bool,
}

impl Pool {
    /// Whether an address is among its entries.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether it has addresses of a family.
    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family == family)
    }

    /// How many addresses of a family it can give, those that it avoids not counted.
    pub fn capacity(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|range| range.family == family);
        let sizes = ranges.map(|range| {
            let size = (range.last - range.first).saturating_add(1);
            if family == Family::V4 && self.spec.avoid_buggy_ips {
                // Those up to n that end in `byte`.
                let up_to = |n: u128, byte: u128| (n + 256 - byte) / 256;
                let within = |byte| {
                    up_to(range.last, byte) - up_to(range.first, byte)
                        + u128::from(range.first % 256 == byte)
                };
                size - within(0) - within(255)
            } else {
                size
            }
        });
        sizes.fold(0, u128::saturating_add)
    }

    /// Whether `spec.serviceAllocation` lets a Service use it.
    pub fn admits(&self, service: &Service, namespaces: &OrdMap<String, Labels>) -> bool {
        let Some(rule) = &self.spec.service_allocation else { return true };
        let own = &service.name.namespace;
        let namespace = (rule.namespaces.is_empty() && rule.namespace_selectors.is_empty())
            || rule.namespaces.iter().any(|name| **name == **own)
            || namespaces
                .get(&**own)
                .is_some_and(|labels| rule.namespace_selectors.iter().any(|s| s.matches(labels)));
        namespace && any_matches(&rule.service_selectors, &service.labels)
    }
}

/// All pools, and which of them an address belongs to.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: BTreeMap<Arc<str>, Arc<Pool>>,
    /// The entries of pools that are not refused: disjoint, by family and first address.
    index: BTreeMap<(Family, u128), (u128, Arc<Pool>)>,
}

impl Pools {
    /// Parses the pools of a snapshot. Where two overlap, the younger is refused, or the later
    /// by name: a new pool takes nothing from one that is in use.
    pub fn new(snapshot: &Snapshot) -> (Self, Vec<Notice>) {
        let (mut all, mut notices) = (Self::default(), Vec::new());
        let mut by_age: Vec<_> = snapshot.pools.iter().collect();
        by_age.sort_by_key(|(_, spec)| spec.created);
        for (name, spec) in by_age {
            let (pool, faults) = all.parse(name, spec);
            let pool = Arc::new(pool);
            if !pool.refused {
                let of = |r: &Range| ((r.family, r.first), (r.last, Arc::clone(&pool)));
                all.index.extend(pool.ranges.iter().map(of));
            }
            notices.extend(faults.into_iter().map(|message| {
                Notice {
                    kind: "IPAddressPool",
                    object: ObjectName::new("", name.as_str()),
                    warning: true,
                    reason: "ConfigurationError",
                    message: format!(
                        "{message} Until then the pool gives no new addresses; Services that hold \
                     one keep it."
                    )
                    .into(),
                }
            }));
            all.pools.insert(Arc::clone(&pool.name), pool);
        }
        (all, notices)
    }

    fn parse(&self, name: &str, spec: &IpAddressPool) -> (Pool, Vec<String>) {
        let mut ranges: Vec<Range> = Vec::new();
        let mut faults = Vec::new();
        if spec.addresses.is_empty() {
            faults
                .push("spec.addresses is empty: list a prefix or a range of addresses.".to_owned());
        }
        for entry in &spec.addresses {
            match Range::parse(entry) {
                Err(why) => faults.push(format!(
                    "spec.addresses entry {entry:?} cannot be used: {why}; correct or remove it."
                )),
                Ok(range) => {
                    if let Some(other) = self.overlapping(&range) {
                        faults.push(format!(
                            "spec.addresses entry {entry:?} overlaps the IPAddressPool {other}: \
                             take the common addresses out of one of the two."
                        ));
                    } else if ranges.iter().any(|r| overlap(r, &range)) {
                        faults.push(format!(
                            "spec.addresses entry {entry:?} overlaps an earlier entry of the same \
                             pool: take the common addresses out of one of the two."
                        ));
                    } else {
                        ranges.push(range);
                    }
                }
            }
        }
        let refused = spec.refused || !faults.is_empty();
        (Pool { name: name.into(), spec: spec.clone(), ranges, refused }, faults)
    }

    fn overlapping(&self, range: &Range) -> Option<&str> {
        let before = self.index.range(..=(range.family, range.last)).next_back()?;
        let ((family, _), (last, pool)) = before;
        (*family == range.family && *last >= range.first).then_some(&*pool.name)
    }

    /// The pool of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// All pools by name, refused ones among them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// The pool that an address can be given from.
    pub fn of(&self, address: IpAddr) -> Option<&Arc<Pool>> {
        let key = (Family::of(address), number(address));
        let ((family, _), (last, pool)) = self.index.range(..=key).next_back()?;
        (*family == key.0 && *last >= key.1).then_some(pool)
    }

    /// The pool that a Service holds an address of.
    ///
    /// Besides the pools in force these are refused ones: by an entry that is well
    /// formed, or by the annotation in which the allocator has written where the
    /// address came from.
    pub fn held(&self, service: &Service, address: IpAddr) -> Option<&Arc<Pool>> {
        self.of(address).or_else(|| {
            let from = service.annotations.get(ALLOCATED_FROM);
            let by_name = from.and_then(|name| self.pools.get(name));
            by_name
                .filter(|pool| pool.refused)
                .or_else(|| self.pools.values().find(|p| p.refused && p.contains(address)))
        })
    }
}

fn overlap(a: &Range, b: &Range) -> bool {
    a.family == b.family && a.first <= b.last && b.first <= a.last
}

/// The annotation in which the allocator writes the pool of a Service's addresses.
pub const ALLOCATED_FROM: &str = "metallb.io/ip-allocated-from-pool";

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(specs: &[(&str, &[&str])]) -> Snapshot {
        let pool = |addresses: &[&str]| IpAddressPool {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            auto_assign: true,
            ..Default::default()
        };
        Snapshot {
            pools: specs.iter().map(|(n, a)| ((*n).to_owned(), pool(a))).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn entries() {
        let v4 = |s: &str| number(s.parse().unwrap());
        let range = |family, first, last| Ok(Range { family, first: v4(first), last: v4(last) });
        for (text, expected) in [
            ("192.0.2.0/30", range(Family::V4, "192.0.2.0", "192.0.2.3")),
            ("192.0.2.3/30", range(Family::V4, "192.0.2.0", "192.0.2.3")),
            ("192.0.2.7/32", range(Family::V4, "192.0.2.7", "192.0.2.7")),
            ("192.0.2.7-192.0.2.9", range(Family::V4, "192.0.2.7", "192.0.2.9")),
            (" 192.0.2.7 - 192.0.2.9 ", range(Family::V4, "192.0.2.7", "192.0.2.9")),
            ("2001:db8::/64", range(Family::V6, "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")),
            ("2001:db8::1-2001:db8::2", range(Family::V6, "2001:db8::1", "2001:db8::2")),
            ("::/0", range(Family::V6, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
        ] {
            assert_eq!(Range::parse(text), expected, "{text}");
        }
        for (text, why) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("192.0.2.0/33", "neither"),
            ("192.0.2.9-192.0.2.7", "ends before"),
            ("10.0.0.1-fd00::1", "one end is IPv4"),
            ("10.0.0.1-", "\"\" is not an IP address"),
            ("ten", "neither"),
            ("", "neither"),
        ] {
            let error = Range::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_pool_is_refused_and_its_neighbours_work_on() {
        let snapshot = pools(&[
            ("a", &["192.0.2.0/24"]),
            ("b", &["198.51.100.0/24", "nonsense"]),
            ("c", &["203.0.113.0/24", "192.0.2.128-192.0.3.1"]),
            ("d", &["198.51.100.128/25"]),
            ("e", &["10.0.0.0/24", "10.0.0.7/32"]),
            ("f", &[]),
        ]);
        let (pools, notices) = Pools::new(&snapshot);
        let said: Vec<_> = notices.iter().map(|n| (&*n.object.name, &n.message)).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].0 == "b" && said[0].1.contains("\"nonsense\""), "{said:?}");
        assert!(said[1].0 == "c" && said[1].1.contains("192.0.2.128-192.0.3.1"), "{said:?}");
        assert!(said[1].1.contains("IPAddressPool a"), "{said:?}");
        assert!(said[2].0 == "e" && said[2].1.contains("10.0.0.7/32"), "{said:?}");
        assert!(said[3].0 == "f" && said[3].1.contains("empty"), "{said:?}");

        let of = |ip: &str| pools.of(ip.parse().unwrap()).map(|p| p.name.to_string());
        assert_eq!(of("192.0.2.200"), Some("a".into()));
        assert_eq!(of("203.0.113.1"), None, "refused for its other entry");
        assert_eq!(of("198.51.100.200"), Some("d".into()), "a refused pool is in nobody's way");
        assert_eq!(of("192.0.1.255"), None);
        assert_eq!(of("192.0.3.0"), None);
    }

    #[test]
    fn holders_in_a_refused_pool_keep_their_address() {
        let snapshot = pools(&[("a", &["192.0.2.0/24", "nonsense"])]);
        let (pools, _) = Pools::new(&snapshot);
        let mut service = Service::default();
        let held =
            |s: &Service, ip: &str| pools.held(s, ip.parse().unwrap()).map(|p| p.name.to_string());
        assert_eq!(held(&service, "192.0.2.1"), Some("a".into()));
        assert_eq!(held(&service, "198.51.100.1"), None);
        service.annotations.insert(ALLOCATED_FROM.to_owned(), "a".to_owned());
        assert_eq!(
            held(&service, "198.51.100.1"),
            Some("a".into()),
            "by the entry that is malformed now"
        );
    }
}

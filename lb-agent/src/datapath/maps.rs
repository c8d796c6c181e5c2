//! The maps, with their types: read once, written change by change.
use super::{
    Error,
    object::Object,
    pins::Pins,
    ranges::Range,
    state::{
        Contents, Filter, ReadRows, SourceRange, Write, empty_filter, kernel_endpoints, kernel_rows,
    },
};
use crate::system::MappedRows;
use aya::{
    Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
    util::nr_cpus,
};
use lb_common::{
    maps::{
        Announced, AnnouncedKey, Endpoint, MAX_UPLINKS, MacKey, MacOwner, Node, RangeKey, Row,
        Service, ServiceKey, ServiceStats, Settings, Uplink, Vip, VipKey,
    },
    outcome::Counters,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
};

/// The maps that the agent reads or writes.
pub struct Maps {
    vips: HashMap<MapData, VipKey, Vip>,
    announced: HashMap<MapData, AnnouncedKey, Announced>,
    services: HashMap<MapData, ServiceKey, Service>,
    nodes: Array<MapData, Node>,
    node_macs: HashMap<MapData, MacKey, MacOwner>,
    endpoints: Array<MapData, Endpoint>,
    ingress_filter: Array<MapData, u64>,
    egress_filter: Array<MapData, u64>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    service_stats: PerCpuArray<MapData, ServiceStats>,
    source_ranges: LpmTrie<MapData, RangeKey, u32>,
    tables: Tables,
    cpus: usize,
}

/// The arrays that are mapped into memory.
#[derive(Debug)]
pub struct Tables {
    rows: MappedRows,
    /// Each element takes the low half of a word of eight bytes (`kernel/bpf/arraymap.c`
    /// rounds the size of elements up).
    row_endpoints: MappedRows,
}

impl Tables {
    /// A row, if the index is inside.
    pub fn get(&self, index: u32) -> Option<Row> {
        self.rows.get(index)
    }

    /// Capacity of `ROWS`.
    pub fn len(&self) -> u32 {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Capacity of `ROW_ENDPOINTS`.
    pub fn row_endpoints(&self) -> u32 {
        self.row_endpoints.len()
    }
}

impl ReadRows for Tables {
    fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index)
    }

    fn row_endpoint(&self, index: u32) -> Option<u32> {
        self.row_endpoints.word(index).map(|word| element(word.to_ne_bytes()))
    }
}

/// The first four bytes of a word.
fn element([a, b, c, d, ..]: [u8; 8]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

/// A word that begins with an element.
fn word(element: u32) -> u64 {
    let [a, b, c, d] = element.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

/// Gives a map by its name.
type Give<'a> = &'a mut dyn FnMut(&'static str) -> Result<Map, Error>;

/// Maps an array into memory. The mapping keeps the map; its descriptor is not needed any longer.
fn map_into_memory(give: Give<'_>, name: &'static str) -> Result<MappedRows, Error> {
    let Map::Array(array) = give(name)? else {
        return Err(Error::Incomplete { what: name });
    };
    let capacity = array.info().map_err(failed(name))?.max_entries();
    MappedRows::new(array.fd().as_fd(), capacity).map_err(Error::MapRows)
}

fn failed(map: &'static str) -> impl FnOnce(MapError) -> Error {
    move |error| Error::Map { map, error }
}

/// A map with its types.
fn take<M: TryFrom<Map, Error = MapError>>(give: Give<'_>, name: &'static str) -> Result<M, Error> {
    give(name)?.try_into().map_err(failed(name))
}

impl Maps {
    /// Takes the maps out of the object.
    ///
    /// # Errors
    ///
    /// [`Error::Incomplete`], [`Error::Map`], [`Error::MapRows`]
    pub fn new(object: &mut Object) -> Result<Self, Error> {
        Self::given(&mut |name| object.take_map(name))
    }

    /// Opens those that are pinned.
    ///
    /// # Errors
    ///
    /// [`Error::NothingPinned`], [`Error::Map`], [`Error::MapRows`]
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::given(&mut |name| pins.open_untyped(name))
    }

    fn given(give: Give<'_>) -> Result<Self, Error> {
        let tables = Tables {
            rows: map_into_memory(give, "ROWS")?,
            row_endpoints: map_into_memory(give, "ROW_ENDPOINTS")?,
        };
        Ok(Self {
            vips: take(give, "VIPS")?,
            announced: take(give, "ANNOUNCED")?,
            services: take(give, "SERVICES")?,
            nodes: take(give, "NODES")?,
            node_macs: take(give, "NODE_MACS")?,
            endpoints: take(give, "ENDPOINTS")?,
            ingress_filter: take(give, "INGRESS_FILTER")?,
            egress_filter: take(give, "EGRESS_FILTER")?,
            settings: take(give, "SETTINGS")?,
            counters: take(give, "COUNTERS")?,
            service_stats: take(give, "SERVICE_STATS")?,
            source_ranges: take(give, "SOURCE_RANGES")?,
            tables,
            cpus: nr_cpus().map_err(|(_, error)| Error::Proc {
                path: "/sys/devices/system/cpu/possible",
                error,
            })?,
        })
    }

    /// The rows, and the endpoints by row.
    pub fn rows(&self) -> &Tables {
        &self.tables
    }

    /// Reads what an earlier agent left.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn read(&self) -> Result<Contents, Error> {
        let settings = self.settings()?;
        let mut uplinks: Vec<Uplink> = settings.uplinks.into();
        uplinks.retain(|uplink| uplink.ifindex != 0);
        Ok(Contents {
            row_capacity: self.tables.len(),
            row_endpoint_capacity: self.tables.row_endpoints(),
            fragment_rows: (settings.fragment_rows != 0).then_some(Range {
                start: settings.fragment_rows_start,
                len: settings.fragment_rows,
            }),
            source_ranges: self.source_ranges()?,
            uplinks,
            vips: entries(&self.vips, "VIPS")?,
            announced: entries(&self.announced, "ANNOUNCED")?,
            services: entries(&self.services, "SERVICES")?,
            nodes: elements(&self.nodes, "NODES")?,
            node_macs: entries(&self.node_macs, "NODE_MACS")?,
            endpoints: elements(&self.endpoints, "ENDPOINTS")?,
            ingress_filter: words(&self.ingress_filter, "INGRESS_FILTER")?,
            egress_filter: words(&self.egress_filter, "EGRESS_FILTER")?,
        })
    }

    /// The one element of `SETTINGS`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(failed("SETTINGS"))
    }

    /// Changes the one element of `SETTINGS`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), Error> {
        let mut settings = self.settings()?;
        change(&mut settings);
        self.settings.set(0, settings, 0).map_err(failed("SETTINGS"))
    }

    /// How often each VIP was answered for on each interface, since its entry was written.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn answered(&self) -> Result<impl Iterator<Item = (AnnouncedKey, u64)>, Error> {
        let entries = entries(&self.announced, "ANNOUNCED")?;
        Ok(entries.into_iter().map(|(key, announced)| (key, announced.answered)))
    }

    /// Carries out one write.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn write(&mut self, write: &Write) -> Result<(), Error> {
        match write {
            Write::Uplinks(uplinks) => self.change_settings(|settings| {
                settings.uplinks = [Uplink::default(); MAX_UPLINKS];
                for (to, from) in settings.uplinks.iter_mut().zip(uplinks) {
                    *to = *from;
                }
            }),
            Write::Endpoint(index, value) => {
                self.endpoints.set(*index, value, 0).map_err(failed("ENDPOINTS"))
            }
            Write::Node(index, value) => self.nodes.set(*index, value, 0).map_err(failed("NODES")),
            Write::NodeMac(key, value) => put(&mut self.node_macs, key, *value, "NODE_MACS"),
            Write::EgressFilter(position, word) => {
                self.egress_filter.set(*position, word, 0).map_err(failed("EGRESS_FILTER"))
            }
            Write::Rows(start, rows, nodes) => {
                inside(self.tables.rows.write(*start, &kernel_rows(rows, nodes)))
            }
            Write::RowsForFragments(start, rows) => inside(self.tables.rows.write(*start, rows)),
            Write::RowEndpoints(start, table, endpoints) => {
                let words = kernel_endpoints(table, endpoints);
                let words = words.iter().map(|endpoint| word(*endpoint));
                inside(self.tables.row_endpoints.write_words(*start, words))
            }
            Write::FragmentRows(range) => self.change_settings(|settings| {
                settings.fragment_rows_start = range.map_or(0, |range| range.start);
                settings.fragment_rows = range.map_or(0, |range| range.len);
            }),
            Write::SourceRange((bits, key), true) => {
                let done = self.source_ranges.insert(&Key::new(*bits, *key), 1, 0);
                done.map_err(failed("SOURCE_RANGES"))
            }
            Write::SourceRange((bits, key), false) => {
                gone(self.source_ranges.remove(&Key::new(*bits, *key)))
                    .map_err(failed("SOURCE_RANGES"))
            }
            Write::ClearStats(index) => {
                let zero = PerCpuValues::try_from(vec![ServiceStats::default(); self.cpus])
                    .map_err(|error| failed("SERVICE_STATS")(error.into()))?;
                self.service_stats.set(*index, zero, 0).map_err(failed("SERVICE_STATS"))
            }
            Write::Service(key, value) => put(&mut self.services, key, *value, "SERVICES"),
            Write::Vip(key, value) => put(&mut self.vips, key, *value, "VIPS"),
            Write::Announced(key, value) => put(&mut self.announced, key, *value, "ANNOUNCED"),
            Write::IngressFilter(position, word) => {
                self.ingress_filter.set(*position, word, 0).map_err(failed("INGRESS_FILTER"))
            }
        }
    }

    fn source_ranges(&self) -> Result<BTreeSet<SourceRange>, Error> {
        let keys = self.source_ranges.keys();
        keys.map(|key| key.map(|key| (key.prefix_len(), key.data())))
            .collect::<Result<_, _>>()
            .map_err(failed("SOURCE_RANGES"))
    }

    /// Frames by outcome, of all CPUs together, since the maps were made.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut sum = Counters::default();
        for counters in self.counters.get(&0, 0).map_err(failed("COUNTERS"))?.iter() {
            sum.add(counters);
        }
        Ok(sum)
    }

    /// An element of `SERVICE_STATS`, of all CPUs together.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn service_stats(&self, index: u32) -> Result<ServiceStats, Error> {
        let mut sum = ServiceStats::default();
        let values = self.service_stats.get(&index, 0).map_err(failed("SERVICE_STATS"))?;
        for stats in values.iter() {
            let ServiceStats {
                delivered_packets,
                delivered_bytes,
                forwarded_packets,
                forwarded_bytes,
            } = stats;
            sum.delivered_packets += delivered_packets;
            sum.delivered_bytes += delivered_bytes;
            sum.forwarded_packets += forwarded_packets;
            sum.forwarded_bytes += forwarded_bytes;
        }
        Ok(sum)
    }
}

/// Writes or removes an entry. One that is gone already is removed well enough.
fn put<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: &K,
    value: Option<V>,
    name: &'static str,
) -> Result<(), Error> {
    match value {
        Some(value) => map.insert(key, value, 0),
        None => gone(map.remove(key)),
    }
    .map_err(failed(name))
}

/// What is gone already is removed well enough.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn inside(written: bool) -> Result<(), Error> {
    if written { Ok(()) } else { Err(Error::MapRows(io::Error::other("range outside of the map"))) }
}

fn entries<K: Pod + Ord, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<BTreeMap<K, V>, Error> {
    map.iter().collect::<Result<_, _>>().map_err(failed(name))
}

/// The elements that are not all zeros.
fn elements<V: Pod + Default + PartialEq>(
    map: &Array<MapData, V>,
    name: &'static str,
) -> Result<BTreeMap<u32, V>, Error> {
    let mut elements = BTreeMap::new();
    for index in 0..map.len() {
        let value = map.get(&index, 0).map_err(failed(name))?;
        if value != V::default() {
            elements.insert(index, value);
        }
    }
    Ok(elements)
}

fn words(map: &Array<MapData, u64>, name: &'static str) -> Result<Filter, Error> {
    let mut filter = empty_filter();
    for (position, word) in filter.iter_mut().enumerate() {
        *word = map.get(&(position as u32), 0).map_err(failed(name))?;
    }
    Ok(filter)
}

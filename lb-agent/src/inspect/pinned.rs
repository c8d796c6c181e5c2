//! The pinned maps, opened to be read beside a running agent.
use super::explain::Tables;
use crate::datapath::{Error, pins::Pins};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use lb_common::maps::{
    Affinity, AffinityKey, Elsewhere, Endpoint, Flow, FlowKey, Node, RangeKey, Row, Service,
    ServiceKey, VipKey,
};
use std::{io, path::Path};

/// The maps that say what becomes of a flow.
pub struct Pinned {
    vips: HashMap<MapData, VipKey, lb_common::maps::Vip>,
    services: HashMap<MapData, ServiceKey, Service>,
    rows: Array<MapData, Row>,
    row_endpoints: Array<MapData, u32>,
    nodes: Array<MapData, Node>,
    endpoints: Array<MapData, Endpoint>,
    flows: HashMap<MapData, FlowKey, Flow>,
    pending: HashMap<MapData, FlowKey, Flow>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    elsewhere: HashMap<MapData, FlowKey, Elsewhere>,
    ranges: LpmTrie<MapData, RangeKey, u32>,
}

impl Pinned {
    /// Opens the maps under a pin directory.
    ///
    /// # Errors
    ///
    /// [`Error::NothingPinned`], [`Error::Map`]
    pub fn open(pin_dir: &Path) -> Result<Self, Error> {
        let pins = &Pins::new(pin_dir);
        Ok(Self {
            vips: pins.open("VIPS")?,
            services: pins.open("SERVICES")?,
            rows: pins.open("ROWS")?,
            row_endpoints: pins.open("ROW_ENDPOINTS")?,
            nodes: pins.open("NODES")?,
            endpoints: pins.open("ENDPOINTS")?,
            flows: pins.open("FLOWS")?,
            pending: pins.open("PENDING")?,
            affinity: pins.open("AFFINITY")?,
            elsewhere: pins.open("ELSEWHERE")?,
            ranges: pins.open("SOURCE_RANGES")?,
        })
    }
}

/// An entry, if it is there.
fn found<V>(map: &'static str, result: Result<V, MapError>) -> Result<Option<V>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::OutOfBounds { .. }) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(Error::Map { map, error }),
    }
}

fn entry<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<Option<V>, Error> {
    found(name, map.get(key, 0))
}

impl Tables for Pinned {
    type Error = Error;

    fn is_vip(&self, vip: [u8; 16]) -> Result<bool, Error> {
        Ok(entry(&self.vips, "VIPS", &VipKey { vip })?.is_some())
    }

    fn service(&self, key: &ServiceKey) -> Result<Option<Service>, Error> {
        entry(&self.services, "SERVICES", key)
    }

    fn row(&self, index: u32) -> Result<Option<Row>, Error> {
        found("ROWS", self.rows.get(&index, 0))
    }

    fn row_endpoint(&self, index: u32) -> Result<Option<u32>, Error> {
        found("ROW_ENDPOINTS", self.row_endpoints.get(&index, 0))
    }

    fn node(&self, index: u32) -> Result<Option<Node>, Error> {
        found("NODES", self.nodes.get(&index, 0))
    }

    fn endpoint(&self, index: u32) -> Result<Option<Endpoint>, Error> {
        found("ENDPOINTS", self.endpoints.get(&index, 0))
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, Error> {
        Ok(match entry(&self.flows, "FLOWS", key)? {
            Some(flow) => Some(flow),
            None => entry(&self.pending, "PENDING", key)?,
        })
    }

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error> {
        entry(&self.affinity, "AFFINITY", key)
    }

    fn elsewhere(&self, key: &FlowKey) -> Result<Option<Elsewhere>, Error> {
        entry(&self.elsewhere, "ELSEWHERE", key)
    }

    fn in_ranges(&self, key: RangeKey) -> Result<bool, Error> {
        let bits = 8 * size_of::<RangeKey>() as u32;
        Ok(found("SOURCE_RANGES", self.ranges.get(&Key::new(bits, key), 0))?.is_some())
    }
}

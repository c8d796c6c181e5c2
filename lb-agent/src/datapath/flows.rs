//! The tables of flows, as far as the agent has to do with them: what it looks up and
//! writes for the [last resort](crate::resort).
use super::{Error, apply::Datapath, object::Object, state::NodeOwner};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
};
use lb_common::maps::{
    ELSEWHERE_NOBODY, ELSEWHERE_NODE, ENDPOINT_PRESENT, Elsewhere, Endpoint, FLOW_KERNEL, Flow,
    FlowKey, NO_NODE, THIS_NODE,
};

/// `BPF_NOEXIST` (`linux/bpf.h`).
const NO_EXIST: u64 = 1;

/// `FLOWS`, `PENDING` and `ELSEWHERE`.
#[derive(Debug)]
pub struct FlowMaps {
    flows: HashMap<MapData, FlowKey, Flow>,
    pending: HashMap<MapData, FlowKey, Flow>,
    elsewhere: HashMap<MapData, FlowKey, Elsewhere>,
}

fn take<V: Pod>(
    object: &mut Object,
    map: &'static str,
) -> Result<HashMap<MapData, FlowKey, V>, Error> {
    let taken: Map = object.take_map(map)?;
    taken.try_into().map_err(|error| Error::Map { map, error })
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

impl FlowMaps {
    /// The flow, proven or yet to prove itself.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, Error> {
        for (map, name) in [(&self.flows, "FLOWS"), (&self.pending, "PENDING")] {
            match map.get(key, 0) {
                Ok(flow) => return Ok(Some(flow)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(Error::Map { map: name, error }),
            }
        }
        Ok(None)
    }

    /// Writes a flow.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn write(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), Error> {
        self.flows.insert(key, flow, 0).map_err(|error| Error::Map { map: "FLOWS", error })
    }

    /// Writes a flow that the kernel delivers, unless the program knows it as one already: that is from
    /// what it has seen since.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn adopt(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), Error> {
        match self.flow(key)? {
            Some(known) if known.state & FLOW_KERNEL != 0 => Ok(()),
            Some(_) => self.write(key, flow),
            None => match self.flows.insert(key, flow, NO_EXIST) {
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
                {
                    Ok(())
                }
                result => result.map_err(|error| Error::Map { map: "FLOWS", error }),
            },
        }
    }

    /// Has a flow that the kernel delivers forgotten; any other stays.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn end_kernels(&mut self, key: &FlowKey) -> Result<(), Error> {
        for (map, name) in [(&mut self.flows, "FLOWS"), (&mut self.pending, "PENDING")] {
            let ended = match map.get(key, 0) {
                Ok(flow) if flow.state & FLOW_KERNEL != 0 => map.remove(key),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            match ended {
                Err(error) if !is_absent(&error) => return Err(Error::Map { map: name, error }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that a node, by its index in `NODES`, knows a flow; or that nobody does. Until
    /// `until_s`, seconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn note(&mut self, key: &FlowKey, node: Option<u16>, until_s: u32) -> Result<(), Error> {
        let verdict = if node.is_some() { ELSEWHERE_NODE } else { ELSEWHERE_NOBODY };
        let value = Elsewhere { node: node.unwrap_or(NO_NODE), verdict, until_s };
        self.elsewhere.insert(key, value, 0).map_err(|error| Error::Map { map: "ELSEWHERE", error })
    }

    /// Forgets where a flow is, or that it was asked about: this node knows it itself.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn forget(&mut self, key: &FlowKey) -> Result<(), Error> {
        match self.elsewhere.remove(key) {
            Err(error) if !is_absent(&error) => Err(Error::Map { map: "ELSEWHERE", error }),
            _ => Ok(()),
        }
    }
}

impl Datapath {
    /// The tables of flows; once.
    ///
    /// # Errors
    ///
    /// [`Error::Incomplete`], [`Error::Map`]
    pub fn take_flows(&mut self) -> Result<FlowMaps, Error> {
        let object = self.object_mut();
        Ok(FlowMaps {
            flows: take(object, "FLOWS")?,
            pending: take(object, "PENDING")?,
            elsewhere: take(object, "ELSEWHERE")?,
        })
    }

    /// The ring of [events](super::events); once. It has one reader.
    ///
    /// # Errors
    ///
    /// [`Error::Incomplete`], [`Error::Map`]
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, Error> {
        let map = "EVENTS";
        self.object_mut().take_map(map)?.try_into().map_err(|error| Error::Map { map, error })
    }

    /// Which tunnelled packets this node takes.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn cookies(&self) -> Result<[u64; 2], Error> {
        Ok(self.maps().settings()?.cookies)
    }

    /// Says which tunnelled packets this node takes.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn set_cookies(&mut self, cookies: [u64; 2]) -> Result<(), Error> {
        self.maps_mut().change_settings(|settings| settings.cookies = cookies)
    }

    /// A node's index in `NODES`; none as long as no plan has named it.
    pub fn node_index(&self, name: &str, me: &str) -> Option<u16> {
        if name == me {
            return Some(THIS_NODE);
        }
        let index = self.state().node_slots.get(&NodeOwner::Named(name.to_owned()))?;
        u16::try_from(index).ok()
    }

    /// The node with this index in `NODES`.
    pub fn node_name<'a>(&'a self, index: u32, me: &'a str) -> Option<&'a str> {
        if index == u32::from(THIS_NODE) {
            return Some(me);
        }
        self.state().node_slots.iter().find_map(|(owner, at)| match owner {
            NodeOwner::Named(name) if at == index => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether this element of `ENDPOINTS` is this endpoint.
    pub fn is_endpoint(&self, index: u32, address: [u8; 16], port: [u8; 2]) -> bool {
        let endpoint = Endpoint { address, port, flags: ENDPOINT_PRESENT, pad: 0 };
        self.contents().endpoints.get(&index) == Some(&endpoint)
    }

    /// The index in `ENDPOINTS` of an endpoint.
    pub fn endpoint_index(&self, address: [u8; 16], port: [u8; 2]) -> Option<u32> {
        self.state().endpoint_slots.get(&(address, port))
    }
}

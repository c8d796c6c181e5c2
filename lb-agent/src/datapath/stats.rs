//! Packets and bytes per VIP and port, by name rather than by index.
use super::{Error, address_bytes, address_from_bytes, apply::Datapath};
use crate::{plan::ServiceAddress, snapshot::Protocol};
use lb_common::{
    maps::{ServiceKey, ServiceStats},
    outcome::Counters,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A protocol of `SERVICES`; `None` for a number that the agent never writes.
fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == number)
}

/// What a key of `SERVICES` names.
pub(crate) fn service_address(key: &ServiceKey) -> Option<ServiceAddress> {
    Some(ServiceAddress {
        vip: address_from_bytes(key.vip),
        port: u16::from_be_bytes(key.port),
        protocol: protocol(key.proto)?,
    })
}

impl Datapath {
    /// Frames by outcome on this node, since the maps were made.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn counters(&self) -> Result<Counters, Error> {
        self.maps().counters()
    }

    /// How many ARP requests and neighbour solicitations for each VIP were answered on this node, since
    /// it announces it.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn answered(&self) -> Result<BTreeMap<IpAddr, u64>, Error> {
        let mut answered = BTreeMap::new();
        for (key, count) in self.maps().answered()? {
            *answered.entry(address_from_bytes(key.vip)).or_default() += count;
        }
        Ok(answered)
    }

    /// How many packets for a VIP this node has delivered and sent on; 0 if that cannot be read.
    pub fn traffic(&self, vip: IpAddr) -> u64 {
        let vip = address_bytes(vip);
        let first = ServiceKey { vip, port: [0; 2], proto: 0, pad: 0, pad2: 0 };
        let ports = self.contents().services.range(first..).take_while(|(key, _)| key.vip == vip);
        ports
            .filter_map(|(_, service)| self.maps().service_stats(service.stats).ok())
            .map(|stats| stats.delivered_packets.saturating_add(stats.forwarded_packets))
            .fold(0, u64::saturating_add)
    }

    /// Packets and bytes of each VIP:port on this node, since its Service was first served here.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]
    pub fn service_stats(&self) -> Result<Vec<(ServiceAddress, ServiceStats)>, Error> {
        self.contents()
            .services
            .iter()
            .filter_map(|(key, service)| Some((service_address(key)?, service.stats)))
            .map(|(address, index)| Ok((address, self.maps().service_stats(index)?)))
            .collect()
    }
}

//! What the kernel program tells the agent by the ring `EVENTS`.
use super::{Error, address_from_bytes};
use crate::{
    bytes::{Short, take},
    system,
};
use aya::maps::{MapData, RingBuf};
use lb_common::maps::{EVENT_CLAIM, EVENT_PROBE, EVENT_UNKNOWN_FLOW, FlowKey};
use std::net::IpAddr;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// No node of its row knows a flow.
    UnknownFlow {
        /// Towards the endpoint.
        flow: FlowKey,
        /// The row's node, as an index in `NODES`, or `NO_NODE`.
        node: u32,
    },
    /// A probe frame has arrived.
    Probe {
        /// The agent that sent it, by its node's address.
        sender: IpAddr,
    },
    /// A host that is no agent's node claims a VIP.
    Claim {
        /// The VIP.
        vip: IpAddr,
        /// At which link-layer address it says that it is.
        mac: [u8; 6],
        /// Index of the interface on which the frame arrived.
        ifindex: u32,
        /// The VLAN that it was tagged with; 0 is none.
        vlan: u16,
    },
}

/// Bytes of `lb_common::maps::Event`.
const LENGTH: usize = size_of::<lb_common::maps::Event>();

impl Event {
    /// Reads `lb_common::maps::Event`, byte for byte as `repr(C)` lays it out; `None` if it is
    /// none that this agent knows.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == LENGTH { Self::read(bytes).ok()? } else { None }
    }

    fn read(mut rest: &[u8]) -> Result<Option<Self>, Short> {
        let flow = FlowKey {
            client: take(&mut rest)?,
            peer: take(&mut rest)?,
            client_port: take(&mut rest)?,
            peer_port: take(&mut rest)?,
            proto: take::<1>(&mut rest)?[0],
            direction: take::<1>(&mut rest)?[0],
            pad: take(&mut rest)?,
        };
        let kind = u32::from_ne_bytes(take(&mut rest)?);
        let node = u32::from_ne_bytes(take(&mut rest)?);
        let ifindex = u32::from_ne_bytes(take(&mut rest)?);
        let vlan = u16::from_ne_bytes(take(&mut rest)?);
        let mac = take(&mut rest)?;
        Ok(match kind {
            EVENT_UNKNOWN_FLOW => Some(Self::UnknownFlow { flow, node }),
            EVENT_PROBE => Some(Self::Probe { sender: address_from_bytes(flow.peer) }),
            EVENT_CLAIM => {
                Some(Self::Claim { vip: address_from_bytes(flow.peer), mac, ifindex, vlan })
            }
            _ => None,
        })
    }
}

/// Hands over each event. Ends only by an error.
///
/// # Errors
///
/// [`Error::Events`]
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn follow(ring: RingBuf<MapData>, mut each: impl FnMut(Event)) -> Result<(), Error> {
    let mut ring = system::await_readable(ring).map_err(Error::Events)?;
    loop {
        let mut ready = ring.readable_mut().await.map_err(Error::Events)?;
        while let Some(item) = ready.get_inner_mut().next() {
            if let Some(event) = Event::parse(&item) {
                each(event);
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datapath::address_bytes, testing::ip};
    use proptest::prelude::*;

    fn bytes(kind: u32) -> Vec<u8> {
        let mut bytes = address_bytes(ip("10.9.9.9")).to_vec();
        bytes.extend(address_bytes(ip("192.0.2.10")));
        bytes.extend([0x9c, 0x40, 0, 80, 6, 0, 0, 0]);
        for number in [kind, 5, 3] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend([0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let flow = FlowKey {
            client: address_bytes(ip("10.9.9.9")),
            peer: address_bytes(ip("192.0.2.10")),
            client_port: 40_000u16.to_be_bytes(),
            peer_port: [0, 80],
            proto: 6,
            direction: 0,
            pad: [0; 2],
        };
        assert_eq!(Event::parse(&bytes(1)), Some(Event::UnknownFlow { flow, node: 5 }));
        let sender = ip("192.0.2.10");
        assert_eq!(Event::parse(&bytes(2)), Some(Event::Probe { sender }));
        let claim = Event::Claim { vip: sender, mac: [2; 6], ifindex: 3, vlan: 0 };
        assert_eq!(Event::parse(&bytes(3)), Some(claim));
        assert_eq!(Event::parse(&bytes(4)), None);
        assert_eq!(Event::parse(&bytes(1)[1..]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            Event::parse(&bytes);
        }
    }
}

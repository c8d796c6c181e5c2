//! A Service that kube-proxy served until just now: its connections go on with it, and those that
//! begin while the agent is still looking for them in connection tracking are its own as well.
use crate::{
    flows, forward,
    frame::Frame,
    packet::{BY_FRAME, Packet},
};
use lb_common::{
    maps::{SERVICE_TAKEN_OVER, Service},
    wire::{TCP_FIN, TCP_RST, protocol},
};

/// Whether a packet of no known flow, at its first hop, is kube-proxy's.
#[inline(always)]
pub(crate) fn is_proxied<F: Frame>(frame: &F, packet: &Packet, service: &Service) -> bool {
    service.flags & SERVICE_TAKEN_OVER != 0
        && packet.arrived == BY_FRAME
        && packet.flow.proto != protocol::UDP
        && !forward::came_from_agent(frame, packet)
}

/// Notes that a connection of kube-proxy's ends, since the agent may have found it open just before,
/// and writes it down as that only after this.
#[inline(always)]
pub(crate) fn note_end(packet: &Packet) {
    let ends = packet.flags & (TCP_FIN | TCP_RST) == TCP_FIN;
    if ends && packet.flow.proto == protocol::TCP && !packet.is_error {
        flows::note_ending(packet);
    }
}

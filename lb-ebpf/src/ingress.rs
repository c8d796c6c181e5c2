//! The ingress pipeline up to the packets of VIPs, and where it is cut for the verifier.
//!
//! The verifier walks through a function of Rust once for each way to its caller, and the ways
//! multiply: tags, tunnels of either family, headers that are skipped. A *global* function (one
//! that has a name of its own in the object) it checks once, for whatever its arguments may be,
//! and of its caller it then assumes nothing. So the pipeline has a few of them: they stand
//! in [`Ingress`], because a generic function cannot have a name.
use crate::{
    arp, direct, extension,
    frame::Frame,
    ip, ndp,
    packet::{self, Packet},
    steer,
    step::Step,
    tunnel,
    verdict::Verdict,
    vlan,
};
use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use core::hint::black_box;
use lb_common::{
    maps::Service,
    outcome::Outcome,
    wire::{
        ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet,
        length::{ETHERNET, IPV6},
    },
};

/// A frame on its way in, and its calls of global functions.
pub(crate) trait Ingress: Frame {
    /// [`ndp::handle`].
    fn discover(&self, vlan: u16) -> Verdict;

    /// [`steer::steer`].
    fn steer(
        &self,
        v6: bool,
        packet: &mut Packet,
        settled: Step,
        service: Option<&Service>,
    ) -> Verdict;

    /// [`extension::skip`].
    fn skip_extensions(&self, packet: &mut Packet) -> Verdict;
}

/// Keeps the compiler from using what it, and not the verifier, knows of a result.
#[inline(always)]
fn opaque(number: u32) -> Verdict {
    Verdict::from_number(black_box(number))
}

macro_rules! global_functions {
    ($context:ident, $raw:ident, |$this:ident| $pointer:expr,
     $neighbour:ident, $extensions:ident,
     $steer_v4:ident, $steer_v6:ident) => {
        impl Ingress for $context {
            #[inline(always)]
            fn discover(&self, vlan: u16) -> Verdict {
                let $this = self;
                // SAFETY: the context is the program's own.
                opaque(unsafe { $neighbour($pointer, u32::from(vlan)) })
            }

            #[inline(always)]
            fn steer(
                &self,
                v6: bool,
                packet: &mut Packet,
                settled: Step,
                service: Option<&Service>,
            ) -> Verdict {
                let $this = self;
                let settled = settled.number();
                let service = service.map_or(core::ptr::null(), core::ptr::from_ref);
                // SAFETY: the context is the program's own, and the reference is good.
                opaque(unsafe {
                    if v6 {
                        $steer_v6($pointer, packet, settled, service)
                    } else {
                        $steer_v4($pointer, packet, settled, service)
                    }
                })
            }

            #[inline(always)]
            fn skip_extensions(&self, packet: &mut Packet) -> Verdict {
                let $this = self;
                // SAFETY: the context is the program's own, and the reference is good.
                opaque(unsafe { $extensions($pointer, packet) })
            }
        }

        /// # Safety
        /// The context is the program's.
        #[inline(never)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $neighbour(ctx: *mut $raw, vlan: u32) -> u32 {
            match ndp::handle(&$context::new(ctx), vlan as u16) {
                Some(outcome) => outcome as u32,
                None => Verdict::NONE.number(),
            }
        }

        /// # Safety
        /// The context is the program's; packet and Service are null (which the verifier wants to
        /// be looked at) or good.
        #[inline(never)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $steer_v4(
            ctx: *mut $raw,
            packet: *mut Packet,
            settled: u64,
            service: *const Service,
        ) -> u32 {
            // SAFETY: as the caller promises.
            let (packet, service) = unsafe { (packet.as_mut(), service.as_ref()) };
            match packet {
                Some(packet) => {
                    let settled = Step::from_number(settled);
                    let context = $context::new(ctx);
                    steer::steer::<_, false>(&context, packet, settled, service).number()
                }
                None => Outcome::DropMalformed as u32,
            }
        }

        /// # Safety
        /// As of the one before.
        #[inline(never)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $steer_v6(
            ctx: *mut $raw,
            packet: *mut Packet,
            settled: u64,
            service: *const Service,
        ) -> u32 {
            // SAFETY: as the caller promises.
            let (packet, service) = unsafe { (packet.as_mut(), service.as_ref()) };
            match packet {
                Some(packet) => {
                    let settled = Step::from_number(settled);
                    let context = $context::new(ctx);
                    steer::steer::<_, true>(&context, packet, settled, service).number()
                }
                None => Outcome::DropMalformed as u32,
            }
        }

        /// # Safety
        /// The context is the program's; the packet is null (which the verifier wants to be
        /// looked at) or good.
        #[inline(never)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $extensions(ctx: *mut $raw, packet: *mut Packet) -> u32 {
            // SAFETY: as the caller promises.
            match unsafe { packet.as_mut() } {
                Some(packet) => extension::skip(&$context::new(ctx), packet).number(),
                None => Outcome::DropMalformed as u32,
            }
        }
    };
}

global_functions!(
    XdpContext,
    xdp_md,
    |frame| frame.ctx,
    herald_xdp_neighbour,
    herald_xdp_extensions,
    herald_xdp_steer_v4,
    herald_xdp_steer_v6
);
global_functions!(
    TcContext,
    __sk_buff,
    |frame| frame.skb.skb,
    herald_tc_neighbour,
    herald_tc_extensions,
    herald_tc_steer_v4,
    herald_tc_steer_v6
);

#[inline(always)]
fn ethertype<F: Frame>(frame: &F) -> Option<u16> {
    // SAFETY: `at` has checked the bounds.
    packet::at::<_, Ethernet>(frame, 0).map(|ethernet| unsafe { (*ethernet).ethertype })
}

/// Handles a frame.
#[inline(always)]
pub(crate) fn ingress<F: Ingress>(frame: &F) -> Verdict {
    // As much as the first look takes.
    if !frame.gather(ETHERNET + IPV6) {
        return Outcome::Passed.into();
    }
    let Some(mut kind) = ethertype(frame) else { return Outcome::Passed.into() };
    let mut tag = frame.tag_beside();
    if kind == ETHERTYPE_VLAN {
        if tag != 0 {
            return Outcome::Passed.into();
        }
        tag = vlan::take(frame);
        kind = match ethertype(frame) {
            Some(inner) if tag != 0 => inner,
            _ => return Outcome::Passed.into(),
        };
    }
    let verdict = dispatch(frame, kind, tag);
    // A tag that stands beside the frame has stayed there.
    if tag == 0 || F::IS_BUFFER { verdict } else { vlan::put_back(frame, tag, verdict) }
}

/// Handles a frame without a tag, or whose tag has been taken off.
#[inline(always)]
fn dispatch<F: Ingress>(frame: &F, kind: u16, tag: u32) -> Verdict {
    let vlan = packet::vlan_of(tag);
    let mut v6 = kind == ETHERTYPE_IPV6;
    let mut service = None;
    let mut sent = Verdict::NONE;
    let mut look = match kind {
        ETHERTYPE_IPV4 => {
            let look = ip::look_v4(frame);
            if !F::IS_BUFFER && look == ip::TO_VIP && tag == 0 {
                sent = direct::forward::<F, false>(frame, &mut service);
            }
            look
        }
        ETHERTYPE_IPV6 => {
            let look = ip::look_v6(frame, vlan);
            if !F::IS_BUFFER && look == ip::TO_VIP && tag == 0 {
                sent = direct::forward::<F, true>(frame, &mut service);
            }
            look
        }
        ETHERTYPE_ARP => arp::handle(frame, vlan) as u32,
        _ => Outcome::Passed as u32,
    };
    if !sent.is_none() {
        return sent;
    }
    let mut arrived = packet::BY_FRAME;
    if look == ip::TO_TUNNEL {
        look = if v6 {
            tunnel::receive::<F, true>(frame, vlan)
        } else {
            tunnel::receive::<F, false>(frame, vlan)
        };
        if look & (tunnel::INNER_V4 | tunnel::INNER_V6) != 0 {
            v6 = look & tunnel::INNER_V6 != 0;
            arrived = look as u8;
        }
    }
    if look < ip::TO_VIP {
        return Verdict::from_number(look);
    }
    if v6 {
        ip::handle::<F, true>(frame, tag, arrived, service)
    } else {
        ip::handle::<F, false>(frame, tag, arrived, service)
    }
}

//! Attaching the programs, and replacing those of an earlier agent without a gap.
//!
//! Ingress takes the first way that an interface allows: XDP in the driver; else, and where
//! another program has that place, TCX, which stands behind the driver but before everything
//! that the kernel does with a packet. Egress is always TCX.
use super::{
    Error, IngressMode, XdpMode,
    object::{EGRESS, EGRESS_BARE, INGRESS, INGRESS_TC, Object},
    pins::{LinkKind, PinnedLink as Pin},
    uplinks::{Egress, Uplink},
};
use crate::system;
use aya::programs::{
    LinkOrder, ProgramError, TcAttachType, Xdp,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::{XdpLink, XdpMode as AyaXdpMode},
};
use std::{io, path::Path};

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index in this network namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, if it is known.
    pub mtu: Option<u32>,
}

/// Where frames of an uplink can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The interface that has the addresses. TCX is attached here.
    pub device: Interface,
    /// The one that frames arrive on: the same, or that below a VLAN. XDP is attached here.
    pub lower: Interface,
    /// Ports of `lower` that frames arrive on first.
    pub ports: Vec<String>,
    /// There is no driver that could have native XDP.
    pub without_driver: bool,
}

impl From<&Uplink> for Target {
    fn from(uplink: &Uplink) -> Self {
        let mtu = Some(uplink.mtu);
        Self {
            device: Interface { ifindex: uplink.device, name: uplink.name.clone(), mtu },
            lower: Interface { ifindex: uplink.ifindex, name: uplink.lower.clone(), mtu },
            ports: uplink.ports.clone(),
            without_driver: uplink.without_driver,
        }
    }
}

impl From<Interface> for Target {
    fn from(interface: Interface) -> Self {
        Self {
            lower: interface.clone(),
            device: interface,
            ports: Vec::new(),
            without_driver: false,
        }
    }
}

impl Target {
    fn is_vlan(&self) -> bool {
        self.device.ifindex != self.lower.ifindex
    }
}

/// Whether programs were there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing of ours was there.
    Anew,
    /// The programs of an earlier agent were replaced, without a gap.
    Replaced,
}

/// How an uplink came to carry the programs.
#[derive(Debug)]
pub struct Carried {
    /// Whether programs were there already.
    pub attached: Attached,
    /// How the ingress program is attached.
    pub mode: IngressMode,
    /// To which interface.
    pub on: u32,
    /// Why it is not attached in a better way, if that was tried.
    pub instead_of: Option<Error>,
}

impl Object {
    /// Attaches both programs to an uplink, or replaces those of an earlier agent.
    ///
    /// Egress goes first, so that no flow begins whose replies would not be rewritten.
    ///
    /// # Errors
    ///
    /// See [`Error`]: another program is there, the driver has no native XDP, the pin
    /// directory is another network namespace's.
    pub fn attach(&mut self, target: &Target) -> Result<Carried, Error> {
        self.remove_dead(target.device.ifindex)?;
        self.remove_dead(target.lower.ifindex)?;
        let device = &target.device;
        let egress = self.attach_tcx(LinkKind::Egress, EGRESS, device)?;
        match self.attach_ingress(target) {
            Ok(carried) => {
                self.pins.remove_old_versions()?;
                Ok(carried)
            }
            Err(error) => {
                // Egress alone serves nobody. One that was there before stays, with its ingress.
                if egress == Attached::Anew {
                    self.pins.remove(&self.pins.link(LinkKind::Egress, device.ifindex))?;
                }
                Err(error)
            }
        }
    }

    /// Attaches the egress program to an interface that replies leave by.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn attach_egress(&mut self, egress: &Egress) -> Result<Attached, Error> {
        self.remove_dead(egress.ifindex)?;
        let Egress { ifindex, name, bare } = egress;
        let interface = Interface { ifindex: *ifindex, name: name.clone(), mtu: None };
        let program = if *bare { EGRESS_BARE } else { EGRESS };
        self.attach_tcx(LinkKind::Egress, program, &interface)
    }

    /// Detaches one program from an interface.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn detach(&mut self, kind: LinkKind, ifindex: u32) -> Result<(), Error> {
        self.pins.remove(&self.pins.link(kind, ifindex))
    }

    /// Whether a program is attached, by a pinned link, to an interface that is still there.
    pub fn carries(&self, kind: LinkKind, ifindex: u32) -> bool {
        system::link_target(&self.pins.link(kind, ifindex))
            .is_ok_and(|target| target.ifindex == ifindex)
    }

    /// The interface that carries both programs of an uplink, whoever attached them.
    pub fn carrier(&self, uplink: &Uplink) -> Option<u32> {
        carrier(uplink, |kind, ifindex| self.carries(kind, ifindex))
    }

    /// The same with the programs of an earlier version.
    pub fn earlier_carrier(&self, uplink: &Uplink) -> Option<u32> {
        let links = self.links();
        let is = |link: &Pin, kind, ifindex| {
            (link.kind, link.ifindex) == (kind, ifindex)
                && system::link_target(&link.path).is_ok_and(|target| target.ifindex == ifindex)
        };
        carrier(uplink, |kind, ifindex| links.iter().any(|link| is(link, kind, ifindex)))
    }

    /// The pinned links of this agent's programs, or of an earlier agent's.
    pub fn links(&self) -> Vec<Pin> {
        let mut links = self.pins.list_links();
        links.retain(|link| link.kind != LinkKind::Pass);
        links
    }

    /// An interface that was made anew has another index, as a rule; but not in a
    /// namespace that was made anew with it.
    fn remove_dead(&self, ifindex: u32) -> Result<(), Error> {
        for link in self.pins.list_links().into_iter().filter(|l| l.ifindex == ifindex) {
            if system::link_target(&link.path).is_ok_and(|target| target.ifindex == 0) {
                self.pins.remove(&link.path)?;
            }
        }
        Ok(())
    }

    /// The ways to be tried, best first.
    fn modes(&self, target: &Target) -> &'static [IngressMode] {
        match self.mode {
            XdpMode::Auto if target.without_driver => &[IngressMode::Tcx],
            XdpMode::Auto => &[IngressMode::Native, IngressMode::Tcx],
            XdpMode::Native => &[IngressMode::Native],
            XdpMode::Generic => &[IngressMode::Generic],
            XdpMode::Tcx => &[IngressMode::Tcx],
        }
    }

    fn attach_ingress(&mut self, target: &Target) -> Result<Carried, Error> {
        let mut instead_of = None;
        let modes = self.modes(target);
        for (position, &mode) in modes.iter().enumerate() {
            let done = match mode {
                IngressMode::Native => self.attach_by_xdp(mode, AyaXdpMode::Driver, target),
                IngressMode::Generic => self.attach_by_xdp(mode, AyaXdpMode::Skb, target),
                IngressMode::Tcx => {
                    self.attach_tcx(LinkKind::IngressTcx, INGRESS_TC, &target.device)
                }
            };
            match done {
                Ok(attached) => {
                    let on = match mode {
                        IngressMode::Tcx => target.device.ifindex,
                        _ => target.lower.ifindex,
                    };
                    self.remove_other_modes(mode, target)?;
                    return Ok(Carried { attached, mode, on, instead_of });
                }
                Err(
                    error @ (Error::NoNativeXdp { .. }
                    | Error::OtherProgram { .. }
                    | Error::VlanStripped { .. }),
                ) if position + 1 < modes.len() => instead_of = Some(error),
                // What was to take its place has no better reason.
                Err(error) => return Err(instead_of.unwrap_or(error)),
            }
        }
        Err(Error::Incomplete { what: INGRESS })
    }

    /// The program has another place now, and is there already. Where both were for a moment,
    /// what the first delivers or sends on concerns no VIP any more when it gets to the second.
    fn remove_other_modes(&self, mode: IngressMode, target: &Target) -> Result<(), Error> {
        for other in [IngressMode::Native, IngressMode::Generic, IngressMode::Tcx] {
            let ifindex = match other {
                IngressMode::Tcx => target.device.ifindex,
                // Another VLAN may have it there.
                _ if target.is_vlan() => continue,
                _ => target.lower.ifindex,
            };
            if other != mode
                && let Some(pin) = self.pins.adopt_link(other.into(), ifindex)?
            {
                self.pins.remove(&pin)?;
            }
        }
        Ok(())
    }

    fn attach_by_xdp(
        &mut self,
        mode: IngressMode,
        aya_mode: AyaXdpMode,
        target: &Target,
    ) -> Result<Attached, Error> {
        if target.is_vlan() {
            keep_vlan_tags(target)?;
        }
        let interface = &target.lower;
        let kind = LinkKind::from(mode);
        let pin = self.pins.adopt_link(kind, interface.ifindex)?;
        let place = self.pins.link(kind, interface.ifindex);
        let Some(pin) = pin else {
            self.make_way(mode, target)?;
            attach_xdp(self.xdp(INGRESS)?, INGRESS, interface, aya_mode, &place)?;
            return Ok(Attached::Anew);
        };
        let program = self.xdp(INGRESS)?;
        let failed =
            |error| Error::Attach { program: INGRESS, interface: interface.name.clone(), error };
        let link = XdpLink::try_from(open_link(&pin)?).map_err(|e| unusable(&pin, &e))?;
        match program.attach_to_link(link) {
            Ok(id) => {
                drop(program.take_link(id).map_err(failed)?);
                Ok(Attached::Replaced)
            }
            // The interface went away since the check above.
            Err(error) if os_error(&error) == Some(libc::ENOLINK) => {
                self.pins.remove(&pin)?;
                attach_xdp(self.xdp(INGRESS)?, INGRESS, interface, aya_mode, &place)?;
                Ok(Attached::Anew)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// An interface takes one of the two XDP modes at a time. TCX carries the traffic between.
    fn make_way(&mut self, mode: IngressMode, target: &Target) -> Result<(), Error> {
        let unwanted = match mode {
            IngressMode::Native => LinkKind::IngressGeneric,
            _ => LinkKind::Ingress,
        };
        let Some(pin) = self.pins.adopt_link(unwanted, target.lower.ifindex)? else {
            return Ok(());
        };
        let interface = &target.device.name;
        match self.attach_tcx(LinkKind::IngressTcx, INGRESS_TC, &target.device) {
            Ok(_) => tracing::info!(interface, "native and generic XDP change places"),
            Err(error) => tracing::warn!(
                interface,
                "native and generic XDP change places: traffic pauses, since {error}"
            ),
        }
        system::detach_link(&pin).map_err(|error| Error::Pin { path: pin.clone(), error })?;
        self.pins.remove(&pin)
    }

    fn attach_tcx(
        &mut self,
        kind: LinkKind,
        name: &'static str,
        interface: &Interface,
    ) -> Result<Attached, Error> {
        let side = match kind {
            LinkKind::Egress => TcAttachType::Egress,
            _ => TcAttachType::Ingress,
        };
        let pin = self.pins.adopt_link(kind, interface.ifindex)?;
        let place = self.pins.link(kind, interface.ifindex);
        let program = self.classifier(name)?;
        let failed =
            |error| Error::Attach { program: name, interface: interface.name.clone(), error };
        if let Some(pin) = pin {
            belongs_here(&pin, interface, side, name)?;
            let link = open_link(&pin)?;
            let link = SchedClassifierLink::try_from(link).map_err(|e| unusable(&pin, &e))?;
            let id = program.attach_to_link(link).map_err(failed)?;
            // The pin holds the link; this process need not.
            drop(program.take_link(id).map_err(failed)?);
            return Ok(Attached::Replaced);
        }
        // First: a program before ours that masquerades would take the endpoint's address
        // away, and one that ends the chain would hide packets from ours.
        let id = program
            .attach_with_options(
                &interface.name,
                side,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .map_err(failed)?;
        let link: FdLink =
            program.take_link(id).map_err(failed)?.try_into().map_err(|e| unusable(&place, &e))?;
        pin_link(link, &place)?;
        Ok(Attached::Anew)
    }
}

fn carrier(uplink: &Uplink, carries: impl Fn(LinkKind, u32) -> bool) -> Option<u32> {
    if !carries(LinkKind::Egress, uplink.device) {
        return None;
    }
    [
        (LinkKind::Ingress, uplink.ifindex),
        (LinkKind::IngressGeneric, uplink.ifindex),
        (LinkKind::IngressTcx, uplink.device),
    ]
    .into_iter()
    .find_map(|(kind, ifindex)| carries(kind, ifindex).then_some(ifindex))
}

/// Has the card leave VLAN tags in the frames, where XDP looks for them.
fn keep_vlan_tags(target: &Target) -> Result<(), Error> {
    let bonded = target.ports.iter();
    for interface in bonded.chain([&target.lower.name]) {
        let changed = system::keep_vlan_tags(interface).map_err(|error| Error::VlanStripped {
            interface: target.device.name.clone(),
            lower: interface.clone(),
            error,
        })?;
        if changed {
            tracing::info!(
                interface,
                vlan = target.device.name,
                "switched off that the card takes VLAN tags off (rx-vlan-offload)"
            );
        }
    }
    Ok(())
}

fn unusable(pin: &Path, error: &dyn std::error::Error) -> Error {
    Error::Pin { path: pin.into(), error: io::Error::other(error.to_string()) }
}

fn open_link(pin: &Path) -> Result<FdLink, Error> {
    PinnedLink::from_pin(pin).map(FdLink::from).map_err(|error: LinkError| unusable(pin, &error))
}

fn pin_link(link: FdLink, place: &Path) -> Result<(), Error> {
    link.pin(place).map(drop).map_err(|error| unusable(place, &error))
}

/// Checks that a pinned TCX link is attached to this interface and not to one with the
/// same index in another network namespace, whose program would be replaced.
fn belongs_here(
    pin: &Path,
    interface: &Interface,
    side: TcAttachType,
    program: &'static str,
) -> Result<(), Error> {
    let target =
        system::link_target(pin).map_err(|error| Error::Pin { path: pin.into(), error })?;
    let programs = system::tcx_programs(interface.ifindex, side).map_err(|error| {
        Error::Attach { program, interface: interface.name.clone(), error: error.into() }
    })?;
    if target.ifindex == interface.ifindex && programs.contains(&target.program_id) {
        Ok(())
    } else {
        Err(Error::OtherNamespace { path: pin.into(), interface: interface.name.clone() })
    }
}

/// The system's error number behind one of aya's errors.
fn os_error(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        if let Some(error) = error.downcast_ref::<aya::sys::SyscallError>() {
            return error.io_error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

pub(super) fn attach_xdp(
    program: &mut Xdp,
    name: &'static str,
    interface: &Interface,
    mode: AyaXdpMode,
    place: &Path,
) -> Result<(), Error> {
    let id = program.attach_to_if_index(interface.ifindex, mode).map_err(|error| {
        let mtu = interface.mtu;
        let interface = interface.name.clone();
        match (os_error(&error), mode) {
            // The latter: one in the other of the two XDP modes.
            (Some(libc::EBUSY | libc::EEXIST), _) => Error::OtherProgram { interface },
            (Some(libc::ENODEV), _) => Error::NoInterface { interface },
            (Some(number), AyaXdpMode::Driver) => {
                let error = io::Error::from_raw_os_error(number);
                Error::NoNativeXdp { interface, error, mtu }
            }
            // Aya's way for old kernels, which it also tries after EINVAL.
            (None, AyaXdpMode::Driver) => {
                let error = io::Error::other(error.to_string());
                Error::NoNativeXdp { interface, error, mtu }
            }
            _ => Error::Attach { program: name, interface, error },
        }
    })?;
    let failed = |error| Error::Attach { program: name, interface: interface.name.clone(), error };
    // A link that is none cannot be pinned; dropping it detaches.
    let link: FdLink =
        program.take_link(id).map_err(failed)?.try_into().map_err(|e| unusable(place, &e))?;
    pin_link(link, place)
}

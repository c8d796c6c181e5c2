//! The kernel program: loading it with pinned maps, attaching it, replacing it without a gap.
use super::{
    Error, MapLayout, Options, XdpMode,
    pins::{LinkKind, Pins},
};
use crate::system;
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::{XdpLink, XdpMode as AyaXdpMode},
    },
};
use std::{fs::File, io, path::Path};

/// The object that the build script made; empty if it was told to make none.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.bpf.o"));

const INGRESS: &str = "herald_ingress";
const EGRESS: &str = "herald_egress";
const PASS: &str = "herald_pass";

/// The maps that are pinned: all but those of a flavour that logs.
pub const MAPS: [&str; 24] = [
    "VIPS",
    "ANNOUNCED",
    "SERVICES",
    "ROWS",
    "NODES",
    "NODE_MACS",
    "ENDPOINTS",
    "FLOWS",
    "PENDING",
    "INGRESS_FILTER",
    "EGRESS_FILTER",
    "SETTINGS",
    "COUNTERS",
    "SERVICE_STATS",
    "ECHO_BUDGET",
    "REFUSE_BUDGET",
    "ROW_ENDPOINTS",
    "AFFINITY",
    "ELSEWHERE",
    "FRAGMENTED",
    "SOURCE_RANGES",
    "EVENTS",
    "SAMPLES",
    "SAMPLING",
];

/// The maps whose capacity is the operator's choice. One that is pinned keeps its own.
const ADJUSTABLE: [&str; 2] = ["ROWS", "FLOWS"];

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index in this network namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// How an interface came to carry the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing of ours was there.
    Anew,
    /// The programs of an earlier agent were replaced, without a gap.
    Replaced,
}

/// The loaded object. Dropping it detaches nothing: all that matters is pinned.
#[derive(Debug)]
pub struct Object {
    ebpf: Ebpf,
    pins: Pins,
    mode: XdpMode,
    fresh: bool,
    _lock: File,
}

impl Object {
    /// Loads programs and maps into the kernel, adopting pinned maps. Attaches nothing.
    ///
    /// # Errors
    ///
    /// See [`Error`]: the machine cannot run it, another agent uses the pins, or they
    /// belong to maps of another layout.
    pub fn load(options: &Options) -> Result<Self, Error> {
        super::preflight::check(&options.pin_dir)?;
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let pins = Pins::new(&options.pin_dir);
        pins.create()?;
        let lock = pins.lock()?;
        let dead = pins.remove_dead_links()?;
        if dead > 0 {
            tracing::info!(links = dead, "removed links to interfaces that are gone");
        }

        let object = aya_obj::Object::parse(OBJECT).map_err(aya::EbpfError::from)?;
        let mut loader = EbpfLoader::new();
        let mut fresh = true;
        for name in MAPS {
            let map = object.maps.get(name).ok_or(Error::Incomplete { what: name })?;
            let mut expected = MapLayout {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: match name {
                    "ROWS" => options.rows,
                    "FLOWS" => options.flows,
                    _ => map.max_entries(),
                },
                flags: map.map_flags(),
            };
            if let Some(found) = pins.map_layout(name)? {
                fresh = false;
                let wanted = expected.max_entries;
                if ADJUSTABLE.contains(&name) {
                    expected.max_entries = found.max_entries;
                }
                if found != expected {
                    return Err(Error::MapMismatch {
                        map: name.into(),
                        path: pins.map(name),
                        found,
                        expected,
                        pin_dir: options.pin_dir.clone(),
                    });
                }
                if found.max_entries != wanted {
                    tracing::info!(
                        map = name,
                        capacity = found.max_entries,
                        wanted,
                        "the pinned map keeps its capacity; `lb-agent unload` before a start changes it, interrupting traffic"
                    );
                }
            }
            loader.map_max_entries(name, expected.max_entries);
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT)?;
        #[cfg(feature = "debug-object")]
        super::frame_log::follow(&mut ebpf);
        xdp(&mut ebpf, INGRESS)?.load().map_err(program_error(INGRESS))?;
        classifier(&mut ebpf)?.load().map_err(program_error(EGRESS))?;
        Ok(Self { ebpf, pins, mode: options.xdp_mode, fresh, _lock: lock })
    }

    /// Whether no map was pinned before: all of them are empty.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The pins.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Takes a map out.
    ///
    /// # Errors
    ///
    /// [`Error::Incomplete`] if the object has no such map, or it was taken before.
    pub fn take_map(&mut self, name: &'static str) -> Result<aya::maps::Map, Error> {
        self.ebpf.take_map(name).ok_or(Error::Incomplete { what: name })
    }

    /// Attaches both programs to an interface, or replaces those of an earlier agent.
    ///
    /// Egress goes first, so that no flow begins whose replies would not be rewritten.
    ///
    /// # Errors
    ///
    /// See [`Error`]: another program is there, the driver has no native XDP, the pin
    /// directory is another network namespace's.
    pub fn attach(&mut self, interface: &Interface) -> Result<Attached, Error> {
        self.remove_dead(interface.ifindex)?;
        let unwanted = match self.mode {
            XdpMode::Native => LinkKind::IngressGeneric,
            XdpMode::Generic => LinkKind::Ingress,
        };
        let egress = self.attach_egress(interface)?;
        if let Some(pin) = self.pins.adopt_link(unwanted, interface.ifindex)? {
            tracing::info!(
                interface = interface.name,
                "the ingress program changes between native and generic XDP: traffic pauses"
            );
            self.pins.remove(&pin)?;
        }
        let ingress = match self.attach_ingress(interface) {
            Ok(attached) => attached,
            Err(error) => {
                // Egress alone serves nobody. One that was there before stays, with its ingress.
                if egress == Attached::Anew {
                    self.pins.remove(&self.pins.link(LinkKind::Egress, interface.ifindex))?;
                }
                return Err(error);
            }
        };
        self.pins.remove_old_versions()?;
        Ok(ingress)
    }

    /// Detaches both programs from an interface.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        for kind in [LinkKind::Ingress, LinkKind::IngressGeneric, LinkKind::Egress] {
            self.pins.remove(&self.pins.link(kind, ifindex))?;
        }
        Ok(())
    }

    /// Whether the ingress program is attached to an interface that is still there.
    pub fn carries(&self, ifindex: u32) -> bool {
        let kind = match self.mode {
            XdpMode::Native => LinkKind::Ingress,
            XdpMode::Generic => LinkKind::IngressGeneric,
        };
        system::link_target(&self.pins.link(kind, ifindex))
            .is_ok_and(|target| target.ifindex == ifindex)
    }

    /// Indices of the interfaces that carry the ingress program by a pinned link.
    pub fn attached(&self) -> Vec<u32> {
        let mut attached: Vec<_> = self
            .pins
            .list_links()
            .into_iter()
            .filter(|l| matches!(l.kind, LinkKind::Ingress | LinkKind::IngressGeneric))
            .map(|l| l.ifindex)
            .collect();
        attached.sort_unstable();
        attached.dedup();
        attached
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

    fn attach_egress(&mut self, interface: &Interface) -> Result<Attached, Error> {
        let pin = self.pins.adopt_link(LinkKind::Egress, interface.ifindex)?;
        let place = self.pins.link(LinkKind::Egress, interface.ifindex);
        let program = classifier(&mut self.ebpf)?;
        let failed =
            |error| Error::Attach { program: EGRESS, interface: interface.name.clone(), error };
        let attached = if let Some(pin) = pin {
            belongs_here(&pin, interface)?;
            let link = open_link(&pin)?;
            let link = SchedClassifierLink::try_from(link).map_err(|e| unusable(&pin, &e))?;
            let id = program.attach_to_link(link).map_err(failed)?;
            // The pin holds the link; this process need not.
            drop(program.take_link(id).map_err(failed)?);
            Attached::Replaced
        } else {
            // First: a program before us that masquerades would take the endpoint's
            // address away, and one that ends the chain would hide replies from us.
            let id = program
                .attach_with_options(
                    &interface.name,
                    TcAttachType::Egress,
                    TcAttachOptions::TcxOrder(LinkOrder::first()),
                )
                .map_err(failed)?;
            let link: FdLink = program
                .take_link(id)
                .map_err(failed)?
                .try_into()
                .map_err(|e| unusable(&place, &e))?;
            pin_link(link, &place)?;
            Attached::Anew
        };
        Ok(attached)
    }

    fn attach_ingress(&mut self, interface: &Interface) -> Result<Attached, Error> {
        let (kind, mode) = match self.mode {
            XdpMode::Native => (LinkKind::Ingress, AyaXdpMode::Driver),
            XdpMode::Generic => (LinkKind::IngressGeneric, AyaXdpMode::Skb),
        };
        let pin = self.pins.adopt_link(kind, interface.ifindex)?;
        let place = self.pins.link(kind, interface.ifindex);
        let program = xdp(&mut self.ebpf, INGRESS)?;
        let Some(pin) = pin else {
            attach_xdp(program, INGRESS, interface, mode, &place)?;
            return Ok(Attached::Anew);
        };
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
                attach_xdp(program, INGRESS, interface, mode, &place)?;
                Ok(Attached::Anew)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Attaches, by a pinned link, the program that passes everything: a veth device delivers
/// frames that XDP sends only if its peer has an XDP program too (`drivers/net/veth.c`,
/// `veth_xdp_xmit`). Nothing but that link is pinned.
///
/// # Errors
///
/// See [`Error`].
pub fn attach_pass(options: &Options, interface: &Interface) -> Result<(), Error> {
    super::preflight::check(&options.pin_dir)?;
    if OBJECT.is_empty() {
        return Err(Error::NoObject);
    }
    let pins = Pins::new(&options.pin_dir);
    pins.create()?;
    pins.remove_dead_links()?;
    let place = pins.link(LinkKind::Pass, interface.ifindex);
    if place.exists() {
        return Ok(());
    }
    let mut loader = EbpfLoader::new();
    // The loader makes all maps of the object; this program uses none.
    for name in ADJUSTABLE.into_iter().chain(["PENDING", "ENDPOINTS", "SERVICE_STATS"]) {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let program = xdp(&mut ebpf, PASS)?;
    program.load().map_err(program_error(PASS))?;
    let mode = match options.xdp_mode {
        XdpMode::Native => AyaXdpMode::Driver,
        XdpMode::Generic => AyaXdpMode::Skb,
    };
    attach_xdp(program, PASS, interface, mode, &place)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::Incomplete { what: name })
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    ebpf.program_mut(EGRESS)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::Incomplete { what: EGRESS })
}

fn program_error(program: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |error| {
        if let ProgramError::LoadError { verifier_log, .. } = &error {
            tracing::debug!(program, "verifier: {verifier_log}");
        }
        Error::Program { program, error }
    }
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

/// Checks that a pinned egress link is attached to this interface and not to one with the
/// same index in another network namespace, whose program would be replaced.
fn belongs_here(pin: &Path, interface: &Interface) -> Result<(), Error> {
    let target =
        system::link_target(pin).map_err(|error| Error::Pin { path: pin.into(), error })?;
    let (_, programs) =
        SchedClassifier::query_tcx(&interface.name, TcAttachType::Egress).map_err(|error| {
            Error::Attach { program: EGRESS, interface: interface.name.clone(), error }
        })?;
    if target.ifindex == interface.ifindex
        && programs.iter().any(|program| program.id() == target.program_id)
    {
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

fn attach_xdp(
    program: &mut Xdp,
    name: &'static str,
    interface: &Interface,
    mode: AyaXdpMode,
    place: &Path,
) -> Result<(), Error> {
    let id = program.attach_to_if_index(interface.ifindex, mode).map_err(|error| {
        let interface = interface.name.clone();
        match (os_error(&error), mode) {
            (Some(libc::EBUSY), _) => Error::OtherProgram { interface },
            (Some(libc::ENODEV), _) => Error::NoInterface { interface },
            (Some(number), AyaXdpMode::Driver) => {
                Error::NoNativeXdp { interface, error: io::Error::from_raw_os_error(number) }
            }
            // Aya's way for old kernels, which it also tries after EINVAL.
            (None, AyaXdpMode::Driver) => {
                Error::NoNativeXdp { interface, error: io::Error::other(error.to_string()) }
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

//! The kernel programs: loading them with pinned maps.
use super::{
    Error, MapLayout, Options, XdpMode,
    attach::{Interface, attach_xdp},
    pins::{LinkKind, Pins},
};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp, xdp::XdpMode as AyaXdpMode},
};
use lb_common::maps::{KEPT, KEPT_SINCE};
use std::{collections::BTreeMap, fs::File};

/// The object that the build script made; empty if it was told to make none.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.bpf.o"));

pub(super) const INGRESS: &str = "herald_ingress";
pub(super) const INGRESS_TC: &str = "herald_ingress_tc";
pub(super) const EGRESS: &str = "herald_egress";
pub(super) const EGRESS_BARE: &str = "herald_egress_l3";
const PASS: &str = "herald_pass";

/// The maps that are pinned: all but those of a flavour that logs.
pub const MAPS: [&str; 25] = [
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
    "CLAIM_BUDGET",
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

/// The loaded object. Dropping it detaches nothing: all that matters is pinned.
#[derive(Debug)]
pub struct Object {
    ebpf: Ebpf,
    /// Programs that could not be loaded and may never be needed, and why.
    refused: BTreeMap<&'static str, String>,
    pub(super) pins: Pins,
    pub(super) mode: XdpMode,
    fresh: bool,
    upgrading: bool,
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

        let upgrading = pins.keep_maps(&KEPT, KEPT_SINCE)?;
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
                fresh &= upgrading && KEPT.contains(&name);
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
        let ebpf = loader.load(OBJECT)?;
        let refused = BTreeMap::new();
        let mode = options.xdp_mode;
        let mut object = Self { refused, ebpf, pins, mode, fresh, upgrading, _lock: lock };
        #[cfg(feature = "debug-object")]
        super::frame_log::follow(&mut object.ebpf);
        // All of them now: a program is loaded with the numbers of the maps' descriptors, which
        // may be closed later. Whether some are needed depends on the interfaces.
        if object.mode != XdpMode::Tcx {
            object.xdp(INGRESS)?;
        }
        object.classifier(EGRESS)?;
        for name in [INGRESS_TC, EGRESS_BARE] {
            if let Err(error) = object.classifier(name) {
                object.refused.insert(name, error.to_string());
            }
        }
        Ok(object)
    }

    /// Whether no map was pinned before, but for those that an earlier version had, too.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether programs of an earlier version were attached when this one was loaded. They go on
    /// with its maps until they are replaced.
    pub fn is_upgrade(&self) -> bool {
        self.upgrading
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

    /// Loads a program, unless it has been.
    pub(super) fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, Error> {
        let program = xdp(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            program.load().map_err(program_error(name))?;
        }
        Ok(program)
    }

    /// Loads a program, unless it has been.
    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, Error> {
        if let Some(reason) = self.refused.get(name) {
            return Err(Error::Refused { reason: reason.clone() });
        }
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(Error::Incomplete { what: name })?;
        if program.fd().is_err() {
            program.load().map_err(program_error(name))?;
        }
        Ok(program)
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
    let large = [
        "ROW_ENDPOINTS",
        "PENDING",
        "ENDPOINTS",
        "SERVICE_STATS",
        "AFFINITY",
        "ELSEWHERE",
        "FRAGMENTED",
    ];
    for name in ADJUSTABLE.into_iter().chain(large) {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let program = xdp(&mut ebpf, PASS)?;
    program.load().map_err(program_error(PASS))?;
    let mode = match options.xdp_mode {
        XdpMode::Generic => AyaXdpMode::Skb,
        _ => AyaXdpMode::Driver,
    };
    attach_xdp(program, PASS, interface, mode, &place)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::Incomplete { what: name })
}

fn program_error(program: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |error| {
        if let ProgramError::LoadError { verifier_log, .. } = &error {
            tracing::debug!(program, "verifier: {verifier_log}");
        }
        Error::Program { program, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The same sources give the same object in whatever folder, so that images can be compared.
    #[test]
    fn the_object_names_no_folder_of_the_machine_that_built_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().display().to_string();
        for folder in [root.as_str(), "/.cargo/", "/.rustup/"] {
            let named = OBJECT.windows(folder.len()).any(|found| found == folder.as_bytes());
            assert!(!named, "{folder}");
        }
    }
}

//! What can go wrong between the agent and the kernel: each in one line that names the
//! thing and the way out.
use crate::exit::Exit;
use aya::{EbpfError, maps::MapError, programs::ProgramError};
use std::{fmt, io, path::PathBuf};

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is empty.
    #[error(
        "this lb-agent was built without its kernel program (LB_BPF_OBJECT=none): build it again without that variable"
    )]
    NoObject,

    /// Privileges are missing.
    #[error("missing {missing}: run lb-agent as root, or grant it these capabilities")]
    NotPermitted {
        /// Names of capabilities.
        missing: String,
    },

    /// TCX and a verifier that does not mis-prune need Linux 6.8.
    #[error(
        "Linux {release} is too old: Herald needs {} or newer",
        super::preflight::OLDEST_KERNEL
    )]
    KernelTooOld {
        /// `uname -r`
        release: String,
    },

    /// The kernel has no type information of its own.
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux is absent): boot one built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are"
    )]
    NoBtf,

    /// A file under /proc could not be read.
    #[error("{path} cannot be read ({error}): is /proc mounted?")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        error: io::Error,
    },

    /// There is no BPF file system, and it could not be mounted.
    #[error(
        "no BPF file system at {path}, and mounting one failed ({error}): run `mount -t bpf bpf {path}`"
    )]
    NoBpffs {
        /// Where it was expected.
        path: PathBuf,
        /// Why it could not be mounted.
        error: io::Error,
    },

    /// The pin directory lies on another file system.
    #[error(
        "{path} is not on a BPF file system: give --pin-dir a directory below /sys/fs/bpf, or run `mount -t bpf bpf {path}`"
    )]
    NotBpffs {
        /// The pin directory or its nearest ancestor that exists.
        path: PathBuf,
    },

    /// A directory or pin could not be made, read, renamed or removed.
    #[error("{path}: {error}; is it on a BPF file system, and are its names free of dots?")]
    Pin {
        /// The directory or pin.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },

    /// Another process holds the pin directory.
    #[error(
        "{path} is in use by another lb-agent: stop that one, or give this one its own --pin-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },

    /// There is nothing to look at.
    #[error(
        "nothing of this version of Herald is pinned at {path}: start lb-agent, or give its --pin-dir"
    )]
    NothingPinned {
        /// The pin that is missing.
        path: PathBuf,
    },

    /// Another process reads the samples.
    #[error("{path} is being watched already: a ring has one reader, so end that one first")]
    Watched {
        /// The directory of the maps.
        path: PathBuf,
    },

    /// A pinned map does not look like the object's.
    #[error(
        "the map pinned at {path} is {found}, but this lb-agent's {map} is {expected}: run `lb-agent unload --pin-dir {pin_dir}`, which interrupts traffic, or give it another --pin-dir"
    )]
    MapMismatch {
        /// The map.
        map: String,
        /// Its pin.
        path: PathBuf,
        /// What is pinned.
        found: MapLayout,
        /// What the object has.
        expected: MapLayout,
        /// As given.
        pin_dir: PathBuf,
    },

    /// The object lacks a map or a program, or has one of another type.
    #[error(
        "the kernel program lacks {what}: agent and object are of different versions, build them together"
    )]
    Incomplete {
        /// The map or program.
        what: &'static str,
    },

    /// The object cannot be parsed or its maps cannot be made.
    #[error("the kernel program cannot be loaded: {}", one_line(.0))]
    Load(#[from] EbpfError),

    /// A program was refused.
    #[error("the kernel refused the program {program}: {}", program_error(.error))]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        error: ProgramError,
    },

    /// A program that only some interfaces need was refused, or is not there.
    #[error("{reason}")]
    Refused {
        /// In full.
        reason: String,
    },

    /// A map could not be read or written.
    #[error("map {map}: {}", one_line(.error))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        error: MapError,
    },

    /// The ring `EVENTS` cannot be read.
    #[error("the ring EVENTS cannot be read: {0}")]
    Events(io::Error),

    /// `ROWS` could not be mapped into memory.
    #[error("map ROWS cannot be mapped into memory: {0}")]
    MapRows(io::Error),

    /// There is no such interface.
    #[error("there is no interface {interface}: `ip link` lists those there are")]
    NoInterface {
        /// Its name.
        interface: String,
    },

    /// Another program is attached.
    #[error(
        "{}: use --xdp-mode auto or tcx, detach it, or leave {interface} out of --interfaces",
        other_program(interface)
    )]
    OtherProgram {
        /// The interface.
        interface: String,
    },

    /// The driver has no native XDP.
    #[error(
        "{}: use --xdp-mode auto or generic, which are slower there, or leave {interface} out of --interfaces", no_native(interface, error, *mtu)
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
        /// What the driver said.
        error: io::Error,
        /// The interface's MTU, if it is known.
        mtu: Option<u32>,
    },

    /// Native XDP on a device that takes VLAN tags off the frames before.
    #[error(
        "{}: use --xdp-mode auto or tcx, or leave {interface} out of --interfaces",
        stripped(interface, lower, error)
    )]
    VlanStripped {
        /// The VLAN device.
        interface: String,
        /// The device below.
        lower: String,
        /// What the driver said.
        error: io::Error,
    },

    /// More interfaces by which packets leave than programs are attached to.
    #[error(
        "{interface} is one interface with routes too many ({} at most): endpoints whose replies leave by it are served by kube-proxy",
        super::apply::MAX_EGRESS
    )]
    TooManyEgress {
        /// The first that found no room.
        interface: String,
    },

    /// A pin names an interface of another network namespace.
    #[error(
        "{path} is attached to an interface of another network namespace, not to {interface} here: give each namespace its own --pin-dir"
    )]
    OtherNamespace {
        /// The link's pin.
        path: PathBuf,
        /// The interface that has the same index here.
        interface: String,
    },

    /// Attaching failed otherwise.
    #[error("{program} cannot be attached to {interface}: {}", program_error(.error))]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        error: ProgramError,
    },

    /// More interfaces than `SETTINGS` has room for.
    #[error(
        "{interface} is one uplink too many ({} at most): name those that count with --interfaces",
        lb_common::maps::MAX_UPLINKS
    )]
    TooManyUplinks {
        /// The first that found no room.
        interface: String,
    },

    /// A request to the kernel's routing socket failed.
    #[error("netlink: {what}: {error}")]
    Netlink {
        /// What was asked.
        what: String,
        /// Why it failed.
        error: String,
    },
}

impl Error {
    /// What is the matter, without what to do about it: for where another way was found.
    pub fn cause(&self) -> String {
        match self {
            Self::OtherProgram { interface } => other_program(interface),
            Self::NoNativeXdp { interface, error, mtu } => no_native(interface, error, *mtu),
            Self::VlanStripped { interface, lower, error } => stripped(interface, lower, error),
            other => other.to_string(),
        }
    }

    /// The exit code that a process which ends by this error has.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoObject
            | Self::NotPermitted { .. }
            | Self::KernelTooOld { .. }
            | Self::NoBtf
            | Self::Proc { .. }
            | Self::NoBpffs { .. }
            | Self::NotBpffs { .. }
            | Self::Pin { .. }
            | Self::InUse { .. }
            | Self::NothingPinned { .. }
            | Self::Watched { .. }
            | Self::MapMismatch { .. }
            | Self::Incomplete { .. }
            | Self::Load(_)
            | Self::Program { .. }
            | Self::Refused { .. } => Exit::Environment,
            Self::NoInterface { .. }
            | Self::OtherProgram { .. }
            | Self::NoNativeXdp { .. }
            | Self::VlanStripped { .. }
            | Self::TooManyEgress { .. }
            | Self::OtherNamespace { .. }
            | Self::Attach { .. }
            | Self::TooManyUplinks { .. } => Exit::Interface,
            Self::Map { .. } | Self::MapRows(_) | Self::Events(_) | Self::Netlink { .. } => {
                Exit::Failure
            }
        }
    }
}

/// The largest MTU that fits into one page with the room that XDP needs around it: beyond,
/// drivers refuse XDP unless they can chain buffers (`xdp.frags`).
pub(super) const ONE_PAGE: u32 = 3498;

fn other_program(interface: &str) -> String {
    format!(
        "{interface} already carries another XDP program (`bpftool net show dev {interface}` names it)"
    )
}

fn no_native(interface: &str, error: &io::Error, mtu: Option<u32>) -> String {
    format!("{interface} does not take native XDP ({error}{})", large(mtu))
}

fn stripped(interface: &str, lower: &str, error: &io::Error) -> String {
    format!(
        "{lower} takes VLAN tags off frames before XDP sees them, and does not let that be changed ({error}), so {interface} cannot be served by XDP"
    )
}

/// What may be the matter with an interface's MTU.
fn large(mtu: Option<u32>) -> String {
    match mtu {
        Some(mtu) if mtu > ONE_PAGE => format!(
            "; its MTU is {mtu}, and many drivers take no XDP program above {ONE_PAGE}, even one that takes frames in several buffers: a smaller MTU helps"
        ),
        _ => String::new(),
    }
}

/// What must be equal for a pinned map to be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// `enum bpf_map_type`
    pub kind: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `BPF_F_*`
    pub flags: u32,
}

impl fmt::Display for MapLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(
            f,
            "of type {kind}, {key_size}-byte keys, {value_size}-byte values, {max_entries} entries, flags {flags:#x}"
        )
    }
}

/// An error with its causes, in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many of aya's errors repeat their cause.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// What the verifier says at the end of any log.
fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth ", "verification time "].iter().any(|words| line.starts_with(words))
}

/// The verifier's log is hundreds of lines long: the last that says something is enough.
fn program_error(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = log
                .lines()
                .rfind(|line| !line.trim().is_empty() && !is_statistics(line))
                .unwrap_or("no verifier log");
            format!("{io_error}: {last}")
        }
        other => one_line(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_name_the_way_out() {
        let error = Error::MapMismatch {
            map: "VIPS".into(),
            path: "/sys/fs/bpf/herald/v3/maps/VIPS".into(),
            found: MapLayout { kind: 1, key_size: 8, value_size: 8, max_entries: 1, flags: 0 },
            expected: MapLayout { kind: 1, key_size: 16, value_size: 8, max_entries: 1, flags: 0 },
            pin_dir: "/sys/fs/bpf/herald".into(),
        };
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains("VIPS") && text.contains("unload"), "{text}");
        assert!(Error::KernelTooOld { release: "5.15.0".into() }.to_string().contains("6.8"));
    }
}

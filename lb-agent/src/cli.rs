//! The commands that look at or touch the kernel without any configuration: `check`, `load`, `unload`
//! and `uninstall`.
use crate::datapath::{
    DEFAULT_PIN_DIR, Error, Options, XdpMode,
    attach::{Attached, Carried, Interface, Target},
    check::{self, Verdict},
    netlink,
    object::{self, Object},
    pins::{LinkKind, Pins},
    preflight,
    uninstall::{self, Removed},
};
use anyhow::Context as _;
use lb_common::maps::{DEFAULT_FLOWS, DEFAULT_ROWS};
use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Where the agent keeps what it needs again at its next start.
pub const DEFAULT_STATE_DIR: &str = "/run/herald";

/// What `load` and `run` have in common: how programs and maps are loaded.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadOptions {
    /// Directory on a BPF file system for pinned maps and links; one per network namespace
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// How the ingress program is attached to interfaces
    #[arg(long, value_enum, default_value_t)]
    pub xdp_mode: XdpMode,
    /// Most rows that all Services can use together, at 8 bytes each
    #[arg(long, value_name = "ROWS", default_value_t = DEFAULT_ROWS,
          value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub row_capacity: u32,
    /// Most entries in the flow table, two per flow, at about 140 bytes each
    #[arg(long, value_name = "ENTRIES", default_value_t = DEFAULT_FLOWS,
          value_parser = clap::value_parser!(u32).range(2..=1 << 28))]
    pub flow_capacity: u32,
}

impl From<&LoadOptions> for Options {
    fn from(options: &LoadOptions) -> Self {
        let LoadOptions { pin_dir, xdp_mode, row_capacity, flow_capacity } = options;
        Self {
            pin_dir: pin_dir.clone(),
            rows: *row_capacity,
            flows: *flow_capacity,
            xdp_mode: *xdp_mode,
            ..Self::default()
        }
    }
}

/// Attach the kernel program to an interface and pin it with its maps
///
/// Without anything in the maps it passes everything; `run` adopts what is pinned.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// The interface
    #[arg(value_name = "IFACE")]
    pub interface: String,
    /// Attach the program that passes everything instead: the far end of a veth pair needs
    /// one, or it drops what the near end's XDP program sends
    #[arg(long)]
    pub pass: bool,
    /// How to load.
    #[command(flatten)]
    pub options: LoadOptions,
}

/// Detach the kernel program and remove what Herald left in the kernel
#[derive(Clone, Debug, clap::Args)]
pub struct Unload {
    /// Detach from this interface only, and keep the maps
    #[arg(value_name = "IFACE")]
    pub interface: Option<String>,
    /// The directory that was given to `load` or `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// Take Herald off this node, without losing a packet that other nodes can serve
///
/// They are made to take this node for gone first. Then programs, maps, multicast groups, neighbour entries
/// and what the agent kept from one start to the next are removed. Stop the agent before.
#[derive(Clone, Debug, clap::Args)]
pub struct Uninstall {
    /// The directory that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// The folder that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Say whether this machine can run Herald, how interfaces would be served, and what is in the way
///
/// Changes nothing. Exits with 3 if the machine cannot run it.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// Interfaces to look at, by name or pattern; by default those with a default route
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// The directory that `run` will be given
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// `--output`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people
    #[default]
    Table,
    /// One JSON object
    Json,
}

/// Runs `check`; returns what to print, and whether the machine can run Herald.
///
/// # Errors
///
/// See [`Error`].
pub async fn check(check: &Check) -> anyhow::Result<(String, bool)> {
    let report = check::report(&check.pin_dir, &check.interfaces).await?;
    let text = match check.output {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    Ok((text, report.verdict() != Verdict::Bad))
}

/// Runs `load`; returns what to print.
///
/// # Errors
///
/// See [`Error`].
pub async fn load(load: &Load) -> Result<String, Error> {
    let Load { interface, pass, options } = load;
    let options = Options::from(options);
    preflight::check(&options.pin_dir)?;
    let handle = netlink::connect()?;
    let ifindex = netlink::ifindex(&handle, interface).await?;
    let interface = Interface { ifindex, name: interface.clone(), mtu: None };
    if *pass {
        object::attach_pass(&options, &interface)?;
        return Ok(format!("{} passes everything\n", interface.name));
    }
    let mut object = Object::load(&options)?;
    let carried = match object.attach(&Target::from(interface.clone())) {
        Ok(carried) => carried,
        Err(error) => {
            // What was made for nothing goes again; what was there before stays.
            if object.is_fresh() {
                object.pins().remove_all()?;
            }
            return Err(error);
        }
    };
    Ok(loaded(&object, &interface, &carried))
}

fn loaded(object: &Object, interface: &Interface, carried: &Carried) -> String {
    let pins = object.pins();
    let maps = pins.maps();
    let maps = maps.display();
    let name = &interface.name;
    let mut text = String::new();
    let how = match carried.attached {
        Attached::Anew => "attached",
        Attached::Replaced => "replaced, without a gap,",
    };
    if let Some(reason) = &carried.instead_of {
        let _ = writeln!(text, "by {}, since {}", carried.mode.name(), reason.cause());
    }
    let found = if object.is_fresh() { "made" } else { "adopted" };
    let _ = write!(
        text,
        "\
herald_ingress and herald_egress {how} on {name}; maps {found} under {maps}

Look at them with:
  bpftool net show dev {name}
  bpftool map dump pinned {maps}/COUNTERS
  bpftool map dump pinned {maps}/VIPS
  bpftool map dump pinned {maps}/SERVICES
  bpftool -j map dump pinned {maps}/SETTINGS | jq '.[].formatted.value'
  bpftool map show pinned {maps}/ROWS
  bpftool link show pinned {}
Remove them with:
  lb-agent unload --pin-dir {}
",
        pins.link(LinkKind::Egress, interface.ifindex).display(),
        pins.dir().display(),
    );
    text
}

/// Runs `unload`; returns what to print.
///
/// # Errors
///
/// See [`Error`].
pub async fn unload(unload: &Unload) -> Result<String, Error> {
    let Unload { interface, pin_dir } = unload;
    let Some(name) = interface else {
        return Ok(removed(pin_dir, uninstall::uninstall(pin_dir, false).await?));
    };
    preflight::check(pin_dir)?;
    let pins = Pins::new(pin_dir);
    let _lock = if pin_dir.exists() { Some(pins.lock()?) } else { None };
    let handle = netlink::connect()?;
    let ifindex = netlink::ifindex(&handle, name).await?;
    let links: Vec<_> = pins.list_links().into_iter().filter(|l| l.ifindex == ifindex).collect();
    if links.is_empty() {
        return Ok(format!("nothing of Herald is attached to {name}\n"));
    }
    for link in links.iter().rev() {
        pins.remove(&link.path)?;
    }
    Ok(format!("detached from {name}; maps stay under {}\n", pins.maps().display()))
}

fn removed(pin_dir: &Path, removed: Removed) -> String {
    let Removed { pinned, links, groups, entries } = removed;
    if !pinned && groups + entries == 0 {
        return format!("nothing is pinned under {}\n", pin_dir.display());
    }
    format!(
        "removed {links} links and all maps under {}, {groups} multicast groups, {entries} neighbour entries\n",
        pin_dir.display()
    )
}

/// Runs `uninstall`; returns what to print.
///
/// # Errors
///
/// See [`Error`]; the folder cannot be removed.
pub async fn uninstall(options: &Uninstall) -> anyhow::Result<String> {
    let Uninstall { pin_dir, state_dir } = options;
    let mut text = removed(pin_dir, uninstall::uninstall(pin_dir, true).await?);
    match fs::remove_dir_all(state_dir) {
        Ok(()) => {
            let _ = writeln!(text, "removed {}", state_dir.display());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("{} cannot be removed", state_dir.display()));
        }
    }
    Ok(text)
}

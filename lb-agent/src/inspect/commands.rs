//! The commands that look and change nothing but whether frames are sampled.
use super::{
    bundle,
    explain::explain,
    flow::{Flow, VipPort, client},
    maps,
    pinned::Pinned,
    status::Status,
    watch,
};
use crate::{
    cli::Format,
    datapath::DEFAULT_PIN_DIR,
    exit::{Exit, ExitContext as _},
    system,
};
use anyhow::anyhow;
use std::{io, net::SocketAddr, path::PathBuf};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// Say which way a flow takes: its row, the nodes in order, the pod
///
/// Read from the maps that are pinned on this node, for a packet that reaches it from the client.
#[derive(Clone, Debug, clap::Args)]
pub struct Explain {
    /// The client, such as `192.0.2.1:40000` or `[2001:db8::1]:40000`
    #[arg(value_name = "CLIENT:PORT", value_parser = client)]
    pub client: SocketAddr,
    /// The VIP, such as `198.51.100.7:80/TCP` (the default protocol) or `[2001:db8::7]:53/UDP`
    #[arg(value_name = "VIP:PORT/PROTO")]
    pub vip: VipPort,
    /// The directory that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

impl Explain {
    /// What to print.
    ///
    /// # Errors
    ///
    /// The flow cannot be, or the maps cannot be read.
    pub fn run(&self) -> anyhow::Result<String> {
        let flow = Flow::new(self.client, self.vip)
            .map_err(|reason| anyhow!("{reason}"))
            .exit_with(Exit::Usage)?;
        let now_s = (system::monotonic_ns() / 1_000_000_000) as u32;
        let explanation = explain(&Pinned::open(&self.pin_dir)?, &flow, now_s)?;
        Ok(match self.output {
            Output::Text => explanation.to_string(),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&explanation)?),
        })
    }
}

/// Print what becomes of frames as it happens: a sample of those that concern a VIP
///
/// tcpdump does not see frames that XDP answers or sends on. Sampling costs what it is asked for,
/// and ends with this command.
#[derive(Clone, Debug, clap::Args)]
pub struct Watch {
    /// Sample one in so many frames
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub one_in: u32,
    /// Only outcomes whose name contains this: drop, second_chance, refused, ...
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Write the samples to this file (pcapng; what became of each is its comment), too
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// End after so many samples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The directory that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
}

impl Watch {
    /// Prints until interrupted, or until as many were printed as were asked for.
    ///
    /// # Errors
    ///
    /// The maps cannot be read, or a file cannot be written.
    pub async fn run(&self) -> anyhow::Result<()> {
        let Self { one_in, only, pcap, count, pin_dir } = self.clone();
        let options = watch::Options { pin_dir, one_in, only, pcap, count };
        watch::watch(&options, &mut io::stdout().lock()).await
    }
}

/// Where this node is looked at.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The directory that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// The --metrics-addr that was given to `run`
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9120")]
    pub agent: SocketAddr,
}

/// Show what this node serves: interfaces, VIPs and their owners, shares of nodes and pods, sessions, drops
///
/// Read from the pinned maps, also where no agent runs; names, owners elsewhere and BGP sessions are the
/// agent's to tell.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowStatus {
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

impl ShowStatus {
    /// What to print.
    ///
    /// # Errors
    ///
    /// The maps cannot be read.
    pub async fn run(&self) -> anyhow::Result<String> {
        let status = Status::read(&self.place.pin_dir, self.place.agent).await?;
        Ok(match self.output {
            Format::Table => status.text(),
            Format::Json => serde_json::to_string_pretty(&status)? + "\n",
        })
    }
}

/// List the pinned maps: entries, kernel memory, and what prints each
#[derive(Clone, Debug, clap::Args)]
pub struct Maps {
    /// The directory that was given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

impl Maps {
    /// What to print.
    ///
    /// # Errors
    ///
    /// The maps cannot be read.
    pub fn run(&self) -> anyhow::Result<String> {
        let maps = maps::list(&self.pin_dir)?;
        Ok(match self.output {
            Format::Table => maps::text(&maps),
            Format::Json => serde_json::to_string_pretty(&maps)? + "\n",
        })
    }
}

/// Write what somebody who helps from afar wants to see into a tar file: status, check, maps, metrics
///
/// It names Services, addresses and routers, but has no passwords and no keys.
#[derive(Clone, Debug, clap::Args)]
pub struct Bundle {
    /// The file, which must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
}

impl Bundle {
    /// What to print.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub async fn run(&self) -> anyhow::Result<String> {
        bundle::write(&self.file, &self.place.pin_dir, self.place.agent).await?;
        Ok(format!("{}\n", self.file.display()))
    }
}

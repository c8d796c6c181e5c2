//! `lb-agent watch`: a live sample of what the kernel programs do, since frames that XDP turns
//! round or sends on are seen by no other tool.
use super::{capture::Capture, sample};
use crate::{
    datapath::{Error, pins::Pins},
    system,
};
use aya::maps::{Array, MapData, RingBuf};
use lb_common::maps::{Sampling, Settings};
use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time;

/// Sampling ends so many seconds after its reader last said that it is there.
const ALIVE_S: u32 = 5;
/// How often the ring is looked at: it holds several thousand samples.
const LOOK: Duration = Duration::from_millis(50);

/// What to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the maps are pinned.
    pub pin_dir: PathBuf,
    /// One in so many frames.
    pub one_in: u32,
    /// Only outcomes whose name contains this.
    pub only: Option<String>,
    /// Write them to this file, too.
    pub pcap: Option<PathBuf>,
    /// End after so many.
    pub count: Option<u64>,
}

/// Prints samples until it is cancelled or has printed as many as were asked for.
///
/// # Errors
///
/// Nothing is pinned, somebody else watches, or a file cannot be written.
pub async fn watch(options: &Options, out: &mut impl Write) -> anyhow::Result<()> {
    let pins = Pins::new(&options.pin_dir);
    let mut ring: RingBuf<MapData> = pins.open("SAMPLES")?;
    let mut sampling: Array<MapData, Sampling> = pins.open("SAMPLING")?;
    let settings: Array<MapData, Settings> = pins.open("SETTINGS")?;
    let _lock = alone(&pins.maps())?;
    let settings = settings.get(&0, 0).map_err(|error| Error::Map { map: "SETTINGS", error })?;
    let tunnel_port = u16::from_be_bytes(settings.tunnel_port);
    let mut capture = match &options.pcap {
        Some(path) => Some(Capture::new(io::BufWriter::new(File::create(path)?))?),
        None => None,
    };
    // What an earlier reader left.
    while ring.next().is_some() {}
    let mut printed = 0;
    let mut tick = time::interval(LOOK);
    let mut renewed_s = 0;
    loop {
        let now_s = (system::monotonic_ns() / 1_000_000_000) as u32;
        if now_s != renewed_s {
            renewed_s = now_s;
            let value = Sampling { one_in: options.one_in, until_s: now_s + ALIVE_S };
            set(&mut sampling, value)?;
        }
        while let Some(item) = ring.next() {
            let Some(sample) = sample::read(&item) else { continue };
            drop(item);
            let name = sample::outcome(&sample);
            if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            let unix_ns = unix_ns(sample.time_ns);
            let frame = sample::describe(sample::frame(&sample), tunnel_port);
            let (ifindex, length) = (sample.ifindex, sample.length);
            writeln!(out, "{} if {ifindex:<3} {name:<22} {length:>5} B  {frame}", clock(unix_ns))?;
            if let Some(capture) = &mut capture {
                capture.add(&sample, unix_ns)?;
            }
            printed += 1;
            if options.count.is_some_and(|count| printed >= count) {
                out.flush()?;
                return set(&mut sampling, Sampling::default());
            }
        }
        out.flush()?;
        tick.tick().await;
    }
}

fn set(sampling: &mut Array<MapData, Sampling>, value: Sampling) -> anyhow::Result<()> {
    Ok(sampling.set(0, value, 0).map_err(|error| Error::Map { map: "SAMPLING", error })?)
}

/// A ring has one reader.
fn alone(maps: &Path) -> Result<File, Error> {
    let pin = |error| Error::Pin { path: maps.to_owned(), error };
    let dir = File::open(maps).map_err(pin)?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(TryLockError::WouldBlock) => Err(Error::Watched { path: maps.to_owned() }),
        Err(TryLockError::Error(error)) => Err(pin(error)),
    }
}

/// From the kernel's monotonic clock to the time of day.
fn unix_ns(monotonic_ns: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = system::monotonic_ns().saturating_sub(monotonic_ns);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(ago)
}

/// The time of day in UTC, to the microsecond.
fn clock(unix_ns: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(unix_ns.into()).unwrap_or_default();
    at.strftime("%H:%M:%S%.6f").to_string()
}

//! Takes everything out of the kernel without losing a packet that could be served elsewhere.
use super::{Error, multicast, neighbours, netlink, pins::Pins, preflight};
use aya::maps::{Array, MapData};
use lb_common::maps::Settings;
use std::{path::Path, time::Duration};
use tokio::time;

/// How long others take at most to miss a node whose kernel does not answer any more, to plan without it,
/// and to announce what it announced: four times what they usually do.
const MISSED: Duration = Duration::from_millis(500);

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Something was pinned.
    pub pinned: bool,
    /// Links, each of which attached a program to an interface.
    pub links: usize,
    /// Multicast groups that were joined.
    pub groups: usize,
    /// Neighbour entries.
    pub entries: usize,
}

/// Removes links, maps, multicast groups and neighbour entries. With `gently`, the node first stops
/// answering other agents' probes, and goes on with everything else until they send it nothing.
///
/// # Errors
///
/// See [`Error`]; [`Error::InUse`] while an agent runs.
pub async fn uninstall(pin_dir: &Path, gently: bool) -> Result<Removed, Error> {
    preflight::check(pin_dir)?;
    let pins = Pins::new(pin_dir);
    let pinned = pin_dir.exists();
    let _lock = if pinned { Some(pins.lock()?) } else { None };
    let handle = netlink::connect()?;
    let links = pins.list_links().len();
    if gently && links > 0 && change(&pins, |settings| settings.withdrawn = 1)? {
        time::sleep(MISSED).await;
        // Others answer for its VIPs by now.
        change(&pins, |settings| settings.announce_until_ns = 0)?;
    }
    pins.remove_all()?;
    // All agents of a network namespace share these.
    let groups = multicast::leave_all(&handle).await?;
    let entries = neighbours::remove_all(&handle).await?;
    Ok(Removed { pinned, links, groups, entries })
}

/// Changes the settings that are pinned. False if there are none of this version.
fn change(pins: &Pins, with: impl FnOnce(&mut Settings)) -> Result<bool, Error> {
    const SETTINGS: &str = "SETTINGS";
    let mut array: Array<MapData, Settings> = match pins.open(SETTINGS) {
        Err(Error::NothingPinned { .. }) => return Ok(false),
        opened => opened?,
    };
    let failed = |error| Error::Map { map: SETTINGS, error };
    let mut settings = array.get(&0, 0).map_err(failed)?;
    with(&mut settings);
    array.set(0, settings, 0).map_err(failed)?;
    Ok(true)
}

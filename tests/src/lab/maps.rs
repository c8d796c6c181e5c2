//! What an agent has pinned, read as an operator's tool would.
use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use lb_agent::datapath::address_from_bytes;
use lb_common::{
    maps::{Announced, AnnouncedKey, Settings},
    outcome::Counters,
};
use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Where a map is pinned: `DIR/v<schema>/maps/NAME`, whatever the schema.
///
/// # Errors
/// It is not (yet).
pub fn path(pin_directory: &Path, name: &str) -> Result<PathBuf> {
    fs::read_dir(pin_directory)
        .with_context(|| format!("nothing is pinned in {}", pin_directory.display()))?
        .flatten()
        .map(|entry| entry.path().join("maps").join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not pinned below {}", pin_directory.display()))
}

/// A node's counters, all CPUs together.
///
/// # Errors
/// They are not pinned.
pub fn counters(pin_directory: &Path) -> Result<Counters> {
    let map = Map::PerCpuArray(MapData::from_pin(path(pin_directory, "COUNTERS")?)?);
    let array: PerCpuArray<_, Counters> = map.try_into()?;
    let mut sum = Counters::default();
    for cpu in array.get(&0, 0)?.iter() {
        sum.add(cpu);
    }
    Ok(sum)
}

/// Until when (`CLOCK_MONOTONIC`, ns) the node announces: its agent keeps moving it.
///
/// # Errors
/// The settings are not pinned.
pub fn announce_until(pin_directory: &Path) -> Result<u64> {
    let map = Map::Array(MapData::from_pin(path(pin_directory, "SETTINGS")?)?);
    let array: Array<_, Settings> = map.try_into()?;
    Ok(array.get(&0, 0)?.announce_until_ns)
}

/// The VIPs that a node announces, by whichever interface.
///
/// # Errors
/// The map is not pinned.
pub fn announced(pin_directory: &Path) -> Result<BTreeSet<IpAddr>> {
    let entries = entries::<AnnouncedKey, Announced>(pin_directory, "ANNOUNCED")?;
    Ok(entries.into_iter().map(|(key, _)| address_from_bytes(key.vip)).collect())
}

/// Everything in a hash map.
///
/// # Errors
/// It is not pinned, or has other keys and values.
pub fn entries<K: Pod, V: Pod>(pin_directory: &Path, name: &str) -> Result<Vec<(K, V)>> {
    let map = Map::HashMap(MapData::from_pin(path(pin_directory, name)?)?);
    let map: HashMap<_, K, V> = map.try_into()?;
    map.iter().collect::<Result<_, _>>().with_context(|| format!("reading {name}"))
}

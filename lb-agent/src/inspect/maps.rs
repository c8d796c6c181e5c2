//! `lb-agent maps`: the pinned maps, what is in them, and how to read them.
use super::columns::{bytes, columns};
use crate::datapath::{Error, pins::Pins};
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, MapInfo},
};
use lb_common::maps::{
    Affinity, AffinityKey, Announced, AnnouncedKey, Elsewhere, Flow, FlowKey, FragmentKey,
    Fragmented, MacKey, MacOwner, RangeKey, Service, ServiceKey, Vip, VipKey,
};
use serde::Serialize;
use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedMap {
    /// Its name.
    pub name: String,
    /// Its kind, as the kernel names it.
    pub kind: String,
    /// How many entries it can have.
    pub capacity: u32,
    /// How many it has; none where all elements always exist.
    pub entries: Option<usize>,
    /// Bytes of a key and of a value.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Bytes of kernel memory.
    pub memory: u64,
    /// Its pin.
    pub path: PathBuf,
    /// What prints it.
    pub dump: Option<String>,
}

/// Lists the maps under a pin directory, by name.
///
/// # Errors
///
/// [`Error::NothingPinned`], [`Error::Pin`], [`Error::Map`]
pub fn list(pin_dir: &Path) -> Result<Vec<PinnedMap>, Error> {
    let pins = Pins::new(pin_dir);
    let folder = pins.maps();
    let unreadable = |error| Error::Pin { path: folder.clone(), error };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NothingPinned { path: folder });
        }
        read => read.map_err(unreadable)?,
    };
    let mut maps = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        maps.push(read(&pins, path)?);
    }
    maps.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(maps)
}

fn read(pins: &Pins, path: PathBuf) -> Result<PinnedMap, Error> {
    let failed = |error: String| Error::Pin { path: path.clone(), error: io::Error::other(error) };
    let info = MapInfo::from_pin(&path).map_err(|e| failed(e.to_string()))?;
    let data = MapData::from_pin(&path).map_err(|e| failed(e.to_string()))?;
    let kind = info.map_type().map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}"));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A ring's records are no fields, and those who follow it have read them.
    let dumped = kind != "RingBuf";
    Ok(PinnedMap {
        entries: entries(pins, &name, info.max_entries())?,
        capacity: info.max_entries(),
        key: info.key_size(),
        value: info.value_size(),
        memory: memory(data.fd().as_fd().as_raw_fd()),
        dump: dumped.then(|| format!("bpftool map dump pinned {}", path.display())),
        name,
        kind,
        path,
    })
}

/// What the kernel says a map takes (`memlock` of its descriptor, `kernel/bpf/syscall.c`,
/// `bpf_map_show_fdinfo`); 0 if it does not.
fn memory(fd: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let told = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    told.unwrap_or(0)
}

/// How many entries those maps have that may have fewer than their capacity.
fn entries(pins: &Pins, name: &str, capacity: u32) -> Result<Option<usize>, Error> {
    let most = capacity as usize;
    let count = match name {
        "VIPS" => hashed::<VipKey, Vip>(pins, "VIPS", most),
        "ANNOUNCED" => hashed::<AnnouncedKey, Announced>(pins, "ANNOUNCED", most),
        "SERVICES" => hashed::<ServiceKey, Service>(pins, "SERVICES", most),
        "NODE_MACS" => hashed::<MacKey, MacOwner>(pins, "NODE_MACS", most),
        "FLOWS" => hashed::<FlowKey, Flow>(pins, "FLOWS", most),
        "PENDING" => hashed::<FlowKey, Flow>(pins, "PENDING", most),
        "AFFINITY" => hashed::<AffinityKey, Affinity>(pins, "AFFINITY", most),
        "ELSEWHERE" => hashed::<FlowKey, Elsewhere>(pins, "ELSEWHERE", most),
        "FRAGMENTED" => hashed::<FragmentKey, Fragmented>(pins, "FRAGMENTED", most),
        "SOURCE_RANGES" => {
            let map: LpmTrie<MapData, RangeKey, u32> = pins.open("SOURCE_RANGES")?;
            let keys = map.keys().take(most).collect::<Result<Vec<_>, MapError>>();
            keys.map(|keys| keys.len()).map_err(|error| Error::Map { map: "SOURCE_RANGES", error })
        }
        _ => return Ok(None),
    };
    count.map(Some)
}

fn hashed<K: Pod, V: Pod>(pins: &Pins, name: &'static str, most: usize) -> Result<usize, Error> {
    let map: HashMap<MapData, K, V> = pins.open(name)?;
    // The kernel begins anew where a key has gone meanwhile, so there may be no end.
    let keys = map.keys().take(most).map(|key| key.map(drop));
    let keys = keys.collect::<Result<Vec<()>, MapError>>();
    keys.map(|keys| keys.len()).map_err(|error| Error::Map { map: name, error })
}

/// A table for people.
pub fn text(maps: &[PinnedMap]) -> String {
    let rows = maps.iter().map(|map| {
        [
            map.name.clone(),
            map.kind.clone(),
            map.entries.map(|entries| entries.to_string()).unwrap_or_default(),
            map.capacity.to_string(),
            bytes(map.memory),
            map.dump.clone().unwrap_or_default(),
        ]
    });
    let heading = ["MAP", "KIND", "ENTRIES", "CAPACITY", "MEMORY", "TO PRINT IT"];
    let table = columns(heading, &rows.collect::<Vec<_>>());
    format!("{table}all: {}\n", bytes(maps.iter().map(|map| map.memory).sum()))
}

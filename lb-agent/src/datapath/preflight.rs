//! Whether this machine can run Herald: asked before anything is touched, so that what is
//! wrong is named, rather than the system call that would have failed.
use super::{
    Error,
    check::{Finding, Verdict},
};
use crate::system;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The oldest kernel: TCX is in 6.6, and verifiers before 6.8 may prune a branch that is taken.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 8 };

/// The kernel's own type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The usual place of the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// A kernel's version, as far as it decides what the kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The 6 of 6.8.
    pub major: u32,
    /// The 8 of 6.8.
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl KernelVersion {
    /// From a release as `uname -r` prints it; `None` if it does not begin with two numbers.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
        Some(Self { major: numbers.next()??, minor: numbers.next()?? })
    }
}

/// Checks privileges, kernel and BTF, and that `pin_dir` is or can be on a BPF file system.
/// Mounts one at `/sys/fs/bpf` if the pin directory lies there and it is missing.
///
/// # Errors
///
/// Each names what is missing and the way out.
pub fn check(pin_dir: &Path) -> Result<(), Error> {
    capabilities()?;
    kernel()?;
    if !Path::new(BTF).exists() {
        return Err(Error::NoBtf);
    }
    bpffs(pin_dir)
}

/// The same, each by itself, and nothing is mounted.
pub fn findings(pin_dir: &Path) -> Vec<Finding> {
    let finding = |what, found: String, checked: Result<(), Error>| match checked {
        Ok(()) => Finding { what, verdict: Verdict::Good, found },
        Err(error) => Finding { what, verdict: Verdict::Bad, found: error.to_string() },
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let btf = if Path::new(BTF).exists() { Ok(()) } else { Err(Error::NoBtf) };
    let pins = existing(pin_dir).and_then(|place| match is_bpffs(&place)? {
        true => Ok(pin_dir.display().to_string()),
        false if place.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? => {
            Ok(format!("{BPFFS} is not mounted yet: lb-agent run does it"))
        }
        false => Err(Error::NotBpffs { path: place }),
    });
    let (place, pins) = match pins {
        Ok(place) => (place, Ok(())),
        Err(error) => (String::new(), Err(error)),
    };
    vec![
        finding("privileges", "all that is needed".into(), capabilities()),
        finding("kernel", format!("Linux {}", release.trim()), kernel()),
        finding("BTF", BTF.into(), btf),
        finding("pins", place, pins),
    ]
}

fn is_bpffs(path: &Path) -> Result<bool, Error> {
    system::is_bpffs(path).map_err(|error| Error::Pin { path: path.into(), error })
}

fn read(path: &'static str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::Proc { path, error })
}

fn kernel() -> Result<(), Error> {
    let release = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    match KernelVersion::parse(&release) {
        Some(version) if version < OLDEST_KERNEL => Err(Error::KernelTooOld { release }),
        // An unreadable release is no reason to refuse: loading will tell.
        _ => Ok(()),
    }
}

/// Bits of capability sets (`linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

fn capabilities() -> Result<(), Error> {
    let status = read("/proc/thread-self/status")?;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    let missing = missing_capabilities(effective);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::NotPermitted { missing: missing.join(", ") })
    }
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & 1 << bit != 0;
    [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        // Without it the verifier refuses pointer arithmetic that the program needs.
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
        // For gratuitous ARP and neighbour advertisements.
        ("CAP_NET_RAW", has(CAP_NET_RAW)),
    ]
    .into_iter()
    .filter_map(|(name, there)| (!there).then_some(name))
    .collect()
}

/// The path itself, or its nearest ancestor that exists.
fn existing(path: &Path) -> Result<PathBuf, Error> {
    let absolute =
        std::path::absolute(path).map_err(|error| Error::Pin { path: path.into(), error })?;
    Ok(absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).into())
}

fn bpffs(pin_dir: &Path) -> Result<(), Error> {
    let place = existing(pin_dir)?;
    if is_bpffs(&place)? {
        return Ok(());
    }
    let usual = Path::new(BPFFS);
    if !place.starts_with(usual) || is_bpffs(usual)? {
        return Err(Error::NotBpffs { path: place });
    }
    match system::mount_bpffs(usual) {
        Ok(()) => {
            tracing::info!("mounted a BPF file system at {BPFFS}");
            Ok(())
        }
        // Another agent was quicker.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_bpffs(usual)? => Ok(()),
        Err(error) => Err(Error::NoBpffs { path: usual.into(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_all_kinds_of_releases() {
        let parse = |release| KernelVersion::parse(release).map(|v| (v.major, v.minor));
        assert_eq!(parse("6.8.0-45-generic"), Some((6, 8)));
        assert_eq!(parse("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse("5.15"), Some((5, 15)));
        assert_eq!(parse("7.0-rc1+"), Some((7, 0)));
        assert_eq!(parse("unknown"), None);
        assert!(KernelVersion::parse("6.7.12").unwrap() < OLDEST_KERNEL);
        assert!(KernelVersion::parse("6.10").unwrap() > OLDEST_KERNEL);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(
            missing_capabilities(0),
            ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"]
        );
        let admin = 1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN;
        assert_eq!(missing_capabilities(admin), ["CAP_NET_RAW"]);
        assert!(missing_capabilities(u64::MAX).is_empty());
    }

    #[test]
    fn a_pin_directory_elsewhere_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = bpffs(&dir.path().join("some/where")).unwrap_err();
        assert!(matches!(&error, Error::NotBpffs { path } if path == dir.path()), "{error}");
        assert!(error.to_string().contains("--pin-dir"));
    }
}

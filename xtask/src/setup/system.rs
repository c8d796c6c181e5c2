//! What the running kernel must offer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Setup;
use crate::project;

/// The oldest kernel that Herald runs on.
const OLDEST_KERNEL: (u32, u32) = (6, 8);

/// Says which kernel runs, and what speaks against it. Building works on any.
pub(super) fn kernel(setup: &Setup) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST_KERNEL;
    if version < OLDEST_KERNEL {
        setup.missing(&format!(
            "Linux {major}.{minor} or later: this is {release}; Herald builds here but does not run"
        ));
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        setup.missing(&format!(
            "BTF in the kernel: {release} was built without CONFIG_DEBUG_INFO_BTF; \
             Herald builds here but does not run"
        ));
    } else {
        setup.found(&format!("Linux {release} with BTF"));
    }
}

/// Mounts the BPF filesystem, in which programs and maps are pinned, if it is not.
pub(super) fn bpffs(setup: &Setup) -> Result<()> {
    const PLACE: &str = "/sys/fs/bpf";
    let is_mounted = || {
        fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| {
            mounts.lines().any(|line| {
                let mut fields = line.split(' ').skip(1);
                fields.next() == Some(PLACE) && fields.next() == Some("bpf")
            })
        })
    };
    if is_mounted() {
        setup.found(&format!("the BPF filesystem on {PLACE}"));
        return Ok(());
    }
    if !project::is_root() {
        setup.missing(&format!(
            "the BPF filesystem, for the tests and for running: sudo mount -t bpf bpf {PLACE}"
        ));
        return Ok(());
    }
    let began = Instant::now();
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", PLACE]).status();
    if !mounted.is_ok_and(|status| status.success()) || !is_mounted() {
        bail!("cannot mount the BPF filesystem: mount -t bpf bpf {PLACE}");
    }
    setup.installed(&format!("the BPF filesystem on {PLACE}"), began);
    Ok(())
}

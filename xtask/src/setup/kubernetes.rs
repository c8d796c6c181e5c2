//! The Kubernetes programs of the cluster suite and the demo, the network plugins that it runs
//! beside, Helm, and a container runtime's defaults, built from the Go modules that pin them into
//! the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Setup;
use crate::process::{Step, output};
use crate::{project, toolchain};

/// A Go module that pins programs, and what it pins.
struct Module {
    folder: &'static str,
    /// The module that the programs come from, as the `require` line names it.
    source: &'static str,
    /// Each program's name and its package's path below `source`.
    programs: &'static [(&'static str, &'static str)],
    /// Packages whose variables hold the version that the programs tell of themselves.
    version_packages: &'static [&'static str],
    /// Whether they are built with a C compiler, too.
    c: bool,
}

/// The module that names the folder of the programs.
const KUBERNETES: &str = "k8s.io/kubernetes";

const MODULES: [Module; 6] = [
    Module {
        folder: "tests/kubernetes/etcd",
        source: "go.etcd.io/etcd/server/v3",
        programs: &[("etcd", "")],
        version_packages: &[],
        c: false,
    },
    Module {
        folder: "tests/kubernetes/control-plane",
        source: KUBERNETES,
        programs: &[
            ("kube-apiserver", "/cmd/kube-apiserver"),
            ("kube-controller-manager", "/cmd/kube-controller-manager"),
            ("kube-proxy", "/cmd/kube-proxy"),
            ("kubectl", "/cmd/kubectl"),
        ],
        // What `kubectl version` and the API server's /version answer; clients compare them.
        version_packages: &["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"],
        c: false,
    },
    Module {
        folder: "tests/kubernetes/cni",
        source: "github.com/containernetworking/plugins",
        programs: &[
            ("bridge", "/plugins/main/bridge"),
            ("host-local", "/plugins/ipam/host-local"),
            ("loopback", "/plugins/main/loopback"),
            ("portmap", "/plugins/meta/portmap"),
        ],
        version_packages: &[],
        c: false,
    },
    Module {
        folder: "tests/kubernetes/cni",
        source: "github.com/flannel-io/flannel",
        programs: &[("flanneld", "")],
        version_packages: &[],
        // Its backend udp is written in C.
        c: true,
    },
    Module {
        folder: "tests/kubernetes/helm",
        source: "helm.sh/helm/v3",
        programs: &[(HELM, "/cmd/helm")],
        version_packages: &[],
        c: false,
    },
    Module {
        folder: "tests/kubernetes/runtime",
        source: "github.com/containerd/containerd/v2",
        programs: &[("runtime-default", OWN)],
        version_packages: &[],
        c: false,
    },
];

/// In place of a package's path: that of the module which pins the source.
const OWN: &str = ".";

/// What renders the chart.
const HELM: &str = "helm";

/// The oldest Go that builds these modules, as their `go` lines say.
const GO_VERSION: (u32, u32) = (1, 26);

/// Written beside the programs: from which versions they were built.
const STAMP: &str = "VERSIONS";

/// The version of Kubernetes that is pinned.
pub(crate) fn version() -> Result<String> {
    let kubernetes = MODULES.iter().find(|module| module.source == KUBERNETES);
    pinned(kubernetes.context("no module pins Kubernetes")?)
}

/// The folder of the programs, named by the version of Kubernetes.
fn dir() -> Result<PathBuf> {
    Ok(toolchain::cache_dir().join(format!("kubernetes-{}", version()?.trim_start_matches('v'))))
}

/// Helm of the pinned version, if it is built.
pub(crate) fn built_helm() -> Result<Option<PathBuf>> {
    let missing = missing(&dir()?, |program| program == HELM)?;
    Ok(missing.is_empty().then_some(dir()?.join(HELM)))
}

/// The same, built if it is missing.
pub(crate) fn helm() -> Result<PathBuf> {
    build(&Setup::new(false), |program| program == HELM)?;
    Ok(dir()?.join(HELM))
}

/// Builds the programs that are missing or of other versions than the pinned ones.
pub(super) fn programs(setup: &Setup) -> Result<()> {
    build(setup, |_| true)
}

/// A program that is to be built: its module, version, name, and the package's path.
type Missing = (&'static Module, String, &'static str, &'static str);

/// The programs among those `wanted` that are not there in the pinned version.
fn missing(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Missing>> {
    let built = fs::read_to_string(dir.join(STAMP)).unwrap_or_default();
    let mut missing = Vec::new();
    for module in &MODULES {
        let version = pinned(module)?;
        for &(program, package) in module.programs.iter().filter(|(name, _)| wanted(name)) {
            if !dir.join(program).exists() || !built.contains(&stamp_line(program, &version)) {
                missing.push((module, version.clone(), program, package));
            }
        }
    }
    Ok(missing)
}

fn stamp_line(program: &str, version: &str) -> String {
    format!("{program} {version}\n")
}

fn build(setup: &Setup, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let dir = dir()?;
    let stale = missing(&dir, wanted)?;
    if stale.is_empty() {
        setup.found(&format!("the Kubernetes programs in {}", dir.display()));
        return Ok(());
    }
    check_go()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let began = Instant::now();
    let stamp = dir.join(STAMP);
    let mut built = fs::read_to_string(&stamp).unwrap_or_default();
    for (module, version, program, package) in stale {
        let began = Instant::now();
        let mut go = build_command(module, &version);
        let unfinished = dir.join(format!(".{program}"));
        go.arg("-o").arg(&unfinished).arg(match package {
            OWN => OWN.to_owned(),
            package => format!("{}{package}", module.source),
        });
        Step::new(&format!("build of {program}"))?.run(&mut go)?;
        fs::rename(&unfinished, dir.join(program))?;
        built = built
            .lines()
            .filter(|old| !old.starts_with(&format!("{program} ")))
            .fold(String::new(), |kept, old| kept + old + "\n")
            + &stamp_line(program, &version);
        fs::write(&stamp, &built)?;
        setup.installed(&format!("{program} {version}"), began);
    }
    setup.installed(&format!("the Kubernetes programs in {}", dir.display()), began);
    Ok(())
}

fn build_command(module: &Module, version: &str) -> Command {
    let mut flags = String::from("-s -w");
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    for package in module.version_packages {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    let mut go = Command::new("go");
    go.current_dir(project::root().join(module.folder))
        .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", &flags])
        .env("CGO_ENABLED", if module.c { "1" } else { "0" })
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off");
    go
}

/// The version that a module's go.mod requires.
fn pinned(module: &Module) -> Result<String> {
    let path = project::root().join(module.folder).join("go.mod");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    version_of(&text, module.source)
        .with_context(|| format!("{} has no line: require {} v…", path.display(), module.source))
}

fn version_of(go_mod: &str, source: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let line = line.trim();
        let mut words = line.strip_prefix("require ").unwrap_or(line).split_whitespace();
        (words.next()? == source).then(|| words.next().map(str::to_owned))?
    })
}

fn check_go() -> Result<()> {
    let (major, minor) = GO_VERSION;
    let ways = format!(
        "install Go {major}.{minor} or later (https://go.dev/dl), or leave the cluster suite out"
    );
    let Some(told) =
        output(Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))
    else {
        bail!("there is no Go to build the Kubernetes programs with: {ways}");
    };
    let mut numbers = told.trim_start_matches("go").split('.').map_while(|n| n.parse().ok());
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < GO_VERSION {
        bail!("{told} is too old to build the Kubernetes programs with: {ways}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_are_read_from_the_modules() {
        for module in &MODULES {
            assert!(pinned(module).unwrap().starts_with('v'));
            assert!(project::root().join(module.folder).join("go.sum").exists());
        }
    }

    #[test]
    fn a_require_line_is_found_alone_and_in_a_block() {
        let text = "module m\n\nrequire a.b/c v1.2.3\n\nrequire (\n\ta.b/d v0.1.0 // indirect\n)\n";
        assert_eq!(version_of(text, "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(version_of(text, "a.b/d").as_deref(), Some("v0.1.0"));
        assert_eq!(version_of(text, "a.b"), None);
    }
}

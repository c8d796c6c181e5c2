//! `deploy/herald.yaml`: what the chart renders to without any values, for those without Helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{project, setup};

/// The first lines of the manifest.
const HEADING: &str = "\
# Herald, in the namespace metallb-system: kubectl apply --server-side -f deploy/herald.yaml
# Rendered from deploy/chart by `cargo xtask manifests`: change that instead.
";

/// What Helm writes before each object.
const ORIGIN: &str = "# Source: ";

fn manifest() -> PathBuf {
    project::root().join("deploy/herald.yaml")
}

/// `cargo xtask manifests`.
pub(crate) fn write() -> Result<()> {
    let file = manifest();
    let text = render(&setup::kubernetes::helm()?)?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

/// Whether the chart is well-formed, of this version, and the manifest is what it renders to.
pub(crate) fn check() -> Result<()> {
    let helm = setup::kubernetes::helm()?;
    let chart = fs::read_to_string(project::root().join("deploy/chart/Chart.yaml"))?;
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
        ensure!(
            chart.lines().any(|found| found == line),
            "deploy/chart/Chart.yaml has no `{line}`"
        );
    }
    run(command(&helm)?.args(["lint", "--strict", "deploy/chart"]))?;
    let rendered = render(&helm)?;
    ensure!(
        fs::read_to_string(manifest()).is_ok_and(|text| text == rendered),
        "deploy/herald.yaml is not what deploy/chart renders to: cargo xtask manifests mends it"
    );
    Ok(())
}

fn render(helm: &Path) -> Result<String> {
    let text = run(command(helm)?
        .args(["template", "herald", "deploy/chart", "--namespace=metallb-system"])
        .arg("--set=namespace.create=true"))?;
    let lines = text.lines().filter(|line| !line.starts_with(ORIGIN));
    Ok(lines.fold(HEADING.to_owned(), |text, line| text + line + "\n"))
}

/// Helm, as if it spoke to the Kubernetes that the tests run.
fn command(helm: &Path) -> Result<Command> {
    let mut command = Command::new(helm);
    command.current_dir(project::root()).stdin(Stdio::null());
    command.arg(format!("--kube-version={}", setup::kubernetes::version()?));
    Ok(command)
}

fn run(command: &mut Command) -> Result<String> {
    let done = command.output().context("cannot run Helm")?;
    ensure!(
        done.status.success(),
        "Helm refuses: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8(done.stdout)?)
}

//! `cargo xtask image`: a container image of the agent, made without a container engine.
//!
//! An OCI image layout (github.com/opencontainers/image-spec, v1.1) in one tar file, which containerd,
//! CRI-O, podman and skopeo import. The agent is linked statically, so that it is all that the image
//! needs. The same sources and compilers give the same bytes: times are the commit's, and paths are not in
//! it, nor in the kernel program inside (`toolchain::remapped`).

mod archive;
mod bill;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::archive::{Archive, Blob, compressed};
use crate::process::{Step, output, shown};
use crate::{project, setup, toolchain};

/// What runtimes call the image after it was imported; the chart's `image.repository`.
const NAME: &str = "localhost/herald";
/// Where the agent lies in it.
const AGENT: &str = "usr/bin/lb-agent";
/// Where licences and the bill of materials lie in it.
const DOCUMENTS: &str = "usr/share/doc/herald";
/// A mebibyte more would not be minimal any more.
const LARGEST: usize = 30 << 20;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// For which machines, and where to.
#[derive(Args)]
pub(crate) struct Options {
    /// For which machines [default: such as this one]
    #[arg(long)]
    arch: Option<Architecture>,
    /// The file to write [default: target/image/herald-VERSION-ARCHITECTURE.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Machines, as OCI calls them.
#[derive(Clone, Copy, ValueEnum)]
enum Architecture {
    Amd64,
    /// On others this needs a C compiler, such as Debian's gcc-aarch64-linux-gnu
    Arm64,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name.
    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Builds the agent and writes the image.
pub(crate) fn write(options: &Options) -> Result<()> {
    setup::for_building()?;
    let host = host()?;
    let architecture = match (options.arch, host.split('-').next()) {
        (Some(architecture), _) => architecture,
        (None, Some("x86_64")) => Architecture::Amd64,
        (None, Some("aarch64")) => Architecture::Arm64,
        _ => bail!("images are for amd64 and arm64 (--arch), and this machine is {host}"),
    };
    let target = architecture.target();
    let architecture = architecture.name();
    let agent = fs::read(build(target)?).context("the agent that was built just now")?;
    for folder in [project::root(), sysroot(&project::rustc())?] {
        let path = folder.as_os_str().as_bytes();
        ensure!(
            !agent.windows(path.len()).any(|found| found == path),
            "the agent names {}: on another machine it would be other bytes",
            folder.display()
        );
    }
    let commit = Commit::current()?;
    let bill = bill::of_materials(target, &commit)?;
    let image = assemble(&agent, &bill, architecture, &commit)?;
    ensure!(image.len() <= LARGEST, "{} bytes are too much for an image", image.len());
    let file = options.output.clone().unwrap_or_else(|| {
        project::target_dir().join(format!("image/herald-{VERSION}-{architecture}.tar"))
    });
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, &image).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}: {NAME}:{VERSION}, {:.1} MB", file.display(), image.len() as f64 / 1e6);
    println!("{}", archive::digest(&image));
    Ok(())
}

/// What the image is made from.
struct Commit {
    /// Its id; with `-dirty` where files have changed since.
    id: String,
    /// Seconds since 1970.
    time: u64,
}

impl Commit {
    fn current() -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            output(git.current_dir(project::root()).args(arguments))
                .with_context(|| format!("git {} fails: is this a clone?", arguments.join(" ")))
        };
        // reproducible-builds.org/specs/source-date-epoch
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => time,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        Ok(Self {
            id: git(&["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"])?,
            time: time.parse().context("SOURCE_DATE_EPOCH is no number of seconds")?,
        })
    }
}

fn host() -> Result<String> {
    let told = output(Command::new(project::rustc()).arg("-vV")).context("rustc -vV fails")?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Builds the agent for a target, statically linked.
fn build(target: &str) -> Result<PathBuf> {
    // What is not there yet has no name to be exchanged.
    let mut fetch = project::cargo();
    Step::new("fetch of crates")?.run(fetch.args(["fetch", "--locked"]))?;
    let mut sysroot = sysroot(&project::rustc())?;
    let mut command = project::cargo();
    let is_from_source = !sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
    if is_from_source {
        (command, sysroot) = with_source()?;
    }
    command.args([
        "build",
        "--release",
        "--locked",
        "--package=lb-agent",
        "--bin=lb-agent",
        "--target",
        target,
    ]);
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), "-Cstrip=symbols".to_owned()];
    flags.extend(toolchain::remapped(&project::root(), "/herald", &sysroot));
    if is_from_source {
        command.arg("-Zbuild-std=std,panic_abort");
    }
    // With a target of its own, this is not for build scripts and procedural macros.
    let variable =
        |name| format!("CARGO_TARGET_{}_{name}", target.replace('-', "_").to_uppercase());
    command.env(variable("RUSTFLAGS"), flags.join(" "));
    // As Debian calls it; ring's C code is compiled by the same.
    let cross = format!("{}-linux-gnu-gcc", target.split('-').next().unwrap_or_default());
    let linker = variable("LINKER");
    if target != host()? && env::var_os(&linker).is_none() {
        ensure!(
            project::find_program(&cross).is_some(),
            "{target} needs a linker, and there is no {cross}: install Debian's \
             gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, or set {linker}"
        );
        command.env(linker, cross);
    }
    let mut step = Step::new("build of the image's agent")?;
    step.run(&mut command)?;
    eprintln!("built the agent in {}", shown(step.elapsed()));
    Ok(project::target_dir().join(target).join("release/lb-agent"))
}

fn sysroot(rustc: &OsStr) -> Result<PathBuf> {
    let told = output(Command::new(rustc).arg("--print=sysroot"));
    Ok(told.context("rustc --print=sysroot fails")?.into())
}

/// Where there is no standard library for a target it is built from source, as `core` is for the kernel
/// program: by the same compiler, with its own cargo where it has one.
fn with_source() -> Result<(Command, PathBuf)> {
    let compiler = toolchain::find_compiler(&project::rustc(), env!("CARGO_PKG_RUST_VERSION"))
        .map_err(|tried| anyhow!("no compiler has the standard library's source:\n{tried}"))?;
    eprintln!("the standard library is built from source, by {compiler}");
    let mut command = project::cargo();
    let cargo = compiler.sysroot.join("bin/cargo");
    if cargo.exists() {
        let mut own = Command::new(cargo);
        own.current_dir(project::root());
        for (name, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
            own.env_remove(name);
        }
        command = own;
    }
    // What rustup set for the compiler in use is not for this one.
    command
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", compiler.sysroot.join("bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1");
    Ok((command, compiler.sysroot))
}

/// The image from its parts: a function of these alone.
fn assemble(agent: &[u8], bill: &Value, architecture: &str, commit: &Commit) -> Result<Vec<u8>> {
    let mut root = Archive::new(commit.time);
    root.folder("usr")?;
    root.folder("usr/bin")?;
    root.file(AGENT, agent, 0o755)?;
    root.folder("usr/share")?;
    root.folder("usr/share/doc")?;
    root.folder(DOCUMENTS)?;
    for name in ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT", "LICENSING.md"] {
        let text = fs::read(project::root().join(name))?;
        root.file(&format!("{DOCUMENTS}/{name}"), &text, 0o644)?;
    }
    root.file(&format!("{DOCUMENTS}/sbom.cdx.json"), &serde_json::to_vec_pretty(bill)?, 0o644)?;
    let root = root.finish()?;
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", compressed(&root)?);

    let created = bill["metadata"]["timestamp"].clone();
    let labels = json!({
        "org.opencontainers.image.title": "herald",
        "org.opencontainers.image.description": "A load balancer for bare-metal Kubernetes",
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.revision": commit.id,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "Apache-2.0 AND (MIT OR GPL-2.0-only)",
    });
    let config = Blob::json(
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [format!("/{AGENT}")],
                "Env": ["PATH=/usr/bin"],
                "WorkingDir": "/",
                "User": "0",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [archive::digest(&root)]},
            "history": [{"created": created, "created_by": "cargo xtask image"}],
        }),
    )?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = Blob::json(
        manifest_type,
        &json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
            "annotations": labels,
        }),
    )?;
    let mut described = manifest.descriptor();
    described["platform"] = json!({"architecture": architecture, "os": "linux"});
    described["annotations"] = json!({
        "org.opencontainers.image.ref.name": VERSION,
        // By which containerd names what it imports.
        "io.containerd.image.name": format!("{NAME}:{VERSION}"),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });

    let mut image = Archive::new(commit.time);
    image.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    image.file("index.json", &serde_json::to_vec(&index)?, 0o644)?;
    image.folder("blobs")?;
    image.folder("blobs/sha256")?;
    for blob in [&config, &layer, &manifest] {
        image.file(&blob.path(), &blob.content, 0o644)?;
    }
    image.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_same_parts_give_the_same_image_and_digests_hold() {
        let commit = Commit { id: "0123".into(), time: 1_700_000_000 };
        let bill = json!({"metadata": {"timestamp": "2023-11-14T22:13:20Z"}});
        let image = assemble(b"agent", &bill, "amd64", &commit).unwrap();
        assert!(image == assemble(b"agent", &bill, "amd64", &commit).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(&image[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!(entry.header().mtime().unwrap(), commit.time);
            files.insert(path, content);
        }
        let read = |descriptor: &Value| -> &Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(archive::digest(content), digest);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(read(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(read(&manifest["config"])).unwrap();
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&read(&manifest["layers"][0])[..])
            .read_to_end(&mut layer)
            .unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], archive::digest(&layer));
        let names: Vec<_> = tar::Archive::new(&layer[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names.iter().any(|name| name == AGENT), "{names:?}");
    }
}

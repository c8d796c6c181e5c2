//! Wrong input gets one line that names the thing and the way out, and an exit code.
use anyhow::{Context, Result, bail, ensure};
use herald_tests::{
    lab::{
        Host, Lab, Shape, addresses,
        agent::{self, Options, Source},
        attach, cleanup, command, probe,
        scenario::{self, START_LIMIT, WEB_PORT},
    },
    wait,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// The command line is wrong.
const USAGE: i32 = 2;
/// This machine cannot run it.
const ENVIRONMENT: i32 = 3;
/// An interface cannot be used.
const INTERFACE: i32 = 4;
/// The configuration cannot be used.
const CONFIGURATION: i32 = 5;

/// A laboratory with one node, and what an agent is started with there.
struct Bench {
    lab: Lab,
    manifests: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new(Shape { nodes: 1, pods_per_node: 1, ..Shape::default() })?;
        let manifests = scenario::manifests(&lab)?;
        Ok(Self { lab, manifests })
    }

    fn node(&self) -> &Host {
        &self.lab.nodes[0]
    }

    fn run(&self, source: Source, arguments: &[&str]) -> Result<Command> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut agent =
            agent::command(self.node(), &Options { arguments, ..Options::new(source) })?;
        agent.arg("--pin-dir").arg(self.lab.pin_directory(self.node()));
        Ok(agent)
    }

    fn on_manifests(&self, arguments: &[&str]) -> Result<Command> {
        self.run(Source::Manifests(self.manifests.clone()), arguments)
    }
}

/// Checks that a command ends with `code`, and that the last line it prints has all `words`.
fn refused(mut command: Command, code: i32, words: &[&str]) -> Result<()> {
    let text = command::text(&command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = cleanup::spawn(&mut command)?;
    let ended = wait::until(Duration::from_secs(15), "it gives up", || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let status = match ended {
        Ok(status) => status,
        Err(error) => bail!("`{text}`: {error}; it said: {said}"),
    };
    ensure!(status.code() == Some(code), "`{text}`: {status}, not {code}; it said: {said}");
    ensure!(!said.contains("panicked"), "`{text}`: {said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(errors.len() == 1, "`{text}`: not one line of error: {said}");
    for word in words {
        ensure!(errors[0].contains(word), "`{text}`: no {word:?} in: {}", errors[0]);
    }
    Ok(())
}

pub(crate) fn one_line_each() -> Result<()> {
    let bench = Bench::new()?;
    let absent = bench.lab.directory.join("absent");
    refused(bench.on_manifests(&["--interfaces", "nosuch0"])?, INTERFACE, &["nosuch0"])
        .context("an interface that is not there")?;
    refused(bench.run(Source::Manifests(absent.clone()), &[])?, CONFIGURATION, &["absent"])
        .context("a folder that is not there")?;
    refused(bench.run(Source::Kubeconfig(absent), &[])?, CONFIGURATION, &["absent"])
        .context("a kubeconfig that is not there")?;
    let garbled = bench.lab.directory.join("garbled.kubeconfig");
    fs::write(&garbled, "clusters: {")?;
    refused(bench.run(Source::Kubeconfig(garbled), &[])?, CONFIGURATION, &["garbled.kubeconfig"])
        .context("a garbled kubeconfig")?;
    refused(bench.on_manifests(&["--delivery", "pigeon"])?, USAGE, &["pigeon"])
        .context("an unknown mode of delivery")?;
    no_root(&bench).context("without root")?;
    no_bpf_file_system(&bench).context("pins outside a BPF file system")?;
    attach(&bench.node().namespace, "eth0", &bench.lab.pass_program())?;
    refused(
        bench.on_manifests(&["--interfaces", "eth0", "--xdp-mode", "native"])?,
        INTERFACE,
        &["eth0", "another XDP program", "--xdp-mode auto or tcx"],
    )
    .context("another XDP program, and nothing else is wanted")?;
    beside_another_program(&bench).context("another XDP program")
}

/// The agent says in one line that it takes TCX, and why, and serves.
fn beside_another_program(bench: &Bench) -> Result<()> {
    let mut options = Options::new(Source::Manifests(bench.manifests.clone()));
    options.arguments = ["--interfaces", "eth0"].map(str::to_owned).into();
    let agents = &mut [bench.lab.start_agent(bench.node(), &options)?];
    let vip = addresses::FIRST_VIPS.0.into();
    scenario::await_owner(&bench.lab, agents, vip, START_LIMIT)?;
    // Of the endpoints that are listed one is there.
    wait::until_true(START_LIMIT, &format!("{vip} is served"), || {
        probe::http(&bench.lab.client.namespace, vip, WEB_PORT).map(|_| true)
    })?;
    let printed = agents[0].printed()?;
    let said: Vec<_> =
        printed.lines().filter(|line| line.contains("carries another XDP program")).collect();
    ensure!(said.len() == 1, "not one line: {said:#?}");
    for words in ["eth0", "by tcx rather than native XDP"] {
        ensure!(said[0].contains(words), "no {words:?} in: {}", said[0]);
    }
    ensure!(!said[0].contains("--interfaces"), "nothing is left to do: {}", said[0]);
    Ok(())
}

fn no_root(bench: &Bench) -> Result<()> {
    // The build's folder may be closed to others.
    let copy = bench.lab.directory.join("lb-agent");
    fs::copy(command::sibling("lb-agent")?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut agent = Command::new("setpriv");
    agent.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
    agent.args(["run", "--node-name", "node1", "--manifests"]).arg(&bench.manifests);
    agent.arg("--pin-dir").arg(bench.lab.pin_directory(bench.node()));
    refused(agent, ENVIRONMENT, &["root"])
}

fn no_bpf_file_system(bench: &Bench) -> Result<()> {
    let folder = bench.lab.directory.join("pins");
    let options = Options::new(Source::Manifests(bench.manifests.clone()));
    let mut agent = agent::command(bench.node(), &options)?;
    agent.arg("--pin-dir").arg(&folder);
    refused(agent, ENVIRONMENT, &["bpf", "mount"])
}

/// A pool that cannot be used is named, with what is wrong; the others stay in force.
pub(crate) fn pools() -> Result<()> {
    let bench = Bench::new()?;
    let pool = |name: &str, addresses: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
             metadata: {{name: {name}, namespace: metallb-system}}\n\
             spec: {{addresses: [{addresses}]}}\n---\n"
        )
    };
    fs::write(
        bench.manifests.join("wrong-pools.yaml"),
        pool("backwards", "10.78.0.9-10.78.0.1")
            + &pool("overlapping", "10.77.0.239-10.77.0.245")
            + &pool("misspelt", "10.78.0.300/24"),
    )?;
    let options = Options::new(Source::Manifests(bench.manifests.clone()));
    let agents = &mut [bench.lab.start_agent(bench.node(), &options)?];
    let vip = addresses::FIRST_VIPS.0.into();
    let result = (|| {
        for name in ["backwards", "overlapping", "misspelt"] {
            wait::until_true(START_LIMIT, &format!("pool {name} is reported"), || {
                agents[0].check()?;
                Ok(agents[0].printed()?.lines().any(|line| line.contains(name)))
            })?;
        }
        scenario::await_owner(&bench.lab, agents, vip, START_LIMIT).map(drop)
    })();
    if result.is_err() {
        bench.lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", bench.lab.directory.display()))
}

//! Running programs, with errors that name them.
use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Runs a command and returns what it printed.
///
/// # Errors
/// It cannot be started or fails: names the command and what it said.
pub fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, "")
}

/// The same with something on its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("`{}`", text(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input has its own reasons.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "`{}`: {}: {}",
            text(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub fn text(command: &Command) -> String {
    [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where a program lies, looked for in `PATH` and the folders of administrators' programs.
///
/// # Errors
/// It is not installed: says how to get it.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed: `cargo xtask setup` installs it"))
}

/// A program of this workspace, built into the same folder as the running one. The agent can
/// be another: `HERALD_AGENT` names it.
///
/// # Errors
/// It is not there: says how to build it.
pub fn sibling(program: &str) -> Result<PathBuf> {
    if program == "lb-agent"
        && let Some(agent) = env::var_os("HERALD_AGENT")
    {
        return Ok(agent.into());
    }
    let own = env::current_exe()?;
    // A test binary lies one folder deeper, in deps/.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not built: run `cargo build` first"))
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

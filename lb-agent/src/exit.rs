//! The agent's exit codes. They are an interface: scripts and units tell by them what to mend.
use std::fmt;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Success = 0,
    /// Something failed that none of the others describes.
    Failure = 1,
    /// The command line is wrong. Clap uses the same number.
    Usage = 2,
    /// This machine cannot run it: privileges, kernel, BTF, bpffs, pinned maps of another layout.
    Environment = 3,
    /// A network interface is absent or does not take the programs.
    Interface = 4,
    /// Configuration, manifests or kubeconfig cannot be used.
    Configuration = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that brings the exit code with it, for errors that have no type of their own.
#[derive(Debug)]
pub struct WithExit {
    exit: Exit,
    error: anyhow::Error,
}

impl fmt::Display for WithExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With its causes in one line: this is the end of its chain.
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for WithExit {}

/// Gives results an exit code.
pub trait ExitContext<T> {
    /// The same, but an error ends the process with `exit`.
    ///
    /// # Errors
    ///
    /// The one that was there.
    fn exit_with(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ExitContext<T> for Result<T, E> {
    fn exit_with(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| WithExit { exit, error: error.into() }.into())
    }
}

/// The exit code for an error: the one it brings with it, or that of its type.
pub fn code(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            cause.downcast_ref::<WithExit>().map(|e| e.exit).or_else(|| {
                cause.downcast_ref::<crate::datapath::Error>().map(crate::datapath::Error::exit)
            })
        })
        .unwrap_or(Exit::Failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_code_is_found_below_added_context() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file"))
            .exit_with(Exit::Configuration)
            .context("reading the manifests")
            .unwrap_err();
        assert_eq!(code(&error), Exit::Configuration);
        assert_eq!(format!("{error:#}"), "reading the manifests: no such file");
    }

    #[test]
    fn errors_of_the_data_path_have_codes_of_their_own() {
        let error = anyhow::Error::from(crate::datapath::Error::NoObject).context("starting");
        assert_eq!(code(&error), Exit::Environment);
        assert_eq!(code(&anyhow::anyhow!("something")), Exit::Failure);
    }
}

//! `lb-agent`: the command line.
use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use lb_agent::{
    cli,
    exit::{self, Exit},
    inspect::commands::{Bundle, Explain, Maps, ShowStatus, Watch},
    reference, run, system,
};
use std::{io, path::PathBuf, process::ExitCode};

/// Herald: a load balancer for bare-metal Kubernetes
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 this machine cannot run it (privileges,
/// kernel, BTF, bpffs, pinned maps), 4 an interface is absent or taken, 5 configuration,
/// manifests or kubeconfig cannot be used.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::options::Run>),
    Load(cli::Load),
    Unload(cli::Unload),
    Uninstall(cli::Uninstall),
    Status(ShowStatus),
    Explain(Explain),
    Watch(Watch),
    Maps(Maps),
    Check(cli::Check),
    Bundle(Bundle),
    /// Print the custom resource definitions as YAML
    Crds,
    /// Print what docs/reference.md holds: every field and option
    #[command(hide = true)]
    Reference,
    /// Print what lets a shell complete this command line
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages into a folder
    Man {
        /// The folder, such as /usr/local/share/man/man1
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// As it is called.
const NAME: &str = "lb-agent";

fn main() -> ExitCode {
    system::keep_little_memory();
    let arguments = Arguments::parse();
    match start(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // As clap does, so that every refusal looks alike.
            eprintln!("error: {error:#}");
            exit::code(&error).into()
        }
    }
}

#[tokio::main]
async fn start(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(options) => run::run(*options).await?,
        Command::Load(options) => print!("{}", cli::load(&options).await?),
        Command::Unload(options) => print!("{}", cli::unload(&options).await?),
        Command::Uninstall(options) => print!("{}", cli::uninstall(&options).await?),
        Command::Status(options) => print!("{}", options.run().await?),
        Command::Explain(options) => print!("{}", options.run()?),
        Command::Maps(options) => print!("{}", options.run()?),
        Command::Bundle(options) => print!("{}", options.run().await?),
        Command::Watch(options) => options.run().await?,
        Command::Check(options) => {
            let (text, usable) = cli::check(&options).await?;
            print!("{text}");
            if !usable {
                return Ok(Exit::Environment);
            }
        }
        Command::Crds => print!("{}", lb_agent::api::crds_yaml()?),
        Command::Reference => print!("{}", reference::text(&Arguments::command())),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut io::stdout());
        }
        Command::Man { folder } => {
            let cannot = || format!("manual pages cannot be written to {}", folder.display());
            std::fs::create_dir_all(&folder).with_context(cannot)?;
            clap_mangen::generate_to(Arguments::command().name(NAME), &folder)
                .with_context(cannot)?;
        }
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == reference::text(&Arguments::command()),
            "docs/reference.md is old: cargo run -p lb-agent -- reference > docs/reference.md"
        );
    }

    /// Options of other programs that the documents name.
    const OTHERS: &[&str] = &[
        // cargo, cargo xtask
        "test",
        "nocapture",
        "ignored",
        "release",
        "toolchain",
        "kubernetes",
        "keep",
        "full",
        "lint",
        "seconds",
        "reproduce",
        "minutes",
        "debug-object",
        "only",
        "target",
        "arch",
        // bpf-linker
        "btf",
        "disable-expand-memcpy-in-order",
        // kubectl, helm, git, sudo, bpftool
        "server-side",
        "field-selector",
        "create-namespace",
        "set",
        "global",
        "preserve-env",
        // network plugins and other load balancers
        "run-loadbalancer",
        "advertise-loadbalancer-ip",
        "loadbalancer-default-class",
        "kube-subnet-mgr",
        "ip-masq",
        "net",
        "pass",
    ];

    /// The documents name no command and no option that is none. That they name all of them is what the
    /// reference is for.
    #[test]
    fn commands_and_options_in_the_documents_exist() {
        let mut command = Arguments::command();
        command.build();
        let commands: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        let options = command.get_subcommands().flat_map(clap::Command::get_arguments);
        let options: Vec<_> =
            options.chain(command.get_arguments()).filter_map(clap::Arg::get_long).collect();
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let files =
            ["", "docs"].iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
        let paths = files.map(|file| file.unwrap().path());
        let named = regex::Regex::new(r"(?m)(?:`|-- |^ {4})lb-agent ([a-z]+)").unwrap();
        let option = regex::Regex::new(r"(?:^|[\s`(])--([a-z][a-z-]+)").unwrap();
        let mut seen = 0;
        for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for found in named.captures_iter(&text) {
                assert!(
                    commands.contains(&&found[1]),
                    "{}: lb-agent {}",
                    path.display(),
                    &found[1]
                );
            }
            for found in option.captures_iter(&text) {
                let known = options.contains(&&found[1]) || OTHERS.contains(&&found[1]);
                assert!(known, "{}: --{} is no option", path.display(), &found[1]);
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen} options in all documents");
    }
}

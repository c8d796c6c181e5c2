//! `lb-agent`: the command line.
use clap::{Parser, Subcommand};
use lb_agent::{
    cli,
    exit::{self, Exit},
    inspect::commands::{Explain, Watch},
    run, system,
};
use std::process::ExitCode;

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
    Explain(Explain),
    Watch(Watch),
    Check(cli::Check),
    /// Print the custom resource definitions as YAML
    Crds,
}

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
        Command::Explain(options) => print!("{}", options.run()?),
        Command::Watch(options) => options.run().await?,
        Command::Check(options) => {
            let (text, usable) = cli::check(&options).await?;
            print!("{text}");
            if !usable {
                return Ok(Exit::Environment);
            }
        }
        Command::Crds => print!("{}", lb_agent::api::crds_yaml()?),
    }
    Ok(Exit::Success)
}

//! The server in each of the laboratory's pods.
use clap::Parser;
use herald_tests::lab::pod;

#[derive(Parser)]
struct Arguments {
    /// The pod's name
    #[arg(long)]
    name: String,
    /// The node it runs on
    #[arg(long)]
    node: String,
    /// TCP and UDP port to serve
    #[arg(long)]
    port: u16,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    pod::serve(&arguments.name, &arguments.node, arguments.port)
}

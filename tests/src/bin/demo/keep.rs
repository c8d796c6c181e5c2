//! Leaving the laboratory up, and removing it later.
use crate::story::Story;
use anyhow::{Result, ensure};
use herald_tests::lab::{Lab, cleanup, control_plane};
use lb_common::maps::SCHEMA_VERSION;
use std::net::{IpAddr, SocketAddr};

/// Leaves everything up and says how to look around.
pub(crate) fn keep(lab: &Lab, story: Story<'_>) -> Result<()> {
    lab.keep()?;
    let enter = |name: &str| format!("nsenter --net=/run/netns/{}-{name}", lab.prefix);
    let pins = lab.pin_directory(&lab.nodes[0]).join(format!("v{SCHEMA_VERSION}/maps"));
    println!("\nLeft up. To look around (as root):");
    for vip in &story.vips {
        let brackets = if matches!(vip, IpAddr::V6(_)) { "-g " } else { "" };
        let url = SocketAddr::from((*vip, 80));
        println!("  {} curl {brackets}'http://{url}/'", enter("client"));
    }
    println!("  {} tcpdump -ni br0 arp or icmp6 or port 80", enter("lan"));
    println!("  bpftool map dump pinned {}/COUNTERS", pins.display());
    println!("  bpftool map dump pinned {}/SERVICES", pins.display());
    println!("  tail -f {}/node*-agent.log", lab.directory.display());
    if let Some(control) = &story.control {
        println!(
            "  {} {} --kubeconfig {} get svc -A",
            enter("control"),
            control_plane::program("kubectl")?.display(),
            control.admin_kubeconfig().display()
        );
    } else {
        println!("  edit {}/manifests/web.yaml    # the agents follow", lab.directory.display());
    }
    println!("To remove it:\n  cargo xtask demo --remove");
    for agent in story.agents {
        agent.leave();
    }
    Ok(())
}

/// Removes what was left up.
pub(crate) fn remove() -> Result<()> {
    let removed = cleanup::remove_kept()?;
    cleanup::sweep()?;
    ensure!(!removed.is_empty(), "nothing was kept: there is nothing to remove");
    println!("removed {}", removed.join(", "));
    Ok(())
}

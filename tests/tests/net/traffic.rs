//! TCP and UDP through a VIP, both families.
use anyhow::{Result, ensure};
use herald_tests::lab::{
    maps,
    probe::{self, Connection, Over},
    scenario::{self, Cluster, WEB_PORT},
};
use std::{collections::BTreeSet, time::Duration};

/// All pods of all nodes get their share, and see the client's own address.
pub(crate) fn spread(cluster: &Cluster) -> Result<()> {
    let nodes = scenario::node_names(&cluster.lab);
    for over in [Over::Tcp, Over::Udp] {
        for vip in cluster.vips {
            scenario::check_spread(&cluster.lab, over, vip, &nodes, 600)?;
        }
    }
    Ok(())
}

/// All requests of a connection are answered by one pod.
pub(crate) fn connection_stays(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        for _ in 0..20 {
            let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT)?;
            let pods =
                (0..20).map(|_| Ok(connection.request()?.pod)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(pods.len() == 1, "one connection was answered by {pods:?}");
        }
    }
    Ok(())
}

/// Segments of full size both ways, and replies that the pod's kernel leaves to the interface
/// to cut up and to sum.
pub(crate) fn large_transfers(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        for _ in 0..12 {
            let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT)?;
            for (up, down) in [(100, 1_000_000), (300_000, 100), (1459, 1461)] {
                connection.exchange(up, down)?;
            }
        }
    }
    Ok(())
}

/// A port that no Service has: no answer, and a counter says so.
pub(crate) fn unknown_port(cluster: &Cluster) -> Result<()> {
    let dropped = || -> Result<u64> {
        cluster
            .agents
            .iter()
            .map(|agent| Ok(maps::counters(&agent.pin_directory)?.drop_no_port))
            .sum()
    };
    for vip in cluster.vips {
        let before = dropped()?;
        let refused =
            cluster.lab.client.namespace.connect((vip, 81).into(), Duration::from_millis(300));
        ensure!(refused.is_err(), "somebody serves {vip} port 81");
        ensure!(dropped()? > before, "{vip}: not counted");
    }
    // What is next to it is served.
    probe::http(&cluster.lab.client.namespace, cluster.vips[0], WEB_PORT)?;
    Ok(())
}

//! Connections and flows to a Service's addresses while the cluster changes.
use super::{
    connections::{self, Connections, Load},
    datagrams::{self, Datagrams},
    namespace::Namespace,
    scenario::WEB_PORT,
};
use anyhow::{Context as _, Result};
use std::{fmt, net::IpAddr};

/// Connections and flows to several addresses.
pub struct Traffic {
    tcp: Vec<(IpAddr, Connections)>,
    udp: Vec<(IpAddr, Datagrams)>,
}

impl Traffic {
    /// Opens connections, and begins `flows` UDP flows, to each of these addresses.
    ///
    /// # Errors
    /// Some cannot be opened.
    pub fn begin(from: &Namespace, vips: &[IpAddr], load: Load, flows: usize) -> Result<Self> {
        let to = |vip| (vip, WEB_PORT).into();
        let udp = if flows == 0 { &[] } else { vips };
        Ok(Self {
            tcp: vips
                .iter()
                .map(|&vip| Ok((vip, Connections::open(from, to(vip), load)?)))
                .collect::<Result<_>>()?,
            udp: udp.iter().map(|&vip| (vip, Datagrams::begin(from, to(vip), flows))).collect(),
        })
    }

    /// Waits until each connection has had `count` more answers, and each flow as many rounds.
    ///
    /// # Errors
    /// Nothing is answered any more.
    pub fn settle(&self, count: u64) -> Result<()> {
        self.tcp.iter().try_for_each(|(_, connections)| connections.await_answers(count))?;
        let rounds = usize::try_from(count)?;
        self.udp.iter().try_for_each(|(_, datagrams)| datagrams.await_rounds(rounds))
    }

    /// The connections to each address.
    pub fn connections(&self) -> impl Iterator<Item = &Connections> {
        self.tcp.iter().map(|(_, connections)| connections)
    }

    /// Ends everything, and tells what became of it.
    ///
    /// # Errors
    /// The client's own kernel refuses something.
    pub fn stop(self) -> Result<Outcome> {
        let tcp = self.tcp.into_iter().map(|(vip, c)| Ok((vip, c.stop()?)));
        let udp = self.udp.into_iter().map(|(vip, d)| Ok((vip, d.stop()?)));
        Ok(Outcome { tcp: tcp.collect::<Result<_>>()?, udp: udp.collect::<Result<_>>()? })
    }
}

/// What became of [`Traffic`].
pub struct Outcome {
    /// The connections to each address.
    pub tcp: Vec<(IpAddr, connections::Report)>,
    /// The flows to each address.
    pub udp: Vec<(IpAddr, datagrams::Report)>,
}

impl Outcome {
    /// Checks that no connection was broken, and no datagram lost.
    ///
    /// # Errors
    /// Says what was.
    pub fn check(&self) -> Result<()> {
        self.check_tcp(&[])?;
        self.udp.iter().try_for_each(|(vip, report)| report.check().context(*vip))
    }

    /// Checks that all connections to the pods `lost` were broken, and no others.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check_tcp(&self, lost: &[&str]) -> Result<()> {
        self.tcp.iter().try_for_each(|(vip, report)| report.check_but(lost).context(*vip))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vip, report) in &self.tcp {
            writeln!(f, "{vip}: {report}")?;
        }
        for (vip, report) in &self.udp {
            writeln!(f, "{vip}: {report}")?;
        }
        Ok(())
    }
}

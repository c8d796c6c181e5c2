//! Why the agent stops: is it to be back soon, or not?
//!
//! A DaemonSet's update, a crash of its container and a restart of its service all end the agent by
//! SIGTERM, and it is back within seconds. So does a node that is shut down. They are told apart by what the
//! API says of the node, where somebody has said it: `kubectl drain` cordons it, and the kubelet's
//! graceful shutdown tells in the node's condition. Taking one for the other loses no packet: an
//! agent that does not come back loses its VIPs after half a minute, while its kernel
//! still announces them, and a node that goes down without a word is missed by its kernel's answers.
use crate::snapshot::Node;
use anyhow::Context as _;
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// By what the agent was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// By whoever manages it.
    Terminate,
    /// By somebody at the keyboard, who does not start it again by himself.
    Interrupt,
}

/// What the others are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// This node goes on announcing, and its agent will be back.
    Restarting,
    /// The others are to take over; and why.
    Leaving(String),
}

/// What is meant by a signal on this node.
pub(super) fn meant_by(signal: Signal, node: Option<&Node>) -> Stop {
    let leaving = node.and_then(|node| node.leaving.as_ref());
    match (signal, leaving) {
        (_, Some(reason)) => Stop::Leaving(format!("this node {reason}")),
        (Signal::Interrupt, None) => Stop::Leaving("SIGINT".to_owned()),
        (Signal::Terminate, None) => Stop::Restarting,
    }
}

/// Which signal came first, once one has.
pub(super) type Received = Arc<OnceLock<Signal>>;

/// Has signals stop the agent. A second one changes nothing.
///
/// # Errors
///
/// The system lets none be received.
pub(super) fn on_signals(stop: CancellationToken) -> anyhow::Result<Received> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let received = Received::default();
    let first = Arc::clone(&received);
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Interrupt,
        };
        first.get_or_init(|| signal);
        stop.cancel();
    });
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signals_mean() {
        let stays = Node::default();
        let leaves = Node { leaving: Some("is cordoned".to_owned()), ..Node::default() };
        let leaving = |reason: &str| Stop::Leaving(reason.to_owned());
        for (signal, node, meant) in [
            (Signal::Terminate, Some(&stays), Stop::Restarting),
            (Signal::Terminate, None, Stop::Restarting),
            (Signal::Terminate, Some(&leaves), leaving("this node is cordoned")),
            (Signal::Interrupt, Some(&stays), leaving("SIGINT")),
            (Signal::Interrupt, Some(&leaves), leaving("this node is cordoned")),
        ] {
            assert_eq!(meant_by(signal, node), meant, "{signal:?} {node:?}");
        }
    }
}

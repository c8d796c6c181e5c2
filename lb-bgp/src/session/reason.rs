//! Why a session or an attempt ended, in words.
use crate::message::{Notification, cease, code};
use std::time::Duration;

/// Why a connection ended, or did not come to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// We ended it on purpose.
    #[error("it was stopped: {how}")]
    Stopped {
        /// What for.
        how: &'static str,
        /// What the peer was told, if anything.
        notification: Option<Notification>,
    },
    /// There was no connection.
    #[error("no connection: {0}")]
    NotConnected(String),
    /// No connection was made in time.
    #[error("no connection within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The peer ended it, and said why.
    #[error("the peer ended the session: {0}")]
    Received(Notification),
    /// What the peer sent ended it.
    #[error("{why}; told the peer: {notification}")]
    Refused {
        /// What the peer was told.
        notification: Notification,
        /// What it did.
        why: String,
    },
    /// The peer sent a message that has no place where the connection is.
    #[error("the peer sent {0} at a wrong time")]
    Unexpected(&'static str),
    /// Nothing came from the peer.
    #[error("nothing was heard of the peer for {} s (hold time)", .0.as_secs())]
    Silent(Duration),
    /// The peer has taken nothing (RFC 9687).
    #[error("the peer has read nothing for {} s (send hold time)", .0.as_secs())]
    Stuck(Duration),
    /// Two connections with the same peer: the other one stays.
    #[error("another connection with the same peer is kept")]
    Collision,
    /// The peer connects anew while the session was up: it has restarted (RFC 4724 section 4.2).
    #[error("the peer has restarted: it connects anew")]
    Restarted,
    /// BFD has found the peer to be gone.
    #[error("BFD says that the peer is gone")]
    BfdDown,
}

impl Reason {
    /// What the peer is told, if it is told something.
    pub(super) fn notification(&self) -> Option<Notification> {
        match self {
            Self::Stopped { notification, .. } => notification.clone(),
            Self::Refused { notification, .. } => Some(notification.clone()),
            // RFC 4271 section 6.5.
            Self::Silent(_) => Some(Notification::new(code::HOLD_TIMER, 0, &[])),
            // RFC 4271 section 6.8, RFC 4486 section 4.
            Self::Collision => Some(Notification::cease(cease::COLLISION)),
            // RFC 9384 section 3.
            Self::BfdDown => Some(Notification::cease(cease::BFD_DOWN)),
            Self::NotConnected(_)
            | Self::NoAnswer(_)
            | Self::Closed(_)
            | Self::Received(_)
            | Self::Unexpected(_)
            | Self::Stuck(_)
            | Self::Restarted => None,
        }
    }

    /// Whether it says that one of two connections was too much, which is no failure.
    pub fn is_collision(&self) -> bool {
        match self {
            Self::Collision => true,
            Self::Received(told) => (told.code, told.subcode) == (code::CEASE, cease::COLLISION),
            _ => false,
        }
    }
}

/// How a session is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// For a while, or for good: the peer drops our routes, and is told this text (RFC 9003).
    Shutdown(String),
    /// The peer is no longer configured: it drops our routes.
    Deconfigured,
    /// The session is to begin anew, for another configuration: the peer drops our routes.
    Reconfigured,
    /// The agent goes and comes back, and the kernel carries on: a peer that keeps routes over a
    /// restart is told nothing, so that it keeps them (RFC 4724 section 4.2).
    Restart,
}

impl Stop {
    /// `keeps`: the peer keeps routes if it is told nothing. `keeps_notified`: even if it is told that
    /// the session ends (RFC 8538), unless it is told in this way.
    pub(super) fn reason(&self, keeps: bool, keeps_notified: bool) -> Reason {
        let (how, notification) = match self {
            Self::Shutdown(text) => ("shutdown", Notification::with_text(cease::SHUTDOWN, text)),
            Self::Deconfigured => {
                ("the peer is no longer configured", Notification::cease(cease::DECONFIGURED))
            }
            Self::Reconfigured => {
                ("its configuration changes", Notification::cease(cease::CONFIGURATION))
            }
            Self::Restart if keeps => {
                return Reason::Stopped { how: "the agent restarts", notification: None };
            }
            Self::Restart => ("the agent restarts", Notification::cease(cease::RESET)),
        };
        let notification = if keeps_notified { notification.hard() } else { notification };
        Reason::Stopped { how, notification: Some(notification) }
    }
}

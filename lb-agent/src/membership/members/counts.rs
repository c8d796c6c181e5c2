//! What is counted.

/// What has been found out, since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Probes sent.
    pub probes: u64,
    /// Probes answered.
    pub answers: u64,
    /// Datagrams sent to agents.
    pub sent: u64,
    /// Datagrams taken in.
    pub received: u64,
    /// Datagrams that carried no key of ours, were of another version, or no datagrams of agents.
    pub forged: u64,
    /// Datagrams that came before, too late, or in a session that was not proven.
    pub old: u64,
    /// How often this agent found a node's data plane not to answer.
    pub unseen: u64,
    /// How often it found an agent to be silent.
    pub silent: u64,
    /// How often the others took this node's VIPs away.
    pub lost: u64,
}

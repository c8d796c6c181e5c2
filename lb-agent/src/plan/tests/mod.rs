mod basis;
mod endpoints;
mod owner;
mod rolls;
mod rows;
mod whole;

use crate::{
    membership::{Alive, AliveNode},
    plan::{Plan, PlanOptions},
    snapshot::Snapshot,
};

/// All nodes of a snapshot, alive, with the uplink `eth0`.
fn all_alive(snapshot: &Snapshot) -> Alive {
    snapshot.nodes.keys().map(|n| (n.clone(), AliveNode::new(["eth0"]))).collect()
}

fn plan_all_alive(snapshot: &Snapshot, me: &str) -> Plan {
    crate::plan::plan(snapshot, me, &all_alive(snapshot), &PlanOptions::default())
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.notices.iter().map(|n| n.reason).collect()
}

fn first_message(plan: &Plan) -> &str {
    &plan.notices.get_min().unwrap().message
}

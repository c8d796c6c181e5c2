//! Connections through a real router, BIRD 2 with ECMP over the nodes, while the cluster changes:
//! not one may break that a change need not break.
mod ecmp;
mod endpoints;

use herald_tests::{
    lab::{Shape, command, routed::Routed},
    suite::{self, Shared, case},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let request = suite::begin();
    let obstacle = command::find("bird").err().map(|error| error.to_string());
    let routed = Shared::new(|| Routed::new(Shape::routed(), &[]), Routed::failed);
    let cases = vec![
        case("ecmp::node_leaves", || routed.with(|r| ecmp::node_leaves(r))),
        case("ecmp::node_joins", || routed.with(|r| ecmp::node_joins(r))),
        case("ecmp::several_changes", || routed.with(|r| ecmp::several_changes(r))),
        case("ecmp::agents_upgraded", || routed.with(ecmp::agents_upgraded)),
        case("ecmp::node_reboots", || routed.with(ecmp::node_reboots)),
        case("ecmp::node_dies", || routed.with(ecmp::node_dies)),
        case("endpoints::come_and_go", || routed.with(endpoints::come_and_go)),
        case("endpoints::drained", || routed.with(endpoints::drained)),
        case("endpoints::policy_local", || routed.with(endpoints::policy_local)),
    ];
    suite::run(&request, obstacle, cases)
}

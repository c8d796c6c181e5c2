//! Connections through a real router, BIRD 2 with ECMP over the nodes, while the cluster changes:
//! not one may break that a change need not break. And agents that speak BGP to BIRD, FRR and GoBGP.
mod apart;
mod collision;
mod ecmp;
mod endpoints;
mod half_closed;
mod links;
mod rollout;
mod routers;
mod speaker;
mod takeover;

use herald_tests::{
    lab::{Shape, command, control_plane::check_programs, routed::Routed},
    suite::{self, Shared, case},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let request = suite::begin();
    let obstacle = command::find("bird")
        .map(drop)
        .and_then(|()| check_programs())
        .and_then(|()| routers::check_programs())
        .err()
        .map(|e| e.to_string());
    let routed = Shared::new(|| Routed::new(Shape::routed(), &[]), Routed::failed);
    let speaking = Shared::new(speaker::cluster, Routed::failed);
    let peered = Shared::new(routers::cluster, routers::Peered::failed);
    let cases = vec![
        case("ecmp::node_leaves", || routed.with(ecmp::node_leaves)),
        case("ecmp::node_joins", || routed.with(ecmp::node_joins)),
        case("ecmp::agents_upgraded", || routed.with(ecmp::agents_upgraded)),
        case("ecmp::node_reboots", || routed.with(ecmp::node_reboots)),
        case("ecmp::node_dies", || routed.with(ecmp::node_dies)),
        case("ecmp::several_changes", || routed.with(ecmp::several_changes)),
        case("endpoints::come_and_go", || routed.with(endpoints::come_and_go)),
        case("endpoints::drained", || routed.with(endpoints::drained)),
        case("endpoints::policy_local", || routed.with(endpoints::policy_local)),
        case("half_closed::go_on", || routed.with(half_closed::go_on)),
        case("links::narrow_path", || routed.with(links::narrow_path)),
        case("links::narrow_pods", || routed.with(links::narrow_pods)),
        case("links::node_apart", links::node_apart),
        case("links::foreign_sources_refused", links::foreign_sources_refused),
        case("rollout::deployment_rolled", rollout::deployment_rolled),
        case("speaker::routes", || speaking.with(speaker::routes)),
        case("speaker::agent_leaves_and_returns", || {
            speaking.with(speaker::agent_leaves_and_returns)
        }),
        case("speaker::agents_restart", || speaking.with(speaker::agents_restart)),
        case("speaker::link_is_cut", || speaking.with(speaker::link_is_cut)),
        case("routers::routes", || peered.with(routers::routes)),
        case("routers::sessions_apart", || peered.with(routers::sessions_apart)),
        case("routers::hostile_peer", || peered.with(routers::hostile_peer)),
        case("routers::agents_restart", || peered.with(routers::agents_restart)),
        case("routers::link_is_cut", || peered.with(routers::link_is_cut)),
        case("apart::vrfs", apart::vrfs),
        case("apart::links", apart::links),
        case("collision::both_connect", collision::both_connect),
        case("takeover::from_kube_proxy", takeover::from_kube_proxy),
        case("takeover::under_load", takeover::under_load),
    ];
    suite::run(&request, obstacle, cases)
}

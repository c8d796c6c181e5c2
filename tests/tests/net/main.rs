//! Real agents on real frames, the cluster's state taken from a folder of manifests.
mod announce;
mod bad_input;
mod command_line;
mod conflicts;
mod ground;
mod hand_over;
mod inspect;
mod manifests;
mod members;
mod modes;
mod page;
mod pins;
mod restart;
mod services;
mod takeover;
mod traffic;
mod uplinks;

use herald_tests::{
    lab::scenario::Cluster,
    suite::{self, Shared, case},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let request = suite::begin();
    let cluster = Shared::new(|| Cluster::on_manifests(&[]), Cluster::failed);
    let cases = vec![
        case("ground::laboratory", ground::laboratory),
        case("ground::nothing_stays", ground::nothing_stays),
        case("announce::arp", || cluster.with(|c| announce::arp(c))),
        case("announce::arp_unicast", || cluster.with(|c| announce::arp_unicast(c))),
        case("announce::ndp", || cluster.with(|c| announce::ndp(c))),
        case("announce::again", || cluster.with(announce::again)),
        case("announce::echo", || cluster.with(|c| announce::echo(c))),
        case("announce::address_in_the_kernel", || {
            cluster.with(|c| announce::address_in_the_kernel(c))
        }),
        case("traffic::spread", || cluster.with(|c| traffic::spread(c))),
        case("traffic::connection_stays", || cluster.with(|c| traffic::connection_stays(c))),
        case("traffic::large_transfers", || cluster.with(|c| traffic::large_transfers(c))),
        case("traffic::unknown_port", || cluster.with(|c| traffic::unknown_port(c))),
        case("restart::killed_agents_lose_nothing", || {
            cluster.with(restart::killed_agents_lose_nothing)
        }),
        case("restart::another_version_loses_nothing", || {
            cluster.with(restart::another_version_loses_nothing)
        }),
        case("restart::beside_a_dead_node", || cluster.with(restart::beside_a_dead_node)),
        case("takeover::port_down", || cluster.with(takeover::port_down)),
        case("takeover::silent", || cluster.with(takeover::silent)),
        case("takeover::agent_leaves", || cluster.with(takeover::agent_leaves)),
        case("takeover::agent_restarts", takeover::agent_restarts),
        case("manifests::endpoints_change", || cluster.with(manifests::endpoints_change)),
        case("manifests::service_comes_and_goes", || {
            cluster.with(manifests::service_comes_and_goes)
        }),
        case("manifests::invalid_file", || cluster.with(manifests::invalid_file)),
        case("manifests::unusable_object", || cluster.with(manifests::unusable_object)),
        case("services::source_ranges", || cluster.with(services::source_ranges)),
        case("services::client_ip_affinity", || cluster.with(services::client_ip_affinity)),
        case("services::terminating_endpoint", || cluster.with(services::terminating_endpoint)),
        case("services::last_endpoint_gone", || cluster.with(services::last_endpoint_gone)),
        case("services::endpoints_come_without_agent", || {
            cluster.with(services::endpoints_come_without_agent)
        }),
        case("command_line::maps", || cluster.with(|c| command_line::maps(c))),
        case("command_line::bundle", || cluster.with(|c| command_line::bundle(c))),
        case("command_line::completion_and_manual", || {
            cluster.with(|c| command_line::completion_and_manual(c))
        }),
        case("command_line::status_with_and_without_agent", || {
            cluster.with(command_line::status_with_and_without_agent)
        }),
        case("page::shows_the_node", || cluster.with(|c| page::shows_the_node(c))),
        case("inspect::explain", || cluster.with(|c| inspect::explain(c))),
        case("inspect::watch", || cluster.with(|c| inspect::watch(c))),
        case("uplinks::made_anew", || cluster.with(uplinks::made_anew)),
        case("members::halves", || cluster.with(members::halves)),
        case("conflicts::defended", || cluster.with(conflicts::defended)),
        case("conflicts::flooded", || cluster.with(conflicts::flooded)),
        // The last on this cluster: their thousands of UDP flows stay where they were begun while a node
        // was away, and their ports may be used again.
        case("members::cut_links", || cluster.with(members::cut_links)),
        case("members::killed_agent", || cluster.with(members::killed_agent)),
        case("members::frozen_agent", || cluster.with(members::frozen_agent)),
        case("members::one_way", || cluster.with(members::one_way)),
        case("members::starved_agents", || cluster.with(members::starved_agents)),
        case("conflicts::moves_are_none", || cluster.with(|c| conflicts::moves_are_none(c))),
        case("conflicts::withdrawn", conflicts::withdrawn),
        case("uplinks::second", uplinks::second),
        case("announce::many", announce::many),
        case("members::keys_change", members::keys_change),
        case("modes::tcx_and_back", modes::tcx_and_back),
        case("modes::bridge_uplink", modes::bridge_uplink),
        case("hand_over::few_ports", hand_over::few_ports),
        case("bad_input::one_line_each", bad_input::one_line_each),
        case("bad_input::pools", bad_input::pools),
        case("pins::load_and_unload", pins::load_and_unload),
        case("pins::check", pins::check),
        case("pins::other_layouts", pins::other_layouts),
        case("pins::other_namespace", pins::other_namespace),
        case("pins::interface_made_anew", pins::interface_made_anew),
        case("pins::generic_mode", pins::generic_mode),
        case("pins::what_outlives_the_agent", pins::what_outlives_the_agent),
        case("pins::uninstall", pins::uninstall),
    ];
    suite::run(&request, None, cases)
}

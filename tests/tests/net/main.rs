//! Real agents on real frames, the cluster's state taken from a folder of manifests.
mod announce;
mod bad_input;
mod ground;
mod hand_over;
mod inspect;
mod manifests;
mod members;
mod modes;
mod pins;
mod restart;
mod services;
mod takeover;
mod traffic;

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
        case("takeover::port_down", || cluster.with(takeover::port_down)),
        case("takeover::silent", || cluster.with(takeover::silent)),
        case("takeover::agent_stops", || cluster.with(takeover::agent_stops)),
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
        case("inspect::explain", || cluster.with(|c| inspect::explain(c))),
        case("inspect::watch", || cluster.with(|c| inspect::watch(c))),
        // The last on this cluster: their thousands of UDP flows stay where they were begun while a node
        // was away, and their ports may be used again.
        case("members::cut_links", || cluster.with(members::cut_links)),
        case("members::killed_agent", || cluster.with(members::killed_agent)),
        case("members::frozen_agent", || cluster.with(members::frozen_agent)),
        case("members::one_way", || cluster.with(members::one_way)),
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
    ];
    suite::run(&request, None, cases)
}

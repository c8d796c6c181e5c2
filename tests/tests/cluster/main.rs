//! Real agents on a real API server, under the rules of `deploy/herald.yaml`, beside kube-proxy.
mod alerts;
mod allocation;
mod bgp;
mod cni;
mod configuration;
mod control_plane;
mod definitions;
mod install;
mod migration;
mod objects;
mod service;
mod status;

use herald_tests::{
    lab::{cni as network, command, control_plane::check_programs, scenario::Cluster},
    suite::{self, Shared, case},
};
use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let request = suite::begin();
    let obstacle = check_programs()
        .and_then(|()| network::check_programs())
        .and_then(|()| command::find("bird").map(drop))
        .and_then(|()| command::find("promtool").map(drop))
        .err()
        .map(|e| e.to_string());
    let cluster = Shared::new(|| Cluster::on_kubernetes(&[]), Cluster::failed);
    let mut cases = vec![
        // First, so that no other cluster takes memory and time from theirs.
        case("cni::flannel_vxlan_iptables", cni::flannel_vxlan_iptables),
        case("cni::flannel_host_gw_nftables", cni::flannel_host_gw_nftables),
    ];
    if env::var_os("HERALD_IMAGE").is_some() {
        cases.push(case("install::image_to_external_ip", install::image_to_external_ip));
    }
    if suite::full() {
        cases.extend([
            case("cni::flannel_vxlan_nftables", cni::flannel_vxlan_nftables),
            case("cni::flannel_host_gw_iptables", cni::flannel_host_gw_iptables),
        ]);
    }
    cases.extend([
        case("service::external_address_serves", || {
            cluster.with(|c| service::external_address_serves(c))
        }),
        case("service::kube_proxy_serves_the_cluster_address", || {
            cluster.with(|c| service::kube_proxy_serves_the_cluster_address(c))
        }),
        case("service::client_ip_affinity", || cluster.with(|c| service::client_ip_affinity(c))),
        case("service::other_class", || cluster.with(|c| service::other_class(c))),
        case("service::deleted", || cluster.with(|c| service::deleted(c))),
        case("service::delivery_by_the_kernel", service::delivery_by_the_kernel),
        case("allocation::requested", || cluster.with(|c| allocation::requested(c))),
        case("allocation::pool_exhausted", || cluster.with(|c| allocation::pool_exhausted(c))),
        case("allocation::pool_of_labelled_namespaces", || {
            cluster.with(|c| allocation::pool_of_labelled_namespaces(c))
        }),
        case("allocation::type_changes_beside_a_hostname", || {
            cluster.with(|c| allocation::type_changes_beside_a_hostname(c))
        }),
        case("allocation::survives_restarts", || cluster.with(allocation::survives_restarts)),
        case("allocation::leader_killed", || cluster.with(allocation::leader_killed)),
        case("migration::there_and_back", || cluster.with(migration::there_and_back)),
        case("status::l2_status", || cluster.with(status::l2_status)),
        case("status::bgp_status", || cluster.with(|c| status::bgp_status(c))),
        case("status::bgp_status_of_the_gone", status::bgp_status_of_the_gone),
        case("configuration::schema", || cluster.with(|c| configuration::schema(c))),
        case("configuration::bgp_peer_versions", || {
            cluster.with(|c| configuration::bgp_peer_versions(c))
        }),
        case("configuration::told_by_status", || {
            cluster.with(|c| configuration::told_by_status(c))
        }),
        case("configuration::password_secrets", || {
            cluster.with(|c| configuration::password_secrets(c))
        }),
        case("definitions::without_bgp", definitions::without_bgp),
        case("alerts::fire_when_they_should", alerts::fire_when_they_should),
        case("alerts::dashboard_queries", alerts::dashboard_queries),
        case("install::chart_to_external_ip", install::chart_to_external_ip),
        case("install::by_helm", install::by_helm),
        case("configuration::webhook", || cluster.with(|c| configuration::webhook(c))),
        case("allocation::allocators_change_while_services_come", || {
            cluster.with(allocation::allocators_change_while_services_come)
        }),
        case("control_plane::nothing_was_forbidden", || {
            cluster.with(|c| control_plane::nothing_was_forbidden(c))
        }),
        // Last: an API server that has just started forbids what it has not read yet.
        case("control_plane::api_server_away", || cluster.with(control_plane::api_server_away)),
    ]);
    suite::run(&request, obstacle, cases)
}

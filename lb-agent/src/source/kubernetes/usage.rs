//! How full each pool is, in the status of the pools.
use super::health::Health;
use crate::{
    api::{IPAddressPool, IPAddressPoolStatus},
    ipam::PoolUsage,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Counters are for people: a burst of allocations is one write.
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// The name of this task in [`Health`].
const TASK: &str = "status of pools";

/// By the pools' names.
pub(super) type Usage = BTreeMap<String, PoolUsage>;

/// Writes what changes of `usage`, for ever, as long as this agent is the allocator.
pub(super) async fn write(
    api: Api<IPAddressPool>,
    mut usage: watch::Receiver<Usage>,
    mut may_allocate: watch::Receiver<bool>,
    health: &Health,
) {
    let mut written = Usage::new();
    loop {
        let mut behind = false;
        if *may_allocate.borrow_and_update() {
            let now = usage.borrow_and_update().clone();
            behind = update(&api, &now, &mut written, health).await;
        } else {
            // Another writes now, and what stands there is not known any more.
            written.clear();
        }
        sleep(PAUSE).await;
        tokio::select! {
            changed = usage.changed() => if changed.is_err() { return },
            changed = may_allocate.changed() => if changed.is_err() { return },
            () = std::future::ready(()), if behind => {}
        }
    }
}

/// Writes what differs. Returns whether something could not be written.
async fn update(
    api: &Api<IPAddressPool>,
    now: &Usage,
    written: &mut Usage,
    health: &Health,
) -> bool {
    written.retain(|pool, _| now.contains_key(pool));
    for (pool, usage) in now {
        if written.get(pool) == Some(usage) {
            continue;
        }
        let patch = Patch::Merge(serde_json::json!({ "status": status(*usage) }));
        let params = PatchParams::default();
        match timeout(PATIENCE, api.patch_status(pool, &params, &patch)).await {
            Ok(Ok(_)) => health.succeeded(TASK),
            // Gone meanwhile.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(e)) => {
                health
                    .failed_aside(TASK, &health.explain("write the status of IPAddressPools", &e));
                return true;
            }
            Err(_) => return true,
        }
        written.insert(pool.clone(), *usage);
    }
    false
}

fn status(usage: PoolUsage) -> IPAddressPoolStatus {
    let PoolUsage { assigned_v4, assigned_v6, available_v4, available_v6 } = usage;
    IPAddressPoolStatus {
        assigned_ipv4: assigned_v4,
        assigned_ipv6: assigned_v6,
        available_ipv4: available_v4,
        available_ipv6: available_v6,
        conditions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_where_metallb_has_them() {
        let usage =
            PoolUsage { assigned_v4: 1, assigned_v6: 2, available_v4: 3, available_v6: i64::MAX };
        let expected = serde_json::json!({
            "assignedIPv4": 1,
            "assignedIPv6": 2,
            "availableIPv4": 3,
            "availableIPv6": 9_223_372_036_854_775_807_i64,
        });
        assert_eq!(serde_json::to_value(status(usage)).unwrap(), expected);
    }
}

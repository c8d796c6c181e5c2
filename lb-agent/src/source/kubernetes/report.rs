//! What is wrong with the configuration, where operators look: in the status of each object, in
//! Events, and in `ConfigurationState`s.
//!
//! The agent that allocates writes the status of objects and the state named `controller`; each
//! agent writes the state of its node, `speaker-NODE`. Only what differs from what the API says is
//! written.
use super::{health::Health, lease, view::View};
use crate::{
    api::{Condition, ConfigurationResult, ConfigurationState, ConfigurationStateStatus, GROUP},
    snapshot::{LabelSelector, any_matches},
    source::{
        COMPONENT,
        index::Configuration,
        notices::{CONFIGURATION_ERROR, of_faults},
    },
    validate::{Fault, Kind},
};
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// The type of the condition on each object.
const VALID: &str = "Valid";
/// The states' conditions have the names of MetalLB's own parts, which alerts ask for.
const OF_POOLS: &str = "poolReconcilerValid";
const OF_ALL: &str = "configReconcilerValid";
const GOOD: &str = "Reconciled";
/// A condition's message may be 32768 bytes long.
const LONGEST_MESSAGE: usize = 32_000;

/// Several objects are often changed at once.
const GATHERING: Duration = Duration::from_millis(500);
/// What could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// States that somebody has deleted come back.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: &str = "the Kubernetes API gives no answer";

/// See the module.
pub(super) struct Report {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) node: String,
    pub(super) view: Arc<View>,
    pub(super) configuration: watch::Receiver<Option<Arc<Configuration>>>,
    pub(super) health: Arc<Health>,
}

/// Something could not be written: for what reason, unless that will pass by itself.
struct NotWritten(Option<String>);

/// What was written of an object, where the API does not keep it (MetalLB's definitions have no
/// conditions).
type Written = BTreeMap<(Kind, String), (String, Condition)>;

impl Report {
    /// Reports for ever.
    pub(super) async fn run(self) {
        let mut configuration = self.configuration.clone();
        let mut leads = self.view.may_allocate();
        let nodes = Api::<Node>::all(self.client.clone());
        let owner = lease::owner(&nodes, &self.node).await;
        let mut written = Written::new();
        let mut said: Option<String> = None;
        loop {
            let leading = *leads.borrow_and_update();
            let now = configuration.borrow_and_update().clone();
            let mut pause = LOOK_AGAIN;
            if let Some(now) = now {
                let failure = self.report(&now, leading, owner.as_ref(), &mut written).await.err();
                if failure.is_some() {
                    pause = RETRY;
                }
                let text = failure.and_then(|NotWritten(text)| text);
                if let Some(text) = text.as_ref().filter(|text| said.as_ref() != Some(*text)) {
                    warn!("{text}; trying on");
                }
                said = text;
            }
            if !leading {
                // Another writes now.
                written.clear();
            }
            tokio::select! {
                changed = configuration.changed() => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
            sleep(GATHERING).await;
        }
    }

    async fn report(
        &self,
        configuration: &Configuration,
        leading: bool,
        owner: Option<&OwnerReference>,
        written: &mut Written,
    ) -> Result<(), NotWritten> {
        let mut result = Ok(());
        if leading {
            result = self.report_objects(configuration, written).await;
            let labels = json!({ "metallb.io/component-type": "controller" });
            let errors = errors(configuration, |kind, _| kind == Kind::Pool);
            let wrote = self.write_state("controller", &labels, None, OF_POOLS, &errors).await;
            result = result.and(wrote);
        }
        let name = format!("speaker-{}", self.node);
        let labels = json!({
            "metallb.io/component-type": "speaker",
            "metallb.io/node-name": label_value(&self.node),
        });
        let errors =
            errors(configuration, |kind, name| concerns(configuration, kind, name, &self.node));
        result.and(self.write_state(&name, &labels, owner, OF_ALL, &errors).await)
    }

    async fn report_objects(
        &self,
        configuration: &Configuration,
        written: &mut Written,
    ) -> Result<(), NotWritten> {
        let mut result = Ok(());
        let all = objects(configuration);
        written.retain(|(kind, name), _| {
            all.iter().any(|object| object.kind == *kind && object.name == name)
        });
        for object in all {
            let faults = configuration.verdict.faults(object.kind, object.name);
            let wanted = condition(VALID, &lines(faults), object.generation);
            let stands = object.conditions.iter().find(|c| c.type_ == VALID);
            let key = (object.kind, object.name.to_owned());
            let known = written.get(&key).filter(|(uid, _)| uid == object.uid);
            if [stands, known.map(|(_, condition)| condition)]
                .into_iter()
                .flatten()
                .any(|condition| same(condition, &wanted))
            {
                continue;
            }
            let wanted = since(stands, wanted);
            let wrote = self.write_condition(&object, &wanted).await;
            if wrote.is_ok() {
                let notice = of_faults(object.kind, &self.namespace, object.name, faults);
                notice.into_iter().for_each(|notice| self.view.notify(notice));
                written.insert(key, (object.uid.to_owned(), wanted));
            }
            result = result.and(wrote);
        }
        result
    }

    async fn write_condition(
        &self,
        object: &Object<'_>,
        condition: &Condition,
    ) -> Result<(), NotWritten> {
        let (version, plural) = match object.kind {
            Kind::Pool => ("v1beta1", "ipaddresspools"),
            Kind::L2Advertisement => ("v1beta1", "l2advertisements"),
            Kind::BgpAdvertisement => ("v1beta1", "bgpadvertisements"),
            Kind::Peer => ("v1beta2", "bgppeers"),
            Kind::BfdProfile => ("v1beta1", "bfdprofiles"),
            Kind::Community => ("v1beta1", "communities"),
        };
        let kind = GroupVersionKind::gvk(GROUP, version, object.kind.name());
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let api =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let others = object.conditions.iter().filter(|c| c.type_ != VALID);
        let conditions: Vec<_> = others.chain([condition]).collect();
        let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
        match timeout(PATIENCE, api.patch_status(object.name, &params(), &patch)).await {
            Ok(Ok(_)) => Ok(()),
            // Gone meanwhile.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 422 => {
                // A pool's status must have its counters, which come a moment later.
                debug!("the status of {} {}: {status}", object.kind.name(), object.name);
                Err(NotWritten(None))
            }
            Ok(Err(e)) => {
                let what = format!("write the status of {}s", object.kind.name());
                Err(NotWritten(Some(self.health.explain(&what, &e))))
            }
            Err(_) => Err(NotWritten(Some(SILENCE.to_owned()))),
        }
    }

    /// Writes a state if it is another than the one that stands.
    async fn write_state(
        &self,
        name: &str,
        labels: &serde_json::Value,
        owner: Option<&OwnerReference>,
        condition_type: &str,
        errors: &str,
    ) -> Result<(), NotWritten> {
        let api = Api::<ConfigurationState>::namespaced(self.client.clone(), &self.namespace);
        let writing = async {
            let found = api.get_opt(name).await?;
            if found.is_none() {
                let metadata = json!({
                    "name": name,
                    "labels": labels,
                    "ownerReferences": Vec::from_iter(owner),
                });
                let object = json!({
                    "apiVersion": format!("{GROUP}/v1beta1"),
                    "kind": "ConfigurationState",
                    "metadata": metadata,
                });
                api.patch(name, &PatchParams::apply(COMPONENT), &Patch::Apply(object)).await?;
            }
            let stands = found.and_then(|state| state.status).unwrap_or_default();
            if let Some(status) = state(&stands, condition_type, errors) {
                let patch = Patch::Merge(json!({ "status": status }));
                api.patch_status(name, &params(), &patch).await?;
            }
            Ok(())
        };
        match timeout(PATIENCE, writing).await {
            Ok(written) => written.map_err(|e: kube::Error| {
                NotWritten(Some(self.health.explain("write ConfigurationStates", &e)))
            }),
            Err(_) => Err(NotWritten(Some(SILENCE.to_owned()))),
        }
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() }
}

/// What is common to all kinds.
struct Object<'a> {
    kind: Kind,
    name: &'a str,
    uid: &'a str,
    generation: i64,
    conditions: &'a [Condition],
}

fn objects(configuration: &Configuration) -> Vec<Object<'_>> {
    let mut all = Vec::new();
    macro_rules! push {
        ($kind:expr, $entries:expr) => {
            all.extend($entries.iter().map(|(name, entry)| Object {
                kind: $kind,
                name,
                uid: &entry.uid,
                generation: entry.generation,
                conditions: &entry.conditions,
            }));
        };
    }
    let of = &configuration.objects;
    push!(Kind::Pool, of.pools);
    push!(Kind::L2Advertisement, of.l2_advertisements);
    push!(Kind::BgpAdvertisement, of.bgp_advertisements);
    push!(Kind::Peer, of.peers);
    push!(Kind::BfdProfile, of.bfd_profiles);
    push!(Kind::Community, of.communities);
    all
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What is wrong with the objects of interest, a line each.
fn errors(configuration: &Configuration, of_interest: impl Fn(Kind, &str) -> bool) -> String {
    let bad = configuration.verdict.iter().filter(|(kind, name, _)| of_interest(*kind, name));
    let lines = bad.flat_map(|(kind, name, faults)| {
        faults.iter().map(move |fault| format!("{} {name}: {fault}", kind.name()))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether an object is about a node: advertisements and peers may select others.
fn concerns(configuration: &Configuration, kind: Kind, name: &str, node: &str) -> bool {
    let of = &configuration.objects;
    let selectors = match kind {
        Kind::L2Advertisement => of.l2_advertisements.get(name).map(|e| &e.spec.node_selectors),
        Kind::BgpAdvertisement => of.bgp_advertisements.get(name).map(|e| &e.spec.node_selectors),
        Kind::Peer => of.peers.get(name).map(|e| &e.spec.node_selectors),
        Kind::Pool | Kind::BfdProfile | Kind::Community => None,
    };
    let selectors: Vec<LabelSelector> =
        selectors.into_iter().flatten().cloned().map(Into::into).collect();
    of.nodes.get(node).is_none_or(|labels| any_matches(&selectors, labels))
}

fn condition(type_: &str, errors: &str, generation: i64) -> Condition {
    let good = errors.is_empty();
    Condition {
        type_: type_.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: if good { GOOD } else { CONFIGURATION_ERROR }.to_owned(),
        message: errors[..errors.floor_char_boundary(LONGEST_MESSAGE)].to_owned(),
        observed_generation: (generation > 0).then_some(generation),
        last_transition_time: Time(Timestamp::now()),
    }
}

/// Whether two conditions say the same, whenever they began to.
fn same(a: &Condition, b: &Condition) -> bool {
    let saying = |c: &Condition| (c.status.clone(), c.reason.clone(), c.message.clone());
    saying(a) == saying(b) && a.observed_generation == b.observed_generation
}

/// A condition whose status is what it was has been so since then.
fn since(stands: Option<&Condition>, wanted: Condition) -> Condition {
    match stands.filter(|stands| stands.status == wanted.status) {
        Some(stands) => {
            Condition { last_transition_time: stands.last_transition_time.clone(), ..wanted }
        }
        None => wanted,
    }
}

/// The status of a state; `None` if it says that already.
fn state(
    stands: &ConfigurationStateStatus,
    condition_type: &str,
    errors: &str,
) -> Option<ConfigurationStateStatus> {
    let before = stands.conditions.iter().find(|c| c.type_ == condition_type);
    let wanted = condition(condition_type, errors, 0);
    let result =
        if errors.is_empty() { ConfigurationResult::Valid } else { ConfigurationResult::Invalid };
    if stands.result == Some(result) && before.is_some_and(|before| same(before, &wanted)) {
        return None;
    }
    Some(ConfigurationStateStatus {
        result: Some(result),
        error_summary: Some(wanted.message.clone()),
        conditions: vec![since(before, wanted)],
    })
}

/// Names may be longer than a label's value.
fn label_value(name: &str) -> &str {
    let short = &name[..name.floor_char_boundary(63)];
    short.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

//! Which node announces a Service, as objects of kind `ServiceL2Status`.
//!
//! The node that announces writes one for each of its Services, removes those of nodes that
//! announce no address of the Service any more (theirs cannot, if they are dead), and its own when
//! it has lost all. These objects only tell: nothing here is read back to decide anything, and
//! trouble with them keeps nothing else from its work.
use super::health::Health;
use crate::{
    api::{InterfaceInfo, ServiceL2Status},
    plan::Announcing,
    snapshot::ObjectName,
    source::COMPONENT,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use imbl::OrdMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        TypeMeta,
    },
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

/// The labels that MetalLB's objects have.
const NODE: &str = "metallb.io/node";
const SERVICE_NAME: &str = "metallb.io/service-name";
const SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";

/// These objects are for people: what changes within that long is written together.
const PAUSE: Duration = Duration::from_millis(500);
/// Where there are thousands, looking at them takes a part of the time at most, within this bound.
const SHARE: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether the objects are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(10);
/// Writes under way at once; they are beside the addresses of Services and must not crowd
/// them out.
const AT_ONCE: usize = 4;

/// By the Services' names.
pub(super) type Announced = OrdMap<ObjectName, Arc<Announcing>>;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Says that this node announces a Service.
    Create(ObjectName, Vec<String>),
    /// Says that it does so on other interfaces; the object's name.
    Update(String, ObjectName, Vec<String>),
    /// Removes an object, by its name.
    Delete(String),
}

/// What is the matter, as it is told.
type Trouble = String;

pub(super) struct Writer<'a> {
    api: Api<ServiceL2Status>,
    /// The same, for objects that have yet to say of which kind they are.
    new: Api<DynamicObject>,
    node: String,
    /// With what the objects vanish.
    owner: Option<OwnerReference>,
    health: &'a Health,
}

impl<'a> Writer<'a> {
    /// Writes objects into a namespace, as the agent on `node`.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        node: String,
        owner: Option<OwnerReference>,
        health: &'a Health,
    ) -> Self {
        let kind = ApiResource::erase::<ServiceL2Status>(&());
        let new = Api::namespaced_with(client.clone(), namespace, &kind);
        Self { api: Api::namespaced(client, namespace), new, node, owner, health }
    }

    /// Keeps the objects at what is announced, for ever.
    pub(super) async fn run(self, mut announced: watch::Receiver<Announced>) {
        let mut said = None;
        loop {
            let now = announced.borrow_and_update().clone();
            let started = Instant::now();
            let trouble = self.settle(&now).await.err();
            if trouble != said {
                match (&trouble, &said) {
                    (Some(trouble), _) => warn!("{trouble}; trying on"),
                    (None, Some(said)) => info!("no more: {said}"),
                    (None, None) => {}
                }
                said.clone_from(&trouble);
            }
            let again = Instant::now() + if trouble.is_some() { PATIENCE } else { LOOK_AGAIN };
            sleep((started.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE)).await;
            tokio::select! {
                changed = announced.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    async fn settle(&self, announced: &Announced) -> Result<(), Trouble> {
        let params = ListParams::default().labels(&format!("{NODE}={}", label(&self.node)));
        let mine = self.ask("list", self.api.list(&params)).await?.items;
        // Of others only those matter that are about a Service of ours.
        let others = match announced.is_empty() {
            true => Vec::new(),
            false => {
                let params =
                    ListParams::default().labels(&format!("{NODE}!={}", label(&self.node)));
                self.ask("list", self.api.list_metadata(&params)).await?.items
            }
        };
        let others: Vec<_> = others.into_iter().map(|object| object.metadata).collect();
        let actions = actions(&mine, &others, announced);
        stream::iter(actions)
            .map(|action| self.act(action))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn act(&self, action: Action) -> Result<(), Trouble> {
        let params = PatchParams::default();
        match action {
            Action::Create(service, interfaces) => {
                let object = self.object(&service);
                let params_of_new = PostParams::default();
                let created = self.new.create(&params_of_new, &object);
                let created = self.ask("create", created).await?;
                let name = created.metadata.name.unwrap_or_default();
                let patch = Patch::Merge(self.status(&service, &interfaces));
                let patched = self.api.patch_status(&name, &params, &patch);
                self.ask("write the status of", patched).await.map(drop)
            }
            Action::Update(name, service, interfaces) => {
                let patch = Patch::Merge(self.status(&service, &interfaces));
                let patched = self.api.patch_status(&name, &params, &patch);
                self.ask("write the status of", patched).await.map(drop)
            }
            Action::Delete(name) => {
                let params = DeleteParams::default();
                match timeout(PATIENCE, self.api.delete(&name, &params)).await {
                    // Somebody else was faster.
                    Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(self.explain("delete", &error)),
                    Err(_) => Err(no_answer()),
                }
            }
        }
    }

    async fn ask<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        match timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(what, &error)),
            Err(_) => Err(no_answer()),
        }
    }

    fn explain(&self, what: &str, error: &kube::Error) -> Trouble {
        self.health.explain(&format!("{what} ServiceL2Status objects"), error)
    }

    fn object(&self, service: &ObjectName) -> DynamicObject {
        let labels = [
            (NODE, label(&self.node)),
            (SERVICE_NAME, label(&service.name)),
            (SERVICE_NAMESPACE, label(&service.namespace)),
        ];
        DynamicObject {
            types: Some(TypeMeta::resource::<ServiceL2Status>()),
            metadata: ObjectMeta {
                generate_name: Some("l2-".to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: serde_json::json!({}),
        }
    }

    fn status(&self, service: &ObjectName, interfaces: &[String]) -> serde_json::Value {
        // All that it may have said before is named: a merge takes nothing away that is left out.
        serde_json::json!({ "status": {
            "node": self.node,
            "serviceName": &*service.name,
            "serviceNamespace": &*service.namespace,
            "interfaces": interfaces.iter().map(interface).collect::<Vec<_>>(),
        }})
    }
}

fn interface(name: impl Into<String>) -> InterfaceInfo {
    InterfaceInfo { name: Some(name.into()) }
}

fn no_answer() -> Trouble {
    format!(
        "the Kubernetes API does not answer what {COMPONENT} asks about ServiceL2Status objects"
    )
}

/// A name as the value of a label, which may be 63 bytes long, where names of nodes may be 253:
/// longer ones are told apart by what they hash to.
fn label(name: &str) -> String {
    const LONGEST: usize = 63;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let mut label = name[..name.floor_char_boundary(LONGEST - 9)].to_owned();
    label.push('-');
    for byte in &Sha256::digest(name)[..4] {
        // Writing to a String does not fail.
        let _ = write!(label, "{byte:02x}");
    }
    label
}

/// What is to be written, given this node's objects and the others' labels.
fn actions(mine: &[ServiceL2Status], others: &[ObjectMeta], announced: &Announced) -> Vec<Action> {
    let mut missing: BTreeMap<_, _> = announced.iter().collect();
    let mut actions = Vec::new();
    for object in mine {
        let Some(name) = object.metadata.name.clone() else { continue };
        let status = object.status.clone().unwrap_or_default();
        // One that has no status yet is ours by its labels: it was not finished.
        let wanted = about(&object.metadata, announced)
            .filter(|(service, _)| {
                status.service_name.as_ref().is_none_or(|n| **n == *service.name)
            })
            .and_then(|(service, _)| missing.remove_entry(service));
        let Some((service, announcing)) = wanted else {
            actions.push(Action::Delete(name));
            continue;
        };
        let told: Vec<_> = status.interfaces.into_iter().filter_map(|i| i.name).collect();
        let wanted: Vec<_> = announcing.interfaces.iter().cloned().collect();
        if status.node.is_none() || told != wanted {
            actions.push(Action::Update(name, service.clone(), wanted));
        }
    }
    for object in others {
        let (Some(name), Some(labels)) = (&object.name, &object.labels) else { continue };
        let Some((_, announcing)) = about(object, announced) else { continue };
        let node = labels.get(NODE);
        if !announcing.owners.iter().any(|owner| Some(&label(owner)) == node) {
            actions.push(Action::Delete(name.clone()));
        }
    }
    actions.extend(missing.into_iter().map(|(service, announcing)| {
        Action::Create(service.clone(), announcing.interfaces.iter().cloned().collect())
    }));
    actions
}

/// The announced Service that an object is about, by its labels.
fn about<'a>(
    object: &ObjectMeta,
    announced: &'a Announced,
) -> Option<(&'a ObjectName, &'a Arc<Announcing>)> {
    let labels = object.labels.as_ref()?;
    // Names of Services and namespaces fit into labels as they are.
    let name = ObjectName::new(labels.get(SERVICE_NAMESPACE)?, labels.get(SERVICE_NAME)?);
    announced.get_key_value(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MetalLBServiceL2Status;

    fn object(name: &str, node: &str, service: &str, told: Option<&[&str]>) -> ServiceL2Status {
        let labels = [
            (NODE, label(node)),
            (SERVICE_NAME, service.into()),
            (SERVICE_NAMESPACE, "shop".into()),
        ];
        ServiceL2Status {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                ..ObjectMeta::default()
            },
            status: told.map(|interfaces| MetalLBServiceL2Status {
                node: Some(node.to_owned()),
                service_name: Some(service.to_owned()),
                service_namespace: Some("shop".to_owned()),
                interfaces: interfaces.iter().map(|name| interface(*name)).collect(),
            }),
            ..ServiceL2Status::default()
        }
    }

    fn announced(services: &[(&str, &[&str], &[&str])]) -> Announced {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let entry = |(service, interfaces, owners): &(&str, &[&str], &[&str])| {
            let announcing = Announcing { interfaces: texts(interfaces), owners: texts(owners) };
            (ObjectName::new("shop", *service), Arc::new(announcing))
        };
        services.iter().map(entry).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let mine = [object("l2-a", "n1", "web", Some(&["eth0"]))];
        let others = [object("l2-b", "n2", "db", Some(&[])).metadata];
        let announced = announced(&[("web", &["eth0"], &["n1"])]);
        assert_eq!(actions(&mine, &others, &announced), []);
    }

    #[test]
    fn a_new_owner_tells_so_and_removes_what_the_old_one_said() {
        let others = [object("l2-b", "n2", "web", Some(&[])).metadata];
        let announced = announced(&[("web", &[], &["n1"])]);
        let expected = [
            Action::Delete("l2-b".into()),
            Action::Create(ObjectName::new("shop", "web"), Vec::new()),
        ];
        assert_eq!(actions(&[], &others, &announced), expected);
    }

    #[test]
    fn both_say_so_where_a_services_addresses_have_two_owners() {
        let others = [object("l2-b", "n2", "web", Some(&[])).metadata];
        let mine = [object("l2-a", "n1", "web", Some(&[]))];
        assert_eq!(actions(&mine, &others, &announced(&[("web", &[], &["n1", "n2"])])), []);
    }

    #[test]
    fn what_was_lost_is_removed_and_twins_and_halves_are_put_right() {
        let mine = [
            object("l2-a", "n1", "gone", Some(&[])),
            object("l2-b", "n1", "web", None),
            object("l2-c", "n1", "web", Some(&[])),
            object("l2-d", "n1", "db", Some(&["eth0"])),
        ];
        let announced = announced(&[("web", &[], &["n1"]), ("db", &["eth1"], &["n1"])]);
        let expected = [
            Action::Delete("l2-a".into()),
            Action::Update("l2-b".into(), ObjectName::new("shop", "web"), Vec::new()),
            Action::Delete("l2-c".into()),
            Action::Update("l2-d".into(), ObjectName::new("shop", "db"), vec!["eth1".into()]),
        ];
        assert_eq!(actions(&mine, &[], &announced), expected);
    }

    #[test]
    fn long_names_of_nodes_fit_into_labels_and_stay_apart() {
        let long = |end| format!("{}{end}", "n".repeat(200));
        assert_eq!(label("n1"), "n1");
        assert_eq!(label(&long("a")).len(), 63);
        assert_ne!(label(&long("a")), label(&long("b")));
    }
}

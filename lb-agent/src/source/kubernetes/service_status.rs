//! Who announces a Service, as objects of kind `ServiceL2Status` and `ServiceBGPStatus`.
//!
//! Each node writes one of a kind for each Service that it announces, and removes its own when it
//! announces it no more. On layer 2 those of nodes that announce no address of the Service any more
//! are removed, too (they cannot, if they are dead). These objects only tell: nothing here is read back to
//! decide anything, and trouble with them keeps nothing else from its work.
use super::health::Health;
use crate::{
    api::{InterfaceInfo, ServiceBGPStatus, ServiceL2Status},
    differences,
    plan::Announcing,
    snapshot::ObjectName,
    source::COMPONENT,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use imbl::OrdMap;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        TypeMeta,
    },
};
use looks::{Look, Looks};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Write as _},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

mod looks;

/// The labels that MetalLB's objects have.
const NODE: &str = "metallb.io/node";
const SERVICE_NAME: &str = "metallb.io/service-name";
const SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";

/// These objects are for people: what changes within that long is written together.
const PAUSE: Duration = Duration::from_millis(500);
/// Where there are thousands, looking at them takes a part of the time at most, within this bound.
const SHARE: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);
/// An agent that leaves takes no longer to remove its own.
const FAREWELL: Duration = Duration::from_secs(5);
/// Writes under way at once; they are beside the addresses of Services and must not crowd
/// them out.
const AT_ONCE: usize = 4;

/// What is told of a Service that this node announces, and by which kind of objects.
pub(super) trait Told: PartialEq + Send + Sync + 'static {
    /// The kind.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send;
    /// What the names of its objects begin with.
    const PREFIX: &'static str;
    /// Objects of other nodes may have to be removed.
    const OF_OTHERS: bool;

    /// The fields of the status besides node and Service.
    fn fields(&self) -> Value;

    /// What an object says; `None` if it has no status yet.
    fn said(object: &Self::Object) -> Option<Said>;

    /// Whether the node with this label announces the Service as well.
    fn is_by(&self, _label: Option<&String>) -> bool {
        true
    }
}

/// What an object's status says.
pub(super) struct Said {
    node: Option<String>,
    service: Option<String>,
    fields: Value,
}

impl Told for Announcing {
    type Object = ServiceL2Status;
    const PREFIX: &'static str = "l2-";
    const OF_OTHERS: bool = true;

    fn fields(&self) -> Value {
        json!({ "interfaces": self.interfaces.iter().map(interface).collect::<Vec<_>>() })
    }

    fn said(object: &ServiceL2Status) -> Option<Said> {
        let status = object.status.clone()?;
        let fields = json!({ "interfaces": status.interfaces });
        Some(Said { node: status.node, service: status.service_name, fields })
    }

    fn is_by(&self, node: Option<&String>) -> bool {
        self.owners.iter().any(|owner| Some(&label(owner)) == node)
    }
}

fn interface(name: impl Into<String>) -> InterfaceInfo {
    InterfaceInfo { name: Some(name.into()) }
}

/// The BGPPeers that a Service is announced to.
impl Told for BTreeSet<String> {
    type Object = ServiceBGPStatus;
    const PREFIX: &'static str = "bgp-";
    const OF_OTHERS: bool = false;

    fn fields(&self) -> Value {
        json!({ "peers": self })
    }

    fn said(object: &ServiceBGPStatus) -> Option<Said> {
        let status = object.status.clone()?;
        let fields = json!({ "peers": status.peers });
        Some(Said { node: status.node, service: status.service_name, fields })
    }
}

/// By the Services' names.
pub(super) type Announced<T> = OrdMap<ObjectName, Arc<T>>;

/// This node's objects, by the Services that they are about.
type Known = BTreeMap<ObjectName, String>;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Says that this node announces a Service, and these fields of it.
    Create(ObjectName, Value),
    /// Says other fields; the object's name.
    Update(String, ObjectName, Value),
    /// Removes an object, by its name.
    Delete(String),
}

/// What is the matter, as it is told.
type Trouble = String;

pub(super) struct Writer<'a, T: Told> {
    api: Api<T::Object>,
    /// The same, for objects that have yet to say of which kind they are.
    new: Api<DynamicObject>,
    node: String,
    /// With what the objects vanish.
    owner: Option<OwnerReference>,
    health: &'a Health,
}

impl<'a, T: Told> Writer<'a, T> {
    /// Writes objects into a namespace, as the agent on `node`.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        node: String,
        owner: Option<OwnerReference>,
        health: &'a Health,
    ) -> Self {
        let kind = ApiResource::erase::<T::Object>(&());
        let new = Api::namespaced_with(client.clone(), namespace, &kind);
        Self { api: Api::namespaced(client, namespace), new, node, owner, health }
    }

    /// Keeps the objects at what is announced, for ever; as soon as that is known.
    pub(super) async fn run(self, mut announced: watch::Receiver<Option<Announced<T>>>) {
        let mut said = None;
        // What the objects say, since they were last looked at.
        let mut settled: Option<(Announced<T>, Known)> = None;
        let mut looks = Looks::new(T::OF_OTHERS, Instant::now());
        loop {
            let Ok(now) = announced.wait_for(Option::is_some).await.map(|now| now.clone()) else {
                return;
            };
            let now = now.unwrap_or_default();
            let started = Instant::now();
            let differs = |before| differences::keys(before, &now).next().is_some();
            if settled.as_ref().is_some_and(|(before, _)| differs(before)) {
                looks.changed(started);
            }
            let done = match (looks.take(started), settled.take()) {
                (None, Some((before, known))) => self.follow(&before, &now, known).await,
                (look, _) => self.settle(&now, look.unwrap_or(Look::Own)).await,
            };
            let trouble = match done {
                Ok(known) => {
                    settled = Some((now, known));
                    None
                }
                Err(trouble) => {
                    looks.failed(Instant::now() + PATIENCE);
                    Some(trouble)
                }
            };
            if trouble != said {
                match (&trouble, &said) {
                    (Some(trouble), _) => warn!("{trouble}; trying on"),
                    (None, Some(said)) => info!("no more: {said}"),
                    (None, None) => {}
                }
                said.clone_from(&trouble);
            }
            sleep((started.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE)).await;
            tokio::select! {
                changed = announced.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(looks.due()) => {}
            }
        }
    }

    /// This node announces nothing any more: removes what says so. What the API does not take in time
    /// stays.
    pub(super) async fn end(self) {
        match timeout(FAREWELL, self.settle(&Announced::new(), Look::Own)).await {
            Ok(Ok(_)) => {}
            Ok(Err(trouble)) => warn!("{trouble}"),
            Err(_) => warn!("{}", Self::no_answer()),
        }
    }

    /// Brings the objects from what was announced to what is.
    async fn follow(
        &self,
        before: &Announced<T>,
        now: &Announced<T>,
        mut known: Known,
    ) -> Result<Known, Trouble> {
        let actions = changes(before, now, &mut known);
        self.act_all(actions, known).await
    }

    /// Does all of that; what is known then.
    async fn act_all(&self, actions: Vec<Action>, mut known: Known) -> Result<Known, Trouble> {
        let acting = stream::iter(actions).map(|action| self.act(action));
        let mut acting = acting.buffer_unordered(AT_ONCE);
        while let Some(created) = acting.try_next().await? {
            known.extend(created);
        }
        Ok(known)
    }

    /// Brings the objects, whatever they are, to what is announced.
    async fn settle(&self, announced: &Announced<T>, look: Look) -> Result<Known, Trouble> {
        let params = ListParams::default().labels(&format!("{NODE}={}", label(&self.node)));
        let mine = match timeout(PATIENCE, self.api.list(&params)).await {
            Ok(Ok(list)) => list.items,
            // The kind is not defined, and nobody misses it.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && announced.is_empty() => {
                return Ok(Known::new());
            }
            Ok(Err(error)) => return Err(self.explain("list", &error)),
            Err(_) => return Err(Self::no_answer()),
        };
        // Of others only those matter that are about a Service of ours.
        let others = match look {
            Look::All if !announced.is_empty() => {
                let params =
                    ListParams::default().labels(&format!("{NODE}!={}", label(&self.node)));
                self.ask("list", self.api.list_metadata(&params)).await?.items
            }
            Look::All | Look::Own => Vec::new(),
        };
        let others: Vec<_> = others.into_iter().map(|object| object.metadata).collect();
        let actions = actions(&mine, &others, announced);
        let deleted: BTreeSet<&str> = (actions.iter())
            .filter_map(|action| match action {
                Action::Delete(name) => Some(name.as_str()),
                Action::Create(..) | Action::Update(..) => None,
            })
            .collect();
        let kept = mine.iter().filter_map(|object| {
            let (service, _) = about(object.meta(), announced)?;
            Some((service.clone(), object.meta().name.clone()?))
        });
        let known = kept.filter(|(_, name)| !deleted.contains(name.as_str())).collect();
        self.act_all(actions, known).await
    }

    /// Does it; what it creates, if it does.
    async fn act(&self, action: Action) -> Result<Option<(ObjectName, String)>, Trouble> {
        let params = PatchParams::default();
        match action {
            Action::Create(service, fields) => {
                let object = self.object(&service);
                let params_of_new = PostParams::default();
                let created = self.new.create(&params_of_new, &object);
                let created = self.ask("create", created).await?;
                let name = created.metadata.name.unwrap_or_default();
                let patch = Patch::Merge(self.status(&service, fields));
                let patched = self.api.patch_status(&name, &params, &patch);
                self.ask("write the status of", patched).await?;
                Ok(Some((service, name)))
            }
            Action::Update(name, service, fields) => {
                let patch = Patch::Merge(self.status(&service, fields));
                let patched = self.api.patch_status(&name, &params, &patch);
                self.ask("write the status of", patched).await.map(|_| None)
            }
            Action::Delete(name) => {
                let params = DeleteParams::default();
                match timeout(PATIENCE, self.api.delete(&name, &params)).await {
                    // Somebody else was faster.
                    Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
                    Ok(Ok(_)) => Ok(None),
                    Ok(Err(error)) => Err(self.explain("delete", &error)),
                    Err(_) => Err(Self::no_answer()),
                }
            }
        }
    }

    async fn ask<R>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<R>>,
    ) -> Result<R, Trouble> {
        match timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(what, &error)),
            Err(_) => Err(Self::no_answer()),
        }
    }

    fn explain(&self, what: &str, error: &kube::Error) -> Trouble {
        self.health.explain(&format!("{what} {} objects", T::Object::kind(&())), error)
    }

    fn no_answer() -> Trouble {
        format!(
            "the Kubernetes API does not answer what {COMPONENT} asks about {} objects",
            T::Object::kind(&())
        )
    }

    fn object(&self, service: &ObjectName) -> DynamicObject {
        let labels = [
            (NODE, label(&self.node)),
            (SERVICE_NAME, label(&service.name)),
            (SERVICE_NAMESPACE, label(&service.namespace)),
        ];
        DynamicObject {
            types: Some(TypeMeta::resource::<T::Object>()),
            metadata: ObjectMeta {
                generate_name: Some(T::PREFIX.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: json!({}),
        }
    }

    fn status(&self, service: &ObjectName, mut fields: Value) -> Value {
        // All that it may have said before is named: a merge takes nothing away that is left out.
        fields["node"] = json!(self.node);
        fields["serviceName"] = json!(&*service.name);
        fields["serviceNamespace"] = json!(&*service.namespace);
        json!({ "status": fields })
    }
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
fn actions<T: Told>(
    mine: &[T::Object],
    others: &[ObjectMeta],
    announced: &Announced<T>,
) -> Vec<Action> {
    let mut missing: BTreeMap<_, _> = announced.iter().collect();
    let mut actions = Vec::new();
    for object in mine {
        let Some(name) = object.meta().name.clone() else { continue };
        let said = T::said(object);
        let service = said.as_ref().and_then(|said| said.service.as_ref());
        // One that has no status yet is ours by its labels: it was not finished.
        let wanted = about(object.meta(), announced)
            .filter(|(about, _)| service.is_none_or(|service| **service == *about.name))
            .and_then(|(service, _)| missing.remove_entry(service));
        let Some((service, told)) = wanted else {
            actions.push(Action::Delete(name));
            continue;
        };
        let wanted = told.fields();
        if said.is_none_or(|said| said.node.is_none() || said.fields != wanted) {
            actions.push(Action::Update(name, service.clone(), wanted));
        }
    }
    for object in others {
        let (Some(name), Some(labels)) = (&object.name, &object.labels) else { continue };
        let Some((_, told)) = about(object, announced) else { continue };
        if !told.is_by(labels.get(NODE)) {
            actions.push(Action::Delete(name.clone()));
        }
    }
    let new = missing.into_iter();
    actions.extend(new.map(|(service, told)| Action::Create(service.clone(), told.fields())));
    actions
}

/// What is to be written where the objects are as they were left: only of what differs. Objects that are to be
/// deleted are known no more.
fn changes<T: Told>(before: &Announced<T>, now: &Announced<T>, known: &mut Known) -> Vec<Action> {
    let mut actions = Vec::new();
    for service in differences::keys(before, now) {
        actions.extend(match now.get(service) {
            None => known.remove(service).map(Action::Delete),
            Some(told) => Some(match known.get(service) {
                Some(object) => Action::Update(object.clone(), service.clone(), told.fields()),
                None => Action::Create(service.clone(), told.fields()),
            }),
        });
    }
    actions
}

/// The announced Service that an object is about, by its labels.
fn about<'a, T>(
    object: &ObjectMeta,
    announced: &'a Announced<T>,
) -> Option<(&'a ObjectName, &'a Arc<T>)> {
    let labels = object.labels.as_ref()?;
    // Names of Services and namespaces fit into labels as they are.
    let name = ObjectName::new(labels.get(SERVICE_NAMESPACE)?, labels.get(SERVICE_NAME)?);
    announced.get_key_value(&name)
}

#[cfg(test)]
mod tests;

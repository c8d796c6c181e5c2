//! The text of a manifest file to objects.
//!
//! Pure. Each document stands for itself: what is wrong with one is reported with its
//! line, and the others are read all the same.
use super::families::Wanted;
use crate::{
    api::{
        BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec,
        Community, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement,
        L2AdvertisementSpec,
    },
    snapshot::{self, Labels, ObjectName},
    source::{
        convert::object_name,
        index::{Kind, Scope},
    },
    validate::Entry,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;
use std::{fmt::Display, sync::Arc};

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects that Herald uses, in the file's order.
    pub objects: Vec<Object>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What is not wrong, but has no effect although its author may expect one.
    pub remarks: Vec<Fault>,
    /// Objects that are not Herald's business.
    pub ignored: Vec<Fault>,
}

/// Something to say about a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line, from 1. For what is wrong with an object as a whole: where it starts.
    pub line: usize,
    /// What there is to say.
    pub reason: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service, and which families it asks for if its manifest gives no `clusterIP`.
    Service(Arc<snapshot::Service>, Option<Wanted>),
    /// An EndpointSlice.
    EndpointSlice(Arc<snapshot::EndpointSlice>),
    /// A Node.
    Node(ObjectName, snapshot::Node),
    /// A Namespace's labels.
    Namespace(ObjectName, Labels),
    /// A pool.
    Pool(ObjectName, Entry<IPAddressPoolSpec>),
    /// An advertisement.
    L2Advertisement(ObjectName, Entry<L2AdvertisementSpec>),
    /// One by BGP.
    BgpAdvertisement(ObjectName, Entry<BGPAdvertisementSpec>),
    /// A BGP peer.
    BgpPeer(ObjectName, Box<Entry<BGPPeerSpec>>),
    /// Settings of BFD.
    BfdProfile(ObjectName, Entry<BFDProfileSpec>),
    /// Names of communities.
    Community(ObjectName, Entry<CommunitySpec>),
}

impl Object {
    /// Kind and name, which are unique among all files.
    pub fn identity(&self) -> (&'static str, &ObjectName) {
        match self {
            Self::Service(s, _) => (Service::KIND, &s.name),
            Self::EndpointSlice(s) => (EndpointSlice::KIND, &s.name),
            Self::Node(name, _) => (Node::KIND, name),
            Self::Namespace(name, _) => (Namespace::KIND, name),
            Self::Pool(name, _) => (IPAddressPool::KIND, name),
            Self::L2Advertisement(name, _) => (L2Advertisement::KIND, name),
            Self::BgpAdvertisement(name, _) => (BGPAdvertisement::KIND, name),
            Self::BgpPeer(name, _) => (BGPPeer::KIND, name),
            Self::BfdProfile(name, _) => (BFDProfile::KIND, name),
            Self::Community(name, _) => (Community::KIND, name),
        }
    }
}

/// Reads a file's content.
pub fn parse(content: &[u8], scope: &Scope) -> Parsed {
    let mut parsed = Parsed::default();
    match std::str::from_utf8(content) {
        Err(e) => {
            let good = &content[..e.valid_up_to()];
            let line = 1 + good.iter().filter(|b| **b == b'\n').count();
            parsed.faults.push(Fault { line, reason: "is not UTF-8 text".to_owned() });
        }
        Ok(text) => {
            for document in documents(text.trim_start_matches('\u{feff}')) {
                parsed.document(&document, scope);
            }
        }
    }
    parsed
}

/// A YAML document within a file.
struct Document<'a> {
    first_line: usize,
    text: &'a str,
}

impl Document<'_> {
    /// How many lines before the first that says something; `None` if none does.
    fn blank_lines(&self) -> Option<usize> {
        let mut first = self.text.lines().map(|line| line.trim().chars().next());
        first.position(|c| !matches!(c, None | Some('#' | '%')))
    }
}

/// Splits a stream at its document markers, which YAML recognises at the start of a line
/// wherever they stand. What holds only comments and directives is left out.
fn documents(text: &str) -> Vec<Document<'_>> {
    let marker = |line: &str, mark: &str| {
        line.strip_prefix(mark).is_some_and(|rest| !rest.starts_with(|c: char| !c.is_whitespace()))
    };
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let begins = marker(line, "---");
        if begins || marker(line, "...") {
            documents.push(Document { first_line, text: &text[start..offset] });
            (start, first_line) =
                if begins { (offset + 3, number) } else { (offset + line.len(), number + 1) };
        }
        offset += line.len();
    }
    documents.push(Document { first_line, text: &text[start..] });
    documents.retain(|document| document.blank_lines().is_some());
    documents
}

/// What an object is made from: its document, which knows lines, or an item of a List.
enum Input<'a> {
    Text(&'a str),
    Item(Value),
}

/// Where an object stands.
struct Place {
    /// Where the document starts, which the parser counts from.
    first_line: usize,
    /// Where the object starts.
    line: usize,
    /// What is said before the reason: `items[3]: Service web: `.
    prefix: String,
}

impl Place {
    fn fault(&self, reason: impl Display) -> Fault {
        Fault { line: self.line, reason: format!("{}{reason}", self.prefix) }
    }

    fn syntax(&self, error: &serde_yaml_ng::Error) -> Fault {
        let line =
            error.location().map_or(self.line, |l| (self.first_line + l.line()).saturating_sub(1));
        let text = error.to_string();
        // The line given there is the document's, not the file's.
        let reason = text.find(" at line ").map_or(text.as_str(), |end| &text[..end]);
        Fault { line, ..self.fault(reason) }
    }
}

impl Parsed {
    fn document(&mut self, document: &Document<'_>, scope: &Scope) {
        let first_line = document.first_line;
        let line = first_line + document.blank_lines().unwrap_or_default();
        let place = Place { first_line, line, prefix: String::new() };
        match serde_yaml_ng::from_str::<Value>(document.text) {
            Err(e) => self.faults.push(place.syntax(&e)),
            Ok(Value::Null) => {}
            Ok(value) => self.value(value, Some(document.text), place, scope),
        }
    }

    fn value(&mut self, value: Value, text: Option<&str>, mut place: Place, scope: &Scope) {
        let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else {
            self.faults.push(place.fault(if value.is_mapping() {
                "apiVersion and kind must both be given, as text"
            } else {
                "is not a Kubernetes object: those have apiVersion, kind and metadata"
            }));
            return;
        };
        if kind.ends_with("List") && value.get("items").is_some_and(Value::is_sequence) {
            self.list(value, &kind, &version, &place, scope);
            return;
        }
        let name = value.get("metadata").and_then(|m| m.get("name")?.as_str()).unwrap_or("?");
        place.prefix = format!("{}{kind} {name}: ", place.prefix);
        let input = text.map_or_else(|| Input::Item(value), Input::Text);
        let read = Reader { parsed: self, input, version: &version, place: &place, scope };
        match kind.as_str() {
            "Service" => {
                read.object(Wanted::of, |_, service, wanted| Object::Service(service, wanted));
            }
            "EndpointSlice" => {
                read.object(nothing::<EndpointSlice>, |_, slice, ()| Object::EndpointSlice(slice));
            }
            "Node" => read.object(nothing::<Node>, |name, node, ()| Object::Node(name, node)),
            "Namespace" => read
                .object(nothing::<Namespace>, |name, labels, ()| Object::Namespace(name, labels)),
            "IPAddressPool" => {
                read.object(nothing::<IPAddressPool>, |name, pool, ()| Object::Pool(name, pool));
            }
            "L2Advertisement" => read.object(nothing::<L2Advertisement>, |name, l2, ()| {
                Object::L2Advertisement(name, l2)
            }),
            "BGPAdvertisement" => read.object(nothing::<BGPAdvertisement>, |name, bgp, ()| {
                Object::BgpAdvertisement(name, bgp)
            }),
            "BGPPeer" => {
                read.object(nothing::<BGPPeer>, |name, peer, ()| {
                    Object::BgpPeer(name, Box::new(peer))
                });
            }
            "BFDProfile" => read.object(nothing::<BFDProfile>, |name, profile, ()| {
                Object::BfdProfile(name, profile)
            }),
            "Community" => {
                read.object(nothing::<Community>, |name, names, ()| Object::Community(name, names));
            }
            _ if version.starts_with(METALLB) => {
                self.remarks.push(place.fault("this kind has no effect"));
            }
            _ => self.ignored.push(place.fault(format!("{version} {kind} is of no use here"))),
        }
    }

    fn list(&mut self, mut value: Value, kind: &str, version: &str, place: &Place, scope: &Scope) {
        let Some(Value::Sequence(items)) = value.get_mut("items").map(std::mem::take) else {
            return;
        };
        for (i, mut item) in items.into_iter().enumerate() {
            // Items of a typed list need not say again what they are.
            if let (Value::Mapping(item), Some(kind)) = (&mut item, kind.strip_suffix("List"))
                && !kind.is_empty()
            {
                item.entry("kind".into()).or_insert(kind.into());
                item.entry("apiVersion".into()).or_insert(version.into());
            }
            let prefix = format!("{}items[{i}]: ", place.prefix);
            self.value(item, None, Place { prefix, ..*place }, scope);
        }
    }
}

const METALLB: &str = "metallb.io/";

/// Nothing of an object is needed beside what the snapshot keeps.
fn nothing<K>(_: &K) {}

/// One object about to be read.
struct Reader<'a> {
    parsed: &'a mut Parsed,
    input: Input<'a>,
    version: &'a str,
    place: &'a Place,
    scope: &'a Scope,
}

impl Reader<'_> {
    fn object<K, Extra>(
        self,
        look: impl FnOnce(&K) -> Extra,
        make: impl FnOnce(ObjectName, K::Reduced, Extra) -> Object,
    ) where
        K: Kind + Resource<DynamicType = ()> + DeserializeOwned,
    {
        let Self { parsed, input, version, place, scope } = self;
        let known = K::api_version(&());
        if version != known {
            let reason = format!("apiVersion {version} is unknown for this kind; {known} is meant");
            parsed.faults.push(place.fault(reason));
            return;
        }
        let object = match input {
            Input::Text(text) => serde_yaml_ng::from_str::<K>(text),
            Input::Item(value) => serde_yaml_ng::from_value::<K>(value),
        };
        let mut object = match object {
            Ok(object) => object,
            Err(e) => return parsed.faults.push(place.syntax(&e)),
        };
        // What a dump of a cluster's objects has of these means nothing here.
        let meta = object.meta_mut();
        (meta.uid, meta.resource_version) = (None, None);
        let namespace = &mut meta.namespace;
        match K::KIND {
            "Node" | "Namespace" => *namespace = None,
            "Service" | "EndpointSlice" => {
                namespace.get_or_insert_with(|| "default".to_owned());
            }
            _ => {
                namespace.get_or_insert_with(|| scope.namespace.clone());
            }
        }
        let extra = look(&object);
        let name = object_name(object.meta());
        match name.and_then(|name| Ok((name, object.reduce(scope)?))) {
            Err(e) => parsed.faults.push(place.fault(e)),
            Ok((name, Some(reduced))) => parsed.objects.push(make(name, reduced, extra)),
            Ok((name, None)) if version.starts_with(METALLB) => {
                parsed.remarks.push(place.fault(format!(
                    "has no effect in namespace {}: only those in {} are read (--namespace)",
                    name.namespace, scope.namespace
                )));
            }
            Ok((_, None)) => parsed.ignored.push(place.fault("is of another class")),
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;

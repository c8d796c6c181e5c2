//! The name of an object.
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Deref, sync::Arc};

/// Namespace and name. A copy is another reference to the same text, as long as a pointer: a
/// Service's name stands in a dozen places.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectName(Arc<Parts>);

/// What an [`ObjectName`] is made of.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Namespace; empty for kinds without one.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Box<str>,
}

impl ObjectName {
    /// `namespace` and `name` as one.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self(Arc::new(Parts { namespace: namespace.as_ref().into(), name: name.as_ref().into() }))
    }

    /// The same, with the other's copy of the namespace if it is the same.
    #[must_use]
    pub fn sharing_namespace(self, other: Option<&Self>) -> Self {
        match other {
            Some(other) if other.namespace == self.namespace => other.beside(&self.name),
            _ => self,
        }
    }

    /// Another object of the same namespace.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self(Arc::new(Parts { namespace: Arc::clone(&self.namespace), name: name.into() }))
    }
}

impl Deref for ObjectName {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

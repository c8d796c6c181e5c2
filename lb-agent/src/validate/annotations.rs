//! Annotations of Herald's own, for what MetalLB's kinds have no field.
use super::{Entry, Fault};

/// On a BGPPeer: `required` has packets dropped that come from further away than one hop.
pub(crate) const TTL_SECURITY: &str = "herald-lb.io/ttl-security";
/// On a BGPAdvertisement: `endpoints` has each node tell how many endpoints it has.
pub(crate) const LINK_BANDWIDTH: &str = "herald-lb.io/link-bandwidth";

/// What is wrong with an annotation that has one value only.
pub(super) fn one_value<S>(entry: &Entry<S>, name: &str, value: &str) -> Option<Fault> {
    let given = entry.annotations.get(name).filter(|given| *given != value)?;
    let field = format!("metadata.annotations[{name}]");
    let remedy = format!("write {value:?}, or remove it");
    Some(Fault::new(field, given, "is not known", remedy))
}

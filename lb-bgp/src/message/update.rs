//! UPDATE: routes come and go (RFC 4271 section 4.3), read as RFC 7606 asks.
use super::{Kind, LONGEST, Notification, code, framed};
use crate::{
    attribute::{Attribute, Fault, MpReach, MpUnreach, Severity, Source, kind, read_list},
    family::Family,
    prefix,
    wire::{Reader, two_octets},
};
use bytes::Bytes;
use ipnet::IpNet;

/// An UPDATE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 routes that can be reached no longer.
    pub withdrawn: Vec<IpNet>,
    /// What is to be said of the routes, and all routes of other families.
    pub attributes: Vec<Attribute>,
    /// IPv4 routes that can be reached.
    pub reachable: Vec<IpNet>,
}

/// It takes more octets than a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// An UPDATE that ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The lengths of its parts do not add up.
    #[error("the parts of the peer's UPDATE do not add up")]
    Lengths,
    /// Its lists of IPv4 routes do not add up.
    #[error("the routes of the peer's UPDATE do not add up")]
    Routes,
    /// One of its attributes.
    #[error("the peer's UPDATE is wrong in a way that nothing mends: {0}")]
    Attribute(Fault),
}

impl UpdateError {
    /// What to tell the peer (RFC 4271 section 6.3).
    pub fn notification(&self) -> Notification {
        let subcode = match self {
            Self::Lengths => crate::attribute::MALFORMED_LIST,
            Self::Routes => 10,
            Self::Attribute(fault) => fault.subcode,
        };
        Notification::new(code::UPDATE, subcode, &[])
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The UPDATE, without the attributes that are wrong.
    pub update: Update,
    /// What is wrong, but does not end the session.
    pub faults: Vec<Fault>,
}

impl Decoded {
    /// Whether all of its routes count as withdrawn (RFC 7606 section 2).
    pub fn withdraws_all(&self) -> bool {
        self.faults.iter().any(|fault| fault.severity >= Severity::TreatAsWithdraw)
    }

    /// If it only says that all of a family has been said (RFC 4724 section 2): which.
    pub fn end_of_rib(&self) -> Option<Family> {
        let Update { withdrawn, attributes, reachable } = &self.update;
        if !(withdrawn.is_empty() && reachable.is_empty() && self.faults.is_empty()) {
            return None;
        }
        match &attributes[..] {
            [] => Some(Family::Ipv4Unicast),
            [Attribute::MpUnreach(MpUnreach { family, prefixes })] if prefixes.is_empty() => {
                Some(*family)
            }
            _ => None,
        }
    }

    /// The routes that it announces, of all families.
    pub fn announced(&self) -> impl Iterator<Item = &IpNet> {
        let kept = !self.withdraws_all();
        self.every_reachable().filter(move |_| kept)
    }

    /// The routes that it withdraws, or that count as withdrawn.
    pub fn withdrawn(&self) -> impl Iterator<Item = &IpNet> {
        let all = self.withdraws_all();
        let multiprotocol = self.update.attributes.iter().filter_map(|one| match one {
            Attribute::MpUnreach(unreach) => Some(&unreach.prefixes),
            _ => None,
        });
        let withdrawn = self.update.withdrawn.iter().chain(multiprotocol.flatten());
        withdrawn.chain(self.every_reachable().filter(move |_| all))
    }

    fn every_reachable(&self) -> impl Iterator<Item = &IpNet> {
        self.update.reachable.iter().chain(self.update.reached().flat_map(|reach| &reach.prefixes))
    }
}

impl Update {
    /// The message. `four_octets` is how AS numbers are written in this session.
    ///
    /// # Errors
    ///
    /// [`TooLong`].
    pub(crate) fn encode(&self, four_octets: bool) -> Result<Bytes, TooLong> {
        let mut attributes = Vec::new();
        self.attributes.iter().for_each(|one| one.encode(four_octets, &mut attributes));
        let mut withdrawn = Vec::new();
        self.withdrawn.iter().for_each(|one| prefix::encode(one, &mut withdrawn));
        let reachable: usize = self.reachable.iter().map(prefix::length).sum();
        if EMPTY + withdrawn.len() + attributes.len() + reachable > LONGEST {
            return Err(TooLong);
        }
        let mut body = Vec::with_capacity(4 + withdrawn.len() + attributes.len() + reachable);
        body.extend_from_slice(&two_octets(withdrawn.len()).to_be_bytes());
        body.extend_from_slice(&withdrawn);
        body.extend_from_slice(&two_octets(attributes.len()).to_be_bytes());
        body.extend_from_slice(&attributes);
        self.reachable.iter().for_each(|one| prefix::encode(one, &mut body));
        Ok(framed(Kind::Update, &body))
    }

    /// Reads the body of an UPDATE from a peer of the same AS (`internal`) or another.
    ///
    /// # Errors
    ///
    /// What leaves no way to go on: RFC 7606 sections 3 to 5. Milder faults are in what is
    /// returned.
    pub fn decode(body: &[u8], four_octets: bool, internal: bool) -> Result<Decoded, UpdateError> {
        let mut reader = Reader::new(body);
        let mut part = || {
            let length = reader.u16()?;
            reader.take(length.into())
        };
        let withdrawn = part().ok_or(UpdateError::Lengths)?;
        let attributes = part().ok_or(UpdateError::Lengths)?;
        let list = |bytes| prefix::decode_list(Family::Ipv4Unicast, bytes);
        let withdrawn = list(withdrawn).ok_or(UpdateError::Routes)?;
        let reachable = list(reader.rest()).ok_or(UpdateError::Routes)?;
        let source = Source { four_octets, internal };
        let (attributes, mut faults) = read_list(attributes, source);
        let reset = faults.iter().find(|fault| fault.severity == Severity::SessionReset);
        if let Some(reset) = reset {
            return Err(UpdateError::Attribute(reset.clone()));
        }
        let update = Self { withdrawn, attributes, reachable };
        faults.extend(
            update
                .missing(internal)
                .filter(|missing| {
                    // What was there and wrong is not missed as well.
                    !faults.iter().any(|fault| fault.kind == missing.kind)
                })
                .collect::<Vec<_>>(),
        );
        Ok(Decoded { update, faults })
    }

    fn reached(&self) -> impl Iterator<Item = &MpReach> {
        self.attributes.iter().filter_map(|one| match one {
            Attribute::MpReach(reach) => Some(reach),
            _ => None,
        })
    }

    /// Attributes that its routes must have and have not (RFC 7606 section 3 (d)).
    fn missing(&self, internal: bool) -> impl Iterator<Item = Fault> {
        let has = |kind| self.attributes.iter().any(|one| one.kind() == kind);
        let any = self.reached().next().is_some() || !self.reachable.is_empty();
        let wanted = [
            (kind::ORIGIN, any),
            (kind::AS_PATH, any),
            // RFC 4760 section 3: routes in MP_REACH_NLRI have their next hop there.
            (kind::NEXT_HOP, !self.reachable.is_empty()),
            (kind::LOCAL_PREF, any && internal),
        ];
        let missing = wanted.map(|(kind, wanted)| (kind, wanted && !has(kind)));
        missing.into_iter().filter(|(_, missing)| *missing).map(|(kind, _)| Fault {
            severity: Severity::TreatAsWithdraw,
            kind,
            what: "it is missing",
            subcode: 3,
        })
    }
}

/// Octets of an UPDATE without anything in it.
pub(crate) const EMPTY: usize = super::HEADER + 4;

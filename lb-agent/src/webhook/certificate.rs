//! The webhook's certificates: made by the agents, kept in a Secret, replaced in time.
//!
//! Each serving certificate has a CA of its own, whose key is forgotten at once: nothing else can
//! ever be signed by it, and nobody can steal it. While a certificate is replaced both CAs are
//! trusted, since agents and API servers learn of the new one at different times.
use k8s_openapi::{ByteString, jiff::Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The Service that API servers reach the webhook by.
pub(super) const SERVICE: &str = "metallb-webhook-service";

/// For how long a certificate is good, and after how long it is replaced.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const REPLACED_AFTER: Duration = Duration::from_secs(240 * 24 * 3600);
/// Clocks may differ by that much.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The annotation of the Secret that says when the certificate was made.
pub(super) const MADE_AT: &str = "herald-lb.io/certificate-made-at";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What does not make a certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// It could not be made.
    #[error("no certificate can be made: {0}")]
    Making(#[from] rcgen::Error),
    /// What the Secret holds cannot be used.
    #[error("the Secret's {field} cannot be used: {reason}")]
    Unusable {
        /// The entry of the Secret.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A serving certificate, its key, and who vouches for it, all as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bundle {
    /// The CA's certificate, and behind it that of the CA before.
    pub(super) ca: String,
    /// The serving certificate.
    pub(super) certificate: String,
    /// Its key.
    key: String,
    /// When it was made.
    pub(super) made_at: Timestamp,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("made_at", &self.made_at).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Makes a new one for the webhook's Service in a namespace, which replaces `before`.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub(super) fn make(
        namespace: &str,
        now: Timestamp,
        before: Option<&Self>,
    ) -> Result<Self, CertificateError> {
        let ca_key = KeyPair::generate()?;
        let mut ca = params(Vec::new(), "Herald webhook CA", now)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_certificate = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut leaf = params(names(namespace), SERVICE, now)?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        let before = before.map(Self::own_ca).unwrap_or_default();
        Ok(Self {
            ca: ca_certificate + before,
            certificate,
            key: key.serialize_pem(),
            made_at: now,
        })
    }

    /// Without the CA before.
    fn own_ca(&self) -> &str {
        const END: &str = "-----END CERTIFICATE-----";
        let end = self.ca.find(END).map(|at| at + END.len());
        let end = end.map(|at| self.ca[at..].find("-----BEGIN").map_or(self.ca.len(), |n| at + n));
        end.map_or("", |end| &self.ca[..end])
    }

    /// Whether it is time for a new one; also where it seems to come from the future.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.made_at);
        age.is_negative() && age.unsigned_abs() > BACKDATED
            || !age.is_negative() && age.unsigned_abs() >= REPLACED_AFTER
    }

    /// What a Secret holds; `None` where it holds none of Herald's making.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        data: &BTreeMap<String, ByteString>,
    ) -> Option<Self> {
        let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
        Some(Self {
            ca: text(CA)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            made_at: annotations.get(MADE_AT)?.parse().ok()?,
        })
    }

    /// The entries of the Secret.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        [(CA, &self.ca), (CERTIFICATE, &self.certificate), (KEY, &self.key)]
            .into_iter()
            .map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())))
            .collect()
    }

    /// What TLS serves with.
    ///
    /// # Errors
    /// The certificate or the key is not what it should be, or they do not belong together.
    pub(super) fn certified_key(&self) -> Result<Arc<CertifiedKey>, CertificateError> {
        let unusable = |field, reason: String| CertificateError::Unusable { field, reason };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| unusable(CERTIFICATE, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|e| unusable(KEY, e.to_string()))?;
        let key = any_supported_type(&key).map_err(|e| unusable(KEY, e.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|e| unusable(KEY, e.to_string()))?;
        Ok(Arc::new(certified))
    }
}

/// The names that API servers may know the Service by.
fn names(namespace: &str) -> Vec<String> {
    ["", ".svc", ".svc.cluster.local"]
        .iter()
        .map(|suffix| format!("{SERVICE}.{namespace}{suffix}"))
        .chain([SERVICE.to_owned()])
        .collect()
}

fn params(
    names: Vec<String>,
    common_name: &str,
    now: Timestamp,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Two CAs of one name would be mistaken for each other.
    let made = now.as_second().to_string();
    params.distinguished_name.push(DnType::OrganizationalUnitName, made);
    let (from, to) = (date(now, -1, BACKDATED), date(now, 1, LIFETIME));
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
    Ok(params)
}

/// The day that is that far from now (UTC): certificates are good from midnight to midnight.
fn date(now: Timestamp, sign: i32, distance: Duration) -> (i32, u8, u8) {
    let distance = k8s_openapi::jiff::SignedDuration::try_from(distance).unwrap_or_default() * sign;
    let then = now.checked_add(distance).unwrap_or(now);
    let date = then.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).date();
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    (date.year().into(), part(date.month()), part(date.day()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        crypto::ring,
        pki_types::{ServerName, UnixTime},
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Whether one who trusts `ca` believes that `bundle` is the webhook's.
    fn trusted(bundle: &Bundle, ca: &str, name: &str, when: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(der.unwrap()).unwrap();
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let key = bundle.certified_key().unwrap();
        let seconds = u64::try_from(when.as_second()).unwrap();
        verifier
            .build()
            .unwrap()
            .verify_server_cert(
                &key.cert[0],
                &[],
                &ServerName::try_from(name.to_owned()).unwrap(),
                &[],
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            )
            .is_ok()
    }

    #[test]
    fn an_api_server_believes_it_for_the_service_s_name_only_and_not_for_ever() {
        let now = at("2026-03-01T12:00:00Z");
        let bundle = Bundle::make("metallb-system", now, None).unwrap();
        let name = "metallb-webhook-service.metallb-system.svc";
        assert!(trusted(&bundle, &bundle.ca, name, now));
        assert!(trusted(&bundle, &bundle.ca, name, at("2027-02-27T00:00:00Z")));
        assert!(!trusted(&bundle, &bundle.ca, name, at("2027-03-03T00:00:00Z")));
        assert!(!trusted(&bundle, &bundle.ca, "other.metallb-system.svc", now));
    }

    #[test]
    fn while_it_is_replaced_old_and_new_are_both_believed() {
        let now = at("2026-03-01T12:00:00Z");
        let first = Bundle::make("m", now, None).unwrap();
        let later = at("2026-11-01T12:00:00Z");
        assert!(!first.is_due(at("2026-10-01T00:00:00Z")) && first.is_due(later));
        let second = Bundle::make("m", later, Some(&first)).unwrap();
        let name = "metallb-webhook-service.m.svc";
        assert!(trusted(&first, &second.ca, name, later));
        assert!(trusted(&second, &second.ca, name, later));
        assert!(!trusted(&second, &first.ca, name, later));
        let third = Bundle::make("m", at("2027-07-01T12:00:00Z"), Some(&second)).unwrap();
        assert_eq!(third.ca.matches("BEGIN").count(), 2, "one generation back, no more");
        assert!(!trusted(&first, &third.ca, name, later));
    }

    #[test]
    fn a_secret_gives_back_what_was_put_in_and_nothing_of_others() {
        let bundle = Bundle::make("m", at("2026-03-01T12:00:00Z"), None).unwrap();
        let annotations = BTreeMap::from([(MADE_AT.to_owned(), bundle.made_at.to_string())]);
        assert_eq!(Bundle::read(&annotations, &bundle.data()), Some(bundle.clone()));
        assert_eq!(Bundle::read(&BTreeMap::new(), &bundle.data()), None, "MetalLB's own");
        assert_eq!(Bundle::read(&annotations, &BTreeMap::new()), None, "as it is shipped");
        assert!(!format!("{bundle:?}").contains("PRIVATE"));
        let mut broken = bundle.clone();
        broken.key = Bundle::make("m", bundle.made_at, None).unwrap().key;
        assert!(broken.certified_key().is_err(), "another's key");
        broken.key = "nonsense".to_owned();
        assert!(broken.certified_key().is_err());
    }
}

//! The cluster's own certificate authority: who is a member is who shows a certificate that it issued.
//!
//! The authority is a certificate and its key (ECDSA P-256), made when a cluster begins and kept in the cluster's metadata, so that
//! whoever leads can issue. A node makes its own key, which never leaves it, and asks with a PKCS#10 request; of that only the
//! public key counts. What a certificate says is for the issuer to say: the DNS name of the node ([`node_name`]), and that the node
//! may dial and be dialled. Certificates end after 30 days and are renewed from two thirds of their life on, so none is revoked.
//!
//! Everything is made from DER when it is needed, and nothing is kept here over a crash.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SerialNumber,
};
use ring::digest;
use thiserror::Error;

use crate::runtime::peers::Secret;
use crate::types::{ClusterId, NodeId, Timestamp};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Certificates are valid from so long before they are made: clocks of nodes differ.
const BACKDATED_MS: i64 = DAY_MS;
const AUTHORITY_LIFE_MS: i64 = 20 * 365 * DAY_MS;
const NODE_LIFE_MS: i64 = 30 * DAY_MS;
/// The last second that a certificate can name.
const LATEST_MS: u64 = 253_402_300_799_000;
/// A request of ours has about 200 bytes.
const REQUEST_LIMIT_BYTES: usize = 4096;
/// A point of P-256, uncompressed.
const PUBLIC_KEY_BYTES: usize = 65;
/// What follows the cluster in the name of a node. The name is never looked up; `internal` is reserved for private use.
const DOMAIN: &str = "alluvium.internal";

/// Why a certificate can't be issued or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// The authority itself is damaged.
    #[error("the cluster's certificate authority can't be used: {reason}")]
    Authority {
        /// What is wrong with it.
        reason: String,
    },
    /// What a node asks for can't be issued.
    #[error("certificate request can't be granted: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate is not one.
    #[error("certificate can't be read: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// A private key can't be made or used.
    #[error("private key can't be made or used: {reason}")]
    Key {
        /// Why.
        reason: String,
    },
}

/// The authority of a cluster. Whoever has it can make members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, in DER; not secret.
    pub certificate: Vec<u8>,
    /// Its private key: PKCS#8, in DER.
    pub key: Secret<Vec<u8>>,
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// [`AuthorityError::Key`] when the system gives no random numbers.
    pub fn new(cluster_id: ClusterId, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad_key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(format!("alluvium cluster {cluster_id}"));
        // It issues for nodes alone, and for no other authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFE_MS);
        let certificate = params.self_signed(&key).map_err(bad_authority)?;
        Ok(Self { certificate: certificate.der().to_vec(), key: Secret::new(key.serialize_der()) })
    }

    /// What join tokens name it by.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Issues the certificate of a node, in DER, for the public key of a PKCS#10 request. All else that the request asks for is
    /// ignored. That the node may have this number is for the caller to know. `serial` are random bytes.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] for a request that can't be read, is not signed by its own key, or has a key other than ECDSA
    /// P-256; [`AuthorityError::Authority`] when the authority is damaged.
    pub fn issue(
        &self,
        cluster_id: ClusterId,
        node_id: NodeId,
        request: &[u8],
        mut serial: [u8; 16],
        now: Timestamp,
    ) -> Result<Vec<u8>, AuthorityError> {
        let refused = |reason: String| AuthorityError::Request { reason };
        if node_id.get() < 0 {
            return Err(refused(format!("a node's number is at least 0 node_id={node_id}")));
        }
        if request.len() > REQUEST_LIMIT_BYTES {
            let length = request.len();
            return Err(refused(format!("it is too long length_bytes={length} limit_bytes={REQUEST_LIMIT_BYTES}")));
        }
        // Verifies the request's own signature: whoever asks has the private key.
        let request = CertificateSigningRequestParams::from_der(&request.into())
            .map_err(|error| refused(format!("it is no PKCS#10 request that its own key has signed ({error})")))?;
        let key = request.public_key;
        // rcgen takes the kind of the key from the signature, so the length is looked at too.
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != PUBLIC_KEY_BYTES {
            return Err(refused("its key is not ECDSA P-256".to_owned()));
        }
        let mut params = CertificateParams::new(vec![node_name(cluster_id, node_id)]).map_err(bad_authority)?;
        params.distinguished_name = common_name(format!("alluvium node {node_id}"));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        // A serial number is positive and has no leading zeros.
        serial[0] = (serial[0] & 0x7f) | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(&mut params, now, NODE_LIFE_MS);
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(bad_authority)?;
        Ok(certificate.der().to_vec())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let damaged = |reason: String| AuthorityError::Authority { reason };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&self.key.expose().as_slice().into(), &PKCS_ECDSA_P256_SHA256)
            .map_err(bad_authority)?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&self.certificate).map_err(|error| damaged(error.to_string()))?;
        if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(damaged("its key is not that of its certificate".to_owned()));
        }
        Issuer::from_ca_cert_der(&self.certificate.as_slice().into(), key).map_err(bad_authority)
    }
}

/// The private key of a node (ECDSA P-256). It is made on the node and stays there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKey {
    pkcs8: Secret<Vec<u8>>,
}

impl NodeKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`AuthorityError::Key`] when the system gives no random numbers.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad_key)?;
        Ok(Self { pkcs8: Secret::new(key.serialize_der()) })
    }

    /// Takes a key that was made by [`Self::generate`].
    ///
    /// # Errors
    /// [`AuthorityError::Key`] if it is none.
    pub fn from_pkcs8(der: Vec<u8>) -> Result<Self, AuthorityError> {
        let key = Self { pkcs8: Secret::new(der) };
        key.pair()?;
        Ok(key)
    }

    /// The key in DER, as PKCS#8.
    pub const fn pkcs8(&self) -> &Secret<Vec<u8>> {
        &self.pkcs8
    }

    /// Asks for a certificate: a PKCS#10 request in DER, signed by this key. It names nobody, as the issuer does that.
    ///
    /// # Errors
    /// [`AuthorityError::Key`] when the key can't sign.
    pub fn certificate_request(&self) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("alluvium node".to_owned());
        let request = params.serialize_request(&self.pair()?).map_err(bad_key)?;
        Ok(request.der().to_vec())
    }

    fn pair(&self) -> Result<KeyPair, AuthorityError> {
        let pkcs8 = self.pkcs8.expose().as_slice();
        KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ECDSA_P256_SHA256).map_err(bad_key)
    }
}

/// The DNS name in the certificate of a node. It holds the cluster, so that no certificate is good in two.
pub fn node_name(cluster_id: ClusterId, node_id: NodeId) -> String {
    format!("node-{node_id}.{cluster_id}.{DOMAIN}")
}

/// The node that a DNS name stands for, if it is one of this cluster.
pub fn node_of(name: &str, cluster_id: ClusterId) -> Option<NodeId> {
    let number = name.strip_prefix("node-")?.split('.').next()?;
    let node_id = NodeId(number.parse().ok().filter(|number| *number >= 0)?);
    // A number can be written in several ways, and only one of them is a name.
    (node_name(cluster_id, node_id) == name).then_some(node_id)
}

/// The cluster that a DNS name stands for, if it is the name of a node.
pub fn cluster_of(name: &str) -> Option<ClusterId> {
    let cluster_id = name.split('.').nth(1)?.parse().ok()?;
    node_of(name, cluster_id).map(|_| cluster_id)
}

/// The SHA-256 of a certificate in DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Until when a certificate is valid.
///
/// # Errors
/// [`AuthorityError::Certificate`] if it is none.
pub fn valid_until(certificate: &[u8]) -> Result<Timestamp, AuthorityError> {
    validity(certificate).map(|(_, until)| until)
}

/// Whether a certificate should be renewed: two thirds of its life are over, or it can't be read.
pub fn renewal_due(certificate: &[u8], now: Timestamp) -> bool {
    let Ok((from, until)) = validity(certificate) else { return true };
    let life_ms = until.get().saturating_sub(from.get());
    now.get() >= from.get().saturating_add(life_ms / 3 * 2)
}

fn validity(certificate: &[u8]) -> Result<(Timestamp, Timestamp), AuthorityError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| AuthorityError::Certificate { reason: error.to_string() })?;
    let validity = certificate.validity();
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
    Ok((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life_ms: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0).min(LATEST_MS));
    params.not_before = epoch + since_epoch(now.get().saturating_sub(BACKDATED_MS));
    params.not_after = epoch + since_epoch(now.get().saturating_add(life_ms));
}

fn common_name(name: String) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn bad_authority(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Authority { reason: error.to_string() }
}

fn bad_key(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Key { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P384_SHA384, SanType};
    use rustls::pki_types::{CertificateDer, UnixTime};
    use webpki::{EndEntityCert, KeyUsage};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const NODE: NodeId = NodeId(3);

    fn cluster() -> ClusterId {
        ClusterId::from_entropy([7; 16])
    }

    fn later(days: i64) -> Timestamp {
        Timestamp(NOW.get() + days * DAY_MS)
    }

    fn issued(authority: &Authority) -> Vec<u8> {
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        authority.issue(cluster(), NODE, &request, [0xff; 16], NOW).unwrap()
    }

    /// The names of a certificate, if it may dial and be dialled.
    fn verified(certificate: &[u8], authority: &[u8], now: Timestamp) -> Result<Vec<String>, webpki::Error> {
        let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
        let anchors = [webpki::anchor_from_trusted_cert(&authority)?];
        let certificate = EndEntityCert::try_from(&certificate)?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.get().try_into().unwrap()));
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            certificate.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None)?;
        }
        Ok(certificate.valid_dns_names().map(str::to_owned).collect())
    }

    #[test]
    fn an_issued_certificate_names_its_node_and_may_dial_and_be_dialled_for_thirty_days() {
        let authority = Authority::new(cluster(), NOW).unwrap();
        let certificate = issued(&authority);
        let names = vec![format!("node-3.{}.alluvium.internal", cluster())];
        for now in [Timestamp(later(-1).get() + 1000), NOW, Timestamp(later(30).get() - 1000)] {
            assert_eq!(verified(&certificate, &authority.certificate, now), Ok(names.clone()), "{now}");
        }
        for now in [later(-2), later(31)] {
            assert!(verified(&certificate, &authority.certificate, now).is_err(), "{now}");
        }
        assert_eq!(valid_until(&certificate), Ok(later(30)));
        assert_eq!(valid_until(&authority.certificate), Ok(later(20 * 365)));
    }

    #[test]
    fn a_certificate_of_another_authority_is_not_trusted_even_if_that_has_the_same_name() {
        let (ours, other) = (Authority::new(cluster(), NOW).unwrap(), Authority::new(cluster(), NOW).unwrap());
        assert!(verified(&issued(&other), &ours.certificate, NOW).is_err());
        assert_ne!(ours.fingerprint(), other.fingerprint());
    }

    #[test]
    fn what_a_request_asks_for_is_ignored_but_its_key() {
        let authority = Authority::new(cluster(), NOW).unwrap();
        let mut params = CertificateParams::new(vec![node_name(cluster(), NodeId(1))]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names.push(SanType::DnsName("example.com".try_into().unwrap()));
        params.distinguished_name = common_name("somebody".to_owned());
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let certificate = authority.issue(cluster(), NODE, request.der(), [1; 16], NOW).unwrap();
        assert_eq!(verified(&certificate, &authority.certificate, NOW), Ok(vec![node_name(cluster(), NODE)]));
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        assert!(!certificate.is_ca());
        assert!(certificate.subject().to_string().contains("alluvium node 3"));
    }

    #[test]
    fn a_request_with_a_byte_changed_that_it_signs_is_refused() {
        let authority = Authority::new(cluster(), NOW).unwrap();
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
        let signed = parsed.certification_request_info.raw;
        let start = (0..request.len()).find(|at| request[*at..].starts_with(signed)).unwrap();
        for at in start..start + signed.len() {
            let mut damaged = request.clone();
            damaged[at] ^= 1;
            let refused = authority.issue(cluster(), NODE, &damaged, [1; 16], NOW);
            assert!(matches!(refused, Err(AuthorityError::Request { .. })), "byte {at}: {refused:?}");
        }
        for bytes in [&[] as &[u8], &request[..40], &[0; REQUEST_LIMIT_BYTES + 1]] {
            assert!(authority.issue(cluster(), NODE, bytes, [1; 16], NOW).is_err());
        }
    }

    #[test]
    fn a_request_with_another_kind_of_key_is_refused() {
        let authority = Authority::new(cluster(), NOW).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let refused = authority.issue(cluster(), NODE, request.der(), [1; 16], NOW).unwrap_err();
        assert!(refused.to_string().contains("P-256"), "{refused}");
    }

    #[test]
    fn an_authority_with_the_key_of_another_issues_nothing() {
        let (mut authority, other) = (Authority::new(cluster(), NOW).unwrap(), Authority::new(cluster(), NOW).unwrap());
        authority.key = other.key;
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let refused = authority.issue(cluster(), NODE, &request, [1; 16], NOW);
        assert!(matches!(refused, Err(AuthorityError::Authority { .. })), "{refused:?}");
    }

    #[test]
    fn a_certificate_is_renewed_from_two_thirds_of_its_life_on() {
        let certificate = issued(&Authority::new(cluster(), NOW).unwrap());
        // 31 days from the day before.
        assert!(!renewal_due(&certificate, later(19)));
        assert!(renewal_due(&certificate, later(20)));
        assert!(renewal_due(&certificate[1..], NOW), "what can't be read has to be replaced");
    }

    #[test]
    fn only_the_one_name_of_a_node_of_this_cluster_stands_for_it() {
        let name = node_name(cluster(), NODE);
        assert_eq!(node_of(&name, cluster()), Some(NODE));
        assert_eq!(node_of(&name, ClusterId::from_entropy([8; 16])), None);
        let hex = cluster();
        for other in ["", "node-", "node-3", "example.com"] {
            assert_eq!(node_of(other, cluster()), None, "{other}");
        }
        for number in ["+3", "03", "-3", " 3", "2147483648"] {
            assert_eq!(node_of(&format!("node-{number}.{hex}.alluvium.internal"), cluster()), None, "{number}");
        }
        assert_eq!(node_of(&format!("{name}.example.com"), cluster()), None);
    }

    #[test]
    fn a_key_reads_back_and_no_secret_is_printed() {
        let key = NodeKey::generate().unwrap();
        assert_eq!(NodeKey::from_pkcs8(key.pkcs8().expose().clone()), Ok(key.clone()));
        assert!(NodeKey::from_pkcs8(vec![1, 2, 3]).is_err());
        assert_eq!(format!("{key:?}"), "NodeKey { pkcs8: <redacted> }");
        assert!(format!("{:?}", Authority::new(cluster(), NOW).unwrap()).contains("key: <redacted>"));
    }

    #[test]
    fn no_clock_is_so_wrong_that_a_certificate_ends_in_a_panic() {
        for now in [Timestamp::NONE, Timestamp(i64::MIN), Timestamp(i64::MAX)] {
            let authority = Authority::new(cluster(), now).unwrap();
            assert!(valid_until(&authority.certificate).is_ok(), "{now}");
        }
    }
}

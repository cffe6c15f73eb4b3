//! TLS 1.3 for the peer endpoint: what rustls is told of certificates. Only `quic.rs` calls it; nothing is kept.
//!
//! No session is ever resumed: every handshake looks at both certificates, so that a new identity counts from the next
//! connection on.

use std::io;
use std::sync::Arc;

use ring::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, version};
use webpki::EndEntityCert;

use crate::runtime::peers::{PeerIdentity, PeerProtocol};

const MEMBER: &[u8] = b"alluvium-peer/1";
const JOIN: &[u8] = b"alluvium-join/1";

/// The protocol that a handshake agreed on.
pub(super) fn protocol(name: &[u8]) -> Option<PeerProtocol> {
    match name {
        MEMBER => Some(PeerProtocol::Member),
        JOIN => Some(PeerProtocol::Join),
        _ => None,
    }
}

/// The DNS names of the first certificate of a chain, which the handshake has verified; none without a chain.
pub(super) fn names(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let Some(first) = chain.first() else { return Vec::new() };
    let Ok(first) = EndEntityCert::try_from(first) else { return Vec::new() };
    first.valid_dns_names().map(str::to_owned).collect()
}

/// For who is dialled: members show a certificate, and those who join have none. That a member has shown one is for the
/// caller to check, as TLS asks for certificates before it is settled who is which.
pub(super) fn listening(identity: &PeerIdentity) -> io::Result<ServerConfig> {
    let (chain, key) = shown(identity)?;
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable("authorities", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|error| unusable("certificate or private key", &error))?;
    config.alpn_protocols = vec![MEMBER.to_vec(), JOIN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For a member that dials another.
pub(super) fn member(identity: &PeerIdentity) -> io::Result<ClientConfig> {
    let (chain, key) = shown(identity)?;
    let roots = roots(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|error| unusable("certificate or private key", &error))?;
    config.alpn_protocols = vec![MEMBER.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For a node that joins, which knows the authority by the SHA-256 of its certificate.
pub(super) fn joining(authority: [u8; 32]) -> io::Result<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(IssuedBy { authority, algorithms });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| unusable("cipher suites", &error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// ring, named explicitly: the process has no default, as libraries would fight over it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The chain and the key that this node shows. A single authority goes along, so that who joins can recognize it; several are
/// an operator's, and nobody joins by their fingerprints.
fn shown(identity: &PeerIdentity) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let mut chain: Vec<_> = identity.certificates.iter().map(|der| CertificateDer::from(der.clone())).collect();
    if let [authority] = identity.authorities.as_slice()
        && !identity.certificates.contains(authority)
    {
        chain.push(CertificateDer::from(authority.clone()));
    }
    let key =
        PrivateKeyDer::try_from(identity.key.expose().clone()).map_err(|error| unusable("private key", &error))?;
    Ok((chain, key))
}

fn roots(identity: &PeerIdentity) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(CertificateDer::from(authority.clone())).map_err(|error| unusable("authority", &error))?;
    }
    Ok(roots)
}

fn unusable(what: &str, error: &dyn std::fmt::Display) -> io::Error {
    let message = format!("the {what} for connections among brokers can't be used: {error}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Accepts whoever shows the authority with a fingerprint, and a certificate that it issued. The name in the certificate is not
/// looked at: the joining node knows only an address, and any member may let it in, because the authority issues for members
/// alone. What follows on the connection comes from a member, and that is all that a joining node has to know.
#[derive(Debug)]
struct IssuedBy {
    authority: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for IssuedBy {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let general =
            |error: webpki::Error| Error::General(format!("the peer's certificate can't be trusted: {error}"));
        let is_authority =
            |shown: &&CertificateDer<'_>| digest::digest(&digest::SHA256, shown).as_ref() == self.authority.as_slice();
        let authority = intermediates.iter().find(is_authority).ok_or_else(|| {
            Error::General("the peer does not belong to the cluster that the join token names".to_owned())
        })?;
        let anchors = [webpki::anchor_from_trusted_cert(authority).map_err(general)?];
        let certificate = EndEntityCert::try_from(end_entity).map_err(general)?;
        let usage = webpki::KeyUsage::server_auth();
        certificate.verify_for_usage(self.algorithms.all, &anchors, &[], now, usage, None, None).map_err(general)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("peers speak TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

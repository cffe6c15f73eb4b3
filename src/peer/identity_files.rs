//! What a node shows of itself, on its disk: key and certificates, its own or an operator's.
//!
//! ```text
//! <first data directory>/peers/
//!   node.key        the node's private key, PKCS#8 in PEM; made once, 0600, never sent anywhere
//!   authority.crt   the authorities of the cluster, PEM
//!   node.crt        the node's certificate, PEM; there once the node is a member
//!   join-secret     the cluster's join secret, 32 bytes; 0600
//! ```
//! Every file is replaced in one step. `node.crt` is written last and renewed for the same key, so after a crash a node has a key and
//! is no member yet, or it is one, with its old certificate or the new one. Whoever loses the directory joins again by a token.
//! `broker` calls this at its start, when it joins and when it renews. All calls block, as those of the disk seam do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::{default_provider, sign};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use super::authority::{AuthorityError, NodeKey, cluster_of, fingerprint};
use super::token::{JOIN_SECRET_BYTES, JoinToken};
use crate::runtime::disk::{Disk, read_file, replace_file, replace_private_file};
use crate::runtime::peers::{PeerIdentity, Secret};
use crate::types::Timestamp;

const DIRECTORY: &str = "peers";
const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";
const AUTHORITIES: &str = "authority.crt";
const JOIN_SECRET: &str = "join-secret";
const AUTHORITY_KEY: &str = "authority.key";
/// Chains and bundles of authorities have some kilobytes.
const FILE_LIMIT_BYTES: u64 = 1 << 20;
/// RFC 7468.
const PEM_LINE: usize = 64;

/// Why an identity can't be read, written or used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The operating system refused, or the file is too large.
    #[error("file of this broker's identity can't be read or written path={}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not what it should be.
    #[error("file of this broker's identity can't be used path={}: it {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as a sentence about it.
        problem: String,
    },
    /// No key can be made.
    #[error(transparent)]
    Key(#[from] AuthorityError),
}

fn unusable(path: &Path, problem: impl Into<String>) -> IdentityError {
    IdentityError::Unusable { path: path.to_owned(), problem: problem.into() }
}

fn io_error(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io { path: path.to_owned(), error }
}

/// Where a node keeps its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    directory: PathBuf,
}

impl IdentityFiles {
    /// The files in a node's first data directory.
    pub fn of(data_directory: &Path) -> Self {
        Self { directory: data_directory.join(DIRECTORY) }
    }

    /// The node's key, which is made if there is none.
    ///
    /// # Errors
    /// [`IdentityError`]; a key that can't be read is never replaced.
    pub fn node_key(&self, disk: &dyn Disk) -> Result<NodeKey, IdentityError> {
        if let Some(key) = self.read_key(disk)? {
            return Ok(key);
        }
        let key = NodeKey::generate()?;
        self.write_private(disk, KEY, pem("PRIVATE KEY", key.pkcs8().expose()).as_bytes())?;
        Ok(key)
    }

    /// What the node shows, once it is a member.
    ///
    /// # Errors
    /// [`IdentityError`] when a file is damaged or missing, or key and certificate do not belong together.
    pub fn load(&self, disk: &dyn Disk) -> Result<Option<PeerIdentity>, IdentityError> {
        let (certificate, authorities) = (self.directory.join(CERTIFICATE), self.directory.join(AUTHORITIES));
        if read(disk, &certificate)?.is_none() {
            return Ok(None);
        }
        let key_path = self.directory.join(KEY);
        let key =
            self.read_key(disk)?.ok_or_else(|| unusable(&key_path, "is missing, and the certificate is there"))?;
        let shown = read_certificates(disk, &certificate)?;
        check_key(&certificate, &shown, &key_path, &private_key(&key))?;
        let authorities = read_certificates(disk, &authorities)?;
        Ok(Some(identity(&shown, key.pkcs8().clone(), &authorities)))
    }

    /// Makes the node a member, or renews its certificate: keeps a certificate for its key and those who issue, all in DER.
    ///
    /// # Errors
    /// [`IdentityError`]; a certificate for another key changes nothing.
    pub fn store(
        &self,
        disk: &dyn Disk,
        certificate: &[u8],
        authorities: &[Vec<u8>],
    ) -> Result<PeerIdentity, IdentityError> {
        let key = self.node_key(disk)?;
        let path = self.directory.join(CERTIFICATE);
        let shown = [CertificateDer::from(certificate.to_vec())];
        check_key(&path, &shown, &self.directory.join(KEY), &private_key(&key))?;
        let bundle: String = authorities.iter().map(|authority| pem("CERTIFICATE", authority)).collect();
        let authorities_path = self.directory.join(AUTHORITIES);
        replace_file(disk, &authorities_path, bundle.as_bytes()).map_err(|error| io_error(&authorities_path, error))?;
        let text = pem("CERTIFICATE", certificate);
        replace_file(disk, &path, text.as_bytes()).map_err(|error| io_error(&path, error))?;
        let certificates = vec![certificate.to_vec()];
        Ok(PeerIdentity { certificates, key: key.pkcs8().clone(), authorities: authorities.to_vec() })
    }

    /// The cluster's join secret, where this node has been told it.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn join_secret(&self, disk: &dyn Disk) -> Result<Option<Secret<Vec<u8>>>, IdentityError> {
        Ok(read(disk, &self.directory.join(JOIN_SECRET))?.map(Secret::new))
    }

    /// Keeps the cluster's join secret.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn store_join_secret(&self, disk: &dyn Disk, secret: &Secret<Vec<u8>>) -> Result<(), IdentityError> {
        self.write_private(disk, JOIN_SECRET, secret.expose())
    }

    /// The private key of the cluster's authority, if this node was told it: with it a node that was away for long renews its own
    /// certificate, where nobody takes the one that it has.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn authority_key(&self, disk: &dyn Disk) -> Result<Option<Secret<Vec<u8>>>, IdentityError> {
        Ok(read(disk, &self.directory.join(AUTHORITY_KEY))?.map(Secret::new))
    }

    /// Keeps the private key of the cluster's authority, unless it is kept already. The metadata beside it has it as well.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn store_authority_key(&self, disk: &dyn Disk, key: &Secret<Vec<u8>>) -> Result<(), IdentityError> {
        if self.authority_key(disk)?.is_some_and(|kept| kept == *key) {
            return Ok(());
        }
        self.write_private(disk, AUTHORITY_KEY, key.expose())
    }

    /// A token that lets nodes join this one's cluster until `expires`; none where this node has not been told the join secret, or
    /// shows no certificate of the cluster's. It only reads, also while the broker runs.
    ///
    /// # Errors
    /// [`IdentityError`] when a file is damaged.
    pub fn join_token(&self, disk: &dyn Disk, expires: Timestamp) -> Result<Option<JoinToken>, IdentityError> {
        let path = self.directory.join(CERTIFICATE);
        let Some(secret) = self.join_secret(disk)? else { return Ok(None) };
        if secret.expose().len() < JOIN_SECRET_BYTES {
            return Err(unusable(&self.directory.join(JOIN_SECRET), "is too short for a join secret"));
        }
        if read(disk, &path)?.is_none() {
            return Ok(None);
        }
        let shown = read_certificates(disk, &path)?;
        let certificate = EndEntityCert::try_from(&shown[0]).map_err(|error| unusable(&path, unreadable(&error)))?;
        let cluster_id = certificate.valid_dns_names().find_map(cluster_of);
        let cluster_id = cluster_id.ok_or_else(|| unusable(&path, "names no cluster"))?;
        let authorities = read_certificates(disk, &self.directory.join(AUTHORITIES))?;
        Ok(Some(JoinToken::new(secret.expose(), cluster_id, fingerprint(&authorities[0]), expires)))
    }

    fn read_key(&self, disk: &dyn Disk) -> Result<Option<NodeKey>, IdentityError> {
        let path = self.directory.join(KEY);
        let Some(text) = read(disk, &path)? else { return Ok(None) };
        let PrivateKeyDer::Pkcs8(key) = read_private_key(&path, &text)? else {
            return Err(unusable(&path, "is not in PKCS#8, as this broker writes it"));
        };
        let key = NodeKey::from_pkcs8(key.secret_pkcs8_der().to_vec());
        key.map(Some)
            .map_err(|error| unusable(&path, format!("holds another kind of key than this broker makes ({error})")))
    }

    fn write_private(&self, disk: &dyn Disk, name: &str, content: &[u8]) -> Result<(), IdentityError> {
        disk.create_directory(&self.directory).map_err(|error| io_error(&self.directory, error))?;
        let path = self.directory.join(name);
        replace_private_file(disk, &path, content).map_err(|error| io_error(&path, error))
    }
}

/// Where an operator, who has a certificate authority already, has put what a node is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorFiles {
    /// The node's certificate and those that lead to an authority, in PEM. It names the host that peers reach the node by.
    pub certificate: PathBuf,
    /// Its private key in PEM, not encrypted: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The authorities whose certificates make a member, in PEM. They issue for brokers of this cluster alone.
    pub authorities: PathBuf,
}

impl OperatorFiles {
    /// Reads them, and makes sure that peers who have the same authorities will accept this node now.
    ///
    /// # Errors
    /// [`IdentityError`] that names the file and what is wrong with it.
    pub fn load(&self, disk: &dyn Disk, now: Timestamp) -> Result<PeerIdentity, IdentityError> {
        let shown = read_certificates(disk, &self.certificate)?;
        let text = read(disk, &self.key)?.ok_or_else(|| unusable(&self.key, "does not exist"))?;
        let key = read_private_key(&self.key, &text)?;
        check_key(&self.certificate, &shown, &self.key, &key)?;
        let authorities = read_certificates(disk, &self.authorities)?;
        self.check_chain(&shown, &authorities, now)?;
        Ok(identity(&shown, Secret::new(key.secret_der().to_vec()), &authorities))
    }

    fn check_chain(
        &self,
        shown: &[CertificateDer<'static>],
        authorities: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        let mut anchors = Vec::with_capacity(authorities.len());
        for authority in authorities {
            let anchor = webpki::anchor_from_trusted_cert(authority).map_err(|error| {
                unusable(&self.authorities, format!("has a certificate that can't be read ({error})"))
            })?;
            anchors.push(anchor);
        }
        let unusable = |problem: String| unusable(&self.certificate, problem);
        let certificate = EndEntityCert::try_from(&shown[0]).map_err(|error| unusable(unreadable(&error)))?;
        let algorithms = default_provider().signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.get()).unwrap_or(0)));
        let usages = [(KeyUsage::server_auth(), "be dialled"), (KeyUsage::client_auth(), "dial")];
        for (usage, to_do) in usages {
            let verified = certificate.verify_for_usage(algorithms, &anchors, &shown[1..], now, usage, None, None);
            if let Err(error) = verified {
                return Err(unusable(match error {
                    webpki::Error::CertExpired { .. } => "has a certificate that is no longer valid".to_owned(),
                    webpki::Error::CertNotValidYet { .. } => "has a certificate that is not valid yet".to_owned(),
                    webpki::Error::UnknownIssuer => {
                        let authorities = self.authorities.display();
                        format!("begins with a certificate that does not lead to an authority of {authorities}")
                    }
                    webpki::Error::RequiredEkuNotFoundContext(_) => {
                        format!(
                            "has a certificate that may not {to_do}: it needs the extended key usages serverAuth and clientAuth"
                        )
                    }
                    error => format!("has a certificate that peers will not accept ({error})"),
                }));
            }
        }
        Ok(())
    }
}

fn identity(shown: &[CertificateDer<'_>], key: Secret<Vec<u8>>, authorities: &[CertificateDer<'_>]) -> PeerIdentity {
    let der = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|one| one.to_vec()).collect();
    PeerIdentity { certificates: der(shown), key, authorities: der(authorities) }
}

fn private_key(key: &NodeKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.pkcs8().expose().clone().into())
}

/// Makes sure that a key is that of the first certificate.
fn check_key(
    certificate_path: &Path,
    shown: &[CertificateDer<'_>],
    key_path: &Path,
    key: &PrivateKeyDer<'_>,
) -> Result<(), IdentityError> {
    let certificate =
        EndEntityCert::try_from(&shown[0]).map_err(|error| unusable(certificate_path, unreadable(&error)))?;
    let key = sign::any_supported_type(key).map_err(|_| {
        unusable(
            key_path,
            "holds a key that can't be used: ECDSA (P-256, P-384), Ed25519 or RSA (2,048 bits) is needed",
        )
    })?;
    if key.public_key().is_some_and(|public| public != certificate.subject_public_key_info()) {
        let problem = format!("is not the key of the first certificate in {}", certificate_path.display());
        return Err(unusable(key_path, problem));
    }
    Ok(())
}

fn unreadable(error: &webpki::Error) -> String {
    format!("begins with a certificate that can't be read ({error})")
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match read_file(disk, path, FILE_LIMIT_BYTES) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, error)),
    }
}

/// At least one certificate.
fn read_certificates(disk: &dyn Disk, path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(disk, path)?.ok_or_else(|| unusable(path, "does not exist"))?;
    let certificates: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| unusable(path, format!("is damaged ({error})")))?;
    if certificates.is_empty() {
        return Err(unusable(path, "holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn read_private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        PemError::NoItemsFound => unusable(path, "holds no private key in PEM that is not encrypted"),
        error => unusable(path, format!("is damaged ({error})")),
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(PEM_LINE).map(|line| std::str::from_utf8(line).expect("base64 is ASCII"));
    let lines: Vec<&str> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::peer::authority::Authority;
    use crate::runtime::production::LocalDisk;
    use crate::sim::SimDisk;
    use crate::types::{ClusterId, NodeId};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn files() -> IdentityFiles {
        IdentityFiles::of(Path::new("/data"))
    }

    fn authority() -> Authority {
        Authority::new(ClusterId::from_entropy([7; 16]), NOW).unwrap()
    }

    fn issue(authority: &Authority, key: &NodeKey) -> Vec<u8> {
        let request = key.certificate_request().unwrap();
        authority.issue(ClusterId::from_entropy([7; 16]), NodeId(1), &request, [1; 16], NOW).unwrap()
    }

    #[test]
    fn a_node_has_one_key_and_is_a_member_once_its_certificate_is_stored() {
        let (disk, authority) = (SimDisk::new(1), authority());
        assert!(files().load(&disk).unwrap().is_none());
        let key = files().node_key(&disk).unwrap();
        assert_eq!(files().node_key(&disk).unwrap(), key);
        assert!(files().load(&disk).unwrap().is_none(), "it has a key and is no member yet");
        let authorities = [authority.certificate.clone(), self::authority().certificate];
        let certificate = issue(&authority, &key);
        let stored = files().store(&disk, &certificate, &authorities).unwrap();
        assert_eq!((&stored.certificates[0], stored.authorities.as_slice()), (&certificate, authorities.as_slice()));
        let loaded = files().load(&disk).unwrap().unwrap();
        assert_eq!((loaded.certificates, loaded.key), (stored.certificates, stored.key));
        assert_eq!(loaded.authorities, authorities);
    }

    #[test]
    fn a_certificate_for_another_key_is_refused_and_changes_nothing() {
        let (disk, authority) = (SimDisk::new(1), authority());
        let certificate = issue(&authority, &NodeKey::generate().unwrap());
        let refused = files().store(&disk, &certificate, std::slice::from_ref(&authority.certificate)).unwrap_err();
        assert!(refused.to_string().contains("/data/peers/node.key: it is not the key"), "{refused}");
        assert!(files().load(&disk).unwrap().is_none());
    }

    #[test]
    fn a_member_that_was_told_the_join_secret_can_invite_others() {
        let (disk, authority, expires) = (SimDisk::new(1), authority(), Timestamp(NOW.get() + 1000));
        let token = || files().join_token(&disk, expires);
        assert!(token().unwrap().is_none());
        let certificate = issue(&authority, &files().node_key(&disk).unwrap());
        files().store(&disk, &certificate, std::slice::from_ref(&authority.certificate)).unwrap();
        assert!(token().unwrap().is_none(), "it does not know the secret");
        files().store_join_secret(&disk, &Secret::new(vec![9; JOIN_SECRET_BYTES])).unwrap();
        let invitation = token().unwrap().unwrap();
        assert_eq!((invitation.authority(), invitation.expires()), (authority.fingerprint(), expires));
        let cluster_id = ClusterId::from_entropy([7; 16]);
        assert_eq!(invitation.verify(&[9; JOIN_SECRET_BYTES], cluster_id, NOW), Ok(()));
        files().store_join_secret(&disk, &Secret::new(vec![9; 3])).unwrap();
        let refused = token().unwrap_err().to_string();
        assert!(refused.contains("/data/peers/join-secret: it is too short"), "{refused}");
    }

    #[test]
    fn a_power_cut_while_a_node_joins_or_renews_leaves_it_as_before_or_as_after() {
        let authority = authority();
        let authorities = std::slice::from_ref(&authority.certificate);
        for renews in [false, true] {
            let cuts = (0..100).take_while(|cut| {
                let disk = SimDisk::new(*cut);
                let key = files().node_key(&disk).unwrap();
                let before = issue(&authority, &key);
                if renews {
                    files().store(&disk, &before, authorities).unwrap();
                }
                let after = issue(&authority, &key);
                disk.cut_power_after(*cut);
                let stored = files().store(&disk, &after, authorities);
                disk.power_cut();
                let shown = files().load(&disk).unwrap().map(|loaded| loaded.certificates);
                let as_before = shown == renews.then(|| vec![before]);
                assert!(shown == Some(vec![after]) || (stored.is_err() && as_before), "cut {cut}");
                assert_eq!(files().node_key(&disk).unwrap(), key);
                stored.is_err()
            });
            assert!((5..100).contains(&cuts.count()));
        }
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let disk = SimDisk::new(1);
        files().node_key(&disk).unwrap();
        let path = Path::new("/data/peers/node.key");
        replace_file(&disk, path, b"-----BEGIN PRIVATE KEY-----\nAAAA").unwrap();
        let refused = files().node_key(&disk).unwrap_err().to_string();
        assert!(refused.contains("/data/peers/node.key"), "{refused}");
        assert!(read(&disk, path).unwrap().unwrap().ends_with(b"AAAA"));
    }

    #[test]
    fn secrets_are_for_this_user_alone_even_where_a_crash_left_something_for_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles::of(directory.path());
        let peers = directory.path().join(DIRECTORY);
        std::fs::create_dir(&peers).unwrap();
        std::fs::write(peers.join("node.tmp"), "left").unwrap();
        files.node_key(&LocalDisk).unwrap();
        files.store_join_secret(&LocalDisk, &Secret::new(vec![9; 32])).unwrap();
        assert_eq!(files.join_secret(&LocalDisk).unwrap(), Some(Secret::new(vec![9; 32])));
        files.store_authority_key(&LocalDisk, &Secret::new(vec![8; 100])).unwrap();
        assert_eq!(files.authority_key(&LocalDisk).unwrap(), Some(Secret::new(vec![8; 100])));
        for name in [KEY, JOIN_SECRET, AUTHORITY_KEY] {
            let mode = std::fs::metadata(peers.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    /// An operator's certificates, and where they are.
    struct Operator {
        disk: SimDisk,
        files: OperatorFiles,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Operator {
        fn new() -> Self {
            let (disk, key) = (SimDisk::new(1), KeyPair::generate().unwrap());
            disk.create_directory(Path::new("/pki")).unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let path = |name: &str| Path::new("/pki").join(name);
            let files = OperatorFiles { certificate: path("a.crt"), key: path("a.key"), authorities: path("ca.crt") };
            let authority = params.self_signed(&key).unwrap().pem();
            replace_file(&disk, &files.authorities, authority.as_bytes()).unwrap();
            Self { disk, files, issuer: Issuer::new(params, key) }
        }

        fn put(&self, change: impl FnOnce(&mut CertificateParams)) -> KeyPair {
            let (key, mut params) =
                (KeyPair::generate().unwrap(), CertificateParams::new(vec!["a.example".to_owned()]).unwrap());
            change(&mut params);
            let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
            replace_file(&self.disk, &self.files.certificate, certificate.as_bytes()).unwrap();
            replace_file(&self.disk, &self.files.key, key.serialize_pem().as_bytes()).unwrap();
            key
        }

        fn refusal(&self) -> String {
            self.files.load(&self.disk, NOW).unwrap_err().to_string()
        }
    }

    #[test]
    fn an_operators_certificate_is_loaded_with_its_key_in_either_form() {
        let operator = Operator::new();
        let key = operator.put(|_| ()).serialize_der();
        let loaded = operator.files.load(&operator.disk, NOW).unwrap();
        assert_eq!((loaded.certificates.len(), loaded.authorities.len()), (1, 1));
        assert_eq!(loaded.key.expose(), &key);
        // What PKCS#8 wraps.
        let traditional = &key[29..];
        replace_file(&operator.disk, &operator.files.key, pem("EC PRIVATE KEY", traditional).as_bytes()).unwrap();
        assert_eq!(operator.files.load(&operator.disk, NOW).unwrap().key.expose(), traditional);
    }

    #[test]
    fn what_is_wrong_with_an_operators_files_is_said_with_the_files_name() {
        let operator = Operator::new();
        assert!(operator.refusal().contains("path=/pki/a.crt: it does not exist"), "{}", operator.refusal());
        operator.put(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        assert!(operator.refusal().contains("path=/pki/a.crt: it has a certificate that is no longer valid"));
        operator.put(|params| params.not_before = rcgen::date_time_ymd(2050, 1, 1));
        assert!(operator.refusal().contains("not valid yet"), "{}", operator.refusal());
        operator.put(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(operator.refusal().contains("may not dial"), "{}", operator.refusal());
        operator.put(|_| ());
        let key = &operator.files.key;
        replace_file(&operator.disk, key, KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        assert!(operator.refusal().contains("path=/pki/a.key: it is not the key of"), "{}", operator.refusal());
        replace_file(&operator.disk, key, pem("ENCRYPTED PRIVATE KEY", b"secret").as_bytes()).unwrap();
        assert!(operator.refusal().contains("path=/pki/a.key: it holds no private key"), "{}", operator.refusal());
        operator.put(|_| ());
        let other = pem("CERTIFICATE", &authority().certificate);
        replace_file(&operator.disk, &operator.files.authorities, other.as_bytes()).unwrap();
        assert!(operator.refusal().contains("does not lead to an authority of /pki/ca.crt"), "{}", operator.refusal());
        replace_file(&operator.disk, &operator.files.authorities, b"nothing").unwrap();
        assert!(operator.refusal().contains("path=/pki/ca.crt: it holds no certificate"), "{}", operator.refusal());
        replace_file(&operator.disk, &operator.files.certificate, pem("CERTIFICATE", b"junk").as_bytes()).unwrap();
        assert!(operator.refusal().contains("path=/pki/a.crt: it begins with a certificate that can't be read"));
    }
}

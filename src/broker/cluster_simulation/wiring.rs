//! How a simulated broker is set, and what stands in for what no seed could repeat: its certificate.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_ED25519};

use crate::archive::store::StoreSettings;
use crate::broker::{BrokerSettings, ClusterSettings};
use crate::log::{DirectorySettings, JournalSettings};
use crate::peer::identity_files::OperatorFiles;
use crate::runtime::disk::Disk;
use crate::runtime::net::BoxFuture;
use crate::runtime::peers::{
    ExpectedPeer, Lifeline, PeerConnection, PeerEndpoint, PeerError, PeerIdentity, PeerNet, PeerSettings,
};
use crate::sim::SimDisk;
use crate::sim::peers::identity;
use crate::types::NodeId;

/// The first data directory; the metadata is in it.
pub(super) const FIRST: &str = "/first";
/// The data directory that gets lost.
pub(super) const SECOND: &str = "/second";
const PKI: &str = "/pki";
const CERTIFICATE: &str = "/pki/node.crt";
const KEY: &str = "/pki/node.key";
const PORT: u16 = 9094;
/// How long a broker may be silent.
const SESSION: Duration = Duration::from_secs(1);
/// How long an in-sync replica may lag.
const LAG: Duration = Duration::from_secs(2);

/// What comes before the 32 bytes of an Ed25519 key in PKCS#8.
const KEY_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The machine of a broker on the network.
pub(super) fn host(number: i32) -> String {
    format!("node-{number}")
}

/// Where other brokers reach it.
pub(super) fn address(number: i32) -> String {
    format!("{}:{PORT}", host(number))
}

/// Puts the operator's certificate on a disk, the same in every run: Ed25519 draws nothing. The network shows another one.
pub(super) fn put_certificate(disk: &SimDisk) {
    let key = [KEY_PREFIX.as_slice(), &[7; 32]].concat();
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key.as_slice().into(), &PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec!["node.test".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap();
    // Its name outlives a power cut.
    disk.create_directory(Path::new(PKI)).unwrap();
    disk.put(Path::new(CERTIFICATE), certificate.pem().into_bytes());
    disk.put(Path::new(KEY), key.serialize_pem().into_bytes());
}

/// Settings of one of so many brokers.
pub(super) fn settings(number: i32, brokers: usize) -> BrokerSettings {
    let mut settings = BrokerSettings::small(Path::new(FIRST));
    settings.node_id = NodeId(number);
    settings.directories = vec![PathBuf::from(FIRST), PathBuf::from(SECOND)];
    settings.directory = DirectorySettings {
        journal: JournalSettings { file_bytes: 32 << 10, max_bytes: 192 << 10 },
        tail_bytes: 8 << 10,
        index_bytes: 256,
        unwritten_bytes: 64 << 10,
        write_behind_bytes: 3 << 10,
        checkpoint_bytes: 60 << 10,
        checkpoint_interval: Duration::from_secs(4),
        max_producers: 10_000,
        removed_bytes: 1,
    };
    let archiver = &mut settings.archive.archiver;
    archiver.cache_bytes = 24 << 10;
    archiver.uploads = 2;
    archiver.retention_interval = Duration::from_secs(2);
    archiver.deletion_grace = Duration::from_secs(1);
    archiver.head_bytes = 8 << 10;
    settings.archive.store = StoreSettings {
        attempt_timeout_ms: 4000,
        max_attempts: 3,
        backoff_longest_ms: 400,
        ..StoreSettings::default()
    };
    settings.topics.offsets_partitions = 1;
    settings.cluster = Some(ClusterSettings {
        listen: ([0, 0, 0, 0], PORT).into(),
        advertised: Some((host(number), PORT)),
        join: Vec::new(),
        token: None,
        pki: Some(OperatorFiles { certificate: CERTIFICATE.into(), key: KEY.into(), authorities: CERTIFICATE.into() }),
        voters: brokers,
        connections: 1,
        session_timeout: SESSION,
        replica_lag_max: LAG,
    });
    settings
}

/// A machine's network on which it always shows the same, whatever it is given.
pub(super) struct Shown {
    net: Arc<dyn PeerNet>,
    identity: PeerIdentity,
}

impl Shown {
    pub(super) fn new(net: Arc<dyn PeerNet>, number: i32) -> Self {
        Self { net, identity: identity("operator", &[&host(number)]) }
    }
}

impl PeerNet for Shown {
    fn bind(
        &self,
        address: SocketAddr,
        _: PeerIdentity,
        settings: PeerSettings,
    ) -> BoxFuture<'_, io::Result<Arc<dyn PeerEndpoint>>> {
        Box::pin(async move {
            let endpoint = self.net.bind(address, self.identity.clone(), settings).await?;
            Ok(Arc::new(ShownEndpoint(endpoint)) as Arc<dyn PeerEndpoint>)
        })
    }

    fn lifeline<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Lifeline>>> {
        self.net.lifeline(address)
    }
}

struct ShownEndpoint(Arc<dyn PeerEndpoint>);

impl PeerEndpoint for ShownEndpoint {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_address()
    }

    fn set_identity(&self, _: PeerIdentity) -> io::Result<()> {
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        address: &'a str,
        expected: ExpectedPeer,
    ) -> BoxFuture<'a, Result<Arc<dyn PeerConnection>, PeerError>> {
        self.0.connect(address, expected)
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn PeerConnection>>> {
        self.0.accept()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}

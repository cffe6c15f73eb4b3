//! What the broker is told at its start. Plain values; the command line fills them in from the configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::archiver::ArchiverSettings;
use super::replication::ReplicationSettings;
use crate::archive::store::{Location, StoreSettings};
use crate::group::GroupSettings;
use crate::log::DirectorySettings;
use crate::metadata::command::Endpoint;
use crate::peer::identity_files::OperatorFiles;
use crate::replication::leader::LeaderSettings;
use crate::runtime::peers::Secret;
use crate::types::NodeId;

/// Settings of one broker process.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// The broker's number.
    pub node_id: NodeId,
    /// Where the machine stands, told to clients.
    pub rack: Option<String>,
    /// Data directories, at least one. The metadata lives in the first.
    pub directories: Vec<PathBuf>,
    /// How each data directory works.
    pub directory: DirectorySettings,
    /// Address to advertise, by name of listener.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Broker configurations by Kafka's names, as tools see them and as topics inherit them.
    pub broker_configs: BTreeMap<String, String>,
    /// Topics.
    pub topics: TopicSettings,
    /// Fetches.
    pub fetch: FetchSettings,
    /// Consumer groups.
    pub groups: GroupSettings,
    /// `producer.id.expiration.ms`, until a client sets it: how long an idle producer is remembered.
    pub producer_expiration: Duration,
    /// Producers remembered in one partition.
    pub max_producers_per_partition: usize,
    /// Bytes of produce requests that may wait for room in data directories, an equal part in each; clients of more are told to
    /// try again.
    pub waiting_bytes: usize,
    /// The most that a produced batch may decompress to, by which memory is bounded wherever a whole batch is needed.
    pub max_decompressed_bytes: usize,
    /// Where the archive is and how it is worked.
    pub archive: ArchiveSettings,
    /// How it meets other brokers; none for a broker by itself.
    pub cluster: Option<ClusterSettings>,
}

/// A broker among others.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Where to listen for other brokers; port 0 picks a free port.
    pub listen: SocketAddr,
    /// Host and port that others are told; port 0 stands for the one that was bound. None stands for what was bound.
    pub advertised: Option<(String, u16)>,
    /// Members of the cluster to join, as `host:port`; none makes a new cluster in an empty data directory.
    pub join: Vec<String>,
    /// The token that lets this broker in.
    pub token: Option<Secret<String>>,
    /// Certificates of the operator's own, in place of those that the cluster issues.
    pub pki: Option<OperatorFiles>,
    /// Voters that the metadata quorum is to have.
    pub voters: usize,
    /// Connections to each other broker for records.
    pub connections: usize,
    /// How long a broker may be silent before others lead in its place.
    pub session_timeout: Duration,
    /// How long an in-sync replica may lag.
    pub replica_lag_max: Duration,
}

impl ClusterSettings {
    /// How records are replicated.
    pub(super) fn replication(&self) -> ReplicationSettings {
        let leader = LeaderSettings { lag_max: self.replica_lag_max, ..LeaderSettings::default() };
        let connections = u16::try_from(self.connections).unwrap_or(u16::MAX).max(1);
        ReplicationSettings { leader, connections }
    }
}

/// The archive of a broker.
#[derive(Clone, Debug)]
pub struct ArchiveSettings {
    /// Where it is.
    pub location: Location,
    /// How the store is spoken to.
    pub store: StoreSettings,
    /// How segments get there and come back.
    pub archiver: ArchiverSettings,
}

/// What new topics are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Create a topic when a client asks for one that does not exist.
    pub auto_create: bool,
    /// Partitions of a topic that is created without a number.
    pub default_partitions: i32,
    /// Most partitions of this broker; each costs memory and some files.
    pub max_partitions: usize,
    /// Partitions of `__consumer_offsets`, when it is created.
    pub offsets_partitions: i32,
}

/// Limits of fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// Most bytes of one answer, whatever the client asks for; a single larger batch still passes.
    pub max_bytes: usize,
    /// Memory for records in answers that are not sent yet, of all connections together. Fetches wait when it is used up.
    pub answer_bytes: usize,
    /// Memory for what is read from segments before those who catch up ask for it.
    pub read_ahead_bytes: usize,
    /// Incremental fetch sessions kept; each holds its list of partitions in memory.
    pub max_sessions: usize,
    /// Lanes that read segments. More serve more readers of old records at a time and cost a thread each.
    pub reader_lanes: usize,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { auto_create: true, default_partitions: 1, max_partitions: 20_000, offsets_partitions: 50 }
    }
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            max_bytes: 55 << 20,
            answer_bytes: 96 << 20,
            read_ahead_bytes: 32 << 20,
            max_sessions: 1000,
            reader_lanes: 4,
        }
    }
}

#[cfg(test)]
impl BrokerSettings {
    /// A small broker for tests, with everything below `root`: its data directory is `root` itself, its store is a directory.
    pub(crate) fn small(root: &std::path::Path) -> Self {
        use std::time::Duration;

        use crate::archive::remote_reader::ReadSettings;
        use crate::log::JournalSettings;
        use crate::metadata::command::SecurityProtocol;

        let archiver = ArchiverSettings {
            spool_directory: root.join("spool"),
            cache_directory: root.join("cache"),
            cache_bytes: 64 << 20,
            uploads: 1,
            upload_bytes: 40 << 20,
            lanes: 1,
            reads: ReadSettings::default(),
            retention_interval: Duration::from_secs(30),
            deletion_grace: Duration::ZERO,
            sweep_interval: Duration::from_secs(3600),
            head_bytes: 1 << 20,
            local_bytes: u64::MAX,
            free_bytes: 0,
        };
        let location = Location::parse(&format!("file://{}", root.join("store").display())).expect("an absolute path");
        let security_protocol = SecurityProtocol::Plaintext;
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 9092, security_protocol };
        Self {
            node_id: NodeId(1),
            rack: None,
            directories: vec![root.to_owned()],
            directory: DirectorySettings {
                journal: JournalSettings { file_bytes: 1 << 20, max_bytes: 32 << 20 },
                ..DirectorySettings::default()
            },
            endpoints: BTreeMap::from([("default".to_owned(), endpoint)]),
            broker_configs: BTreeMap::new(),
            topics: TopicSettings::default(),
            fetch: FetchSettings::default(),
            groups: GroupSettings::default(),
            producer_expiration: crate::log::LogSettings::default().producer_expiration,
            max_producers_per_partition: 100,
            waiting_bytes: 64 << 20,
            max_decompressed_bytes: crate::record::MAX_DECOMPRESSED_BYTES,
            archive: ArchiveSettings { location, store: StoreSettings::default(), archiver },
            cluster: None,
        }
    }
}

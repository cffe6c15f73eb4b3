//! Why a command, a stored byte or the metadata quorum is refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::raft::{LaneStopped, StoreError};
use crate::types::{BrokerEpoch, ClusterId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch, TopicId, TopicPartition};

/// A command that the cluster's state does not allow. Rejections are part of the replicated outcome: every node reaches
/// the same one. Each variant stands for exactly one Kafka error, named in its doc and given by
/// [`Rejection::kafka_error_code`]; none changes the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// INVALID_TOPIC_EXCEPTION: the name breaks a rule.
    #[error("topic name is invalid: {reason} topic={name}")]
    InvalidTopicName {
        /// The name.
        name: String,
        /// The rule.
        reason: String,
    },
    /// INVALID_TOPIC_EXCEPTION: names that differ only in '.' and '_' collide in metric names.
    #[error("topic name collides with an existing topic topic={name} existing={existing}")]
    TopicNameCollides {
        /// The name.
        name: String,
        /// The topic that is there.
        existing: String,
    },
    /// TOPIC_ALREADY_EXISTS.
    #[error("topic already exists topic={name}")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// INCONSISTENT_TOPIC_ID: the identity belongs to another topic, live or deleted.
    #[error("topic identity is taken topic_id={topic_id}")]
    TopicIdTaken {
        /// The identity.
        topic_id: TopicId,
    },
    /// UNKNOWN_TOPIC_ID.
    #[error("no topic has this identity topic_id={topic_id}")]
    UnknownTopicId {
        /// The identity.
        topic_id: TopicId,
    },
    /// INVALID_PARTITIONS: the number of partitions is not allowed, or changed meanwhile.
    #[error("number of partitions is invalid: {reason} partitions={partitions}")]
    InvalidPartitions {
        /// The rule.
        reason: String,
        /// The number.
        partitions: i64,
    },
    /// INVALID_REPLICATION_FACTOR: there are not that many brokers, or it is not positive.
    #[error("replication factor is invalid replication_factor={replication_factor} brokers={brokers}")]
    InvalidReplicationFactor {
        /// What was asked for.
        replication_factor: i16,
        /// Brokers that can hold replicas.
        brokers: usize,
    },
    /// INVALID_REPLICA_ASSIGNMENT.
    #[error("replica assignment is invalid: {reason} partition={partition}")]
    InvalidReplicaAssignment {
        /// The rule.
        reason: String,
        /// The partition's number.
        partition: i32,
    },
    /// POLICY_VIOLATION: a limit of this cluster.
    #[error("limit exceeded: {limit} maximum={maximum} requested={requested}")]
    LimitExceeded {
        /// Which limit.
        limit: String,
        /// The limit.
        maximum: u64,
        /// What the command would lead to.
        requested: u64,
    },
    /// INVALID_UPDATE_VERSION: another change of these values came first; resolve again and retry.
    #[error("configuration changed meanwhile expected_version={expected} current_version={current}")]
    ConfigChanged {
        /// Version that the sender had seen.
        expected: u64,
        /// Version now.
        current: u64,
    },
    /// BROKER_ID_NOT_REGISTERED.
    #[error("no broker is registered with this number node_id={node_id}")]
    UnknownBroker {
        /// The number.
        node_id: NodeId,
    },
    /// STALE_BROKER_EPOCH: a later process of this broker has registered.
    #[error("broker epoch is stale node_id={node_id} epoch={epoch} current_epoch={current}")]
    StaleBrokerEpoch {
        /// The broker.
        node_id: NodeId,
        /// The epoch that was given.
        epoch: BrokerEpoch,
        /// The broker's epoch now.
        current: BrokerEpoch,
    },
    /// INCONSISTENT_CLUSTER_ID.
    #[error("cluster identity does not match given={given} ours={ours}")]
    InconsistentClusterId {
        /// Identity in the command.
        given: ClusterId,
        /// Identity of this cluster.
        ours: ClusterId,
    },
    /// INVALID_REGISTRATION: the registration lacks what every broker has.
    #[error("broker registration is invalid: {reason} node_id={node_id}")]
    InvalidRegistration {
        /// The rule.
        reason: String,
        /// The broker.
        node_id: NodeId,
    },
    /// UNKNOWN_TOPIC_OR_PARTITION: the topic has no such partition.
    #[error("the topic has no such partition partition={partition}")]
    UnknownPartition {
        /// The partition.
        partition: TopicPartition,
    },
    /// INVALID_REQUEST: only the leader says which replicas are in sync.
    #[error("this broker does not lead the partition node_id={node_id} leader={leader:?}")]
    NotPartitionLeader {
        /// The broker.
        node_id: NodeId,
        /// The leader, if there is one.
        leader: Option<NodeId>,
    },
    /// FENCED_LEADER_EPOCH: the partition has begun another leader epoch.
    #[error("leader epoch is not the partition's epoch={epoch} current_epoch={current}")]
    FencedLeaderEpoch {
        /// The epoch that was given.
        epoch: LeaderEpoch,
        /// The partition's epoch now.
        current: LeaderEpoch,
    },
    /// INVALID_UPDATE_VERSION: the partition changed meanwhile; look at it and ask again.
    #[error("partition changed meanwhile expected_epoch={expected} current_epoch={current}")]
    PartitionChanged {
        /// The epoch that the sender had seen.
        expected: PartitionEpoch,
        /// The partition's epoch now.
        current: PartitionEpoch,
    },
    /// INELIGIBLE_REPLICA: this replica can't be in sync now.
    #[error("replica can't be in sync: {reason} node_id={node_id}")]
    IneligibleReplica {
        /// The broker that holds it.
        node_id: NodeId,
        /// Why.
        reason: String,
    },
    /// INVALID_REQUEST: a set of in-sync replicas without its leader, or with one twice.
    #[error("set of in-sync replicas is invalid: {reason}")]
    InvalidInSyncSet {
        /// The rule.
        reason: String,
    },
    /// INVALID_REQUEST: the broker is not gone.
    #[error("broker is not fenced: stop it first, then unregister it node_id={node_id}")]
    BrokerNotFenced {
        /// The broker.
        node_id: NodeId,
    },
    /// NO_REASSIGNMENT_IN_PROGRESS.
    #[error("replicas of the partition are not being moved partition={partition}")]
    NoReassignment {
        /// The partition.
        partition: TopicPartition,
    },
    /// INVALID_REQUEST: the authority's certificate, key or secret is empty or far too large.
    #[error("authority of the cluster is invalid: each part has 1 to {maximum_bytes} bytes")]
    InvalidAuthority {
        /// Most bytes of each part.
        maximum_bytes: u64,
    },
    /// INVALID_REQUEST: the cluster was restored as often before.
    #[error("the cluster has begun this incarnation already given={given} current={current}")]
    StaleIncarnation {
        /// The incarnation that was to begin.
        given: Incarnation,
        /// The cluster's incarnation now.
        current: Incarnation,
    },
    /// FEATURE_UPDATE_FAILED.
    #[error("feature level is invalid feature={name} level={level}")]
    InvalidFeatureLevel {
        /// The feature.
        name: String,
        /// The level.
        level: i16,
    },
    /// UNKNOWN_SERVER_ERROR: the numbers of this kind are used up.
    #[error("no numbers are left: {what}")]
    Exhausted {
        /// Which numbers.
        what: String,
    },
}

impl Rejection {
    /// The number of the Kafka error that this rejection stands for (`org.apache.kafka.common.protocol.Errors`).
    pub const fn kafka_error_code(&self) -> i16 {
        match self {
            Self::InvalidTopicName { .. } | Self::TopicNameCollides { .. } => 17,
            Self::TopicExists { .. } => 36,
            Self::TopicIdTaken { .. } => 103,
            Self::UnknownTopicId { .. } => 100,
            Self::InvalidPartitions { .. } => 37,
            Self::InvalidReplicationFactor { .. } => 38,
            Self::InvalidReplicaAssignment { .. } => 39,
            Self::LimitExceeded { .. } => 44,
            Self::ConfigChanged { .. } | Self::PartitionChanged { .. } => 95,
            Self::UnknownBroker { .. } => 102,
            Self::StaleBrokerEpoch { .. } => 77,
            Self::InconsistentClusterId { .. } => 104,
            Self::InvalidRegistration { .. } => 119,
            Self::UnknownPartition { .. } => 3,
            Self::FencedLeaderEpoch { .. } => 74,
            Self::IneligibleReplica { .. } => 107,
            Self::NoReassignment { .. } => 85,
            Self::NotPartitionLeader { .. }
            | Self::InvalidInSyncSet { .. }
            | Self::BrokerNotFenced { .. }
            | Self::InvalidAuthority { .. }
            | Self::StaleIncarnation { .. } => 42,
            Self::InvalidFeatureLevel { .. } => 96,
            Self::Exhausted { .. } => -1,
        }
    }
}

/// Why a submitted command did not take effect, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The cluster's state does not allow it; nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// NOT_CONTROLLER: another node leads the quorum; nothing changed.
    #[error("this node does not lead the metadata quorum leader={leader:?}")]
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// REQUEST_TIMED_OUT: no outcome came in time; whether the command takes effect shows later.
    #[error("the metadata quorum did not answer in time; the change may take effect yet")]
    TimedOut,
    /// REQUEST_TIMED_OUT: the quorum stopped on this node; whether the command took effect shows after the restart.
    #[error("the metadata quorum has stopped on this node")]
    Stopped,
}

impl CommandError {
    /// The number of the Kafka error that this stands for (`org.apache.kafka.common.protocol.Errors`).
    pub const fn kafka_error_code(&self) -> i16 {
        match self {
            Self::Rejected(rejection) => rejection.kafka_error_code(),
            Self::NotLeader { .. } => 41,
            Self::TimedOut | Self::Stopped => 7,
        }
    }
}

/// Why the metadata of this node can't be opened.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// The storage can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The quorum has other voters, and this node is not to reach them.
    #[error("this broker belongs to a cluster of several; start it with --peer-listen")]
    NeedsPeers,
    /// The quorum has other voters, and this node has nothing to show them.
    #[error(
        "this broker's certificate for its peers is missing, and the others don't know it without; restore the directory peers of its first data directory, or have it join anew with an empty data directory"
    )]
    NoIdentity,
    /// The cluster knows this node no more.
    #[error(
        "this node was removed from the cluster; to have it join anew give it an empty data directory, --join and a token"
    )]
    Removed,
    /// The quorum does not work.
    #[error("metadata quorum failed: {0}")]
    Quorum(Box<dyn std::error::Error + Send + Sync>),
}

impl MetadataError {
    /// Whether what is stored is there and can't be read.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Store(StoreError::Database(_) | StoreError::Decode(_) | StoreError::NoStamp { .. }))
    }

    pub(super) fn quorum(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Quorum(Box::new(source))
    }
}

impl From<LaneStopped> for MetadataError {
    fn from(stopped: LaneStopped) -> Self {
        Self::Store(stopped.into())
    }
}

/// Stored metadata that can't be read.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Written by a later version of alluvium.
    #[error("{what} were written by a newer version; upgrade this node format={found} supported={supported}")]
    UnsupportedFormat {
        /// What was being read.
        what: &'static str,
        /// The format found.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// The bytes end too early.
    #[error("{what} are cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The checksum does not match.
    #[error("{what} are corrupt stored_checksum={stored:#010x} computed_checksum={computed:#010x}")]
    ChecksumMismatch {
        /// What was being read.
        what: &'static str,
        /// Checksum that was written.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// The bytes are no valid encoding.
    #[error("{what} are malformed")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

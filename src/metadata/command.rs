//! Commands: everything that can change the cluster's metadata, as values that the metadata log holds.
//!
//! A command carries all that its effect depends on (identities, placements, resolved configuration values), because
//! [`machine::apply`](super::machine::apply) has no clock, no randomness and no registry of defaults: the same log gives
//! the same image on every node and in every later version. Commands that arrive while the log is being written share
//! one log entry, a *group*. Fields added later carry a serde default; fields unknown to this version are refused,
//! because skipping one would let nodes diverge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::image::{ArchiveMark, ClusterAuthority};
use crate::types::{
    BrokerEpoch, BrokerIncarnationId, ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch,
    ProducerId, TopicId, TopicPartition,
};

/// Format of encoded groups and their commands; a higher number is refused.
pub const COMMAND_FORMAT: u8 = 1;

/// One change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Gives the cluster its identity; the first command of every cluster.
    SetClusterId(ClusterId),
    /// Announces a broker process.
    RegisterBroker(RegisterBroker),
    /// Creates a topic.
    CreateTopic(CreateTopic),
    /// Deletes a topic; its identity stays listed until [`Command::ForgetTopic`].
    DeleteTopic {
        /// The topic.
        topic_id: TopicId,
    },
    /// Removes a deleted topic from the list, once nothing of it is left on any disk or in the bucket.
    ForgetTopic {
        /// The deleted topic.
        topic_id: TopicId,
    },
    /// Adds partitions to a topic.
    CreatePartitions(CreatePartitions),
    /// Changes the configuration overrides of a topic.
    AlterTopicConfigs {
        /// The topic.
        topic_id: TopicId,
        /// What changes.
        change: ConfigChange,
    },
    /// Changes the dynamic configuration of one broker, or the cluster-wide default of all.
    AlterBrokerConfigs {
        /// The broker, or none for the default of all brokers.
        node_id: Option<NodeId>,
        /// What changes.
        change: ConfigChange,
    },
    /// Hands a block of producer ids to a broker.
    AllocateProducerIds {
        /// The broker.
        node_id: NodeId,
        /// The broker's current epoch, which fences an earlier process.
        broker_epoch: BrokerEpoch,
    },
    /// Notes how far a partition is about to be archived. Written before the archive's own commit, so that a log which is
    /// found to end earlier, or to hold other records there, is known to be behind.
    NoteArchiving {
        /// The partition.
        partition: TopicPartition,
        /// The end that the archive will have.
        mark: ArchiveMark,
    },
    /// Gives up a data directory that is gone for good: its replicas move to the broker's other directories, and partitions of
    /// internal topics that had their records nowhere else are noted as unrestored.
    ReplaceDirectory {
        /// The broker.
        node_id: NodeId,
        /// The directory that is gone.
        directory: DirectoryId,
    },
    /// Notes that records of a partition of an internal topic are lost, and are to be looked for elsewhere: it is unrestored.
    NoteLost {
        /// The partition.
        partition: TopicPartition,
    },
    /// Notes that unrestored partitions have what could be found of their records.
    NoteRestored {
        /// The partitions.
        partitions: Vec<TopicPartition>,
    },
    /// Finalizes a feature at a level (KIP-584); level 0 removes it.
    SetFeatureLevel {
        /// Kafka's name of the feature, as `metadata.version`.
        name: String,
        /// The level.
        level: i16,
    },
    /// Takes a broker for gone: others lead what it led, and its replicas are out of sync.
    FenceBroker {
        /// The broker.
        node_id: NodeId,
        /// The registration that is gone.
        broker_epoch: BrokerEpoch,
    },
    /// Lets a fenced broker lead again. Leaders take its replicas back into sync one by one, once they have caught up.
    UnfenceBroker {
        /// The broker.
        node_id: NodeId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
    },
    /// Has a broker that is about to shut down lead nothing any more that somebody else can.
    DrainBroker {
        /// The broker.
        node_id: NodeId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
    },
    /// Forgets a broker that is gone for good. Its replicas stay where they are until they are moved.
    UnregisterBroker {
        /// The broker.
        node_id: NodeId,
    },
    /// Notes that a data directory went offline while its broker runs. The last one takes the broker with it.
    FailDirectory {
        /// The broker.
        node_id: NodeId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
        /// The directory.
        directory: DirectoryId,
    },
    /// Changes which replicas of a partition are in sync.
    AlterPartition(AlterPartition),
    /// Elects leaders. What came of it is in the image.
    ElectLeaders {
        /// The partitions; those that are not there any more, or need or can have no leader, are passed over.
        partitions: Vec<TopicPartition>,
        /// Who may lead.
        how: Election,
    },
    /// Moves the replicas of a partition (KIP-455).
    AssignReplicas {
        /// The partition.
        partition: TopicPartition,
        /// Where they are to be, preferred leader first; none takes back what is under way.
        target: Option<Vec<ReplicaPlace>>,
    },
    /// Makes the authority known that issues the nodes' certificates, and the secret that tokens for joining are made with.
    SetAuthority(ClusterAuthority),
    /// Begins another life of the cluster, which is restored from its bucket.
    BeginIncarnation {
        /// How often it was restored by now: more often than before.
        incarnation: Incarnation,
        /// The first producer id that no life before can have given out.
        next_producer_id: ProducerId,
    },
}

impl Command {
    /// What the command weighs in the log and when it is applied again: one, and one for each partition that it creates.
    pub fn weight(&self) -> usize {
        match self {
            Self::CreateTopic(command) => 1 + command.assignment.len(),
            Self::CreatePartitions(command) => 1 + command.assignment.len(),
            _ => 1,
        }
    }
}

/// A broker process announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterBroker {
    /// The cluster that the broker believes to belong to.
    pub cluster_id: ClusterId,
    /// The broker.
    pub node_id: NodeId,
    /// Fresh with every process, so that a restart can be told from a repeated request.
    pub incarnation_id: BrokerIncarnationId,
    /// The address to advertise, by name of listener.
    pub listeners: BTreeMap<String, Endpoint>,
    /// The failure domain, if any.
    pub rack: Option<String>,
    /// The data directories that are online.
    pub directories: Vec<DirectoryId>,
    /// The newest leader epoch of logs that are ahead of the metadata: those that begin now are above it.
    #[serde(default)]
    pub newest_leader_epoch: Option<LeaderEpoch>,
    /// Registrations that the metadata does not know of, as such logs tell: a copy of it was put back. The epoch of this one is above
    /// theirs.
    #[serde(default)]
    pub missed_registrations: u32,
    /// Where other brokers reach it, as `host:port`; none for a broker by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether it waits to be unfenced. A broker by itself does not: it is active at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starts_fenced: bool,
    /// Its machine went down without a proper end: what was acknowledged but not on stable storage (`write.caching`) may be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_have_lost_unsynced: bool,
}

/// Where clients reach a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Host name or address, as given to clients.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What is spoken beneath the Kafka protocol.
    pub security_protocol: SecurityProtocol,
}

/// What a listener speaks beneath the Kafka protocol; numbered as Kafka's `SecurityProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityProtocol {
    /// Nothing.
    Plaintext = 0,
    /// TLS.
    Ssl = 1,
    /// SASL in plain text.
    SaslPlaintext = 2,
    /// SASL over TLS.
    SaslSsl = 3,
}

/// Where one replica of a partition lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaPlace {
    /// The broker.
    pub node_id: NodeId,
    /// The broker's data directory.
    pub directory: DirectoryId,
}

/// The replicas of each new partition, preferred leader first.
pub type Assignment = Vec<Vec<ReplicaPlace>>;

/// Creates a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopic {
    /// The name.
    pub name: String,
    /// A fresh identity.
    pub topic_id: TopicId,
    /// The replicas of each partition, which also gives their number.
    pub assignment: Assignment,
    /// Configuration overrides, already validated.
    pub configs: BTreeMap<String, String>,
    /// One of the broker's own topics, as `__consumer_offsets`.
    pub internal: bool,
}

/// Adds partitions to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePartitions {
    /// The topic.
    pub topic_id: TopicId,
    /// How many partitions the topic has before this command; another number rejects it.
    pub existing: i32,
    /// The replicas of each partition to add.
    pub assignment: Assignment,
}

/// The leader of a partition says which replicas are in sync (KIP-497, KIP-841).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlterPartition {
    /// The leader.
    pub node_id: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that it leads in.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch that it has seen; another one rejects the command.
    pub partition_epoch: PartitionEpoch,
    /// The replicas that are in sync, the leader among them, with the registrations that they caught up in.
    pub in_sync: Vec<(NodeId, BrokerEpoch)>,
}

/// Who may be elected; Kafka's `ElectionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Election {
    /// The first replica, where it is in sync and available, and another one leads.
    Preferred,
    /// Where nobody leads: whoever has all that was acknowledged, or else any replica that is available, at the price of records.
    Unclean,
}

/// A change of configuration values that was resolved and validated against the values of one version.
///
/// Appending to and subtracting from lists is resolved by the sender, since what is valid depends on the registry of its
/// version. `expected_version` makes that safe: if somebody else's change came first, the command is rejected with
/// [`Rejection::ConfigChanged`](super::error::Rejection::ConfigChanged) and resolved again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// Version of the values that the change was resolved against.
    pub expected_version: u64,
    /// New value by name; none removes the override.
    pub values: BTreeMap<String, Option<String>>,
}

/// What an accepted command did, where its sender needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing beyond the command itself.
    Done,
    /// The broker's new epoch.
    BrokerRegistered(BrokerEpoch),
    /// A block of producer ids for the broker to hand out.
    ProducerIds {
        /// The first id of the block.
        first: ProducerId,
        /// Number of ids in the block.
        count: i32,
    },
    /// The in-sync replicas are as asked for, or what the rest of the cluster's state makes of that.
    PartitionAltered {
        /// The partition's epoch now.
        partition_epoch: PartitionEpoch,
    },
}

/// Encodes the commands of one log entry: the format byte, then a JSON array.
pub fn encode_group(commands: &[Command]) -> Vec<u8> {
    let mut bytes = vec![COMMAND_FORMAT];
    serde_json::to_writer(&mut bytes, commands).expect("commands have string keys and memory does not fail");
    bytes
}

/// Decodes the commands of one log entry.
///
/// # Errors
/// [`DecodeError`] for a format newer than [`COMMAND_FORMAT`], and for bytes that [`encode_group`] did not write.
pub fn decode_group(bytes: &[u8]) -> Result<Vec<Command>, DecodeError> {
    match bytes.split_first() {
        Some((&COMMAND_FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|source| DecodeError::Malformed { what: "commands", source })
        }
        Some((&found, _)) => Err(DecodeError::UnsupportedFormat {
            what: "commands",
            found: found.into(),
            supported: COMMAND_FORMAT.into(),
        }),
        None => Err(DecodeError::Truncated { what: "commands" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_back_and_a_newer_format_is_refused() {
        let commands = vec![
            Command::SetClusterId(ClusterId::from_entropy([1; 16])),
            Command::DeleteTopic { topic_id: TopicId::from_entropy([2; 16]) },
        ];
        let mut bytes = encode_group(&commands);
        assert_eq!(decode_group(&bytes).unwrap(), commands);
        bytes[0] = COMMAND_FORMAT + 1;
        assert!(matches!(decode_group(&bytes), Err(DecodeError::UnsupportedFormat { found: 2, .. })));
        assert!(matches!(decode_group(&[]), Err(DecodeError::Truncated { .. })));
    }

    #[test]
    fn encoded_bytes_are_frozen() {
        let command = Command::AlterBrokerConfigs {
            node_id: None,
            change: ConfigChange {
                expected_version: 3,
                values: BTreeMap::from([("log.retention.ms".to_owned(), Some("-1".to_owned()))]),
            },
        };
        let text = r#"[{"alter_broker_configs":{"node_id":null,"change":{"expected_version":3,"values":{"log.retention.ms":"-1"}}}}]"#;
        assert_eq!(encode_group(&[command]), [&[1], text.as_bytes()].concat());
    }

    #[test]
    fn what_later_versions_added_to_a_registration_is_not_written_where_it_says_nothing() {
        let registration = crate::metadata::testing::register(1, 1);
        let bytes = encode_group(&[Command::RegisterBroker(registration.clone())]);
        let text = std::str::from_utf8(&bytes[1..]).unwrap();
        assert!(text.ends_with(r#""newest_leader_epoch":null,"missed_registrations":0}}]"#), "{text}");
        let old = text.replace(r#","newest_leader_epoch":null,"missed_registrations":0"#, "");
        let old = [&[COMMAND_FORMAT], old.as_bytes()].concat();
        assert_eq!(decode_group(&old).unwrap(), [Command::RegisterBroker(registration)]);
    }

    #[test]
    fn the_clusters_secrets_are_not_shown_when_a_command_is() {
        let (certificate, key, join_secret) = (vec![0xab, 1], vec![0xcd, 2], vec![0xef, 3]);
        let command = Command::SetAuthority(ClusterAuthority { certificate, key, join_secret });
        let bytes = encode_group(std::slice::from_ref(&command));
        let text = r#"[{"set_authority":{"certificate":"ab01","key":"cd02","join_secret":"ef03"}}]"#;
        assert_eq!(bytes, [&[1], text.as_bytes()].concat());
        assert_eq!(decode_group(&bytes).unwrap(), std::slice::from_ref(&command));
        let shown = format!("{command:?}");
        assert!(!shown.contains("205") && !shown.contains("239") && !shown.contains("cd"), "{shown}");
        let odd = [&[1], text.replace("cd02", "cd0").as_bytes()].concat();
        assert!(decode_group(&odd).is_err());
    }

    #[test]
    fn the_beginning_of_an_incarnation_has_frozen_bytes() {
        let (incarnation, next_producer_id) = (Incarnation(2), ProducerId(3000));
        let command = Command::BeginIncarnation { incarnation, next_producer_id };
        let bytes = encode_group(std::slice::from_ref(&command));
        let text = r#"[{"begin_incarnation":{"incarnation":2,"next_producer_id":3000}}]"#;
        assert_eq!(bytes, [&[1], text.as_bytes()].concat());
        assert_eq!(decode_group(&bytes).unwrap(), [command]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let bytes = [
            &[COMMAND_FORMAT],
            br#"[{"delete_topic":{"topic_id":"00000000000000000000000000000001","later":1}}]"#.as_slice(),
        ]
        .concat();
        assert!(decode_group(&bytes).is_err());
    }
}

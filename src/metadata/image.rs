//! The image: what the metadata log says, as one immutable value.
//!
//! Brokers hold an `Arc<Image>` and read it without locks; the next image shares with it all that a command did not
//! touch, so that a command costs what it changes and not what the cluster holds. Everything is ordered, so that equal
//! images have equal encodings. An image is written down only as a snapshot; after a crash it is the last snapshot plus
//! the log behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use super::command::Endpoint;
use super::{hex, topic_name};
use crate::types::{
    BrokerEpoch, BrokerIncarnationId, ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, Offset, PartitionEpoch,
    ProducerId, TopicId, TopicPartition,
};

/// All metadata of the cluster, as of one position in the metadata log.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub(super) version: u64,
    pub(super) cluster_id: ClusterId,
    pub(super) incarnation: Incarnation,
    pub(super) next_broker_epoch: BrokerEpoch,
    pub(super) next_producer_id: ProducerId,
    pub(super) partition_count: u64,
    pub(super) brokers: OrdMap<NodeId, Arc<Broker>>,
    pub(super) topics: OrdMap<TopicId, Arc<Topic>>,
    pub(super) topic_ids: OrdMap<Arc<str>, TopicId>,
    /// Names that contain '.' or '_', with '_' for '.': only such names can collide.
    pub(super) collision_keys: OrdMap<String, Arc<str>>,
    pub(super) deleted_topics: OrdMap<TopicId, Arc<DeletedTopic>>,
    pub(super) broker_configs: OrdMap<Option<NodeId>, Arc<Configs>>,
    pub(super) feature_levels: OrdMap<String, i16>,
    pub(super) archived: OrdMap<TopicPartition, ArchiveMark>,
    pub(super) unrestored: OrdSet<TopicPartition>,
    pub(super) authority: Option<Arc<ClusterAuthority>>,
}

/// How far the archive of a partition may reach: everything that was ever committed to it ends at or below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveMark {
    /// First offset that is not archived.
    pub next_offset: Offset,
    /// Leader epoch of the last record before it.
    pub leader_epoch: LeaderEpoch,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Its number.
    pub node_id: NodeId,
    /// Term of its registration.
    pub epoch: BrokerEpoch,
    /// The process that registered.
    pub incarnation_id: BrokerIncarnationId,
    /// The address to advertise, by name of listener.
    pub listeners: BTreeMap<String, Endpoint>,
    /// The failure domain, if any.
    pub rack: Option<String>,
    /// The data directories that are online; never none.
    pub directories: Vec<DirectoryId>,
    /// Where other brokers reach it, as `host:port`; none for a broker by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether it takes part.
    #[serde(default, skip_serializing_if = "BrokerState::is_active")]
    pub state: BrokerState,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// It leads and follows.
    #[default]
    Active,
    /// It is gone, or has just come: nothing is led there.
    Fenced,
    /// It is about to go: it leads only what nobody else can.
    ShuttingDown,
}

impl BrokerState {
    /// Whether replicas there may become leaders.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

/// What makes certificates of this cluster's nodes, and lets new ones in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterAuthority {
    /// The authority's certificate (DER).
    #[serde(with = "hex")]
    pub certificate: Vec<u8>,
    /// Its private key (PKCS#8).
    #[serde(with = "hex")]
    pub key: Vec<u8>,
    /// What tokens for joining are made with.
    #[serde(with = "hex")]
    pub join_secret: Vec<u8>,
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAuthority").finish_non_exhaustive()
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub topic_id: TopicId,
    /// One of the broker's own topics.
    pub internal: bool,
    /// What is configured for this topic alone.
    pub configs: Configs,
    /// The partitions; a partition's number is its position.
    pub partitions: Vector<Partition>,
}

/// Who holds and who leads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The replicas, preferred leader first; each broker at most once. While they are being moved, those that are to stay come
    /// first. Shared by the images that have them: a partition costs little where a neighbour changes.
    pub replicas: Arc<[Replica]>,
    /// The leader, if one could be chosen; one of the in-sync replicas.
    pub leader: Option<NodeId>,
    /// Grows whenever the leader or its process changes.
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this value.
    pub partition_epoch: PartitionEpoch,
    /// What is to change about the replicas, while it does (KIP-455).
    pub moving: Option<Box<Moving>>,
}

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The broker that holds it.
    pub node_id: NodeId,
    /// The data directory that holds it.
    pub directory: DirectoryId,
    /// What it has of the partition's records.
    pub state: ReplicaState,
}

/// What a replica has of its partition's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It may lack some that were acknowledged.
    Behind = 0,
    /// All, and none is acknowledged without it.
    InSync = 1,
    /// All that were acknowledged: it left the in-sync replicas, and those that are left are too few to acknowledge more (KIP-966).
    Eligible = 2,
}

/// Replicas that come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moving {
    /// Brokers that get a replica, until it is in sync.
    pub adding: Vec<NodeId>,
    /// Brokers whose replica goes once all others are in sync.
    pub removing: Vec<NodeId>,
}

/// Configuration overrides of one topic or broker, raw as they were set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configs {
    /// Number of changes so far.
    pub version: u64,
    /// Value by name.
    pub values: BTreeMap<String, String>,
}

/// A topic that was deleted, but of which disks or the bucket may still hold something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedTopic {
    /// Its identity.
    pub topic_id: TopicId,
    /// Its name when it lived; another topic may have it now.
    pub name: String,
    /// How many partitions it had.
    pub partitions: i32,
}

/// How a topic differs between two images.
#[derive(Clone, Debug, PartialEq)]
pub enum TopicChange {
    /// It is new.
    Created(Arc<Topic>),
    /// Its configuration or partitions changed.
    Changed {
        /// As it was.
        before: Arc<Topic>,
        /// As it is.
        after: Arc<Topic>,
    },
    /// It is gone.
    Deleted(Arc<Topic>),
}

impl Partition {
    /// Brokers that hold a replica, preferred leader first (Kafka's `replicas`).
    pub fn replica_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().map(|replica| replica.node_id)
    }

    /// Brokers whose replica is in sync (Kafka's `isr`).
    pub fn in_sync_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes_in(ReplicaState::InSync)
    }

    /// Brokers that may lead although they are not in sync, since they have all that was acknowledged (KIP-966).
    pub fn eligible_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes_in(ReplicaState::Eligible)
    }

    fn nodes_in(&self, state: ReplicaState) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().filter(move |replica| replica.state == state).map(|replica| replica.node_id)
    }

    /// The replica on a broker.
    pub fn replica_on(&self, node_id: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node_id == node_id)
    }
}

impl Topic {
    /// A partition by its number.
    pub fn partition(&self, partition: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    /// The number of partitions, as the wire counts them.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).expect("a topic has at most MAX_TOPIC_PARTITIONS partitions")
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            version: 0,
            cluster_id: ClusterId::ZERO,
            incarnation: Incarnation(0),
            next_broker_epoch: BrokerEpoch(1),
            next_producer_id: ProducerId(0),
            partition_count: 0,
            brokers: OrdMap::new(),
            topics: OrdMap::new(),
            topic_ids: OrdMap::new(),
            collision_keys: OrdMap::new(),
            deleted_topics: OrdMap::new(),
            broker_configs: OrdMap::new(),
            feature_levels: OrdMap::new(),
            archived: OrdMap::new(),
            unrestored: OrdSet::new(),
            authority: None,
        }
    }
}

impl Image {
    /// Index of the last log entry that is part of this image; 0 before the first.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Identity of the cluster; zero before it was bootstrapped.
    pub const fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// How often the cluster was restored from its bucket: the life that its archive has to be in.
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// A broker by its number.
    pub fn broker(&self, node_id: NodeId) -> Option<&Arc<Broker>> {
        self.brokers.get(&node_id)
    }

    /// The brokers whose copy of a partition is in a data directory that they can't use.
    pub fn offline_nodes(&self, partition: &Partition) -> Vec<NodeId> {
        let is_online = |replica: &&Replica| {
            self.broker(replica.node_id).is_some_and(|broker| broker.directories.contains(&replica.directory))
        };
        partition.replicas.iter().filter(|replica| !is_online(replica)).map(|replica| replica.node_id).collect()
    }

    /// Whether a replica may become the leader, as far as its broker and its data directory go.
    pub fn is_available(&self, replica: &Replica) -> bool {
        let broker = self.broker(replica.node_id);
        broker.is_some_and(|broker| broker.state.is_active() && broker.directories.contains(&replica.directory))
    }

    /// What makes the nodes' certificates; none in a cluster that never had a second broker, or whose operator makes them.
    pub const fn authority(&self) -> Option<&Arc<ClusterAuthority>> {
        self.authority.as_ref()
    }

    /// All brokers by number.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// Whether another image has the same brokers, all as they are here.
    pub fn has_same_brokers(&self, other: &Self) -> bool {
        self.brokers.ptr_eq(&other.brokers) || self.brokers == other.brokers
    }

    /// A topic by its identity.
    pub fn topic(&self, topic_id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&topic_id)
    }

    /// A topic by its name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// All topics in order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topic_ids.values().map(|topic_id| &self.topics[topic_id])
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of partitions of all topics.
    pub const fn partition_count(&self) -> u64 {
        self.partition_count
    }

    /// A partition by its identity.
    pub fn partition(&self, partition: TopicPartition) -> Option<&Partition> {
        self.topic(partition.topic_id)?.partition(partition.partition.get())
    }

    /// Topics that were deleted but not yet forgotten.
    pub fn deleted_topics(&self) -> impl Iterator<Item = &Arc<DeletedTopic>> {
        self.deleted_topics.values()
    }

    /// Whether a topic is one of them.
    pub fn is_deleted(&self, topic_id: TopicId) -> bool {
        self.deleted_topics.contains_key(&topic_id)
    }

    /// Dynamic configuration of a broker, or with none the cluster-wide default; absent when nothing was ever set.
    pub fn broker_configs(&self, node_id: Option<NodeId>) -> Option<&Arc<Configs>> {
        self.broker_configs.get(&node_id)
    }

    /// Finalized features by name.
    pub fn feature_levels(&self) -> impl Iterator<Item = (&str, i16)> {
        self.feature_levels.iter().map(|(name, level)| (name.as_str(), *level))
    }

    /// How far the archives of all partitions may reach.
    pub fn archive_marks(&self) -> impl Iterator<Item = (TopicPartition, ArchiveMark)> {
        self.archived.iter().map(|(partition, mark)| (*partition, *mark))
    }

    /// How far the archive of a partition may reach; absent before its first segment.
    pub fn archive_mark(&self, partition: TopicPartition) -> Option<ArchiveMark> {
        self.archived.get(&partition).copied()
    }

    /// Partitions of internal topics of which records were lost, with a data directory or because something of it is damaged, and
    /// have not been looked for yet. Nothing archives them, so they lack them until then.
    pub const fn unrestored(&self) -> &OrdSet<TopicPartition> {
        &self.unrestored
    }

    /// The data directories of a broker that hold replicas, with their number.
    pub fn directories_in_use(&self, node_id: NodeId) -> BTreeMap<DirectoryId, usize> {
        let mut used = BTreeMap::new();
        for partition in self.topics.values().flat_map(|topic| topic.partitions.iter()) {
            if let Some(replica) = partition.replica_on(node_id) {
                *used.entry(replica.directory).or_default() += 1;
            }
        }
        used
    }

    /// The first producer id that no broker has been given.
    pub const fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// How topics differ from those of an older image, in order of their identities. Costs what changed: parts that both
    /// images share are skipped.
    pub fn topic_changes<'a>(&'a self, older: &'a Self) -> impl Iterator<Item = TopicChange> + 'a {
        older.topics.diff(&self.topics).map(|item| match item {
            DiffItem::Add(_, topic) => TopicChange::Created(Arc::clone(topic)),
            DiffItem::Remove(_, topic) => TopicChange::Deleted(Arc::clone(topic)),
            DiffItem::Update { old: (_, before), new: (_, after) } => {
                TopicChange::Changed { before: Arc::clone(before), after: Arc::clone(after) }
            }
        })
    }

    /// Adds a topic to all the maps that know it.
    pub(super) fn insert_topic(&mut self, topic: Topic) {
        let name = Arc::clone(&topic.name);
        if let Some(key) = topic_name::collision_key(&name) {
            self.collision_keys.insert(key, Arc::clone(&name));
        }
        self.partition_count += topic.partitions.len() as u64;
        self.topic_ids.insert(name, topic.topic_id);
        self.topics.insert(topic.topic_id, Arc::new(topic));
    }

    /// Takes a topic out of all the maps that know it.
    pub(super) fn remove_topic(&mut self, topic_id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(&topic_id)?;
        self.topic_ids.remove(&topic.name);
        if let Some(key) = topic_name::collision_key(&topic.name) {
            self.collision_keys.remove(&key);
        }
        self.partition_count -= topic.partitions.len() as u64;
        for partition in 0..topic.partition_count() {
            let partition = TopicPartition::new(topic_id, partition);
            self.archived.remove(&partition);
            self.unrestored.remove(&partition);
        }
        Some(topic)
    }
}

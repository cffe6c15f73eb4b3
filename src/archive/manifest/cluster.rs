//! The stamps of cluster and topic, the high water of producer ids, and which snapshot of the groups counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Hex128, MANIFEST_FORMAT, ManifestError, parse, to_json};
use crate::types::{
    BrokerEpoch, BrokerIncarnationId, ClusterId, Incarnation, LeaderEpoch, NodeId, ProducerId, Timestamp, TopicId,
};

/// `cluster.json`: whose bucket this is, and in which life of the cluster. Changed only by conditional writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterStamp {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Raised by every restore; fences whatever still runs of the life before.
    pub incarnation: Incarnation,
    /// When the cluster was first seen here, for people.
    pub created: Timestamp,
    /// Random, new with every change.
    pub nonce: Hex128,
}

impl ClusterStamp {
    /// The stamp of a new cluster.
    pub const fn first(cluster_id: ClusterId, created: Timestamp, nonce: Hex128) -> Self {
        Self { format: MANIFEST_FORMAT, cluster_id, incarnation: Incarnation(0), created, nonce }
    }

    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        to_json(self)
    }

    /// Reads a stamp.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        parse(bytes)
    }
}

/// Where a topic is in its life. The description outlives the topic, so that a restore never brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicState {
    /// In use.
    Live,
    /// Deleted by its users; its objects are being deleted.
    Deleting,
    /// Nothing of it is left but this description.
    Purged,
}

/// `topic.json`: what a restore needs to create the topic again. Changed only by conditional writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicDescription {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The topic's name.
    pub topic: String,
    /// The topic's identity.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// The configs that were set on it, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: TopicState,
    /// Random, new with every change.
    pub nonce: Hex128,
}

impl TopicDescription {
    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        to_json(self)
    }

    /// Reads a description.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        parse(bytes)
    }
}

/// `meta/producer-ids.json`: no producer id at or above this was ever handed out, when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducerIdMark {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The first id that was not handed out.
    pub next_producer_id: ProducerId,
    /// Random, new with every change.
    pub nonce: Hex128,
}

impl ProducerIdMark {
    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        to_json(self)
    }

    /// Reads a mark.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        parse(bytes)
    }
}

/// A process of a broker, in the order of its registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// The life of the cluster.
    pub incarnation: Incarnation,
    /// The term of the broker's registration in it.
    pub broker_epoch: BrokerEpoch,
    /// The broker.
    pub broker: NodeId,
    /// Random, one for each process: tells two apart that run on copies of one data directory.
    pub process: BrokerIncarnationId,
}

impl Registered {
    /// Whether this process may change what `other` wrote last: its own, or what an earlier registration wrote.
    pub fn may_follow(&self, other: &Self) -> bool {
        self == other || (self.incarnation, self.broker_epoch) > (other.incarnation, other.broker_epoch)
    }
}

/// `meta/groups.json`: which snapshot of the groups counts, and who may store the next one. Changed only by conditional writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSnapshotMark {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Who stored the snapshot.
    pub writer: Registered,
    /// Counts the snapshots; with `hash` it names the object.
    pub generation: u64,
    /// Of all bytes of the snapshot's object.
    pub hash: Hex128,
    /// Whose groups it has, where several brokers store theirs; none of a broker by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<GroupShares>,
    /// Random, new with every change.
    pub nonce: Hex128,
}

/// The leaders of `__consumer_offsets` whose groups a snapshot has as they told them. Each stores its own, and leaves those of others
/// as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupShares {
    /// Which topic of that name it is.
    pub topic_id: TopicId,
    /// The epoch of the leader, by partition.
    pub leader_epochs: BTreeMap<i32, LeaderEpoch>,
}

impl GroupShares {
    /// Whether all of `own` is here, or what later leaders said.
    pub fn have(&self, own: &Self) -> bool {
        self.topic_id == own.topic_id
            && own.leader_epochs.iter().all(|(number, epoch)| self.epoch_of(*number).is_some_and(|it| it >= *epoch))
    }

    /// The part of `own` that no later leader has stored.
    pub fn newest_of(&self, own: &Self) -> Self {
        let mut newest = own.clone();
        if self.topic_id == own.topic_id {
            newest.leader_epochs.retain(|number, epoch| self.epoch_of(*number).is_none_or(|stored| stored <= *epoch));
        }
        newest
    }

    fn epoch_of(&self, partition: i32) -> Option<LeaderEpoch> {
        self.leader_epochs.get(&partition).copied()
    }

    /// These with `own` in place of what was there. Of another topic nothing is left.
    #[must_use]
    pub fn with(&self, own: &Self) -> Self {
        let mut merged = if self.topic_id == own.topic_id { self.clone() } else { own.clone() };
        merged.leader_epochs.extend(&own.leader_epochs);
        merged
    }
}

impl GroupSnapshotMark {
    /// Whether a process may store the next snapshot: all of it, or its share. Which share is a leader's is for [`GroupShares`] to
    /// say; that tells two processes of one broker apart as well, which lead in different epochs.
    pub fn may_be_followed(&self, writer: &Registered, stores_share: bool) -> bool {
        match (stores_share, &self.shares) {
            (false, _) => writer.may_follow(&self.writer),
            (true, None) if writer.broker == self.writer.broker => writer.may_follow(&self.writer),
            (true, _) => writer.incarnation >= self.writer.incarnation,
        }
    }

    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        to_json(self)
    }

    /// Reads a mark.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        parse(bytes)
    }
}

//! Where everything lies in the bucket.
//!
//! ```text
//! alluvium/v1/<cluster>/cluster.json
//! alluvium/v1/<cluster>/meta/groups.json
//! alluvium/v1/<cluster>/meta/groups/<generation:020>-<hash:032x>.zst
//! alluvium/v1/<cluster>/meta/producer-ids.json
//! alluvium/v1/<cluster>/topics/<topic>-<topic id>/topic.json
//! alluvium/v1/<cluster>/topics/<topic>-<topic id>/p=00007/head.json
//! alluvium/v1/<cluster>/topics/<topic>-<topic id>/p=00007/spill/<first:020>-<next:020>-<generation:020>.json.zst
//! alluvium/v1/<cluster>/log/<topic>-<topic id>/kafka_partition=7/
//!     <base:020>-<next:020>-<incarnation:08x>-<epoch:08x>-<uuid:12>.parquet   and .aux beside it
//! ```
//! The topic's identity is in every path, so a topic that is deleted and created again never meets its past. Names of log
//! objects carry who wrote them: incarnation and leader epoch decide whether a leftover can still be committed. Nothing
//! is ever told from a listing but what may be swept, and to people what looks lost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::manifest::Hex128;
use crate::types::{ClusterId, Incarnation, LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

/// Everything of every cluster in a bucket lies below this.
pub const BUCKET_ROOT: &str = "alluvium/v1/";
/// Longest part of a topic's name that keys show: a file's name has 255 bytes, the identity 32 and a dash.
const SHOWN_NAME_BYTES: usize = 222;

/// Who may write: first by restores of the cluster, then by leadership of the partition. The larger one fences the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// How often the cluster was restored.
    pub incarnation: Incarnation,
    /// The leader's term within it.
    pub leader_epoch: LeaderEpoch,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incarnation, self.leader_epoch)
    }
}

/// Six random bytes that make the name of a log object unique; prints as 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentUuid([u8; 6]);

impl SegmentUuid {
    /// Takes six of sixteen random bytes.
    pub const fn from_entropy(bytes: [u8; 16]) -> Self {
        Self([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }
}

impl fmt::Display for SegmentUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for SegmentUuid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a segment's identity is 12 hexadecimal digits");
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| "a segment's identity is 12 hexadecimal digits")?;
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for SegmentUuid {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SegmentUuid> for String {
    fn from(uuid: SegmentUuid) -> Self {
        uuid.to_string()
    }
}

/// Keys of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterKeys {
    cluster_id: ClusterId,
}

impl ClusterKeys {
    /// Keys of the cluster with this identity.
    pub const fn new(cluster_id: ClusterId) -> Self {
        Self { cluster_id }
    }

    /// The cluster's identity.
    pub const fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The directory of the cluster.
    pub fn root(&self) -> String {
        format!("{BUCKET_ROOT}{}/", self.cluster_id)
    }

    /// The cluster's stamp.
    pub fn cluster(&self) -> String {
        format!("{}cluster.json", self.root())
    }

    /// The directory of snapshots of the groups' committed offsets.
    pub fn group_snapshots(&self) -> String {
        format!("{}meta/groups/", self.root())
    }

    /// One snapshot of the groups' committed offsets, by the hash of the object.
    pub fn group_snapshot(&self, generation: u64, hash: Hex128) -> String {
        format!("{}{generation:020}-{hash}.zst", self.group_snapshots())
    }

    /// Which snapshot of the groups counts.
    pub fn group_snapshot_mark(&self) -> String {
        format!("{}meta/groups.json", self.root())
    }

    /// The producer-id high water.
    pub fn producer_ids(&self) -> String {
        format!("{}meta/producer-ids.json", self.root())
    }

    /// The directory of all topics' metadata.
    pub fn topics(&self) -> String {
        format!("{}topics/", self.root())
    }

    /// The directory of all topics' log objects.
    pub fn logs(&self) -> String {
        format!("{}log/", self.root())
    }

    /// Keys of one topic; the same ones by its name and by the [`shown_name`] of it.
    pub fn topic(&self, name: &str, topic_id: TopicId) -> TopicKeys {
        let root = self.root();
        let directory = format!("{}-{topic_id}", shown_name(name));
        TopicKeys { topic_id, metadata: format!("{root}topics/{directory}/"), log: format!("{root}log/{directory}/") }
    }
}

/// A topic's name as keys show it: with the identity behind it a name that files may have, which has 255 bytes and is not
/// hidden. It is for people; the identity tells topics apart.
pub fn shown_name(name: &str) -> String {
    let shown = name.get(..SHOWN_NAME_BYTES).unwrap_or(name);
    shown.strip_prefix('.').map_or_else(|| shown.to_owned(), |rest| format!("-{rest}"))
}

/// Reads a topic's name, as keys show it, and identity from the key of anything below its metadata or log directory.
pub fn parse_topic(key: &str) -> Option<(&str, TopicId)> {
    let (_, below) = key.strip_prefix(BUCKET_ROOT)?.split_once('/')?;
    let (kind, below) = below.split_once('/')?;
    if kind != "topics" && kind != "log" {
        return None;
    }
    let (name, id) = below.split('/').next()?.rsplit_once('-')?;
    Some((name, id.parse().ok()?))
}

/// Reads a partition's number from the key of anything below its metadata or log directory.
pub fn parse_partition(key: &str) -> Option<PartitionIndex> {
    parse_topic(key)?;
    let directory = key.strip_prefix(BUCKET_ROOT)?.split('/').nth(3)?;
    let number = directory.strip_prefix("p=").or_else(|| directory.strip_prefix("kafka_partition="))?;
    number.parse().ok().map(PartitionIndex)
}

/// Reads generation and hash from the key of a snapshot of the groups.
pub fn parse_group_snapshot(key: &str) -> Option<(u64, Hex128)> {
    let (generation, hash) = key.rsplit('/').next()?.strip_suffix(".zst")?.split_once('-')?;
    Some((generation.parse().ok()?, hash.parse().ok()?))
}

/// Keys of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicKeys {
    topic_id: TopicId,
    metadata: String,
    log: String,
}

impl TopicKeys {
    /// The topic's description.
    pub fn description(&self) -> String {
        format!("{}topic.json", self.metadata)
    }

    /// The directory of heads and spills.
    pub fn metadata_directory(&self) -> &str {
        &self.metadata
    }

    /// The directory of log objects.
    pub fn log_directory(&self) -> &str {
        &self.log
    }

    /// Keys of one partition.
    pub fn partition(&self, partition: i32) -> PartitionKeys {
        PartitionKeys {
            partition: TopicPartition::new(self.topic_id, partition),
            metadata: format!("{}p={partition:05}/", self.metadata),
            log: format!("{}kafka_partition={partition}/", self.log),
        }
    }
}

/// Keys of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionKeys {
    partition: TopicPartition,
    metadata: String,
    log: String,
}

impl PartitionKeys {
    /// Which partition.
    pub const fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// The commit point.
    pub fn head(&self) -> String {
        format!("{}head.json", self.metadata)
    }

    /// The directory of spilled segment lists.
    pub fn spill_directory(&self) -> String {
        format!("{}spill/", self.metadata)
    }

    /// A spilled list of the segments that cover `[first, next)`, made for the head of that generation.
    pub fn spill(&self, first: Offset, next: Offset, generation: u64) -> String {
        format!("{}spill/{first:020}-{next:020}-{generation:020}.json.zst", self.metadata)
    }

    /// The generation in the key of a spill.
    pub fn parse_spill(&self, key: &str) -> Option<u64> {
        let name = key.strip_prefix(&self.metadata)?.strip_prefix("spill/")?.strip_suffix(".json.zst")?;
        name.rsplit_once('-')?.1.parse().ok()
    }

    /// The directory of log objects.
    pub fn log_directory(&self) -> &str {
        &self.log
    }

    /// The Parquet object of a segment.
    pub fn parquet(&self, name: &SegmentName) -> String {
        format!("{}{name}.parquet", self.log)
    }

    /// The companion object of a segment.
    pub fn companion(&self, name: &SegmentName) -> String {
        format!("{}{name}.aux", self.log)
    }

    /// Reads the name of a segment from the key of its Parquet or companion object.
    pub fn parse_segment(&self, key: &str) -> Option<SegmentName> {
        let name = key.strip_prefix(&self.log)?;
        name.strip_suffix(".parquet").or_else(|| name.strip_suffix(".aux"))?.parse().ok()
    }
}

/// What the name of a log object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    /// First offset covered.
    pub base: Offset,
    /// First offset after.
    pub next: Offset,
    /// Who wrote it.
    pub fence: Fence,
    /// What makes it unique.
    pub uuid: SegmentUuid,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (incarnation, epoch) = (self.fence.incarnation.0, self.fence.leader_epoch.0);
        write!(f, "{:020}-{:020}-{incarnation:08x}-{epoch:08x}-{}", self.base, self.next, self.uuid)
    }
}

impl FromStr for SegmentName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "not the name of a segment";
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(PROBLEM);
        let offset = |text: &str| text.parse::<u64>().ok().and_then(|offset| i64::try_from(offset).ok()).map(Offset);
        let base = offset(part()?).ok_or(PROBLEM)?;
        let next = offset(part()?).ok_or(PROBLEM)?;
        let incarnation = Incarnation(u32::from_str_radix(part()?, 16).map_err(|_| PROBLEM)?);
        let leader_epoch = LeaderEpoch(i32::from_str_radix(part()?, 16).map_err(|_| PROBLEM)?);
        let uuid = part()?.parse()?;
        let name = Self { base, next, fence: Fence { incarnation, leader_epoch }, uuid };
        // Exactly one spelling per name, so that a key stands for itself.
        if name.to_string() == text { Ok(name) } else { Err(PROBLEM) }
    }
}

impl TryFrom<String> for SegmentName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PartitionKeys {
        let cluster = ClusterKeys::new(ClusterId::from_bytes([1; 16]));
        cluster.topic("flights.us-east", TopicId::from_bytes([2; 16])).partition(7)
    }

    #[test]
    fn keys_are_as_documented() {
        let keys = keys();
        let cluster = "01".repeat(16);
        let topic = format!("flights.us-east-{}", "02".repeat(16));
        assert_eq!(keys.head(), format!("alluvium/v1/{cluster}/topics/{topic}/p=00007/head.json"));
        let fence = Fence { incarnation: Incarnation(1), leader_epoch: LeaderEpoch(26) };
        let uuid = SegmentUuid::from_entropy([0xab; 16]);
        let name = SegmentName { base: Offset(5), next: Offset(1_000), fence, uuid };
        let expected = format!(
            "alluvium/v1/{cluster}/log/{topic}/kafka_partition=7/00000000000000000005-00000000000000001000-00000001-\
             0000001a-abababababab.parquet"
        );
        assert_eq!(keys.parquet(&name), expected);
    }

    #[test]
    fn names_read_back_from_keys() {
        let keys = keys();
        let fence = Fence { incarnation: Incarnation(u32::MAX), leader_epoch: LeaderEpoch(i32::MAX) };
        let uuid = SegmentUuid::from_entropy([9; 16]);
        let name = SegmentName { base: Offset(0), next: Offset(i64::MAX), fence, uuid };
        assert_eq!(keys.parse_segment(&keys.parquet(&name)), Some(name));
        assert_eq!(keys.parse_segment(&keys.companion(&name)), Some(name));
        assert_eq!(keys.parse_spill(&keys.spill(Offset(1), Offset(2), 33)), Some(33));
        assert_eq!(parse_topic(&keys.head()), Some(("flights.us-east", TopicId::from_bytes([2; 16]))));
        let (id, cluster) = (TopicId::from_bytes([2; 16]), ClusterKeys::new(ClusterId::from_bytes([1; 16])));
        for (name, shown) in [(".", "-"), ("...", "-.."), (".x", "-x"), (&"x".repeat(249), &"x".repeat(222))] {
            let keys = cluster.topic(name, id);
            assert_eq!(parse_topic(&keys.description()), Some((shown, id)));
            assert_eq!(cluster.topic(shown, id), keys);
            assert!(keys.description().split('/').all(|part| part.len() <= 255));
        }
        for key in [keys.head(), keys.parquet(&name), keys.spill(Offset(1), Offset(2), 33)] {
            assert_eq!(parse_partition(&key), Some(PartitionIndex(7)), "{key}");
        }
        for wrong in ["x.parquet", "1-2-3-4-5.parquet", "head.json", ""] {
            assert_eq!(keys.parse_segment(&format!("{}{wrong}", keys.log_directory())), None, "{wrong}");
        }
    }

    #[test]
    fn restores_fence_before_epochs() {
        let fence =
            |incarnation, epoch| Fence { incarnation: Incarnation(incarnation), leader_epoch: LeaderEpoch(epoch) };
        assert!(fence(1, 0) > fence(0, 99));
        assert!(fence(1, 2) > fence(1, 1));
    }
}

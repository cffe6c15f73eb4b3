//! The head of a partition's archive: its shape, its rules, and what can be asked of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Hex128, MANIFEST_FORMAT, ManifestError, Segment, TransitionError, compress_manifest, decompress_manifest, parse,
    to_json,
};
use crate::archive::key::{Fence, PartitionKeys, SegmentName};
use crate::types::{
    BrokerIncarnationId, ClusterId, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerId, Timestamp, TopicId,
};

/// Segments that a head lists itself, at most; a full segment takes about 1,000 bytes. Older ones are spilled.
pub const MAX_INLINE_SEGMENTS: usize = 256;
/// Segments that one spill takes out of the head, the oldest first. What stays keeps recent history one read away.
pub const SPILL_SEGMENTS: usize = 192;
/// Objects that a head remembers to delete, at most; beyond that expired segments wait in their lists.
pub const MAX_TOMBSTONES: usize = 1024;

/// Which partition a head belongs to; checked whenever one is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadIdentity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The topic's name, for people.
    pub topic: String,
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition's number.
    pub partition: PartitionIndex,
}

/// Who may change a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writer {
    /// Restores and leadership terms, which fence in that order.
    pub fence: Fence,
    /// The broker that leads, for people.
    pub broker: NodeId,
    /// The process, so that two that believe to lead in one epoch, as two copies of a data directory do, are told apart.
    pub process: BrokerIncarnationId,
}

/// The first offset of a leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of its first record.
    pub start: Offset,
}

/// A spilled list of segments that a head refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpillRef {
    /// First offset covered by the list.
    pub first: Offset,
    /// First offset after.
    pub next: Offset,
    /// The generation of the head that first referred to it; part of its key.
    pub generation: u64,
    /// Segments that end at or below this are tombstoned already; `first` at the beginning.
    pub live_from: Offset,
    /// Largest record timestamp.
    pub max_timestamp: Timestamp,
    /// Bytes that the batches took in the log, those before `live_from` included.
    pub log_bytes: u64,
    /// xxh3-128 over the object.
    pub hash: Hex128,
}

impl SpillRef {
    /// Its key.
    pub fn key(&self, keys: &PartitionKeys) -> String {
        keys.spill(self.first, self.next, self.generation)
    }
}

/// The content of a spill: zstd-compressed JSON, never changed once written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpillList {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Which partition.
    pub identity: HeadIdentity,
    /// The segments, in offset order.
    pub segments: Vec<Segment>,
}

impl SpillList {
    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        compress_manifest(&to_json(self))
    }

    /// Reads and checks the content of the spill that `reference` names.
    pub fn parse(bytes: &[u8], identity: &HeadIdentity, reference: &SpillRef) -> Result<Self, ManifestError> {
        if Hex128(xxh3_128(bytes)) != reference.hash {
            return Err(ManifestError::Checksum);
        }
        let json = decompress_manifest(bytes)?;
        let list: Self = parse(&json)?;
        check_identity(identity, &list.identity)?;
        let inconsistent = |what, at| Err(ManifestError::Inconsistent { what, at });
        let covered = (list.segments.first().map(Segment::base), list.segments.last().map(Segment::next));
        if covered != (Some(reference.first), Some(reference.next)) {
            return inconsistent("a spill does not cover the offsets of its reference", reference.first);
        }
        for segment in &list.segments {
            if let Err(TransitionError::BadSegment { what, base }) = segment.check() {
                return inconsistent(what, base);
            }
        }
        if list.segments.is_sorted_by(|one, two| one.next() <= two.base()) {
            return Ok(list);
        }
        inconsistent("segments of a spill overlap", reference.first)
    }
}

/// Something that is out of use and is deleted once its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// The generation of the head that first held it.
    pub generation: u64,
    /// Not deleted before this time, so that readers with an older head, and tables, have moved on. Only delays: no clock
    /// decides whether deleting is safe.
    pub not_before: Timestamp,
    /// What is deleted.
    pub what: Tombstoned,
}

/// What a tombstone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tombstoned {
    /// The objects of one segment.
    Segment(SegmentName),
    /// A spilled list, and the objects of those of its segments that end above `live_from`.
    Spill(SpillRef),
}

/// The commit point of one partition's archive.
///
/// The ladder that always holds: segments and spills are in offset order without overlap, each lies below `next_offset`,
/// and only expired ones (or a part of one) lie below `log_start_offset`. A hole between two of them can only lie below a
/// `log_start_offset` that was in force when the later one was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Which partition.
    pub identity: HeadIdentity,
    /// Counts the changes, from 1.
    pub generation: u64,
    /// Random, new with every change: tells a writer whether a change was its own.
    pub nonce: Hex128,
    /// Who may change it.
    pub writer: Writer,
    /// First offset that a client may read, in any tier.
    pub log_start_offset: Offset,
    /// First offset that is not archived.
    pub next_offset: Offset,
    /// Where each archived leader epoch began, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Older segments, by spilled lists, oldest first.
    pub spills: Vec<SpillRef>,
    /// Recent segments, oldest first.
    pub segments: Vec<Segment>,
    /// What is to be deleted.
    pub tombstones: Vec<Tombstone>,
    /// Largest producer id in the archive, or −1; a restored cluster hands out larger ones.
    pub max_producer_id: ProducerId,
    /// The producers' state at `next_offset`; `None` when no producer is remembered.
    pub producer_snapshot: Option<SnapshotRef>,
}

/// Where a snapshot of the producers' state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRef {
    /// The segment whose companion object holds it.
    pub segment: SegmentName,
    /// Where its frame begins in that object.
    pub start: u64,
    /// Where its frame ends.
    pub end: u64,
}

/// Where an offset is, as far as the head knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position<'a> {
    /// Below the log start.
    Deleted,
    /// In this segment, or in a gap before it; read on from the larger of the offset and its base.
    Segment(&'a Segment),
    /// In this spilled list.
    Spill(&'a SpillRef),
    /// Not archived: at or above `next_offset`.
    Beyond,
}

impl Head {
    /// The first head of a partition. A log that begins later says so by a change of its own: it has to be noted elsewhere first,
    /// or a log that is lost would begin below what its archive says.
    pub fn first(identity: HeadIdentity, writer: Writer, nonce: Hex128) -> Self {
        Self {
            format: MANIFEST_FORMAT,
            identity,
            generation: 1,
            nonce,
            writer,
            log_start_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            epochs: Vec::new(),
            spills: Vec::new(),
            segments: Vec::new(),
            tombstones: Vec::new(),
            max_producer_id: ProducerId::NONE,
            producer_snapshot: None,
        }
    }

    /// The object's content.
    pub fn to_bytes(&self) -> Bytes {
        to_json(self)
    }

    /// Reads and checks a head that was found under the key of `identity`'s partition. The topic's name is not compared.
    pub fn parse(bytes: &[u8], identity: &HeadIdentity) -> Result<Self, ManifestError> {
        let head: Self = parse(bytes)?;
        check_identity(identity, &head.identity)?;
        head.check()?;
        Ok(head)
    }

    /// Reads and checks a head without knowing whose it should be, as tools on a bucket do.
    pub fn parse_any(bytes: &[u8]) -> Result<Self, ManifestError> {
        let head: Self = parse(bytes)?;
        head.check()?;
        Ok(head)
    }

    /// Whether any object holds readable data.
    pub fn is_empty(&self) -> bool {
        self.next_offset <= self.log_start_offset
    }

    /// Bytes that the archived batches took in the log, expired ones not counted where the head can tell: of the list that the
    /// log start is in, all are.
    pub fn log_bytes(&self) -> u64 {
        let spills = self.spills.iter().filter(|spill| spill.next > self.log_start_offset);
        let spilled = spills.map(|spill| spill.log_bytes);
        let live = self.segments.iter().filter(|segment| segment.next() > self.log_start_offset);
        spilled.chain(live.map(|segment| segment.log_bytes)).fold(0, u64::saturating_add)
    }

    /// Where to read `offset`. Offsets in a gap belong to the segment or spill after it.
    pub fn position(&self, offset: Offset) -> Position<'_> {
        if offset < self.log_start_offset {
            return Position::Deleted;
        }
        let spill = self.spills.partition_point(|spill| spill.next <= offset);
        if let Some(spill) = self.spills.get(spill) {
            return Position::Spill(spill);
        }
        let segment = self.segments.partition_point(|segment| segment.next() <= offset);
        self.segments.get(segment).map_or(Position::Beyond, Position::Segment)
    }

    /// Checks the ladder.
    pub fn check(&self) -> Result<(), ManifestError> {
        let inconsistent = |what, at| Err(ManifestError::Inconsistent { what, at });
        let mut end = Offset(i64::MIN);
        for spill in &self.spills {
            if spill.first < end || spill.first >= spill.next || spill.live_from > spill.next {
                return inconsistent("spills overlap or are empty", spill.first);
            }
            end = spill.next;
        }
        for segment in &self.segments {
            if segment.base() < end {
                return inconsistent("segments overlap", segment.base());
            }
            if let Err(TransitionError::BadSegment { what, base }) = segment.check() {
                return inconsistent(what, base);
            }
            end = segment.next();
        }
        if end > self.next_offset {
            return inconsistent("a segment lies beyond the next offset", end);
        }
        if !self.epochs.is_sorted_by(|one, two| one.epoch < two.epoch && one.start <= two.start) {
            return inconsistent("leader epochs are out of order", self.next_offset);
        }
        if self.segments.len() > MAX_INLINE_SEGMENTS || self.tombstones.len() > MAX_TOMBSTONES {
            return inconsistent("lists are longer than their bounds", self.next_offset);
        }
        Ok(())
    }
}

/// Compares whose a head is with whose it should be. The topic's name is not compared.
pub fn check_identity(expected: &HeadIdentity, found: &HeadIdentity) -> Result<(), ManifestError> {
    let misplaced = |what, expected: String, found: String| Err(ManifestError::Misplaced { what, expected, found });
    if expected.cluster_id != found.cluster_id {
        return misplaced("cluster", expected.cluster_id.to_string(), found.cluster_id.to_string());
    }
    if expected.topic_id != found.topic_id {
        return misplaced("topic", expected.topic_id.to_string(), found.topic_id.to_string());
    }
    if expected.partition != found.partition {
        return misplaced("partition", expected.partition.to_string(), found.partition.to_string());
    }
    Ok(())
}

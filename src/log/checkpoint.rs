//! The checkpoint: what the segments of a directory hold for certain, and where in the journal replay starts.
//!
//! One file per directory, `checkpoint`, replaced as a whole. It carries for every partition what can't be read off its
//! segments quickly: recovery point, epochs, producers, and the list of segments. So a restart reads one file, the names of
//! segments and the journal's end, whatever the number of partitions and the size of their history; and a segment that is
//! missing is noticed.
//!
//! ```text
//! stamp (56)   body_bytes u64   crc u32 (CRC-32C of the body)   body
//! body:      replay lap u64, file_offset u64, sequence u64, count u32, then per partition
//! partition: topic_id [u8; 16], index i32, written_sequence u64, log_start i64, local_log_start i64, archived_to i64,
//!            high_watermark i64, recovery_point i64, has_active u8, segments u32 × segment (the active one last),
//!            epochs u32 × (epoch i32, start i64), producers as in `producer_snapshot`
//! segment:   base_offset i64, bytes u64, created_at i64, max_timestamp i64 (−1: not known)
//! ```
//! Little-endian. Written after everything that it vouches for is synced; journal files are released after it is durable.

use std::path::Path;

use bytes::{Buf, BufMut};

use super::epoch_cache::EpochCache;
use super::error::OpenError;
use super::journal::ReplayPosition;
use super::producer_snapshot::{put_producers, take_producers};
use super::producer_state::ProducerState;
use super::stamp::{Identity, Kind, STAMP_BYTES, StampError};
use crate::runtime::disk::{Disk, read_file, replace_file};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition};

const KIND: Kind = Kind { magic: *b"ALLVCKPT", name: "checkpoint" };
const FILE_NAME: &str = "checkpoint";
/// Bytes of length and checksum between stamp and body.
pub(super) const FRAME_BYTES: usize = 12;
/// A checkpoint larger than this is damage, not data.
const LIMIT_BYTES: u64 = 4 << 30;

/// What is known for certain of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Length of its file.
    pub bytes: u64,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Largest timestamp of its records, if that is known.
    pub max_timestamp: Timestamp,
}

/// What is known for certain of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// The partition.
    pub partition: TopicPartition,
    /// Journal blocks up to this sequence are in the segments already.
    pub written_sequence: u64,
    /// See [`super::Offsets`].
    pub log_start: Offset,
    /// See [`super::Offsets`].
    pub local_log_start: Offset,
    /// See [`super::Offsets`].
    pub archived_to: Offset,
    /// See [`super::Offsets`].
    pub high_watermark: Offset,
    /// Everything below is in synced segments.
    pub recovery_point: Offset,
    /// Its segments, oldest first; each reaches to the next one, the last to the recovery point.
    pub segments: Vec<SegmentRecord>,
    /// The last segment may grow.
    pub has_active: bool,
    /// Epoch history below the recovery point.
    pub epochs: EpochCache,
    /// Producers as of the recovery point.
    pub producers: ProducerState,
}

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where replay starts.
    pub replay: ReplayPosition,
    /// All partitions of the directory.
    pub partitions: Vec<PartitionCheckpoint>,
}

/// What there is of a checkpoint.
#[derive(Debug)]
pub enum Stored {
    /// A whole one.
    Found(Checkpoint),
    /// None: the directory is new, or the file was lost.
    Absent,
    /// A file that is none.
    Damaged,
}

impl Checkpoint {
    /// Replaces the checkpoint of a directory; durable when it returns. Its size in bytes.
    pub fn store(&self, disk: &dyn Disk, directory: &Path, identity: &Identity) -> std::io::Result<u64> {
        let content = self.encode(identity);
        replace_file(disk, &directory.join(FILE_NAME), &content)?;
        Ok(content.len() as u64)
    }

    /// Reads the checkpoint of a directory.
    pub fn load(disk: &dyn Disk, directory: &Path, identity: &Identity) -> Result<Stored, OpenError> {
        let path = directory.join(FILE_NAME);
        if !disk.exists(&path)? {
            return Ok(Stored::Absent);
        }
        let content = read_file(disk, &path, LIMIT_BYTES)?;
        match KIND.check(&content, identity) {
            Err(StampError::Damaged { .. }) => return Ok(Stored::Damaged),
            result => result?,
        }
        Ok(decode(&content[STAMP_BYTES..]).map_or(Stored::Damaged, Stored::Found))
    }

    /// Reads the checkpoint of a directory, whosever it is; `None` where there is no file. For inspection.
    pub fn inspect(disk: &dyn Disk, directory: &Path) -> Result<Option<(Identity, Self)>, OpenError> {
        let path = directory.join(FILE_NAME);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let content = read_file(disk, &path, LIMIT_BYTES)?;
        let stamped = |error| OpenError::Stamp { path: path.clone(), error };
        let identity = KIND.read(&content).map_err(stamped)?;
        let damaged = || stamped(StampError::Damaged { kind: KIND.name });
        Ok(Some((identity, decode(&content[STAMP_BYTES..]).ok_or_else(damaged)?)))
    }

    pub(super) fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u64_le(self.replay.lap);
        body.put_u64_le(self.replay.file_offset);
        body.put_u64_le(self.replay.sequence);
        put_count(&mut body, self.partitions.len());
        for partition in &self.partitions {
            partition.encode(&mut body);
        }
        let mut content = Vec::with_capacity(STAMP_BYTES + FRAME_BYTES + body.len());
        KIND.write(identity, &mut content);
        content.extend_from_slice(&frame(&body));
        content
    }
}

/// A body behind its length and checksum.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(FRAME_BYTES + body.len());
    framed.put_u64_le(body.len() as u64);
    framed.put_u32_le(crc32c::crc32c(body));
    framed.extend_from_slice(body);
    framed
}

impl PartitionCheckpoint {
    fn encode(&self, body: &mut Vec<u8>) {
        body.put_slice(self.partition.topic_id.as_bytes());
        body.put_i32_le(self.partition.partition.0);
        body.put_u64_le(self.written_sequence);
        for offset in [self.log_start, self.local_log_start, self.archived_to, self.high_watermark, self.recovery_point]
        {
            body.put_i64_le(offset.0);
        }
        body.put_u8(u8::from(self.has_active));
        put_count(body, self.segments.len());
        for segment in &self.segments {
            body.put_i64_le(segment.base_offset.0);
            body.put_u64_le(segment.bytes);
            body.put_i64_le(segment.created_at.0);
            body.put_i64_le(segment.max_timestamp.0);
        }
        put_count(body, self.epochs.starts().len());
        for &(epoch, start) in self.epochs.starts() {
            body.put_i32_le(epoch.0);
            body.put_i64_le(start.0);
        }
        put_producers(body, &self.producers);
    }
}

fn put_count(body: &mut Vec<u8>, count: usize) {
    body.put_u32_le(u32::try_from(count).expect("counts are bounded by settings"));
}

/// Reads everything after the stamp; `None` when anything is out of place.
pub(super) fn decode(mut rest: &[u8]) -> Option<Checkpoint> {
    let body_bytes = rest.try_get_u64_le().ok()?;
    let crc = rest.try_get_u32_le().ok()?;
    if rest.len() as u64 != body_bytes || crc32c::crc32c(rest) != crc {
        return None;
    }
    let body = &mut rest;
    let replay = ReplayPosition {
        lap: body.try_get_u64_le().ok()?,
        file_offset: body.try_get_u64_le().ok()?,
        sequence: body.try_get_u64_le().ok()?,
    };
    let count = body.try_get_u32_le().ok()?;
    let partitions = (0..count).map(|_| decode_partition(body)).collect::<Option<Vec<_>>>()?;
    body.is_empty().then_some(Checkpoint { replay, partitions })
}

fn decode_partition(body: &mut &[u8]) -> Option<PartitionCheckpoint> {
    let mut topic_id = [0; 16];
    body.try_copy_to_slice(&mut topic_id).ok()?;
    let partition = TopicPartition::new(TopicId::from_bytes(topic_id), body.try_get_i32_le().ok()?);
    let written_sequence = body.try_get_u64_le().ok()?;
    let mut offset = || body.try_get_i64_le().ok().map(Offset);
    let (log_start, local_log_start, archived_to) = (offset()?, offset()?, offset()?);
    let (high_watermark, recovery_point) = (offset()?, offset()?);
    let has_active = body.try_get_u8().ok()? != 0;
    let count = body.try_get_u32_le().ok()?;
    let segments = (0..count).map(|_| decode_segment(body)).collect::<Option<Vec<_>>>()?;
    let count = body.try_get_u32_le().ok()?;
    let starts = (0..count)
        .map(|_| Some((LeaderEpoch(body.try_get_i32_le().ok()?), Offset(body.try_get_i64_le().ok()?))))
        .collect::<Option<Vec<_>>>()?;
    let epochs = EpochCache::from_starts(starts)?;
    let producers = take_producers(body)?;
    Some(PartitionCheckpoint {
        partition,
        written_sequence,
        log_start,
        local_log_start,
        archived_to,
        high_watermark,
        recovery_point,
        segments,
        has_active,
        epochs,
        producers,
    })
}

fn decode_segment(body: &mut &[u8]) -> Option<SegmentRecord> {
    Some(SegmentRecord {
        base_offset: Offset(body.try_get_i64_le().ok()?),
        bytes: body.try_get_u64_le().ok()?,
        created_at: Timestamp(body.try_get_i64_le().ok()?),
        max_timestamp: Timestamp(body.try_get_i64_le().ok()?),
    })
}

//! The checkpoint: what the segments of a directory hold for certain, and where in the journal replay starts.
//!
//! One file per directory, `checkpoint`, replaced as a whole. It carries for every partition what can't be read off its
//! segments quickly: recovery point, epochs, producers. So a restart reads one file and the journal's end, whatever the
//! number of partitions and the size of their history.
//!
//! ```text
//! stamp (56)   body_bytes u64   crc u32 (CRC-32C of the body)   body
//! body:      replay lap u64, file_offset u64, sequence u64, count u32, then per partition
//! partition: topic_id [u8; 16], index i32, written_sequence u64, log_start i64, local_log_start i64, archived_to i64,
//!            high_watermark i64, recovery_point i64, active_base i64 (−1: none), active_bytes u64,
//!            epochs u32 × (epoch i32, start i64), producers as in `producer_snapshot`
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
use crate::types::{LeaderEpoch, Offset, TopicId, TopicPartition};

const KIND: Kind = Kind { magic: *b"ALLVCKPT", name: "checkpoint" };
const FILE_NAME: &str = "checkpoint";
/// Bytes of length and checksum between stamp and body.
pub(super) const FRAME_BYTES: usize = 12;
/// A checkpoint larger than this is damage, not data.
const LIMIT_BYTES: u64 = 4 << 30;

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
    /// Base offset and length of the segment that was active.
    pub active: Option<(Offset, u64)>,
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

impl Checkpoint {
    /// Replaces the checkpoint of a directory; durable when it returns.
    pub fn store(&self, disk: &dyn Disk, directory: &Path, identity: &Identity) -> std::io::Result<()> {
        replace_file(disk, &directory.join(FILE_NAME), &self.encode(identity))
    }

    /// Reads the checkpoint of a directory; `None` before the first.
    pub fn load(disk: &dyn Disk, directory: &Path, identity: &Identity) -> Result<Option<Self>, OpenError> {
        let path = directory.join(FILE_NAME);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let content = read_file(disk, &path, LIMIT_BYTES)?;
        match KIND.check(&content, identity) {
            Err(StampError::Damaged { .. }) => return Err(OpenError::CheckpointDamaged { path }),
            result => result?,
        }
        match decode(&content[STAMP_BYTES..]) {
            Some(checkpoint) => Ok(Some(checkpoint)),
            None => Err(OpenError::CheckpointDamaged { path }),
        }
    }

    fn encode(&self, identity: &Identity) -> Vec<u8> {
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
        let (base, bytes) = self.active.unwrap_or((Offset(-1), 0));
        body.put_i64_le(base.0);
        body.put_u64_le(bytes);
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
    let (high_watermark, recovery_point, base) = (offset()?, offset()?, offset()?);
    let bytes = body.try_get_u64_le().ok()?;
    let active = (base.0 >= 0).then_some((base, bytes));
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
        active,
        epochs,
        producers,
    })
}

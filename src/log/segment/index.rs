//! The sparse index of one segment: where in the file to start looking for an offset or a timestamp.
//!
//! One entry for every 4 KiB of batches or more. While a segment is active its index is in memory only; at the seal it
//! is written beside the segment. A missing or damaged index is rebuilt from the segment's batch headers, so an index file
//! needs no sync and is never trusted over the segment.
//!
//! ```text
//! stamp (56)  next_offset i64  segment_bytes u64  max_timestamp i64  count u32  crc u32 (CRC-32C of bytes 56..84 and entries)
//! entry: relative_offset u32  position u32  max_timestamp_before i64
//! ```
//! Little-endian.

use bytes::{Buf, BufMut};

use super::{Extent, SEGMENT_HEADER_BYTES};
use crate::log::stamp::{Identity, Kind, STAMP_BYTES, StampError};
use crate::record::{BatchHeader, RecordError};
use crate::types::{Offset, Timestamp};

/// Least distance of two entries in the file, Kafka's default `index.interval.bytes`.
const INTERVAL_BYTES: u64 = 4096;
const FIXED_BYTES: usize = STAMP_BYTES + 32;
const ENTRY_BYTES: usize = 16;
const KIND: Kind = Kind { magic: *b"ALLVSIDX", name: "segment index" };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexEntry {
    relative_offset: u32,
    position: u32,
    /// Largest timestamp of all batches before this one; never falls from entry to entry.
    max_timestamp_before: i64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    base_offset: Offset,
    entries: Vec<IndexEntry>,
    max_timestamp: Timestamp,
}

impl SegmentIndex {
    /// The index of a segment without batches.
    pub const fn new(base_offset: Offset) -> Self {
        Self { base_offset, entries: Vec::new(), max_timestamp: Timestamp::NONE }
    }

    /// What it takes in memory.
    pub const fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<IndexEntry>()
    }

    /// Largest timestamp of all batches observed.
    pub const fn max_timestamp(&self) -> Timestamp {
        self.max_timestamp
    }

    /// Takes note of a batch that begins at `position`. Batches come in order; an offset that no segment with this base can
    /// have is an error, as the checksum of a batch does not cover its offset.
    pub fn observe(&mut self, header: &BatchHeader, position: u64) -> Result<(), RecordError> {
        let due = self.entries.last().is_none_or(|last| position - u64::from(last.position) >= INTERVAL_BYTES);
        if due {
            let relative = header.base_offset.0.wrapping_sub(self.base_offset.0);
            let relative_offset = u32::try_from(relative).map_err(|_| RecordError::Malformed {
                what: "offset does not belong to this segment",
                value: header.base_offset.0,
            })?;
            self.entries.push(IndexEntry {
                relative_offset,
                position: u32::try_from(position).expect("a segment is smaller than 4 GiB"),
                max_timestamp_before: self.max_timestamp.0,
            });
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        Ok(())
    }

    /// A position at or before the batch that holds `offset`; `None` in a segment without batches.
    pub fn position_of_offset(&self, offset: Offset) -> Option<u64> {
        let relative = u32::try_from(offset - self.base_offset).unwrap_or(0);
        let after = self.entries.partition_point(|entry| entry.relative_offset <= relative);
        self.entries.get(after.saturating_sub(1)).map(|entry| u64::from(entry.position))
    }

    /// Where batches end that begin at `position`, an entry's, and are no more than `most_bytes`; `None` when that is within one
    /// entry, or beyond the last.
    pub fn end_of_batches(&self, position: u64, most_bytes: usize) -> Option<u64> {
        let most = position.saturating_add(most_bytes as u64);
        let after = self.entries.partition_point(|entry| u64::from(entry.position) <= most);
        let end = self.entries[..after].last().map(|entry| u64::from(entry.position))?;
        (after < self.entries.len() && end > position).then_some(end)
    }

    /// A position at or before the first batch whose largest timestamp is at least `timestamp`; `None` when no batch is.
    pub fn position_of_timestamp(&self, timestamp: Timestamp) -> Option<u64> {
        if self.max_timestamp < timestamp {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp.0);
        self.entries.get(after.saturating_sub(1)).map(|entry| u64::from(entry.position))
    }

    /// Encodes the index of a sealed segment.
    pub fn encode(&self, identity: &Identity, next_offset: Offset, segment_bytes: u64) -> Vec<u8> {
        let mut content = Vec::with_capacity(FIXED_BYTES + self.entries.len() * ENTRY_BYTES);
        KIND.write(identity, &mut content);
        content.put_i64_le(next_offset.0);
        content.put_u64_le(segment_bytes);
        content.put_i64_le(self.max_timestamp.0);
        content.put_u32_le(u32::try_from(self.entries.len()).expect("a segment is smaller than 4 GiB"));
        content.put_u32_le(0);
        for entry in &self.entries {
            content.put_u32_le(entry.relative_offset);
            content.put_u32_le(entry.position);
            content.put_i64_le(entry.max_timestamp_before);
        }
        let crc = checksum(&content);
        content[FIXED_BYTES - 4..FIXED_BYTES].copy_from_slice(&crc.to_le_bytes());
        content
    }

    /// Reads an index file; `None` unless it is whole and of exactly this segment.
    pub fn decode(content: &[u8], identity: &Identity, base_offset: Offset, segment_bytes: u64) -> Option<Self> {
        KIND.check(content, identity).ok()?;
        let (index, extent) = Self::read(content, base_offset).ok()?;
        (extent.file_bytes == segment_bytes).then_some(index)
    }

    /// Reads an index file, whosever it is, and how far it says that its segment reaches; for inspection.
    pub fn read(content: &[u8], base_offset: Offset) -> Result<(Self, Extent), StampError> {
        KIND.read(content)?;
        let damaged = StampError::Damaged { kind: KIND.name };
        let Some(mut fixed) = content.get(STAMP_BYTES..FIXED_BYTES) else { return Err(damaged) };
        let next_offset = Offset(fixed.get_i64_le());
        let file_bytes = fixed.get_u64_le();
        let max_timestamp = Timestamp(fixed.get_i64_le());
        let count = fixed.get_u32_le() as usize;
        let crc = fixed.get_u32_le();
        let mut rest = &content[FIXED_BYTES..];
        if Some(rest.len()) != count.checked_mul(ENTRY_BYTES) || checksum(content) != crc {
            return Err(damaged);
        }
        let entries = (0..count)
            .map(|_| IndexEntry {
                relative_offset: rest.get_u32_le(),
                position: rest.get_u32_le(),
                max_timestamp_before: rest.get_i64_le(),
            })
            .collect();
        Ok((Self { base_offset, entries, max_timestamp }, Extent { file_bytes, next_offset }))
    }

    /// Its entries: an offset, the position of its batch, and the largest timestamp of all batches before.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Offset, u64, Timestamp)> {
        self.entries.iter().map(|entry| {
            let offset = Offset(self.base_offset.0.saturating_add(i64::from(entry.relative_offset)));
            (offset, u64::from(entry.position), Timestamp(entry.max_timestamp_before))
        })
    }

    /// Where in the file the first entry lies that does not belong behind the one before it in a segment that reaches so far.
    pub fn disorder(&self, extent: Extent) -> Option<usize> {
        let mut before = (None, SEGMENT_HEADER_BYTES.checked_sub(1), i64::MIN);
        let disordered = self.entries().position(|(offset, position, Timestamp(timestamp))| {
            let rises = Some(offset) > before.0 && Some(position) > before.1 && timestamp >= before.2;
            before = (Some(offset), Some(position), timestamp);
            !rises || offset >= extent.next_offset || position >= extent.file_bytes
        });
        disordered.map(|entry| FIXED_BYTES + entry * ENTRY_BYTES)
    }
}

fn checksum(content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&content[STAMP_BYTES..FIXED_BYTES - 4]);
    crc32c::crc32c_append(crc, &content[FIXED_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Attributes;
    use crate::types::{ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, ProducerEpoch, ProducerId};

    fn header(offset: i64, max_timestamp: i64) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(offset),
            batch_length: 2000,
            leader_epoch: LeaderEpoch(0),
            checksum: 0,
            attributes: Attributes(0),
            last_offset_delta: 9,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(max_timestamp),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            record_count: 10,
        }
    }

    fn sample() -> SegmentIndex {
        let mut index = SegmentIndex::new(Offset(100));
        for n in 0..100 {
            // Timestamps go back and forth.
            index.observe(&header(100 + n * 10, 1000 + n - 5 * (n % 3)), 128 + n.cast_unsigned() * 2012).unwrap();
        }
        index
    }

    #[test]
    fn the_position_found_is_never_behind_the_batch() {
        let index = sample();
        for n in 0..100_i64 {
            let position = index.position_of_offset(Offset(100 + n * 10 + 9)).unwrap();
            let own = 128 + n.cast_unsigned() * 2012;
            assert!(position <= own && own - position < 3 * 2012, "batch {n}");
        }
        for timestamp in 990..1100 {
            let first = (0..100).position(|n| 1000 + n - 5 * (n % 3) >= timestamp);
            let found = index.position_of_timestamp(Timestamp(timestamp));
            assert_eq!(found.is_some(), first.is_some(), "timestamp {timestamp}");
            if let (Some(found), Some(first)) = (found, first) {
                assert!(found <= 128 + first as u64 * 2012, "timestamp {timestamp}");
            }
        }
    }

    #[test]
    fn a_stored_index_reads_back_and_damage_is_noticed() {
        let identity = Identity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            directory_id: DirectoryId::from_bytes([2; 16]),
            node_id: NodeId(1),
            incarnation: Incarnation(0),
        };
        let index = sample();
        let extent = Extent { file_bytes: 201_328, next_offset: Offset(1100) };
        assert_eq!(index.disorder(extent), None);
        for (entry, extent) in [
            (99, Extent { file_bytes: 128 + 99 * 2012, ..extent }),
            (99, Extent { next_offset: Offset(1090), ..extent }),
        ] {
            // An entry for every third batch.
            assert_eq!(index.disorder(extent), Some(FIXED_BYTES + entry / 3 * ENTRY_BYTES), "{extent:?}");
        }
        let mut swapped = index.clone();
        swapped.entries.swap(4, 5);
        assert_eq!(swapped.disorder(extent), Some(FIXED_BYTES + 5 * ENTRY_BYTES));
        let content = index.encode(&identity, Offset(1100), 201_328);
        assert_eq!(SegmentIndex::decode(&content, &identity, Offset(100), 201_328), Some(index));
        assert_eq!(SegmentIndex::decode(&content, &identity, Offset(100), 201_329), None);
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            // The incarnation may differ, and is checksummed within the stamp.
            assert_eq!(SegmentIndex::decode(&damaged, &identity, Offset(100), 201_328), None, "byte {at}");
        }
        assert_eq!(SegmentIndex::decode(&content[..content.len() - 1], &identity, Offset(100), 201_328), None);
    }
}

//! What is remembered of producers, as bytes: in checkpoints, and beside archived segments for whoever continues the log
//! from the archive alone.
//!
//! ```text
//! snapshot:  format u32 (1), offset i64, producers
//! producers: count u32 × producer
//! producer:  id i64, last_append i64, batches u32 × (epoch i16, base_sequence i32, last_sequence i32, base_offset i64,
//!            next_offset i64, timestamp i64)
//! ```
//! Little-endian; producers by id, batches oldest first. Whoever stores it adds a checksum. Pure: bytes and values.

use bytes::{Buf, BufMut, Bytes};

use super::producer_state::{BatchMark, ProducerEntry, ProducerState};
use crate::record::BatchHeader;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// The newest format of snapshots.
const FORMAT: u32 = 1;

/// The producers of a partition as of one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSnapshot {
    /// Batches below it are in the state, and no others.
    pub offset: Offset,
    /// What is remembered.
    pub producers: ProducerState,
}

impl ProducerSnapshot {
    /// The snapshot as bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u32_le(FORMAT);
        out.put_i64_le(self.offset.0);
        put_producers(&mut out, &self.producers);
        out.into()
    }

    /// Reads a snapshot; `None` for a newer format and when anything is out of place.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.try_get_u32_le().ok()? != FORMAT {
            return None;
        }
        let offset = Offset(bytes.try_get_i64_le().ok()?);
        let producers = take_producers(&mut bytes)?;
        bytes.is_empty().then_some(Self { offset, producers })
    }
}

/// What is remembered of producers, followed through a run of batches from its beginning to its end.
#[derive(Clone, Debug, Default)]
pub struct ProducerRun {
    producers: ProducerState,
    limit: usize,
    now: Timestamp,
}

impl ProducerRun {
    /// Begins with the state before the run. At most about `limit` producers are remembered; those of the run count as
    /// having appended `now`.
    pub const fn new(producers: ProducerState, limit: usize, now: Timestamp) -> Self {
        Self { producers, limit, now }
    }

    /// The next batch, which is on stable storage.
    pub fn add(&mut self, header: &BatchHeader) {
        self.producers.record(header, header.next_offset(), self.now);
        self.producers.keep_within(self.limit);
    }

    /// The state at the end of the run, which is `offset`; `None` when no producer is remembered.
    pub fn snapshot(self, offset: Offset) -> Option<ProducerSnapshot> {
        (!self.producers.is_empty()).then_some(ProducerSnapshot { offset, producers: self.producers })
    }
}

/// Appends all producers.
pub(super) fn put_producers(out: &mut Vec<u8>, producers: &ProducerState) {
    put_count(out, producers.len());
    for (id, entry) in producers.entries() {
        out.put_i64_le(id.0);
        out.put_i64_le(entry.last_append.0);
        put_count(out, entry.batches.len());
        for mark in &entry.batches {
            out.put_i16_le(mark.epoch.0);
            out.put_i32_le(mark.base_sequence);
            out.put_i32_le(mark.last_sequence);
            out.put_i64_le(mark.base_offset.0);
            out.put_i64_le(mark.next_offset.0);
            out.put_i64_le(mark.timestamp.0);
        }
    }
}

/// Takes what [`put_producers`] wrote off the front.
pub(super) fn take_producers(bytes: &mut &[u8]) -> Option<ProducerState> {
    let mut producers = ProducerState::default();
    for _ in 0..bytes.try_get_u32_le().ok()? {
        let id = ProducerId(bytes.try_get_i64_le().ok()?);
        let last_append = Timestamp(bytes.try_get_i64_le().ok()?);
        let count = bytes.try_get_u32_le().ok().filter(|&count| count > 0)?;
        let batches = (0..count).map(|_| take_mark(bytes)).collect::<Option<_>>()?;
        producers.restore(id, ProducerEntry { batches, last_append });
    }
    Some(producers)
}

fn take_mark(bytes: &mut &[u8]) -> Option<BatchMark> {
    Some(BatchMark {
        epoch: ProducerEpoch(bytes.try_get_i16_le().ok()?),
        base_sequence: bytes.try_get_i32_le().ok()?,
        last_sequence: bytes.try_get_i32_le().ok()?,
        base_offset: Offset(bytes.try_get_i64_le().ok()?),
        next_offset: Offset(bytes.try_get_i64_le().ok()?),
        timestamp: Timestamp(bytes.try_get_i64_le().ok()?),
    })
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("counts are bounded by settings"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::types::LeaderEpoch;

    fn header(producer: i64, sequence: i32, offset: i64) -> BatchHeader {
        let options = BatchOptions {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(3),
            base_sequence: sequence,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        builder.append(Timestamp(77), None, Some(b"x"), std::iter::empty());
        *builder.build(Offset(offset), LeaderEpoch(1)).unwrap().header()
    }

    #[test]
    fn a_snapshot_reads_back_as_written_and_its_bytes_are_fixed() {
        let mut run = ProducerRun::new(ProducerState::default(), 10, Timestamp(5));
        run.add(&header(258, 4, 40));
        let snapshot = run.snapshot(Offset(41)).unwrap();
        let bytes = snapshot.encode();
        let expected = [
            &[1, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..],
            &[2, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            &[3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(ProducerSnapshot::decode(&bytes), Some(snapshot));
        for length in 0..bytes.len() {
            assert_eq!(ProducerSnapshot::decode(&bytes[..length]), None);
        }
        let mut newer = bytes.to_vec();
        newer[0] = 2;
        assert_eq!(ProducerSnapshot::decode(&newer), None);
    }

    #[test]
    fn a_run_ends_with_what_the_log_would_remember_there_and_no_more_than_its_limit() {
        let mut whole = ProducerState::default();
        let headers: Vec<_> =
            (0..60).map(|offset| header(offset % 3, i32::try_from(offset / 3).unwrap(), offset)).collect();
        for header in &headers {
            whole.record(header, header.next_offset(), Timestamp(9));
        }
        let mut before = ProducerState::default();
        headers[..31].iter().for_each(|header| before.record(header, header.next_offset(), Timestamp(9)));
        let mut run = ProducerRun::new(before, 100, Timestamp(9));
        headers[31..].iter().for_each(|header| run.add(header));
        assert_eq!(run.snapshot(Offset(60)).unwrap().producers, whole);

        let mut flood = ProducerRun::new(ProducerState::default(), 20, Timestamp(9));
        (0..1000).for_each(|id| flood.add(&header(id, 0, id)));
        assert!(flood.snapshot(Offset(1000)).unwrap().producers.len() <= 20);
        assert_eq!(ProducerRun::default().snapshot(Offset(0)), None);
    }
}

//! Whether what the archive has beyond what a log knows of it is the log's own.
//!
//! After a crash a log may have forgotten how far it was archived, and learns it again from the head. But heads also move when
//! another process archives in this one's place: one on a copy of the data directory, or on an older state of it that was
//! put back. Fences can't always tell, as two copies begin the same leader epoch. Were the other's records taken for the
//! log's own, those would leave the disk unarchived: so both are compared, once for each such stretch. It is read from the
//! bucket for that, which happens rarely and for little more than was archived since the last checkpoint. What the disk has
//! lost in between is taken from the archive: there is nothing else to go by.
//!
//! The archive may also lack what a log remembers to have archived: the bucket is another one now, or was put back to an
//! earlier state, or was this process's predecessor's memory. What is still here is archived again then. So that it is
//! still here, nothing local goes before this process itself has seen a head that holds it.
//!
//! A log that followed until now takes the same way: it knows from its leader how far it was archived, as far as its own segments
//! reached then, and what an earlier leader archived beyond that is compared. Its segments end elsewhere than the archived ones, so
//! the head may end within one of them; what is archived next begins there.

use std::sync::Arc;

use super::Archiver;
use crate::archive::bucket::LocalData;
use crate::archive::chunk_cache::FetchCompression;
use crate::archive::manifest::Head;
use crate::archive::partition::{HeadError, PartitionArchive};
use crate::archive::remote_reader::ReadRequest;
use crate::log::{PartitionLog, Segment};
use crate::record::{Batch, BatchHeader, Batches, Compression, MAX_DECOMPRESSED_BYTES, RecordError};
use crate::types::Offset;

/// Bytes that are compared at once.
const STEP_BYTES: usize = 1 << 20;

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Archiver {
    /// Tells the log how far it is archived, once the archive is known to hold the same as the log. `believed` is where the
    /// archive was taken to end before its head was read.
    pub(super) async fn reconcile(
        &self,
        log: &Arc<PartitionLog>,
        archive: &PartitionArchive,
        head: &Head,
        believed: Offset,
    ) -> Result<(), HeadError> {
        let offsets = log.offsets();
        if head.next_offset <= offsets.archived_to {
            return self.note_end(log, Some(head.next_offset), believed).await;
        }
        let diverged = |offset| HeadError::Diverged { key: archive.keys().head(), offset };
        if head.next_offset > offsets.log_end {
            return Err(diverged(offsets.log_end));
        }
        // What recovery replayed is in segments soon, and can be compared then.
        if head.next_offset > offsets.recovery_point.min(offsets.last_stable) {
            return Ok(());
        }
        let mut offset = offsets.archived_to.max(offsets.local_log_start).max(head.log_start_offset);
        let (segments, missing): (Arc<[Arc<Segment>]>, _) = (log.segments().into(), log.missing());
        let not_compared = |cause| HeadError::NotCompared { key: archive.keys().head(), cause };
        while offset < head.next_offset {
            let next_missing = missing.iter().find(|missing| missing.to > offset);
            if let Some(missing) = next_missing.filter(|missing| missing.from <= offset) {
                offset = missing.to;
                continue;
            }
            let bound = next_missing.map_or(head.next_offset, |missing| missing.from);
            let request = ReadRequest { offset, committed_only: false, compression: FetchCompression::None };
            let archived = self.reader.fetch(archive, head, request).await;
            let archived = archived.map_err(|error| not_compared(error.into()))?;
            let segments = Arc::clone(&segments);
            let compare = move || {
                let stretch = archived.read(STEP_BYTES)?;
                let next = stretch.next.min(bound);
                let is_before =
                    |batch: &Result<Batch, _>| !matches!(batch, Ok(batch) if batch.header().base_offset >= next);
                let batches = stretch.pieces.into_iter().flat_map(Batches::new).take_while(is_before);
                let batches = batches.collect::<Result<Vec<_>, _>>()?;
                Ok((next, is_same(&batches, &read(&segments, offset, next)?)?))
            };
            let (next, same) = self.workers.run(compare).await.map_err(not_compared)?;
            if !same {
                return Err(diverged(offset));
            }
            offset = next;
        }
        log.advance_archived(head.next_offset);
        Ok(())
    }

    /// Tells the log where the archive was seen to end, none if it has no head, `believed` being where it was taken to end before
    /// that.
    pub(super) async fn note_end(
        &self,
        log: &Arc<PartitionLog>,
        seen_to: Option<Offset>,
        believed: Offset,
    ) -> Result<(), HeadError> {
        if seen_to.is_none() && believed > log.offsets().log_start {
            // A bucket of which nothing is there, as when it is not mounted, is none to archive into again.
            self.bucket.claim(LocalData::Recent, self.owner.incarnation).await?;
        }
        let archive_end = seen_to.unwrap_or(Offset::ZERO);
        if log.archive_seen(archive_end, believed) {
            let partition = log.partition();
            tracing::error!(%partition, %archive_end, %believed, "the archive lacks what was archived: it is archived again");
        }
        Ok(())
    }
}

/// The local batches that lie in `[from, next)`. Blocks.
fn read(segments: &[Arc<Segment>], from: Offset, next: Offset) -> Result<Vec<Batch>, Cause> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut at = from;
    for segment in segments.iter().filter(|segment| segment.extent().next_offset > from) {
        while at < next {
            let taken = segment.read(at, next, STEP_BYTES)?;
            if taken.is_empty() {
                break;
            }
            for mut bytes in taken {
                let batch = Batch::split_from(&mut bytes)?;
                at = batch.header().next_offset();
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}

/// Whether both hold the same records in the same batches, however they are compressed.
fn is_same(archived: &[Batch], local: &[Batch]) -> Result<bool, Cause> {
    let hold_records = |batches: &[Batch]| -> Result<Vec<_>, RecordError> {
        batches.iter().filter(|batch| batch.header().record_count > 0).map(uncompressed).collect()
    };
    Ok(hold_records(archived)? == hold_records(local)?)
}

/// What of a batch does not depend on its codec.
fn uncompressed(batch: &Batch) -> Result<(BatchHeader, bytes::Bytes), RecordError> {
    let header = batch.header();
    let attributes = header.attributes.with_compression(Compression::None);
    let header = BatchHeader { attributes, batch_length: 0, checksum: 0, ..*header };
    Ok((header, batch.decompressed(MAX_DECOMPRESSED_BYTES)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::types::{LeaderEpoch, Timestamp};

    fn batch(value: &[u8], epoch: i32) -> Batch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append_at(0, Timestamp(7), None, Some(value), std::iter::empty());
        builder.build(Offset(3), LeaderEpoch(epoch)).unwrap()
    }

    #[test]
    fn batches_are_the_same_in_every_codec_and_others_are_not() {
        let ours = [batch(b"ours", 1)];
        let zipped = ours[0].compressed(Compression::Zstd).unwrap();
        assert!(is_same(&[zipped], &ours).unwrap());
        for other in [batch(b"else", 1), batch(b"ours", 2)] {
            assert!(!is_same(&[other], &ours).unwrap());
        }
        assert!(!is_same(&ours, &[]).unwrap());
    }
}

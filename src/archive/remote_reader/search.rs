//! The first archived record of a time.

use super::{DECODE_BYTES, ReadError, RemoteReader, memory_bytes};
use crate::archive::manifest::{Head, Segment};
use crate::archive::parquet::{ArchivedBatch, search_timestamp};
use crate::archive::partition::PartitionArchive;
use crate::record::{MAX_DECOMPRESSED_BYTES, RecordError};
use crate::types::{LeaderEpoch, Offset, Timestamp};

impl RemoteReader {
    /// The first archived record at or after `from` whose timestamp is at least `timestamp`: offset, timestamp and leader
    /// epoch, as ListOffsets by timestamp wants them. `None` when the archive has none.
    pub async fn offset_for_timestamp(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        timestamp: Timestamp,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let from = head.log_start_offset;
        for spill in head.spills.iter().filter(|spill| spill.next > from && spill.max_timestamp >= timestamp) {
            let list = self.spill(partition, head, spill.first).await?;
            for segment in &list.segments {
                if let Some(found) = self.search_segment(partition, segment, from, timestamp).await? {
                    return Ok(Some(found));
                }
            }
        }
        for segment in &head.segments {
            if let Some(found) = self.search_segment(partition, segment, from, timestamp).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn search_segment(
        &self,
        partition: &PartitionArchive,
        segment: &Segment,
        from: Offset,
        timestamp: Timestamp,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let (store, keys) = (partition.store(), partition.keys());
        let name = segment.name;
        let damaged = |source| ReadError::Damaged { segment: name, source };
        for chunk in segment.chunks().filter(|chunk| chunk.next > from && chunk.max_timestamp >= timestamp) {
            let needed = if chunk.companion.is_empty() { DECODE_BYTES } else { memory_bytes(&chunk) };
            let _memory = self.inner.memory.take(needed).await;
            if chunk.companion.is_empty() {
                let metadata = self.inner.source.footer(store, keys, segment).await?;
                let range = metadata.search_range(&chunk).map_err(damaged)?;
                let bytes = self.inner.source.get(store, &keys.parquet(&name), range).await?;
                let found = self
                    .inner
                    .workers
                    .run(move || search_timestamp(&metadata, &chunk, bytes, from, timestamp))
                    .await
                    .map_err(damaged)?;
                if found.is_some() {
                    return Ok(found);
                }
                continue;
            }
            // Rows and raw batches alternate: look at all of them, in order.
            let batches = self.inner.source.decode(store, keys, segment, &chunk).await?;
            let found = self.inner.workers.run(move || search_batches(&batches, from, timestamp)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// As [`search_timestamp`], over batches.
fn search_batches(
    batches: &[ArchivedBatch],
    from: Offset,
    timestamp: Timestamp,
) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, RecordError> {
    for ArchivedBatch { batch, .. } in batches {
        let header = batch.header();
        if header.max_timestamp < timestamp || header.next_offset() <= from {
            continue;
        }
        let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
        for record in header.records(&payload) {
            let record = record?;
            if record.offset >= from && record.timestamp >= timestamp {
                return Ok(Some((record.offset, record.timestamp, header.leader_epoch)));
            }
        }
    }
    Ok(None)
}

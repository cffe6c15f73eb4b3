//! Fetches chunks from the bucket and decodes them; the one place that knows which bytes a chunk needs.

use bytes::Bytes;
use parking_lot::Mutex;

use super::key::{PartitionKeys, SegmentName};
use super::manifest::{Chunk, Segment};
use super::parquet::{ArchivedBatch, FileMetadata, decode_chunk};
use super::recent::Recent;
use super::remote_reader::ReadError;
use super::store::Store;
use super::workers::Workers;

/// Parsed footers that are kept, most recently used; each takes some tens of kilobytes.
const FOOTERS: usize = 256;

/// Decodes chunks on workers and remembers footers.
#[derive(Debug)]
pub(super) struct ChunkSource {
    workers: Workers,
    footers: Mutex<Recent<SegmentName, FileMetadata>>,
}

impl ChunkSource {
    pub(super) const fn new(workers: Workers) -> Self {
        Self { workers, footers: Mutex::new(Recent::new(FOOTERS)) }
    }

    /// The parsed footer of a segment's Parquet object.
    pub(super) async fn footer(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
    ) -> Result<FileMetadata, ReadError> {
        if let Some(metadata) = self.footers.lock().get(&segment.name) {
            return Ok(metadata);
        }
        let range = segment.metadata_start..segment.parquet_bytes;
        let tail = store.get_ranges(&keys.parquet(&segment.name), &[range]).await?.swap_remove(0);
        let parsed = self.workers.run(move || FileMetadata::parse(&tail)).await;
        let metadata = parsed.map_err(|source| ReadError::Damaged { segment: segment.name, source })?;
        self.footers.lock().insert(segment.name, metadata.clone());
        Ok(metadata)
    }

    /// All batches of a chunk, as they were archived.
    pub(super) async fn decode(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
    ) -> Result<Vec<ArchivedBatch>, ReadError> {
        let rows = async {
            if chunk.rows == 0 {
                return Ok(None);
            }
            let key = keys.parquet(&segment.name);
            let ranges = [chunk.parquet.clone()];
            let bytes = async { store.get_ranges(&key, &ranges).await.map_err(ReadError::from) };
            let (metadata, mut bytes) = tokio::try_join!(self.footer(store, keys, segment), bytes)?;
            Ok::<_, ReadError>(Some((metadata, bytes.swap_remove(0))))
        };
        let companion = async {
            if chunk.companion.is_empty() {
                return Ok(Bytes::new());
            }
            let key = keys.companion(&segment.name);
            Ok(store.get_ranges(&key, std::slice::from_ref(&chunk.companion)).await?.swap_remove(0))
        };
        let (rows, companion) = tokio::try_join!(rows, companion)?;
        let (name, chunk) = (segment.name, chunk.clone());
        let work = move || {
            let rows = rows.as_ref().map(|(metadata, bytes)| (metadata, bytes.clone()));
            decode_chunk(&chunk, rows, companion)
        };
        self.workers.run(work).await.map_err(|source| ReadError::Damaged { segment: name, source })
    }
}

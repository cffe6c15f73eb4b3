//! Takes a sealed run of batches into the archive: encode, verify, upload, commit.
//!
//! ```text
//! spool ── verify ──▶ PUT companion ──▶ PUT parquet ──▶ sizes confirmed ──▶ conditional write of the head
//! ```
//! A crash before the last step leaves at most two unreferenced objects, which the cleaner sweeps once a later leader has
//! taken over; a crash after it leaves a committed segment that the next try finds. Local data may be deleted only on the
//! strength of a head that [`Uploader::archive`] returned, or that was read from the bucket afterwards.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::key::{SegmentName, SegmentUuid};
use super::manifest::{Head, Segment, Writer};
use super::parquet::{AbortedTransaction, ChunkLimits, EncodeError, SegmentRequest, write};
use super::partition::{HeadError, PartitionArchive};
use super::spool::Spool;
use super::store::StoreError;
use super::workers::Workers;
use crate::log::ProducerRun;
use crate::record::Batch;
use crate::runtime::Runtime;
use crate::telemetry::MemoryPool;
use crate::types::Offset;

/// A run of batches that is decided, durable locally, and not archived yet.
#[derive(Clone, Debug)]
pub struct UploadPlan {
    /// Who leads the partition.
    pub writer: Writer,
    /// Where the archive ends and the run begins.
    pub base: Offset,
    /// First offset after the run.
    pub next: Offset,
    /// Transactions that were aborted in the run.
    pub aborted: Vec<AbortedTransaction>,
    /// The producers' state at `base`; followed through the run, it becomes the snapshot at `next`.
    pub producers: ProducerRun,
}

/// A run that was archived.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// As the head lists it.
    pub segment: Segment,
    /// The head that lists it.
    pub head: Arc<Head>,
    /// How long each step took.
    pub times: UploadTimes,
}

/// How long the steps of one upload took.
#[derive(Clone, Copy, Debug, Default)]
pub struct UploadTimes {
    /// Reading the log and encoding.
    pub encode: Duration,
    /// Reading back what was encoded, and comparing it.
    pub verify: Duration,
    /// Uploading the objects.
    pub upload: Duration,
    /// Changing the head.
    pub commit: Duration,
}

/// Why a run was not archived.
#[derive(Debug, Error)]
pub enum UploadError {
    /// It could not be read, encoded or verified.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An object could not be uploaded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head could not be changed.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// Memory of one segment that is being turned into Parquet.
const UPLOAD_BYTES: usize = 40 << 20;

/// The upload pipeline, shared by all partitions; cheap to clone. As many uploads run at once as the spool has slots and as
/// there is memory for.
#[derive(Clone, Debug)]
pub struct Uploader {
    runtime: Runtime,
    workers: Workers,
    spool: Spool,
    memory: MemoryPool,
    limits: ChunkLimits,
}

impl Uploader {
    /// A pipeline that encodes on `workers` and spools to `spool`.
    pub const fn new(
        runtime: Runtime,
        workers: Workers,
        spool: Spool,
        memory: MemoryPool,
        limits: ChunkLimits,
    ) -> Self {
        Self { runtime, workers, spool, memory, limits }
    }

    /// The same pipeline on other lanes; slots and memory are shared.
    #[must_use]
    pub fn on(&self, workers: &Workers) -> Self {
        Self { workers: workers.clone(), ..self.clone() }
    }

    /// Archives one run. `source` gives its batches in offset order; it is called on a worker and may block on the disk.
    /// The head must have been taken over by the plan's writer.
    pub async fn archive<I, E>(
        &self,
        partition: &PartitionArchive,
        plan: UploadPlan,
        source: impl FnOnce() -> I + Send + 'static,
    ) -> Result<Uploaded, UploadError>
    where
        I: Iterator<Item = Result<Batch, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let uuid = SegmentUuid::from_entropy(self.runtime.entropy.identity());
        let name = SegmentName { base: plan.base, next: plan.next, fence: plan.writer.fence, uuid };
        let request = SegmentRequest {
            identity: partition.identity().clone(),
            name,
            writer: plan.writer,
            aborted: plan.aborted,
            producers: plan.producers,
        };
        let memory = self.memory.take(UPLOAD_BYTES).await;
        let slot = self.spool.acquire().await;
        let (limits, clock) = (self.limits, Arc::clone(&self.runtime.clock));
        // A large segment takes seconds, which a broker that stops would have to wait for.
        let waits = Arc::new(());
        let caller = Arc::downgrade(&waits);
        let is_wanted = move || caller.strong_count() > 0;
        let work = move || {
            let started = clock.monotonic();
            let batches = source().map(|batch| match is_wanted() {
                true => batch.map_err(Into::into),
                false => Err(EncodeError::Abandoned.into()),
            });
            let written = write::<Box<dyn std::error::Error + Send + Sync>>(&request, limits, batches, &slot);
            let encoded = clock.monotonic();
            let verified = written.and_then(|written| written.verify(&is_wanted));
            let times = (encoded.since(started), clock.monotonic().since(encoded));
            (verified, times, slot)
        };
        let (encoded, (encode, verify), slot) = self.workers.run(work).await;
        drop(waits);
        let encoded = encoded?;
        let started = self.runtime.clock.monotonic();
        let (store, keys) = (partition.store(), partition.keys());
        if let Some(companion) = encoded.companion {
            store.put_immutable(&keys.companion(&name), companion).await?;
        }
        if let Some(parquet) = encoded.parquet {
            store.put_immutable(&keys.parquet(&name), parquet).await?;
        }
        // The spooled bytes are in the bucket; another upload may have the files.
        drop((slot, memory));
        let uploaded = self.runtime.clock.monotonic();
        let head = partition.commit(plan.writer, &encoded.segment, &encoded.facts).await?;
        let commit = self.runtime.clock.monotonic().since(uploaded);
        let times = UploadTimes { encode, verify, upload: uploaded.since(started), commit };
        Ok(Uploaded { segment: encoded.segment, head, times })
    }
}

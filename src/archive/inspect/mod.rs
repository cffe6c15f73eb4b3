//! Looks at an archive with nothing but its bucket: what `alluvium archive ls|describe|verify|cat` do.
//!
//! Nothing here writes an object. It works beside a running cluster or after its end: whatever a head lists stays in place for at
//! least the grace of a tombstone, which is longer than a look takes.

mod cluster;
mod topics;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use thiserror::Error;

pub use cluster::ClusterReport;
pub use topics::{ArchivedTopic, Headless};

use super::bucket::{Bucket, BucketError};
use super::chunk_source::ChunkSource;
use super::key::{ClusterKeys, PartitionKeys};
use super::manifest::{Head, ManifestError, Segment, SpillList};
use super::parquet::{ArchivedBatch, SegmentCheck};
use super::remote_reader::ReadError;
use super::store::{Store, StoreError};
use super::workers::Workers;
use crate::record::RecordError;
use crate::telemetry::ArchiveReadMetrics;
use crate::types::{ClusterId, Offset};

/// Problems that one check reports, at most; the first ones say the most.
const REPORTED_PROBLEMS: usize = 100;

/// Why an archive could not be looked at.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The bucket holds no cluster.
    #[error("the object store holds no archive; check the URL and its prefix")]
    NoCluster,
    /// The bucket holds several clusters and none was named.
    #[error("the object store holds several clusters, name one of them: {}", listed(clusters))]
    SeveralClusters {
        /// Those that were found.
        clusters: Vec<ClusterId>,
    },
    /// No topic of that name was ever archived.
    #[error("the archive has no topic of that name topic={topic}")]
    NoTopic {
        /// The name.
        topic: String,
    },
    /// An object is not what it should be.
    #[error("archive object {key}: {source}")]
    Manifest {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The bucket's stamps could not be read.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A chunk could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A batch could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn listed(clusters: &[ClusterId]) -> String {
    clusters.iter().map(ClusterId::to_string).collect::<Vec<_>>().join(", ")
}

/// One partition with all its segments, spilled ones included.
#[derive(Clone, Debug)]
pub struct ArchivedPartition {
    /// Where its objects are.
    pub keys: PartitionKeys,
    /// Its head.
    pub head: Arc<Head>,
    /// Its readable segments, in offset order.
    pub segments: Vec<Segment>,
}

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object it is about.
    pub key: String,
    /// The first offset concerned.
    pub offset: Offset,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} offset={} key={}", self.what, self.offset, self.key)
    }
}

/// What a check of one partition covered and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments looked at.
    pub segments: u64,
    /// Batches decoded.
    pub batches: u64,
    /// Records decoded.
    pub records: u64,
    /// Bytes of their objects.
    pub stored_bytes: u64,
    /// Problems found; at most `REPORTED_PROBLEMS` are kept.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    fn note(&mut self, key: &str, offset: Offset, what: impl fmt::Display) {
        if self.problems.len() < REPORTED_PROBLEMS {
            self.problems.push(Problem { key: key.to_owned(), offset, what: what.to_string() });
        }
    }
}

/// Looks at the archive of one cluster.
#[derive(Debug)]
pub struct Inspector {
    store: Store,
    keys: ClusterKeys,
    source: ChunkSource,
    workers: Workers,
}

impl Inspector {
    /// Opens the archive of `cluster_id`, or of the only cluster in the bucket. Chunks are decoded on `workers`.
    pub async fn open(store: Store, cluster_id: Option<ClusterId>, workers: Workers) -> Result<Self, InspectError> {
        let cluster_id = match cluster_id {
            Some(cluster_id) => cluster_id,
            None => match Bucket::clusters(&store).await?[..] {
                [] => return Err(InspectError::NoCluster),
                [only] => only,
                ref several => return Err(InspectError::SeveralClusters { clusters: several.to_vec() }),
            },
        };
        let source = ChunkSource::new(workers.clone(), ArchiveReadMetrics::default());
        Ok(Self { store, keys: ClusterKeys::new(cluster_id), source, workers })
    }

    /// Which cluster.
    pub const fn cluster_id(&self) -> ClusterId {
        self.keys.cluster_id()
    }

    /// One partition with all its readable segments.
    pub async fn partition(&self, topic: &ArchivedTopic, head: &Arc<Head>) -> Result<ArchivedPartition, InspectError> {
        let keys = self.keys.topic(&topic.name, topic.topic_id).partition(head.identity.partition.0);
        let mut segments = Vec::new();
        for spill in &head.spills {
            let key = spill.key(&keys);
            let list = self.read(&key, |bytes| SpillList::parse(bytes, &head.identity, spill)).await?;
            segments.extend(list.segments);
        }
        segments.extend(head.segments.iter().cloned());
        segments.retain(|segment| segment.next() > head.log_start_offset);
        Ok(ArchivedPartition { keys, head: Arc::clone(head), segments })
    }

    /// Checks one partition: no gap, every object there with its length and, byte for byte, as it was uploaded, every row
    /// decodable and as it was in the log. Heads and lists whose segments overlap were refused when they were read. Calls
    /// `progress` after each segment.
    pub async fn verify(&self, partition: &ArchivedPartition, progress: impl Fn(&VerifyReport)) -> VerifyReport {
        let mut report = VerifyReport::default();
        let head = &partition.head;
        let mut expected = head.log_start_offset;
        for segment in &partition.segments {
            let key = partition.keys.parquet(&segment.name);
            if segment.base() > expected {
                report.note(&key, expected, "offsets are missing before this segment");
            }
            expected = segment.next();
            self.verify_segment(partition, segment, &mut report).await;
            progress(&report);
        }
        if expected != head.next_offset && !head.is_empty() {
            report.note(&partition.keys.head(), expected, "the head ends beyond its last segment");
        }
        report
    }

    async fn verify_segment(&self, partition: &ArchivedPartition, segment: &Segment, report: &mut VerifyReport) {
        let keys = &partition.keys;
        report.segments += 1;
        report.stored_bytes += segment.stored_bytes();
        let objects = [
            (keys.parquet(&segment.name), segment.parquet_bytes),
            (keys.companion(&segment.name), segment.companion_bytes),
        ];
        for (key, expected) in objects.iter().filter(|(_, expected)| *expected > 0) {
            match self.store.size(key).await {
                Ok(found) if found == *expected => {}
                Ok(found) => {
                    report.note(key, segment.base(), format_args!("object has {found} bytes instead of {expected}"));
                }
                Err(error) => report.note(key, segment.base(), error),
            }
        }
        if let Err(error) = self.check_segment(keys, segment, report).await {
            report.note(&keys.parquet(&segment.name), segment.base(), error);
        }
    }

    /// Reads both objects of a segment from their first to their last byte, each byte once.
    async fn check_segment(
        &self,
        keys: &PartitionKeys,
        segment: &Segment,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        let (parquet, companion) = (keys.parquet(&segment.name), keys.companion(&segment.name));
        let damaged = |source| ReadError::Damaged { segment: segment.name, source };
        let parquet_ends = self.read_ranges(&parquet, segment.parquet_ends());
        let companion_ends = self.read_ranges(&companion, segment.companion_ends());
        let (parquet_ends, companion_ends) = tokio::try_join!(parquet_ends, companion_ends)?;
        let owned = segment.clone();
        let begin = move || SegmentCheck::begin(owned, parquet_ends, companion_ends);
        let mut check = self.workers.run(begin).await.map_err(damaged)?;
        for chunk in segment.chunks() {
            let parquet = self.read_ranges(&parquet, [chunk.parquet.clone()]);
            let companion = self.read_ranges(&companion, [chunk.companion.clone()]);
            let ([parquet], [companion]) = tokio::try_join!(parquet, companion)?;
            let work = move || check.add(&chunk, parquet, companion).map(|batches| (check, batches));
            let (returned, batches) = self.workers.run(work).await.map_err(damaged)?;
            check = returned;
            report.batches += batches.len() as u64;
            let records = batches.iter().map(|batch| u64::from(batch.batch.header().record_count.unsigned_abs()));
            report.records += records.sum::<u64>();
        }
        check.finish().map_err(damaged)
    }

    /// Reads ranges of an object; empty ones are not asked for.
    async fn read_ranges<const N: usize>(&self, key: &str, ranges: [Range<u64>; N]) -> Result<[Bytes; N], StoreError> {
        let wanted: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let found = if wanted.is_empty() { Vec::new() } else { self.store.get_ranges(key, &wanted).await? };
        let mut found = found.into_iter();
        Ok(ranges.map(|range| if range.is_empty() { Bytes::new() } else { found.next().unwrap_or_default() }))
    }

    /// The batches of a partition from `from` on, in order, as they were archived.
    pub fn batches<'a>(
        &'a self,
        partition: &'a ArchivedPartition,
        from: Offset,
    ) -> BoxStream<'a, Result<ArchivedBatch, InspectError>> {
        let chunks = partition.segments.iter().flat_map(|segment| segment.chunks().map(move |chunk| (segment, chunk)));
        let wanted = chunks.filter(move |(_, chunk)| chunk.next > from);
        futures_util::stream::iter(wanted)
            .then(move |(segment, chunk)| async move {
                let batches = self.source.decode(&self.store, &partition.keys, segment, &chunk).await?;
                let wanted = batches.into_iter().filter(move |batch| batch.batch.header().next_offset() > from);
                Ok::<_, InspectError>(futures_util::stream::iter(wanted.map(Ok)))
            })
            .try_flatten()
            .boxed()
    }

    async fn read<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, ManifestError>,
    ) -> Result<T, InspectError> {
        let (bytes, _) = self.store.get(key).await?;
        parse(&bytes).map_err(|source| InspectError::Manifest { key: key.to_owned(), source })
    }
}

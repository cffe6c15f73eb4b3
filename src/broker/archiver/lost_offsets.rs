//! Committed offsets whose data directory was lost, from the bucket's snapshot of groups.
//!
//! `__consumer_offsets` is not archived, so its partitions begin empty in the directory that took the lost one's place. Before
//! their coordinators start, what the snapshot has of their groups is appended to them. What was committed after the
//! snapshot, about a minute's worth, is lost: those consumers read some records again. The metadata remembers which partitions
//! wait for this, so neither a crash nor a bucket that does not answer has their groups begin anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Archiver;
use super::proof::PATIENCE;
use crate::archive::bucket::BucketError;
use crate::archive::manifest::ManifestError;
use crate::archive::store::StoreError;
use crate::broker::Broker;
use crate::broker::admin::OFFSETS_TOPIC;
use crate::group::records::{Key, LogRecord};
use crate::group::{FormatError, partition_of, snapshot};
use crate::metadata::Command;
use crate::metadata::image::Topic;
use crate::record::{BatchBuilder, BatchOptions};
use crate::runtime::clock;
use crate::types::{LeaderEpoch, Offset, PartitionIndex};

/// Bytes of records that are appended at a time.
const BATCH_BYTES: usize = 512 << 10;

/// The longest that one reading of the snapshot may take: the first may take [`PATIENCE`], each next one twice as long.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// Pause before the bucket is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// What became of the lost partitions.
enum Restored {
    /// They have what the snapshot has of them.
    Records,
    /// Nothing, and why there is no more to wait for.
    Nothing(String),
}

/// The records of the snapshot that counts, with their groups; or why there will never be any. What a newer version wrote is
/// waited for: that may come back.
async fn read_snapshot(
    archiver: &Archiver,
    patience: Duration,
) -> Result<Result<Vec<(Arc<str>, LogRecord)>, String>, Reason> {
    match clock::timeout(&*archiver.runtime.clock, patience, archiver.bucket.group_snapshot()).await? {
        Ok(None) => Ok(Err("it never had one".to_owned())),
        Ok(Some(snapshot)) => match with_groups(&snapshot) {
            Err(error @ FormatError::UnknownVersion { .. }) => Err(error.into()),
            read => Ok(read.map_err(|error| error.to_string())),
        },
        Err(BucketError::Manifest { source: ManifestError::NewerFormat { .. }, .. }) => {
            Err("a newer version wrote it; start that one".into())
        }
        // It is what was written, by somebody who could read it.
        Err(error @ BucketError::Manifest { source: ManifestError::Compression, .. }) => Err(error.into()),
        Err(error @ (BucketError::Manifest { .. } | BucketError::Store(StoreError::NotFound { .. }))) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn with_groups(snapshot: &Bytes) -> Result<Vec<(Arc<str>, LogRecord)>, FormatError> {
    let grouped = snapshot::parse(snapshot)?.into_iter().map(|record| {
        let (Key::Offset { group, .. } | Key::Group { group }) = Key::decode(&record.key)?;
        Ok((group, record))
    });
    grouped.collect()
}

impl Broker {
    /// Gives partitions of `__consumer_offsets` that were lost what the bucket knows of them, says what is missing, and has
    /// their coordinators start. Until the bucket was heard, there are none: consumers would begin anew for good.
    pub(in crate::broker) async fn restore_offsets(self: Arc<Self>, archiver: Arc<Archiver>) {
        let partitions = self.image().unrestored().len();
        if partitions == 0 {
            return;
        }
        tracing::error!(
            partitions,
            "committed offsets were lost with a data directory: their groups have no coordinator until the bucket's last snapshot was read"
        );
        archiver.proved().await;
        let mut complaint = String::new();
        let (mut records, mut patience) = (0, PATIENCE);
        let told = loop {
            let restored = self.restore(&archiver, patience, &mut records).await;
            patience = LONGEST_PATIENCE.min(patience * 2);
            match restored {
                Ok(told) => break told,
                Err(error) if error.to_string() == complaint => {}
                Err(error) => {
                    complaint = error.to_string();
                    tracing::error!(%error, partitions, "lost offsets can't be restored yet; tried again");
                }
            }
            self.runtime().clock.sleep(RETRY_INTERVAL).await;
        };
        match told {
            Restored::Records => tracing::error!(
                partitions,
                records,
                "committed offsets were lost with the data directory, and are those of the bucket's last snapshot: consumers read again what they committed in about the last minute"
            ),
            Restored::Nothing(reason) => tracing::error!(
                reason,
                partitions,
                "committed offsets were lost with the data directory, and the bucket has no snapshot of them: their groups begin anew; reset their offsets by hand"
            ),
        }
    }

    /// Restores the partitions that wait for it, one by one, and counts their records. Done again for one, it does the same
    /// again, as nothing else writes to it meanwhile.
    async fn restore(&self, archiver: &Archiver, patience: Duration, count: &mut usize) -> Result<Restored, Reason> {
        let image = self.image();
        // With the topic its partitions' notes go.
        let Some(topic) = image.topic_named(OFFSETS_TOPIC) else { return Ok(Restored::Records) };
        let lost = image.unrestored().iter().filter(|partition| partition.topic_id == topic.topic_id);
        let lost: Vec<_> = lost.copied().collect();
        if lost.is_empty() {
            return Ok(Restored::Records);
        }
        let records = match read_snapshot(archiver, patience).await? {
            Ok(records) => records,
            Err(reason) => {
                self.submit(Command::NoteRestored { partitions: lost }).await?;
                return Ok(Restored::Nothing(reason));
            }
        };
        let mut failed = None;
        for partition in lost {
            match self.restore_partition(topic, partition.partition, &records).await {
                Ok(restored) => {
                    *count += restored;
                    self.submit(Command::NoteRestored { partitions: vec![partition] }).await?;
                }
                // Another may be in a directory that works.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Restored::Records), Err)
    }

    /// Appends a partition's share of the snapshot; returns of how many records.
    async fn restore_partition(
        &self,
        topic: &Topic,
        partition: PartitionIndex,
        records: &[(Arc<str>, LogRecord)],
    ) -> Result<usize, Reason> {
        let leader = self.leader(topic, partition.0, LeaderEpoch::NONE)?;
        let log = self.offsets_log(leader);
        let mut builder: Option<(BatchBuilder, usize)> = None;
        let mut count = 0;
        for (_, record) in records.iter().filter(|(group, _)| partition_of(group, topic.partition_count()) == partition)
        {
            count += 1;
            let (batch, bytes) = builder.get_or_insert_with(|| (BatchBuilder::new(BatchOptions::default()), 0));
            let now = self.runtime().clock.wall();
            batch.append(now, Some(&record.key), record.value.as_deref(), std::iter::empty());
            *bytes += record.bytes();
            if *bytes >= BATCH_BYTES
                && let Some((full, _)) = builder.take()
            {
                log.append(full.build(Offset::ZERO, LeaderEpoch::NONE)?).await?;
            }
        }
        if let Some((rest, _)) = builder {
            log.append(rest.build(Offset::ZERO, LeaderEpoch::NONE)?).await?;
        }
        Ok(count)
    }
}

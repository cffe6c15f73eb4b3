//! Committed offsets whose data directory was lost, from the bucket's snapshot of groups.
//!
//! `__consumer_offsets` is not archived, so its partitions begin empty in the directory that took the lost one's place. Before
//! their coordinators start, what the snapshot has of their groups is appended to them. What was committed after the
//! snapshot, about a minute's worth, is lost: those consumers read some records again. The metadata remembers which partitions
//! wait for this, so neither a crash nor a bucket that does not answer has their groups begin anew.

use std::sync::Arc;
use std::time::Duration;

use super::Archiver;
use super::proof::PATIENCE;
use crate::archive::bucket::BucketError;
use crate::archive::store::StoreError;
use crate::broker::Broker;
use crate::broker::admin::OFFSETS_TOPIC;
use crate::group::records::{Key, LogRecord};
use crate::group::{partition_of, snapshot};
use crate::metadata::Command;
use crate::metadata::image::Topic;
use crate::record::{BatchBuilder, BatchOptions};
use crate::runtime::clock;
use crate::types::{LeaderEpoch, Offset, PartitionIndex};

/// Bytes of records that are appended at a time.
const BATCH_BYTES: usize = 512 << 10;

/// Pause before the bucket is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// What came back of the lost partitions.
enum Restored {
    /// So many records.
    Records(usize),
    /// Nothing, and why there is no more to wait for.
    Nothing(String),
}

/// The records of the snapshot that counts; or why there will never be any.
async fn read_snapshot(archiver: &Archiver) -> Result<Result<Vec<LogRecord>, String>, Reason> {
    match clock::timeout(&*archiver.runtime.clock, PATIENCE, archiver.bucket.group_snapshot()).await? {
        Ok(None) => Ok(Err("it never had one".to_owned())),
        Ok(Some(snapshot)) => Ok(snapshot::parse(&snapshot).map_err(|error| error.to_string())),
        Err(error @ (BucketError::Manifest { .. } | BucketError::Store(StoreError::NotFound { .. }))) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
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
        let told = loop {
            match self.restore(&archiver).await {
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
            Restored::Records(records) => tracing::error!(
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

    /// Restores all partitions that wait for it. Done again, it does the same again, as nothing else writes to them meanwhile.
    async fn restore(&self, archiver: &Archiver) -> Result<Restored, Reason> {
        let image = self.image();
        let Some(topic) = image.topic_named(OFFSETS_TOPIC) else {
            return Ok(Restored::Nothing("the topic is gone".into()));
        };
        let lost: Vec<_> = image.unrestored().iter().copied().collect();
        let restored = match read_snapshot(archiver).await? {
            Err(reason) => Restored::Nothing(reason),
            Ok(records) => {
                let mut restored = 0;
                for partition in lost.iter().filter(|partition| partition.topic_id == topic.topic_id) {
                    restored += self.restore_partition(topic, partition.partition, &records).await?;
                }
                Restored::Records(restored)
            }
        };
        self.submit(Command::NoteRestored { partitions: lost }).await?;
        Ok(restored)
    }

    /// Appends a partition's share of the snapshot; returns of how many records.
    async fn restore_partition(
        &self,
        topic: &Topic,
        partition: PartitionIndex,
        records: &[LogRecord],
    ) -> Result<usize, Reason> {
        let leader = self.leader(topic, partition.0, LeaderEpoch::NONE)?;
        let log = self.offsets_log(leader);
        let mut builder: Option<(BatchBuilder, usize)> = None;
        let mut count = 0;
        for record in records {
            let (Key::Offset { group, .. } | Key::Group { group }) = Key::decode(&record.key)?;
            if partition_of(&group, topic.partition_count()) != partition {
                continue;
            }
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

//! Committed offsets whose data directory was lost, from the bucket's snapshot of groups.
//!
//! `__consumer_offsets` is not archived, so its partitions begin empty in the directory that took the lost one's place. Before
//! their coordinators start, what the snapshot has of their groups is appended to them. What was committed after the
//! snapshot, about a minute's worth, is lost: those consumers read some records again. A crash between the directory's
//! replacement and this leaves the groups without offsets.

use super::Archiver;
use super::proof::PATIENCE;
use crate::broker::Broker;
use crate::group::records::{Key, LogRecord};
use crate::group::{partition_of, snapshot};
use crate::metadata::image::Topic;
use crate::record::{BatchBuilder, BatchOptions};
use crate::runtime::clock;
use crate::types::{LeaderEpoch, Offset, PartitionIndex};

/// Bytes of records that are appended at a time.
const BATCH_BYTES: usize = 512 << 10;

type Reason = Box<dyn std::error::Error + Send + Sync>;

impl Broker {
    /// Gives partitions of `__consumer_offsets` that were lost what the bucket knows of them, and says what is missing.
    pub(in crate::broker) async fn restore_offsets(&self, archiver: &Archiver, topic: &Topic, lost: &[PartitionIndex]) {
        if lost.is_empty() {
            return;
        }
        let restored = async {
            let snapshot = clock::timeout(&*self.runtime().clock, PATIENCE, archiver.bucket.group_snapshot()).await??;
            let records = snapshot::parse(&snapshot.ok_or("the bucket has none")?)?;
            let mut restored = 0;
            for &partition in lost {
                restored += self.restore_partition(topic, partition, &records).await?;
            }
            Ok::<_, Reason>(restored)
        };
        let partitions = lost.len();
        match restored.await {
            Ok(records) => tracing::error!(
                partitions,
                records,
                "committed offsets were lost with the data directory, and are those of the bucket's last snapshot: consumers read again what they committed in about the last minute"
            ),
            Err(error) => tracing::error!(
                %error,
                partitions,
                "committed offsets were lost with the data directory, and the bucket's snapshot of them can't be read: their groups begin anew; reset their offsets by hand"
            ),
        }
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

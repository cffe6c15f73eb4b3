//! Committed offsets that were lost, from the bucket's snapshot of groups.
//!
//! `__consumer_offsets` is not archived, so its partitions begin empty in the directory that took a lost one's place. Where a part
//! of a log is missing or damaged, its groups have no coordinator until an operator puts that back, or gives the log up as far
//! as it ends (DeleteRecords). Before coordinators start on either, what the snapshot has of their groups is appended, but for
//! what the log still says itself, which is newer. What was committed after the snapshot and is not in the log, about a
//! minute's worth at most, is lost: those consumers read some records again. The metadata remembers which partitions wait for
//! this, so neither a crash nor a bucket that does not answer has their groups begin anew.
//!
//! Where another replica has what was acknowledged, nothing is lost: that one leads. A partition that lost all such replicas is
//! restored by the broker that leads it, and should that be another one by then, by that one: what is there already is not added
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::Archiver;
use super::proof::PATIENCE;
use crate::archive::bucket::BucketError;
use crate::archive::manifest::ManifestError;
use crate::archive::store::StoreError;
use crate::broker::admin::OFFSETS_TOPIC;
use crate::broker::{Broker, Leader, PartitionError};
use crate::group::records::{Key, LogRecord};
use crate::group::{FormatError, OffsetsLog, partition_of, snapshot, walk_log};
use crate::log::{AppendError, PartitionLog};
use crate::metadata::image::Topic;
use crate::metadata::{Command, Image};
use crate::record::{BatchBuilder, BatchOptions};
use crate::runtime::clock::{self, Clock};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Bytes of records that are appended at a time.
const BATCH_BYTES: usize = 512 << 10;

/// The longest that one reading of the snapshot may take: the first may take [`PATIENCE`], each next one twice as long.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// Pause before the second attempt; each next one is twice as long, up to a limit. It ends when more is given up.
const FIRST_RETRY_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How long giving up is waited for, whatever the client says.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The longest that one is waited for who gives the same partition up or restores it.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// How often, and how many times, a log is looked at for whether it has sealed its segment.
const SEAL_INTERVAL: Duration = Duration::from_millis(50);
const SEAL_LOOKS: usize = 100;

pub(super) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// What became of the lost partitions.
enum Restored {
    /// They have what the snapshot has of them.
    Records,
    /// Nothing, and why there is no more to wait for.
    Nothing(String),
    /// They went with their topic.
    Gone,
    /// Other brokers lead them, and see to it.
    Elsewhere,
}

/// One partition is given up or restored at a time, so that nothing of what was restored is deleted again.
#[derive(Debug, Default)]
pub(in crate::broker) struct Restoring {
    turns: Mutex<BTreeMap<TopicPartition, Arc<Turn>>>,
    /// Notified when more can be restored, perhaps.
    given_up: Notify,
}

/// Held by whoever gives a partition up or restores it. Waited for in the order in which they came.
pub(super) type Turn = tokio::sync::Mutex<()>;

impl Restoring {
    /// The turn of a partition, to be waited for.
    pub(super) fn turn(&self, partition: TopicPartition) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        // Only those that somebody has, or waits for.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(partition).or_default())
    }
}

/// Records with their groups, or why there will never be any.
pub(super) type Grouped = Result<Vec<(Arc<str>, LogRecord)>, String>;

/// The records of the snapshot that counts, with their groups; or why there will never be any. What a newer version wrote is
/// waited for: that may come back.
async fn read_snapshot(archiver: &Archiver, patience: Duration) -> Result<Grouped, Reason> {
    records_of(clock::timeout(&*archiver.runtime.clock, patience, archiver.bucket.group_snapshot()).await?)
}

/// The same, of a snapshot that was read, or not.
pub(super) fn records_of(read: Result<Option<Bytes>, BucketError>) -> Result<Grouped, Reason> {
    match read {
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

/// What a log says, so that the snapshot need not.
#[derive(Default)]
struct Said {
    keys: BTreeSet<Bytes>,
    /// Groups that were deleted, with all that was committed to them before.
    deleted: BTreeSet<Arc<str>>,
}

impl Said {
    async fn by(log: &dyn OffsetsLog) -> Result<Self, Reason> {
        let mut said = Self::default();
        let mut unreadable = None;
        let walked = walk_log(log, |record| match Key::decode(&record.key) {
            Ok(key) => {
                if let (Key::Group { group }, None) = (key, &record.value) {
                    said.deleted.insert(group);
                }
                said.keys.insert(record.key);
            }
            Err(error) => unreadable = Some(error),
        });
        walked.await?;
        // It may be anywhere in the log.
        let advice = "start the release that wrote it, or delete all records (offset -1)";
        unreadable.map_or(Ok(said), |error| Err(format!("{error}; {advice}").into()))
    }

    fn lacks(&self, group: &Arc<str>, record: &LogRecord) -> bool {
        !self.keys.contains(&record.key) && !self.deleted.contains(group)
    }
}

/// Has what is in the log be in sealed segments: what comes after damage in the same file might not be found again.
async fn seal(log: &Arc<PartitionLog>, clock: &dyn Clock) -> Result<(), Reason> {
    log.request_roll();
    for _ in 0..SEAL_LOOKS {
        if log.unsealed_bytes() == 0 {
            return Ok(());
        }
        clock.sleep(SEAL_INTERVAL).await;
    }
    Err("the log's last segment is not sealed yet".into())
}

impl Broker {
    /// Gives up records of a partition of `__consumer_offsets` of which some can't be read, as an operator asks: its groups go on
    /// from the bucket's snapshot and from what the log has beside it. Gives the first readable offset then. Refused where
    /// nothing is lost. Once it has begun it goes on when the asker is gone, until the broker stops.
    ///
    /// # Errors
    /// [`PartitionError`]; after [`PartitionError::TimedOut`] it may or may not be done.
    pub async fn give_up_offsets(
        self: &Arc<Self>,
        leader: &Leader,
        offset: Offset,
        timeout: Duration,
    ) -> Result<Offset, PartitionError> {
        let timeout = timeout.max(LEAST_PATIENCE);
        let (sender, given_up) = oneshot::channel();
        let (broker, leader) = (Arc::clone(self), leader.clone());
        self.runtime().watch.spawn(async move {
            tokio::select! {
                biased;
                // What the metadata has noted by then waits for another request.
                () = broker.stopping() => {}
                // The asker may have given up.
                outcome = broker.give_up(&leader, offset, timeout, &sender) => drop(sender.send(outcome)),
            }
        });
        match clock::timeout(&*self.runtime().clock, timeout, given_up).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(PartitionError::TimedOut),
        }
    }

    async fn give_up(
        &self,
        leader: &Leader,
        offset: Offset,
        timeout: Duration,
        asker: &oneshot::Sender<Result<Offset, PartitionError>>,
    ) -> Result<Offset, PartitionError> {
        let (log, directory) = (leader.partition.log(), leader.partition.directory());
        let partition = log.partition();
        let turn = self.restoring.turn(partition);
        let turn = clock::timeout(&*self.runtime().clock, timeout.min(TURN_PATIENCE), turn.lock()).await;
        let _turn = turn.map_err(|_| PartitionError::TimedOut)?;
        if asker.is_closed() {
            // Nothing is begun yet, and the asker may have thought better of it.
            return Err(PartitionError::TimedOut);
        }
        if !self.has_lost_offsets(partition) {
            return Err(PartitionError::InternalTopic);
        }
        let high_watermark = log.offsets().high_watermark;
        let below = if offset == Offset(-1) { high_watermark } else { offset };
        if below < Offset::ZERO || below > high_watermark {
            return Err(PartitionError::OutOfRange { offset, high_watermark });
        }
        if directory.is_offline() {
            return Err(AppendError::Offline { directory_id: directory.identity().directory_id }.into());
        }
        tracing::error!(%partition, %below, "damaged records of committed offsets are given up");
        if !self.image().unrestored().contains(&partition) {
            // Before they go: from then on their groups could begin anew.
            if let Err(error) = self.submit(Command::NoteLost { partition }).await {
                tracing::warn!(%error, %partition, "damaged records of committed offsets are not given up");
                return Err(PartitionError::TimedOut);
            }
        }
        self.give_up_coordinator(partition).await;
        // However long that takes: what is restored must not be there yet when they go.
        let log_start = leader.advance_log_start(below).await;
        self.restoring.given_up.notify_one();
        log_start
    }

    /// Restores what is lost, at the start or later, for as long as the broker runs.
    pub(in crate::broker) async fn restore_offsets_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let mut images = self.metadata.subscribe();
        loop {
            let lost = self.unrestored_here(&images.borrow_and_update()).len();
            if lost > 0 {
                self.restore_offsets(&archiver, lost).await;
            }
            if images.changed().await.is_err() {
                return;
            }
        }
    }

    /// The partitions of `__consumer_offsets` that wait to be restored and are led here.
    fn unrestored_here(&self, image: &Image) -> Vec<TopicPartition> {
        let topic_id = image.topic_named(OFFSETS_TOPIC).map(|topic| topic.topic_id);
        let is_led = |id: &TopicPartition| image.partition(*id).is_some_and(|it| it.leader == Some(self.node_id()));
        let unrestored = image.unrestored().iter().filter(|id| Some(id.topic_id) == topic_id);
        unrestored.filter(|id| is_led(id)).copied().collect()
    }

    /// Gives partitions of `__consumer_offsets` that were lost what the bucket knows of them, says what is missing, and has
    /// their coordinators start. Until the bucket was heard, there are none: consumers would begin anew for good.
    async fn restore_offsets(&self, archiver: &Archiver, partitions: usize) {
        tracing::error!(
            partitions,
            "committed offsets were lost: their groups have no coordinator until the bucket's last snapshot was read"
        );
        archiver.proved().await;
        let (mut before, mut complaint) = (String::new(), String::new());
        let (mut records, mut patience, mut pause) = (0, PATIENCE, FIRST_RETRY_INTERVAL);
        let told = loop {
            let restored = self.restore(archiver, patience, &mut records).await;
            patience = LONGEST_PATIENCE.min(patience * 2);
            match restored {
                Ok(told) => break told,
                Err(error) => {
                    let text = error.to_string();
                    // Once, when it has not passed by itself.
                    if text == before && text != complaint {
                        tracing::error!(%error, partitions, "lost offsets can't be restored yet; tried again");
                        complaint.clone_from(&text);
                    }
                    before = text;
                }
            }
            tokio::select! {
                biased;
                () = self.restoring.given_up.notified() => pause = FIRST_RETRY_INTERVAL,
                () = self.runtime().clock.sleep(pause) => pause = LONGEST_RETRY_INTERVAL.min(pause * 2),
            }
        };
        match told {
            Restored::Records => tracing::error!(
                partitions,
                records,
                "committed offsets were lost, and are those of the bucket's last snapshot, or newer where the log still had them: consumers may read again what they committed in about the last minute"
            ),
            Restored::Nothing(reason) => tracing::error!(
                reason,
                partitions,
                "committed offsets were lost, and the bucket has no snapshot of them: groups of which the log has nothing begin anew; reset their offsets by hand"
            ),
            Restored::Gone => tracing::info!(partitions, "committed offsets were lost, and their topic is deleted"),
            Restored::Elsewhere => {
                tracing::info!(partitions, "committed offsets were lost, and other brokers restore them")
            }
        }
    }

    /// Restores the partitions that wait for it, one by one, and counts their records. Done again for one, it adds what it
    /// lacks still.
    async fn restore(&self, archiver: &Archiver, patience: Duration, count: &mut usize) -> Result<Restored, Reason> {
        let image = self.image();
        let lost = self.unrestored_here(&image);
        let Some(topic) = image.topic_named(OFFSETS_TOPIC).filter(|_| !lost.is_empty()) else {
            // With the topic its partitions' notes go.
            let untouched = if image.unrestored().is_empty() { Restored::Gone } else { Restored::Elsewhere };
            return Ok(if *count > 0 { Restored::Records } else { untouched });
        };
        // The bucket is not asked on behalf of logs that can't be read yet.
        let (mut readable, mut failed) = (Vec::new(), Vec::new());
        for partition in lost {
            match self.restore_partition(topic, partition, patience, None).await {
                Ok(_) => readable.push(partition),
                // Another may be in a directory that works.
                Err(error) => failed.push(format!("{partition}: {error}")),
            }
        }
        if readable.is_empty() {
            return Err(failed.join("; ").into());
        }
        let (records, nothing) = match read_snapshot(archiver, patience).await? {
            Ok(records) => (records, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        for partition in readable {
            match self.restore_partition(topic, partition, patience, Some(&records)).await {
                Ok(restored) => *count += restored,
                Err(error) => failed.push(format!("{partition}: {error}")),
            }
        }
        if failed.is_empty() {
            Ok(nothing.map_or(Restored::Records, Restored::Nothing))
        } else {
            Err(failed.join("; ").into())
        }
    }

    /// Has a partition's coordinator end, and sees whether its log can be read. Where the snapshot's `records` are there, appends
    /// its share of them and has it restored; gives of how many records.
    async fn restore_partition(
        &self,
        topic: &Topic,
        partition: TopicPartition,
        patience: Duration,
        records: Option<&[(Arc<str>, LogRecord)]>,
    ) -> Result<usize, Reason> {
        let clock = &*self.runtime().clock;
        let turn = self.restoring.turn(partition);
        let turn = clock::timeout(clock, patience, turn.lock()).await;
        let _turn = turn.map_err(|_| "it is being given up, and its data directory does not answer")?;
        if !self.image().unrestored().contains(&partition) {
            return Ok(0);
        }
        self.give_up_coordinator(partition).await;
        // What an attempt that is cut off has appended, the next one finds there.
        let appended = self.append_lacking(topic, partition, records.unwrap_or_default());
        let appended = clock::timeout(clock, patience, appended).await;
        let count = appended.map_err(|_| "the log does not answer in time")??;
        if records.is_some() {
            self.submit(Command::NoteRestored { partitions: vec![partition] }).await?;
        }
        Ok(count)
    }

    /// Appends a partition's share of records, but for what its log says itself; returns of how many records.
    async fn append_lacking(
        &self,
        topic: &Topic,
        partition: TopicPartition,
        records: &[(Arc<str>, LogRecord)],
    ) -> Result<usize, Reason> {
        let partition = partition.partition;
        let leader = self.leader(topic, partition.0, LeaderEpoch::NONE)?;
        seal(leader.partition.log(), &*self.runtime().clock).await?;
        let log = self.offsets_log(leader);
        let said = Said::by(&*log).await?;
        let mut builder: Option<(BatchBuilder, usize)> = None;
        let mut count = 0;
        let own = records.iter().filter(|(group, _)| partition_of(group, topic.partition_count()) == partition);
        for (_, record) in own.filter(|(group, record)| said.lacks(group, record)) {
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

//! Reads records of a topic's partitions, without a group, from a position up to an end or for as long as there are more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest};

use super::admin::millis;
use super::cluster::topic_name;
use super::{ClientError, Cluster, Topic};
use crate::record::{Batch, Batches, MAX_DECOMPRESSED_BYTES, Record, RecordError};
use crate::types::{Monotonic, Offset, Timestamp};

/// The newest `Fetch` that names topics and not their identities.
const FETCH_BY_NAME_NEWEST: i16 = 12;
/// How long the broker may wait for more records before it answers.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Bytes asked for in one fetch, and of one partition of it.
const FETCH_BYTES: i32 = 32 << 20;
const PARTITION_BYTES: i32 = 4 << 20;
/// The special timestamps of `ListOffsets`.
pub const LATEST: i64 = -1;
/// The first record that is there.
pub const EARLIEST: i64 = -2;
/// The last record that is archived (KIP-1005).
pub const LATEST_TIERED: i64 = -5;

/// A place in every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record that there is.
    Beginning,
    /// Behind the last record that there is now.
    End,
    /// An offset.
    At(Offset),
    /// So many records before the end.
    BeforeEnd(i64),
    /// The first record of that time or later.
    Time(Timestamp),
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Which partitions; all when empty.
    pub partitions: Vec<i32>,
    /// Where to begin.
    pub from: Position,
    /// Where to stop, exclusive; never when unset.
    pub until: Option<Position>,
}

/// A batch that was read, with its records decompressed.
#[derive(Debug)]
pub struct Read {
    /// The partition.
    pub partition: i32,
    /// The batch; may begin before the wanted position.
    pub batch: Batch,
    /// Its records.
    pub payload: Bytes,
    /// The first offset of the batch that is wanted.
    pub from: Offset,
    /// The first offset that is not wanted any more.
    pub until: Offset,
}

impl Read {
    /// The records that are wanted.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        let wanted = self.from..self.until;
        let records = self.batch.header().records(&self.payload);
        records.filter(move |record| record.as_ref().map_or(true, |record| wanted.contains(&record.offset)))
    }
}

/// Where reading one partition stands.
#[derive(Clone, Copy, Debug)]
struct Progress {
    next: Offset,
    until: Offset,
}

/// Reads one topic.
pub struct Consumer<'a> {
    cluster: &'a mut Cluster,
    topic: Topic,
    progress: BTreeMap<i32, Progress>,
    /// In which order partitions are asked for: those that gave records last come last, as answers have a bound.
    turns: Vec<i32>,
    /// Batches that were fetched, as they came: an answer may decompress to far more than it is.
    ready: VecDeque<(i32, Batch, Progress)>,
    /// Since when fetches fail.
    failing_since: Option<Monotonic>,
}

impl<'a> Consumer<'a> {
    /// Finds the topic and turns the bounds into offsets.
    pub async fn open(cluster: &'a mut Cluster, topic: &str, bounds: &Bounds) -> Result<Self, ClientError> {
        let needs = |index| bounds.partitions.is_empty() || bounds.partitions.contains(&index);
        let topic = cluster.topic(topic, false, needs).await?;
        let partitions = topic.partitions.len();
        let unknown = |index: &&i32| !topic.partitions.iter().any(|partition| partition.index == **index);
        if let Some(&partition) = bounds.partitions.iter().find(unknown) {
            return Err(ClientError::NoSuchPartition { topic: topic.name, partition, partitions });
        }
        let all = topic.partitions.iter().map(|partition| partition.index);
        let wanted: BTreeSet<i32> =
            if bounds.partitions.is_empty() { all.collect() } else { bounds.partitions.iter().copied().collect() };
        let turns = wanted.iter().copied().collect();
        let mut consumer =
            Self { cluster, topic, progress: BTreeMap::new(), turns, ready: VecDeque::new(), failing_since: None };
        let until = match bounds.until {
            Some(position) => Some(consumer.resolve(&wanted, position).await?),
            None => None,
        };
        let from = consumer.resolve(&wanted, bounds.from).await?;
        let progress = |(&index, &next): (&i32, &Offset)| {
            let until = until.as_ref().map_or(Offset::MAX, |until| until[&index]);
            (index, Progress { next, until })
        };
        consumer.progress = from.iter().map(progress).collect();
        Ok(consumer)
    }

    /// The partitions that end before the offset at which reading them begins, with the first offset and the end of each.
    pub async fn ended(&mut self) -> Result<Vec<(i32, Offset, Offset)>, ClientError> {
        let ended = self.progress.iter().filter(|(_, progress)| progress.next > progress.until);
        let ended: BTreeSet<i32> = ended.map(|(&index, _)| index).collect();
        let first = self.list_offsets(&ended, EARLIEST).await?;
        let end = self.list_offsets(&ended, LATEST).await?;
        let still = end.into_iter().filter(|(index, end)| self.progress[index].next > *end);
        Ok(still.map(|(index, end)| (index, first[&index], end)).collect())
    }

    /// The next batch; `None` once every partition is at its end. Waits for more when there is no end, and for a broker that is
    /// away up to the usual limit.
    pub async fn next(&mut self) -> Result<Option<Read>, ClientError> {
        loop {
            if let Some((partition, batch, Progress { next: from, until })) = self.ready.pop_front() {
                let damaged = |source| ClientError::Batch { topic: self.topic.name.clone(), partition, source };
                let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(damaged)?;
                return Ok(Some(Read { partition, batch, payload, from, until }));
            }
            self.progress.retain(|_, progress| progress.next < progress.until);
            if self.progress.is_empty() {
                return Ok(None);
            }
            let Err(error) = self.fetch().await else {
                self.failing_since = None;
                continue;
            };
            let now = self.cluster.runtime().clock.monotonic();
            let failing = now.since(*self.failing_since.get_or_insert(now));
            if failing >= self.cluster.limit() || !error.is_retriable() {
                return Err(error);
            }
            self.cluster.disconnect();
            self.cluster.pause().await;
            let needs = |index| self.progress.contains_key(&index);
            match self.cluster.topic(&self.topic.name, false, needs).await {
                Ok(topic) => self.topic = topic,
                Err(error) if error.is_retriable() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks every leader once for its partitions.
    async fn fetch(&mut self) -> Result<(), ClientError> {
        self.turns.retain(|index| self.progress.contains_key(index));
        let before = self.progress.clone();
        for (leader, partitions) in self.by_leader(self.turns.iter().copied()) {
            let partitions = partitions.iter().map(|&index| {
                FetchPartition::default()
                    .with_partition(index)
                    .with_fetch_offset(self.progress[&index].next.0)
                    .with_partition_max_bytes(PARTITION_BYTES)
            });
            let topic =
                FetchTopic::default().with_topic(topic_name(&self.topic.name)).with_partitions(partitions.collect());
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(millis(MAX_WAIT))
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let connection = self.cluster.broker(leader).await?;
            let answer: FetchResponse = connection.send_at_most(&request, FETCH_BY_NAME_NEWEST, MAX_WAIT).await?;
            ClientError::check(format!("fetching from {}", self.topic.name), answer.error_code, None)?;
            for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
                self.take(partition)?;
            }
        }
        let progress = &self.progress;
        self.turns.sort_by_key(|index| progress[index].next > before[index].next);
        Ok(())
    }

    /// Takes the batches of one partition out of an answer.
    fn take(&mut self, data: &PartitionData) -> Result<(), ClientError> {
        let index = data.partition_index;
        let what = || format!("fetching from {} partition {index}", self.topic.name);
        ClientError::check(what(), data.error_code, None)?;
        let Some(progress) = self.progress.get_mut(&index) else { return Ok(()) };
        let damaged = |source| ClientError::Batch { topic: self.topic.name.clone(), partition: index, source };
        for batch in Batches::new(data.records.clone().unwrap_or_default()) {
            let batch = match batch {
                Ok(batch) => batch,
                // The broker cuts the last batch where the limit on bytes falls.
                Err(RecordError::Truncated { .. }) => break,
                Err(error) => return Err(damaged(error)),
            };
            batch.verify_checksum().map_err(damaged)?;
            let from = progress.next;
            progress.next = progress.next.max(batch.header().next_offset());
            if batch.header().attributes.is_control() || batch.header().base_offset >= progress.until {
                continue;
            }
            self.ready.push_back((index, batch, Progress { next: from, until: progress.until }));
        }
        Ok(())
    }

    /// Turns a position into an offset of each partition.
    async fn resolve(
        &mut self,
        partitions: &BTreeSet<i32>,
        position: Position,
    ) -> Result<BTreeMap<i32, Offset>, ClientError> {
        match position {
            Position::Beginning => self.list_offsets(partitions, EARLIEST).await,
            Position::End => self.list_offsets(partitions, LATEST).await,
            Position::At(offset) => Ok(partitions.iter().map(|&index| (index, offset)).collect()),
            Position::BeforeEnd(count) => {
                let first = self.list_offsets(partitions, EARLIEST).await?;
                let end = self.list_offsets(partitions, LATEST).await?;
                Ok(end.iter().map(|(&index, &end)| (index, (end + -count).max(first[&index]))).collect())
            }
            Position::Time(timestamp) => {
                let end = self.list_offsets(partitions, LATEST).await?;
                let found = self.list_offsets(partitions, timestamp.0.max(0)).await?;
                // −1 says that no record is as late as that.
                let or_end = |(&index, &offset): (&i32, &Offset)| {
                    (index, if offset < Offset::ZERO { end[&index] } else { offset })
                };
                Ok(found.iter().map(or_end).collect())
            }
        }
    }

    async fn list_offsets(
        &mut self,
        partitions: &BTreeSet<i32>,
        timestamp: i64,
    ) -> Result<BTreeMap<i32, Offset>, ClientError> {
        let offsets = list_offsets(self.cluster, &self.topic, partitions, timestamp).await?;
        if let Some(&partition) = partitions.iter().find(|index| !offsets.contains_key(index)) {
            let (topic, partitions) = (self.topic.name.clone(), self.topic.partitions.len());
            return Err(ClientError::NoSuchPartition { topic, partition, partitions });
        }
        Ok(offsets)
    }

    fn by_leader(&self, partitions: impl Iterator<Item = i32>) -> BTreeMap<i32, Vec<i32>> {
        by_leader(&self.topic, partitions)
    }
}

/// The offset of a timestamp, or of a special one, in some partitions of a topic.
pub async fn list_offsets(
    cluster: &mut Cluster,
    topic: &Topic,
    partitions: &BTreeSet<i32>,
    timestamp: i64,
) -> Result<BTreeMap<i32, Offset>, ClientError> {
    let mut offsets = BTreeMap::new();
    for (leader, partitions) in by_leader(topic, partitions.iter().copied()) {
        let partition =
            |&index: &i32| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp);
        let wanted = ListOffsetsTopic::default()
            .with_name(topic_name(&topic.name))
            .with_partitions(partitions.iter().map(partition).collect());
        let limit = cluster.limit();
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![wanted])
            .with_timeout_ms(millis(limit));
        let answer = cluster.broker(leader).await?.send_at_most(&request, i16::MAX, limit).await?;
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            let index = partition.partition_index;
            ClientError::check(format!("offsets of {} partition {index}", topic.name), partition.error_code, None)?;
            offsets.insert(index, Offset(partition.offset));
        }
    }
    Ok(offsets)
}

fn by_leader(topic: &Topic, partitions: impl Iterator<Item = i32>) -> BTreeMap<i32, Vec<i32>> {
    let mut leaders: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for index in partitions {
        let partition = topic.partitions.iter().find(|partition| partition.index == index);
        leaders.entry(partition.map_or(-1, |partition| partition.leader)).or_default().push(index);
    }
    leaders
}

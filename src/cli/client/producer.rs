//! Sends records: collects them into one batch for each partition, and sends those that are full.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId as WireProducerId};

use super::admin::millis;
use super::cluster::topic_name;
use super::{ClientError, Cluster, Topic, key_partition};
use crate::record::{BatchBuilder, BatchOptions, Compression, HeaderView};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// The newest `Produce` that names topics and not their identities.
const PRODUCE_BY_NAME_NEWEST: i16 = 12;
/// How long a batch is sent again before the error is given up to the caller, in multiples of the usual limit.
const RETRY_LIMITS: u32 = 3;

/// Bytes of records that wait in batches of all partitions; beyond it they are sent, full or not.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Whose word counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Acks {
    /// Every in-sync replica's. Records are then sent idempotently: a retry does not write them twice
    All,
    /// The leader's
    #[value(name = "1")]
    Leader,
    /// Nobody's: what gets lost is not noticed
    #[value(name = "0")]
    None,
}

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct ProducerOptions {
    /// How batches are compressed.
    pub compression: Compression,
    /// Whose word counts as done.
    pub acks: Acks,
    /// Bytes of records before compression at which a batch is sent.
    pub batch_bytes: usize,
}

/// A header to be sent: its key, and its value or null.
pub type NewHeader = (String, Option<Vec<u8>>);

/// A record to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Where to; by the key's hash when unset, and in turns without a key.
    pub partition: Option<i32>,
    /// Now when unset.
    pub timestamp: Option<Timestamp>,
    /// `None` is null, which differs from empty.
    pub key: Option<Vec<u8>>,
    /// `None` is null, which differs from empty.
    pub value: Option<Vec<u8>>,
    /// In order; keys may repeat.
    pub headers: Vec<NewHeader>,
}

impl NewRecord {
    /// What it takes in a batch, but for a few bytes.
    fn bytes(&self) -> usize {
        let length = |field: Option<&Vec<u8>>| field.map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(key, value)| key.len() + length(value.as_ref()));
        length(self.key.as_ref()) + length(self.value.as_ref()) + headers.sum::<usize>()
    }
}

/// A batch that is being filled.
struct Filling {
    builder: BatchBuilder,
    next_sequence: i32,
    bytes: usize,
}

/// Sends to one topic.
pub struct Producer<'a> {
    cluster: &'a mut Cluster,
    topic: Topic,
    options: ProducerOptions,
    identity: (ProducerId, ProducerEpoch),
    filling: BTreeMap<i32, Filling>,
    waiting_bytes: usize,
    done: u64,
    /// The partition that records without a key go to until its batch is full.
    sticky: usize,
}

impl<'a> Producer<'a> {
    /// Finds the topic, which the broker may make on the way, and asks for an identity if records are sent idempotently.
    pub async fn open(cluster: &'a mut Cluster, topic: &str, options: ProducerOptions) -> Result<Self, ClientError> {
        // Which partitions need a leader, their records tell.
        let topic = cluster.topic(topic, true, |_| false).await?;
        let mut identity = (ProducerId::NONE, ProducerEpoch::NONE);
        if options.acks == Acks::All {
            identity = Self::identify(cluster).await?;
        }
        Ok(Self { cluster, topic, options, identity, filling: BTreeMap::new(), waiting_bytes: 0, done: 0, sticky: 0 })
    }

    /// Asks for a producer id. A cluster that has just started may need a moment for it.
    async fn identify(cluster: &mut Cluster) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(millis(cluster.limit()))
            .with_producer_id(WireProducerId(-1))
            .with_producer_epoch(-1);
        let deadline = cluster.runtime().clock.monotonic() + cluster.limit();
        loop {
            let answer = cluster.any().await?.send(&request).await?;
            match ClientError::check("becoming an idempotent producer", answer.error_code, None) {
                Ok(()) => return Ok((ProducerId(answer.producer_id.0), ProducerEpoch(answer.producer_epoch))),
                Err(error) if error.is_retriable() && cluster.runtime().clock.monotonic() < deadline => {}
                Err(error) => return Err(error),
            }
            cluster.pause().await;
        }
    }

    /// Adds a record; sends its batch when that is full, and first when it has no room for the record.
    pub async fn send(&mut self, record: &NewRecord) -> Result<(), ClientError> {
        let mut index = self.place(record)?;
        let is_placed_in_turns = record.key.is_none() && record.partition.is_none();
        while self.has_no_room(index, record) {
            self.sticky += usize::from(is_placed_in_turns);
            self.send_batch(index).await?;
            index = self.place(record)?;
        }
        let timestamp = record.timestamp.unwrap_or_else(|| self.cluster.runtime().clock.wall());
        let options = self.batch_options(0);
        let filling = self.filling.entry(index).or_insert_with(|| Filling {
            builder: BatchBuilder::new(options),
            next_sequence: 0,
            bytes: 0,
        });
        let headers = record.headers.iter();
        let headers = headers.map(|(key, value)| HeaderView { key: key.as_bytes(), value: value.as_deref() });
        let before = filling.builder.uncompressed_bytes();
        filling.builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), headers);
        let added = filling.builder.uncompressed_bytes() - before;
        filling.bytes += added;
        self.waiting_bytes += added;
        if filling.bytes >= self.options.batch_bytes {
            self.sticky += usize::from(is_placed_in_turns);
            return self.send_batch(index).await;
        }
        if self.waiting_bytes > MAX_WAITING_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Whether a partition's batch has records already, and would have too many bytes with this one.
    fn has_no_room(&self, index: i32, record: &NewRecord) -> bool {
        let waiting_bytes = self.filling.get(&index).map_or(0, |filling| filling.bytes);
        waiting_bytes > 0 && waiting_bytes + record.bytes() > self.options.batch_bytes
    }

    /// Sends everything that was added.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        let waiting: Vec<i32> = self.filling.keys().copied().collect();
        for index in waiting {
            self.send_batch(index).await?;
        }
        self.sticky += 1;
        Ok(())
    }

    /// Records that were acknowledged, or sent where nobody is to acknowledge them.
    pub const fn done(&self) -> u64 {
        self.done
    }

    fn place(&self, record: &NewRecord) -> Result<i32, ClientError> {
        let partitions = self.topic.partitions.len();
        let index = match (record.partition, &record.key) {
            (Some(index), _) => index,
            (None, Some(key)) => key_partition(key, i32::try_from(partitions).unwrap_or(i32::MAX)),
            (None, None) => {
                let (before, from) = self.topic.partitions.split_at(self.sticky % partitions);
                let led = from.iter().chain(before).find(|partition| partition.is_led());
                led.unwrap_or(&from[0]).index
            }
        };
        if usize::try_from(index).is_ok_and(|index| index < partitions) {
            return Ok(index);
        }
        Err(ClientError::NoSuchPartition { topic: self.topic.name.clone(), partition: index, partitions })
    }

    fn batch_options(&self, base_sequence: i32) -> BatchOptions {
        let (producer_id, producer_epoch) = self.identity;
        let base_sequence = if producer_id.is_some() { base_sequence } else { -1 };
        BatchOptions {
            producer_id,
            producer_epoch,
            base_sequence,
            ..BatchOptions::compressed(self.options.compression)
        }
    }

    /// Sends the batch of one partition, again and to a new leader if need be, and starts the next one.
    async fn send_batch(&mut self, index: i32) -> Result<(), ClientError> {
        let Some(filling) = self.filling.get_mut(&index).filter(|filling| filling.builder.record_count() > 0) else {
            return Ok(());
        };
        let count = filling.builder.record_count();
        // Sequences wrap from i32::MAX to 0 (KIP-98).
        let next_sequence = ((i64::from(filling.next_sequence) + i64::from(count)) % (1 << 31)) as i32;
        let options = self.batch_options(next_sequence);
        let next = Filling { builder: BatchBuilder::new(options), next_sequence, bytes: 0 };
        let full = self.filling.insert(index, next).expect("the batch was just looked at");
        self.waiting_bytes -= full.bytes;
        let unreadable = |source| ClientError::Batch { topic: self.topic.name.clone(), partition: index, source };
        let batch = full.builder.build(Offset::ZERO, LeaderEpoch::NONE).map_err(unreadable)?;
        let partition = PartitionProduceData::default().with_index(index).with_records(Some(batch.bytes().clone()));
        let topic =
            TopicProduceData::default().with_name(topic_name(&self.topic.name)).with_partition_data(vec![partition]);
        let acks = match self.options.acks {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::None => 0,
        };
        let limit = self.cluster.limit();
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(acks)
            .with_timeout_ms(millis(limit))
            .with_topic_data(vec![topic]);
        let deadline = self.cluster.runtime().clock.monotonic() + limit * RETRY_LIMITS;
        loop {
            let Err(error) = self.attempt(index, &request, limit).await else {
                self.done += u64::from(count.unsigned_abs());
                return Ok(());
            };
            // Without a sequence number, sending again after a lost answer could write the batch twice.
            let refused = matches!(error, ClientError::Refused { .. });
            let safe = refused || self.identity.0.is_some();
            if !error.is_retriable() || !safe || self.cluster.runtime().clock.monotonic() >= deadline {
                return Err(error);
            }
            if !refused {
                self.cluster.disconnect();
            }
            self.cluster.pause().await;
            if let Ok(topic) = self.cluster.topic(&self.topic.name, false, |_| false).await {
                self.topic = topic;
            }
        }
    }

    async fn attempt(&mut self, index: i32, request: &ProduceRequest, limit: Duration) -> Result<(), ClientError> {
        let leader = self.topic.partitions.iter().find(|partition| partition.index == index);
        let Some(leader) = leader.filter(|partition| partition.is_led()).map(|partition| partition.leader) else {
            let what = format!("producing to {} partition {index}", self.topic.name);
            return Err(ClientError::Refused { what, code: ResponseError::LeaderNotAvailable, message: None });
        };
        let connection = self.cluster.broker(leader).await?;
        if self.options.acks == Acks::None {
            return connection.send_only(request, PRODUCE_BY_NAME_NEWEST).await;
        }
        let answer = connection.send_at_most(request, PRODUCE_BY_NAME_NEWEST, limit).await?;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
            let what = format!("producing to {} partition {}", self.topic.name, partition.index);
            let message = partition.record_errors.iter().find_map(|error| error.batch_index_error_message.as_deref());
            let message = partition.error_message.as_deref().or(message);
            if partition.error_code != ResponseError::DuplicateSequenceNumber.code() {
                ClientError::check(what, partition.error_code, message)?;
            }
        }
        Ok(())
    }
}

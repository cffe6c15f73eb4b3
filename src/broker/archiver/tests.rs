//! Brokers that lose a data directory, get an old one back, find leftovers in the bucket, or are let down by it: the home that
//! they share, whose disks and bucket can be lost.

mod bucket;
mod cluster_state;
mod groups;
mod lost;
mod restore;
mod retention;
mod uploads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::open_store;
use crate::archive::store::faulty::{FaultPlan, FaultyBackend};
use crate::broker::*;
use crate::record::{Batch, BatchBuilder, BatchOptions, Batches};
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::*;

const TOPIC: &str = "flights";
/// Pause between looks at something that happens in the background.
const PAUSE: Duration = Duration::from_millis(20);
/// Looks before it counts as never happening.
const LOOKS: usize = 3000;

/// Two data directories and a bucket.
struct Home {
    root: tempfile::TempDir,
    sweep_interval: Duration,
    retention_interval: Duration,
}

impl Home {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            sweep_interval: Duration::from_secs(3600),
            retention_interval: Duration::from_secs(30),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn open(&self) -> Arc<Broker> {
        self.open_with(&["first", "second"]).await
    }

    fn settings(&self, directories: &[&str]) -> BrokerSettings {
        let mut settings = BrokerSettings::small(self.root.path());
        settings.directories = directories.iter().map(|name| self.path(name)).collect();
        settings.archive.archiver.sweep_interval = self.sweep_interval;
        settings.archive.archiver.retention_interval = self.retention_interval;
        settings
    }

    async fn open_with(&self, directories: &[&str]) -> Arc<Broker> {
        Broker::open(Runtime::production(), self.settings(directories), Metrics::new()).await.unwrap()
    }

    /// Over a store that fails by a plan.
    async fn open_faulty(&self, directories: &[&str], plan: FaultPlan) -> Result<Arc<Broker>, StartError> {
        let open = |runtime: &Runtime, settings: &ArchiveSettings, metrics: &Arc<Metrics>| {
            let store = open_store(runtime, settings, metrics)?;
            Ok(store.wrapped(|backend| Arc::new(FaultyBackend::new(backend, plan))))
        };
        let settings = self.settings(directories);
        Broker::open_with(Runtime::production(), settings, Metrics::new(), open, |reader| reader).await
    }

    /// A broker with a topic that has a partition in each directory, and the number of the one in the second.
    async fn begin(&self) -> (Arc<Broker>, i32) {
        self.begin_with(&[]).await
    }

    async fn begin_with(&self, configs: &[(&str, &str)]) -> (Arc<Broker>, i32) {
        self.begin_on(self.open().await, configs).await
    }

    async fn begin_on(&self, broker: Arc<Broker>, configs: &[(&str, &str)]) -> (Arc<Broker>, i32) {
        let configs = configs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let topic = NewTopic { partitions: 2, replication_factor: 1, configs, ..NewTopic::by_default(TOPIC) };
        let topic = broker.create_topic(topic, false).await.unwrap();
        let second = broker.directories()[1].identity().directory_id;
        let of_second =
            |index: &i32| topic.partition(*index).unwrap().replica_on(NodeId(1)).unwrap().directory == second;
        (broker, (0..2).find(of_second).unwrap())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A batch of one record by the producer 7.
fn batch(sequence: i32, value: &str) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    builder.append(
        Timestamp(1_700_000_000_000 + i64::from(sequence)),
        None,
        Some(value.as_bytes()),
        std::iter::empty(),
    );
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone()
}

/// Waits for the partition as a client does, by trying again.
async fn leader(broker: &Broker, index: i32) -> Leader {
    for _ in 0..LOOKS {
        let image = broker.image();
        match broker.leader(image.topic_named(TOPIC).unwrap(), index, LeaderEpoch::NONE) {
            Ok(leader) => return leader,
            Err(PartitionError::Behind) => tokio::time::sleep(PAUSE).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the partition stays behind the archive");
}

async fn produce(broker: &Broker, index: i32, records: Bytes) -> Result<Produced, PartitionError> {
    let leader = leader(broker, index).await;
    let produced =
        broker.append(&leader, records, true, RoomWait { timeout: Duration::from_secs(60), held_bytes: 1000 }).await?;
    broker.acknowledge(&leader, &produced, Acknowledgement::All, Duration::from_secs(60)).await?;
    Ok(produced)
}

/// Produces one batch for each sequence, with values that name the history that they belong to.
async fn produce_all(broker: &Broker, index: i32, sequences: std::ops::Range<i32>, history: &str) -> Vec<String> {
    let mut values = Vec::new();
    for sequence in sequences {
        let value = format!("{history} {sequence}");
        produce(broker, index, batch(sequence, &value)).await.unwrap();
        values.push(value);
    }
    values
}

/// Seals what there is and waits until it is archived.
async fn archive(broker: &Broker, index: i32) -> Offset {
    let leader = leader(broker, index).await;
    let log = leader.partition.log();
    log.request_roll();
    for _ in 0..LOOKS {
        let offsets = log.offsets();
        if offsets.archived_to == offsets.log_end {
            return offsets.archived_to;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("not archived: {:?}", log.offsets());
}

/// The values of all records, read as a consumer does from the beginning, and their offsets checked.
async fn read_all(broker: &Broker, index: i32) -> Vec<String> {
    let mut values = Vec::new();
    let mut offset = Offset::ZERO;
    for _ in 0..LOOKS {
        let leader = leader(broker, index).await;
        let end = leader.partition.log().offsets().high_watermark;
        if offset >= end {
            return values;
        }
        let limits = FetchLimits {
            max_wait: Duration::from_secs(5),
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation: Isolation::ReadUncommitted,
        };
        let wanted = FetchPartition { leader: Ok(leader), offset, max_bytes: 1 << 20 };
        let fetched = broker.fetch(&[wanted], limits).await.0.remove(0);
        for chunk in fetched.records.unwrap() {
            for batch in Batches::new(chunk).map(Result::unwrap) {
                values.extend(values_of(&batch, &mut offset));
            }
        }
    }
    panic!("reading does not get on at {offset}");
}

fn values_of(batch: &Batch, offset: &mut Offset) -> Vec<String> {
    let payload = batch.decompressed(1 << 20).unwrap();
    let records = batch.header().records(&payload).map(Result::unwrap);
    records
        .map(|record| {
            assert_eq!(record.offset, *offset, "no offset is missing, and none comes twice");
            *offset = offset.next();
            String::from_utf8(record.value.unwrap().to_vec()).unwrap()
        })
        .collect()
}

/// Every file below a directory.
fn objects(directory: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}

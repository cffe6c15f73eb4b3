//! Brokers that lose a data directory, get an old one back, find leftovers in the bucket, or are let down by it. Long because
//! they share a home whose disks and bucket can be lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::open_store;
use crate::archive::planner::EXPIRED_PER_PASS;
use crate::archive::store::Operation;
use crate::archive::store::faulty::{Fault, FaultPlan, FaultyBackend};
use crate::broker::*;
use crate::group::request::{CommitPartition, CommitTopic, OffsetCommit, OffsetFetch};
use crate::log::AppendError;
use crate::metadata::Command;
use crate::metadata::image::ArchiveMark;
use crate::metadata::topic_config::ConfigOperation;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_directory_goes_on_where_the_archive_ends() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let other = 1 - index;
    let mut expected = produce_all(&broker, index, 0..20, "kept").await;
    let untouched = produce_all(&broker, other, 0..5, "other").await;
    let archived_to = archive(&broker, index).await;
    produce_all(&broker, index, 20..23, "lost").await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    for round in 0..2 {
        let broker = home.open().await;
        assert_eq!(read_all(&broker, index).await, expected);
        assert_eq!(read_all(&broker, other).await, untouched);
        // The producer's last batch that is archived is known, and the next one is expected.
        let last = i32::try_from(expected.len()).unwrap() - 1;
        let again = produce(&broker, index, batch(last, expected.last().unwrap())).await.unwrap();
        assert_eq!(again.next_offset, Offset(i64::from(last) + 1), "a retry is found in the bucket");
        assert!(produce(&broker, index, batch(last + 3, "a gap")).await.is_err());
        let more = produce_all(&broker, index, last + 1..last + 4, &format!("round {round}")).await;
        expected.extend(more);
        if round == 0 {
            let reached = archive(&broker, index).await;
            assert_eq!(reached, archived_to + 3);
        }
        assert_eq!(read_all(&broker, index).await, expected);
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_directory_never_appends_where_the_archive_has_records() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "first").await;
    archive(&broker, index).await;
    expected.extend(produce_all(&broker, index, 5..10, "first").await);
    broker.shutdown().await;
    copy(&home.path("second"), &home.path("old"));

    let broker = home.open().await;
    expected.extend(produce_all(&broker, index, 10..20, "second").await);
    let archived_to = archive(&broker, index).await;
    let beyond = produce_all(&broker, index, 20..40, "not archived").await;
    broker.shutdown().await;
    std::fs::rename(home.path("second"), home.path("newest")).unwrap();
    std::fs::rename(home.path("old"), home.path("second")).unwrap();

    // The log ends at 10 and the archive at 20.
    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    let produced = produce(&broker, index, batch(20, "third 20")).await.unwrap();
    assert_eq!(produced.base_offset, archived_to);
    expected.push("third 20".to_owned());
    expected.extend(produce_all(&broker, index, 21..30, "third").await);
    archive(&broker, index).await;
    let next = produce_all(&broker, index, 30..32, "third").await;
    broker.shutdown().await;

    // The first disk comes back: it reaches further than the archive, by records that were never archived and that others took
    // the place of.
    std::fs::rename(home.path("second"), home.path("later")).unwrap();
    std::fs::rename(home.path("newest"), home.path("second")).unwrap();
    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    expected.extend(produce_all(&broker, index, 30..35, "fourth").await);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    assert!(!beyond.iter().chain(&next).any(|value| expected.contains(value)));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_checkpoint_costs_nothing_of_a_log_of_which_the_archive_has_the_rest() {
    // How far local copies are gone of what is archived, and whether records follow that are not.
    for (removed, has_more) in [(10, true), (20, true), (20, false)] {
        let home = Home::new();
        let (broker, index) = home.begin().await;
        let mut expected = produce_all(&broker, index, 0..10, "first").await;
        archive(&broker, index).await;
        expected.extend(produce_all(&broker, index, 10..20, "second").await);
        archive(&broker, index).await;
        let log = Arc::clone(leader(&broker, index).await.partition.log());
        while log.offsets().local_log_start < Offset(removed) {
            broker.directories()[1].request_checkpoint();
            log.remove_local_below(Offset(removed)).unwrap();
            tokio::time::sleep(PAUSE).await;
        }
        drop(log);
        if has_more {
            expected.extend(produce_all(&broker, index, 20..25, "not archived").await);
        }
        broker.shutdown().await;
        std::fs::remove_file(home.path("second/checkpoint")).unwrap();

        for _ in 0..2 {
            let broker = home.open().await;
            assert_eq!(read_all(&broker, index).await, expected, "{removed} {has_more}");
            let next = i32::try_from(expected.len()).unwrap();
            expected.extend(produce_all(&broker, index, next..next + 3, "later").await);
            assert_eq!(archive(&broker, index).await, Offset(i64::from(next) + 3));
            let epochs = leader(&broker, index).await.partition.log().epochs();
            assert_eq!(epochs.starts()[0].1, Offset::ZERO, "{removed} {has_more}: {epochs:?}");
            assert_eq!(read_all(&broker, index).await, expected);
            broker.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_can_not_be_described_keeps_no_other_from_it() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let described = |name: &str| {
        let is_it = |path: &PathBuf| path.ends_with("topic.json") && path.to_string_lossy().contains(name);
        objects(&home.path("store/alluvium")).into_iter().find(is_it)
    };
    let wait_for = async |name: &str| {
        for _ in 0..LOOKS {
            if let Some(found) = described(name) {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{name} is not described");
    };
    let description = wait_for(&format!("/{TOPIC}-")).await;
    broker.shutdown().await;
    std::fs::write(description, "damaged").unwrap();

    let broker = home.open().await;
    // The second one has a name that no file may have.
    for name in ["later".to_owned(), format!(".{}", "x".repeat(248))] {
        broker.create_topic(NewTopic { partitions: 1, ..NewTopic::by_default(&name) }, false).await.unwrap();
        let shown = crate::archive::key::shown_name(&name);
        wait_for(&format!("/{shown}-")).await;
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_never_described_and_is_deleted_is_recorded_as_gone() {
    let home = Home::new();
    let denies = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&denies);
    let plan = Box::new(move |_, _, key: &str| {
        let is_hit = asked.load(Ordering::Relaxed) && key.ends_with("topic.json");
        if is_hit { Fault::Denied } else { Fault::None }
    });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let (broker, _) = home.begin_on(broker, &[]).await;
    broker.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
    denies.store(false, Ordering::Relaxed);
    for _ in 0..LOOKS {
        if broker.image().deleted_topics().count() == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    broker.shutdown().await;
    let left = objects(&home.path("store/alluvium")).into_iter().filter(|path| path.ends_with("topic.json"));
    let descriptions: Vec<_> = left.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(descriptions.len() == 1 && descriptions[0].contains("\"purged\""), "{descriptions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_local_goes_because_of_an_archive_that_contradicts_it() {
    let mut home = Home::new();
    home.retention_interval = Duration::from_millis(100);
    let configs = [("local.retention.ms", "-1"), ("local.retention.bytes", "-1")];
    let (broker, index) = home.begin_with(&configs).await;
    let mut expected = produce_all(&broker, index, 0..5, "both").await;
    archive(&broker, index).await;
    broker.shutdown().await;
    let other = Home::new();
    copy(home.root.path(), other.root.path());
    let broker = home.open().await;
    expected.extend(produce_all(&broker, index, 5..10, "ours").await);
    archive(&broker, index).await;
    broker.shutdown().await;
    // Another life of the same cluster, which has these offsets in a later epoch. Its bucket takes the place of ours.
    other.open().await.shutdown().await;
    let broker = other.open().await;
    produce_all(&broker, index, 5..10, "theirs").await;
    archive(&broker, index).await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("store")).unwrap();
    std::fs::rename(other.path("store"), home.path("store")).unwrap();

    let broker = home.open().await;
    let set = |name: &str| (name.to_owned(), ConfigOperation::Set("1".to_owned()));
    let edit = ConfigEdit::Operations(vec![set("local.retention.ms"), set("local.retention.bytes")]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    let passes = &broker.metrics().archive.retained_partitions;
    for _ in 0..LOOKS {
        if passes.get() >= 40 {
            break;
        }
        broker.directories()[1].request_checkpoint();
        tokio::time::sleep(PAUSE).await;
    }
    assert!(passes.get() >= 40, "{} looks", passes.get());
    assert_eq!(log.offsets().local_log_start, Offset::ZERO);
    assert_eq!(read_all(&broker, index).await, expected);
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_that_no_upload_followed_costs_nothing() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    expected.extend(produce_all(&broker, index, 5..8, "kept").await);
    let id = leader(&broker, index).await.partition.log().partition();
    let mark = ArchiveMark { next_offset: Offset(50), leader_epoch: LeaderEpoch(3) };
    broker.submit(Command::NoteArchiving { partition: id, mark }).await.unwrap();
    broker.shutdown().await;

    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected, "what is not archived stays");
    expected.extend(produce_all(&broker, index, 8..10, "kept").await);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_missing_and_not_replaced_is_waited_for() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    broker.shutdown().await;

    let broker = home.open_with(&["first"]).await;
    let image = broker.image();
    let refused = broker.leader(image.topic_named(TOPIC).unwrap(), index, LeaderEpoch::NONE).unwrap_err();
    assert!(matches!(refused, PartitionError::Append(AppendError::Offline { .. })), "{refused}");
    produce_all(&broker, 1 - index, 0..5, "other").await;
    drop(image);
    broker.shutdown().await;

    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_begins_within_a_batch_is_archived() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in ["deleted", "deleted too", "kept"] {
        builder.append(Timestamp(5), None, Some(value.as_bytes()), std::iter::empty());
    }
    let records = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone();
    produce(&broker, index, records).await.unwrap();
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    log.advance_log_start(Offset(2)).unwrap();
    while log.offsets().log_start < Offset(2) {
        tokio::time::sleep(PAUSE).await;
    }
    drop(log);
    assert_eq!(archive(&broker, index).await, Offset(3));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_reaches_a_partition_that_nobody_has_used_since_the_start() {
    let home = Home::new();
    // The records are years old.
    let (broker, index) = home.begin_with(&[("retention.ms", "1000")]).await;
    produce_all(&broker, index, 0..5, "old").await;
    let end = archive(&broker, index).await;
    let id = leader(&broker, index).await.partition.log().partition();
    // On a slow machine a later look of the first life may find it.
    let found_before = broker.metrics().archive.expired_segments.get();
    broker.shutdown().await;

    let broker = home.open().await;
    let log = broker.directories().iter().find_map(|directory| directory.log(id)).unwrap();
    for _ in 0..LOOKS {
        if log.offsets().log_start == end {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(log.offsets().log_start, end);
    assert_eq!(found_before + broker.metrics().archive.expired_segments.get(), 1);
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_archive_did_and_has_to_do_is_measured() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    produce_all(&broker, index, 0..5, "kept").await;
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    let now = broker.runtime().clock.wall();
    let since = log.oldest_unarchived().unwrap();
    assert!(since <= now && now.0 - since.0 < 600_000, "{since} {now}");
    archive(&broker, index).await;
    assert_eq!(log.oldest_unarchived(), None);
    drop(log);
    let text = broker.metrics().encode();
    for name in [
        "archive_uploaded_bytes_total",
        "archive_archived_bytes_total",
        "archive_encode_seconds_count",
        "archive_verify_seconds_count",
        "archive_upload_seconds_count",
        "archive_commit_seconds_count",
        "store_written_bytes_total",
        "store_read_bytes_total",
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("alluvium_{name} ")));
        assert!(line.is_some_and(|value| value != "0"), "{name}: {line:?}");
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_runs_by_itself_and_takes_what_an_earlier_leader_left_behind() {
    let mut home = Home::new();
    home.sweep_interval = Duration::from_millis(100);
    let (broker, index) = home.begin().await;
    produce_all(&broker, index, 0..5, "first").await;
    archive(&broker, index).await;
    broker.shutdown().await;

    // A second life leads in a later epoch, once it has archived something.
    let broker = home.open().await;
    let orphans = {
        let names = objects(&home.path("store"));
        let name = names.iter().find(|path| path.extension().is_some_and(|it| it == "aux")).unwrap();
        let text = name.to_str().unwrap();
        let (start, _) = text.rsplit_once('-').unwrap();
        ["111111111111.aux", "111111111111.parquet"].map(|end| PathBuf::from(format!("{start}-{end}")))
    };
    for orphan in &orphans {
        std::fs::write(orphan, b"left behind").unwrap();
    }
    let expected = produce_all(&broker, index, 5..10, "second").await;
    archive(&broker, index).await;
    for _ in 0..LOOKS {
        // Counted once they are gone.
        if broker.metrics().archive.orphaned_objects.get() == 2 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(orphans.iter().all(|orphan| !orphan.exists()), "the sweep has not come");
    assert_eq!(broker.metrics().archive.orphaned_objects.get(), 2);
    assert!(broker.metrics().archive.swept_partitions.get() > 0);
    assert!(read_all(&broker, index).await.ends_with(&expected));
    broker.shutdown().await;
}

fn objects(directory: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}

async fn commit(broker: &Broker, group_id: &str, offset: i64) {
    let partitions =
        vec![CommitPartition { partition: 0, offset, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() }];
    let commit = OffsetCommit {
        group_id: group_id.into(),
        generation: -1,
        member_id: "".into(),
        group_instance_id: None,
        api_version: 8,
        retention_ms: None,
        topics: vec![CommitTopic { topic: TOPIC.into(), topic_id: TopicId::ZERO, partitions }],
    };
    for _ in 0..LOOKS {
        match broker.groups().commit_offsets(commit.clone()).await {
            Ok(results) => return assert_eq!(results[0].partitions, [(0, None)]),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("the coordinator of {group_id} does not come up");
}

async fn committed(broker: &Broker, group_id: &str) -> Option<i64> {
    for _ in 0..LOOKS {
        match broker.groups().fetch_offsets(OffsetFetch { group_id: group_id.into(), topics: None }).await {
            Ok(topics) => return topics.first().map(|topic| topic.partitions[0].offset),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("the coordinator of {group_id} does not come up");
}

/// Waits until the bucket has a snapshot of groups that it did not have before.
async fn next_group_snapshot(home: &Home, before: usize) -> usize {
    for _ in 0..LOOKS {
        let clusters = std::fs::read_dir(home.path("store/alluvium/v1")).into_iter().flatten().map(Result::unwrap);
        let snapshots = clusters.filter_map(|cluster| std::fs::read_dir(cluster.path().join("meta/groups")).ok());
        let count = snapshots.map(Iterator::count).sum();
        if count > before {
            return count;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("groups are not kept in the bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_of_a_lost_directory_come_back_from_the_bucket() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let before = next_group_snapshot(&home, 0).await;
    broker.offsets_topic().await.unwrap();
    let groups: Vec<String> = (0..20).map(|number| format!("group {number}")).collect();
    for (group, offset) in groups.iter().zip(100..) {
        commit(&broker, group, offset).await;
    }
    broker.shutdown().await;
    // The next start keeps what the last one left; what comes later is not in the bucket yet.
    let broker = home.open().await;
    next_group_snapshot(&home, before).await;
    for group in &groups {
        commit(&broker, group, 999).await;
    }
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    for _ in 0..2 {
        let broker = home.open().await;
        let mut restored = 0;
        for (group, offset) in groups.iter().zip(100..) {
            let found = committed(&broker, group).await.unwrap_or_else(|| panic!("{group} begins anew"));
            assert!(found == offset || found == 999, "{group} is at {found}");
            restored += usize::from(found == offset);
        }
        assert!((1..groups.len()).contains(&restored), "{restored} of {} were lost", groups.len());
        broker.shutdown().await;
    }
}

/// Groups whose offsets were lost wait for the bucket, whatever happens meanwhile: begun anew, they would stay so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_offsets_wait_for_a_bucket_that_does_not_answer() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let before = next_group_snapshot(&home, 0).await;
    broker.offsets_topic().await.unwrap();
    let groups: Vec<String> = (0..20).map(|number| format!("group {number}")).collect();
    for group in &groups {
        commit(&broker, group, 100).await;
    }
    broker.shutdown().await;
    let broker = home.open().await;
    next_group_snapshot(&home, before).await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    let asked = |broker: &Arc<Broker>, group: &String| {
        let (broker, group_id) = (Arc::clone(broker), group.as_str().into());
        async move { broker.groups().fetch_offsets(OffsetFetch { group_id, topics: None }).await.is_ok() }
    };
    // The first process sees no snapshot, and the second no bucket at all.
    for is_hidden in [|key: &str| key.contains("meta/groups"), |_: &str| true] {
        let plan = Box::new(move |_, _, key: &str| if is_hidden(key) { Fault::Denied } else { Fault::None });
        let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
        let mut waiting = groups.len();
        for _ in 0..50 {
            tokio::time::sleep(PAUSE).await;
            waiting = 0;
            for group in &groups {
                waiting += usize::from(!asked(&broker, group).await);
            }
        }
        assert!((1..groups.len()).contains(&waiting), "groups of the directory that is left have their coordinators");
        broker.shutdown().await;
    }
    let broker = home.open().await;
    for group in &groups {
        assert_eq!(committed(&broker, group).await, Some(100));
    }
    assert!(broker.image().unrestored().is_empty());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_ids_that_another_copy_gave_out_are_passed_over() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let first = broker.new_producer_id().await.unwrap();
    broker.shutdown().await;
    copy(&home.path("first"), &home.path("old first"));
    copy(&home.path("second"), &home.path("old second"));

    let broker = home.open().await;
    let mut given = first;
    for _ in 0..3000 {
        given = broker.new_producer_id().await.unwrap();
    }
    // The bucket learns of it in the background.
    let mark = home.path("store");
    let knows = |next: ProducerId| {
        let clusters = std::fs::read_dir(mark.join("alluvium/v1")).unwrap().map(Result::unwrap);
        clusters
            .filter_map(|cluster| std::fs::read_to_string(cluster.path().join("meta/producer-ids.json")).ok())
            .any(|text| text.contains(&format!("\"next_producer_id\":{}", next.get())))
    };
    let next = broker.image().next_producer_id();
    for _ in 0..LOOKS {
        if knows(next) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(knows(next));
    broker.shutdown().await;

    let broker = home.open_with(&["old first", "old second"]).await;
    for _ in 0..LOOKS {
        if broker.image().next_producer_id() >= next {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let id = broker.new_producer_id().await.unwrap();
    assert!(id > given, "{id} was given out by the other copy, as far as {given}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_panics_is_tried_again() {
    let home = Home::new();
    let mut panics = 1;
    let plan: FaultPlan = Box::new(move |_, operation, key| {
        let is_hit = panics > 0 && operation == Operation::Put && key.ends_with(".parquet");
        panics -= u32::from(is_hit);
        if is_hit { Fault::Panics } else { Fault::None }
    });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let (broker, index) = home.begin_on(broker, &[]).await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    let metrics = &broker.metrics().archive;
    assert_eq!(metrics.failed_uploads.get(), 1);
    for _ in 0..LOOKS {
        if metrics.uploads.get() == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(metrics.uploads.get(), 0);
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_denies_access_stops_new_data_directories_alone() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    broker.shutdown().await;

    let denies = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&denies);
    let plan = Box::new(move |_, _, _: &str| if asked.load(Ordering::Relaxed) { Fault::Denied } else { Fault::None });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    expected.extend(produce_all(&broker, index, 5..10, "kept").await);
    denies.store(false, Ordering::Relaxed);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;

    let refused = home.open_faulty(&["new"], Box::new(|_, _, _| Fault::Denied)).await.unwrap_err();
    assert!(matches!(refused, StartError::Archive { error: ArchiveStartError::Probe(_), .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_of_retention_without_an_archive_deletes_few_segments_and_the_next_one_is_not_near() {
    let mut home = Home::new();
    home.retention_interval = Duration::from_secs(100_000);
    // The records are years old, and each has a segment.
    let configs = [("remote.storage.enable", "false"), ("retention.ms", "1000"), ("internal.segment.bytes", "4000")];
    let (broker, index) = home.begin_with(&configs).await;
    produce_all(&broker, index, 0..80, &"long ".repeat(700)).await;
    let id = leader(&broker, index).await.partition.log().partition();
    broker.shutdown().await;

    let broker = home.open().await;
    let log = broker.directories().iter().find_map(|directory| directory.log(id)).unwrap();
    for _ in 0..LOOKS {
        if log.offsets().log_start > Offset::ZERO {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Local disks are looked at each second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(log.offsets().log_start, Offset(EXPIRED_PER_PASS as i64), "{:?}", log.offsets());
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_copying_is_disabled_is_archived_once_that_ends() {
    let home = Home::new();
    let (broker, index) = home.begin_with(&[("remote.log.copy.disable", "true")]).await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    log.request_roll();
    for _ in 0..50 {
        assert_eq!(log.offsets().archived_to, Offset::ZERO);
        tokio::time::sleep(PAUSE).await;
    }
    let edit = ConfigEdit::Operations(vec![("remote.log.copy.disable".to_owned(), ConfigOperation::Delete)]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_the_disk_lost_and_the_log_does_not_know_to_be_archived_is_read_from_the_archive() {
    let home = Home::new();
    let configs = [("remote.log.copy.disable", "true"), ("internal.segment.bytes", "4000")];
    let (broker, index) = home.begin_with(&configs).await;
    let mut expected = produce_all(&broker, index, 0..6, &"long ".repeat(700)).await;
    broker.shutdown().await;
    copy(&home.path("second"), &home.path("before"));
    let broker = home.open().await;
    let edit = ConfigEdit::Operations(vec![("remote.log.copy.disable".to_owned(), ConfigOperation::Delete)]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    archive(&broker, index).await;
    broker.shutdown().await;

    // A segment of a log that does not remember to be archived.
    std::fs::remove_dir_all(home.path("second")).unwrap();
    std::fs::rename(home.path("before"), home.path("second")).unwrap();
    let is_third = |path: &PathBuf| path.to_string_lossy().ends_with("00000000000000000002.segment");
    let lost: Vec<_> = objects(&home.path("second")).into_iter().filter(is_third).collect();
    assert_eq!(lost.len(), 1);
    std::fs::remove_file(&lost[0]).unwrap();
    let broker = home.open().await;
    assert_eq!(archive(&broker, index).await, Offset(6));
    assert_eq!(read_all(&broker, index).await, expected);
    expected.extend(produce_all(&broker, index, 6..8, "after").await);
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

//! The archive end to end, over every kind of store: upload, read back, crash at every step, two leaders, lost replies.
//! Long because writing and reading are tested on one bench.

mod read_ahead;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::Bucket;
use super::chunk_cache::{ChunkCache, FetchCompression};
use super::cleaner;
use super::heads::Heads;
use super::key::Fence;
use super::manifest::{CommitFacts, Head, HeadIdentity, Hex128, MANIFEST_FORMAT, TopicDescription, TopicState, Writer};
use super::parquet::{AbortedTransaction, ChunkLimits};
use super::partition::{HeadError, PartitionArchive};
use super::remote_reader::{ReadError, ReadMetrics, ReadRequest, ReadSettings, RemoteReader};
use super::spool::Spool;
use super::store::conformance::server;
use super::store::faulty::{Fault, FaultyBackend, split_mix};
use super::store::{Location, Operation, Store, StoreOptions, StoreSettings, Unobserved};
use super::uploader::{UploadError, UploadPlan, Uploader};
use super::workers::Workers;
use crate::log::{ProducerRun, ProducerState};
use crate::record::*;
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::telemetry::{MemoryPool, MemoryShare, Metrics};
use crate::types::*;

/// Small chunks, so that a few records make several.
const LIMITS: ChunkLimits = ChunkLimits { raw_bytes: 2 << 10, rows: 50 };

pub(super) fn settings() -> StoreSettings {
    StoreSettings { backoff_first_ms: 1, backoff_longest_ms: 2, max_attempts: 3, ..StoreSettings::default() }
}

pub(super) fn open_store(url: &str) -> Store {
    let runtime = Runtime::production();
    let workers = Workers::start(runtime.tasks.as_ref(), "store", Priority::Foreground, 2);
    Store::open(&runtime, &Location::parse(url).unwrap(), settings(), workers, Arc::new(Unobserved)).unwrap()
}

pub(super) const fn writer(epoch: i32) -> Writer {
    let fence = Fence { incarnation: Incarnation(0), leader_epoch: LeaderEpoch(epoch) };
    Writer { fence, broker: NodeId(epoch), process: BrokerIncarnationId::from_bytes([7; 16]) }
}

/// One broker's view of the archive: everything but the store is its own.
pub(super) struct Broker {
    _directory: tempfile::TempDir,
    cache_directory: PathBuf,
    pub(super) bucket: Bucket,
    pub(super) partition: PartitionArchive,
    uploader: Uploader,
    reader: RemoteReader,
    metrics: Arc<Metrics>,
}

impl Broker {
    pub(super) fn new(store: Store) -> Self {
        Self::with(store, ReadSettings::default(), 1 << 20)
    }

    fn with(store: Store, settings: ReadSettings, cache_bytes: u64) -> Self {
        Self::limited(store, settings, cache_bytes, LIMITS)
    }

    fn limited(store: Store, settings: ReadSettings, cache_bytes: u64, limits: ChunkLimits) -> Self {
        let runtime = Runtime::production();
        let directory = tempfile::tempdir().unwrap();
        let workers = Workers::start(runtime.tasks.as_ref(), "archive", Priority::Background, 2);
        let bucket = Bucket::new(store, runtime.clone(), ClusterId::from_bytes([1; 16]));
        let identity = HeadIdentity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            topic: "flights".to_owned(),
            topic_id: TopicId::from_bytes([2; 16]),
            partition: PartitionIndex(7),
        };
        let partition = PartitionArchive::new(bucket.clone(), runtime.clone(), identity, Heads::new(1 << 20));
        let spool = Spool::open(runtime.disk.as_ref(), &directory.path().join("spool"), 2).unwrap();
        let cache_directory = directory.path().join("cache");
        let metrics = Metrics::new();
        let (directory_of_cache, counted) = (cache_directory.clone(), metrics.cache.clone());
        let cache = ChunkCache::open(&runtime, directory_of_cache, cache_bytes, workers.clone(), counted).unwrap();
        let memory = MemoryPool::new(1 << 20, metrics.memory.used_bytes.of(MemoryShare::Uploads).clone());
        let uploader = Uploader::new(runtime, workers.clone(), spool, memory, limits);
        let used_bytes = metrics.memory.used_bytes.of(MemoryShare::Readers).clone();
        let read_metrics = ReadMetrics { reads: metrics.archive_read.clone(), used_bytes };
        let reader = RemoteReader::new(settings, workers, cache, read_metrics);
        Self { _directory: directory, cache_directory, bucket, partition, uploader, reader, metrics }
    }

    pub(super) async fn describe_topic(&self) {
        let description = TopicDescription {
            format: MANIFEST_FORMAT,
            cluster_id: ClusterId::from_bytes([1; 16]),
            topic: "flights".to_owned(),
            topic_id: TopicId::from_bytes([2; 16]),
            partitions: 8,
            configs: std::iter::once(("retention.ms".to_owned(), "-1".to_owned())).collect(),
            state: TopicState::Live,
            nonce: Hex128(0),
        };
        self.bucket.describe_topic(&description).await.unwrap();
    }

    /// Archives the batches of `log` from where the archive ends, `count` at a time, until `until` or a failure.
    pub(super) async fn archive(
        &self,
        writer: Writer,
        log: &[Batch],
        count: usize,
        until: Offset,
    ) -> Result<(), UploadError> {
        let mut head = self.partition.take_over(writer).await?;
        while head.next_offset < until {
            let from = head.next_offset;
            let run: Vec<Batch> =
                log.iter().filter(|batch| batch.header().base_offset >= from).take(count).cloned().collect();
            let next = run.last().unwrap().header().next_offset();
            let aborted = vec![AbortedTransaction {
                producer_id: ProducerId(9),
                first_offset: Offset(0),
                last_offset: Offset::MAX,
            }];
            let before = self.partition.read_producers(&head).await?.map(|snapshot| snapshot.producers);
            let producers = ProducerRun::new(before.unwrap_or_default(), 1000, Timestamp(7));
            let plan = UploadPlan { writer, base: from, next, aborted, producers };
            let source = move || run.into_iter().map(Ok::<_, RecordError>);
            head = self.uploader.archive(&self.partition, plan, source).await?.head;
        }
        Ok(())
    }

    /// Reads the batches at an offset, wherever they are; a damaged file of the cache is built again.
    async fn read(&self, head: &Arc<Head>, request: ReadRequest, max_bytes: usize) -> Result<Vec<Batch>, ReadError> {
        loop {
            let at_hand = match self.reader.at_hand(&self.partition, head, request) {
                Some(at_hand) => at_hand,
                None => self.reader.fetch(&self.partition, head, request).await?,
            };
            match at_hand.read(max_bytes) {
                Err(ReadError::CacheDamaged) => {}
                read => return Ok(read?.pieces.into_iter().flat_map(Batches::new).map(Result::unwrap).collect()),
            }
        }
    }

    /// Reads everything from `offset` on, a little at a time, as a consumer does.
    pub(super) async fn read_all(&self, offset: Offset, committed_only: bool) -> Vec<Batch> {
        self.read_all_as(ReadRequest { committed_only, ..request(offset) }).await
    }

    async fn read_all_as(&self, mut request: ReadRequest) -> Vec<Batch> {
        let head = self.partition.refresh().await.unwrap().unwrap();
        let mut found = Vec::new();
        while request.offset < head.next_offset {
            let batches = self.read(&head, request, 500).await.unwrap();
            assert!(batches[0].header().next_offset() > request.offset, "a read has to move the consumer on");
            request.offset = batches.last().unwrap().header().next_offset();
            found.extend(batches);
        }
        found
    }
}

fn request(offset: Offset) -> ReadRequest {
    ReadRequest { offset, committed_only: false, compression: FetchCompression::None }
}

/// A log with ordinary, transactional, aborted and control batches, and gaps.
pub(super) fn log(seed: u64, batches: usize) -> Vec<Batch> {
    let mut state = seed;
    let mut next = 0;
    let batches = (0..batches).map(|number| {
        let dice = split_mix(&mut state) % 10;
        let aborted = dice == 1;
        let attributes = Attributes::default().with_control(dice == 0).with_transactional(dice < 2);
        let producer_id = if aborted { ProducerId(9) } else { ProducerId(1) };
        let mut builder = BatchBuilder::new(BatchOptions { attributes, producer_id, ..BatchOptions::default() });
        for record in 0..=split_mix(&mut state) % 4 {
            let value = format!("value {number} {record} {:0>100}", split_mix(&mut state) % 1000);
            let timestamp = Timestamp(1_700_000_000_000 + next * 10);
            builder.append(timestamp, Some(b"key"), Some(value.as_bytes()), std::iter::empty());
        }
        let base = next + i64::from(dice == 5);
        let batch = builder.build(Offset(base), LeaderEpoch(number as i32 / 20)).unwrap();
        next = batch.header().next_offset().0;
        batch
    });
    batches.collect()
}

pub(super) fn end(log: &[Batch]) -> Offset {
    log.last().unwrap().header().next_offset()
}

/// As `assert_eq!`, without printing megabytes.
pub(super) fn assert_same(found: &[Batch], expected: &[Batch], context: &str) {
    let difference = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!((difference, found.len()), (None, expected.len()), "{context}");
}

fn directory_url(directory: &tempfile::TempDir) -> String {
    url::Url::from_directory_path(directory.path()).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_archived_is_read_back_from_memory_a_directory_and_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = vec!["memory:///".to_owned(), directory_url(&directory)];
    let mut options = StoreOptions::default();
    if let Some((url, of_server)) = server() {
        options = of_server;
        urls.push(format!("{url}/{:016x}", Runtime::production().entropy.number()));
    }
    for url in urls {
        let runtime = Runtime::production();
        let workers = Workers::start(runtime.tasks.as_ref(), "store", Priority::Foreground, 2);
        let settings = StoreSettings { options: options.clone(), ..settings() };
        let location = Location::parse(&url).unwrap();
        let store = Store::open(&runtime, &location, settings, workers, Arc::new(Unobserved)).unwrap();
        let broker = Broker::new(store);
        broker.describe_topic().await;
        let log = log(1, 200);
        broker.archive(writer(3), &log, 40, end(&log)).await.unwrap();
        assert_same(&broker.read_all(Offset(0), false).await, &log, &url);
        // From the middle of a batch on: the batch that holds the offset comes whole.
        let middle = log[57].header().last_offset();
        assert_same(&broker.read_all(middle, false).await, &log[57..], "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_readers_skip_aborted_batches_and_still_reach_the_end() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let log = log(2, 200);
    broker.archive(writer(3), &log, 40, end(&log)).await.unwrap();
    let is_aborted = |batch: &&Batch| {
        let header = batch.header();
        header.attributes.is_transactional() && !header.attributes.is_control() && header.producer_id == ProducerId(9)
    };
    assert!(log.iter().any(|batch| is_aborted(&batch)));
    let committed: Vec<Batch> = log.iter().filter(|batch| !is_aborted(batch)).cloned().collect();
    let found = broker.read_all(Offset(0), true).await;
    assert_eq!(found.last().unwrap().header().next_offset(), end(&log));
    let found: Vec<Batch> = found.into_iter().filter(|batch| batch.header().record_count > 0).collect();
    assert_same(&found, &committed, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_and_epochs_are_found_in_the_archive() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let log = log(3, 120);
    broker.archive(writer(9), &log, 25, end(&log)).await.unwrap();
    let head = broker.partition.head().unwrap();
    for offset in [0, 1, 50, 119, 200] {
        let timestamp = Timestamp(1_700_000_000_000 + offset * 10);
        let mut expected = None;
        for batch in &log {
            let payload = batch.payload();
            let mut records = batch.header().records(&payload).map(Result::unwrap);
            expected = expected.or_else(|| {
                let record = records.find(|record| record.timestamp >= timestamp)?;
                Some((record.offset, record.timestamp, batch.header().leader_epoch))
            });
        }
        let found = broker.reader.offset_for_timestamp(&broker.partition, &head, timestamp).await.unwrap();
        assert_eq!(found, expected, "{timestamp}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_holds_the_producers_state_at_every_end_of_the_archive() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let log = log(8, 120);
    let mut expected = ProducerState::default();
    for run in log.chunks(15) {
        run.iter().for_each(|batch| expected.record(batch.header(), batch.header().next_offset(), Timestamp(7)));
        broker.archive(writer(1), &log, 15, end(run)).await.unwrap();
        let head = broker.partition.refresh().await.unwrap().unwrap();
        let found = broker.partition.read_producers(&head).await.unwrap().unwrap();
        assert_eq!((found.offset, &found.producers), (end(run), &expected));
    }
    assert!(expected.entries().all(|(_, entry)| entry.batches.len() == 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_request_loses_and_doubles_nothing() {
    let log = log(4, 60);
    for last in [Fault::Refused, Fault::ReplyLost, Fault::None] {
        let mut number = 0;
        loop {
            let store = open_store("memory:///");
            let dying =
                store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, FaultyBackend::dies_at(number, last))));
            let survivor = Broker::new(store);
            survivor.describe_topic().await;
            let broker = Broker::new(dying);
            let result = broker.archive(writer(1), &log, 20, end(&log)).await;
            let died = result.is_err();
            // The next leader takes over what is there, and goes on.
            survivor.archive(writer(2), &log, 20, end(&log)).await.unwrap();
            assert_same(&survivor.read_all(Offset(0), false).await, &log, &format!("{last:?} at request {number}"));
            let late = broker.archive(writer(1), &log, 20, end(&log)).await;
            assert!(late.is_err() || !died, "a deposed leader writes nothing more");
            if !died {
                break;
            }
            number += 1;
            assert!(number < 100);
        }
        assert!(number > 10, "the upload makes more requests than that");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_and_refusals_at_random_only_delay() {
    for seed in 0..15 {
        let store = open_store("memory:///");
        let log = log(seed, 80);
        let plan = FaultyBackend::random(seed, 80, 120);
        let broker = Broker::new(store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, plan))));
        Broker::new(store.clone()).describe_topic().await;
        let mut tries = 0;
        while broker.archive(writer(1), &log, 10, end(&log)).await.is_err() {
            tries += 1;
            assert!(tries < 200, "seed {seed}");
        }
        let reader = Broker::new(store);
        assert_same(&reader.read_all(Offset(0), false).await, &log, &format!("seed {seed}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_nobody_uses_are_forgotten_and_writers_go_on_all_the_same() {
    const PARTITIONS: i32 = 300;
    let store = open_store("memory:///");
    let broker = Broker::new(store);
    broker.describe_topic().await;
    let heads = Heads::new(20_000);
    let archives: Vec<PartitionArchive> = (0..PARTITIONS)
        .map(|partition| {
            let identity = HeadIdentity { partition: PartitionIndex(partition), ..broker.partition.identity().clone() };
            PartitionArchive::new(broker.bucket.clone(), Runtime::production(), identity, heads.clone())
        })
        .collect();
    // Two rounds, each over all partitions, so that the second finds most of the heads forgotten.
    for round in 0..2 {
        let tasks = archives.iter().cloned().map(|archive| {
            tokio::spawn(async move {
                let head = archive.take_over(writer(1)).await.unwrap();
                let segment = cleaner::tests::segment(head.next_offset.0, head.next_offset.0 + 5, 1);
                archive.commit(writer(1), &segment, &CommitFacts::default()).await.unwrap();
                archive.advance_log_start(writer(1), Offset(round * 5), Duration::ZERO).await.unwrap();
            })
        });
        for task in futures_util::future::join_all(tasks).await {
            task.unwrap();
        }
        let (bytes, count) = heads.used();
        assert!(bytes <= 20_000 && count < 100, "{heads:?}");
        let remembered = archives.iter().filter(|archive| archive.head().is_some()).count();
        assert!(remembered <= count, "{remembered} heads in memory, {heads:?}");
    }
    for archive in &archives {
        let upkeep = archive.upkeep().unwrap();
        let head = archive.refresh().await.unwrap().unwrap();
        assert_eq!((head.next_offset, head.log_start_offset), (Offset(10), Offset(5)));
        assert_eq!(head.upkeep(), upkeep, "what is left to do is known without the head");
    }
    drop(archives);
    assert_eq!(heads.used(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leaders_at_once_commit_every_range_once() {
    let store = open_store("memory:///");
    let log = log(5, 150);
    let (old, new) = (Broker::new(store.clone()), Broker::new(store.clone()));
    old.describe_topic().await;
    old.partition.take_over(writer(1)).await.unwrap();
    let (from_old, from_new) =
        tokio::join!(old.archive(writer(1), &log, 7, end(&log)), new.archive(writer(2), &log, 11, end(&log)),);
    from_new.unwrap();
    if let Err(error) = from_old {
        let UploadError::Head(error) = error else { panic!("{error}") };
        assert!(error.is_fenced(), "{error}");
    }
    assert_same(&Broker::new(store).read_all(Offset(0), false).await, &log, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_copies_of_one_broker_only_the_first_archives() {
    let store = open_store("memory:///");
    let (log, other) = (log(9, 60), log(10, 80));
    let (original, copied) = (Broker::new(store.clone()), Broker::new(store.clone()));
    original.describe_topic().await;
    original.archive(writer(1), &log[..20], 20, end(&log[..20])).await.unwrap();
    let rival = Writer { process: BrokerIncarnationId::from_bytes([8; 16]), ..writer(1) };
    let Err(UploadError::Head(error)) = copied.archive(rival, &other, 20, end(&other)).await else { panic!() };
    assert!(error.is_fenced(), "{error}");
    original.archive(writer(1), &log, 20, end(&log)).await.unwrap();
    assert_same(&Broker::new(store).read_all(Offset(0), false).await, &log, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_gets_no_new_head() {
    let broker = Broker::new(open_store("memory:///"));
    let refused = broker.partition.take_over(writer(1)).await;
    assert!(matches!(refused, Err(HeadError::Topic(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_build_serves_many_readers_and_survives_all_of_them() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(6, 30);
    broker.archive(writer(1), &log, 30, end(&log)).await.unwrap();
    let slow = store.wrapped(|inner| {
        let plan = Box::new(move |_, operation, _: &str| {
            if operation == Operation::GetRanges {
                std::thread::yield_now();
            }
            Fault::None
        });
        Arc::new(FaultyBackend::new(inner, plan))
    });
    let reader = Broker::with(slow, ReadSettings { read_ahead_chunks: 0, ..ReadSettings::default() }, 1 << 20);
    let head = reader.partition.refresh().await.unwrap().unwrap();
    let readers = (0..20).map(|_| reader.read(&head, request(Offset(0)), 100));
    for outcome in futures_util::future::join_all(readers).await {
        assert_eq!(outcome.unwrap(), log[..1]);
    }
    assert_eq!(reader.metrics.cache.misses.get(), 1);
    // A reader that gives up leaves its build running.
    let far = request(log[29].header().base_offset);
    {
        let read = std::pin::pin!(reader.read(&head, far, 100));
        assert!(futures_util::FutureExt::now_or_never(read).is_none());
    }
    while reader.reader.at_hand(&reader.partition, &head, far).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(reader.metrics.cache.misses.get(), 2);
    assert_eq!(reader.read(&head, far, 100).await.unwrap(), log[29..]);
    assert_eq!(reader.metrics.cache.misses.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_stays_within_its_budget_and_never_serves_damage() {
    let broker = Broker::with(open_store("memory:///"), ReadSettings::default(), 10 << 10);
    broker.describe_topic().await;
    let log = log(7, 200);
    broker.archive(writer(1), &log, 100, end(&log)).await.unwrap();
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
    let counts = &broker.metrics.cache;
    assert!(counts.bytes.get() <= 10 << 10 && counts.evictions.get() > 0, "{counts:?}");
    let files: Vec<_> =
        std::fs::read_dir(&broker.cache_directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let mut content = std::fs::read(&file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&file, content).unwrap();
    }
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_whose_disk_runs_short_gives_its_files_back_and_grows_again() {
    let broker = Broker::with(open_store("memory:///"), ReadSettings::default(), 1 << 20);
    broker.describe_topic().await;
    let log = log(7, 200);
    broker.archive(writer(1), &log, 100, end(&log)).await.unwrap();
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
    let cache = broker.reader.cache();
    let on_disk = || {
        let files = std::fs::read_dir(&broker.cache_directory).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let whole = cache.bytes();
    assert!(whole > 10 << 10 && on_disk() == whole, "{whole} {}", on_disk());
    let workers = Workers::start(Runtime::production().tasks.as_ref(), "room", Priority::Foreground, 1);
    cache.set_budget(10 << 10, &workers).await;
    assert!(cache.bytes() <= 10 << 10 && on_disk() == cache.bytes(), "{} {}", cache.bytes(), on_disk());
    cache.set_budget(0, &workers).await;
    assert_eq!((cache.bytes(), on_disk()), (0, 0));
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
    assert_eq!((cache.bytes(), on_disk()), (0, 0));
    cache.set_budget(1 << 20, &workers).await;
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
    assert_eq!(cache.bytes(), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_are_compressed_as_configured() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let record = vec![b'x'; 1000];
    let log: Vec<Batch> = [Compression::None, Compression::Gzip, Compression::Zstd]
        .into_iter()
        .zip(0..)
        .map(|(codec, offset)| {
            let mut builder = BatchBuilder::new(BatchOptions::compressed(codec));
            builder.append(Timestamp(5), None, Some(&record), std::iter::empty());
            builder.build(Offset(offset), LeaderEpoch(0)).unwrap()
        })
        .collect();
    broker.archive(writer(1), &log, 3, Offset(3)).await.unwrap();
    let expectations = [
        (FetchCompression::Auto, [Compression::None, Compression::Lz4, Compression::Lz4]),
        (FetchCompression::Original, [Compression::None, Compression::Gzip, Compression::Zstd]),
        (FetchCompression::None, [Compression::None; 3]),
        (FetchCompression::Zstd, [Compression::Zstd; 3]),
    ];
    for (compression, expected) in expectations {
        let found = broker.read_all_as(ReadRequest { compression, ..request(Offset(0)) }).await;
        for ((batch, source), codec) in found.iter().zip(&log).zip(expected) {
            assert_eq!(batch.header().attributes.compression(), Ok(codec));
            batch.verify_checksum().unwrap();
            assert_eq!(batch.decompressed(1 << 20).unwrap(), source.decompressed(1 << 20).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_damaged_object_is_an_error_and_never_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::new(open_store(&directory_url(&directory)));
    broker.describe_topic().await;
    let log = log(8, 60);
    broker.archive(writer(1), &log, 30, end(&log)).await.unwrap();
    let head = broker.partition.head().unwrap();
    let key = broker.partition.keys().parquet(&head.segments[0].name);
    let path = directory.path().join(&key);
    let mut content = std::fs::read(&path).unwrap();
    for byte in &mut content[50..300] {
        *byte ^= 0x55;
    }
    std::fs::write(&path, content).unwrap();
    let read = |offset| broker.read(&head, request(offset), 100);
    let damaged = read(Offset(0)).await.unwrap_err();
    assert!(damaged.is_damage(), "{damaged}");
    std::fs::remove_file(&path).unwrap();
    let missing = read(Offset(0)).await.unwrap_err();
    assert!(missing.is_damage(), "{missing}");
    assert_eq!(broker.metrics.archive_read.damaged_reads.get(), 2);
    assert!(read(head.segments[1].base()).await.is_ok());
    assert!(matches!(read(head.next_offset).await, Err(ReadError::Beyond { .. })));
}

/// A log whose batches all become rows, large enough for runs.
fn plain_log(batches: i64) -> Vec<Batch> {
    let mut state = 11;
    let batches = (0..batches).map(|number| {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let value: Vec<u8> = (0..40).flat_map(|_| split_mix(&mut state).to_be_bytes()).collect();
        for record in 0..2 {
            builder.append(Timestamp(1_700_000_000_000 + record), Some(b"key"), Some(&value), std::iter::empty());
        }
        builder.build(Offset(number * 2), LeaderEpoch(0)).unwrap()
    });
    batches.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_jumps_gets_a_run_and_one_that_goes_on_gets_chunks() {
    let store = open_store("memory:///");
    let limits = ChunkLimits { raw_bytes: 64 << 10, rows: 10_000 };
    let broker =
        Broker::limited(store, ReadSettings { read_ahead_chunks: 0, ..ReadSettings::default() }, 1 << 20, limits);
    broker.describe_topic().await;
    let log = plain_log(400);
    broker.archive(writer(1), &log, 400, end(&log)).await.unwrap();
    let head = broker.partition.head().unwrap();
    let metrics = &broker.metrics.archive_read;
    // Away from the beginning of a chunk: one run, and no chunk.
    let jumps = [151, 301, 555, 701];
    for (jump, number) in jumps.into_iter().zip(1..) {
        let batches = broker.read(&head, request(Offset(jump)), 1500).await.unwrap();
        let at = usize::try_from(jump / 2).unwrap();
        assert_same(&batches, &log[at..at + batches.len()], "");
        assert_eq!((metrics.runs.get(), metrics.chunks.get()), (number, 0));
    }
    // Where a read stopped, and from the beginning of a chunk on: chunks.
    let next = Offset(151).0 / 2 * 2 + 4;
    broker.read(&head, request(Offset(next)), 1500).await.unwrap();
    broker.read(&head, request(Offset(0)), 1500).await.unwrap();
    assert_eq!((metrics.runs.get(), metrics.chunks.get() > 0), (4, true));
    // From a chunk in the cache nothing is fetched.
    let fetched = metrics.fetched_bytes.get();
    let batches = broker.read(&head, request(Offset(21)), 1500).await.unwrap();
    assert_same(&batches, &log[10..10 + batches.len()], "");
    assert_eq!(metrics.fetched_bytes.get(), fetched);
    assert_same(&broker.read_all(Offset(1), false).await, &log, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cache_everything_is_read_by_runs() {
    let limits = ChunkLimits { raw_bytes: 64 << 10, rows: 10_000 };
    let broker = Broker::limited(open_store("memory:///"), ReadSettings::default(), 0, limits);
    broker.describe_topic().await;
    let log = plain_log(400);
    broker.archive(writer(1), &log, 400, end(&log)).await.unwrap();
    assert_same(&broker.read_all(Offset(0), false).await, &log, "");
    assert!(broker.metrics.archive_read.runs.get() > 0);
    assert_eq!(broker.metrics.cache.bytes.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_get_on_in_the_memory_of_one() {
    // Less than one chunk takes: they work one after another.
    let settings = ReadSettings { memory_bytes: 1 << 20, read_ahead_chunks: 2 };
    let broker = Broker::with(open_store("memory:///"), settings, 8 << 10);
    broker.describe_topic().await;
    let log = log(12, 150);
    broker.archive(writer(1), &log, 50, end(&log)).await.unwrap();
    let used = broker.metrics.memory.used_bytes.of(MemoryShare::Readers).clone();
    let readers = (0..8).map(|_| broker.read_all(Offset(0), false));
    for found in futures_util::future::join_all(readers).await {
        assert_same(&found, &log, "");
    }
    while used.get() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_nobody_waits_for_is_not_encoded_to_its_end() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let writer = writer(1);
    broker.partition.take_over(writer).await.unwrap();
    let producers = ProducerRun::new(ProducerState::default(), 1000, Timestamp(7));
    let next = Offset(i64::MAX);
    let plan = UploadPlan { writer, base: Offset(0), next, aborted: Vec::new(), producers };
    let (began, has_begun) = tokio::sync::oneshot::channel();
    let (ended, has_ended) = tokio::sync::oneshot::channel::<()>();
    let source = move || {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(1), None, Some(b"value"), std::iter::empty());
        let batch = builder.build(Offset(0), LeaderEpoch(1)).unwrap();
        let (mut began, ended) = (Some(began), Some(ended));
        (0..).map(move |offset| {
            let _ = &ended;
            began.take().map(|began| began.send(()));
            Ok::<_, RecordError>(batch.placed(Offset(offset), LeaderEpoch(1)))
        })
    };
    let upload = broker.uploader.archive(&broker.partition, plan, source);
    tokio::select! {
        biased;
        uploaded = upload => panic!("it has no end: {uploaded:?}"),
        began = has_begun => began.unwrap(),
    }
    // The source is dropped with the work.
    assert!(has_ended.await.is_err());
}

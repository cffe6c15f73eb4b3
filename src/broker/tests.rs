//! A broker with its archive: what is fetched is the same wherever it is kept, and no tier starves another.

mod room;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::log::AppendError;
use crate::metadata::topic_config::{ConfigOperation, TopicConfig};
use crate::record::*;
use crate::sim::Random;
use crate::telemetry::MemoryShare;
use crate::types::*;

async fn open(directory: &std::path::Path) -> Arc<Broker> {
    let mut settings = BrokerSettings::small(directory);
    settings.directory.checkpoint_interval = Duration::from_millis(100);
    Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap()
}

async fn create(broker: &Broker, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Vec<Leader> {
    let configs = configs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let topic = NewTopic { partitions, configs, ..NewTopic::by_default(name) };
    let topic = broker.create_topic(topic, false).await.unwrap();
    (0..partitions).map(|number| broker.leader(&topic, number, LeaderEpoch::NONE).unwrap()).collect()
}

/// Changes a topic's configuration and waits until its partitions know.
async fn configure(broker: &Broker, topic: &str, configs: &[(&str, &str)]) {
    let set = |&(name, value): &(&str, &str)| (name.to_owned(), ConfigOperation::Set(value.to_owned()));
    let edit = ConfigEdit::Operations(configs.iter().map(set).collect());
    broker.alter_configs(&ConfigResource::Topic(topic.to_owned()), &edit, false).await.unwrap();
    for _ in 0..500 {
        let image = broker.image();
        let values = &image.topic_named(topic).unwrap().configs.values;
        let expected = TopicConfig::resolve(values, &broker.layers(&image)).archive_fetch_compression;
        let partitions = broker.partitions();
        let mut own = partitions.iter().filter(|partition| &**partition.topic().name() == topic);
        if own.all(|partition| partition.topic().rules().config.archive_fetch_compression == expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the configuration of {topic} does not take effect");
}

/// Of a small request.
const fn room_wait(timeout: Duration) -> RoomWait {
    RoomWait { timeout, held_bytes: 1000 }
}

async fn produce(broker: &Broker, leader: &Leader, batch: &Batch) {
    let produced =
        broker.append(leader, batch.bytes().clone(), true, room_wait(Duration::from_secs(30))).await.unwrap();
    broker.acknowledge(leader, &produced, Acknowledgement::All, Duration::from_secs(30)).await.unwrap();
}

/// Has everything of a partition archived, and its local copy removed.
async fn send_away(broker: &Broker, topic: &str, leader: &Leader) {
    configure(broker, topic, &[("local.retention.ms", "1"), ("local.retention.bytes", "1")]).await;
    let log = leader.partition.log();
    for look in 0..3000 {
        if look % 100 == 0 {
            let now = broker.runtime().clock.wall().0.to_string();
            configure(broker, topic, &[("archive.flush.timestamp", &now)]).await;
        }
        let offsets = log.offsets();
        if offsets.local_log_start == offsets.log_end {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the local copy stays: {:?}", log.offsets());
}

fn limits(max_bytes: usize) -> FetchLimits {
    let max_wait = Duration::from_millis(200);
    FetchLimits { max_wait, min_bytes: 1, max_bytes, isolation: Isolation::ReadUncommitted }
}

fn wanted(leader: &Leader, offset: Offset, max_bytes: usize) -> FetchPartition {
    FetchPartition { leader: Ok(leader.clone()), offset, max_bytes }
}

/// Fetches from one partition until something comes.
async fn fetch(broker: &Broker, leader: &Leader, offset: Offset, max_bytes: usize) -> Vec<Batch> {
    for _ in 0..300 {
        let fetched = broker.fetch(&[wanted(leader, offset, max_bytes)], limits(max_bytes)).await.0.swap_remove(0);
        let records = fetched.records.unwrap();
        if !records.is_empty() {
            return records.into_iter().flat_map(Batches::new).map(Result::unwrap).collect();
        }
    }
    panic!("nothing comes from offset {offset}");
}

fn batch(options: BatchOptions, values: &[Vec<u8>]) -> Batch {
    let mut builder = BatchBuilder::new(options);
    for (value, at) in values.iter().zip(0..) {
        builder.append(Timestamp(1_700_000_000_000 + at), Some(b"key"), Some(value), std::iter::empty());
    }
    builder.build(Offset(0), LeaderEpoch::NONE).unwrap()
}

/// A batch of odd records: nulls, empty ones, headers, every codec, producers.
fn odd_batch(random: &mut Random, sequence: &mut i32) -> Batch {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let count = 1 + random.below(6);
    let idempotent = random.chance(50);
    let mut options = BatchOptions::compressed(codecs[random.below(5) as usize]);
    if idempotent {
        options.producer_id = ProducerId(7);
        options.producer_epoch = ProducerEpoch(0);
        options.base_sequence = *sequence;
        *sequence += count as i32;
    }
    let mut builder = BatchBuilder::new(options);
    for _ in 0..count {
        let field = |random: &mut Random| match random.below(4) {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some((0..random.below(300)).map(|_| random.next() as u8).collect::<Vec<u8>>()),
        };
        let (key, value, header) = (field(random), field(random), field(random));
        let names: &[&[u8]] = &[b"a", b"b", b"a", b"\xff raw"];
        let headers = names[..random.below(5) as usize].iter();
        let headers = headers.map(|name| HeaderView { key: name, value: header.as_deref() });
        let timestamp = Timestamp(1_700_000_000_000 + random.below(1000).cast_signed());
        builder.append(timestamp, key.as_deref(), value.as_deref(), headers);
    }
    builder.build(Offset(0), LeaderEpoch::NONE).unwrap()
}

/// What a client sees of a batch, whatever its codec.
fn content(batch: &Batch) -> (BatchHeader, Bytes) {
    batch.verify_checksum().unwrap();
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).unwrap();
    let attributes = batch.header().attributes.with_compression(Compression::None);
    (BatchHeader { batch_length: 0, checksum: 0, attributes, ..*batch.header() }, payload)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_of_any_range_is_the_same_from_the_local_log_and_from_the_archive() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    for kind in ["CreateTime", "LogAppendTime"] {
        let (near, far) = (format!("near-{kind}"), format!("far-{kind}"));
        let small = ("internal.segment.bytes", "20000");
        let kind = ("message.timestamp.type", kind);
        let local = create(&broker, &near, 1, &[small, kind, ("remote.storage.enable", "false")]).await.swap_remove(0);
        let remote = create(&broker, &far, 1, &[small, kind]).await.swap_remove(0);
        let (mut random, mut sequence) = (Random::new(42), 0);
        for _ in 0..250 {
            let batch = odd_batch(&mut random, &mut sequence);
            produce(&broker, &local, &batch).await;
            produce(&broker, &remote, &batch).await;
        }
        send_away(&broker, &far, &remote).await;
        let end = local.partition.log().offsets().log_end;
        assert_eq!(remote.partition.log().offsets().log_end, end);
        for compression in ["original", "auto", "none", "zstd"] {
            configure(&broker, &far, &[("archive.fetch.compression", compression)]).await;
            for round in 0..40 {
                let offset = if round == 0 { Offset(0) } else { Offset(random.below(end.0 as u64).cast_signed()) };
                let max_bytes = 1 + random.below(3000) as usize;
                let (one, other) =
                    (fetch(&broker, &local, offset, max_bytes).await, fetch(&broker, &remote, offset, max_bytes).await);
                let common = one.len().min(other.len());
                for (one, other) in one.iter().zip(&other) {
                    let ((mut one_header, one_payload), (mut other_header, other_payload)) =
                        (content(one), content(other));
                    if kind.1 == "LogAppendTime" {
                        // The broker's clock moved between the two.
                        one_header.max_timestamp = Timestamp(0);
                        other_header.max_timestamp = Timestamp(0);
                    }
                    assert_eq!((one_header, one_payload), (other_header, other_payload), "{offset} {compression}");
                }
                assert!(common > 0);
            }
        }
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_catches_up_reads_what_was_read_ahead_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "catch-up", 1, &[]).await.swap_remove(0);
    let mut expected = Vec::new();
    for number in 0..60_u8 {
        let batch = batch(BatchOptions::compressed(Compression::None), &[vec![number; 1000]]);
        produce(&broker, &leader, &batch).await;
        expected.push(content(&batch).1);
    }
    drop(leader);
    broker.shutdown().await;
    // What was in memory is read from the disk now.
    let broker = open(directory.path()).await;
    let topic = broker.image().topic_named("catch-up").unwrap().clone();
    let leader = broker.leader(&topic, 0, LeaderEpoch::NONE).unwrap();
    for (max_bytes, least) in [(5000, 13), (1, 58), (7000, 8)] {
        let (before, mut next, mut found) = (broker.metrics.fetch.read_ahead.get(), Offset(0), Vec::new());
        while next < Offset(60) {
            let batches = fetch(&broker, &leader, next, max_bytes).await;
            next = batches.last().unwrap().header().next_offset();
            found.extend(batches.iter().map(|batch| content(batch).1));
        }
        assert_eq!(found, expected);
        assert!(broker.metrics.fetch.read_ahead.get() - before >= least, "all but the first two reads: {max_bytes}");
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_codec_of_archived_records_is_the_topics() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let topics = ["one", "two"];
    let mut leaders = Vec::new();
    for topic in topics {
        let leader = create(&broker, topic, 1, &[]).await.swap_remove(0);
        for codec in [Compression::None, Compression::Gzip] {
            produce(&broker, &leader, &batch(BatchOptions::compressed(codec), &[vec![b'x'; 2000]])).await;
        }
        send_away(&broker, topic, &leader).await;
        leaders.push(leader);
    }
    configure(&broker, "two", &[("archive.fetch.compression", "zstd")]).await;
    let expected = [
        ("auto", [Compression::None, Compression::Lz4]),
        ("original", [Compression::None, Compression::Gzip]),
        ("none", [Compression::None, Compression::None]),
        ("lz4", [Compression::Lz4, Compression::Lz4]),
        ("zstd", [Compression::Zstd, Compression::Zstd]),
    ];
    let codecs = async |leader| {
        let mut found = Vec::new();
        for offset in [0, 1] {
            let batches = fetch(&broker, leader, Offset(offset), 1).await;
            found.push(batches[0].header().attributes.compression().unwrap());
        }
        found
    };
    for (configured, expected) in expected {
        // The default needs no configuration.
        if configured != "auto" {
            configure(&broker, "one", &[("archive.fetch.compression", configured)]).await;
        }
        assert_eq!(codecs(&leaders[0]).await, expected, "{configured}");
        assert_eq!(codecs(&leaders[1]).await, [Compression::Zstd, Compression::Zstd]);
    }
    broker.shutdown().await;
}

/// A consumer with a fetch session, as the handler of Fetch drives it.
struct Consumer<'a> {
    broker: &'a Broker,
    leaders: &'a [Leader],
    offsets: Vec<Offset>,
    session: (i32, i32),
}

impl Consumer<'_> {
    /// One fetch; gives the bytes of each partition.
    async fn fetch(&mut self, partition_bytes: usize, max_bytes: usize) -> Vec<usize> {
        let key = |number: usize| PartitionKey {
            topic_id: self.leaders[number].partition.log().partition().topic_id,
            topic: "".into(),
            partition: number as i32,
        };
        let wish = |number: usize| SessionPartition {
            last_fetched_epoch: LeaderEpoch::NONE,
            offset: self.offsets[number],
            max_bytes: partition_bytes as i32,
            leader_epoch: LeaderEpoch::NONE,
        };
        let partitions = (0..self.leaders.len()).map(|number| (key(number), wish(number))).collect();
        let (session_id, epoch) = self.session;
        let request = SessionRequest { session_id, epoch, uses_topic_ids: true, partitions, forgotten: Vec::new() };
        let now = self.broker.runtime().clock.monotonic();
        let context = self.broker.fetch_sessions().begin(request, now).unwrap();
        let order: Vec<usize> = context.partitions.iter().map(|(key, _)| key.partition as usize).collect();
        let wanted: Vec<_> =
            order.iter().map(|&at| wanted(&self.leaders[at], self.offsets[at], partition_bytes)).collect();
        let (fetched, _memory) = self.broker.fetch(&wanted, limits(max_bytes)).await;
        let mut bytes = vec![0; self.leaders.len()];
        let mut answers = Vec::new();
        for (&at, fetched) in order.iter().zip(fetched) {
            let records = fetched.records.unwrap();
            answers.push(Answered {
                high_watermark: 1,
                log_start_offset: 0,
                has_records: !records.is_empty(),
                is_error: false,
                is_sent_on: false,
            });
            bytes[at] = records.iter().map(Bytes::len).sum();
            let last = records.into_iter().flat_map(Batches::new).last();
            if let Some(last) = last {
                self.offsets[at] = last.unwrap().header().next_offset();
            }
        }
        let ended = self.broker.fetch_sessions().end(&context, &answers, now, || 77);
        self.session = (ended.unwrap().0, epoch + 1);
        bytes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_partition_and_saturated_hot_ones_share_the_room_of_a_fetch() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let cold = create(&broker, "cold", 1, &[]).await;
    let value = |number: usize| vec![number as u8; 4000];
    let values = |number: usize| (0..4).map(|at| value(number + at)).collect::<Vec<_>>();
    for number in 0..60 {
        produce(&broker, &cold[0], &batch(BatchOptions::default(), &values(number))).await;
    }
    send_away(&broker, "cold", &cold[0]).await;
    let hot = create(&broker, "hot", 3, &[("remote.storage.enable", "false")]).await;
    for leader in &hot {
        for number in 0..120 {
            produce(&broker, leader, &batch(BatchOptions::default(), &values(number))).await;
        }
    }
    // The cold partition comes last, behind hot ones that could fill every answer.
    let leaders: Vec<Leader> = hot.into_iter().chain(cold).collect();
    let mut consumer = Consumer { broker: &broker, leaders: &leaders, offsets: vec![Offset(0); 4], session: (0, 0) };
    let (partition_bytes, max_bytes) = (20_000, 40_000);
    let mut without_cold = 0;
    while consumer.offsets[3] < Offset(240) {
        let bytes = consumer.fetch(partition_bytes, max_bytes).await;
        let has_hot_left = consumer.offsets[..3].iter().any(|offset| *offset < Offset(480));
        assert!(!has_hot_left || bytes[..3].iter().any(|bytes| *bytes > 0), "hot partitions wait: {bytes:?}");
        without_cold = if bytes[3] > 0 { 0 } else { without_cold + 1 };
        assert!(without_cold < 200, "the cold partition starves at {}", consumer.offsets[3]);
    }
    assert!(broker.metrics().fetch.bytes.of(crate::telemetry::FetchSource::Cache).get() > 0);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_leave_room_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(directory.path());
    settings.fetch.answer_bytes = 2 << 20;
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    for _ in 0..128 {
        produce(&broker, &leader, &batch(BatchOptions::default(), &[vec![7; 16 << 10]])).await;
    }
    let all = [wanted(&leader, Offset(0), 2 << 20)];
    // More than there is room for is not waited for.
    let patient = FetchLimits { max_wait: Duration::from_secs(600), min_bytes: 2 << 20, ..limits(2 << 20) };
    let mut untaken = Vec::new();
    for number in 0..12 {
        let answered = tokio::time::timeout(Duration::from_secs(60), broker.fetch(&all, patient));
        let (fetched, memory) = answered.await.unwrap_or_else(|_| panic!("fetch {number} waits for the others"));
        assert!(fetched[0].records.as_ref().is_ok_and(|records| !records.is_empty()), "{number}");
        untaken.push(memory);
    }
    let used = &broker.metrics().memory.used_bytes.of(MemoryShare::Frames);
    assert!((1 << 20..=2 << 20).contains(&used.get()), "{}", used.get());
    untaken.clear();
    assert_eq!(used.get(), 0);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_is_given_up_waits_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let patient = FetchLimits { max_wait: Duration::from_secs(600), ..limits(1000) };
    let none = [wanted(&leader, Offset(0), 1000)];
    let given_up = tokio::time::timeout(Duration::from_millis(100), broker.fetch(&none, patient));
    assert!(given_up.await.is_err());
    assert_eq!(broker.metrics().fetch.waiting.get(), 0);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_metadata_has_stopped_says_that_it_cannot_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    assert!(broker.is_writable());
    assert!(tokio::time::timeout(Duration::from_millis(50), broker.stopped()).await.is_err());
    broker.metadata.shutdown().await;
    assert!(broker.stopped().await.contains("metadata"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_can_not_be_opened_is_offline_and_the_others_serve() {
    let root = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(root.path());
    settings.directories = vec![root.path().join("one"), root.path().join("two")];
    let open = || Broker::open(Runtime::production(), settings.clone(), Metrics::new());
    let broker = open().await.unwrap();
    let leaders = create(&broker, "events", 4, &[]).await;
    let first = broker.directories()[0].identity().directory_id;
    let is_in_first: Vec<bool> =
        leaders.iter().map(|leader| leader.partition.directory().identity().directory_id == first).collect();
    assert!(is_in_first.contains(&true) && is_in_first.contains(&false));
    for leader in &leaders {
        produce(&broker, leader, &batch(BatchOptions::default(), &[vec![7; 100]])).await;
    }
    drop(leaders);
    broker.shutdown().await;

    let checkpoint = root.path().join("two/checkpoint");
    let whole = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, b"damaged").unwrap();
    std::fs::rename(root.path().join("two/journal"), root.path().join("journal")).unwrap();
    let broker = open().await.unwrap();
    assert_eq!(broker.metrics().log.offline_directories.get(), 1);
    let topic = broker.image().topic_named("events").unwrap().clone();
    for (number, is_in_first) in (0..).zip(&is_in_first) {
        let leader = broker.leader(&topic, number, LeaderEpoch::NONE);
        assert_eq!(broker.image().offline_nodes(topic.partition(number).unwrap()).is_empty(), *is_in_first);
        match leader {
            Ok(leader) => {
                assert!(is_in_first);
                produce(&broker, &leader, &batch(BatchOptions::default(), &[vec![8; 100]])).await;
            }
            Err(error) => {
                assert!(
                    !is_in_first && matches!(error, PartitionError::Append(AppendError::Offline { .. })),
                    "{error}"
                );
            }
        }
    }
    assert_eq!(broker.unopened_directories().collect::<Vec<_>>(), [root.path().join("two")]);
    broker.shutdown().await;

    std::fs::write(&checkpoint, whole).unwrap();
    std::fs::remove_dir_all(root.path().join("two/journal")).unwrap();
    std::fs::rename(root.path().join("journal"), root.path().join("two/journal")).unwrap();
    let broker = open().await.unwrap();
    for (number, is_in_first) in (0..).zip(&is_in_first) {
        let leader = broker.leader(&topic, number, LeaderEpoch::NONE).unwrap();
        assert_eq!(leader.partition.log().offsets().log_end, Offset(1 + i64::from(*is_in_first)), "{number}");
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_a_local_segment_is_read_around_once_the_archive_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let sent = batch(BatchOptions::default(), &[vec![7; 1000]]);
    produce(&broker, &leader, &sent).await;
    let log = Arc::clone(leader.partition.log());
    let now = broker.runtime().clock.wall().0.to_string();
    configure(&broker, "events", &[("archive.flush.timestamp", &now)]).await;
    for _ in 0..3000 {
        if log.offsets().archived_to == Offset(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(log.offsets().archived_to, Offset(1));
    let segment = log.archivable_segments()[0].path().to_owned();
    drop((leader, log));
    broker.shutdown().await;

    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let broker = open(directory.path()).await;
    let topic = broker.image().topic_named("events").unwrap().clone();
    let leader = broker.leader(&topic, 0, LeaderEpoch::NONE).unwrap();
    // Nothing local goes before this process has seen that the archive has it.
    while !leader.partition.log().is_archive_seen() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let back = fetch(&broker, &leader, Offset(0), 1 << 20).await;
    assert_eq!(content(&back[0]), content(&sent.placed(Offset(0), back[0].header().leader_epoch)));
    assert!(!segment.exists());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_by_time_goes_on_behind_the_batch_that_holds_the_log_start() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    for timestamps in [&[100, 50][..], &[200]] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for timestamp in timestamps {
            builder.append(Timestamp(*timestamp), None, Some(b"value"), std::iter::empty());
        }
        produce(&broker, &leader, &builder.build(Offset(0), LeaderEpoch::NONE).unwrap()).await;
    }
    broker.delete_records(&leader, Offset(1), Duration::from_secs(30)).await.unwrap();
    for (timestamp, offset) in [(0, Some(1)), (50, Some(1)), (80, Some(2)), (200, Some(2)), (201, None)] {
        let query = OffsetQuery::At(Timestamp(timestamp));
        let found = broker.offset(&leader, query, Isolation::ReadUncommitted).await.unwrap();
        assert_eq!(found.map(|found| found.offset.0), offset, "{timestamp}");
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_own_topics_are_made_as_the_broker_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let wanted = |name: &str, partitions| NewTopic { partitions, ..NewTopic::by_default(name) };
    let refused = broker.create_topic(wanted(OFFSETS_TOPIC, 3000), false).await;
    assert!(matches!(refused, Err(AdminError::FixedPartitions { .. })), "{refused:?}");
    let refused = broker.create_topic(wanted("__transaction_state", 1), false).await;
    assert!(matches!(refused, Err(AdminError::Invalid(_))), "{refused:?}");
    let made = broker.create_topic(wanted(OFFSETS_TOPIC, -1), false).await.unwrap();
    assert!(made.internal);
    assert_eq!(made.partition_count(), broker.settings.topics.offsets_partitions);
    let more = broker.create_partitions(OFFSETS_TOPIC, made.partition_count() + 1, None, false).await;
    assert!(matches!(more, Err(AdminError::FixedPartitions { .. })), "{more:?}");
    broker.shutdown().await;
}

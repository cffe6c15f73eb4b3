//! Producers that find no room in a data directory, and what goes on beside them.

use tokio::sync::Notify;

use super::*;
use crate::group::GroupError;
use crate::group::request::{CommitPartition, CommitTopic, OffsetCommit};
use crate::runtime::clock::{Clock, Sleep};

const AT_ONCE: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(60);

async fn append(
    broker: &Broker,
    leader: &Leader,
    batch: &Batch,
    timeout: Duration,
) -> Result<Produced, PartitionError> {
    broker.append(leader, batch.bytes().clone(), true, RoomWait { timeout, held_bytes: 6000 }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_wait_for_room_as_long_as_they_say_and_few_of_them_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(directory.path());
    settings.waiting_bytes = 8 << 10;
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let batch = batch(BatchOptions::default(), &[vec![7; 5000]]);
    let all = broker.directories()[0].try_admit_producer(usize::MAX).unwrap();
    assert!(matches!(append(&broker, &leader, &batch, AT_ONCE).await, Err(PartitionError::TimedOut)));
    let waits = append(&broker, &leader, &batch, PATIENCE);
    let others = async {
        // There is room for one that waits.
        let second = append(&broker, &leader, &batch, PATIENCE).await;
        assert!(matches!(second, Err(PartitionError::TimedOut)), "{second:?}");
        drop(all);
    };
    let (waited, ()) = tokio::join!(biased; waits, others);
    assert_eq!(waited.unwrap().base_offset, Offset(0));
    assert_eq!(append(&broker, &leader, &batch, AT_ONCE).await.unwrap().base_offset, Offset(1));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_room_takes_no_places_of_another() {
    let root = tempfile::tempdir().unwrap();
    let directories = ["first", "second"].map(|name| root.path().join(name)).to_vec();
    let settings = BrokerSettings { directories, waiting_bytes: 8 << 10, ..BrokerSettings::small(root.path()) };
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leaders = create(&broker, "events", 2, &[]).await;
    let all: Vec<_> = leaders
        .iter()
        .map(|leader| leader.partition.directory().try_admit_producer(usize::MAX).expect("each has its own directory"))
        .collect();
    let batch = batch(BatchOptions::default(), &[vec![7; 100]]);
    let mut first = Box::pin(append(&broker, &leaders[0], &batch, PATIENCE));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut all = all.into_iter();
    let of_first = all.next();
    let room = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(all);
    };
    let (second, ()) = tokio::join!(append(&broker, &leaders[1], &batch, PATIENCE), room);
    assert_eq!(second.unwrap().base_offset, Offset(0));
    assert!(futures_util::poll!(&mut first).is_pending());
    drop(of_first);
    assert_eq!((&mut first).await.unwrap().base_offset, Offset(0));
    drop(first);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_taken_for_what_the_topics_codec_makes_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(directory.path());
    settings.directory.unwritten_bytes = 100 << 10;
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leader = create(&broker, "events", 1, &[("compression.type", "uncompressed")]).await.remove(0);
    let plain = batch(BatchOptions::default(), &[vec![7; 50 << 10]]);
    let batch = plain.compressed(Compression::Zstd).unwrap();
    assert!(batch.bytes().len() < 1 << 10);
    let most = broker.directories()[0].try_admit_producer(90 << 10).unwrap();
    assert!(matches!(append(&broker, &leader, &batch, AT_ONCE).await, Err(PartitionError::TimedOut)));
    drop(most);
    assert_eq!(append(&broker, &leader, &batch, AT_ONCE).await.unwrap().base_offset, Offset(0));
    broker.shutdown().await;
}

/// A clock by which what takes a second or more is over when that is said.
struct HeldClock {
    inner: Arc<dyn Clock>,
    later: Arc<Notify>,
}

impl Clock for HeldClock {
    fn monotonic(&self) -> Monotonic {
        self.inner.monotonic()
    }

    fn wall(&self) -> Timestamp {
        self.inner.wall()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        if duration < Duration::from_secs(1) {
            return self.inner.sleep(duration);
        }
        let later = Arc::clone(&self.later);
        Box::pin(async move { later.notified().await })
    }
}

fn commit(topic: &str) -> OffsetCommit {
    let partitions =
        vec![CommitPartition { partition: 0, offset: 7, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() }];
    OffsetCommit {
        group_id: "group".into(),
        generation: -1,
        member_id: "".into(),
        group_instance_id: None,
        api_version: 8,
        retention_ms: None,
        topics: vec![CommitTopic { topic: topic.into(), topic_id: TopicId::ZERO, partitions }],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_without_room_holds_up_no_topics_and_says_so_after_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let (production, later) = (Runtime::production(), Arc::new(Notify::new()));
    let clock = Arc::new(HeldClock { inner: Arc::clone(&production.clock), later: Arc::clone(&later) });
    let runtime = Runtime { clock, ..production };
    let broker = Broker::open(runtime, BrokerSettings::small(directory.path()), Metrics::new()).await.unwrap();
    for name in ["first", "second", "third"] {
        create(&broker, name, 1, &[]).await;
    }
    broker.offsets_topic().await.unwrap();
    while broker.groups().commit_offsets(commit("first")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.directories()[0].request_checkpoint();
    let all = broker.directories()[0].admit_producer(usize::MAX).await;
    let waiter = Arc::clone(&broker);
    let mut waits = Box::pin(async move { waiter.groups().commit_offsets(commit("first")).await });
    assert!(futures_util::poll!(&mut waits).is_pending());
    // The coordinator that waits is to forget the offsets of the first, which keeps nobody from deleting the second.
    for name in ["first", "second"] {
        broker.delete_topic(&TopicName::Name(name.to_owned())).await.unwrap();
    }
    let has = |name: &str| broker.partitions().iter().any(|partition| &**partition.topic().name() == name);
    let gone = async {
        while has("second") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(has("third") && futures_util::poll!(&mut waits).is_pending());

    let refused = async {
        loop {
            // Whoever has begun to wait.
            later.notify_waiters();
            tokio::select! {
                biased;
                refused = &mut waits => return refused,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused, Err(GroupError::CoordinatorNotAvailable));
    drop((waits, all));
    while broker.groups().commit_offsets(commit("third")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_is_answered_with_the_time_at_which_it_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let configs = [("message.timestamp.type", "LogAppendTime")];
    let leader = create(&broker, "events", 1, &configs).await.remove(0);
    let options = BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        ..BatchOptions::default()
    };
    let batch = batch(options, &[vec![7; 10]]);
    let first = append(&broker, &leader, &batch, PATIENCE).await.unwrap();
    while broker.runtime().clock.wall() <= first.log_append_time.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(append(&broker, &leader, &batch, PATIENCE).await.unwrap(), first);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_of_all_timestamps_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let configs = [("message.timestamp.after.max.ms", "9223372036854775807")];
    let leader = create(&broker, "events", 1, &configs).await.remove(0);
    for timestamp in [5, i64::MAX, 7] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(timestamp), None, Some(b"value"), std::iter::empty());
        produce(&broker, &leader, &builder.build(Offset(0), LeaderEpoch::NONE).unwrap()).await;
    }
    let found = broker.offset(&leader, OffsetQuery::MaxTimestamp, Isolation::ReadUncommitted).await.unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset(1), Timestamp(i64::MAX)));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_timestamp_is_that_of_a_record_that_was_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    for timestamp in [90, 10, 70, 30] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(timestamp), None, Some(b"value"), std::iter::empty());
        produce(&broker, &leader, &builder.build(Offset(0), LeaderEpoch::NONE).unwrap()).await;
    }
    send_away(&broker, "events", &leader).await;
    for (log_start, largest) in [(0, (0, 90)), (1, (2, 70)), (3, (3, 30))] {
        broker.delete_records(&leader, Offset(log_start), PATIENCE).await.unwrap();
        let found = broker.offset(&leader, OffsetQuery::MaxTimestamp, Isolation::ReadUncommitted).await.unwrap();
        assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), Some(largest));
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_unknown_hurries_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let unknown =
        || FetchPartition { leader: Err(PartitionError::UnknownPartition), ..wanted(&leader, Offset(0), 1000) };
    let limits = FetchLimits { max_wait: PATIENCE, ..limits(1000) };
    let alone = [unknown()];
    assert_eq!(broker.fetch(&alone, limits).await.0.len(), 1, "nothing is to be waited for");
    let both = [unknown(), wanted(&leader, Offset(0), 1000)];
    let waits = broker.fetch(&both, limits);
    let appends = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        append(&broker, &leader, &batch(BatchOptions::default(), &[vec![7; 10]]), PATIENCE).await.unwrap();
    };
    let ((fetched, _memory), ()) = tokio::join!(waits, appends);
    assert!(fetched[0].records.is_err());
    assert!(!fetched[1].records.as_ref().unwrap().is_empty());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_take_long_to_check_are_checked_on_lanes() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[("max.message.bytes", "100000000")]).await.remove(0);
    // Every lane is kept busy.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(parking_lot::Mutex::new(held));
    let (busy, mut busy_lanes) = tokio::sync::mpsc::channel(2);
    let hold = || {
        let (validators, held, busy) = (broker.validators.clone(), Arc::clone(&held), busy.clone());
        tokio::spawn(async move {
            let hold = move || {
                busy.blocking_send(()).unwrap();
                let _ = held.lock().recv();
            };
            validators.run(hold).await;
        })
    };
    let holding = [hold(), hold()];
    for _ in &holding {
        busy_lanes.recv().await.unwrap();
    }
    // One that is large, and a small one that decompresses to much.
    let large = batch(BatchOptions::default(), &[(0..2_000_000).map(|at: u32| at as u8).collect()]);
    let dense = batch(BatchOptions::compressed(Compression::Zstd), &[vec![7; 8 << 20]]);
    assert!(dense.bytes().len() < 10_000);
    let mut appending = [&large, &dense].map(|batch| Box::pin(append(&broker, &leader, batch, PATIENCE)));
    for appending in &mut appending {
        assert!(futures_util::poll!(appending).is_pending());
    }
    append(&broker, &leader, &batch(BatchOptions::default(), &[vec![7; 100]]), PATIENCE).await.unwrap();
    drop(release);
    for appended in futures_util::future::join_all(appending).await {
        assert!(appended.unwrap().base_offset > Offset(0));
    }
    for held in holding {
        held.await.unwrap();
    }
    let mut lengths = Vec::new();
    for offset in [1, 2] {
        lengths.push(fetch(&broker, &leader, Offset(offset), 1).await[0].header().batch_length);
    }
    assert!([&large, &dense].iter().all(|batch| lengths.contains(&batch.header().batch_length)));
    broker.shutdown().await;
}

//! What is deleted is what may be deleted, whatever happens in between.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::TryStreamExt;

use super::*;
use crate::archive::heads::Heads;
use crate::archive::inspect::Inspector;
use crate::archive::key::{Fence, SegmentUuid};
use crate::archive::manifest::{ChunkRow, CommitFacts, HeadIdentity, Hex128};
use crate::archive::store::faulty::{Fault, FaultyBackend};
use crate::archive::tests::{Broker, end, log, open_store, writer};
use crate::archive::workers::Workers;
use crate::record::Batch;
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::types::{Incarnation, LeaderEpoch, PartitionIndex};

const NO_GRACE: Duration = Duration::ZERO;
const LATE: Timestamp = Timestamp(i64::MAX);

async fn objects(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).map_ok(|object| object.key).try_collect().await.unwrap()
}

pub(in crate::archive) fn segment(base: i64, next: i64, log_bytes: u64) -> Segment {
    let fence = Fence { incarnation: Incarnation(0), leader_epoch: LeaderEpoch(1) };
    let uuid = SegmentUuid::from_entropy([base as u8; 16]);
    Segment {
        name: SegmentName { base: Offset(base), next: Offset(next), fence, uuid },
        min_timestamp: Timestamp(base),
        max_timestamp: Timestamp(next),
        record_count: 1,
        batch_count: 1,
        log_bytes,
        parquet_bytes: 0,
        footer_start: 0,
        metadata_start: 0,
        parquet_hash: Hex128(0),
        companion_bytes: 20,
        companion_hash: Hex128(0),
        hash: Hex128(0),
        chunks: vec![ChunkRow {
            offsets: (next - base).cast_unsigned(),
            max_timestamp: next,
            rows: 0,
            parquet_bytes: 0,
            companion_bytes: 4,
            raw_bytes: 1,
            hash: 0,
        }],
    }
}

#[test]
fn retention_goes_by_age_and_size_and_stops_at_the_first_segment_that_stays() {
    let segments = [segment(0, 10, 100), segment(10, 20, 100), segment(20, 30, 100)];
    let start = |retention_ms, retention_bytes, now, total| {
        retention_start(&segments, total, Retention { retention_ms, retention_bytes }, Timestamp(now), Offset(0))
    };
    assert_eq!(start(None, None, i64::MAX, 300), Offset(0));
    assert_eq!(start(Some(5), None, 16, 300), Offset(10));
    assert_eq!(start(Some(5), None, 1000, 300), Offset(30));
    assert_eq!(start(None, Some(150), 0, 300), Offset(10));
    // What only the local disk has counts too, and is not expired here.
    assert_eq!(start(None, Some(150), 0, 600), Offset(30));
    assert_eq!(start(None, Some(300), 0, 300), Offset(0));
}

#[test]
fn a_clock_that_jumps_ahead_expires_a_bounded_number_of_segments() {
    let segments: Vec<Segment> = (0..200).map(|base| segment(base, base + 1, 1)).collect();
    let keep = Retention { retention_ms: Some(1), retention_bytes: None };
    let start = retention_start(&segments, 200, keep, LATE, Offset(0));
    assert_eq!(start, Offset(EXPIRED_PER_PASS as i64));
    let keep = Retention { retention_bytes: Some(10), ..keep };
    assert_eq!(retention_start(&segments, 200, keep, LATE, Offset(0)), Offset(190), "size goes by no clock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_moves_the_log_start_first_and_objects_go_after_their_grace() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let log = log(1, 100);
    broker.archive(writer(1), &log, 20, end(&log)).await.unwrap();
    let store = broker.bucket.store().clone();
    let before = objects(&store, broker.partition.keys().log_directory()).await.len();
    let head = broker.partition.head().unwrap();
    let third = head.segments[2].base();
    let keep =
        Retention { retention_ms: None, retention_bytes: Some(head.segments[2..].iter().map(|s| s.log_bytes).sum()) };

    let day = Duration::from_secs(86_400);
    let known = broker.partition.refresh().await.unwrap().unwrap();
    let start = retained_from(&broker.partition, &known, keep, 0, Timestamp(0)).await.unwrap();
    let head = broker.partition.advance_log_start(writer(1), start, day).await.unwrap();
    assert_eq!((head.log_start_offset, head.segments.len(), head.tombstones.len()), (third, 3, 2));
    let now = Runtime::production().clock.wall();
    assert_eq!(sweep_tombstones(&broker.partition, writer(1), now).await.unwrap().objects, 0);
    assert_eq!(objects(&store, broker.partition.keys().log_directory()).await.len(), before);

    let head = broker.partition.advance_log_start(writer(1), head.segments[1].base(), NO_GRACE).await.unwrap();
    let now = Runtime::production().clock.wall();
    assert_eq!(sweep_tombstones(&broker.partition, writer(1), now).await.unwrap().objects, 2);
    assert!(objects(&store, broker.partition.keys().log_directory()).await.len() < before);
    let found = broker.read_all(head.segments[1].base(), false).await;
    assert_eq!(found.last(), log.last());
}

/// A log of which the first half was archived, and then deleted.
async fn with_deleted_half() -> (Broker, Vec<Batch>, Arc<Head>) {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let log = log(1, 40);
    let first = log[20].header().base_offset;
    broker.archive(writer(1), &log, 20, first).await.unwrap();
    let head = broker.partition.advance_log_start(writer(1), first, NO_GRACE).await.unwrap();
    (broker, log, head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_deleted_records_only_what_is_known_of_their_producers_stays_until_more_is_known() {
    let (broker, log, head) = with_deleted_half().await;
    let all = end(&log);
    let known = broker.partition.read_producers(&head).await.unwrap().expect("batches have producers");

    let now = Runtime::production().clock.wall();
    sweep_tombstones(&broker.partition, writer(1), now).await.unwrap();
    let store = broker.bucket.store().clone();
    let companion = broker.partition.keys().companion(&head.producer_snapshot.unwrap().segment);
    let left = objects(&store, broker.partition.keys().log_directory()).await;
    assert_eq!(left, std::slice::from_ref(&companion));
    let head = broker.partition.refresh().await.unwrap().unwrap();
    assert!(head.tombstones.is_empty());
    assert_eq!(broker.partition.read_producers(&head).await.unwrap().unwrap().producers, known.producers);

    broker.archive(writer(1), &log, 20, all).await.unwrap();
    sweep_tombstones(&broker.partition, writer(1), now).await.unwrap();
    assert!(!objects(&store, broker.partition.keys().log_directory()).await.contains(&companion));
    assert_eq!(broker.read_all(log[20].header().base_offset, false).await.last(), log.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_companion_that_was_kept_keeps_its_tombstone_until_it_is_gone() {
    let (broker, log, head) = with_deleted_half().await;
    let all = end(&log);
    let kept = head.producer_snapshot.unwrap().segment;
    let is_kept = |tombstone: &Tombstone| tombstone.what == Tombstoned::Segment(kept);
    assert!(head.tombstones.iter().any(is_kept));

    // While a sweep deletes the objects of that head, all but this one, it becomes superfluous.
    broker.archive(writer(1), &log, 20, all).await.unwrap();
    let head = broker.partition.drop_tombstones(writer(1), &head.tombstones, Some(kept)).await.unwrap();
    assert!(head.tombstones.len() == 1 && head.tombstones.iter().all(is_kept), "{:?}", head.tombstones);
    sweep_tombstones(&broker.partition, writer(1), Runtime::production().clock.wall()).await.unwrap();
    let left = objects(broker.bucket.store(), broker.partition.keys().log_directory()).await;
    assert!(!left.contains(&broker.partition.keys().companion(&kept)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_dies_anywhere_is_finished_by_the_next() {
    for number in 0..20 {
        let store = open_store("memory:///");
        let broker = Broker::new(store.clone());
        broker.describe_topic().await;
        let log = log(2, 60);
        broker.archive(writer(1), &log, 10, end(&log)).await.unwrap();
        let start = broker.partition.head().unwrap().segments[3].base();
        broker.partition.advance_log_start(writer(1), start, NO_GRACE).await.unwrap();
        let now = Runtime::production().clock.wall();

        let plan = FaultyBackend::dies_at(number, Fault::ReplyLost);
        let dying = Broker::new(store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, plan))));
        let died = sweep_tombstones(&dying.partition, writer(1), now).await.is_err();
        sweep_tombstones(&broker.partition, writer(1), now).await.unwrap();
        let head = broker.partition.refresh().await.unwrap().unwrap();
        assert!(head.tombstones.is_empty());
        let listed: BTreeSet<String> =
            head.segments.iter().flat_map(|s| segment_keys(&broker.partition, &s.name)).collect();
        let left = objects(&store, broker.partition.keys().log_directory()).await;
        assert!(left.iter().all(|key| listed.contains(key)), "{number}: {left:?}");
        broker.read_all(start, false).await;
        if !died {
            return;
        }
    }
    panic!("the sweep makes fewer requests than that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_go_only_when_their_writer_can_never_commit_again() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(3, 40);
    // The first leader uploads its objects and dies before the head is written.
    let mut orphans = Vec::new();
    for number in 0..40 {
        let plan = FaultyBackend::dies_at(number, Fault::Refused);
        let dying = Broker::new(store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, plan))));
        dying.archive(writer(1), &log, 20, end(&log)).await.ok();
        orphans = objects(&store, broker.partition.keys().log_directory()).await;
        if !orphans.is_empty() {
            break;
        }
    }
    assert!(!orphans.is_empty());
    assert!(broker.partition.refresh().await.unwrap().unwrap().segments.is_empty());
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 0, "that writer may still commit them");

    broker.archive(writer(2), &log, 20, end(&log)).await.unwrap();
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, orphans.len() as u64);
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 0);
    assert_eq!(broker.read_all(Offset(0), false).await.len(), log.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_takes_only_what_nothing_refers_to_and_no_writer_can_commit() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(6, 60);
    broker.archive(writer(2), &log, 20, end(&log)).await.unwrap();
    let head = broker.partition.head().unwrap();
    // The first segment becomes a tombstone whose time has not come.
    let grace = Duration::from_secs(86_400);
    let head = broker.partition.advance_log_start(writer(2), head.segments[1].base(), grace).await.unwrap();
    let Tombstoned::Segment(tombstoned) = head.tombstones[0].what else { panic!("{head:?}") };

    let keys = broker.partition.keys();
    let planted = |incarnation, epoch, byte| {
        let fence = Fence { incarnation: Incarnation(incarnation), leader_epoch: LeaderEpoch(epoch) };
        let uuid = SegmentUuid::from_entropy([byte; 16]);
        SegmentName { base: Offset(3), next: Offset(9), fence, uuid }
    };
    let (earlier, current, later, restored) = (planted(0, 1, 1), planted(0, 2, 2), planted(0, 3, 3), planted(1, 0, 4));
    for name in [earlier, current, later, restored] {
        for key in segment_keys(&broker.partition, &name) {
            store.put_immutable(&key, bytes::Bytes::from_static(b"planted")).await.unwrap();
        }
    }
    let unused_list = keys.spill(Offset(0), Offset(3), head.generation - 1);
    let future_list = keys.spill(Offset(0), Offset(3), head.generation + 1);
    for key in [&unused_list, &future_list] {
        store.put_immutable(key, bytes::Bytes::from_static(b"planted")).await.unwrap();
    }
    let foreign = format!("{}notes.txt", keys.log_directory());
    store.put_immutable(&foreign, bytes::Bytes::from_static(b"somebody's")).await.unwrap();

    let before: BTreeSet<String> = objects(&store, "").await.into_iter().collect();
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 3);
    let after: BTreeSet<String> = objects(&store, "").await.into_iter().collect();
    let gone: Vec<String> = before.difference(&after).cloned().collect();
    let [parquet, aux] = segment_keys(&broker.partition, &earlier);
    assert_eq!(gone, [aux, parquet, unused_list]);
    assert!(after.contains(&keys.parquet(&tombstoned)) && after.contains(&keys.parquet(&head.segments[0].name)));

    // Once another leader has taken over, what the one before left behind goes too.
    broker.partition.take_over(writer(3)).await.unwrap();
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 3, "and the list that was for this generation");
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 0);
    assert_same_records(&broker, head.segments[0].base(), &log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_beyond_a_head_that_was_lost_or_put_back_stays() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(8, 60);
    let keys = broker.partition.keys();
    let middle = log[20].header().base_offset;
    broker.archive(writer(1), &log[..20], 10, middle).await.unwrap();
    let early = store.get(&keys.head()).await.unwrap().0;
    broker.archive(writer(1), &log, 10, end(&log)).await.unwrap();
    let head = broker.partition.head().unwrap();
    let list = keys.spill(Offset(0), middle, head.generation - 1);
    store.put_immutable(&list, bytes::Bytes::from_static(b"its own")).await.unwrap();

    let all = objects(&store, keys.log_directory()).await;
    for put_back in [None, Some(early)] {
        store.delete(&keys.head()).await.unwrap();
        if let Some(head) = put_back {
            store.put_immutable(&keys.head(), head).await.unwrap();
        }
        let successor = Broker::new(store.clone());
        for epoch in 2..40 {
            successor.partition.take_over(writer(epoch)).await.unwrap();
        }
        assert_eq!(sweep_orphans(&successor.partition).await.unwrap().objects, 0);
        assert_eq!(objects(&store, keys.log_directory()).await, all);
        assert!(store.get_if_present(&list).await.unwrap().is_some());
    }
}

async fn assert_same_records(broker: &Broker, from: Offset, log: &[Batch]) {
    let expected: Vec<_> = log.iter().filter(|batch| batch.header().next_offset() > from).cloned().collect();
    assert_eq!(broker.read_all(from, false).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_the_bucket_of_a_deleted_topic_is_swept() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let identity = broker.partition.identity().clone();
    let topic = broker.bucket.topic(&identity.topic, identity.topic_id).await.unwrap().unwrap();
    let late = segment(0, 5, 1).name;
    let plant = || async {
        for key in segment_keys(&broker.partition, &late) {
            store.put_immutable(&key, bytes::Bytes::from_static(b"late")).await.unwrap();
        }
    };
    plant().await;
    // As long as the topic lives, or is known to the cluster, nothing is touched.
    assert_eq!(sweep_deleted_topics(&broker.bucket, |_| false).await.unwrap().objects, 0);
    purge_topic(&broker.bucket, &topic).await.unwrap();
    plant().await;
    assert_eq!(sweep_deleted_topics(&broker.bucket, |_| true).await.unwrap().objects, 0);
    assert_eq!(sweep_deleted_topics(&broker.bucket, |_| false).await.unwrap().objects, 2);
    assert_eq!(objects(&store, "").await.len(), 1, "the description stays");
}

/// A partition with so many lists of segments, of one record and one byte each.
async fn with_lists(count: usize) -> (Broker, Arc<Head>) {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    let mut head = broker.partition.take_over(writer(1)).await.unwrap();
    while head.spills.len() < count {
        let base = head.next_offset.0;
        let segment = segment(base, base + 1, 1);
        let segment = Segment { name: SegmentName { fence: writer(1).fence, ..segment.name }, ..segment };
        let keys = segment_keys(&broker.partition, &segment.name);
        broker.bucket.store().put_immutable(&keys[1], bytes::Bytes::from_static(b"stand-in")).await.unwrap();
        head = broker.partition.commit(writer(1), &segment, &CommitFacts::default()).await.unwrap();
    }
    (broker, head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_head_that_was_forgotten_makes_room_for_a_segment_all_the_same() {
    let broker = Broker::new(open_store("memory:///"));
    broker.describe_topic().await;
    // Room for the head that was used last.
    let heads = Heads::new(1);
    let archive = |partition| {
        let identity = HeadIdentity { partition: PartitionIndex(partition), ..broker.partition.identity().clone() };
        PartitionArchive::new(broker.bucket.clone(), Runtime::production(), identity, heads.clone())
    };
    let (full, other) = (archive(0), archive(1));
    let mut head = full.take_over(writer(1)).await.unwrap();
    while !head.needs_spill() {
        let next = segment(head.next_offset.0, head.next_offset.0 + 1, 1);
        head = full.commit(writer(1), &next, &CommitFacts::default()).await.unwrap();
    }
    assert!(head.spills.is_empty());
    other.take_over(writer(1)).await.unwrap();
    assert!(full.head().is_none());
    let next = segment(head.next_offset.0, head.next_offset.0 + 1, 1);
    let head = full.commit(writer(1), &next, &CommitFacts::default()).await.unwrap();
    assert_eq!((head.spills.len(), head.next_offset), (1, next.next()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_size_counts_what_a_list_has_lost_no_more() {
    let (broker, mut head) = with_lists(2).await;
    let all = head.next_offset.0;
    let kept = all - i64::try_from(EXPIRED_PER_PASS).unwrap() * 3 / 2;
    let keep = Retention { retention_ms: None, retention_bytes: Some(kept.cast_unsigned()) };
    for passes in 1..8 {
        let start = retained_from(&broker.partition, &head, keep, 0, Timestamp(0)).await.unwrap();
        head = broker.partition.advance_log_start(writer(1), start, NO_GRACE).await.unwrap();
        assert!(head.log_start_offset.0 <= all - kept, "pass {passes}: {}", head.log_start_offset);
    }
    assert_eq!(head.log_start_offset.0, all - kept);
    // The same when a list has expired as a whole and is still there, for want of room for tombstones.
    let beyond = head.spills[0].next + 10;
    let crowded = Head { log_start_offset: beyond, ..Head::clone(&head) };
    assert!(crowded.log_bytes() <= (all - head.spills[0].next.0).cast_unsigned());
    let keep = Retention { retention_ms: None, retention_bytes: Some((all - beyond.0).cast_unsigned()) };
    assert_eq!(retained_from(&broker.partition, &crowded, keep, 0, Timestamp(0)).await.unwrap(), beyond);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spilled_segments_are_read_expired_and_swept_like_any_other() {
    let (broker, mut head) = with_lists(2).await;
    let store = broker.bucket.store().clone();
    let count = head.next_offset.0;
    let cut = Offset(head.spills[1].first.0 + 10);
    let mut sweeps = 0;
    head = broker.partition.advance_log_start(writer(1), cut, NO_GRACE).await.unwrap();
    while !head.tombstones.is_empty() {
        let now = Runtime::production().clock.wall();
        sweep_tombstones(&broker.partition, writer(1), now).await.unwrap();
        head = broker.partition.head().unwrap();
        sweeps += 1;
        assert!(sweeps < 10);
    }
    let left = objects(&store, broker.partition.keys().log_directory()).await;
    assert_eq!(left.len() as i64, count - cut.0);
    assert_eq!(objects(&store, &broker.partition.keys().spill_directory()).await.len(), 1);
    assert_eq!(sweep_orphans(&broker.partition).await.unwrap().objects, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_topic_leaves_only_its_description() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(4, 40);
    broker.archive(writer(1), &log, 20, end(&log)).await.unwrap();
    let identity = broker.partition.identity().clone();
    let topic = broker.bucket.topic(&identity.topic, identity.topic_id).await.unwrap().unwrap();
    purge_topic(&broker.bucket, &topic).await.unwrap();
    let left = objects(&store, "").await;
    assert_eq!(left, [broker.bucket.keys().topic(&identity.topic, identity.topic_id).description()]);
    let found = broker.bucket.topic(&identity.topic, identity.topic_id).await.unwrap().unwrap();
    assert_eq!(found.state, TopicState::Purged);
    assert!(broker.bucket.describe_topic(&topic).await.is_err(), "a deleted topic never comes back");
    assert!(Broker::new(store).partition.take_over(writer(2)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_looked_at_and_checked_without_a_broker() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    let log = log(5, 100);
    broker.archive(writer(1), &log, 30, end(&log)).await.unwrap();
    let runtime = Runtime::production();
    let workers = Workers::start(runtime.tasks.as_ref(), "inspect", Priority::Foreground, 1);
    // Nothing is read of other topics, of which there may be thousands.
    let other = broker.bucket.keys().topic("other", TopicId::from_bytes([8; 16])).description();
    store.put_immutable(&other, bytes::Bytes::from_static(b"{}")).await.unwrap();
    let plan = Box::new(|_, _, key: &str| if key.contains("/other-") { Fault::Denied } else { Fault::None });
    let inspected = store.clone().wrapped(|backend| Arc::new(FaultyBackend::new(backend, plan)));
    let inspector = Inspector::open(inspected, None, workers).await.unwrap();
    assert!(inspector.topics().await.is_err());
    let topic = inspector.topic("flights").await.unwrap();
    let (_, head) = topic.heads.first_key_value().unwrap();
    let partition = inspector.partition(&topic, head).await.unwrap();
    let report = inspector.verify(&partition, |_| {}).await;
    assert_eq!((&report.problems[..], report.batches), (&[][..], log.len() as u64));

    let batches: Vec<_> = inspector.batches(&partition, Offset(30)).try_collect().await.unwrap();
    assert_eq!(batches.last().map(|batch| &batch.batch), log.last());

    store.delete(&partition.keys.parquet(&partition.segments[1].name)).await.unwrap();
    let report = inspector.verify(&partition, |_| {}).await;
    assert!(report.problems.iter().any(|problem| problem.offset == partition.segments[1].base()));
    let gap = crate::archive::inspect::ArchivedPartition {
        segments: [&partition.segments[..1], &partition.segments[2..]].concat(),
        ..partition.clone()
    };
    let report = inspector.verify(&gap, |_| {}).await;
    assert!(report.problems.iter().any(|problem| problem.what.contains("missing")), "{:?}", report.problems);
    assert!(inspector.topic("nothing").await.is_err());
}

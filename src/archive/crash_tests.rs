//! A process that dies between any two requests to the bucket: of an upload, a spill, retention, a sweep, a topic's deletion.
//! The last request is lost before it has an effect, loses its answer, or is answered; the next leader then does the same
//! work, and everything is as if nobody had died.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::TryStreamExt;

use super::cleaner::tests::segment;
use super::cleaner::{CleanError, purge_topic, sweep_orphans, sweep_tombstones};
use super::key::SegmentName;
use super::manifest::{
    CommitFacts, Head, MAX_INLINE_SEGMENTS, Segment, Tombstoned, TopicDescription, TopicState, Writer,
};
use super::partition::HeadError;
use super::store::faulty::{Fault, FaultyBackend};
use super::store::{Operation, Store, StoreSettings};
use super::tests::{Broker, assert_same, end, log, open_store, settings, writer};
use super::uploader::UploadError;
use crate::record::Batch;
use crate::runtime::Runtime;
use crate::types::*;

const DYING: Writer = writer(1);
const NEXT: Writer = writer(2);
/// Requests that none of the works below needs.
const TOO_MANY: u64 = 1000;

/// Why a work ended early.
#[derive(Debug)]
struct Died(#[expect(dead_code, reason = "for the output of a failing test")] String);

impl From<UploadError> for Died {
    fn from(error: UploadError) -> Self {
        Self(error.to_string())
    }
}

impl From<HeadError> for Died {
    fn from(error: HeadError) -> Self {
        Self(error.to_string())
    }
}

impl From<CleanError> for Died {
    fn from(error: CleanError) -> Self {
        Self(error.to_string())
    }
}

/// Does `work` in a process that dies at each of its requests in turn, then in its successor, and then checks.
async fn dying_at_every_request(
    prepare: impl AsyncFn(&Broker),
    work: impl AsyncFn(&Broker, Writer) -> Result<(), Died>,
    check: impl AsyncFn(&Broker, &str),
) {
    dying_at_every(1, prepare, work, check).await;
}

/// As [`dying_at_every_request`], of the requests beyond the tenth only at some.
async fn dying_at_every(
    stride: u64,
    prepare: impl AsyncFn(&Broker),
    work: impl AsyncFn(&Broker, Writer) -> Result<(), Died>,
    check: impl AsyncFn(&Broker, &str),
) {
    for last in [Fault::Refused, Fault::ReplyLost, Fault::None] {
        let mut number = 0;
        loop {
            let store = open_store("memory:///");
            let successor = Broker::new(store.clone());
            successor.describe_topic().await;
            prepare(&successor).await;
            let plan = FaultyBackend::dies_at(number, last);
            let dying = Broker::new(store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, plan))));
            let died = work(&dying, DYING).await.is_err();
            work(&successor, NEXT).await.unwrap_or_else(|error| panic!("{last:?} at request {number}: {error:?}"));
            check(&successor, &format!("{last:?} at request {number}")).await;
            if !died {
                break;
            }
            number += if number < 10 { 1 } else { stride };
            assert!(number < TOO_MANY);
        }
        assert!(number > 2, "the work makes more requests than that");
    }
}

async fn objects(store: &Store, prefix: &str) -> BTreeSet<String> {
    store.list(prefix).map_ok(|object| object.key).try_collect().await.unwrap()
}

fn now() -> Timestamp {
    Runtime::production().clock.wall()
}

/// The log objects in the bucket are exactly those of the head's segments.
async fn assert_no_leftovers(broker: &Broker, head: &Head, context: &str) {
    let keys = broker.partition.keys();
    let of = |segment: &Segment| {
        let parquet = (segment.parquet_bytes > 0).then(|| keys.parquet(&segment.name));
        let companion = (segment.companion_bytes > 0).then(|| keys.companion(&segment.name));
        parquet.into_iter().chain(companion)
    };
    let listed: BTreeSet<String> = head.segments.iter().flat_map(of).collect();
    assert_eq!(objects(broker.bucket.store(), keys.log_directory()).await, listed, "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_retention_and_sweeps_converge_after_a_death_at_any_request() {
    let log = log(11, 40);
    let start = log[20].header().base_offset;
    let work = async |broker: &Broker, writer: Writer| {
        broker.archive(writer, &log, 10, end(&log)).await?;
        broker.partition.advance_log_start(writer, start, Duration::ZERO).await?;
        sweep_tombstones(&broker.partition, writer, now()).await?;
        sweep_orphans(&broker.partition).await?;
        Ok(())
    };
    let kept: Vec<Batch> = log.iter().filter(|batch| batch.header().next_offset() > start).cloned().collect();
    let check = async |broker: &Broker, context: &str| {
        let head = broker.partition.refresh().await.unwrap().unwrap();
        assert_eq!(
            (head.log_start_offset, head.next_offset, head.tombstones.len()),
            (start, end(&log), 0),
            "{context}"
        );
        assert_no_leftovers(broker, &head, context).await;
        assert_same(&broker.read_all(start, false).await, &kept, context);
        let producers = broker.partition.read_producers(&head).await.unwrap().unwrap();
        assert_eq!(producers.offset, end(&log), "{context}");
    };
    dying_at_every_request(async |_: &Broker| {}, work, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_hangs_ends_the_sweep_and_not_for_ever() {
    let store = open_store("memory:///");
    let broker = Broker::new(store.clone());
    broker.describe_topic().await;
    broker.partition.take_over(DYING).await.unwrap();
    let impatient = StoreSettings { attempt_timeout_ms: 50, ..settings() };
    let hanging = store.configured(impatient).wrapped(|inner| {
        let plan = |_, operation, _: &str| if operation == Operation::List { Fault::Hangs } else { Fault::None };
        Arc::new(FaultyBackend::new(inner, Box::new(plan)))
    });
    let error = sweep_orphans(&Broker::new(hanging).partition).await.unwrap_err();
    assert!(error.to_string().contains("50"), "{error}");
}

/// A head that is full, made at once, and its segments.
fn full_head(broker: &Broker) -> Head {
    let mut head = Head::first(broker.partition.identity().clone(), DYING, super::manifest::Hex128(1));
    for number in 0..MAX_INLINE_SEGMENTS {
        let base = i64::try_from(number).unwrap() * 2;
        let nonce = super::manifest::Hex128(number as u128 + 2);
        head = head.commit(DYING, segment(base, base + 2, 10), &CommitFacts::default(), nonce).unwrap();
    }
    head
}

/// Names of everything readable, spilled or not.
async fn names(broker: &Broker, head: &Head) -> Vec<SegmentName> {
    let mut names = Vec::new();
    for spill in &head.spills {
        let list = broker.partition.read_spill(spill).await.unwrap();
        let live = list.segments.iter().filter(|segment| segment.next() > spill.live_from);
        names.extend(live.map(|segment| segment.name));
    }
    names.extend(head.segments.iter().map(|segment| segment.name));
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spills_and_retention_across_them_converge_after_a_death_at_any_request() {
    let full = full_head(&Broker::new(open_store("memory:///")));
    let bytes: Bytes = full.to_bytes();
    let prepare = async |broker: &Broker| {
        broker.bucket.store().put_immutable(&broker.partition.keys().head(), bytes.clone()).await.unwrap();
    };
    let next = full.next_offset;
    let cut = Offset(101);
    let work = async |broker: &Broker, writer: Writer| {
        let head = broker.partition.take_over(writer).await?;
        if head.next_offset == next {
            let more = segment(next.0, next.0 + 2, 10);
            let more = Segment { name: SegmentName { fence: writer.fence, ..more.name }, ..more };
            broker.partition.commit(writer, &more, &CommitFacts::default()).await?;
        }
        // Cuts the list in two.
        let mut head = broker.partition.advance_log_start(writer, cut, Duration::ZERO).await?;
        while !head.tombstones.is_empty() {
            sweep_tombstones(&broker.partition, writer, now()).await?;
            head = broker.partition.refresh().await?.expect("it was just changed");
        }
        sweep_orphans(&broker.partition).await?;
        Ok(())
    };
    let check = async |broker: &Broker, context: &str| {
        let head = broker.partition.refresh().await.unwrap().unwrap();
        let names = names(broker, &head).await;
        assert!(names.is_sorted_by(|one, two| one.next == two.base), "{context}: a gap, or something twice");
        let covered = (names[0].base, names[names.len() - 1].next);
        assert_eq!(covered, (Offset(100), next + 2), "{context}");
        assert_eq!((head.log_start_offset, head.next_offset, head.spills.len()), (cut, next + 2, 1), "{context}");
        let lists = objects(broker.bucket.store(), &broker.partition.keys().spill_directory()).await;
        assert_eq!(lists.len(), 1, "{context}: {lists:?}");
    };
    dying_at_every_request(prepare, work, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_lists_converge_after_a_death_at_any_request() {
    let full = full_head(&Broker::new(open_store("memory:///")));
    let (spilled, _, list) = full.spill(DYING, super::manifest::Hex128(9)).unwrap();
    let prepare = async |broker: &Broker| {
        let (store, keys) = (broker.bucket.store(), broker.partition.keys());
        store.put_immutable(&spilled.spills[0].key(keys), list.to_bytes()).await.unwrap();
        store.put_immutable(&keys.head(), spilled.to_bytes()).await.unwrap();
        // Only a few of the objects, so that the requests stay few.
        for segment in list.segments.iter().take(3) {
            store.put_immutable(&keys.companion(&segment.name), Bytes::from_static(b"stand-in")).await.unwrap();
        }
    };
    let cut = spilled.spills[0].next;
    let work = async |broker: &Broker, writer: Writer| {
        broker.partition.take_over(writer).await?;
        let head = broker.partition.advance_log_start(writer, cut, Duration::ZERO).await?;
        if head.tombstones.iter().any(|tombstone| matches!(tombstone.what, Tombstoned::Spill(_))) {
            sweep_tombstones(&broker.partition, writer, now()).await?;
        }
        Ok(())
    };
    let check = async |broker: &Broker, context: &str| {
        let head = broker.partition.refresh().await.unwrap().unwrap();
        assert_eq!((head.spills.len(), head.tombstones.len(), head.log_start_offset), (0, 0, cut), "{context}");
        let keys = broker.partition.keys();
        assert_eq!(objects(broker.bucket.store(), &keys.spill_directory()).await.len(), 0, "{context}");
        assert_eq!(objects(broker.bucket.store(), keys.log_directory()).await.len(), 0, "{context}");
        assert_eq!(names(broker, &head).await, names_of(&spilled.segments), "{context}");
    };
    // A list names 192 segments with two objects each: to die at every one of those deletions shows nothing new.
    dying_at_every(29, prepare, work, check).await;
}

fn names_of(segments: &[Segment]) -> Vec<SegmentName> {
    segments.iter().map(|segment| segment.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topics_deletion_converges_after_a_death_at_any_request() {
    let log = log(12, 30);
    let prepare = async |broker: &Broker| broker.archive(DYING, &log, 10, end(&log)).await.unwrap();
    let identity = Broker::new(open_store("memory:///")).partition.identity().clone();
    let work = async |broker: &Broker, _: Writer| {
        let found = broker.bucket.topic(&identity.topic, identity.topic_id).await.map_err(CleanError::from)?;
        let topic: TopicDescription = found.expect("the description outlives the topic");
        purge_topic(&broker.bucket, &topic).await?;
        Ok(())
    };
    let check = async |broker: &Broker, context: &str| {
        let description = broker.bucket.keys().topic(&identity.topic, identity.topic_id).description();
        assert_eq!(objects(broker.bucket.store(), "").await, BTreeSet::from([description]), "{context}");
        let found = broker.bucket.topic(&identity.topic, identity.topic_id).await.unwrap().unwrap();
        assert_eq!(found.state, TopicState::Purged, "{context}");
        let late = broker.archive(NEXT, &log, 10, end(&log)).await;
        assert!(late.is_err(), "{context}: a deleted topic comes back");
    };
    dying_at_every_request(prepare, work, check).await;
}

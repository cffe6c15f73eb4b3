//! What is read from the archive finds its fetch, and what nobody wants is given up.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::*;
use crate::archive::chunk_cache::FetchCompression;
use crate::broker::archive_seam::FoundOffset;
use crate::runtime::net::BoxFuture;
use crate::sim::Machine;
use crate::types::{Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};

struct Batches(i64);

impl AtHand for Batches {
    fn read(&self, _max_bytes: usize) -> Result<Vec<Bytes>, ArchiveError> {
        Ok(vec![Bytes::from(self.0.to_string())])
    }
}

/// An archive that answers once it is let; it fails for odd offsets.
struct Gated {
    gate: Semaphore,
    at_hand: Mutex<Vec<Offset>>,
    begun: Mutex<usize>,
}

impl ArchiveReader for Gated {
    fn is_durable(&self) -> bool {
        true
    }

    fn at_hand(&self, wanted: ArchiveRead) -> Option<Arc<dyn AtHand>> {
        self.at_hand.lock().contains(&wanted.offset).then(|| Arc::new(Batches(wanted.offset.0)) as _)
    }

    fn fetch(&self, wanted: ArchiveRead) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            *self.begun.lock() += 1;
            self.gate.acquire().await.unwrap().forget();
            match wanted.offset.0 % 2 {
                0 => Ok(Arc::new(Batches(wanted.offset.0)) as _),
                _ => Err(ArchiveError::Unavailable { error: "planned".into() }),
            }
        })
    }

    fn offset_for_timestamp(
        &self,
        _: TopicPartition,
        _: Timestamp,
        _: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn max_timestamp(
        &self,
        _: TopicPartition,
        _: Range<Offset>,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

struct Bench {
    machine: Machine,
    archive: Arc<Gated>,
    reads: ColdReads,
    seconds: LatencyHistogram,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new(1);
        let archive = Arc::new(Gated { gate: Semaphore::new(0), at_hand: Mutex::default(), begun: Mutex::default() });
        let seconds = LatencyHistogram::default();
        let reads = ColdReads::new(Arc::clone(&archive) as _, &machine.runtime(), seconds.clone());
        Self { machine, archive, reads, seconds }
    }

    fn ask(&self, offset: i64) -> Option<(Result<Vec<Bytes>, ArchiveError>, FetchSource)> {
        let found = self.reads.take_or_begin(wanted(offset));
        found.map(|(outcome, source)| (outcome.and_then(|batches| batches.read(100)), source))
    }

    async fn answer(&self, reads: usize) {
        self.archive.gate.add_permits(reads);
        settle().await;
    }
}

fn wanted(offset: i64) -> ArchiveRead {
    let partition = TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: PartitionIndex(0) };
    ArchiveRead { partition, offset: Offset(offset), compression: FetchCompression::Auto }
}

/// Lets tasks run that can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_result_waits_for_the_next_fetch_and_is_given_once() {
    let bench = Bench::new();
    let notify = Arc::new(Notify::new());
    assert!(bench.ask(4).is_none() && bench.ask(4).is_none());
    bench.reads.watch(&wanted(4), &notify);
    bench.machine.pass_ms(3);
    bench.answer(1).await;
    notify.notified().await;
    assert_eq!(bench.seconds.count(), 1);
    assert_eq!(bench.ask(4), Some((Ok(vec![Bytes::from("4")]), FetchSource::Archive)));
    assert_eq!(*bench.archive.begun.lock(), 1);
    // One that could not be sent is there for the next fetch.
    bench.reads.give_back(wanted(4), Arc::new(Batches(4)));
    assert_eq!(bench.ask(4), Some((Ok(vec![Bytes::from("4")]), FetchSource::Archive)));
    assert!(bench.ask(4).is_none());
    settle().await;
    assert_eq!(*bench.archive.begun.lock(), 2);
}

#[tokio::test]
async fn a_fetch_that_names_its_partition_often_watches_a_read_once() {
    let bench = Bench::new();
    assert!(bench.ask(4).is_none());
    let fetches: Vec<_> = (0..2).map(|_| Arc::new(Notify::new())).collect();
    for notify in fetches.iter().flat_map(|notify| [notify; 3]) {
        bench.reads.watch(&wanted(4), notify);
    }
    let reads = bench.reads.reads.lock();
    assert!(matches!(&reads[&wanted(4)].state, State::Pending { watchers, .. } if watchers.len() == fetches.len()));
}

#[tokio::test]
async fn what_is_at_hand_is_given_at_once_and_an_error_reaches_the_client() {
    let bench = Bench::new();
    bench.archive.at_hand.lock().push(Offset(6));
    assert_eq!(bench.ask(6), Some((Ok(vec![Bytes::from("6")]), FetchSource::Cache)));
    assert!(bench.ask(7).is_none());
    bench.answer(1).await;
    assert!(matches!(bench.ask(7), Some((Err(ArchiveError::Unavailable { .. }), _))));
}

#[tokio::test]
async fn what_nobody_asks_for_is_given_up_and_what_is_waited_for_is_not() {
    let bench = Bench::new();
    let notify = Arc::new(Notify::new());
    for offset in [0, 2, 4] {
        assert!(bench.ask(offset).is_none());
    }
    bench.reads.watch(&wanted(2), &notify);
    settle().await;
    assert_eq!(*bench.archive.begun.lock(), 3);
    bench.machine.pass_ms(9_999);
    assert!(bench.ask(4).is_none());
    bench.reads.expire();
    assert_eq!(bench.reads.reads.lock().len(), 3);
    bench.machine.pass_ms(1);
    bench.reads.expire();
    // The read of offset 0 was given up: two answers are enough for the others.
    assert_eq!(bench.reads.reads.lock().len(), 2);
    bench.answer(2).await;
    notify.notified().await;
    assert!(bench.ask(2).is_some());
    bench.machine.pass_ms(10_000);
    bench.reads.expire();
    assert!(bench.reads.reads.lock().is_empty(), "results are not kept for a client that has gone");
}

#[tokio::test]
async fn no_more_reads_than_the_bound_are_under_way() {
    let bench = Bench::new();
    for offset in 0..2 * MAX_READS as i64 {
        assert!(bench.ask(offset).is_none());
    }
    settle().await;
    assert_eq!(*bench.archive.begun.lock(), MAX_READS);
}

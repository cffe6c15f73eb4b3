//! Logs that are behind the archive, or contradict it: a data directory was lost, emptied, or replaced by an old copy.
//!
//! The metadata knows how far each partition may be archived, from before the archive's own commit. A log that does not hold
//! that much, or holds it in other epochs, is not used: neither appended to nor read. Here its head is taken over and its
//! epochs compared with the log's. If they agree, nothing was lost. If not, the archive wins: local records are void, and the
//! log goes on at the archive's end with the archive's epochs and producers. Clients repeat their requests meanwhile.
//!
//! Among replicas this is for who leads: a log that follows gets what it lacks from its leader. Elected for what it has, a log holds
//! everything that was committed, and so everything that is archived; only one that was elected although it may lack some, as that is
//! allowed, comes here.
//!
//! After a crash at any point the same comparison leads to the same end: the change of a log is one entry of its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use thiserror::Error;

use super::Archiver;
use super::pauses::Retry;
use crate::archive::manifest::{EpochStart, Head};
use crate::archive::partition::{HeadError, PartitionArchive};
use crate::broker::Broker;
use crate::log::{AppendError, Continuation, EpochCache, Offsets, PartitionLog, ProducerState};
use crate::metadata::Image;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Logs that are compared at once: one whose head does not come holds up no other.
const AT_ONCE: usize = 16;
/// How often it is looked whether one is due again.
const RETRY_LOOK: Duration = Duration::from_millis(200);
/// How often a log is looked at that is being changed.
const POLL: Duration = Duration::from_millis(10);

/// Why a log is not set right yet.
#[derive(Debug, Error)]
pub(super) enum CatchUpError {
    /// The head can't be read or taken over.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The log can't be changed.
    #[error(transparent)]
    Log(#[from] AppendError),
    /// The bucket has lost what the metadata knows to be archived, and the local log does not have it.
    #[error(
        "the archive of the partition is gone, and so are its local records: bring the bucket back, or delete the topic"
    )]
    Gone,
    /// The epochs in the head do not grow, so they can't be continued.
    #[error("the archive's leader epochs contradict each other")]
    Epochs,
    /// Another broker leads the partition by now, or nobody does.
    #[error("the partition is not led here any more")]
    NotLed,
}

impl Broker {
    /// Sets logs right that are behind the archive, for as long as the broker runs.
    pub(in crate::broker) async fn catch_up_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let clock = &self.runtime().clock;
        let mut retries: BTreeMap<TopicPartition, Retry> = BTreeMap::new();
        let (mut attempts, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let (now, image) = (clock.monotonic(), self.image());
            // Those that are led elsewhere by now are found behind again when they come back here.
            let behind = self.partitions.behind().into_iter();
            let waiting: BTreeMap<_, _> = behind
                .map(|log| (log.partition(), log))
                .filter(|(id, _)| self.led_in_image(&image, *id).is_some())
                .collect();
            // Of those whose topics were deleted nothing is left.
            retries.retain(|id, _| waiting.contains_key(id));
            for (id, log) in waiting {
                let is_due = retries.get(&id).is_none_or(|retry| retry.is_due(now));
                if is_due && under_way.len() < AT_ONCE && under_way.insert(id) {
                    let (broker, archiver) = (Arc::clone(&self), Arc::clone(&archiver));
                    attempts.push(async move { (id, broker.catch_up(&archiver, &log).await) });
                }
            }
            tokio::select! {
                biased;
                Some((id, result)) = attempts.next() => {
                    under_way.remove(&id);
                    match result {
                        Ok(()) => {
                            retries.remove(&id);
                            self.partitions.settle(id);
                        }
                        Err(CatchUpError::NotLed) => {}
                        Err(error) => {
                            tracing::error!(%error, partition = %id, "partition waits: its log is behind the archive");
                            retries.entry(id).or_default().fail(clock.monotonic(), &*self.runtime().entropy);
                        }
                    }
                }
                () = self.partitions.when_behind() => {}
                () = clock.sleep(RETRY_LOOK), if !retries.is_empty() => {}
            }
        }
    }

    /// The epoch in which this broker leads a partition, by an image.
    fn led_in_image(&self, image: &Image, id: TopicPartition) -> Option<LeaderEpoch> {
        let state = image.partition(id)?;
        (state.leader == Some(self.node_id())).then_some(state.leader_epoch)
    }

    /// Compares one log with the archive, and makes it go on from there if they differ.
    async fn catch_up(&self, archiver: &Archiver, log: &Arc<PartitionLog>) -> Result<(), CatchUpError> {
        let id = log.partition();
        let epoch = self.led_in_image(&self.image(), id).ok_or(CatchUpError::NotLed)?;
        let Some(archive) = archiver.partition(id) else { return Ok(()) };
        if archive.refresh().await?.is_none() {
            return Err(CatchUpError::Gone);
        }
        // In no epoch but one in which this broker leads, or the broker that does would take it for another process's.
        let head = archive.take_over(archiver.writer(epoch)).await?;
        if agrees(log, &head) {
            return Ok(());
        }
        let before = log.offsets();
        let continuation = continuation(&archive, &head, &before).await?;
        // It may follow another leader by now, who has its own way with what is here.
        if self.led_in_image(&self.image(), id) != Some(epoch) {
            return Err(CatchUpError::NotLed);
        }
        log.continue_at(continuation)?;
        while !log.truncated() {
            if log.is_deleted() {
                return Ok(());
            }
            self.runtime().clock.sleep(POLL).await;
        }
        archiver.metrics.archive.continued_logs.inc();
        tracing::error!(
            partition = %id,
            local_log_start = %before.local_log_start,
            log_end = %before.log_end,
            archived_to = %head.next_offset,
            "the local log was behind the archive or contradicted it: its records were given up, and it goes on where the archive ends"
        );
        Ok(())
    }
}

/// Where the archive ends, as a log goes on from there.
async fn continuation(archive: &PartitionArchive, head: &Head, log: &Offsets) -> Result<Continuation, CatchUpError> {
    let producers = match archive.read_producers(head).await {
        Ok(snapshot) => snapshot.map_or_else(ProducerState::default, |snapshot| snapshot.producers),
        Err(HeadError::Store(error)) if error.is_transient() => return Err(HeadError::from(error).into()),
        Err(error) => {
            tracing::error!(%error, partition = %archive.keys().partition(), "producers' state can't be read from the archive: retries may be stored twice");
            ProducerState::default()
        }
    };
    go_on(head, log, producers)
}

fn go_on(head: &Head, log: &Offsets, producers: ProducerState) -> Result<Continuation, CatchUpError> {
    let at = end(head);
    let log_start = head.log_start_offset.max(log.log_start).min(at);
    let starts = history(starts(head), log_start, head.next_offset);
    let epochs = EpochCache::from_starts(starts).ok_or(CatchUpError::Epochs)?;
    // What producers wrote after the archive's end is gone without a trace. One that nobody knows may go on; one that is
    // remembered at an earlier sequence would be refused for good.
    let producers = if at > head.next_offset { ProducerState::default() } else { producers };
    Ok(Continuation { log_start, at, epochs, producers })
}

/// Where a log goes on that has nothing of its own: after what is archived, and after what was deleted without ever being
/// archived, since offsets below the log start are never given out again.
fn end(head: &Head) -> Offset {
    head.next_offset.max(head.log_start_offset)
}

/// Whether a log holds all that is archived, as [`contains`] says; if so, it knows the archive's epochs from here on.
pub(super) fn agrees(log: &PartitionLog, head: &Head) -> bool {
    let (offsets, epochs) = (log.offsets(), log.epochs());
    let agrees = contains(&offsets, &epochs, head);
    if agrees {
        learn(log, &offsets, &epochs, head);
    }
    agrees
}

/// How far a log that follows, and may not have all that is archived yet, has the archive's epochs; none where it has others.
pub(super) fn agrees_to(log: &PartitionLog, head: &Head) -> Option<Offset> {
    let (offsets, epochs) = (log.offsets(), log.epochs());
    let to = head.next_offset.min(offsets.durable);
    let agrees = has_epochs_of(head, &offsets, &epochs, to);
    if agrees {
        learn(log, &offsets, &epochs, head);
    }
    agrees.then_some(to)
}

/// Has a log know the epochs of what is archived and not here, if it does not.
fn learn(log: &PartitionLog, offsets: &Offsets, epochs: &EpochCache, head: &Head) {
    if epochs.known_from(offsets.local_log_start) > offsets.log_start.max(head.log_start_offset) {
        log.learn_epochs(starts(head));
    }
}

/// Whether a log reaches where one without records would go on, and has the archive's epochs up to the archive's end. What
/// epochs there were before its own records it may not know, as its checkpoint was lost: of those it has nothing that
/// could contradict the archive.
fn contains(log: &Offsets, epochs: &EpochCache, head: &Head) -> bool {
    log.durable >= end(head) && has_epochs_of(head, log, epochs, head.next_offset)
}

/// Whether a log has the archive's epochs up to an offset, as far as it knows any.
fn has_epochs_of(head: &Head, log: &Offsets, epochs: &EpochCache, to: Offset) -> bool {
    let from = log.log_start.max(head.log_start_offset).max(epochs.known_from(log.local_log_start));
    history(epochs.starts().iter().copied(), from, to) == history(starts(head), from, to)
}

fn starts(head: &Head) -> impl Iterator<Item = (LeaderEpoch, Offset)> {
    head.epochs.iter().map(|&EpochStart { epoch, start }| (epoch, start))
}

/// The epochs of the records between two offsets, with the first of those offsets for each.
fn history(
    starts: impl Iterator<Item = (LeaderEpoch, Offset)>,
    from: Offset,
    to: Offset,
) -> Vec<(LeaderEpoch, Offset)> {
    let mut within: Vec<(LeaderEpoch, Offset)> = Vec::new();
    for (epoch, start) in starts.filter(|&(_, start)| start < to && from < to) {
        let start = start.max(from);
        // An epoch that ended before the range, or never got a record.
        while within.last().is_some_and(|&(_, before)| before >= start) {
            within.pop();
        }
        within.push((epoch, start));
    }
    within
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::key::Fence;
    use crate::archive::manifest::{HeadIdentity, Hex128, Writer};
    use crate::log::{BatchMark, ProducerEntry};
    use crate::types::{
        BrokerIncarnationId, ClusterId, Incarnation, NodeId, PartitionIndex, ProducerEpoch, ProducerId, Timestamp,
        TopicId,
    };

    /// The head of a partition of which nothing is archived.
    fn head() -> Head {
        let identity = HeadIdentity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            topic: "t".to_owned(),
            topic_id: TopicId::from_bytes([2; 16]),
            partition: PartitionIndex(0),
        };
        let fence = Fence { incarnation: Incarnation(0), leader_epoch: LeaderEpoch(1) };
        let process = BrokerIncarnationId::from_bytes([3; 16]);
        Head::first(identity, Writer { fence, broker: NodeId(1), process }, Hex128(0))
    }

    #[test]
    fn offsets_that_were_deleted_before_they_were_archived_are_not_given_out_again() {
        let head = Head { log_start_offset: Offset(23), next_offset: Offset(19), ..head() };
        let lost = Offsets::empty_at(Offset::ZERO);
        let mut producers = ProducerState::default();
        let mark = BatchMark {
            epoch: ProducerEpoch(0),
            base_sequence: 0,
            last_sequence: 0,
            base_offset: Offset(18),
            next_offset: Offset(19),
            timestamp: Timestamp(1),
        };
        producers.restore(ProducerId(1), ProducerEntry { batches: [mark].into(), last_append: Timestamp(1) });
        let continuation = go_on(&head, &lost, producers.clone()).unwrap();
        assert!(continuation.producers.is_empty(), "what they wrote last is not known");
        let whole = Head { log_start_offset: Offset(10), ..head.clone() };
        assert_eq!(go_on(&whole, &lost, producers).unwrap().producers.len(), 1);
        assert_eq!((continuation.log_start, continuation.at), (Offset(23), Offset(23)));
        let epochs = EpochCache::default();
        assert!(!contains(&Offsets::empty_at(Offset(21)), &epochs, &head), "an old copy that would give 21 out again");
        assert!(contains(&Offsets::empty_at(Offset(23)), &epochs, &head));
    }

    #[test]
    fn a_log_that_has_not_got_as_far_as_the_archive_is_compared_as_far_as_it_got() {
        let epoch = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
        let head = Head { next_offset: Offset(30), epochs: vec![epoch(1, 0), epoch(3, 10), epoch(4, 20)], ..head() };
        let log = Offsets { log_start: Offset(2), local_log_start: Offset(2), ..Offsets::empty_at(Offset(20)) };
        let of = |starts: &[(i32, i64)]| {
            let starts = starts.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start)));
            EpochCache::from_starts(starts.collect()).unwrap()
        };
        let ours = of(&[(1, 2), (3, 10)]);
        assert!(has_epochs_of(&head, &log, &ours, Offset(20)));
        assert!(!contains(&log, &ours, &head), "it could not lead");
        assert!(!has_epochs_of(&head, &log, &of(&[(1, 2), (2, 10)]), Offset(20)), "of another history");
        assert!(has_epochs_of(&head, &log, &of(&[(1, 2), (2, 10)]), Offset(10)));
    }
}

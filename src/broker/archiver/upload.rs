//! The loop that archives: it finds sealed segments that are not in the bucket yet, and takes the most urgent ones there.
//!
//! One segment of a partition is under way at a time, as the head takes them in order; several partitions are, as many as
//! there are upload slots. A failure is logged, counted and tried again later, later each time, up to once a minute; being
//! fenced too, for as long as the metadata says that this broker leads.
//!
//! Only logs that are led here are archived, and count as waiting for it. A leader that was deposed and does not know yet can't change
//! the head once its successor has taken it over; what it had uploaded by then is an orphan. Before that it archives what its
//! successor has too, as only committed records are archived, and that one goes on after them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use thiserror::Error;
use tracing::Instrument;

use super::pauses::pause_after;
use super::{Archiver, Attempts};
use crate::archive::manifest::Head;
use crate::archive::parquet::EncodeError;
use crate::archive::partition::{HeadError, PartitionArchive};
use crate::archive::planner;
use crate::archive::store::StoreError;
use crate::archive::uploader::{UploadError, UploadPlan, Uploader};
use crate::broker::Broker;
use crate::broker::partitions::Leader;
use crate::log::{EpochCache, PartitionLog, ProducerRun, ReadError, Segment};
use crate::metadata::image::ArchiveMark;
use crate::metadata::{Command, CommandError, Image};
use crate::record::Batch;
use crate::runtime::clock::Interval;
use crate::telemetry::spans;
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};

/// How often the logs are looked at for sealed segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Every so many looks all partitions are looked at for the age of their oldest record, sealed or not.
const AGE_EVERY: u32 = 5;

/// A segment that waits to be archived.
struct Candidate {
    leader: Leader,
    segment: Arc<Segment>,
    waiting_bytes: u64,
}

impl Broker {
    /// Archives for as long as the broker runs.
    pub(in crate::broker) async fn upload_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let mut interval = Interval::new(&self.runtime().clock, LOOK_INTERVAL);
        let mut uploads = tokio::task::JoinSet::new();
        let mut candidates = Vec::new();
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                // First, as slots have to come free also where a look takes longer than the pause between two.
                biased;
                // Its slot is free for the next one, and its partition may have one more.
                Some(ended) = uploads.join_next() => {
                    let image = self.image();
                    candidates.extend(ended.ok().and_then(|log| self.candidate(&image, &archiver, &log).0));
                }
                () = interval.tick() => {
                    if looks.is_multiple_of(AGE_EVERY) {
                        archiver.note_age(self.oldest_unarchived());
                    }
                    looks = looks.wrapping_add(1);
                    candidates = self.unarchived(&archiver);
                }
            }
            while archiver.is_proved() && uploads.len() < archiver.settings.uploads {
                let ages: Vec<_> = candidates.iter().map(Candidate::urgency).collect();
                let Some(next) = planner::most_urgent(&ages, self.runtime().clock.wall()) else { break };
                let Candidate { leader, segment, .. } = candidates.swap_remove(next);
                let id = leader.partition.log().partition();
                // A look between its end and its next turn names it twice.
                let is_archived = segment.extent().next_offset <= leader.partition.log().offsets().unarchived_from();
                if is_archived || !archiver.under_way.lock().insert(id) {
                    continue;
                }
                let span = spans::upload(id, segment.base_offset());
                let (broker, archiver) = (Arc::clone(&self), Arc::clone(&archiver));
                let log = Arc::clone(leader.partition.log());
                let upload = async move {
                    archiver.upload(&broker, leader, segment).await;
                    log
                };
                uploads.spawn(upload.instrument(span));
            }
        }
    }

    /// The first segment of every partition that is sealed, synced and not archived, and may be tried now. Takes note of
    /// the bytes of all that wait, for whatever reason.
    fn unarchived(&self, archiver: &Archiver) -> Vec<Candidate> {
        let image = self.image();
        let mut all_bytes = 0;
        let logs = self.directories().iter().flat_map(|directory| directory.logs_to_archive());
        let candidates = logs.filter_map(|log| {
            let (candidate, waiting_bytes) = self.candidate(&image, archiver, &log);
            all_bytes += waiting_bytes;
            candidate
        });
        let candidates = candidates.collect();
        archiver.note_waiting(all_bytes);
        candidates
    }

    /// The first segment of a partition that is sealed, synced and not archived, if it may be tried now; and the bytes of all
    /// of them.
    fn candidate(&self, image: &Image, archiver: &Archiver, log: &Arc<PartitionLog>) -> (Option<Candidate>, u64) {
        let Some(leader) = self.archives(image, log) else { return (None, 0) };
        let from = log.offsets().unarchived_from();
        let mut waiting = log.archivable_segments();
        waiting.retain(|segment| segment.extent().next_offset > from);
        let bytes = |segment: &Arc<Segment>| {
            let extent = segment.extent();
            planner::bytes_from(segment.base_offset()..extent.next_offset, extent.file_bytes, from)
        };
        let waiting_bytes = waiting.iter().map(bytes).sum();
        let segment = waiting.first().filter(|_| archiver.may_try(log.partition(), leader.epoch)).cloned();
        (segment.map(|segment| Candidate { leader, segment, waiting_bytes }), waiting_bytes)
    }

    /// When the oldest record was appended that is not archived.
    fn oldest_unarchived(&self) -> Option<Timestamp> {
        let image = self.image();
        let logs = self.directories().iter().flat_map(|directory| directory.logs());
        logs.filter_map(|log| log.oldest_unarchived().filter(|_| self.archives(&image, &log).is_some())).min()
    }

    /// The leadership in which a log is archived, if it is.
    pub(super) fn archives(&self, image: &Image, log: &Arc<PartitionLog>) -> Option<Leader> {
        let id = log.partition();
        let topic = image.topic(id.topic_id).filter(|topic| !topic.internal)?;
        let leader = self.leader(topic, id.partition.get(), LeaderEpoch::NONE).ok()?;
        takes_more(&leader, log).then_some(leader)
    }

    /// Whether what a log has is archived, by this broker or by the one that it follows.
    pub(super) fn goes_to_archive(&self, image: &Image, log: &Arc<PartitionLog>) -> bool {
        let id = log.partition();
        let topic = image.topic(id.topic_id).filter(|topic| !topic.internal);
        let part = topic.and_then(|topic| self.part_in(topic, id.partition.get()));
        part.is_some_and(|(part, _)| takes_more(&part, log))
    }

    /// Has the metadata know how far the partition is about to be archived, before that can happen: a log that is found to
    /// end earlier is then known to have lost records (see `catch_up`). Only for a partition that has a head, so that a head
    /// that is missing later is known to be lost.
    async fn announce(&self, leader: &Leader, next_offset: Offset) -> Result<(), CommandError> {
        let log = leader.partition.log();
        let known = self.image().archive_mark(log.partition());
        if known.is_some_and(|known| known.next_offset >= next_offset) {
            return Ok(());
        }
        let last_epoch = log.epochs().epoch_at(Offset(next_offset.0 - 1));
        let mark = ArchiveMark { next_offset, leader_epoch: last_epoch.unwrap_or(leader.epoch) };
        match self.submit(Command::NoteArchiving { partition: log.partition(), mark }).await {
            // The topic was deleted meanwhile, which the upload finds out too.
            Ok(_) | Err(CommandError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn takes_more(part: &Leader, log: &Arc<PartitionLog>) -> bool {
    // What an earlier placement left in another directory is not the partition's log.
    let is_current = Arc::ptr_eq(part.partition.log(), log);
    let rules = part.partition.topic().rules();
    is_current && rules.config.remote_storage_enable && !rules.config.remote_log_copy_disable
}

/// Why a segment was not archived.
#[derive(Debug, Error)]
enum Failure {
    /// The head can't be read, taken over or changed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The metadata can't be told.
    #[error("nothing is archived before the metadata knows of it: {0}")]
    Announcement(#[from] CommandError),
    /// The upload failed.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The bucket was put back to a state before what only it had.
    #[error(
        "neither the archive nor the local log has the records from {from} to {to}: bring the bucket's later state back, or delete the records before {to}"
    )]
    Lost {
        /// The first that is missing.
        from: Offset,
        /// The next that is there.
        to: Offset,
    },
    /// Our own mistake, of which the panic hook has said where.
    #[error("archiving it panicked")]
    Panicked,
}

/// A batch that must not be archived.
#[derive(Debug, Error)]
enum SourceError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("batch at offset {base_offset} has leader epoch {found}, where the log knows epoch {known}: it is damaged")]
    Epoch { base_offset: Offset, found: LeaderEpoch, known: LeaderEpoch },
}

/// Refuses a batch whose leader epoch is not the one that the log remembers: no checksum covers it, and in the head a wrong one
/// would stay.
fn checked(batch: Batch, epochs: &EpochCache) -> Result<Batch, SourceError> {
    let (base_offset, found) = (batch.header().base_offset, batch.header().leader_epoch);
    match epochs.epoch_at(base_offset) {
        Some(known) if known != found => Err(SourceError::Epoch { base_offset, found, known }),
        _ => Ok(batch),
    }
}

impl Failure {
    const fn is_fenced(&self) -> bool {
        match self {
            Self::Head(error) | Self::Upload(UploadError::Head(error)) => error.is_fenced(),
            Self::Announcement(_) | Self::Upload(_) | Self::Lost { .. } | Self::Panicked => false,
        }
    }

    fn is_deposed(&self) -> bool {
        match self {
            Self::Head(error) | Self::Upload(UploadError::Head(error)) => error.is_deposed(),
            Self::Announcement(_) | Self::Upload(_) | Self::Lost { .. } | Self::Panicked => false,
        }
    }
}

impl Candidate {
    fn urgency(&self) -> (Timestamp, u64) {
        (self.segment.created_at(), self.waiting_bytes)
    }
}

impl Archiver {
    fn may_try(&self, id: TopicPartition, epoch: LeaderEpoch) -> bool {
        let now = self.runtime.clock.monotonic();
        let due = self.attempts_in(id, epoch, |attempts| attempts.not_before <= now);
        due && !self.under_way.lock().contains(&id)
    }

    fn note_age(&self, oldest: Option<Timestamp>) {
        let age_ms = oldest.map_or(0, |oldest| self.runtime.clock.wall().0.saturating_sub(oldest.0).max(0));
        self.metrics.archive.lag_seconds.set(age_ms / 1000);
    }

    fn note_waiting(&self, bytes: u64) {
        self.progress.waiting_bytes.store(bytes, Ordering::Relaxed);
        self.metrics.archive.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn note_urgency(&self, is_urgent: bool) {
        self.progress.is_urgent.store(is_urgent, Ordering::Relaxed);
        self.metrics.archive.urgent.set(i64::from(is_urgent));
    }

    /// The pipeline, on the lanes that it should take now.
    fn uploader(&self) -> Uploader {
        let is_urgent = self.progress.is_urgent.load(Ordering::Relaxed);
        self.uploader.on(if is_urgent { &self.urgent } else { &self.workers })
    }

    async fn upload(self: Arc<Self>, broker: &Broker, leader: Leader, segment: Arc<Segment>) {
        let id = leader.partition.log().partition();
        self.metrics.archive.uploads.inc();
        // A panic fails this attempt like anything else, or the partition would count as under way for ever.
        let attempt = AssertUnwindSafe(self.archive(broker, &leader, &segment)).catch_unwind().await;
        let result = attempt.unwrap_or(Err(Failure::Panicked));
        self.metrics.archive.uploads.dec();
        self.under_way.lock().remove(&id);
        match result {
            Ok(()) => self.attempts_in(id, leader.epoch, |attempts| attempts.failures = 0),
            Err(error) => self.note_failure(&leader, &error),
        }
    }

    /// An attempt failed, and is made again later.
    fn note_failure(&self, leader: &Leader, error: &Failure) {
        let (now, entropy) = (self.runtime.clock.monotonic(), &*self.runtime.entropy);
        let (failures, pause) = self.attempts_in(leader.partition.log().partition(), leader.epoch, |attempts| {
            let Attempts { failures, .. } = *attempts;
            let pause = pause_after(failures, entropy);
            (attempts.failures, attempts.not_before) = (failures.saturating_add(1), now + pause);
            attempts.is_known &= !error.is_fenced();
            attempts.is_owned = false;
            (failures, pause)
        });
        self.metrics.archive.failed_uploads.inc();
        if matches!(error, Failure::Upload(UploadError::Encode(EncodeError::Verify(_)))) {
            self.metrics.archive.verification_failures.inc();
        }
        let retry_in_ms = pause.as_millis();
        // Among replicas it is how a leader hears that it was deposed, if the metadata is slower. If that goes on to say that it leads,
        // the other is none of this cluster's.
        if error.is_deposed() && leader.partition.is_replicated() && failures == 0 {
            tracing::info!(%error, retry_in_ms, "another broker leads this partition by now, and archives it");
        } else if error.is_fenced() {
            self.metrics.archive.fenced_commits.inc();
            tracing::error!(%error, retry_in_ms, "another process archives this partition");
        } else {
            tracing::warn!(%error, retry_in_ms, "segment was not archived");
        }
    }

    /// The producers' state at `base`, where a run begins: by the snapshot beside what was archived last, or else as the log
    /// remembers it, which may lack a producer's earlier batches.
    async fn producers_at(
        &self,
        leader: &Leader,
        archive: &PartitionArchive,
        head: &Head,
        base: Offset,
    ) -> Result<ProducerRun, HeadError> {
        let snapshot = match archive.read_producers(head).await {
            Ok(snapshot) => snapshot.filter(|snapshot| snapshot.offset == base),
            // Only what is gone or damaged is begun anew; a store that denies access may give it later.
            Err(HeadError::Store(error)) if !matches!(error, StoreError::NotFound { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "producers' state can't be read from the archive: it begins anew");
                None
            }
        };
        let settings = leader.partition.topic().rules().log;
        let mut producers = match snapshot {
            Some(snapshot) => snapshot.producers,
            None => leader.partition.log().producers_below(base),
        };
        let now = self.runtime.clock.wall();
        let expiration_ms = i64::try_from(settings.producer_expiration.as_millis()).unwrap_or(i64::MAX);
        producers.expire(Timestamp(now.0.saturating_sub(expiration_ms)));
        Ok(ProducerRun::new(producers, settings.max_producers, now))
    }

    /// Takes one segment, or what is left of it, to the bucket.
    async fn archive(&self, broker: &Broker, leader: &Leader, segment: &Arc<Segment>) -> Result<(), Failure> {
        let log = leader.partition.log();
        let Some(archive) = self.partition(log.partition()) else { return Ok(()) };
        let archived_to = log.offsets().archived_to;
        let head = self.own(leader, &archive).await?;
        let extent = segment.extent();
        // Earlier segments may have turned out to have to go first.
        let retreated = log.offsets().archived_to < archived_to;
        if head.next_offset >= extent.next_offset || retreated {
            return Ok(());
        }
        broker.announce(leader, extent.next_offset).await?;
        let writer = self.writer(leader.epoch);
        // Not beyond what the metadata has been told.
        let log_start = log.offsets().log_start.min(extent.next_offset);
        if log_start > head.log_start_offset {
            // Records that were deleted before they were archived leave a gap that the head has to know of.
            archive.advance_log_start(writer, log_start, self.settings.deletion_grace).await?;
        }
        let base = segment.base_offset().max(head.next_offset);
        let from = head.next_offset.max(head.log_start_offset).max(log_start);
        if base > from {
            return Err(Failure::Lost { from, to: base });
        }
        let producers = self.producers_at(leader, &archive, &head, base).await?;
        let plan = UploadPlan { writer, base, next: extent.next_offset, aborted: Vec::new(), producers };
        let (source, epochs) = (Arc::clone(segment), log.epochs());
        let batches = move || source.batches(base).map(move |batch| checked(batch?, &epochs));
        let uploaded = self.uploader().archive(&archive, plan, batches).await?;
        log.advance_archived(uploaded.head.next_offset);
        let metrics = &self.metrics.archive;
        metrics.archived_segments.inc();
        metrics.archived_bytes.inc_by(uploaded.segment.log_bytes);
        self.progress.archived_bytes.fetch_add(uploaded.segment.log_bytes, Ordering::Relaxed);
        metrics.uploaded_bytes.inc_by(uploaded.segment.stored_bytes());
        metrics.encode_seconds.observe(uploaded.times.encode);
        metrics.verify_seconds.observe(uploaded.times.verify);
        metrics.upload_seconds.observe(uploaded.times.upload);
        metrics.commit_seconds.observe(uploaded.times.commit);
        tracing::debug!(from = %base, next = %extent.next_offset, "segment archived");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};

    #[test]
    fn a_batch_in_another_epoch_than_the_log_remembers_is_not_archived() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(1), None, Some(b"v"), std::iter::empty());
        let batch = builder.build(Offset(7), LeaderEpoch(3)).unwrap();
        let epochs = |starts: &[(i32, i64)]| {
            let starts = starts.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start)));
            EpochCache::from_starts(starts.collect()).unwrap()
        };
        assert!(checked(batch.clone(), &epochs(&[(1, 0), (3, 5), (4, 8)])).is_ok());
        assert!(checked(batch.clone(), &epochs(&[(4, 8)])).is_ok(), "the log has forgotten");
        let refused = checked(batch, &epochs(&[(1, 0), (2, 5), (4, 8)]));
        assert!(matches!(refused, Err(SourceError::Epoch { known: LeaderEpoch(2), .. })), "{refused:?}");
    }
}

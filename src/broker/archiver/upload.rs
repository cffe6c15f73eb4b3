//! The loop that archives: it finds sealed segments that are not in the bucket yet, and takes the most urgent ones there.
//!
//! One segment of a partition is under way at a time, as the head takes them in order; several partitions are, as many as
//! there are upload slots. A failure is logged, counted and tried again later, later each time; being fenced ends it until
//! the broker leads in a newer epoch.

use std::sync::Arc;
use std::time::Duration;

use super::{Archiver, Attempts};
use crate::archive::planner;
use crate::archive::uploader::{UploadError, UploadPlan};
use crate::broker::Broker;
use crate::broker::partitions::Leader;
use crate::log::Segment;
use crate::types::{LeaderEpoch, Timestamp, TopicPartition};

/// How often the logs are looked at for sealed segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A partition with records that are not archived.
struct Waiting {
    leader: Leader,
    /// When the oldest of them came to the disk.
    since: Timestamp,
    /// What they take there.
    bytes: u64,
    /// The first segment of them, once it is sealed and synced.
    segment: Option<Arc<Segment>>,
}

impl Broker {
    /// Archives for as long as the broker runs.
    pub(in crate::broker) async fn upload_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut uploads = tokio::task::JoinSet::new();
        loop {
            interval.tick().await;
            while uploads.try_join_next().is_some() {}
            let mut waiting = self.unarchived();
            archiver.note_lag(&waiting);
            waiting.retain(|waiting| archiver.may_try(waiting.leader.partition.log().partition()));
            while archiver.is_proved() && uploads.len() < archiver.settings.uploads {
                let ages: Vec<_> = waiting.iter().map(|waiting| (waiting.since, waiting.bytes)).collect();
                let Some(next) = planner::most_urgent(&ages, self.runtime().clock.wall()) else { break };
                let Waiting { leader, segment, .. } = waiting.swap_remove(next);
                let Some(segment) = segment else { continue };
                archiver.under_way.lock().insert(leader.partition.log().partition());
                let archiver = Arc::clone(&archiver);
                uploads.spawn(async move { archiver.upload(leader, segment).await });
            }
        }
    }

    /// The partitions with records on local disk that are to be archived and are not yet.
    fn unarchived(&self) -> Vec<Waiting> {
        let image = self.image();
        let logs = self.directories().iter().flat_map(|directory| directory.logs());
        logs.filter_map(|log| {
            let id = log.partition();
            let topic = image.topic(id.topic_id).filter(|topic| !topic.internal)?;
            let archived_to = log.offsets().archived_to;
            let is_waiting =
                |segment: &Arc<Segment>| segment.extent().next_offset > archived_to.max(segment.base_offset());
            let mut segments = log.segments();
            segments.retain(is_waiting);
            let since = segments.first()?.created_at();
            let leader = self.leader(topic, id.partition.get(), LeaderEpoch::NONE).ok()?;
            if !leader.partition.topic().rules().config.remote_storage_enable {
                return None;
            }
            let bytes = segments.iter().map(|segment| segment.extent().file_bytes).sum();
            let segment = log.archivable_segments().into_iter().find(is_waiting);
            Some(Waiting { leader, since, bytes, segment })
        })
        .collect()
    }
}

impl Archiver {
    fn may_try(&self, id: TopicPartition) -> bool {
        let now = self.runtime.clock.monotonic();
        let due = self.attempts.lock().get(&id).is_none_or(|attempts| attempts.not_before <= now);
        due && !self.under_way.lock().contains(&id)
    }

    fn note_lag(&self, waiting: &[Waiting]) {
        let oldest = waiting.iter().map(|waiting| waiting.since).min();
        let age_ms = oldest.map_or(0, |oldest| self.runtime.clock.wall().0.saturating_sub(oldest.0).max(0));
        let bytes: u64 = waiting.iter().map(|waiting| waiting.bytes).sum();
        self.metrics.archive.lag_seconds.set(age_ms / 1000);
        self.metrics.archive.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    async fn upload(self: Arc<Self>, leader: Leader, segment: Arc<Segment>) {
        let id = leader.partition.log().partition();
        self.metrics.archive.uploads.inc();
        let result = self.archive(&leader, &segment).await;
        self.metrics.archive.uploads.dec();
        self.under_way.lock().remove(&id);
        let mut attempts = self.attempts.lock();
        let attempts = attempts.entry(id).or_default();
        match result {
            Ok(()) => *attempts = Attempts { owned_in: attempts.owned_in, ..Attempts::default() },
            Err(error) => {
                let pause = (FIRST_PAUSE * 2_u32.saturating_pow(attempts.failures.min(16))).min(LONGEST_PAUSE);
                attempts.failures += 1;
                attempts.not_before = self.runtime.clock.monotonic() + pause;
                attempts.owned_in = None;
                self.metrics.archive.failed_uploads.inc();
                let retry_in_ms = pause.as_millis();
                if matches!(&error, UploadError::Head(error) if error.is_fenced()) {
                    self.metrics.archive.fenced_commits.inc();
                    tracing::error!(%error, partition = %id, retry_in_ms, "another process archives this partition");
                } else {
                    tracing::warn!(%error, partition = %id, retry_in_ms, "segment was not archived");
                }
            }
        }
    }

    /// Takes one segment, or what is left of it, to the bucket.
    async fn archive(&self, leader: &Leader, segment: &Arc<Segment>) -> Result<(), UploadError> {
        let log = leader.partition.log();
        let Some(archive) = self.partition(log.partition()) else { return Ok(()) };
        let head = self.own(leader, &archive).await?;
        let extent = segment.extent();
        if head.next_offset >= extent.next_offset {
            return Ok(());
        }
        let writer = self.writer(leader.epoch);
        let log_start = log.offsets().log_start;
        if log_start > head.log_start_offset {
            // Records that were deleted before they were archived leave a gap that the head has to know of.
            archive.advance_log_start(writer, log_start, self.settings.deletion_grace).await?;
        }
        let base = segment.base_offset().max(head.next_offset);
        let plan = UploadPlan { writer, base, next: extent.next_offset, aborted: Vec::new(), producer_snapshot: None };
        let source = Arc::clone(segment);
        let uploaded = self.uploader.archive(&archive, plan, move || source.batches(base)).await?;
        log.advance_archived(uploaded.head.next_offset);
        let metrics = &self.metrics.archive;
        metrics.archived_segments.inc();
        metrics.archived_bytes.inc_by(uploaded.segment.log_bytes);
        tracing::debug!(partition = %log.partition(), base = %base, next = %extent.next_offset, "segment archived");
        Ok(())
    }
}

//! Reads of archived records, as the fetch path asks for them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Archiver;
use crate::archive::manifest::Head;
use crate::archive::partition::PartitionArchive;
use crate::archive::remote_reader::{self, ReadError, ReadRequest};
use crate::archive::store::StoreError;
use crate::broker::archive_seam::{ArchiveError, ArchiveRead, ArchiveReader, AtHand, FoundOffset};
use crate::runtime::net::BoxFuture;
use crate::types::{Offset, Timestamp, TopicPartition};

impl Archiver {
    /// The archive of a partition and its head, as this process last knew it. Heads grow at their end, and lose only what the log start
    /// has passed: one that is old does for every offset that it reaches to.
    async fn known(&self, id: TopicPartition, offset: Offset) -> Result<(PartitionArchive, Arc<Head>), ArchiveError> {
        let archive = self.partition(id).ok_or(ArchiveError::Absent { offset })?;
        if let Some(head) = archive.head().filter(|head| offset < head.next_offset) {
            return Ok((archive, head));
        }
        let head = archive.refresh().await.map_err(ReadError::from);
        // The metadata notes a segment once there is a head to list it.
        let is_lost = matches!(head, Ok(None)) && self.image().archive_mark(id).is_some();
        let lost = || Err(StoreError::NotFound { key: archive.keys().head() }.into());
        match if is_lost { lost() } else { head } {
            Ok(Some(head)) => Ok((archive, head)),
            Ok(None) => Err(ArchiveError::Absent { offset }),
            Err(error) => {
                if error.is_damage() {
                    self.metrics.archive_read.damaged_reads.inc();
                }
                Err(self.failed(&error))
            }
        }
    }

    /// Whether another broker may have archived more than is known here. What is listed in the head that is known stays readable, but
    /// a search has to find the newest too.
    fn may_be_behind(&self, id: TopicPartition) -> bool {
        let image = self.image();
        let Some(state) = image.partition(id).filter(|state| state.replicas.len() > 1) else { return false };
        let is_led = state.leader == Some(self.owner.node_id);
        !is_led || !self.attempts_in(id, state.leader_epoch, |attempts| attempts.is_owned)
    }

    /// As [`Self::known`], with the log's own start, which may be ahead of the bucket's.
    async fn known_from(&self, id: TopicPartition, from: Offset) -> Result<(PartitionArchive, Head), ArchiveError> {
        // Beyond the end of any head that is known it is read anew.
        let known = if self.may_be_behind(id) { Offset::MAX } else { from };
        let (archive, head) = self.known(id, known).await?;
        let log_start_offset = head.log_start_offset.max(from);
        Ok((archive, Head { log_start_offset, ..Head::clone(&head) }))
    }

    async fn find(
        &self,
        archive: &PartitionArchive,
        head: &Head,
        timestamp: Timestamp,
    ) -> Result<Option<FoundOffset>, ArchiveError> {
        let found = self.reader.offset_for_timestamp(archive, head, timestamp).await;
        let found = found.map_err(|error| self.failed(&error))?;
        Ok(found.map(|(offset, timestamp, leader_epoch)| FoundOffset { offset, timestamp, leader_epoch }))
    }

    /// The record with the largest timestamp, of which it is known that it is at most `most`: of records that were deleted no
    /// more is known than that, so it is closed in on.
    async fn find_largest(
        &self,
        archive: &PartitionArchive,
        head: &Head,
        mut most: Timestamp,
    ) -> Result<Option<FoundOffset>, ArchiveError> {
        if let Some(found) = self.find(archive, head, most).await? {
            return Ok(Some(found));
        }
        let Some(mut best) = self.find(archive, head, Timestamp(i64::MIN)).await? else { return Ok(None) };
        while best.timestamp < most {
            let half = best.timestamp.0.abs_diff(most.0).div_ceil(2);
            let sought = Timestamp(best.timestamp.0.saturating_add_unsigned(half));
            match self.find(archive, head, sought).await? {
                Some(found) => best = found,
                None => most = Timestamp(sought.0 - 1),
            }
        }
        Ok(Some(best))
    }

    fn failed(&self, error: &ReadError) -> ArchiveError {
        match error.damaged() {
            Some(object) => self.damaged(&object, error),
            None => unavailable(error),
        }
    }

    /// Says of damage, once in a while for each object: its readers try again and again.
    fn damaged(&self, object: &str, error: &ReadError) -> ArchiveError {
        if self.complaints.lock().is_due(object, self.runtime.clock.monotonic()) {
            tracing::error!(%error, object, "archived data can't be read");
        } else {
            tracing::debug!(%error, object, "archived data can't be read, as was said before");
        }
        ArchiveError::Damaged { error: error.to_string().into() }
    }

    /// A head is to list what left the local disk because of it: one that does not was put back, or made anew in place of one
    /// that was lost.
    fn check_lists(&self, wanted: &ArchiveRead, archive: &PartitionArchive, head: &Head) -> Result<(), ArchiveError> {
        let mark = self.image().archive_mark(wanted.partition);
        let reaches = head.next_offset.max(head.log_start_offset);
        if reaches > wanted.offset || mark.is_none_or(|mark| mark.next_offset <= wanted.offset) {
            return Ok(());
        }
        self.metrics.archive_read.damaged_reads.inc();
        let error = ReadError::Beyond { offset: wanted.offset, next_offset: head.next_offset };
        Err(self.damaged(&archive.keys().head(), &error))
    }
}

impl ArchiveReader for Archiver {
    fn is_durable(&self) -> bool {
        // Of the archiver itself.
        Self::is_durable(self)
    }

    fn at_hand(&self, wanted: ArchiveRead) -> Option<Arc<dyn AtHand>> {
        let archive = self.partition(wanted.partition)?;
        let head = archive.head()?;
        self.reader.at_hand(&archive, &head, request(wanted)).map(|at_hand| Arc::new(at_hand) as _)
    }

    fn fetch(&self, wanted: ArchiveRead) -> BoxFuture<'_, Result<Arc<dyn AtHand>, ArchiveError>> {
        Box::pin(async move {
            let (archive, head) = self.known(wanted.partition, wanted.offset).await?;
            self.check_lists(&wanted, &archive, &head)?;
            let fetched = self.reader.fetch(&archive, &head, request(wanted)).await;
            fetched.map(|at_hand| Arc::new(at_hand) as _).map_err(|error| self.failed(&error))
        })
    }

    fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp: Timestamp,
        from: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        Box::pin(async move {
            let (archive, head) = self.known_from(partition, from).await?;
            self.find(&archive, &head, timestamp).await
        })
    }

    fn max_timestamp(
        &self,
        partition: TopicPartition,
        offsets: Range<Offset>,
        least: Timestamp,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        Box::pin(async move {
            let (archive, head) = self.known_from(partition, offsets.start).await?;
            let reaches = |first: Offset, next: Offset| first < offsets.end && next > offsets.start;
            let spills = head.spills.iter().filter(|spill| reaches(spill.first, spill.next));
            let segments = head.segments.iter().filter(|segment| reaches(segment.base(), segment.next()));
            let spilled = spills.map(|spill| spill.max_timestamp);
            match spilled.chain(segments.map(|segment| segment.max_timestamp)).max() {
                Some(largest) if largest >= least => self.find_largest(&archive, &head, largest).await,
                _ => Ok(None),
            }
        })
    }
}

impl AtHand for remote_reader::AtHand {
    fn read(&self, max_bytes: usize) -> Result<Vec<Bytes>, ArchiveError> {
        // The bucket has no part in it.
        self.read(max_bytes).map(|stretch| stretch.pieces).map_err(|error| unavailable(&error))
    }
}

const fn request(wanted: ArchiveRead) -> ReadRequest {
    ReadRequest { offset: wanted.offset, committed_only: false, compression: wanted.compression }
}

fn unavailable(error: &dyn std::error::Error) -> ArchiveError {
    ArchiveError::Unavailable { error: error.to_string().into() }
}

//! What a log knows of its archive, and what of the log waits for it.
//!
//! `broker` tells it how far the archive reaches, of a replica as far as its leader says, and asks which segments may go there.
//! After a crash the newest checkpoint has it; until the archive was seen again nothing local goes because of that.

use std::sync::Arc;

use super::partition::PartitionLog;
use super::segment::Segment;
use super::state::Deletion;
use crate::types::{LeaderEpoch, Offset, Timestamp};

impl PartitionLog {
    /// Notes that the archive holds everything below `offset`, so that local copies may go.
    pub fn advance_archived(&self, offset: Offset) {
        let mut state = self.state.lock();
        state.archive_seen_to = state.archive_seen_to.max(offset);
        state.archived(offset);
    }

    /// Notes what a leader says of the archive: that it holds everything below `offset`. Nothing local goes because of that before
    /// it was seen here too.
    pub fn archived_elsewhere(&self, offset: Offset) {
        self.state.lock().archived(offset);
    }

    /// Notes that the archive was seen to end at `end`, and was taken to end at `believed` before that. Tells whether it lacks
    /// what was archived and is still here: that is archived again. Until an end was seen, nothing local goes because of
    /// what is remembered.
    pub fn archive_seen(self: &Arc<Self>, end: Offset, believed: Offset) -> bool {
        let lacks_local = self.state.lock().archive_seen(end, believed);
        if lacks_local {
            self.shared.note_to_archive(self);
        }
        lacks_local
    }

    /// Takes from the archive which leader epochs the records before the local ones have, where a rebuilt checkpoint does not
    /// know it. The archive must agree with the log otherwise.
    pub fn learn_epochs(&self, earlier: impl IntoIterator<Item = (LeaderEpoch, Offset)>) {
        let mut state = self.state.lock();
        let log_start = state.offsets.log_start;
        state.epochs.precede(earlier);
        state.epochs.advance_log_start(log_start);
    }

    /// Local records below this are deleted, or were seen in the archive: they go once a checkpoint knows.
    pub fn dispensable(&self) -> Offset {
        self.state.lock().dispensable()
    }

    /// Whether the archive was seen to hold all that it is taken to hold.
    pub fn is_archive_seen(&self) -> bool {
        let state = self.state.lock();
        state.archive_seen_to >= state.offsets.archived_to
    }

    /// Sealed segments whose records are all synced and decided, oldest first.
    pub fn archivable_segments(&self) -> Vec<Arc<Segment>> {
        let state = self.state.lock();
        let bound = state.offsets.last_stable.min(state.offsets.recovery_point);
        state.sealed().iter().filter(|segment| segment.extent().next_offset <= bound).cloned().collect()
    }

    /// When the oldest of the records was appended that are not archived, about; `None` when all are, or deleted.
    pub fn oldest_unarchived(&self) -> Option<Timestamp> {
        let state = self.state.lock();
        let from = state.offsets.unarchived_from();
        if state.offsets.durable <= from {
            return None;
        }
        let segment = state.segments.iter().find(|segment| segment.extent().next_offset > from);
        segment.map(|segment| state.oldest_of(segment)).or(state.unwritten_since)
    }

    /// True while the archive is not known to hold all of [`Self::archivable_segments`] that are not deleted.
    pub(super) fn has_to_archive(&self) -> bool {
        let state = self.state.lock();
        let bound = state.offsets.last_stable.min(state.offsets.recovery_point);
        let waits = |end: Offset| end > state.offsets.unarchived_from() && end <= bound;
        state.deletion == Deletion::No && state.sealed().iter().rev().any(|segment| waits(segment.extent().next_offset))
    }
}

//! Changes of a head. Each checks who asks, and returns the head to write in place of the one that was read.

use std::collections::BTreeSet;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use super::{
    EpochStart, Head, Hex128, MANIFEST_FORMAT, MAX_INLINE_SEGMENTS, MAX_TOMBSTONES, SPILL_SEGMENTS, Segment,
    SnapshotRef, SpillList, SpillRef, Tombstone, Tombstoned, TransitionError, Writer,
};
use crate::archive::key::SegmentName;
use crate::types::{Offset, ProducerId, Timestamp};

/// What a commit says beside the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitFacts {
    /// Leader epochs that begin in the segment, or were in force at its base, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Largest producer id in the segment; `None` when it has none.
    pub max_producer_id: Option<ProducerId>,
    /// Where in the segment's companion object the snapshot of the producers' state at its end is; `None` when no producer
    /// is remembered there.
    pub producer_snapshot: Option<Range<u64>>,
}

impl Head {
    /// A copy with the next generation and a fresh nonce, for a writer that is in force.
    fn successor(&self, writer: Writer, nonce: Hex128) -> Result<Self, TransitionError> {
        let (ours, current) = (writer.fence, self.writer.fence);
        match ours.cmp(&current) {
            std::cmp::Ordering::Less => Err(TransitionError::Fenced { ours, current }),
            std::cmp::Ordering::Greater => Err(TransitionError::NotTakenOver { ours, current }),
            std::cmp::Ordering::Equal if writer != self.writer => Err(TransitionError::Rival { fence: ours }),
            std::cmp::Ordering::Equal => Ok(Self { generation: self.generation + 1, nonce, ..self.clone() }),
        }
    }

    /// Makes `writer` the one that may change the head. Every head that an older writer still holds is out of date from
    /// then on. Taking over what one already has is allowed, and changes nothing but generation and nonce.
    pub fn take_over(&self, writer: Writer, nonce: Hex128) -> Result<Self, TransitionError> {
        if writer.fence < self.writer.fence {
            return Err(TransitionError::Fenced { ours: writer.fence, current: self.writer.fence });
        }
        if writer.fence == self.writer.fence && writer != self.writer {
            return Err(TransitionError::Rival { fence: writer.fence });
        }
        Ok(Self { generation: self.generation + 1, nonce, writer, ..self.clone() })
    }

    /// Adds a segment, which has to begin where the archive ends. It may begin later only when everything between is
    /// below the log start, hence deleted before it was archived.
    pub fn commit(
        &self,
        writer: Writer,
        segment: Segment,
        facts: &CommitFacts,
        nonce: Hex128,
    ) -> Result<Self, TransitionError> {
        let mut head = self.successor(writer, nonce)?;
        let (base, expected) = (segment.base(), self.next_offset);
        if base < expected {
            return Err(TransitionError::AlreadyArchived { next_offset: expected, base });
        }
        if base > expected && base > self.log_start_offset {
            return Err(TransitionError::NotContiguous { expected, base });
        }
        segment.check()?;
        if segment.name.fence != writer.fence {
            return Err(TransitionError::BadSegment { what: "its name carries another writer", base });
        }
        if let (Some(first), Some(last)) = (facts.epochs.first(), self.epochs.last())
            && first.epoch < last.epoch
        {
            return Err(TransitionError::EpochBackwards { epoch: first.epoch, archived: last.epoch, base });
        }
        if self.segments.len() >= MAX_INLINE_SEGMENTS {
            return Err(TransitionError::Full { segments: self.segments.len() });
        }
        for entry in &facts.epochs {
            // Epochs that were known before go on; only later ones begin here.
            if head.epochs.last().is_none_or(|last| entry.epoch > last.epoch) {
                head.epochs.push(EpochStart { epoch: entry.epoch, start: entry.start.max(base) });
            }
        }
        if let Some(producer_id) = facts.max_producer_id {
            head.max_producer_id = head.max_producer_id.max(producer_id);
        }
        // What was left of a deleted segment for the sake of its snapshot goes now; without room it is an orphan of later.
        let left_over = self.producer_snapshot.map(|snapshot| snapshot.segment).filter(|name| !self.refers_to(name));
        if let Some(name) = left_over.filter(|_| head.tombstones.len() < MAX_TOMBSTONES) {
            let (generation, what) = (head.generation, Tombstoned::Segment(name));
            head.tombstones.push(Tombstone { generation, not_before: Timestamp(0), what });
        }
        let snapshot = facts.producer_snapshot.clone();
        head.producer_snapshot = snapshot.map(|Range { start, end }| SnapshotRef { segment: segment.name, start, end });
        head.next_offset = segment.next();
        head.segments.push(segment);
        Ok(head)
    }

    /// Whether the next commit needs a spill first.
    pub fn needs_spill(&self) -> bool {
        self.segments.len() >= MAX_INLINE_SEGMENTS
    }

    /// Moves the oldest inline segments to a list of their own, which has to be written before the head is.
    pub fn spill(&self, writer: Writer, nonce: Hex128) -> Result<(Self, SpillRef, SpillList), TransitionError> {
        let mut head = self.successor(writer, nonce)?;
        let count = SPILL_SEGMENTS.min(head.segments.len());
        let segments: Vec<Segment> = head.segments.drain(..count).collect();
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(TransitionError::BadSegment { what: "there is nothing to spill", base: self.next_offset });
        };
        let (first, next) = (first.base(), last.next());
        let max_timestamp = segments.iter().map(|segment| segment.max_timestamp).max().unwrap_or(Timestamp::NONE);
        let log_bytes = segments.iter().map(|segment| segment.log_bytes).sum();
        let list = SpillList { format: MANIFEST_FORMAT, identity: head.identity.clone(), segments };
        let hash = Hex128(xxh3_128(&list.to_bytes()));
        let generation = head.generation;
        let reference = SpillRef { first, next, generation, live_from: first, max_timestamp, log_bytes, hash };
        head.spills.push(reference);
        Ok((head, reference, list))
    }

    /// The spilled list that a log start of `offset` cuts in two, whose content [`Head::advance_log_start`] wants.
    pub fn straddled_spill(&self, offset: Offset) -> Option<&SpillRef> {
        self.spills.iter().find(|spill| spill.next > offset && spill.live_from < offset)
    }

    /// Moves the log start up (or leaves it) and turns segments wholly below it into tombstones, as far as there is room;
    /// the rest stays listed until a later call. `straddled` is the content of [`Head::straddled_spill`]; without it that
    /// spill keeps its segments a while longer.
    pub fn advance_log_start(
        &self,
        writer: Writer,
        offset: Offset,
        straddled: Option<&SpillList>,
        not_before: Timestamp,
        nonce: Hex128,
    ) -> Result<Self, TransitionError> {
        let mut head = self.successor(writer, nonce)?;
        if offset < self.log_start_offset {
            return Err(TransitionError::LogStartBackwards { current: self.log_start_offset, asked: offset });
        }
        head.log_start_offset = offset;
        let generation = head.generation;
        let mut room = MAX_TOMBSTONES.saturating_sub(head.tombstones.len());
        let mut bury = |what| head.tombstones.push(Tombstone { generation, not_before, what });

        let expired = head.spills.iter().take(room).take_while(|spill| spill.next <= offset).count();
        head.spills.drain(..expired).for_each(|spill| bury(Tombstoned::Spill(spill)));
        room -= expired;
        if let (Some(spill), Some(list)) = (head.spills.first_mut(), straddled) {
            let live_from = spill.live_from;
            let candidates = list.segments.iter().filter(|segment| segment.next() > live_from);
            for segment in candidates.take_while(|segment| segment.next() <= offset).take(room) {
                bury(Tombstoned::Segment(segment.name));
                spill.live_from = segment.next();
                room -= 1;
            }
        }
        if head.spills.is_empty() {
            let expired = head.segments.iter().take(room).take_while(|segment| segment.next() <= offset).count();
            head.segments.drain(..expired).for_each(|segment| bury(Tombstoned::Segment(segment.name)));
        }

        // The epoch in force at the log start stays; the ones that ended before it are history.
        let in_force = head.epochs.partition_point(|entry| entry.start <= offset).saturating_sub(1);
        head.epochs.drain(..in_force);
        Ok(head)
    }

    /// Whether segments wholly below the log start are still listed inline or by whole spills.
    pub fn has_expired(&self) -> bool {
        let offset = self.log_start_offset;
        self.spills.first().map_or_else(
            || self.segments.first().is_some_and(|segment| segment.next() <= offset),
            |spill| spill.next <= offset,
        )
    }

    /// Tombstones whose time has come and whose objects may be deleted; but for the companion that holds the latest
    /// snapshot of the producers' state, which stays until the head refers to a later one.
    pub fn due_tombstones(&self, now: Timestamp) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.iter().filter(move |tombstone| tombstone.not_before <= now)
    }

    /// Whether the head refers to a segment's objects other than by the snapshot in them.
    fn refers_to(&self, name: &SegmentName) -> bool {
        let within = |spill: &SpillRef| (spill.first..spill.next).contains(&name.base);
        let buried = |tombstone: &Tombstone| match &tombstone.what {
            Tombstoned::Segment(buried) => buried == name,
            Tombstoned::Spill(spill) => within(spill),
        };
        self.segments.iter().any(|segment| segment.name == *name)
            || self.spills.iter().any(|spill| within(spill) && name.base >= spill.live_from)
            || self.tombstones.iter().any(buried)
    }

    /// Forgets tombstones whose objects are deleted: those of `due` that are listed in this head.
    pub fn drop_tombstones(
        &self,
        writer: Writer,
        deleted: &[Tombstone],
        now: Timestamp,
        nonce: Hex128,
    ) -> Result<Self, TransitionError> {
        let mut head = self.successor(writer, nonce)?;
        if let Some(early) = deleted.iter().find(|tombstone| tombstone.not_before > now) {
            return Err(TransitionError::TombstoneNotDue { generation: early.generation });
        }
        head.tombstones.retain(|tombstone| !deleted.contains(tombstone));
        Ok(head)
    }

    /// Names of all segments that the head knows without its spills: listed, tombstoned, or holding the snapshot.
    pub fn known_segments(&self) -> BTreeSet<SegmentName> {
        let tombstoned = self.tombstones.iter().filter_map(|tombstone| match tombstone.what {
            Tombstoned::Segment(name) => Some(name),
            Tombstoned::Spill(_) => None,
        });
        let snapshot = self.producer_snapshot.map(|snapshot| snapshot.segment);
        self.segments.iter().map(|segment| segment.name).chain(tombstoned).chain(snapshot).collect()
    }
}

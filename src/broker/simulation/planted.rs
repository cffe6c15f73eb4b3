//! Bugs that are planted in the disk, in the bucket or between two layers, and have to be found.

use std::ops::Range;
use std::sync::Arc;

use crate::archive::store::simulated::BucketLies;
use crate::broker::{ArchiveError, ArchiveRead, ArchiveReader, AtHand, FoundOffset};
use crate::log::PartitionLog;
use crate::runtime::net::BoxFuture;
use crate::sim::Lies;
use crate::types::{Offset, Timestamp, TopicPartition};

/// One of them, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// A sync of the disk does nothing.
    NoSync,
    /// Writes that should be durable are not.
    NoDurableWrites,
    /// Two writers can both change one head.
    ConditionsIgnored,
    /// A change of a head that did not happen is taken for done.
    RefusalTakenForSuccess,
    /// A change of a head that happened is taken for undone, and made again from what was there before.
    SuccessTakenForRefusal,
    /// A new leader believes to have taken a head over, and the old one's requests still count.
    NoFence,
    /// What is archived is not what was encoded.
    NotVerified,
    /// A log believes that all of its synced records are archived.
    LocalGoesUnarchived,
    /// Reads of the archive begin one offset too late.
    SeamOffByOne,
    /// Searches of the archive begin one offset too late.
    SearchOffByOne,
}

impl Planted {
    /// All that there are.
    pub(super) const ALL: [Self; 10] = [
        Self::NoSync,
        Self::NoDurableWrites,
        Self::ConditionsIgnored,
        Self::RefusalTakenForSuccess,
        Self::SuccessTakenForRefusal,
        Self::NoFence,
        Self::NotVerified,
        Self::LocalGoesUnarchived,
        Self::SeamOffByOne,
        Self::SearchOffByOne,
    ];

    pub(super) fn disk_lies(self) -> Lies {
        Lies { syncs: self == Self::NoSync, durable_writes: self == Self::NoDurableWrites }
    }

    pub(super) fn bucket_lies(self) -> BucketLies {
        BucketLies {
            conditions: self == Self::ConditionsIgnored,
            refusals: self == Self::RefusalTakenForSuccess,
            stale: self == Self::SuccessTakenForRefusal,
            take_overs: self == Self::NoFence,
            contents: self == Self::NotVerified,
        }
    }

    pub(super) fn read_through(self, reader: Arc<dyn ArchiveReader>) -> Arc<dyn ArchiveReader> {
        match self {
            Self::SeamOffByOne | Self::SearchOffByOne => Arc::new(OffByOne { reader, planted: self }),
            _ => reader,
        }
    }

    pub(super) fn touch(self, log: &PartitionLog) {
        if self == Self::LocalGoesUnarchived {
            let offsets = log.offsets();
            log.advance_archived(offsets.recovery_point.min(offsets.last_stable));
        }
    }
}

struct OffByOne {
    reader: Arc<dyn ArchiveReader>,
    planted: Planted,
}

impl OffByOne {
    fn shift(&self, wanted: ArchiveRead) -> ArchiveRead {
        match self.planted {
            Planted::SeamOffByOne if wanted.offset > Offset::ZERO => {
                ArchiveRead { offset: wanted.offset.next(), ..wanted }
            }
            _ => wanted,
        }
    }
}

impl ArchiveReader for OffByOne {
    fn is_durable(&self) -> bool {
        self.reader.is_durable()
    }

    fn at_hand(&self, wanted: ArchiveRead) -> Option<Arc<dyn AtHand>> {
        self.reader.at_hand(self.shift(wanted))
    }

    fn fetch(&self, wanted: ArchiveRead) -> BoxFuture<'_, Result<Arc<dyn AtHand>, ArchiveError>> {
        self.reader.fetch(self.shift(wanted))
    }

    fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp: Timestamp,
        from: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        let from = if self.planted == Planted::SearchOffByOne { from.next() } else { from };
        self.reader.offset_for_timestamp(partition, timestamp, from)
    }

    fn max_timestamp(
        &self,
        partition: TopicPartition,
        offsets: Range<Offset>,
        least: Timestamp,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>> {
        self.reader.max_timestamp(partition, offsets, least)
    }
}

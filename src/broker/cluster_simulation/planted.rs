//! Bugs that are planted in the disks, or in how brokers and clients are set, and have to be found.

use crate::broker::Acknowledgement;
use crate::sim::Lies;

/// One of them, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// A sync of the disks does nothing.
    NoSync,
    /// Writes that should be durable are not.
    NoDurableWrites,
    /// The leader's own disk is taken for those of all in-sync replicas.
    LeaderAcknowledgesAlone,
    /// A replica that lacks records may lead.
    UncleanElections,
    /// Consumers read beyond the high watermark.
    UncommittedReads,
}

impl Planted {
    pub(super) fn disk_lies(self) -> Lies {
        Lies { syncs: self == Self::NoSync, durable_writes: self == Self::NoDurableWrites }
    }

    pub(super) fn acks(self) -> Acknowledgement {
        if self == Self::LeaderAcknowledgesAlone { Acknowledgement::Leader } else { Acknowledgement::All }
    }

    pub(super) fn unclean_elections(self) -> &'static str {
        if self == Self::UncleanElections { "true" } else { "false" }
    }

    pub(super) fn reads_uncommitted(self) -> bool {
        self == Self::UncommittedReads
    }

    /// Some are seen only where a majority of the quorum outlives a majority of the replicas.
    pub(super) const fn needs_many(self) -> bool {
        matches!(self, Self::UncleanElections)
    }
}

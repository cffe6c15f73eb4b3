//! The ladder: every significant offset of a partition in one place, checked after every transition.
//!
//! ```text
//!  log_start ──── archive ────┐
//!     │                       │ archived_to (= highest_remote_offset + 1)
//!     ▼                       ▼
//!  ───┼────────┼──────────────┼───────┼──────────────┼──────────────┼─────────┼───▶ offsets
//!           local_log_start        recovery_point  last_stable  durable    log_end
//!              └─ local disk ──────── synced ──┘    high_watermark │ memory only
//!                                                                  └ in journal or segment
//! ```
//! `log_start ≤ local_log_start ≤ log_end` · `log_start ≤ last_stable ≤ high_watermark ≤ durable ≤ log_end` ·
//! `recovery_point ≤ durable` · `local_log_start ≤ max(log_start, archived_to)`: no hole between the tiers ·
//! `archived_to ≤ max(log_start, min(last_stable, recovery_point))`: only synced, decided records are archived.
//!
//! End offsets are exclusive. The ladder is plain data: it lives under the partition's lock and a copy is handed out.

use crate::types::Offset;

/// All significant offsets of one partition, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First offset that a client may read, in any tier.
    pub log_start: Offset,
    /// First offset on local disk (ListOffsets −4).
    pub local_log_start: Offset,
    /// Everything below it, from `log_start` on, is in the archive; one more than ListOffsets −5.
    pub archived_to: Offset,
    /// Below it every transaction is decided.
    pub last_stable: Offset,
    /// Committed: the bound for consumers. Of the only replica the durable offset; of others what they were told.
    pub high_watermark: Offset,
    /// Everything below is on stable storage, in journal or segment.
    pub durable: Offset,
    /// Next offset to assign.
    pub log_end: Offset,
    /// Everything below is in synced segments; replay of the journal starts here.
    pub recovery_point: Offset,
}

impl Offsets {
    /// First offset that is neither archived nor deleted.
    pub fn unarchived_from(&self) -> Offset {
        self.archived_to.max(self.log_start)
    }

    /// The ladder of a log that has no records and continues at `start`.
    pub const fn empty_at(start: Offset) -> Self {
        Self {
            log_start: start,
            local_log_start: start,
            archived_to: start,
            last_stable: start,
            high_watermark: start,
            durable: start,
            log_end: start,
            recovery_point: start,
        }
    }

    /// Asserts the inequalities of the module's ladder. Called after every transition, in release builds too: going on
    /// with a broken ladder would lose or invent records.
    pub fn check(&self) {
        let Self { log_start, local_log_start, archived_to, last_stable, high_watermark, durable, log_end, .. } = *self;
        assert!(log_start <= local_log_start, "log start passed local log start: {self:?}");
        assert!(local_log_start <= log_end, "local log start passed log end: {self:?}");
        assert!(log_start <= last_stable, "log start passed last stable offset: {self:?}");
        assert!(last_stable <= high_watermark, "last stable offset passed high watermark: {self:?}");
        assert!(high_watermark <= durable, "high watermark passed durable offset: {self:?}");
        assert!(durable <= log_end, "durable offset passed log end: {self:?}");
        assert!(self.recovery_point <= durable, "recovery point passed durable offset: {self:?}");
        assert!(local_log_start <= log_start.max(archived_to), "hole between archive and local log: {self:?}");
        assert!(
            archived_to <= last_stable.min(self.recovery_point).max(log_start),
            "archived records that are not synced and decided: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_ladder_holds() {
        Offsets::empty_at(Offset(17)).check();
    }

    #[test]
    fn every_broken_rung_is_caught() {
        let good = Offsets {
            log_start: Offset(10),
            local_log_start: Offset(20),
            archived_to: Offset(30),
            last_stable: Offset(50),
            high_watermark: Offset(60),
            durable: Offset(70),
            log_end: Offset(80),
            recovery_point: Offset(40),
        };
        good.check();
        let broken = [
            Offsets { log_start: Offset(21), ..good },
            Offsets { local_log_start: Offset(31), ..good },
            Offsets { archived_to: Offset(41), ..good },
            Offsets { last_stable: Offset(61), ..good },
            Offsets { high_watermark: Offset(71), ..good },
            Offsets { durable: Offset(81), ..good },
            Offsets { recovery_point: Offset(71), ..good },
        ];
        for offsets in broken {
            assert!(std::panic::catch_unwind(|| offsets.check()).is_err(), "not caught: {offsets:?}");
        }
    }
}

//! A log that goes on where the archive ends, or where the local log of another replica begins: what takes the place of local
//! records that are lost, or that archive or leader contradict.
//!
//! ```text
//! format u32 (1), log_start i64, at i64, epochs u32 × (epoch i32, start i64), producers as in `producer_snapshot`
//! ```
//! Little-endian; the body of a `continue` entry of the journal, so that all of it is durable at once, and what a leader sends to a
//! new replica. Pure.

use bytes::{Buf, BufMut};

use super::epoch_cache::EpochCache;
use super::offsets::Offsets;
use super::producer_snapshot::{put_producers, take_producers};
use super::producer_state::ProducerState;
use crate::types::{LeaderEpoch, Offset};

/// The newest format.
const FORMAT: u32 = 1;

/// Where and how a log goes on; local records are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// First offset that a client may read; what is below `at` is in the archive.
    pub log_start: Offset,
    /// The end of the archive, or where the leader's local log begins; the next offset of the log.
    pub at: Offset,
    /// Leader epochs of the records before `at`.
    pub epochs: EpochCache,
    /// What is remembered of producers at `at`.
    pub producers: ProducerState,
}

impl Continuation {
    /// The ladder of a log that has nothing but what is archived.
    pub const fn offsets(&self) -> Offsets {
        Offsets { log_start: self.log_start, ..Offsets::empty_at(self.at) }
    }

    /// Forgets producers, those first that wrote longest ago, until the body takes at most about `limit_bytes`.
    pub fn keep_within(&mut self, limit_bytes: usize) {
        while self.encode().len() > limit_bytes && !self.producers.is_empty() {
            self.producers.shrink_to(self.producers.len() / 2);
        }
    }

    /// The body of a journal entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32_le(FORMAT);
        out.put_i64_le(self.log_start.0);
        out.put_i64_le(self.at.0);
        out.put_u32_le(u32::try_from(self.epochs.starts().len()).expect("epochs are bounded by restarts"));
        for &(epoch, start) in self.epochs.starts() {
            out.put_i32_le(epoch.0);
            out.put_i64_le(start.0);
        }
        put_producers(&mut out, &self.producers);
        out
    }

    /// Reads a body; `None` when anything is out of place.
    pub fn decode(mut body: &[u8]) -> Option<Self> {
        if body.try_get_u32_le().ok()? != FORMAT {
            return None;
        }
        let (log_start, at) = (Offset(body.try_get_i64_le().ok()?), Offset(body.try_get_i64_le().ok()?));
        let count = body.try_get_u32_le().ok()?;
        let starts = (0..count)
            .map(|_| Some((LeaderEpoch(body.try_get_i32_le().ok()?), Offset(body.try_get_i64_le().ok()?))))
            .collect::<Option<Vec<_>>>()?;
        let epochs = EpochCache::from_starts(starts)?;
        let producers = take_producers(&mut body)?;
        (body.is_empty() && log_start <= at).then_some(Self { log_start, at, epochs, producers })
    }
}

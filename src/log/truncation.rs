//! Cuts of a log, and what takes the place of all of it: asked for here, durable with an entry of the journal, made in the files
//! by the write-behind lane.
//!
//! `broker` asks for a continuation where the archive is ahead or contradicts the log; replication asks for cuts where a leader
//! contradicts it, and for a continuation where a replica begins. After a crash the journal says what has to be cut again.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::continuation::Continuation;
use super::error::AppendError;
use super::journal::Mark;
use super::partition::{PartitionLog, Wait};
use crate::types::Offset;

impl PartitionLog {
    /// Cuts the log at `end`, which must be a batch's beginning; records at or above are void (KIP-101). The caller must
    /// not append until this is durable; see [`Self::truncated`].
    pub fn truncate_to(self: &Arc<Self>, end: Offset) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if end >= state.offsets.log_end {
            return Ok(());
        }
        state.truncating += 1;
        self.push(&state, Mark::Truncate(end))
    }

    /// Gives up all local records and goes on where the archive ends, as `continuation` says. Nothing may be under way; the
    /// caller must not append until this is durable, see [`Self::truncated`].
    pub fn continue_at(self: &Arc<Self>, mut continuation: Continuation) -> Result<(), AppendError> {
        continuation.keep_within(self.shared.journal.group_limit_bytes());
        let mut state = self.state.lock();
        if !state.is_whole() || state.offsets.durable < state.offsets.log_end {
            return Err(AppendError::Truncating);
        }
        state.truncating += 1;
        self.push(&state, Mark::Continue(Arc::new(continuation)))
    }

    /// True when no truncation is under way.
    pub fn truncated(&self) -> bool {
        self.state.lock().is_whole()
    }

    /// Waits until no truncation or continuation is under way and what each touched is settled: batches are taken again.
    pub fn when_whole(&self) -> Wait {
        let mut state = self.state.lock();
        if state.is_whole() {
            return Wait::Ready;
        }
        let (sender, receiver) = oneshot::channel();
        if self.check_online(&state).is_ok() {
            state.replica.when_whole.push(sender);
        }
        Wait::Pending(receiver)
    }
}

//! openraft's log storage over the database on its lane.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, Entry, LogState, RaftLogReader, StorageIOError};

use super::codec;
use super::error::{StoreError, for_openraft};
use super::lane::StoreLane;
use super::log_database::LogDatabase;
use super::{LogId, StorageError, TypeConfig, Vote};
use crate::types::NodeId;

/// Entries that one replication request may carry, in bytes.
const REPLICATION_BYTES: usize = 4 << 20;

/// openraft's handle to the log; clones read concurrently with the one writer.
///
/// openraft 0.9 awaits the sync of one append before it makes the next, so that commands share syncs only within a log
/// entry: they are grouped where they are submitted, not here.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    database: Arc<StoreLane<LogDatabase>>,
}

impl LogStore {
    /// Wraps a database.
    pub(super) const fn new(database: Arc<StoreLane<LogDatabase>>) -> Self {
        Self { database }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut LogDatabase) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AnyError> {
        for_openraft(self.database.run(job).await)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let range: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        let entries = self.run(move |database| database.entries(range, usize::MAX)).await;
        entries.map_err(|error| StorageIOError::read_logs(error).into())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let entries = self.run(move |database| database.entries(start..end, REPLICATION_BYTES)).await;
        entries.map_err(|error| StorageIOError::read_logs(error).into())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let range = self.run(|database| database.range()).await.map_err(StorageIOError::read_logs)?;
        Ok(LogState { last_purged_log_id: range.purged, last_log_id: range.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.run(move |database| database.save_vote(&vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.run(|database| database.vote()).await;
        vote.map_err(|error| StorageIOError::read_vote(error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.run(move |database| {
            database.set_committed(committed);
            Ok(())
        });
        saved.await.map_err(|error| StorageIOError::write_logs(error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed = self.run(|database| database.committed()).await;
        committed.map_err(|error| StorageIOError::read_logs(error).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> =
            entries.into_iter().map(|entry| (entry.log_id.index, codec::encode_entry(&entry))).collect();
        let appended = self.run(move |database| database.append(&entries)).await;
        appended.map_err(StorageIOError::<NodeId>::write_logs)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let truncated = self.run(move |database| database.truncate(log_id.index)).await;
        truncated.map_err(|error| StorageIOError::write_logs(error).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.run(move |database| database.purge(log_id)).await;
        purged.map_err(|error| StorageIOError::write_logs(error).into())
    }
}

//! The log, the vote and the format stamp, in one redb file. Blocking; lives on a lane.
//!
//! ```text
//! metadata.redb   table "log":   index u64 → entry
//!                 table "state": "stamp" → JSON, "vote" → vote, "purged" → log id, "committed" → log id
//! ```
//! Every change is one redb transaction with immediate durability: it is on stable storage when the call returns. How far
//! the log is committed is written along with the next change only; it is a hint that saves applying late after a restart.

use std::ops::RangeBounds;
use std::path::Path;

use openraft::Entry;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::super::error::DecodeError;
use super::backend::FileBackend;
use super::codec;
use super::error::{StoreError, database};
use super::{LogId, TypeConfig, Vote};
use crate::runtime::disk::{Disk, Open};
use crate::types::{ClusterId, NodeId};

const DATABASE: &str = "metadata.redb";
/// Format of the directory; a higher number is refused.
const DIRECTORY_FORMAT: u32 = 1;
/// redb's page cache. The log is appended to and read at its end; a restart reads it once.
const CACHE_BYTES: usize = 4 << 20;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const STAMP: &str = "stamp";
const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";

/// Whom a metadata directory belongs to, written when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    format: u32,
    /// The cluster.
    pub(super) cluster_id: ClusterId,
    /// The node.
    pub(super) node_id: NodeId,
    /// The node came to a cluster that was there: it never makes a quorum of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) joined: bool,
}

/// What a directory is stamped with when it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Founding {
    /// The cluster.
    pub(super) cluster_id: ClusterId,
    /// Whether it was there before the node.
    pub(super) joined: bool,
}

/// Where the log begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogRange {
    /// Last entry that was purged.
    pub(super) purged: Option<LogId>,
    /// Last entry, purged or not.
    pub(super) last: Option<LogId>,
}

/// The open database.
#[derive(Debug)]
pub(super) struct LogDatabase {
    database: Database,
    stamp: Stamp,
    /// How far the log is committed, as far as that is not written yet.
    committed: Option<LogId>,
}

impl LogDatabase {
    /// Whether a directory has a database.
    pub(super) fn exists(disk: &dyn Disk, directory: &Path) -> Result<bool, StoreError> {
        let path = directory.join(DATABASE);
        disk.exists(&path).map_err(|source| StoreError::Disk { path, source })
    }

    /// Opens the database of a directory. If there is none, makes one, in a way that a crash leaves all of it or nothing.
    ///
    /// # Errors
    /// [`StoreError`]: also for a directory of another node or of a newer format.
    pub(super) fn open(
        disk: &dyn Disk,
        directory: &Path,
        node_id: NodeId,
        founding: Founding,
    ) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE);
        let failed = |source| StoreError::Disk { path: path.clone(), source };
        if !disk.exists(&path).map_err(failed)? {
            disk.create_directory(directory).map_err(failed)?;
            let temporary = path.with_extension("tmp");
            let Founding { cluster_id, joined } = founding;
            let stamp = Stamp { format: DIRECTORY_FORMAT, cluster_id, node_id, joined };
            create(disk, &temporary, stamp)?;
            disk.rename(&temporary, &path).map_err(failed)?;
            disk.sync_directory(directory).map_err(failed)?;
        }
        let database = open_file(disk, &path, Open::Write)?;
        let stamp = read_stamp(&database, &path)?;
        if stamp.node_id != node_id {
            return Err(StoreError::ForeignNode { path, found: stamp.node_id, ours: node_id });
        }
        Ok(Self { database, stamp, committed: None })
    }

    /// Whom the directory belongs to.
    pub(super) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Appends entries.
    pub(super) fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut log = transaction.open_table(LOG).map_err(database)?;
            for (index, entry) in entries {
                log.insert(index, entry.as_slice()).map_err(database)?;
            }
            Ok(())
        })
    }

    /// Removes the entries from an index on.
    pub(super) fn truncate(&mut self, since: u64) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut log = transaction.open_table(LOG).map_err(database)?;
            log.retain_in(since.., |_, _| false).map_err(database)
        })
    }

    /// Removes the entries up to and with one.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut log = transaction.open_table(LOG).map_err(database)?;
            log.retain_in(..=upto.index, |_, _| false).map_err(database)?;
            put(transaction, PURGED, &codec::encode_log_id(upto))
        })
    }

    /// Keeps the vote.
    pub(super) fn save_vote(&mut self, vote: &Vote) -> Result<(), StoreError> {
        self.write(|transaction| put(transaction, VOTE, &codec::encode_vote(vote)))
    }

    /// Remembers how far the log is committed, to be written with the next change.
    pub(super) const fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    /// Writes down how far the log is committed now, so that a restart need not wait for a leader to apply it.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        self.write(|_| Ok(()))
    }

    /// The vote that was kept.
    pub(super) fn vote(&self) -> Result<Option<Vote>, StoreError> {
        Ok(get(&self.database, VOTE)?.as_deref().map(codec::decode_vote).transpose()?)
    }

    /// How far the log is known to be committed.
    pub(super) fn committed(&self) -> Result<Option<LogId>, StoreError> {
        match self.committed {
            Some(committed) => Ok(Some(committed)),
            None => Ok(get(&self.database, COMMITTED)?.as_deref().map(codec::decode_log_id).transpose()?),
        }
    }

    /// Where the log begins and ends.
    pub(super) fn range(&self) -> Result<LogRange, StoreError> {
        let purged = get(&self.database, PURGED)?.as_deref().map(codec::decode_log_id).transpose()?;
        let transaction = self.database.begin_read().map_err(database)?;
        let log = transaction.open_table(LOG).map_err(database)?;
        let last = match log.last().map_err(database)? {
            Some((_, entry)) => Some(codec::decode_entry(entry.value())?.log_id),
            None => purged,
        };
        Ok(LogRange { purged, last })
    }

    /// Index of the last entry, purged or not.
    pub(super) fn last_index(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.range()?.last.map(|log_id| log_id.index))
    }

    /// Reads the entries of a range until they add up to `limit_bytes`; at least one where there is any.
    pub(super) fn entries(
        &self,
        range: impl RangeBounds<u64>,
        limit_bytes: usize,
    ) -> Result<Vec<Entry<TypeConfig>>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        let log = transaction.open_table(LOG).map_err(database)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for row in log.range(range).map_err(database)? {
            let (_, entry) = row.map_err(database)?;
            bytes += entry.value().len();
            if bytes > limit_bytes && !entries.is_empty() {
                break;
            }
            entries.push(codec::decode_entry(entry.value())?);
        }
        Ok(entries)
    }

    fn write(&mut self, change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(database)?;
        change(&transaction)?;
        if let Some(committed) = self.committed {
            put(&transaction, COMMITTED, &codec::encode_log_id(committed))?;
        }
        // A transaction's durability is immediate unless it asks for less.
        transaction.commit().map_err(database)?;
        self.committed = None;
        Ok(())
    }
}

fn create(disk: &dyn Disk, path: &Path, stamp: Stamp) -> Result<(), StoreError> {
    let database = open_file(disk, path, Open::CreateEmpty)?;
    let transaction = database.begin_write().map_err(self::database)?;
    transaction.open_table(LOG).map_err(self::database)?;
    put(&transaction, STAMP, &serde_json::to_vec(&stamp).expect("memory does not fail"))?;
    transaction.commit().map_err(self::database)?;
    database.close().map_err(self::database)
}

fn open_file(disk: &dyn Disk, path: &Path, how: Open) -> Result<Database, StoreError> {
    let file = disk.open(path, how).map_err(|source| StoreError::Disk { path: path.to_owned(), source })?;
    let mut builder = Builder::new();
    // Without the check a damaged page is trusted. It reads the whole file, which the purged log keeps small.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(FileBackend(file)).map_err(database)
}

fn read_stamp(database: &Database, path: &Path) -> Result<Stamp, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let what = "metadata directory";
    let Some(bytes) = get(database, STAMP)? else {
        return Err(StoreError::NoStamp { path: path.to_owned() });
    };
    let malformed = |source| DecodeError::Malformed { what, source };
    let Format { format } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if format > DIRECTORY_FORMAT {
        return Err(DecodeError::UnsupportedFormat { what, found: format, supported: DIRECTORY_FORMAT }.into());
    }
    Ok(serde_json::from_slice(&bytes).map_err(malformed)?)
}

fn put(transaction: &WriteTransaction, key: &str, value: &[u8]) -> Result<(), StoreError> {
    let mut state = transaction.open_table(STATE).map_err(database)?;
    state.insert(key, value).map_err(database)?;
    Ok(())
}

fn get(database: &Database, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let transaction = database.begin_read().map_err(self::database)?;
    let state = transaction.open_table(STATE).map_err(self::database)?;
    let value = state.get(key).map_err(self::database)?;
    Ok(value.map(|value| value.value().to_vec()))
}

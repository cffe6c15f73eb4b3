//! Files of partitions that are gone: out of the way in one step, removed one by one.
//!
//! A large file takes the disk a tenth of a second to remove, and what waits to be written would wait for all those of a topic.
//! So the directory of a partition moves to `<data>/removed` as a whole, which takes no time, and the write-behind lane removes
//! the files there between its runs (decision 0050).
//!
//! After a crash: nothing there is ever looked at; the next process goes on removing it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::Shared;
use super::partition::PartitionLog;
use crate::runtime::disk::is_shortage;
use crate::types::TopicPartition;

/// Where in a data directory nothing counts any more.
pub const REMOVED_DIRECTORY: &str = "removed";
/// What the removal of a file counts for at least.
const REMOVED_FILE_BYTES: u64 = 64 << 10;

impl Shared {
    fn removed_path(&self) -> PathBuf {
        self.path.join(REMOVED_DIRECTORY)
    }

    /// Moves a partition's directory, if there is one, to where its files are removed. The name is gone for good once the
    /// directory that it was in has been synced.
    pub(super) fn move_away(&self, partition: TopicPartition, path: &Path) -> io::Result<()> {
        let disk = &self.runtime.disk;
        if !disk.exists(path)? {
            return Ok(());
        }
        let to = self.removed_path().join(format!("{}-{}", partition.topic_id, partition.partition));
        disk.create_directory(&self.removed_path())?;
        if disk.exists(&to)? {
            // It came back with a lost checkpoint, before all was removed.
            disk.remove_directory(&to)?;
        }
        disk.rename(path, &to)?;
        self.moved_away.lock().insert(to);
        Ok(())
    }

    /// Takes note of what an earlier process moved away.
    pub(super) fn find_moved_away(&self) -> io::Result<()> {
        let (disk, path) = (&self.runtime.disk, self.removed_path());
        if disk.exists(&path)? {
            self.moved_away.lock().extend(disk.list(&path)?.into_iter().map(|entry| path.join(entry.name)));
        }
        Ok(())
    }

    /// Makes removals of partitions' directories durable, before the journal forgets why they happened.
    pub(super) fn sync_removed(&self, removed: &[Arc<PartitionLog>]) -> io::Result<()> {
        let topics: BTreeSet<_> = removed.iter().filter_map(|log| log.path.parent()).collect();
        for topic in topics {
            if self.runtime.disk.exists(topic)? {
                self.sync(|| self.runtime.disk.sync_directory(topic))?;
            }
        }
        Ok(())
    }

    /// Removes files of what was moved away; when some are left, the lane runs again.
    pub(super) fn remove_moved_away(&self) {
        let mut allowance_bytes = self.settings.removed_bytes;
        let mut moved_away = self.moved_away.lock();
        while let Some(path) = moved_away.first() {
            match self.remove_files(path, &mut allowance_bytes) {
                Ok(true) => {}
                Ok(false) => return self.wake_write_behind(),
                // The next tick brings another run.
                Err(error) if is_shortage(&error) => return,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "what is left of a deleted partition stays until the next start");
                }
            }
            moved_away.pop_first();
        }
    }

    /// True when nothing is left.
    fn remove_files(&self, path: &Path, allowance_bytes: &mut u64) -> io::Result<bool> {
        let disk = &self.runtime.disk;
        for file in disk.list(path)?.into_iter().filter(|entry| !entry.is_directory) {
            if *allowance_bytes == 0 {
                return Ok(false);
            }
            disk.remove_file(&path.join(file.name))?;
            *allowance_bytes = allowance_bytes.saturating_sub(file.length.max(REMOVED_FILE_BYTES));
        }
        disk.remove_directory(path)?;
        Ok(true)
    }
}

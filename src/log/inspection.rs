//! What a data directory has for certain, for whoever looks at its files, beside a broker or without one. Nothing is changed.
//!
//! The checkpoint says what is in segments; what was deleted or cut off since then is in the journal behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{Checkpoint, PartitionCheckpoint};
use super::directory::partition_path;
use super::epoch_cache::EpochCache;
use super::error::OpenError;
use super::journal::JournalFiles;
use super::recovery::{JOURNAL_DIRECTORY, Survey};
use super::segment::{SEGMENT_HEADER_BYTES, parse_segment_file_name, segment_file_name};
use super::settings::DirectorySettings;
use super::stamp::Identity;
use crate::runtime::Runtime;
use crate::types::{LeaderEpoch, Offset};

/// A segment lies so many levels below its data directory.
const SEGMENT_DEPTH: usize = 4;

/// What is certain of the segments of one data directory.
#[derive(Debug)]
pub struct Vouched {
    /// Whose directory it is.
    pub identity: Identity,
    segments: BTreeMap<PathBuf, VouchedSegment>,
}

/// What is certain of one segment.
#[derive(Debug)]
pub struct VouchedSegment {
    /// The length of its file, which may have grown since.
    pub bytes: u64,
    /// Where it ends, or ended then.
    end: Offset,
    /// Its records are neither archived nor deleted.
    is_needed: bool,
    epochs: Arc<EpochCache>,
}

impl VouchedSegment {
    /// The leader epoch of the record at `offset`, where that is known.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.epoch_at(offset).filter(|_| offset < self.end)
    }
}

impl Vouched {
    /// What the directory vouches for that has `path` within it; `None` outside of one, and before its first checkpoint.
    pub fn find(runtime: &Runtime, path: &Path) -> Result<Option<Self>, OpenError> {
        for directory in path.ancestors().take(SEGMENT_DEPTH + 1) {
            let found = match Checkpoint::inspect(&*runtime.disk, directory) {
                // It is a segment itself.
                Err(OpenError::Io(error)) if error.kind() == ErrorKind::NotADirectory => None,
                found => found?,
            };
            if let Some((identity, checkpoint)) = found {
                return Self::of(runtime, directory, identity, checkpoint).map(Some);
            }
        }
        Ok(None)
    }

    fn of(runtime: &Runtime, directory: &Path, identity: Identity, checkpoint: Checkpoint) -> Result<Self, OpenError> {
        let path = directory.join(JOURNAL_DIRECTORY);
        let mut since = Survey::after(&checkpoint);
        // Opened, it would be made.
        if runtime.disk.exists(&path)? {
            let journal = JournalFiles::open(runtime.clone(), &path, identity, DirectorySettings::default().journal)?;
            journal.replay(checkpoint.replay, |block| since.add(block))?;
        }
        let mut vouched = Self { identity, segments: BTreeMap::new() };
        for stored in checkpoint.partitions {
            if !since.deleted.contains(&stored.partition) && !since.cuts.contains_key(&stored.partition) {
                vouched.add(directory, stored);
            }
        }
        Ok(vouched)
    }

    fn add(&mut self, directory: &Path, stored: PartitionCheckpoint) {
        let path = partition_path(directory, stored.partition);
        let dispensable = stored.log_start.max(stored.archived_to);
        let ends = stored.segments.iter().skip(1).map(|next| next.base_offset).chain([stored.recovery_point]);
        let epochs = Arc::new(stored.epochs);
        for (segment, end) in stored.segments.iter().zip(ends) {
            let is_needed = end > dispensable && segment.bytes > SEGMENT_HEADER_BYTES;
            let known = VouchedSegment { bytes: segment.bytes, end, is_needed, epochs: Arc::clone(&epochs) };
            self.segments.insert(path.join(segment_file_name(segment.base_offset)), known);
        }
    }

    /// What is certain of a segment.
    pub fn segment(&self, path: &Path) -> Option<&VouchedSegment> {
        self.segments.get(path)
    }

    /// The segments at or below a path that are not among these files and should be. What is archived or deleted goes, and leaves
    /// a later segment of its partition behind.
    pub fn missing(&self, path: &Path, files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let segments = files.iter().filter(|file| file.file_name().is_some_and(is_segment_file_name));
        let kept: BTreeSet<_> = segments.map(|file| file.parent()).collect();
        let absent = self.segments.iter().filter(|(file, _)| file.starts_with(path) && !files.contains(*file));
        let missing = absent.filter(|(file, known)| known.is_needed || !kept.contains(&file.parent()));
        missing.map(|(file, _)| file.clone()).collect()
    }
}

fn is_segment_file_name(name: &OsStr) -> bool {
    name.to_str().and_then(parse_segment_file_name).is_some()
}

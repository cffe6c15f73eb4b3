//! Writing batches to a segment file: a trickle through the page cache, a flood past it.
//!
//! Copying into fresh pages of the cache is the dearest thing that can be done with a record, and most records are read from
//! the memory tail or not at all. So what lies on whole pages of a large run goes to the file by direct IO; the ends of the
//! run go through the cache, as small runs do, and no page is written both ways. Used by the write-behind lane alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::Batch;
use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::{DIRECT_ALIGNMENT_BYTES, Disk, File, Open};

/// Runs from this size on are worth a direct write, which waits for the disk. Simulated runs are small.
const DIRECT_FROM_BYTES: u64 = if cfg!(test) { 12 << 10 } else { 256 << 10 };
/// Bytes gathered for one write: what stays in the processor's cache on the way.
const STAGE_BYTES: usize = if cfg!(test) { 8 << 10 } else { 1 << 20 };

/// The handles of a segment file that is written to.
#[derive(Debug)]
pub struct SegmentWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Opened with the first large run.
    direct: Option<Arc<dyn File>>,
}

impl SegmentWriter {
    /// Opens a segment file that exists.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Self> {
        Ok(Self::new(disk, path, disk.open(path, Open::Write)?))
    }

    pub(super) fn new(disk: &Arc<dyn Disk>, path: &Path, file: Arc<dyn File>) -> Self {
        Self { disk: Arc::clone(disk), path: path.to_owned(), file, direct: None }
    }

    /// Writes batches one after another from `position` on.
    pub(super) fn write(&mut self, batches: &[Batch], position: u64) -> io::Result<()> {
        let length: u64 = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        let end = position + length;
        let page = DIRECT_ALIGNMENT_BYTES as u64;
        let (whole_from, whole_to) = (position.next_multiple_of(page), end - end % page);
        let direct = if length < DIRECT_FROM_BYTES { Arc::clone(&self.file) } else { self.direct()? };
        let mut source = Source { batches, at: 0 };
        let stage_bytes = STAGE_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX));
        let mut stage = AlignedBuffer::with_capacity(stage_bytes);
        let mut at = position;
        for (end, file) in [(whole_from.min(end), &self.file), (whole_to, &direct), (end, &self.file)] {
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(STAGE_BYTES);
                stage.clear();
                source.fill(&mut stage, wanted);
                file.write_all_at(stage.bytes(), at)?;
                at += wanted as u64;
            }
        }
        Ok(())
    }

    fn direct(&mut self) -> io::Result<Arc<dyn File>> {
        let file = match self.direct.take() {
            Some(file) => file,
            None => self.disk.open(&self.path, Open::Direct)?,
        };
        self.direct = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Makes everything written durable, whichever way it went.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Cuts the file.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
}

/// Batches being gathered.
struct Source<'a> {
    batches: &'a [Batch],
    /// Bytes taken of the first.
    at: usize,
}

impl Source<'_> {
    /// Moves exactly `wanted` bytes, which are there, into the stage.
    fn fill(&mut self, stage: &mut AlignedBuffer, wanted: usize) {
        while stage.len() < wanted {
            let first = &self.batches[0].bytes()[self.at..];
            let taken = first.len().min(wanted - stage.len());
            stage.extend(&first[..taken]);
            self.at += taken;
            if taken == first.len() {
                self.batches = &self.batches[1..];
                self.at = 0;
            }
        }
    }
}

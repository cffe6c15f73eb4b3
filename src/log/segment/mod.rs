//! Segments: files of whole record batches, one after another, exactly as clients sent them.
//!
//! ```text
//! stamp (56)  topic_id [u8; 16]  partition i32  reserved u32  base_offset i64  created_at i64 (ms)  crc u32  zeros to 128
//! batches from 128 on
//! ```
//! Little-endian; the checksum is CRC-32C of bytes 56..96. The file is named by its base offset,
//! `00000000000000000042.segment`, with `.index` beside it once sealed. The last segment of a partition is active: the
//! write-behind lane appends to it. All others are sealed and synced.
//!
//! After a crash: below the recovery point segments are what was written; above it they are cut and replayed.

mod index;
mod index_cache;
mod scan;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

pub use index::SegmentIndex;
pub use index_cache::IndexCache;
pub use scan::{BatchScan, Scanned};
pub use writer::SegmentWriter;

use super::error::{Missing, ReadError};
use super::stamp::{Identity, Kind, STAMP_BYTES, StampError};
use crate::record::Batch;
use crate::runtime::disk::{Disk, Open, read_file};
use crate::telemetry::Gauge;
use crate::types::{Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};

/// Bytes before the first batch.
pub const SEGMENT_HEADER_BYTES: u64 = 128;
const CHECKED_END: usize = STAMP_BYTES + 40;
const KIND: Kind = Kind { magic: *b"ALLVSEGM", name: "segment" };
const INDEX_LIMIT_BYTES: u64 = 64 << 20;
/// Read at a time by a search that an index has brought near its end.
const SEARCH_BYTES: usize = 32 << 10;

/// Name of the segment file that begins at `base_offset`.
pub fn segment_file_name(base_offset: Offset) -> String {
    format!("{:020}.segment", base_offset.0)
}

/// The base offset in the name of a segment file.
pub fn parse_segment_file_name(name: &str) -> Option<Offset> {
    parse_base_offset(name.strip_suffix(".segment")?)
}

/// The base offset of the segment in the name of an index file.
pub fn parse_index_file_name(name: &str) -> Option<Offset> {
    parse_base_offset(name.strip_suffix(".index")?)
}

fn parse_base_offset(digits: &str) -> Option<Offset> {
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().map(Offset) } else { None }
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the first batch.
    pub base_offset: Offset,
    /// When the segment was begun.
    pub created_at: Timestamp,
}

impl SegmentHeader {
    pub(super) fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        KIND.write(identity, &mut bytes);
        bytes.put_slice(self.partition.topic_id.as_bytes());
        bytes.put_i32_le(self.partition.partition.0);
        bytes.put_u32_le(0);
        bytes.put_i64_le(self.base_offset.0);
        bytes.put_i64_le(self.created_at.0);
        let crc = crc32c::crc32c(&bytes[STAMP_BYTES..CHECKED_END]);
        bytes.put_u32_le(crc);
        bytes.resize(SEGMENT_HEADER_BYTES as usize, 0);
        bytes
    }

    /// Reads a header, whosever it is; for inspection and, with [`Identity`] compared, for opening.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Identity), StampError> {
        let identity = KIND.read(bytes)?;
        let damaged = StampError::Damaged { kind: KIND.name };
        let Some(mut fields) = bytes.get(STAMP_BYTES..CHECKED_END + 4) else { return Err(damaged) };
        let computed = crc32c::crc32c(&fields[..CHECKED_END - STAMP_BYTES]);
        let mut topic_id = [0; 16];
        fields.copy_to_slice(&mut topic_id);
        let partition = PartitionIndex(fields.get_i32_le());
        let _reserved = fields.get_u32_le();
        let base_offset = Offset(fields.get_i64_le());
        let created_at = Timestamp(fields.get_i64_le());
        if fields.get_u32_le() != computed {
            return Err(damaged);
        }
        let partition = TopicPartition { topic_id: TopicId::from_bytes(topic_id), partition };
        Ok((Self { partition, base_offset, created_at }, identity))
    }
}

/// How far a segment reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length of the file up to the end of its last batch.
    pub file_bytes: u64,
    /// First offset after the last batch.
    pub next_offset: Offset,
}

/// What the segments of a data directory share; cheap to clone.
#[derive(Clone, Debug)]
pub struct SegmentHome {
    /// The disk that they are on.
    pub disk: Arc<dyn Disk>,
    /// Whose they are.
    pub identity: Identity,
    /// Where the indexes of those are that are sealed.
    pub indexes: Arc<IndexCache>,
}

impl SegmentHome {
    /// For whoever looks at segments one by one.
    pub fn new(disk: &Arc<dyn Disk>, identity: Identity) -> Self {
        let indexes = Arc::new(IndexCache::new(0, Gauge::default()));
        Self { disk: Arc::clone(disk), identity, indexes }
    }
}

/// Where a segment's index is while it is in memory.
#[derive(Debug)]
enum IndexPlace {
    /// Of one that may grow: here. After a restart there is none until somebody reads.
    Here(Option<SegmentIndex>),
    /// Of one that is sealed: with those of others.
    Cache,
}

/// One segment file. Shared by readers; written by the write-behind lane alone.
#[derive(Debug)]
pub struct Segment {
    home: SegmentHome,
    /// Its number in the cache of indexes.
    number: u64,
    path: PathBuf,
    header: SegmentHeader,
    extent: Mutex<Extent>,
    index: Mutex<IndexPlace>,
    /// Largest timestamp, once the segment is sealed and somebody asked.
    sealed_max_timestamp: Mutex<Option<Timestamp>>,
    /// It has left the log, and its files are going.
    is_removed: AtomicBool,
}

impl Segment {
    /// Makes a segment file. Its name is durable once the directory is synced.
    pub fn create(home: &SegmentHome, directory: &Path, header: SegmentHeader) -> io::Result<(Self, SegmentWriter)> {
        let path = directory.join(segment_file_name(header.base_offset));
        let file = home.disk.open(&path, Open::CreateEmpty)?;
        file.write_all_at(&header.encode(&home.identity), 0)?;
        let extent = Extent { file_bytes: SEGMENT_HEADER_BYTES, next_offset: header.base_offset };
        let writer = SegmentWriter::new(&home.disk, &path, file);
        let segment = Self::existing(home, path, header, extent);
        *segment.index.lock() = IndexPlace::Here(Some(SegmentIndex::new(header.base_offset)));
        Ok((segment, writer))
    }

    /// Takes a segment file that exists, as one that is sealed; its extent is the caller's knowledge.
    pub fn existing(home: &SegmentHome, path: PathBuf, header: SegmentHeader, extent: Extent) -> Self {
        let number = home.indexes.next_number();
        let (extent, index) = (Mutex::new(extent), Mutex::new(IndexPlace::Cache));
        let (sealed_max_timestamp, is_removed) = (Mutex::new(None), AtomicBool::new(false));
        Self { home: home.clone(), number, path, header, extent, index, sealed_max_timestamp, is_removed }
    }

    /// It may grow from here on.
    pub fn open_to_append(&self) {
        let mut index = self.index.lock();
        if matches!(*index, IndexPlace::Cache) {
            *index = IndexPlace::Here(None);
        }
    }

    /// Takes a sealed segment's largest timestamp from who knows it, which spares reading the index.
    pub fn know_max_timestamp(&self, max_timestamp: Timestamp) {
        if max_timestamp != Timestamp::NONE {
            *self.sealed_max_timestamp.lock() = Some(max_timestamp);
        }
    }

    /// The largest timestamp of a sealed segment, if somebody has asked for it or knew it.
    pub fn known_max_timestamp(&self) -> Timestamp {
        self.sealed_max_timestamp.lock().unwrap_or(Timestamp::NONE)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset of the first batch.
    pub const fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// When the segment was begun.
    pub const fn created_at(&self) -> Timestamp {
        self.header.created_at
    }

    /// How far it reaches now.
    pub fn extent(&self) -> Extent {
        *self.extent.lock()
    }

    /// True before the first batch.
    pub fn is_empty(&self) -> bool {
        self.extent().file_bytes == SEGMENT_HEADER_BYTES
    }

    /// Appends whole batches at the end. The writer is kept by the lane.
    pub fn append(&self, writer: &mut SegmentWriter, batches: &[Batch]) -> io::Result<()> {
        writer.write(batches, self.extent().file_bytes)?;
        // After a restart there is no index until somebody reads: building it here would hold up the journal's release.
        let mut index = self.index.lock();
        let mut extent = self.extent.lock();
        for batch in batches {
            if let IndexPlace::Here(Some(index)) = &mut *index {
                let belongs = index.observe(batch.header(), extent.file_bytes);
                assert!(belongs.is_ok(), "a batch of another segment was appended: {belongs:?}");
            }
            extent.file_bytes += batch.bytes().len() as u64;
            extent.next_offset = batch.header().next_offset();
        }
        Ok(())
    }

    /// Writes the index beside the segment, which has got its last batch. Failing costs a rebuild later, nothing else.
    pub fn store_index(&self) -> Result<(), ReadError> {
        let extent = self.extent();
        let encode = |index: &SegmentIndex| {
            (index.encode(&self.home.identity, extent.next_offset, extent.file_bytes), index.max_timestamp())
        };
        let (content, max_timestamp) = self.with_index(encode)?;
        self.know_max_timestamp(max_timestamp);
        let file = self.home.disk.open(&self.index_path(), Open::CreateEmpty).map_err(|error| self.io_error(error))?;
        file.write_all_at(&content, 0).map_err(|error| self.io_error(error))
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// It is sealed, and gets nothing more. Its index is loaded again when somebody reads.
    pub fn note_sealed(&self) {
        *self.index.lock() = IndexPlace::Cache;
    }

    /// Largest timestamp of all batches written so far. May read the segment's headers.
    pub fn newest_timestamp(&self) -> Result<Timestamp, ReadError> {
        self.with_index(SegmentIndex::max_timestamp)
    }

    /// Largest timestamp of all batches of a sealed segment. Reads the index the first time.
    pub fn sealed_max_timestamp(&self) -> Result<Timestamp, ReadError> {
        if let Some(known) = *self.sealed_max_timestamp.lock() {
            return Ok(known);
        }
        // All are asked by retention, which is no reason to keep their indexes.
        let found = self.load_index()?.max_timestamp();
        *self.sealed_max_timestamp.lock() = Some(found);
        Ok(found)
    }

    /// The batches from the one that holds `from` on, each with its checksum verified. Blocks.
    pub fn batches(&self, from: Offset) -> impl Iterator<Item = Result<Batch, ReadError>> + use<> {
        let path = self.path.clone();
        let (scan, failed) = match self.scan(SEGMENT_HEADER_BYTES, Offset::MAX) {
            Ok(scan) => (Some(scan), None),
            Err(error) => (None, Some(Err(error))),
        };
        let verified = scan.into_iter().flatten().map(move |scanned| {
            let Scanned { batch, position: file_offset } = scanned?;
            let damaged = |error| ReadError::Corrupt { path: path.clone(), file_offset, error };
            batch.verify_checksum().map_err(damaged)?;
            Ok(batch)
        });
        let is_wanted = move |batch: &Result<Batch, ReadError>| {
            batch.as_ref().map_or(true, |batch| batch.header().next_offset() > from)
        };
        failed.into_iter().chain(verified).filter(is_wanted)
    }

    fn with_index<T>(&self, then: impl FnOnce(&SegmentIndex) -> T) -> Result<T, ReadError> {
        let mut place = self.index.lock();
        match &mut *place {
            IndexPlace::Here(Some(index)) => Ok(then(index)),
            IndexPlace::Here(None) => {
                drop(place);
                self.with_growing_index(then)
            }
            IndexPlace::Cache => {
                let index = match self.home.indexes.get(self.number) {
                    Some(index) => index,
                    // Under the lock, so that many readers load it once.
                    None => {
                        let index = Arc::new(self.load_index()?);
                        self.home.indexes.keep(self.number, Arc::clone(&index));
                        index
                    }
                };
                drop(place);
                Ok(then(&index))
            }
        }
    }

    /// Builds the index of a segment that may grow meanwhile: not under the lock, for which write-behind would wait.
    fn with_growing_index<T>(&self, then: impl FnOnce(&SegmentIndex) -> T) -> Result<T, ReadError> {
        let (mut built, mut reached) = (SegmentIndex::new(self.base_offset()), SEGMENT_HEADER_BYTES);
        loop {
            let extent = self.extent();
            self.observe(&mut built, reached..extent.file_bytes)?;
            reached = extent.file_bytes;
            let mut place = self.index.lock();
            match &mut *place {
                // Another reader was faster, or the segment was cut.
                IndexPlace::Here(Some(index)) => return Ok(then(index)),
                IndexPlace::Here(none) if self.extent() == extent => return Ok(then(none.insert(built))),
                IndexPlace::Here(_) => {}
                IndexPlace::Cache => {
                    drop(place);
                    return self.with_index(then);
                }
            }
        }
    }

    fn load_index(&self) -> Result<SegmentIndex, ReadError> {
        let extent = self.extent();
        if let Ok(content) = read_file(&*self.home.disk, &self.index_path(), INDEX_LIMIT_BYTES)
            && let Some(index) =
                SegmentIndex::decode(&content, &self.home.identity, self.base_offset(), extent.file_bytes)
        {
            return Ok(index);
        }
        let mut index = SegmentIndex::new(self.base_offset());
        self.observe(&mut index, SEGMENT_HEADER_BYTES..extent.file_bytes)?;
        Ok(index)
    }

    /// Has an index know the batches in a range of the file, as far as they are whole.
    fn observe(&self, index: &mut SegmentIndex, range: Range<u64>) -> Result<(), ReadError> {
        for scanned in self.scan_range(range, Offset::MAX, usize::MAX)? {
            let observed = scanned.and_then(|Scanned { batch, position }| {
                index.observe(batch.header(), position).map_err(|error| self.corrupt(position, error))
            });
            match observed {
                Ok(()) => {}
                // What is before the damage can be found; a read beyond it runs into it, and says so.
                Err(error @ ReadError::Corrupt { .. }) => {
                    tracing::error!(%error, "segment is indexed as far as its damage");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Walks the batches from `position` on while they end at or below `bound`.
    pub fn scan(&self, position: u64, bound: Offset) -> Result<BatchScan, ReadError> {
        self.scan_by(position, bound, usize::MAX)
    }

    /// Like [`Self::scan`], reading about `chunk_bytes` at a time, for a caller that wants no more than that.
    fn scan_by(&self, position: u64, bound: Offset, chunk_bytes: usize) -> Result<BatchScan, ReadError> {
        self.scan_range(position..self.extent().file_bytes, bound, chunk_bytes)
    }

    fn scan_range(&self, range: Range<u64>, bound: Offset, chunk_bytes: usize) -> Result<BatchScan, ReadError> {
        BatchScan::open(&*self.home.disk, self.path.clone(), range, bound, chunk_bytes)
            .map_err(|error| self.io_error(error))
    }

    /// Reads whole batches from the one that holds `from` up to `bound`, at most `max_bytes` of them but at least one. Offsets
    /// are dense: a batch that does not continue the one before is damage, and nothing is passed over in silence.
    pub fn read(&self, from: Offset, bound: Offset, max_bytes: usize) -> Result<Vec<Bytes>, ReadError> {
        let extent = self.extent();
        let (position, end) = self.with_index(|index| {
            let position = index.position_of_offset(from).unwrap_or(SEGMENT_HEADER_BYTES);
            (position, index.end_of_batches(position, max_bytes))
        })?;
        // What the index knows to be whole batches is read at once, and nothing after it.
        let range = position..end.map_or(extent.file_bytes, |end| end.min(extent.file_bytes));
        let scan = self.scan_range(range, bound, max_bytes)?.limited(from, max_bytes);
        let mut taken: Vec<Bytes> = Vec::new();
        let mut next = from;
        for scanned in scan {
            match scanned.and_then(|scanned| self.verified(scanned, next, taken.is_empty())) {
                Ok(batch) => {
                    next = batch.header().next_offset();
                    taken.push(batch.bytes().clone());
                }
                Err(error) if taken.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if taken.is_empty() && from < extent.next_offset && extent.next_offset <= bound {
            return Err(self.missing(from, extent.next_offset));
        }
        Ok(taken)
    }

    /// The batch, if its checksum is right and it holds `next`, or begins there unless it is the first.
    fn verified(&self, scanned: Scanned, next: Offset, is_first: bool) -> Result<Batch, ReadError> {
        let Scanned { batch, position } = scanned;
        let base_offset = batch.header().base_offset;
        if base_offset > next || (!is_first && base_offset < next) {
            return Err(self.missing(next, base_offset.max(next)));
        }
        batch.verify_checksum().map_err(|error| self.corrupt(position, error))?;
        Ok(batch)
    }

    fn missing(&self, from: Offset, to: Offset) -> ReadError {
        ReadError::Missing(Missing { partition: self.header.partition, from, to })
    }

    /// The first batch that ends between `from` and `bound` and whose largest timestamp is at least `timestamp`.
    pub fn find_timestamp(
        &self,
        timestamp: Timestamp,
        from: Offset,
        bound: Offset,
    ) -> Result<Option<Batch>, ReadError> {
        let position = self.with_index(|index| index.position_of_timestamp(timestamp))?;
        let Some(position) = position else { return Ok(None) };
        for scanned in self.scan_by(position, bound, SEARCH_BYTES)? {
            let header = *scanned.as_ref().map_err(Clone::clone)?.batch.header();
            if header.max_timestamp >= timestamp && header.next_offset() > from {
                return scanned.map(|scanned| Some(scanned.batch));
            }
        }
        Ok(None)
    }

    /// Cuts the segment so that it ends at or before `end`; what is cut off is gone.
    pub fn truncate(&self, writer: &SegmentWriter, end: Offset) -> Result<(), ReadError> {
        let mut index = SegmentIndex::new(self.base_offset());
        let mut extent = Extent { file_bytes: SEGMENT_HEADER_BYTES, next_offset: self.base_offset() };
        let mut scan = self.scan(SEGMENT_HEADER_BYTES, end)?;
        // What follows the cut may be torn, and is not looked at.
        while extent.next_offset < end
            && let Some(scanned) = scan.next()
        {
            let Scanned { batch, position } = scanned?;
            index.observe(batch.header(), position).map_err(|error| self.corrupt(position, error))?;
            extent.file_bytes = position + batch.bytes().len() as u64;
            extent.next_offset = batch.header().next_offset();
        }
        // Grown to the same length again it would pass for the new one's.
        self.remove_index().map_err(|error| self.io_error(error))?;
        writer.set_length(extent.file_bytes).map_err(|error| self.io_error(error))?;
        let mut place = self.index.lock();
        *place = IndexPlace::Here(Some(index));
        self.home.indexes.forget(self.number);
        drop(place);
        *self.extent.lock() = extent;
        // It may grow again.
        *self.sealed_max_timestamp.lock() = None;
        Ok(())
    }

    /// Removes the files, as far as they are there. Readers that have the segment open keep reading; others are told that it
    /// is gone.
    pub fn remove(&self) -> io::Result<()> {
        self.is_removed.store(true, Ordering::Release);
        self.remove_file(&self.index_path())?;
        self.remove_file(&self.path)
    }

    /// Removes the index's file, if there is one.
    pub fn remove_index(&self) -> io::Result<()> {
        self.remove_file(&self.index_path())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match self.home.disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn io_error(&self, error: io::Error) -> ReadError {
        if error.kind() == io::ErrorKind::NotFound && self.is_removed.load(Ordering::Acquire) {
            return ReadError::Removed { path: self.path.clone() };
        }
        ReadError::Io { path: self.path.clone(), error: Arc::new(error) }
    }

    fn corrupt(&self, file_offset: u64, error: crate::record::RecordError) -> ReadError {
        ReadError::Corrupt { path: self.path.clone(), file_offset, error }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.home.indexes.forget(self.number);
    }
}

//! Runs: the parts of a chunk that are read alone, for readers that jump.
//!
//! A run is a sixteenth of a chunk or a little more, about a megabyte, of whole batches. The footer's key-value list has under
//! [`RUNS_KEY`] an array for each row group, of an array [offsets covered, rows, xxh3-64 over its batches] for each run: a run is
//! proven as a chunk is, by a checksum that was made from the producer's own batches. Chunks that also have batches beside their
//! rows have no runs, and are read as a whole. The page index of the file says where the rows of a run lie.

use std::ops::Range;
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection};
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::index_reader::decode_offset_index;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use xxhash_rust::xxh3::Xxh3;

use super::DecodeError;
use super::decode::{FileMetadata, guarded, reader_options};
use super::schema::is_of_headers;
use crate::archive::manifest::Chunk;
use crate::types::Offset;

/// Footer key of the runs.
pub(super) const RUNS_KEY: &str = "alluvium.runs";
/// Runs of a full chunk.
const RUNS_PER_CHUNK: u64 = 16;
/// A chunk of fewer runs is read as a whole: that is not much more.
const RUNS_MIN: usize = 4;

const PAGE_INDEX: &str = "the Parquet reader cannot cope with a page index";

/// A run as stored: offsets covered, rows, checksum.
type RunRow = (u64, u64, u64);

/// The runs of a file, by row group.
pub(super) type FileRuns = Vec<Vec<RunRow>>;

/// One run of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// First offset covered.
    pub base: Offset,
    /// First offset after.
    pub next: Offset,
    /// Its rows in the row group.
    pub rows: Range<u64>,
    /// xxh3-64 over its batches, uncompressed.
    pub hash: u64,
}

/// Divides a chunk into runs while it is encoded.
pub(super) struct RunsBuilder {
    limit: u64,
    base: Offset,
    rows: u64,
    bytes: u64,
    hash: Xxh3,
    runs: Vec<RunRow>,
}

impl RunsBuilder {
    /// For a chunk that begins at `base`, with chunks of about `chunk_bytes`.
    pub(super) fn new(base: Offset, chunk_bytes: u64) -> Self {
        let limit = chunk_bytes.div_ceil(RUNS_PER_CHUNK).max(1);
        Self { limit, base, rows: 0, bytes: 0, hash: Xxh3::new(), runs: Vec::new() }
    }

    /// Adds a batch that became `rows` rows.
    pub(super) fn add(&mut self, base: Offset, bytes: &[u8], rows: u64) {
        if self.bytes >= self.limit {
            self.end_run(base);
        }
        self.rows += rows;
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// The runs, of a chunk that ends at `next`.
    pub(super) fn finish(mut self, next: Offset) -> Vec<RunRow> {
        self.end_run(next);
        self.runs
    }

    fn end_run(&mut self, next: Offset) {
        self.runs.push(((next - self.base).cast_unsigned(), self.rows, self.hash.digest()));
        self.base = next;
        self.rows = 0;
        self.bytes = 0;
        self.hash = Xxh3::new();
    }
}

/// Checks the runs of a chunk against its batches, in order.
pub(super) struct RunsCheck {
    runs: std::vec::IntoIter<Run>,
    run: Option<Run>,
    rows: u64,
    hash: Xxh3,
}

impl RunsCheck {
    pub(super) fn new(runs: Vec<Run>) -> Self {
        let mut runs = runs.into_iter();
        Self { run: runs.next(), runs, rows: 0, hash: Xxh3::new() }
    }

    /// Takes in the next batch.
    pub(super) fn add(&mut self, base: Offset, bytes: &[u8], rows: u64) -> Result<(), DecodeError> {
        if self.run.as_ref().is_some_and(|run| base >= run.next) {
            self.end_run()?;
        }
        self.rows += rows;
        self.hash.update(bytes);
        Ok(())
    }

    /// Checks the last run.
    pub(super) fn finish(mut self) -> Result<(), DecodeError> {
        self.end_run()?;
        match self.run {
            Some(run) => Err(DecodeError::Malformed { what: "a chunk has more runs than batches", at: run.base.0 }),
            None => Ok(()),
        }
    }

    fn end_run(&mut self) -> Result<(), DecodeError> {
        if let Some(run) = self.run.take()
            && (run.hash != self.hash.digest() || run.rows.end - run.rows.start != self.rows)
        {
            return Err(DecodeError::Malformed { what: "a run is not what its checksum says", at: run.base.0 });
        }
        self.run = self.runs.next();
        self.rows = 0;
        self.hash = Xxh3::new();
        Ok(())
    }
}

/// The footer's value.
pub(super) fn to_json(runs: &FileRuns) -> String {
    serde_json::to_string(runs).expect("runs are numbers")
}

/// Reads the footer's value; a file without it has no runs.
pub(super) fn parse(value: Option<&str>) -> Result<FileRuns, DecodeError> {
    let not_understood = |_| DecodeError::Malformed { what: "runs of the footer are not understood", at: 0 };
    value.map_or_else(|| Ok(Vec::new()), |json| serde_json::from_str(json).map_err(not_understood))
}

/// The runs of a chunk; none when it is only read as a whole.
pub(super) fn of_chunk(runs: &FileRuns, chunk: &Chunk) -> Vec<Run> {
    let rows = runs.get(chunk.row_group).filter(|_| chunk.rows > 0).map_or(&[][..], Vec::as_slice);
    let (mut base, mut row) = (chunk.base, 0_u64);
    let runs = rows.iter().map(|&(offsets, rows, hash)| {
        let next = Offset(base.0.saturating_add_unsigned(offsets));
        let run = Run { base, next, rows: row..row.saturating_add(rows), hash };
        base = next;
        row = run.rows.end;
        run
    });
    runs.collect()
}

/// Where the pages of one row group lie.
#[derive(Clone, Debug)]
pub struct RowGroupPages {
    pub(super) arrow: ArrowReaderMetadata,
    index: Arc<PageIndex>,
    row_group: usize,
}

#[derive(Debug)]
struct PageIndex {
    row_group: usize,
    columns: Vec<OffsetIndexMetaData>,
}

impl PageIndexProvider for PageIndex {
    fn has_offset_indexes(&self) -> bool {
        true
    }

    fn has_column_indexes(&self) -> bool {
        false
    }

    fn column_index(&self, _row_group: usize, _column: usize) -> Option<&ColumnIndexMetaData> {
        None
    }

    fn offset_index(&self, row_group: usize, column: usize) -> Option<&OffsetIndexMetaData> {
        self.columns.get(column).filter(|_| row_group == self.row_group)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl FileMetadata {
    /// The run of a chunk that covers `offset`; `None` when the chunk is only read as a whole.
    pub fn run_at(&self, chunk: &Chunk, offset: Offset) -> Option<Run> {
        let runs = Some(of_chunk(&self.runs, chunk)).filter(|runs| runs.len() >= RUNS_MIN)?;
        runs.into_iter().find(|run| offset < run.next)
    }

    /// The bytes that say where the pages of a row group lie.
    pub fn page_index_range(&self, row_group: usize) -> Option<Range<u64>> {
        let columns = self.arrow.metadata().row_groups().get(row_group)?.columns();
        let ranges = columns.iter().map(parquet::file::metadata::ColumnChunkMetaData::offset_index_range);
        ranges.reduce(|one, two| one.zip(two).map(|(one, two)| one.start.min(two.start)..one.end.max(two.end)))?
    }

    /// Where the pages of a row group lie, out of the bytes of [`Self::page_index_range`].
    pub fn pages(&self, row_group: usize, index: &[u8]) -> Result<RowGroupPages, DecodeError> {
        guarded(PAGE_INDEX, Offset(0), || self.pages_unguarded(row_group, index))
    }

    fn pages_unguarded(&self, row_group: usize, index: &[u8]) -> Result<RowGroupPages, DecodeError> {
        let lacking = || DecodeError::Malformed { what: "Parquet file lacks a page index", at: 0 };
        let start = self.page_index_range(row_group).ok_or_else(lacking)?.start;
        let metadata = self.arrow.metadata();
        let columns = metadata.row_group(row_group).columns().iter().map(|column| {
            let range = column.offset_index_range().ok_or_else(lacking)?;
            let position = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            let bytes = index.get(position(range.start)..position(range.end)).ok_or_else(lacking)?;
            Ok::<_, DecodeError>(decode_offset_index(bytes)?)
        });
        let index = Arc::new(PageIndex { row_group, columns: columns.collect::<Result<_, _>>()? });
        let provider = Arc::clone(&index) as Arc<dyn PageIndexProvider>;
        let metadata = metadata.as_ref().clone().into_builder().set_page_index(Some(provider)).build();
        let arrow = ArrowReaderMetadata::try_new(Arc::new(metadata), reader_options())?;
        Ok(RowGroupPages { arrow, index, row_group })
    }
}

impl RowGroupPages {
    /// The bytes that the rows of a run are decoded from, in order of position. All lie within the chunk.
    pub fn ranges(&self, chunk: &Chunk, run: &Run) -> Result<Vec<Range<u64>>, DecodeError> {
        let ranges = guarded(PAGE_INDEX, chunk.base, || Ok(self.claimed_ranges(&run.rows)))?;
        let within = |range: &Range<u64>| {
            chunk.parquet.start <= range.start && range.start <= range.end && range.end <= chunk.parquet.end
        };
        match ranges.iter().all(within) {
            true => Ok(ranges),
            false => Err(DecodeError::Malformed { what: "a page lies outside its row group", at: chunk.base.0 }),
        }
    }

    fn claimed_ranges(&self, rows: &Range<u64>) -> Vec<Range<u64>> {
        let group = self.arrow.metadata().row_group(self.row_group);
        let selections = [false, true].map(|is_of_headers| self.selection(rows, is_of_headers));
        let mut ranges = Vec::new();
        for (at, (column, index)) in group.columns().iter().zip(&self.index.columns).enumerate() {
            let pages = index.page_locations();
            let (start, length) = column.byte_range();
            // What lies before the first data page is the dictionary.
            let first = pages.first().map_or(start + length, |page| page.offset.unsigned_abs());
            if start < first {
                ranges.push(start..first);
            }
            ranges.extend(selections[usize::from(is_of_headers(at))].scan_ranges(pages));
        }
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// What is read for some rows: they alone, or for headers everything before them too.
    pub(super) fn selection(&self, rows: &Range<u64>, is_of_headers: bool) -> RowSelection {
        let all = usize::try_from(self.arrow.metadata().row_group(self.row_group).num_rows()).unwrap_or(0);
        let place = |row: u64| usize::try_from(row).unwrap_or(usize::MAX).min(all);
        let start = if is_of_headers { 0 } else { place(rows.start) };
        RowSelection::from_consecutive_ranges(std::iter::once(start..place(rows.end)), all)
    }
}

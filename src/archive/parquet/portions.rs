//! The rows of a row group, some at a time: all of them, or those of one run.
//!
//! For a run the Parquet reader is told to skip what comes before it. Within a page it skips a list by its levels, and goes
//! round for ever when damage has made those end early. So lists, which are the headers, are read from the row group's first
//! row on and dropped as far as they are not wanted; everything else is skipped.

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use std::ops::Range;
use std::sync::Arc;

use super::parts::Parts;
use super::runs::RowGroupPages;
use super::{DecodeError, schema};
use crate::archive::manifest::Chunk;

/// Most rows, and about how many bytes, that are decoded at a time.
const PORTION_ROWS: usize = 8192;
const PORTION_BYTES: u64 = 1 << 20;

/// See the module.
pub(super) struct Portions {
    rows: Reader,
    headers: Option<Reader>,
}

/// One reader, and what it gave and was not taken yet.
struct Reader {
    portions: ParquetRecordBatchReader,
    /// Rows to drop from the front.
    skipped: usize,
    left: Option<RecordBatch>,
}

impl Portions {
    /// All rows of a chunk.
    pub(super) fn of_chunk(metadata: &ArrowReaderMetadata, chunk: &Chunk, parts: Parts) -> Result<Self, DecodeError> {
        Ok(Self { rows: Reader::new(open(metadata, chunk, parts)?.build()?, 0), headers: None })
    }

    /// Some columns of all rows of a chunk.
    pub(super) fn of_columns(
        metadata: &ArrowReaderMetadata,
        chunk: &Chunk,
        parts: Parts,
        columns: &[usize],
    ) -> Result<Self, DecodeError> {
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), columns.iter().copied());
        let reader = open(metadata, chunk, parts)?.with_projection(mask).build()?;
        Ok(Self { rows: Reader::new(reader, 0), headers: None })
    }

    /// The rows of a run, out of the bytes of [`RowGroupPages::ranges`].
    pub(super) fn of_run(
        pages: &RowGroupPages,
        chunk: &Chunk,
        rows: &Range<u64>,
        parts: Parts,
    ) -> Result<Self, DecodeError> {
        let reader = |parts: Parts, is_of_headers: bool| {
            let columns = 0..pages.arrow.parquet_schema().num_columns();
            let columns = columns.filter(|&column| schema::is_of_headers(column) == is_of_headers);
            let mask = ProjectionMask::leaves(pages.arrow.parquet_schema(), columns);
            let selection = pages.selection(rows, is_of_headers);
            open(&pages.arrow, chunk, parts)?.with_projection(mask).with_row_selection(selection).build()
        };
        let skipped = usize::try_from(rows.start).unwrap_or(usize::MAX);
        let headers = Some(Reader::new(reader(parts.clone(), true)?, skipped));
        Ok(Self { rows: Reader::new(reader(parts, false)?, 0), headers })
    }

    /// The next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>, DecodeError> {
        let Some(rows) = self.rows.next()? else { return Ok(None) };
        let Some(headers) = &mut self.headers else { return Ok(Some(rows)) };
        let lacking = DecodeError::Schema { column: schema::HEADERS };
        let beside = headers.next()?.ok_or(lacking)?;
        let count = rows.num_rows().min(beside.num_rows());
        let (rows, beside) = (self.rows.keep_rest(rows, count), headers.keep_rest(beside, count));
        let fields = [rows.schema(), beside.schema()].map(|schema| schema.fields().to_vec()).concat();
        let columns = [rows.columns(), beside.columns()].concat();
        let joined = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
        Ok(Some(joined.map_err(ParquetError::from)?))
    }
}

impl Reader {
    const fn new(portions: ParquetRecordBatchReader, skipped: usize) -> Self {
        Self { portions, skipped, left: None }
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, DecodeError> {
        if self.left.is_some() {
            return Ok(self.left.take());
        }
        loop {
            let next = self.portions.next().transpose();
            let Some(portion) = next.map_err(|error: ArrowError| ParquetError::from(error))? else { return Ok(None) };
            let dropped = self.skipped.min(portion.num_rows());
            self.skipped -= dropped;
            if dropped < portion.num_rows() {
                return Ok(Some(portion.slice(dropped, portion.num_rows() - dropped)));
            }
        }
    }

    /// The first `count` rows of what was given last; the others come again.
    fn keep_rest(&mut self, portion: RecordBatch, count: usize) -> RecordBatch {
        let rest = portion.num_rows() - count;
        if rest == 0 {
            return portion;
        }
        self.left = Some(portion.slice(count, rest));
        portion.slice(0, count)
    }
}

fn open(
    metadata: &ArrowReaderMetadata,
    chunk: &Chunk,
    parts: Parts,
) -> Result<ParquetRecordBatchReaderBuilder<Parts>, ParquetError> {
    if chunk.row_group >= metadata.metadata().num_row_groups() {
        return Err(ParquetError::General("Parquet file lacks a row group".to_owned()));
    }
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(parts, metadata.clone())
        .with_row_groups(vec![chunk.row_group])
        .with_batch_size(portion_rows(chunk)))
}

/// Rows to decode at a time: about a portion's bytes, so that they are still in the processor's cache when they are used.
fn portion_rows(chunk: &Chunk) -> usize {
    let rows = chunk.rows.saturating_mul(PORTION_BYTES) / chunk.raw_bytes.max(1);
    usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, PORTION_ROWS)
}

//! The columns of an archived record, and how each is written.
//!
//! Field ids are fixed for ever: 1–99 are the broker's, columns typed by a user's schema begin at 1000. Small columns come
//! first, so that one request fetches them together, and `value` comes last. Plain and dictionary encodings in V1 pages only,
//! since engines that read the newer ones are not everywhere yet (decision 0011).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::arrow::{ArrowSchemaConverter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::{ColumnPath, SchemaDescPtr};

/// Partition number.
pub const PARTITION: &str = "kafka_partition";
/// The record's offset.
pub const OFFSET: &str = "kafka_offset";
/// The record's timestamp as consumers see it.
pub const TIMESTAMP: &str = "kafka_timestamp";
/// Leader epoch of the batch.
pub const LEADER_EPOCH: &str = "kafka_leader_epoch";
/// Base offset of the batch.
pub const BATCH_OFFSET: &str = "kafka_batch_offset";
/// Last offset of the batch minus its base offset.
pub const BATCH_LAST_DELTA: &str = "kafka_batch_last_delta";
/// Attributes of the batch as produced.
pub const BATCH_ATTRIBUTES: &str = "kafka_batch_attributes";
/// Producer id, or −1.
pub const PRODUCER_ID: &str = "kafka_producer_id";
/// Producer epoch, or −1.
pub const PRODUCER_EPOCH: &str = "kafka_producer_epoch";
/// Sequence of the batch's first record, or −1.
pub const BASE_SEQUENCE: &str = "kafka_base_sequence";
/// Base timestamp of the batch in milliseconds, where it is not the first record's.
pub const BATCH_BASE_TS: &str = "kafka_batch_base_ts";
/// Maximum timestamp of the batch in milliseconds, where it is not what the records say.
pub const BATCH_MAX_TS: &str = "kafka_batch_max_ts";
/// The producer's own timestamp, where the broker's replaced it (`LogAppendTime`).
pub const CREATE_TIMESTAMP: &str = "kafka_create_timestamp";
/// Headers.
pub const HEADERS: &str = "kafka_headers";
/// Key.
pub const KEY: &str = "key";
/// Value.
pub const VALUE: &str = "value";

/// Position of [`OFFSET`] among the leaf columns.
const OFFSET_COLUMN: i32 = 1;
/// Leaf columns that a search by timestamp needs: offset, timestamp and leader epoch.
pub(super) const SEARCH_COLUMNS: [usize; 3] = [1, 2, 3];

/// Leaf columns of the headers: their keys and values.
const HEADER_COLUMNS: [usize; 2] = [13, 14];

/// Values encoded between two looks at the page size, so that pages of large values end in time.
const WRITE_BATCH_ROWS: usize = 256;
const PAGE_ROWS: usize = 20_000;
const VALUE_PAGE_BYTES: usize = 128 << 10;
const KEY_PAGE_BYTES: usize = 64 << 10;
/// Bytes of a minimum or maximum that statistics keep.
const STATISTICS_BYTES: usize = 64;
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

fn field(id: i32, name: &str, data_type: DataType, nullable: bool) -> Field {
    let metadata = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    Field::new(name, data_type, nullable).with_metadata(metadata)
}

/// The type of a timestamp: microseconds, UTC, which is Iceberg's `timestamptz`.
pub(super) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The fields of one header.
pub(super) fn header_fields() -> Fields {
    Fields::from(vec![field(15, "key", DataType::Utf8, false), field(16, "value", DataType::Binary, true)])
}

/// One element of the list of headers.
pub(super) fn header_element() -> Arc<Field> {
    Arc::new(field(14, "element", DataType::Struct(header_fields()), false))
}

/// The schema of every archived file.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field(1, PARTITION, DataType::Int32, false),
        field(2, OFFSET, DataType::Int64, false),
        field(3, TIMESTAMP, timestamp_type(), false),
        field(4, LEADER_EPOCH, DataType::Int32, false),
        field(5, BATCH_OFFSET, DataType::Int64, false),
        field(6, BATCH_LAST_DELTA, DataType::Int32, false),
        field(7, BATCH_ATTRIBUTES, DataType::Int32, false),
        field(8, PRODUCER_ID, DataType::Int64, false),
        field(9, PRODUCER_EPOCH, DataType::Int32, false),
        field(10, BASE_SEQUENCE, DataType::Int32, false),
        field(11, BATCH_BASE_TS, DataType::Int64, true),
        field(12, BATCH_MAX_TS, DataType::Int64, true),
        field(19, CREATE_TIMESTAMP, timestamp_type(), true),
        field(13, HEADERS, DataType::List(header_element()), true),
        field(17, KEY, DataType::Binary, true),
        field(18, VALUE, DataType::Binary, true),
    ]))
}

/// The columns as Parquet has them.
pub(super) fn descriptor() -> SchemaDescPtr {
    static DESCRIPTOR: OnceLock<SchemaDescPtr> = OnceLock::new();
    let convert = || {
        let converted = ArrowSchemaConverter::new().convert(&schema());
        Arc::new(converted.expect("all types of the schema are ones that Parquet has"))
    };
    Arc::clone(DESCRIPTOR.get_or_init(convert))
}

/// Whether a leaf column is part of the headers.
pub(super) fn is_of_headers(column: usize) -> bool {
    HEADER_COLUMNS.contains(&column)
}

/// How the columns are written.
pub(super) fn writer_properties(rows_per_group: usize) -> WriterProperties {
    let column = |parts: &[&str]| ColumnPath::new(parts.iter().map(|&part| part.to_owned()).collect());
    let (offset, timestamp) = (column(&[OFFSET]), column(&[TIMESTAMP]));
    let (key, value) = (column(&[KEY]), column(&[VALUE]));
    let header_value = column(&[HEADERS, "list", "element", "value"]);
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("alluvium version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES))
        .set_column_statistics_enabled(offset.clone(), EnabledStatistics::Page)
        .set_column_statistics_enabled(timestamp.clone(), EnabledStatistics::Page)
        .set_sorting_columns(Some(vec![SortingColumn {
            column_idx: OFFSET_COLUMN,
            descending: false,
            nulls_first: false,
        }]))
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_column_bloom_filter_enabled(key.clone(), true)
        .set_column_bloom_filter_fpp(key.clone(), BLOOM_FALSE_POSITIVES)
        .set_column_bloom_filter_max_ndv(key.clone(), rows_per_group as u64)
        .set_column_data_page_size_limit(key.clone(), KEY_PAGE_BYTES)
        .set_column_data_page_size_limit(value.clone(), VALUE_PAGE_BYTES);
    for plain in [offset, timestamp, key, value, header_value] {
        properties =
            properties.set_column_dictionary_enabled(plain.clone(), false).set_column_encoding(plain, Encoding::PLAIN);
    }
    properties.build()
}

//! Records gathered into columns, up to the size at which they are handed to the Parquet writer.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, TimestampMicrosecondBuilder};
use arrow_array::builder::{BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use parquet::errors::ParquetError;

use super::schema::{header_element, header_fields};
use crate::record::{BatchHeader, Headers, RecordView, TimestampType};
use crate::types::{PartitionIndex, Timestamp};

/// Microseconds of a millisecond timestamp; `None` where it does not fit, as no real one does.
pub(super) fn micros(timestamp: Timestamp) -> Option<i64> {
    timestamp.0.checked_mul(1000)
}

/// What all rows of one batch share beyond its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchColumns {
    /// The batch.
    pub header: BatchHeader,
    /// Its base timestamp, where it is not the first record's.
    pub base_timestamp: Option<i64>,
    /// Its maximum timestamp, where it is not what the records say.
    pub max_timestamp: Option<i64>,
}

/// Builders of all columns.
pub(super) struct Rows {
    schema: SchemaRef,
    partition: PartitionIndex,
    partitions: Int32Builder,
    offsets: Int64Builder,
    timestamps: TimestampMicrosecondBuilder,
    leader_epochs: Int32Builder,
    batch_offsets: Int64Builder,
    last_deltas: Int32Builder,
    attributes: Int32Builder,
    producer_ids: Int64Builder,
    producer_epochs: Int32Builder,
    base_sequences: Int32Builder,
    base_timestamps: Int64Builder,
    max_timestamps: Int64Builder,
    create_timestamps: TimestampMicrosecondBuilder,
    headers: ListBuilder<StructBuilder>,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    bytes: usize,
}

impl Rows {
    pub(super) fn new(schema: SchemaRef, partition: PartitionIndex) -> Self {
        let header: Vec<Box<dyn ArrayBuilder>> = vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())];
        let header = StructBuilder::new(header_fields(), header);
        Self {
            schema,
            partition,
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            leader_epochs: Int32Builder::new(),
            batch_offsets: Int64Builder::new(),
            last_deltas: Int32Builder::new(),
            attributes: Int32Builder::new(),
            producer_ids: Int64Builder::new(),
            producer_epochs: Int32Builder::new(),
            base_sequences: Int32Builder::new(),
            base_timestamps: Int64Builder::new(),
            max_timestamps: Int64Builder::new(),
            create_timestamps: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            headers: ListBuilder::new(header).with_field(header_element()),
            keys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            bytes: 0,
        }
    }

    /// Key, value and header bytes gathered so far.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows gathered so far.
    pub(super) fn count(&self) -> usize {
        self.offsets.len()
    }

    /// Adds a record of a batch whose timestamps and header keys were found to fit.
    pub(super) fn append(&mut self, batch: &BatchColumns, record: &RecordView<'_>) {
        let header = &batch.header;
        let own = Timestamp(header.base_timestamp.0.wrapping_add(record.timestamp_delta));
        let (visible, created) = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => (own, None),
            TimestampType::LogAppendTime => (header.max_timestamp, micros(own)),
        };
        self.partitions.append_value(self.partition.0);
        self.offsets.append_value(header.base_offset.0 + i64::from(record.offset_delta));
        self.timestamps.append_value(micros(visible).expect("checked before a batch becomes rows"));
        self.leader_epochs.append_value(header.leader_epoch.0);
        self.batch_offsets.append_value(header.base_offset.0);
        self.last_deltas.append_value(header.last_offset_delta);
        self.attributes.append_value(i32::from(header.attributes.0));
        self.producer_ids.append_value(header.producer_id.0);
        self.producer_epochs.append_value(i32::from(header.producer_epoch.0));
        self.base_sequences.append_value(header.base_sequence);
        self.base_timestamps.append_option(batch.base_timestamp);
        self.max_timestamps.append_option(batch.max_timestamp);
        self.create_timestamps.append_option(created);
        self.append_headers(record.headers);
        self.keys.append_option(record.key);
        self.values.append_option(record.value);
        self.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    }

    /// A record without headers has a null list, which costs nothing.
    fn append_headers(&mut self, headers: Headers<'_>) {
        let any = headers.count_left() > 0;
        let element = self.headers.values();
        for header in headers {
            let key = std::str::from_utf8(header.key).expect("checked before a batch becomes rows");
            let keys: &mut StringBuilder = element.field_builder(0).expect("the first field of a header is its key");
            keys.append_value(key);
            let values: &mut BinaryBuilder = element.field_builder(1).expect("the second is its value");
            values.append_option(header.value);
            element.append(true);
            self.bytes += header.key.len() + header.value.map_or(0, <[u8]>::len);
        }
        self.headers.append(any);
    }

    /// Takes what was gathered and starts over.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ParquetError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.partitions.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.timestamps.finish()),
            Arc::new(self.leader_epochs.finish()),
            Arc::new(self.batch_offsets.finish()),
            Arc::new(self.last_deltas.finish()),
            Arc::new(self.attributes.finish()),
            Arc::new(self.producer_ids.finish()),
            Arc::new(self.producer_epochs.finish()),
            Arc::new(self.base_sequences.finish()),
            Arc::new(self.base_timestamps.finish()),
            Arc::new(self.max_timestamps.finish()),
            Arc::new(self.create_timestamps.finish()),
            Arc::new(self.headers.finish()),
            Arc::new(self.keys.finish()),
            Arc::new(self.values.finish()),
        ];
        self.bytes = 0;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

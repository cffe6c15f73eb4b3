//! Record batches (magic 2): bytes to values and back, with no IO and no clock.
//!
//! The format is Apache Kafka's (KIP-98, `DefaultRecordBatch`), kept byte for byte: what a client sent is what is
//! stored and sent on. [`Batch`] is a checked view over shared bytes; nothing on the produce or fetch path decodes
//! records unless a rule forces it. Callers are `log`, `archive`, `group` and the command line. Everything here accepts
//! hostile bytes without panicking and allocates no more than the caller's limit.

mod batch;
mod builder;
pub mod compression;
mod control;
mod error;
mod header;
mod scan;
mod validate;
mod varint;
mod view;

#[cfg(test)]
mod tests;

pub use batch::{Batch, Batches, place as place_batch};
pub use builder::{BatchBuilder, BatchOptions};
pub use compression::MAX_DECOMPRESSED_BYTES;
pub use control::{EndTransactionMarker, TransactionResult};
pub use error::{RecordError, RejectedRecord, Rejection};
pub use header::{Attributes, BatchHeader, Compression, HEADER_BYTES, TimestampType};
pub use validate::{MAX_REJECTED_RECORDS, ProduceRules, validate};
pub use view::{HeaderView, Headers, Record, RecordView, Records};

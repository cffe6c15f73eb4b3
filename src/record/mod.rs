//! Record batches (magic 2): bytes to values and back, with no IO and no clock.
//!
//! The format is Apache Kafka's (KIP-98, `DefaultRecordBatch`), kept byte for byte: what a client sent is what is stored
//! and sent on. [`Batch`] is a checked view over shared bytes; nothing on the produce or fetch path decodes records unless
//! a rule forces it. Callers are `log`, `archive`, `group` and the command line. Everything here accepts hostile bytes
//! without panicking and allocates no more than the caller's limit.

mod batch;
mod error;
mod header;
mod varint;
mod view;

pub use batch::{Batch, Batches};
pub use error::RecordError;
pub use header::{Attributes, BatchHeader, Compression, HEADER_BYTES, TimestampType};
pub use view::{HeaderView, Headers, RecordView, Records};

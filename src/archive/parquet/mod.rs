//! Parquet.

/// Bytes before the first part of a companion object.
pub const COMPANION_HEADER_BYTES: u64 = 16;

//! Sealed segments as Parquet in object storage: format, commit protocol, reading, retention.

//! The archive: sealed segments become Parquet in object storage, and serve fetches from there.
pub mod bucket;
pub mod key;
pub mod manifest;
pub mod parquet;
pub mod partition;
pub mod spool;
pub mod store;
pub mod uploader;
pub mod workers;

//! The archive: sealed segments become Parquet in object storage, and serve fetches from there.
pub mod key;
pub mod manifest;
pub mod parquet;
pub mod store;
pub mod workers;

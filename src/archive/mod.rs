//! The archive: sealed segments become Parquet in object storage, serve fetches from there, and are a table for everyone else.
//!
//! ```text
//! planner ─▶ uploader ─▶ parquet (encode, verify) ─▶ spool ─▶ store ─▶ head          written
//! fetch ─▶ remote_reader ─▶ chunk_source ─▶ store ─▶ parquet (decode) ─▶ chunk_cache   read
//! cleaner: retention, tombstones, orphans      inspect: the bucket alone, for tools
//! ```
//! The broker drives it; nothing here knows the hot log, the wire or other brokers. What is archived is what a partition's
//! [`manifest::Head`] says, and that changes only by conditional writes. A crash at any point leaves committed segments and
//! at most some objects that no head names. Store operations are async; encoding and decoding are synchronous and run on
//! [`workers::Workers`]. Formats: `src/docs/formats/archive.md`; reasons: decisions 0010 to 0019, 0024 to 0026, 0043, 0044,
//! 0047 and 0049.

pub mod bucket;
pub mod chunk_cache;
mod chunk_source;
pub mod cleaner;
pub mod heads;
pub mod inspect;
pub mod key;
pub mod manifest;
pub mod parquet;
pub mod partition;
pub mod planner;
mod rebuilt_chunk;
mod recent;
pub mod remote_reader;
pub mod spool;
pub mod store;
pub mod uploader;
pub mod workers;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

//! Formats, byte by byte: what every later version of alluvium must be able to read.
//!
//! `tests/fixtures/format-N` keeps a small data directory with its bucket as the last version of format N left it, killed with
//! work under way, and what consumers saw then. `tests/formats` opens a copy of each with the broker of today. A change of any
//! format that was released gets the next number: `tests/formats/make N+1` adds its fixture, and the older ones are never
//! edited nor made again. Until the first release `tests/formats/make 1` follows the formats as they change.
//! Journal entries that a broker alone does not write (truncations, continuations of lost logs) are held by the tests of
//! `log/journal` and not by the fixtures.
#![doc = include_str!("archive.md")]
#![doc = include_str!("group.md")]
#![doc = include_str!("log.md")]
#![doc = include_str!("metadata.md")]
#![doc = include_str!("peer.md")]
#![doc = include_str!("replication.md")]

//! Formats, byte by byte: what every later version of alluvium must be able to read.
#![doc = include_str!("archive.md")]
#![doc = include_str!("group.md")]
#![doc = include_str!("log.md")]
#![doc = include_str!("metadata.md")]

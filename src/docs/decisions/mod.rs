//! What was decided, why, what was rejected, and how we will know that it was wrong. A record is never rewritten: a later
//! one replaces it and says so. `tests/tidy.rs` holds their form and that each is listed here.
#![doc = include_str!("0001-one-journal-per-data-directory.md")]
#![doc = include_str!("0002-checkpoints-sync-few-files-or-one-file-system.md")]
#![doc = include_str!("0003-truncation-looks-producers-up-in-the-log.md")]
#![doc = include_str!("0020-metadata-database-on-the-disk-seam.md")]
#![doc = include_str!("0021-openraft-0-9.md")]
#![doc = include_str!("0022-persistent-maps-for-the-image.md")]
#![doc = include_str!("0023-configuration-is-resolved-before-the-log.md")]
#![doc = include_str!("0040-requests-are-walked-before-they-are-decoded.md")]
#![doc = include_str!("0060-house-rules-as-a-test.md")]
#![doc = include_str!("0061-suites-speak-to-any-broker.md")]

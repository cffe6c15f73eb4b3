//! Keeps the log short: the live state is appended again, then everything before it goes. Pure.
//!
//! ```text
//!   log start          boundary                                   end
//!   │ superseded and live │ live state again, mixed with new records │
//!                         └─ becomes the log's start once the walk is at its end and durable
//! ```
//! The state is walked in steps, each taken when no append is under way and put before whatever waits, so that a record
//! never lands behind a newer one of its key. A key that is not walked (it was added behind the cursor) has its record
//! after the boundary anyway. A crash at any step leaves a log that yields the same state: before the start advances,
//! everything is there, some of it twice; after it, everything that counts is.

use super::state::{Cursor, LoggedState};
use crate::group::GroupSettings;
use crate::group::records::LogRecord;
use crate::types::Offset;

#[derive(Debug)]
enum Progress {
    Idle,
    /// Walking; everything before the cursor is in the log after the boundary, or in the append under way.
    Walking {
        boundary: Offset,
        cursor: Option<Cursor>,
    },
    /// The walk's last records are in the append under way.
    LastAppend {
        boundary: Offset,
    },
    /// The log has been asked to advance its start.
    Advancing {
        boundary: Offset,
    },
}

/// How far the log has grown, and the rewriting under way.
#[derive(Debug)]
pub(super) struct Rewrite {
    progress: Progress,
    /// Bytes of the log from its start.
    log_bytes: u64,
    /// Bytes of the log from the boundary.
    bytes_since_boundary: u64,
}

impl Rewrite {
    /// For a log of which `log_bytes` were read.
    pub(super) const fn new(log_bytes: u64) -> Self {
        Self { progress: Progress::Idle, log_bytes, bytes_since_boundary: 0 }
    }

    /// Bytes of the log from its start.
    pub(super) const fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The next records to append again; `next_offset` is where they will go. No append may be under way.
    pub(super) fn step(
        &mut self,
        state: &LoggedState,
        settings: &GroupSettings,
        next_offset: Offset,
    ) -> Vec<LogRecord> {
        let limit = settings.rewrite_min_bytes.max(state.record_bytes() * settings.rewrite_factor);
        let (boundary, cursor) = match &self.progress {
            Progress::Idle if self.log_bytes > limit => {
                self.bytes_since_boundary = 0;
                (next_offset, None)
            }
            Progress::Walking { boundary, cursor } => (*boundary, cursor.as_ref()),
            Progress::Idle | Progress::LastAppend { .. } | Progress::Advancing { .. } => return Vec::new(),
        };
        // Half a batch, so that requests do not wait for the walk.
        let (records, cursor) = state.records_from(cursor, settings.max_batch_bytes / 2);
        self.progress = match cursor {
            Some(cursor) => Progress::Walking { boundary, cursor: Some(cursor) },
            None => Progress::LastAppend { boundary },
        };
        records
    }

    /// An append is durable.
    pub(super) const fn appended(&mut self, bytes: u64) {
        self.log_bytes += bytes;
        self.bytes_since_boundary += bytes;
    }

    /// Where the log is to start, once the whole walk is durable; asked when no append is under way.
    pub(super) fn take_boundary(&mut self) -> Option<Offset> {
        let Progress::LastAppend { boundary } = self.progress else { return None };
        self.progress = Progress::Advancing { boundary };
        Some(boundary)
    }

    /// The log has advanced its start, or has not: then the next rewriting will, when as much again has been appended.
    pub(super) fn advanced(&mut self, offset: Offset) {
        if matches!(self.progress, Progress::Advancing { boundary } if boundary == offset) {
            self.log_bytes = self.bytes_since_boundary;
            self.progress = Progress::Idle;
        }
    }
}

//! The clock seam. Drivers read it and hand `now` to pure machines, which never ask for the time themselves.

use crate::types::{Monotonic, Timestamp};

/// Source of both kinds of time.
pub trait Clock: Send + Sync {
    /// The stopwatch: never goes back.
    fn monotonic(&self) -> Monotonic;

    /// The calendar: may jump either way; only for what users see and for retention, never for durations.
    fn wall(&self) -> Timestamp;
}

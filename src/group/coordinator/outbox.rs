//! What waits for the log, in order: records to append, and what is to happen once all records before it are durable.
//! Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::group::classic::Assignments;
use crate::group::records::LogRecord;
use crate::group::request::{DeletedTopics, OffsetFetch, Reply, Token};

/// One thing in the order of the log.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Records that go into the same append, all or none.
    Write { records: Vec<LogRecord>, then: Option<(Arc<str>, Assignments)> },
    /// A reply that promises the records before it.
    Reply(Token, Reply),
    /// A fetch that sees the commits before it.
    Fetch(Token, OffsetFetch),
    /// Offsets of deleted topics go, those of the commits before it too.
    DeleteTopics(Token, Arc<DeletedTopics>),
}

/// The queue. At most one append is under way, so that what is durable is always a prefix, and the next append gathers all
/// that comes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Entry>,
    queued_bytes: usize,
    /// What the append under way settles.
    in_flight: Option<Vec<Entry>>,
}

impl Outbox {
    pub(super) const fn is_appending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Bytes of records that wait for the next append.
    pub(super) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.queued_bytes += entry.bytes();
        self.queue.push_back(entry);
    }

    /// Puts entries before all that waits.
    pub(super) fn push_first(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            self.queued_bytes += entry.bytes();
            self.queue.push_front(entry);
        }
    }

    /// Takes what waits for no record, when no append is under way.
    pub(super) fn pop_ready(&mut self) -> Option<Entry> {
        match self.queue.front() {
            Some(Entry::Write { .. }) | None => None,
            Some(Entry::Reply(..) | Entry::Fetch(..) | Entry::DeleteTopics(..)) => self.queue.pop_front(),
        }
    }

    /// Starts an append: `first`, then as much of the queue as fits. Returns its records; none when there is nothing.
    pub(super) fn start(&mut self, first: Vec<LogRecord>, max_bytes: usize) -> Vec<LogRecord> {
        assert!(self.in_flight.is_none(), "one append at a time");
        let mut entries = Vec::new();
        let mut bytes: usize = first.iter().map(LogRecord::bytes).sum();
        let mut records = first.clone();
        if !first.is_empty() {
            entries.push(Entry::Write { records: first, then: None });
        }
        while let Some(next) = self.queue.front() {
            let is_full = bytes + next.bytes() > max_bytes && !records.is_empty();
            // Which offsets a deletion finds is known once all before it is durable, and what comes after it must not be there yet.
            if is_full || matches!(next, Entry::DeleteTopics(..)) {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            self.queued_bytes -= next.bytes();
            bytes += next.bytes();
            if let Entry::Write { records: more, .. } = &next {
                records.extend_from_slice(more);
            }
            entries.push(next);
        }
        if !records.is_empty() {
            self.in_flight = Some(entries);
        }
        records
    }

    /// The append under way is durable: what it settles, in order.
    pub(super) fn finish(&mut self) -> Vec<Entry> {
        self.in_flight.take().unwrap_or_default()
    }

    /// Gives everything up: all that waited, in order.
    pub(super) fn abandon(&mut self) -> Vec<Entry> {
        self.queued_bytes = 0;
        let mut entries = self.in_flight.take().unwrap_or_default();
        entries.extend(self.queue.drain(..));
        entries
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Write { records, .. } => records.iter().map(LogRecord::bytes).sum(),
            Self::Reply(..) | Self::Fetch(..) | Self::DeleteTopics(..) => 0,
        }
    }
}

//! What the log says, and nothing else: a function of the records applied so far. Pure.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;

use crate::group::FormatError;
use crate::group::records::{CommittedOffset, Key, LogRecord, StoredGroup};
use crate::types::Timestamp;

/// Bytes of memory that an entry takes beside what its record takes in the log, roughly.
const ENTRY_BYTES: usize = 160;

/// The committed offsets of one group, by topic and partition.
pub(super) type Offsets = BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>;

/// One group as its records describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LoggedGroup {
    /// Value of the last group record; `None` when offsets were committed without a group, or before it.
    pub(super) stored: Option<Bytes>,
    pub(super) offsets: Offsets,
}

/// A place in the order in which [`LoggedState::records_from`] walks the state: all up to it has been walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    group: Arc<str>,
    /// The last offset walked; `None` when only the group's own record was.
    offset: Option<(Arc<str>, i32)>,
}

/// All groups of one partition of `__consumer_offsets`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LoggedState {
    pub(super) groups: BTreeMap<Arc<str>, LoggedGroup>,
    /// Bytes of the records that would rebuild the state.
    record_bytes: usize,
    records: usize,
    offsets: usize,
}

impl LoggedState {
    /// Takes in one record. Fails on a record of another format, and then changes nothing.
    pub(super) fn apply(&mut self, record: &LogRecord) -> Result<(), FormatError> {
        match (Key::decode(&record.key)?, &record.value) {
            (Key::Offset { group, topic, partition }, Some(value)) => {
                let committed = CommittedOffset::decode(value)?;
                let offsets = &mut self.groups.entry(group).or_default().offsets;
                let earlier = offsets.entry(topic).or_default().insert(partition, committed);
                self.forget_offset(&record.key, earlier.as_ref());
                self.offsets += 1;
                self.remember(record);
            }
            (Key::Offset { group, topic, partition }, None) => {
                let Some(logged) = self.groups.get_mut(&group) else { return Ok(()) };
                let Some(partitions) = logged.offsets.get_mut(&topic) else { return Ok(()) };
                let earlier = partitions.remove(&partition);
                if partitions.is_empty() {
                    logged.offsets.remove(&topic);
                }
                self.forget_offset(&record.key, earlier.as_ref());
            }
            (Key::Group { group }, Some(value)) => {
                let earlier = self.groups.entry(group).or_default().stored.replace(value.clone());
                self.forget(&record.key, earlier);
                self.remember(record);
            }
            (Key::Group { group }, None) => {
                if let Some(logged) = self.groups.remove(&group) {
                    self.forget(&record.key, logged.stored);
                    for (topic, partition, committed) in walk(&logged.offsets) {
                        self.forget_offset(&Key::encode_offset(&group, topic, partition), Some(committed));
                    }
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, record: &LogRecord) {
        self.record_bytes += record.bytes();
        self.records += 1;
    }

    fn forget(&mut self, key: &Bytes, value: Option<Bytes>) {
        if value.is_some() {
            self.record_bytes -= LogRecord { key: key.clone(), value }.bytes();
            self.records -= 1;
        }
    }

    fn forget_offset(&mut self, key: &Bytes, committed: Option<&CommittedOffset>) {
        self.offsets -= usize::from(committed.is_some());
        self.forget(key, committed.map(CommittedOffset::encode));
    }

    /// Committed offsets of all groups.
    pub(super) const fn offsets(&self) -> usize {
        self.offsets
    }

    /// Bytes that the state takes in the log when it is appended again.
    pub(super) fn record_bytes(&self) -> u64 {
        self.record_bytes as u64
    }

    /// Bytes of memory that the state takes, roughly.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.record_bytes + self.records * ENTRY_BYTES
    }

    /// The committed offset of a partition.
    pub(super) fn offset(&self, group: &str, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.groups.get(group)?.offsets.get(topic)?.get(&partition)
    }

    /// Records that rebuild the state from `cursor` on, up to `max_bytes` (and at least one), and the cursor after them;
    /// no cursor when the walk is at its end. What is added behind a cursor is not walked any more.
    pub(super) fn records_from(&self, cursor: Option<&Cursor>, max_bytes: usize) -> (Vec<LogRecord>, Option<Cursor>) {
        let mut records: Vec<LogRecord> = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (at, record) in self.walk_from(cursor) {
            if bytes + record.bytes() > max_bytes && !records.is_empty() {
                return (records, last);
            }
            bytes += record.bytes();
            records.push(record);
            last = Some(at);
        }
        (records, None)
    }

    fn walk_from(&self, cursor: Option<&Cursor>) -> impl Iterator<Item = (Cursor, LogRecord)> {
        let started = cursor.and_then(|cursor| {
            let (group, logged) = self.groups.get_key_value(&cursor.group)?;
            Some(offset_records(group, walk_after(&logged.offsets, cursor.offset.as_ref())))
        });
        let after = cursor.map_or(Unbounded, |cursor| Excluded(Arc::clone(&cursor.group)));
        let later = self.groups.range((after, Unbounded)).flat_map(|(group, logged)| {
            let value = logged.stored.clone().or_else(|| placeholder(logged));
            let own = value.map(|value| {
                let record = LogRecord { key: Key::encode_group(group), value: Some(value) };
                (Cursor { group: Arc::clone(group), offset: None }, record)
            });
            own.into_iter().chain(offset_records(group, walk(&logged.offsets)))
        });
        started.into_iter().flatten().chain(later)
    }
}

fn offset_records<'a>(
    group: &'a Arc<str>,
    offsets: impl Iterator<Item = (&'a Arc<str>, i32, &'a CommittedOffset)>,
) -> impl Iterator<Item = (Cursor, LogRecord)> {
    offsets.map(|(topic, partition, committed)| {
        let offset = Some((Arc::clone(topic), partition));
        (Cursor { group: Arc::clone(group), offset }, committed.record(group, topic, partition))
    })
}

/// The record of a group that exists only because offsets were committed to it and deleted again: nothing else would say
/// that it exists.
fn placeholder(logged: &LoggedGroup) -> Option<Bytes> {
    let empty = StoredGroup {
        protocol_type: Arc::default(),
        generation: 0,
        protocol: None,
        leader: None,
        state_timestamp: Some(Timestamp::NONE),
        members: Vec::new(),
    };
    logged.offsets.is_empty().then(|| empty.encode())
}

/// All offsets of a group, in order.
pub(super) fn walk(offsets: &Offsets) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
    offsets.iter().flat_map(|(topic, partitions)| {
        partitions.iter().map(move |(&partition, committed)| (topic, partition, committed))
    })
}

fn walk_after<'a>(
    offsets: &'a Offsets,
    after: Option<&(Arc<str>, i32)>,
) -> impl Iterator<Item = (&'a Arc<str>, i32, &'a CommittedOffset)> {
    let rest_of_topic = after.and_then(|(topic, partition)| {
        let (topic, partitions) = offsets.get_key_value(topic)?;
        let rest = partitions.range((Excluded(*partition), Unbounded));
        Some(rest.map(move |(&partition, committed)| (topic, partition, committed)))
    });
    let later = offsets.range((after.map_or(Unbounded, |(topic, _)| Excluded(Arc::clone(topic))), Unbounded));
    let later = later.flat_map(|(topic, partitions)| {
        partitions.iter().map(move |(&partition, committed)| (topic, partition, committed))
    });
    rest_of_topic.into_iter().flatten().chain(later)
}

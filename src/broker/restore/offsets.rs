//! Committed offsets of a cluster that is restored, none of them beyond the records that are restored with them. Pure.
//!
//! A group that was further than the archive would pass over the records that take the lost ones' offsets. It goes on where these
//! begin instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::group::FormatError;
use crate::group::records::{CommittedOffset, Key, LogRecord};
use crate::types::{LeaderEpoch, Offset, TopicId};

/// A committed offset that was beyond the archive's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AheadOffset {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// What was committed.
    pub offset: Offset,
    /// Where the group goes on instead.
    pub end: Offset,
}

/// What is left of a snapshot of groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bounded {
    pub(super) records: Vec<LogRecord>,
    pub(super) groups: usize,
    pub(super) offsets: usize,
    pub(super) ahead: Vec<AheadOffset>,
}

/// Bounds the offsets of a snapshot's records by where each partition goes on. Those of partitions that are not restored stay as they
/// are: their topic may be elsewhere, or made again.
pub(super) fn bounded(
    records: Vec<LogRecord>,
    end_of: impl Fn(&str, TopicId, i32) -> Option<Offset>,
) -> Result<Bounded, FormatError> {
    let mut bounded = Bounded::default();
    let mut groups: BTreeSet<Arc<str>> = BTreeSet::new();
    for record in records {
        let (key, mut kept) = (Key::decode(&record.key)?, record);
        if let (Key::Offset { group, topic, partition }, Some(value)) = (&key, &kept.value) {
            bounded.offsets += 1;
            let committed = CommittedOffset::decode(value)?;
            let end = end_of(topic, committed.topic_id, *partition);
            if let Some(end) = end.filter(|end| committed.offset > end.get()) {
                bounded.ahead.push(AheadOffset {
                    group: group.as_ref().to_owned(),
                    topic: topic.as_ref().to_owned(),
                    partition: *partition,
                    offset: Offset(committed.offset),
                    end,
                });
                let back = CommittedOffset { offset: end.get(), leader_epoch: LeaderEpoch::NONE, ..committed };
                kept = back.record(group, topic, *partition);
            }
        }
        let (Key::Offset { group, .. } | Key::Group { group }) = key;
        groups.insert(group);
        bounded.records.push(kept);
    }
    bounded.groups = groups.len();
    Ok(bounded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

    fn committed(offset: i64, topic_id: TopicId) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: LeaderEpoch(3),
            metadata: "mine".into(),
            commit_timestamp: Timestamp(5),
            expire_timestamp: None,
            topic_id,
        }
    }

    #[test]
    fn groups_that_were_further_than_the_archive_go_on_at_its_end() {
        let of_group = LogRecord { key: Key::encode_group("a"), value: Some("generation".into()) };
        let within = committed(100, TOPIC).record("a", "flights", 0);
        let ahead = committed(101, TopicId::ZERO).record("b", "flights", 0);
        let elsewhere = committed(900, TopicId::from_bytes([8; 16])).record("b", "flights", 1);
        let records = vec![of_group.clone(), within.clone(), ahead, elsewhere.clone()];
        let end_of = |topic: &str, topic_id: TopicId, _| {
            (topic == "flights" && (topic_id.is_zero() || topic_id == TOPIC)).then_some(Offset(100))
        };
        let bounded = bounded(records, end_of).unwrap();
        let back = CommittedOffset { leader_epoch: LeaderEpoch::NONE, ..committed(100, TopicId::ZERO) };
        assert_eq!(bounded.records, [of_group, within, back.record("b", "flights", 0), elsewhere]);
        assert_eq!((bounded.groups, bounded.offsets, bounded.ahead.len()), (2, 3, 1));
        assert_eq!((bounded.ahead[0].offset, bounded.ahead[0].end), (Offset(101), Offset(100)));
    }

    #[test]
    fn a_record_that_does_not_read_is_told() {
        let odd = LogRecord { key: Key::encode_offset("a", "t", 0), value: Some("?".into()) };
        assert!(bounded(vec![odd], |_, _, _| None).is_err());
    }
}

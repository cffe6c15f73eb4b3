//! The quorum's records as bytes, independent of openraft's own encodings: an upgrade of the library leaves them alone.
//!
//! ```text
//! log id  term u64, node_id i32, index u64
//! vote    format u8 = 1, term u64, node_id i32, committed u8
//! entry   format u8 = 1, kind u8, log id, body: nothing (0), a command group (1), a membership as JSON (2)
//! ```
//! Numbers are big-endian.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload};
use serde::{Deserialize, Serialize};

use super::super::command;
use super::super::error::DecodeError;
use super::{CommandGroup, LogId, Membership, StoredMembership, TypeConfig, Vote};
use crate::types::NodeId;

/// Format of entries and votes; a higher number is refused.
const RECORD_FORMAT: u8 = 1;
const LOG_ID_BYTES: usize = 20;
const KIND_BLANK: u8 = 0;
const KIND_COMMANDS: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// A log id in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogIdRecord {
    term: u64,
    node_id: NodeId,
    index: u64,
}

/// A membership in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembershipRecord {
    /// Entry that set it; none for the first.
    log_id: Option<LogIdRecord>,
    /// One set of voters, or two while a joint change is under way.
    voters: Vec<BTreeSet<NodeId>>,
    /// Address of every voter and learner.
    nodes: BTreeMap<NodeId, String>,
}

impl From<LogId> for LogIdRecord {
    fn from(log_id: LogId) -> Self {
        Self { term: log_id.leader_id.term, node_id: log_id.leader_id.node_id, index: log_id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        Self::new(CommittedLeaderId::new(record.term, record.node_id), record.index)
    }
}

impl From<&StoredMembership> for MembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: stored.log_id().map(LogIdRecord::from), ..Self::from(stored.membership()) }
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            log_id: None,
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(node_id, node)| (*node_id, node.addr.clone())).collect(),
        }
    }
}

impl From<MembershipRecord> for StoredMembership {
    fn from(record: MembershipRecord) -> Self {
        let log_id = record.log_id.map(LogId::from);
        Self::new(log_id, record.into())
    }
}

impl From<MembershipRecord> for Membership {
    fn from(record: MembershipRecord) -> Self {
        let nodes: BTreeMap<_, _> =
            record.nodes.into_iter().map(|(node_id, address)| (node_id, BasicNode::new(address))).collect();
        Self::new(record.voters, nodes)
    }
}

pub(super) fn encode_log_id(log_id: LogId) -> [u8; LOG_ID_BYTES] {
    let mut bytes = [0; LOG_ID_BYTES];
    bytes[..8].copy_from_slice(&log_id.leader_id.term.to_be_bytes());
    bytes[8..12].copy_from_slice(&log_id.leader_id.node_id.get().to_be_bytes());
    bytes[12..].copy_from_slice(&log_id.index.to_be_bytes());
    bytes
}

pub(super) fn decode_log_id(bytes: &[u8]) -> Result<LogId, DecodeError> {
    let mut reader = Reader { what: "metadata log id", bytes };
    reader.log_id()
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut bytes = vec![RECORD_FORMAT];
    bytes.extend(vote.leader_id.term.to_be_bytes());
    bytes.extend(vote.leader_id.node_id.get().to_be_bytes());
    bytes.push(vote.committed.into());
    bytes
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<Vote, DecodeError> {
    let mut reader = Reader { what: "metadata vote", bytes };
    reader.format()?;
    let (term, node_id) = (u64::from_be_bytes(reader.take()?), NodeId(i32::from_be_bytes(reader.take()?)));
    let [committed] = reader.take()?;
    Ok(if committed == 0 { Vote::new(term, node_id) } else { Vote::new_committed(term, node_id) })
}

pub(super) fn encode_entry(entry: &Entry<TypeConfig>) -> Vec<u8> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Vec::new()),
        EntryPayload::Normal(CommandGroup(commands)) => (KIND_COMMANDS, command::encode_group(commands)),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERSHIP, serde_json::to_vec(&MembershipRecord::from(membership)).expect("memory does not fail"))
        }
    };
    [&[RECORD_FORMAT, kind], encode_log_id(entry.log_id).as_slice(), &body].concat()
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry<TypeConfig>, DecodeError> {
    let what = "metadata log entry";
    let mut reader = Reader { what, bytes };
    reader.format()?;
    let [kind] = reader.take()?;
    let log_id = reader.log_id()?;
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMANDS => EntryPayload::Normal(CommandGroup(command::decode_group(reader.bytes)?)),
        KIND_MEMBERSHIP => {
            let record: MembershipRecord =
                serde_json::from_slice(reader.bytes).map_err(|source| DecodeError::Malformed { what, source })?;
            EntryPayload::Membership(record.into())
        }
        kind => {
            return Err(DecodeError::UnsupportedFormat { what, found: kind.into(), supported: KIND_MEMBERSHIP.into() });
        }
    };
    Ok(Entry { log_id, payload })
}

struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(DecodeError::Truncated { what: self.what })?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn format(&mut self) -> Result<(), DecodeError> {
        match self.take()? {
            [RECORD_FORMAT] => Ok(()),
            [found] => {
                let supported = RECORD_FORMAT.into();
                Err(DecodeError::UnsupportedFormat { what: self.what, found: found.into(), supported })
            }
        }
    }

    fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let term = u64::from_be_bytes(self.take()?);
        let node_id = NodeId(i32::from_be_bytes(self.take()?));
        Ok(LogId::new(CommittedLeaderId::new(term, node_id), u64::from_be_bytes(self.take()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::metadata::command::{Command, ConfigChange};
    use crate::metadata::testing::{CLUSTER, register};
    use crate::sim::damaged;
    use crate::types::{ClusterId, TopicId};

    /// Of the damage that can be done to an entry, every so many are tried.
    const STEP: usize = 7;
    const TEXT: &str = ".{0,4}";

    fn log_id() -> LogId {
        LogId::new(CommittedLeaderId::new(3, NodeId(1)), 7)
    }

    #[test]
    fn entries_of_every_kind_and_votes_read_back() {
        let membership = Membership::new(
            vec![BTreeSet::from([NodeId(1)]), BTreeSet::from([NodeId(1), NodeId(2)])],
            BTreeMap::from([(NodeId(1), BasicNode::new("a:1")), (NodeId(2), BasicNode::new("b:2"))]),
        );
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(CommandGroup(vec![Command::SetClusterId(CLUSTER)])),
            EntryPayload::Membership(membership),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(), payload };
            assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        }
        for vote in [Vote::new(4, NodeId(2)), Vote::new_committed(4, NodeId(2))] {
            assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }
    }

    #[test]
    fn bytes_are_frozen_and_a_newer_format_or_kind_is_refused() {
        let mut bytes = encode_entry(&Entry { log_id: log_id(), payload: EntryPayload::Blank });
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(encode_vote(&Vote::new_committed(3, NodeId(1))), [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 1]);
        for at in [0, 1] {
            bytes[at] = 9;
            assert!(matches!(decode_entry(&bytes), Err(DecodeError::UnsupportedFormat { found: 9, .. })));
            bytes[at] = 1 - u8::try_from(at).unwrap();
        }
        for length in 0..bytes.len() {
            assert!(matches!(decode_entry(&bytes[..length]), Err(DecodeError::Truncated { .. })));
        }
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let change = (any::<u64>(), btree_map(TEXT, option::of(TEXT), 0..3))
            .prop_map(|(expected_version, values)| ConfigChange { expected_version, values });
        prop_oneof![
            any::<[u8; 16]>().prop_map(|id| Command::SetClusterId(ClusterId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Command::DeleteTopic { topic_id: TopicId::from_bytes(id) }),
            any::<(i32, u64)>().prop_map(|(node, process)| Command::RegisterBroker(register(node, process))),
            (any::<Option<i32>>(), change)
                .prop_map(|(node, change)| Command::AlterBrokerConfigs { node_id: node.map(NodeId), change }),
            (TEXT, any::<i16>()).prop_map(|(name, level)| Command::SetFeatureLevel { name, level }),
        ]
    }

    fn any_payload() -> impl Strategy<Value = EntryPayload<TypeConfig>> {
        let node = || any::<i32>().prop_map(NodeId);
        let membership = (vec(btree_set(node(), 0..3), 0..3), btree_map(node(), TEXT, 0..3))
            .prop_map(|(voters, nodes)| Membership::from(MembershipRecord { log_id: None, voters, nodes }));
        prop_oneof![
            Just(EntryPayload::<TypeConfig>::Blank),
            vec(any_command(), 0..4).prop_map(|commands| EntryPayload::<TypeConfig>::Normal(CommandGroup(commands))),
            membership.prop_map(EntryPayload::<TypeConfig>::Membership),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_entry_reads_back_as_written_and_a_damaged_one_is_refused_or_reads_as_one_that_can_be_written(
            (term, node, index) in any::<(u64, i32, u64)>(),
            payload in any_payload(),
            mask in 1..=u8::MAX,
            first in 0..STEP,
        ) {
            let log_id = LogId::new(CommittedLeaderId::new(term, NodeId(node)), index);
            let entry = Entry { log_id, payload };
            let bytes = encode_entry(&entry);
            prop_assert_eq!(decode_entry(&bytes).unwrap(), entry);
            for bad in damaged(&bytes, mask).skip(first).step_by(STEP) {
                let Ok(read) = decode_entry(&bad) else { continue };
                prop_assert!(bad.len() == bytes.len(), "read to its end, which is gone");
                prop_assert_eq!(decode_entry(&encode_entry(&read)).unwrap(), read);
            }
        }

        #[test]
        fn a_vote_reads_back_as_written_and_a_damaged_one_is_refused_or_reads_as_one_that_can_be_written(
            (term, node, committed) in any::<(u64, i32, bool)>(),
            mask in 1..=u8::MAX,
        ) {
            let vote = Vote { committed, ..Vote::new(term, NodeId(node)) };
            let bytes = encode_vote(&vote);
            prop_assert_eq!(decode_vote(&bytes).unwrap(), vote);
            for bad in damaged(&bytes, mask) {
                let Ok(read) = decode_vote(&bad) else { continue };
                prop_assert!(bad.len() == bytes.len(), "read to its end, which is gone");
                prop_assert_eq!(decode_vote(&encode_vote(&read)).unwrap(), read);
            }
        }
    }
}

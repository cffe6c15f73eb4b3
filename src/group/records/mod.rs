//! The keys and values of `__consumer_offsets`, byte for byte as Apache Kafka 4.3 writes them.
//!
//! A record's key begins with a type number, its value with a version, both `int16`, big-endian:
//!
//! | key type | key | value versions read | written |
//! |---|---|---|---|
//! | 0, 1 | group, topic, partition | offset commit 0–4 | 4; 1 when the offset has an expiry of its own |
//! | 2 | group | group metadata 0–4 | 3 |
//!
//! A null value is a tombstone: the offset, or the group with all its offsets, is gone. Source: Kafka's
//! `OffsetCommitKey/Value.json` and `GroupMetadataKey/Value.json`; `src/group/fixtures` has a broker's own bytes.

mod wire;

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use self::wire::{Reader, Writer};
use super::FormatError;
use crate::types::{LeaderEpoch, Timestamp, TopicId};

#[cfg(test)]
mod tests;

const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;
const OFFSET_COMMIT_VALUE: i16 = 4;
/// The only version with an expiry per offset.
const OFFSET_COMMIT_VALUE_WITH_EXPIRY: i16 = 1;
const OFFSET_COMMIT_VALUE_FLEXIBLE: i16 = 4;
const GROUP_METADATA_VALUE: i16 = 3;
const GROUP_METADATA_VALUE_FLEXIBLE: i16 = 4;
const TOPIC_ID_TAG: u32 = 0;
/// Bytes of a member with every string and array empty, in the most compact version.
const MEMBER_MIN_BYTES: usize = 9;

/// One record of the log as bytes: what is appended and what is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Key, never null.
    pub key: Bytes,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl LogRecord {
    /// Bytes that a record takes in a batch beside key and value, at most: lengths, deltas and header count as varints.
    pub const OVERHEAD_BYTES: usize = 28;

    /// The record that deletes a key.
    pub const fn tombstone(key: Bytes) -> Self {
        Self { key, value: None }
    }

    /// Bytes of the record in a batch, rounded up.
    pub fn bytes(&self) -> usize {
        Self::OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A record's key, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A committed offset.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's number.
        partition: i32,
    },
    /// A group's generation and members.
    Group {
        /// The group.
        group: Arc<str>,
    },
}

impl Key {
    /// Reads a key.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes.clone());
        let key = match reader.int16()? {
            0 | OFFSET_COMMIT_KEY => {
                Self::Offset { group: reader.string()?, topic: reader.string()?, partition: reader.int32()? }
            }
            GROUP_METADATA_KEY => Self::Group { group: reader.string()? },
            version => return Err(FormatError::UnknownVersion { what: "key", version }),
        };
        reader.finish()?;
        Ok(key)
    }

    /// Writes the key of a committed offset.
    pub fn encode_offset(group: &str, topic: &str, partition: i32) -> Bytes {
        let mut writer = Writer::new(OFFSET_COMMIT_KEY, false);
        writer.string(group);
        writer.string(topic);
        writer.out.put_i32(partition);
        writer.finish()
    }

    /// Writes the key of a group.
    pub fn encode_group(group: &str) -> Bytes {
        let mut writer = Writer::new(GROUP_METADATA_KEY, false);
        writer.string(group);
        writer.finish()
    }
}

/// A committed offset with what was committed beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset of the next record to read; not checked by the broker.
    pub offset: i64,
    /// Leader epoch of the last record read, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
    /// Text for the consumer's own use.
    pub metadata: Arc<str>,
    /// When it was committed.
    pub commit_timestamp: Timestamp,
    /// When it expires whatever the group does; from commits before version 5 that set a retention of their own.
    pub expire_timestamp: Option<Timestamp>,
    /// The topic's identity, or zero when the committer did not know it.
    pub topic_id: TopicId,
}

impl CommittedOffset {
    /// Reads the value of a committed offset.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes.clone());
        let version = reader.int16()?;
        if !(0..=OFFSET_COMMIT_VALUE).contains(&version) {
            return Err(FormatError::UnknownVersion { what: "offset commit value", version });
        }
        reader.flexible = version >= OFFSET_COMMIT_VALUE_FLEXIBLE;
        let offset = reader.int64()?;
        let leader_epoch = if version >= 3 { LeaderEpoch(reader.int32()?) } else { LeaderEpoch::NONE };
        let metadata = reader.string()?;
        let commit_timestamp = Timestamp(reader.int64()?);
        let expire_timestamp = match version {
            OFFSET_COMMIT_VALUE_WITH_EXPIRY => Some(Timestamp(reader.int64()?)).filter(|&time| time != Timestamp::NONE),
            _ => None,
        };
        let mut topic_id = TopicId::ZERO;
        reader.tagged_fields(|tag, mut field| {
            if tag == TOPIC_ID_TAG {
                if field.len() != 16 {
                    return Err(FormatError::Malformed { what: "topic id is not 16 bytes" });
                }
                topic_id = TopicId::from_bytes(field.get_u128().to_be_bytes());
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id })
    }

    /// Writes the value. The version with an expiry has no leader epoch and no topic id, as in Apache Kafka.
    pub fn encode(&self) -> Bytes {
        let version =
            if self.expire_timestamp.is_some() { OFFSET_COMMIT_VALUE_WITH_EXPIRY } else { OFFSET_COMMIT_VALUE };
        let mut writer = Writer::new(version, version >= OFFSET_COMMIT_VALUE_FLEXIBLE);
        writer.out.put_i64(self.offset);
        if version >= 3 {
            writer.out.put_i32(self.leader_epoch.get());
        }
        writer.string(&self.metadata);
        writer.out.put_i64(self.commit_timestamp.get());
        if let Some(expire_timestamp) = self.expire_timestamp {
            writer.out.put_i64(expire_timestamp.get());
        } else if self.topic_id.is_zero() {
            writer.varint(0);
        } else {
            writer.varint(1);
            writer.varint(TOPIC_ID_TAG);
            writer.varint(16);
            writer.out.put_slice(self.topic_id.as_bytes());
        }
        writer.finish()
    }

    /// The record that commits this offset.
    pub fn record(&self, group: &str, topic: &str, partition: i32) -> LogRecord {
        LogRecord { key: Key::encode_offset(group, topic, partition), value: Some(self.encode()) }
    }
}

/// A member of a stored generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMember {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The static member's instance id (KIP-345).
    pub group_instance_id: Option<Arc<str>>,
    /// The client's id.
    pub client_id: Arc<str>,
    /// The client's address, as `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// Rebalance timeout in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// Session timeout in milliseconds.
    pub session_timeout_ms: i32,
    /// The member's metadata for the generation's protocol.
    pub subscription: Bytes,
    /// What the leader assigned to the member.
    pub assignment: Bytes,
}

/// A group's stored generation: with members it is stable, without it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGroup {
    /// Protocol type, as `consumer`; empty for a group that only stores offsets.
    pub protocol_type: Arc<str>,
    /// The generation's number.
    pub generation: i32,
    /// The protocol that the members chose.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Option<Arc<str>>,
    /// When the group came into its state; `None` in records of old brokers.
    pub state_timestamp: Option<Timestamp>,
    /// The members.
    pub members: Vec<StoredMember>,
}

impl StoredGroup {
    /// Reads the value of a group.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes.clone());
        let version = reader.int16()?;
        if !(0..=GROUP_METADATA_VALUE_FLEXIBLE).contains(&version) {
            return Err(FormatError::UnknownVersion { what: "group metadata value", version });
        }
        reader.flexible = version >= GROUP_METADATA_VALUE_FLEXIBLE;
        let protocol_type = reader.string()?;
        let generation = reader.int32()?;
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let state_timestamp = match version {
            0 | 1 => None,
            _ => Some(Timestamp(reader.int64()?)).filter(|&time| time != Timestamp::NONE),
        };
        let count = reader.array(MEMBER_MIN_BYTES)?;
        let members = (0..count).map(|_| read_member(&mut reader, version)).collect::<Result<_, _>>()?;
        reader.tagged_fields(|_, _| Ok(()))?;
        reader.finish()?;
        Ok(Self { protocol_type, generation, protocol, leader, state_timestamp, members })
    }

    /// Writes the value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(GROUP_METADATA_VALUE, false);
        writer.string(&self.protocol_type);
        writer.out.put_i32(self.generation);
        writer.nullable_string(self.protocol.as_deref());
        writer.nullable_string(self.leader.as_deref());
        writer.out.put_i64(self.state_timestamp.unwrap_or(Timestamp::NONE).get());
        writer.count(self.members.len());
        for member in &self.members {
            writer.string(&member.member_id);
            writer.nullable_string(member.group_instance_id.as_deref());
            writer.string(&member.client_id);
            writer.string(&member.client_host);
            writer.out.put_i32(member.rebalance_timeout_ms);
            writer.out.put_i32(member.session_timeout_ms);
            writer.byte_array(&member.subscription);
            writer.byte_array(&member.assignment);
        }
        writer.finish()
    }
}

fn read_member(reader: &mut Reader, version: i16) -> Result<StoredMember, FormatError> {
    let member_id = reader.string()?;
    let group_instance_id = if version >= 3 { reader.nullable_string()? } else { None };
    let client_id = reader.string()?;
    let client_host = reader.string()?;
    let rebalance_timeout_ms = if version >= 1 { Some(reader.int32()?).filter(|&ms| ms != -1) } else { None };
    let session_timeout_ms = reader.int32()?;
    let subscription = reader.byte_array()?;
    let assignment = reader.byte_array()?;
    reader.tagged_fields(|_, _| Ok(()))?;
    Ok(StoredMember {
        member_id,
        group_instance_id,
        client_id,
        client_host,
        // Before there was a rebalance timeout, the session timeout served as one.
        rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription,
        assignment,
    })
}

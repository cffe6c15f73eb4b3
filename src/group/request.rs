//! Requests and replies of a coordinator as plain values; the server maps the wire onto them.
//!
//! Strings from the wire are shared (`Arc<str>`), since ids live on in tables and timers. A request whose reply is an
//! error as a whole gets a [`GroupError`]; errors of parts are in the reply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::GroupError;
use super::records::LogRecord;
use crate::types::{LeaderEpoch, TopicId};

/// Names the asker of a request; the driver finds the waiting task by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Deleted topics: the identities that those of each name had, as offsets committed for a later topic of that name stay. The zero
/// one stands for offsets that were committed without any.
pub type DeletedTopics = BTreeMap<Arc<str>, BTreeSet<TopicId>>;

/// A request to the coordinator of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A member joins; `member_uuid` is random and ends the member id, if one is made.
    JoinGroup {
        /// The request.
        join: JoinGroup,
        /// Fresh random identity.
        member_uuid: Uuid,
    },
    /// A member asks for its assignment; the leader brings those of all.
    SyncGroup(SyncGroup),
    /// A member is alive.
    Heartbeat(Heartbeat),
    /// Members leave.
    LeaveGroup(LeaveGroup),
    /// Offsets are committed.
    OffsetCommit(OffsetCommit),
    /// Committed offsets are read.
    OffsetFetch(OffsetFetch),
    /// Committed offsets are deleted.
    OffsetDelete(OffsetDelete),
    /// A group without members is deleted with its offsets.
    DeleteGroup {
        /// The group.
        group_id: Arc<str>,
    },
    /// A group is described.
    DescribeGroup {
        /// The group.
        group_id: Arc<str>,
    },
    /// The coordinator's groups are listed.
    ListGroups(ListGroups),
    /// Topics were deleted, and with them every offset committed for them.
    TopicsDeleted {
        /// The topics.
        topics: Arc<DeletedTopics>,
    },
    /// The live state is read, for a snapshot.
    ReadState,
}

/// A reply, of the kind of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To JoinGroup.
    JoinGroup(Result<JoinedGroup, JoinRefused>),
    /// To SyncGroup.
    SyncGroup(Result<SyncedGroup, GroupError>),
    /// To Heartbeat.
    Heartbeat(Result<(), GroupError>),
    /// To LeaveGroup: one result a member, in the order asked.
    LeaveGroup(Result<Vec<LeftMember>, GroupError>),
    /// To OffsetCommit: one result a partition, in the order asked.
    OffsetCommit(Result<Vec<PartitionResults>, GroupError>),
    /// To OffsetFetch.
    OffsetFetch(Result<Vec<FetchedTopic>, GroupError>),
    /// To OffsetDelete: one result a partition, in the order asked.
    OffsetDelete(Result<Vec<PartitionResults>, GroupError>),
    /// To DeleteGroup.
    DeleteGroup(Result<(), GroupError>),
    /// To DescribeGroup.
    DescribeGroup(Result<DescribedGroup, GroupError>),
    /// To ListGroups.
    ListGroups(Result<Vec<ListedGroup>, GroupError>),
    /// To TopicsDeleted.
    TopicsDeleted(Result<(), GroupError>),
    /// To ReadState.
    ReadState(Result<Vec<LogRecord>, GroupError>),
}

impl Request {
    /// The reply that refuses the whole request.
    pub fn refused(&self, error: GroupError) -> Reply {
        match self {
            Self::JoinGroup { join, .. } => {
                // As in Apache Kafka, which names nobody where no coordinator has looked for the member.
                let member_id = match error {
                    GroupError::NotCoordinator
                    | GroupError::CoordinatorLoadInProgress
                    | GroupError::CoordinatorNotAvailable => Arc::default(),
                    _ => Arc::clone(&join.member_id),
                };
                Reply::JoinGroup(Err(JoinRefused { error, member_id }))
            }
            Self::SyncGroup(_) => Reply::SyncGroup(Err(error)),
            // A member can't know that its coordinator loads: it goes on as if it had been heard (as in Apache Kafka).
            Self::Heartbeat(_) if error == GroupError::CoordinatorLoadInProgress => Reply::Heartbeat(Ok(())),
            Self::Heartbeat(_) => Reply::Heartbeat(Err(error)),
            Self::LeaveGroup(_) => Reply::LeaveGroup(Err(error)),
            Self::OffsetCommit(_) => Reply::OffsetCommit(Err(error)),
            Self::OffsetFetch(_) => Reply::OffsetFetch(Err(error)),
            Self::OffsetDelete(_) => Reply::OffsetDelete(Err(error)),
            Self::DeleteGroup { .. } => Reply::DeleteGroup(Err(error)),
            Self::DescribeGroup { .. } => Reply::DescribeGroup(Err(error)),
            Self::ListGroups(_) => Reply::ListGroups(Err(error)),
            Self::TopicsDeleted { .. } => Reply::TopicsDeleted(Err(error)),
            Self::ReadState => Reply::ReadState(Err(error)),
        }
    }
}

/// A protocol that a member supports, with the member's metadata for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberProtocol {
    /// The protocol's name, as `range`.
    pub name: Arc<str>,
    /// The member's metadata, opaque to the broker but for the topics that a consumer subscribes to.
    pub metadata: Bytes,
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The member's id; empty when it has none yet.
    pub member_id: Arc<str>,
    /// The static member's instance id (KIP-345).
    pub group_instance_id: Option<Arc<str>>,
    /// The client's id, from the request's header.
    pub client_id: Arc<str>,
    /// The client's address, as `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// The version on the wire: from 4 a new member must join again with the id it is given (KIP-394), from 9 a returning
    /// static leader is told to skip the assignment (KIP-814).
    pub api_version: i16,
    /// Session timeout in milliseconds.
    pub session_timeout_ms: i32,
    /// Rebalance timeout in milliseconds; version 0 has none, and goes by the session timeout.
    pub rebalance_timeout_ms: i32,
    /// Protocol type, as `consumer`.
    pub protocol_type: Arc<str>,
    /// The protocols, in the member's order of preference.
    pub protocols: Vec<MemberProtocol>,
    /// Why the member joins, for the log (KIP-800).
    pub reason: Option<Arc<str>>,
}

/// A member is part of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedGroup {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The generation's number.
    pub generation: i32,
    /// Protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Arc<str>,
    /// The leader is to keep the assignment as it is (KIP-814).
    pub skip_assignment: bool,
    /// All members, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
    /// The member's metadata for the protocol chosen.
    pub metadata: Bytes,
}

/// A join is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    /// Why.
    pub error: GroupError,
    /// The member id to answer with; with [`GroupError::MemberIdRequired`] the one to join with.
    pub member_id: Arc<str>,
}

/// SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The generation that the member was told.
    pub generation: i32,
    /// The member's id.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
    /// Protocol type that the member was told; absent before version 5 (KIP-559).
    pub protocol_type: Option<Arc<str>>,
    /// Protocol that the member was told; absent before version 5.
    pub protocol: Option<Arc<str>>,
    /// From the leader: member ids and their assignments.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// A member's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedGroup {
    /// Protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// What the leader assigned; may be empty.
    pub assignment: Bytes,
}

/// Heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group_id: Arc<str>,
    /// The member's generation.
    pub generation: i32,
    /// The member's id.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
}

/// LeaveGroup; before version 3 with exactly one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// A member that leaves, named by its id, or by its instance id with an empty member id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    /// The member's id, or empty.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
    /// Why it leaves, for the log (KIP-800).
    pub reason: Option<Arc<str>>,
}

/// What became of a member that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftMember {
    /// The member id as asked.
    pub member_id: Arc<str>,
    /// The instance id as asked.
    pub group_instance_id: Option<Arc<str>>,
    /// Why it did not leave.
    pub error: Option<GroupError>,
}

/// OffsetCommit. Topics and partitions that don't exist are taken out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The group.
    pub group_id: Arc<str>,
    /// The generation, or −1 from a consumer that is no member.
    pub generation: i32,
    /// The member's id, or empty.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
    /// The version on the wire: from 9 an unknown group has an error of its own.
    pub api_version: i16,
    /// Retention in milliseconds, from versions 2 to 4 that set one.
    pub retention_ms: Option<i64>,
    /// What is committed.
    pub topics: Vec<CommitTopic>,
}

/// Offsets of a topic to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitTopic {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity, or zero when the client named it by name alone.
    pub topic_id: TopicId,
    /// The partitions.
    pub partitions: Vec<CommitPartition>,
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Leader epoch of the last record read, or −1.
    pub leader_epoch: LeaderEpoch,
    /// Text beside the offset; null is stored as empty.
    pub metadata: Arc<str>,
}

/// A result for each partition of a topic, in the order asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResults {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity as asked, or zero.
    pub topic_id: TopicId,
    /// Partition and, if refused, why.
    pub partitions: Vec<(i32, Option<GroupError>)>,
}

/// OffsetFetch for one group. `require_stable` (KIP-447) needs no field: a fetch always waits for the commits before it,
/// and there are no transactional offsets yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetFetch {
    /// The group.
    pub group_id: Arc<str>,
    /// The partitions, or `None` for all that have an offset.
    pub topics: Option<Vec<FetchTopic>>,
}

/// Partitions of a topic whose offsets are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTopic {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity, or zero: an offset committed for another topic of that name is not found.
    pub topic_id: TopicId,
    /// The partitions' numbers.
    pub partitions: Vec<i32>,
}

/// Committed offsets of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedTopic {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity as asked, or as committed when all were asked for; may be zero.
    pub topic_id: TopicId,
    /// The partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPartition {
    /// The partition's number.
    pub partition: i32,
    /// The offset; −1 when none is committed.
    pub offset: i64,
    /// Leader epoch of the last record read, or −1.
    pub leader_epoch: LeaderEpoch,
    /// Text beside the offset.
    pub metadata: Arc<str>,
}

/// OffsetDelete. Topics and partitions that don't exist are taken out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetDelete {
    /// The group.
    pub group_id: Arc<str>,
    /// Topics with their partitions.
    pub topics: Vec<(Arc<str>, Vec<i32>)>,
}

/// ListGroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListGroups {
    /// Names of states, in any case; empty for all (KIP-518).
    pub states: Vec<Arc<str>>,
    /// Names of types, in any case; empty for all (KIP-848).
    pub types: Vec<Arc<str>>,
}

/// The state of a classic group, as DescribeGroups and ListGroups name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    /// No members; may have offsets.
    Empty,
    /// Waits for its members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Every member has an assignment, or can have it.
    Stable,
    /// Does not exist.
    Dead,
}

impl GroupState {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// The name of the type that every group here has.
pub const CLASSIC: &str = "classic";

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// Protocol type, or empty.
    pub protocol_type: Arc<str>,
    /// The group's state.
    pub state: GroupState,
}

/// A group with its members. A group that does not exist is [`GroupState::Dead`] and otherwise empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The group's state.
    pub state: GroupState,
    /// Protocol type, or empty.
    pub protocol_type: Arc<str>,
    /// The protocol chosen, when the group is stable; else empty.
    pub protocol: Arc<str>,
    /// The members.
    pub members: Vec<DescribedMember>,
}

/// A member of a described group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The static member's instance id.
    pub group_instance_id: Option<Arc<str>>,
    /// The client's id.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// The member's metadata for the protocol chosen, when the group is stable; else empty.
    pub metadata: Bytes,
    /// The member's assignment.
    pub assignment: Bytes,
}

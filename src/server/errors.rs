//! Which Kafka error each of our errors is. Exhaustive on purpose: a new variant does not compile until it has a code.

use crate::broker::{AdminError, ArchiveError, ClusterError, PartitionError, SessionError};
use crate::group::GroupError;
use crate::log::{AppendError, ReadError, SequenceError};
use crate::metadata::{CommandError, MemberError};
use crate::protocol::ErrorCode;
use crate::record::RecordError;

/// The code of a request about one partition that was refused or failed.
pub(super) fn partition_code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
        PartitionError::UnknownTopicId => ErrorCode::UnknownTopicId,
        PartitionError::NotLeader { .. } | PartitionError::Behind => ErrorCode::NotLeaderOrFollower,
        PartitionError::FencedEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        PartitionError::UnknownEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        PartitionError::InternalTopic => ErrorCode::InvalidTopicException,
        PartitionError::Transactional => ErrorCode::TransactionalIdAuthorizationFailed,
        PartitionError::Records(error) => record_code(error),
        PartitionError::Append(error) => append_code(error),
        PartitionError::Read(error) => read_code(error),
        PartitionError::Archive(error) => archive_code(error),
        PartitionError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        PartitionError::OffsetNotAvailable { .. } => ErrorCode::OffsetNotAvailable,
        PartitionError::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
        PartitionError::TimedOut => ErrorCode::RequestTimedOut,
    }
}

/// The code of records that break a rule.
pub(super) fn record_code(error: &RecordError) -> ErrorCode {
    match error {
        RecordError::Truncated { .. } | RecordError::ChecksumMismatch { .. } | RecordError::Malformed { .. } => {
            ErrorCode::CorruptMessage
        }
        RecordError::UnsupportedMagic { .. }
        | RecordError::CorruptCompression { .. }
        | RecordError::NotOneBatch { .. }
        | RecordError::InvalidBatch { .. } => ErrorCode::InvalidRecord,
        RecordError::UnsupportedCompression { .. } => ErrorCode::UnsupportedCompressionType,
        RecordError::TooLarge { .. } | RecordError::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
        RecordError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        RecordError::RecordsRejected { records } if records.iter().any(|record| record.rejection.is_timestamp()) => {
            ErrorCode::InvalidTimestamp
        }
        RecordError::RecordsRejected { .. } => ErrorCode::InvalidRecord,
    }
}

fn append_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Offline { .. } | AppendError::Missing(_) => ErrorCode::KafkaStorageError,
        AppendError::Fenced { .. }
        | AppendError::Truncating
        | AppendError::OutOfOrder { .. }
        | AppendError::ForeignEpoch { .. }
        | AppendError::WrongRole { .. } => ErrorCode::NotLeaderOrFollower,
        AppendError::Deleted => ErrorCode::UnknownTopicOrPartition,
        AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::Sequence(SequenceError::Fenced { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendError::Record(error) => record_code(error),
    }
}

fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Archived { .. } => ErrorCode::OffsetMovedToTieredStorage,
        ReadError::Io { .. } | ReadError::Missing(_) | ReadError::Removed { .. } => ErrorCode::KafkaStorageError,
        ReadError::Corrupt { .. } => ErrorCode::CorruptMessage,
        ReadError::Deleted => ErrorCode::UnknownTopicOrPartition,
    }
}

/// Clients ask again after a storage error, by which time a store may answer.
const fn archive_code(error: &ArchiveError) -> ErrorCode {
    match error {
        ArchiveError::Absent { .. } | ArchiveError::Unavailable { .. } | ArchiveError::Damaged { .. } => {
            ErrorCode::KafkaStorageError
        }
    }
}

/// The code of an administrative request that was refused.
pub(super) const fn admin_code(error: &AdminError) -> ErrorCode {
    match error {
        AdminError::Command(error) => command_code(error),
        AdminError::Config(error) => ErrorCode::from_code(error.kafka_error_code()),
        AdminError::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        AdminError::UnknownTopicId => ErrorCode::UnknownTopicId,
        AdminError::DiskFull => ErrorCode::KafkaStorageError,
        AdminError::NoTime => ErrorCode::RequestTimedOut,
        AdminError::NullConfig => ErrorCode::InvalidConfig,
        AdminError::Invalid(_) => ErrorCode::InvalidRequest,
        AdminError::InvalidAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        AdminError::NotMorePartitions { .. } | AdminError::FixedPartitions { .. } => ErrorCode::InvalidPartitions,
        AdminError::TooManyPartitions { .. } | AdminError::TooManyAtOnce { .. } => ErrorCode::PolicyViolation,
    }
}

/// The code of a change of the cluster that was refused.
pub(super) const fn cluster_code(error: &ClusterError) -> ErrorCode {
    match error {
        ClusterError::Command(error) => command_code(error),
        ClusterError::Member(error) => member_code(error),
        ClusterError::NoTime => ErrorCode::RequestTimedOut,
        ClusterError::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
        ClusterError::ElectionNotNeeded => ErrorCode::ElectionNotNeeded,
        ClusterError::NoPreferredLeader => ErrorCode::PreferredLeaderNotAvailable,
        ClusterError::NoEligibleLeader => ErrorCode::EligibleLeadersNotAvailable,
        ClusterError::NoReassignment => ErrorCode::NoReassignmentInProgress,
        ClusterError::InvalidTarget(_) => ErrorCode::InvalidReplicaAssignment,
        ClusterError::FactorChange { .. } => ErrorCode::InvalidReplicationFactor,
        ClusterError::TooManyAtOnce { .. } => ErrorCode::PolicyViolation,
        ClusterError::OtherDirectory { .. } => ErrorCode::InvalidVoterKey,
    }
}

/// The code of a change of the quorum that was refused, as Apache Kafka's quorum has it. Its clients try again after those of a
/// leader that is not known and of what did not end in time.
const fn member_code(error: &MemberError) -> ErrorCode {
    match error {
        MemberError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        MemberError::InProgress | MemberError::FarBehind { .. } | MemberError::TimedOut => ErrorCode::RequestTimedOut,
        MemberError::UnknownMember { .. } | MemberError::LastVoter { .. } => ErrorCode::InvalidRequest,
        MemberError::AlreadyVotes { .. } => ErrorCode::DuplicateVoter,
        MemberError::DoesNotVote { .. } => ErrorCode::VoterNotFound,
        MemberError::Failed { .. } => ErrorCode::UnknownServerError,
    }
}

/// The code of a command that the metadata quorum refused.
pub(super) const fn command_code(error: &CommandError) -> ErrorCode {
    ErrorCode::from_code(error.kafka_error_code())
}

/// The code of a fetch whose session can't go on.
pub(super) const fn session_code(error: SessionError) -> ErrorCode {
    match error {
        SessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
        SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
        SessionError::TopicIds => ErrorCode::FetchSessionTopicIdError,
    }
}

/// The code of a group request, or of a part of one; none is no error.
pub(super) fn group_code(error: Option<GroupError>) -> ErrorCode {
    error.map_or(ErrorCode::None, |error| ErrorCode::from_code(error.code()))
}

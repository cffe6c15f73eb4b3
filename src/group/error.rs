//! What a group request is refused with, and what can be wrong with a stored record.

use thiserror::Error;

/// Why a group request, or one part of it, is refused. Each is one of Kafka's error codes, with Kafka's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// The group's record is larger than the log accepts.
    #[error("the coordinator can't store the group")]
    UnknownServerError,
    /// The metadata beside a committed offset is larger than `offset.metadata.max.bytes`.
    #[error("the metadata of the committed offset is too large")]
    OffsetMetadataTooLarge,
    /// The coordinator is still reading its log; try again.
    #[error("the coordinator is loading")]
    CoordinatorLoadInProgress,
    /// The coordinator can't reach its log; find it again, then try again.
    #[error("the coordinator is not available")]
    CoordinatorNotAvailable,
    /// Another broker coordinates the group; find it again.
    #[error("this is not the coordinator of the group")]
    NotCoordinator,
    /// The generation is not the group's current one.
    #[error("the generation is not the current one")]
    IllegalGeneration,
    /// Protocol type or protocols don't fit those of the other members.
    #[error("the member's protocols are inconsistent with those of the group")]
    InconsistentGroupProtocol,
    /// The group id is missing or empty where one is needed.
    #[error("the group id is invalid")]
    InvalidGroupId,
    /// No such member in the group's current generation.
    #[error("the member is unknown to the group")]
    UnknownMemberId,
    /// The session timeout lies outside `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
    #[error("the session timeout is not within the accepted range")]
    InvalidSessionTimeout,
    /// The group is rebalancing; join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// The commit is larger than the log accepts, or the coordinator's memory is spent.
    #[error("the offset commit is too large")]
    InvalidCommitOffsetSize,
    /// The group has members.
    #[error("the group is not empty")]
    NonEmptyGroup,
    /// No such group.
    #[error("the group does not exist")]
    GroupIdNotFound,
    /// Join again with the member id in the answer (KIP-394).
    #[error("join again with the member id that was assigned")]
    MemberIdRequired,
    /// The group has as many members as `group.max.size` allows, or the coordinator's memory is spent.
    #[error("the group has as many members as it may")]
    GroupMaxSizeReached,
    /// Another member has taken over the group instance id (KIP-345).
    #[error("another member has this group instance id")]
    FencedInstanceId,
    /// A member of the group subscribes to the topic.
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
}

impl GroupError {
    /// The error's number on the wire.
    pub const fn code(self) -> i16 {
        match self {
            Self::UnknownServerError => -1,
            Self::OffsetMetadataTooLarge => 12,
            Self::CoordinatorLoadInProgress => 14,
            Self::CoordinatorNotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::IllegalGeneration => 22,
            Self::InconsistentGroupProtocol => 23,
            Self::InvalidGroupId => 24,
            Self::UnknownMemberId => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::InvalidCommitOffsetSize => 28,
            Self::NonEmptyGroup => 68,
            Self::GroupIdNotFound => 69,
            Self::MemberIdRequired => 79,
            Self::GroupMaxSizeReached => 81,
            Self::FencedInstanceId => 82,
            Self::GroupSubscribedToTopic => 86,
        }
    }
}

/// A record of `__consumer_offsets`, or a snapshot of groups, that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The bytes end before the value does.
    #[error("group record is truncated needed_bytes={needed} available_bytes={available}")]
    Truncated {
        /// Bytes that the format calls for.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// A version that this build does not know; written by a newer one.
    #[error("group record has an unknown version: {what} version={version}")]
    UnknownVersion {
        /// Which part of the record.
        what: &'static str,
        /// The version found.
        version: i16,
    },
    /// A field contradicts the rest.
    #[error("group record is malformed: {what}")]
    Malformed {
        /// Which field, and what is wrong with it.
        what: &'static str,
    },
}

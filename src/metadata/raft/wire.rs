//! What nodes of the quorum say to each other, in JSON, independent of openraft's own encodings. Entries of the log and bytes of a
//! snapshot are the parts beside it.

use openraft::Entry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::super::command::{Command, Outcome};
use super::super::error::{DecodeError, Rejection};
use super::codec::{self, LogIdRecord, MembershipRecord};
use super::snapshot_files::snapshot_meta;
use super::{LogId, TypeConfig, Vote};
use crate::types::NodeId;

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteRecord {
    term: u64,
    node_id: NodeId,
    committed: bool,
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> Self {
        let id = vote.leader_id;
        Self { term: id.term, node_id: id.node_id, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(VoteRecord { term, node_id, committed }: VoteRecord) -> Self {
        if committed { Self::new_committed(term, node_id) } else { Self::new(term, node_id) }
    }
}

fn record(log_id: Option<LogId>) -> Option<LogIdRecord> {
    log_id.map(LogIdRecord::from)
}

/// AppendEntries; the entries are parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AppendHeader {
    vote: VoteRecord,
    previous: Option<LogIdRecord>,
    committed: Option<LogIdRecord>,
}

impl From<&AppendEntriesRequest<TypeConfig>> for AppendHeader {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let (previous, committed) = (record(request.prev_log_id), record(request.leader_commit));
        Self { vote: request.vote.into(), previous, committed }
    }
}

impl AppendHeader {
    /// The request, with its entries.
    pub(super) fn request(self, parts: &[bytes::Bytes]) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
        let entries: Result<Vec<Entry<TypeConfig>>, DecodeError> =
            parts.iter().map(|part| codec::decode_entry(part)).collect();
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.previous.map(LogId::from),
            entries: entries?,
            leader_commit: self.committed.map(LogId::from),
        })
    }
}

/// An answer to AppendEntries.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AppendAnswer {
    Success,
    Partial(Option<LogIdRecord>),
    Conflict,
    HigherVote(VoteRecord),
}

impl From<AppendEntriesResponse<NodeId>> for AppendAnswer {
    fn from(response: AppendEntriesResponse<NodeId>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(log_id) => Self::Partial(record(log_id)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendAnswer> for AppendEntriesResponse<NodeId> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Success => Self::Success,
            AppendAnswer::Partial(log_id) => Self::PartialSuccess(log_id.map(LogId::from)),
            AppendAnswer::Conflict => Self::Conflict,
            AppendAnswer::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

/// RequestVote, and the question whether a vote would be given.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct VoteHeader {
    vote: VoteRecord,
    last: Option<LogIdRecord>,
}

impl VoteHeader {
    pub(super) fn new(vote: Vote, last_log_id: Option<LogId>) -> Self {
        Self { vote: vote.into(), last: record(last_log_id) }
    }

    /// The end of the candidate's log.
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.last.map(LogId::from)
    }

    pub(super) fn request(self) -> VoteRequest<NodeId> {
        VoteRequest { vote: self.vote.into(), last_log_id: self.last_log_id() }
    }
}

impl From<&VoteRequest<NodeId>> for VoteHeader {
    fn from(request: &VoteRequest<NodeId>) -> Self {
        Self::new(request.vote, request.last_log_id)
    }
}

/// An answer to RequestVote.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct VoteAnswer {
    vote: VoteRecord,
    granted: bool,
    last: Option<LogIdRecord>,
}

impl From<VoteResponse<NodeId>> for VoteAnswer {
    fn from(response: VoteResponse<NodeId>) -> Self {
        Self { vote: response.vote.into(), granted: response.vote_granted, last: record(response.last_log_id) }
    }
}

impl From<VoteAnswer> for VoteResponse<NodeId> {
    fn from(answer: VoteAnswer) -> Self {
        Self { vote: answer.vote.into(), vote_granted: answer.granted, last_log_id: answer.last.map(LogId::from) }
    }
}

/// InstallSnapshot; its bytes are the part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotHeader {
    vote: VoteRecord,
    last: Option<LogIdRecord>,
    membership: MembershipRecord,
    offset: u64,
    done: bool,
}

impl From<&InstallSnapshotRequest<TypeConfig>> for SnapshotHeader {
    fn from(request: &InstallSnapshotRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            last: record(request.meta.last_log_id),
            membership: MembershipRecord::from(&request.meta.last_membership),
            offset: request.offset,
            done: request.done,
        }
    }
}

impl SnapshotHeader {
    /// The request, with its bytes.
    pub(super) fn request(self, data: Vec<u8>) -> InstallSnapshotRequest<TypeConfig> {
        let meta = snapshot_meta(self.last.map(LogId::from), self.membership.into());
        InstallSnapshotRequest { vote: self.vote.into(), meta, offset: self.offset, data, done: self.done }
    }
}

/// An answer to InstallSnapshot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SnapshotAnswer {
    Taken { vote: VoteRecord },
    Mismatch { expected_offset: u64 },
}

/// Commands for the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SubmitBody {
    pub(super) commands: Vec<Command>,
}

/// What became of them, and the entry that holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SubmitAnswer {
    pub(super) index: u64,
    pub(super) outcomes: Vec<Result<Outcome, Rejection>>,
}

/// How far the log is committed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ReadIndexAnswer {
    pub(super) index: Option<u64>,
}

/// The answer to the question whether a vote would be given.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct PreVoteAnswer {
    pub(super) would_vote: bool,
}

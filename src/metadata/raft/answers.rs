//! What other nodes ask of this one's part of the quorum.

use std::sync::Arc;

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use serde::de::DeserializeOwned;

use super::super::controller::machine::Heartbeat;
use super::super::error::CommandError;
use super::campaign::Campaign;
use super::controlling::Controlling;
use super::members::{change, status};
use super::proposer::propose;
use super::wire::{
    AppendAnswer, AppendHeader, PreVoteAnswer, ReadIndexAnswer, SnapshotAnswer, SnapshotHeader, SubmitAnswer,
    SubmitBody, VoteAnswer, VoteHeader,
};
use super::{LogId, Raft};
use crate::peer::rpc::{Answer, Answers, Caller, Refusal, RefusalCode, kind};
use crate::runtime::Runtime;
use crate::runtime::net::BoxFuture;
use crate::types::NodeId;

/// The kinds that [`QuorumAnswers`] answers.
pub(super) const KINDS: &[u16] = &[
    kind::RAFT_APPEND,
    kind::RAFT_VOTE,
    kind::RAFT_SNAPSHOT,
    kind::RAFT_PRE_VOTE,
    kind::METADATA_SUBMIT,
    kind::METADATA_READ_INDEX,
    kind::BROKER_HEARTBEAT,
    kind::QUORUM_CHANGE,
    kind::QUORUM_STATUS,
];

/// See the module.
#[derive(Clone)]
pub(super) struct QuorumAnswers {
    pub(super) raft: Raft,
    pub(super) campaign: Arc<Campaign>,
    pub(super) controlling: Arc<Controlling>,
    pub(super) runtime: Runtime,
}

impl Answers for QuorumAnswers {
    fn answer(
        &self,
        from: Caller,
        kind: u16,
        body: Bytes,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        let this = self.clone();
        Box::pin(async move { this.respond(from.node_id, kind, &body, parts).await })
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(malformed)
}

fn malformed(error: impl ToString) -> Refusal {
    Refusal::new(RefusalCode::Malformed, error)
}

fn failed(error: impl ToString) -> Refusal {
    Refusal::new(RefusalCode::Failed, error)
}

impl QuorumAnswers {
    async fn respond(
        &self,
        from: Option<NodeId>,
        kind: u16,
        body: &[u8],
        parts: Vec<Bytes>,
    ) -> Result<Answer, Refusal> {
        match kind {
            kind::RAFT_APPEND => {
                let request = read::<AppendHeader>(body)?.request(&parts).map_err(malformed)?;
                let answer = AppendAnswer::from(self.raft.append_entries(request).await.map_err(failed)?);
                if !matches!(answer, AppendAnswer::HigherVote(_)) {
                    self.campaign.heard();
                }
                Ok(Answer::of(&answer))
            }
            kind::RAFT_VOTE => {
                let request = read::<VoteHeader>(body)?.request();
                Ok(Answer::of(&VoteAnswer::from(self.raft.vote(request).await.map_err(failed)?)))
            }
            kind::RAFT_SNAPSHOT => self.install(read(body)?, parts).await,
            kind::RAFT_PRE_VOTE => {
                let last_log_id = read::<VoteHeader>(body)?.last_log_id();
                let would_vote = from.is_some_and(|candidate| self.campaign.asked(candidate, last_log_id));
                Ok(Answer::of(&PreVoteAnswer { would_vote }))
            }
            kind::METADATA_SUBMIT => {
                let SubmitBody { commands } = read(body)?;
                match propose(&self.raft, &*self.runtime.clock, commands).await {
                    Ok((index, outcomes)) => Ok(Answer::of(&SubmitAnswer { index, outcomes })),
                    Err(error @ CommandError::NotLeader { .. }) => Err(Refusal::new(RefusalCode::NotLeader, error)),
                    Err(error) => Err(failed(error)),
                }
            }
            kind::METADATA_READ_INDEX => {
                let read = self.raft.get_read_log_id().await;
                let (log_id, _): (Option<LogId>, _) =
                    read.map_err(|error| Refusal::new(RefusalCode::NotLeader, error))?;
                Ok(Answer::of(&ReadIndexAnswer { index: log_id.map(|log_id| log_id.index) }))
            }
            kind::BROKER_HEARTBEAT => {
                let heartbeat: Heartbeat = read(body)?;
                if from != Some(heartbeat.node_id) {
                    return Err(Refusal::new(RefusalCode::Denied, "a broker tells its own heartbeats only"));
                }
                let reply = self.controlling.heartbeat(heartbeat);
                Ok(Answer::of(&reply.map_err(|error| Refusal::new(RefusalCode::NotLeader, error))?))
            }
            kind::QUORUM_CHANGE => Ok(Answer::of(&change(&self.raft, read(body)?).await)),
            kind::QUORUM_STATUS => Ok(Answer::of(&status(&self.raft.metrics().borrow()))),
            other => Err(Refusal::new(RefusalCode::Unknown, format!("the metadata quorum answers no kind {other}"))),
        }
    }

    async fn install(&self, header: SnapshotHeader, parts: Vec<Bytes>) -> Result<Answer, Refusal> {
        let Ok([data]) = <[Bytes; 1]>::try_from(parts) else {
            return Err(malformed("a snapshot comes in one part"));
        };
        let answer = match self.raft.install_snapshot(header.request(data.into())).await {
            Ok(response) => {
                self.campaign.heard();
                SnapshotAnswer::Taken { vote: response.vote.into() }
            }
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                SnapshotAnswer::Mismatch { expected_offset: mismatch.expect.offset }
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Answer::of(&answer))
    }
}

//! openraft's requests to peers, as messages of the peer plane. A quorum of one without a peer endpoint reaches nobody.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{BasicNode, SnapshotSegmentId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TypeConfig;
use super::acknowledged::Acknowledged;
use super::codec;
use super::wire::{AppendAnswer, AppendHeader, SnapshotAnswer, SnapshotHeader, VoteAnswer, VoteHeader};
use crate::peer::rpc::{Peers, RpcError, kind};
use crate::types::NodeId;

/// How long a peer that was not reached is left alone.
const UNREACHED_PAUSE: Duration = Duration::from_millis(100);

type CallError<E = RaftError<NodeId>> = RPCError<NodeId, BasicNode, E>;

/// Makes clients to peers.
#[derive(Clone, Debug)]
pub(super) struct PeerNetwork {
    pub(super) peers: Option<Arc<Peers>>,
    /// Hears of each answer to a leader.
    pub(super) acknowledged: Arc<Acknowledged>,
}

/// A client to one peer.
#[derive(Clone, Debug)]
pub(super) struct PeerLink {
    target: NodeId,
    network: PeerNetwork,
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerLink;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> PeerLink {
        if let Some(peers) =
            self.peers.as_ref().filter(|peers| !node.addr.is_empty() && peers.address(target).is_none())
        {
            peers.set_address(target, &node.addr);
        }
        PeerLink { target, network: self.clone() }
    }
}

impl PeerLink {
    async fn call<A: DeserializeOwned, E: std::error::Error>(
        &self,
        kind: u16,
        body: &(impl Serialize + Sync),
        parts: Vec<Bytes>,
        option: &RPCOption,
    ) -> Result<A, CallError<E>> {
        let Some(peers) = &self.network.peers else {
            let nobody = io::Error::other("this quorum has one voter and no connections to peers");
            return Err(Unreachable::new(&nobody).into());
        };
        match peers.call(self.target, kind, body, parts, option.hard_ttl()).await {
            Ok((answer, _)) => Ok(answer),
            Err(error) => {
                if matches!(error, RpcError::NoAddress(_) | RpcError::NotReached { .. } | RpcError::Broken { .. }) {
                    // openraft's own pause draws who goes on from a generator that no seed repeats.
                    peers.clock().sleep(UNREACHED_PAUSE).await;
                }
                Err(NetworkError::new(&error).into())
            }
        }
    }
}

impl RaftNetwork<TypeConfig> for PeerLink {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        let header = AppendHeader::from(&request);
        let parts = request.entries.iter().map(|entry| Bytes::from(codec::encode_entry(entry))).collect();
        let sent = self.network.peers.as_ref().map(|peers| peers.clock().monotonic());
        let answer: AppendAnswer = self.call(kind::RAFT_APPEND, &header, parts, &option).await?;
        if let (Some(sent), false) = (sent, matches!(answer, AppendAnswer::HigherVote(_))) {
            self.network.acknowledged.note(self.target, sent);
        }
        Ok(answer.into())
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, CallError<RaftError<NodeId, InstallSnapshotError>>> {
        let header = SnapshotHeader::from(&request);
        let parts = vec![Bytes::from(request.data)];
        let answer: SnapshotAnswer = self.call(kind::RAFT_SNAPSHOT, &header, parts, &option).await?;
        match answer {
            SnapshotAnswer::Taken { vote } => Ok(InstallSnapshotResponse { vote: vote.into() }),
            SnapshotAnswer::Mismatch { expected_offset } => {
                // openraft begins the snapshot anew.
                let segment = |offset| SnapshotSegmentId { id: request.meta.snapshot_id.clone(), offset };
                let (expect, got) = (segment(expected_offset), segment(request.offset));
                let mismatch = InstallSnapshotError::SnapshotMismatch(SnapshotMismatch { expect, got });
                Err(RPCError::RemoteError(RemoteError::new(self.target, RaftError::APIError(mismatch))))
            }
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError> {
        let answer: VoteAnswer = self.call(kind::RAFT_VOTE, &VoteHeader::from(&request), Vec::new(), &option).await?;
        Ok(answer.into())
    }
}

//! The quorum's network: none yet. A quorum of one never sends; whoever tries learns that there is nobody.

use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use thiserror::Error;

use super::TypeConfig;
use crate::types::NodeId;

type CallError<E = RaftError<NodeId>> = RPCError<NodeId, BasicNode, E>;

/// There is no way to this node.
#[derive(Debug, Error)]
#[error("this quorum has one voter and no connections to peers peer_node_id={0}")]
struct NoPeer(NodeId);

/// Makes clients that reach nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoPeers;

/// A client that reaches nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnreachablePeer(NodeId);

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = UnreachablePeer;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> UnreachablePeer {
        UnreachablePeer(target)
    }
}

impl UnreachablePeer {
    fn unreachable(self) -> Unreachable {
        Unreachable::new(&NoPeer(self.0))
    }
}

impl RaftNetwork<TypeConfig> for UnreachablePeer {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        Err(self.unreachable().into())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, CallError<RaftError<NodeId, InstallSnapshotError>>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError> {
        Err(self.unreachable().into())
    }
}

//! Who belongs to the cluster: members of the quorum, whether they vote or not, and registered brokers.
//!
//! The peer plane asks for each request. What this node has may be older than a node that was let in a moment ago: before one is
//! refused, this node has applied all that the leader knows to be committed, and a node is let in only once that is. Where no leader says
//! so, Raft's own messages are taken, since who was away for long can't know by whom the quorum is led now; all else can wait. After
//! a crash a node knows nobody until it has read its log, and takes everybody for a member.

use std::sync::Arc;
use std::time::Duration;

use super::super::image::Image;
use super::wire::ReadIndexAnswer;
use super::{Raft, RaftMetrics};
use crate::peer::rpc::{Membership, Peers, Refusal, RefusalCode, kind};
use crate::runtime::Runtime;
use crate::runtime::clock;
use crate::runtime::net::BoxFuture;
use crate::runtime::watch;
use crate::types::NodeId;

/// How long the leader's answer is waited for.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may wait for this node to find out who asks.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// What Raft itself says.
const OF_RAFT: &[u16] = &[kind::RAFT_APPEND, kind::RAFT_VOTE, kind::RAFT_SNAPSHOT, kind::RAFT_PRE_VOTE];

/// The newest committed entry, as the leader says after a majority has confirmed it; none while no leader answers.
pub(super) async fn read_index(raft: &Raft, node_id: NodeId, peers: Option<&Peers>) -> Option<Option<u64>> {
    let leader = raft.metrics().borrow().current_leader?;
    if leader == node_id {
        let (log_id, _) = raft.get_read_log_id().await.ok()?;
        return Some(log_id.map(|log_id| log_id.index));
    }
    let asked = peers?.call(leader, kind::METADATA_READ_INDEX, &(), Vec::new(), READ_INDEX_TIMEOUT).await;
    let (ReadIndexAnswer { index }, _) = asked.ok()?;
    Some(index)
}

/// See the module.
#[derive(Clone)]
pub(super) struct Members {
    pub(super) runtime: Runtime,
    pub(super) node_id: NodeId,
    pub(super) raft: Raft,
    pub(super) peers: Arc<Peers>,
    pub(super) metrics: watch::Receiver<RaftMetrics>,
    pub(super) images: watch::Receiver<Arc<Image>>,
}

impl Members {
    /// Waits until this node has applied all that is committed; none if no leader says what is.
    async fn catch_up(&self) -> Option<()> {
        let index = read_index(&self.raft, self.node_id, Some(&*self.peers)).await?;
        let mut metrics = self.metrics.clone();
        let applied = metrics.wait_for(|metrics| metrics.last_applied.map(|log_id| log_id.index) >= index);
        applied.await.ok()
    }

    async fn look(&self, node_id: NodeId, kind: u16) -> Result<(), Refusal> {
        // Who is followed as the leader was elected by a majority, and brings the entry that has it as a member.
        if OF_RAFT.contains(&kind) && self.metrics.borrow().current_leader == Some(node_id) {
            return Ok(());
        }
        let known = clock::timeout(&*self.runtime.clock, CONFIRM_TIMEOUT, self.catch_up()).await;
        match known {
            Ok(Some(())) if self.is_member(node_id) => Ok(()),
            Ok(Some(())) => Err(Refusal::new(
                RefusalCode::Removed,
                "this node was removed from the cluster; join anew with an empty data directory",
            )),
            Ok(None) | Err(clock::Elapsed) if OF_RAFT.contains(&kind) => Ok(()),
            Ok(None) | Err(clock::Elapsed) => Err(Refusal::new(
                RefusalCode::NotLeader,
                format!("no leader of the metadata says whether node {node_id} belongs to the cluster; try again"),
            )),
        }
    }
}

impl Membership for Members {
    fn is_member(&self, node_id: NodeId) -> bool {
        if self.images.borrow().broker(node_id).is_some() {
            return true;
        }
        let metrics = self.metrics.borrow();
        let membership = metrics.membership_config.membership();
        // Of a log that has nothing yet.
        membership.get_node(&node_id).is_some() || membership.nodes().next().is_none()
    }

    fn confirm(&self, node_id: NodeId, kind: u16) -> BoxFuture<'static, Result<(), Refusal>> {
        let this = self.clone();
        Box::pin(async move {
            this.look(node_id, kind).await.inspect_err(|refusal| {
                tracing::debug!(%refusal, %node_id, kind, "a request of a node that is no member");
            })
        })
    }
}

//! A broker among others: its endpoint and what it shows of itself (`plane`), how a new one comes to a cluster (`join`, `welcome`), and
//! the heartbeats by which the controller knows that it lives (`heartbeat`); and whether its machine went down uncleanly (`boot`).
//!
//! `start` opens the plane before the metadata, since the quorum needs its peers. After a crash a node that is a member finds its
//! certificate on its disk and its peers in the metadata; one that was about to join begins anew, with the same key.

mod boot;
mod heartbeat;
mod join;
mod plane;
mod welcome;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::StartError;
use crate::archive::store::Store;
use crate::log::LogDirectory;
use crate::metadata::Metadata;
use crate::types::{BrokerEpoch, ClusterId, NodeId};

pub(super) use boot::BootMark;
pub(super) use heartbeat::Heartbeats;
pub use join::JoinError;
pub(super) use plane::Plane;

/// What a broker has of its cluster.
pub(super) struct Cluster {
    pub(super) plane: Arc<Plane>,
    pub(super) heartbeats: Arc<Heartbeats>,
}

impl Cluster {
    /// Makes a broker that has registered a part of its cluster, and waits until the controller has it take part.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn enter(
        plane: Plane,
        metadata: &Arc<Metadata>,
        epoch: BrokerEpoch,
        directories: &[Arc<LogDirectory>],
        store: &Store,
    ) -> Result<Self, StartError> {
        plane.settle(metadata, store).await?;
        let heartbeats = Heartbeats::new(plane.runtime(), metadata, epoch, directories, plane.session());
        let heartbeats = Arc::new(heartbeats);
        heartbeats.until_unfenced().await;
        Ok(Self { plane: Arc::new(plane), heartbeats })
    }
}

/// What a node asks that is no member yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum JoinRequest {
    /// Which cluster is this?
    Hello,
    /// Let me in. The part beside it is a request for a certificate.
    Join {
        /// The number that it wants to have.
        node_id: NodeId,
        /// Where peers reach it, as `host:port`.
        address: String,
        /// The token that it was given; none where its certificate is the operator's.
        token: Option<String>,
        /// What it reads in the cluster's stamp in the object store: proof that it sees the same one.
        store_nonce: String,
    },
}

/// The answer to [`JoinRequest::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    cluster_id: ClusterId,
}

/// The answer to [`JoinRequest::Join`]. The parts beside it are the node's certificate and the authority's; none where
/// certificates are the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Welcome {
    /// Where the members are, by number.
    members: Vec<(NodeId, String)>,
}

#[cfg(test)]
mod tests;

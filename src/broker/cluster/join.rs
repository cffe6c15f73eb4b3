//! Coming to a cluster that is there: a member is asked, which looks at the token and at the proof that this node sees the cluster's
//! store, and gives a certificate. Whoever does not answer is asked again, and others in turn; who refuses is believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::{Hello, JoinRequest, Welcome};
use crate::archive::bucket::{Bucket, BucketError};
use crate::archive::store::Store;
use crate::broker::settings::ClusterSettings;
use crate::peer::authority::{AuthorityError, NodeKey};
use crate::peer::identity_files::IdentityError;
use crate::peer::rpc::{AskError, Envelope, ask, kind};
use crate::peer::token::{JoinToken, TokenError};
use crate::runtime::Runtime;
use crate::runtime::clock;
use crate::runtime::peers::{ExpectedPeer, PeerConnection, PeerEndpoint, PeerError};
use crate::types::{ClusterId, NodeId};

/// How long members that can't be reached are tried, in turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after all of them were tried.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one member may take to answer: it changes the quorum meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Why this broker did not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// There is nothing to be let in by.
    #[error(
        "joining needs a token: run `alluvium cluster token` where a member has its data directory, and give it with --join-token"
    )]
    NoToken,
    /// The token can't be used.
    #[error("join token can't be used: {0}")]
    Token(#[from] TokenError),
    /// This node's key can't be used.
    #[error(transparent)]
    Key(#[from] AuthorityError),
    /// This node's files can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The object store can't be looked at.
    #[error("the object store has to be read to join: {0}")]
    Store(#[from] BucketError),
    /// The store that this broker is configured with is not the cluster's.
    #[error(
        "the object store holds nothing of the cluster {cluster_id}; give this broker the --object-store of the others"
    )]
    ForeignStore {
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// A member says no.
    #[error("the cluster refuses this broker member={member}: {reason}")]
    Refused {
        /// Who was asked.
        member: String,
        /// What it says.
        reason: String,
    },
    /// Nobody answered.
    #[error(
        "no member of the cluster can be reached, the last was {member}: {reason}; see that the addresses after --join are peer addresses of brokers that run, and that UDP gets there"
    )]
    Unreachable {
        /// Who was asked last.
        member: String,
        /// What came of it.
        reason: String,
    },
}

/// What a node has once it was let in.
pub(super) struct Joined {
    pub(super) cluster_id: ClusterId,
    pub(super) members: BTreeMap<NodeId, String>,
    /// The node's certificate and the authority's, unless they are the operator's.
    pub(super) certificates: Option<(Bytes, Bytes)>,
}

/// What a node joins with.
pub(super) struct Joiner<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) endpoint: &'a Arc<dyn PeerEndpoint>,
    pub(super) settings: &'a ClusterSettings,
    pub(super) node_id: NodeId,
    pub(super) key: &'a NodeKey,
    pub(super) address: &'a str,
    pub(super) store: &'a Store,
}

/// What came of asking one member.
enum Failure {
    /// Another may answer, or the same one later.
    Again(String),
    Final(JoinError),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Again(error.to_string())
    }
}

impl<T: Into<JoinError>> From<T> for Failure {
    fn from(error: T) -> Self {
        Self::Final(error.into())
    }
}

impl Joiner<'_> {
    /// Asks members in turn until one lets this node in.
    ///
    /// # Errors
    /// [`JoinError`]; the cluster may know the node by then, and takes it again.
    pub(super) async fn join(&self) -> Result<Joined, JoinError> {
        let token = self.settings.token.as_ref().map(|token| token.expose().parse::<JoinToken>()).transpose()?;
        if token.is_none() && self.settings.pki.is_none() {
            return Err(JoinError::NoToken);
        }
        let clock = &*self.runtime.clock;
        let began = clock.monotonic();
        loop {
            let mut last = (String::new(), String::new());
            for member in &self.settings.join {
                let asked = clock::timeout(clock, ANSWER_TIMEOUT, self.ask(member, token.as_ref())).await;
                match asked.unwrap_or_else(|_| Err(Failure::Again("it does not answer in time".to_owned()))) {
                    Ok(joined) => return Ok(joined),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Again(reason)) => {
                        tracing::warn!(member, reason, "this member of the cluster can't be asked");
                        last = (member.clone(), reason);
                    }
                }
            }
            if clock.monotonic().since(began) >= PATIENCE {
                let (member, reason) = last;
                return Err(JoinError::Unreachable { member, reason });
            }
            clock.sleep(PAUSE).await;
        }
    }

    async fn ask(&self, member: &str, token: Option<&JoinToken>) -> Result<Joined, Failure> {
        let expected = match token {
            Some(token) if self.settings.pki.is_none() => ExpectedPeer::Authority(token.authority()),
            _ => ExpectedPeer::HostOfAddress,
        };
        let connected = self.endpoint.connect(member, expected).await;
        let connection = connected.map_err(|error| match error {
            PeerError::Refused { reason } => Failure::Final(JoinError::Refused { member: member.to_owned(), reason }),
            error => Failure::Again(error.to_string()),
        })?;
        let (Hello { cluster_id }, _) = self.request(member, &connection, JoinRequest::Hello, Vec::new()).await?;
        let bucket = Bucket::new(self.store.clone(), self.runtime.clone(), cluster_id);
        let stamp = bucket.stamp().await.map_err(|error| match error {
            BucketError::Store(error) if error.is_transient() => Failure::Again(error.to_string()),
            error => Failure::Final(error.into()),
        })?;
        let stamp = stamp.ok_or(JoinError::ForeignStore { cluster_id })?;
        let request = JoinRequest::Join {
            node_id: self.node_id,
            address: self.address.to_owned(),
            token: self.settings.token.as_ref().map(|token| token.expose().clone()),
            store_nonce: stamp.nonce.to_string(),
        };
        let parts = vec![Bytes::from(self.key.certificate_request()?)];
        let (welcome, parts): (Welcome, _) = self.request(member, &connection, request, parts).await?;
        let certificates = match <[Bytes; 2]>::try_from(parts) {
            Ok([certificate, authority]) => Some((certificate, authority)),
            Err(parts) if parts.is_empty() => None,
            Err(_) => return Err(Failure::Again("its answer can't be read".to_owned())),
        };
        connection.close("joined");
        Ok(Joined { cluster_id, members: welcome.members.into_iter().collect(), certificates })
    }

    async fn request<A: serde::de::DeserializeOwned>(
        &self,
        member: &str,
        connection: &Arc<dyn PeerConnection>,
        body: JoinRequest,
        parts: Vec<Bytes>,
    ) -> Result<(A, Vec<Bytes>), Failure> {
        use crate::peer::rpc::RefusalCode;

        let envelope = Envelope { cluster_id: None, from: self.node_id, body };
        ask(connection, kind::JOIN, &envelope, parts).await.map_err(|error| match error {
            AskError::Refused(refusal) if refusal.code == RefusalCode::Denied => {
                Failure::Final(JoinError::Refused { member: member.to_owned(), reason: refusal.reason })
            }
            error => Failure::from(error),
        })
    }
}

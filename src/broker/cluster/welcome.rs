//! What a member does for a node that wants to join: looks at its token, its number and its sight of the store, has the quorum take it
//! as a learner, and issues its certificate.

use std::sync::Arc;

use bytes::Bytes;

use super::{Hello, JoinRequest, Welcome};
use crate::archive::bucket::Bucket;
use crate::metadata::image::BrokerState;
use crate::metadata::{MemberChange, Metadata};
use crate::peer::authority::Authority;
use crate::peer::rpc::{Answer, Answers, Caller, Refusal, RefusalCode};
use crate::peer::token::JoinToken;
use crate::runtime::Runtime;
use crate::runtime::net::BoxFuture;
use crate::runtime::peers::Secret;
use crate::types::NodeId;

/// See the module.
#[derive(Clone)]
pub(super) struct Doorkeeper {
    pub(super) runtime: Runtime,
    pub(super) metadata: Arc<Metadata>,
    pub(super) bucket: Bucket,
    /// Certificates are the operator's, and who has one is let in by it.
    pub(super) trusts_operator: bool,
}

impl Answers for Doorkeeper {
    fn answer(
        &self,
        from: Caller,
        _kind: u16,
        body: Bytes,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        let this = self.clone();
        Box::pin(async move {
            let request = serde_json::from_slice(&body).map_err(|error| Refusal::new(RefusalCode::Malformed, error))?;
            match request {
                JoinRequest::Hello => Ok(Answer::of(&Hello { cluster_id: this.metadata.cluster_id() })),
                JoinRequest::Join { node_id, address, token, store_nonce } => {
                    if !this.trusts_operator {
                        this.check_token(token.as_deref()).inspect_err(|refusal| {
                            tracing::warn!(%refusal, %node_id, from = %from.address, "a node was not let in");
                        })?;
                    }
                    this.check_number(node_id).await?;
                    this.check_store(&store_nonce).await?;
                    this.let_in(node_id, address, parts).await
                }
            }
        })
    }
}

fn denied(reason: impl ToString) -> Refusal {
    Refusal::new(RefusalCode::Denied, reason)
}

fn failed(reason: impl ToString) -> Refusal {
    Refusal::new(RefusalCode::Failed, reason)
}

impl Doorkeeper {
    fn check_token(&self, token: Option<&str>) -> Result<(), Refusal> {
        let image = self.metadata.image();
        let authority = image.authority().ok_or_else(|| failed("the cluster has no authority yet; try again"))?;
        let token: JoinToken = token.ok_or_else(|| denied("a token is needed"))?.parse().map_err(denied)?;
        let now = self.runtime.clock.wall();
        token.verify(&authority.join_secret, self.metadata.cluster_id(), now).map_err(denied)
    }

    /// A number belongs to one node. One that votes must not come back without its memory: it could vote twice in a term.
    async fn check_number(&self, node_id: NodeId) -> Result<(), Refusal> {
        if node_id.get() < 0 {
            return Err(denied("a broker has a number from 0"));
        }
        let status =
            self.metadata.quorum_status().await.ok_or_else(|| failed("the metadata has no leader; try again"))?;
        if status.voters.contains(&node_id) {
            return Err(denied(format!(
                "node {node_id} votes in the metadata quorum and has a data directory elsewhere; give this broker another --node-id, or, if that one is lost, run `alluvium cluster remove-voter {node_id}` first"
            )));
        }
        match self.metadata.image().broker(node_id) {
            Some(broker) if broker.state != BrokerState::Fenced => {
                Err(denied(format!("broker {node_id} is running; give this one another --node-id")))
            }
            _ => Ok(()),
        }
    }

    async fn check_store(&self, nonce: &str) -> Result<(), Refusal> {
        let stamp =
            self.bucket.stamp().await.map_err(|error| failed(format!("the object store does not answer: {error}")))?;
        match stamp {
            Some(stamp) if stamp.nonce.to_string() == nonce => Ok(()),
            Some(_) => Err(denied(
                "your object store is not the cluster's, or an old copy of it; give this broker the --object-store of the others",
            )),
            None => Err(failed("the cluster has not stamped its object store yet; try again")),
        }
    }

    async fn let_in(&self, node_id: NodeId, address: String, parts: Vec<Bytes>) -> Result<Answer, Refusal> {
        let mut certificates = Vec::new();
        if !self.trusts_operator {
            let [request] = <[Bytes; 1]>::try_from(parts)
                .map_err(|_| Refusal::new(RefusalCode::Malformed, "a request for a certificate is needed"))?;
            let image = self.metadata.image();
            let issuer = image.authority().ok_or_else(|| failed("the cluster has no authority yet; try again"))?;
            let authority = Authority { certificate: issuer.certificate.clone(), key: Secret::new(issuer.key.clone()) };
            let (serial, now) = (self.runtime.entropy.identity(), self.runtime.clock.wall());
            let issued = authority.issue(self.metadata.cluster_id(), node_id, &request, serial, now);
            certificates = vec![Bytes::from(issued.map_err(denied)?), Bytes::from(authority.certificate)];
        }
        let add = MemberChange::Add { node_id, address: address.clone() };
        self.metadata.change_members(add).await.map_err(failed)?;
        tracing::info!(%node_id, address, "a node joined the cluster");
        let status =
            self.metadata.quorum_status().await.ok_or_else(|| failed("the metadata has no leader; try again"))?;
        let members = status.addresses.into_iter().collect();
        Ok(Answer { parts: certificates, ..Answer::of(&Welcome { members }) })
    }
}

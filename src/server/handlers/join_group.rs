//! JoinGroup: a member joins; answered when the rebalance is over.

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::wire::{shared, shared_option, text};
use super::{Context, Handle};
use crate::group::request::{JoinGroup, MemberProtocol};

/// First version in which the protocol's name may be null.
const FIRST_NULL_PROTOCOL_VERSION: i16 = 7;

/// A copy of what the request asks: its memory goes, the member stays.
fn copy(request: &JoinGroupRequest, context: &Context) -> JoinGroup {
    let protocols = request
        .protocols
        .iter()
        .map(|protocol| MemberProtocol { name: shared(&protocol.name), metadata: protocol.metadata.to_vec().into() });
    JoinGroup {
        group_id: shared(&request.group_id),
        member_id: shared(&request.member_id),
        group_instance_id: shared_option(request.group_instance_id.as_ref()),
        client_id: context.header.client_id.as_deref().unwrap_or_default().into(),
        client_host: format!("/{}", context.peer.address.ip()).into(),
        api_version: context.version(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        protocol_type: shared(&request.protocol_type),
        protocols: protocols.collect(),
        reason: shared_option(request.reason.as_ref()),
    }
}

impl Handle for JoinGroupRequest {
    async fn handle(self, context: &Context) -> JoinGroupResponse {
        let join = copy(&self, context);
        let copied = join.protocols.iter().map(|one| size_of_val(one) + one.name.len() + one.metadata.len());
        let copied_bytes = copied.sum();
        drop(self);
        context.keep_of_request(copied_bytes);
        let no_protocol = (context.version() < FIRST_NULL_PROTOCOL_VERSION).then(|| text(""));
        match context.broker.groups().join_group(join).await {
            Ok(joined) => {
                let members = joined.members.into_iter().map(|member| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(&member.member_id))
                        .with_group_instance_id(member.group_instance_id.as_deref().map(text))
                        .with_metadata(member.metadata)
                });
                JoinGroupResponse::default()
                    .with_generation_id(joined.generation)
                    .with_protocol_type(joined.protocol_type.as_deref().map(text))
                    .with_protocol_name(joined.protocol.as_deref().map(text).or(no_protocol))
                    .with_leader(text(&joined.leader))
                    .with_skip_assignment(joined.skip_assignment)
                    .with_member_id(text(&joined.member_id))
                    .with_members(members.collect())
            }
            Err(refused) => JoinGroupResponse::default()
                .with_error_code(context.group_code(Some(refused.error)))
                .with_generation_id(-1)
                .with_protocol_name(no_protocol)
                .with_member_id(text(&refused.member_id)),
        }
    }
}

//! LeaveGroup: members leave, one by its id, or several (KIP-345).

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::wire::{shared, shared_option, text};
use super::{Context, Handle};
use crate::group::request::{LeaveGroup, LeavingMember};

/// First version that names several members.
const FIRST_BATCH_VERSION: i16 = 3;

impl Handle for LeaveGroupRequest {
    async fn handle(self, context: &Context) -> LeaveGroupResponse {
        let alone = context.version() < FIRST_BATCH_VERSION;
        let members = match alone {
            true => vec![LeavingMember { member_id: shared(&self.member_id), group_instance_id: None, reason: None }],
            false => self
                .members
                .iter()
                .map(|member| LeavingMember {
                    member_id: shared(&member.member_id),
                    group_instance_id: shared_option(member.group_instance_id.as_ref()),
                    reason: shared_option(member.reason.as_ref()),
                })
                .collect(),
        };
        let leave = LeaveGroup { group_id: shared(&self.group_id), members };
        match context.broker.groups().leave_group(leave).await {
            Ok(left) if alone => {
                let error = left.first().and_then(|member| member.error);
                LeaveGroupResponse::default().with_error_code(context.group_code(error))
            }
            Ok(left) => {
                let members = left.into_iter().map(|member| {
                    MemberResponse::default()
                        .with_member_id(text(&member.member_id))
                        .with_group_instance_id(member.group_instance_id.as_deref().map(text))
                        .with_error_code(context.group_code(member.error))
                });
                LeaveGroupResponse::default().with_members(members.collect())
            }
            Err(error) => LeaveGroupResponse::default().with_error_code(context.group_code(Some(error))),
        }
    }
}

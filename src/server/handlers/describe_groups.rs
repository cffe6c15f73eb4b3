//! DescribeGroups: groups with their members and assignments.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

use super::wire::{GROUP_OPERATIONS, NO_OPERATIONS, message, shared, text};
use super::{Context, Handle};
use crate::group::request::{self, GroupState};
use crate::protocol::ErrorCode;

/// First version in which a group that does not exist is an error (KIP-1043).
const FIRST_NOT_FOUND_VERSION: i16 = 6;

/// What a group or a member takes in memory beside what it brings, at most.
const MEMBER_BYTES: usize = 500;

impl Handle for DescribeGroupsRequest {
    async fn handle(self, context: &Context) -> DescribeGroupsResponse {
        let operations = if self.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
        let mut room = context.answer_room();
        let mut groups = Vec::with_capacity(self.groups.len());
        for group_id in self.groups {
            let described = context.broker.groups().describe_group(shared(&group_id)).await;
            let described = described.map_err(|error| context.group_code(Some(error)));
            let fitting = described.and_then(|group| match room.take(bytes_of(&group)) {
                true => Ok(group),
                false => Err(ErrorCode::InvalidRequest.code()),
            });
            groups.push((group_id, fitting));
        }
        // Coordinators were waited for before.
        context.take_place().await;
        let groups = groups.into_iter().map(|(group_id, described)| {
            let answer = answer(context, group_id, described);
            let operations = if answer.error_code == 0 { operations } else { NO_OPERATIONS };
            answer.with_authorized_operations(operations)
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }
}

/// What a group takes in memory, at most.
fn bytes_of(group: &request::DescribedGroup) -> usize {
    let bytes = |member: &request::DescribedMember| MEMBER_BYTES + member.metadata.len() + member.assignment.len();
    MEMBER_BYTES + group.members.iter().map(bytes).sum::<usize>()
}

fn answer(context: &Context, group_id: GroupId, described: Result<request::DescribedGroup, i16>) -> DescribedGroup {
    let answer = DescribedGroup::default().with_group_id(group_id.clone());
    let group = match described {
        Ok(group) => group,
        Err(code) => return answer.with_error_code(code),
    };
    if group.state == GroupState::Dead && context.version() >= FIRST_NOT_FOUND_VERSION {
        context.count_error(ErrorCode::GroupIdNotFound);
        return answer
            .with_group_state(text(group.state.name()))
            .with_error_code(ErrorCode::GroupIdNotFound.code())
            .with_error_message(message(format!("Group {} not found.", &*group_id)));
    }
    let members = group.members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.group_instance_id.as_deref().map(text))
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    answer
        .with_group_state(text(group.state.name()))
        .with_protocol_type(text(&group.protocol_type))
        .with_protocol_data(text(&group.protocol))
        .with_members(members.collect())
}

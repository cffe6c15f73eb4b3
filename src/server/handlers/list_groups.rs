//! ListGroups: the groups that this broker coordinates.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};

use super::wire::{shared, text};
use super::{Context, Handle};
use crate::group::GroupError;
use crate::group::request::{CLASSIC, ListGroups};

impl Handle for ListGroupsRequest {
    async fn handle(self, context: &Context) -> ListGroupsResponse {
        let list = ListGroups {
            states: self.states_filter.iter().map(shared).collect(),
            types: self.types_filter.iter().map(shared).collect(),
        };
        let mut listed = context.broker.groups().list_groups(list).await;
        if context.broker.waits_for_offsets() {
            listed = Err(GroupError::CoordinatorLoadInProgress);
        }
        context.take_place().await;
        match listed {
            Ok(groups) => {
                let groups = groups.into_iter().map(|group| {
                    ListedGroup::default()
                        .with_group_id(GroupId(text(&group.group_id)))
                        .with_protocol_type(text(&group.protocol_type))
                        .with_group_state(text(group.state.name()))
                        .with_group_type(text(CLASSIC))
                });
                ListGroupsResponse::default().with_groups(groups.collect())
            }
            Err(error) => ListGroupsResponse::default().with_error_code(context.group_code(Some(error))),
        }
    }
}

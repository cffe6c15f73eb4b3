//! DeleteGroups: removes groups that have no members, with their offsets.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::wire::shared;
use super::{Context, Handle};

impl Handle for DeleteGroupsRequest {
    async fn handle(self, context: &Context) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(self.groups_names.len());
        for group_id in self.groups_names {
            let error = context.broker.groups().delete_group(shared(&group_id)).await.err();
            let code = context.group_code(error);
            results.push(DeletableGroupResult::default().with_group_id(group_id).with_error_code(code));
        }
        DeleteGroupsResponse::default().with_results(results)
    }
}

//! Heartbeat: a member of a group is alive.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::wire::{shared, shared_option};
use super::{Context, Handle};
use crate::group::request::Heartbeat;

impl Handle for HeartbeatRequest {
    async fn handle(self, context: &Context) -> HeartbeatResponse {
        let heartbeat = Heartbeat {
            group_id: shared(&self.group_id),
            generation: self.generation_id,
            member_id: shared(&self.member_id),
            group_instance_id: shared_option(self.group_instance_id.as_ref()),
        };
        let error = context.broker.groups().heartbeat(heartbeat).await.err();
        HeartbeatResponse::default().with_error_code(context.group_code(error))
    }
}

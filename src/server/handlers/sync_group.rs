//! SyncGroup: members get their assignments, which the leader brings.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::wire::{shared, shared_option, text};
use super::{Context, Handle};
use crate::group::request::SyncGroup;
use crate::protocol::ErrorCode;

/// First version that has to name the group's protocol and its type (KIP-559).
const FIRST_PROTOCOL_VERSION: i16 = 5;

impl Handle for SyncGroupRequest {
    async fn handle(self, context: &Context) -> SyncGroupResponse {
        let names_protocol = self.protocol_type.is_some() && self.protocol_name.is_some();
        if context.version() >= FIRST_PROTOCOL_VERSION && !names_protocol {
            let error = ErrorCode::InconsistentGroupProtocol;
            context.count_error(error);
            return SyncGroupResponse::default().with_error_code(error.code());
        }
        // A copy: the request's memory goes, the assignment stays.
        let copy = |one: &SyncGroupRequestAssignment| (shared(&one.member_id), one.assignment.to_vec().into());
        let assignments: Vec<(Arc<str>, Bytes)> = self.assignments.iter().map(copy).collect();
        let copied = assignments.iter().map(|one| size_of_val(one) + one.0.len() + one.1.len());
        let copied_bytes = copied.sum();
        let sync = SyncGroup {
            group_id: shared(&self.group_id),
            generation: self.generation_id,
            member_id: shared(&self.member_id),
            group_instance_id: shared_option(self.group_instance_id.as_ref()),
            protocol_type: shared_option(self.protocol_type.as_ref()),
            protocol: shared_option(self.protocol_name.as_ref()),
            assignments,
        };
        drop(self);
        context.keep_of_request(copied_bytes);
        match context.broker.groups().sync_group(sync).await {
            Ok(synced) => SyncGroupResponse::default()
                .with_protocol_type(synced.protocol_type.as_deref().map(text))
                .with_protocol_name(synced.protocol.as_deref().map(text))
                .with_assignment(synced.assignment),
            Err(error) => SyncGroupResponse::default().with_error_code(context.group_code(Some(error))),
        }
    }
}

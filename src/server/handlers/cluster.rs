//! DescribeCluster: the brokers and the controller.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::wire::{CLUSTER_OPERATIONS, NO_OPERATIONS, broker_id, message, registered_brokers, text};
use super::{Context, Handle};
use crate::protocol::ErrorCode;

/// Asks for brokers, and not for controllers (KIP-919).
const BROKERS: i8 = 1;

impl Handle for DescribeClusterRequest {
    async fn handle(self, context: &Context) -> DescribeClusterResponse {
        let image = context.broker.image();
        let response = DescribeClusterResponse::default().with_endpoint_type(BROKERS);
        if context.version() >= 1 && self.endpoint_type != BROKERS {
            let error = match self.endpoint_type {
                2 => ErrorCode::MismatchedEndpointType,
                _ => ErrorCode::UnsupportedEndpointType,
            };
            return response
                .with_error_code(error.code())
                .with_error_message(message(format!("Unsupported endpoint type {}", self.endpoint_type)));
        }
        // Fenced ones are told since version 2, to those who ask for them (KIP-1073).
        let described = registered_brokers(&image, context).into_iter();
        let described = described.filter(|broker| self.include_fenced_brokers || !broker.is_fenced).map(|broker| {
            DescribeClusterBroker::default()
                .with_broker_id(broker.node_id)
                .with_host(broker.host)
                .with_port(broker.port)
                .with_rack(broker.rack)
                .with_is_fenced(broker.is_fenced)
        });
        let described: Vec<_> = described.collect();
        let controller = broker_id(Some(context.broker.controller(&image)));
        let is_told = described.iter().any(|broker| broker.broker_id == controller);
        let operations = if self.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS };
        response
            .with_cluster_id(text(&context.broker.cluster_id().to_string()))
            .with_controller_id(if is_told { controller } else { broker_id(None) })
            .with_brokers(described)
            .with_cluster_authorized_operations(operations)
    }
}

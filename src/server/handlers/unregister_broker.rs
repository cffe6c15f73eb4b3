//! UnregisterBroker: forgets a broker that is gone for good (KIP-500).

use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::wire::message;
use super::{Context, Handle};
use crate::server::errors::cluster_code;
use crate::types::NodeId;

impl Handle for UnregisterBrokerRequest {
    async fn handle(self, context: &Context) -> UnregisterBrokerResponse {
        // The text of an answer without an error is empty, as Kafka's is.
        let response = UnregisterBrokerResponse::default();
        match context.broker.unregister(NodeId(self.broker_id.0)).await {
            Ok(()) => response,
            Err(error) => {
                let code = cluster_code(&error);
                context.count_error(code);
                response.with_error_code(code.code()).with_error_message(message(error))
            }
        }
    }
}

//! InitProducerId: an identity for an idempotent producer. Transactional producers are refused, see decision record 0041.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Context, Handle};
use crate::protocol::ErrorCode;
use crate::server::errors::command_code;

impl Handle for InitProducerIdRequest {
    async fn handle(self, context: &Context) -> InitProducerIdResponse {
        let refused = |error: ErrorCode| {
            context.count_error(error);
            InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        };
        match self.transactional_id {
            Some(id) if id.is_empty() => return refused(ErrorCode::InvalidRequest),
            Some(_) => return refused(ErrorCode::TransactionalIdAuthorizationFailed),
            None => {}
        }
        if (self.producer_id.0 == -1) != (self.producer_epoch == -1) {
            return refused(ErrorCode::InvalidRequest);
        }
        // Without transactions an epoch is raised by a new producer id, as Kafka's broker does too.
        match context.broker.new_producer_id().await {
            Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id.get())).with_producer_epoch(0),
            Err(error) => refused(command_code(&error)),
        }
    }
}

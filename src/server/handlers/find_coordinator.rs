//! FindCoordinator: which broker coordinates a group. Transactions have none yet, see decision record 0041.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::wire::{Reachable, message, this_broker};
use super::{Context, Handle};
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;

/// First version that asks for several coordinators at a time.
const FIRST_BATCH_VERSION: i16 = 4;
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

impl Handle for FindCoordinatorRequest {
    async fn handle(self, context: &Context) -> FindCoordinatorResponse {
        let found = find(context, self.key_type).await;
        if let Err((error, _)) = &found {
            context.count_error(*error);
        }
        // The text beside a coordinator that was found is what Apache Kafka says in either form.
        if context.version() >= FIRST_BATCH_VERSION {
            let coordinators = self.coordinator_keys.into_iter().map(|key| coordinator(key, &found, ""));
            return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
        }
        let one = coordinator(self.key, &found, ErrorCode::None.name());
        FindCoordinatorResponse::default()
            .with_error_code(one.error_code)
            .with_error_message(one.error_message)
            .with_node_id(one.node_id)
            .with_host(one.host)
            .with_port(one.port)
    }
}

async fn find(context: &Context, key_type: i8) -> Result<Reachable, (ErrorCode, String)> {
    match key_type {
        GROUP => {}
        TRANSACTION => {
            let text = "transactions are not supported yet".to_owned();
            return Err((ErrorCode::TransactionalIdAuthorizationFailed, text));
        }
        _ => return Err((ErrorCode::InvalidRequest, format!("unknown kind of coordinator: {key_type}"))),
    }
    context.broker.offsets_topic().await.map_err(|error| (admin_code(&error), error.to_string()))?;
    let here = this_broker(&context.broker.image(), context);
    here.ok_or((ErrorCode::CoordinatorNotAvailable, "the broker is not registered".to_owned()))
}

fn coordinator(
    key: StrBytes,
    found: &Result<Reachable, (ErrorCode, String)>,
    text_of_success: &'static str,
) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    match found {
        Ok(broker) => coordinator
            .with_error_message(Some(StrBytes::from_static_str(text_of_success)))
            .with_node_id(broker.node_id)
            .with_host(broker.host.clone())
            .with_port(broker.port),
        Err((error, text)) => coordinator
            .with_error_code(error.code())
            .with_error_message(message(text))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

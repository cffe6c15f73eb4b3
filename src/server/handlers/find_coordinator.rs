//! FindCoordinator: which broker coordinates a group. Transactions have none yet, see decision record 0041.

use std::sync::Arc;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::wire::{Reachable, live_broker, message};
use super::{Context, Handle};
use crate::group::partition_of;
use crate::metadata::Image;
use crate::metadata::image::Topic;
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;

/// First version that asks for several coordinators at a time.
const FIRST_BATCH_VERSION: i16 = 4;
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

impl Handle for FindCoordinatorRequest {
    async fn handle(self, context: &Context) -> FindCoordinatorResponse {
        let topic = topic_of(context, self.key_type).await;
        let image = context.broker.image();
        // The text beside a coordinator that was found is what Apache Kafka says in either form.
        if context.version() >= FIRST_BATCH_VERSION {
            let keys = self.coordinator_keys.into_iter();
            let coordinators = keys.map(|key| {
                let found = find(context, &image, &topic, &key);
                coordinator(key, found, "")
            });
            return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
        }
        let found = find(context, &image, &topic, &self.key);
        let one = coordinator(self.key, found, ErrorCode::None.name());
        FindCoordinatorResponse::default()
            .with_error_code(one.error_code)
            .with_error_message(one.error_message)
            .with_node_id(one.node_id)
            .with_host(one.host)
            .with_port(one.port)
    }
}

type Refused = (ErrorCode, String);

/// The topic whose partitions' leaders coordinate, created if it is not there.
async fn topic_of(context: &Context, key_type: i8) -> Result<Arc<Topic>, Refused> {
    match key_type {
        GROUP => {}
        TRANSACTION => {
            let text = "transactions are not supported yet".to_owned();
            return Err((ErrorCode::TransactionalIdAuthorizationFailed, text));
        }
        _ => return Err((ErrorCode::InvalidRequest, format!("unknown kind of coordinator: {key_type}"))),
    }
    context.broker.offsets_topic().await.map_err(|error| (admin_code(&error), error.to_string()))
}

/// The leader of the group's partition, if it takes part and the clients of this listener reach it: any broker knows, whether it
/// coordinates groups or not.
fn find(
    context: &Context,
    image: &Image,
    topic: &Result<Arc<Topic>, Refused>,
    group: &str,
) -> Result<Reachable, Refused> {
    let found = topic.as_ref().map_err(Refused::clone).and_then(|topic| {
        // Elections may be newer than the topic.
        let newest = image.topic(topic.topic_id).unwrap_or(topic);
        let index = partition_of(group, newest.partition_count());
        let leader = newest.partition(index.get()).and_then(|partition| partition.leader);
        let leader = leader.and_then(|leader| live_broker(image, leader, context));
        leader.ok_or_else(|| (ErrorCode::CoordinatorNotAvailable, "nobody leads the group's partition now".to_owned()))
    });
    found.inspect_err(|(error, _)| context.count_error(*error))
}

fn coordinator(key: StrBytes, found: Result<Reachable, Refused>, text_of_success: &'static str) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    match found {
        Ok(broker) => coordinator
            .with_error_message(Some(StrBytes::from_static_str(text_of_success)))
            .with_node_id(broker.node_id)
            .with_host(broker.host)
            .with_port(broker.port),
        Err((error, text)) => coordinator
            .with_error_code(error.code())
            .with_error_message(message(text))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

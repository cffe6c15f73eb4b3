//! CreatePartitions: more partitions for topics, or a dry run.

use std::collections::BTreeSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::create_topics::named_twice;
use super::wire::message;
use super::{Context, Handle};
use crate::broker::AdminError;
use crate::server::errors::admin_code;
use crate::types::NodeId;

impl Handle for CreatePartitionsRequest {
    async fn handle(self, context: &Context) -> CreatePartitionsResponse {
        let twice = named_twice(self.topics.iter().map(|topic| &topic.name));
        let mut told = BTreeSet::new();
        let mut results: Vec<CreatePartitionsTopicResult> = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            let is_twice = twice.contains(&topic.name);
            if is_twice && !told.insert(topic.name.clone()) {
                continue;
            }
            let created = match is_twice {
                true => Err(AdminError::Invalid("Duplicate topic name.")),
                false => create(context, topic, self.validate_only).await,
            };
            results.push(match created {
                Ok(()) => result,
                Err(error) => {
                    let code = admin_code(&error);
                    context.count_error(code);
                    result.with_error_code(code.code()).with_error_message(message(error))
                }
            });
        }
        CreatePartitionsResponse::default().with_results(results)
    }
}

async fn create(context: &Context, topic: CreatePartitionsTopic, validate_only: bool) -> Result<(), AdminError> {
    let nodes = |ids: Vec<kafka_protocol::messages::BrokerId>| ids.into_iter().map(|id| NodeId(id.0)).collect();
    let assignment = topic.assignments.map(|all| all.into_iter().map(|one| nodes(one.broker_ids)).collect());
    context.broker.create_partitions(&topic.name, topic.count, assignment, validate_only).await
}

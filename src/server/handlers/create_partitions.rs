//! CreatePartitions: more partitions for topics, or a dry run.

use std::collections::BTreeSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse, TopicName};

use super::create_topics::named_twice;
use super::wire::message;
use super::{Context, Handle};
use crate::broker::AdminError;
use crate::server::errors::admin_code;
use crate::types::NodeId;

impl Handle for CreatePartitionsRequest {
    async fn handle(self, context: &Context) -> CreatePartitionsResponse {
        let twice = named_twice(self.topics.iter().map(|topic| &topic.name));
        let is_late = self.timeout_ms <= 0 && self.topics.iter().any(|topic| !twice.contains(&topic.name));
        if is_late {
            let refused = self.topics.into_iter().map(|topic| refuse(context, topic.name, &AdminError::NoTime));
            return CreatePartitionsResponse::default().with_results(refused.collect());
        }
        let mut told = BTreeSet::new();
        let mut results: Vec<CreatePartitionsTopicResult> = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let name = topic.name.clone();
            let is_twice = twice.contains(&topic.name);
            if is_twice && !told.insert(topic.name.clone()) {
                continue;
            }
            let created = match is_twice {
                true => Err(AdminError::Invalid("Duplicate topic name.")),
                false => create(context, topic, self.validate_only).await,
            };
            results.push(match created {
                Ok(()) => CreatePartitionsTopicResult::default().with_name(name),
                Err(error) => refuse(context, name, &error),
            });
        }
        CreatePartitionsResponse::default().with_results(results)
    }
}

fn refuse(context: &Context, name: TopicName, error: &AdminError) -> CreatePartitionsTopicResult {
    let code = admin_code(error);
    context.count_error(code);
    let result = CreatePartitionsTopicResult::default().with_name(name);
    result.with_error_code(code.code()).with_error_message(message(error))
}

async fn create(context: &Context, topic: CreatePartitionsTopic, validate_only: bool) -> Result<(), AdminError> {
    let nodes = |ids: Vec<kafka_protocol::messages::BrokerId>| ids.into_iter().map(|id| NodeId(id.0)).collect();
    let assignment = topic.assignments.map(|all| all.into_iter().map(|one| nodes(one.broker_ids)).collect());
    context.broker.create_partitions(&topic.name, topic.count, assignment, validate_only).await
}

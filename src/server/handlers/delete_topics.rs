//! DeleteTopics: by name or by identity.

use std::collections::BTreeSet;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::create_topics::named_twice;
use super::wire::{message, topic_id, topic_name};
use super::{Context, Handle};
use crate::broker::TopicName;
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;

/// First version that may name topics by identity.
const FIRST_TOPIC_ID_VERSION: i16 = 6;

impl Handle for DeleteTopicsRequest {
    async fn handle(self, context: &Context) -> DeleteTopicsResponse {
        let wanted = match context.version() {
            ..FIRST_TOPIC_ID_VERSION => {
                self.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name))).collect()
            }
            _ => self.topics,
        };
        let names: Vec<_> = wanted.iter().filter_map(|topic| topic.name.clone()).collect();
        let twice = named_twice(names.iter());
        let mut told = BTreeSet::new();
        let mut results: Vec<DeletableTopicResult> = Vec::with_capacity(wanted.len());
        for topic in wanted {
            if topic.name.as_ref().is_none_or(|name| !twice.contains(name)) {
                results.push(delete(context, topic).await);
            } else if told.insert(topic.name.clone()) {
                let result = DeletableTopicResult::default().with_name(topic.name).with_topic_id(topic.topic_id);
                results.push(refuse(result, "Duplicate topic name."));
            }
        }
        DeleteTopicsResponse::default().with_responses(results)
    }
}

fn refuse(result: DeletableTopicResult, text: &str) -> DeletableTopicResult {
    result.with_error_code(ErrorCode::InvalidRequest.code()).with_error_message(message(text))
}

async fn delete(context: &Context, topic: DeleteTopicState) -> DeletableTopicResult {
    let id = topic_id(topic.topic_id);
    let named = match &topic.name {
        Some(_) if !id.is_zero() => Err("You may not specify both topic name and topic id."),
        None if id.is_zero() => Err("Neither topic name nor id were specified."),
        Some(name) => Ok(TopicName::Name(name.to_string())),
        None => Ok(TopicName::Id(id)),
    };
    let result = DeletableTopicResult::default().with_name(topic.name).with_topic_id(topic.topic_id);
    let named = match named {
        Ok(named) => named,
        Err(text) => return refuse(result, text),
    };
    match context.broker.delete_topic(&named).await {
        Ok(deleted) => result.with_name(Some(topic_name(&deleted.name))).with_topic_id(deleted.topic_id.uuid()),
        Err(error) => {
            let code = admin_code(&error);
            context.count_error(code);
            result.with_error_code(code.code()).with_error_message(message(error))
        }
    }
}

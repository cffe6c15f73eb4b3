//! DeleteTopics: by name or by identity.

use std::collections::BTreeSet;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName as WireName};
use uuid::Uuid;

use super::create_topics::named_twice;
use super::wire::{message, topic_id, topic_name};
use super::{Context, Handle};
use crate::broker::{AdminError, TopicName};
use crate::metadata::Image;
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
        let image = context.broker.image();
        let named = Named::by(&wanted, &image);
        if self.timeout_ms <= 0 && wanted.iter().any(|topic| named.is_asked_for(topic)) {
            let refused = wanted.into_iter().map(|topic| refuse(context, topic, &AdminError::NoTime));
            return DeleteTopicsResponse::default().with_responses(refused.collect());
        }
        let mut told = BTreeSet::new();
        let mut results: Vec<DeletableTopicResult> = Vec::with_capacity(wanted.len());
        for topic in wanted {
            match named.meant_by(&topic, &image) {
                Ok(meant) => results.push(delete(context, &meant, topic).await),
                Err(refused) if told.insert((topic.name.clone(), topic.topic_id)) => {
                    // One that is named by its identity as well is told with it.
                    let also =
                        topic.name.as_ref().and_then(|name| id_of(&image, name)).filter(|id| named.ids.contains(id));
                    let id = also.unwrap_or(topic.topic_id);
                    let refuse = |text| refuse(context, topic.with_topic_id(id), &AdminError::Invalid(text));
                    results.extend(refused.map(refuse));
                }
                Err(_) => {}
            }
        }
        DeleteTopicsResponse::default().with_responses(results)
    }
}

/// How a request names its topics. What it names more than once stays, as with Apache Kafka, where it is a mistake.
struct Named {
    names_twice: BTreeSet<WireName>,
    ids: BTreeSet<Uuid>,
    ids_twice: BTreeSet<Uuid>,
    /// The identities of those that are named by their names.
    ids_of_names: BTreeSet<Uuid>,
}

impl Named {
    fn by(wanted: &[DeleteTopicState], image: &Image) -> Self {
        let names = || wanted.iter().filter(|topic| topic.topic_id.is_nil()).filter_map(|topic| topic.name.as_ref());
        let ids = || wanted.iter().filter(|topic| topic.name.is_none()).map(|topic| &topic.topic_id);
        let names_twice = named_twice(names());
        let once = names().filter(|name| !names_twice.contains(*name));
        let ids_of_names = once.filter_map(|name| id_of(image, name)).collect();
        Self { ids_of_names, names_twice, ids: ids().copied().collect(), ids_twice: named_twice(ids()) }
    }

    /// Whether an entry names a topic as it should. Where none does, Apache Kafka answers without its controller.
    fn is_asked_for(&self, topic: &DeleteTopicState) -> bool {
        match &topic.name {
            Some(name) => topic.topic_id.is_nil() && !self.names_twice.contains(name),
            None => !topic.topic_id.is_nil() && !self.ids_twice.contains(&topic.topic_id),
        }
    }

    /// What an entry means, or why it is refused; nothing where the answer to another entry says it.
    fn meant_by(&self, topic: &DeleteTopicState, image: &Image) -> Result<TopicName, Option<&'static str>> {
        let id = topic.topic_id;
        match &topic.name {
            Some(_) if !id.is_nil() => Err(Some("You may not specify both topic name and topic id.")),
            None if id.is_nil() => Err(Some("Neither topic name nor id were specified.")),
            Some(name) if self.names_twice.contains(name) => Err(Some("Duplicate topic name.")),
            Some(name) if id_of(image, name).is_some_and(|id| self.ids.contains(&id)) => {
                Err(Some("The provided topic name maps to an ID that was already supplied."))
            }
            Some(name) => Ok(TopicName::Name(name.to_string())),
            None if self.ids_twice.contains(&id) => Err(Some("Duplicate topic id.")),
            None if self.ids_of_names.contains(&id) => Err(None),
            None => Ok(TopicName::Id(topic_id(id))),
        }
    }
}

fn id_of(image: &Image, name: &str) -> Option<Uuid> {
    image.topic_named(name).map(|topic| topic.topic_id.uuid())
}

fn refuse(context: &Context, topic: DeleteTopicState, error: &AdminError) -> DeletableTopicResult {
    let code = admin_code(error);
    context.count_error(code);
    let result = DeletableTopicResult::default().with_name(topic.name).with_topic_id(topic.topic_id);
    result.with_error_code(code.code()).with_error_message(message(error))
}

async fn delete(context: &Context, meant: &TopicName, topic: DeleteTopicState) -> DeletableTopicResult {
    match context.broker.delete_topic(meant).await {
        Ok(deleted) => DeletableTopicResult::default()
            .with_name(Some(topic_name(&deleted.name)))
            .with_topic_id(deleted.topic_id.uuid()),
        Err(error) => refuse(context, topic, &error),
    }
}

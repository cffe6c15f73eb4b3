//! Creating, altering and deleting topics.

use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest,
};

use super::cluster::{text, topic_name};
use super::{ClientError, Cluster};

/// Kafka's `ConfigResource.Type.TOPIC`.
const TOPIC_RESOURCE: i8 = 2;
/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
/// The newest `DeleteTopics` that names topics in the old place.
const DELETE_BY_NAMES_NEWEST: i16 = 5;

/// One setting of a topic.
#[derive(Clone, Debug)]
pub struct TopicSetting {
    /// Kafka's name.
    pub name: String,
    /// The value in effect; `None` when it is sensitive.
    pub value: Option<String>,
    /// Set for this topic, and not a default.
    pub is_own: bool,
}

/// Creates a topic; −1 asks for the broker's own number.
pub async fn create_topic(
    cluster: &mut Cluster,
    name: &str,
    partitions: i32,
    replication_factor: i16,
    configs: &[(String, String)],
) -> Result<(), ClientError> {
    let config = |(name, value): &(String, String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
        .with_configs(configs.iter().map(config).collect());
    let limit = cluster.limit();
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(limit));
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    answer.topics.iter().try_for_each(|topic| {
        ClientError::check(format!("creating topic {name}"), topic.error_code, topic.error_message.as_deref())
    })
}

/// Deletes a topic.
pub async fn delete_topic(cluster: &mut Cluster, name: &str) -> Result<(), ClientError> {
    let limit = cluster.limit();
    let controller = cluster.controller().await?;
    let request = DeleteTopicsRequest::default().with_timeout_ms(millis(limit));
    let by_names = controller.version::<DeleteTopicsRequest>(i16::MAX).is_some_and(|it| it <= DELETE_BY_NAMES_NEWEST);
    let request = if by_names {
        request.with_topic_names(vec![topic_name(name)])
    } else {
        request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))])
    };
    let answer = controller.send_at_most(&request, i16::MAX, limit).await?;
    answer.responses.iter().try_for_each(|topic| {
        ClientError::check(format!("deleting topic {name}"), topic.error_code, topic.error_message.as_deref())
    })
}

/// Raises the number of partitions of a topic.
pub async fn create_partitions(cluster: &mut Cluster, name: &str, count: i32) -> Result<(), ClientError> {
    let topic = CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
    let limit = cluster.limit();
    let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(limit));
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    answer.results.iter().try_for_each(|topic| {
        ClientError::check(format!("adding partitions to {name}"), topic.error_code, topic.error_message.as_deref())
    })
}

/// Sets some settings of a topic, and unsets others.
pub async fn alter_settings(
    cluster: &mut Cluster,
    name: &str,
    set: &[(String, String)],
    unset: &[String],
) -> Result<(), ClientError> {
    let setting = |(name, value): &(String, String)| {
        AlterableConfig::default().with_name(text(name)).with_config_operation(SET).with_value(Some(text(value)))
    };
    let removal =
        |name: &String| AlterableConfig::default().with_name(text(name)).with_config_operation(DELETE).with_value(None);
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(name))
        .with_configs(set.iter().map(setting).chain(unset.iter().map(removal)).collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = cluster.controller().await?.send(&request).await?;
    answer.responses.iter().try_for_each(|topic| {
        ClientError::check(format!("altering topic {name}"), topic.error_code, topic.error_message.as_deref())
    })
}

/// All settings of a topic in effect.
pub async fn describe_settings(cluster: &mut Cluster, name: &str) -> Result<Vec<TopicSetting>, ClientError> {
    /// Kafka's `DescribeConfigsResponse.ConfigSource.TOPIC_CONFIG`.
    const TOPIC_SOURCE: i8 = 1;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = cluster.any().await?.send(&request).await?;
    let mut settings = Vec::new();
    for result in &answer.results {
        ClientError::check(format!("settings of topic {name}"), result.error_code, result.error_message.as_deref())?;
        settings.extend(result.configs.iter().map(|config| TopicSetting {
            name: config.name.to_string(),
            value: config.value.as_ref().map(ToString::to_string),
            is_own: config.config_source == TOPIC_SOURCE,
        }));
    }
    Ok(settings)
}

/// A time limit on the wire.
pub(super) fn millis(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
}

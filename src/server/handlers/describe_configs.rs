//! DescribeConfigs: configurations of topics and brokers, and where each value comes from.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::alter_configs::resource;
use super::wire::{message, text};
use super::{Context, Handle, TOO_LARGE};
use crate::broker::{AdminError, ConfigResource};
use crate::metadata::config_layers::ConfigEntry;
use crate::metadata::topic_name::validate;
use crate::metadata::{broker_config, topic_config};
use crate::server::errors::admin_code;

/// All of Kafka's `ConfigResource.Type`: topics, brokers, loggers of brokers, client metrics and groups. A request that names
/// another is refused as a whole.
const TYPES: [i8; 5] = [2, 4, 8, 16, 32];

/// What an entry or one of its synonyms takes in memory, at most.
pub(super) const ENTRY_BYTES: usize = 300;

impl Handle for DescribeConfigsRequest {
    async fn handle(self, context: &Context) -> DescribeConfigsResponse {
        let (synonyms, documentation) = (self.include_synonyms, self.include_documentation);
        context.take_place().await;
        let mut room = context.answer_room();
        let mut results = Vec::with_capacity(self.resources.len());
        let are_known = self.resources.iter().all(|resource| TYPES.contains(&resource.resource_type));
        for resource in self.resources {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            let described = match are_known {
                true => describe(context, &resource),
                false => Err(AdminError::Invalid("the request names a resource of an unknown type")),
            };
            let described = described.and_then(|mut entries| {
                let keys = resource.configuration_keys.as_deref();
                entries.retain(|entry| is_wanted(keys, entry.name));
                let bytes = |entry: &ConfigEntry| ENTRY_BYTES * (1 + entry.synonyms.len() * usize::from(synonyms));
                let has_room = room.take(entries.iter().map(bytes).sum());
                has_room.then_some(entries).ok_or(AdminError::Invalid(TOO_LARGE))
            });
            results.push(match described {
                Ok(entries) => {
                    let configs = entries.into_iter().map(|entry| shown(entry, synonyms, documentation));
                    result.with_configs(configs.collect())
                }
                Err(error) => {
                    let code = admin_code(&error);
                    context.count_error(code);
                    result.with_error_code(code.code()).with_error_message(message(error))
                }
            });
            // One may be named very often, and others of this thread are to have their turn.
            tokio::task::yield_now().await;
        }
        DescribeConfigsResponse::default().with_results(results)
    }
}

/// All keys are wanted where none is named; older clients name none by an empty list.
fn is_wanted(keys: Option<&[StrBytes]>, name: &str) -> bool {
    keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| &**key == name))
}

fn describe(context: &Context, wanted: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, AdminError> {
    let image = context.broker.image();
    let layers = context.broker.layers(&image);
    match resource(context, wanted.resource_type, &wanted.resource_name)? {
        ConfigResource::Topic(name) => {
            validate(&name)?;
            let topic = image.topic_named(&name).ok_or(AdminError::UnknownTopic)?;
            Ok(topic_config::describe(&topic.configs.values, &layers))
        }
        ConfigResource::Broker(Some(_)) => Ok(broker_config::describe(&layers)),
        ConfigResource::Broker(None) => {
            let set = image.broker_configs(None);
            Ok(set.map_or_else(Vec::new, |configs| broker_config::describe_default(&configs.values)))
        }
    }
}

fn shown(entry: ConfigEntry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let all = entry.synonyms.iter().filter(|_| synonyms).map(|synonym| {
        DescribeConfigsSynonym::default()
            .with_name(text(&synonym.name))
            .with_value(Some(text(&synonym.value)))
            .with_source(synonym.source as i8)
    });
    DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.as_deref().map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive)
        .with_synonyms(all.collect())
        .with_config_type(entry.kind.kafka_code())
        .with_documentation(documentation.then(|| text(entry.documentation)))
}

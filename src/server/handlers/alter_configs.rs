//! AlterConfigs and IncrementalAlterConfigs.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::create_topics::named_twice;
use super::wire::message;
use super::{Context, Handle};
use crate::broker::{AdminError, ConfigEdit, ConfigResource};
use crate::metadata::topic_config::ConfigOperation;
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;
use crate::types::NodeId;

/// `ConfigResource.Type` of topics.
const TOPIC: i8 = 2;
/// `ConfigResource.Type` of brokers.
const BROKER: i8 = 4;

impl Handle for AlterConfigsRequest {
    async fn handle(self, context: &Context) -> AlterConfigsResponse {
        let mut responses = Vec::with_capacity(self.resources.len());
        let resources: Vec<_> =
            self.resources.iter().map(|one| (one.resource_type, one.resource_name.clone())).collect();
        let twice = named_twice(resources.iter());
        for wanted in self.resources {
            let (kind, name) = (wanted.resource_type, &wanted.resource_name);
            let names = wanted.configs.iter().map(|config| &config.name);
            let edit = check_once(&twice, kind, name, names).and_then(|()| replacement(&wanted.configs));
            let (code, text) = alter(context, kind, name, edit, self.validate_only).await;
            let response = AlterConfigsResourceResponse::default().with_error_code(code).with_error_message(text);
            responses.push(response.with_resource_type(kind).with_resource_name(wanted.resource_name));
        }
        AlterConfigsResponse::default().with_responses(responses)
    }
}

impl Handle for IncrementalAlterConfigsRequest {
    async fn handle(self, context: &Context) -> IncrementalAlterConfigsResponse {
        let mut responses = Vec::with_capacity(self.resources.len());
        let resources: Vec<_> =
            self.resources.iter().map(|one| (one.resource_type, one.resource_name.clone())).collect();
        let twice = named_twice(resources.iter());
        for wanted in self.resources {
            let (kind, name) = (wanted.resource_type, &wanted.resource_name);
            let names = wanted.configs.iter().map(|config| &config.name);
            let edit = check_once(&twice, kind, name, names).and_then(|()| operations(&wanted.configs));
            let (code, text) = alter(context, kind, name, edit, self.validate_only).await;
            let response = IncrementalResponse::default().with_error_code(code).with_error_message(text);
            responses.push(response.with_resource_type(kind).with_resource_name(wanted.resource_name));
        }
        IncrementalAlterConfigsResponse::default().with_responses(responses)
    }
}

/// A request that names a resource twice changes neither, and one that names a configuration twice nothing of that resource.
fn check_once<'a>(
    resources: &BTreeSet<(i8, StrBytes)>,
    resource_type: i8,
    name: &StrBytes,
    configs: impl Iterator<Item = &'a StrBytes>,
) -> Result<(), AdminError> {
    if resources.contains(&(resource_type, name.clone())) {
        return Err(AdminError::Invalid("each resource must appear at most once"));
    }
    match named_twice(configs).is_empty() {
        true => Ok(()),
        false => Err(AdminError::Invalid("each configuration must appear at most once")),
    }
}

/// Edits the configurations of one resource, if they could be read; gives the code and the text of the answer.
async fn alter(
    context: &Context,
    resource_type: i8,
    name: &str,
    edit: Result<ConfigEdit, AdminError>,
    validate_only: bool,
) -> (i16, Option<StrBytes>) {
    let altered = async {
        let (edit, resource) = (edit?, resource(context, resource_type, name)?);
        context.broker.alter_configs(&resource, &edit, validate_only).await
    };
    match altered.await {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(error) => {
            let code = admin_code(&error);
            context.count_error(code);
            (code.code(), message(error))
        }
    }
}

/// What a resource's type and name mean here.
pub(super) fn resource(context: &Context, resource_type: i8, name: &str) -> Result<ConfigResource, AdminError> {
    match (resource_type, name) {
        (TOPIC, name) => Ok(ConfigResource::Topic(name.to_owned())),
        (BROKER, "") => Ok(ConfigResource::Broker(None)),
        (BROKER, name) => match name.parse().map(NodeId) {
            Ok(node_id) if context.broker.image().broker(node_id).is_some() => {
                Ok(ConfigResource::Broker(Some(node_id)))
            }
            _ => Err(AdminError::Invalid("no broker has this number")),
        },
        _ => Err(AdminError::Invalid("resources of this type have no configuration")),
    }
}

fn replacement(
    configs: &[kafka_protocol::messages::alter_configs_request::AlterableConfig],
) -> Result<ConfigEdit, AdminError> {
    let mut values = BTreeMap::new();
    for config in configs {
        let value = config.value.as_ref().ok_or(AdminError::Invalid("a configuration value can't be null"))?;
        values.insert(config.name.to_string(), value.to_string());
    }
    Ok(ConfigEdit::Replace(values))
}

fn operations(configs: &[AlterableConfig]) -> Result<ConfigEdit, AdminError> {
    let operations = configs.iter().map(|config| {
        let value = config.value.as_ref().map(ToString::to_string);
        let value = || value.ok_or(AdminError::Invalid("a configuration value can't be null"));
        let operation = match config.config_operation {
            0 => ConfigOperation::Set(value()?),
            1 => ConfigOperation::Delete,
            2 => ConfigOperation::Append(value()?),
            3 => ConfigOperation::Subtract(value()?),
            _ => return Err(AdminError::Invalid("unknown configuration operation")),
        };
        Ok((config.name.to_string(), operation))
    });
    operations.collect::<Result<_, _>>().map(ConfigEdit::Operations)
}

//! Requests to change a topic's configuration, resolved against what is set and checked, before they become a command.

use std::collections::{BTreeMap, BTreeSet};

use super::super::command::ConfigChange;
use super::super::config_definition::{ConfigDefinition, ConfigError, ConfigType, MAX_CONFIGS, list_elements};
use super::super::config_layers::BrokerLayers;
use super::super::image::Configs;
use super::registry::{TOPIC_CONFIGS, topic_config};
use super::{TopicConfig, effective};

/// One operation of IncrementalAlterConfigs (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    /// Sets a value.
    Set(String),
    /// Removes the override.
    Delete,
    /// Adds elements to a list.
    Append(String),
    /// Removes elements from a list.
    Subtract(String),
}

/// What may be said about a topic apart from its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// Made by users.
    Ordinary,
    /// One of the broker's own, which may have policies that users can't ask for yet.
    Internal,
}

/// Checks the configuration that a topic is to be created with, and gives its normal form.
///
/// # Errors
/// [`ConfigError`] for the first value that is unknown, invalid, or contradicts another.
pub fn create(
    values: &BTreeMap<String, String>,
    kind: TopicKind,
    layers: &BrokerLayers<'_>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut normal = BTreeMap::new();
    for (name, value) in values {
        normal.insert(name.clone(), definition(name)?.accept(value)?);
    }
    check_together(&normal, kind, layers)?;
    Ok(normal)
}

/// Resolves an incremental change against what is set now.
///
/// # Errors
/// [`ConfigError`] for the first operation that is invalid, and for values that contradict each other afterwards.
pub fn alter(
    current: &Configs,
    operations: &[(String, ConfigOperation)],
    kind: TopicKind,
    layers: &BrokerLayers<'_>,
) -> Result<ConfigChange, ConfigError> {
    let change =
        resolve(current, operations, definition, |definition| effective(definition.name, &current.values, layers))?;
    check_after(current, &change, kind, layers)?;
    Ok(change)
}

/// Resolves a full replacement (AlterConfigs): what is not named is removed.
///
/// # Errors
/// As [`alter`].
pub fn replace(
    current: &Configs,
    values: &BTreeMap<String, String>,
    kind: TopicKind,
    layers: &BrokerLayers<'_>,
) -> Result<ConfigChange, ConfigError> {
    let gone = current.values.keys().filter(|name| !values.contains_key(*name)).map(|name| (name.clone(), None));
    let mut change = ConfigChange { expected_version: current.version, values: gone.collect() };
    for (name, value) in values {
        change.values.insert(name.clone(), Some(definition(name)?.accept(value)?));
    }
    check_after(current, &change, kind, layers)?;
    Ok(change)
}

fn definition(name: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    match topic_config(name) {
        Some(entry) => Ok(&entry.definition),
        None => Err(ConfigError::UnknownTopicConfig { name: name.to_owned() }),
    }
}

/// Turns operations into values; shared with broker configurations.
pub(in super::super) fn resolve(
    current: &Configs,
    operations: &[(String, ConfigOperation)],
    definition: impl Fn(&str) -> Result<&'static ConfigDefinition, ConfigError>,
    effective: impl Fn(&ConfigDefinition) -> Option<String>,
) -> Result<ConfigChange, ConfigError> {
    let mut change = ConfigChange { expected_version: current.version, values: BTreeMap::new() };
    let mut seen = BTreeSet::new();
    for (name, operation) in operations {
        if !seen.insert(name) {
            return Err(ConfigError::Duplicate { name: name.clone() });
        }
        let value = match operation {
            ConfigOperation::Delete => None,
            ConfigOperation::Set(value) => Some(definition(name)?.accept(value)?),
            ConfigOperation::Append(more) => Some(combine(definition(name)?, "APPEND", &effective, |elements| {
                let missing: Vec<_> =
                    list_elements(more).filter(|one| !elements.iter().any(|other| other == one)).collect();
                elements.extend(missing.into_iter().map(str::to_owned));
            })?),
            ConfigOperation::Subtract(less) => Some(combine(definition(name)?, "SUBTRACT", &effective, |elements| {
                elements.retain(|element| !list_elements(less).any(|gone| gone == element));
            })?),
        };
        if value.as_ref() != current.values.get(name) {
            change.values.insert(name.clone(), value);
        }
    }
    if current.values.len() + change.values.len() > MAX_CONFIGS {
        return Err(ConfigError::TooMany);
    }
    Ok(change)
}

fn combine(
    definition: &ConfigDefinition,
    operation: &'static str,
    effective: &impl Fn(&ConfigDefinition) -> Option<String>,
    edit: impl FnOnce(&mut Vec<String>),
) -> Result<String, ConfigError> {
    if definition.kind != ConfigType::List {
        return Err(ConfigError::NotAList { operation, name: definition.name.to_owned() });
    }
    let before = effective(definition).unwrap_or_default();
    let mut elements = list_elements(&before).map(str::to_owned).collect();
    edit(&mut elements);
    definition.accept(&elements.join(","))
}

fn check_after(
    current: &Configs,
    change: &ConfigChange,
    kind: TopicKind,
    layers: &BrokerLayers<'_>,
) -> Result<(), ConfigError> {
    let mut after = current.values.clone();
    for (name, value) in &change.values {
        match value {
            Some(value) => after.insert(name.clone(), value.clone()),
            None => after.remove(name),
        };
    }
    let tiered_before = TopicConfig::resolve(&current.values, layers).remote_storage_enable;
    let config = TopicConfig::resolve(&after, layers);
    if tiered_before && !config.remote_storage_enable && !config.remote_log_delete_on_disable {
        return Err(ConfigError::DisableWithoutDelete);
    }
    check_together(&after, kind, layers)
}

/// Why no topic is compacted.
pub const NO_COMPACTION: &str =
    "compaction is not supported yet; use 'delete', or leave the list empty to keep all records";

/// Whether a cleanup policy calls for it.
pub fn compacts(policy: &str) -> bool {
    policy.split(',').any(|one| one == "compact")
}

/// Checks what values mean together, as Kafka's `LogConfig` does.
fn check_together(
    values: &BTreeMap<String, String>,
    kind: TopicKind,
    layers: &BrokerLayers<'_>,
) -> Result<(), ConfigError> {
    let config = TopicConfig::resolve(values, layers);
    let contradiction = |name: &'static str, reason: String| {
        let value = effective(name, values, layers).unwrap_or_default();
        Err(ConfigError::Contradiction { name, value, reason })
    };
    if config.cleanup_policy.compact && kind == TopicKind::Ordinary {
        return contradiction("cleanup.policy", NO_COMPACTION.to_owned());
    }
    let number = |name| effective(name, values, layers).and_then(|value| value.parse().ok()).unwrap_or(0);
    let (min_lag_ms, max_lag_ms) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if min_lag_ms > max_lag_ms {
        return Err(ConfigError::CompactionLag { min_lag_ms, max_lag_ms });
    }
    if !config.remote_storage_enable {
        return Ok(());
    }
    // A limit that the topic inherits is capped instead: only what the topic itself says can contradict.
    for (local, total) in [("local.retention.ms", "retention.ms"), ("local.retention.bytes", "retention.bytes")] {
        let own = |name| values.get(name).and_then(|value: &String| value.parse::<i64>().ok());
        let (Some(local_value), Some(limit)) = (own(local), own(total).filter(|limit| *limit >= 0)) else { continue };
        if local_value == -1 {
            return contradiction(local, format!("Value must not be -1 as {total} value is set as {limit}."));
        }
        if local_value > limit {
            return contradiction(local, format!("Value must not be more than {total} property value: {limit}"));
        }
    }
    Ok(())
}

/// Names that a topic may set; for completing what a user typed.
pub fn topic_config_names() -> impl Iterator<Item = &'static str> {
    TOPIC_CONFIGS.iter().filter(|entry| !entry.hidden).map(|entry| entry.definition.name)
}

//! Broker configuration as Kafka's tools see it: DescribeConfigs and IncrementalAlterConfigs on resource type BROKER.
//!
//! alluvium is configured by its own file; the broker hands over what that says under Kafka's names as the static layer.
//! Dynamic changes are commands, one layer for each broker and one for all. Names that only make sense inside Kafka's own
//! threads and files are left out. Kafka takes unknown names for those of plug-ins and stores them: so do we, unseen.

mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use registry::{BrokerConfigDefinition, broker_config, broker_configs};

use registry::RATES;

use super::command::ConfigChange;
use super::config_definition::{ConfigDefinition, ConfigError, ConfigType, Effect, MAX_CONFIGS, Rule};
use super::config_layers::{BrokerLayers, ConfigEntry, ConfigSource, ConfigSynonym};
use super::image::{Configs, Image};
use super::topic_config::{self, ConfigOperation};
use crate::types::NodeId;

/// Who is read from: set to [`RACK_AWARE_SELECTOR`] a replica in the consumer's rack, and else the leader.
pub const REPLICA_SELECTOR: &str = "replica.selector.class";
/// Kafka's class that chooses replicas by racks. No other comes with Kafka.
pub const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
/// Bytes in a second that a broker sends to replicas that are throttled on the leader's side.
pub const LEADER_RATE: &str = "leader.replication.throttled.rate";
/// Bytes in a second that a broker is sent for replicas that are throttled on the follower's side.
pub const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
/// How many replicas have to be in sync: one thing for all brokers, since any of them may come to lead.
const MIN_INSYNC: &str = "min.insync.replicas";

/// The effective value of a broker configuration; none where it is unset or unknown.
pub fn effective(name: &str, layers: &BrokerLayers<'_>) -> Option<String> {
    let entry = broker_config(name)?;
    synonyms(entry, layers).next().map(|synonym| synonym.value)
}

/// The value that was set while the broker ran; none where none was.
pub fn set_while_running(name: &str, layers: &BrokerLayers<'_>) -> Option<String> {
    let running = |source| matches!(source, ConfigSource::DynamicBroker | ConfigSource::DynamicDefaultBroker);
    synonyms(broker_config(name)?, layers).find(|synonym| running(synonym.source)).map(|synonym| synonym.value)
}

/// The bytes in a second that [`LEADER_RATE`] or [`FOLLOWER_RATE`] of a broker allows; none where it sets no bound.
pub fn throttled_rate(name: &str, image: &Image, node_id: NodeId) -> Option<u64> {
    // Kafka knows them only while a broker runs.
    let none = BTreeMap::new();
    let (_, value) = BrokerLayers::new(image, node_id, &none).values(name).next()?;
    let rate: i64 = value.parse().ok()?;
    u64::try_from(rate).ok().filter(|_| rate < i64::MAX)
}

/// Describes every broker configuration of one broker, in order of names, and of those that no broker has by itself what is set.
pub fn describe(layers: &BrokerLayers<'_>) -> Vec<ConfigEntry> {
    let entry = |entry: &'static BrokerConfigDefinition| {
        ConfigEntry::new(&entry.definition, synonyms(entry, layers).collect(), !entry.dynamic)
    };
    let is_set = |entry: &&BrokerConfigDefinition| layers.values(entry.definition.name).next().is_some();
    let mut entries: Vec<_> = broker_configs().chain(RATES.iter().filter(is_set)).map(entry).collect();
    entries.sort_by_key(|entry| entry.name);
    entries
}

/// Describes the cluster-wide dynamic default: only what is set there, as Kafka does.
pub fn describe_default(values: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let all = broker_configs().chain(RATES);
    let set = all.filter_map(|entry| Some((entry, values.get(entry.definition.name)?)));
    let entry = |(entry, value): (&BrokerConfigDefinition, &String)| {
        let (name, source) = (entry.definition.name.to_owned(), ConfigSource::DynamicDefaultBroker);
        ConfigEntry::new(&entry.definition, vec![ConfigSynonym { name, value: value.clone(), source }], false)
    };
    let mut entries: Vec<_> = set.map(entry).collect();
    entries.sort_by_key(|entry| entry.name);
    entries
}

/// Resolves an incremental change of the dynamic configuration of the broker `node_id`, or of the default of all.
///
/// # Errors
/// [`ConfigError`] for the first operation that is invalid or names a configuration that can't change dynamically.
pub fn alter(
    node_id: Option<NodeId>,
    current: &Configs,
    operations: &[(String, ConfigOperation)],
    layers: &BrokerLayers<'_>,
) -> Result<ConfigChange, ConfigError> {
    let change = topic_config::resolve(current, operations, dynamic, |definition| effective(definition.name, layers));
    let change = change.and_then(supported).map_err(on_broker)?;
    match operations.iter().find(|(name, _)| name == MIN_INSYNC) {
        Some((_, operation)) => check_min_insync(node_id, *operation == ConfigOperation::Delete).map(|()| change),
        None => Ok(change),
    }
}

/// Resolves a full replacement (AlterConfigs): what is not named is removed.
///
/// # Errors
/// As [`alter`].
pub fn replace(
    node_id: Option<NodeId>,
    current: &Configs,
    values: &BTreeMap<String, String>,
) -> Result<ConfigChange, ConfigError> {
    let gone = current.values.keys().filter(|name| !values.contains_key(*name)).map(|name| (name.clone(), None));
    let mut change = ConfigChange { expected_version: current.version, values: gone.collect() };
    for (name, value) in values {
        let normal = dynamic(name).and_then(|definition| definition.accept(value)).map_err(on_broker)?;
        change.values.insert(name.clone(), Some(normal));
    }
    if values.len() > MAX_CONFIGS {
        return Err(ConfigError::TooMany);
    }
    let change = supported(change).map_err(on_broker)?;
    match change.values.get(MIN_INSYNC) {
        Some(value) => check_min_insync(node_id, value.is_none()).map(|()| change),
        None => Ok(change),
    }
}

/// Refuses to let brokers differ in it, and to remove what they have in common, as Kafka does.
const fn check_min_insync(node_id: Option<NodeId>, removed: bool) -> Result<(), ConfigError> {
    match node_id {
        Some(_) => Err(ConfigError::MinInsyncOfOneBroker),
        None if removed => Err(ConfigError::MinInsyncRemoved),
        None => Ok(()),
    }
}

/// Refuses what topics would inherit and can't have.
fn supported(change: ConfigChange) -> Result<ConfigChange, ConfigError> {
    let policy = change.values.get("log.cleanup.policy").and_then(Option::as_ref);
    match policy.filter(|policy| topic_config::compacts(policy)) {
        Some(value) => Err(ConfigError::Contradiction {
            name: "log.cleanup.policy",
            value: value.clone(),
            reason: topic_config::NO_COMPACTION.to_owned(),
        }),
        None => Ok(change),
    }
}

/// A configuration that we don't know.
const UNKNOWN: ConfigDefinition = ConfigDefinition {
    name: "of a plug-in",
    kind: ConfigType::String,
    rule: Rule::Any,
    default: None,
    effect: Effect::Stored,
    documentation: "",
};

fn dynamic(name: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    match broker_config(name) {
        Some(entry) if entry.dynamic => Ok(&entry.definition),
        Some(_) => Err(ConfigError::NotDynamic { name: name.to_owned() }),
        None => Ok(RATES.iter().map(|entry| &entry.definition).find(|it| it.name == name).unwrap_or(&UNKNOWN)),
    }
}

fn on_broker(error: ConfigError) -> ConfigError {
    match error {
        // Not found by the broker but by the controller, which says on a broker what it says on a topic.
        ConfigError::NotAList { .. } | ConfigError::TooLong => error,
        error => ConfigError::OnBroker(Box::new(error)),
    }
}

/// All readable values of a broker configuration, highest precedence first; the default last.
fn synonyms<'a>(
    entry: &'static BrokerConfigDefinition,
    layers: &'a BrokerLayers<'_>,
) -> impl Iterator<Item = ConfigSynonym> + 'a {
    let definition = &entry.definition;
    let default = definition.default.map(|value| (ConfigSource::Default, value));
    let readable = |(source, value): (ConfigSource, &str)| {
        let value = definition.normalize(value).ok()?;
        Some(ConfigSynonym { name: definition.name.to_owned(), value, source })
    };
    layers.values(definition.name).chain(default).filter_map(readable)
}

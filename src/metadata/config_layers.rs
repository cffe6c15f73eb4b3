//! Where a configuration's value comes from: the layers that a broker looks through, and what DescribeConfigs shows.

use std::collections::BTreeMap;

use super::config_definition::{ConfigDefinition, ConfigType};
use super::image::Image;
use crate::types::NodeId;

/// Where a value was set; numbered as in DescribeConfigs (KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// On the topic.
    DynamicTopic = 1,
    /// On this broker, while it ran.
    DynamicBroker = 2,
    /// For all brokers, while they ran.
    DynamicDefaultBroker = 3,
    /// In the configuration that the broker was started with.
    StaticBroker = 4,
    /// Nowhere.
    Default = 5,
}

/// The broker's own layers, highest first. They hold normal forms.
#[derive(Clone, Copy, Debug)]
pub struct BrokerLayers<'a> {
    dynamic: Option<&'a BTreeMap<String, String>>,
    dynamic_default: Option<&'a BTreeMap<String, String>>,
    fixed: &'a BTreeMap<String, String>,
}

/// One configuration as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: &'static str,
    /// Its effective value; none where it is unset.
    pub value: Option<String>,
    /// Where that value was set.
    pub source: ConfigSource,
    /// Type of the value.
    pub kind: ConfigType,
    /// Can't be changed while the broker runs.
    pub read_only: bool,
    /// A secret, of which no value may be shown. No configuration is one today.
    pub sensitive: bool,
    /// What it means.
    pub documentation: &'static str,
    /// All values that are set for it, highest precedence first.
    pub synonyms: Vec<ConfigSynonym>,
}

/// One of the values that a configuration could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// Name that it was set under.
    pub name: String,
    /// The value.
    pub value: String,
    /// Where.
    pub source: ConfigSource,
}

impl<'a> BrokerLayers<'a> {
    /// The layers of one broker: what the image says dynamically over what the broker was started with.
    pub fn new(image: &'a Image, node_id: NodeId, fixed: &'a BTreeMap<String, String>) -> Self {
        let dynamic = |node_id| image.broker_configs(node_id).map(|configs| &configs.values);
        Self { dynamic: dynamic(Some(node_id)), dynamic_default: dynamic(None), fixed }
    }

    /// Only what a broker was started with.
    pub const fn fixed(fixed: &'a BTreeMap<String, String>) -> Self {
        Self { dynamic: None, dynamic_default: None, fixed }
    }

    /// What a broker was started with.
    pub(super) fn fixed_value(&self, name: &str) -> Option<&'a str> {
        self.fixed.get(name).map(String::as_str)
    }

    /// The values set under a name, highest precedence first.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = (ConfigSource, &'a str)> {
        [
            (ConfigSource::DynamicBroker, self.dynamic),
            (ConfigSource::DynamicDefaultBroker, self.dynamic_default),
            (ConfigSource::StaticBroker, Some(self.fixed)),
        ]
        .into_iter()
        .filter_map(move |(source, layer)| Some((source, layer?.get(name)?.as_str())))
    }
}

impl ConfigEntry {
    /// Puts an entry together; its value is the first synonym's, else the default.
    pub(super) fn new(definition: &ConfigDefinition, synonyms: Vec<ConfigSynonym>, read_only: bool) -> Self {
        let (value, source) = match synonyms.first() {
            Some(first) => (Some(first.value.clone()), first.source),
            None => (definition.default.map(str::to_owned), ConfigSource::Default),
        };
        Self {
            name: definition.name,
            value,
            source,
            kind: definition.kind,
            read_only,
            sensitive: false,
            documentation: definition.documentation,
            synonyms,
        }
    }
}

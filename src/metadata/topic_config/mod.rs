//! Topic configuration: every name that Apache Kafka 4.3 knows, checked as Kafka checks it, resolved to a typed value.
//!
//! A topic stores only what was set on it ([`Configs`](super::image::Configs)); [`TopicConfig::resolve`] adds the broker's
//! layers and the defaults. [`create`], [`alter`] and [`replace`] check a request and resolve it into what a command carries;
//! [`describe`] says where each value comes from.

mod change;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use change::resolve;
pub use change::{ConfigOperation, NO_COMPACTION, TopicKind, alter, compacts, create, replace, topic_config_names};
pub use registry::{TOPIC_CONFIGS, TopicConfigDefinition, topic_config};

use super::config_layers::{BrokerLayers, ConfigEntry, ConfigSource, ConfigSynonym};
use crate::record::{Compression, TimestampType};

/// The effective configuration of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `compression.type`; none keeps the producer's codec.
    pub compression: Option<Compression>,
    /// Level for [`TopicConfig::compression`]; none is the codec's own default.
    pub compression_level: Option<i32>,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `retention.ms`; none keeps records for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; none sets no limit.
    pub retention_bytes: Option<u64>,
    /// `local.retention.ms`, no longer than retention, which it is where nothing is archived; none sets no limit.
    pub local_retention_ms: Option<i64>,
    /// `local.retention.bytes`, no more than retention, which it is where nothing is archived; none sets no limit.
    pub local_retention_bytes: Option<u64>,
    /// `segment.bytes`, or `internal.segment.bytes` where that is set.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_age: Duration,
    /// `segment.jitter.ms`.
    pub segment_jitter: Duration,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `remote.storage.enable`.
    pub remote_storage_enable: bool,
    /// `remote.log.copy.disable`.
    pub remote_log_copy_disable: bool,
    /// `remote.log.delete.on.disable`.
    pub remote_log_delete_on_disable: bool,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election_enable: bool,
    /// `write.caching`.
    pub write_caching: bool,
    /// `archive.fetch.compression`.
    pub archive_fetch_compression: ArchiveFetchCompression,
}

/// What happens to old records; with neither they are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Dropped by age and size.
    pub delete: bool,
    /// Dropped once a later record has the same key.
    pub compact: bool,
}

/// Codec of batches that are read from the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFetchCompression {
    /// LZ4 where the producer compressed, nothing where it did not.
    Auto,
    /// As the producer sent them.
    Original,
    /// Never compressed.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl TopicConfig {
    /// Whether what only the archive has is to go, as nothing is archived any more.
    pub const fn gives_up_archive(&self) -> bool {
        !self.remote_storage_enable && self.remote_log_delete_on_disable
    }

    /// Resolves the effective configuration. A stored value that this version can't read counts as not set: a later
    /// version may have written it.
    pub fn resolve(values: &BTreeMap<String, String>, layers: &BrokerLayers<'_>) -> Self {
        let read = Reader { values, layers };
        let policy = read.text("cleanup.policy");
        let has_policy = |name| policy.split(',').any(|policy| policy == name);
        let cleanup_policy = CleanupPolicy { delete: has_policy("delete"), compact: has_policy("compact") };
        // Without that policy everything is kept, whatever the limits say.
        let total = |value| limit(value).filter(|_| cleanup_policy.delete);
        let retention_ms = total(read.number("retention.ms"));
        let retention_bytes = total(read.number("retention.bytes"));
        let compression = codec(&read.text("compression.type"));
        let remote_storage_enable = read.flag("remote.storage.enable");
        let remote_log_copy_disable = read.flag("remote.log.copy.disable");
        let local_limit = |value, total| match remote_storage_enable && !remote_log_copy_disable {
            true => local_limit(value, total),
            false => total,
        };
        Self {
            cleanup_policy,
            compression,
            compression_level: compression.and_then(|codec| read.level(codec)),
            max_message_bytes: read.unsigned("max.message.bytes"),
            message_timestamp_type: match read.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            message_timestamp_before_max_ms: read.number("message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: read.number("message.timestamp.after.max.ms"),
            min_insync_replicas: read.unsigned("min.insync.replicas"),
            retention_ms,
            retention_bytes: retention_bytes.map(i64::cast_unsigned),
            local_retention_ms: local_limit(read.number("local.retention.ms"), retention_ms),
            local_retention_bytes: local_limit(read.number("local.retention.bytes"), retention_bytes)
                .map(i64::cast_unsigned),
            segment_bytes: match values.get("internal.segment.bytes").and_then(|value| value.parse().ok()) {
                Some(bytes) => bytes,
                None => read.unsigned("segment.bytes").into(),
            },
            segment_age: read.duration("segment.ms"),
            segment_jitter: read.duration("segment.jitter.ms"),
            index_interval_bytes: read.unsigned("index.interval.bytes"),
            remote_storage_enable,
            remote_log_copy_disable,
            remote_log_delete_on_disable: read.flag("remote.log.delete.on.disable"),
            unclean_leader_election_enable: read.flag("unclean.leader.election.enable"),
            write_caching: read.flag("write.caching"),
            archive_fetch_compression: match read.text("archive.fetch.compression").as_str() {
                "original" => ArchiveFetchCompression::Original,
                "none" => ArchiveFetchCompression::None,
                "lz4" => ArchiveFetchCompression::Lz4,
                "zstd" => ArchiveFetchCompression::Zstd,
                _ => ArchiveFetchCompression::Auto,
            },
        }
    }
}

/// How many topic configurations there are to describe.
pub fn described() -> usize {
    TOPIC_CONFIGS.iter().filter(|entry| !entry.hidden).count()
}

/// Describes every topic configuration, in order of names, for a topic that has `values` of its own.
pub fn describe(values: &BTreeMap<String, String>, layers: &BrokerLayers<'_>) -> Vec<ConfigEntry> {
    let visible = TOPIC_CONFIGS.iter().filter(|entry| !entry.hidden);
    visible.map(|entry| ConfigEntry::new(&entry.definition, synonyms(entry, values, layers).collect(), false)).collect()
}

/// The effective value of a topic configuration.
fn effective(name: &str, values: &BTreeMap<String, String>, layers: &BrokerLayers<'_>) -> Option<String> {
    let entry = topic_config(name)?;
    let set = synonyms(entry, values, layers).next().map(|synonym| synonym.value);
    set.or_else(|| entry.definition.default.map(str::to_owned))
}

/// All readable values of a topic configuration, highest precedence first, in the topic's unit. The default is among them
/// only under the name of a broker configuration, as in Kafka.
fn synonyms<'a>(
    entry: &'static TopicConfigDefinition,
    values: &'a BTreeMap<String, String>,
    layers: &'a BrokerLayers<'_>,
) -> impl Iterator<Item = ConfigSynonym> + 'a {
    let name = entry.definition.name;
    let own = values.get(name).map(|value| (name, ConfigSource::DynamicTopic, value.as_str(), 1));
    let broker = entry
        .broker_synonyms
        .iter()
        .flat_map(|(name, factor)| layers.values(name).map(move |(source, value)| (*name, source, value, *factor)));
    // A default that the broker was started with, and that Kafka's brokers have no name for.
    let unnamed = entry.broker_name().is_none().then(|| layers.fixed_value(name)).flatten();
    let unnamed = unnamed.map(|value| (name, ConfigSource::StaticBroker, value, 1));
    let default = entry.broker_synonyms.first().zip(entry.definition.default);
    let default = default.map(|((name, _), value)| (*name, ConfigSource::Default, value, 1));
    let readable = move |(name, source, value, factor): (&str, ConfigSource, &str, i64)| {
        let scaled = match factor {
            1 => value.to_owned(),
            _ => value.parse::<i64>().ok()?.checked_mul(factor)?.to_string(),
        };
        let value = entry.definition.normalize(&scaled).ok()?;
        Some(ConfigSynonym { name: name.to_owned(), value, source })
    };
    own.into_iter().chain(broker).chain(unnamed).chain(default).filter_map(readable)
}

/// Reads effective values as types. Every visible definition has a default that its type and rule accept.
struct Reader<'a> {
    values: &'a BTreeMap<String, String>,
    layers: &'a BrokerLayers<'a>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        effective(name, self.values, self.layers).expect("a topic configuration that is read has a default")
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().expect("normal forms of numbers are numbers")
    }

    fn unsigned(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).expect("the rule of this configuration excludes negative numbers")
    }

    fn duration(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name).unsigned_abs())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn level(&self, codec: Compression) -> Option<i32> {
        let name = match codec {
            Compression::Gzip => "compression.gzip.level",
            Compression::Lz4 => "compression.lz4.level",
            Compression::Zstd => "compression.zstd.level",
            Compression::None | Compression::Snappy => return None,
        };
        let level = i32::try_from(self.number(name)).expect("levels are of type INT");
        (codec != Compression::Gzip || level != -1).then_some(level)
    }
}

fn codec(name: &str) -> Option<Compression> {
    match name {
        "uncompressed" => Some(Compression::None),
        "gzip" => Some(Compression::Gzip),
        "snappy" => Some(Compression::Snappy),
        "lz4" => Some(Compression::Lz4),
        "zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

fn limit(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

/// A local limit: −2 stands for the total, and none exceeds it.
fn local_limit(value: i64, total: Option<i64>) -> Option<i64> {
    match (limit(value), total) {
        (Some(local), Some(total)) => Some(local.min(total)),
        (Some(local), None) if value != -2 => Some(local),
        (_, total) => total,
    }
}

//! Every topic configuration of Apache Kafka 4.3, and alluvium's own.
//!
//! Defaults differ from Kafka's where the product does: history is kept for ever and archived, local disks hold a day,
//! and segments are sealed after an hour, since sealing is what makes records archived. A test compares names, types and
//! defaults with a list taken from Apache Kafka 4.3.1 and holds the differences to a list of their own.

use super::super::config_definition::{ConfigDefinition, ConfigType, Effect, Rule};

/// A topic configuration and the broker configurations that give its value where the topic has none of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicConfigDefinition {
    /// Name, type, rule, default and meaning.
    pub definition: ConfigDefinition,
    /// Broker configurations in order of precedence, each with the factor from its unit to ours.
    pub broker_synonyms: &'static [(&'static str, i64)],
    /// For tests only: settable, but not described to clients.
    pub hidden: bool,
}

impl TopicConfigDefinition {
    /// The broker configuration of the same unit.
    pub fn broker_name(&self) -> Option<&'static str> {
        self.broker_synonyms.iter().find(|(_, factor)| *factor == 1).map(|(name, _)| *name)
    }
}

const CODECS: &str = "uncompressed, zstd, lz4, snappy, gzip, producer";
const DAY_MS: &str = "86400000";
const NEVER: &str = "9223372036854775807";
const MINUTE_IN_MS: i64 = 60 * 1000;
const HOUR_IN_MS: i64 = 60 * MINUTE_IN_MS;

const fn active(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    rule: Rule,
    broker_synonyms: &'static [(&'static str, i64)],
    documentation: &'static str,
) -> TopicConfigDefinition {
    let definition =
        ConfigDefinition { name, kind, rule, default: Some(default), effect: Effect::Active, documentation };
    TopicConfigDefinition { definition, broker_synonyms, hidden: false }
}

const fn stored(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    rule: Rule,
    broker_synonyms: &'static [(&'static str, i64)],
    documentation: &'static str,
) -> TopicConfigDefinition {
    let mut entry = active(name, kind, default, rule, broker_synonyms, documentation);
    entry.definition.effect = Effect::Stored;
    entry
}

const fn hidden(mut entry: TopicConfigDefinition) -> TopicConfigDefinition {
    entry.hidden = true;
    entry.definition.default = None;
    entry
}

/// All topic configurations, by name.
pub const TOPIC_CONFIGS: &[TopicConfigDefinition] = &[
    active(
        "archive.fetch.compression",
        ConfigType::String,
        "auto",
        Rule::OneOf("auto, original, none, lz4, zstd"),
        &[],
        "Codec of batches that a fetch reads from the archive: 'auto' is LZ4 for what was produced compressed and none for \
         the rest, 'original' the codec that the producer used. Lighter codecs cost the broker less CPU and the network \
         more bytes. Holds for what is read from then on. Specific to alluvium.",
    ),
    active(
        "archive.flush.timestamp",
        ConfigType::Long,
        "-1",
        Rule::AtLeast(-1),
        &[],
        "Changing it has every broker seal and archive what its partitions of the topic hold then, without waiting for \
         segment.ms or segment.bytes. `alluvium archive flush` sets it to the time. Each flush makes small objects. \
         Specific to alluvium.",
    ),
    active(
        "cleanup.policy",
        ConfigType::List,
        "delete",
        Rule::OneOf("compact, delete"),
        &[("log.cleanup.policy", 1)],
        "What happens to old records: 'delete' drops them when retention.ms or retention.bytes says so; an empty list \
         keeps them for ever. 'compact' is not supported yet and is refused.",
    ),
    stored(
        "compression.gzip.level",
        ConfigType::Int,
        "-1",
        Rule::LevelOrDefault(1, 9),
        &[("compression.gzip.level", 1)],
        "Level used when compression.type=gzip makes the broker compress. Without effect: the codec's own default is used.",
    ),
    stored(
        "compression.lz4.level",
        ConfigType::Int,
        "9",
        Rule::Between(1, 17),
        &[("compression.lz4.level", 1)],
        "Level used when compression.type=lz4 makes the broker compress. Without effect: the codec's own default is used.",
    ),
    active(
        "compression.type",
        ConfigType::String,
        "producer",
        Rule::OneOf(CODECS),
        &[("compression.type", 1)],
        "Codec of the batches in the log. 'producer' keeps what the producer sent, which costs the broker nothing; any \
         other codec makes the broker decompress and compress again where the producer chose differently.",
    ),
    stored(
        "compression.zstd.level",
        ConfigType::Int,
        "3",
        Rule::Between(-131_072, 22),
        &[("compression.zstd.level", 1)],
        "Level used when compression.type=zstd makes the broker compress. Without effect: the codec's own default is used.",
    ),
    stored(
        "delete.retention.ms",
        ConfigType::Long,
        DAY_MS,
        Rule::AtLeast(0),
        &[("log.cleaner.delete.retention.ms", 1)],
        "How long a compacted topic keeps tombstones. Without effect until compaction is supported.",
    ),
    stored(
        "file.delete.delay.ms",
        ConfigType::Long,
        "60000",
        Rule::AtLeast(0),
        &[("log.segment.delete.delay.ms", 1)],
        "How long Kafka waits before it removes a deleted file. Without effect: files go when no reader holds them.",
    ),
    stored(
        "flush.messages",
        ConfigType::Long,
        NEVER,
        Rule::AtLeast(1),
        &[("log.flush.interval.messages", 1)],
        "After how many messages Kafka syncs the log. Without effect: what is acknowledged is already on stable storage, \
         unless write.caching=true.",
    ),
    stored(
        "flush.ms",
        ConfigType::Long,
        NEVER,
        Rule::AtLeast(0),
        &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        "After how long Kafka syncs the log. Without effect: what is acknowledged is already on stable storage, unless \
         write.caching=true.",
    ),
    active(
        "follower.replication.throttled.replicas",
        ConfigType::List,
        "",
        Rule::ThrottledReplicas,
        &[],
        "Replicas whose replication is throttled on the follower's side, as partition:broker pairs or '*': while they catch up, \
         they are sent no more than follower.replication.throttled.rate of the broker allows.",
    ),
    stored(
        "index.interval.bytes",
        ConfigType::Int,
        "4096",
        Rule::AtLeast(0),
        &[("log.index.interval.bytes", 1)],
        "Bytes of log between two entries of the offset index. Without effect: there is an entry for every 4,096 bytes.",
    ),
    hidden(active(
        "internal.segment.bytes",
        ConfigType::Int,
        "",
        Rule::AtLeast(1),
        &[],
        "Overrides segment.bytes below its minimum. For tests only.",
    )),
    active(
        "leader.replication.throttled.replicas",
        ConfigType::List,
        "",
        Rule::ThrottledReplicas,
        &[],
        "Replicas whose replication is throttled on the leader's side, as partition:broker pairs or '*': while they catch up, \
         they are sent no more than leader.replication.throttled.rate of the broker allows.",
    ),
    active(
        "local.retention.bytes",
        ConfigType::Long,
        "-1",
        Rule::AtLeast(-2),
        &[("log.local.retention.bytes", 1)],
        "Bytes of a partition that stay on local disk once they are archived: -1 sets no limit, -2 means \
         retention.bytes. What is not archived yet stays whatever this says.",
    ),
    active(
        "local.retention.ms",
        ConfigType::Long,
        DAY_MS,
        Rule::AtLeast(-2),
        &[("log.local.retention.ms", 1)],
        "How long archived records also stay on local disk: -1 sets no limit, -2 means retention.ms. What is not \
         archived yet stays whatever this says.",
    ),
    stored(
        "max.compaction.lag.ms",
        ConfigType::Long,
        NEVER,
        Rule::AtLeast(1),
        &[("log.cleaner.max.compaction.lag.ms", 1)],
        "Longest time that a record may escape compaction. Without effect until compaction is supported.",
    ),
    active(
        "max.message.bytes",
        ConfigType::Int,
        "1048588",
        Rule::AtLeast(0),
        &[("message.max.bytes", 1)],
        "Largest record batch that is accepted, in bytes after compression.",
    ),
    active(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        "3600000",
        Rule::AtLeast(0),
        &[("log.message.timestamp.after.max.ms", 1)],
        "How far a record's timestamp may lie in the future, with message.timestamp.type=CreateTime.",
    ),
    active(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        NEVER,
        Rule::AtLeast(0),
        &[("log.message.timestamp.before.max.ms", 1)],
        "How far a record's timestamp may lie in the past, with message.timestamp.type=CreateTime.",
    ),
    active(
        "message.timestamp.type",
        ConfigType::String,
        "CreateTime",
        Rule::OneOf("CreateTime, LogAppendTime"),
        &[("log.message.timestamp.type", 1)],
        "Whether records keep the time that the producer gave them or get the time of their arrival.",
    ),
    stored(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        "0.5",
        Rule::Between(0, 1),
        &[("log.cleaner.min.cleanable.ratio", 1)],
        "Share of a log that must be uncompacted before it is compacted. Without effect until compaction is supported.",
    ),
    stored(
        "min.compaction.lag.ms",
        ConfigType::Long,
        "0",
        Rule::AtLeast(0),
        &[("log.cleaner.min.compaction.lag.ms", 1)],
        "Shortest time that a record escapes compaction. Without effect until compaction is supported.",
    ),
    active(
        "min.insync.replicas",
        ConfigType::Int,
        "1",
        Rule::AtLeast(1),
        &[("min.insync.replicas", 1)],
        "Replicas that must have a record before acks=all is answered, but no more than the partition has. While fewer are in \
         sync, what is produced with acks=all is refused, and consumers see nothing that came since.",
    ),
    stored(
        "preallocate",
        ConfigType::Boolean,
        "false",
        Rule::Any,
        &[("log.preallocate", 1)],
        "Whether Kafka preallocates segment files. Without effect: the journal is always preallocated, segments never.",
    ),
    active(
        "remote.log.copy.disable",
        ConfigType::Boolean,
        "false",
        Rule::Any,
        &[],
        "Stops archiving new segments; what is archived can still be read, and what is not stays on local disk until it may \
         be archived again.",
    ),
    active(
        "remote.log.delete.on.disable",
        ConfigType::Boolean,
        "false",
        Rule::Any,
        &[],
        "Must be true for remote.storage.enable to go from true to false. What only the archive has is deleted then, and \
         what the local log has too goes from the archive as the log's start passes it.",
    ),
    active(
        "remote.storage.enable",
        ConfigType::Boolean,
        "true",
        Rule::Any,
        &[],
        "Whether sealed segments are archived to object storage. With false the log lives on local disk alone and follows \
         retention.ms and retention.bytes there.",
    ),
    active(
        "retention.bytes",
        ConfigType::Long,
        "-1",
        Rule::Any,
        &[("log.retention.bytes", 1)],
        "Bytes of a partition, in all tiers, beyond which its oldest segments are deleted; negative sets no limit.",
    ),
    active(
        "retention.ms",
        ConfigType::Long,
        "-1",
        Rule::AtLeast(-1),
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTE_IN_MS), ("log.retention.hours", HOUR_IN_MS)],
        "How long records are kept, in all tiers; -1 keeps them for ever. Records of an archived topic that are not in a \
         sealed segment yet may stay for ten minutes, or for segment.ms if that is less.",
    ),
    active(
        "segment.bytes",
        ConfigType::Int,
        "268435456",
        Rule::AtLeast(1024 * 1024),
        &[("log.segment.bytes", 1)],
        "Size at which the active segment is sealed and then archived. Larger makes fewer, larger objects; smaller makes \
         records reach the archive sooner and costs more requests.",
    ),
    stored(
        "segment.index.bytes",
        ConfigType::Int,
        "10485760",
        Rule::AtLeast(4),
        &[("log.index.size.max.bytes", 1)],
        "Largest index file of a segment in Kafka. Without effect: indexes grow with their segment.",
    ),
    stored(
        "segment.jitter.ms",
        ConfigType::Long,
        "0",
        Rule::AtLeast(0),
        &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_IN_MS)],
        "Random time by which segment.ms is shortened. Without effect: uploads are spread by what the archive takes.",
    ),
    active(
        "segment.ms",
        ConfigType::Long,
        "3600000",
        Rule::AtLeast(1),
        &[("log.roll.ms", 1), ("log.roll.hours", HOUR_IN_MS)],
        "Age at which the active segment is sealed and then archived, also when nothing is appended. It bounds how long a \
         record is not yet in the archive.",
    ),
    active(
        "unclean.leader.election.enable",
        ConfigType::Boolean,
        "false",
        Rule::Any,
        &[("unclean.leader.election.enable", 1)],
        "Whether a replica that is not in sync may become leader when no other is left, at the price of lost records.",
    ),
    active(
        "write.caching",
        ConfigType::Boolean,
        "false",
        Rule::Any,
        &[],
        "Acknowledges records when they are written but not yet on stable storage, as Kafka does: faster on slow disks, \
         and a power cut of all replicas at once can lose acknowledged records; the death of the process loses none. \
         Specific to alluvium.",
    ),
];

/// A topic configuration by its name.
pub fn topic_config(name: &str) -> Option<&'static TopicConfigDefinition> {
    TOPIC_CONFIGS.binary_search_by(|entry| entry.definition.name.cmp(name)).ok().map(|at| &TOPIC_CONFIGS[at])
}

//! The broker configurations of Apache Kafka 4.3 that tools and scripts read or set.
//!
//! A test compares names, types, defaults and what is dynamic with a list taken from Apache Kafka 4.3.1. Long because it
//! is one table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::super::config_definition::{ConfigDefinition, ConfigType, Effect, Rule};
use super::super::topic_config::TOPIC_CONFIGS;
use super::{FOLLOWER_RATE, LEADER_RATE, RACK_AWARE_SELECTOR, REPLICA_SELECTOR};

/// A broker configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BrokerConfigDefinition {
    /// Name, type, rule, default and meaning.
    pub definition: ConfigDefinition,
    /// Can change while the broker runs.
    pub dynamic: bool,
}

const fn active(
    name: &'static str,
    kind: ConfigType,
    default: Option<&'static str>,
    rule: Rule,
    documentation: &'static str,
) -> BrokerConfigDefinition {
    let definition = ConfigDefinition { name, kind, rule, default, effect: Effect::Active, documentation };
    BrokerConfigDefinition { definition, dynamic: false }
}

const fn stored(
    name: &'static str,
    kind: ConfigType,
    default: Option<&'static str>,
    rule: Rule,
    documentation: &'static str,
) -> BrokerConfigDefinition {
    let mut entry = active(name, kind, default, rule, documentation);
    entry.definition.effect = Effect::Stored;
    entry
}

const fn dynamic(mut entry: BrokerConfigDefinition) -> BrokerConfigDefinition {
    entry.dynamic = true;
    entry
}

/// Those that only exist while they are set, as in Kafka, which checks them all the same.
pub(super) const RATES: &[BrokerConfigDefinition] = &[
    dynamic(active(
        FOLLOWER_RATE,
        ConfigType::Long,
        Some("9223372036854775807"),
        Rule::AtLeast(0),
        "Bytes in a second that this broker is sent for replicas that catch up and are named by \
         follower.replication.throttled.replicas of their topic.",
    )),
    dynamic(active(
        LEADER_RATE,
        ConfigType::Long,
        Some("9223372036854775807"),
        Rule::AtLeast(0),
        "Bytes in a second that this broker sends for replicas that catch up and are named by \
         leader.replication.throttled.replicas of their topic.",
    )),
];

/// Those that are no default for topics.
const OWN: &[BrokerConfigDefinition] = &[
    active(
        "advertised.listeners",
        ConfigType::List,
        None,
        Rule::Any,
        "Addresses that clients are told to use, by listener.",
    ),
    active(
        "auto.create.topics.enable",
        ConfigType::Boolean,
        Some("true"),
        Rule::Any,
        "Whether a topic that a client asks for and that does not exist is created.",
    ),
    stored(
        "auto.leader.rebalance.enable",
        ConfigType::Boolean,
        Some("true"),
        Rule::Any,
        "Whether leadership goes back to preferred leaders by itself.",
    ),
    stored(
        "broker.heartbeat.interval.ms",
        ConfigType::Int,
        Some("2000"),
        Rule::Any,
        "Time between two heartbeats of a broker.",
    ),
    active("broker.id", ConfigType::Int, Some("-1"), Rule::Any, "Older name of node.id."),
    active("broker.rack", ConfigType::String, None, Rule::Any, "Failure domain of the broker."),
    stored(
        "broker.session.timeout.ms",
        ConfigType::Int,
        Some("9000"),
        Rule::Any,
        "Time without heartbeats after which a broker is fenced.",
    ),
    active(
        "connections.max.idle.ms",
        ConfigType::Long,
        Some("600000"),
        Rule::Any,
        "Time after which an idle connection is closed.",
    ),
    stored(
        "controlled.shutdown.enable",
        ConfigType::Boolean,
        Some("true"),
        Rule::Any,
        "Whether leadership moves away before a broker stops.",
    ),
    active(
        "default.replication.factor",
        ConfigType::Int,
        Some("3"),
        Rule::Any,
        "Replicas of a topic that is created without saying how many; as many as there are active brokers where those are fewer.",
    ),
    active("delete.topic.enable", ConfigType::Boolean, Some("true"), Rule::Any, "Whether topics can be deleted."),
    active(
        "fetch.max.bytes",
        ConfigType::Int,
        Some("57671680"),
        Rule::AtLeast(1_024),
        "Most bytes that one fetch may ask for.",
    ),
    stored(
        "group.consumer.assignors",
        ConfigType::List,
        Some("uniform,range"),
        Rule::Any,
        "Assignors of consumer groups with the consumer protocol (KIP-848).",
    ),
    stored(
        "group.consumer.heartbeat.interval.ms",
        ConfigType::Int,
        Some("5000"),
        Rule::AtLeast(1),
        "Heartbeat interval given to consumers with the consumer protocol.",
    ),
    stored(
        "group.consumer.max.heartbeat.interval.ms",
        ConfigType::Int,
        Some("15000"),
        Rule::AtLeast(1),
        "Largest heartbeat interval with the consumer protocol.",
    ),
    stored(
        "group.consumer.max.session.timeout.ms",
        ConfigType::Int,
        Some("60000"),
        Rule::AtLeast(1),
        "Largest session time-out with the consumer protocol.",
    ),
    stored(
        "group.consumer.max.size",
        ConfigType::Int,
        Some("2147483647"),
        Rule::AtLeast(1),
        "Most members of a group with the consumer protocol.",
    ),
    stored(
        "group.consumer.min.heartbeat.interval.ms",
        ConfigType::Int,
        Some("5000"),
        Rule::AtLeast(1),
        "Smallest heartbeat interval with the consumer protocol.",
    ),
    stored(
        "group.consumer.min.session.timeout.ms",
        ConfigType::Int,
        Some("45000"),
        Rule::AtLeast(1),
        "Smallest session time-out with the consumer protocol.",
    ),
    stored(
        "group.consumer.session.timeout.ms",
        ConfigType::Int,
        Some("45000"),
        Rule::AtLeast(1),
        "Session time-out given to consumers with the consumer protocol.",
    ),
    active(
        "group.initial.rebalance.delay.ms",
        ConfigType::Int,
        Some("3000"),
        Rule::Any,
        "Time that a new group waits for more members before its first assignment.",
    ),
    active(
        "group.max.session.timeout.ms",
        ConfigType::Int,
        Some("1800000"),
        Rule::Any,
        "Largest session time-out that a member may ask for.",
    ),
    active("group.max.size", ConfigType::Int, Some("2147483647"), Rule::AtLeast(1), "Most members of a group."),
    active(
        "group.min.session.timeout.ms",
        ConfigType::Int,
        Some("6000"),
        Rule::Any,
        "Smallest session time-out that a member may ask for.",
    ),
    stored(
        "inter.broker.listener.name",
        ConfigType::String,
        None,
        Rule::Any,
        "Listener that brokers use among themselves. Replication has its own.",
    ),
    stored(
        "inter.broker.protocol.version",
        ConfigType::String,
        Some("4.3-IV0"),
        Rule::Any,
        "Protocol version among brokers; tools read it to learn what the cluster can do. Kafka 4 itself no longer has it.",
    ),
    stored(
        "leader.imbalance.check.interval.seconds",
        ConfigType::Long,
        Some("300"),
        Rule::AtLeast(1),
        "Time between two checks for leaders that are not the preferred ones.",
    ),
    active(
        "listener.security.protocol.map",
        ConfigType::String,
        Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"),
        Rule::Any,
        "Security protocol of each listener.",
    ),
    active(
        "listeners",
        ConfigType::List,
        Some("PLAINTEXT://:9092"),
        Rule::Any,
        "Addresses that the broker listens on.",
    ),
    dynamic(stored(
        "log.cleaner.backoff.ms",
        ConfigType::Long,
        Some("15000"),
        Rule::AtLeast(0),
        "Pause of an idle log cleaner. Without effect until compaction is supported.",
    )),
    stored(
        "log.cleaner.enable",
        ConfigType::Boolean,
        Some("true"),
        Rule::Any,
        "Whether logs are compacted. Without effect until compaction is supported.",
    ),
    dynamic(stored(
        "log.cleaner.threads",
        ConfigType::Int,
        Some("1"),
        Rule::AtLeast(0),
        "Threads that compact logs. Without effect until compaction is supported.",
    )),
    active("log.dir", ConfigType::List, None, Rule::Any, "Data directory, where log.dirs is not set."),
    active("log.dirs", ConfigType::List, None, Rule::Any, "Data directories."),
    stored(
        "log.flush.scheduler.interval.ms",
        ConfigType::Long,
        Some("9223372036854775807"),
        Rule::Any,
        "Time between two checks for logs to sync. Without effect: acknowledged means synced.",
    ),
    active(
        "log.retention.check.interval.ms",
        ConfigType::Long,
        Some("300000"),
        Rule::AtLeast(1),
        "Time between two checks for records whose retention has passed.",
    ),
    active(
        "log.retention.hours",
        ConfigType::Int,
        None,
        Rule::Any,
        "Default of retention.ms for topics, in hours, where neither ms nor minutes are set.",
    ),
    active(
        "log.retention.minutes",
        ConfigType::Int,
        None,
        Rule::Any,
        "Default of retention.ms for topics, in minutes, where ms is not set.",
    ),
    active(
        "log.roll.hours",
        ConfigType::Int,
        None,
        Rule::AtLeast(1),
        "Default of segment.ms for topics, in hours, where ms is not set.",
    ),
    active(
        "log.roll.jitter.hours",
        ConfigType::Int,
        None,
        Rule::AtLeast(0),
        "Default of segment.jitter.ms for topics, in hours, where ms is not set.",
    ),
    dynamic(stored(
        "max.connection.creation.rate",
        ConfigType::Int,
        Some("2147483647"),
        Rule::AtLeast(0),
        "Most new connections in a second. Without effect.",
    )),
    dynamic(active(
        "max.connections",
        ConfigType::Int,
        Some("2147483647"),
        Rule::AtLeast(0),
        "Most connections of the broker.",
    )),
    dynamic(active(
        "max.connections.per.ip",
        ConfigType::Int,
        Some("2147483647"),
        Rule::AtLeast(0),
        "Most connections from one address.",
    )),
    active(
        "max.incremental.fetch.session.cache.slots",
        ConfigType::Int,
        Some("1000"),
        Rule::AtLeast(0),
        "Most incremental fetch sessions.",
    ),
    active(
        "max.request.partition.size.limit",
        ConfigType::Int,
        Some("2000"),
        Rule::AtLeast(1),
        "Most partitions that one DescribeTopicPartitions answer lists.",
    ),
    active("node.id", ConfigType::Int, None, Rule::AtLeast(0), "Number of this node."),
    dynamic(stored(
        "num.io.threads",
        ConfigType::Int,
        Some("8"),
        Rule::AtLeast(1),
        "Threads that handle requests in Kafka. Without effect.",
    )),
    dynamic(stored(
        "num.network.threads",
        ConfigType::Int,
        Some("3"),
        Rule::AtLeast(1),
        "Threads that serve connections in Kafka. Without effect.",
    )),
    active(
        "num.partitions",
        ConfigType::Int,
        Some("1"),
        Rule::AtLeast(1),
        "Partitions of a topic that is created without saying how many.",
    ),
    dynamic(stored(
        "num.recovery.threads.per.data.dir",
        ConfigType::Int,
        Some("2"),
        Rule::AtLeast(1),
        "Threads that recover a data directory in Kafka. Without effect.",
    )),
    dynamic(stored(
        "num.replica.fetchers",
        ConfigType::Int,
        Some("1"),
        Rule::AtLeast(1),
        "Threads that replicate from one broker in Kafka. Without effect.",
    )),
    active(
        "offset.metadata.max.bytes",
        ConfigType::Int,
        Some("4096"),
        Rule::Any,
        "Largest metadata text of a committed offset.",
    ),
    stored(
        "offsets.commit.timeout.ms",
        ConfigType::Int,
        Some("5000"),
        Rule::AtLeast(1),
        "Time for a commit to become durable. Without effect: it is answered once it is.",
    ),
    active(
        "offsets.retention.check.interval.ms",
        ConfigType::Long,
        Some("600000"),
        Rule::AtLeast(1),
        "Time between two checks for committed offsets that have expired.",
    ),
    active(
        "offsets.retention.minutes",
        ConfigType::Int,
        Some("10080"),
        Rule::AtLeast(1),
        "Time that offsets of an empty group are kept.",
    ),
    stored(
        "offsets.topic.compression.codec",
        ConfigType::Int,
        Some("0"),
        Rule::Any,
        "Codec of the topic of committed offsets.",
    ),
    active(
        "offsets.topic.num.partitions",
        ConfigType::Int,
        Some("50"),
        Rule::AtLeast(1),
        "Partitions of the topic of committed offsets.",
    ),
    active(
        "offsets.topic.replication.factor",
        ConfigType::Short,
        Some("3"),
        Rule::AtLeast(1),
        "Replicas of the topic of committed offsets, or as many as there are brokers. It gets more as brokers come.",
    ),
    active(
        "offsets.topic.segment.bytes",
        ConfigType::Int,
        Some("104857600"),
        Rule::AtLeast(1),
        "Segment size of the topic of committed offsets.",
    ),
    active(
        "process.roles",
        ConfigType::List,
        Some("broker,controller"),
        Rule::OneOf("broker, controller"),
        "Roles of this node.",
    ),
    dynamic(active(
        "producer.id.expiration.ms",
        ConfigType::Int,
        Some("86400000"),
        Rule::AtLeast(1),
        "Time without batches after which a producer is forgotten.",
    )),
    stored(
        "queued.max.requests",
        ConfigType::Int,
        Some("500"),
        Rule::AtLeast(1),
        "Requests that wait for a thread in Kafka. Without effect.",
    ),
    dynamic(stored(
        "remote.fetch.max.wait.ms",
        ConfigType::Int,
        Some("500"),
        Rule::AtLeast(1),
        "Most time that a fetch waits for the archive. Without effect: it is 500 ms.",
    )),
    dynamic(stored(
        "remote.list.offsets.request.timeout.ms",
        ConfigType::Long,
        Some("30000"),
        Rule::AtLeast(1),
        "Most time that ListOffsets waits for the archive. Without effect: the request says how long.",
    )),
    active(
        "remote.log.storage.system.enable",
        ConfigType::Boolean,
        Some("true"),
        Rule::Any,
        "Whether this cluster archives to object storage.",
    ),
    stored(
        "replica.fetch.max.bytes",
        ConfigType::Int,
        Some("1048576"),
        Rule::AtLeast(0),
        "Bytes that a replica fetches of one partition in Kafka. Without effect.",
    ),
    active(
        "replica.lag.time.max.ms",
        ConfigType::Long,
        Some("30000"),
        Rule::Any,
        "Time after which a replica that lags leaves the in-sync set.",
    ),
    dynamic(active(
        REPLICA_SELECTOR,
        ConfigType::String,
        None,
        Rule::OneOf(RACK_AWARE_SELECTOR),
        "Which replica consumers are sent to: with Kafka's RackAwareReplicaSelector one in sync in the rack that they name \
         (client.rack), and unset the leader. Unlike in Kafka it can be set while brokers run.",
    )),
    stored(
        "request.timeout.ms",
        ConfigType::Int,
        Some("30000"),
        Rule::Any,
        "Time after which a request among brokers fails. Without effect.",
    ),
    stored(
        "socket.receive.buffer.bytes",
        ConfigType::Int,
        Some("102400"),
        Rule::Any,
        "Receive buffer of a client connection.",
    ),
    active("socket.request.max.bytes", ConfigType::Int, Some("104857600"), Rule::AtLeast(1), "Largest request."),
    stored(
        "socket.send.buffer.bytes",
        ConfigType::Int,
        Some("102400"),
        Rule::Any,
        "Send buffer of a client connection.",
    ),
    stored(
        "transaction.max.timeout.ms",
        ConfigType::Int,
        Some("900000"),
        Rule::AtLeast(1),
        "Longest transaction that a producer may ask for.",
    ),
    stored(
        "transaction.state.log.min.isr",
        ConfigType::Int,
        Some("2"),
        Rule::AtLeast(1),
        "min.insync.replicas of the topic of transactions.",
    ),
    stored(
        "transaction.state.log.num.partitions",
        ConfigType::Int,
        Some("50"),
        Rule::AtLeast(1),
        "Partitions of the topic of transactions.",
    ),
    stored(
        "transaction.state.log.replication.factor",
        ConfigType::Short,
        Some("3"),
        Rule::AtLeast(1),
        "Replicas of the topic of transactions.",
    ),
    stored(
        "transactional.id.expiration.ms",
        ConfigType::Int,
        Some("604800000"),
        Rule::AtLeast(1),
        "Time after which an unused transactional id is forgotten.",
    ),
];

/// All broker configurations, by name: our own list, and the defaults for topics with the type, rule and meaning that
/// the topic configuration has.
static BROKER_CONFIGS: LazyLock<BTreeMap<&'static str, BrokerConfigDefinition>> = LazyLock::new(|| {
    let own = OWN.iter().map(|entry| (entry.definition.name, *entry));
    let for_topics = TOPIC_CONFIGS.iter().filter_map(|topic| {
        let name = topic.broker_name()?;
        let definition = ConfigDefinition { name, ..topic.definition };
        Some((name, BrokerConfigDefinition { definition, dynamic: true }))
    });
    own.chain(for_topics).collect()
});

/// All broker configurations in order of names.
pub fn broker_configs() -> impl Iterator<Item = &'static BrokerConfigDefinition> {
    BROKER_CONFIGS.values()
}

/// A broker configuration by its name.
pub fn broker_config(name: &str) -> Option<&'static BrokerConfigDefinition> {
    BROKER_CONFIGS.get(name)
}

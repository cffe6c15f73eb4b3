//! The registry beside Apache Kafka 4.3.1, and how dynamic values go before static ones.

use super::*;
use crate::metadata::command::Command;
use crate::metadata::image::Image;
use crate::metadata::machine;
use crate::metadata::testing::image_with_brokers;
use crate::metadata::topic_config::TOPIC_CONFIGS;
use crate::types::NodeId;

const KAFKA: &str = include_str!("kafka-4.3.1.tsv");

/// Defaults that differ from Kafka's on purpose: the product's, and what Kafka leaves unset in favour of another name.
const OTHER_DEFAULTS: &[&str] = &[
    "default.replication.factor",
    "log.dir",
    "log.flush.interval.ms",
    "log.local.retention.bytes",
    "log.local.retention.ms",
    "log.retention.hours",
    "log.retention.ms",
    "log.roll.hours",
    "log.roll.jitter.hours",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "process.roles",
    "remote.log.storage.system.enable",
];
/// What can be changed while the broker runs, and not in Kafka.
const DYNAMIC_HERE: &[&str] = &[REPLICA_SELECTOR];
/// What Kafka 4 no longer has, but tools still ask for.
const GONE_FROM_KAFKA: &[&str] = &["inter.broker.protocol.version"];

fn kafka() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = KAFKA.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect::<Vec<_>>());
    rows.map(|row| (row[0], row)).collect()
}

#[test]
fn names_types_defaults_and_dynamics_are_kafkas_except_where_listed() {
    let kafka = kafka();
    let mut different = Vec::new();
    for BrokerConfigDefinition { definition, dynamic } in broker_configs() {
        let Some(row) = kafka.get(definition.name) else {
            assert!(GONE_FROM_KAFKA.contains(&definition.name), "{}", definition.name);
            continue;
        };
        assert_eq!(definition.kind.name(), row[1], "{}", definition.name);
        let is_fixed = *dynamic && row[3] != "dynamic";
        assert_eq!(is_fixed, DYNAMIC_HERE.contains(&definition.name), "{} in Kafka", definition.name);
        if definition.default.unwrap_or("-") != row[2] {
            different.push(definition.name);
        }
        if let Some(default) = definition.default {
            assert_eq!(definition.normalize(default).as_deref(), Ok(default), "{}", definition.name);
        }
    }
    assert_eq!(different, OTHER_DEFAULTS);
}

fn set(image: &mut Image, node_id: Option<NodeId>, name: &str, value: &str) {
    let current = image.broker_configs(node_id).map_or_else(Configs::default, |configs| Configs::clone(configs));
    let operations = [(name.to_owned(), ConfigOperation::Set(value.to_owned()))];
    let none = BTreeMap::new();
    let change = alter(node_id, &current, &operations, &BrokerLayers::fixed(&none)).unwrap();
    machine::apply(image, &Command::AlterBrokerConfigs { node_id, change }).unwrap();
}

#[test]
fn a_broker_goes_before_the_default_and_that_before_the_file() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "b")]);
    let fixed = BTreeMap::from([("message.max.bytes".to_owned(), "100".to_owned())]);
    let value =
        |image: &Image, node| effective("message.max.bytes", &BrokerLayers::new(image, NodeId(node), &fixed)).unwrap();
    assert_eq!(value(&image, 1), "100");
    set(&mut image, None, "message.max.bytes", "200");
    assert_eq!((value(&image, 1), value(&image, 2)), ("200".to_owned(), "200".to_owned()));
    set(&mut image, Some(NodeId(1)), "message.max.bytes", "300");
    assert_eq!((value(&image, 1), value(&image, 2)), ("300".to_owned(), "200".to_owned()));

    let entries = describe(&BrokerLayers::new(&image, NodeId(1), &fixed));
    let entry = entries.iter().find(|entry| entry.name == "message.max.bytes").unwrap();
    assert_eq!((entry.source, entry.read_only), (ConfigSource::DynamicBroker, false));
    assert_eq!(entry.synonyms.len(), 4);
    let entry = entries.iter().find(|entry| entry.name == "node.id").unwrap();
    assert!(entry.read_only);
    let default = describe_default(&image.broker_configs(None).unwrap().values);
    assert_eq!(default.iter().map(|entry| entry.name).collect::<Vec<_>>(), ["message.max.bytes"]);
}

#[test]
fn alterations_are_answered_as_kafka_answers_them() {
    let none = BTreeMap::new();
    let set = |name: &str, value: &str| {
        let operations = [(name.to_owned(), ConfigOperation::Set(value.to_owned()))];
        alter(None, &Configs::default(), &operations, &BrokerLayers::fixed(&none))
    };
    let fixed = set("num.partitions", "3").unwrap_err();
    assert_eq!(fixed.to_string(), "Cannot update these configs dynamically: [num.partitions]");
    let text = set("log.segment.bytes", "abc").unwrap_err();
    assert_eq!(text.to_string(), "Invalid value abc for configuration log.segment.bytes: Not a number of type INT");
    assert_eq!((fixed.kafka_error_code(), text.kafka_error_code()), (42, 42));
    assert_eq!(set("no.such", "1").unwrap().values["no.such"].as_deref(), Some("1"));
}

#[test]
fn brokers_do_not_differ_in_how_many_replicas_are_in_sync() {
    let (none, one) = (BTreeMap::new(), Some(NodeId(1)));
    let layers = BrokerLayers::fixed(&none);
    let set = Configs { values: [(MIN_INSYNC.to_owned(), "2".to_owned())].into(), ..Configs::default() };
    let code = |node_id, operation: ConfigOperation| {
        let altered = alter(node_id, &set, &[(MIN_INSYNC.to_owned(), operation)], &layers);
        altered.map_or_else(|error| error.kafka_error_code(), |_| 0)
    };
    let value = |value: &str| ConfigOperation::Set(value.to_owned());
    assert_eq!((code(one, value("2")), code(one, ConfigOperation::Delete)), (40, 40));
    assert_eq!((code(None, value("1")), code(None, ConfigOperation::Delete)), (0, 40));
    // What is wrong with the value comes first.
    assert_eq!((code(one, value("0")), code(None, value("0"))), (42, 42));

    let other = BTreeMap::from([("log.retention.ms".to_owned(), "5".to_owned())]);
    let both: BTreeMap<_, _> = other.clone().into_iter().chain(set.values.clone()).collect();
    assert_eq!(replace(one, &Configs::default(), &both), Err(ConfigError::MinInsyncOfOneBroker));
    assert_eq!(replace(None, &set, &other), Err(ConfigError::MinInsyncRemoved));
    assert!(replace(None, &set, &both).is_ok() && replace(one, &Configs::default(), &other).is_ok());
}

#[test]
fn replicas_are_chosen_by_racks_or_not_at_all() {
    let mut image = image_with_brokers(&[(1, "a")]);
    let none = BTreeMap::new();
    assert_eq!(effective(REPLICA_SELECTOR, &BrokerLayers::new(&image, NodeId(1), &none)), None);
    set(&mut image, None, REPLICA_SELECTOR, RACK_AWARE_SELECTOR);
    let chosen = effective(REPLICA_SELECTOR, &BrokerLayers::new(&image, NodeId(1), &none));
    assert_eq!(chosen.as_deref(), Some(RACK_AWARE_SELECTOR));
    let other = [(REPLICA_SELECTOR.to_owned(), ConfigOperation::Set("com.example.Selector".to_owned()))];
    let refused = alter(None, &Configs::default(), &other, &BrokerLayers::fixed(&none)).unwrap_err();
    assert!(refused.to_string().contains(RACK_AWARE_SELECTOR), "{refused}");
}

#[test]
fn rates_of_replication_are_checked_and_only_described_where_they_are_set() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "b")]);
    let none = BTreeMap::new();
    let described = |image: &Image, node| {
        let entries = describe(&BrokerLayers::new(image, NodeId(node), &none));
        assert!(entries.is_sorted_by_key(|entry| entry.name));
        entries.iter().find(|entry| entry.name == LEADER_RATE).and_then(|entry| entry.value.clone())
    };
    let rate = |image: &Image, node| throttled_rate(LEADER_RATE, image, NodeId(node));
    assert_eq!((described(&image, 1), rate(&image, 1)), (None, None));
    set(&mut image, None, LEADER_RATE, "5");
    set(&mut image, Some(NodeId(2)), LEADER_RATE, "9223372036854775807");
    assert_eq!((rate(&image, 1), rate(&image, 2)), (Some(5), None));
    assert_eq!(described(&image, 1).as_deref(), Some("5"));
    assert_eq!(describe_default(&image.broker_configs(None).unwrap().values).len(), 1);
    let operations = [(FOLLOWER_RATE.to_owned(), ConfigOperation::Set("-1".to_owned()))];
    let refused = alter(None, &Configs::default(), &operations, &BrokerLayers::fixed(&none)).unwrap_err();
    assert_eq!(refused.kafka_error_code(), 42);
}

#[test]
fn values_are_no_longer_than_kafka_stores() {
    let none = BTreeMap::new();
    let layers = BrokerLayers::fixed(&none);
    for (letter, length, fits) in [("x", 32_767, true), ("x", 32_768, false), ("ä", 32_767, true), ("ä", 32_768, false)]
    {
        let operations = [("of.a.plug-in".to_owned(), ConfigOperation::Set(letter.repeat(length)))];
        let altered = alter(None, &Configs::default(), &operations, &layers);
        let code = altered.map_or_else(|error| error.kafka_error_code(), |_| 0);
        assert_eq!(code, if fits { 0 } else { 40 }, "{letter} {length}");
    }
}

#[test]
fn topics_can_not_inherit_compaction() {
    let none = BTreeMap::new();
    for (value, refused) in [("compact", true), ("delete,compact", true), ("delete", false), ("", false)] {
        let operations = [("log.cleanup.policy".to_owned(), ConfigOperation::Set(value.to_owned()))];
        let altered = alter(None, &Configs::default(), &operations, &BrokerLayers::fixed(&none));
        assert_eq!(altered.is_err(), refused, "{value}");
        let values = [("log.cleanup.policy".to_owned(), value.to_owned())].into();
        assert_eq!(replace(None, &Configs::default(), &values).is_err(), refused, "{value}");
    }
}

#[test]
fn what_tools_decide_by_is_there() {
    for name in ["inter.broker.protocol.version", "delete.topic.enable", "auto.create.topics.enable"] {
        assert!(broker_config(name).unwrap().definition.default.is_some(), "{name}");
    }
}

#[test]
fn what_can_change_while_the_broker_runs_is_looked_up_or_says_that_it_has_no_effect() {
    let looked_up = ["max.connections", "max.connections.per.ip", "producer.id.expiration.ms", REPLICA_SELECTOR];
    for BrokerConfigDefinition { definition, dynamic } in broker_configs().filter(|entry| entry.dynamic) {
        let of_topics =
            TOPIC_CONFIGS.iter().any(|topic| topic.broker_synonyms.iter().any(|(name, _)| *name == definition.name));
        let told = definition.documentation.contains("Without effect");
        assert!(*dynamic && (of_topics || told != looked_up.contains(&definition.name)), "{}", definition.name);
    }
}

//! The registry beside Apache Kafka 4.3.1, and what values mean.

use super::*;
use crate::metadata::config_definition::{ConfigError, Effect};
use crate::metadata::image::Configs;

const KAFKA: &str = include_str!("kafka-4.3.1.tsv");
const KAFKA_VALUES: &str = include_str!("kafka-4.3.1-values.tsv");
/// What `kafka-configs --describe --all` shows of a topic with `retention.ms=5` and `local.retention.ms=3`.
const KAFKA_DESCRIBED: &str = include_str!("kafka-4.3.1-described.txt");

/// Defaults that differ from Kafka's on purpose.
const OTHER_DEFAULTS: &[&str] = &[
    "local.retention.bytes",
    "local.retention.ms",
    "remote.storage.enable",
    "retention.ms",
    "segment.bytes",
    "segment.ms",
];
/// What Kafka does not have.
const OURS: &[&str] = &["archive.fetch.compression", "archive.flush.timestamp", "write.caching"];

#[test]
fn what_kafka_does_not_have_is_explained_to_operators() {
    let page = include_str!("../../docs/operations.md");
    for name in OURS {
        assert!(page.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn configs(pairs: &[(&str, &str)]) -> Configs {
    Configs { version: 4, values: values(pairs) }
}

fn set(name: &str, value: &str) -> (String, ConfigOperation) {
    (name.to_owned(), ConfigOperation::Set(value.to_owned()))
}

#[test]
fn the_registry_has_every_topic_configuration_of_kafka_and_ours_and_is_sorted() {
    let mut names: Vec<_> = rows(KAFKA).map(|row| row[0]).chain(OURS.iter().copied()).collect();
    names.sort_unstable();
    let registered: Vec<_> = TOPIC_CONFIGS.iter().map(|entry| entry.definition.name).collect();
    assert_eq!(registered, names);
}

#[test]
fn types_are_kafkas_and_defaults_differ_only_where_listed() {
    let mut different = Vec::new();
    for row in rows(KAFKA) {
        let definition = &topic_config(row[0]).unwrap().definition;
        assert_eq!(definition.kind.name(), row[1], "{}", row[0]);
        if definition.default.unwrap_or("-") != row[2] {
            different.push(row[0]);
        }
    }
    assert_eq!(different, OTHER_DEFAULTS);
}

#[test]
fn defaults_are_normal_and_every_configuration_is_documented() {
    for TopicConfigDefinition { definition, hidden, .. } in TOPIC_CONFIGS {
        assert_eq!(definition.default.is_none(), *hidden, "{}", definition.name);
        if let Some(default) = definition.default {
            assert_eq!(definition.normalize(default).as_deref(), Ok(default), "{}", definition.name);
        }
        assert!(definition.documentation.ends_with('.'), "{}", definition.name);
    }
}

#[test]
fn values_are_accepted_normalized_and_refused_in_kafkas_words() {
    for row in rows(KAFKA_VALUES) {
        let [name, value, verdict, expected] = row[..] else { panic!("{row:?}") };
        let value = value.replace("\\s", " ");
        let result = match topic_config(name) {
            Some(entry) => entry.definition.normalize(&value),
            None => Err(ConfigError::UnknownTopicConfig { name: name.to_owned() }),
        };
        match (verdict, result) {
            ("ok", result) => assert_eq!(result.as_deref(), Ok(expected), "{name}={value}"),
            ("error", Err(error)) => assert_eq!(error.to_string(), expected, "{name}={value}"),
            (_, result) => panic!("{name}={value}: {result:?}"),
        }
    }
}

#[test]
fn an_empty_topic_has_the_defaults_of_the_product() {
    let none = BTreeMap::new();
    let config = TopicConfig::resolve(&none, &BrokerLayers::fixed(&none));
    assert_eq!((config.retention_ms, config.retention_bytes), (None, None));
    assert_eq!((config.local_retention_ms, config.local_retention_bytes), (Some(86_400_000), None));
    assert_eq!((config.segment_bytes, config.segment_age), (256 << 20, Duration::from_hours(1)));
    assert!(config.remote_storage_enable && !config.write_caching);
    assert_eq!(config.compression, None);
    assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: false });
}

#[test]
fn local_retention_never_exceeds_retention_and_follows_it_without_an_archive() {
    let none = BTreeMap::new();
    let local =
        |pairs: &[(&str, &str)]| TopicConfig::resolve(&values(pairs), &BrokerLayers::fixed(&none)).local_retention_ms;
    assert_eq!(local(&[("retention.ms", "1000")]), Some(1000));
    assert_eq!(local(&[("local.retention.ms", "-2")]), None);
    assert_eq!(local(&[("local.retention.ms", "-2"), ("retention.ms", "7")]), Some(7));
    assert_eq!(local(&[("local.retention.ms", "-1")]), None);
    assert_eq!(local(&[("local.retention.ms", "5"), ("remote.storage.enable", "false")]), None);
    assert_eq!(
        local(&[("local.retention.ms", "5"), ("retention.ms", "9"), ("remote.log.copy.disable", "true")]),
        Some(9)
    );
}

/// Every value of `cleanup.policy`, and whether old records go. A later version may have written those with `compact`.
const POLICIES: [(&str, bool); 5] =
    [("delete", true), ("", false), ("compact", false), ("compact,delete", true), ("delete,compact", true)];

#[test]
fn retention_applies_only_where_the_policy_deletes() {
    for (policy, deletes) in POLICIES {
        let kept = |limit: u64| deletes.then_some(limit);
        // Set by the topic, and by the broker for all topics.
        for (own, broker) in [(Some(policy), None), (None, Some(policy)), (Some(policy), Some("delete"))] {
            let fixed: BTreeMap<_, _> =
                broker.map(|value| ("log.cleanup.policy".to_owned(), value.to_owned())).into_iter().collect();
            // With an archive, with one that gets nothing any more, and without one.
            for (more, is_archived) in [
                (("write.caching", "false"), true),
                (("remote.log.copy.disable", "true"), false),
                (("remote.storage.enable", "false"), false),
            ] {
                let limits = [more, ("retention.ms", "8"), ("retention.bytes", "9"), ("local.retention.bytes", "5")];
                let mut set = values(&limits);
                set.extend(own.map(|value| ("cleanup.policy".to_owned(), value.to_owned())));
                let config = TopicConfig::resolve(&set, &BrokerLayers::fixed(&fixed));
                let case = format!("{own:?} {broker:?} {more:?}");
                assert_eq!(config.retention_ms.map(i64::cast_unsigned), kept(8), "{case}");
                assert_eq!(config.retention_bytes, kept(9), "{case}");
                // What the archive has may leave the disk all the same.
                let local = if is_archived { (kept(8).or(Some(86_400_000)), Some(5)) } else { (kept(8), kept(9)) };
                let found = (config.local_retention_ms.map(i64::cast_unsigned), config.local_retention_bytes);
                assert_eq!(found, local, "{case}");
            }
        }
    }
}

#[test]
fn compaction_can_be_asked_for_by_no_request() {
    let none = BTreeMap::new();
    let layers = BrokerLayers::fixed(&none);
    for (policy, _) in POLICIES {
        let own = values(&[("cleanup.policy", policy)]);
        let operations = [set("cleanup.policy", policy)];
        let (before, kind) = (configs(&[]), TopicKind::Ordinary);
        let answers = [
            create(&own, kind, &layers).map(|values| values["cleanup.policy"].clone()),
            alter(&before, &operations, kind, &layers).map(|change| change.values["cleanup.policy"].clone().unwrap()),
            replace(&before, &own, kind, &layers).map(|change| change.values["cleanup.policy"].clone().unwrap()),
        ];
        for answer in answers {
            match answer {
                Ok(normal) => assert!(!compacts(policy) && normal == policy, "{policy}"),
                Err(error) => {
                    let expected = format!("Invalid value {policy} for configuration cleanup.policy: {NO_COMPACTION}");
                    assert_eq!((compacts(policy), error.to_string()), (true, expected));
                    assert_eq!(error.kafka_error_code(), 40);
                }
            }
        }
        assert!(create(&own, TopicKind::Internal, &layers).is_ok());
    }
    // Added to what is set.
    let append = [("cleanup.policy".to_owned(), ConfigOperation::Append("compact".to_owned()))];
    assert!(alter(&configs(&[]), &append, TopicKind::Ordinary, &layers).is_err());
}

#[test]
fn the_topic_goes_before_the_broker_and_units_are_converted() {
    let fixed = values(&[("log.retention.hours", "2"), ("min.insync.replicas", "2")]);
    let layers = BrokerLayers::fixed(&fixed);
    let resolve = |pairs: &[(&str, &str)]| TopicConfig::resolve(&values(pairs), &layers);
    assert_eq!(resolve(&[]).retention_ms, Some(7_200_000));
    assert_eq!(resolve(&[("retention.ms", "-1")]).retention_ms, None);
    assert_eq!(resolve(&[]).min_insync_replicas, 2);
}

#[test]
fn stored_values_that_this_version_cannot_read_count_as_not_set() {
    let none = BTreeMap::new();
    let odd = values(&[("retention.ms", "forever"), ("cleanup.policy", "delete,freeze"), ("later.config", "1")]);
    let config = TopicConfig::resolve(&odd, &BrokerLayers::fixed(&none));
    assert_eq!(config, TopicConfig::resolve(&none, &BrokerLayers::fixed(&none)));
}

#[test]
fn a_description_names_the_source_and_all_synonyms() {
    let fixed = values(&[("log.retention.ms", "9")]);
    let own = values(&[("retention.ms", "5")]);
    let entries = describe(&own, &BrokerLayers::fixed(&fixed));
    let entry = entries.iter().find(|entry| entry.name == "retention.ms").unwrap();
    assert_eq!((entry.value.as_deref(), entry.source), (Some("5"), ConfigSource::DynamicTopic));
    let synonyms: Vec<_> = entry.synonyms.iter().map(|s| (s.name.as_str(), s.value.as_str(), s.source)).collect();
    assert_eq!(
        synonyms,
        [
            ("retention.ms", "5", ConfigSource::DynamicTopic),
            ("log.retention.ms", "9", ConfigSource::StaticBroker),
            ("log.retention.ms", "-1", ConfigSource::Default),
        ]
    );
    assert!(entries.iter().all(|entry| entry.name != "internal.segment.bytes"));
    assert!(entries.is_sorted_by_key(|entry| entry.name));
}

#[test]
fn a_topic_is_described_as_kafka_describes_it_but_for_our_defaults() {
    let none = BTreeMap::new();
    let own = values(&[("retention.ms", "5"), ("local.retention.ms", "3")]);
    let mut different = Vec::new();
    for entry in describe(&own, &BrokerLayers::fixed(&none)).iter().filter(|entry| !OURS.contains(&entry.name)) {
        let source =
            |source| if source == ConfigSource::DynamicTopic { "DYNAMIC_TOPIC_CONFIG" } else { "DEFAULT_CONFIG" };
        let synonym = |one: &ConfigSynonym| format!("{}:{}={}", source(one.source), one.name, one.value);
        let synonyms: Vec<_> = entry.synonyms.iter().map(synonym).collect();
        let value = entry.value.as_deref().unwrap();
        let line = format!("{}={value} sensitive=false synonyms={{{}}}", entry.name, synonyms.join(", "));
        if !KAFKA_DESCRIBED.lines().any(|other| other == line) {
            different.push(entry.name);
        }
    }
    // Some broker defaults Kafka leaves unset in favour of a name with another unit, and it sets min.insync.replicas itself.
    let unset_in_kafka = ["flush.ms", "min.insync.replicas", "segment.jitter.ms"];
    let mut expected: Vec<_> = OTHER_DEFAULTS.iter().copied().chain(unset_in_kafka).collect();
    expected.sort_unstable();
    assert_eq!(different, expected);
}

#[test]
fn creating_normalizes_values_and_refuses_what_is_unknown_or_unsupported() {
    let none = BTreeMap::new();
    let layers = BrokerLayers::fixed(&none);
    let create = |pairs: &[(&str, &str)], kind| create(&values(pairs), kind, &layers);
    let normal = create(&[("preallocate", " TRUE")], TopicKind::Ordinary).unwrap();
    assert_eq!(normal, values(&[("preallocate", "true")]));
    let unknown = create(&[("retention.mss", "1")], TopicKind::Ordinary).unwrap_err();
    assert_eq!(
        (unknown.to_string().as_str(), unknown.kafka_error_code()),
        ("Unknown topic config name: retention.mss", 40)
    );
}

#[test]
fn a_topic_that_contradicts_itself_is_refused() {
    let none = BTreeMap::new();
    let layers = BrokerLayers::fixed(&none);
    let create = |pairs: &[(&str, &str)]| create(&values(pairs), TopicKind::Ordinary, &layers);
    assert!(create(&[("retention.ms", "10"), ("local.retention.ms", "11")]).is_err());
    assert!(create(&[("retention.bytes", "10"), ("local.retention.bytes", "-1")]).is_err());
    assert!(create(&[("retention.ms", "10")]).is_ok(), "the inherited local retention is capped, not a contradiction");
    assert!(create(&[("retention.ms", "-1"), ("local.retention.ms", "-1")]).is_ok());
    assert!(
        create(&[("retention.ms", "10"), ("local.retention.ms", "11"), ("remote.storage.enable", "false")]).is_ok()
    );
    let lag = create(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "3")]).unwrap_err();
    let expected = "conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (3)";
    assert_eq!(lag.to_string(), expected);
}

#[test]
fn operations_are_resolved_against_what_is_set() {
    let none = BTreeMap::new();
    let layers = BrokerLayers::fixed(&none);
    let current = configs(&[("retention.ms", "5"), ("leader.replication.throttled.replicas", "0:1,1:1")]);
    let operation = |name: &str, operation: fn(String) -> ConfigOperation, value: &str| {
        (name.to_owned(), operation(value.to_owned()))
    };
    let replicas = "leader.replication.throttled.replicas";
    let operations = [
        ("retention.ms".to_owned(), ConfigOperation::Delete),
        ("segment.ms".to_owned(), ConfigOperation::Delete),
        set("segment.bytes", "2097152"),
        operation(replicas, ConfigOperation::Subtract, "0:1"),
        operation("cleanup.policy", ConfigOperation::Append, "delete"),
    ];
    let unknown = [("no.such.config".to_owned(), ConfigOperation::Delete)];
    assert!(alter(&current, &unknown, TopicKind::Ordinary, &layers).unwrap().values.is_empty());
    let change = alter(&current, &operations, TopicKind::Ordinary, &layers).unwrap();
    assert_eq!(change.expected_version, 4);
    let expected = [
        ("cleanup.policy", Some("delete")),
        (replicas, Some("1:1")),
        ("retention.ms", None),
        ("segment.bytes", Some("2097152")),
    ];
    assert!(change.values.iter().map(|(name, value)| (name.as_str(), value.as_deref())).eq(expected));

    let not_a_list = [operation("retention.ms", ConfigOperation::Append, "1")];
    let error = alter(&current, &not_a_list, TopicKind::Ordinary, &layers).unwrap_err();
    assert_eq!(error.to_string(), "Can't APPEND to key retention.ms because its type is not LIST.");
    let twice = [set("segment.ms", "1"), set("segment.ms", "2")];
    assert_eq!(alter(&current, &twice, TopicKind::Ordinary, &layers).unwrap_err().kafka_error_code(), 42);
}

#[test]
fn replacing_removes_what_is_not_named() {
    let none = BTreeMap::new();
    let current = configs(&[("retention.ms", "5"), ("segment.ms", "6")]);
    let change = replace(&current, &values(&[("segment.ms", "7")]), TopicKind::Ordinary, &BrokerLayers::fixed(&none));
    let expected = [("retention.ms".to_owned(), None), ("segment.ms".to_owned(), Some("7".to_owned()))];
    assert_eq!(change.unwrap().values, BTreeMap::from(expected));
}

#[test]
fn switching_the_archive_off_needs_leave_to_delete_it() {
    let none = BTreeMap::new();
    let alter = |operations: &[_]| alter(&configs(&[]), operations, TopicKind::Ordinary, &BrokerLayers::fixed(&none));
    let off = set("remote.storage.enable", "false");
    assert_eq!(alter(std::slice::from_ref(&off)), Err(ConfigError::DisableWithoutDelete));
    assert!(alter(&[off, set("remote.log.delete.on.disable", "true")]).is_ok());
}

#[test]
fn what_has_no_effect_says_so() {
    for entry in TOPIC_CONFIGS.iter().filter(|entry| entry.definition.effect == Effect::Stored) {
        let text = entry.definition.documentation;
        assert!(text.contains("Without effect"), "{text}");
    }
}

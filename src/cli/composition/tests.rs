//! Every setting arrives somewhere: changed alone, it changes what the broker, the server or the process is started with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;
use crate::config::{Assignment, Loaded, Machine, Sources, load, print_json, resolve};
use crate::metadata::broker_config;
use crate::metadata::config_layers::BrokerLayers;
use crate::metadata::topic_config::{TOPIC_CONFIGS, describe};
use crate::runtime::production::LocalDisk;

type Flags = [(&'static str, &'static str)];

/// A bucket, for what only matters where there is one.
const BUCKET: &Flags = &[("archive.url", "s3://b")];
const BUCKET_WITH_KEYS: &Flags =
    &[("archive.url", "s3://b"), ("archive.access_key_id", "a"), ("archive.secret_access_key", "b")];

const AMONG_OTHERS: &Flags = &[("cluster.peer_listen", "127.0.0.1:9094")];
const JOINING: &Flags = &[("cluster.peer_listen", "127.0.0.1:9094"), ("cluster.join", "10.0.0.1:9094")];
/// What reads as a token.
const TOKEN: &str =
    "alv1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OWN_CERTIFICATES: &Flags = &[
    ("cluster.peer_listen", "127.0.0.1:9094"),
    ("cluster.certificate", "a"),
    ("cluster.key", "b"),
    ("cluster.authorities", "c"),
];

/// For every setting what has to be set beside it, and another value than its default with what that needs.
const OTHER: &[(&Flags, &Flags)] = &[
    (&[], &[("cluster.node_id", "7")]),
    (&[], &[("cluster.rack", "zone")]),
    (&[], &[("cluster.peer_listen", "127.0.0.1:9094")]),
    (AMONG_OTHERS, &[("cluster.peer_advertised", "broker-1:9094")]),
    (AMONG_OTHERS, &[("cluster.join", "10.0.0.1:9094")]),
    (JOINING, &[("cluster.join_token", TOKEN)]),
    (AMONG_OTHERS, &[("cluster.voters", "5")]),
    (OWN_CERTIFICATES, &[("cluster.certificate", "d")]),
    (OWN_CERTIFICATES, &[("cluster.key", "d")]),
    (OWN_CERTIFICATES, &[("cluster.authorities", "d")]),
    (AMONG_OTHERS, &[("cluster.peer_connections", "3")]),
    (AMONG_OTHERS, &[("cluster.session_timeout", "4s")]),
    (AMONG_OTHERS, &[("cluster.replica_lag_max", "4s")]),
    (&[], &[("listeners.http", "127.0.0.1:1")]),
    (&[("listeners.http", "0.0.0.0:1")], &[("listeners.allow_insecure", "true")]),
    (&[], &[("listeners.kafka", "{ a = { address = \"127.0.0.1:1\" } }")]),
    (&[], &[("data.directories", "/a,/b")]),
    (&[], &[("data.journal_file", "32MiB")]),
    (&[], &[("data.journal_max", "2GiB")]),
    (&[], &[("data.checkpoint_interval", "31s")]),
    (&[], &[("data.retention_interval", "61s")]),
    (&[], &[("data.free_min", "2GiB")]),
    (&[], &[("data.local_max", "1GiB")]),
    (&[], &[("memory.budget", "1GiB")]),
    (&[], &[("memory.tail_percent", "26"), ("memory.heads_percent", "8")]),
    (&[], &[("memory.frames_percent", "26"), ("memory.heads_percent", "8")]),
    (&[], &[("memory.uploads_percent", "3"), ("memory.heads_percent", "16")]),
    (&[], &[("memory.readers_percent", "14"), ("memory.heads_percent", "5")]),
    (&[], &[("memory.heads_percent", "5"), ("memory.readers_percent", "14")]),
    (&[], &[("memory.groups_percent", "5"), ("memory.heads_percent", "5")]),
    (&[], &[("archive.url", "memory:///")]),
    (BUCKET, &[("archive.endpoint", "https://127.0.0.1:1")]),
    (BUCKET, &[("archive.region", "r")]),
    (BUCKET, &[("archive.path_style", "true")]),
    (BUCKET, &[("archive.allow_http", "true")]),
    (BUCKET_WITH_KEYS, &[("archive.access_key_id", "c")]),
    (BUCKET_WITH_KEYS, &[("archive.secret_access_key", "c")]),
    (&[], &[("archive.connect_timeout", "1s")]),
    (&[], &[("archive.request_timeout", "1s")]),
    (&[], &[("archive.concurrency", "3")]),
    (&[], &[("archive.uploads", "1")]),
    (&[], &[("archive.cache", "1GiB")]),
    (&[], &[("archive.read_ahead", "64MiB")]),
    (&[], &[("archive.deletion_grace", "1h")]),
    (&[], &[("archive.sweep_interval", "1h")]),
    (&[], &[("network.max_frame", "1MiB")]),
    (&[], &[("network.max_in_flight_requests", "3")]),
    (&[], &[("network.connection_memory", "256MiB")]),
    (&[], &[("network.max_connections", "3")]),
    (&[], &[("network.max_connections_per_address", "3")]),
    (&[], &[("network.idle_timeout", "3s")]),
    (&[], &[("network.request_timeout", "3s")]),
    (&[], &[("network.fetch_max", "3MiB")]),
    (&[], &[("network.fetch_sessions", "3")]),
    (&[], &[("network.drain_timeout", "3s")]),
    (&[], &[("topics.auto_create", "false")]),
    (&[], &[("topics.partitions", "3")]),
    (&[], &[("topics.max_partitions", "3")]),
    (&[], &[("topics.defaults", "{ \"segment.ms\" = \"5\", \"remote.storage.enable\" = \"false\" }")]),
    (&[], &[("groups.session_timeout_min", "3s")]),
    (&[], &[("groups.session_timeout_max", "3h")]),
    (&[], &[("groups.initial_rebalance_delay", "0s")]),
    (&[], &[("groups.max_members", "3")]),
    (&[], &[("groups.offsets_retention", "3h")]),
    (&[], &[("groups.offset_metadata_max", "3")]),
    (&[], &[("groups.offsets_partitions", "3")]),
    (&[], &[("producers.id_expiration", "3h")]),
    (&[], &[("producers.max_ids_per_partition", "3")]),
    (&[], &[("producers.max_ids", "3")]),
    (&[], &[("telemetry.log_format", "json")]),
    (&[], &[("telemetry.log_filter", "debug")]),
];

/// Settings from a file, as tables can't be given by flags.
fn loaded(flags: impl Iterator<Item = (&'static str, &'static str)>) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("alluvium.toml");
    let (tables, flags): (Vec<_>, Vec<_>) = flags.partition(|(_, value)| value.starts_with('{'));
    let text: String = tables.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let flags = flags.into_iter().map(|(key, value)| Assignment::text(key, value, "flag")).collect();
    load(&Sources { file: Some(path), flags, ..Sources::default() }, &LocalDisk).unwrap()
}

fn config(flags: impl Iterator<Item = (&'static str, &'static str)>) -> Result<Config, String> {
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let machine = Machine { memory_bytes: 8 << 30, working_directory: PathBuf::from("/srv"), address };
    resolve(&loaded(flags), &[], &machine, &LocalDisk).map_err(|error| error.to_string())
}

/// All that a process is started with. What the broker only shows of itself does not count.
fn composed(flags: impl Iterator<Item = (&'static str, &'static str)>) -> Result<String, String> {
    let config = config(flags)?;
    let mut broker = broker_settings(&config).unwrap();
    let of_topics =
        |name: &str| TOPIC_CONFIGS.iter().any(|topic| topic.broker_synonyms.iter().any(|(one, _)| *one == name));
    broker.broker_configs.retain(|name, _| of_topics(name));
    // Printing the broker's settings does not show these.
    let options = &broker.archive.store.options.0;
    Ok(format!("{broker:?} {options:?} {:?} {} {:?}", server_settings(&config), config.http, config.telemetry))
}

#[test]
fn every_setting_changes_what_the_process_is_started_with() {
    for (beside, other) in OTHER {
        let before = composed(beside.iter().copied());
        let after = composed(beside.iter().chain(*other).copied());
        assert!(after.is_ok(), "{other:?}: {after:?}");
        assert_ne!(before, after, "{other:?} has no effect");
    }
    let all = print_json(&loaded(std::iter::empty()));
    let all: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    let changed: BTreeSet<&str> = OTHER.iter().map(|(_, other)| other[0].0).collect();
    assert_eq!(changed, all);
}

#[test]
fn each_share_of_memory_bounds_what_it_is_named_for() {
    let shares =
        [("tail", "24"), ("frames", "26"), ("uploads", "18"), ("readers", "15"), ("heads", "7"), ("groups", "10")];
    let keys = shares.map(|(name, percent)| (&*format!("memory.{name}_percent").leak(), percent));
    let config = config(keys.into_iter().chain([("memory.budget", "1000MiB"), ("archive.uploads", "9")])).unwrap();
    let broker = broker_settings(&config).unwrap();
    assert_eq!(
        broker.directory.tail_bytes + broker.directory.index_bytes + broker.directory.unwritten_bytes,
        240 << 20
    );
    let answer_bytes = broker.fetch.answer_bytes + broker.fetch.read_ahead_bytes;
    assert_eq!(server_settings(&config).limits.total_frame_bytes + answer_bytes, 260 << 20);
    assert_eq!(broker.archive.archiver.upload_bytes, 180 << 20);
    assert_eq!(broker.groups.max_state_bytes, 100 << 20);
    let metrics = Metrics::new();
    tell_limits(&config, &metrics);
    let told: Vec<i64> = MemoryShare::ALL.iter().map(|&share| metrics.memory.limit_bytes.of(share).get()).collect();
    assert_eq!(told, [240, 260, 180, 150, 70, 100].map(|mebibytes: i64| mebibytes << 20));
}

#[test]
fn tools_are_shown_what_is_configured() {
    let flags = [
        ("cluster.node_id", "7"),
        ("cluster.rack", "zone"),
        ("listeners.kafka.default.address", "127.0.0.1:9099"),
        ("listeners.kafka.default.advertised", "broker:9099"),
        ("groups.max_members", "9000000000"),
        ("groups.offsets_retention", "3h"),
        ("groups.initial_rebalance_delay", "0s"),
        ("network.idle_timeout", "3s"),
        ("network.max_connections", "77"),
        ("data.retention_interval", "5s"),
        ("cluster.peer_listen", "127.0.0.1:9094"),
    ];
    let config = config(flags.into_iter()).unwrap();
    let fixed = broker_settings(&config).unwrap().broker_configs;
    let shown = |name: &str| broker_config::effective(name, &BrokerLayers::fixed(&fixed)).unwrap_or_default();
    let expected = [
        ("node.id", "7"),
        ("broker.rack", "zone"),
        ("log.dirs", "/srv/alluvium-data"),
        ("listeners", "default://127.0.0.1:9099"),
        ("advertised.listeners", "default://broker:9099"),
        ("listener.security.protocol.map", "default:PLAINTEXT"),
        ("group.max.size", "2147483647"),
        ("offsets.retention.minutes", "180"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("connections.max.idle.ms", "3000"),
        ("max.connections", "77"),
        ("log.retention.check.interval.ms", "5000"),
        ("replica.lag.time.max.ms", "10000"),
    ];
    for (name, value) in expected {
        assert_eq!(shown(name), value, "{name}");
    }
    let unreadable = fixed.iter().filter(|(name, value)| {
        broker_config::broker_config(name).is_none_or(|known| known.definition.normalize(value).as_ref() != Ok(*value))
    });
    assert_eq!(unreadable.collect::<Vec<_>>(), []);
}

#[test]
fn every_default_for_topics_reaches_them_or_is_refused() {
    for topic in TOPIC_CONFIGS.iter().filter(|topic| !topic.hidden) {
        let name = topic.definition.name;
        let default = topic.definition.default.unwrap_or_default();
        let other = ["true", "false", "5", "lz4", "LogAppendTime", "1:2", "delete"];
        let other = other.iter().find(|value| **value != default && topic.definition.normalize(value).is_ok());
        let Some(value) = other else { continue };
        let table = format!("{{ \"{name}\" = \"{value}\" }}").leak();
        let broker = broker_settings(&config([("topics.defaults", &*table)].into_iter()).unwrap()).unwrap();
        let layers = BrokerLayers::fixed(&broker.broker_configs);
        let described = describe(&BTreeMap::new(), &layers);
        let entry = described.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry.value, topic.definition.normalize(value).ok(), "{name}");
    }
    let refused = config([("topics.defaults", "{ \"cleanup.policy\" = \"compact,delete\" }")].into_iter());
    assert!(refused.unwrap_err().contains("compaction is not supported"));
}

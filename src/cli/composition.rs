//! What the configuration means to the broker and the server: their settings, filled in.

use std::collections::BTreeMap;

use crate::archive::parquet::ChunkLimits;
use crate::archive::remote_reader::ReadSettings;
use crate::archive::store::{Location, LocationError, StoreOptions, StoreSettings};
use crate::broker::{
    ArchiveSettings, ArchiverSettings, BrokerSettings, ClusterSettings, FetchSettings, OFFSETS_SEGMENT_BYTES,
    TopicSettings,
};
use crate::config::{self, ByteSize, Config, Interval, Listener, PeerConfig, StoreConfig};
use crate::group::GroupSettings;
use crate::log::{DirectorySettings, JournalSettings};
use crate::metadata::topic_config::topic_config;
use crate::record::MAX_DECOMPRESSED_BYTES;
use crate::runtime::peers::Secret;
use crate::server::{ConnectionLimits, ListenerSettings, ServerSettings};
use crate::telemetry::{MemoryShare, Metrics};

/// Lanes that read segments; each costs a thread, and two processors keep no more busy.
const READER_LANES: usize = 4;
/// Lanes that encode Parquet, and as many that decode it, at low priority.
const ARCHIVE_LANES: usize = 2;

/// The broker's settings. Its endpoints are known once the listeners are bound.
pub(super) fn broker_settings(config: &Config) -> Result<BrokerSettings, LocationError> {
    Ok(BrokerSettings {
        node_id: config.node_id,
        rack: config.rack.clone(),
        directories: config.data.directories.clone(),
        directory: directory_settings(config),
        endpoints: BTreeMap::new(),
        broker_configs: broker_configs(config),
        topics: TopicSettings {
            auto_create: config.topics.auto_create,
            default_partitions: config.topics.partitions,
            max_partitions: config.topics.max_partitions,
            offsets_partitions: config.groups.offsets_partitions,
        },
        fetch: FetchSettings {
            max_bytes: to_usize(config.network.fetch_max.bytes()),
            answer_bytes: to_usize(config.memory.share_bytes(MemoryShare::Frames)) / 8 * 3,
            read_ahead_bytes: to_usize(config.memory.share_bytes(MemoryShare::Frames)) / 8,
            max_sessions: config.network.fetch_sessions,
            reader_lanes: READER_LANES,
        },
        groups: group_settings(config),
        producer_expiration: config.producers.id_expiration.0,
        max_producers_per_partition: config.producers.max_ids_per_partition,
        // Of whole requests; half of what these may take, so that others are always read.
        waiting_bytes: to_usize(config.memory.share_bytes(MemoryShare::Frames)) / 4,
        max_decompressed_bytes: to_usize(config.memory.budget_bytes / 4).min(MAX_DECOMPRESSED_BYTES),
        archive: archive_settings(config)?,
        cluster: config.peers.as_ref().map(cluster_settings),
    })
}

fn cluster_settings(peers: &PeerConfig) -> ClusterSettings {
    ClusterSettings {
        listen: peers.listen,
        advertised: peers.advertised.as_ref().map(|advertised| (advertised.host.clone(), advertised.port)),
        join: peers.join.iter().map(ToString::to_string).collect(),
        token: peers.token.as_ref().map(|token| Secret::new(token.expose().to_owned())),
        pki: peers.pki.clone(),
        voters: peers.voters,
        connections: peers.connections,
        session_timeout: peers.session_timeout,
        replica_lag_max: peers.replica_lag_max,
    }
}

/// Has the metrics tell how much memory each share may take.
pub(super) fn tell_limits(config: &Config, metrics: &Metrics) {
    for &share in MemoryShare::ALL {
        let limit_bytes = i64::try_from(config.memory.share_bytes(share)).unwrap_or(i64::MAX);
        metrics.memory.limit_bytes.of(share).set(limit_bytes);
    }
}

/// How the object store is spoken to.
pub(super) fn store_settings(store: &StoreConfig, archive: &config::ArchiveSettings) -> StoreSettings {
    let options = store.options.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    StoreSettings {
        attempt_timeout_ms: millis(archive.request_timeout),
        connect_timeout_ms: millis(archive.connect_timeout),
        concurrent_reads: archive.concurrency,
        concurrent_writes: archive.concurrency.div_ceil(2),
        options: StoreOptions(options.collect()),
        ..StoreSettings::default()
    }
}

fn archive_settings(config: &Config) -> Result<ArchiveSettings, LocationError> {
    let archive = &config.archive;
    let own = config.data.directories[0].join("archive");
    let chunk_bytes = ChunkLimits::default().raw_bytes.max(1);
    Ok(ArchiveSettings {
        location: Location::parse(config.store.url.as_str())?,
        store: store_settings(&config.store, archive),
        archiver: ArchiverSettings {
            spool_directory: own.join("spool"),
            cache_directory: own.join("cache"),
            cache_bytes: archive.cache.bytes(),
            uploads: archive.uploads,
            upload_bytes: to_usize(config.memory.share_bytes(MemoryShare::Uploads)),
            lanes: ARCHIVE_LANES,
            reads: ReadSettings {
                memory_bytes: to_usize(config.memory.share_bytes(MemoryShare::Readers)),
                read_ahead_chunks: to_usize(archive.read_ahead.bytes().div_ceil(chunk_bytes)),
            },
            retention_interval: config.data.settings.retention_interval.0,
            deletion_grace: archive.deletion_grace.0,
            sweep_interval: archive.sweep_interval.0,
            head_bytes: config.memory.share_bytes(MemoryShare::Heads),
            local_bytes: config.data.settings.local_max.map_or(u64::MAX, ByteSize::bytes),
            free_bytes: config.data.settings.free_min.bytes(),
        },
    })
}

fn group_settings(config: &Config) -> GroupSettings {
    let groups = &config.groups;
    let share = to_usize(config.memory.share_bytes(MemoryShare::Groups));
    GroupSettings {
        max_size: groups.max_members,
        min_session_timeout: groups.session_timeout_min.0,
        max_session_timeout: groups.session_timeout_max.0,
        initial_rebalance_delay: groups.initial_rebalance_delay.0,
        offset_metadata_max_bytes: to_usize(groups.offset_metadata_max.bytes()),
        offsets_retention: groups.offsets_retention.0,
        max_state_bytes: share,
        ..GroupSettings::default()
    }
}

/// Each data directory gets its part of the memory: half for what is not in segments yet, which write-behind begins to write
/// when it is half full, and half for readers: an eighth of that for indexes of segments, and else for what they find in the
/// tail.
fn directory_settings(config: &Config) -> DirectorySettings {
    let data = &config.data.settings;
    let share = to_usize(config.memory.share_bytes(MemoryShare::Tail)) / config.data.directories.len();
    let defaults = DirectorySettings::default();
    DirectorySettings {
        journal: JournalSettings { file_bytes: data.journal_file.bytes(), max_bytes: data.journal_max.bytes() },
        tail_bytes: share / 16 * 7,
        index_bytes: share / 16,
        unwritten_bytes: share / 2,
        max_producers: max_producers(config) / config.data.directories.len(),
        checkpoint_interval: data.checkpoint_interval.0,
        // Before the journal is full.
        checkpoint_bytes: defaults.checkpoint_bytes.min(data.journal_max.bytes() / 2),
        ..defaults
    }
}

/// As many as a sixteenth of the budget would hold, where no number is set; tools and tests with little memory get some.
fn max_producers(config: &Config) -> usize {
    const LEAST: usize = 10_000;
    const PRODUCER_BYTES: u64 = 512;
    let held = to_usize(config.memory.budget_bytes / 16 / PRODUCER_BYTES);
    config.producers.max_ids.unwrap_or(held.max(LEAST))
}

/// Kafka's names for what is configured, so that tools see it, and so that topics inherit it.
fn broker_configs(config: &Config) -> BTreeMap<String, String> {
    let own =
        names_and_addresses(config).into_iter().chain(numbers(config).map(|(name, value)| (name, value.to_string())));
    let own = own.map(|(name, value)| (name.to_owned(), value));
    // Topics look for their defaults under the broker's names for them, if it has any.
    let defaults = config.topics.defaults.0.iter().map(|(name, value)| {
        let synonym = topic_config(name).and_then(|known| known.broker_name());
        (synonym.unwrap_or(name).to_owned(), value.clone())
    });
    defaults.chain(own).collect()
}

fn names_and_addresses(config: &Config) -> Vec<(&'static str, String)> {
    let directories: Vec<_> = config.data.directories.iter().map(|path| path.display().to_string()).collect();
    let of_listeners = |shown: &dyn Fn(&Listener) -> String| {
        let all: Vec<_> =
            config.listeners.iter().map(|listener| format!("{}:{}", listener.name, shown(listener))).collect();
        all.join(",")
    };
    let mut all = vec![
        ("node.id", config.node_id.to_string()),
        ("broker.id", config.node_id.to_string()),
        ("log.dirs", directories.join(",")),
        ("listeners", of_listeners(&|listener| format!("//{}", listener.address))),
        ("advertised.listeners", of_listeners(&|listener| format!("//{}", listener.advertise(listener.address)))),
        ("listener.security.protocol.map", of_listeners(&|_| "PLAINTEXT".to_owned())),
        ("auto.create.topics.enable", config.topics.auto_create.to_string()),
    ];
    all.extend(config.rack.clone().map(|rack| ("broker.rack", rack)));
    all
}

/// Numbers in Kafka's units, no larger than its types hold.
fn numbers(config: &Config) -> impl Iterator<Item = (&'static str, u128)> {
    let (network, groups) = (&config.network, &config.groups);
    let count = |number: i32| u128::try_from(number).unwrap_or(0);
    let ints = [
        ("num.partitions", count(config.topics.partitions)),
        ("offsets.topic.num.partitions", count(groups.offsets_partitions)),
        ("offsets.topic.segment.bytes", OFFSETS_SEGMENT_BYTES.into()),
        ("offsets.retention.minutes", groups.offsets_retention.0.as_millis() / 60_000),
        ("offset.metadata.max.bytes", groups.offset_metadata_max.bytes().into()),
        ("group.min.session.timeout.ms", groups.session_timeout_min.0.as_millis()),
        ("group.max.session.timeout.ms", groups.session_timeout_max.0.as_millis()),
        ("group.initial.rebalance.delay.ms", groups.initial_rebalance_delay.0.as_millis()),
        ("group.max.size", groups.max_members as u128),
        ("producer.id.expiration.ms", config.producers.id_expiration.0.as_millis()),
        ("fetch.max.bytes", network.fetch_max.bytes().into()),
        ("max.connections", network.max_connections as u128),
        ("max.connections.per.ip", network.max_connections_per_address as u128),
        ("max.incremental.fetch.session.cache.slots", network.fetch_sessions as u128),
        ("socket.request.max.bytes", network.max_frame.bytes().into()),
    ];
    let longs = [
        ("connections.max.idle.ms", network.idle_timeout.0.as_millis()),
        ("log.retention.check.interval.ms", config.data.settings.retention_interval.0.as_millis()),
    ];
    let lag = config.peers.as_ref().map(|peers| ("replica.lag.time.max.ms", peers.replica_lag_max.as_millis()));
    let longs = longs.into_iter().chain(lag);
    let clamped = |most: u128| move |(name, value): (_, u128)| (name, value.min(most));
    ints.into_iter().map(clamped(i32::MAX as u128)).chain(longs.map(clamped(i64::MAX as u128)))
}

/// The listeners' settings.
pub(super) fn server_settings(config: &Config) -> ServerSettings {
    let network = &config.network;
    let listeners = config.listeners.iter().map(|listener| ListenerSettings {
        name: listener.name.clone(),
        address: listener.address,
        advertised: listener.advertised.as_ref().map(|advertised| (advertised.host.clone(), advertised.port)),
    });
    ServerSettings {
        listeners: listeners.collect(),
        limits: ConnectionLimits {
            connections: network.max_connections,
            connections_per_address: network.max_connections_per_address,
            frame_bytes: to_usize(network.max_frame.bytes()),
            // The other half is for answers, so that requests and answers never wait for each other.
            total_frame_bytes: to_usize(config.memory.share_bytes(MemoryShare::Frames)) / 2,
            connection_frame_bytes: to_usize(network.connection_memory.bytes()),
            requests_in_flight: network.max_in_flight_requests,
            idle_timeout: network.idle_timeout.0,
            request_timeout: network.request_timeout.0,
        },
        drain_timeout: network.drain_timeout.0,
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn millis(interval: Interval) -> u64 {
    u64::try_from(interval.0.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! What the settings mean together: addresses parsed, memory shared out, combinations that can't work refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::directories::{self, place};
use super::error::{ConfigError, Problem};
use super::host::Machine;
use super::listeners::{HostPort, Listener, parse_listen_address};
use super::load::Loaded;
use super::peers::{self, PeerConfig};
use super::settings::{
    ArchiveSettings, DataSettings, GroupsSettings, ListenerSettings, NetworkSettings, ProducersSettings,
    TelemetrySettings, TopicsSettings,
};
use super::store::StoreConfig;
use super::units::ByteSize;
use crate::metadata::config_layers::BrokerLayers;
use crate::metadata::topic_config::{NO_COMPACTION, TopicKind, compacts, create, topic_config, topic_config_names};
use crate::runtime::disk::Disk;
use crate::telemetry::{Label, MemoryShare, check_filter};
use crate::types::NodeId;

/// The listener there is when none is set.
pub const DEFAULT_LISTENER: &str = "default";
const DEFAULT_LISTEN_ADDRESS: &str = "127.0.0.1:9092";
/// Bounds of the memory budget when it is not set.
const DEFAULT_BUDGET: std::ops::RangeInclusive<u64> = 128 << 20..=4 << 30;
/// The smallest memory budget with which the broker can serve.
const BUDGET_MIN: ByteSize = ByteSize::mib(32);
/// The smallest journal file: one group of the largest size, and its neighbours.
const JOURNAL_FILE_MIN: ByteSize = ByteSize::mib(1);
/// What a string of the protocol's older versions may have at most.
const OFFSET_METADATA_LIMIT: ByteSize = ByteSize(i16::MAX as u64);

/// The checked configuration of one broker.
#[derive(Clone, Debug)]
pub struct Config {
    /// This broker's number.
    pub node_id: NodeId,
    /// Where the machine stands.
    pub rack: Option<String>,
    /// Kafka listeners, at least one, by name.
    pub listeners: Vec<Listener>,
    /// Where health and metrics are served.
    pub http: SocketAddr,
    /// How it meets other brokers; none for a broker by itself.
    pub peers: Option<PeerConfig>,
    /// Data directories.
    pub data: DataConfig,
    /// Memory by share.
    pub memory: MemoryConfig,
    /// The object store.
    pub store: StoreConfig,
    /// The archive.
    pub archive: ArchiveSettings,
    /// Connections; `max_frame` is no more than the frames share of memory.
    pub network: NetworkSettings,
    /// What new topics are like.
    pub topics: TopicsSettings,
    /// Consumer groups.
    pub groups: GroupsSettings,
    /// Idempotent producers.
    pub producers: ProducersSettings,
    /// The process's own log.
    pub telemetry: TelemetrySettings,
    /// What works but is dangerous, to be logged at start.
    pub warnings: Vec<String>,
}

/// The local disk.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// Absolute paths of the data directories, at least one.
    pub directories: Vec<PathBuf>,
    /// Sizes and intervals.
    pub settings: DataSettings,
}

/// The memory budget, shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// The whole budget in bytes.
    pub budget_bytes: u64,
    shares_bytes: [u64; MemoryShare::ALL.len()],
}

impl MemoryConfig {
    /// Bytes that one share may use.
    pub fn share_bytes(&self, share: MemoryShare) -> u64 {
        self.shares_bytes[share.index()]
    }
}

/// Checks the settings of the object store alone, for who needs no others. All that is wrong with them is reported at once.
pub fn resolve_store(
    loaded: &Loaded,
    environment: &[(String, String)],
    machine: &Machine,
) -> Result<StoreConfig, ConfigError> {
    StoreConfig::resolve(loaded, environment, &machine.working_directory)
        .map_err(|problems| ConfigError::Invalid { problems })
}

/// Checks the data directories alone, for who needs no other settings. All that is wrong with them is reported at once.
pub fn resolve_directories(loaded: &Loaded, machine: &Machine, disk: &dyn Disk) -> Result<Vec<PathBuf>, ConfigError> {
    let mut problems = Vec::new();
    let directories = directories::resolve(loaded, machine, disk, &mut problems);
    if problems.is_empty() { Ok(directories) } else { Err(ConfigError::Invalid { problems }) }
}

/// Checks the settings. All that is wrong is reported at once.
pub fn resolve(
    loaded: &Loaded,
    environment: &[(String, String)],
    machine: &Machine,
    disk: &dyn Disk,
) -> Result<Config, ConfigError> {
    let settings = &loaded.settings;
    let mut problems = Vec::new();
    check_ranges(loaded, &mut problems);
    check_combinations(loaded, &mut problems);
    check_topic_defaults(loaded, &mut problems);
    let memory = resolve_memory(loaded, machine, &mut problems);
    let directories = directories::resolve(loaded, machine, disk, &mut problems);
    let mut warnings = Vec::new();
    let http = resolve_address(loaded, "listeners.http", &settings.listeners.http, &mut warnings);
    let http = http.map_err(|problem| problems.push(problem)).ok();
    let listeners = resolve_listeners(loaded, machine, &mut warnings, &mut problems);
    let peers = peers::resolve(loaded, machine, &mut warnings, &mut problems);
    if let Some(http) = http.filter(|http| http.port() != 0)
        && let Some(listener) = listeners.iter().find(|listener| listener.address == http)
    {
        let text = format!("the Kafka listener {} has {http} too", listener.name);
        problems.push(loaded.problem("listeners.http", text));
    }
    let store = StoreConfig::resolve(loaded, environment, &machine.working_directory);
    let store = store.map_err(|found| problems.extend(found)).ok();
    if let Some(directory) = store.as_ref().and_then(StoreConfig::directory)
        && directories.iter().any(|path| place(path, disk) == place(&directory, disk))
    {
        problems.push(loaded.problem("archive.url", "is a data directory; give the store a directory of its own"));
    }
    let (Some(http), Some(store), true) = (http, store, problems.is_empty()) else {
        return Err(ConfigError::Invalid { problems });
    };
    let frames = ByteSize(memory.share_bytes(MemoryShare::Frames));
    Ok(Config {
        node_id: NodeId(settings.cluster.node_id),
        rack: settings.cluster.rack.clone(),
        listeners,
        http,
        peers,
        data: DataConfig { directories, settings: settings.data.clone() },
        network: NetworkSettings { max_frame: settings.network.max_frame.min(frames), ..settings.network.clone() },
        memory,
        store,
        archive: settings.archive.clone(),
        topics: settings.topics.clone(),
        groups: settings.groups.clone(),
        producers: settings.producers.clone(),
        telemetry: settings.telemetry.clone(),
        warnings,
    })
}

/// Refuses numbers that can't work.
fn check_ranges(loaded: &Loaded, problems: &mut Vec<Problem>) {
    let settings = &loaded.settings;
    let (data, network, groups) = (&settings.data, &settings.network, &settings.groups);
    let mut check = |good: bool, key: &str, text: String| {
        if !good {
            problems.push(loaded.problem(key, text));
        }
    };
    check(settings.cluster.node_id >= 0, "cluster.node_id", "must not be negative".to_owned());
    check(
        data.journal_file >= JOURNAL_FILE_MIN,
        "data.journal_file",
        format!("must be at least {JOURNAL_FILE_MIN}, is {}", data.journal_file),
    );
    check(
        data.journal_max.0 >= data.journal_file.0.saturating_mul(2),
        "data.journal_max",
        format!("must be at least two journal files of {}, is {}", data.journal_file, data.journal_max),
    );
    for (key, interval) in [
        ("data.checkpoint_interval", data.checkpoint_interval),
        ("data.retention_interval", data.retention_interval),
        ("archive.connect_timeout", settings.archive.connect_timeout),
        ("archive.request_timeout", settings.archive.request_timeout),
        ("archive.sweep_interval", settings.archive.sweep_interval),
        ("network.idle_timeout", network.idle_timeout),
        ("network.request_timeout", network.request_timeout),
        ("groups.session_timeout_min", groups.session_timeout_min),
        ("producers.id_expiration", settings.producers.id_expiration),
    ] {
        check(!interval.0.is_zero(), key, "must be more than nothing".to_owned());
    }
    for (key, count) in [
        ("archive.concurrency", settings.archive.concurrency),
        ("archive.uploads", settings.archive.uploads),
        ("network.max_in_flight_requests", network.max_in_flight_requests),
        ("network.max_connections", network.max_connections),
        ("network.max_connections_per_address", network.max_connections_per_address),
        ("topics.partitions", usize::try_from(settings.topics.partitions).unwrap_or(0)),
        ("topics.max_partitions", settings.topics.max_partitions),
        ("groups.max_members", groups.max_members),
        ("groups.offsets_partitions", usize::try_from(groups.offsets_partitions).unwrap_or(0)),
        ("producers.max_ids_per_partition", settings.producers.max_ids_per_partition),
        ("producers.max_ids", settings.producers.max_ids.unwrap_or(1)),
    ] {
        check(count > 0, key, "must be at least 1".to_owned());
    }
}

/// Refuses settings that can't work beside each other, or with the protocol.
fn check_combinations(loaded: &Loaded, problems: &mut Vec<Problem>) {
    let settings = &loaded.settings;
    let (network, groups) = (&settings.network, &settings.groups);
    let mut check = |good: bool, key: &str, text: String| {
        if !good {
            problems.push(loaded.problem(key, text));
        }
    };
    check(network.max_frame >= ByteSize::kib(64), "network.max_frame", "must be at least 64KiB".to_owned());
    check(
        network.connection_memory >= network.max_frame,
        "network.connection_memory",
        format!(
            "must hold the largest request, network.max_frame={}, is {}",
            network.max_frame, network.connection_memory
        ),
    );
    check(
        groups.session_timeout_min <= groups.session_timeout_max,
        "groups.session_timeout_min",
        format!(
            "is {}, more than groups.session_timeout_max={}",
            groups.session_timeout_min, groups.session_timeout_max
        ),
    );
    let partitions = usize::try_from(settings.topics.partitions).unwrap_or(0);
    check(
        partitions <= settings.topics.max_partitions,
        "topics.partitions",
        format!("is {partitions}, more than topics.max_partitions={}", settings.topics.max_partitions),
    );
    check(
        groups.offset_metadata_max <= OFFSET_METADATA_LIMIT,
        "groups.offset_metadata_max",
        format!("must be at most {}, the longest text of the protocol", OFFSET_METADATA_LIMIT.0),
    );
    let filter = &settings.telemetry.log_filter;
    let understood = check_filter(filter).map_err(|error| error.to_string());
    if let Err(error) = understood.and_then(|()| check_filter_words(filter)) {
        check(false, "telemetry.log_filter", error);
    }
}

const LOG_LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
/// Whose lines there may be in the log.
const LOG_SOURCES: [&str; 12] = [
    "alluvium",
    "openraft",
    "object_store",
    "reqwest",
    "hyper",
    "hyper_util",
    "h2",
    "rustls",
    "axum",
    "quinn",
    "quinn_proto",
    "quinn_udp",
];

/// Refuses words that are no level and name nobody who writes to the log: a mistyped level would pass for the name of a module,
/// and everything else be silent.
fn check_filter_words(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| {
        let is_named = LOG_LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        is_named || word.parse::<u8>().is_ok_and(|number| number <= 5)
    };
    let is_source = |word: &str| LOG_SOURCES.contains(&word.split("::").next().unwrap_or(word));
    let mut words = filter.split(',').filter(|part| !part.is_empty() && !part.contains(['=', '[', ']', '{', '}']));
    let Some(wrong) = words.find(|word| !is_level(word) && !is_source(word)) else { return Ok(()) };
    let near = LOG_LEVELS.iter().min_by_key(|level| strsim::damerau_levenshtein(level, &wrong.trim().to_lowercase()));
    let near = near.copied().unwrap_or_default();
    Err(format!("{wrong:?} is not a level; did you mean {near}? A module takes one as alluvium::archive=debug does"))
}

/// Refuses defaults for topics that a topic could not have.
fn check_topic_defaults(loaded: &Loaded, problems: &mut Vec<Problem>) {
    for (name, value) in &loaded.settings.topics.defaults.0 {
        let wrong = match topic_config(name) {
            Some(known) => match known.definition.normalize(value) {
                Ok(policy) if name == "cleanup.policy" && compacts(&policy) => Some(NO_COMPACTION.to_owned()),
                normal => normal.err().map(|error| error.to_string()),
            },
            None => Some(nearest_topic_config(name)),
        };
        problems.extend(wrong.map(|text| loaded.problem(&format!("topics.defaults.{name}"), text)));
    }
    let (all, none) = (&loaded.settings.topics.defaults.0, BTreeMap::new());
    if problems.is_empty()
        && let Err(error) = create(all, TopicKind::Ordinary, &BrokerLayers::fixed(&none))
    {
        problems.push(loaded.problem("topics.defaults", error.to_string()));
    }
}

fn nearest_topic_config(name: &str) -> String {
    let near = topic_config_names().min_by_key(|known| strsim::damerau_levenshtein(name, known));
    format!("is not a topic setting of Kafka; did you mean {}?", near.unwrap_or_default())
}

fn resolve_memory(loaded: &Loaded, machine: &Machine, problems: &mut Vec<Problem>) -> MemoryConfig {
    let memory = &loaded.settings.memory;
    let percents = [
        memory.tail_percent,
        memory.frames_percent,
        memory.uploads_percent,
        memory.readers_percent,
        memory.heads_percent,
        memory.groups_percent,
    ]
    .map(u64::from);
    let sum: u64 = percents.iter().sum();
    if sum != 100 {
        problems.push(loaded.problem("memory", format!("the shares make {sum} percent and not 100")));
    }
    if percents.contains(&0) {
        problems.push(loaded.problem("memory", "each share needs at least 1 percent"));
    }
    let automatic = (machine.memory_bytes / 4).clamp(*DEFAULT_BUDGET.start(), *DEFAULT_BUDGET.end());
    let budget_bytes = memory.budget.map_or(automatic, ByteSize::bytes);
    if budget_bytes < BUDGET_MIN.0 {
        let text = format!("must be at least {BUDGET_MIN}, is {}", ByteSize(budget_bytes));
        problems.push(loaded.problem("memory.budget", text));
    }
    MemoryConfig { budget_bytes, shares_bytes: percents.map(|percent| budget_bytes / 100 * percent) }
}

fn resolve_listeners(
    loaded: &Loaded,
    machine: &Machine,
    warnings: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) -> Vec<Listener> {
    let mut wanted = loaded.settings.listeners.kafka.clone();
    let default = ListenerSettings { address: DEFAULT_LISTEN_ADDRESS.to_owned(), advertised: None };
    if wanted.is_empty() {
        wanted.insert(DEFAULT_LISTENER.to_owned(), default);
    } else if let Some(listener) = wanted.get_mut(DEFAULT_LISTENER).filter(|listener| listener.address.is_empty()) {
        // Only its advertised address was set.
        listener.address = default.address;
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (name, settings) in wanted {
        match resolve_listener(loaded, machine, (&name, &settings), warnings) {
            Ok(listener) => {
                let address = listener.address;
                if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
                    let key = format!("listeners.kafka.{name}.address");
                    problems.push(loaded.problem(&key, format!("another listener has {address} too")));
                }
                listeners.push(listener);
            }
            Err(problem) => problems.push(problem),
        }
    }
    listeners
}

fn resolve_listener(
    loaded: &Loaded,
    machine: &Machine,
    (name, settings): (&str, &ListenerSettings),
    warnings: &mut Vec<String>,
) -> Result<Listener, Problem> {
    let key = format!("listeners.kafka.{name}.address");
    let advertised_key = format!("listeners.kafka.{name}.advertised");
    let address = resolve_address(loaded, &key, &settings.address, warnings)?;
    let advertised = settings.advertised.as_deref().map(str::parse::<HostPort>).transpose();
    let mut advertised = advertised.map_err(|text| loaded.problem(&advertised_key, text))?;
    if let Some(advertised) = advertised.as_ref().filter(|advertised| advertised.is_unspecified()) {
        let text = format!("clients can't connect to {advertised}; give the name or address that they reach");
        return Err(loaded.problem(&advertised_key, text));
    }
    if address.ip().is_unspecified() && advertised.is_none() {
        let (host, why) = machine.host_for_others();
        let flag = if name == DEFAULT_LISTENER { "--kafka-advertise HOST:PORT or " } else { "" };
        warnings.push(format!(
            "{key}={address} is no address to connect to: clients are told {host}, {why}; \
             where they reach it by another, say so with {flag}{advertised_key}"
        ));
        advertised = Some(HostPort { host, port: address.port() });
    }
    Ok(Listener { name: name.to_owned(), address, advertised })
}

/// Reads an address and refuses one that other machines can reach, unless that is allowed.
fn resolve_address(loaded: &Loaded, key: &str, text: &str, warnings: &mut Vec<String>) -> Result<SocketAddr, Problem> {
    let address = parse_listen_address(text).map_err(|text| loaded.problem(key, text))?;
    if !address.ip().is_loopback() {
        if !loaded.settings.listeners.allow_insecure {
            let text = format!(
                "{address} can be reached from other machines, and there is no authentication yet: whoever reaches it can \
                 read, write and delete everything; use a loopback address, or say --allow-insecure"
            );
            return Err(loaded.problem(key, text));
        }
        warnings.push(format!(
            "{key}={address} is open to other machines WITHOUT encryption or authentication (listeners.allow_insecure): \
             whoever reaches it can read, write and delete everything"
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Interval, Sources, load};
    use crate::runtime::production::LocalDisk;

    fn machine() -> Machine {
        let address = "10.1.2.3".parse().unwrap();
        Machine { memory_bytes: 8 << 30, working_directory: PathBuf::from("/srv"), address }
    }

    fn resolve_with(flags: &[(&str, &str)]) -> Result<Config, String> {
        resolve_in(&[], flags)
    }

    fn resolve_in(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let flags = flags.iter().map(|(key, text)| Assignment::text(*key, *text, "flag")).collect();
        let loaded = load(&Sources { flags, ..Sources::default() }, &LocalDisk).map_err(|error| error.to_string())?;
        resolve(&loaded, &environment, &machine(), &LocalDisk).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_serve_on_loopback_with_a_store_under_the_data_directory() {
        let config = resolve_with(&[]).unwrap();
        assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:9092");
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!(config.data.directories, [PathBuf::from("/srv/alluvium-data")]);
        assert_eq!(config.store.url.as_str(), "file:///srv/alluvium-data/object-store");
        assert_eq!(config.memory.budget_bytes, 2 << 30);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn shares_make_up_the_budget_and_bound_the_largest_request() {
        let config = resolve_with(&[("memory.budget", "100MiB")]).unwrap();
        let sum: u64 = MemoryShare::ALL.iter().map(|&share| config.memory.share_bytes(share)).sum();
        assert!(sum <= 100 << 20 && sum > 99 << 20, "{sum}");
        assert_eq!(config.network.max_frame.0, config.memory.share_bytes(MemoryShare::Frames));
    }

    /// Settings that can't work together, and what the refusal says.
    const REFUSED: [(&[(&str, &str)], &str); 31] = [
        (&[("listeners.kafka.default.address", "0.0.0.0:9092")], "say --allow-insecure"),
        (&[("listeners.http", "192.168.1.1:80")], "flag: listeners.http: 192.168.1.1:80 can be reached"),
        (&[("listeners.kafka.default.advertised", "0.0.0.0:9092")], "clients can't connect to 0.0.0.0:9092"),
        (&[("listeners.kafka.a.advertised", "h:1")], "listeners.kafka.a.address: \"\" is not an address"),
        (
            &[("listeners.kafka.a.address", "127.0.0.1:1"), ("listeners.kafka.b.address", "127.0.0.1:1")],
            "another listener has 127.0.0.1:1 too",
        ),
        (&[("listeners.http", "broker:80")], "not an address to listen on"),
        (
            &[("listeners.http", "127.0.0.1:9092")],
            "flag: listeners.http: the Kafka listener default has 127.0.0.1:9092",
        ),
        (&[("memory.tail_percent", "31")], "the shares make 101 percent"),
        (&[("memory.tail_percent", "0"), ("memory.frames_percent", "60")], "at least 1 percent"),
        (&[("memory.budget", "1MiB")], "must be at least 32MiB"),
        (&[("data.journal_max", "64MiB")], "two journal files of 64MiB"),
        (&[("data.directories", "/a,/a")], "/a and /a are one directory, /a; list it once"),
        (&[("data.directories", "/a,/a/b")], "/a/b lies in /a; no data directory"),
        (&[("groups.session_timeout_min", "1h")], "more than groups.session_timeout_max=30m"),
        (&[("topics.partitions", "9"), ("topics.max_partitions", "8")], "is 9, more than topics.max_partitions=8"),
        (&[("groups.offset_metadata_max", "32KiB")], "must be at most 32767"),
        (&[("producers.max_ids", "0")], "producers.max_ids: must be at least 1"),
        (&[("network.connection_memory", "1MiB")], "must hold the largest request"),
        (&[("archive.url", "file:///a"), ("archive.region", "x")], "means nothing for a file:// store"),
        (&[("archive.url", "s3://b"), ("archive.access_key_id", "k")], "needs the other half"),
        (
            &[("archive.url", "s3://b"), ("archive.endpoint", "nonsense")],
            "flag: archive.endpoint: is not the address of a",
        ),
        (
            &[("archive.url", "s3://b"), ("archive.endpoint", "http://h")],
            "flag: archive.endpoint: http:// has no encryption; use https://, or allow it with archive.allow_http or AWS_",
        ),
        (&[("archive.url", "file:///d"), ("data.directories", "/d")], "is a data directory"),
        (&[("archive.url", "file:///e/../d"), ("data.directories", "/./d")], "is a data directory"),
        (&[("topics.defaults.retention.mss", "1")], "is not a topic setting of Kafka; did you mean retention.ms?"),
        (&[("topics.defaults.retention.ms", "long")], "topics.defaults.retention.ms: Invalid value long"),
        (&[("topics.defaults.retention.ms", "5"), ("topics.defaults.local.retention.ms", "50")], "topics.defaults: "),
        (&[("telemetry.log_filter", "alluvium=loud")], "log filter is not understood"),
        (&[("telemetry.log_filter", "infoo")], "\"infoo\" is not a level; did you mean info?"),
        (&[("telemetry.log_filter", "info, debug")], "\" debug\" is not a level; did you mean debug?"),
        (&[("telemetry.log_filter", "alluvium=debug,warning")], "\"warning\" is not a level; did you mean warn?"),
    ];

    #[test]
    fn combinations_that_cannot_work_are_refused() {
        for (flags, expected) in REFUSED {
            let error = resolve_with(flags).expect_err(&format!("{flags:?}"));
            assert!(error.contains(expected) && !error.contains('\n'), "{flags:?}: {error}");
        }
    }

    #[test]
    fn levels_and_those_who_write_to_the_log_are_a_filter() {
        for filter in
            ["", "WARN", "3", "off,alluvium", "alluvium::archive,hyper_util::client", "other=info", "[span{a=1}]=warn"]
        {
            assert!(resolve_with(&[("telemetry.log_filter", filter)]).is_ok(), "{filter}");
        }
    }

    #[test]
    fn an_open_address_is_served_when_allowed_and_warned_about() {
        let config = resolve_with(&[
            ("listeners.kafka.default.address", "0.0.0.0:9092"),
            ("listeners.kafka.default.advertised", "broker:9092"),
            ("listeners.allow_insecure", "true"),
        ])
        .unwrap();
        assert_eq!(config.warnings.len(), 1);
        assert!(config.warnings[0].contains("WITHOUT encryption or authentication"));
    }

    #[test]
    fn clients_of_every_address_are_told_the_one_by_which_the_machine_reaches_others() {
        for (address, told) in [("0.0.0.0:9092", "10.1.2.3:9092"), ("[::]:0", "10.1.2.3:4711")] {
            let flags = [("listeners.kafka.default.address", address), ("listeners.allow_insecure", "true")];
            let config = resolve_with(&flags).unwrap();
            let bound =
                SocketAddr::new(config.listeners[0].address.ip(), told.rsplit_once(':').unwrap().1.parse().unwrap());
            assert_eq!(config.listeners[0].advertise(bound).to_string(), told);
            let expected = "say so with --kafka-advertise HOST:PORT or listeners.kafka.default.advertised";
            assert!(config.warnings[1].contains("told 10.1.2.3, ") && config.warnings[1].contains(expected));
        }
    }

    #[test]
    fn variables_that_no_store_could_be_reached_with_are_refused_by_name() {
        for (url, variable, value, expected) in [
            ("s3://b", "AWS_ENDPOINT_URL", "localhost:9000", "is not the address of a server"),
            ("s3://b", "AWS_ENDPOINT", "https://key:secret@h", "credentials don't belong into the address"),
            ("s3://b", "AWS_ENDPOINT_URL_S3", "http://h", "http:// has no encryption"),
            ("s3://b", "AWS_REGION", "eu central", "has a space"),
            ("s3://b", "AWS_SESSION_TOKEN", "secret\n", "has a space, a line break"),
            ("gs://b", "GOOGLE_BASE_URL", "http://h", "allow it with GOOGLE_ALLOW_HTTP=true"),
            ("az://b", "AZURE_STORAGE_ENDPOINT", "h", "is not the address of a server"),
        ] {
            let environment = [(variable, value), ("AZURE_STORAGE_ACCOUNT_NAME", "a")];
            let error = resolve_in(&environment, &[("archive.url", url)]).expect_err(variable);
            assert!(error.starts_with(&format!("{variable}: ")) && error.contains(expected), "{error}");
            assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
        }
        let error = resolve_with(&[("archive.url", "az://b")]).unwrap_err();
        assert_eq!(error, "AZURE_STORAGE_ACCOUNT_NAME: an az:// store needs the name of its account here");
        let allowed = [("AWS_ENDPOINT_URL", "http://h:9000"), ("AWS_ALLOW_HTTP", "True")];
        resolve_in(&allowed, &[("archive.url", "s3://b")]).unwrap();
        // What describes another kind of store is not looked at.
        resolve_in(&[("AWS_ENDPOINT_URL", "localhost:9000")], &[]).unwrap();
    }

    #[test]
    fn store_options_come_from_the_environment_and_settings_override_them() {
        let endpoint = [("archive.url", "s3://b"), ("archive.endpoint", "https://ours")];
        let environment = [("AWS_ENDPOINT_URL_S3", "https://theirs"), ("AWS_ENDPOINT_URL", "localhost:9000")];
        let options = resolve_in(&environment, &endpoint).unwrap().store.options;
        assert_eq!(
            options.iter().map(|(name, value)| (&**name, value.expose())).collect::<Vec<_>>(),
            [("aws_endpoint", "https://ours")]
        );
        let environment = [("AWS_REGION", "a"), ("AWS_ACCESS_KEY_ID", "key"), ("HOME", "/"), ("AWS_SESSION_TOKEN", "")];
        let flags = [("archive.url", "s3://bucket/p"), ("archive.region", "b"), ("archive.path_style", "true")];
        let config = resolve_in(&environment, &flags).unwrap();
        let options: Vec<_> =
            config.store.options.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let expected =
            [("aws_access_key_id", "key"), ("aws_region", "b"), ("aws_virtual_hosted_style_request", "false")];
        assert_eq!(options, expected);
        assert!(!format!("{config:?}").contains("\"key\""));
        assert_eq!(config.archive.sweep_interval, Interval::hours(24));
        let hosted = resolve_with(&[("archive.url", "s3://bucket/p"), ("archive.path_style", "false")]).unwrap();
        assert_eq!(hosted.store.options["aws_virtual_hosted_style_request"].expose(), "true");
    }
}

//! The list of settings: what each does, what it costs, and its default. The reference file is generated from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::{ByteSize, Interval, Secret};
use crate::telemetry::{LogFormat, QUIETER};

/// A section, as the reference shows it.
pub(super) struct SectionDoc {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) fields: &'static [FieldDoc],
}

/// A setting, as the reference shows it.
pub(super) struct FieldDoc {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    /// A value in TOML to show where there is no default.
    pub(super) example: Option<&'static str>,
}

/// Declares the sections with their fields, defaults and documentation.
macro_rules! settings {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $type:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $default:expr $(, example $example:literal)?;)+
    })+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $type {
                $($(#[doc = $doc])+ pub $field: $kind,)+
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($field: $default,)+ }
                }
            }
        )+

        /// Everything that can be set.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $section_doc])+ pub $section: $type,)+
        }

        /// The documentation of everything that can be set.
        pub(super) const SECTIONS: &[SectionDoc] = &[
            $(SectionDoc {
                name: stringify!($section),
                doc: &[$($section_doc,)+],
                fields: &[
                    $(FieldDoc {
                        name: stringify!($field),
                        doc: &[$($doc,)+],
                        example: [$(Some($example),)? None][0],
                    },)+
                ],
            },)+
        ];
    };
}

settings! {
    /// Who this broker is, and how it meets the others of its cluster. Without peer_listen it is a
    /// cluster by itself.
    cluster: ClusterSettings {
        /// Kafka's node.id. Stamped on the data directory at the first start; a later change is refused.
        /// Brokers of one cluster have different ones. Costs nothing.
        node_id: i32 = 1;
        /// Kafka's broker.rack: where the machine stands, told to clients. Costs nothing.
        rack: Option<String> = None, example "\"zone-a\"";
        /// Address for other brokers, a UDP port (QUIC). Unset, the broker is by itself. What goes over it is
        /// encrypted, and both sides show certificates, so it needs no allow_insecure. Costs a port.
        peer_listen: Option<String> = None, example "\"0.0.0.0:9094\"";
        /// Host and port by which other brokers reach peer_listen, where they differ (containers, NAT). Unset
        /// it is the address itself; with 0.0.0.0, that by which the machine reaches other networks. Costs
        /// nothing.
        peer_advertised: Option<String> = None, example "\"broker-1.example.com:9094\"";
        /// Peer addresses of members of the cluster to join: any that run, asked in turn. Unset, a broker
        /// with an empty data directory makes a new cluster; one that is a member looks at this no more. In a
        /// variable or with --set `a:9094,b:9094` will do. Costs nothing.
        join: Addresses = Addresses::default(), example "[\"10.0.0.1:9094\", \"10.0.0.2:9094\"]";
        /// What lets this broker join: `alluvium cluster token` makes one on a member. Whoever has it can
        /// become a member until it ends. Needed once; better in a variable or --join-token-file than in a
        /// file that stays. Costs nothing.
        join_token: Option<Secret> = None, example "\"alv1....\"";
        /// Voters of the metadata quorum that the cluster makes of the brokers it has: an odd number from 1
        /// to 9. It goes on without the smaller half of them. More survive more failures, and each change to
        /// topics, settings or leaders waits for more disks.
        voters: i32 = 3;
        /// With key and authorities, in PEM: certificates of your own for peers, in place of those that the
        /// cluster makes for itself. It names the host that peers reach this broker by. Read again when it
        /// changes; renewing it is up to you.
        certificate: Option<PathBuf> = None, example "\"/etc/alluvium/peer.crt\"";
        /// The certificate's private key in PEM, not encrypted. Whoever reads it can be this broker.
        key: Option<PathBuf> = None, example "\"/etc/alluvium/peer.key\"";
        /// Certificates in PEM of the authorities that make a broker a member. Whoever has a certificate of
        /// theirs is let in without a token, so they issue for this cluster alone.
        authorities: Option<PathBuf> = None, example "\"/etc/alluvium/peer-authorities.crt\"";
        /// Connections to each other broker for records. More use more processors for encryption, where one
        /// is busy with it, and cost memory for each.
        peer_connections: usize = 2;
        /// How long a broker may be silent before others lead in its place; at least 1s. Shorter makes a
        /// failure shorter, and moves leaders when a machine or network merely pauses. A process that ended
        /// is noticed at once.
        session_timeout: Interval = Interval::seconds(3);
        /// Kafka's replica.lag.time.max.ms: how long a replica may lag before it is no longer in sync.
        /// Shorter has acks=all wait less for a slow replica, and leaves fewer copies of what is
        /// acknowledged.
        replica_lag_max: Interval = Interval::seconds(10);
    }

    /// Addresses to serve on. One that is not loopback needs allow_insecure, since there is
    /// no authentication yet.
    listeners: ListenersSettings {
        /// Health and metrics over HTTP. Anyone who reaches it can read them.
        http: String = "127.0.0.1:8080".to_owned();
        /// Serve on addresses that other machines can reach, without encryption or authentication: whoever
        /// reaches the port can read, write and delete everything.
        allow_insecure: bool = false;
        /// Kafka listeners by name, each with `address`, and `advertised` where clients reach it by another
        /// host or port than it listens on (containers, NAT; with 0.0.0.0 they are told the address by which
        /// the machine reaches other networks). Without any there is one, named default, on 127.0.0.1:9092.
        /// Each costs a port.
        kafka: BTreeMap<String, ListenerSettings> = BTreeMap::new(),
            example "{ default = { address = \"127.0.0.1:9092\", advertised = \"localhost:9092\" } }";
    }

    /// The local disk.
    data: DataSettings {
        /// Data directories, each with its own journal and a lock; partitions are spread over them. More
        /// directories on one device gain nothing: each costs a journal and its synchronous writes. In a
        /// variable or with --set `/a,/b` will do; --data-dir is one directory.
        directories: Directories = Directories(vec![PathBuf::from("alluvium-data")]);
        /// Size of one journal file, written once in full when it is made. Larger files make fewer, longer
        /// pauses for preallocation; the smallest journal is two of them.
        journal_file: ByteSize = ByteSize::mib(64);
        /// The most that one journal may hold before appends wait for write-behind. Costs that much disk, and
        /// a restart after a crash replays up to as much.
        journal_max: ByteSize = ByteSize::gib(1);
        /// How often segments are synced so that journal space can be reused. Shorter makes restarts after a
        /// crash faster and costs more writes.
        checkpoint_interval: Interval = Interval::seconds(30);
        /// How often `retention.ms` and `retention.bytes` are looked at. Shorter is more exact and costs a
        /// pass over all partitions, and a request to the store for each that is archived.
        retention_interval: Interval = Interval::seconds(60);
        /// The most bytes of local segments. Above it the oldest archived segments go first, whatever the
        /// topics' local.retention says; what is not archived yet is never deleted. Unset, archived segments
        /// go by local.retention alone until a file system has less than six times `free_min` left: then its
        /// oldest go. Less has more reads go to the store.
        local_max: Option<ByteSize> = None, example "\"100GiB\"";
        /// Room to keep free on each file system, of small ones at most a twentieth. Below seven times as
        /// much the archive's cache shrinks, below six archived segments go, below five producers are slowed
        /// down smoothly, and below it they wait. More leaves less for data.
        free_min: ByteSize = ByteSize::gib(1);
    }

    /// The process's memory: one budget, and how it is shared out. The shares are
    /// percentages and make 100.
    memory: MemorySettings {
        /// The whole budget. Unset means a quarter of the machine's or control group's memory, between
        /// 128 MiB and 4 GiB. Code, connections, metadata and the state of idempotent producers come on top.
        /// Less makes everything slower; a batch may decompress to a quarter of it, and to 128 MiB at most.
        budget: Option<ByteSize> = None, example "\"1GiB\"";
        /// Recent batches from which consumers at the tail are served without touching the disk, and a
        /// sixteenth of it for indexes of segments. Less sends consumers that fall behind to the disk sooner.
        tail_percent: u8 = 30;
        /// Requests being read and handled, answers on their way out, and what is read ahead
        /// for them. Connections wait when it is used up, and no single request can be larger.
        /// Less allows fewer and smaller requests at a time.
        frames_percent: u8 = 30;
        /// Segments being turned into Parquet: one for each 40 MiB, at least one. Less makes
        /// archiving slower.
        uploads_percent: u8 = 15;
        /// Archived data being fetched and decoded. Less lets fewer historical readers run at a time.
        readers_percent: u8 = 15;
        /// Head objects and manifests of archived partitions. Less costs store requests.
        heads_percent: u8 = 4;
        /// Consumer groups and their offsets. Less lets fewer groups commit.
        groups_percent: u8 = 6;
    }

    /// The archive and its object store.
    archive: ArchiveSettings {
        /// Where the archive is: `file:///path`, `memory:///`, `s3://bucket/prefix`,
        /// `gs://bucket/prefix` or `az://container/prefix`. Unset means a directory named
        /// object-store in the first data directory, which is as safe as that disk. What a
        /// bucket costs is told by the metrics of its requests and bytes.
        url: Option<String> = None, example "\"s3://bucket/prefix\"";
        /// Address of an S3-compatible server. Unset means AWS_ENDPOINT_URL, and then Amazon's.
        /// Costs nothing.
        endpoint: Option<String> = None, example "\"http://127.0.0.1:9000\"";
        /// Region of the bucket. Unset means AWS_REGION or AWS_DEFAULT_REGION. Another one than the machine's
        /// costs latency and transfer fees.
        region: Option<String> = None, example "\"eu-central-1\"";
        /// Name the bucket in the path, as every S3-compatible server takes it; with false in the host name,
        /// where an endpoint has to have it. Unset means AWS_VIRTUAL_HOSTED_STYLE_REQUEST, and then the path.
        /// Costs nothing.
        path_style: Option<bool> = None, example "true";
        /// Allow an endpoint without TLS: data and signatures can be read on the way. Unless this is set, or
        /// AWS_ALLOW_HTTP=true, one that begins with http:// is refused.
        allow_http: bool = false;
        /// Access key. Better left unset, for AWS_ACCESS_KEY_ID or the machine's own role: here
        /// it lies in a file.
        access_key_id: Option<Secret> = None, example "\"...\"";
        /// Secret key. Better left unset, for AWS_SECRET_ACCESS_KEY or the machine's own role:
        /// here it lies in a file.
        secret_access_key: Option<Secret> = None, example "\"...\"";
        /// How long to wait for a connection to the store. Shorter finds an outage sooner and
        /// gives up on slow networks.
        connect_timeout: Interval = Interval::seconds(5);
        /// How long one request may take. Uploads send parts of at most 8 MiB, so it need not be long: longer
        /// keeps a slot and its memory for a request that hangs.
        request_timeout: Interval = Interval::seconds(30);
        /// Reads from the store at a time, and half as many other requests. More hide latency
        /// and cost memory and connections.
        concurrency: usize = 32;
        /// Segments encoded and uploaded at a time, as far as the memory for uploads allows.
        /// Each costs a processor while it encodes. With thousands of small segments, or a bucket that is far
        /// away, more hide the time of its answers: a segment takes about six of them.
        uploads: usize = 2;
        /// Disk for rebuilt chunks of archived data, in the first data directory; at most 4096 of them, up to
        /// 16 MiB each. Less reads the store more often, zero every time.
        cache: ByteSize = ByteSize::gib(4);
        /// How far ahead of a historical reader the archive is read, in whole chunks of 16 MiB. More is
        /// faster over slow stores and costs memory for each reader.
        read_ahead: ByteSize = ByteSize::mib(16);
        /// How long objects stay after retention or DeleteRecords has passed them, for queries that began
        /// before. Longer keeps, and pays for, more than the topics ask for.
        deletion_grace: Interval = Interval::hours(24);
        /// How often orphaned objects are looked for. Costs a listing of the bucket.
        sweep_interval: Interval = Interval::hours(24);
    }

    /// Connections.
    network: NetworkSettings {
        /// The largest request. Never more than the frames share of memory, of which one
        /// request may take as much.
        max_frame: ByteSize = ByteSize::mib(100);
        /// Requests of one connection whose answers it has not taken before its next one is
        /// read; an answer counts as one more for each 16 KiB. More helps clients far away and
        /// costs memory for each connection.
        max_in_flight_requests: usize = 64;
        /// Memory that the requests of one connection may hold before its next request is read. More lets one
        /// client take more of the frames share.
        connection_memory: ByteSize = ByteSize::mib(128);
        /// Connections in all. Each costs a file descriptor and its buffers.
        max_connections: usize = 10_000;
        /// Connections from one address, so that one client can't take all. Less refuses
        /// clients behind one NAT sooner.
        max_connections_per_address: usize = 5_000;
        /// Connections that are silent for longer, or take nothing of an answer, are closed. Longer keeps
        /// those of clients that are gone, shorter has clients connect again.
        idle_timeout: Interval = Interval::minutes(10);
        /// How long a connection may take to send the rest of a request that it began, beside the time that
        /// its bytes take at a modest rate, or to take its answer where others wait for the memory; a sixth
        /// of it without taking anything is enough then. Longer lets slow clients hold memory for longer.
        request_timeout: Interval = Interval::seconds(30);
        /// The most bytes of one answer to a fetch, whatever the client asks for. More takes fewer requests
        /// and more of the frames share for each.
        fetch_max: ByteSize = ByteSize::mib(55);
        /// Incremental fetch sessions kept, each with its list of partitions in memory. Consumers without one
        /// send the whole list with every fetch.
        fetch_sessions: usize = 1_000;
        /// How long requests under way may take to end when the broker is told to stop. Longer makes a stop
        /// slower where a client does not take its answers, shorter cuts more of them off.
        drain_timeout: Interval = Interval::seconds(10);
    }

    /// What new topics are like.
    topics: TopicsSettings {
        /// Create a topic when a client asks for one that does not exist, to produce or to
        /// consume. A typing mistake then makes a topic.
        auto_create: bool = true;
        /// Partitions of topics that are created without a number. Each costs memory, a few
        /// files and objects in the bucket.
        partitions: i32 = 1;
        /// The most partitions that this broker holds. Each costs memory and a few files.
        max_partitions: usize = 20_000;
        /// Kafka's topic settings for topics that don't set their own, by Kafka's names, each
        /// with the cost that it has for a topic.
        defaults: TopicDefaults = TopicDefaults::default(), example "{ \"segment.ms\" = \"3600000\" }";
    }

    /// Consumer groups.
    groups: GroupsSettings {
        /// Kafka's group.min.session.timeout.ms. Shorter sessions find dead members sooner and
        /// cost heartbeats.
        session_timeout_min: Interval = Interval::seconds(6);
        /// Kafka's group.max.session.timeout.ms. Longer sessions leave the partitions of a dead
        /// member unread for longer.
        session_timeout_max: Interval = Interval::minutes(30);
        /// Kafka's group.initial.rebalance.delay.ms: how long the first rebalance waits for more members.
        /// Zero starts a lone consumer at once and costs a rebalance for each one that joins after it.
        initial_rebalance_delay: Interval = Interval::seconds(3);
        /// Kafka's group.max.size: members of one group. Each costs memory and makes rebalances longer.
        max_members: usize = 10_000;
        /// Kafka's offsets.retention.minutes: how long a group without members keeps its
        /// offsets, which cost memory.
        offsets_retention: Interval = Interval::hours(7 * 24);
        /// Kafka's offset.metadata.max.bytes: the text that a consumer may attach to a committed offset, kept
        /// in memory. At most 32767, the longest text of the protocol.
        offset_metadata_max: ByteSize = ByteSize(4096);
        /// Partitions of __consumer_offsets, set when it is created. More spread groups over more brokers;
        /// each costs what a partition does.
        offsets_partitions: i32 = 50;
    }

    /// Idempotent producers.
    producers: ProducersSettings {
        /// Kafka's producer.id.expiration.ms: how long a silent producer's sequence numbers are remembered,
        /// in memory and in checkpoints. A retry after that is written a second time. Clients are shown
        /// 24 days at most, what Kafka's type holds.
        id_expiration: Interval = Interval::hours(24);
        /// Producers remembered in one partition, in memory beyond the budget and in each checkpoint. Beyond
        /// it the one silent for longest is forgotten.
        max_ids_per_partition: usize = 10_000;
        /// The same in all partitions together: a producer counts once for each partition that it writes to.
        /// Half a KiB of memory each, beside the budget; by default as many as a sixteenth of the budget
        /// would hold. Every partition keeps its last.
        max_ids: Option<usize> = None, example "100000";
    }

    /// The log of the process itself.
    telemetry: TelemetrySettings {
        /// How log lines are written: `text` or `json`, which takes more bytes.
        log_format: LogFormat = LogFormat::Text;
        /// What is logged: a level (error, warn, info, debug, trace), or levels by module as in
        /// `info,alluvium::archive=debug`. From debug on it costs throughput.
        log_filter: String = format!("info,{QUIETER}");
    }
}

/// One Kafka listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerSettings {
    /// The address to listen on, with its port; port 0 picks a free one.
    pub address: String,
    /// The host and port that clients are told. Unset it is the address itself, or where that stands for every address of
    /// the machine, the one by which the machine reaches others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised: Option<String>,
}

/// The names of a listener's settings.
pub(super) const LISTENER_FIELDS: [&str; 2] = ["address", "advertised"];

/// Data directories: a list, or in a variable or flag text as `/a,/b` or a list in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Directories(pub Vec<PathBuf>);

impl<'de> Deserialize<'de> for Directories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "needs a list of paths")]
        enum Form {
            List(Vec<PathBuf>),
            Text(String),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::List(paths) => paths,
            Form::Text(text) => {
                let paths = listed(text.trim()).ok_or_else(|| D::Error::custom(PATHS_EXPECTED))?;
                paths.into_iter().map(PathBuf::from).collect()
            }
        }))
    }
}

const PATHS_EXPECTED: &str = "needs a list of paths, as [\"/a\", \"/b\"], or in a variable or flag /a,/b";

/// Addresses of brokers: a list, or in a variable or flag text as `a:9094,b:9094` or a list in brackets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Addresses(pub Vec<String>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "needs a list of addresses")]
        enum Form {
            List(Vec<String>),
            Text(String),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::List(addresses) => addresses,
            // A variable that is empty is as good as none.
            Form::Text(text) if text.trim().is_empty() => Vec::new(),
            Form::Text(text) => listed(text.trim()).ok_or_else(|| D::Error::custom(ADDRESSES_EXPECTED))?,
        }))
    }
}

const ADDRESSES_EXPECTED: &str =
    "needs a list of addresses, as [\"a:9094\", \"b:9094\"], or in a variable or flag a:9094,b:9094";

/// Reads a list from text: as TOML, or without the quotes, which a shell takes away.
fn listed(text: &str) -> Option<Vec<String>> {
    let split = |text: &str| text.split(',').map(|item| item.trim().to_owned()).collect();
    // An IPv6 address begins with a bracket too.
    let Some(inside) = text.strip_prefix('[').filter(|_| text.ends_with(']') || !text.contains("]:")) else {
        return Some(split(text));
    };
    if let Ok(toml_edit::Value::Array(items)) = text.parse()
        && let Some(items) = items.iter().map(toml_edit::Value::as_str).collect::<Option<Vec<_>>>()
    {
        return Some(items.into_iter().map(str::to_owned).collect());
    }
    inside.strip_suffix(']').filter(|inside| !inside.contains(['"', '\'', '[', ']'])).map(split)
}

/// Topic settings by Kafka's names; numbers and booleans are taken as their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TopicDefaults(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for TopicDefaults {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "needs text, a number or a boolean")]
        enum Scalar {
            Boolean(bool),
            Integer(i64),
            Number(f64),
            Text(String),
        }
        let scalars = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        let text = |scalar| match scalar {
            Scalar::Boolean(value) => value.to_string(),
            Scalar::Integer(value) => value.to_string(),
            Scalar::Number(value) => value.to_string(),
            Scalar::Text(value) => value,
        };
        Ok(Self(scalars.into_iter().map(|(key, scalar)| (key, text(scalar))).collect()))
    }
}

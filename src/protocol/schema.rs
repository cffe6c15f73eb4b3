//! What requests look like: the fields of each API in each version, as Apache Kafka 4.3.1's message specifications give
//! them.
//!
//! `guard` walks these before the protocol crate decodes; nothing else reads them. Answers are in `answer_schema`.

use Kind::{Array, Bytes, Elements, Fixed, Nullable, String, Struct};

/// A field of a request or an answer.
#[derive(Debug)]
pub(super) struct Field {
    /// Kafka's name, in snake case.
    pub name: &'static str,
    /// First version that has the field.
    pub first: i16,
    /// Last version that has the field.
    pub last: i16,
    /// The tag, for fields that are sent only when set (KIP-482).
    pub tag: Option<u32>,
    /// How the field is written.
    pub kind: Kind,
}

impl Field {
    /// True when that version has the field.
    pub(super) const fn is_in(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

/// How a field is written. Lengths and counts are compact varints in flexible versions.
#[derive(Debug)]
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A length and text, or null.
    String,
    /// A length and bytes, or null.
    Bytes,
    /// A count and structures.
    Array(&'static [Field]),
    /// A count and values.
    Elements(&'static Kind),
    /// A structure.
    Struct(&'static [Field]),
    /// A byte that says whether the structure follows.
    Nullable(&'static [Field]),
}

pub(super) const INT8: Kind = Fixed(1);
pub(super) const INT16: Kind = Fixed(2);
pub(super) const INT32: Kind = Fixed(4);
pub(super) const INT64: Kind = Fixed(8);
pub(super) const UUID: Kind = Fixed(16);

/// In every version.
pub(super) const fn always(name: &'static str, kind: Kind) -> Field {
    between(name, i16::MIN, i16::MAX, kind)
}

/// In this version and later ones.
pub(super) const fn since(name: &'static str, first: i16, kind: Kind) -> Field {
    between(name, first, i16::MAX, kind)
}

/// In versions up to this one.
pub(super) const fn until(name: &'static str, last: i16, kind: Kind) -> Field {
    between(name, i16::MIN, last, kind)
}

pub(super) const fn between(name: &'static str, first: i16, last: i16, kind: Kind) -> Field {
    Field { name, first, last, tag: None, kind }
}

/// Sent with a tag, in this version and later ones.
pub(super) const fn tagged(name: &'static str, first: i16, tag: u32, kind: Kind) -> Field {
    Field { name, first, last: i16::MAX, tag: Some(tag), kind }
}

pub(super) const PRODUCE: &[Field] = &[
    always("transactional_id", String),
    always("acks", INT16),
    always("timeout_ms", INT32),
    always(
        "topic_data",
        Array(&[
            until("name", 12, String),
            since("topic_id", 13, UUID),
            always("partition_data", Array(&[always("index", INT32), always("records", Bytes)])),
        ]),
    ),
];

pub(super) const FETCH: &[Field] = &[
    tagged("cluster_id", 12, 0, String),
    until("replica_id", 14, INT32),
    tagged("replica_state", 15, 1, Struct(&[always("replica_id", INT32), always("replica_epoch", INT64)])),
    always("max_wait_ms", INT32),
    always("min_bytes", INT32),
    always("max_bytes", INT32),
    always("isolation_level", INT8),
    since("session_id", 7, INT32),
    since("session_epoch", 7, INT32),
    always(
        "topics",
        Array(&[
            until("topic", 12, String),
            since("topic_id", 13, UUID),
            always(
                "partitions",
                Array(&[
                    always("partition", INT32),
                    since("current_leader_epoch", 9, INT32),
                    always("fetch_offset", INT64),
                    since("last_fetched_epoch", 12, INT32),
                    since("log_start_offset", 5, INT64),
                    always("partition_max_bytes", INT32),
                    tagged("replica_directory_id", 17, 0, UUID),
                    tagged("high_watermark", 18, 1, INT64),
                ]),
            ),
        ]),
    ),
    since(
        "forgotten_topics_data",
        7,
        Array(&[until("topic", 12, String), since("topic_id", 13, UUID), always("partitions", Elements(&INT32))]),
    ),
    since("rack_id", 11, String),
];

pub(super) const LIST_OFFSETS: &[Field] = &[
    always("replica_id", INT32),
    since("isolation_level", 2, INT8),
    always(
        "topics",
        Array(&[
            always("name", String),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    since("current_leader_epoch", 4, INT32),
                    always("timestamp", INT64),
                ]),
            ),
        ]),
    ),
    since("timeout_ms", 10, INT32),
];

pub(super) const METADATA: &[Field] = &[
    always("topics", Array(&[since("topic_id", 10, UUID), always("name", String)])),
    since("allow_auto_topic_creation", 4, INT8),
    between("include_cluster_authorized_operations", 8, 10, INT8),
    since("include_topic_authorized_operations", 8, INT8),
];

pub(super) const OFFSET_COMMIT: &[Field] = &[
    always("group_id", String),
    always("generation_id_or_member_epoch", INT32),
    always("member_id", String),
    since("group_instance_id", 7, String),
    until("retention_time_ms", 4, INT64),
    always(
        "topics",
        Array(&[
            until("name", 9, String),
            since("topic_id", 10, UUID),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    always("committed_offset", INT64),
                    since("committed_leader_epoch", 6, INT32),
                    always("committed_metadata", String),
                ]),
            ),
        ]),
    ),
];

pub(super) const OFFSET_FETCH: &[Field] = &[
    until("group_id", 7, String),
    until("topics", 7, Array(&[always("name", String), always("partition_indexes", Elements(&INT32))])),
    since(
        "groups",
        8,
        Array(&[
            always("group_id", String),
            since("member_id", 9, String),
            since("member_epoch", 9, INT32),
            always(
                "topics",
                Array(&[
                    until("name", 9, String),
                    since("topic_id", 10, UUID),
                    always("partition_indexes", Elements(&INT32)),
                ]),
            ),
        ]),
    ),
    since("require_stable", 7, INT8),
];

pub(super) const FIND_COORDINATOR: &[Field] =
    &[until("key", 3, String), since("key_type", 1, INT8), since("coordinator_keys", 4, Elements(&String))];

pub(super) const JOIN_GROUP: &[Field] = &[
    always("group_id", String),
    always("session_timeout_ms", INT32),
    since("rebalance_timeout_ms", 1, INT32),
    always("member_id", String),
    since("group_instance_id", 5, String),
    always("protocol_type", String),
    always("protocols", Array(&[always("name", String), always("metadata", Bytes)])),
    since("reason", 8, String),
];

pub(super) const HEARTBEAT: &[Field] = &[
    always("group_id", String),
    always("generation_id", INT32),
    always("member_id", String),
    since("group_instance_id", 3, String),
];

pub(super) const LEAVE_GROUP: &[Field] = &[
    always("group_id", String),
    until("member_id", 2, String),
    since(
        "members",
        3,
        Array(&[always("member_id", String), always("group_instance_id", String), since("reason", 5, String)]),
    ),
];

pub(super) const SYNC_GROUP: &[Field] = &[
    always("group_id", String),
    always("generation_id", INT32),
    always("member_id", String),
    since("group_instance_id", 3, String),
    since("protocol_type", 5, String),
    since("protocol_name", 5, String),
    always("assignments", Array(&[always("member_id", String), always("assignment", Bytes)])),
];

pub(super) const DESCRIBE_GROUPS: &[Field] =
    &[always("groups", Elements(&String)), since("include_authorized_operations", 3, INT8)];

pub(super) const LIST_GROUPS: &[Field] =
    &[since("states_filter", 4, Elements(&String)), since("types_filter", 5, Elements(&String))];

pub(super) const API_VERSIONS: &[Field] =
    &[since("client_software_name", 3, String), since("client_software_version", 3, String)];

pub(super) const CREATE_TOPICS: &[Field] = &[
    always(
        "topics",
        Array(&[
            always("name", String),
            always("num_partitions", INT32),
            always("replication_factor", INT16),
            always("assignments", Array(&[always("partition_index", INT32), always("broker_ids", Elements(&INT32))])),
            always("configs", Array(&[always("name", String), always("value", String)])),
        ]),
    ),
    always("timeout_ms", INT32),
    always("validate_only", INT8),
];

pub(super) const DELETE_TOPICS: &[Field] = &[
    since("topics", 6, Array(&[always("name", String), always("topic_id", UUID)])),
    until("topic_names", 5, Elements(&String)),
    always("timeout_ms", INT32),
];

pub(super) const DELETE_RECORDS: &[Field] = &[
    always(
        "topics",
        Array(&[
            always("name", String),
            always("partitions", Array(&[always("partition_index", INT32), always("offset", INT64)])),
        ]),
    ),
    always("timeout_ms", INT32),
];

pub(super) const INIT_PRODUCER_ID: &[Field] = &[
    always("transactional_id", String),
    always("transaction_timeout_ms", INT32),
    since("producer_id", 3, INT64),
    since("producer_epoch", 3, INT16),
];

pub(super) const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since("replica_id", 3, INT32),
    always(
        "topics",
        Array(&[
            always("topic", String),
            always(
                "partitions",
                Array(&[
                    always("partition", INT32),
                    always("current_leader_epoch", INT32),
                    always("leader_epoch", INT32),
                ]),
            ),
        ]),
    ),
];

pub(super) const DESCRIBE_CONFIGS: &[Field] = &[
    always(
        "resources",
        Array(&[
            always("resource_type", INT8),
            always("resource_name", String),
            always("configuration_keys", Elements(&String)),
        ]),
    ),
    always("include_synonyms", INT8),
    since("include_documentation", 3, INT8),
];

pub(super) const ALTER_CONFIGS: &[Field] = &[
    always(
        "resources",
        Array(&[
            always("resource_type", INT8),
            always("resource_name", String),
            always("configs", Array(&[always("name", String), always("value", String)])),
        ]),
    ),
    always("validate_only", INT8),
];

pub(super) const DESCRIBE_LOG_DIRS: &[Field] =
    &[always("topics", Array(&[always("topic", String), always("partitions", Elements(&INT32))]))];

pub(super) const CREATE_PARTITIONS: &[Field] = &[
    always(
        "topics",
        Array(&[
            always("name", String),
            always("count", INT32),
            always("assignments", Array(&[always("broker_ids", Elements(&INT32))])),
        ]),
    ),
    always("timeout_ms", INT32),
    always("validate_only", INT8),
];

pub(super) const DELETE_GROUPS: &[Field] = &[always("groups_names", Elements(&String))];

pub(super) const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(
        "resources",
        Array(&[
            always("resource_type", INT8),
            always("resource_name", String),
            always(
                "configs",
                Array(&[always("name", String), always("config_operation", INT8), always("value", String)]),
            ),
        ]),
    ),
    always("validate_only", INT8),
];

pub(super) const OFFSET_DELETE: &[Field] = &[
    always("group_id", String),
    always(
        "topics",
        Array(&[always("name", String), always("partitions", Array(&[always("partition_index", INT32)]))]),
    ),
];

pub(super) const DESCRIBE_CLUSTER: &[Field] = &[
    always("include_cluster_authorized_operations", INT8),
    since("endpoint_type", 1, INT8),
    since("include_fenced_brokers", 2, INT8),
];

pub(super) const DESCRIBE_PRODUCERS: &[Field] =
    &[always("topics", Array(&[always("name", String), always("partition_indexes", Elements(&INT32))]))];

pub(super) const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    always("topics", Array(&[always("name", String)])),
    always("response_partition_limit", INT32),
    always("cursor", Nullable(&[always("topic_name", String), always("partition_index", INT32)])),
];

pub(super) const ELECT_LEADERS: &[Field] = &[
    since("election_type", 1, INT8),
    always("topic_partitions", Array(&[always("topic", String), always("partitions", Elements(&INT32))])),
    always("timeout_ms", INT32),
];

pub(super) const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    always("timeout_ms", INT32),
    since("allow_replication_factor_change", 1, INT8),
    always(
        "topics",
        Array(&[
            always("name", String),
            always("partitions", Array(&[always("partition_index", INT32), always("replicas", Elements(&INT32))])),
        ]),
    ),
];

pub(super) const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    always("timeout_ms", INT32),
    always("topics", Array(&[always("name", String), always("partition_indexes", Elements(&INT32))])),
];

pub(super) const DESCRIBE_QUORUM: &[Field] = &[always(
    "topics",
    Array(&[always("topic_name", String), always("partitions", Array(&[always("partition_index", INT32)]))]),
)];

pub(super) const UNREGISTER_BROKER: &[Field] = &[always("broker_id", INT32)];

pub(super) const ADD_RAFT_VOTER: &[Field] = &[
    always("cluster_id", String),
    always("timeout_ms", INT32),
    always("voter_id", INT32),
    always("voter_directory_id", UUID),
    always("listeners", Array(&[always("name", String), always("host", String), always("port", INT16)])),
    since("ack_when_committed", 1, INT8),
];

pub(super) const REMOVE_RAFT_VOTER: &[Field] =
    &[always("cluster_id", String), always("voter_id", INT32), always("voter_directory_id", UUID)];

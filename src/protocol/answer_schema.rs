//! What answers look like that the command line's client reads, as Apache Kafka 4.3.1's message specifications give them.
//!
//! `guard` walks these before the protocol crate decodes, as it does requests.

use super::Api;
use super::schema::Kind::{Array, Bytes, Elements, String, Struct};
use super::schema::{Field, INT8, INT16, INT32, INT64, Kind, UUID, always, between, since, tagged, until};

/// The fields of an API's answer; `None` where nobody here reads it.
pub(super) const fn answer_fields(api: Api) -> Option<&'static [Field]> {
    match api {
        Api::Produce => Some(PRODUCE),
        Api::Fetch => Some(FETCH),
        Api::ListOffsets => Some(LIST_OFFSETS),
        Api::Metadata => Some(METADATA),
        Api::ApiVersions => Some(API_VERSIONS),
        Api::CreateTopics => Some(CREATE_TOPICS),
        Api::DeleteTopics => Some(DELETE_TOPICS),
        Api::InitProducerId => Some(INIT_PRODUCER_ID),
        Api::DescribeConfigs => Some(DESCRIBE_CONFIGS),
        Api::CreatePartitions => Some(CREATE_PARTITIONS),
        Api::IncrementalAlterConfigs => Some(INCREMENTAL_ALTER_CONFIGS),
        Api::ListPartitionReassignments => Some(LIST_PARTITION_REASSIGNMENTS),
        Api::DescribeQuorum => Some(DESCRIBE_QUORUM),
        Api::DescribeCluster => Some(DESCRIBE_CLUSTER),
        Api::UnregisterBroker | Api::AddRaftVoter | Api::RemoveRaftVoter => Some(DONE_OR_NOT),
        _ => None,
    }
}

const LEADER: Kind = Struct(&[always("leader_id", INT32), always("leader_epoch", INT32)]);
const ENDPOINTS: Kind =
    Array(&[always("node_id", INT32), always("host", String), always("port", INT32), always("rack", String)]);

const PRODUCE: &[Field] = &[
    always(
        "responses",
        Array(&[
            until("name", 12, String),
            since("topic_id", 13, UUID),
            always(
                "partition_responses",
                Array(&[
                    always("index", INT32),
                    always("error_code", INT16),
                    always("base_offset", INT64),
                    always("log_append_time_ms", INT64),
                    since("log_start_offset", 5, INT64),
                    since(
                        "record_errors",
                        8,
                        Array(&[always("batch_index", INT32), always("batch_index_error_message", String)]),
                    ),
                    since("error_message", 8, String),
                    tagged("current_leader", 10, 0, LEADER),
                ]),
            ),
        ]),
    ),
    always("throttle_time_ms", INT32),
    tagged("node_endpoints", 10, 0, ENDPOINTS),
];

const FETCH: &[Field] = &[
    always("throttle_time_ms", INT32),
    since("error_code", 7, INT16),
    since("session_id", 7, INT32),
    always(
        "responses",
        Array(&[
            until("topic", 12, String),
            since("topic_id", 13, UUID),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    always("error_code", INT16),
                    always("high_watermark", INT64),
                    always("last_stable_offset", INT64),
                    since("log_start_offset", 5, INT64),
                    always(
                        "aborted_transactions",
                        Array(&[always("producer_id", INT64), always("first_offset", INT64)]),
                    ),
                    since("preferred_read_replica", 11, INT32),
                    always("records", Bytes),
                    tagged("diverging_epoch", 12, 0, Struct(&[always("epoch", INT32), always("end_offset", INT64)])),
                    tagged("current_leader", 12, 1, LEADER),
                    tagged("snapshot_id", 12, 2, Struct(&[always("end_offset", INT64), always("epoch", INT32)])),
                ]),
            ),
        ]),
    ),
    tagged("node_endpoints", 16, 0, ENDPOINTS),
];

const LIST_OFFSETS: &[Field] = &[
    since("throttle_time_ms", 2, INT32),
    always(
        "topics",
        Array(&[
            always("name", String),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    always("error_code", INT16),
                    always("timestamp", INT64),
                    always("offset", INT64),
                    since("leader_epoch", 4, INT32),
                ]),
            ),
        ]),
    ),
];

const METADATA: &[Field] = &[
    since("throttle_time_ms", 3, INT32),
    always(
        "brokers",
        Array(&[always("node_id", INT32), always("host", String), always("port", INT32), since("rack", 1, String)]),
    ),
    since("cluster_id", 2, String),
    since("controller_id", 1, INT32),
    always(
        "topics",
        Array(&[
            always("error_code", INT16),
            always("name", String),
            since("topic_id", 10, UUID),
            since("is_internal", 1, INT8),
            always(
                "partitions",
                Array(&[
                    always("error_code", INT16),
                    always("partition_index", INT32),
                    always("leader_id", INT32),
                    since("leader_epoch", 7, INT32),
                    always("replica_nodes", Elements(&INT32)),
                    always("isr_nodes", Elements(&INT32)),
                    since("offline_replicas", 5, Elements(&INT32)),
                ]),
            ),
            since("topic_authorized_operations", 8, INT32),
        ]),
    ),
    between("cluster_authorized_operations", 8, 10, INT32),
    since("error_code", 13, INT16),
];

const API_VERSIONS: &[Field] = &[
    always("error_code", INT16),
    always("api_keys", Array(&[always("api_key", INT16), always("min_version", INT16), always("max_version", INT16)])),
    since("throttle_time_ms", 1, INT32),
    tagged(
        "supported_features",
        3,
        0,
        Array(&[always("name", String), always("min_version", INT16), always("max_version", INT16)]),
    ),
    tagged("finalized_features_epoch", 3, 1, INT64),
    tagged(
        "finalized_features",
        3,
        2,
        Array(&[always("name", String), always("max_version_level", INT16), always("min_version_level", INT16)]),
    ),
    tagged("zk_migration_ready", 3, 3, INT8),
];

const CREATE_TOPICS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always(
        "topics",
        Array(&[
            always("name", String),
            since("topic_id", 7, UUID),
            always("error_code", INT16),
            always("error_message", String),
            tagged("topic_config_error_code", 5, 0, INT16),
            since("num_partitions", 5, INT32),
            since("replication_factor", 5, INT16),
            since(
                "configs",
                5,
                Array(&[
                    always("name", String),
                    always("value", String),
                    always("read_only", INT8),
                    always("config_source", INT8),
                    always("is_sensitive", INT8),
                ]),
            ),
        ]),
    ),
];

const DELETE_TOPICS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always(
        "responses",
        Array(&[
            always("name", String),
            since("topic_id", 6, UUID),
            always("error_code", INT16),
            since("error_message", 5, String),
        ]),
    ),
];

const INIT_PRODUCER_ID: &[Field] = &[
    always("throttle_time_ms", INT32),
    always("error_code", INT16),
    always("producer_id", INT64),
    always("producer_epoch", INT16),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always(
        "results",
        Array(&[
            always("error_code", INT16),
            always("error_message", String),
            always("resource_type", INT8),
            always("resource_name", String),
            always(
                "configs",
                Array(&[
                    always("name", String),
                    always("value", String),
                    always("read_only", INT8),
                    always("config_source", INT8),
                    always("is_sensitive", INT8),
                    always(
                        "synonyms",
                        Array(&[always("name", String), always("value", String), always("source", INT8)]),
                    ),
                    since("config_type", 3, INT8),
                    since("documentation", 3, String),
                ]),
            ),
        ]),
    ),
];

const CREATE_PARTITIONS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always("results", Array(&[always("name", String), always("error_code", INT16), always("error_message", String)])),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always(
        "responses",
        Array(&[
            always("error_code", INT16),
            always("error_message", String),
            always("resource_type", INT8),
            always("resource_name", String),
        ]),
    ),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    always("throttle_time_ms", INT32),
    always("error_code", INT16),
    always("error_message", String),
    always(
        "topics",
        Array(&[
            always("name", String),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    always("replicas", Elements(&INT32)),
                    always("adding_replicas", Elements(&INT32)),
                    always("removing_replicas", Elements(&INT32)),
                ]),
            ),
        ]),
    ),
];

const QUORUM_REPLICAS: Kind = Array(&[
    always("replica_id", INT32),
    since("replica_directory_id", 2, UUID),
    always("log_end_offset", INT64),
    since("last_fetch_timestamp", 1, INT64),
    since("last_caught_up_timestamp", 1, INT64),
]);

const DESCRIBE_QUORUM: &[Field] = &[
    always("error_code", INT16),
    since("error_message", 2, String),
    always(
        "topics",
        Array(&[
            always("topic_name", String),
            always(
                "partitions",
                Array(&[
                    always("partition_index", INT32),
                    always("error_code", INT16),
                    since("error_message", 2, String),
                    always("leader_id", INT32),
                    always("leader_epoch", INT32),
                    always("high_watermark", INT64),
                    always("current_voters", QUORUM_REPLICAS),
                    always("observers", QUORUM_REPLICAS),
                ]),
            ),
        ]),
    ),
    since(
        "nodes",
        2,
        Array(&[
            always("node_id", INT32),
            always("listeners", Array(&[always("name", String), always("host", String), always("port", INT16)])),
        ]),
    ),
];

const DESCRIBE_CLUSTER: &[Field] = &[
    always("throttle_time_ms", INT32),
    always("error_code", INT16),
    always("error_message", String),
    since("endpoint_type", 1, INT8),
    always("cluster_id", String),
    always("controller_id", INT32),
    always(
        "brokers",
        Array(&[
            always("broker_id", INT32),
            always("host", String),
            always("port", INT32),
            always("rack", String),
            since("is_fenced", 2, INT8),
        ]),
    ),
    always("cluster_authorized_operations", INT32),
];

/// Of APIs that do one thing.
const DONE_OR_NOT: &[Field] =
    &[always("throttle_time_ms", INT32), always("error_code", INT16), always("error_message", String)];

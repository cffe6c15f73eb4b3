//! The one table of the APIs that are served, with the versions that Apache Kafka 4.3.1 accepts.
//!
//! What is not in the table is not advertised, and a request for it closes the connection, as in Kafka.

use std::ops::RangeInclusive;

use super::schema::{self, Field};

/// Declares the APIs: key, versions, first flexible version (KIP-482) or `i16::MAX`, and the request's fields.
macro_rules! apis {
    ($($api:ident $key:literal $versions:expr, $flexible:expr, $schema:expr;)*) => {
        /// An API that is served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum Api {
            $(#[doc = concat!("`", stringify!($api), "`, key ", $key, ".")] $api = $key,)*
        }

        impl Api {
            /// Every API, by key.
            pub const ALL: &[Self] = &[$(Self::$api),*];

            /// The API with that key.
            pub const fn from_key(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$api),)*
                    _ => None,
                }
            }

            /// Kafka's name for the API.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$api => stringify!($api),)*
                }
            }

            /// The versions that are accepted.
            pub const fn versions(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$api => $versions,)*
                }
            }

            const fn first_flexible_version(self) -> i16 {
                match self {
                    $(Self::$api => $flexible,)*
                }
            }

            pub(super) const fn request_fields(self) -> &'static [Field] {
                match self {
                    $(Self::$api => $schema,)*
                }
            }
        }
    };
}

apis! {
    Produce                     0 3..=13, 9, schema::PRODUCE;
    Fetch                       1 4..=18, 12, schema::FETCH;
    ListOffsets                 2 1..=11, 6, schema::LIST_OFFSETS;
    Metadata                    3 0..=13, 9, schema::METADATA;
    OffsetCommit                8 2..=10, 8, schema::OFFSET_COMMIT;
    OffsetFetch                 9 1..=10, 6, schema::OFFSET_FETCH;
    FindCoordinator             10 0..=6, 3, schema::FIND_COORDINATOR;
    JoinGroup                   11 0..=9, 6, schema::JOIN_GROUP;
    Heartbeat                   12 0..=4, 4, schema::HEARTBEAT;
    LeaveGroup                  13 0..=5, 4, schema::LEAVE_GROUP;
    SyncGroup                   14 0..=5, 4, schema::SYNC_GROUP;
    DescribeGroups              15 0..=6, 5, schema::DESCRIBE_GROUPS;
    ListGroups                  16 0..=5, 3, schema::LIST_GROUPS;
    ApiVersions                 18 0..=4, 3, schema::API_VERSIONS;
    CreateTopics                19 2..=7, 5, schema::CREATE_TOPICS;
    DeleteTopics                20 1..=6, 4, schema::DELETE_TOPICS;
    DeleteRecords               21 0..=2, 2, schema::DELETE_RECORDS;
    InitProducerId              22 0..=5, 2, schema::INIT_PRODUCER_ID;
    OffsetForLeaderEpoch        23 2..=4, 4, schema::OFFSET_FOR_LEADER_EPOCH;
    DescribeConfigs             32 1..=4, 4, schema::DESCRIBE_CONFIGS;
    AlterConfigs                33 0..=2, 2, schema::ALTER_CONFIGS;
    DescribeLogDirs             35 1..=5, 2, schema::DESCRIBE_LOG_DIRS;
    CreatePartitions            37 0..=3, 2, schema::CREATE_PARTITIONS;
    DeleteGroups                42 0..=2, 2, schema::DELETE_GROUPS;
    ElectLeaders                43 0..=2, 2, schema::ELECT_LEADERS;
    IncrementalAlterConfigs     44 0..=1, 1, schema::INCREMENTAL_ALTER_CONFIGS;
    AlterPartitionReassignments 45 0..=1, 0, schema::ALTER_PARTITION_REASSIGNMENTS;
    ListPartitionReassignments  46 0..=0, 0, schema::LIST_PARTITION_REASSIGNMENTS;
    OffsetDelete                47 0..=0, i16::MAX, schema::OFFSET_DELETE;
    DescribeQuorum              55 0..=2, 0, schema::DESCRIBE_QUORUM;
    DescribeCluster             60 0..=2, 0, schema::DESCRIBE_CLUSTER;
    DescribeProducers           61 0..=0, 0, schema::DESCRIBE_PRODUCERS;
    UnregisterBroker            64 0..=0, 0, schema::UNREGISTER_BROKER;
    DescribeTopicPartitions     75 0..=0, 0, schema::DESCRIBE_TOPIC_PARTITIONS;
    AddRaftVoter                80 0..=1, 0, schema::ADD_RAFT_VOTER;
    RemoveRaftVoter             81 0..=0, 0, schema::REMOVE_RAFT_VOTER;
}

impl Api {
    /// The number on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// The versions that an ApiVersions answer names. Kafka names Produce from 0, which it does not accept, because
    /// librdkafka takes a broker without Produce 0 for one that can't be produced to with compression (KAFKA-18659).
    pub const fn advertised_versions(self) -> RangeInclusive<i16> {
        match self {
            Self::Produce => 0..=*Self::Produce.versions().end(),
            other => other.versions(),
        }
    }

    /// True when that version is accepted.
    pub fn accepts(self, version: i16) -> bool {
        self.versions().contains(&version)
    }

    /// True when that version writes compact lengths and tagged fields (KIP-482).
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.first_flexible_version()
    }

    /// Version of the header before a request.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header before an answer. That of ApiVersions stays 0, since its reader doesn't know yet what we
    /// speak.
    pub const fn response_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) && !matches!(self, Self::ApiVersions) { 1 } else { 0 }
    }
}

impl std::fmt::Display for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;

    /// What Apache Kafka 4.3.1 answered to ApiVersions v0: key, first and last version.
    const KAFKA_4_3_1: &[(i16, i16, i16)] = &[
        (0, 0, 13),
        (1, 4, 18),
        (2, 1, 11),
        (3, 0, 13),
        (8, 2, 10),
        (9, 1, 10),
        (10, 0, 6),
        (11, 0, 9),
        (12, 0, 4),
        (13, 0, 5),
        (14, 0, 5),
        (15, 0, 6),
        (16, 0, 5),
        (17, 0, 1),
        (18, 0, 4),
        (19, 2, 7),
        (20, 1, 6),
        (21, 0, 2),
        (22, 0, 5),
        (23, 2, 4),
        (24, 0, 5),
        (25, 0, 4),
        (26, 0, 5),
        (27, 1, 2),
        (28, 0, 5),
        (29, 1, 3),
        (30, 1, 3),
        (31, 1, 3),
        (32, 1, 4),
        (33, 0, 2),
        (34, 1, 2),
        (35, 1, 5),
        (36, 0, 2),
        (37, 0, 3),
        (38, 1, 3),
        (39, 1, 2),
        (40, 1, 2),
        (41, 1, 3),
        (42, 0, 2),
        (43, 0, 2),
        (44, 0, 1),
        (45, 0, 1),
        (46, 0, 0),
        (47, 0, 0),
        (48, 0, 1),
        (49, 0, 1),
        (50, 0, 0),
        (51, 0, 0),
        (55, 0, 2),
        (57, 0, 2),
        (60, 0, 2),
        (61, 0, 0),
        (64, 0, 0),
        (65, 0, 0),
        (66, 0, 2),
        (68, 0, 1),
        (69, 0, 1),
        (74, 0, 1),
        (75, 0, 0),
        (76, 1, 1),
        (77, 1, 1),
        (78, 1, 2),
        (79, 1, 2),
        (80, 0, 1),
        (81, 0, 0),
        (83, 0, 0),
        (84, 0, 0),
        (85, 0, 1),
        (86, 0, 0),
        (87, 0, 1),
        (88, 0, 0),
        (89, 0, 0),
        (90, 0, 1),
        (91, 0, 0),
        (92, 0, 0),
    ];

    /// Transactions, groups of KIP-848 and later, and security: not served yet.
    const NOT_SERVED: &[i16] = &[
        17, 24, 25, 26, 27, 28, 29, 30, 31, 34, 36, 38, 39, 40, 41, 48, 49, 50, 51, 57, 65, 66, 68, 69, 74, 76, 77, 78,
        79, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92,
    ];

    #[test]
    fn what_is_advertised_is_what_kafka_advertises_less_what_is_not_served() {
        let served: Vec<_> = KAFKA_4_3_1.iter().filter(|(key, ..)| !NOT_SERVED.contains(key)).copied().collect();
        let advertised: Vec<_> = Api::ALL
            .iter()
            .map(|api| (api.key(), *api.advertised_versions().start(), *api.advertised_versions().end()))
            .collect();
        assert_eq!(advertised, served);
    }

    #[test]
    fn headers_are_those_that_the_protocol_crate_writes() {
        for &api in Api::ALL {
            let other = ApiKey::try_from(api.key()).unwrap();
            assert_eq!(format!("{other:?}"), api.name());
            for version in api.versions() {
                assert_eq!(
                    api.request_header_version(version),
                    other.request_header_version(version),
                    "{api} {version}"
                );
                assert_eq!(
                    api.response_header_version(version),
                    other.response_header_version(version),
                    "{api} {version}"
                );
            }
        }
    }

    #[test]
    fn produce_is_advertised_from_a_version_that_is_refused() {
        assert_eq!(Api::Produce.advertised_versions(), 0..=13);
        assert!(!Api::Produce.accepts(2));
        assert_eq!(Api::from_key(24), None);
    }
}

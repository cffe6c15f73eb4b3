//! Replicas that are moved, leaders that are elected, and what throttles the former.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, DescribeConfigsRequest, DescribeLogDirsRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::millis;
use super::cluster::{text, topic_name};
use super::{ClientError, Cluster};

/// Kafka's `ConfigResource.Type`.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;
/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
/// Kafka's `DescribeConfigsResponse.ConfigSource.TOPIC_CONFIG`.
const TOPIC_SOURCE: i8 = 1;
/// Kafka's `ElectionType`.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// The rates that kafka-reassign-partitions sets on brokers, and the lists that it sets on topics.
const RATES: [&str; 2] = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
/// Topics or partitions that one request is about.
const AT_ONCE: usize = 500;

/// A topic's name and a partition's number.
pub type Place = (String, i32);

/// What a broker has of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Bytes in segments.
    pub bytes: u64,
    /// Records that it lacks, where the broker tells that.
    pub lag: i64,
}

/// How an election ended.
#[derive(Debug)]
pub struct Elected {
    /// The partition.
    pub place: Place,
    /// Why there was none.
    pub refused: Option<ClientError>,
}

/// Replicas that catch up, for which rates hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Partitions and the brokers that have them already.
    pub leaders: BTreeSet<(i32, i32)>,
    /// Partitions and the brokers that are to have them.
    pub followers: BTreeSet<(i32, i32)>,
}

/// Has the replicas of partitions move, or takes that back where no brokers are given. Tells what was refused.
pub async fn reassign(
    cluster: &mut Cluster,
    moves: &[(Place, Option<Vec<i32>>)],
) -> Result<Vec<(Place, ClientError)>, ClientError> {
    let mut refused = Vec::new();
    for some in moves.chunks(AT_ONCE) {
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for ((topic, partition), replicas) in some {
            let replicas = replicas.as_ref().map(|nodes| nodes.iter().map(|node| BrokerId(*node)).collect());
            let partition = ReassignablePartition::default().with_partition_index(*partition).with_replicas(replicas);
            topics.entry(topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let limit = cluster.limit();
        let request =
            AlterPartitionReassignmentsRequest::default().with_topics(topics.collect()).with_timeout_ms(millis(limit));
        let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
        ClientError::check("moving replicas", answer.error_code, answer.error_message.as_deref())?;
        for topic in answer.responses {
            for partition in topic.partitions {
                let place = (topic.name.to_string(), partition.partition_index);
                let what = format!("moving the replicas of partition {} of {}", place.1, place.0);
                let checked = ClientError::check(what, partition.error_code, partition.error_message.as_deref());
                refused.extend(checked.err().map(|error| (place, error)));
            }
        }
    }
    Ok(refused)
}

/// Whether there was nothing to take back.
pub const fn was_not_moving(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { code: ResponseError::NoReassignmentInProgress, .. })
}

/// Has preferred replicas lead, or, where nobody does, any that is left; of all partitions where none are named. Those with the leader
/// that they are to have come without an error.
pub async fn elect_leaders(
    cluster: &mut Cluster,
    is_unclean: bool,
    places: Option<&[Place]>,
) -> Result<Vec<Elected>, ClientError> {
    let mut elected = Vec::new();
    match places {
        None => elect_some(cluster, is_unclean, None, &mut elected).await?,
        Some(places) => {
            for some in places.chunks(AT_ONCE) {
                elect_some(cluster, is_unclean, Some(some), &mut elected).await?;
            }
        }
    }
    Ok(elected)
}

async fn elect_some(
    cluster: &mut Cluster,
    is_unclean: bool,
    places: Option<&[Place]>,
    elected: &mut Vec<Elected>,
) -> Result<(), ClientError> {
    let topics = places.map(|places| {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in places {
            topics.entry(topic).or_default().push(*partition);
        }
        let topic =
            |(name, partitions)| TopicPartitions::default().with_topic(topic_name(name)).with_partitions(partitions);
        topics.into_iter().map(topic).collect()
    });
    let limit = cluster.limit();
    let request = ElectLeadersRequest::default()
        .with_election_type(if is_unclean { UNCLEAN } else { PREFERRED })
        .with_topic_partitions(topics)
        .with_timeout_ms(millis(limit));
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check("electing leaders", answer.error_code, None)?;
    for topic in answer.replica_election_results {
        for partition in topic.partition_result {
            let place = (topic.topic.to_string(), partition.partition_id);
            let what = format!("electing the leader of partition {} of {}", place.1, place.0);
            let checked = ClientError::check(what, partition.error_code, partition.error_message.as_deref());
            let is_needed = |error: &ClientError| {
                !matches!(error, ClientError::Refused { code: ResponseError::ElectionNotNeeded, .. })
            };
            elected.push(Elected { place, refused: checked.err().filter(is_needed) });
        }
    }
    Ok(())
}

/// What a broker has on its disks. Only one that the cluster has named can be asked.
pub async fn on_disk(cluster: &mut Cluster, node: i32) -> Result<BTreeMap<Place, OnDisk>, ClientError> {
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let limit = cluster.limit();
    let answer = cluster.broker(node).await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check(format!("describing the disks of broker {node}"), answer.error_code, None)?;
    let topics = answer.results.into_iter().flat_map(|directory| directory.topics);
    let partitions = topics.flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
    });
    let known = partitions.filter(|(_, partition)| !partition.is_future_key).map(|(name, partition)| {
        let bytes = u64::try_from(partition.partition_size).unwrap_or(0);
        ((name, partition.partition_index), OnDisk { bytes, lag: partition.offset_lag })
    });
    Ok(known.collect())
}

/// Sets a rate on brokers, in bytes a second, and the replicas of topics that it holds for, as kafka-reassign-partitions does.
pub async fn throttle(
    cluster: &mut Cluster,
    brokers: &[i32],
    rate: u64,
    topics: &BTreeMap<String, Throttled>,
) -> Result<(), ClientError> {
    let rate = rate.min(i64::MAX.cast_unsigned()).to_string();
    let listed = |replicas: &BTreeSet<(i32, i32)>| {
        let pairs = replicas.iter().map(|(partition, node)| format!("{partition}:{node}"));
        Some(pairs.collect::<Vec<_>>().join(","))
    };
    let topics = topics.iter().map(|(name, throttled)| {
        let lists =
            vec![(LEADER_REPLICAS, listed(&throttled.leaders)), (FOLLOWER_REPLICAS, listed(&throttled.followers))];
        (TOPIC_RESOURCE, name.clone(), lists)
    });
    let rates = || RATES.map(|name| (name, Some(rate.clone()))).to_vec();
    let brokers = brokers.iter().map(|node| (BROKER_RESOURCE, node.to_string(), rates()));
    alter(cluster, topics.chain(brokers).collect()).await
}

/// Removes the rates of brokers, and the lists of topics that have some. Tells how many topics had.
pub async fn unthrottle(cluster: &mut Cluster, brokers: &[i32], topics: &[String]) -> Result<usize, ClientError> {
    let mut listed = Vec::new();
    for some in topics.chunks(AT_ONCE) {
        let resource = |name: &String| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(name))
                .with_configuration_keys(Some(
                    [LEADER_REPLICAS, FOLLOWER_REPLICAS].map(StrBytes::from_static_str).to_vec(),
                ))
        };
        let request = DescribeConfigsRequest::default().with_resources(some.iter().map(resource).collect());
        let answer = cluster.any().await?.send(&request).await?;
        for topic in answer.results {
            // One that was deleted meanwhile has none.
            if topic.configs.iter().any(|config| config.config_source == TOPIC_SOURCE) {
                listed.push(topic.resource_name.to_string());
            }
        }
    }
    let count = listed.len();
    let lists = vec![(LEADER_REPLICAS, None), (FOLLOWER_REPLICAS, None)];
    let topics = listed.into_iter().map(|name| (TOPIC_RESOURCE, name, lists.clone()));
    let rates = RATES.map(|name| (name, None)).to_vec();
    let brokers = brokers.iter().map(|node| (BROKER_RESOURCE, node.to_string(), rates.clone()));
    alter(cluster, topics.chain(brokers).collect()).await?;
    Ok(count)
}

/// A kind of resource, its name, and what is set there or, without a value, removed.
type Alteration = (i8, String, Vec<(&'static str, Option<String>)>);

async fn alter(cluster: &mut Cluster, alterations: Vec<Alteration>) -> Result<(), ClientError> {
    for some in alterations.chunks(AT_ONCE) {
        let config = |(name, value): &(&'static str, Option<String>)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_config_operation(if value.is_some() { SET } else { DELETE })
                .with_value(value.as_deref().map(text))
        };
        let resource = |(kind, name, configs): &Alteration| {
            AlterConfigsResource::default()
                .with_resource_type(*kind)
                .with_resource_name(text(name))
                .with_configs(configs.iter().map(config).collect())
        };
        let request = IncrementalAlterConfigsRequest::default().with_resources(some.iter().map(resource).collect());
        let answer = cluster.controller().await?.send(&request).await?;
        for altered in answer.responses {
            let what = format!("throttling on {}", &*altered.resource_name);
            ClientError::check(what, altered.error_code, altered.error_message.as_deref())?;
        }
    }
    Ok(())
}

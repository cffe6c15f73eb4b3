//! AlterPartitionReassignments and ListPartitionReassignments: replicas that move from broker to broker (KIP-455).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::wire::{broker_id, message, topic_name};
use super::{Context, Handle};
use crate::broker::{ClusterError, MAX_REASSIGNMENTS, Reassignment};
use crate::metadata::image::{Partition, Topic};
use crate::server::errors::cluster_code;
use crate::types::NodeId;

impl Handle for AlterPartitionReassignmentsRequest {
    async fn handle(self, context: &Context) -> AlterPartitionReassignmentsResponse {
        if self.topics.is_empty() {
            return AlterPartitionReassignmentsResponse::default();
        }
        let requested: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        if self.timeout_ms <= 0 {
            return refused(context, self.topics, &ClusterError::NoTime);
        }
        if requested > MAX_REASSIGNMENTS {
            return refused(context, self.topics, &ClusterError::TooManyAtOnce { requested });
        }
        let mut wanted = Vec::with_capacity(requested);
        for topic in &self.topics {
            wanted.extend(topic.partitions.iter().map(|partition| reassignment(topic, partition)));
        }
        let may_change_factor = self.allow_replication_factor_change;
        let mut results = VecDeque::from(context.broker.reassign(&wanted, may_change_factor).await);
        let topics = self.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|partition| {
                let result = results.pop_front().expect("each partition has a result");
                described(context, partition.partition_index, result)
            });
            ReassignableTopicResponse::default().with_partitions(partitions.collect()).with_name(topic.name)
        });
        AlterPartitionReassignmentsResponse::default()
            .with_error_message(None)
            .with_allow_replication_factor_change(may_change_factor)
            .with_responses(topics.collect())
    }
}

fn reassignment(topic: &ReassignableTopic, partition: &ReassignablePartition) -> Reassignment {
    let nodes = |ids: &Vec<BrokerId>| ids.iter().map(|id| NodeId(id.0)).collect();
    Reassignment {
        topic: topic.name.to_string(),
        partition: partition.partition_index,
        target: partition.replicas.as_ref().map(nodes),
    }
}

fn described(context: &Context, partition: i32, result: Result<(), ClusterError>) -> ReassignablePartitionResponse {
    let described = ReassignablePartitionResponse::default().with_partition_index(partition);
    match result {
        Ok(()) => described.with_error_message(None),
        Err(error) => {
            let code = cluster_code(&error);
            context.count_error(code);
            described.with_error_code(code.code()).with_error_message(message(error))
        }
    }
}

/// Refuses all that is named. The text is told once.
fn refused(
    context: &Context,
    topics: Vec<ReassignableTopic>,
    error: &ClusterError,
) -> AlterPartitionReassignmentsResponse {
    let code = cluster_code(error);
    context.count_error(code);
    let result = |partition: ReassignablePartition| {
        let result = ReassignablePartitionResponse::default().with_partition_index(partition.partition_index);
        let text = StrBytes::from_static_str(code.message());
        result.with_error_code(code.code()).with_error_message(Some(text))
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(result);
        ReassignableTopicResponse::default().with_partitions(partitions.collect()).with_name(topic.name)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_error_code(code.code())
        .with_error_message(message(error))
        .with_responses(topics.collect())
}

impl Handle for ListPartitionReassignmentsRequest {
    async fn handle(self, context: &Context) -> ListPartitionReassignmentsResponse {
        context.take_place().await;
        let image = context.broker.image();
        let topics: Vec<_> = match self.topics {
            None => image.topics().filter_map(|topic| ongoing(topic, 0..topic.partition_count())).collect(),
            Some(named) => {
                // Each partition comes once in the answer, however often it is named.
                let mut wanted: BTreeMap<_, BTreeSet<i32>> = BTreeMap::new();
                for topic in named {
                    wanted.entry(topic.name).or_default().extend(topic.partition_indexes);
                }
                let known = wanted.into_iter().filter_map(|(name, indexes)| Some((image.topic_named(&name)?, indexes)));
                known.filter_map(|(topic, indexes)| ongoing(topic, indexes)).collect()
            }
        };
        ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
    }
}

/// What moves of a topic, if anything does.
fn ongoing(topic: &Topic, indexes: impl IntoIterator<Item = i32>) -> Option<OngoingTopicReassignment> {
    let moving = indexes.into_iter().filter_map(|index| moving(index, topic.partition(index)?));
    let moving: Vec<_> = moving.collect();
    let topic = OngoingTopicReassignment::default().with_name(topic_name(&topic.name));
    if moving.is_empty() { None } else { Some(topic.with_partitions(moving)) }
}

fn moving(index: i32, partition: &Partition) -> Option<OngoingPartitionReassignment> {
    let moving = partition.moving.as_ref()?;
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node_id| broker_id(Some(*node_id))).collect();
    Some(
        OngoingPartitionReassignment::default()
            .with_partition_index(index)
            .with_replicas(partition.replica_nodes().map(|node_id| broker_id(Some(node_id))).collect())
            .with_adding_replicas(ids(&moving.adding))
            .with_removing_replicas(ids(&moving.removing)),
    )
}

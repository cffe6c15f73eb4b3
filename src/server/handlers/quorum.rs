//! DescribeQuorum, AddRaftVoter and RemoveRaftVoter: who decides about the cluster's metadata (KIP-595, KIP-853).

use kafka_protocol::messages::describe_quorum_request::TopicData as WantedTopic;
use kafka_protocol::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeQuorumRequest, DescribeQuorumResponse, RemoveRaftVoterRequest,
    RemoveRaftVoterResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::wire::{broker_id, message, text, topic_name};
use super::{Context, Handle};
use crate::broker::ClusterError;
use crate::metadata::{Image, QuorumStatus};
use crate::protocol::ErrorCode;
use crate::server::errors::cluster_code;
use crate::types::{DirectoryId, NodeId};

/// Kafka's name for the metadata log.
const CLUSTER_METADATA: &str = "__cluster_metadata";
/// First version that tells the voters' directories and where the nodes listen.
const FIRST_DIRECTORY_VERSION: i16 = 2;

impl Handle for DescribeQuorumRequest {
    async fn handle(self, context: &Context) -> DescribeQuorumResponse {
        if !is_of_metadata(&self.topics) {
            context.count_error(ErrorCode::UnknownTopicOrPartition);
            let topics = self.topics.into_iter().map(|topic| {
                let indexes = topic.partitions.into_iter().map(|partition| partition.partition_index);
                let partitions = indexes.map(|index| refused(index, ErrorCode::UnknownTopicOrPartition));
                TopicData::default().with_partitions(partitions.collect()).with_topic_name(topic.topic_name)
            });
            return DescribeQuorumResponse::default().with_topics(topics.collect());
        }
        let (status, image) = (context.broker.quorum_status().await, context.broker.image());
        let tells_directories = context.version() >= FIRST_DIRECTORY_VERSION;
        let partition = match &status {
            Some(status) => described(status, &image, tells_directories),
            None => {
                context.count_error(ErrorCode::NotLeaderOrFollower);
                refused(0, ErrorCode::NotLeaderOrFollower)
            }
        };
        let topic = TopicData::default().with_topic_name(topic_name(CLUSTER_METADATA)).with_partitions(vec![partition]);
        let response = DescribeQuorumResponse::default().with_topics(vec![topic]);
        match status.filter(|_| tells_directories) {
            Some(status) => response.with_nodes(status.progress.keys().map(|node_id| node(*node_id, &image)).collect()),
            None => response,
        }
    }
}

/// Whether a request is for the one partition that there is, and for nothing else.
fn is_of_metadata(topics: &[WantedTopic]) -> bool {
    let [topic] = topics else { return false };
    let is_first = topic.partitions.len() == 1 && topic.partitions[0].partition_index == 0;
    is_first && *topic.topic_name.as_str() == *CLUSTER_METADATA
}

fn refused(index: i32, error: ErrorCode) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_static_str(error.message())))
}

fn described(status: &QuorumStatus, image: &Image, tells_directories: bool) -> PartitionData {
    let state = |(node_id, index): (&NodeId, &Option<u64>)| {
        let directory = if tells_directories { directory_of(image, *node_id) } else { Uuid::nil() };
        ReplicaState::default()
            .with_replica_id(broker_id(Some(*node_id)))
            .with_replica_directory_id(directory)
            .with_log_end_offset(index.map_or(-1, end_after))
    };
    let is_voter = |(node_id, _): &(&NodeId, &Option<u64>)| status.voters.contains(*node_id);
    let (voters, observers): (Vec<_>, Vec<_>) = status.progress.iter().partition(is_voter);
    PartitionData::default()
        .with_leader_id(broker_id(Some(status.leader)))
        .with_leader_epoch(i32::try_from(status.term).unwrap_or(i32::MAX))
        .with_high_watermark(end_after(status.committed_index))
        .with_current_voters(voters.into_iter().map(state).collect())
        .with_observers(observers.into_iter().map(state).collect())
}

/// The offset behind an entry of the metadata log.
fn end_after(index: u64) -> i64 {
    i64::try_from(index).map_or(i64::MAX, |index| index.saturating_add(1))
}

fn directory_of(image: &Image, node_id: NodeId) -> Uuid {
    let directory = image.broker(node_id).and_then(|broker| broker.directories.first().copied());
    directory.map_or(Uuid::nil(), DirectoryId::uuid)
}

/// Where a node listens. Clients speak to its metadata as they speak to the broker. Kafka's Java client takes names of capitals only.
fn node(node_id: NodeId, image: &Image) -> Node {
    let listeners = image.broker(node_id).into_iter().flat_map(|broker| &broker.listeners).map(|(name, endpoint)| {
        Listener::default()
            .with_name(text(&name.to_uppercase()))
            .with_host(text(&endpoint.host))
            .with_port(endpoint.port)
    });
    Node::default().with_node_id(broker_id(Some(node_id))).with_listeners(listeners.collect())
}

/// What came of a change of the voters, for the wire.
type Told = (ErrorCode, Option<StrBytes>);

impl Handle for AddRaftVoterRequest {
    async fn handle(self, context: &Context) -> AddRaftVoterResponse {
        let directory = Some(self.voter_directory_id).filter(|directory| !directory.is_nil());
        let (error, text) = match check_voter(context, self.cluster_id.as_ref(), self.voter_id, directory) {
            Err(refused) => refused,
            // The node's address is known already, so that what the listeners are does not matter.
            Ok(_) if self.listeners.is_empty() => {
                (ErrorCode::InvalidRequest, message("the request names no listener of the voter"))
            }
            Ok((node_id, directory)) => told(context.broker.add_voter(node_id, directory).await),
        };
        context.count_error(error);
        AddRaftVoterResponse::default().with_error_code(error.code()).with_error_message(text)
    }
}

impl Handle for RemoveRaftVoterRequest {
    async fn handle(self, context: &Context) -> RemoveRaftVoterResponse {
        let given = self.voter_directory_id;
        // As DescribeQuorum tells it.
        let is_told = !given.is_nil() || context.broker.votes_unregistered(NodeId(self.voter_id)).await;
        let directory = Some(given).filter(|_| is_told);
        let (error, text) = match check_voter(context, self.cluster_id.as_ref(), self.voter_id, directory) {
            Err(refused) => refused,
            Ok((node_id, directory)) => told(context.broker.remove_voter(node_id, directory).await),
        };
        context.count_error(error);
        RemoveRaftVoterResponse::default().with_error_code(error.code()).with_error_message(text)
    }
}

/// The voter that a request names, checked in Kafka's order.
fn check_voter(
    context: &Context,
    cluster_id: Option<&StrBytes>,
    voter_id: i32,
    directory: Option<Uuid>,
) -> Result<(NodeId, DirectoryId), Told> {
    let ours = context.broker.cluster_id().to_string();
    if let Some(given) = cluster_id.map(|given| &**given).filter(|given| *given != ours) {
        let text = format!("the request is for the cluster {given}, and this is {ours}");
        return Err((ErrorCode::InconsistentClusterId, message(text)));
    }
    match directory {
        Some(directory) if voter_id >= 0 => Ok((NodeId(voter_id), DirectoryId::new(directory))),
        _ => {
            let text = "a voter is named by its number and by the identity of its first data directory";
            Err((ErrorCode::InvalidRequest, message(text)))
        }
    }
}

fn told(changed: Result<(), ClusterError>) -> Told {
    match changed {
        Ok(()) => (ErrorCode::None, None),
        Err(error) => (cluster_code(&error), message(error)),
    }
}

//! The cluster itself: its brokers, the quorum of its metadata, and the partitions whose replicas move.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::describe_quorum_request::{PartitionData as WantedPartition, TopicData as WantedTopic};
use kafka_protocol::messages::describe_quorum_response::{Node, PartitionData, ReplicaState};
use kafka_protocol::messages::{
    AddRaftVoterRequest, BrokerId, DescribeClusterRequest, DescribeQuorumRequest, ListPartitionReassignmentsRequest,
    RemoveRaftVoterRequest, UnregisterBrokerRequest,
};

use super::admin::millis;
use super::cluster::{address_of, topic_name};
use super::{ClientError, Cluster};

/// Kafka's name for the metadata log.
const CLUSTER_METADATA: &str = "__cluster_metadata";
/// The first `DescribeCluster` that tells fenced brokers (KIP-1073).
const FIRST_WITH_FENCED: i16 = 2;

/// The brokers of a cluster.
#[derive(Clone, Debug)]
pub struct Members {
    /// The cluster.
    pub cluster_id: String,
    /// The broker that takes changes; −1 for none.
    pub controller: i32,
    /// The brokers, by number.
    pub brokers: Vec<Member>,
}

/// One broker.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub id: i32,
    /// Where clients reach it.
    pub host: String,
    /// The port there.
    pub port: i32,
    /// Where it stands.
    pub rack: Option<String>,
    /// It is registered and takes no part: it is down, or can't be reached.
    pub is_fenced: bool,
}

impl Member {
    /// Where clients reach it, as `host:port`.
    pub fn address(&self) -> String {
        address_of(&self.host, self.port)
    }
}

/// Who decides about the metadata.
#[derive(Clone, Debug)]
pub struct Quorum {
    /// The leader.
    pub leader: i32,
    /// Those whose votes count.
    pub voters: Vec<QuorumNode>,
    /// Those who follow without a vote.
    pub observers: Vec<QuorumNode>,
}

/// One node of the quorum.
#[derive(Clone, Debug)]
pub struct QuorumNode {
    /// Its number.
    pub id: i32,
    /// How many entries of the metadata log it is behind the leader; `None` where the leader does not know.
    pub lag: Option<i64>,
    /// When it had everything, by the leader's calendar in milliseconds; `None` where that is not told.
    pub last_caught_up_ms: Option<i64>,
}

/// A partition whose replicas move.
#[derive(Clone, Debug)]
pub struct Moving {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// All that hold it meanwhile.
    pub replicas: Vec<i32>,
    /// Those that are to hold it.
    pub adding: Vec<i32>,
    /// Those that are to hold it no more.
    pub removing: Vec<i32>,
}

/// The brokers, fenced ones too where the cluster tells them.
pub async fn members(cluster: &mut Cluster) -> Result<Members, ClientError> {
    let broker = cluster.any().await?;
    let tells_fenced =
        broker.version::<DescribeClusterRequest>(i16::MAX).is_some_and(|version| version >= FIRST_WITH_FENCED);
    let answer = broker.send(&DescribeClusterRequest::default().with_include_fenced_brokers(tells_fenced)).await?;
    ClientError::check("describing the cluster", answer.error_code, answer.error_message.as_deref())?;
    let brokers = answer.brokers.into_iter().map(|broker| Member {
        id: broker.broker_id.0,
        host: broker.host.to_string(),
        port: broker.port,
        rack: broker.rack.map(|rack| rack.to_string()),
        is_fenced: broker.is_fenced,
    });
    let mut brokers: Vec<Member> = brokers.collect();
    brokers.sort_by_key(|broker| broker.id);
    Ok(Members { cluster_id: answer.cluster_id.to_string(), controller: answer.controller_id.0, brokers })
}

/// The quorum; `None` while it has no leader.
pub async fn quorum(cluster: &mut Cluster) -> Result<Option<Quorum>, ClientError> {
    let (state, _) = match describe_quorum(cluster).await {
        Err(ClientError::Refused { code: ResponseError::NotLeaderOrFollower, .. }) => return Ok(None),
        described => described?,
    };
    let leader = state.leader_id;
    let mut all = state.current_voters.iter().chain(&state.observers);
    let end = all.find(|node| node.replica_id == leader).map_or(-1, |node| node.log_end_offset);
    let known = |number: i64| Some(number).filter(|number| *number >= 0);
    let node = |node: &ReplicaState| QuorumNode {
        id: node.replica_id.0,
        lag: known(node.log_end_offset).and_then(|own| Some(known(end)?.saturating_sub(own).max(0))),
        last_caught_up_ms: known(node.last_caught_up_timestamp),
    };
    let nodes = |nodes: &[ReplicaState]| nodes.iter().map(node).collect();
    Ok(Some(Quorum { leader: leader.0, voters: nodes(&state.current_voters), observers: nodes(&state.observers) }))
}

/// The quorum as the protocol tells it, and where its nodes listen.
async fn describe_quorum(cluster: &mut Cluster) -> Result<(PartitionData, Vec<Node>), ClientError> {
    const WHAT: &str = "describing the metadata quorum";
    let partition = WantedPartition::default().with_partition_index(0);
    let topic = WantedTopic::default().with_topic_name(topic_name(CLUSTER_METADATA)).with_partitions(vec![partition]);
    let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
    let answer = cluster.any().await?.send(&request).await?;
    ClientError::check(WHAT, answer.error_code, answer.error_message.as_deref())?;
    let state = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let unknown = || ClientError::Refused {
        what: WHAT.to_owned(),
        code: ResponseError::UnknownTopicOrPartition,
        message: Some("the broker does not know the metadata's log".to_owned()),
    };
    let state = state.ok_or_else(unknown)?;
    ClientError::check(WHAT, state.error_code, state.error_message.as_deref())?;
    Ok((state, answer.nodes))
}

/// The partitions whose replicas move.
pub async fn moving(cluster: &mut Cluster) -> Result<Vec<Moving>, ClientError> {
    let limit = cluster.limit();
    let request = ListPartitionReassignmentsRequest::default().with_topics(None).with_timeout_ms(millis(limit));
    let answer = cluster.any().await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check("listing reassignments", answer.error_code, answer.error_message.as_deref())?;
    let numbers = |nodes: &[BrokerId]| nodes.iter().map(|node| node.0).collect();
    let mut moving = Vec::new();
    for topic in &answer.topics {
        moving.extend(topic.partitions.iter().map(|partition| Moving {
            topic: topic.name.to_string(),
            partition: partition.partition_index,
            replicas: numbers(&partition.replicas),
            adding: numbers(&partition.adding_replicas),
            removing: numbers(&partition.removing_replicas),
        }));
    }
    Ok(moving)
}

/// Gives a node that follows the metadata a vote.
pub async fn add_voter(cluster: &mut Cluster, id: i32) -> Result<(), ClientError> {
    let what = format!("adding the voter {id}");
    let (state, nodes) = describe_quorum(cluster).await?;
    let node = find(state.observers.iter().chain(&state.current_voters), id).ok_or_else(|| {
        let message = "no node of this number follows the metadata; start it with --join, and see `cluster status`";
        not_found(&what, message)
    })?;
    let listeners = nodes.into_iter().filter(|node| node.node_id.0 == id).flat_map(|node| node.listeners);
    let listener = |it: kafka_protocol::messages::describe_quorum_response::Listener| {
        Listener::default().with_name(it.name).with_host(it.host).with_port(it.port)
    };
    let limit = cluster.limit();
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_timeout_ms(millis(limit))
        .with_voter_id(id)
        .with_voter_directory_id(node.replica_directory_id)
        .with_listeners(listeners.map(listener).collect());
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check(what, answer.error_code, answer.error_message.as_deref())
}

/// Takes a node's vote.
pub async fn remove_voter(cluster: &mut Cluster, id: i32) -> Result<(), ClientError> {
    let what = format!("removing the voter {id}");
    let (state, _) = describe_quorum(cluster).await?;
    let node = find(state.current_voters.iter(), id)
        .ok_or_else(|| not_found(&what, "no voter has this number; `cluster status` lists them"))?;
    let request = RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(id)
        .with_voter_directory_id(node.replica_directory_id);
    let limit = cluster.limit();
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check(what, answer.error_code, answer.error_message.as_deref())
}

/// Forgets a broker that is gone for good.
pub async fn unregister(cluster: &mut Cluster, id: i32) -> Result<(), ClientError> {
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
    let limit = cluster.limit();
    let answer = cluster.controller().await?.send_at_most(&request, i16::MAX, limit).await?;
    ClientError::check(format!("unregistering the broker {id}"), answer.error_code, answer.error_message.as_deref())
}

fn find<'a>(mut nodes: impl Iterator<Item = &'a ReplicaState>, id: i32) -> Option<&'a ReplicaState> {
    nodes.find(|node| node.replica_id.0 == id)
}

fn not_found(what: &str, message: &str) -> ClientError {
    ClientError::Refused {
        what: what.to_owned(),
        code: ResponseError::VoterNotFound,
        message: Some(message.to_owned()),
    }
}

//! What administrators ask of a cluster, of one that has a single broker.

use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AlterPartitionReassignmentsRequest, BrokerId, CreatePartitionsRequest, DescribeClusterRequest,
    DescribeQuorumRequest, ElectLeadersRequest, FindCoordinatorRequest, ListPartitionReassignmentsRequest,
    RemoveRaftVoterRequest, UnregisterBrokerRequest, add_raft_voter_request,
};

use super::*;
use crate::metadata::broker_config::{RACK_AWARE_SELECTOR, REPLICA_SELECTOR};
use crate::types::{DirectoryId, NodeId};

const MISSING: &str = "missing";

/// A request of a version with tagged fields, and its answer.
async fn ask<R: ApiRequest>(client: &mut Client, request: &R, version: i16) -> R::Response {
    assert!(R::API.is_flexible(version), "{} {version}", R::API);
    let mut out = BytesMut::new();
    out.put_i32(0);
    out.put_i16(R::API.key());
    out.put_i16(version);
    out.put_i32(7);
    out.put_i16(-1);
    out.put_u8(0);
    request.encode(&mut out, version).unwrap();
    let length = u32::try_from(out.len() - 4).unwrap();
    out[..4].copy_from_slice(&length.to_be_bytes());
    client.send(&[out.freeze()]).await;
    let (correlation_id, mut body) = client.receive().await;
    assert_eq!(correlation_id, 7);
    assert_eq!(body.get_u8(), 0, "the header's tagged fields");
    R::Response::decode(&mut body, version).unwrap()
}

/// A broker with one topic of two partitions.
async fn start_with_topic(directory: &std::path::Path) -> (Server, Client) {
    let server = start(directory, ConnectionLimits::default()).await;
    let mut client = Client::connect(&server).await;
    let new = CreatableTopic::default().with_name(topic()).with_num_partitions(2).with_replication_factor(-1);
    client.send(&[frame(&CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(5000), 4, 1)]).await;
    let answer = CreateTopicsResponse::decode(&mut client.receive().await.1, 4).unwrap();
    assert_eq!(answer.topics[0].error_code, 0);
    (server, client)
}

fn name(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_lead_are_not_elected_again() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let named = |topic, partitions: &[i32]| {
        TopicPartitions::default().with_topic(name(topic)).with_partitions(partitions.to_vec())
    };
    let request = |kind, topics| {
        ElectLeadersRequest::default().with_election_type(kind).with_topic_partitions(topics).with_timeout_ms(5000)
    };
    for kind in [0, 1] {
        let asked = request(kind, Some(vec![named(TOPIC, &[1, 5]), named(MISSING, &[0])]));
        let answer = ask(&mut client, &asked, 2).await;
        let codes: Vec<Vec<_>> = answer
            .replica_election_results
            .iter()
            .map(|topic| topic.partition_result.iter().map(|one| (one.partition_id, one.error_code)).collect())
            .collect();
        assert_eq!((answer.error_code, codes), (0, vec![vec![(1, 84), (5, 3)], vec![(0, 3)]]), "{kind}");
    }
    let all = ask(&mut client, &request(0, None), 2).await;
    assert_eq!(all.replica_election_results.len(), 1);
    assert!(all.replica_election_results[0].partition_result.is_empty());
    for (asked, code) in [
        (request(7, Some(vec![named(TOPIC, &[0])])), 42),
        (request(0, Some(vec![named(TOPIC, &[0])])).with_timeout_ms(0), 7),
    ] {
        let refused = ask(&mut client, &asked, 2).await;
        assert_eq!(refused.error_code, code);
        assert_eq!(refused.replica_election_results[0].partition_result[0].error_code, code);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_move_nowhere_where_there_is_one_broker() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let request = |topic, replicas: Option<&[i32]>| {
        let replicas = replicas.map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
        let partition = ReassignablePartition::default().with_partition_index(1).with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        AlterPartitionReassignmentsRequest::default().with_timeout_ms(5000).with_topics(vec![topic])
    };
    let cases: [(&'static str, Option<&[i32]>, i16); 6] = [
        (TOPIC, Some(&[1]), 0),
        (TOPIC, None, 85),
        (TOPIC, Some(&[]), 39),
        (TOPIC, Some(&[1, 1]), 39),
        (TOPIC, Some(&[1, 2]), 39),
        (MISSING, Some(&[1]), 3),
    ];
    for (topic, replicas, code) in cases {
        let answer = ask(&mut client, &request(topic, replicas), 1).await;
        assert_eq!(answer.error_code, 0);
        assert_eq!(answer.responses[0].partitions[0].error_code, code, "{topic} {replicas:?}");
    }
    let late = ask(&mut client, &request(TOPIC, None).with_timeout_ms(-1), 1).await;
    assert_eq!((late.error_code, late.responses[0].partitions[0].error_code), (7, 7));
    let ongoing = ask(&mut client, &ListPartitionReassignmentsRequest::default().with_topics(None), 0).await;
    assert_eq!((ongoing.error_code, ongoing.topics.len()), (0, 0));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_have_no_more_replicas_than_there_are_brokers() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let by_number = |replicas| CreatableTopic::default().with_num_partitions(1).with_replication_factor(replicas);
    let by_hand = |brokers: &[i32]| {
        let brokers = brokers.iter().map(|id| BrokerId(*id)).collect();
        let assigned = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(brokers);
        by_number(-1).with_num_partitions(-1).with_assignments(vec![assigned])
    };
    for (topic, code) in [
        (by_number(1), 0),
        (by_number(-1), 0),
        (by_number(2), 38),
        (by_number(0), 38),
        (by_number(-2), 38),
        (by_hand(&[1]), 0),
        (by_hand(&[1, 2]), 39),
        (by_hand(&[1, 1]), 39),
        (by_hand(&[]), 39),
    ] {
        let asked = CreateTopicsRequest::default().with_timeout_ms(5000).with_validate_only(true);
        let asked = asked.with_topics(vec![topic.with_name(name("another"))]);
        let answer = ask(&mut client, &asked, 5).await;
        assert_eq!(answer.topics[0].error_code, code, "{asked:?}");
    }
    let more = |brokers: &[i32]| {
        let brokers = brokers.iter().map(|id| BrokerId(*id)).collect();
        let assigned = CreatePartitionsAssignment::default().with_broker_ids(brokers);
        let topic = CreatePartitionsTopic::default().with_name(name(TOPIC)).with_count(3);
        let topics = vec![topic.with_assignments(Some(vec![assigned]))];
        CreatePartitionsRequest::default().with_timeout_ms(5000).with_validate_only(true).with_topics(topics)
    };
    let cases: [(&[i32], i16); 4] = [(&[1], 0), (&[1, 1], 39), (&[2], 39), (&[], 39)];
    for (brokers, code) in cases {
        let answer = ask(&mut client, &more(brokers), 2).await;
        assert_eq!(answer.results[0].error_code, code, "{brokers:?}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_broker_sends_no_consumer_anywhere_whatever_its_rack() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let config = incremental_alter_configs_request::AlterableConfig::default()
        .with_name(StrBytes::from_static_str(REPLICA_SELECTOR))
        .with_value(Some(StrBytes::from_static_str(RACK_AWARE_SELECTOR)));
    let resource = incremental_alter_configs_request::AlterConfigsResource::default().with_resource_type(4);
    let altered = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![config])]);
    assert_eq!(ask(&mut client, &altered, 1).await.responses[0].error_code, 0);
    client.send(&[produce("value", 2)]).await;
    let produced = ProduceResponse::decode(&mut client.receive().await.1, 7).unwrap();
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let fetched = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    let asked = FetchRequest::default().with_rack_id(StrBytes::from_static_str("rack")).with_topics(vec![fetched]);
    let answer = ask(&mut client, &asked, 12).await;
    let partition = &answer.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.preferred_read_replica), (0, BrokerId(-1)));
    assert!(partition.records.as_ref().is_some_and(|records| !records.is_empty()));
    server.shutdown().await;
}

/// The directory by which the quorum knows the broker.
fn directory_of(server: &Server) -> DirectoryId {
    server.broker().metadata_directory(NodeId(1)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_broker_is_its_quorum_and_stays_it() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let request = |topic, index| {
        let partitions = vec![PartitionData::default().with_partition_index(index)];
        let topic = TopicData::default().with_topic_name(name(topic)).with_partitions(partitions);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    };
    let known = directory_of(&server).uuid();
    for version in 0..=2 {
        let answer = ask(&mut client, &request("__cluster_metadata", 0), version).await;
        let partition = &answer.topics[0].partitions[0];
        assert_eq!((answer.error_code, partition.error_code, partition.leader_id), (0, 0, BrokerId(1)));
        assert!(partition.high_watermark > 1 && partition.observers.is_empty());
        let [voter] = &partition.current_voters[..] else { panic!("one voter") };
        assert_eq!((voter.replica_id, voter.log_end_offset >= partition.high_watermark), (BrokerId(1), true));
        assert_eq!(voter.replica_directory_id, if version < 2 { uuid::Uuid::nil() } else { known });
        assert_eq!(answer.nodes.iter().map(|node| node.listeners.len()).sum::<usize>(), usize::from(version == 2));
    }
    let unknown = ask(&mut client, &request(MISSING, 0), 2).await;
    assert_eq!(unknown.topics[0].partitions[0].error_code, 3);

    let listener = add_raft_voter_request::Listener::default();
    let add = |cluster_id, voter_id, directory_id| {
        let add = AddRaftVoterRequest::default().with_cluster_id(cluster_id).with_voter_id(voter_id);
        add.with_voter_directory_id(directory_id).with_listeners(vec![listener.clone()])
    };
    let other = Some(StrBytes::from_static_str("another"));
    for (asked, code) in [
        (add(other.clone(), 1, known), 104),
        (add(None, -1, known), 42),
        (add(None, 1, uuid::Uuid::nil()), 42),
        (add(None, 1, known).with_listeners(Vec::new()), 42),
        (add(None, 1, known), 126),
        (add(None, 2, known), 42),
    ] {
        assert_eq!(ask(&mut client, &asked, 0).await.error_code, code, "{asked:?}");
    }
    let remove = |cluster_id, directory_id| {
        let remove = RemoveRaftVoterRequest::default().with_cluster_id(cluster_id).with_voter_id(1);
        remove.with_voter_directory_id(directory_id)
    };
    let wrong = uuid::Uuid::from_u128(1);
    for (asked, code) in [
        (remove(other, known), 104),
        (remove(None, uuid::Uuid::nil()), 42),
        (remove(None, wrong), 127),
        (remove(None, known), 42),
    ] {
        assert_eq!(ask(&mut client, &asked, 0).await.error_code, code, "{asked:?}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_serves_is_not_unregistered_and_is_told_to_clients() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start_with_topic(directory.path()).await;
    let unregister = |id| UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
    assert_eq!(ask(&mut client, &unregister(9), 0).await.error_code, 102);
    assert_eq!(ask(&mut client, &unregister(1), 0).await.error_code, 42);
    let all = DescribeClusterRequest::default().with_include_fenced_brokers(true);
    let cluster = ask(&mut client, &all, 2).await;
    assert_eq!((cluster.controller_id, cluster.brokers.len()), (BrokerId(1), 1));
    assert!(!cluster.brokers[0].is_fenced);
    let keys = ["a", "b"].map(StrBytes::from_static_str).to_vec();
    let coordinators = ask(&mut client, &FindCoordinatorRequest::default().with_coordinator_keys(keys), 4).await;
    let found = coordinators.coordinators.iter().map(|one| (one.error_code, one.node_id)).collect::<Vec<_>>();
    assert_eq!(found, vec![(0, BrokerId(1)); 2]);
    server.shutdown().await;
}

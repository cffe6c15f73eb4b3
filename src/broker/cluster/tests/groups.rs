//! Groups of three brokers: each has its coordinator where its partition of `__consumer_offsets` is led, and goes on elsewhere when
//! that broker goes, or is refused while too few replicas could keep what it commits.

use super::*;
use crate::broker::{ConfigEdit, ConfigResource, OFFSETS_TOPIC, TopicName};
use crate::group::request::{CommitPartition, CommitTopic, ListGroups, OffsetCommit, OffsetFetch};
use crate::group::{GroupError, partition_of};
use crate::metadata::topic_config::ConfigOperation;
use crate::types::{LeaderEpoch, TopicId};

const TOPIC: &str = "events";

/// Tries of what a client tries again, and the pause between them.
const TRIES: usize = 1500;
const PAUSE: Duration = Duration::from_millis(10);

fn commit_of(group: &str, offset: i64) -> OffsetCommit {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() };
    OffsetCommit {
        group_id: group.into(),
        generation: -1,
        member_id: "".into(),
        group_instance_id: None,
        api_version: 8,
        retention_ms: None,
        topics: vec![CommitTopic { topic: TOPIC.into(), topic_id: TopicId::ZERO, partitions: vec![partition] }],
    }
}

/// The broker that coordinates a group, by what the first of them knows.
fn coordinator<'a>(brokers: &[&'a Arc<Broker>], group: &str) -> Option<&'a Arc<Broker>> {
    let image = brokers[0].image();
    let topic = image.topic_named(OFFSETS_TOPIC)?;
    let leader = topic.partition(partition_of(group, topic.partition_count()).get())?.leader?;
    brokers.iter().find(|broker| broker.node_id() == leader).copied()
}

/// Commits as a client does: it finds the coordinator, and tries again.
async fn commit(brokers: &[&Arc<Broker>], group: &str, offset: i64) {
    for _ in 0..TRIES {
        if let Some(broker) = coordinator(brokers, group)
            && broker.groups().commit_offsets(commit_of(group, offset)).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("nobody takes commits of {group}");
}

async fn committed(brokers: &[&Arc<Broker>], group: &str) -> Option<i64> {
    for _ in 0..TRIES {
        if let Some(broker) = coordinator(brokers, group)
            && let Ok(topics) = broker.fetch_offsets(OffsetFetch { group_id: group.into(), topics: None }).await
        {
            return topics.first().map(|topic| topic.partitions[0].offset);
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("nobody tells offsets of {group}");
}

async fn listed(brokers: &[&Arc<Broker>]) -> usize {
    let mut count = 0;
    for broker in brokers {
        count += broker.groups().list_groups(ListGroups::default()).await.map_or(0, |groups| groups.len());
    }
    count
}

async fn three(cluster: &mut Cluster3) -> [Arc<Broker>; 3] {
    let brokers = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    for broker in &brokers {
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
    }
    create(&brokers[0], TOPIC, 1).await;
    brokers[1].offsets_topic().await.unwrap();
    for broker in &brokers {
        until("the topic is not known", || broker.image().topic_named(OFFSETS_TOPIC).is_some()).await;
    }
    brokers
}

/// One goes in good order.
async fn leave(broker: Arc<Broker>) {
    broker.drain().await;
    stop([broker]).await;
}

async fn stop(brokers: impl IntoIterator<Item = Arc<Broker>>) {
    for broker in brokers {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

/// Has commits wait for so many replicas.
async fn want_in_sync(broker: &Broker, replicas: &str) {
    let set = ConfigOperation::Set(replicas.to_owned());
    let edit = ConfigEdit::Operations(vec![("min.insync.replicas".to_owned(), set)]);
    broker.alter_configs(&ConfigResource::Topic(OFFSETS_TOPIC.to_owned()), &edit, false).await.unwrap();
}

/// How many replicas of a group's partition are in sync, and how many have to be, as its leader knows.
fn in_sync(brokers: &[&Arc<Broker>], group: &str) -> Option<(usize, usize)> {
    let broker = coordinator(brokers, group)?;
    let image = broker.image();
    let topic = image.topic_named(OFFSETS_TOPIC)?;
    let number = partition_of(group, topic.partition_count()).get();
    let in_sync = broker.leader(topic, number, LeaderEpoch::NONE).ok()?.partition.in_sync()?;
    Some((in_sync.size, in_sync.min))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_go_on_where_another_broker_leads_their_partition() {
    let mut cluster = Cluster3::new();
    let [first, second, third] = three(&mut cluster).await;
    let all = [&first, &second, &third];
    let groups: Vec<String> = (0..12).map(|number| format!("group {number}")).collect();
    let mut coordinators = BTreeSet::new();
    for group in &groups {
        commit(&all, group, 1).await;
        let own = coordinator(&all, group).unwrap().node_id();
        coordinators.insert(own);
        for broker in all.iter().filter(|broker| broker.node_id() != own) {
            let refused = broker.groups().commit_offsets(commit_of(group, 2)).await;
            assert_eq!(refused, Err(GroupError::NotCoordinator));
        }
    }
    assert_eq!(coordinators, [1, 2, 3].map(NodeId).into(), "all take part");
    assert_eq!(listed(&all).await, groups.len(), "each has its own");

    leave(first).await;
    let rest = [&second, &third];
    for group in &groups {
        assert_eq!(committed(&rest, group).await, Some(1), "{group}");
        commit(&rest, group, 2).await;
    }
    assert_eq!(listed(&rest).await, groups.len());

    // What is committed of a topic that is deleted is forgotten by all of them.
    second.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
    for group in &groups {
        let mut offset = Some(2);
        for _ in 0..TRIES {
            offset = committed(&rest, group).await;
            if offset.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(offset, None, "{group} keeps its offsets");
    }
    stop([second, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_are_refused_while_too_few_replicas_are_in_sync_and_what_was_committed_is_told() {
    let mut cluster = Cluster3::new();
    let [first, second, third] = three(&mut cluster).await;
    let group = "group";
    commit(&[&first, &second, &third], group, 1).await;
    want_in_sync(&first, "3").await;
    leave(third).await;
    let rest = [&first, &second];
    until("the third still counts", || in_sync(&rest, group) == Some((2, 3))).await;
    let mut refused = None;
    for _ in 0..TRIES {
        if let Some(broker) = coordinator(&rest, group) {
            refused = broker.groups().commit_offsets(commit_of(group, 2)).await.err();
        }
        // A coordinator that was elsewhere before has to read its log.
        if refused != Some(GroupError::CoordinatorLoadInProgress) && refused != Some(GroupError::NotCoordinator) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(refused, Some(GroupError::CoordinatorNotAvailable));
    assert_eq!(committed(&rest, group).await, Some(1));
    want_in_sync(&first, "2").await;
    commit(&rest, group, 2).await;
    assert_eq!(committed(&rest, group).await, Some(2));
    stop([second, first]).await;
}

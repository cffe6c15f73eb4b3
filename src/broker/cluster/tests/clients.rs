//! What clients see of replicas: who is refused when too few are in sync, and who is sent to a nearer one.

use super::*;
use crate::broker::{
    Acknowledgement, ConfigEdit, ConfigResource, Consumer, FetchLimits, FetchPartition, Isolation, Leader,
    PartitionError, ReadFrom, RoomWait, SessionPartition,
};
use crate::metadata::broker_config::{RACK_AWARE_SELECTOR, REPLICA_SELECTOR};
use crate::metadata::topic_config::ConfigOperation;
use crate::record::{BatchBuilder, BatchOptions};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

const TOPIC: &str = "events";
const LISTENER: &str = "default";

/// Three brokers, each in a rack of its own, that know each other.
async fn three(cluster: &mut Cluster3) -> [Arc<Broker>; 3] {
    let mut brokers = Vec::new();
    for number in 1..=3 {
        let settings = BrokerSettings { rack: Some(rack_of(number)), ..cluster.settings(number) };
        let home = settings.directories[0].clone();
        let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
        if cluster.token.is_none() {
            cluster.token = Some(token(&broker, &home));
        }
        cluster.members.push(broker.cluster.as_ref().unwrap().plane.address().to_owned());
        brokers.push(broker);
    }
    for broker in &brokers {
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
    }
    brokers.try_into().unwrap()
}

fn rack_of(number: i32) -> String {
    format!("rack-{number}")
}

/// The broker that leads the topic's partition, and its leadership.
fn leader<'a>(brokers: &[&'a Arc<Broker>]) -> Option<(&'a Arc<Broker>, Leader)> {
    brokers.iter().find_map(|broker| {
        let image = broker.image();
        let leader = broker.leader(image.topic_named(TOPIC)?, 0, LeaderEpoch::NONE).ok()?;
        Some((*broker, leader))
    })
}

async fn produce(broker: &Broker, leader: &Leader, acks: Acknowledgement) -> Result<(), PartitionError> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Timestamp(1), None, Some(b"a value"), std::iter::empty());
    let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
    leader.check_in_sync(acks)?;
    let wait = RoomWait { timeout: Duration::from_secs(30), held_bytes: 0 };
    let produced = broker.append(leader, batch.bytes().clone(), true, wait).await?;
    broker.acknowledge(leader, &produced, acks, Duration::from_secs(30)).await
}

async fn stop(brokers: impl IntoIterator<Item = Arc<Broker>>) {
    for broker in brokers {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_wants_all_replicas_is_refused_where_too_few_are_in_sync_and_others_are_served() {
    let mut cluster = Cluster3::new();
    let [first, second, third] = three(&mut cluster).await;
    let configs = [("min.insync.replicas".to_owned(), "3".to_owned())].into();
    let topic = NewTopic { partitions: 1, configs, ..NewTopic::by_default(TOPIC) };
    first.create_topic(topic, false).await.unwrap();
    let all = [&first, &second, &third];
    until("nobody leads", || leader(&all).is_some()).await;
    let (broker, led) = leader(&all).unwrap();
    produce(broker, &led, Acknowledgement::All).await.unwrap();
    drop(led);
    let id = TopicPartition::new(first.image().topic_named(TOPIC).unwrap().topic_id, 0);
    let is_committed = |broker: &Arc<Broker>| {
        let log = broker.directories().iter().find_map(|directory| directory.log(id));
        log.is_some_and(|log| log.offsets().high_watermark == Offset(1))
    };
    until("a follower does not hear what is committed", || all.into_iter().all(is_committed)).await;

    first.drain().await;
    stop([first]).await;
    let rest = [&second, &third];
    let is_refused = |led: &Leader| led.check_in_sync(Acknowledgement::All).is_err();
    until("the first still counts", || leader(&rest).is_some_and(|(_, led)| is_refused(&led))).await;
    let (broker, led) = leader(&rest).unwrap();
    let refused = produce(broker, &led, Acknowledgement::All).await;
    assert!(matches!(refused, Err(PartitionError::NotEnoughReplicas { in_sync: 2, min: 3 })), "{refused:?}");
    assert_eq!(led.partition.log().offsets().log_end, Offset(1), "nothing was appended");
    produce(broker, &led, Acknowledgement::Leader).await.unwrap();
    assert_eq!(led.partition.log().offsets().high_watermark, Offset(1), "which commits nothing");
    drop(led);
    stop([second, third]).await;
}

const fn wanted(offset: i64) -> SessionPartition {
    let none = LeaderEpoch::NONE;
    SessionPartition { offset: Offset(offset), max_bytes: 1000, leader_epoch: none, last_fetched_epoch: none }
}

/// From where a consumer in a rack is to read.
fn read_from(broker: &Broker, rack: &str, offset: i64) -> Result<ReadFrom, PartitionError> {
    let image = broker.image();
    let consumer = broker.consumer(&image, Some(rack), LISTENER);
    broker.read_from(&image, image.topic_named(TOPIC).unwrap(), 0, &wanted(offset), &consumer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_consumer_is_sent_to_the_replica_in_its_rack_which_serves_it() {
    let mut cluster = Cluster3::new();
    let brokers = three(&mut cluster).await;
    create(&brokers[0], TOPIC, 1).await;
    let all: Vec<_> = brokers.iter().collect();
    until("nobody leads", || leader(&all).is_some()).await;
    let (leading, led) = leader(&all).unwrap();
    produce(leading, &led, Acknowledgement::All).await.unwrap();
    let following = all.iter().find(|broker| broker.node_id() != leading.node_id()).unwrap();
    let near = rack_of(following.node_id().get());
    assert_eq!(read_from(leading, &near, 0).unwrap().elsewhere, None, "unless the cluster is to do so");

    let chosen = ConfigOperation::Set(RACK_AWARE_SELECTOR.to_owned());
    let edit = ConfigEdit::Operations(vec![(REPLICA_SELECTOR.to_owned(), chosen)]);
    leading.alter_configs(&ConfigResource::Broker(None), &edit, false).await.unwrap();
    assert_eq!(read_from(leading, &near, 0).unwrap().elsewhere, Some(following.node_id()));
    let at_leader = rack_of(leading.node_id().get());
    assert_eq!(read_from(leading, &at_leader, 0).unwrap().elsewhere, None);
    assert_eq!(read_from(leading, &near, 2).unwrap().elsewhere, None, "what is not committed may not be there");

    until("the follower does not serve", || read_from(following, &near, 0).is_ok()).await;
    let ReadFrom { here, elsewhere } = read_from(following, &near, 0).unwrap();
    assert_eq!(elsewhere, None);
    let log = Arc::clone(here.partition.log());
    until("it does not hear what is committed", || log.offsets().high_watermark == Offset(1)).await;
    let limits = FetchLimits {
        max_wait: Duration::from_secs(1),
        min_bytes: 1,
        max_bytes: 1000,
        isolation: Isolation::ReadUncommitted,
    };
    let fetched = FetchPartition { leader: Ok(here), offset: Offset::ZERO, max_bytes: 1000 };
    let (fetched, memory) = following.fetch(&[fetched], limits).await;
    assert_eq!(fetched[0].records.as_ref().unwrap().len(), 1);
    assert_eq!(fetched[0].offsets.unwrap().high_watermark, Offset(1));
    drop(memory);
    let ahead = read_from(following, &near, 2);
    assert!(matches!(ahead, Err(PartitionError::OffsetNotAvailable { .. })), "{ahead:?}");
    let (image, older) = (following.image(), Consumer::of_leaders(LISTENER));
    let refused = following.read_from(&image, image.topic_named(TOPIC).unwrap(), 0, &wanted(0), &older);
    assert!(matches!(refused, Err(PartitionError::NotLeader { .. })), "{refused:?}");
    drop((led, log));
    stop(brokers).await;
}

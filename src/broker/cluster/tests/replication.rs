//! Records of three brokers: on all of them before they are acknowledged, and there whoever goes.

use super::*;
use crate::broker::{Acknowledgement, Leader, PartitionError, RoomWait};
use crate::record::{BatchBuilder, BatchOptions};
use crate::types::{LeaderEpoch, Offset};

fn leader(broker: &Broker, topic: &str, partition: i32) -> Result<Leader, PartitionError> {
    let image = broker.image();
    broker.leader(image.topic_named(topic).unwrap(), partition, LeaderEpoch::NONE)
}

/// Appends a record where its partition is led, and waits until all in-sync replicas have it.
async fn produce(brokers: &[&Arc<Broker>], topic: &str, partition: i32, value: &str) -> Offset {
    for _ in 0..1000 {
        for broker in brokers {
            let Ok(leader) = leader(broker, topic, partition) else { continue };
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(Timestamp(1), None, Some(value.as_bytes()), std::iter::empty());
            let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
            let wait = RoomWait { timeout: Duration::from_secs(5), held_bytes: 0 };
            let Ok(produced) = broker.append(&leader, batch.bytes().clone(), true, wait).await else { continue };
            let acks = Acknowledgement::All;
            if broker.acknowledge(&leader, &produced, acks, Duration::from_secs(5)).await.is_ok() {
                return produced.base_offset;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody takes records for partition {partition}");
}

fn in_sync(broker: &Broker, topic: &str, partition: i32) -> BTreeSet<i32> {
    let image = broker.image();
    let state = image.topic_named(topic).unwrap().partition(partition).unwrap();
    state.in_sync_nodes().map(NodeId::get).collect()
}

/// The committed end of a partition's log on a broker, and everything up to it.
fn committed(broker: &Broker, topic: &str, partition: i32) -> (Offset, Vec<u8>) {
    let image = broker.image();
    let id = crate::types::TopicPartition::new(image.topic_named(topic).unwrap().topic_id, partition);
    let log = broker.directories().iter().find_map(|directory| directory.log(id));
    let Some(log) = log else { return (Offset::ZERO, Vec::new()) };
    let (mut from, end, mut bytes) = (Offset::ZERO, log.offsets().high_watermark, Vec::new());
    while from < end {
        let batches = log.read(from, end, 1 << 20).unwrap().execute().unwrap();
        for batch in batches.into_iter().flat_map(crate::record::Batches::new) {
            let batch = batch.unwrap();
            from = batch.header().next_offset();
            bytes.extend_from_slice(batch.bytes());
        }
    }
    (end, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_acknowledged_is_on_all_brokers_and_stays_when_leaders_go() {
    let mut cluster = Cluster3::new();
    let first = cluster.start(1).await;
    let second = cluster.start(2).await;
    let third = cluster.start(3).await;
    let all = [&first, &second, &third];
    for broker in all {
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
    }
    create(&third, "records", 3).await;
    let everybody = BTreeSet::from([1, 2, 3]);
    for partition in 0..3 {
        assert_eq!(in_sync(&third, "records", partition), everybody);
        for number in 0..20 {
            let at = produce(&all, "records", partition, &format!("{partition}-{number}")).await;
            assert_eq!(at, Offset(number));
        }
    }
    for partition in 0..3 {
        until("a follower does not hear what is committed", || {
            all.iter().all(|broker| committed(broker, "records", partition).0 == Offset(20))
        })
        .await;
        let [one, other, another] = all.map(|broker| committed(broker, "records", partition).1);
        assert!(one == other && one == another, "the same bytes everywhere");
    }

    // One goes, and the others lead what it led.
    first.drain().await;
    first.stop_waiting();
    first.shutdown().await;
    let rest = [&second, &third];
    for partition in 0..3 {
        let at = produce(&rest, "records", partition, "without the first").await;
        assert_eq!(at, Offset(20), "nothing was lost");
        until("the first still counts", || in_sync(&second, "records", partition) == BTreeSet::from([2, 3])).await;
    }

    // It comes back, and gets what it missed.
    (cluster.token, cluster.members) = (None, Vec::new());
    let first = Broker::open(Runtime::production(), cluster.settings(1), Metrics::new()).await.unwrap();
    for partition in 0..3 {
        until("it does not catch up", || in_sync(&first, "records", partition) == everybody).await;
        until("it does not hear what is committed", || committed(&first, "records", partition).0 == Offset(21)).await;
        assert_eq!(committed(&first, "records", partition).1, committed(&third, "records", partition).1);
    }
    for broker in [first, second, third] {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_are_deleted_on_all_that_are_in_sync_before_that_is_answered() {
    let mut cluster = Cluster3::new();
    let brokers = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    let all = [&brokers[0], &brokers[1], &brokers[2]];
    for broker in all {
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
    }
    create(all[0], "records", 1).await;
    for number in 0..20 {
        produce(&all, "records", 0, &number.to_string()).await;
    }
    let log_start = |broker: &Broker| {
        let image = broker.image();
        let id = crate::types::TopicPartition::new(image.topic_named("records").unwrap().topic_id, 0);
        broker.directories().iter().find_map(|directory| directory.log(id)).map(|log| log.offsets().log_start)
    };
    // Nothing is appended any more that could take the word along.
    for below in [Offset(12), Offset(13), Offset(-1)] {
        let led = all.iter().find_map(|broker| Some((*broker, leader(broker, "records", 0).ok()?)));
        let (broker, led) = led.expect("somebody leads");
        let deleted = broker.delete_records(&led, below, Duration::from_secs(20)).await.unwrap();
        assert_eq!(deleted, if below == Offset(-1) { Offset(20) } else { below });
        let in_sync = in_sync(broker, "records", 0);
        for other in all.iter().filter(|other| in_sync.contains(&other.node_id().get())) {
            assert_eq!(log_start(other), Some(deleted));
        }
    }
    for broker in brokers {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

//! The archive of three brokers: the leader's to write, and everybody's to make room by.

use std::path::PathBuf;

use super::*;
use crate::archive::bucket::Bucket;
use crate::archive::heads::Heads;
use crate::archive::key::Fence;
use crate::archive::manifest::{HeadIdentity, Writer};
use crate::archive::partition::PartitionArchive;
use crate::broker::archiver::open_store;
use crate::broker::{Acknowledgement, Leader, RoomWait, TopicName};
use crate::log::PartitionLog;
use crate::record::{BatchBuilder, BatchOptions};
use crate::types::{BrokerIncarnationId, Incarnation, LeaderEpoch, Offset, PartitionIndex, TopicPartition};

const TOPIC: &str = "flights";

/// Waits longer than other tests do: some of it comes round every few seconds.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// Three brokers, and a topic of one partition on all of them.
async fn three(cluster: &mut Cluster3, configs: &[(&str, &str)]) -> [Arc<Broker>; 3] {
    let brokers = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    for broker in &brokers {
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
    }
    // Any of them may go.
    let mut voters = 0;
    for _ in 0..1500 {
        voters = brokers[1].quorum_status().await.map_or(0, |status| status.voters.len());
        if voters == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(voters, 3);
    let configs = configs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let topic = NewTopic { partitions: 1, configs, ..NewTopic::by_default(TOPIC) };
    brokers[0].create_topic(topic, false).await.unwrap();
    for broker in &brokers {
        until("the topic is not known", || broker.image().topic_named(TOPIC).is_some()).await;
    }
    brokers
}

/// The broker that leads the partition, and its leadership. That holds a part of the broker, which has to be let go before it stops.
fn led<'a>(brokers: &[&'a Arc<Broker>]) -> Option<(&'a Arc<Broker>, Leader)> {
    brokers.iter().find_map(|broker| {
        let image = broker.image();
        let leader = broker.leader(image.topic_named(TOPIC)?, 0, LeaderEpoch::NONE).ok()?;
        Some((*broker, leader))
    })
}

/// The same, and the epoch.
async fn leader<'a>(brokers: &[&'a Arc<Broker>]) -> (&'a Arc<Broker>, LeaderEpoch) {
    for _ in 0..1500 {
        if let Some((broker, Leader { epoch, .. })) = led(brokers) {
            return (broker, epoch);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody leads");
}

fn partition(broker: &Broker) -> TopicPartition {
    TopicPartition::new(broker.image().topic_named(TOPIC).unwrap().topic_id, 0)
}

fn log(broker: &Broker) -> Arc<PartitionLog> {
    let id = partition(broker);
    broker.directories().iter().find_map(|directory| directory.log(id)).unwrap()
}

/// Appends records, one by one, each on all in-sync replicas before the next. They are from long ago.
async fn produce(brokers: &[&Arc<Broker>], count: usize) {
    for _ in 0..count {
        let mut is_done = false;
        for _ in 0..1000 {
            if let Some((broker, leader)) = led(brokers) {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                builder.append(Timestamp(1), None, Some(b"value"), std::iter::empty());
                let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
                let wait = RoomWait { timeout: Duration::from_secs(5), held_bytes: 0 };
                if let Ok(produced) = broker.append(&leader, batch.bytes().clone(), true, wait).await {
                    let acks = Acknowledgement::All;
                    is_done = broker.acknowledge(&leader, &produced, acks, Duration::from_secs(5)).await.is_ok();
                }
            }
            if is_done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(is_done, "nobody takes records");
    }
}

/// Every file below a directory, if it is there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn objects(cluster: &Cluster3) -> Vec<PathBuf> {
    files(&cluster.root.path().join("shared-store"))
}

/// The offsets that each archived file has, by its name.
fn archived(cluster: &Cluster3) -> Vec<(i64, i64)> {
    let files = objects(cluster).into_iter().filter(|path| path.extension().is_some_and(|it| it == "parquet"));
    let ranges = files.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut numbers = name.split('-').map(|part| part.parse().unwrap_or(-1));
        (numbers.next().unwrap(), numbers.next().unwrap())
    });
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    ranges
}

fn descriptions(cluster: &Cluster3) -> Vec<String> {
    let files = objects(cluster).into_iter().filter(|path| path.ends_with("topic.json"));
    // One may be being replaced.
    files.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

async fn stop(brokers: impl IntoIterator<Item = Arc<Broker>>) {
    for broker in brokers {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_leader_alone_archives_and_followers_make_room_once_they_have_seen_it() {
    let mut cluster = Cluster3::new();
    let brokers = three(&mut cluster, &[]).await;
    let all = brokers.each_ref();
    produce(&all, 5).await;
    // Those that follow have something to archive first, and don't.
    let (leading, _) = leader(&all).await;
    let following: Vec<_> = all.into_iter().filter(|broker| broker.node_id() != leading.node_id()).collect();
    for broker in &following {
        until("a follower does not hear what is committed", || log(broker).offsets().high_watermark == Offset(5)).await;
        log(broker).request_roll();
        until("its segment is not sealed", || !log(broker).archivable_segments().is_empty()).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(archived(&cluster).is_empty());
    for broker in &following {
        assert_eq!(broker.metrics().archive.lag_bytes.get(), 0, "nothing waits for the archive here");
        assert_eq!(log(broker).offsets().local_log_start, Offset::ZERO);
    }

    log(leading).request_roll();
    until("it is not archived", || log(leading).offsets().archived_to == Offset(5)).await;
    // With these comes how far it is archived.
    produce(&all, 1).await;
    for broker in &all {
        eventually("local records stay", || log(broker).offsets().local_log_start == Offset(5)).await;
        assert_eq!(log(broker).offsets().log_start, Offset::ZERO, "they are in the archive");
    }
    assert_eq!(archived(&cluster), [(0, 5)]);
    for broker in following {
        assert_eq!(broker.metrics().archive.archived_segments.get(), 0);
    }
    stop(brokers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_leader_goes_on_where_the_archive_ends_within_a_segment_of_its_own() {
    let mut cluster = Cluster3::new();
    let brokers = three(&mut cluster, &[("local.retention.ms", "-1")]).await;
    let all = brokers.each_ref();
    produce(&all, 5).await;
    let (leading, first_epoch) = leader(&all).await;
    log(leading).request_roll();
    until("it is not archived", || log(leading).offsets().archived_to == Offset(5)).await;
    produce(&all, 5).await;
    let first_leader = leading.node_id();
    let (gone, rest): (Vec<_>, Vec<_>) = brokers.into_iter().partition(|broker| broker.node_id() == first_leader);
    for broker in &gone {
        broker.drain().await;
    }
    stop(gone).await;

    let all: Vec<_> = rest.iter().collect();
    produce(&all, 1).await;
    let (leading, epoch) = leader(&all).await;
    assert!(epoch > first_epoch);
    let end = log(leading).offsets().log_end;
    log(leading).request_roll();
    until("the rest is not archived", || log(leading).offsets().archived_to == end).await;
    assert_eq!(archived(&cluster), [(0, 5), (5, end.0)], "nothing twice, and nothing left out");
    let metrics = &leading.metrics().archive;
    assert_eq!((metrics.failed_uploads.get(), metrics.fenced_commits.get()), (0, 0));
    stop(rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_whose_successor_has_the_head_archives_nothing_more() {
    let mut cluster = Cluster3::new();
    let brokers = three(&mut cluster, &[("local.retention.ms", "-1")]).await;
    let all = brokers.each_ref();
    produce(&all, 5).await;
    let (leading, epoch) = leader(&all).await;
    log(leading).request_roll();
    until("it is not archived", || log(leading).offsets().archived_to == Offset(5)).await;

    // As the next leader would, of whom this one has not heard.
    let (runtime, settings) = (Runtime::production(), cluster.settings(leading.node_id().get()));
    let store = open_store(&runtime, &settings.archive, &Metrics::new()).unwrap();
    let identity = HeadIdentity {
        cluster_id: leading.cluster_id(),
        topic: TOPIC.to_owned(),
        topic_id: partition(leading).topic_id,
        partition: PartitionIndex(0),
    };
    let bucket = Bucket::new(store, runtime.clone(), leading.cluster_id());
    let archive = PartitionArchive::new(bucket, runtime, identity, Heads::new(1 << 20));
    let fence = Fence { incarnation: Incarnation::default(), leader_epoch: epoch.next() };
    let process = BrokerIncarnationId::from_bytes([9; 16]);
    archive.take_over(Writer { fence, broker: NodeId(9), process }).await.unwrap();

    produce(&all, 5).await;
    log(leading).request_roll();
    let metrics = &leading.metrics().archive;
    // It may be that it was deposed, once. That it goes on to lead says otherwise.
    until("nobody complains", || metrics.fenced_commits.get() > 0).await;
    assert!(metrics.failed_uploads.get() > 1);
    assert_eq!(archive.refresh().await.unwrap().unwrap().next_offset, Offset(5));
    assert_eq!(metrics.archived_segments.get(), 1);
    assert_eq!(log(leading).offsets().archived_to, Offset(5));
    assert_eq!(log(leading).offsets().local_log_start, Offset::ZERO, "nothing is lost");
    stop(brokers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_house_is_kept_whoever_goes_and_a_deleted_topic_is_listed_until_all_could_know() {
    let mut cluster = Cluster3::new();
    let [first, second, third] = three(&mut cluster, &[]).await;
    produce(&[&first, &second, &third], 1).await;
    let id = partition(&first);
    eventually("it is not described", || descriptions(&cluster).iter().any(|it| it.contains(TOPIC))).await;
    // It made the cluster, and leads the metadata.
    first.drain().await;
    stop([first]).await;
    until("the first is still taken for active", || active(&second) == BTreeSet::from([2, 3])).await;
    eventually("nobody keeps house", || second.keeps_house() || third.keeps_house()).await;
    create(&second, "later", 1).await;
    eventually("the next one does not describe it", || descriptions(&cluster).iter().any(|it| it.contains("later")))
        .await;

    second.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
    eventually("it is not buried", || descriptions(&cluster).iter().any(|it| it.contains("purged"))).await;
    assert!(second.image().is_deleted(id.topic_id), "the first has its log still");
    (cluster.token, cluster.members) = (None, Vec::new());
    let first = Broker::open(Runtime::production(), cluster.settings(1), Metrics::new()).await.unwrap();
    eventually("it stays listed", || !second.image().is_deleted(id.topic_id)).await;
    until("its log stays", || first.directories().iter().all(|directory| directory.log(id).is_none())).await;
    stop([first, second, third]).await;
}

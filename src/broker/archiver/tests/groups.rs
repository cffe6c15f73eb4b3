//! Coordinators of a broker whose offsets topic is damaged, hangs, or is made again, and what they forget with a topic.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::cluster_state::{commit, commit_to, committed};
use super::*;
use crate::group::records::Key;
use crate::group::request::OffsetFetch;
use crate::group::{GroupError, OffsetsLog, OffsetsLogError};

/// Partitions of the offsets topic.
const PARTITIONS: i32 = 2;

async fn open(home: &Home, offsets_partitions: i32) -> Arc<Broker> {
    let mut settings = home.settings(&["first", "second"]);
    settings.topics.offsets_partitions = offsets_partitions;
    Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap()
}

/// A broker with a topic, and one for offsets.
async fn begin(home: &Home) -> Arc<Broker> {
    let (broker, _) = home.begin_on(open(home, PARTITIONS).await, &[]).await;
    broker.offsets_topic().await.unwrap();
    broker
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("it never comes to that: {what}");
}

/// Names of groups that belong to a partition.
fn groups_on(broker: &Broker, partition: i32, count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("group {number}"));
    names.filter(|group| broker.groups().partition_of(group) == PartitionIndex(partition)).take(count).collect()
}

fn offsets_leader(broker: &Broker, partition: i32) -> Leader {
    let image = broker.image();
    broker.leader(image.topic_named(OFFSETS_TOPIC).unwrap(), partition, LeaderEpoch::NONE).unwrap()
}

async fn fetch(broker: &Broker, group: &str) -> Result<Vec<String>, GroupError> {
    let fetched = broker.groups().fetch_offsets(OffsetFetch { group_id: group.into(), topics: None }).await;
    fetched.map(|topics| topics.iter().map(|topic| topic.topic.to_string()).collect())
}

/// Waits until nothing is committed for a topic.
async fn forgotten(broker: &Broker, group: &str, topic: &str) {
    for _ in 0..LOOKS {
        if fetch(broker, group).await.is_ok_and(|topics| !topics.iter().any(|other| other == topic)) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("{group} keeps its offsets of {topic}");
}

async fn delete(broker: &Broker, topic: &str) {
    broker.delete_topic(&TopicName::Name(topic.to_owned())).await.unwrap();
}

/// What the bucket says of its snapshot of groups.
fn snapshot_mark(home: &Home) -> Option<String> {
    let clusters = std::fs::read_dir(home.path("store/alluvium/v1")).into_iter().flatten().map(Result::unwrap);
    clusters.filter_map(|cluster| std::fs::read_to_string(cluster.path().join("meta/groups.json")).ok()).next()
}

async fn next_snapshot(home: &Home, before: Option<String>) {
    until("another snapshot of groups", || snapshot_mark(home) != before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_go_on_when_their_topic_is_made_again_with_another_number_of_partitions() {
    let home = Home::new();
    let broker = begin(&home).await;
    commit(&broker, "group", 1).await;
    broker.shutdown().await;
    for partitions in [5, 1] {
        let broker = open(&home, partitions).await;
        delete(&broker, OFFSETS_TOPIC).await;
        broker.offsets_topic().await.unwrap();
        for number in 0..20 {
            let group = format!("group {number}");
            commit(&broker, &group, 100).await;
            assert_eq!(committed(&broker, &group).await, Some(100));
        }
        let read = broker.read_groups().await.unwrap();
        assert_eq!((read.partitions, read.unread.len()), (partitions, 0));
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_a_topic_that_was_deleted_just_before_a_crash_go_at_the_next_start() {
    let home = Home::new();
    let broker = begin(&home).await;
    let groups: Vec<String> = (0..10).map(|number| format!("group {number}")).collect();
    for group in &groups {
        commit(&broker, group, 100).await;
    }
    // Nobody coordinates any more when it is deleted.
    broker.stop_waiting();
    delete(&broker, TOPIC).await;
    broker.shutdown().await;

    let broker = home.open().await;
    for group in &groups {
        forgotten(&broker, group, TOPIC).await;
    }
    until("the topic is forgotten", || broker.image().deleted_topics().next().is_none()).await;
    broker.shutdown().await;
}

/// A log whose appends never end.
struct Stuck {
    log: Arc<dyn OffsetsLog>,
    is_appending: Arc<AtomicBool>,
}

impl OffsetsLog for Stuck {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        self.log.range()
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        self.log.read(from, max_bytes)
    }

    fn append(&self, _batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        self.is_appending.store(true, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn advance_start(&self, start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        self.log.advance_start(start)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_whose_log_hangs_keeps_no_other_from_forgetting_topics() {
    let home = Home::new();
    let broker = begin(&home).await;
    broker.create_topic(NewTopic::by_default("other"), false).await.unwrap();
    let (stuck, free) = (groups_on(&broker, 0, 1).remove(0), groups_on(&broker, 1, 1).remove(0));
    for topic in [TOPIC, "other"] {
        commit_to(&broker, &free, topic, 1).await;
    }
    let (leader, is_appending) = (offsets_leader(&broker, 0), Arc::new(AtomicBool::new(false)));
    let partition = leader.partition.log().partition();
    let log = Stuck { log: broker.offsets_log(leader), is_appending: Arc::clone(&is_appending) };
    broker.lead_groups(partition, Arc::new(log));
    let hanging = Arc::clone(&broker);
    let hanging = tokio::spawn(async move { commit(&hanging, &stuck, 1).await });
    until("the append hangs", || is_appending.load(Ordering::Relaxed)).await;

    for topic in [TOPIC, "other"] {
        delete(&broker, topic).await;
        forgotten(&broker, &free, topic).await;
    }
    assert_eq!(broker.image().deleted_topics().count(), 2, "they are listed until all have forgotten them");
    hanging.abort();
    assert!(hanging.await.is_err());
    broker.shutdown().await;
}

/// Groups of the first partition that are at 100 in a segment of their own and kept in the bucket, one that is at 200 in the
/// segment after that, and the first segment's file.
async fn with_segments(home: &Home) -> (Vec<String>, String, PathBuf) {
    let broker = begin(home).await;
    let mut groups = groups_on(&broker, 0, 4);
    let newer = groups.remove(0);
    for group in groups.iter().chain(&groups_on(&broker, 1, 1)) {
        commit(&broker, group, 100).await;
    }
    broker.shutdown().await;
    // The next start keeps what the last one left.
    let before = snapshot_mark(home);
    let broker = open(home, PARTITIONS).await;
    next_snapshot(home, before).await;
    let leader = offsets_leader(&broker, 0);
    let log = Arc::clone(leader.partition.log());
    drop(leader);
    log.request_roll();
    until("the segment is sealed", || log.unsealed_bytes() == 0).await;
    commit(&broker, &newer, 200).await;
    let first = log.segments()[0].path().to_owned();
    drop(log);
    broker.shutdown().await;
    (groups, newer, first)
}

/// Gives the first partition's log up as far as its first segment goes.
async fn give_up(broker: &Arc<Broker>) {
    let leader = offsets_leader(broker, 0);
    let next = leader.partition.log().segments()[1].base_offset();
    assert_eq!(broker.give_up_offsets(&leader, next, Duration::from_secs(30)).await.unwrap(), next);
}

async fn check_given_up(home: &Home, mut broker: Arc<Broker>, groups: &[String], newer: &str) {
    for _ in 0..2 {
        for group in groups {
            assert_eq!(committed(&broker, group).await, Some(100), "{group}, from the bucket");
        }
        assert_eq!(committed(&broker, newer).await, Some(200), "from what the log has");
        assert!(broker.image().unrestored().is_empty());
        until("no coordinator fails", || broker.metrics().group.failed_coordinators.get() == 0).await;
        broker.shutdown().await;
        broker = open(home, PARTITIONS).await;
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_whose_log_lost_a_segment_go_on_from_the_bucket_once_that_is_given_up() {
    let home = Home::new();
    let (groups, newer, first) = with_segments(&home).await;
    std::fs::remove_file(first).unwrap();
    let before = snapshot_mark(&home);
    let broker = open(&home, PARTITIONS).await;
    let lost = offsets_leader(&broker, 0).partition.log().partition();
    until("the loss is noticed", || broker.has_lost_offsets(lost)).await;
    assert_eq!(broker.metrics().group.failed_coordinators.get(), 1);
    assert_eq!(fetch(&broker, &groups[0]).await, Err(GroupError::NotCoordinator));

    // All others go on, and the bucket's snapshot with them; it keeps what is lost here.
    let other = groups_on(&broker, 1, 1).remove(0);
    commit(&broker, &other, 300).await;
    let refused = broker.give_up_offsets(&offsets_leader(&broker, 1), Offset(-1), Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(PartitionError::InternalTopic)), "{refused:?}");
    next_snapshot(&home, before).await;
    assert_eq!(broker.metrics().group.unsaved_partitions.get(), 1);
    give_up(&broker).await;
    assert_eq!(committed(&broker, &other).await, Some(300));
    check_given_up(&home, broker, &groups, &newer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_whose_log_is_damaged_go_on_from_the_bucket_once_that_is_given_up() {
    let home = Home::new();
    let (groups, newer, first) = with_segments(&home).await;
    let mut content = std::fs::read(&first).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&first, content).unwrap();
    let broker = open(&home, PARTITIONS).await;
    let lost = offsets_leader(&broker, 0).partition.log().partition();
    until("the damage is noticed", || broker.has_lost_offsets(lost)).await;
    give_up(&broker).await;
    check_given_up(&home, broker, &groups, &newer).await;
}

/// A client that hears of a timeout asks again, and an operator too: what is restored meanwhile stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_given_up_again_and_again_keeps_what_is_restored() {
    let home = Home::new();
    let (groups, _, first) = with_segments(&home).await;
    std::fs::remove_file(first).unwrap();
    let broker = open(&home, PARTITIONS).await;
    let lost = offsets_leader(&broker, 0).partition.log().partition();
    until("the loss is noticed", || broker.has_lost_offsets(lost)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let ask_again = || {
        let (broker, asked) = (Arc::clone(&broker), Arc::clone(&asked));
        tokio::spawn(async move {
            while broker.has_lost_offsets(lost) {
                let leader = offsets_leader(&broker, 0);
                asked.fetch_add(1, Ordering::Relaxed);
                let given_up = broker.give_up_offsets(&leader, Offset(-1), Duration::from_secs(30)).await;
                assert!(matches!(given_up, Ok(_) | Err(PartitionError::InternalTopic)), "{given_up:?}");
            }
        })
    };
    // All have asked before the first has its turn.
    let turn = broker.restoring.turn(lost);
    let held = turn.lock().await;
    let asking: Vec<_> = (0..5).map(|_| ask_again()).collect();
    until("all have asked", || asked.load(Ordering::Relaxed) == asking.len()).await;
    drop(held);
    for asking in asking {
        tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap().unwrap();
    }
    for group in &groups {
        assert_eq!(committed(&broker, group).await, Some(100), "{group}, from the bucket");
    }
    broker.shutdown().await;
}

/// Its asker is gone, as with a connection that is reset: it is not left half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_goes_on_when_its_asker_is_gone() {
    let home = Home::new();
    let (groups, newer, first) = with_segments(&home).await;
    std::fs::remove_file(first).unwrap();
    let broker = open(&home, PARTITIONS).await;
    let leader = offsets_leader(&broker, 0);
    let lost = leader.partition.log().partition();
    until("the loss is noticed", || broker.has_lost_offsets(lost)).await;
    let next = leader.partition.log().segments()[1].base_offset();
    {
        let mut gone = Box::pin(broker.give_up_offsets(&leader, next, Duration::from_secs(30)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let is_begun = || broker.image().unrestored().contains(&lost) || !broker.has_lost_offsets(lost);
        until("it has begun", is_begun).await;
    }
    drop(leader);
    check_given_up(&home, broker, &groups, &newer).await;
}

/// Its key can be read, and so it looks as if the log had what the group is at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_which_the_log_has_what_nobody_can_read_go_on_from_the_bucket() {
    let home = Home::new();
    let (groups, _, _) = with_segments(&home).await;
    let broker = open(&home, PARTITIONS).await;
    let leader = offsets_leader(&broker, 0);
    let lost = leader.partition.log().partition();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let key = Key::encode_offset(&groups[0], TOPIC, 0);
    builder.append(Timestamp(1), Some(&key), Some(&[0x7f, 0xff]), std::iter::empty());
    let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
    broker.offsets_log(leader).append(batch).await.unwrap();
    broker.shutdown().await;

    let broker = open(&home, PARTITIONS).await;
    until("it is noticed", || broker.has_lost_offsets(lost)).await;
    let leader = offsets_leader(&broker, 0);
    broker.give_up_offsets(&leader, Offset(-1), Duration::from_secs(30)).await.unwrap();
    drop(leader);
    for group in &groups {
        assert_eq!(committed(&broker, group).await, Some(100), "{group}, from the bucket");
    }
    assert!(!broker.has_lost_offsets(lost) && broker.image().unrestored().is_empty());
    broker.shutdown().await;
}

/// The first offset that an operator names may not be enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_of_a_log_is_given_up_where_what_is_left_can_not_be_read_either() {
    let home = Home::new();
    let (groups, newer, first) = with_segments(&home).await;
    std::fs::remove_file(first).unwrap();
    let broker = open(&home, PARTITIONS).await;
    let leader = offsets_leader(&broker, 0);
    let lost = leader.partition.log().partition();
    until("the loss is noticed", || broker.has_lost_offsets(lost)).await;
    let given_up = broker.give_up_offsets(&leader, Offset::ZERO, Duration::from_secs(30)).await;
    assert_eq!(given_up.unwrap(), Offset::ZERO);
    tokio::time::sleep(10 * PAUSE).await;
    assert!(broker.image().unrestored().contains(&lost), "it waits");
    assert_eq!(fetch(&broker, &groups[0]).await, Err(GroupError::NotCoordinator));
    drop(leader);
    give_up(&broker).await;
    check_given_up(&home, broker, &groups, &newer).await;
}

/// While one is restored nobody else gives it up, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_not_given_up_while_it_is_restored() {
    let home = Home::new();
    let (groups, newer, first) = with_segments(&home).await;
    std::fs::remove_file(first).unwrap();
    let broker = open(&home, PARTITIONS).await;
    let leader = offsets_leader(&broker, 0);
    let lost = leader.partition.log().partition();
    until("the loss is noticed", || broker.has_lost_offsets(lost)).await;
    let turn = broker.restoring.turn(lost);
    let held = turn.lock().await;
    let refused = broker.give_up_offsets(&leader, Offset(-1), Duration::ZERO).await;
    assert!(matches!(refused, Err(PartitionError::TimedOut)), "{refused:?}");
    // Whether it waits for its turn still or not: nobody asks any more.
    assert!(broker.image().unrestored().is_empty(), "nothing is noted of it");
    drop(held);
    drop(leader);
    give_up(&broker).await;
    check_given_up(&home, broker, &groups, &newer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_are_kept_in_the_bucket_at_once_when_a_copy_of_the_metadata_was_put_back() {
    let home = Home::new();
    let broker = begin(&home).await;
    commit(&broker, "group", 1).await;
    broker.shutdown().await;
    copy(&home.path("first/metadata"), &home.path("copy"));
    for offset in 2..5 {
        let before = snapshot_mark(&home);
        let broker = open(&home, PARTITIONS).await;
        next_snapshot(&home, before).await;
        commit(&broker, "group", offset).await;
        broker.shutdown().await;
    }
    std::fs::remove_dir_all(home.path("first/metadata")).unwrap();
    std::fs::rename(home.path("copy"), home.path("first/metadata")).unwrap();
    let before = snapshot_mark(&home);
    let broker = open(&home, PARTITIONS).await;
    assert_eq!(committed(&broker, "group").await, Some(4));
    next_snapshot(&home, before).await;
    broker.shutdown().await;
}

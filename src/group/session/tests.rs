//! Coordinators as tasks, on a log in memory that can be slow, refuse, and change leaders.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::group::request::{
    CommitPartition, CommitTopic, FetchTopic, GroupState, JoinGroup, ListGroups, MemberProtocol, OffsetCommit,
    OffsetFetch, SyncGroup,
};
use crate::group::{Groups, partition_of, snapshot};
use crate::record::Batches;
use crate::runtime::Runtime;
use crate::types::{PartitionIndex, TopicId};

#[derive(Default)]
struct MemoryLog {
    batches: Mutex<Vec<Batch>>,
    start: Mutex<Offset>,
    appends: AtomicUsize,
    refuses: AtomicBool,
}

impl MemoryLog {
    fn end(&self) -> Offset {
        self.batches.lock().last().map_or(*self.start.lock(), |batch| batch.header().next_offset())
    }
}

/// The log of a leader; several may follow one another on one log.
struct Leader(Arc<MemoryLog>);

impl OffsetsLog for Leader {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        let end = self.0.end();
        let start = *self.0.start.lock();
        Box::pin(async move { Ok(start..end) })
    }

    fn read(&self, from: Offset, _max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        let batch = self.0.batches.lock().iter().find(|batch| batch.header().next_offset() > from).cloned();
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(batch.into_iter().collect())
        })
    }

    fn append(&self, batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        let log = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if log.refuses.load(Ordering::Relaxed) {
                return Err(OffsetsLogError::Unavailable { reason: "disk full".to_owned() });
            }
            let base_offset = log.end();
            log.appends.fetch_add(1, Ordering::Relaxed);
            // What is read back went through bytes, as on disk.
            let bytes = batch.placed(base_offset, LeaderEpoch(1)).bytes().clone();
            log.batches.lock().extend(Batches::new(bytes).map(Result::unwrap));
            Ok(base_offset)
        })
    }

    fn advance_start(&self, start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        *self.0.start.lock() = start;
        self.0.batches.lock().retain(|batch| batch.header().base_offset >= start);
        Box::pin(async { Ok(()) })
    }
}

fn groups() -> Groups {
    counted_groups(CoordinatorMetrics::default())
}

fn counted_groups(metrics: CoordinatorMetrics) -> Groups {
    limited_groups(metrics, GroupSettings::default().max_state_bytes)
}

fn limited_groups(metrics: CoordinatorMetrics, max_state_bytes: usize) -> Groups {
    let settings = GroupSettings {
        initial_rebalance_delay: Duration::from_millis(10),
        min_session_timeout: Duration::from_millis(10),
        reload_backoff: Duration::from_millis(10),
        rewrite_min_bytes: 10_000,
        max_state_bytes,
        ..GroupSettings::default()
    };
    Groups::new(Runtime::production(), settings, 50, metrics)
}

fn commit(group: &str, offset: i64) -> OffsetCommit {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() };
    OffsetCommit {
        group_id: group.into(),
        generation: -1,
        member_id: Arc::default(),
        group_instance_id: None,
        api_version: 9,
        retention_ms: None,
        topics: vec![CommitTopic { topic: "t".into(), topic_id: TopicId::ZERO, partitions: vec![partition] }],
    }
}

async fn committed(groups: &Groups, group: &str) -> Result<i64, GroupError> {
    let topics = vec![FetchTopic { topic: "t".into(), topic_id: TopicId::ZERO, partitions: vec![0] }];
    let fetch = OffsetFetch { group_id: group.into(), topics: Some(topics) };
    groups.fetch_offsets(fetch).await.map(|topics| topics[0].partitions[0].offset)
}

fn join(member_id: &str) -> JoinGroup {
    JoinGroup {
        group_id: "g".into(),
        member_id: member_id.into(),
        group_instance_id: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        api_version: 9,
        session_timeout_ms: 200,
        rebalance_timeout_ms: 200,
        protocol_type: "consumer".into(),
        protocols: vec![MemberProtocol { name: "range".into(), metadata: Bytes::new() }],
        reason: None,
    }
}

/// Leads the partition of `group` until the coordinator has loaded.
async fn lead(groups: &Groups, group: &str, log: &Arc<MemoryLog>) {
    groups.lead(groups.partition_of(group), Arc::new(Leader(Arc::clone(log))));
    while committed(groups, group).await == Err(GroupError::CoordinatorLoadInProgress) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn many_commits_share_few_appends_and_survive_a_change_of_leader() {
    let (log, metrics) = (Arc::new(MemoryLog::default()), CoordinatorMetrics::default());
    let first = counted_groups(metrics.clone());
    assert_eq!(committed(&first, "g").await, Err(GroupError::NotCoordinator));
    lead(&first, "g", &log).await;
    let commits = (0..200).map(|offset| first.commit_offsets(commit("g", offset)));
    let results = futures_util::future::join_all(commits).await;
    assert!(results.into_iter().all(|result| result.is_ok()));
    assert!(log.appends.load(Ordering::Relaxed) < 20);
    first.commit_offsets(commit("g", 1000)).await.unwrap();
    assert_eq!(committed(&first, "g").await, Ok(1000));
    assert!(metrics.used_bytes.get() > 0);

    first.resign(first.partition_of("g"));
    assert_eq!(committed(&first, "g").await, Err(GroupError::NotCoordinator));
    while metrics.used_bytes.get() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let second = groups();
    lead(&second, "g", &log).await;
    assert_eq!(committed(&second, "g").await, Ok(1000));
}

#[tokio::test]
async fn a_member_lives_through_a_generation_and_dies_of_silence() {
    let (log, groups) = (Arc::new(MemoryLog::default()), groups());
    lead(&groups, "g", &log).await;
    let member_id = groups.join_group(join("")).await.unwrap_err().member_id;
    let joined = groups.join_group(join(&member_id)).await.unwrap();
    let sync = SyncGroup {
        group_id: "g".into(),
        generation: joined.generation,
        member_id: Arc::clone(&member_id),
        group_instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(Arc::clone(&member_id), Bytes::from_static(b"all"))],
    };
    assert_eq!(groups.sync_group(sync).await.unwrap().assignment, "all");
    assert_eq!(groups.describe_group("g".into()).await.unwrap().state, GroupState::Stable);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(groups.describe_group("g".into()).await.unwrap().state, GroupState::Empty);
    let listed = groups.list_groups(ListGroups::default()).await.unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn where_nobody_coordinates_a_group_it_is_first_said_what_nobody_takes() {
    let groups = groups();
    for (group, error) in [("", GroupError::InvalidGroupId), ("g", GroupError::NotCoordinator)] {
        let refused = groups.join_group(JoinGroup { group_id: group.into(), ..join("") }).await;
        assert_eq!(refused.unwrap_err().error, error);
    }
}

#[tokio::test]
async fn who_waits_in_a_rebalance_is_told_when_the_coordinator_resigns() {
    let (log, groups) = (Arc::new(MemoryLog::default()), groups());
    lead(&groups, "g", &log).await;
    let joins = futures_util::future::join(groups.join_group(JoinGroup { api_version: 3, ..join("") }), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        groups.resign(groups.partition_of("g"));
    });
    assert_eq!(joins.await.0.unwrap_err().error, GroupError::NotCoordinator);
}

#[tokio::test]
async fn a_log_that_refuses_is_read_again_until_it_takes_appends() {
    let (log, groups) = (Arc::new(MemoryLog::default()), groups());
    lead(&groups, "g", &log).await;
    groups.commit_offsets(commit("g", 1)).await.unwrap();
    log.refuses.store(true, Ordering::Relaxed);
    assert_eq!(groups.commit_offsets(commit("g", 2)).await, Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(groups.commit_offsets(commit("g", 2)).await, Err(GroupError::CoordinatorLoadInProgress));
    log.refuses.store(false, Ordering::Relaxed);
    while groups.commit_offsets(commit("g", 2)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(committed(&groups, "g").await, Ok(2));
}

#[tokio::test]
async fn the_log_is_cut_while_commits_go_on() {
    let (log, groups) = (Arc::new(MemoryLog::default()), groups());
    lead(&groups, "g", &log).await;
    for round in 0..20 {
        let commits = (0..50).map(|offset| groups.commit_offsets(commit("g", round * 50 + offset)));
        futures_util::future::join_all(commits).await;
    }
    assert!(*log.start.lock() > Offset(500), "start={}", log.start.lock());
    groups.resign(PartitionIndex(partition_of("g", 50).0));
    lead(&groups, "g", &log).await;
    assert_eq!(committed(&groups, "g").await, Ok(999));
}

#[tokio::test]
async fn groups_are_looked_for_in_as_many_partitions_as_their_topic_has() {
    let (log, groups) = (Arc::new(MemoryLog::default()), groups());
    lead(&groups, "g", &log).await;
    groups.commit_offsets(commit("g", 7)).await.unwrap();
    assert!(groups.partition_of("g").0 >= 3);
    groups.begin(3);
    assert!(groups.partition_of("g").0 < 3);
    assert_eq!(committed(&groups, "g").await, Err(GroupError::NotCoordinator));
    lead(&groups, "g", &Arc::new(MemoryLog::default())).await;
    assert_eq!(committed(&groups, "g").await, Ok(-1));
}

/// The log of a leader of which something is gone.
struct Damaged;

impl OffsetsLog for Damaged {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        Box::pin(async { Ok(Offset(0)..Offset(1)) })
    }

    fn read(&self, _from: Offset, _max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        Box::pin(async { Err(OffsetsLogError::Damaged { reason: "a hole".to_owned() }) })
    }

    fn append(&self, _batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }

    fn advance_start(&self, _start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }
}

#[tokio::test]
async fn a_coordinator_that_can_not_load_is_counted_until_it_resigns() {
    let metrics = CoordinatorMetrics::default();
    let groups = counted_groups(metrics.clone());
    let partition = groups.partition_of("g");
    assert!(!groups.has_failed(partition));
    let coordinator = groups.lead(partition, Arc::new(Damaged));
    while !groups.has_failed(partition) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(committed(&groups, "g").await, Err(GroupError::NotCoordinator));
    assert_eq!(metrics.groups.failed_coordinators.get(), 1);
    let list = ListGroups { states: Vec::new(), types: Vec::new() };
    assert!(groups.list_groups(list).await.unwrap().is_empty(), "it keeps nobody from the groups of others");
    assert!(groups.read_all().await.unread.contains(&partition));
    groups.resign(partition).unwrap().ended().await;
    coordinator.ended().await;
    assert!(!groups.has_failed(partition));
    assert_eq!(metrics.groups.failed_coordinators.get(), 0);
}

/// The log of a leader whose disk does not answer for now.
struct Away;

impl OffsetsLog for Away {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        Box::pin(async { Err(OffsetsLogError::Unavailable { reason: "away".to_owned() }) })
    }

    fn read(&self, _from: Offset, _max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        unreachable!("its range is not known")
    }

    fn append(&self, _batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }

    fn advance_start(&self, _start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }
}

#[tokio::test]
async fn a_log_that_does_not_answer_for_now_is_counted_and_is_not_to_be_given_up() {
    let metrics = CoordinatorMetrics::default();
    let groups = counted_groups(metrics.clone());
    let partition = groups.partition_of("g");
    groups.lead(partition, Arc::new(Away));
    while metrics.groups.failed_coordinators.get() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What is said of the failure is said after it is counted.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!groups.has_failed(partition));
    assert_eq!(committed(&groups, "g").await, Err(GroupError::CoordinatorLoadInProgress));
}

#[tokio::test]
async fn a_snapshot_holds_the_offsets_of_every_coordinator() {
    let groups = groups();
    for group in ["a", "b", "c"] {
        lead(&groups, group, &Arc::new(MemoryLog::default())).await;
        groups.commit_offsets(commit(group, 7)).await.unwrap();
    }
    let read = groups.read_all().await;
    assert_eq!((read.partitions, read.unread.len()), (50, 47));
    let records = snapshot::parse(&snapshot::encode(&read.records).into()).unwrap();
    let keys: Vec<_> = records.iter().map(|record| crate::group::records::Key::decode(&record.key).unwrap()).collect();
    assert_eq!(keys.len(), 3);
    assert!(matches!(&keys[0], crate::group::records::Key::Offset { topic, .. } if &**topic == "t"));
}

/// The log of a leader whose coordinator comes to a bad end.
struct Fatal;

impl OffsetsLog for Fatal {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        panic!("planned panic")
    }

    fn read(&self, _from: Offset, _max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        unreachable!("it has no range")
    }

    fn append(&self, _batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }

    fn advance_start(&self, _start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        unreachable!("nothing is loaded")
    }
}

#[tokio::test]
async fn the_groups_of_a_coordinator_that_died_count_as_unread() {
    let groups = groups();
    lead(&groups, "a", &Arc::new(MemoryLog::default())).await;
    groups.commit_offsets(commit("a", 7)).await.unwrap();
    groups.lead(groups.partition_of("b"), Arc::new(Fatal));
    while committed(&groups, "b").await != Err(GroupError::NotCoordinator) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let unread = groups.read_all().await.unread;
    assert!(unread.contains(&groups.partition_of("b")) && !unread.contains(&groups.partition_of("a")));
    assert_eq!(
        groups.list_groups(ListGroups::default()).await.unwrap().len(),
        1,
        "who asks for groups gets those there are"
    );
}

#[tokio::test]
async fn all_coordinators_have_one_limit() {
    let metrics = CoordinatorMetrics::default();
    let limit = 300_000;
    let groups = limited_groups(metrics.clone(), limit);
    let names: Vec<_> = (0..1000).map(|number| format!("group-{number}")).collect();
    for partition in 0..50 {
        groups.lead(PartitionIndex(partition), Arc::new(Leader(Arc::default())));
    }
    for name in &names {
        while committed(&groups, name).await == Err(GroupError::CoordinatorLoadInProgress) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut taken = 0;
    // What is on its way counts when it is in the log.
    for some in names.chunks(50) {
        let commits = some.iter().map(|name| groups.commit_offsets(commit(name, 1)));
        let results = futures_util::future::join_all(commits).await;
        taken += results.iter().filter(|result| result.as_ref().unwrap()[0].partitions[0].1.is_none()).count();
    }
    assert!(taken > 100 && taken < 900, "{taken}");
    let used = usize::try_from(metrics.used_bytes.get()).unwrap();
    assert!((limit..limit * 3 / 2).contains(&used), "{used}");
    let refused = groups.commit_offsets(commit("one more", 1)).await.unwrap();
    assert_eq!(refused[0].partitions[0].1, Some(GroupError::InvalidCommitOffsetSize));
    groups.commit_offsets(commit(&names[0], 2)).await.unwrap();
    assert_eq!(committed(&groups, &names[0]).await, Ok(2), "what is there goes on working");
}

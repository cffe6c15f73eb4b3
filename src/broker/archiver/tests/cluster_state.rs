//! What the bucket keeps beside records: committed offsets and producer ids.

use super::*;
use crate::archive::store::faulty::Fault;
use crate::group::request::{CommitPartition, CommitTopic, OffsetCommit, OffsetFetch};

pub(super) async fn commit(broker: &Broker, group_id: &str, offset: i64) {
    commit_to(broker, group_id, TOPIC, offset).await;
}

pub(super) async fn commit_to(broker: &Broker, group_id: &str, topic: &str, offset: i64) {
    let partitions =
        vec![CommitPartition { partition: 0, offset, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() }];
    let commit = OffsetCommit {
        group_id: group_id.into(),
        generation: -1,
        member_id: "".into(),
        group_instance_id: None,
        api_version: 8,
        retention_ms: None,
        topics: vec![CommitTopic { topic: topic.into(), topic_id: TopicId::ZERO, partitions }],
    };
    for _ in 0..LOOKS {
        match broker.groups().commit_offsets(commit.clone()).await {
            Ok(results) => return assert_eq!(results[0].partitions, [(0, None)]),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("the coordinator of {group_id} does not come up");
}

pub(super) async fn committed(broker: &Broker, group_id: &str) -> Option<i64> {
    for _ in 0..LOOKS {
        match broker.groups().fetch_offsets(OffsetFetch { group_id: group_id.into(), topics: None }).await {
            Ok(topics) => return topics.first().map(|topic| topic.partitions[0].offset),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("the coordinator of {group_id} does not come up");
}

/// The number of the bucket's newest snapshot of groups, once there is one after `before`. The object alone does not count: a
/// broker that stops before it is named has not kept it.
pub(super) async fn next_group_snapshot(home: &Home, before: u64) -> u64 {
    for _ in 0..LOOKS {
        let clusters = std::fs::read_dir(home.path("store/alluvium/v1")).into_iter().flatten().map(Result::unwrap);
        let marks = clusters.filter_map(|cluster| std::fs::read(cluster.path().join("meta/groups.json")).ok());
        let generation =
            |mark: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&mark).ok()?["generation"].as_u64();
        match marks.filter_map(generation).max() {
            Some(newest) if newest > before => return newest,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("groups are not kept in the bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_of_a_lost_directory_come_back_from_the_bucket() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    next_group_snapshot(&home, 0).await;
    broker.offsets_topic().await.unwrap();
    let groups: Vec<String> = (0..20).map(|number| format!("group {number}")).collect();
    for (group, offset) in groups.iter().zip(100..) {
        commit(&broker, group, offset).await;
    }
    broker.shutdown().await;
    let before = next_group_snapshot(&home, 0).await;
    // The next start keeps what the last one left; what comes later is not in the bucket yet.
    let broker = home.open().await;
    next_group_snapshot(&home, before).await;
    for group in &groups {
        commit(&broker, group, 999).await;
    }
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    for _ in 0..2 {
        let broker = home.open().await;
        let mut restored = 0;
        for (group, offset) in groups.iter().zip(100..) {
            let found = committed(&broker, group).await.unwrap_or_else(|| panic!("{group} begins anew"));
            assert!(found == offset || found == 999, "{group} is at {found}");
            restored += usize::from(found == offset);
        }
        assert!((1..groups.len()).contains(&restored), "{restored} of {} were lost", groups.len());
        broker.shutdown().await;
    }
}

/// Groups that are at 100 and kept in the bucket, and of whose data directories the second is lost.
async fn lost_groups(home: &Home) -> Vec<String> {
    let (broker, _) = home.begin().await;
    next_group_snapshot(home, 0).await;
    broker.offsets_topic().await.unwrap();
    let groups: Vec<String> = (0..20).map(|number| format!("group {number}")).collect();
    for group in &groups {
        commit(&broker, group, 100).await;
    }
    broker.shutdown().await;
    let before = next_group_snapshot(home, 0).await;
    let broker = home.open().await;
    next_group_snapshot(home, before).await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();
    groups
}

/// Groups whose offsets were lost wait for the bucket, whatever happens meanwhile: begun anew, they would stay so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_offsets_wait_for_a_bucket_that_does_not_answer() {
    let home = Home::new();
    let groups = lost_groups(&home).await;

    let asked = |broker: &Arc<Broker>, group: &String| {
        let (broker, group_id) = (Arc::clone(broker), group.as_str().into());
        async move { broker.groups().fetch_offsets(OffsetFetch { group_id, topics: None }).await.is_ok() }
    };
    // The first process sees no snapshot, and the second no bucket at all.
    for is_hidden in [|key: &str| key.contains("meta/groups"), |_: &str| true] {
        let plan = Box::new(move |_, _, key: &str| if is_hidden(key) { Fault::Denied } else { Fault::None });
        let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
        let mut waiting = groups.len();
        for _ in 0..50 {
            tokio::time::sleep(PAUSE).await;
            waiting = 0;
            for group in &groups {
                waiting += usize::from(!asked(&broker, group).await);
            }
        }
        assert!((1..groups.len()).contains(&waiting), "groups of the directory that is left have their coordinators");
        broker.shutdown().await;
    }
    let broker = home.open().await;
    for group in &groups {
        assert_eq!(committed(&broker, group).await, Some(100));
    }
    assert!(broker.image().unrestored().is_empty());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_ids_that_another_copy_gave_out_are_passed_over() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let first = broker.new_producer_id().await.unwrap();
    broker.shutdown().await;
    copy(&home.path("first"), &home.path("old first"));
    copy(&home.path("second"), &home.path("old second"));

    let broker = home.open().await;
    let mut given = first;
    for _ in 0..3000 {
        given = broker.new_producer_id().await.unwrap();
    }
    // The bucket learns of it in the background.
    let mark = home.path("store");
    let knows = |next: ProducerId| {
        let clusters = std::fs::read_dir(mark.join("alluvium/v1")).unwrap().map(Result::unwrap);
        clusters
            .filter_map(|cluster| std::fs::read_to_string(cluster.path().join("meta/producer-ids.json")).ok())
            .any(|text| text.contains(&format!("\"next_producer_id\":{}", next.get())))
    };
    let next = broker.image().next_producer_id();
    for _ in 0..LOOKS {
        if knows(next) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(knows(next));
    broker.shutdown().await;

    let broker = home.open_with(&["old first", "old second"]).await;
    for _ in 0..LOOKS {
        if broker.image().next_producer_id() >= next {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let id = broker.new_producer_id().await.unwrap();
    assert!(id > given, "{id} was given out by the other copy, as far as {given}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_does_not_take_its_groups_for_gone() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    broker.offsets_topic().await.unwrap();
    commit(&broker, "group", 100).await;
    assert!(broker.read_groups().await.is_some());
    broker.stop_waiting();
    // The snapshot of those that are left is that of none.
    assert_eq!(broker.read_groups().await, None);
    broker.shutdown().await;
}

/// A bucket of which nothing is there, as when it is not mounted, does not say that offsets are lost: begun anew, they would be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_offsets_are_not_given_up_for_a_bucket_that_is_not_mounted() {
    let home = Home::new();
    let groups = lost_groups(&home).await;

    std::fs::rename(home.path("store"), home.path("elsewhere")).unwrap();
    let plan = || Box::new(|_, _, _: &str| Fault::None);
    let refused = home.open_faulty(&["first", "second"], plan()).await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("holds nothing of this cluster")), "{refused:?}");
    std::fs::remove_dir_all(home.path("store")).unwrap();
    std::fs::rename(home.path("elsewhere"), home.path("store")).unwrap();
    let broker = home.open().await;
    for group in &groups {
        assert_eq!(committed(&broker, group).await, Some(100));
    }
    broker.shutdown().await;
}

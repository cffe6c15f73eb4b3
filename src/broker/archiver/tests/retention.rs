//! What retention deletes, and what it keeps.

use super::*;
use crate::archive::planner::EXPIRED_PER_PASS;
use crate::metadata::topic_config::ConfigOperation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_reaches_a_partition_that_nobody_has_used_since_the_start() {
    let home = Home::new();
    // The records are years old.
    let (broker, index) = home.begin_with(&[("retention.ms", "1000")]).await;
    produce_all(&broker, index, 0..5, "old").await;
    let end = archive(&broker, index).await;
    let id = leader(&broker, index).await.partition.log().partition();
    // On a slow machine a later look of the first life may find it.
    let found_before = broker.metrics().archive.expired_segments.get();
    broker.shutdown().await;

    let broker = home.open().await;
    let log = broker.directories().iter().find_map(|directory| directory.log(id)).unwrap();
    // Counted last.
    let found = || found_before + broker.metrics().archive.expired_segments.get();
    for _ in 0..LOOKS {
        if log.offsets().log_start == end && found() > 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!((log.offsets().log_start, found()), (end, 1));
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_of_retention_without_an_archive_deletes_few_segments_and_the_next_one_is_not_near() {
    let mut home = Home::new();
    home.retention_interval = Duration::from_secs(100_000);
    // The records are years old, and each has a segment.
    let configs = [("remote.storage.enable", "false"), ("retention.ms", "1000"), ("internal.segment.bytes", "4000")];
    let (broker, index) = home.begin_with(&configs).await;
    produce_all(&broker, index, 0..80, &"long ".repeat(700)).await;
    let id = leader(&broker, index).await.partition.log().partition();
    broker.shutdown().await;

    let broker = home.open().await;
    let log = broker.directories().iter().find_map(|directory| directory.log(id)).unwrap();
    for _ in 0..LOOKS {
        if log.offsets().log_start > Offset::ZERO {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Local disks are looked at each second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(log.offsets().log_start, Offset(EXPIRED_PER_PASS as i64), "{:?}", log.offsets());
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_policy_does_not_delete_keeps_its_old_records_until_it_does() {
    for is_archived in ["false", "true"] {
        let mut home = Home::new();
        home.retention_interval = Duration::from_millis(100);
        // The records are years old, and each has a segment.
        let (broker, index) = home
            .begin_with(&[
                ("cleanup.policy", ""),
                ("remote.storage.enable", is_archived),
                ("retention.ms", "1000"),
                ("retention.bytes", "1"),
                ("internal.segment.bytes", "4000"),
            ])
            .await;
        let expected = produce_all(&broker, index, 0..5, &"long ".repeat(700)).await;
        if is_archived == "true" {
            archive(&broker, index).await;
        }
        broker.shutdown().await;

        // Everything is in segments now. Local disks are looked at each second.
        let broker = home.open().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let log = Arc::clone(leader(&broker, index).await.partition.log());
        assert_eq!(log.offsets().log_start, Offset::ZERO, "archived: {is_archived}");
        assert_eq!(read_all(&broker, index).await, expected);

        let edit = ConfigEdit::Operations(vec![("cleanup.policy".to_owned(), ConfigOperation::Delete)]);
        broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
        for _ in 0..LOOKS {
            if log.offsets().log_start >= Offset(4) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert!(log.offsets().log_start >= Offset(4), "archived: {is_archived}: {:?}", log.offsets());
        drop(log);
        broker.shutdown().await;
    }
}

/// As with Apache Kafka, where a short `retention.ms` is how a topic is emptied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_passes_records_of_the_active_segment() {
    for is_archived in ["false", "true"] {
        let mut home = Home::new();
        home.retention_interval = Duration::from_millis(100);
        // The records are years old, and their segment has an hour to go.
        let (broker, index) = home.begin_with(&[("remote.storage.enable", is_archived), ("retention.ms", "500")]).await;
        produce_all(&broker, index, 0..5, "old").await;
        let log = leader(&broker, index).await.partition.log().clone();
        for _ in 0..LOOKS {
            if log.offsets().log_start == Offset(5) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(log.offsets().log_start, Offset(5), "remote.storage.enable={is_archived}");
        drop(log);
        broker.shutdown().await;
    }
}

fn without_time() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Timestamp::NONE, None, Some(&[b'v'; 100]), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone()
}

/// They are as young as the newest of their segment, and not as old as the oldest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_a_time_stay_for_the_time_of_retention() {
    let mut home = Home::new();
    home.retention_interval = Duration::from_millis(100);
    let retention = Duration::from_secs(3);
    let (broker, index) = home.begin_with(&[("remote.storage.enable", "false"), ("retention.ms", "3000")]).await;
    let log = leader(&broker, index).await.partition.log().clone();
    let clock = Arc::clone(&broker.runtime().clock);
    let mut began = Vec::new();
    for _ in 0..14 {
        began.push(clock.monotonic());
        produce(&broker, index, without_time()).await.unwrap();
        tokio::time::sleep(retention / 6).await;
        let start = usize::try_from(log.offsets().log_start.0).unwrap();
        // Whatever is deleted was at least as old.
        let oldest_kept = began.get(start.saturating_sub(1)).filter(|_| start > 0);
        let is_old = oldest_kept.is_none_or(|&began| clock.monotonic().since(began) >= retention);
        assert!(is_old, "{start} of {}", began.len());
    }
    for _ in 0..LOOKS {
        if log.offsets().log_start == log.offsets().log_end {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(log.offsets().log_start, Offset(14), "and no longer");
    drop(log);
    broker.shutdown().await;
}

/// Records need not have a time: -1 is not 1969.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_a_time_are_as_old_as_they_are_here() {
    for is_archived in ["false", "true"] {
        let mut home = Home::new();
        home.retention_interval = Duration::from_millis(100);
        let configs =
            [("remote.storage.enable", is_archived), ("retention.ms", "3600000"), ("internal.segment.bytes", "200")];
        let (broker, index) = home.begin_with(&configs).await;
        for _ in 0..5 {
            produce(&broker, index, without_time()).await.unwrap();
        }
        if is_archived == "true" {
            archive(&broker, index).await;
        }
        broker.shutdown().await;
        // Everything is in segments now. Local disks are looked at each second.
        let broker = home.open().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let log = leader(&broker, index).await.partition.log().clone();
        assert_eq!(log.offsets().log_start, Offset::ZERO, "archived: {is_archived}");
        drop(log);
        broker.shutdown().await;
    }
}

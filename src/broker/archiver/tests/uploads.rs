//! What is uploaded, when, and how it is counted.

use super::*;
use crate::archive::store::Operation;
use crate::archive::store::faulty::Fault;
use crate::broker::archiver::Attempts;
use crate::metadata::topic_config::ConfigOperation;

#[test]
fn what_came_of_an_earlier_epoch_says_nothing_of_the_next() {
    let mut attempts = Attempts::none_in(LeaderEpoch(3));
    attempts.in_epoch(LeaderEpoch(3), |attempts| attempts.failures = 5);
    attempts.in_epoch(LeaderEpoch(2), |late| late.failures = 9);
    assert_eq!(attempts.in_epoch(LeaderEpoch(2), |late| late.failures), 0);
    assert_eq!(attempts.in_epoch(LeaderEpoch(3), |attempts| attempts.failures), 5);
    assert_eq!(attempts.in_epoch(LeaderEpoch(4), |attempts| *attempts), Attempts::none_in(LeaderEpoch(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_begins_within_a_batch_is_archived() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in ["deleted", "deleted too", "kept"] {
        builder.append(Timestamp(5), None, Some(value.as_bytes()), std::iter::empty());
    }
    let records = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone();
    produce(&broker, index, records).await.unwrap();
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    log.advance_log_start(Offset(2)).unwrap();
    while log.offsets().log_start < Offset(2) {
        tokio::time::sleep(PAUSE).await;
    }
    drop(log);
    assert_eq!(archive(&broker, index).await, Offset(3));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_archive_did_and_has_to_do_is_measured() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    produce_all(&broker, index, 0..5, "kept").await;
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    let now = broker.runtime().clock.wall();
    let since = log.oldest_unarchived().unwrap();
    assert!(since <= now && now.0 - since.0 < 600_000, "{since} {now}");
    archive(&broker, index).await;
    assert_eq!(log.oldest_unarchived(), None);
    drop(log);
    let text = broker.metrics().encode();
    for name in [
        "archive_uploaded_bytes_total",
        "archive_archived_bytes_total",
        "archive_encode_seconds_count",
        "archive_verify_seconds_count",
        "archive_upload_seconds_count",
        "archive_commit_seconds_count",
        "store_written_bytes_total",
        "store_read_bytes_total",
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("alluvium_{name} ")));
        assert!(line.is_some_and(|value| value != "0"), "{name}: {line:?}");
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_panics_is_tried_again() {
    let home = Home::new();
    let mut panics = 1;
    let plan: FaultPlan = Box::new(move |_, operation, key| {
        let is_hit = panics > 0 && operation == Operation::Put && key.ends_with(".parquet");
        panics -= u32::from(is_hit);
        if is_hit { Fault::Panics } else { Fault::None }
    });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let (broker, index) = home.begin_on(broker, &[]).await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    let metrics = &broker.metrics().archive;
    assert_eq!(metrics.failed_uploads.get(), 1);
    for _ in 0..LOOKS {
        if metrics.uploads.get() == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(metrics.uploads.get(), 0);
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_copying_is_disabled_is_archived_once_that_ends() {
    let home = Home::new();
    let (broker, index) = home.begin_with(&[("remote.log.copy.disable", "true")]).await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    log.request_roll();
    for _ in 0..50 {
        assert_eq!(log.offsets().archived_to, Offset::ZERO);
        tokio::time::sleep(PAUSE).await;
    }
    let edit = ConfigEdit::Operations(vec![("remote.log.copy.disable".to_owned(), ConfigOperation::Delete)]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    drop(log);
    broker.shutdown().await;
}

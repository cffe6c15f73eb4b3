//! What is lost of a data directory, or comes back old, and goes on where the archive ends.

use super::*;
use crate::archive::store::Operation;
use crate::archive::store::faulty::Fault;
use crate::log::{AppendError, PartitionLog};
use crate::metadata::topic_config::ConfigOperation;

/// Removes local segments of the second directory as soon as a checkpoint vouches for them.
async fn remove_local(broker: &Broker, log: &PartitionLog, below: Offset) {
    while log.offsets().local_log_start < below {
        broker.directories()[1].request_checkpoint();
        log.remove_local_below(below).unwrap();
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_directory_goes_on_where_the_archive_ends() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let other = 1 - index;
    let mut expected = produce_all(&broker, index, 0..20, "kept").await;
    let untouched = produce_all(&broker, other, 0..5, "other").await;
    let archived_to = archive(&broker, index).await;
    produce_all(&broker, index, 20..23, "lost").await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    for round in 0..2 {
        let broker = home.open().await;
        assert_eq!(read_all(&broker, index).await, expected);
        assert_eq!(read_all(&broker, other).await, untouched);
        // The producer's last batch that is archived is known, and the next one is expected.
        let last = i32::try_from(expected.len()).unwrap() - 1;
        let again = produce(&broker, index, batch(last, expected.last().unwrap())).await.unwrap();
        assert_eq!(again.next_offset, Offset(i64::from(last) + 1), "a retry is found in the bucket");
        assert!(produce(&broker, index, batch(last + 3, "a gap")).await.is_err());
        let more = produce_all(&broker, index, last + 1..last + 4, &format!("round {round}")).await;
        expected.extend(more);
        if round == 0 {
            let reached = archive(&broker, index).await;
            assert_eq!(reached, archived_to + 3);
        }
        assert_eq!(read_all(&broker, index).await, expected);
        broker.shutdown().await;
    }
}

/// A head may be there although its maker never heard so, and nothing was archived: it says nothing of a later log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_which_nobody_heard_takes_no_records_for_archived() {
    let home = Home::new();
    let mut is_made = false;
    let plan = Box::new(move |_, operation, key: &str| match operation {
        _ if !key.ends_with("head.json") => Fault::None,
        Operation::Replace => {
            is_made = true;
            Fault::ReplyLost
        }
        _ if is_made => Fault::Refused,
        _ => Fault::None,
    });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let (broker, index) = home.begin_on(broker, &[("remote.storage.enable", "false")]).await;
    produce_all(&broker, index, 0..5, "deleted").await;
    let leader = leader(&broker, index).await;
    let log = Arc::clone(leader.partition.log());
    log.request_roll();
    leader.advance_log_start(Offset(5)).await.unwrap();
    remove_local(&broker, &log, Offset(5)).await;
    produce_all(&broker, index, 5..8, "lost").await;
    log.request_roll();
    let archived =
        ConfigEdit::Operations(vec![("remote.storage.enable".to_owned(), ConfigOperation::Set("true".to_owned()))]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &archived, false).await.unwrap();
    let made = format!("p={index:05}/head.json");
    for _ in 0..LOOKS {
        if objects(&home.path("store")).iter().any(|path| path.ends_with(&made)) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(objects(&home.path("store")).iter().any(|path| path.ends_with(&made)));
    drop(leader);
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    let broker = home.open().await;
    let expected = produce_all(&broker, index, 0..8, "new").await;
    assert_eq!(archive(&broker, index).await, Offset(8));
    let leader = super::leader(&broker, index).await;
    let log = Arc::clone(leader.partition.log());
    remove_local(&broker, &log, Offset(8)).await;
    assert_eq!(read_all(&broker, index).await, expected);
    drop(leader);
    broker.shutdown().await;
}

/// One whose head does not come holds up no other, whichever was asked for first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_lost_directory_wait_for_their_own_heads_alone() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    broker.create_partitions(TOPIC, 8, None, false).await.unwrap();
    let second = broker.directories()[1].identity().directory_id;
    let topic = broker.image().topic_named(TOPIC).unwrap().clone();
    let is_lost = |index: &i32| topic.partition(*index).unwrap().replica_on(NodeId(1)).unwrap().directory == second;
    let lost: Vec<i32> = (0..8).filter(is_lost).collect();
    for &index in &lost {
        produce_all(&broker, index, 0..3, "kept").await;
        archive(&broker, index).await;
    }
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("second")).unwrap();

    let (stuck, others) = lost.split_first().unwrap();
    let head = format!("p={stuck:05}/head.json");
    let plan = Box::new(move |_, _, key: &str| if key.ends_with(&head) { Fault::Hangs } else { Fault::None });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let asked = broker.leader(broker.image().topic_named(TOPIC).unwrap(), *stuck, LeaderEpoch::NONE);
    assert!(matches!(asked, Err(PartitionError::Behind)));
    drop(asked);
    tokio::time::sleep(PAUSE).await;
    // An attempt at the first takes 30 s.
    let read = async {
        for &index in others {
            assert_eq!(read_all(&broker, index).await.len(), 3);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("others wait for one head");
    assert!(!others.is_empty());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_directory_never_appends_where_the_archive_has_records() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "first").await;
    archive(&broker, index).await;
    expected.extend(produce_all(&broker, index, 5..10, "first").await);
    broker.shutdown().await;
    copy(&home.path("second"), &home.path("old"));

    let broker = home.open().await;
    expected.extend(produce_all(&broker, index, 10..20, "second").await);
    let archived_to = archive(&broker, index).await;
    let beyond = produce_all(&broker, index, 20..40, "not archived").await;
    broker.shutdown().await;
    std::fs::rename(home.path("second"), home.path("newest")).unwrap();
    std::fs::rename(home.path("old"), home.path("second")).unwrap();

    // The log ends at 10 and the archive at 20.
    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    let produced = produce(&broker, index, batch(20, "third 20")).await.unwrap();
    assert_eq!(produced.base_offset, archived_to);
    expected.push("third 20".to_owned());
    expected.extend(produce_all(&broker, index, 21..30, "third").await);
    archive(&broker, index).await;
    let next = produce_all(&broker, index, 30..32, "third").await;
    broker.shutdown().await;

    // The first disk comes back: it reaches further than the archive, by records that were never archived and that others took
    // the place of.
    std::fs::rename(home.path("second"), home.path("later")).unwrap();
    std::fs::rename(home.path("newest"), home.path("second")).unwrap();
    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    expected.extend(produce_all(&broker, index, 30..35, "fourth").await);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    assert!(!beyond.iter().chain(&next).any(|value| expected.contains(value)));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_checkpoint_costs_nothing_of_a_log_of_which_the_archive_has_the_rest() {
    // How far local copies are gone of what is archived, and whether records follow that are not.
    for (removed, has_more) in [(10, true), (20, true), (20, false)] {
        let home = Home::new();
        let (broker, index) = home.begin().await;
        let mut expected = produce_all(&broker, index, 0..10, "first").await;
        archive(&broker, index).await;
        expected.extend(produce_all(&broker, index, 10..20, "second").await);
        archive(&broker, index).await;
        let log = Arc::clone(leader(&broker, index).await.partition.log());
        remove_local(&broker, &log, Offset(removed)).await;
        drop(log);
        if has_more {
            expected.extend(produce_all(&broker, index, 20..25, "not archived").await);
        }
        broker.shutdown().await;
        std::fs::remove_file(home.path("second/checkpoint")).unwrap();

        for _ in 0..2 {
            let broker = home.open().await;
            assert_eq!(read_all(&broker, index).await, expected, "{removed} {has_more}");
            let next = i32::try_from(expected.len()).unwrap();
            expected.extend(produce_all(&broker, index, next..next + 3, "later").await);
            assert_eq!(archive(&broker, index).await, Offset(i64::from(next) + 3));
            let epochs = leader(&broker, index).await.partition.log().epochs();
            assert_eq!(epochs.starts()[0].1, Offset::ZERO, "{removed} {has_more}: {epochs:?}");
            assert_eq!(read_all(&broker, index).await, expected);
            broker.shutdown().await;
        }
    }
}

/// The sweep takes what no head lists, and here the head is what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_gone_is_told_and_costs_nothing_once_it_is_put_back() {
    let mut home = Home::new();
    home.sweep_interval = Duration::from_millis(20);
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "archived").await;
    archive(&broker, index).await;
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    remove_local(&broker, &log, Offset(5)).await;
    drop(log);
    broker.shutdown().await;
    let head = format!("p={index:05}/head.json");
    let head = objects(&home.path("store")).into_iter().find(|path| path.ends_with(&head)).unwrap();
    let content = std::fs::read(&head).unwrap();
    std::fs::remove_file(&head).unwrap();
    let mut all = objects(&home.path("store"));
    all.retain(|object| object.to_string_lossy().contains("/log/"));
    assert!(!all.is_empty());

    let assert_told = async |broker: &Broker| {
        let wanted = FetchPartition { leader: Ok(leader(broker, index).await), offset: Offset::ZERO, max_bytes: 1 };
        let limits =
            FetchLimits { max_wait: Duration::ZERO, min_bytes: 1, max_bytes: 1, isolation: Isolation::ReadUncommitted };
        let refused = broker.fetch(&[wanted], limits).await.0.remove(0).records.unwrap_err();
        assert!(matches!(refused, PartitionError::Archive(ArchiveError::Damaged { .. })), "{refused}");
        assert!(broker.metrics().archive_read.damaged_reads.get() > 0);
    };
    let broker = home.open().await;
    assert_told(&broker).await;
    expected.extend(produce_all(&broker, index, 5..6, "local").await);
    leader(&broker, index).await.partition.log().request_roll();
    broker.shutdown().await;
    for _ in 0..2 {
        // In a later epoch than any object's, and with a head of its own making.
        let broker = home.open().await;
        drop(leader(&broker, index).await);
        for _ in 0..LOOKS {
            if head.exists() && broker.metrics().archive.swept_partitions.get() > 4 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert!(head.exists() && broker.metrics().archive.swept_partitions.get() > 4);
        assert_told(&broker).await;
        broker.shutdown().await;
        let left = objects(&home.path("store"));
        assert!(all.iter().all(|object| left.contains(object)), "{left:?}");
    }

    std::fs::write(&head, content).unwrap();
    let broker = home.open().await;
    assert_eq!(archive(&broker, index).await, Offset(6));
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_metadata_costs_no_record_of_what_was_made_since() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "before").await;
    broker.shutdown().await;
    copy(&home.path("first/metadata"), &home.path("copy"));

    let broker = home.open().await;
    let later = broker.create_topic(NewTopic::by_default("later"), false).await.unwrap();
    let later = broker.leader(&later, 0, LeaderEpoch::NONE).unwrap();
    let name = later.partition.log().partition().topic_id.to_string();
    broker.append(&later, batch(0, "kept"), true, RoomWait { timeout: Duration::ZERO, held_bytes: 0 }).await.unwrap();
    drop(later);
    broker.shutdown().await;
    // More lives than one, each with an epoch of its own.
    for sequence in 5..8 {
        let broker = home.open().await;
        expected.extend(produce_all(&broker, index, sequence..sequence + 1, "since").await);
        archive(&broker, index).await;
        broker.shutdown().await;
    }
    std::fs::remove_dir_all(home.path("first/metadata")).unwrap();
    std::fs::rename(home.path("copy"), home.path("first/metadata")).unwrap();

    let kept = || {
        let mut files = [objects(&home.path("first")), objects(&home.path("second"))].concat();
        files.retain(|path| path.to_string_lossy().contains(&name) && !path.to_string_lossy().contains("/removed/"));
        files
    };
    let files = kept();
    assert!(!files.is_empty());
    for sequence in 8..10 {
        let broker = home.open().await;
        expected.extend(produce_all(&broker, index, sequence..sequence + 1, "after").await);
        assert_eq!(archive(&broker, index).await, Offset(i64::from(sequence) + 1));
        assert_eq!(read_all(&broker, index).await, expected);
        broker.shutdown().await;
        assert_eq!(kept(), files);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_missing_and_not_replaced_is_waited_for() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let expected = produce_all(&broker, index, 0..5, "kept").await;
    broker.shutdown().await;

    let broker = home.open_with(&["first"]).await;
    let image = broker.image();
    let refused = broker.leader(image.topic_named(TOPIC).unwrap(), index, LeaderEpoch::NONE).unwrap_err();
    assert!(matches!(refused, PartitionError::Append(AppendError::Offline { .. })), "{refused}");
    produce_all(&broker, 1 - index, 0..5, "other").await;
    drop(image);
    broker.shutdown().await;

    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

/// Forgotten before, its logs would be of nobody knows what when the directory is back, and stay for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_stays_listed_until_the_directory_that_may_have_it_is_back() {
    for is_configured in [true, false] {
        let home = Home::new();
        let (broker, index) = home.begin().await;
        produce_all(&broker, index, 0..1, "deleted").await;
        // The metadata knows of the directory by its partitions.
        broker.create_topic(NewTopic { partitions: 2, ..NewTopic::by_default("other") }, false).await.unwrap();
        let topic_id = broker.image().topic_named(TOPIC).unwrap().topic_id;
        broker.shutdown().await;
        std::fs::rename(home.path("second"), home.path("away")).unwrap();
        std::fs::write(home.path("second"), "no directory").unwrap();

        let broker = home.open_with(if is_configured { &["first", "second"] } else { &["first"] }).await;
        assert_eq!(broker.unopened_directories().count(), usize::from(is_configured));
        broker.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
        // It is forgotten at once when the bucket has nothing of it any more, if it is not waited for.
        let is_purged = || {
            let is_it = |path: &PathBuf| path.ends_with("topic.json") && path.to_string_lossy().contains("/flights-");
            let found = objects(&home.path("store")).into_iter().find(is_it).map(std::fs::read_to_string);
            found.is_some_and(|text| text.unwrap_or_default().contains("\"purged\""))
        };
        for _ in 0..LOOKS {
            if is_purged() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert!(is_purged());
        tokio::time::sleep(20 * PAUSE).await;
        assert!(broker.image().is_deleted(topic_id), "{is_configured}");
        broker.shutdown().await;

        std::fs::remove_file(home.path("second")).unwrap();
        std::fs::rename(home.path("away"), home.path("second")).unwrap();
        let broker = home.open().await;
        let is_left = || {
            let mut logs = broker.directories().iter().flat_map(|directory| directory.logs());
            logs.any(|log| log.partition().topic_id == topic_id)
        };
        for _ in 0..LOOKS {
            if !is_left() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        assert!(!is_left(), "{is_configured}");
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_the_disk_lost_and_the_log_does_not_know_to_be_archived_is_read_from_the_archive() {
    let home = Home::new();
    let configs = [("remote.log.copy.disable", "true"), ("internal.segment.bytes", "4000")];
    let (broker, index) = home.begin_with(&configs).await;
    let mut expected = produce_all(&broker, index, 0..6, &"long ".repeat(700)).await;
    broker.shutdown().await;
    copy(&home.path("second"), &home.path("before"));
    let broker = home.open().await;
    let edit = ConfigEdit::Operations(vec![("remote.log.copy.disable".to_owned(), ConfigOperation::Delete)]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    archive(&broker, index).await;
    broker.shutdown().await;

    // A segment of a log that does not remember to be archived.
    std::fs::remove_dir_all(home.path("second")).unwrap();
    std::fs::rename(home.path("before"), home.path("second")).unwrap();
    let is_third = |path: &PathBuf| path.to_string_lossy().ends_with("00000000000000000002.segment");
    let lost: Vec<_> = objects(&home.path("second")).into_iter().filter(is_third).collect();
    assert_eq!(lost.len(), 1);
    std::fs::remove_file(&lost[0]).unwrap();
    let broker = home.open().await;
    assert_eq!(archive(&broker, index).await, Offset(6));
    assert_eq!(read_all(&broker, index).await, expected);
    expected.extend(produce_all(&broker, index, 6..8, "after").await);
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

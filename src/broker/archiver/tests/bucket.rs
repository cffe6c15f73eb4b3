//! What a bucket contradicts, refuses, or has lying about.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::archive::store::faulty::Fault;
use crate::metadata::Command;
use crate::metadata::image::ArchiveMark;
use crate::metadata::topic_config::ConfigOperation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_can_not_be_described_keeps_no_other_from_it() {
    let home = Home::new();
    let (broker, _) = home.begin().await;
    let described = |name: &str| {
        let is_it = |path: &PathBuf| path.ends_with("topic.json") && path.to_string_lossy().contains(name);
        objects(&home.path("store/alluvium")).into_iter().find(is_it)
    };
    let wait_for = async |name: &str| {
        for _ in 0..LOOKS {
            if let Some(found) = described(name) {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{name} is not described");
    };
    let description = wait_for(&format!("/{TOPIC}-")).await;
    broker.shutdown().await;
    std::fs::write(description, "damaged").unwrap();

    let broker = home.open().await;
    // The second one has a name that no file may have.
    for name in ["later".to_owned(), format!(".{}", "x".repeat(248))] {
        broker.create_topic(NewTopic { partitions: 1, ..NewTopic::by_default(&name) }, false).await.unwrap();
        let shown = crate::archive::key::shown_name(&name);
        wait_for(&format!("/{shown}-")).await;
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_never_described_and_is_deleted_is_recorded_as_gone() {
    let home = Home::new();
    let denies = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&denies);
    let plan = Box::new(move |_, _, key: &str| {
        let is_hit = asked.load(Ordering::Relaxed) && key.ends_with("topic.json");
        if is_hit { Fault::Denied } else { Fault::None }
    });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    let (broker, _) = home.begin_on(broker, &[]).await;
    broker.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
    denies.store(false, Ordering::Relaxed);
    for _ in 0..LOOKS {
        if broker.image().deleted_topics().count() == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    broker.shutdown().await;
    let left = objects(&home.path("store/alluvium")).into_iter().filter(|path| path.ends_with("topic.json"));
    let descriptions: Vec<_> = left.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(descriptions.len() == 1 && descriptions[0].contains("\"purged\""), "{descriptions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_local_goes_because_of_an_archive_that_contradicts_it() {
    let mut home = Home::new();
    home.retention_interval = Duration::from_millis(100);
    let configs = [("local.retention.ms", "-1"), ("local.retention.bytes", "-1")];
    let (broker, index) = home.begin_with(&configs).await;
    let mut expected = produce_all(&broker, index, 0..5, "both").await;
    archive(&broker, index).await;
    broker.shutdown().await;
    let other = Home::new();
    copy(home.root.path(), other.root.path());
    let broker = home.open().await;
    expected.extend(produce_all(&broker, index, 5..10, "ours").await);
    archive(&broker, index).await;
    broker.shutdown().await;
    // Another life of the same cluster, which has these offsets in a later epoch. Its bucket takes the place of ours.
    other.open().await.shutdown().await;
    let broker = other.open().await;
    produce_all(&broker, index, 5..10, "theirs").await;
    archive(&broker, index).await;
    broker.shutdown().await;
    std::fs::remove_dir_all(home.path("store")).unwrap();
    std::fs::rename(other.path("store"), home.path("store")).unwrap();

    let broker = home.open().await;
    let set = |name: &str| (name.to_owned(), ConfigOperation::Set("1".to_owned()));
    let edit = ConfigEdit::Operations(vec![set("local.retention.ms"), set("local.retention.bytes")]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    let log = Arc::clone(leader(&broker, index).await.partition.log());
    let passes = &broker.metrics().archive.retained_partitions;
    for _ in 0..LOOKS {
        if passes.get() >= 40 {
            break;
        }
        broker.directories()[1].request_checkpoint();
        tokio::time::sleep(PAUSE).await;
    }
    assert!(passes.get() >= 40, "{} looks", passes.get());
    assert_eq!(log.offsets().local_log_start, Offset::ZERO);
    assert_eq!(read_all(&broker, index).await, expected);
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_that_no_upload_followed_costs_nothing() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    expected.extend(produce_all(&broker, index, 5..8, "kept").await);
    let id = leader(&broker, index).await.partition.log().partition();
    let mark = ArchiveMark { next_offset: Offset(50), leader_epoch: LeaderEpoch(3) };
    broker.submit(Command::NoteArchiving { partition: id, mark }).await.unwrap();
    broker.shutdown().await;

    let broker = home.open().await;
    assert_eq!(read_all(&broker, index).await, expected, "what is not archived stays");
    expected.extend(produce_all(&broker, index, 8..10, "kept").await);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_runs_by_itself_and_takes_what_an_earlier_leader_left_behind() {
    let mut home = Home::new();
    home.sweep_interval = Duration::from_millis(100);
    let (broker, index) = home.begin().await;
    produce_all(&broker, index, 0..5, "first").await;
    archive(&broker, index).await;
    broker.shutdown().await;

    // A second life leads in a later epoch, once it has archived something.
    let broker = home.open().await;
    let orphans = {
        let names = objects(&home.path("store"));
        let name = names.iter().find(|path| path.extension().is_some_and(|it| it == "aux")).unwrap();
        let text = name.to_str().unwrap();
        let (start, _) = text.rsplit_once('-').unwrap();
        ["111111111111.aux", "111111111111.parquet"].map(|end| PathBuf::from(format!("{start}-{end}")))
    };
    for orphan in &orphans {
        std::fs::write(orphan, b"left behind").unwrap();
    }
    let expected = produce_all(&broker, index, 5..10, "second").await;
    archive(&broker, index).await;
    for _ in 0..LOOKS {
        // Counted once they are gone.
        if broker.metrics().archive.orphaned_objects.get() == 2 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(orphans.iter().all(|orphan| !orphan.exists()), "the sweep has not come");
    assert_eq!(broker.metrics().archive.orphaned_objects.get(), 2);
    assert!(broker.metrics().archive.swept_partitions.get() > 0);
    assert!(read_all(&broker, index).await.ends_with(&expected));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_denies_access_stops_new_data_directories_alone() {
    let home = Home::new();
    let (broker, index) = home.begin().await;
    let mut expected = produce_all(&broker, index, 0..5, "kept").await;
    archive(&broker, index).await;
    broker.shutdown().await;

    let denies = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&denies);
    let plan = Box::new(move |_, _, _: &str| if asked.load(Ordering::Relaxed) { Fault::Denied } else { Fault::None });
    let broker = home.open_faulty(&["first", "second"], plan).await.unwrap();
    expected.extend(produce_all(&broker, index, 5..10, "kept").await);
    denies.store(false, Ordering::Relaxed);
    archive(&broker, index).await;
    assert_eq!(read_all(&broker, index).await, expected);
    broker.shutdown().await;

    let refused = home.open_faulty(&["new"], Box::new(|_, _, _| Fault::Denied)).await.unwrap_err();
    assert!(matches!(refused, StartError::Archive { error: ArchiveStartError::Probe(_), .. }), "{refused}");
}

//! A cluster that is restored from its bucket alone, while a broker of its former life still runs.

use super::cluster_state::{commit, committed, next_group_snapshot};
use super::*;

/// The settings of a broker in data directories of its own, beside the one of [`Home::open`].
fn beside(home: &Home, directories: &[&str]) -> BrokerSettings {
    let mut settings = home.settings(directories);
    settings.archive.archiver.spool_directory = home.path(&format!("{} spool", directories[0]));
    settings.archive.archiver.cache_directory = home.path(&format!("{} cache", directories[0]));
    settings
}

async fn look(settings: &BrokerSettings, force: bool) -> Restore {
    let options = RestoreOptions { force, ..RestoreOptions::default() };
    Restore::look(&Runtime::production(), settings, options).await.unwrap()
}

fn epoch(broker: &Broker, index: i32) -> LeaderEpoch {
    broker.image().topic_named(TOPIC).unwrap().partition(index).unwrap().leader_epoch
}

/// A broker with five archived records and two that are not in its first partition, one in the second that is not, and two groups, one
/// of them beyond the archive; all of it as the bucket is to have it.
async fn former(home: &Home) -> (Arc<Broker>, Vec<String>) {
    let (broker, _) = home.begin_with(&[("retention.ms", "-1")]).await;
    next_group_snapshot(home, 0).await;
    broker.offsets_topic().await.unwrap();
    let archived = produce_all(&broker, 0, 0..5, "archived").await;
    assert_eq!(archive(&broker, 0).await, Offset(5));
    commit(&broker, "within", 2).await;
    commit(&broker, "ahead", 7).await;
    broker.shutdown().await;
    let before = next_group_snapshot(home, 0).await;
    let broker = home.open().await;
    next_group_snapshot(home, before).await;
    produce_all(&broker, 0, 5..7, "lost").await;
    produce_all(&broker, 1, 0..1, "lost").await;
    (broker, archived)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bucket_has_comes_back_and_the_former_broker_archives_nothing_more() {
    let home = Home::new();
    let (old, archived) = former(&home).await;
    let settings = beside(&home, &["third", "fourth"]);

    let refused = look(&settings, false).await.run().await.unwrap_err();
    assert!(matches!(refused, RestoreError::Alive { .. }), "{refused}");
    let in_use = look(&home.settings(&["first", "second"]), true).await;
    assert!(in_use.obstacles()[0].contains("not empty"), "{:?}", in_use.obstacles());
    assert!(matches!(in_use.run().await.unwrap_err(), RestoreError::NotEmpty { .. }));
    assert!(!home.path("third").exists(), "nothing was made");

    let planned = look(&settings, true).await;
    assert_eq!(planned.obstacles(), Vec::<String>::new());
    assert_eq!(planned.report().unwrap().incarnation, None);
    let report = planned.run().await.unwrap();
    assert_eq!((report.before, report.incarnation), (Incarnation(0), Some(Incarnation(1))));
    let ends: Vec<Offset> = report.topics[0].partitions.iter().map(|partition| partition.end).collect();
    assert_eq!((&*report.topics[0].name, ends), (TOPIC, vec![Offset(5), Offset::ZERO]));
    assert_eq!((report.groups.groups, report.groups.offsets), (2, 2));
    let ahead = &report.groups.ahead[0];
    assert_eq!((&*ahead.group, ahead.offset, ahead.end), ("ahead", Offset(7), Offset(5)));

    let new = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    assert_eq!(new.cluster_id(), old.cluster_id());
    assert_eq!(new.image().topic_named(TOPIC).unwrap().configs.values["retention.ms"], "-1");
    assert_eq!(read_all(&new, 0).await, archived);
    assert_eq!(read_all(&new, 1).await, Vec::<String>::new());
    assert_eq!(committed(&new, "within").await, Some(2));
    assert_eq!(committed(&new, "ahead").await, Some(5), "it would pass over what takes the lost records' offsets");
    assert!(
        epoch(&new, 0) > epoch(&old, 0).next(),
        "clients of the former life do not take this one's metadata for old"
    );
    assert!(new.new_producer_id().await.unwrap() >= ProducerId(1_000_000));
    let again = produce(&new, 0, batch(4, "archived 4")).await.unwrap();
    assert_eq!(again.next_offset, Offset(5), "a retry is found in the bucket");

    // The former broker has more than the archive, goes on, and tries to archive it.
    produce_all(&old, 0, 7..8, "late").await;
    leader(&old, 0).await.partition.log().request_roll();
    for _ in 0..LOOKS {
        if old.metrics().archive.fenced_commits.get() > 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(old.metrics().archive.fenced_commits.get() > 0);
    let more = produce_all(&new, 0, 5..9, "restored").await;
    assert_eq!(archive(&new, 0).await, Offset(9));
    let expected = [archived, more].concat();
    assert_eq!(read_all(&new, 0).await, expected);
    old.shutdown().await;
    let settings = home.settings(&["first", "second"]);
    let refused = Broker::open(Runtime::production(), settings, Metrics::new()).await.err().map(|it| it.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("was restored elsewhere")), "{refused:?}");

    // It is a cluster as any other from here on.
    new.shutdown().await;
    let settings = beside(&home, &["third", "fourth"]);
    let new = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    assert_eq!(read_all(&new, 0).await, expected);
    assert_eq!(committed(&new, "within").await, Some(2));
    new.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_head_is_lost_is_restored_with_nothing_of_it_or_not_at_all() {
    let home = Home::new();
    let (old, _) = former(&home).await;
    old.shutdown().await;
    let heads = objects(&home.path("store")).into_iter().filter(|path| path.ends_with("p=00000/head.json"));
    heads.for_each(|path| std::fs::remove_file(path).unwrap());
    let before = objects(&home.path("store"));
    let settings = beside(&home, &["third", "fourth"]);
    let refused = look(&settings, true).await.run().await.unwrap_err();
    assert!(
        matches!(&refused, RestoreError::Damaged { problems } if problems[0].contains("without a head")),
        "{refused}"
    );
    assert_eq!(objects(&home.path("store")), before, "nothing was changed");

    let options = RestoreOptions { without: vec![TOPIC.to_owned()], force: true, ..RestoreOptions::default() };
    let report = Restore::look(&Runtime::production(), &settings, options).await.unwrap().run().await.unwrap();
    assert_eq!((report.topics.len(), report.left_out.len()), (0, 1));
    let new = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    assert_eq!(new.image().topic_named(TOPIC), None);
    assert_eq!(committed(&new, "within").await, Some(2), "the topic's records may be brought back");
    let records = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let kept = objects(&home.path("store")).iter().filter(|path| records(path)).count();
    assert_eq!(kept, before.iter().filter(|path| records(path)).count());
    new.shutdown().await;
}

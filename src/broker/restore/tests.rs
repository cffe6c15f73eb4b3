//! Restores that were interrupted, and those that come one after another.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::broker::{Broker, NewTopic, StartError};

const LOOKS: usize = 3000;
const PAUSE: Duration = Duration::from_millis(20);

/// Settings of a broker in a directory of its own, with the store of `root`.
fn settings(root: &Path, name: &str) -> BrokerSettings {
    let mut settings = BrokerSettings::small(&root.join(name));
    settings.archive.location = BrokerSettings::small(root).archive.location;
    settings
}

async fn open(settings: &BrokerSettings) -> Result<Arc<Broker>, StartError> {
    Broker::open(Runtime::production(), settings.clone(), Metrics::new()).await
}

/// A bucket that knows of one topic, and its broker gone.
async fn lost_cluster(root: &Path) -> ClusterId {
    let broker = open(&settings(root, "lost")).await.unwrap();
    let topic = NewTopic { partitions: 3, replication_factor: 1, ..NewTopic::by_default("flights") };
    broker.create_topic(topic, false).await.unwrap();
    let cluster_id = broker.cluster_id();
    let topics = root.join("store/alluvium/v1").join(cluster_id.to_string()).join("topics");
    let is_described = || std::fs::read_dir(&topics).is_ok_and(|mut names| names.next().is_some());
    for _ in 0..LOOKS {
        if is_described() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(is_described());
    broker.shutdown().await;
    cluster_id
}

async fn restore(settings: &BrokerSettings) -> Result<RestoreReport, RestoreError> {
    let options = RestoreOptions { force: true, ..RestoreOptions::default() };
    Restore::look(&Runtime::production(), settings, options).await?.run().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_interrupted_goes_on_and_no_broker_starts_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let cluster_id = lost_cluster(root.path()).await;
    let (runtime, settings) = (Runtime::production(), settings(root.path(), "new"));
    // It got as far as the bucket, and half a data directory.
    let place = Place::take(&runtime, &settings.directories, cluster_id).unwrap();
    let store = archiver::open_store(&runtime, &settings.archive, &Metrics::new()).unwrap();
    let bucket = Bucket::new(store, runtime.clone(), cluster_id);
    let stamp = bucket.begin_incarnation(place.marker.nonce, Incarnation(0)).await.unwrap();
    assert_eq!(stamp.incarnation, Incarnation(1));
    std::fs::write(settings.directories[0].join("identity"), "half").unwrap();
    drop(place);
    let refused = open(&settings).await.err();
    assert!(matches!(refused, Some(StartError::Restoring { .. })), "{refused:?}");

    let report = restore(&settings).await.unwrap();
    assert_eq!(report.incarnation, Some(Incarnation(1)), "the life that was begun");
    let broker = open(&settings).await.unwrap();
    assert_eq!(broker.image().topic_named("flights").unwrap().partition_count(), 3);
    broker.shutdown().await;
    assert!(matches!(restore(&settings).await, Err(RestoreError::NotEmpty { .. })), "it is done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_restores_the_later_one_counts() {
    let root = tempfile::tempdir().unwrap();
    lost_cluster(root.path()).await;
    let (first, second) = (settings(root.path(), "first"), settings(root.path(), "second"));
    assert_eq!(restore(&first).await.unwrap().incarnation, Some(Incarnation(1)));
    assert_eq!(restore(&second).await.unwrap().incarnation, Some(Incarnation(2)));
    let refused = open(&first).await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("was restored elsewhere")), "{refused:?}");
    open(&second).await.unwrap().shutdown().await;
}

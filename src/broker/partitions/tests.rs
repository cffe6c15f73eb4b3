//! Topics that come, change and go faster than their partitions follow.

use std::path::Path;
use std::sync::Arc;

use crate::broker::{Broker, BrokerSettings, ConfigEdit, ConfigResource, NewTopic, TopicName};
use crate::metadata::image::Topic;
use crate::metadata::topic_config::ConfigOperation;
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::LeaderEpoch;

const TOPIC: &str = "flights";

/// A broker that follows no image by itself.
async fn open(directory: &Path) -> Arc<Broker> {
    let broker = Broker::open(Runtime::production(), BrokerSettings::small(directory), Metrics::new()).await.unwrap();
    let background = std::mem::take(&mut *broker.background.lock());
    for task in background {
        task.abort();
        // Its end by abortion is what was asked for.
        let _ = task.await;
    }
    broker
}

async fn create(broker: &Broker) -> Arc<Topic> {
    let topic = NewTopic { partitions: 1, ..NewTopic::by_default(TOPIC) };
    broker.create_topic(topic, false).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_comes_and_goes_between_two_images_leaves_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let before = broker.image();
    let topic = create(&broker).await;
    let log = Arc::clone(broker.leader(&topic, 0, LeaderEpoch::NONE).unwrap().partition.log());
    broker.delete_topic(&TopicName::Name(TOPIC.to_owned())).await.unwrap();
    assert!(!log.is_deleted(), "nobody has looked yet");
    broker.partitions.apply(&before, &broker.image());
    assert!(log.is_deleted());
    assert!(broker.partitions().is_empty());
    drop(log);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_opened_with_the_newest_configuration_whatever_image_its_user_has() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let topic = create(&broker).await;
    let set = ("retention.ms".to_owned(), ConfigOperation::Set("1234".to_owned()));
    let edit = ConfigEdit::Operations(vec![set]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    let leader = broker.leader(&topic, 0, LeaderEpoch::NONE).unwrap();
    assert_eq!(leader.partition.topic().rules().config.retention_ms, Some(1234));
    drop(leader);
    broker.shutdown().await;
}

//! That a pass goes by what is configured when it comes to a partition: over very many it takes minutes.

use super::*;
use crate::broker::{Acknowledgement, BrokerSettings, ConfigEdit, ConfigResource, NewTopic, RoomWait};
use crate::metadata::topic_config::ConfigOperation;
use crate::record::{BatchBuilder, BatchOptions};
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::LeaderEpoch;

const TOPIC: &str = "flights";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the broker's own loops, which are to leave the partition alone.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// A partition of four records, without an archive.
async fn partition(broker: &Broker) -> Leader {
    let configs = [("remote.storage.enable".to_owned(), "false".to_owned())].into();
    let topic = NewTopic { partitions: 1, configs, ..NewTopic::by_default(TOPIC) };
    let topic = broker.create_topic(topic, false).await.unwrap();
    let leader = broker.leader(&topic, 0, LeaderEpoch::NONE).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..4 {
        builder.append(broker.runtime().clock.wall(), None, Some(b"value"), std::iter::empty());
    }
    let records = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone();
    let produced = broker.append(&leader, records, true, RoomWait { timeout: PATIENCE, held_bytes: 1000 }).await;
    broker.acknowledge(&leader, &produced.unwrap(), Acknowledgement::All, PATIENCE).await.unwrap();
    leader
}

/// Sets the topic's `retention.ms`, and waits until its partition knows.
async fn configure(broker: &Broker, leader: &Leader, retention_ms: Option<u64>) {
    let value = retention_ms.map_or_else(|| "-1".to_owned(), |ms| ms.to_string());
    let edit = ConfigEdit::Operations(vec![("retention.ms".to_owned(), ConfigOperation::Set(value))]);
    broker.alter_configs(&ConfigResource::Topic(TOPIC.to_owned()), &edit, false).await.unwrap();
    let known = || leader.partition.topic().rules().config.retention_ms;
    let follows = async {
        while known().map(i64::cast_unsigned) != retention_ms {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, follows).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_goes_by_what_is_configured_when_it_comes_to_a_partition() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(directory.path());
    settings.archive.archiver.retention_interval = NEVER;
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leader = partition(&broker).await;
    // As if the records were old and sealed when the pass began.
    let sealed = |base, next| {
        let max_timestamp = Timestamp(1);
        SealedSegment { base: Offset(base), next: Offset(next), bytes: 1000, max_timestamp }
    };
    let view = PartitionView {
        sealed: vec![sealed(0, 2), sealed(2, 4)],
        log_start_offset: Offset::ZERO,
        local_log_start_offset: Offset::ZERO,
        archivable_to: Offset(4),
        archived_to: None,
    };
    let held = Held { leader: leader.clone(), is_led: true, view };
    let now = broker.runtime().clock.wall();
    for (retention_ms, start) in [(None, 0), (Some(1000), 4), (None, 0)] {
        configure(&broker, &leader, retention_ms).await;
        assert_eq!(held.local_start(now, true), Offset(start), "on the local disk: {retention_ms:?}");
        assert_eq!(held.keep().retention_ms, retention_ms, "in the bucket");
    }
    drop((held, leader));
    broker.shutdown().await;
}

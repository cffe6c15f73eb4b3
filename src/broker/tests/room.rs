//! Producers that find no room in a data directory, and what goes on beside them.

use super::*;

const AT_ONCE: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(60);

async fn append(
    broker: &Broker,
    leader: &Leader,
    batch: &Batch,
    timeout: Duration,
) -> Result<Produced, PartitionError> {
    broker.append(leader, batch.bytes().clone(), true, timeout).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_wait_for_room_as_long_as_they_say_and_few_of_them_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::small(directory.path());
    settings.waiting_bytes = 8 << 10;
    let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let batch = batch(BatchOptions::default(), &[vec![7; 5000]]);
    let all = broker.directories()[0].try_admit_producer(usize::MAX).unwrap();
    assert!(matches!(append(&broker, &leader, &batch, AT_ONCE).await, Err(PartitionError::TimedOut)));
    let waits = append(&broker, &leader, &batch, PATIENCE);
    let others = async {
        // There is room for one that waits.
        let second = append(&broker, &leader, &batch, PATIENCE).await;
        assert!(matches!(second, Err(PartitionError::TimedOut)), "{second:?}");
        drop(all);
    };
    let (waited, ()) = tokio::join!(biased; waits, others);
    assert_eq!(waited.unwrap().base_offset, Offset(0));
    assert_eq!(append(&broker, &leader, &batch, AT_ONCE).await.unwrap().base_offset, Offset(1));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_is_answered_with_the_time_at_which_it_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let configs = [("message.timestamp.type", "LogAppendTime")];
    let leader = create(&broker, "events", 1, &configs).await.remove(0);
    let options = BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        ..BatchOptions::default()
    };
    let batch = batch(options, &[vec![7; 10]]);
    let first = append(&broker, &leader, &batch, PATIENCE).await.unwrap();
    while broker.runtime().clock.wall() <= first.log_append_time.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(append(&broker, &leader, &batch, PATIENCE).await.unwrap(), first);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_of_all_timestamps_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let configs = [("message.timestamp.after.max.ms", "9223372036854775807")];
    let leader = create(&broker, "events", 1, &configs).await.remove(0);
    for timestamp in [5, i64::MAX, 7] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(timestamp), None, Some(b"value"), std::iter::empty());
        produce(&broker, &leader, &builder.build(Offset(0), LeaderEpoch::NONE).unwrap()).await;
    }
    let found = broker.offset(&leader, OffsetQuery::MaxTimestamp, Isolation::ReadUncommitted).await.unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset(1), Timestamp(i64::MAX)));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_unknown_hurries_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path()).await;
    let leader = create(&broker, "events", 1, &[]).await.remove(0);
    let unknown =
        || FetchPartition { leader: Err(PartitionError::UnknownPartition), ..wanted(&leader, Offset(0), 1000) };
    let limits = FetchLimits { max_wait: PATIENCE, ..limits(1000) };
    let alone = [unknown()];
    assert_eq!(broker.fetch(&alone, limits).await.0.len(), 1, "nothing is to be waited for");
    let both = [unknown(), wanted(&leader, Offset(0), 1000)];
    let waits = broker.fetch(&both, limits);
    let appends = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        append(&broker, &leader, &batch(BatchOptions::default(), &[vec![7; 10]]), PATIENCE).await.unwrap();
    };
    let ((fetched, _memory), ()) = tokio::join!(waits, appends);
    assert!(fetched[0].records.is_err());
    assert!(!fetched[1].records.as_ref().unwrap().is_empty());
    broker.shutdown().await;
}

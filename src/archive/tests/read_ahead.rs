//! What is fetched of the archive before a reader that goes on asks for it.

use super::*;

/// How long what is fetched ahead may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until an offset is in the cache.
async fn until_at_hand(broker: &Broker, head: &Arc<Head>, offset: Offset) {
    let waits = async {
        while broker.reader.at_hand(&broker.partition, head, request(offset)).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("{offset} is not read ahead"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_at_the_end_of_a_segment_has_the_next_one_read_ahead() {
    let store = open_store("memory:///");
    let writing = Broker::new(store.clone());
    writing.describe_topic().await;
    let log = plain_log(60);
    writing.archive(writer(1), &log, 30, end(&log)).await.unwrap();
    let head = writing.partition.refresh().await.unwrap().unwrap();
    let (first, second) = (&head.segments[0], head.segments[1].base());
    let last = first.chunk_at(Offset(second.0 - 1)).unwrap().base;
    let before = first.chunk_at(Offset(last.0 - 1)).unwrap().base;
    // Once the segment's end is fetched when it is asked for, and once it was read ahead itself.
    for mut at in [last, before] {
        let ahead = ReadSettings { read_ahead_chunks: 1, ..ReadSettings::default() };
        let reading = Broker::with(store.clone(), ahead, 1 << 20);
        while at < second {
            let batches = reading.read(&head, request(at), 1 << 20).await.unwrap();
            at = batches.last().unwrap().header().next_offset();
            until_at_hand(&reading, &head, at).await;
        }
        assert_eq!(at, second, "a read ends with its chunk");
        let batches = reading.read(&head, request(second), 1).await.unwrap();
        assert_same(&batches, &log[30..31], "what is at hand is what was archived");
    }
}

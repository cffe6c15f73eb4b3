//! What a large cluster costs: time and memory of an image with many partitions. A few partitions always run; for figures that mean
//! something, `ALLUVIUM_METADATA_PARTITIONS=1000000` in a release build, with `--nocapture`.

use std::time::Instant;

use super::*;
use crate::metadata::command::AlterPartition;
use crate::metadata::controller::upkeep;
use crate::metadata::{placement, snapshot};
use crate::sim::number;

const BROKERS: i32 = 100;
const REPLICATION_FACTOR: i16 = 3;
const PARTITIONS_OF_A_TOPIC: u64 = 100;

/// Memory of the process in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * 4 / 1024
}

struct Stopwatch {
    lines: Vec<String>,
}

impl Stopwatch {
    /// Does something, and notes how long it took and what it left in memory.
    fn time<T>(&mut self, what: &str, work: impl FnOnce() -> T) -> T {
        #[expect(clippy::disallowed_methods, reason = "what is measured here is the machine's own time")]
        let (began, before) = (Instant::now(), resident_mib());
        let result = work();
        let (took, grew) = (began.elapsed(), resident_mib().saturating_sub(before));
        self.lines.push(format!("{what:40} {:>10.2} ms {grew:>6} MiB more", took.as_secs_f64() * 1000.0));
        result
    }
}

#[test]
fn a_cluster_of_a_million_partitions_costs_what_its_figures_say() {
    let partitions = number("ALLUVIUM_METADATA_PARTITIONS", 10_000);
    let mut world = World::new(BROKERS);
    let mut watch = Stopwatch { lines: Vec::new() };
    watch.time("create all topics", || {
        for topic in 1..=partitions / PARTITIONS_OF_A_TOPIC {
            let count = i32::try_from(PARTITIONS_OF_A_TOPIC).unwrap();
            let assignment = placement::place(&world.image, count, REPLICATION_FACTOR).unwrap();
            let (name, topic_id) = (format!("topic-{topic}"), topic_id(topic));
            let configs = BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]);
            world.apply(&Command::CreateTopic(CreateTopic { name, topic_id, assignment, configs, internal: false }));
        }
    });
    let bytes = watch.time("encode a snapshot", || snapshot::encode(&world.image));
    let decoded = watch.time("decode a snapshot", || snapshot::decode(&bytes).unwrap());
    assert_eq!(decoded, world.image);
    drop(decoded);
    let kept = world.image.clone();
    let broker_epoch = world.epoch(7);
    let fence = Command::FenceBroker { node_id: NodeId(7), broker_epoch };
    watch.time("fence a broker", || world.apply(&fence));
    watch.time("unfence it", || world.apply(&Command::UnfenceBroker { node_id: NodeId(7), broker_epoch }));
    watch.time("one change of in-sync replicas", || {
        let partition = TopicPartition::new(topic_id(1), 50);
        let now = world.image.partition(partition).unwrap();
        let leader = now.leader.unwrap();
        let alter = AlterPartition {
            node_id: leader,
            broker_epoch: world.epoch(leader.get()),
            partition,
            leader_epoch: now.leader_epoch,
            partition_epoch: now.partition_epoch,
            in_sync: vec![(leader, world.epoch(leader.get()))],
        };
        world.apply(&Command::AlterPartition(alter));
    });
    watch.time("what changed since", || assert!(world.image.topic_changes(&kept).count() > 0));
    watch.time("look for preferred leaders", || upkeep::not_preferred(&world.image, None, PREFERRED_AT_ONCE).len());
    watch.time("look for successors", || upkeep::has_successors_to_come(&world.image, NodeId(7)));
    let led = kept.topics().flat_map(|topic| topic.partitions.iter());
    assert_eq!(led.filter(|partition| partition.leader == Some(NodeId(7))).count() as u64, partitions / 100);
    let size = std::mem::size_of::<crate::metadata::image::Partition>();
    let report = watch.lines.join("\n");
    let snapshot_mib = bytes.len() >> 20;
    eprintln!(
        "{partitions} partitions on {BROKERS} brokers, {size} bytes each and replicas, snapshot {snapshot_mib} MiB\n{report}"
    );
}

//! DescribeLogDirs: the data directories and the sizes of the partitions in them, led and followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::wire::{text, topic_name};
use super::{Context, Handle};
use crate::log::LogDirectory;
use crate::metadata::Image;
use crate::protocol::ErrorCode;

impl Handle for DescribeLogDirsRequest {
    async fn handle(self, context: &Context) -> DescribeLogDirsResponse {
        context.take_place().await;
        let image = context.broker.image();
        let wanted = self.topics.map(|topics| {
            let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
            for topic in topics {
                wanted.entry(topic.topic.to_string()).or_default().extend(topic.partitions);
            }
            wanted
        });
        let directories = context.broker.directories().iter();
        let results = directories.map(|directory| described(context, directory, &image, wanted.as_ref()));
        let unopened = context.broker.unopened_directories().map(offline);
        DescribeLogDirsResponse::default().with_results(results.chain(unopened).collect())
    }
}

fn offline(path: &Path) -> DescribeLogDirsResult {
    DescribeLogDirsResult::default()
        .with_log_dir(text(&path.to_string_lossy()))
        .with_error_code(ErrorCode::KafkaStorageError.code())
        .with_total_bytes(-1)
        .with_usable_bytes(-1)
}

fn described(
    context: &Context,
    directory: &Arc<LogDirectory>,
    image: &Image,
    wanted: Option<&BTreeMap<String, BTreeSet<i32>>>,
) -> DescribeLogDirsResult {
    let mut topics: BTreeMap<Arc<str>, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for log in directory.logs() {
        let id = log.partition();
        let Some(topic) = image.topic(id.topic_id) else { continue };
        let index = id.partition.get();
        let is_wanted = |wanted: &BTreeMap<_, BTreeSet<_>>| {
            wanted.get(&*topic.name).is_some_and(|partitions| partitions.contains(&index))
        };
        if wanted.is_none_or(is_wanted) {
            let size = clamp(log.local_bytes());
            // Counted as Kafka does, from the high watermark that is known here, no log lags: that is within it.
            let partition = DescribeLogDirsPartition::default().with_partition_index(index).with_partition_size(size);
            topics.entry(Arc::clone(&topic.name)).or_default().push(partition);
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DescribeLogDirsTopic::default().with_name(topic_name(&name)).with_partitions(partitions)
    });
    if directory.is_offline() {
        return offline(directory.path());
    }
    let result = DescribeLogDirsResult::default().with_log_dir(text(&directory.path().to_string_lossy()));
    let space = context.broker.runtime().disk.space(directory.path());
    let (total, usable) = space.map_or((-1, -1), |space| (clamp(space.total_bytes), clamp(space.available_bytes)));
    result.with_topics(topics.collect()).with_total_bytes(total).with_usable_bytes(usable)
}

fn clamp(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! OffsetDelete: forgets committed positions of topics that the group does not subscribe to (KIP-496).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::wire::{shared, topic_name};
use super::{Context, Handle};
use crate::group::request::OffsetDelete;
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::server::errors::group_code;

impl Handle for OffsetDeleteRequest {
    async fn handle(self, context: &Context) -> OffsetDeleteResponse {
        let image = context.broker.image();
        // Each topic comes once in the answer, however often it is named.
        let mut wanted: BTreeMap<Arc<str>, (Vec<i32>, Vec<i32>)> = BTreeMap::new();
        for topic in &self.topics {
            let (existing, missing) = wanted.entry(shared(&topic.name)).or_default();
            for partition in &topic.partitions {
                let is_known = exists(&image, &topic.name, partition.partition_index);
                if is_known { &mut *existing } else { &mut *missing }.push(partition.partition_index);
            }
        }
        let known = wanted.iter_mut().map(|(name, (existing, _))| (Arc::clone(name), std::mem::take(existing)));
        let delete = OffsetDelete { group_id: shared(&self.group_id), topics: known.collect() };
        let deleted = match context.broker.groups().delete_offsets(delete).await {
            Ok(deleted) => deleted,
            Err(error) => return OffsetDeleteResponse::default().with_error_code(context.group_code(Some(error))),
        };
        let mut settled: BTreeMap<_, _> =
            deleted.into_iter().map(|results| (results.topic, results.partitions)).collect();
        let topics = wanted.into_iter().map(|(name, (_, missing))| {
            let settled = settled.remove(&name).unwrap_or_default();
            let settled = settled.into_iter().map(|(index, error)| (index, group_code(error)));
            let missing = missing.into_iter().map(|index| (index, ErrorCode::UnknownTopicOrPartition));
            let partitions = settled.chain(missing).map(|(index, code)| {
                context.count_error(code);
                OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(code.code())
            });
            OffsetDeleteResponseTopic::default().with_name(topic_name(&name)).with_partitions(partitions.collect())
        });
        OffsetDeleteResponse::default().with_topics(topics.collect())
    }
}

fn exists(image: &Image, name: &str, partition: i32) -> bool {
    image.topic_named(name).is_some_and(|topic| topic.partition(partition).is_some())
}

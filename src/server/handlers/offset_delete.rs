//! OffsetDelete: forgets committed positions of topics that the group does not subscribe to (KIP-496).

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
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for topic in &self.topics {
            let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
            let (existing, missing): (Vec<i32>, Vec<i32>) =
                indexes.partition(|index| exists(&image, &topic.name, *index));
            known.push((shared(&topic.name), existing));
            unknown.push((shared(&topic.name), missing));
        }
        let delete = OffsetDelete { group_id: shared(&self.group_id), topics: known };
        let deleted = match context.broker.groups().delete_offsets(delete).await {
            Ok(deleted) => deleted,
            Err(error) => return OffsetDeleteResponse::default().with_error_code(context.group_code(Some(error))),
        };
        let topics = unknown.into_iter().map(|(name, missing)| {
            let settled =
                deleted.iter().filter(|results| results.topic == name).flat_map(|results| &results.partitions);
            let settled = settled.map(|(index, error)| (*index, group_code(*error)));
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

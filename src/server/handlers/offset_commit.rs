//! OffsetCommit: a group's positions, by topic name or, from version 10, by identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::wire::{leader_epoch, shared, shared_option, topic_id};
use super::{Context, Handle};
use crate::broker::{Broker, PartitionError};
use crate::group::GroupError;
use crate::group::request::{CommitPartition, CommitTopic, OffsetCommit, PartitionResults};
use crate::metadata::Image;
use crate::metadata::image::Topic;
use crate::protocol::ErrorCode;
use crate::server::errors::partition_code;
use crate::types::TopicId;

/// First version that names topics by identity.
pub(super) const FIRST_TOPIC_ID_VERSION: i16 = 10;

impl Handle for OffsetCommitRequest {
    async fn handle(self, context: &Context) -> OffsetCommitResponse {
        let image = context.broker.image();
        let topics = self.topics.iter().filter_map(|wanted| commits(context, &image, wanted)).collect();
        let commit = OffsetCommit {
            group_id: shared(&self.group_id),
            generation: self.generation_id_or_member_epoch,
            member_id: shared(&self.member_id),
            group_instance_id: shared_option(self.group_instance_id.as_ref()),
            api_version: context.version(),
            retention_ms: Some(self.retention_time_ms).filter(|retention| *retention >= 0),
            topics,
        };
        let settled = context.broker.groups().commit_offsets(commit).await;
        let errors = errors_of(&settled);
        let results = self.topics.into_iter().map(|wanted| {
            let topic = known(context, &image, &wanted);
            let errors = topic.as_ref().ok().and_then(|topic| errors.get(&topic.name));
            let partitions = wanted.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let code = match &topic {
                    Err(error) => partition_code(error),
                    Ok(topic) if topic.partition(index).is_none() => ErrorCode::UnknownTopicOrPartition,
                    Ok(_) => match &settled {
                        Ok(_) => errors.and_then(|errors| errors.get(&index)).copied().unwrap_or_default(),
                        Err(error) => ErrorCode::from_code(error.code()),
                    },
                };
                context.count_error(code);
                OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code.code())
            });
            let partitions = partitions.collect();
            OffsetCommitResponseTopic::default()
                .with_name(wanted.name)
                .with_topic_id(wanted.topic_id)
                .with_partitions(partitions)
        });
        OffsetCommitResponse::default().with_topics(results.collect())
    }
}

fn known<'a>(
    context: &Context,
    image: &'a Image,
    wanted: &OffsetCommitRequestTopic,
) -> Result<&'a Topic, PartitionError> {
    match context.version() {
        ..FIRST_TOPIC_ID_VERSION => Broker::topic(image, TopicId::ZERO, &wanted.name).map(|topic| &**topic),
        _ => image.topic(topic_id(wanted.topic_id)).map(|topic| &**topic).ok_or(PartitionError::UnknownTopicId),
    }
}

/// The part of the commit that names what exists.
fn commits(context: &Context, image: &Image, wanted: &OffsetCommitRequestTopic) -> Option<CommitTopic> {
    let topic = known(context, image, wanted).ok()?;
    let partitions = wanted.partitions.iter().filter(|partition| topic.partition(partition.partition_index).is_some());
    let partitions = partitions.map(|partition| CommitPartition {
        partition: partition.partition_index,
        offset: partition.committed_offset,
        leader_epoch: leader_epoch(partition.committed_leader_epoch),
        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
    });
    // Also where it was named: the deletion of an earlier topic of this name may yet come to its coordinator.
    Some(CommitTopic { topic: topic.name.clone(), topic_id: topic.topic_id, partitions: partitions.collect() })
}

/// The errors of partitions by topic and number.
fn errors_of(settled: &Result<Vec<PartitionResults>, GroupError>) -> BTreeMap<Arc<str>, BTreeMap<i32, ErrorCode>> {
    let mut errors: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for results in settled.iter().flatten() {
        let failed = results.partitions.iter().filter_map(|(index, error)| Some((*index, (*error)?)));
        let failed = failed.map(|(index, error)| (index, ErrorCode::from_code(error.code())));
        errors.entry(Arc::clone(&results.topic)).or_default().extend(failed);
    }
    errors
}

//! OffsetFetch: committed positions of one group, or from version 8 of several.

use std::sync::Arc;

use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse};

use super::offset_commit::FIRST_TOPIC_ID_VERSION;
use super::wire::{shared, text, topic_id, topic_name};
use super::{AnswerRoom, Context, Handle};
use crate::group::request::{FetchTopic, FetchedTopic, OffsetFetch};
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::types::TopicId;

/// First version that asks for several groups.
const FIRST_BATCH_VERSION: i16 = 8;
/// First version with an error of the whole request; before it, each partition carries the group's.
const FIRST_TOP_LEVEL_ERROR_VERSION: i16 = 2;

/// What a position takes in memory beside its metadata, at most.
const POSITION_BYTES: usize = 150;

impl Handle for OffsetFetchRequest {
    async fn handle(self, context: &Context) -> OffsetFetchResponse {
        let is_batch = context.version() >= FIRST_BATCH_VERSION;
        let groups = if is_batch { self.groups } else { vec![only_group(self.group_id, self.topics)] };
        let mut room = context.answer_room();
        let mut asked = Vec::with_capacity(groups.len());
        for group in groups {
            asked.push(ask(context, group, &mut room).await);
        }
        // Coordinators were waited for before.
        context.take_place().await;
        let image = context.broker.image();
        let mut groups = asked.into_iter().map(|asked| one_group(context, &image, asked));
        match is_batch {
            true => OffsetFetchResponse::default().with_groups(groups.collect()),
            false => single(context, groups.next().expect("one was asked for")),
        }
    }
}

/// What a request before version 8 asks for.
fn only_group(group_id: GroupId, topics: Option<Vec<OffsetFetchRequestTopic>>) -> OffsetFetchRequestGroup {
    let topic = |topic: OffsetFetchRequestTopic| {
        OffsetFetchRequestTopics::default().with_name(topic.name).with_partition_indexes(topic.partition_indexes)
    };
    let topics = topics.map(|topics| topics.into_iter().map(topic).collect());
    OffsetFetchRequestGroup::default().with_group_id(group_id).with_topics(topics)
}

/// What a coordinator said of a group.
struct Asked {
    wanted: OffsetFetchRequestGroup,
    /// Topics that were named by an identity which no topic has.
    unknown: Vec<OffsetFetchResponseTopics>,
    /// The positions, or the code of the group's error.
    fetched: Result<Vec<FetchedTopic>, i16>,
}

async fn ask(context: &Context, wanted: OffsetFetchRequestGroup, room: &mut AnswerRoom) -> Asked {
    let image = context.broker.image();
    let by_id = context.version() >= FIRST_TOPIC_ID_VERSION;
    let mut unknown = Vec::new();
    let topics = wanted.topics.as_ref().map(|topics| {
        let mut known = Vec::with_capacity(topics.len());
        for topic in topics {
            match name_of(&image, topic, by_id) {
                Some((name, topic_id)) => {
                    known.push(FetchTopic { topic: name, topic_id, partitions: topic.partition_indexes.clone() });
                }
                None => unknown.push(failed_topic(topic, ErrorCode::UnknownTopicId)),
            }
        }
        known
    });
    let fetch = OffsetFetch { group_id: shared(&wanted.group_id), topics };
    let fetched = match context.broker.fetch_offsets(fetch).await {
        Ok(fetched) if room.take(bytes_of(&fetched)) => Ok(fetched),
        Ok(_) => Err(ErrorCode::InvalidRequest.code()),
        Err(error) => Err(context.group_code(Some(error))),
    };
    Asked { wanted, unknown, fetched }
}

fn one_group(context: &Context, image: &Image, asked: Asked) -> OffsetFetchResponseGroup {
    let Asked { wanted, unknown, fetched } = asked;
    let response = OffsetFetchResponseGroup::default().with_group_id(wanted.group_id);
    let by_id = context.version() >= FIRST_TOPIC_ID_VERSION;
    match fetched {
        Ok(fetched) => {
            let found = fetched.into_iter().filter_map(|topic| found(image, topic, by_id));
            response.with_topics(found.chain(unknown).collect())
        }
        Err(code) => {
            let wanted = wanted.topics.unwrap_or_default();
            let topics = match context.version() {
                ..FIRST_TOP_LEVEL_ERROR_VERSION => {
                    wanted.iter().map(|topic| failed_topic(topic, ErrorCode::from_code(code))).collect()
                }
                _ => Vec::new(),
            };
            response.with_error_code(code).with_topics(topics)
        }
    }
}

/// What positions take in memory, at most.
fn bytes_of(fetched: &[FetchedTopic]) -> usize {
    let partitions = fetched.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| POSITION_BYTES + partition.metadata.len()).sum()
}

/// The name that offsets are kept under, and the identity that was asked for.
fn name_of(image: &Image, wanted: &OffsetFetchRequestTopics, by_id: bool) -> Option<(Arc<str>, TopicId)> {
    if !by_id {
        // An earlier topic of that name may have left offsets behind.
        let id = image.topic_named(&wanted.name).map_or(TopicId::ZERO, |topic| topic.topic_id);
        return Some((shared(&wanted.name), id));
    }
    let topic = image.topic(topic_id(wanted.topic_id))?;
    Some((Arc::clone(&topic.name), topic.topic_id))
}

fn failed_topic(wanted: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions = wanted.partition_indexes.iter().map(|&index| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(text("")))
            .with_error_code(error.code())
    });
    OffsetFetchResponseTopics::default()
        .with_name(wanted.name.clone())
        .with_topic_id(wanted.topic_id)
        .with_partitions(partitions.collect())
}

/// A topic's offsets; by identity only those of topics that exist can be told, by name none of an earlier topic.
fn found(image: &Image, topic: FetchedTopic, by_id: bool) -> Option<OffsetFetchResponseTopics> {
    let named = image.topic_named(&topic.topic).map(|topic| topic.topic_id);
    let topic_id = match topic.topic_id {
        id if !by_id && named.is_some_and(|named| !id.is_zero() && id != named) => return None,
        id if !by_id || !id.is_zero() => id,
        _ => named?,
    };
    let partitions = topic.partitions.into_iter().map(|partition| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(partition.partition)
            .with_committed_offset(partition.offset)
            .with_committed_leader_epoch(partition.leader_epoch.get())
            .with_metadata(Some(text(&partition.metadata)))
    });
    Some(
        OffsetFetchResponseTopics::default()
            .with_name(topic_name(&topic.topic))
            .with_topic_id(topic_id.uuid())
            .with_partitions(partitions.collect()),
    )
}

/// The answer before version 8, which is about one group.
fn single(context: &Context, group: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    let has_error = context.version() >= FIRST_TOP_LEVEL_ERROR_VERSION;
    OffsetFetchResponse::default().with_topics(topics.collect()).with_error_code(if has_error {
        group.error_code
    } else {
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{machine, testing};

    #[test]
    fn a_topic_is_given_no_offsets_of_an_earlier_one_that_had_its_name() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let command = testing::create_topic(&image, 2, "events", 1);
        machine::apply(&mut image, &command).unwrap();
        let (earlier, current) = (testing::topic_id(1), testing::topic_id(2));
        let wanted = OffsetFetchRequestTopics::default().with_name(topic_name("events"));
        let (_, asked_for) = name_of(&image, &wanted, false).unwrap();
        assert_eq!(asked_for, current);
        // Who asks for all topics is told by the coordinator what each offset was committed for.
        let fetched = |topic_id| FetchedTopic { topic: "events".into(), topic_id, partitions: Vec::new() };
        assert!(found(&image, fetched(earlier), false).is_none());
        assert!(found(&image, fetched(current), false).is_some());
        assert!(found(&image, fetched(TopicId::ZERO), false).is_some(), "committed by name alone");
    }
}

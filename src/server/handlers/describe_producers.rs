//! DescribeProducers: the idempotent producers that partitions remember (KIP-664).

use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use super::wire::message;
use super::{Context, Handle, TOO_LARGE};
use crate::broker::{Broker, Leader};
use crate::metadata::topic_name::validate;
use crate::protocol::ErrorCode;
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, TopicId};

impl Handle for DescribeProducersRequest {
    async fn handle(self, context: &Context) -> DescribeProducersResponse {
        context.take_place().await;
        let mut room = context.answer_room();
        let image = context.broker.image();
        let topics = self.topics.into_iter().map(|wanted| {
            let partitions = wanted.partition_indexes.iter().map(|&index| {
                let response = PartitionResponse::default().with_partition_index(index);
                let of_topic = |code: ErrorCode, text: String| {
                    context.count_error(code);
                    response.clone().with_error_code(code.code()).with_error_message(message(text))
                };
                if let Err(error) = validate(&wanted.name) {
                    return of_topic(ErrorCode::InvalidTopicException, error.to_string());
                }
                let topic = match Broker::topic(&image, TopicId::ZERO, &wanted.name) {
                    Ok(topic) => topic,
                    Err(error) => return of_topic(partition_code(&error), error.to_string()),
                };
                match context.broker.leader(topic, index, LeaderEpoch::NONE) {
                    Ok(leader) => {
                        if room.take(leader.partition.log().producer_count() * size_of::<ProducerState>()) {
                            return response.with_active_producers(producers(&leader));
                        }
                        response
                            .with_error_code(ErrorCode::InvalidRequest.code())
                            .with_error_message(message(TOO_LARGE))
                    }
                    Err(error) => {
                        let code = partition_code(&error);
                        context.count_error(code);
                        response.with_error_code(code.code())
                    }
                }
            });
            let partitions = partitions.collect();
            TopicResponse::default().with_name(wanted.name).with_partitions(partitions)
        });
        DescribeProducersResponse::default().with_topics(topics.collect())
    }
}

fn producers(leader: &Leader) -> Vec<ProducerState> {
    let remembered = leader.partition.log().producers();
    let described = remembered.entries().filter_map(|(producer_id, entry)| {
        let newest = entry.batches.back()?;
        let state = ProducerState::default()
            .with_producer_id(ProducerId(producer_id.get()))
            .with_producer_epoch(i32::from(newest.epoch.get()))
            .with_last_sequence(newest.last_sequence)
            .with_last_timestamp(newest.timestamp.get())
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(-1);
        Some(state)
    });
    described.collect()
}

//! OffsetForLeaderEpoch: where a leader epoch ended, so that a client finds where its position left the log (KIP-320).

use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Context, Handle};
use crate::broker::Broker;
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, TopicId};

impl Handle for OffsetForLeaderEpochRequest {
    async fn handle(self, context: &Context) -> OffsetForLeaderEpochResponse {
        let image = context.broker.image();
        let topics = self.topics.into_iter().map(|wanted| {
            let partitions = wanted.partitions.iter().map(|partition| {
                let leader = Broker::topic(&image, TopicId::ZERO, &wanted.topic).and_then(|topic| {
                    context.broker.leader(topic, partition.partition, LeaderEpoch(partition.current_leader_epoch))
                });
                let answer = EpochEndOffset::default().with_partition(partition.partition);
                match leader {
                    Ok(leader) => {
                        let end = context.broker.epoch_end(&leader, LeaderEpoch(partition.leader_epoch));
                        let (epoch, offset) = end.map_or((-1, -1), |(epoch, offset)| (epoch.get(), offset.get()));
                        answer.with_leader_epoch(epoch).with_end_offset(offset)
                    }
                    Err(error) => {
                        let code = partition_code(&error);
                        context.count_error(code);
                        answer.with_error_code(code.code()).with_leader_epoch(-1).with_end_offset(-1)
                    }
                }
            });
            let partitions = partitions.collect();
            OffsetForLeaderTopicResult::default().with_topic(wanted.topic).with_partitions(partitions)
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }
}

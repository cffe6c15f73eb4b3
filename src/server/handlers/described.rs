//! Topics and partitions as Metadata and DescribeTopicPartitions show them: two answers of the protocol with types of their
//! own, and the same fields filled in from the same image.

/// The answer about one topic in the type that the API has for it, with the answers about its partitions.
macro_rules! described_topic {
    ($answer:ty, $topic:expr, $partitions:expr, $operations:expr) => {{
        let topic: &$crate::metadata::image::Topic = $topic;
        <$answer>::default()
            .with_name(Some($crate::server::handlers::wire::topic_name(&topic.name)))
            .with_topic_id(topic.topic_id.uuid())
            .with_is_internal(topic.internal)
            .with_partitions($partitions)
            .with_topic_authorized_operations($operations)
    }};
}

/// The answer about one partition in the type that the API has for it.
macro_rules! described_partition {
    ($answer:ty, $image:expr, $partition:expr, $index:expr) => {{
        use $crate::protocol::ErrorCode;
        use $crate::server::handlers::wire::broker_id;
        let partition: &$crate::metadata::image::Partition = $partition;
        let offline = $image.offline_nodes(partition);
        let leader = partition.leader.filter(|leader| !offline.contains(leader));
        let error = if leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
        <$answer>::default()
            .with_error_code(error.code())
            .with_partition_index($index)
            .with_leader_id(broker_id(leader))
            .with_leader_epoch(partition.leader_epoch.get())
            .with_replica_nodes(partition.replica_nodes().map(|node_id| broker_id(Some(node_id))).collect())
            .with_offline_replicas(offline.into_iter().map(|node_id| broker_id(Some(node_id))).collect())
            .with_isr_nodes(partition.in_sync_nodes().map(|node_id| broker_id(Some(node_id))).collect())
    }};
}

pub(super) use {described_partition, described_topic};

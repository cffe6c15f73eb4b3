//! What commands do to the image, and that the image is a pure function of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::metadata::command::{ConfigChange, CreatePartitions, CreateTopic, RegisterBroker, ReplicaPlace};
use crate::metadata::image::{ArchiveMark, TopicChange};
use crate::metadata::snapshot;
use crate::metadata::testing::{CLUSTER, create_topic, epoch_of, image_with_brokers, register, topic_id};
use crate::types::{DirectoryId, LeaderEpoch, Offset, PartitionEpoch};

fn one_broker() -> Image {
    image_with_brokers(&[(1, "a")])
}

fn create(image: &mut Image, number: u64, name: &str, partitions: i32) -> Result<Outcome, Rejection> {
    let command = create_topic(image, number, name, partitions);
    apply(image, &command)
}

#[test]
fn a_created_topic_is_found_by_name_and_identity_in_epoch_zero() {
    let mut image = one_broker();
    create(&mut image, 7, "flights", 3).unwrap();
    let topic = image.topic_named("flights").unwrap();
    assert_eq!(topic, image.topic(topic_id(7)).unwrap());
    assert_eq!((topic.partition_count(), image.partition_count()), (3, 3));
    let partition = image.partition(TopicPartition::new(topic_id(7), 2)).unwrap();
    assert_eq!(partition.leader, Some(NodeId(1)));
    assert_eq!(partition.leader_epoch, LeaderEpoch(0));
    assert_eq!(partition.in_sync_nodes().collect::<Vec<_>>(), [NodeId(1)]);
    assert_eq!(image.partition(TopicPartition::new(topic_id(7), 3)), None);
}

#[test]
fn names_that_are_taken_or_collide_are_refused() {
    let mut image = one_broker();
    create(&mut image, 1, "a.b", 1).unwrap();
    assert!(matches!(create(&mut image, 2, "a.b", 1), Err(Rejection::TopicExists { .. })));
    assert!(
        matches!(create(&mut image, 2, "a_b", 1), Err(Rejection::TopicNameCollides { existing, .. }) if existing == "a.b")
    );
    assert!(matches!(create(&mut image, 1, "c", 1), Err(Rejection::TopicIdTaken { .. })));
    assert!(matches!(create(&mut image, 2, "..", 1), Err(Rejection::InvalidTopicName { .. })));
    create(&mut image, 3, "ab", 1).unwrap();
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(1) }).unwrap();
    create(&mut image, 4, "a_b", 1).unwrap();
}

#[test]
fn a_deleted_topic_stays_listed_until_it_is_forgotten_and_its_identity_is_not_reused() {
    let mut image = one_broker();
    create(&mut image, 1, "t", 2).unwrap();
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(1) }).unwrap();
    assert_eq!(image.topic_named("t"), None);
    assert_eq!(image.partition_count(), 0);
    let deleted: Vec<_> = image.deleted_topics().map(|deleted| (deleted.name.as_str(), deleted.partitions)).collect();
    assert_eq!(deleted, [("t", 2)]);
    assert!(matches!(create(&mut image, 1, "t", 1), Err(Rejection::TopicIdTaken { .. })));
    apply(&mut image, &Command::ForgetTopic { topic_id: topic_id(1) }).unwrap();
    assert_eq!(image.deleted_topics().count(), 0);
    let forget = Command::ForgetTopic { topic_id: topic_id(1) };
    assert!(matches!(apply(&mut image, &forget), Err(Rejection::UnknownTopicId { .. })));
}

#[test]
fn a_new_process_leads_in_new_epochs_and_a_repeated_registration_does_not() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "b")]);
    create(&mut image, 1, "t", 2).unwrap();
    let epochs = |image: &Image| -> Vec<_> {
        image
            .topic(topic_id(1))
            .unwrap()
            .partitions
            .iter()
            .map(|p| (p.leader.unwrap().get(), p.leader_epoch.get()))
            .collect()
    };
    assert_eq!(epochs(&image), [(1, 0), (2, 0)]);
    let restart = Command::RegisterBroker(register(1, 2));
    let first = epoch_of(apply(&mut image, &restart).unwrap());
    assert_eq!(epochs(&image), [(1, 1), (2, 0)]);
    assert_eq!(epoch_of(apply(&mut image, &restart).unwrap()), first);
    assert_eq!(epochs(&image), [(1, 1), (2, 0)]);
    assert!(epoch_of(apply(&mut image, &Command::RegisterBroker(register(1, 3))).unwrap()) > first);
    assert_eq!(image.partition(TopicPartition::new(topic_id(1), 0)).unwrap().partition_epoch, PartitionEpoch(2));
}

#[test]
fn epochs_that_only_the_logs_know_are_passed_over() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "b")]);
    create(&mut image, 1, "t", 2).unwrap();
    let epochs = |image: &Image| -> Vec<_> {
        image.topic(topic_id(1)).unwrap().partitions.iter().map(|partition| partition.leader_epoch.get()).collect()
    };
    let cases = [(2, Some(0), [1, 0]), (3, None, [2, 0]), (4, Some(9), [10, 0]), (5, Some(3), [11, 0])];
    for (process, newest, expected) in cases {
        let registration = RegisterBroker { newest_leader_epoch: newest.map(LeaderEpoch), ..register(1, process) };
        apply(&mut image, &Command::RegisterBroker(registration)).unwrap();
        assert_eq!(epochs(&image), expected, "{newest:?}");
    }
    // A topic's epochs count from its own beginning.
    create(&mut image, 2, "later", 2).unwrap();
    let registration = RegisterBroker { newest_leader_epoch: Some(LeaderEpoch(4)), ..register(1, 6) };
    apply(&mut image, &Command::RegisterBroker(registration)).unwrap();
    let later = image.topic(topic_id(2)).unwrap().partitions.iter().map(|partition| partition.leader_epoch.get());
    assert!(later.eq([5, 0]) && epochs(&image) == [12, 0]);
}

#[test]
fn registrations_that_only_the_logs_know_are_passed_over() {
    let mut image = one_broker();
    let mut register = |process, missed_registrations| {
        let registration = RegisterBroker { missed_registrations, ..register(1, process) };
        epoch_of(apply(&mut image, &Command::RegisterBroker(registration)).unwrap()).get()
    };
    let before = register(2, 0);
    let epochs = [register(3, 0), register(4, 5), register(4, 5), register(5, 0)];
    assert_eq!(epochs.map(|epoch| epoch - before), [1, 7, 7, 8]);
}

#[test]
fn another_cluster_or_an_empty_registration_is_refused() {
    let mut image = one_broker();
    let foreign = RegisterBroker { cluster_id: ClusterId::from_entropy([8; 16]), ..register(2, 1) };
    let result = apply(&mut image, &Command::RegisterBroker(foreign));
    assert!(matches!(result, Err(Rejection::InconsistentClusterId { ours: CLUSTER, .. })));
    let homeless = RegisterBroker { directories: Vec::new(), ..register(2, 1) };
    let result = apply(&mut image, &Command::RegisterBroker(homeless));
    assert!(matches!(result, Err(Rejection::InvalidRegistration { .. })));
    let other = Command::SetClusterId(ClusterId::from_entropy([8; 16]));
    assert!(matches!(apply(&mut image, &other), Err(Rejection::InconsistentClusterId { .. })));
}

#[test]
fn partitions_are_added_only_to_the_number_that_the_sender_saw() {
    let mut image = one_broker();
    create(&mut image, 1, "t", 1).unwrap();
    let assignment = crate::metadata::placement::place(&image, 2, 1).unwrap();
    let command = Command::CreatePartitions(CreatePartitions { topic_id: topic_id(1), existing: 1, assignment });
    apply(&mut image, &command).unwrap();
    assert_eq!((image.topic_named("t").unwrap().partition_count(), image.partition_count()), (3, 3));
    assert!(matches!(apply(&mut image, &command), Err(Rejection::InvalidPartitions { partitions: 3, .. })));
}

#[test]
fn bad_assignments_are_refused() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "b")]);
    let Command::CreateTopic(good) = create_topic(&image, 1, "t", 2) else { unreachable!() };
    let place = good.assignment[0][0];
    let stranger = ReplicaPlace { node_id: NodeId(3), ..place };
    let elsewhere = ReplicaPlace { directory: crate::types::DirectoryId::ZERO, ..place };
    let bad = [
        vec![vec![]],
        vec![vec![place, place]],
        vec![vec![stranger]],
        vec![vec![elsewhere]],
        vec![vec![place], vec![]],
    ];
    for assignment in bad {
        let command = Command::CreateTopic(CreateTopic { assignment, ..good.clone() });
        let result = apply(&mut image, &command);
        assert!(matches!(result, Err(Rejection::InvalidReplicaAssignment { .. })), "{command:?}");
    }
    let command = Command::CreateTopic(CreateTopic { assignment: vec![vec![place]; MAX_TOPIC_PARTITIONS + 1], ..good });
    assert!(matches!(apply(&mut image, &command), Err(Rejection::LimitExceeded { maximum: 10_000, .. })));
}

#[test]
fn a_config_change_that_was_resolved_against_older_values_is_refused() {
    let mut image = one_broker();
    create(&mut image, 1, "t", 1).unwrap();
    let set = |expected_version, value: Option<&str>| {
        let values = BTreeMap::from([("retention.ms".to_owned(), value.map(str::to_owned))]);
        ConfigChange { expected_version, values }
    };
    let alter = |change| Command::AlterTopicConfigs { topic_id: topic_id(1), change };
    apply(&mut image, &alter(set(0, Some("1")))).unwrap();
    let stale = apply(&mut image, &alter(set(0, Some("2"))));
    assert_eq!(stale, Err(Rejection::ConfigChanged { expected: 0, current: 1 }));
    assert_eq!(image.topic_named("t").unwrap().configs.values["retention.ms"], "1");
    apply(&mut image, &alter(set(1, None))).unwrap();
    assert!(image.topic_named("t").unwrap().configs.values.is_empty());

    let default = Command::AlterBrokerConfigs { node_id: None, change: set(0, Some("5")) };
    apply(&mut image, &default).unwrap();
    assert_eq!(image.broker_configs(None).unwrap().values["retention.ms"], "5");
    let stranger = Command::AlterBrokerConfigs { node_id: Some(NodeId(9)), change: set(0, Some("5")) };
    assert!(matches!(apply(&mut image, &stranger), Err(Rejection::UnknownBroker { .. })));
}

#[test]
fn producer_id_blocks_never_overlap_and_a_stale_process_gets_none() {
    let mut image = one_broker();
    let epoch = image.broker(NodeId(1)).unwrap().epoch;
    let allocate = Command::AllocateProducerIds { node_id: NodeId(1), broker_epoch: epoch };
    for block in 0..3 {
        let outcome = apply(&mut image, &allocate).unwrap();
        assert_eq!(outcome, Outcome::ProducerIds { first: ProducerId(block * 1_000), count: 1_000 });
    }
    apply(&mut image, &Command::RegisterBroker(register(1, 2))).unwrap();
    assert!(matches!(apply(&mut image, &allocate), Err(Rejection::StaleBrokerEpoch { .. })));
}

#[test]
fn changes_between_images_are_those_topics_that_differ() {
    let mut image = one_broker();
    create(&mut image, 1, "kept", 1).unwrap();
    create(&mut image, 2, "deleted", 1).unwrap();
    create(&mut image, 3, "changed", 1).unwrap();
    let older = image.clone();
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(2) }).unwrap();
    let change = ConfigChange { expected_version: 0, values: BTreeMap::new() };
    apply(&mut image, &Command::AlterTopicConfigs { topic_id: topic_id(3), change }).unwrap();
    create(&mut image, 4, "created", 1).unwrap();
    let changes: Vec<_> = image.topic_changes(&older).collect();
    assert!(
        matches!(&changes[..], [TopicChange::Deleted(a), TopicChange::Changed { after: b, .. }, TopicChange::Created(c)]
        if [&*a.name, &*b.name, &*c.name] == ["deleted", "changed", "created"])
    );
}

#[test]
fn a_command_shares_what_it_does_not_touch() {
    let mut image = one_broker();
    for number in 1..=1_000 {
        create(&mut image, number, &format!("t{number}"), 10).unwrap();
    }
    let older = image.clone();
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(500) }).unwrap();
    let shared = |topic: &Arc<Topic>| older.topic(topic.topic_id).is_some_and(|other| Arc::ptr_eq(topic, other));
    assert_eq!(image.topics().filter(|topic| shared(topic)).count(), 999);
    assert_eq!(older.topic_count(), 1_000);
}

/// Commands over few names and numbers, so that they meet.
fn any_command() -> impl Strategy<Value = Command> {
    let place = ReplicaPlace { node_id: NodeId(1), directory: register(1, 0).directories[0] };
    let change = |values: Vec<(u8, Option<u8>)>, expected_version| ConfigChange {
        expected_version,
        values: values.into_iter().map(|(k, v)| (format!("c{k}"), v.map(|v| v.to_string()))).collect(),
    };
    let values = || prop::collection::vec((0..3u8, prop::option::of(0..3u8)), 0..3);
    prop_oneof![
        (1..3i32, 0..4u64).prop_map(|(node, process)| Command::RegisterBroker(register(node, process))),
        ("[ab][._][ab]", 0..8u64, 0..4usize).prop_map(move |(name, id, partitions)| {
            let (configs, internal) = (BTreeMap::new(), partitions == 2);
            let assignment = vec![vec![place]; partitions];
            Command::CreateTopic(CreateTopic { name, topic_id: topic_id(id), assignment, configs, internal })
        }),
        (0..8u64).prop_map(|id| Command::DeleteTopic { topic_id: topic_id(id) }),
        (0..8u64).prop_map(|id| Command::ForgetTopic { topic_id: topic_id(id) }),
        (0..8u64, 0..4i32, 0..3usize).prop_map(move |(id, existing, more)| {
            let assignment = vec![vec![place]; more];
            Command::CreatePartitions(CreatePartitions { topic_id: topic_id(id), existing, assignment })
        }),
        (0..8u64, values(), 0..3u64).prop_map(move |(id, values, version)| Command::AlterTopicConfigs {
            topic_id: topic_id(id),
            change: change(values, version)
        }),
        (prop::option::of(1..3i32), values(), 0..3u64).prop_map(move |(node, values, version)| {
            Command::AlterBrokerConfigs { node_id: node.map(NodeId), change: change(values, version) }
        }),
        (1..3i32, 0..6i64).prop_map(|(node, epoch)| Command::AllocateProducerIds {
            node_id: NodeId(node),
            broker_epoch: BrokerEpoch(epoch)
        }),
        ("[xy]?", -1..3i16).prop_map(|(name, level)| Command::SetFeatureLevel { name, level }),
        (1..3i32, 0..6i64, 0..4usize).prop_map(|(node, epoch, what)| {
            let (node_id, broker_epoch) = (NodeId(node), BrokerEpoch(epoch));
            match what {
                0 => Command::FenceBroker { node_id, broker_epoch },
                1 => Command::UnfenceBroker { node_id, broker_epoch },
                2 => Command::DrainBroker { node_id, broker_epoch },
                _ => Command::UnregisterBroker { node_id },
            }
        }),
        (1..3i32, 0..4u64).prop_map(|(node, process)| {
            Command::RegisterBroker(RegisterBroker { starts_fenced: true, ..register(node, process) })
        }),
        (0..8u64, prop::option::of(prop::collection::vec(1..3i32, 0..3))).prop_map(|(id, nodes)| {
            let place = |node: i32| ReplicaPlace { node_id: NodeId(node), directory: register(node, 0).directories[0] };
            let target = nodes.map(|nodes| nodes.into_iter().map(place).collect());
            Command::AssignReplicas { partition: TopicPartition::new(topic_id(id), 0), target }
        }),
        (0..8u64).prop_map(|id| {
            let partitions = vec![TopicPartition::new(topic_id(id), 0)];
            Command::ElectLeaders { partitions, how: crate::metadata::command::Election::Unclean }
        }),
    ]
}

proptest! {
    #[test]
    fn the_image_is_a_pure_function_of_the_log_also_by_way_of_a_snapshot(
        commands in prop::collection::vec(any_command(), 0..60),
        cut in 0..60usize,
    ) {
        let (mut straight, mut by_snapshot) = (one_broker(), one_broker());
        for (index, command) in (1..).zip(&commands) {
            let before = straight.clone();
            let outcome = apply(&mut straight, command);
            prop_assert_eq!(&outcome, &apply(&mut by_snapshot, command));
            if outcome.is_err() {
                prop_assert_eq!(&straight, &before, "a rejected command changed the image");
            }
            advance(&mut straight, index);
            advance(&mut by_snapshot, index);
            if cut == usize::try_from(index).unwrap() {
                by_snapshot = snapshot::decode(&snapshot::encode(&by_snapshot)).unwrap();
            }
        }
        prop_assert_eq!(&straight, &by_snapshot);
        prop_assert_eq!(snapshot::encode(&straight), snapshot::encode(&by_snapshot));
        let partitions: usize = straight.topics().map(|topic| topic.partitions.len()).sum();
        prop_assert_eq!(straight.partition_count(), partitions as u64);
    }
}

#[test]
fn the_archives_reach_is_kept_in_snapshots_and_goes_with_its_topic() {
    let mut image = one_broker();
    create(&mut image, 7, "flights", 2).unwrap();
    let partition = TopicPartition::new(topic_id(7), 1);
    let mark = |next_offset, epoch| ArchiveMark { next_offset: Offset(next_offset), leader_epoch: LeaderEpoch(epoch) };
    apply(&mut image, &Command::NoteArchiving { partition, mark: mark(40, 3) }).unwrap();
    apply(&mut image, &Command::NoteArchiving { partition, mark: mark(90, 4) }).unwrap();
    apply(&mut image, &Command::NoteArchiving { partition, mark: mark(70, 3) }).unwrap();
    assert_eq!(image.archive_mark(partition), Some(mark(90, 4)), "the last word of an earlier leader comes late");
    assert_eq!(snapshot::decode(&snapshot::encode(&image)).unwrap(), image);
    let unknown = TopicPartition::new(topic_id(7), 2);
    assert!(apply(&mut image, &Command::NoteArchiving { partition: unknown, mark: mark(1, 1) }).is_err());
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(7) }).unwrap();
    assert_eq!(image.archive_mark(partition), None);
}

#[test]
fn an_internal_topic_whose_records_were_lost_waits_for_them_until_that_is_noted() {
    let mut image = one_broker();
    let Command::CreateTopic(create_topic) = create_topic(&image, 7, "__consumer_offsets", 3) else { panic!() };
    apply(&mut image, &Command::CreateTopic(CreateTopic { internal: true, ..create_topic })).unwrap();
    create(&mut image, 8, "flights", 3).unwrap();
    let lost = *image.directories_in_use(NodeId(1)).keys().next().unwrap();
    let fresh = DirectoryId::from_bytes(crate::metadata::testing::identity(51));
    apply(&mut image, &Command::RegisterBroker(RegisterBroker { directories: vec![fresh], ..register(1, 2) })).unwrap();
    apply(&mut image, &Command::ReplaceDirectory { node_id: NodeId(1), directory: lost }).unwrap();
    // What the archive has needs no such note.
    let all: Vec<_> = (0..3).map(|index| TopicPartition::new(topic_id(7), index)).collect();
    assert_eq!(Vec::from_iter(image.unrestored().iter().copied()), all);
    assert_eq!(snapshot::decode(&snapshot::encode(&image)).unwrap(), image);
    apply(&mut image, &Command::NoteRestored { partitions: all[..2].to_vec() }).unwrap();
    assert_eq!(Vec::from_iter(image.unrestored().iter().copied()), all[2..]);
    // One that lost a part of them waits too.
    let part = Command::NoteLost { partition: all[0] };
    for _ in 0..2 {
        assert_eq!(apply(&mut image, &part), Ok(Outcome::Done));
        assert_eq!(Vec::from_iter(image.unrestored().iter().copied()), [all[0], all[2]]);
    }
    let unknown = Command::NoteLost { partition: TopicPartition::new(topic_id(7), 3) };
    assert!(apply(&mut image, &unknown).is_err());
    apply(&mut image, &Command::DeleteTopic { topic_id: topic_id(7) }).unwrap();
    assert!(image.unrestored().is_empty());
}

#[test]
fn an_internal_topic_is_lost_with_the_last_replica_that_has_all_of_it_and_not_before() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "a")]);
    let Command::CreateTopic(create_topic) = create_topic(&image, 7, "__consumer_offsets", 2) else { panic!() };
    let assignment = crate::metadata::placement::place(&image, 2, 2).unwrap();
    apply(&mut image, &Command::CreateTopic(CreateTopic { internal: true, assignment, ..create_topic })).unwrap();
    let directory = |number| DirectoryId::from_bytes(crate::metadata::testing::identity(number));
    let mut lose_directory = |node: i32| {
        let number = u64::from(node.unsigned_abs());
        let directories = vec![directory(50 + number)];
        apply(&mut image, &Command::RegisterBroker(RegisterBroker { directories, ..register(node, 2) })).unwrap();
        let gone = Command::ReplaceDirectory { node_id: NodeId(node), directory: directory(number) };
        apply(&mut image, &gone).unwrap();
        let leaders: Vec<_> = image.topic(topic_id(7)).unwrap().partitions.iter().map(|it| it.leader).collect();
        (image.unrestored().len(), leaders)
    };
    assert_eq!(lose_directory(1), (0, vec![Some(NodeId(2)); 2]), "the other one has everything, and leads");
    assert_eq!(lose_directory(2), (2, vec![Some(NodeId(2)); 2]), "what the first has by now may be less");
}

#[test]
fn an_incarnation_begins_once_and_gives_out_no_producer_id_of_those_before() {
    let mut image = one_broker();
    assert_eq!(image.incarnation(), Incarnation(0));
    let begin = |incarnation, next| Command::BeginIncarnation {
        incarnation: Incarnation(incarnation),
        next_producer_id: ProducerId(next),
    };
    apply(&mut image, &begin(2, 5000)).unwrap();
    assert_eq!((image.incarnation(), image.next_producer_id()), (Incarnation(2), ProducerId(5000)));
    for again in [0, 1, 2] {
        assert!(matches!(apply(&mut image, &begin(again, 9000)), Err(Rejection::StaleIncarnation { .. })));
    }
    apply(&mut image, &begin(3, 10)).unwrap();
    assert_eq!(image.next_producer_id(), ProducerId(5000));
}

#[test]
fn replicas_of_a_directory_that_is_gone_move_to_the_others_and_to_no_other_broker() {
    let mut image = image_with_brokers(&[(1, "a"), (2, "a")]);
    create(&mut image, 7, "flights", 6).unwrap();
    let lost = DirectoryId::from_bytes(crate::metadata::testing::identity(1));
    let refused = apply(&mut image, &Command::ReplaceDirectory { node_id: NodeId(1), directory: lost });
    assert!(matches!(refused, Err(Rejection::InvalidRegistration { .. })), "the directory is online");

    let fresh: Vec<_> =
        [51, 52].map(|number| DirectoryId::from_bytes(crate::metadata::testing::identity(number))).into();
    let registration = RegisterBroker { directories: fresh.clone(), ..register(1, 2) };
    apply(&mut image, &Command::RegisterBroker(registration)).unwrap();
    assert_eq!(image.directories_in_use(NodeId(1)), BTreeMap::from([(lost, 3)]));
    let before = image.directories_in_use(NodeId(2));
    apply(&mut image, &Command::ReplaceDirectory { node_id: NodeId(1), directory: lost }).unwrap();
    let used = image.directories_in_use(NodeId(1));
    assert_eq!(used.keys().copied().collect::<Vec<_>>(), fresh);
    assert_eq!(used.values().sum::<usize>(), 3);
    assert_eq!(image.directories_in_use(NodeId(2)), before);
    assert!(apply(&mut image, &Command::ReplaceDirectory { node_id: NodeId(9), directory: lost }).is_err());
}

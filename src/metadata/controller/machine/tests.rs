//! What the controller wants of brokers, leaders and voters, event by event.

use super::*;
use crate::metadata::command::{CreateTopic, RegisterBroker};
use crate::metadata::machine;
use crate::metadata::testing::{CLUSTER, identity, register, topic_id};

fn at(ms: u64) -> Monotonic {
    Monotonic::default() + Duration::from_millis(ms)
}

fn directory(number: u64) -> DirectoryId {
    DirectoryId::from_bytes(identity(number))
}

/// A controller, and the image that its commands change at once unless a test holds them back.
struct World {
    image: Image,
    controller: Controller,
    now: u64,
    processes: u64,
}

impl World {
    /// With brokers that were active before the controller began.
    fn new(brokers: i32) -> Self {
        let mut image = Image::default();
        machine::apply(&mut image, &Command::SetClusterId(CLUSTER)).unwrap();
        machine::advance(&mut image, 1);
        let controller = Controller::new(at(0), Arc::new(image.clone()), ControllerSettings::default());
        let mut world = Self { image, controller, now: 0, processes: 0 };
        for node in 1..=brokers {
            world.register(node, &[]);
            let broker_epoch = world.epoch(node);
            world.apply(&Command::UnfenceBroker { node_id: NodeId(node), broker_epoch });
        }
        world.succeed();
        world
    }

    /// Another node's controller takes over.
    fn succeed(&mut self) {
        self.controller = Controller::new(at(self.now), Arc::new(self.image.clone()), ControllerSettings::default());
    }

    fn apply(&mut self, command: &Command) {
        machine::apply(&mut self.image, command).unwrap();
        let version = self.image.version() + 1;
        machine::advance(&mut self.image, version);
    }

    fn register(&mut self, node: i32, more_directories: &[u64]) -> Vec<Action> {
        self.processes += 1;
        let plain = register(node, self.processes);
        let mut directories = plain.directories.clone();
        directories.extend(more_directories.iter().map(|number| directory(*number)));
        let peer = Some(format!("node-{node}:9095"));
        self.apply(&Command::RegisterBroker(RegisterBroker { directories, peer, starts_fenced: true, ..plain }));
        self.show()
    }

    fn create(&mut self, topic: u64, nodes: &[i32], partitions: usize, internal: bool) {
        let place = |node: &i32| crate::metadata::command::ReplicaPlace {
            node_id: NodeId(*node),
            directory: self.image.broker(NodeId(*node)).unwrap().directories[0],
        };
        let command = CreateTopic {
            name: format!("t{topic}"),
            topic_id: topic_id(topic),
            assignment: vec![nodes.iter().map(place).collect(); partitions],
            configs: BTreeMap::new(),
            internal,
        };
        self.apply(&Command::CreateTopic(command));
    }

    fn epoch(&self, node: i32) -> BrokerEpoch {
        self.image.broker(NodeId(node)).unwrap().epoch
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.controller.handle(at(self.now), event)
    }

    /// Shows the controller what was decided.
    fn show(&mut self) -> Vec<Action> {
        let image = Arc::new(self.image.clone());
        self.handle(Event::Image(image))
    }

    /// Ticks when they are due, until a time.
    fn wait_until(&mut self, ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.controller.next_timeout() <= at(ms) {
            let due = self.controller.next_timeout().max(at(self.now));
            self.now = due.0 / 1_000_000;
            actions.extend(self.handle(Event::Tick));
        }
        self.now = ms;
        actions
    }

    fn heartbeat(&mut self, node: i32, wants: Wants) -> (Vec<Command>, HeartbeatReply) {
        self.heartbeat_with(node, wants, self.image.version(), &[])
    }

    fn heartbeat_with(
        &mut self,
        node: i32,
        wants: Wants,
        applied_version: u64,
        offline: &[u64],
    ) -> (Vec<Command>, HeartbeatReply) {
        let offline_directories = offline.iter().map(|number| directory(*number)).collect();
        let broker_epoch = self.epoch(node);
        let node_id = NodeId(node);
        let mut actions = self.handle(Event::Heartbeat(Heartbeat {
            node_id,
            broker_epoch,
            applied_version,
            wants,
            offline_directories,
        }));
        let Some(Action::Reply(reply)) = actions.pop() else { panic!("a heartbeat is answered") };
        (commands(&actions), reply)
    }

    /// Applies what was submitted, and shows it.
    fn carry_out(&mut self, commands: &[Command]) -> Vec<Action> {
        commands.iter().for_each(|command| self.apply(command));
        self.show()
    }

    fn state(&self, node: i32) -> BrokerState {
        self.image.broker(NodeId(node)).unwrap().state
    }
}

fn commands(actions: &[Action]) -> Vec<Command> {
    let command = |action: &Action| match action {
        Action::Submit(command) => Some(command.clone()),
        _ => None,
    };
    actions.iter().filter_map(command).collect()
}

fn names_fence(actions: &[Action], node: i32) -> bool {
    let is_fence = |one: &Command| matches!(one, Command::FenceBroker { node_id, .. } if *node_id == NodeId(node));
    commands(actions).iter().any(is_fence)
}

#[test]
fn a_broker_that_has_registered_takes_part_once_it_knows_of_it() {
    let mut world = World::new(1);
    world.register(2, &[]);
    let version = world.image.version();
    let (submitted, reply) = world.heartbeat_with(2, Wants::Serve, version - 1, &[]);
    assert_eq!((submitted, reply.is_fenced, reply.is_stale), (vec![], true, false));
    let (submitted, _) = world.heartbeat_with(2, Wants::Serve, version, &[]);
    let unfence = Command::UnfenceBroker { node_id: NodeId(2), broker_epoch: world.epoch(2) };
    assert_eq!(submitted, [unfence]);
    let (again, _) = world.heartbeat(2, Wants::Serve);
    assert_eq!(again, [], "it is on its way");
    world.now = 2000;
    let (again, _) = world.heartbeat(2, Wants::Serve);
    assert_eq!(again, submitted, "it seems to be lost");
    world.carry_out(&again);
    let (submitted, reply) = world.heartbeat(2, Wants::Serve);
    assert_eq!((submitted, reply.is_fenced), (vec![], false));
}

#[test]
fn a_silent_broker_is_fenced_after_its_session_and_one_that_is_heard_never() {
    let mut world = World::new(2);
    for ms in (0..2900).step_by(250) {
        assert_eq!(world.wait_until(ms), []);
        world.heartbeat(1, Wants::Serve);
    }
    let actions = world.wait_until(3000);
    assert!(names_fence(&actions, 2) && !names_fence(&actions, 1), "{actions:?}");
    let fenced = commands(&actions);
    assert_eq!(world.carry_out(&fenced), []);
    world.heartbeat(1, Wants::Serve);
    // Only an image in which it is fenced shows that it has noticed.
    let version = world.image.version();
    assert_eq!(world.heartbeat_with(2, Wants::Serve, version - 1, &[]).0, []);
    let (submitted, reply) = world.heartbeat_with(2, Wants::Serve, version, &[]);
    assert!(reply.is_fenced && matches!(submitted[..], [Command::UnfenceBroker { .. }]), "{submitted:?}");
}

#[test]
fn a_broker_whose_process_is_gone_is_not_waited_for() {
    let mut world = World::new(2);
    let broker_epoch = world.epoch(2);
    world.now = 100;
    let other = world.handle(Event::ProcessGone { node_id: NodeId(2), broker_epoch: BrokerEpoch(99) });
    assert_eq!(other, [], "of another process");
    let actions = world.handle(Event::ProcessGone { node_id: NodeId(2), broker_epoch });
    assert!(names_fence(&actions, 2));
    world.carry_out(&commands(&actions));
    // What it said before it died, and arrives late.
    let version = world.image.version();
    assert_eq!(world.heartbeat_with(2, Wants::Serve, version - 1, &[]).0, []);
    assert_eq!(world.state(2), BrokerState::Fenced);
    world.register(2, &[]);
    let (submitted, _) = world.heartbeat(2, Wants::Serve);
    assert!(matches!(submitted[..], [Command::UnfenceBroker { .. }]));
}

#[test]
fn a_new_controller_gives_everybody_a_whole_session() {
    let mut world = World::new(2);
    world.wait_until(2900);
    world.succeed();
    assert!(world.wait_until(5800).is_empty());
    assert!(names_fence(&world.wait_until(5900), 1));
}

#[test]
fn time_in_which_the_controller_stood_still_is_not_counted_as_silence() {
    let mut world = World::new(2);
    world.wait_until(1000);
    let due = world.controller.next_timeout();
    world.now = 20_000;
    assert_eq!(world.handle(Event::Tick), [], "{due:?}");
    world.heartbeat(1, Wants::Serve);
    let actions = world.wait_until(22_100);
    assert!(names_fence(&actions, 2) && !names_fence(&actions, 1), "{actions:?}");
}

#[test]
fn a_process_of_an_earlier_registration_is_told_to_register_again() {
    let mut world = World::new(1);
    let old = world.epoch(1);
    let heartbeat = |broker_epoch, node| {
        let (applied_version, offline_directories) = (1, Vec::new());
        Event::Heartbeat(Heartbeat {
            node_id: NodeId(node),
            broker_epoch,
            applied_version,
            wants: Wants::Serve,
            offline_directories,
        })
    };
    world.register(1, &[]);
    let stale = HeartbeatReply { is_fenced: true, may_shut_down: false, is_stale: true };
    assert_eq!(world.handle(heartbeat(old, 1)), [Action::Reply(stale)]);
    assert_eq!(world.handle(heartbeat(old, 7)), [Action::Reply(stale)], "it was unregistered");
    let newer = BrokerEpoch(world.epoch(1).get() + 1);
    let early = HeartbeatReply { is_stale: false, ..stale };
    assert_eq!(world.handle(heartbeat(newer, 7)), [Action::Reply(early)], "its registration is not in the image yet");
    assert_eq!(world.handle(heartbeat(newer, 1)), [Action::Reply(early)]);
}

#[test]
fn a_broker_shuts_down_once_others_lead_or_nobody_can_or_it_took_too_long() {
    let mut world = World::new(2);
    world.create(1, &[1], 1, false);
    let (submitted, reply) = world.heartbeat(1, Wants::ShutDown);
    assert!(matches!(submitted[..], [Command::DrainBroker { .. }]) && !reply.may_shut_down);
    world.carry_out(&submitted);
    let (submitted, reply) = world.heartbeat(1, Wants::ShutDown);
    assert!(matches!(submitted[..], [Command::FenceBroker { .. }]) && reply.may_shut_down, "nobody else has that");
    world.carry_out(&submitted);
    let (submitted, reply) = world.heartbeat(1, Wants::ShutDown);
    assert_eq!((submitted, reply.may_shut_down, reply.is_fenced), (vec![], true, true));

    // A replica that has to catch up is waited for, but not for ever.
    let mut world = World::new(2);
    world.create(1, &[1, 2], 1, false);
    let broker_epoch = world.epoch(2);
    world.apply(&Command::FenceBroker { node_id: NodeId(2), broker_epoch });
    world.apply(&Command::UnfenceBroker { node_id: NodeId(2), broker_epoch });
    world.show();
    let (submitted, _) = world.heartbeat(1, Wants::ShutDown);
    world.carry_out(&submitted);
    for ms in (0..30_000).step_by(250) {
        world.wait_until(ms);
        assert!(!world.heartbeat(1, Wants::ShutDown).1.may_shut_down, "{ms}");
        world.heartbeat(2, Wants::Serve);
    }
    world.wait_until(30_000);
    assert!(world.heartbeat(1, Wants::ShutDown).1.may_shut_down);
}

#[test]
fn a_directory_that_went_offline_is_noted_and_the_last_one_keeps_its_broker_out() {
    let mut world = World::new(1);
    world.register(2, &[50]);
    let (submitted, _) = world.heartbeat_with(2, Wants::Serve, world.image.version(), &[50, 77]);
    let fail = |broker_epoch, number| {
        let directory = directory(number);
        Command::FailDirectory { node_id: NodeId(2), broker_epoch, directory }
    };
    let epoch = world.epoch(2);
    assert_eq!(submitted, [fail(epoch, 50)], "it comes back only without it");
    let submitted = commands(&world.carry_out(&submitted));
    assert!(matches!(submitted[..], [Command::UnfenceBroker { .. }]), "{submitted:?}");
    world.carry_out(&submitted);
    let (submitted, _) = world.heartbeat_with(2, Wants::Serve, world.image.version(), &[50, 2]);
    assert_eq!(submitted, [fail(epoch, 2)]);
    world.carry_out(&submitted);
    assert_eq!(world.state(2), BrokerState::Fenced);
    for _ in 0..3 {
        assert_eq!(world.heartbeat_with(2, Wants::Serve, world.image.version(), &[50, 2]).0, []);
        world.now += 3000;
    }
}

#[test]
fn preferred_replicas_lead_again_some_time_after_a_broker_is_back() {
    let mut world = World::new(2);
    world.create(1, &[1, 2], 2500, false);
    let broker_epoch = world.epoch(1);
    world.apply(&Command::FenceBroker { node_id: NodeId(1), broker_epoch });
    world.show();
    let (submitted, _) = world.heartbeat(1, Wants::Serve);
    world.carry_out(&submitted);
    for number in 0..2500 {
        let partition = TopicPartition::new(topic_id(1), number);
        let now = world.image.partition(partition).unwrap();
        let alter = crate::metadata::command::AlterPartition {
            node_id: NodeId(2),
            broker_epoch: world.epoch(2),
            partition,
            leader_epoch: now.leader_epoch,
            partition_epoch: now.partition_epoch,
            in_sync: vec![(NodeId(1), world.epoch(1)), (NodeId(2), world.epoch(2))],
        };
        machine::apply(&mut world.image, &Command::AlterPartition(alter)).unwrap();
    }
    world.show();
    let mut elected = Vec::new();
    let mut first = None;
    for ms in (0..14_000).step_by(250) {
        let mut asked = commands(&world.wait_until(ms));
        while !asked.is_empty() {
            let [Command::ElectLeaders { partitions, .. }] = &asked[..] else { panic!("{asked:?}") };
            first = first.or(Some(ms));
            elected.push(partitions.len());
            asked = commands(&world.carry_out(&asked));
        }
        world.heartbeat(1, Wants::Serve);
        world.heartbeat(2, Wants::Serve);
    }
    assert_eq!((elected, first), (vec![1000, 1000, 500], Some(10_000)));
    let topic = world.image.topic(topic_id(1)).unwrap();
    assert!(topic.partitions.iter().all(|partition| partition.leader == Some(NodeId(1))));
}

#[test]
fn the_quorum_grows_to_odd_numbers_as_members_have_caught_up_and_never_shrinks() {
    let mut world = World::new(5);
    let mut grown = |voters: &[i32], learners: &[(i32, Option<u64>)]| {
        let voters = voters.iter().map(|node| NodeId(*node)).collect();
        let learners = learners.iter().map(|(node, lag)| (NodeId(*node), *lag)).collect();
        let actions = world.handle(Event::Members(Members { voters, learners }));
        actions.into_iter().find_map(|action| match action {
            Action::ChangeVoters(voters) => Some(voters.into_iter().map(NodeId::get).collect::<Vec<_>>()),
            _ => None,
        })
    };
    assert_eq!(grown(&[1], &[(2, Some(0))]), None, "two are no better than one");
    assert_eq!(grown(&[1], &[(2, Some(0)), (3, Some(2000))]), None, "one is far behind");
    assert_eq!(grown(&[1], &[(2, Some(0)), (3, None)]), None);
    assert_eq!(grown(&[1], &[(2, Some(0)), (3, Some(7)), (4, Some(0))]), Some(vec![1, 2, 3]));
    assert_eq!(grown(&[1], &[(2, Some(0)), (3, Some(9)), (4, Some(0))]), None, "it is under way");
    assert_eq!(grown(&[1, 2, 3], &[(4, Some(0)), (5, Some(0))]), None);
    assert_eq!(grown(&[1, 2], &[(4, Some(0))]), Some(vec![1, 2, 4]));
    assert_eq!(grown(&[1, 2, 3, 4, 5], &[]), None);
    assert_eq!(grown(&[1, 2], &[(9, Some(0))]), None, "it is no broker");
}

#[test]
fn internal_topics_get_more_replicas_as_brokers_come() {
    let mut world = World::new(4);
    world.create(1, &[1], 40, true);
    world.create(2, &[1], 3, false);
    world.show();
    let mut commands_seen = 0;
    for ms in (0..6000).step_by(250) {
        let actions = world.wait_until(ms);
        let asked = commands(&actions);
        assert!(asked.len() <= WIDENED_AT_ONCE);
        commands_seen += asked.len();
        world.carry_out(&asked);
        for node in 1..=4 {
            world.heartbeat(node, Wants::Serve);
        }
    }
    assert_eq!(commands_seen, 40);
    let topic = world.image.topic(topic_id(1)).unwrap();
    let mut first = BTreeMap::<NodeId, usize>::new();
    for partition in &topic.partitions {
        assert_eq!((partition.replicas.len(), partition.moving.as_ref().unwrap().adding.len()), (3, 2));
        *first.entry(partition.replicas[0].node_id).or_default() += 1;
    }
    assert!(first.len() == 4 && first.values().all(|count| *count >= 5), "{first:?}");
    assert!(world.image.topic(topic_id(2)).unwrap().partitions.iter().all(|it| it.replicas.len() == 1));
}

mod measurement;
mod simulation;

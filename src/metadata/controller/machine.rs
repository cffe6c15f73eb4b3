//! The controller: which brokers take part, and what else the leader of the metadata sees to. Pure.
//!
//! A driver on the leader of the metadata tells it what happens and carries out its actions; who becomes the leader begins with a
//! new one. All that it wants is a difference between the image and what it hears, so an action that gets lost is asked for
//! again. Brokers send heartbeats. One that is silent for a session, or whose process is gone, is fenced; a fenced one is unfenced
//! once it is heard and has applied the image that says so. Silence is counted from when the controller could hear: one that begins
//! gives each broker a whole session, and the time in which it stood still itself does not count.
//!
//! Brokers without an address for peers are by themselves: nobody else could lead in their place, and they send no heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::upkeep;
use crate::metadata::command::{Command, Election};
use crate::metadata::image::{Broker, BrokerState, Image};
use crate::types::{BrokerEpoch, DirectoryId, Monotonic, NodeId, TopicPartition};

/// Between looks at what no event tells of.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A tick that is later than this shows that the process stood still.
const STALL: Duration = Duration::from_millis(500);
/// Elections of preferred leaders in one command.
const PREFERRED_AT_ONCE: usize = 1000;
/// Partitions of internal topics that are given more replicas at a time.
const WIDENED_AT_ONCE: usize = 16;
/// After which a change of the voters is asked for again. It takes as long as new voters take to have the log.
const VOTERS_RETRY: Duration = Duration::from_secs(30);

/// What can be set about a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSettings {
    /// How long a broker may be silent.
    pub session: Duration,
    /// After which a command is submitted again that shows no effect.
    pub retry: Duration,
    /// How long a broker that shuts down is kept for replicas that could lead in its place once they have caught up.
    pub drain: Duration,
    /// Between looks for partitions that the preferred replica could lead.
    pub rebalance_interval: Duration,
    /// How long after a broker was unfenced these are looked for: replicas there have to catch up first.
    pub rebalance_delay: Duration,
    /// Voters that the quorum is to have; an even number counts as the odd one below.
    pub voters: usize,
    /// Replicas that internal topics are to have, as far as there are brokers; with 1 they stay as they are.
    pub internal_replicas: usize,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            session: Duration::from_secs(3),
            retry: Duration::from_secs(2),
            drain: Duration::from_secs(30),
            rebalance_interval: Duration::from_secs(300),
            rebalance_delay: Duration::from_secs(10),
            voters: 3,
            internal_replicas: 3,
        }
    }
}

/// A sign of life of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The broker.
    pub node_id: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// Version of its image.
    pub applied_version: u64,
    /// What it wants.
    pub wants: Wants,
    /// Its data directories that went offline since it registered.
    pub offline_directories: Vec<DirectoryId>,
}

/// What a broker wants of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// To take part.
    Serve,
    /// To go, once others lead what it led.
    ShutDown,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The broker does not take part (yet).
    pub is_fenced: bool,
    /// It may stop now.
    pub may_shut_down: bool,
    /// Its registration is not the newest, or not known: to take part it has to register again.
    pub is_stale: bool,
}

/// Members of the quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote.
    pub voters: BTreeSet<NodeId>,
    /// Those that don't, with the entries that they lack; none where that is not known.
    pub learners: BTreeMap<NodeId, Option<u64>>,
}

/// What happens to a controller.
#[derive(Clone, Debug)]
pub enum Event {
    /// A broker was heard.
    Heartbeat(Heartbeat),
    /// A machine says that a broker's process is gone.
    ProcessGone {
        /// The broker.
        node_id: NodeId,
        /// The registration of the process that is gone.
        broker_epoch: BrokerEpoch,
    },
    /// The newest image.
    Image(Arc<Image>),
    /// The quorum's members, as they are now.
    Members(Members),
    /// [`Controller::next_timeout`] has come.
    Tick,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Submit a command, and don't wait for it: its effect comes with an image.
    Submit(Command),
    /// Answer the heartbeat that this follows from.
    Reply(HeartbeatReply),
    /// Have these vote, and no others.
    ChangeVoters(BTreeSet<NodeId>),
}

/// What is submitted once until it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Fence(NodeId),
    Unfence(NodeId),
    Drain(NodeId),
    FailDirectory(NodeId),
    Widen(TopicPartition),
}

/// What is known of a broker beyond the image.
#[derive(Debug)]
struct Known {
    epoch: BrokerEpoch,
    /// When it was heard last; none once its process is gone.
    heard: Option<Monotonic>,
    /// The first image in which it is fenced, as far as this controller saw.
    fenced_in: u64,
    /// Its image; none before it is heard.
    applied: Option<u64>,
    wants: Wants,
    offline: Vec<DirectoryId>,
    draining_since: Option<Monotonic>,
    /// The image in which its successors were looked for last.
    looked_at: Option<u64>,
    may_shut_down: bool,
}

impl Known {
    const fn new(epoch: BrokerEpoch, now: Monotonic, version: u64) -> Self {
        Self {
            epoch,
            heard: Some(now),
            fenced_in: version,
            applied: None,
            wants: Wants::Serve,
            offline: Vec::new(),
            draining_since: None,
            looked_at: None,
            may_shut_down: false,
        }
    }
}

/// A round of elections of preferred leaders.
#[derive(Debug, Default)]
struct Round {
    /// The last partition that is done.
    done: Option<TopicPartition>,
    /// The last one that is asked for, and when it is asked for again.
    asked: Option<(TopicPartition, Monotonic)>,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    settings: ControllerSettings,
    image: Arc<Image>,
    brokers: BTreeMap<NodeId, Known>,
    members: Members,
    /// What was submitted, and when it is again.
    submitted: BTreeMap<Task, (Command, Monotonic)>,
    growing: Option<(BTreeSet<NodeId>, Monotonic)>,
    rebalance_due: Monotonic,
    round: Option<Round>,
    upkeep_due: Monotonic,
    due: Monotonic,
    /// When something happened last.
    seen: Monotonic,
}

impl Controller {
    /// A controller that begins now, with the newest image.
    pub fn new(now: Monotonic, image: Arc<Image>, settings: ControllerSettings) -> Self {
        let known = |broker: &Arc<Broker>| (broker.node_id, Known::new(broker.epoch, now, image.version()));
        let brokers = image.brokers().map(known).collect();
        Self {
            rebalance_due: now + settings.rebalance_interval,
            settings,
            image,
            brokers,
            members: Members::default(),
            submitted: BTreeMap::new(),
            growing: None,
            round: None,
            upkeep_due: now + UPKEEP_INTERVAL,
            due: now + UPKEEP_INTERVAL,
            seen: now,
        }
    }

    /// When [`Event::Tick`] is due.
    pub const fn next_timeout(&self) -> Monotonic {
        self.due
    }

    /// Takes note of something.
    pub fn handle(&mut self, now: Monotonic, event: Event) -> Vec<Action> {
        self.forgive_stall(now);
        let mut actions = Vec::new();
        match event {
            Event::Heartbeat(heartbeat) => self.heartbeat(now, heartbeat, &mut actions),
            Event::ProcessGone { node_id, broker_epoch } => {
                if let Some(known) = self.brokers.get_mut(&node_id).filter(|known| known.epoch == broker_epoch) {
                    known.heard = None;
                    self.decide(now, node_id, &mut actions);
                }
            }
            Event::Image(image) => self.observe(now, image, &mut actions),
            Event::Members(members) => {
                self.members = members;
                self.grow_quorum(now, &mut actions);
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        self.due = self.next_due(now);
        actions
    }

    /// While this process stood still, heartbeats may have come that it could not hear.
    fn forgive_stall(&mut self, now: Monotonic) {
        let late = now.since(self.due.max(self.seen));
        self.seen = now;
        if late >= STALL {
            for heard in self.brokers.values_mut().filter_map(|known| known.heard.as_mut()) {
                *heard = (*heard + late).min(now);
            }
        }
    }

    fn heartbeat(&mut self, now: Monotonic, heartbeat: Heartbeat, actions: &mut Vec<Action>) {
        let Heartbeat { node_id, broker_epoch, applied_version, wants, offline_directories } = heartbeat;
        let image = Arc::clone(&self.image);
        let broker = image.broker(node_id);
        // A registration that is newer than the image will be in the next one.
        let oldest = broker.map_or(image.next_broker_epoch, |broker| broker.epoch);
        let current = broker.filter(|broker| broker.epoch == broker_epoch);
        let mut reply = HeartbeatReply { is_fenced: true, may_shut_down: false, is_stale: broker_epoch < oldest };
        if let (Some(broker), Some(known)) = (current, self.brokers.get_mut(&node_id)) {
            known.heard = Some(now);
            known.applied = Some(applied_version.max(known.applied.unwrap_or(0)));
            known.wants = wants;
            known.offline = offline_directories;
            known.offline.retain(|directory| broker.directories.contains(directory));
            if broker.state == BrokerState::ShuttingDown {
                let since = *known.draining_since.get_or_insert(now);
                if now.since(since) >= self.settings.drain {
                    known.may_shut_down = true;
                } else if known.looked_at != Some(image.version()) {
                    known.looked_at = Some(image.version());
                    known.may_shut_down |= !upkeep::has_successors_to_come(&image, node_id);
                }
            }
            reply.is_fenced = broker.state == BrokerState::Fenced;
            reply.may_shut_down = wants == Wants::ShutDown && (reply.is_fenced || known.may_shut_down);
            self.decide(now, node_id, actions);
        }
        actions.push(Action::Reply(reply));
    }

    /// Takes the newest image.
    fn observe(&mut self, now: Monotonic, image: Arc<Image>, actions: &mut Vec<Action>) {
        if image.version() < self.image.version() {
            return;
        }
        let before = std::mem::replace(&mut self.image, image);
        if !before.brokers.ptr_eq(&self.image.brokers) {
            self.brokers.retain(|node_id, _| self.image.broker(*node_id).is_some());
            let changed: Vec<NodeId> = self
                .image
                .brokers()
                .filter(|broker| before.broker(broker.node_id) != Some(*broker))
                .map(|broker| broker.node_id)
                .collect();
            for node_id in changed {
                self.observe_broker(now, &before, node_id);
                self.decide(now, node_id, actions);
            }
            self.grow_quorum(now, actions);
        }
        self.rebalance(now, actions);
    }

    /// Takes note of a broker that came or changed: what was wanted of it shows, or is void.
    fn observe_broker(&mut self, now: Monotonic, before: &Image, node_id: NodeId) {
        for task in [Task::Fence(node_id), Task::Unfence(node_id), Task::Drain(node_id), Task::FailDirectory(node_id)] {
            self.submitted.remove(&task);
        }
        let Some(broker) = self.image.broker(node_id) else { return };
        let state_before = before.broker(node_id).filter(|it| it.epoch == broker.epoch).map(|it| it.state);
        match (self.brokers.get_mut(&node_id).filter(|known| known.epoch == broker.epoch), broker.state) {
            (None, _) => {
                self.brokers.insert(node_id, Known::new(broker.epoch, now, self.image.version()));
            }
            (Some(known), BrokerState::Fenced) if state_before != Some(BrokerState::Fenced) => {
                known.fenced_in = self.image.version();
            }
            (Some(known), BrokerState::Active) if state_before == Some(BrokerState::Fenced) => {
                (known.draining_since, known.looked_at, known.may_shut_down) = (None, None, false);
                self.rebalance_due = self.rebalance_due.min(now + self.settings.rebalance_delay);
            }
            (Some(_), _) => {}
        }
    }

    fn tick(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let nodes: Vec<NodeId> = self.brokers.keys().copied().collect();
        for node_id in nodes {
            self.decide(now, node_id, actions);
        }
        self.rebalance(now, actions);
        if now >= self.upkeep_due {
            self.upkeep_due = now + UPKEEP_INTERVAL;
            self.grow_quorum(now, actions);
            if self.settings.internal_replicas > 1 {
                let narrow =
                    upkeep::wider_internal_topics(&self.image, self.settings.internal_replicas, WIDENED_AT_ONCE);
                for (partition, command) in narrow {
                    self.submit(now, Task::Widen(partition), command, actions);
                }
            }
        }
        // What is still wanted has just been submitted again.
        self.submitted.retain(|_, (_, again)| now < *again);
    }

    /// Submits what the difference between the image and what is heard of a broker asks for.
    fn decide(&mut self, now: Monotonic, node_id: NodeId, actions: &mut Vec<Action>) {
        let image = Arc::clone(&self.image);
        let (Some(broker), Some(known)) = (image.broker(node_id), self.brokers.get(&node_id)) else { return };
        if broker.epoch != known.epoch || broker.peer.is_none() {
            return;
        }
        let broker_epoch = broker.epoch;
        let is_silent = known.heard.is_none_or(|heard| now.since(heard) >= self.settings.session);
        let offline = known.offline.iter().copied().find(|directory| broker.directories.contains(directory));
        let has_caught_up = known.applied.is_some_and(|applied| applied >= known.fenced_in);
        let (wants, may_shut_down) = (known.wants, known.may_shut_down);
        match broker.state {
            BrokerState::Fenced => {
                if !is_silent && wants == Wants::Serve && has_caught_up && offline.is_none() {
                    let command = Command::UnfenceBroker { node_id, broker_epoch };
                    self.submit(now, Task::Unfence(node_id), command, actions);
                }
            }
            BrokerState::Active | BrokerState::ShuttingDown if is_silent || may_shut_down => {
                self.submit(now, Task::Fence(node_id), Command::FenceBroker { node_id, broker_epoch }, actions);
            }
            BrokerState::Active if wants == Wants::ShutDown => {
                self.submit(now, Task::Drain(node_id), Command::DrainBroker { node_id, broker_epoch }, actions);
            }
            BrokerState::Active | BrokerState::ShuttingDown => {}
        }
        // With its last directory a broker is fenced, and stays so.
        let is_last = broker.state == BrokerState::Fenced && broker.directories.len() == 1;
        if let Some(directory) = offline.filter(|_| !is_silent && !is_last) {
            let command = Command::FailDirectory { node_id, broker_epoch, directory };
            self.submit(now, Task::FailDirectory(node_id), command, actions);
        }
    }

    /// Submits a command, unless the same one is on its way.
    fn submit(&mut self, now: Monotonic, task: Task, command: Command, actions: &mut Vec<Action>) {
        let is_on_its_way = |(submitted, again): &(Command, Monotonic)| *submitted == command && now < *again;
        if !self.submitted.get(&task).is_some_and(is_on_its_way) {
            self.submitted.insert(task, (command.clone(), now + self.settings.retry));
            actions.push(Action::Submit(command));
        }
    }

    fn grow_quorum(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(voters) = upkeep::more_voters(&self.image, &self.members, self.settings.voters) else {
            self.growing = None;
            return;
        };
        if self.growing.as_ref().is_none_or(|(asked, again)| *asked != voters || now >= *again) {
            self.growing = Some((voters.clone(), now + VOTERS_RETRY));
            actions.push(Action::ChangeVoters(voters));
        }
    }

    /// Has preferred replicas lead, so many at a time, all partitions in turn.
    fn rebalance(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.round.is_none() && now < self.rebalance_due {
            return;
        }
        let round = self.round.get_or_insert_default();
        if let Some((last, again)) = round.asked.take() {
            let is_open = upkeep::could_be_preferred(&self.image, last);
            if is_open && now < again {
                round.asked = Some((last, again));
                return;
            }
            if !is_open {
                round.done = Some(last);
            }
        }
        let partitions = upkeep::not_preferred(&self.image, round.done, PREFERRED_AT_ONCE);
        match partitions.last() {
            Some(last) => {
                round.asked = Some((*last, now + self.settings.retry));
                actions.push(Action::Submit(Command::ElectLeaders { partitions, how: Election::Preferred }));
            }
            None => {
                self.round = None;
                self.rebalance_due = now + self.settings.rebalance_interval;
            }
        }
    }

    fn next_due(&self, now: Monotonic) -> Monotonic {
        // One that has ended is due at once, unless something came of it already.
        let is_settled = |node_id: NodeId| {
            let is_served = |broker: &Arc<Broker>| broker.state != BrokerState::Fenced && broker.peer.is_some();
            !self.image.broker(node_id).is_some_and(is_served) || self.submitted.contains_key(&Task::Fence(node_id))
        };
        let ends =
            self.brokers.iter().filter_map(|(node_id, known)| Some((*node_id, known.heard? + self.settings.session)));
        let sessions = ends.filter(|(node_id, end)| *end > now || !is_settled(*node_id)).map(|(_, end)| end);
        let again = self.submitted.values().map(|(_, again)| *again);
        let asked = self.round.as_ref().and_then(|round| round.asked).map(|(_, again)| again);
        let rebalance = asked.unwrap_or(self.rebalance_due);
        sessions.chain(again).chain([rebalance, self.upkeep_due]).min().expect("upkeep is always due")
    }
}

#[cfg(test)]
mod tests;

//! The world of the simulation: what exists, what may happen next, and how it ends.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::Planted;
use super::controller::{Controller, Rules};
use super::log::{ModelLog, Record, index};
use crate::log::EpochCache;
use crate::replication::divergence::History;
use crate::replication::follower::{FollowerReplica, FollowerState, Progress, Refusal};
use crate::replication::invariants::{Check, Ledger, check_pair, ensure};
use crate::replication::leader::{Event, LeaderReplica, LeaderSettings, Proposal};
use crate::sim::Random;
use crate::types::{BrokerEpoch, LeaderEpoch, Monotonic, NodeId, Offset};

/// Records of a run, at most about so many.
const VALUES: u64 = 250;
/// Rounds in which everything has to be replicated once nothing fails.
const PATIENCE: usize = 300;

pub(super) enum Role {
    Leader(LeaderReplica),
    Follower {
        replica: FollowerReplica,
        /// The session in which its leader is told.
        reply: Option<u64>,
    },
}

impl Role {
    pub(super) fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Leader(leader) => leader.leader_epoch(),
            Self::Follower { replica, .. } => replica.leader_epoch(),
        }
    }
}

/// What is on its way to the disk.
pub(super) enum Cut {
    Truncate(i64),
    Reset { at: i64, epochs: EpochCache },
}

pub(super) struct Process {
    pub(super) broker_epoch: BrokerEpoch,
    /// The image that it has.
    pub(super) seen: usize,
    pub(super) role: Role,
    pub(super) cut: Option<Cut>,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) log: ModelLog,
    pub(super) process: Option<Process>,
}

impl Node {
    pub(super) fn leader(&mut self) -> Option<&mut LeaderReplica> {
        match &mut self.process.as_mut()?.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower { .. } => None,
        }
    }

    pub(super) fn broker_epoch(&self) -> Option<BrokerEpoch> {
        Some(self.process.as_ref()?.broker_epoch)
    }
}

/// From a leader.
#[derive(Clone, Debug)]
pub(super) enum Down {
    Lead(History),
    Continuation { at: i64, epochs: EpochCache },
    Records { base: i64, records: Vec<Record>, progress: Progress },
    Advance(Progress),
}

/// From a follower.
#[derive(Clone, Debug)]
pub(super) enum Up {
    State(FollowerState),
    Durable { leader_epoch: LeaderEpoch, durable: i64 },
    Refused { why: Refusal, leader_epoch: LeaderEpoch },
}

/// Of a leader's process, in one leader epoch, with a follower's process.
pub(super) struct Session {
    pub(super) leader: NodeId,
    pub(super) leader_process: BrokerEpoch,
    pub(super) epoch: LeaderEpoch,
    pub(super) follower: NodeId,
    pub(super) follower_process: BrokerEpoch,
    /// Nothing is sent any more; what is on its way may arrive.
    pub(super) is_broken: bool,
    /// The next record to be sent, once the follower said where.
    pub(super) next: Option<i64>,
    pub(super) wants_continuation: bool,
    pub(super) down: VecDeque<Down>,
    pub(super) up: VecDeque<Up>,
}

/// A proposal on its way to the controller.
pub(super) struct Proposed {
    pub(super) node_id: NodeId,
    pub(super) process: BrokerEpoch,
    pub(super) epoch: LeaderEpoch,
    pub(super) proposal: Proposal,
    /// The leader was told that its fate is not known.
    pub(super) is_given_up: bool,
}

/// See the module.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) planted: Planted,
    pub(super) now: Monotonic,
    pub(super) controller: Controller,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) proposals: VecDeque<Proposed>,
    pub(super) ledger: Ledger,
    pub(super) settings: LeaderSettings,
    next_session: u64,
    next_value: u64,
    archived_to: i64,
    steps: usize,
    trace: DefaultHasher,
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Self {
        let mut random = Random::new(seed);
        let nodes = 3 + i32::try_from(random.below(3)).expect("small");
        let min_in_sync = if planted == Planted::CommitBelowMinimum || random.chance(70) { 2 } else { 1 };
        let is_unclean = planted == Planted::Nothing && random.chance(15);
        let rules = Rules { nodes, min_in_sync, is_unclean };
        let controller = Controller::new(rules);
        let node = |node_id| {
            let role = Role::Follower {
                replica: FollowerReplica::new(None, LeaderEpoch(-1), &ModelLog::default().local()),
                reply: None,
            };
            let broker_epoch = BrokerEpoch(i64::from(node_id));
            let process = Some(Process { broker_epoch, seen: 0, role, cut: None });
            (NodeId(node_id), Node { log: ModelLog::default(), process })
        };
        let mut world = Self {
            random,
            planted,
            now: Monotonic::default(),
            controller,
            nodes: (1..=nodes).map(node).collect(),
            sessions: BTreeMap::new(),
            proposals: VecDeque::new(),
            ledger: Ledger::new(is_unclean),
            settings: LeaderSettings { lag_max: Duration::from_secs(3), retry_pause: Duration::from_millis(300) },
            next_session: 0,
            next_value: 0,
            archived_to: 0,
            steps: 0,
            trace: DefaultHasher::new(),
        };
        for node_id in world.node_ids() {
            world.see_image(node_id, 0).expect("nothing has happened yet");
        }
        world
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn node(&mut self, node_id: NodeId) -> &mut Node {
        self.nodes.get_mut(&node_id).expect("known")
    }

    fn any_node(&mut self) -> NodeId {
        let nodes = self.node_ids();
        self.pick(&nodes).expect("there are some")
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = self.random.below(u64::try_from(of.len()).expect("short").max(1));
        of.get(usize::try_from(at).expect("short")).copied()
    }

    fn leaders(&mut self) -> Vec<NodeId> {
        let leading = self.nodes.iter_mut().filter_map(|(node_id, node)| node.leader().is_some().then_some(*node_id));
        leading.collect()
    }

    /// Does one thing of those that may happen, and checks everything.
    pub(super) fn step(&mut self) -> Check {
        self.now = self.now + Duration::from_millis(1 + self.random.below(80));
        match self.random.below(200) {
            0..70 => self.deliver()?,
            70..95 => self.send()?,
            95..118 => self.make_durable()?,
            118..136 => self.produce()?,
            136..150 => self.show_image()?,
            150..158 => self.settle()?,
            158..166 => self.connect_some()?,
            166..174 => self.decide()?,
            174..178 => self.give_up_on_a_proposal()?,
            178..184 => self.tick()?,
            184..187 => self.break_session()?,
            187..189 => self.fence(),
            189..193 => self.unfence(),
            193..195 => self.crash(),
            195..198 => self.restart()?,
            198 => self.archive(),
            _ => self.now = self.now + Duration::from_secs(1),
        }
        self.check()
    }

    fn check(&mut self) -> Check {
        self.steps += 1;
        for node_id in self.controller.state().trusted() {
            self.ledger.check_trusted(node_id, &self.nodes[&node_id].log)?;
        }
        for (node_id, node) in &self.nodes {
            let log = &node.log;
            let epoch = node.process.as_ref().map(|process| process.role.epoch().0);
            (node_id.0, log.end(), log.durable, log.high_watermark, epoch).hash(&mut self.trace);
        }
        (self.controller.states.len(), self.controller.state().partition_epoch.0).hash(&mut self.trace);
        if self.steps.is_multiple_of(16) { self.check_logs() } else { Ok(()) }
    }

    pub(super) fn check_logs(&self) -> Check {
        for node_id in self.controller.state().trusted() {
            self.ledger.check_trusted_records(node_id, &self.nodes[&node_id].log)?;
        }
        for (node_id, node) in &self.nodes {
            self.ledger.check_log(*node_id, &node.log)?;
            for (other_id, other) in self.nodes.range(..*node_id) {
                check_pair(&other.log, &node.log)
                    .map_err(|error| format!("nodes {other_id} and {node_id}: {error}"))?;
            }
        }
        Ok(())
    }

    fn produce(&mut self) -> Check {
        let leaders = self.leaders();
        let Some(node_id) = self.pick(&leaders).filter(|_| self.next_value < VALUES) else { return Ok(()) };
        for _ in 0..1 + self.random.below(3) {
            self.next_value += 1;
            let value = self.next_value;
            let node = self.node(node_id);
            let epoch = node.leader().expect("it leads").leader_epoch();
            node.log.append(Record { epoch, value });
        }
        let end = self.node(node_id).log.end();
        self.lead_event(node_id, Event::Appended(Offset(end)))
    }

    fn make_durable(&mut self) -> Check {
        let node_id = self.any_node();
        let log = &self.nodes[&node_id].log;
        let missing = log.end() - log.durable;
        if missing == 0 || self.nodes[&node_id].process.is_none() {
            return Ok(());
        }
        let durable = log.durable + 1 + self.random.below(missing.cast_unsigned()).cast_signed();
        self.became_durable(node_id, durable)
    }

    fn show_image(&mut self) -> Check {
        let node_id = self.any_node();
        let newest = self.controller.states.len() - 1;
        let Some(process) = &mut self.node(node_id).process else { return Ok(()) };
        let next = process.seen + 1;
        if next > newest {
            return Ok(());
        }
        process.seen = next;
        self.see_image(node_id, next)
    }

    fn settle(&mut self) -> Check {
        let node_id = self.any_node();
        self.settle_cut(node_id)
    }

    fn live_session(&self, leader: NodeId, follower: NodeId) -> Option<u64> {
        let mut sessions = self.sessions.iter().filter(|(_, session)| {
            (session.leader, session.follower, session.is_broken) == (leader, follower, false)
                && Some(session.follower_process) == self.nodes[&follower].broker_epoch()
        });
        sessions.next().map(|(id, _)| *id)
    }

    fn connect_some(&mut self) -> Check {
        let leaders = self.leaders();
        let Some(leader) = self.pick(&leaders) else { return Ok(()) };
        for follower in self.node_ids() {
            if self.random.chance(60) {
                self.connect(leader, follower)?;
            }
        }
        Ok(())
    }

    /// Begins a session, unless there is one.
    fn connect(&mut self, leader: NodeId, follower: NodeId) -> Check {
        let Some(follower_process) = self.nodes[&follower].broker_epoch().filter(|_| leader != follower) else {
            return Ok(());
        };
        if self.live_session(leader, follower).is_some() {
            return Ok(());
        }
        self.break_sessions(leader, Some(follower));
        let node = self.node(leader);
        let history = node.log.local().history;
        let (Some(leader_process), Some(replica)) = (node.broker_epoch(), node.leader()) else { return Ok(()) };
        let session = Session {
            leader,
            leader_process,
            epoch: replica.leader_epoch(),
            follower,
            follower_process,
            is_broken: false,
            next: None,
            wants_continuation: false,
            down: VecDeque::from([Down::Lead(history)]),
            up: VecDeque::new(),
        };
        self.next_session += 1;
        self.sessions.insert(self.next_session, session);
        Ok(())
    }

    /// The sessions of a leader are over, those with a follower or all.
    pub(super) fn break_sessions(&mut self, leader: NodeId, follower: Option<NodeId>) {
        self.sessions.retain(|_, session| !session.is_broken || !session.down.is_empty() || !session.up.is_empty());
        let is_meant = |session: &&mut Session| {
            session.leader == leader && follower.is_none_or(|follower| session.follower == follower)
        };
        self.sessions.values_mut().filter(is_meant).for_each(|session| session.is_broken = true);
    }

    fn break_session(&mut self) -> Check {
        let live: Vec<_> = self.sessions.iter().filter(|(_, session)| !session.is_broken).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&live) else { return Ok(()) };
        let (down, up) = (self.random.next(), self.random.next());
        let session = self.sessions.get_mut(&id).expect("picked");
        session.is_broken = true;
        // What is on its way arrives in part.
        let part = |length: usize, drawn: u64| index((drawn % 4).cast_signed()).min(length);
        session.down.truncate(part(session.down.len(), down));
        session.up.truncate(part(session.up.len(), up));
        let (leader, process, follower) = (session.leader, session.leader_process, session.follower);
        if self.nodes[&leader].broker_epoch() == Some(process) {
            self.lead_event(leader, Event::Disconnected(follower))?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Check {
        self.leaders().into_iter().try_for_each(|node_id| self.lead_event(node_id, Event::Tick))
    }

    /// The controller gets a proposal.
    fn decide(&mut self) -> Check {
        let waiting: Vec<_> = (0..self.proposals.len()).collect();
        let Some(proposed) = self.pick(&waiting).and_then(|at| self.proposals.remove(at)) else { return Ok(()) };
        let Proposed { node_id, epoch, ref proposal, .. } = proposed;
        let is_accepted = self.controller.alter(node_id, epoch, proposal);
        let is_answered = !proposed.is_given_up && !is_accepted;
        if is_answered { self.answer(&proposed, true) } else { Ok(()) }
    }

    /// A leader waits no longer; its proposal may still arrive.
    fn give_up_on_a_proposal(&mut self) -> Check {
        let waiting = 0..self.proposals.len();
        let waiting: Vec<_> = waiting.filter(|at| !self.proposals[*at].is_given_up).collect();
        let Some(at) = self.pick(&waiting) else { return Ok(()) };
        self.proposals[at].is_given_up = true;
        let Proposed { node_id, process, epoch, .. } = self.proposals[at];
        let proposal = self.proposals[at].proposal.clone();
        let proposed = Proposed { node_id, process, epoch, proposal, is_given_up: true };
        if self.random.chance(40) {
            self.proposals.remove(at);
        }
        self.answer(&proposed, self.planted == Planted::ProposalsForgotten)
    }

    fn answer(&mut self, proposed: &Proposed, is_void: bool) -> Check {
        let epoch = proposed.epoch;
        let node = self.node(proposed.node_id);
        let is_same = node.broker_epoch() == Some(proposed.process);
        if !is_same || node.leader().is_none_or(|leader| leader.leader_epoch() != epoch) {
            return Ok(());
        }
        let partition_epoch = proposed.proposal.partition_epoch;
        self.lead_event(proposed.node_id, Event::ProposalFailed { partition_epoch, is_void })
    }

    fn fence(&mut self) {
        let node_id = self.any_node();
        if self.controller.state().brokers[&node_id].is_active {
            self.controller.set_active(node_id, false);
        }
    }

    fn unfence(&mut self) {
        let node_id = self.any_node();
        let broker = self.controller.state().brokers[&node_id];
        if !broker.is_active && self.nodes[&node_id].broker_epoch() == Some(broker.epoch) {
            self.controller.set_active(node_id, true);
        }
    }

    fn crash(&mut self) {
        let node_id = self.any_node();
        if self.nodes[&node_id].process.is_none() {
            return;
        }
        let mut others = self.controller.state().trusted();
        others.remove(&node_id);
        let loses_disk = !others.is_empty() && self.random.chance(25);
        let keeps_high_watermark = self.random.chance(50);
        let node = self.node(node_id);
        node.process = None;
        node.log.lose_what_is_not_durable();
        if !keeps_high_watermark {
            node.log.high_watermark = node.log.start;
        }
        if loses_disk {
            node.log = ModelLog::default();
            self.controller.lose(node_id);
        }
    }

    fn restart(&mut self) -> Check {
        let node_id = self.any_node();
        if self.nodes[&node_id].process.is_some() {
            return Ok(());
        }
        self.start(node_id)
    }

    fn start(&mut self, node_id: NodeId) -> Check {
        let broker_epoch = self.controller.register(node_id);
        // A process takes no part before its image has its own registration.
        let seen = self.controller.states.len() - 1;
        let node = self.node(node_id);
        let replica = FollowerReplica::new(None, LeaderEpoch(-1), &node.log.local());
        let role = Role::Follower { replica, reply: None };
        node.process = Some(Process { broker_epoch, seen, role, cut: None });
        self.see_image(node_id, seen)
    }

    /// Somebody archives what is committed, and local records go.
    fn archive(&mut self) {
        if self.ledger.is_unclean {
            return;
        }
        let leaders = self.leaders();
        if let Some(node_id) = self.pick(&leaders) {
            self.archived_to = self.archived_to.max(self.nodes[&node_id].log.high_watermark);
        }
        let (archived_to, drawn) = (self.archived_to, self.random.next());
        for node in self.nodes.values_mut().filter(|node| node.process.as_ref().is_some_and(|it| it.cut.is_none())) {
            let removable = archived_to.min(node.log.high_watermark) - node.log.start;
            if removable > 0 {
                let to = node.log.start + (drawn % (removable + 1).cast_unsigned()).cast_signed();
                node.log.remove_below(to);
            }
        }
    }

    pub(super) fn progress(&self, node_id: NodeId) -> Progress {
        let high_watermark = Offset(self.nodes[&node_id].log.high_watermark);
        Progress { high_watermark, ..Progress::default() }
    }

    /// From now on nothing fails. Everything is replicated after a while.
    pub(super) fn heal(&mut self) -> Check {
        let mut last = Ok(());
        for _ in 0..PATIENCE {
            self.round()?;
            last = self.check_converged();
            if last.is_ok() {
                return self.check_logs();
            }
        }
        last
    }

    fn round(&mut self) -> Check {
        self.now = self.now + Duration::from_millis(200);
        for node_id in self.node_ids() {
            if self.nodes[&node_id].process.is_none() {
                self.start(node_id)?;
            }
            let broker = self.controller.state().brokers[&node_id];
            if !broker.is_active {
                self.controller.set_active(node_id, true);
            }
        }
        while !self.proposals.is_empty() {
            self.decide()?;
        }
        for node_id in self.node_ids() {
            self.settle_cut(node_id)?;
            while self.nodes[&node_id].process.as_ref().is_some_and(|it| it.seen + 1 < self.controller.states.len()) {
                let process = self.node(node_id).process.as_mut().expect("just seen");
                process.seen += 1;
                let seen = process.seen;
                self.see_image(node_id, seen)?;
            }
            self.became_durable(node_id, self.nodes[&node_id].log.end())?;
        }
        for leader in self.leaders() {
            for follower in self.node_ids() {
                self.connect(leader, follower)?;
            }
        }
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            while self.deliver_down(id)? || self.deliver_up(id)? {}
            self.send_on(id)?;
        }
        self.tick()?;
        self.check()
    }

    fn check_converged(&self) -> Check {
        let state = self.controller.state();
        ensure!(
            state.in_sync.len() == self.nodes.len(),
            "R7: in sync are {:?} under {:?}",
            state.in_sync,
            state.leader
        );
        let logs: Vec<_> = self.nodes.values().map(|node| &node.log).collect();
        self.ledger.check_converged(&logs)
    }
}

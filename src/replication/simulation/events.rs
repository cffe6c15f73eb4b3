//! What the driver of a broker does, in the simulation: gives events to the machines, and carries their actions out.

use super::Planted;
use super::log::Record;
use super::world::{Cut, Down, Process, Proposed, Role, Session, Up, World};
use crate::log::EpochCache;
use crate::replication::follower::{self, Action, BatchPlace, FollowerReplica, FollowerState, Refusal};
use crate::replication::invariants::{Check, ensure};
use crate::replication::leader::{Actions, Assignment, Event, LeaderReplica, LeaderStart};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset};

/// What comes with an event of a follower and is not for its machine.
#[derive(Default)]
struct Attached {
    session: Option<u64>,
    records: Vec<Record>,
    continuation: Option<(i64, EpochCache)>,
}

impl World {
    /// Gives a node the image that it has seen.
    pub(super) fn see_image(&mut self, node_id: NodeId, seen: usize) -> Check {
        let state = self.controller.states[seen].clone();
        let Some(process) = &self.node(node_id).process else { return Ok(()) };
        let (epoch, is_leader) = (process.role.epoch(), matches!(process.role, Role::Leader(_)));
        let leads = state.leader == Some(node_id) && state.brokers[&node_id].epoch == process.broker_epoch;
        let (leader, leader_epoch) = (state.leader, state.leader_epoch);
        if is_leader && leader_epoch == epoch {
            let assignment = state.assignment(self.min_in_sync());
            return self.lead_event(node_id, Event::Assigned(assignment));
        }
        if leads && leader_epoch > epoch {
            let assignment = state.assignment(self.min_in_sync());
            return self.begin_to_lead(node_id, leader_epoch, assignment);
        }
        if leader_epoch > epoch {
            self.cut_at_high_watermark(node_id);
        }
        if is_leader && leader_epoch > epoch {
            self.begin_to_follow(node_id, leader, leader_epoch);
            return Ok(());
        }
        self.follow_event(node_id, follower::Event::Image { leader, leader_epoch }, Attached::default())
    }

    fn min_in_sync(&self) -> usize {
        if self.planted == Planted::CommitBelowMinimum { 1 } else { self.controller.rules.min_in_sync }
    }

    fn process(&mut self, node_id: NodeId) -> &mut Process {
        self.node(node_id).process.as_mut().expect("it runs")
    }

    fn begin_to_lead(&mut self, node_id: NodeId, leader_epoch: LeaderEpoch, assignment: Assignment) -> Check {
        self.ledger.leads(node_id, leader_epoch)?;
        self.apply_cut(node_id);
        self.break_sessions(node_id, None);
        let (now, settings, planted) = (self.now, self.settings, self.planted);
        let node = self.node(node_id);
        node.log.begin_epoch(leader_epoch);
        let [log_end, durable, high_watermark] =
            [node.log.end(), node.log.durable, node.log.high_watermark].map(Offset);
        let mut start = LeaderStart { node_id, leader_epoch, log_end, durable, high_watermark };
        if planted == Planted::JoinBelowEpochStart {
            (start.log_end, start.durable) = (high_watermark, high_watermark);
        }
        let (leader, actions) = LeaderReplica::new(now, settings, start, assignment);
        self.process(node_id).role = Role::Leader(leader);
        self.act(node_id, leader_epoch, actions)?;
        self.lead_event(node_id, Event::Appended(log_end))?;
        self.lead_event(node_id, Event::Durable(durable))
    }

    fn begin_to_follow(&mut self, node_id: NodeId, leader: Option<NodeId>, epoch: LeaderEpoch) {
        self.break_sessions(node_id, None);
        let node = self.node(node_id);
        node.log.follow();
        let replica = FollowerReplica::new(leader, epoch, &node.log.local());
        self.process(node_id).role = Role::Follower { replica, reply: None };
    }

    /// The bug that KIP-101 put right.
    fn cut_at_high_watermark(&mut self, node_id: NodeId) {
        let is_planted = self.planted == Planted::TruncateToHighWatermark;
        let node = self.node(node_id);
        if is_planted && node.process.as_ref().is_some_and(|process| process.cut.is_none()) {
            node.log.truncate(node.log.high_watermark);
        }
    }

    pub(super) fn lead_event(&mut self, node_id: NodeId, event: Event) -> Check {
        let now = self.now;
        let Some(leader) = self.node(node_id).leader() else { return Ok(()) };
        let (epoch, actions) = (leader.leader_epoch(), leader.handle(now, event));
        self.act(node_id, epoch, actions)
    }

    fn act(&mut self, node_id: NodeId, epoch: LeaderEpoch, actions: Actions) -> Check {
        if let Some(Offset(offset)) = actions.commit {
            self.node(node_id).log.high_watermark = offset;
            self.ledger.commits(epoch, offset, &self.nodes[&node_id].log)?;
            for trusted in self.controller.state().trusted() {
                self.ledger.check_trusted_records(trusted, &self.nodes[&trusted].log)?;
            }
        }
        if let Some(proposal) = actions.propose {
            let process = self.process(node_id).broker_epoch;
            self.proposals.push_back(Proposed { node_id, process, epoch, proposal, is_given_up: false });
        }
        Ok(())
    }

    pub(super) fn became_durable(&mut self, node_id: NodeId, durable: i64) -> Check {
        let node = self.node(node_id);
        if node.process.is_none() {
            return Ok(());
        }
        node.log.durable = node.log.durable.max(durable);
        let durable = Offset(node.log.durable);
        if node.leader().is_some() {
            return self.lead_event(node_id, Event::Durable(durable));
        }
        self.follow_event(node_id, follower::Event::Durable(durable), Attached::default())
    }

    /// Carries out what is on its way to the disk; whether there was anything.
    fn apply_cut(&mut self, node_id: NodeId) -> bool {
        let planted = self.planted;
        let node = self.node(node_id);
        match node.process.as_mut().and_then(|process| process.cut.take()) {
            None => return false,
            Some(Cut::Truncate(_)) if planted == Planted::NoTruncation => {}
            Some(Cut::Truncate(to)) => node.log.truncate(to),
            Some(Cut::Reset { at, .. }) if planted == Planted::ResetKeepsOldEpochs => {
                let kept = node.log.epochs.clone();
                node.log.reset(at, kept);
            }
            Some(Cut::Reset { at, epochs }) => node.log.reset(at, epochs),
        }
        true
    }

    pub(super) fn settle_cut(&mut self, node_id: NodeId) -> Check {
        if !self.apply_cut(node_id) {
            return Ok(());
        }
        let local = self.nodes[&node_id].log.local();
        self.follow_event(node_id, follower::Event::Settled(local), Attached::default())
    }

    fn follow_event(&mut self, node_id: NodeId, event: follower::Event, attached: Attached) -> Check {
        let Role::Follower { replica, .. } = &mut self.process(node_id).role else {
            return Err(format!("node {node_id} does not follow: {event:?}"));
        };
        let actions = replica.handle(event);
        for action in actions {
            self.follow_action(node_id, action, &attached)?;
        }
        Ok(())
    }

    fn follow_action(&mut self, node_id: NodeId, action: Action, attached: &Attached) -> Check {
        let acks_early = self.planted == Planted::AckBeforeDurable;
        match action {
            Action::Follow(_) => self.node(node_id).log.follow(),
            Action::SendState(state) => {
                let durable = if acks_early { state.log_end } else { state.durable };
                self.tell_leader(node_id, Up::State(FollowerState { durable, ..state }));
            }
            Action::Truncate { to, loses_committed } => {
                ensure!(
                    self.ledger.is_unclean || !loses_committed,
                    "R5: node {node_id} is to give up committed records from {to} on"
                );
                self.process(node_id).cut = Some(Cut::Truncate(to.0));
            }
            Action::Reset { .. } => {
                let (at, epochs) = attached.continuation.clone().ok_or("a reset without a continuation")?;
                self.process(node_id).cut = Some(Cut::Reset { at, epochs });
            }
            Action::Append { skip } => {
                let log = &mut self.node(node_id).log;
                attached.records[skip..].iter().for_each(|record| log.append(*record));
                let durable = log.end();
                if acks_early && let Role::Follower { replica, .. } = &self.process(node_id).role {
                    let leader_epoch = replica.leader_epoch();
                    self.tell_leader(node_id, Up::Durable { leader_epoch, durable });
                }
            }
            Action::Commit(Offset(offset)) => self.node(node_id).log.high_watermark = offset,
            Action::SendDurable { leader_epoch, durable: Offset(durable) } => {
                self.tell_leader(node_id, Up::Durable { leader_epoch, durable });
            }
            Action::Refuse { why, leader_epoch, .. } => {
                if let Some(session) = attached.session.and_then(|id| self.sessions.get_mut(&id)) {
                    session.up.push_back(Up::Refused { why, leader_epoch });
                }
            }
            Action::AdvanceLogStart(_) | Action::AdvanceArchived(_) => {}
        }
        Ok(())
    }

    /// On the session that its leader began last.
    fn tell_leader(&mut self, node_id: NodeId, word: Up) {
        let Role::Follower { reply, .. } = &self.process(node_id).role else { return };
        let session = reply.and_then(|id| self.sessions.get_mut(&id));
        if let Some(session) = session {
            session.up.push_back(word);
        }
    }

    pub(super) fn deliver(&mut self) -> Check {
        let waiting = self.sessions.iter().filter(|(_, session)| !session.down.is_empty() || !session.up.is_empty());
        let waiting: Vec<_> = waiting.map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&waiting) else { return Ok(()) };
        let is_down_first = self.random.chance(50);
        let was_delivered = if is_down_first { self.deliver_down(id)? } else { self.deliver_up(id)? };
        if !was_delivered {
            let _ = if is_down_first { self.deliver_up(id)? } else { self.deliver_down(id)? };
        }
        Ok(())
    }

    /// Gives a follower the next message of a session; whether there was one.
    pub(super) fn deliver_down(&mut self, id: u64) -> Result<bool, String> {
        let is_doubled = self.random.chance(5);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(false) };
        let Some(message) = session.down.pop_front() else { return Ok(false) };
        let Session { leader, epoch, follower, follower_process, .. } = *session;
        if self.nodes[&follower].broker_epoch() != Some(follower_process) {
            session.down.clear();
            return Ok(true);
        }
        if is_doubled {
            session.down.push_front(message.clone());
        }
        let current = self.process(follower).role.epoch();
        let is_lead = matches!(message, Down::Lead(_));
        if is_lead && epoch > current {
            self.cut_at_high_watermark(follower);
        }
        if self.node(follower).leader().is_some() {
            if !is_lead || epoch <= current {
                let session = self.sessions.get_mut(&id).expect("just seen");
                session.up.push_back(Up::Refused { why: Refusal::Stale, leader_epoch: current });
                return Ok(true);
            }
            self.begin_to_follow(follower, Some(leader), epoch);
        }
        self.hear_leader(id, leader, epoch, follower, message)?;
        Ok(true)
    }

    fn hear_leader(
        &mut self,
        id: u64,
        from: NodeId,
        leader_epoch: LeaderEpoch,
        node_id: NodeId,
        message: Down,
    ) -> Check {
        let attached = Attached { session: Some(id), ..Attached::default() };
        match message {
            Down::Lead(leader) => {
                if let Role::Follower { replica, reply } = &mut self.process(node_id).role
                    && replica.leader_epoch() <= leader_epoch
                {
                    *reply = Some(id);
                }
                let local = self.nodes[&node_id].log.local();
                self.follow_event(node_id, follower::Event::Lead { from, leader_epoch, leader, local }, attached)
            }
            Down::Continuation { at, epochs } => {
                let attached = Attached { continuation: Some((at, epochs)), ..attached };
                self.follow_event(node_id, follower::Event::Continuation { leader_epoch }, attached)
            }
            Down::Records { base, records, progress } => {
                let current = self.process(node_id).role.epoch();
                let is_planted = self.planted == Planted::StaleEpochsAccepted;
                let leader_epoch = if is_planted { leader_epoch.max(current) } else { leader_epoch };
                let place = |(offset, record): (i64, &Record)| BatchPlace {
                    base_offset: Offset(offset),
                    next_offset: Offset(offset + 1),
                    leader_epoch: record.epoch,
                };
                let batches = (base..).zip(&records).map(place).collect();
                let attached = Attached { records, ..attached };
                self.follow_event(node_id, follower::Event::Records { leader_epoch, batches, progress }, attached)?;
                self.commit_rashly(node_id, progress.high_watermark.0);
                Ok(())
            }
            Down::Advance(progress) => {
                self.follow_event(node_id, follower::Event::Advance { leader_epoch, progress }, attached)?;
                self.commit_rashly(node_id, progress.high_watermark.0);
                Ok(())
            }
        }
    }

    fn commit_rashly(&mut self, node_id: NodeId, high_watermark: i64) {
        if self.planted == Planted::CommitBeyondDurable {
            let log = &mut self.node(node_id).log;
            log.high_watermark = log.high_watermark.max(high_watermark.min(log.end()));
        }
    }

    /// Gives a leader the next message of a session; whether there was one.
    pub(super) fn deliver_up(&mut self, id: u64) -> Result<bool, String> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(false) };
        let Some(message) = session.up.pop_front() else { return Ok(false) };
        let Session { leader, leader_process, epoch, follower, follower_process, is_broken, .. } = *session;
        let node = self.nodes.get_mut(&leader).expect("known");
        if node.broker_epoch() != Some(leader_process) || node.leader().is_none_or(|it| it.leader_epoch() != epoch) {
            session.up.clear();
            return Ok(true);
        }
        let broker_epoch = self.acknowledging_process(leader, follower, follower_process);
        let acknowledged = |leader_epoch, durable| Event::Acknowledged {
            node_id: follower,
            broker_epoch,
            leader_epoch,
            durable: Offset(durable),
            log_start: Offset::ZERO,
        };
        match message {
            Up::State(state) => {
                if !is_broken && state.leader_epoch == epoch {
                    self.session_state(id, state);
                }
                if !state.needs_continuation {
                    self.lead_event(leader, acknowledged(state.leader_epoch, state.durable.0))?;
                }
            }
            Up::Durable { leader_epoch, durable } => self.lead_event(leader, acknowledged(leader_epoch, durable))?,
            // Of a newer leader the image will tell.
            Up::Refused { why, leader_epoch } => {
                if !is_broken && why != Refusal::Stale && leader_epoch <= epoch {
                    self.begin_again(id);
                }
            }
        }
        Ok(true)
    }

    fn acknowledging_process(&self, leader: NodeId, follower: NodeId, process: BrokerEpoch) -> BrokerEpoch {
        if self.planted != Planted::AcksOutliveProcesses {
            return process;
        }
        let seen = self.nodes[&leader].process.as_ref().expect("it runs").seen;
        self.controller.states[seen].brokers[&follower].epoch
    }

    fn session_state(&mut self, id: u64, state: FollowerState) {
        let session = self.sessions.get_mut(&id).expect("just seen");
        session.wants_continuation = state.needs_continuation;
        session.next = (!state.needs_continuation).then_some(state.log_end.0);
    }

    /// The leader begins a session anew.
    fn begin_again(&mut self, id: u64) {
        let session = self.sessions.get_mut(&id).expect("just seen");
        let history = self.nodes[&session.leader].log.local().history;
        session.next = None;
        session.wants_continuation = false;
        session.down.push_back(Down::Lead(history));
    }

    pub(super) fn send(&mut self) -> Check {
        let live: Vec<_> = self.sessions.iter().filter(|(_, session)| !session.is_broken).map(|(id, _)| *id).collect();
        self.pick(&live).map_or(Ok(()), |id| self.send_on(id))
    }

    /// A leader sends what there is to be sent in a session.
    pub(super) fn send_on(&mut self, id: u64) -> Check {
        let most = 1 + self.random.below(4).cast_signed();
        let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.is_broken) else { return Ok(()) };
        let (leader, process, epoch) = (session.leader, session.leader_process, session.epoch);
        let node = self.nodes.get_mut(&leader).expect("known");
        let (start, end) = (node.log.start, node.log.end());
        let broker_epoch = node.broker_epoch();
        let Some(replica) = node.leader().filter(|replica| replica.leader_epoch() == epoch) else { return Ok(()) };
        if broker_epoch != Some(process) {
            return Ok(());
        }
        if session.wants_continuation {
            if replica.may_begin_anew(session.follower, Offset(start)) {
                session.wants_continuation = false;
                let mut epochs = node.log.epochs.clone();
                epochs.truncate_to(Offset(start));
                session.down.push_back(Down::Continuation { at: start, epochs });
            }
            return Ok(());
        }
        let Some(next) = session.next else { return Ok(()) };
        if next < start {
            self.begin_again(id);
            return Ok(());
        }
        let count = most.min(end - next);
        let records = (0..count).filter_map(|at| node.log.get(next + at)).collect();
        let progress = self.progress(leader);
        let session = self.sessions.get_mut(&id).expect("just seen");
        if count <= 0 {
            session.down.push_back(Down::Advance(progress));
            return Ok(());
        }
        session.next = Some(next + count);
        session.down.push_back(Down::Records { base: next, records, progress });
        Ok(())
    }
}

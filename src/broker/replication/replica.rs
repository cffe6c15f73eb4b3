//! One partition of this broker among its replicas: whether it leads, follows or is the only one, and what that asks of its log.
//!
//! The part follows from the newest image ([`Replica::settle`]); what happens to the log comes from the log itself, which is
//! observed; what peers say comes from `link` and `intake`. The machines of `crate::replication` decide, and here their actions are
//! carried out, in order, under the lock of the replica. Locks are taken in this order: replica, link, log; an observer is called without
//! the log's. Nothing is kept over a crash but by the log.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use super::intake::Outbox;
use super::leading::{Leading, Read};
use crate::broker::error::PartitionError;
use crate::broker::partitions::LocalTopic;
use crate::log::{AppendError, Continuation, Level, LogObserver, PartitionLog, ReplicaRun, Wait};
use crate::metadata::image::{Image, Partition};
use crate::replication::divergence::History;
use crate::replication::follower::{Action, BatchPlace, Event, FollowerReplica, Local, Refusal};
use crate::replication::leader;
use crate::replication::message::{FollowerSays, LeaderSays, Message};
use crate::replication::window::Turn;
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, TopicPartition};

/// See the module.
pub(in crate::broker) struct Replica {
    this: Weak<Self>,
    shared: Arc<Shared>,
    topic: Arc<LocalTopic>,
    id: TopicPartition,
    log: Arc<PartitionLog>,
    state: Mutex<State>,
    /// A follower may have deleted what this broker has, or counts no more, or this broker leads no more.
    deletions: Notify,
}

struct State {
    /// The newest image that was looked at.
    version: u64,
    /// How often it began to follow.
    followed: u64,
    role: Role,
}

enum Role {
    /// No image was seen yet, or the newest has no replica here.
    Idle,
    /// It is the only replica, and leads in an epoch, if it does.
    Alone(Option<LeaderEpoch>),
    Leading(Box<Leading>),
    Following(Box<Following>),
}

struct Following {
    /// Which time it is that it began to follow.
    number: u64,
    machine: FollowerReplica,
    /// The session in which its leader is told.
    reply: Option<Arc<Outbox>>,
    /// What it was told is deleted here.
    log_start: Offset,
}

/// What comes with an event of a follower and is not for its machine.
#[derive(Default)]
struct Attached<'a> {
    session: Option<&'a Arc<Outbox>>,
    run: Option<ReplicaRun>,
    continuation: Option<Bytes>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({})", self.id)
    }
}

impl Replica {
    /// Of a log that was just opened. It has no part before [`Self::settle`].
    pub(super) fn new(shared: &Arc<Shared>, topic: &Arc<LocalTopic>, log: &Arc<PartitionLog>) -> Arc<Self> {
        let replica = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            shared: Arc::clone(shared),
            topic: Arc::clone(topic),
            id: log.partition(),
            log: Arc::clone(log),
            state: Mutex::new(State { version: 0, followed: 0, role: Role::Idle }),
            deletions: Notify::new(),
        });
        let observer: Weak<dyn LogObserver> = Weak::clone(&replica.this) as _;
        log.observe(Some(observer));
        replica
    }

    /// The partition.
    pub(super) const fn id(&self) -> TopicPartition {
        self.id
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) const fn log(&self) -> &Arc<PartitionLog> {
        &self.log
    }

    /// The replica, for what goes on by itself.
    pub(super) fn shared_self(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// The epoch in which this process leads it.
    pub(in crate::broker) fn led_in(&self) -> Option<LeaderEpoch> {
        match &self.state.lock().role {
            Role::Alone(epoch) => *epoch,
            Role::Leading(leading) => Some(leading.epoch()),
            Role::Idle | Role::Following(_) => None,
        }
    }

    /// The epoch in which it follows, if its log is known to be a part of the leader's.
    pub(in crate::broker) fn followed_in(&self) -> Option<LeaderEpoch> {
        match &self.state.lock().role {
            Role::Following(following) => following.machine.is_following().then(|| following.machine.leader_epoch()),
            _ => None,
        }
    }

    /// Of one that is led and has other replicas: how many are in sync, and how many have to be for producers that want all.
    pub(in crate::broker) fn in_sync(&self) -> Option<(usize, usize)> {
        match &self.state.lock().role {
            Role::Leading(leading) => Some(leading.in_sync()),
            _ => None,
        }
    }

    /// Whether it is led here, and fewer replicas are in sync than it has.
    pub(super) fn is_under_replicated(&self) -> bool {
        match &self.state.lock().role {
            Role::Leading(leading) => leading.is_under_replicated(),
            _ => false,
        }
    }

    /// Takes the part that an image gives it, unless a newer one was seen.
    ///
    /// # Errors
    /// [`PartitionError`]: the log can't take it yet, as when it is being cut, or not at all.
    pub(in crate::broker) fn settle(&self, image: &Image) -> Result<(), PartitionError> {
        let mut state = self.state.lock();
        if image.version() < state.version {
            return Ok(());
        }
        state.version = image.version();
        let node_id = self.shared.node_id;
        let Some(partition) = image.partition(self.id).filter(|it| it.replica_on(node_id).is_some()) else {
            self.step_down(&mut state);
            return Ok(());
        };
        let is_own = image.broker(node_id).is_some_and(|broker| broker.epoch == self.shared.broker_epoch);
        if is_own && partition.leader == Some(node_id) {
            self.settle_as_leader(&mut state, image, partition)
        } else {
            self.settle_as_follower(&mut state, partition)
        }
    }

    fn step_down(&self, state: &mut State) {
        if let Role::Leading(leading) = std::mem::replace(&mut state.role, Role::Idle) {
            leading.leave(self.id);
            self.deletions.notify_waiters();
        }
    }

    fn settle_as_leader(&self, state: &mut State, image: &Image, partition: &Partition) -> Result<(), PartitionError> {
        let epoch = partition.leader_epoch;
        if partition.replicas.len() == 1 {
            if !matches!(state.role, Role::Alone(Some(led)) if led == epoch) {
                self.log.begin_epoch(epoch)?;
                self.step_down(state);
                self.log.set_alone(true);
                state.role = Role::Alone(Some(epoch));
            }
            return Ok(());
        }
        let min_in_sync = usize::try_from(self.topic.rules().config.min_insync_replicas).unwrap_or(usize::MAX);
        let assignment = super::leading::assignment(image, partition, min_in_sync);
        match &mut state.role {
            Role::Leading(leading) if leading.epoch() == epoch => {
                leading.assigned(self, assignment);
                self.deletions.notify_waiters();
            }
            _ => {
                self.log.set_alone(false);
                self.log.begin_epoch(epoch)?;
                self.step_down(state);
                state.role = Role::Leading(Box::new(Leading::begin(self, epoch, assignment)));
            }
        }
        Ok(())
    }

    fn settle_as_follower(&self, state: &mut State, partition: &Partition) -> Result<(), PartitionError> {
        let (leader, leader_epoch) = (partition.leader, partition.leader_epoch);
        let is_only = partition.replicas.len() == 1;
        match &mut state.role {
            Role::Alone(led) if is_only => *led = None,
            Role::Idle if is_only => {
                self.log.set_alone(true);
                state.role = Role::Alone(None);
            }
            Role::Following(following) => {
                let actions = following.machine.handle(Event::Image { leader, leader_epoch });
                self.perform(following, actions, Attached::default());
            }
            _ => {
                self.log.begin_replicated(None);
                self.log.follow_epoch(leader_epoch)?;
                self.step_down(state);
                state.followed += 1;
                let machine = FollowerReplica::new(leader, leader_epoch, &self.local());
                let following = Following { number: state.followed, machine, reply: None, log_start: Offset::ZERO };
                state.role = Role::Following(Box::new(following));
            }
        }
        Ok(())
    }

    fn local(&self) -> Local {
        let (epochs, offsets) = (self.log.epochs(), self.log.offsets());
        let history = History { epochs, local_log_start: offsets.local_log_start, log_end: offsets.log_end };
        Local { history, durable: offsets.durable, high_watermark: offsets.high_watermark }
    }

    /// Does something with what it leads by, if it leads in an epoch.
    pub(super) fn lead<T>(&self, epoch: Option<LeaderEpoch>, act: impl FnOnce(&mut Leading) -> T) -> Option<T> {
        match &mut self.state.lock().role {
            Role::Leading(leading) if epoch.is_none_or(|epoch| leading.epoch() == epoch) => Some(act(leading)),
            _ => None,
        }
    }

    /// A follower, of the process that the session is with, has everything below an offset on stable storage, but for what it has
    /// deleted.
    pub(super) fn acknowledged(
        &self,
        follower: NodeId,
        process: BrokerEpoch,
        epoch: LeaderEpoch,
        durable: Offset,
        log_start: Offset,
    ) {
        // Another epoch's word is about another log.
        self.lead(Some(epoch), |leading| leading.acknowledged(self, follower, process, durable, log_start));
        self.deletions.notify_waiters();
    }

    /// Waits until nobody who may lead next has records below an offset that is deleted here; false if this broker leads no more in the
    /// epoch before that is known.
    pub(in crate::broker) async fn deleted_below(&self, epoch: LeaderEpoch, offset: Offset) -> bool {
        loop {
            let changed = self.deletions.notified();
            let is_deleted = match &self.state.lock().role {
                Role::Alone(led) if *led == Some(epoch) => Some(true),
                Role::Leading(leading) if leading.epoch() == epoch => Some(leading.is_deleted_below(offset)),
                _ => None,
            };
            match is_deleted {
                Some(false) => changed.await,
                known => return known.is_some(),
            }
        }
    }

    /// The session with a follower is over.
    pub(super) fn disconnected(&self, follower: NodeId) {
        self.lead(None, |leading| leading.handle(self, leader::Event::Disconnected(follower)));
    }

    /// Time has passed.
    pub(super) fn tick(&self) {
        self.lead(None, |leading| leading.tick(self));
    }

    /// What a leader says when it begins a session.
    pub(super) fn introduction(&self) -> Option<Message<LeaderSays>> {
        self.lead(None, |leading| {
            let Local { history, .. } = self.local();
            let (partition, leader_epoch) = (self.id, leading.epoch());
            Message { partition, leader_epoch, says: LeaderSays::Lead(history.newest()) }
        })
    }

    /// What a follower asked for that has nothing to go on from, if it may have that.
    pub(super) fn continuation(&self, follower: NodeId) -> Option<Message<LeaderSays>> {
        self.lead(None, |leading| leading.continuation(self, follower)).flatten()
    }

    /// What is next for a follower.
    pub(super) fn read(&self, turn: Turn) -> Read {
        self.lead(None, |leading| leading.read(self, turn)).unwrap_or(Read::NotLed)
    }

    /// How far the leader is.
    pub(super) fn progress(&self) -> Option<Message<LeaderSays>> {
        self.lead(None, |leading| {
            let says = LeaderSays::Advance(leading.progress(self));
            Message { partition: self.id, leader_epoch: leading.epoch(), says }
        })
    }

    /// Takes what a leader says. Gives it back where it says more than the newest image that was seen here.
    pub(super) fn hear(
        &self,
        from: NodeId,
        message: Message<LeaderSays>,
        session: &Arc<Outbox>,
    ) -> Result<(), Message<LeaderSays>> {
        // Checksums take their time, in which the journal may tell of what it has written.
        let run = match &message.says {
            LeaderSays::Records { batches, .. } => Some(ReplicaRun::new(batches.first().cloned().unwrap_or_default())),
            _ => None,
        };
        let mut state = self.state.lock();
        let Role::Following(following) = &mut state.role else {
            return self.hear_unprepared(&state.role, message, session);
        };
        let leader_epoch = message.leader_epoch;
        let is_other = following.machine.leader().is_some_and(|leader| leader != from);
        if leader_epoch == following.machine.leader_epoch() && is_other {
            self.refuse(session, Refusal::NotLeader, leader_epoch);
            return Ok(());
        }
        let attached = Attached { session: Some(session), ..Attached::default() };
        match message.says {
            LeaderSays::Lead(leader) => {
                if following.machine.leader_epoch() <= leader_epoch {
                    following.reply = Some(Arc::clone(session));
                }
                let local = self.local();
                let actions = following.machine.handle(Event::Lead { from, leader_epoch, leader, local });
                self.perform(following, actions, attached);
            }
            LeaderSays::Continuation(continuation) => {
                let actions = following.machine.handle(Event::Continuation { leader_epoch });
                self.perform(following, actions, Attached { continuation: Some(continuation), ..attached });
            }
            LeaderSays::Records { progress, .. } => match run.expect("made of records") {
                Ok(run) => {
                    let batches = run.batches().iter().map(|batch| BatchPlace {
                        base_offset: batch.header().base_offset,
                        next_offset: batch.header().next_offset(),
                        leader_epoch: batch.header().leader_epoch,
                    });
                    let batches = batches.collect();
                    let actions = following.machine.handle(Event::Records { leader_epoch, batches, progress });
                    self.perform(following, actions, Attached { run: Some(run), ..attached });
                }
                Err(error) => {
                    tracing::error!(%error, partition = %self.id, leader = %from, "records of the leader came damaged, and are asked for again");
                    self.refuse(session, Refusal::OutOfOrder, leader_epoch);
                }
            },
            LeaderSays::Advance(progress) => {
                let actions = following.machine.handle(Event::Advance { leader_epoch, progress });
                self.perform(following, actions, attached);
            }
        }
        Ok(())
    }

    /// It does not follow, as far as it knows.
    fn hear_unprepared(
        &self,
        role: &Role,
        message: Message<LeaderSays>,
        session: &Outbox,
    ) -> Result<(), Message<LeaderSays>> {
        let known = match role {
            Role::Leading(leading) => leading.epoch(),
            Role::Alone(Some(epoch)) => *epoch,
            _ => LeaderEpoch::NONE,
        };
        if message.leader_epoch <= known {
            self.refuse(session, Refusal::Stale, known);
        } else if matches!(message.says, LeaderSays::Lead(_)) {
            return Err(message);
        } else {
            self.refuse(session, Refusal::Unprepared, message.leader_epoch);
        }
        Ok(())
    }

    fn refuse(&self, session: &Outbox, why: Refusal, leader_epoch: LeaderEpoch) {
        let says = FollowerSays::Refused { why, log_end: self.log.offsets().log_end };
        session.say(Message { partition: self.id, leader_epoch, says });
    }

    fn perform(&self, following: &mut Following, actions: Vec<Action>, attached: Attached<'_>) {
        let Attached { session, mut run, mut continuation } = attached;
        for action in actions {
            match action {
                Action::Follow(epoch) => {
                    if let Err(error) = self.log.follow_epoch(epoch) {
                        tracing::error!(%error, partition = %self.id, "the log can't follow its leader");
                    }
                }
                Action::SendState(state) => {
                    following.log_start = self.log.offsets().log_start;
                    let says = FollowerSays::State { state, log_start: following.log_start };
                    self.tell_leader(following, state.leader_epoch, says);
                }
                Action::Truncate { to, loses_committed } => self.cut(following, to, loses_committed),
                Action::Reset { loses_committed } => self.begin_anew(following, continuation.take(), loses_committed),
                Action::Append { skip } => {
                    let run = run.take().expect("records are appended once").behind(skip);
                    self.append(following, &run);
                }
                Action::Commit(offset) => {
                    self.log.commit(offset);
                }
                Action::AdvanceLogStart(offset) => {
                    // Nobody loses by what stays a while; an offline directory says so itself.
                    let _ = self.log.advance_log_start(offset);
                }
                Action::AdvanceArchived(offset) => self.log.archived_elsewhere(offset),
                Action::SendDurable { leader_epoch, durable } => {
                    following.log_start = self.log.offsets().log_start;
                    if let Some(reply) = &following.reply {
                        reply.durable(self.id, leader_epoch, durable, following.log_start);
                    }
                }
                Action::Refuse { why, leader_epoch, log_end } => {
                    if let Some(session) = session {
                        let says = FollowerSays::Refused { why, log_end };
                        session.say(Message { partition: self.id, leader_epoch, says });
                    }
                }
            }
        }
    }

    fn tell_leader(&self, following: &Following, leader_epoch: LeaderEpoch, says: FollowerSays) {
        if let Some(reply) = &following.reply {
            reply.say(Message { partition: self.id, leader_epoch, says });
        }
    }

    /// Tells the leader that more is deleted here, where nothing else tells it.
    fn tell_deleted(&self, following: &mut Following) {
        let (log_start, machine) = (self.log.offsets().log_start, &following.machine);
        if log_start > following.log_start && machine.is_following() {
            following.log_start = log_start;
            if let Some(reply) = &following.reply {
                reply.durable(self.id, machine.leader_epoch(), machine.durable(), log_start);
            }
        }
    }

    /// Without a share of the directory's budget: windows bound what leaders may have under way to this broker.
    fn append(&self, following: &mut Following, run: &ReplicaRun) {
        let epoch = following.machine.leader_epoch();
        match self.log.append_replica(run, epoch, self.shared.runtime.clock.wall(), None) {
            Ok(_) => {
                let bytes: usize = run.batches().iter().map(|batch| batch.bytes().len()).sum();
                self.shared.metrics.replication.received_bytes.inc_by(bytes as u64);
            }
            Err(error) => {
                tracing::debug!(%error, partition = %self.id, "records of the leader were not taken");
                let actions = following.machine.handle(Event::NotAppended(self.local()));
                // They only tell the leader.
                let reply = following.reply.clone();
                self.perform(following, actions, Attached { session: reply.as_ref(), ..Attached::default() });
            }
        }
    }

    fn cut(&self, following: &Following, to: Offset, loses_committed: bool) {
        if loses_committed {
            self.complain_of_loss();
        }
        match self.log.truncate_to(to) {
            Ok(()) => self.settle_later(following, None),
            Err(error) => tracing::warn!(%error, partition = %self.id, "the log can't be cut"),
        }
    }

    fn begin_anew(&self, following: &Following, continuation: Option<Bytes>, loses_committed: bool) {
        if loses_committed {
            self.complain_of_loss();
        }
        let continuation = continuation.as_deref().and_then(Continuation::decode);
        match &continuation {
            Some(continuation) => {
                let at = continuation.at;
                tracing::info!(partition = %self.id, %at, "the replica begins where the leader's local log does");
            }
            None => {
                tracing::error!(partition = %self.id, "what the leader gave to begin with can't be read, and is asked for again");
            }
        }
        self.settle_later(following, continuation);
    }

    fn complain_of_loss(&self) {
        tracing::error!(partition = %self.id, "records that were acknowledged are given up, as the leader does not have them: its election was unclean");
    }

    /// Has the machine told once the log is cut, or goes on elsewhere.
    fn settle_later(&self, following: &Following, continuation: Option<Continuation>) {
        let Some(replica) = self.shared_self() else { return };
        let number = following.number;
        self.shared.spawn(async move {
            if let Some(continuation) = continuation
                && let Err(error) = replica.continue_at(continuation).await
            {
                tracing::warn!(%error, partition = %replica.id, "the replica can't begin anew");
            }
            if reached(replica.log.when_whole()).await {
                replica.settled(number);
            }
        });
    }

    async fn continue_at(&self, continuation: Continuation) -> Result<(), AppendError> {
        loop {
            // What fails here is told by the log below.
            reached(self.log.when_whole()).await;
            reached(self.log.when(Level::Durable, self.log.offsets().log_end)).await;
            match self.log.continue_at(continuation.clone()) {
                Err(AppendError::Truncating) => {}
                done => return done,
            }
        }
    }

    fn settled(&self, number: u64) {
        {
            let mut state = self.state.lock();
            // It may have led meanwhile, or be gone.
            let Role::Following(following) = &mut state.role else { return };
            if following.number != number {
                return;
            }
            let actions = following.machine.handle(Event::Settled(self.local()));
            self.perform(following, actions, Attached::default());
        }
        // It could not lead before.
        self.observe_image();
    }

    /// Takes the part that the newest image gives it, as far as it can.
    pub(super) fn observe_image(&self) {
        if let Err(error) = self.settle(&self.shared.metadata.image()) {
            tracing::debug!(%error, partition = %self.id, "the log does not take its part yet");
        }
    }
}

/// Waits for it; false if it never comes.
async fn reached(wait: Wait) -> bool {
    match wait {
        Wait::Ready => true,
        Wait::Pending(reached) => reached.await.is_ok(),
    }
}

impl LogObserver for Replica {
    fn appended(&self, _partition: TopicPartition, log_end: Offset) {
        self.lead(None, |leading| leading.appended(self, log_end));
    }

    fn durable(&self, _partition: TopicPartition, durable: Offset) {
        let mut state = self.state.lock();
        match &mut state.role {
            Role::Leading(leading) => leading.durable(self, durable),
            Role::Following(following) => {
                let actions = following.machine.handle(Event::Durable(durable));
                self.perform(following, actions, Attached::default());
                self.tell_deleted(following);
            }
            Role::Idle | Role::Alone(_) => {}
        }
    }

    fn unavailable(&self, _partition: TopicPartition) {
        let mut state = self.state.lock();
        self.step_down(&mut state);
    }
}

//! The coordinator of one partition of `__consumer_offsets`, as a machine. Pure.
//!
//! ```text
//!            Load, Replay…, Loaded             append failed, outcome unknown
//!   Loading ─────────────────────▶ Active ─────────────────────────────────▶ Loading
//!      │                             │ Resign, or the log is another broker's
//!      └──── a record can't be read ─┴─────▶ Ended
//! ```
//! The durable part of its state ([`LoggedState`]) changes only by records that are durable, so it equals what a replay of
//! the log yields at that moment. Requests are checked against it and against the groups' machines, and turn into records
//! and replies that wait for them in one order (`outbox`). When an append fails, nobody can say what the log holds: all
//! that waits is refused, the state is dropped, and the log is read again, once it is settled what it holds: what was appended
//! in vain may be committed later. Clients find the coordinator again and repeat.
//! A log of which something is gone is not read again: who leads it, or an operator, has to do something about it.
//!
//! Transactional offset commits (KIP-447) will need a third part: offsets that are in the log and not decided yet, which
//! fetches report as unstable and which rewriting must carry along.

mod outbox;
mod requests;
mod rewrite;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use self::outbox::{Entry, Outbox};
pub(super) use self::requests::check_form;
use self::rewrite::Rewrite;
use self::state::LoggedState;
use super::classic::{self, Assignments, ClassicGroup};
use super::records::{Key, LogRecord, StoredGroup};
use super::request::{JoinRefused, Reply, Request, Token};
use super::timers::{Now, Timers};
use super::{FormatError, GroupError, GroupSettings, OffsetsLogError};
use crate::types::{Monotonic, Offset};

/// What can happen to a coordinator.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks.
    Request {
        /// Names the asker in the reply.
        token: Token,
        /// What is asked.
        request: Request,
    },
    /// The next records of the log, read after [`Action::Load`].
    Replay {
        /// The records, in order.
        records: Vec<LogRecord>,
        /// Bytes that they take in the log.
        bytes: u64,
    },
    /// The log has been read to its end, which is `next_offset`.
    Loaded {
        /// Where the next record goes.
        next_offset: Offset,
    },
    /// The log can't be read.
    LoadFailed {
        /// Why, and whether it may be later.
        error: OffsetsLogError,
    },
    /// The append under way is durable.
    Appended {
        /// Where its first record went.
        base_offset: Offset,
        /// Bytes that it takes in the log.
        bytes: u64,
    },
    /// The append under way failed, or nobody knows. What the log does not hold once it is read again, it never will.
    AppendFailed {
        /// Why, and whether the next one may succeed.
        error: OffsetsLogError,
    },
    /// The log was asked to start at this offset, and does now, or refused.
    LogStartAdvanced {
        /// The offset asked for.
        offset: Offset,
    },
    /// Another broker leads the partition, or this one in another epoch, or it stops.
    Resign,
    /// A deadline may have passed.
    Timeout,
}

/// What a coordinator wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer a request.
    Reply(Token, Reply),
    /// Append the records as one batch, and report. No other append is under way.
    Append(Vec<LogRecord>),
    /// Read the log from its start, and report.
    Load,
    /// Drop the log before this offset, and report.
    AdvanceLogStart(Offset),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    /// For good, with what every request is refused with.
    Ended(GroupError),
}

/// Why a coordinator has not loaded its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    /// What the log, or a record in it, says.
    pub error: String,
    /// It will not be tried again.
    pub is_final: bool,
}

/// What the coordinator waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Read the log (again).
    Load,
    /// Look for expired offsets.
    Expiry,
    /// A group has a deadline.
    Group(Arc<str>),
}

/// Sizes of a coordinator and what it has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoordinatorStats {
    /// Groups, with or without members.
    pub groups: usize,
    /// Members of all groups.
    pub members: usize,
    /// Committed offsets of all groups.
    pub offsets: usize,
    /// Bytes of memory taken by groups and offsets, roughly.
    pub state_bytes: usize,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Rebalances that ended with every member assigned, ever.
    pub rebalances: u64,
    /// Members expelled for silence, ever.
    pub expired_members: u64,
    /// Offsets committed, ever.
    pub committed_offsets: u64,
    /// 1 while its log can't be read.
    pub failed: usize,
}

/// The coordinator of one partition.
#[derive(Debug)]
pub struct Coordinator {
    settings: Arc<GroupSettings>,
    /// Bytes of memory that its groups and offsets may take.
    max_state_bytes: usize,
    phase: Phase,
    /// What became of the last attempt to load, if it failed.
    failure: Option<LoadFailure>,
    /// What the log says.
    logged: LoggedState,
    /// A machine for every group in the log, and for those that are about to be.
    groups: BTreeMap<Arc<str>, ClassicGroup>,
    groups_bytes: usize,
    members: usize,
    counts: classic::Counts,
    committed_offsets: u64,
    outbox: Outbox,
    rewrite: Rewrite,
    /// Where the next append goes.
    next_offset: Offset,
    /// Offsets may have expired since the last look.
    expiry_due: bool,
    timers: Timers<Timer>,
    actions: Vec<Action>,
}

impl Coordinator {
    /// A coordinator that will read its log at the first [`Event::Timeout`].
    pub fn new(settings: Arc<GroupSettings>, now: Now) -> Self {
        let mut timers = Timers::new();
        timers.set(Timer::Load, now.monotonic);
        Self {
            max_state_bytes: settings.max_state_bytes,
            settings,
            phase: Phase::Loading,
            failure: None,
            logged: LoggedState::default(),
            groups: BTreeMap::new(),
            groups_bytes: 0,
            members: 0,
            counts: classic::Counts::default(),
            committed_offsets: 0,
            outbox: Outbox::default(),
            rewrite: Rewrite::new(0),
            next_offset: Offset::ZERO,
            expiry_due: false,
            timers,
            actions: Vec::new(),
        }
    }

    /// Sets what others have left of the memory that its groups and offsets may take.
    pub const fn limit_state(&mut self, bytes: usize) {
        self.max_state_bytes = bytes;
    }

    /// Handles one event and returns what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        match event {
            Event::Request { token, request } => self.request(now, token, request),
            Event::Replay { records, bytes } => self.replay(&records, bytes),
            Event::Loaded { next_offset } => self.loaded(now, next_offset),
            Event::LoadFailed { error } => self.load_failed(now, &error),
            Event::Appended { base_offset, bytes } => self.appended(now, base_offset, bytes),
            Event::AppendFailed { error: OffsetsLogError::NotLeader } => self.end(),
            Event::AppendFailed { error } => {
                tracing::warn!(%error, "append to the offsets log failed; the coordinator reads it again");
                self.give_up(GroupError::CoordinatorNotAvailable);
                self.reload(now);
            }
            Event::LogStartAdvanced { offset } => self.rewrite.advanced(offset),
            Event::Resign => self.end(),
            Event::Timeout => self.timeout(now),
        }
        if self.phase == Phase::Active {
            self.pump(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// The next instant at which [`Event::Timeout`] is due.
    pub fn next_timeout(&self) -> Option<Monotonic> {
        self.timers.next_timeout()
    }

    /// False while so much waits for the log that further requests should wait in their queue.
    pub fn accepts_requests(&self) -> bool {
        self.outbox.queued_bytes() < self.settings.max_queued_bytes
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> CoordinatorStats {
        CoordinatorStats {
            groups: self.groups.len(),
            members: self.members,
            offsets: self.logged.offsets(),
            state_bytes: self.state_bytes(),
            log_bytes: self.rewrite.log_bytes(),
            rebalances: self.counts.rebalances,
            expired_members: self.counts.expired_members,
            committed_offsets: self.committed_offsets,
            failed: usize::from(self.failure.is_some()),
        }
    }

    /// Why the log has not been loaded, if the last attempt failed.
    pub const fn failure(&self) -> Option<&LoadFailure> {
        self.failure.as_ref()
    }

    const fn state_bytes(&self) -> usize {
        self.logged.memory_bytes() + self.groups_bytes
    }

    fn is_full(&self) -> bool {
        self.state_bytes() >= self.max_state_bytes
    }

    fn replay(&mut self, records: &[LogRecord], bytes: u64) {
        if self.phase != Phase::Loading {
            return;
        }
        self.rewrite.appended(bytes);
        for record in records {
            if let Err(error) = self.logged.apply(record) {
                return self.fail_load(unknown_place(&error));
            }
        }
    }

    fn loaded(&mut self, now: Now, next_offset: Offset) {
        if self.phase != Phase::Loading {
            return;
        }
        for (group_id, logged) in &self.logged.groups {
            let group = match &logged.stored {
                Some(value) => StoredGroup::decode(value).and_then(|stored| {
                    ClassicGroup::from_stored(Arc::clone(group_id), Arc::clone(&self.settings), now, stored)
                }),
                None => Ok(ClassicGroup::new(Arc::clone(group_id), Arc::clone(&self.settings), now)),
            };
            match group {
                Ok(group) => {
                    self.groups_bytes += group.bytes();
                    self.members += group.member_count();
                    if let Some(deadline) = group.next_timeout() {
                        self.timers.set(Timer::Group(Arc::clone(group_id)), deadline);
                    }
                    self.groups.insert(Arc::clone(group_id), group);
                }
                Err(error) => return self.fail_load(unknown_place(&error)),
            }
        }
        self.next_offset = next_offset;
        self.timers.set(Timer::Expiry, now.monotonic + self.settings.offsets_retention_check_interval);
        self.phase = Phase::Active;
        self.failure = None;
        tracing::debug!(groups = self.groups.len(), log_bytes = self.rewrite.log_bytes(), "coordinator is active");
    }

    fn load_failed(&mut self, now: Now, error: &OffsetsLogError) {
        if self.phase != Phase::Loading {
            return;
        }
        match error {
            OffsetsLogError::NotLeader => self.end(),
            OffsetsLogError::Damaged { .. } => self.fail_load(error.to_string()),
            OffsetsLogError::Unavailable { .. } => {
                self.failure = Some(LoadFailure { error: error.to_string(), is_final: false });
                self.reload(now);
            }
        }
    }

    /// Another broker coordinates the groups, or nobody: whoever asks is to find out.
    fn end(&mut self) {
        self.phase = Phase::Ended(GroupError::NotCoordinator);
        self.failure = None;
        self.give_up(GroupError::NotCoordinator);
    }

    /// A record that can't be read was written by a newer broker, or is corrupt past its checksum, and one that is missing may
    /// come back: to go on without it would lose it for good at the next rewriting. Refused is as by Apache Kafka.
    fn fail_load(&mut self, error: String) {
        self.failure = Some(LoadFailure { error, is_final: true });
        self.phase = Phase::Ended(GroupError::NotCoordinator);
        self.give_up(GroupError::NotCoordinator);
    }

    fn reload(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Ended(_)) {
            self.phase = Phase::Loading;
            self.clear();
            self.timers.set(Timer::Load, now.monotonic + self.settings.reload_backoff);
        }
    }

    /// Refuses all that waits, and forgets everything.
    fn give_up(&mut self, error: GroupError) {
        for entry in self.outbox.abandon() {
            match entry {
                Entry::Reply(token, reply) => self.actions.push(Action::Reply(token, refused(reply, error))),
                Entry::DeleteTopics(token, _) => {
                    self.actions.push(Action::Reply(token, Reply::TopicsDeleted(Err(error))));
                }
                // Consumers before 3.9 end where COORDINATOR_NOT_AVAILABLE answers this.
                Entry::Fetch(token, _) => {
                    let refused = Reply::OffsetFetch(Err(GroupError::NotCoordinator));
                    self.actions.push(Action::Reply(token, refused));
                }
                Entry::Write { .. } => {}
            }
        }
        let mut actions = Vec::new();
        for group in self.groups.values_mut() {
            group.abandon(error, &mut actions);
        }
        self.actions.extend(actions.into_iter().filter_map(|action| match action {
            classic::Action::Reply(token, reply) => Some(Action::Reply(token, reply)),
            classic::Action::Store { .. } => None,
        }));
        self.clear();
    }

    fn clear(&mut self) {
        self.logged = LoggedState::default();
        self.groups.clear();
        self.groups_bytes = 0;
        self.members = 0;
        self.rewrite = Rewrite::new(0);
        self.expiry_due = false;
        self.timers = Timers::new();
    }

    fn timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_expired(now.monotonic) {
            match timer {
                Timer::Load => {
                    self.clear();
                    self.actions.push(Action::Load);
                }
                Timer::Expiry => {
                    self.expiry_due = true;
                    self.timers.set(Timer::Expiry, now.monotonic + self.settings.offsets_retention_check_interval);
                }
                Timer::Group(group_id) => self.handle_group(now, &group_id, classic::Event::Timeout),
            }
        }
    }

    fn appended(&mut self, now: Now, base_offset: Offset, bytes: u64) {
        if self.phase != Phase::Active || !self.outbox.is_appending() {
            return;
        }
        self.next_offset = base_offset;
        self.rewrite.appended(bytes);
        for entry in self.outbox.finish() {
            match entry {
                Entry::Write { records, then } => {
                    self.next_offset = self.next_offset + i64::try_from(records.len()).unwrap_or(i64::MAX);
                    for record in &records {
                        self.apply(now, record);
                    }
                    if let Some((group_id, assignments)) = then {
                        self.handle_group(now, &group_id, classic::Event::Stored(assignments));
                    }
                }
                settled => self.settle(settled),
            }
        }
    }

    /// Applies a record that this coordinator wrote.
    fn apply(&mut self, now: Now, record: &LogRecord) {
        self.logged.apply(record).expect("what this coordinator encoded can be decoded");
        let Ok(Key::Offset { group, .. } | Key::Group { group }) = Key::decode(&record.key) else { return };
        if self.logged.groups.contains_key(&group) {
            self.ensure_group(now, &group);
        } else {
            self.drop_if_unused(&group);
        }
    }

    /// Does what waited for durable records and for nothing else.
    fn settle(&mut self, entry: Entry) {
        match entry {
            Entry::Reply(token, reply) => {
                if let Reply::OffsetCommit(Ok(topics)) = &reply {
                    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
                    self.committed_offsets += partitions.filter(|(_, error)| error.is_none()).count() as u64;
                }
                self.actions.push(Action::Reply(token, reply));
            }
            Entry::Fetch(token, fetch) => {
                let reply = Reply::OffsetFetch(Ok(self.fetch(&fetch)));
                self.actions.push(Action::Reply(token, reply));
            }
            Entry::DeleteTopics(token, topics) => self.delete_topics(token, &topics),
            Entry::Write { .. } => unreachable!("records are settled by their append"),
        }
    }

    /// Starts the next append, if none is under way and there is something to append.
    fn pump(&mut self, now: Now) {
        if self.outbox.is_appending() {
            return;
        }
        while let Some(ready) = self.outbox.pop_ready() {
            self.settle(ready);
        }
        if let Some(boundary) = self.rewrite.take_boundary() {
            self.actions.push(Action::AdvanceLogStart(boundary));
        }
        // Both look at what is durable, so their records go before whatever waits.
        let mut first = self.rewrite.step(&self.logged, &self.settings, self.next_offset);
        if first.is_empty() {
            first = self.expired_offsets(now);
        }
        let records = self.outbox.start(first, self.settings.max_batch_bytes);
        if !records.is_empty() {
            self.actions.push(Action::Append(records));
        } else if let Some(boundary) = self.rewrite.take_boundary() {
            // Nothing was live, so nothing had to be appended again.
            self.actions.push(Action::AdvanceLogStart(boundary));
        }
    }

    fn ensure_group(&mut self, now: Now, group_id: &Arc<str>) {
        if !self.groups.contains_key(group_id) {
            let group = ClassicGroup::new(Arc::clone(group_id), Arc::clone(&self.settings), now);
            self.groups_bytes += group.bytes();
            self.groups.insert(Arc::clone(group_id), group);
        }
    }

    /// Drops the machine of a group that the log does not know and that nobody is about to join.
    fn drop_if_unused(&mut self, group_id: &Arc<str>) {
        if !self.logged.groups.contains_key(group_id)
            && let Some(group) = self.groups.get(group_id)
            && group.is_idle()
        {
            self.groups_bytes -= group.bytes();
            self.groups.remove(group_id);
            self.timers.cancel(&Timer::Group(Arc::clone(group_id)));
        }
    }

    /// Hands an event to a group's machine, if there is one, and does what it wants.
    fn handle_group(&mut self, now: Now, group_id: &Arc<str>, event: classic::Event) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let mut actions = Vec::new();
        self.groups_bytes -= group.bytes();
        self.members -= group.member_count();
        group.handle(now, event, &mut actions);
        self.groups_bytes += group.bytes();
        self.members += group.member_count();
        let counts = group.take_counts();
        self.counts.rebalances += counts.rebalances;
        self.counts.expired_members += counts.expired_members;
        match group.next_timeout() {
            Some(deadline) => self.timers.set(Timer::Group(Arc::clone(group_id)), deadline),
            None => self.timers.cancel(&Timer::Group(Arc::clone(group_id))),
        }
        let mut stores = false;
        for action in actions {
            match action {
                classic::Action::Store { group, then } => {
                    stores = true;
                    self.store(now, group_id, &group, then);
                }
                classic::Action::Reply(token, reply) if stores => self.outbox.push(Entry::Reply(token, reply)),
                classic::Action::Reply(token, reply) => self.actions.push(Action::Reply(token, reply)),
            }
        }
        self.drop_if_unused(group_id);
    }

    fn store(&mut self, now: Now, group_id: &Arc<str>, group: &StoredGroup, then: Option<Assignments>) {
        let record = LogRecord { key: Key::encode_group(group_id), value: Some(group.encode()) };
        let known_bytes =
            self.logged.groups.get(group_id).and_then(|logged| logged.stored.as_ref()).map_or(0, Bytes::len);
        let grows = record.value.as_ref().map_or(0, Bytes::len) > known_bytes;
        // A group that loses its members is always stored.
        let has_room = then.is_none() || !grows || !self.is_full();
        if record.bytes() <= self.settings.max_batch_bytes && has_room {
            let then = then.map(|assignments| (Arc::clone(group_id), assignments));
            return self.outbox.push(Entry::Write { records: vec![record], then });
        }
        tracing::warn!(group = ?group_id, bytes = record.bytes(), "group is too large to be stored");
        if let Some(assignments) = then {
            self.handle_group(now, group_id, classic::Event::StoreRefused(assignments));
        }
    }
}

/// A record that can't be read may be anywhere in the log.
fn unknown_place(error: &FormatError) -> String {
    format!("{error}; start the release that wrote it, or delete all records (offset -1)")
}

/// Turns a reply that was promised too early into a refusal.
fn refused(reply: Reply, error: GroupError) -> Reply {
    match reply {
        Reply::JoinGroup(Ok(joined)) => Reply::JoinGroup(Err(JoinRefused { error, member_id: joined.member_id })),
        Reply::JoinGroup(Err(_)) | Reply::Heartbeat(_) => reply,
        Reply::SyncGroup(_) => Reply::SyncGroup(Err(error)),
        Reply::LeaveGroup(_) => Reply::LeaveGroup(Err(error)),
        Reply::OffsetCommit(_) => Reply::OffsetCommit(Err(error)),
        Reply::OffsetFetch(_) => Reply::OffsetFetch(Err(error)),
        Reply::OffsetDelete(_) => Reply::OffsetDelete(Err(error)),
        Reply::DeleteGroup(_) => Reply::DeleteGroup(Err(error)),
        Reply::DescribeGroup(_) => Reply::DescribeGroup(Err(error)),
        Reply::ListGroups(_) => Reply::ListGroups(Err(error)),
        Reply::TopicsDeleted(_) => Reply::TopicsDeleted(Err(error)),
        Reply::ReadState(_) => Reply::ReadState(Err(error)),
    }
}

//! The group's tables and the rules that only read them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::member::Member;
use super::{Action, Counts, Event, subscription};
use crate::group::records::StoredGroup;
use crate::group::request::{
    DescribedGroup, GroupState, JoinGroup, JoinRefused, JoinedGroup, ListedGroup, MemberProtocol, OffsetCommit, Reply,
    Token,
};
use crate::group::timers::{Now, Timers};
use crate::group::{FormatError, GroupError, GroupSettings};
use crate::types::{Monotonic, Timestamp};

/// Bytes that a group takes beside its members, roughly.
const GROUP_BYTES: usize = 1024;

/// What a group waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A member, or one that has yet to join with the id it was given, must be heard of.
    Session(Arc<str>),
    /// The members must have joined.
    Join,
    /// The members must have asked for their assignment.
    Sync,
}

/// How the first rebalance of an empty group waits for more members.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitialDelay {
    /// The wait under way.
    pub(super) delay: Duration,
    /// What is left of the rebalance timeout after it.
    pub(super) remaining: Duration,
    /// Somebody joined during the wait, which prolongs it.
    pub(super) joined: bool,
}

/// One classic group.
#[derive(Debug)]
pub(in crate::group) struct ClassicGroup {
    pub(super) group_id: Arc<str>,
    pub(super) settings: Arc<GroupSettings>,
    pub(super) state: GroupState,
    pub(super) state_timestamp: Option<Timestamp>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member ids by group instance id.
    pub(super) static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out and not joined with yet (KIP-394).
    pub(super) pending_joins: BTreeSet<Arc<str>>,
    /// Members of this generation that have not asked for their assignment yet.
    pub(super) pending_syncs: BTreeSet<Arc<str>>,
    /// How many members support a protocol.
    supporters: BTreeMap<Arc<str>, usize>,
    /// Set during a rebalance that began with an empty group.
    pub(super) initial_delay: Option<InitialDelay>,
    subscribed_topics: Option<BTreeSet<Arc<str>>>,
    pub(super) timers: Timers<Timer>,
    pub(super) counts: Counts,
    members_bytes: usize,
}

impl ClassicGroup {
    /// A group without members or protocol type.
    pub(in crate::group) fn new(group_id: Arc<str>, settings: Arc<GroupSettings>, now: Now) -> Self {
        Self {
            group_id,
            settings,
            state: GroupState::Empty,
            state_timestamp: Some(now.wall),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            supporters: BTreeMap::new(),
            initial_delay: None,
            subscribed_topics: None,
            timers: Timers::new(),
            counts: Counts::default(),
            members_bytes: 0,
        }
    }

    /// The group that a record describes: stable with its members, who have a session timeout from `now` to be heard of.
    pub(in crate::group) fn from_stored(
        group_id: Arc<str>,
        settings: Arc<GroupSettings>,
        now: Now,
        stored: StoredGroup,
    ) -> Result<Self, FormatError> {
        let mut group = Self::new(group_id, settings, now);
        group.state_timestamp = stored.state_timestamp;
        group.generation = stored.generation;
        group.protocol_type = Some(stored.protocol_type).filter(|kind| !kind.is_empty());
        group.protocol = stored.protocol;
        for member in stored.members {
            let no_protocol = FormatError::Malformed { what: "group has members and no protocol" };
            let protocol = group.protocol.clone().ok_or(no_protocol)?;
            let member = Member::from_stored(member, &protocol);
            group.schedule_session(now, &member.member_id, member.session_timeout());
            group.insert(member);
            group.state = GroupState::Stable;
        }
        group.leader = stored.leader.filter(|leader| group.members.contains_key(leader));
        group.read_subscriptions();
        Ok(group)
    }

    /// Handles one event; what is to be done is appended to `actions`.
    pub(in crate::group) fn handle(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Join { token, join, member_uuid } => self.join(now, token, join, member_uuid, actions),
            Event::Sync { token, sync } => self.sync(now, token, sync, actions),
            Event::Heartbeat { token, heartbeat } => {
                let result = self.heartbeat(now, &heartbeat);
                actions.push(Action::Reply(token, Reply::Heartbeat(result)));
            }
            Event::Leave { token, leave } => self.leave(now, token, leave, actions),
            Event::Committed { member_id } => self.committed(now, &member_id),
            Event::Stored(assignments) => self.stored_assignments(now, assignments, actions),
            Event::StoreRefused(assignments) => self.refused_assignments(now, assignments, actions),
            Event::Timeout => self.timeout(now, actions),
        }
        self.assert_consistent();
    }

    /// The next instant at which [`Event::Timeout`] is due.
    pub(in crate::group) fn next_timeout(&self) -> Option<Monotonic> {
        self.timers.next_timeout()
    }

    /// Refuses everyone who waits, when the coordinator gives the group up.
    pub(in crate::group) fn abandon(&mut self, error: GroupError, actions: &mut Vec<Action>) {
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_join.take() {
                actions.push(refuse_join(token, error, &member.member_id));
            }
            if let Some(token) = member.awaiting_sync.take() {
                actions.push(Action::Reply(token, Reply::SyncGroup(Err(error))));
            }
        }
    }

    /// The state's name for users.
    pub(in crate::group) const fn state(&self) -> GroupState {
        self.state
    }

    /// No member is here or about to be: nothing is lost when the machine is dropped.
    pub(in crate::group) fn is_idle(&self) -> bool {
        self.state == GroupState::Empty && self.pending_joins.is_empty()
    }

    /// Members of the current generation, or of the one in the making.
    pub(in crate::group) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// What has happened since the last call.
    pub(in crate::group) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Bytes of memory that the group takes, roughly.
    pub(in crate::group) fn bytes(&self) -> usize {
        let pending: usize = self.pending_joins.iter().map(|id| 2 * id.len() + 256).sum();
        GROUP_BYTES + self.group_id.len() + self.members_bytes + pending
    }

    /// Bytes of the member that joins again, by its id or its instance id; 0 when it is new.
    pub(in crate::group) fn bytes_of(&self, join: &JoinGroup) -> usize {
        let instance = join.group_instance_id.as_ref().and_then(|id| self.static_members.get(id));
        self.members.get(instance.unwrap_or(&join.member_id)).map_or(0, Member::bytes)
    }

    pub(in crate::group) fn listed(&self) -> ListedGroup {
        ListedGroup {
            group_id: Arc::clone(&self.group_id),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state,
        }
    }

    pub(in crate::group) fn described(&self) -> DescribedGroup {
        let protocol = self.protocol.clone().filter(|_| self.state == GroupState::Stable);
        DescribedGroup {
            group_id: Arc::clone(&self.group_id),
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: self.members.values().map(|member| member.described(protocol.as_deref())).collect(),
            protocol: protocol.unwrap_or_default(),
        }
    }

    /// Whether offsets may be committed: by a member in its generation, or by anyone to a group without members.
    pub(in crate::group) fn check_commit(&self, commit: &OffsetCommit) -> Result<(), GroupError> {
        if commit.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if commit.generation < 0 && commit.member_id.is_empty() && commit.group_instance_id.is_none() {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_generation(&commit.member_id, commit.group_instance_id.as_ref(), commit.generation)?;
        // The member knows its generation, not yet its assignment.
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether offsets may be deleted: in a group of consumers those of topics that nobody subscribes to, else only when
    /// there are no members.
    pub(in crate::group) fn check_offset_delete(&self) -> Result<(), GroupError> {
        if self.state == GroupState::Empty || self.is_consumer() { Ok(()) } else { Err(GroupError::NonEmptyGroup) }
    }

    /// Whether the group consumes the topic, as far as can be told.
    pub(in crate::group) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribed_topics.as_ref().map_or_else(|| self.is_consumer(), |topics| topics.contains(topic))
    }

    /// The instant from which an offset's retention runs, or `None` while the group keeps its offsets alive.
    pub(in crate::group) fn retention_start(&self, commit_timestamp: Timestamp) -> Option<Timestamp> {
        match (&self.protocol_type, self.state) {
            // Only stores offsets: each lives from its own commit.
            (None, _) => Some(commit_timestamp),
            (Some(_), GroupState::Empty) => Some(self.state_timestamp.unwrap_or(commit_timestamp)),
            (Some(_), GroupState::Stable) if self.is_consumer() && self.subscribed_topics.is_some() => {
                Some(commit_timestamp)
            }
            _ => None,
        }
    }

    pub(super) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some(subscription::CONSUMER)
    }

    /// Checks that the member exists and has not been replaced by another with its instance id.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&Arc<str>>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            let current = self.static_members.get(instance_id).ok_or(GroupError::UnknownMemberId)?;
            if **current != *member_id {
                return Err(GroupError::FencedInstanceId);
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    pub(super) fn check_generation(
        &self,
        member_id: &str,
        instance_id: Option<&Arc<str>>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_member(member_id, instance_id)?;
        if generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    /// Whether a joining member fits in: same protocol type, and a protocol that all others support too.
    pub(super) fn supports(&self, join: &JoinGroup) -> bool {
        if self.state == GroupState::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(&*join.protocol_type)
            && join.protocols.iter().any(|protocol| self.supported_by(&protocol.name) == self.members.len())
    }

    fn supported_by(&self, protocol: &str) -> usize {
        self.supporters.get(protocol).copied().unwrap_or(0)
    }

    /// The protocol with the most votes among those that every member supports; of equals, the one that the leader lists
    /// first, so that the choice does not hang on an order of ids.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let candidates: BTreeSet<&Arc<str>> =
            self.supporters.iter().filter(|&(_, &count)| count == self.members.len()).map(|(name, _)| name).collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for choice in self.members.values().filter_map(|member| member.vote(&candidates)) {
            *votes.entry(choice).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.retain(|_, count| *count == most);
        let tied: BTreeSet<&Arc<str>> = votes.into_keys().collect();
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        leader.and_then(|leader| leader.vote(&tied)).or_else(|| tied.first().copied()).cloned()
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn awaiting_joins(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    pub(super) fn has_all_members_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// The longest rebalance timeout among the members: nobody is cut off earlier than it asked for.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(Member::rebalance_timeout).max().unwrap_or_default()
    }

    /// Adds a member that is not there yet.
    pub(super) fn insert(&mut self, member: Member) {
        if let Some(instance_id) = &member.group_instance_id {
            self.static_members.insert(Arc::clone(instance_id), Arc::clone(&member.member_id));
        }
        self.pending_joins.remove(&member.member_id);
        self.count_supporters(&member.protocols, true);
        self.members_bytes += member.bytes();
        let replaced = self.members.insert(Arc::clone(&member.member_id), member);
        assert!(replaced.is_none(), "a member is added once");
    }

    /// Takes a member out of the tables, and nothing else.
    pub(super) fn take(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        self.count_supporters(&member.protocols, false);
        self.members_bytes -= member.bytes();
        Some(member)
    }

    /// Changes a member, keeping the books that depend on it.
    pub(super) fn update_member(&mut self, member_id: &str, change: impl FnOnce(&mut Member)) {
        let mut member = self.take(member_id).expect("only members that are there are changed");
        change(&mut member);
        self.insert(member);
    }

    fn count_supporters(&mut self, protocols: &[MemberProtocol], added: bool) {
        for protocol in protocols {
            let count = self.supporters.entry(Arc::clone(&protocol.name)).or_default();
            *count = if added { *count + 1 } else { *count - 1 };
            if *count == 0 {
                self.supporters.remove(&protocol.name);
            }
        }
    }

    /// Removes a member, or an id that was never joined with. A lost leader is replaced by the first member left.
    pub(super) fn remove(&mut self, member_id: &Arc<str>) {
        if let Some(member) = self.take(member_id)
            && let Some(instance_id) = &member.group_instance_id
        {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_joins.remove(member_id);
        self.pending_syncs.remove(member_id);
        self.timers.cancel(&Timer::Session(Arc::clone(member_id)));
    }

    pub(super) fn schedule_session(&mut self, now: Now, member_id: &Arc<str>, timeout: Duration) {
        self.timers.set(Timer::Session(Arc::clone(member_id)), now.monotonic + timeout);
    }

    /// Gives a member its session timeout anew.
    pub(super) fn renew_session(&mut self, now: Now, member_id: &Arc<str>) {
        if let Some(member) = self.members.get(member_id) {
            self.schedule_session(now, member_id, member.session_timeout());
        }
    }

    pub(super) fn transition_to(&mut self, now: Now, state: GroupState) {
        self.state = state;
        self.state_timestamp = Some(now.wall);
    }

    /// Learns the topics that the members of a group of consumers subscribe to.
    pub(super) fn read_subscriptions(&mut self) {
        let read = |member: &Member| subscription::topics(&member.metadata(self.protocol.as_deref()));
        let topics: Option<Vec<_>> = self.members.values().map(read).collect();
        self.subscribed_topics = topics.filter(|_| self.is_consumer()).map(|all| all.into_iter().flatten().collect());
    }

    /// The answer that tells a member its generation.
    pub(super) fn joined(&self, member_id: &Arc<str>, skip_assignment: bool) -> JoinedGroup {
        let protocol = self.protocol.as_deref();
        let members = match self.is_leader(member_id) {
            true => self.members.values().map(|member| member.joined(protocol)).collect(),
            false => Vec::new(),
        };
        JoinedGroup {
            member_id: Arc::clone(member_id),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment,
            members,
        }
    }

    /// The group's record, with `assignment` deciding what each member was assigned.
    pub(super) fn to_stored(&self, assignment: impl Fn(&Member) -> Bytes) -> StoredGroup {
        let protocol = self.protocol.as_deref();
        StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp: self.state_timestamp,
            members: self.members.values().map(|member| member.stored(protocol, assignment(member))).collect(),
        }
    }

    fn assert_consistent(&self) {
        assert_eq!(
            self.state == GroupState::Empty,
            self.members.is_empty() && self.state != GroupState::PreparingRebalance
        );
        assert!(self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader)), "the leader is a member");
        assert!(self.static_members.len() <= self.members.len(), "static members are members");
        assert!(self.pending_syncs.len() <= self.members.len(), "who has yet to sync is a member");
    }
}

/// The action that refuses a join.
pub(super) fn refuse_join(token: Token, error: GroupError, member_id: &Arc<str>) -> Action {
    Action::Reply(token, Reply::JoinGroup(Err(JoinRefused { error, member_id: Arc::clone(member_id) })))
}

//! Rebalances: from the first reason to have one until everybody knows the new generation, and the deadlines on the way. Pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::group::{ClassicGroup, InitialDelay, Timer};
use super::join::accept_join;
use super::{Action, Assignments};
use crate::group::GroupError;
use crate::group::request::{GroupState, Reply};
use crate::group::timers::Now;

/// The least that silent static members are waited for.
const LEAST_WAIT: Duration = Duration::from_secs(1);

impl ClassicGroup {
    /// Starts a rebalance; or, when one is under way, ends its first phase if nobody is missing any more.
    pub(super) fn prepare_or_complete(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.state != GroupState::PreparingRebalance {
            self.prepare_rebalance(now, actions);
        } else if self.initial_delay.is_none() && self.has_all_members_joined() {
            self.complete_join(now, actions);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, now: Now, actions: &mut Vec<Action>) {
        tracing::info!(group = ?self.group_id, generation = self.generation, members = self.members.len(),
            "group rebalances");
        if self.state == GroupState::CompletingRebalance {
            self.refuse_syncs(GroupError::RebalanceInProgress, actions);
        }
        self.pending_syncs.clear();
        self.timers.cancel(&Timer::Sync);
        let was_empty = self.state == GroupState::Empty;
        self.transition_to(now, GroupState::PreparingRebalance);
        if was_empty {
            let delay = self.settings.initial_rebalance_delay;
            let remaining = self.rebalance_timeout().saturating_sub(delay);
            self.initial_delay = Some(InitialDelay { delay, remaining, joined: false });
            self.timers.set(Timer::Join, now.monotonic + delay);
        } else if self.has_all_members_joined() {
            self.complete_join(now, actions);
        } else {
            self.timers.set(Timer::Join, now.monotonic + self.rebalance_timeout());
        }
    }

    pub(super) fn timeout(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some(timer) = self.timers.pop_expired(now.monotonic) {
            match timer {
                Timer::Session(member_id) => self.expire_session(now, &member_id, actions),
                Timer::Join => self.expire_join(now, actions),
                Timer::Sync => self.expire_syncs(now, actions),
            }
        }
    }

    fn expire_session(&mut self, now: Now, member_id: &Arc<str>, actions: &mut Vec<Action>) {
        // The end of the rebalance sets the deadline anew.
        if self.members.get(member_id).is_some_and(|member| member.is_excused_from_heartbeats()) {
            return;
        }
        tracing::info!(group = ?self.group_id, member = ?member_id, "member was not heard of within its session timeout");
        let was_member = self.members.contains_key(member_id);
        self.counts.expired_members += u64::from(was_member);
        self.expel(member_id, GroupError::UnknownMemberId, actions);
        if self.state == GroupState::PreparingRebalance {
            if self.has_all_members_joined() {
                self.complete_join(now, actions);
            }
        } else if was_member {
            self.prepare_rebalance(now, actions);
        }
    }

    fn expire_join(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let Some(initial) = self.initial_delay
            && initial.joined
            && !initial.remaining.is_zero()
        {
            let delay = self.settings.initial_rebalance_delay.min(initial.remaining);
            let remaining = initial.remaining.saturating_sub(initial.delay);
            self.initial_delay = Some(InitialDelay { delay, remaining, joined: false });
            self.timers.set(Timer::Join, now.monotonic + delay);
        } else {
            self.complete_join(now, actions);
        }
    }

    /// Members that never asked for their assignment are gone.
    fn expire_syncs(&mut self, now: Now, actions: &mut Vec<Action>) {
        for member_id in std::mem::take(&mut self.pending_syncs) {
            self.expel(&member_id, GroupError::UnknownMemberId, actions);
        }
        self.prepare_rebalance(now, actions);
    }

    /// Ends the joining phase with whoever has joined. Static members keep their place: they may be restarting.
    fn complete_join(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.timers.cancel(&Timer::Join);
        let missing = |member: &&super::member::Member| member.awaiting_join.is_none();
        let missing: Vec<(Arc<str>, bool)> = (self.members.values().filter(missing))
            .map(|member| (Arc::clone(&member.member_id), member.group_instance_id.is_some()))
            .collect();
        let all_missing = missing.len() == self.members.len();
        for (member_id, _) in missing.iter().filter(|(_, is_static)| !is_static) {
            tracing::info!(group = ?self.group_id, member = ?member_id, "member did not join the rebalance in time");
            self.remove(member_id);
        }
        if all_missing && !self.members.is_empty() {
            // Only silent static members are left; their sessions will end, unless one of them joins.
            // Not at once, whatever they say, or this would be all that the coordinator does.
            self.timers.set(Timer::Join, now.monotonic + self.rebalance_timeout().max(LEAST_WAIT));
            return;
        }
        if missing.iter().any(|(member_id, _)| self.is_leader(member_id)) {
            let joined = self.members.values().find(|member| member.awaiting_join.is_some());
            self.leader = joined.map(|member| Arc::clone(&member.member_id));
        }
        self.begin_generation(now, actions);
    }

    fn begin_generation(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.initial_delay = None;
        self.pending_syncs.clear();
        // 2^31 generations are not reached; a hostile log could say otherwise.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.select_protocol();
        self.read_subscriptions();
        if self.members.is_empty() {
            self.transition_to(now, GroupState::Empty);
            actions.push(Action::Store { group: self.to_stored(|_| Bytes::new()), then: None });
            return;
        }
        self.transition_to(now, GroupState::CompletingRebalance);
        tracing::info!(group = ?self.group_id, generation = self.generation, members = self.members.len(),
            leader = self.leader.as_deref().unwrap_or_default(), "group has a new generation");
        let member_ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let joined = self.joined(&member_id, false);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
                if let Some(token) = member.awaiting_join.take() {
                    actions.push(accept_join(token, joined));
                }
            }
            self.renew_session(now, &member_id);
            self.pending_syncs.insert(member_id);
        }
        self.timers.set(Timer::Sync, now.monotonic + self.rebalance_timeout());
    }

    /// The leader's assignments are durable: unless the group has moved on, they are what members get.
    pub(super) fn stored_assignments(&mut self, now: Now, assignments: Assignments, actions: &mut Vec<Action>) {
        if !self.awaits(&assignments) {
            return;
        }
        let member_ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let assignment = assignments.by_member.get(&member_id).cloned().unwrap_or_default();
            self.update_member(&member_id, |member| member.assignment = assignment);
            self.answer_sync(now, &member_id, actions);
        }
        self.transition_to(now, GroupState::Stable);
        self.counts.rebalances += 1;
        tracing::info!(group = ?self.group_id, generation = self.generation, "group is stable");
    }

    /// The leader's assignments can't be stored: the members are told, and try again with another generation.
    pub(super) fn refused_assignments(&mut self, now: Now, assignments: Assignments, actions: &mut Vec<Action>) {
        if self.awaits(&assignments) {
            self.refuse_syncs(GroupError::UnknownServerError, actions);
            self.prepare_rebalance(now, actions);
        }
    }

    fn awaits(&self, assignments: &Assignments) -> bool {
        self.state == GroupState::CompletingRebalance && self.generation == assignments.generation
    }

    /// Tells everyone who waits for an assignment that there will be none; what they had is void too.
    fn refuse_syncs(&mut self, error: GroupError, actions: &mut Vec<Action>) {
        let member_ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.update_member(&member_id, |member| {
                member.assignment = Bytes::new();
                if let Some(token) = member.awaiting_sync.take() {
                    actions.push(Action::Reply(token, Reply::SyncGroup(Err(error))));
                }
            });
        }
    }
}

//! JoinGroup: who is let in, and as whom. Pure.

use std::sync::Arc;

use uuid::Uuid;

use super::Action;
use super::group::{ClassicGroup, refuse_join};
use super::member::{Member, milliseconds};
use crate::group::GroupError;
use crate::group::request::{GroupState, JoinGroup, JoinedGroup, Reply, Token};
use crate::group::timers::Now;

/// From this version on a new member must join again with the id it is given (KIP-394), so that a client that times out
/// and retries does not leave a dead member behind each time.
const KNOWN_MEMBER_ID_VERSION: i16 = 4;
/// From this version on a returning static leader can be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_VERSION: i16 = 9;

impl ClassicGroup {
    pub(super) fn join(
        &mut self,
        now: Now,
        token: Token,
        join: JoinGroup,
        member_uuid: Uuid,
        actions: &mut Vec<Action>,
    ) {
        let unknown: Arc<str> = Arc::default();
        if !self.has_room_for(&join.member_id) {
            // Takes the room of a member that has not come back for this generation, too.
            let member_id = Arc::clone(&join.member_id);
            self.expel(&member_id, GroupError::GroupMaxSizeReached, actions);
            actions.push(refuse_join(token, GroupError::GroupMaxSizeReached, &unknown));
        } else if !self.supports(&join) {
            actions.push(refuse_join(token, GroupError::InconsistentGroupProtocol, &join.member_id));
        } else if !join.member_id.is_empty() {
            self.join_known(now, token, join, actions);
        } else if let Some(instance_id) = join.group_instance_id.clone() {
            let member_id = Arc::from(format!("{instance_id}-{member_uuid}"));
            match self.static_members.get(&instance_id).cloned() {
                Some(replaced) => self.replace_static(now, token, join, &replaced, member_id, actions),
                None => self.add(now, token, join, member_id, actions),
            }
        } else {
            let member_id: Arc<str> = Arc::from(format!("{}-{member_uuid}", join.client_id));
            if join.api_version < KNOWN_MEMBER_ID_VERSION {
                return self.add(now, token, join, member_id, actions);
            }
            self.pending_joins.insert(Arc::clone(&member_id));
            self.schedule_session(now, &member_id, milliseconds(join.session_timeout_ms));
            actions.push(refuse_join(token, GroupError::MemberIdRequired, &member_id));
        }
    }

    /// During a rebalance only those who have joined take up room: so the last to come back find none, when the limit was
    /// lowered.
    fn has_room_for(&self, member_id: &str) -> bool {
        let max_size = self.settings.max_size;
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_joins() < max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.members.contains_key(member_id) || self.members.len() < max_size
            }
        }
    }

    /// A member that brings an id: one that it was just given, or that of a member.
    fn join_known(&mut self, now: Now, token: Token, join: JoinGroup, actions: &mut Vec<Action>) {
        let member_id = Arc::clone(&join.member_id);
        if self.pending_joins.contains(&member_id) {
            // Ids are never given to static members this way.
            if join.group_instance_id.is_some() {
                return actions.push(refuse_join(token, GroupError::UnknownServerError, &member_id));
            }
            return self.add(now, token, join, member_id, actions);
        }
        if let Err(error) = self.check_member(&member_id, join.group_instance_id.as_ref()) {
            return actions.push(refuse_join(token, error, &member_id));
        }
        let unchanged = self.members.get(&member_id).is_some_and(|member| member.protocols == join.protocols);
        let knows_all = match self.state {
            GroupState::CompletingRebalance => unchanged,
            // The leader may join to have partitions assigned anew, for reasons that its metadata doesn't show.
            GroupState::Stable => unchanged && !self.is_leader(&member_id),
            GroupState::Empty | GroupState::PreparingRebalance | GroupState::Dead => false,
        };
        if knows_all {
            // It may have missed the answer to its last join: the generation stands.
            actions.push(accept_join(token, self.joined(&member_id, false)));
            return;
        }
        self.await_join(token, &member_id, join, actions);
        self.prepare_or_complete(now, actions);
    }

    fn add(&mut self, now: Now, token: Token, join: JoinGroup, member_id: Arc<str>, actions: &mut Vec<Action>) {
        tracing::info!(group = ?self.group_id, member = ?member_id, reason = join.reason.as_deref().unwrap_or_default(),
            "member joins the group");
        if let Some(initial_delay) = &mut self.initial_delay {
            initial_delay.joined = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::clone(&join.protocol_type));
        }
        let mut member = Member::new(Arc::clone(&member_id), join);
        member.awaiting_join = Some(token);
        self.insert(member);
        self.leader.get_or_insert_with(|| Arc::clone(&member_id));
        // It can't heartbeat before it has its id, nor can it be seen to disconnect while its request is parked: after
        // this time it is asked to join again, if it is still there.
        self.schedule_session(now, &member_id, self.settings.new_member_join_timeout);
        self.prepare_or_complete(now, actions);
    }

    /// Parks a member's join, with the protocols and timeouts it brings.
    fn await_join(&mut self, token: Token, member_id: &Arc<str>, join: JoinGroup, actions: &mut Vec<Action>) {
        self.update_member(member_id, |member| {
            member.update(join);
            if let Some(earlier) = member.awaiting_join.replace(token) {
                // The client gave up on its earlier request; should it listen after all, it is to join again.
                actions.push(refuse_join(earlier, GroupError::RebalanceInProgress, member_id));
            }
        });
    }

    /// A static member came back without its id: it takes the place of its former self, which is fenced (KIP-345).
    fn replace_static(
        &mut self,
        now: Now,
        token: Token,
        join: JoinGroup,
        replaced: &Arc<str>,
        member_id: Arc<str>,
        actions: &mut Vec<Action>,
    ) {
        let former_leader = self.leader.clone().unwrap_or_default();
        let api_version = join.api_version;
        let mut member = self.take(replaced).expect("static members are members");
        if let Some(token) = member.awaiting_join.take() {
            actions.push(refuse_join(token, GroupError::FencedInstanceId, replaced));
        }
        if let Some(token) = member.awaiting_sync.take() {
            actions.push(Action::Reply(token, Reply::SyncGroup(Err(GroupError::FencedInstanceId))));
        }
        self.remove(replaced);
        member.member_id = Arc::clone(&member_id);
        member.is_new = false;
        member.update(join);
        self.insert(member);
        if former_leader == *replaced {
            self.leader = Some(Arc::clone(&member_id));
        }
        self.renew_session(now, &member_id);

        if self.state == GroupState::Stable && self.select_protocol() == self.protocol {
            // Nothing that the assignment rests on has changed: it stays, under the new member id.
            actions.push(Action::Store { group: self.to_stored(|member| member.assignment.clone()), then: None });
            let mut joined = self.joined(&member_id, self.is_leader(&member_id));
            if api_version < SKIP_ASSIGNMENT_VERSION {
                // An old client that learned that it leads would assign partitions, and nobody would rebalance: it is told
                // of its former self as the leader.
                joined = JoinedGroup { leader: former_leader, skip_assignment: false, members: Vec::new(), ..joined };
            }
            actions.push(accept_join(token, joined));
            return;
        }
        self.update_member(&member_id, |member| member.awaiting_join = Some(token));
        self.prepare_or_complete(now, actions);
    }

    /// Removes a member that waits or not, answering what it waits for.
    pub(super) fn expel(&mut self, member_id: &Arc<str>, error: GroupError, actions: &mut Vec<Action>) {
        if let Some(member) = self.members.get_mut(member_id) {
            let unknown: Arc<str> = Arc::default();
            if let Some(token) = member.awaiting_join.take() {
                actions.push(refuse_join(token, error, &unknown));
            }
            if let Some(token) = member.awaiting_sync.take() {
                actions.push(Action::Reply(token, Reply::SyncGroup(Err(error))));
            }
        }
        self.remove(member_id);
    }
}

pub(super) const fn accept_join(token: Token, joined: JoinedGroup) -> Action {
    Action::Reply(token, Reply::JoinGroup(Ok(joined)))
}

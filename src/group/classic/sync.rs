//! SyncGroup, Heartbeat and LeaveGroup: life within a generation, and its end. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::group::{ClassicGroup, Timer};
use super::{Action, Assignments};
use crate::group::GroupError;
use crate::group::request::{
    GroupState, Heartbeat, LeaveGroup, LeavingMember, LeftMember, Reply, SyncGroup, SyncedGroup, Token,
};
use crate::group::timers::Now;

impl ClassicGroup {
    pub(super) fn sync(&mut self, now: Now, token: Token, sync: SyncGroup, actions: &mut Vec<Action>) {
        if let Err(error) = self.check_sync(&sync) {
            return actions.push(Action::Reply(token, Reply::SyncGroup(Err(error))));
        }
        let member_id = Arc::clone(&sync.member_id);
        self.pending_syncs.remove(&member_id);
        if self.pending_syncs.is_empty() {
            self.timers.cancel(&Timer::Sync);
        }
        let Some(member) = self.members.get_mut(&member_id) else { return };
        let earlier = member.awaiting_sync.replace(token);
        if let Some(earlier) = earlier {
            let again = Reply::SyncGroup(Err(GroupError::RebalanceInProgress));
            actions.push(Action::Reply(earlier, again));
        }
        if self.state == GroupState::Stable {
            self.answer_sync(now, &member_id, actions);
        } else if self.is_leader(&member_id) {
            let by_member: BTreeMap<_, _> = sync.assignments.into_iter().collect();
            let group = self.to_stored(|member| by_member.get(&member.member_id).cloned().unwrap_or_default());
            let then = Some(Assignments { generation: self.generation, by_member });
            actions.push(Action::Store { group, then });
        }
    }

    fn check_sync(&self, sync: &SyncGroup) -> Result<(), GroupError> {
        self.check_generation(&sync.member_id, sync.group_instance_id.as_ref(), sync.generation)?;
        let differs =
            |theirs: &Option<Arc<str>>, ours: &Option<Arc<str>>| theirs.is_some() && ours.is_some() && theirs != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Gives a member that waits its assignment, and its session timeout anew: it was excused while it waited.
    pub(super) fn answer_sync(&mut self, now: Now, member_id: &Arc<str>, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        if let Some(token) = member.awaiting_sync.take() {
            let synced = SyncedGroup {
                protocol_type: self.protocol_type.clone(),
                protocol: self.protocol.clone(),
                assignment: member.assignment.clone(),
            };
            actions.push(Action::Reply(token, Reply::SyncGroup(Ok(synced))));
            self.renew_session(now, member_id);
        }
    }

    pub(super) fn heartbeat(&mut self, now: Now, heartbeat: &Heartbeat) -> Result<(), GroupError> {
        let Heartbeat { member_id, group_instance_id, generation, .. } = heartbeat;
        self.check_generation(member_id, group_instance_id.as_ref(), *generation)?;
        self.renew_session(now, member_id);
        if self.state == GroupState::PreparingRebalance { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// A member that commits is alive.
    pub(super) fn committed(&mut self, now: Now, member_id: &Arc<str>) {
        if matches!(self.state, GroupState::Stable | GroupState::PreparingRebalance) {
            self.renew_session(now, member_id);
        }
    }

    pub(super) fn leave(&mut self, now: Now, token: Token, leave: LeaveGroup, actions: &mut Vec<Action>) {
        let mut anyone = false;
        let results = (leave.members.into_iter())
            .map(|leaving| {
                let error = self.remove_leaving(&leaving, actions).err();
                anyone |= error.is_none();
                LeftMember { member_id: leaving.member_id, group_instance_id: leaving.group_instance_id, error }
            })
            .collect();
        if anyone && self.state != GroupState::Empty {
            self.prepare_or_complete(now, actions);
        }
        actions.push(Action::Reply(token, Reply::LeaveGroup(Ok(results))));
    }

    fn remove_leaving(&mut self, leaving: &LeavingMember, actions: &mut Vec<Action>) -> Result<(), GroupError> {
        let LeavingMember { member_id, group_instance_id, reason } = leaving;
        let member_id = if self.pending_joins.contains(member_id) {
            Arc::clone(member_id)
        } else if member_id.is_empty() {
            // An administrator removes a static member by its instance id alone.
            let current = group_instance_id.as_ref().and_then(|id| self.static_members.get(id));
            Arc::clone(current.ok_or(GroupError::UnknownMemberId)?)
        } else {
            self.check_member(member_id, group_instance_id.as_ref())?;
            Arc::clone(member_id)
        };
        tracing::info!(group = ?self.group_id, member = ?member_id, reason = reason.as_deref().unwrap_or_default(),
            "member leaves the group");
        self.expel(&member_id, GroupError::UnknownMemberId, actions);
        Ok(())
    }
}

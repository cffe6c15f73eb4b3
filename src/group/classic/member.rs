//! A member of a classic group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::group::records::StoredMember;
use crate::group::request::{DescribedMember, JoinGroup, JoinedMember, MemberProtocol, Token};

/// Bytes that a member takes beside its strings: its struct, table entries and timer, roughly.
const MEMBER_BYTES: usize = 512;
/// First version of JoinGroup that tells a rebalance timeout; whatever it is then, it is taken at its word.
const FIRST_REBALANCE_TIMEOUT_VERSION: i16 = 1;

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) member_id: Arc<str>,
    pub(super) group_instance_id: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    pub(super) protocols: Vec<MemberProtocol>,
    pub(super) assignment: Bytes,
    /// Has not been part of a generation yet, and so can't heartbeat.
    pub(super) is_new: bool,
    pub(super) awaiting_join: Option<Token>,
    pub(super) awaiting_sync: Option<Token>,
}

impl Member {
    pub(super) fn new(member_id: Arc<str>, join: JoinGroup) -> Self {
        let mut member = Self {
            member_id,
            group_instance_id: join.group_instance_id.clone(),
            client_id: Arc::clone(&join.client_id),
            client_host: Arc::clone(&join.client_host),
            rebalance_timeout_ms: 0,
            session_timeout_ms: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: true,
            awaiting_join: None,
            awaiting_sync: None,
        };
        member.update(join);
        member
    }

    pub(super) fn from_stored(stored: StoredMember, protocol: &Arc<str>) -> Self {
        Self {
            member_id: stored.member_id,
            group_instance_id: stored.group_instance_id,
            client_id: stored.client_id,
            client_host: stored.client_host,
            rebalance_timeout_ms: stored.rebalance_timeout_ms,
            session_timeout_ms: stored.session_timeout_ms,
            protocols: vec![MemberProtocol { name: Arc::clone(protocol), metadata: stored.subscription }],
            assignment: stored.assignment,
            is_new: false,
            awaiting_join: None,
            awaiting_sync: None,
        }
    }

    /// Takes over protocols and timeouts of a new join.
    pub(super) fn update(&mut self, join: JoinGroup) {
        self.session_timeout_ms = join.session_timeout_ms;
        let has_own = join.api_version >= FIRST_REBALANCE_TIMEOUT_VERSION;
        self.rebalance_timeout_ms = if has_own { join.rebalance_timeout_ms } else { join.session_timeout_ms };
        self.protocols = join.protocols;
    }

    pub(super) fn session_timeout(&self) -> Duration {
        milliseconds(self.session_timeout_ms)
    }

    pub(super) fn rebalance_timeout(&self) -> Duration {
        milliseconds(self.rebalance_timeout_ms)
    }

    /// The member's metadata for a protocol; empty when it does not support it.
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let supported = self.protocols.iter().find(|supported| Some(&*supported.name) == protocol);
        supported.map(|supported| supported.metadata.clone()).unwrap_or_default()
    }

    /// The candidate that the member likes best.
    pub(super) fn vote(&self, candidates: &BTreeSet<&Arc<str>>) -> Option<&Arc<str>> {
        self.protocols.iter().map(|protocol| &protocol.name).find(|name| candidates.contains(name))
    }

    /// Waiting for the rest of the group counts as being alive, except for a member that never got an answer: its client
    /// may be gone, and its connection can't tell while the request is parked.
    pub(super) const fn is_excused_from_heartbeats(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    pub(super) fn bytes(&self) -> usize {
        let names = [&self.member_id, &self.client_id, &self.client_host];
        fixed_bytes(names, self.group_instance_id.as_ref(), &self.protocols) + self.assignment.len()
    }

    pub(super) fn joined(&self, protocol: Option<&str>) -> JoinedMember {
        JoinedMember {
            member_id: Arc::clone(&self.member_id),
            group_instance_id: self.group_instance_id.clone(),
            metadata: self.metadata(protocol),
        }
    }

    pub(super) fn described(&self, protocol: Option<&str>) -> DescribedMember {
        DescribedMember {
            member_id: Arc::clone(&self.member_id),
            group_instance_id: self.group_instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            metadata: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    pub(super) fn stored(&self, protocol: Option<&str>, assignment: Bytes) -> StoredMember {
        StoredMember {
            member_id: Arc::clone(&self.member_id),
            group_instance_id: self.group_instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }
}

/// Bytes that a member takes once it has joined like this, before it has an assignment.
pub(in crate::group) fn member_bytes(join: &JoinGroup) -> usize {
    let names = [&join.member_id, &join.client_id, &join.client_host];
    fixed_bytes(names, join.group_instance_id.as_ref(), &join.protocols)
}

fn fixed_bytes(names: [&Arc<str>; 3], instance: Option<&Arc<str>>, protocols: &[MemberProtocol]) -> usize {
    let names: usize = names.into_iter().chain(instance).map(|name| name.len()).sum();
    let protocols: usize = protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len()).sum();
    MEMBER_BYTES + names + protocols
}

pub(super) fn milliseconds(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

//! One classic group as a machine (KIP-62, KIP-345, KIP-394, KIP-814). Pure, in all its files.
//!
//! ```text
//!            join                      all joined, or the timeout            leader's assignment is durable
//!   Empty ─────────▶ PreparingRebalance ───────────▶ CompletingRebalance ───────────▶ Stable
//!     ▲                  │      ▲                            │                           │
//!     └──────────────────┘      └────────────────────────────┴───────────────────────────┘
//!        nobody is left             a member joins, leaves, dies or changes its protocols
//! ```
//! Every pass through `CompletingRebalance` or back to `Empty` is a new generation; requests of another generation are
//! refused. The machine is owned by the coordinator of its partition, which hands it requests and time, and carries out
//! its [`Action`]s. It is not `Stable` before the record with the assignments is durable, so that no member acts on an
//! assignment that a crash forgets. All else (who has joined so far, who waits) is forgotten by a crash: members find out
//! and join again, as they do in Apache Kafka, whose `GroupMetadataManager` and `ClassicGroup` set the rules.

mod group;
mod join;
mod member;
mod rebalance;
mod subscription;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use self::group::ClassicGroup;
pub(super) use self::member::member_bytes;
pub(super) use self::subscription::topics as subscribed_topics;
use super::records::StoredGroup;
use super::request::{Heartbeat, JoinGroup, LeaveGroup, Reply, SyncGroup, Token};

/// What can happen to a group.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A member joins.
    Join { token: Token, join: JoinGroup, member_uuid: Uuid },
    /// A member asks for its assignment.
    Sync { token: Token, sync: SyncGroup },
    /// A member is alive.
    Heartbeat { token: Token, heartbeat: Heartbeat },
    /// Members leave.
    Leave { token: Token, leave: LeaveGroup },
    /// A member commits offsets, which shows that it is alive.
    Committed { member_id: Arc<str> },
    /// The record of these assignments is durable.
    Stored(Assignments),
    /// The record of these assignments is larger than the log accepts.
    StoreRefused(Assignments),
    /// A deadline may have passed.
    Timeout,
}

/// What a group wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answer; but when the same step also stores, only once that is durable.
    Reply(Token, Reply),
    /// Append the group's record; assignments come back when it is durable.
    Store { group: StoredGroup, then: Option<Assignments> },
}

/// What has happened to groups, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rebalances: u64,
    pub(super) expired_members: u64,
}

/// What the leader of a generation assigned, on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignments {
    generation: i32,
    by_member: BTreeMap<Arc<str>, Bytes>,
}

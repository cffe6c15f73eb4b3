//! The metadata quorum: openraft over redb, and the only place that knows either.
//!
//! The parts, from the disk up: [`backend`] lets redb run on the disk seam; [`log_database`] keeps the log, the vote and the
//! format stamp in one redb file; [`snapshot_files`] keeps the newest snapshot as a file beside it; [`lane`] runs both off
//! the network threads; [`log_store`] and [`state_machine`] are openraft's two storage traits; [`runtime`] gives it our
//! clock and randomness; [`network`] carries its requests to peers and [`answers`] theirs to it, in the words of [`wire`]. [`membership`] says
//! who is answered, and [`acknowledged`] whether this node still leads.
//! [`candidacy`] decides when this node stands for election, [`campaign`] and [`lifelines`] tell it what happens; [`proposer`] takes
//! commands to the leader; [`quorum`] puts them together.
//!
//! After a crash the vote and every appended entry are there, because both are synced before openraft hears that they
//! are. The state machine is not persisted: it is the newest snapshot plus the log behind it, applied again. Log entries are
//! purged only after the snapshot that covers them is durable.

mod acknowledged;
mod answers;
mod backend;
mod campaign;
mod candidacy;
mod codec;
mod controlling;
mod error;
pub mod fuzz;
mod lane;
mod lifelines;
mod log_database;
mod log_store;
mod members;
mod membership;
mod network;
#[cfg(test)]
mod power_cut;
mod proposer;
mod quorum;
mod runtime;
#[cfg(test)]
mod simulation;
mod snapshot_files;
mod state_machine;
#[cfg(test)]
mod tests;
mod wire;

use std::io::Cursor;

use openraft::impls::OneshotResponder;
use openraft::{BasicNode, Entry, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::error::Rejection;
use crate::types::NodeId;

pub use error::StoreError;
pub use lane::LaneStopped;
pub use members::{MemberChange, MemberError, QuorumStatus};
pub use quorum::{Metadata, MetadataSettings, MetadataStore, PeerPlane};

use lane::StoreLane;
use log_database::{LogDatabase, Stamp};
use log_store::LogStore;
use runtime::{OnSeams, on_seams};
use snapshot_files::SnapshotFiles;
use state_machine::StateMachine;

/// The Raft node of this type configuration.
type Raft = openraft::Raft<TypeConfig>;
type LogId = openraft::LogId<NodeId>;
type Vote = openraft::Vote<NodeId>;
type Membership = openraft::Membership<NodeId, BasicNode>;
type StoredMembership = openraft::StoredMembership<NodeId, BasicNode>;
type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
type Snapshot = openraft::Snapshot<TypeConfig>;
type RaftMetrics = openraft::RaftMetrics<NodeId, BasicNode>;
type StorageError = openraft::StorageError<NodeId>;

/// What openraft is told about our types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = CommandGroup;
    type R = GroupOutcome;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Entry = Entry<Self>;
    type SnapshotData = Cursor<Vec<u8>>;
    type AsyncRuntime = OnSeams;
    type Responder = OneshotResponder<Self>;
}

/// The commands of one log entry, applied in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct CommandGroup(Vec<Command>);

/// What became of each command of a group; empty for entries that hold none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct GroupOutcome(Vec<Result<Outcome, Rejection>>);

//! The cluster's truth: commands, the immutable image, the pure machine, and its Raft quorum.
//!
//! Whoever wants to change metadata makes a [`command::Command`]; the quorum orders commands in its log; the
//! [`machine`] applies them to the [`image::Image`] that every broker reads. Placement, identities and configuration values
//! are decided before a command is sent, so that applying it is a pure function; so is what follows from it for leaders and in-sync
//! replicas. On the leader of the quorum the [`controller`] decides which brokers take part. `log`'s journal holds records,
//! never metadata; the only link between the two are topic identities and leader epochs.

pub mod broker_config;
pub mod command;
pub mod config_definition;
pub mod config_layers;
pub mod controller;
pub mod error;
mod hex;
pub mod image;
pub mod machine;
pub mod placement;
mod raft;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod topic_config;
pub mod topic_name;

pub use command::{Command, Outcome};
pub use error::{CommandError, MetadataError, Rejection};
pub use image::Image;
pub use raft::{
    LaneStopped, MemberChange, MemberError, Metadata, MetadataSettings, MetadataStore, PeerPlane, QuorumStatus,
    StoreError, fuzz,
};

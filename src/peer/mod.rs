//! How the brokers of a cluster know, let in and ask each other.
//!
//! - [`authority`]: the cluster's own certificate authority, which says by a certificate that a node is a member, and which one.
//! - [`token`]: what a node is given that is to become a member.
//! - [`identity_files`]: key and certificates on a node's disk, its own or an operator's.
//! - [`frame`]: messages on a stream of bytes, which arrive in [`pieces`].
//! - [`rpc`]: requests and answers over the peer seam ([`crate::runtime::peers`]).
//!
//! `metadata` and `replication` speak to other brokers through here, and `broker` has nodes join. What is kept over a crash is in
//! `identity_files` alone; authority and join secret live in the cluster's metadata.

pub mod authority;
pub mod frame;
pub mod identity_files;
pub mod pieces;
mod refusal;
pub mod rpc;
pub mod token;

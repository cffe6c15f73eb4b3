//! alluvium: a tiered-storage streaming broker that speaks the Apache Kafka protocol and keeps its history as Parquet.
//!
//! ```text
//! producer ─▶ server ─▶ broker ─▶ log: journal, acknowledged ─▶ segments, sealed ─▶ archive: Parquet in object storage
//! consumer ◀─ server ◀─ broker ◀─ log: memory, segments │ archive: local cache, object storage
//! ```
//!
//! - [`server`] reads requests from connections and sends answers in their order. [`protocol`] makes messages of bytes and back;
//!   [`record`] checks batches, which stay as the client sent them.
//! - [`broker`] decides what a request may do, when an append counts as done, and which tier answers a fetch.
//! - [`log`] keeps a partition's recent records on the local disk: first in the journal, then in segments.
//! - [`archive`] makes Parquet of sealed segments, verifies it, commits it, and reads it back; then the local segments may go.
//! - [`metadata`] is what the cluster agrees on. [`group`] coordinates consumers and keeps their offsets in a log like any other.
//! - [`http`] shows health and metrics, [`telemetry`] counts, [`config`] reads settings, [`cli`] starts a broker and has the tools.
//! - [`runtime`] is the door to clock, disk, network and threads, so that a simulation can stand in for the machine.
//!
//! Begin with [`docs::architecture`]: layers, threads, where to read on. Words are in [`docs::glossary`], what always holds in
//! [`docs::invariants`], reasons in [`docs::decisions`], layouts in [`docs::formats`], what to do on call in [`docs::operations`].

#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::todo,
    clippy::unimplemented,
    clippy::dbg_macro,
    clippy::print_stdout,
    clippy::unwrap_used
)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::large_futures, clippy::too_many_lines)]

pub mod docs;

// L0
pub mod runtime;
#[cfg(test)]
mod sim;
pub mod telemetry;
pub mod types;

// L1
pub mod peer;
pub mod protocol;
pub mod record;

// L2
pub mod log;
pub mod metadata;

// L3
pub mod archive;
pub mod group;
pub mod replication;

// L4
pub mod broker;

// L5
pub mod http;
pub mod server;

// L6
pub mod cli;
pub mod config;

//! alluvium: a tiered-storage streaming broker that speaks the Apache Kafka protocol and keeps its history as Parquet.

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
pub mod protocol;
pub mod record;

// L2
pub mod log;
pub mod metadata;

// L3
pub mod archive;
pub mod group;

// L4
pub mod broker;

// L5
pub mod http;
pub mod server;

// L6
pub mod cli;
pub mod config;

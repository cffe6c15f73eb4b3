//! One list of metrics, spans and log levels; everything that can be counted or timed is declared here, once.
//!
//! [`Metrics`] is a value, passed down as `Arc<Metrics>`: there are no globals, so several brokers can live in one
//! process and a test can read its own. Counting costs one relaxed atomic addition, timing two. Nothing here survives a
//! restart, and nothing decides by what it reads here. [`MemoryPool`] gives out the shares of memory that are shown here, so that
//! what is shown is what is held.
//!
//! # Log levels
//!
//! | level | means | example |
//! |---|---|---|
//! | `error` | somebody must act, and service or safety is reduced until they do | a data directory goes offline |
//! | `warn` | it healed or will heal, but somebody should know, or a setting is dangerous | the bucket fails and is retried |
//! | `info` | the life of the process and its configuration: a handful of lines a minute at most | a topic is created |
//! | `debug` | each decision of a background worker, each connection | a segment is sealed |
//! | `trace` | each request | |
//!
//! An error is logged once, where it is handled, with the facts in fields and never in the text. Clients' mistakes are not
//! the operator's: they are answered, counted, and logged at `debug`. Record keys and values, and secrets, are never logged.

mod histogram;
mod labels;
mod logs;
mod memory_pool;
mod metrics;
mod readiness;
pub mod spans;

pub use histogram::{LatencyHistogram, SizeHistogram};
pub use labels::{ApiLabel, ErrorLabel, FetchSource, Label, Labeled, MemoryShare, RefuseReason, StoreOperation};
pub use logs::{LogError, LogFormat, QUIETER, check_filter, install_logs};
pub use memory_pool::{MemoryPool, TakenMemory};
pub use metrics::{
    ApiMetrics, ArchiveMetrics, ArchiveReadMetrics, CacheMetrics, FetchMetrics, GroupMetrics, JournalMetrics,
    LogMetrics, MemoryMetrics, MetadataMetrics, Metrics, ProcessMetrics, ProduceMetrics, ServerMetrics, StoreMetrics,
};

pub use readiness::Readiness;

/// A number that only grows. One relaxed atomic addition.
pub type Counter = prometheus_client::metrics::counter::Counter;
/// A number that goes up and down. One relaxed atomic store or addition.
pub type Gauge = prometheus_client::metrics::gauge::Gauge;

/// Counts something as being there until it is dropped, however it ends: also when what waits for it is given up.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// Counts one more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

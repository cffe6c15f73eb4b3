//! The spans of the broker and the fields they carry, so that a log line can be followed from a connection to a
//! partition to an object. Field names are the same everywhere: `peer`, `api`, `version`, `correlation_id`, `topic`,
//! `partition`, `offset`, `directory`, `object`.

use std::net::SocketAddr;
use std::path::Path;

use tracing::{Span, debug_span, info_span, trace_span};

use crate::types::PartitionIndex;

/// One client connection.
pub fn connection(listener: &str, peer: SocketAddr) -> Span {
    debug_span!("connection", listener, %peer)
}

/// One request; below a connection.
pub fn request(api: &'static str, version: i16, correlation_id: i32) -> Span {
    trace_span!("request", api, version, correlation_id)
}

/// Work on one partition.
pub fn partition(topic: &str, partition: PartitionIndex) -> Span {
    info_span!("partition", topic, %partition)
}

/// Work on one data directory.
pub fn directory(path: &Path) -> Span {
    info_span!("directory", directory = %path.display())
}

/// Work on one object of the bucket.
pub fn object(key: &str) -> Span {
    info_span!("object", object = key)
}

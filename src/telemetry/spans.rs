//! The spans of the broker: a log line says by them which connection and request, or which partition's upload, it is from.

use std::net::SocketAddr;

use tracing::{Span, debug_span, info_span, trace_span};

use crate::types::{Offset, TopicPartition};

/// One client connection.
pub fn connection(listener: &str, peer: SocketAddr) -> Span {
    debug_span!("connection", listener, %peer)
}

/// One request; below a connection.
pub fn request(api: &'static str, version: i16, correlation_id: i32) -> Span {
    trace_span!("request", api, version, correlation_id)
}

/// A segment on its way to the archive.
pub fn upload(partition: TopicPartition, base: Offset) -> Span {
    info_span!("upload", %partition, %base)
}

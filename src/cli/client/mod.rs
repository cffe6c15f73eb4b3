//! A small Kafka client for the command line, which works against any Kafka broker of version 2.5 or newer.
//!
//! It speaks through the network seam, one request at a time on each connection, and lives for one command. It is built for
//! being understood and not for throughput; still, batches are large, so that a file is sent about as fast as a broker
//! takes it. [`Cluster`] finds brokers and leaders, [`Producer`] sends, [`Consumer`] reads, [`admin`] manages topics, [`quorum`] the
//! cluster itself, and [`moves`] where replicas are in it.

pub mod admin;
mod arguments;
mod cluster;
mod connection;
mod consumer;
mod error;
pub mod moves;
mod partitioner;
mod producer;
pub mod quorum;

pub use arguments::{ClientArguments, block_on, pairs};
pub use cluster::{Cluster, Partition, Topic};
pub use connection::Connection;
pub use consumer::{Bounds, Consumer, EARLIEST, LATEST, LATEST_TIERED, Position, list_offsets};
pub use error::ClientError;
pub use partitioner::key_partition;
pub use producer::{Acks, NewHeader, NewRecord, Producer, ProducerOptions};

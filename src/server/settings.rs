//! What the server is told at its start. Plain values; the command line fills them in from the configuration.

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of the Kafka listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The listeners, at least one.
    pub listeners: Vec<ListenerSettings>,
    /// Limits of connections.
    pub limits: ConnectionLimits,
    /// How long requests under way may take to end at shutdown.
    pub drain_timeout: Duration,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name.
    pub name: String,
    /// Where to listen; port 0 picks a free port.
    pub address: SocketAddr,
    /// Host and port that clients are told; port 0 stands for the bound one. `None` is the bound address.
    pub advertised: Option<(String, u16)>,
}

/// Limits of connections, alone and together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// The largest request.
    pub frame_bytes: usize,
    /// Requests of all connections in memory, beside one that may go past it; a connection waits for its share as it reads a
    /// request.
    pub total_frame_bytes: usize,
    /// Requests of one connection in memory.
    pub connection_frame_bytes: usize,
    /// Requests of one connection that are under way.
    pub requests_in_flight: usize,
    /// Silence after which a connection is closed; also when it is the client that takes nothing of an answer.
    pub idle_timeout: Duration,
    /// How long a client may take to send a request that it began, beside the time that its bytes take at a modest rate.
    pub request_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 5_000,
            frame_bytes: 100 << 20,
            total_frame_bytes: 256 << 20,
            connection_frame_bytes: 128 << 20,
            requests_in_flight: 64,
            idle_timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(30),
        }
    }
}

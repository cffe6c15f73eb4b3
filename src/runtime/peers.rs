//! The peer seam: authenticated connections of many streams among the brokers of a cluster, over one UDP socket each.
//!
//! `peer` is the only caller. The production twin speaks QUIC (`production/quic.rs`), the simulated one passes bytes
//! (`sim/peers.rs`). A stream is opened for each request or each flow of records; streams of one connection do not wait for
//! each other. What was sent and not yet read is lost with a connection, and nothing here is kept over a crash.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::net::BoxFuture;

/// Something that is never printed: its `Debug` says `<redacted>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Takes a secret.
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// Gives it away; for who needs it to sign or to store it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What a node shows of itself, and whom it trusts.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// Its certificate and those that lead to the authority, in DER. Without any, the endpoint dials only, and only as
    /// [`ExpectedPeer::Authority`]: that is a node that is about to join.
    pub certificates: Vec<Vec<u8>>,
    /// The private key of the first certificate: PKCS#8, or what OpenSSL calls "traditional" (PKCS#1, SEC1), in DER.
    pub key: Secret<Vec<u8>>,
    /// Certificates of those whose signature makes somebody a member, in DER.
    pub authorities: Vec<Vec<u8>>,
}

/// What a dialled peer must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// A certificate of our authorities for this DNS name.
    Named(String),
    /// A certificate of our authorities for the host in the address.
    HostOfAddress,
    /// A certificate that was issued by the authority whose certificate has this SHA-256; the peer sends that along. A node that
    /// joins knows no more. It shows no certificate itself.
    Authority([u8; 32]),
}

/// As what a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerProtocol {
    /// Among members: both sides have shown a certificate. `alluvium-peer/1` on the wire.
    Member,
    /// From a node that has no certificate yet. `alluvium-join/1` on the wire.
    Join,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePeer {
    /// Its address when the connection was made.
    pub address: SocketAddr,
    /// As what it was made.
    pub protocol: PeerProtocol,
    /// DNS names of its verified certificate; none of a node that joins.
    pub names: Vec<String>,
}

/// How a sender learns what the path carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// RFC 9438: fair to TCP, and steady on links without much loss.
    #[default]
    Cubic,
    /// Keeps its rate in spite of losses; for long paths. The library calls it experimental.
    Bbr,
    /// RFC 9002's own.
    NewReno,
}

/// The limits and times of an endpoint.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// A connection on which nothing is sent for so long sends a sign of life.
    pub keep_alive: Duration,
    /// A connection on which nothing arrives for so long is lost.
    pub idle_timeout: Duration,
    /// How long a handshake may take, either way.
    pub handshake_timeout: Duration,
    /// Bytes of a stream that a peer may send before they are read.
    pub stream_window_bytes: u32,
    /// The same of all streams of a connection.
    pub connection_window_bytes: u32,
    /// Bytes of a connection that are kept until the peer has acknowledged them; senders wait beyond.
    pub send_window_bytes: u32,
    /// Streams that a peer may have open at once.
    pub max_streams: u32,
    /// Connections that others may have open to this endpoint.
    pub max_incoming_connections: usize,
    /// Of these, those of nodes that join.
    pub max_joining_connections: usize,
    /// Handshakes of others that are under way at once. From half of them on, a peer first has to show that it gets what is
    /// sent to its address.
    pub max_handshakes: usize,
    /// Largest UDP payload that is looked for on a path; it begins with 1,200 bytes. Ten of them have to fit into 65,507 bytes:
    /// so many are handed to the kernel in one call, which is refused beyond, and then all ten are lost.
    pub max_datagram_bytes: u16,
    /// How often a larger one is looked for.
    pub datagram_search_interval: Duration,
    /// How much is sent.
    pub congestion_control: CongestionControl,
    /// The socket's buffers, as far as the system grants them.
    pub socket_buffer_bytes: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            send_window_bytes: 16 << 20,
            max_streams: 1024,
            max_incoming_connections: 1024,
            max_joining_connections: 32,
            max_handshakes: 128,
            max_datagram_bytes: 6550,
            datagram_search_interval: Duration::from_secs(120),
            congestion_control: CongestionControl::default(),
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// Why something among peers failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// One of both sides does not accept the other.
    #[error("the handshake was refused: {reason}")]
    Refused {
        /// Which side, and why.
        reason: String,
    },
    /// Nobody is there.
    #[error("the peer is not reachable: {reason}")]
    Unreachable {
        /// How that is known.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("nothing came from the peer for too long")]
    TimedOut,
    /// The peer closed the connection.
    #[error("the peer closed the connection: {reason}")]
    Closed {
        /// What it says.
        reason: String,
    },
    /// The peer does not know the connection any more, as after a restart, or gave up the stream.
    #[error("the peer has given this up, or restarted")]
    Reset,
    /// The connection, or the endpoint, was closed here.
    #[error("closed on this side")]
    Local,
    /// The address can't be used.
    #[error("the address of a peer can't be used address={address}: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How a connection fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    /// Smoothed time from here to the peer and back.
    pub round_trip: Duration,
    /// Packets that were lost on the way to the peer.
    pub lost_packets: u64,
    /// How much may be under way at once.
    pub congestion_window_bytes: u64,
    /// Bytes in datagrams to the peer.
    pub sent_bytes: u64,
    /// Bytes in datagrams from the peer.
    pub received_bytes: u64,
    /// Largest datagram that the path is known to carry.
    pub datagram_bytes: u16,
}

/// The network among brokers.
pub trait PeerNet: Send + Sync {
    /// Binds the one UDP socket of a broker; port 0 picks a free port. An identity that can't be used is an error that says why.
    fn bind(
        &self,
        address: SocketAddr,
        identity: PeerIdentity,
        settings: PeerSettings,
    ) -> BoxFuture<'_, io::Result<Arc<dyn PeerEndpoint>>>;

    /// Begins to watch whether a process has the UDP port of `host:port`, which is resolved once.
    fn lifeline<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Lifeline>>>;
}

/// Tells that a process is gone, as far as its machine, which must be up for that, says so.
pub trait Lifeline: Send {
    /// Asks once, within milliseconds. True when the machine said, since it was last asked, that no process has the port; false
    /// when it said nothing: the process is there, or its machine can't be reached, or answers of this kind are filtered.
    fn is_gone(&mut self) -> BoxFuture<'_, bool>;
}

/// A bound socket: it dials and is dialled. Dropped, it takes no more connections, and those that are open stay until they are
/// dropped as well.
pub trait PeerEndpoint: Send + Sync {
    /// The address that was bound, with the port that was picked.
    fn local_address(&self) -> io::Result<SocketAddr>;

    /// Changes what this node shows and whom it trusts. Connections that are made from now on use it; those that are open stay.
    fn set_identity(&self, identity: PeerIdentity) -> io::Result<()>;

    /// Opens a connection to `host:port`. It is there once the peer, too, has accepted it.
    fn connect<'a>(
        &'a self,
        address: &'a str,
        expected: ExpectedPeer,
    ) -> BoxFuture<'a, Result<Arc<dyn PeerConnection>, PeerError>>;

    /// The next connection that somebody made, handshake included; none once this endpoint is closed. Handshakes go on only
    /// while somebody waits here. Cancelled, it loses no connection.
    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn PeerConnection>>>;

    /// Closes all connections and takes no more, and waits, for a moment at most, until peers could hear of it.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A connection with one peer. It is closed when all of its handles, those of its streams included, are dropped.
pub trait PeerConnection: Send + Sync {
    /// Who is at the other end.
    fn remote(&self) -> &RemotePeer;

    /// Opens a stream of both directions, and waits while the peer has too many open. The peer hears of it with the first bytes.
    /// What streams of a higher priority have to send goes first; 0 is the usual one.
    fn open(&self, priority: i32) -> BoxFuture<'_, Result<PeerStream, PeerError>>;

    /// The next stream that the peer opened. Cancelled, it loses none.
    fn accept(&self) -> BoxFuture<'_, Result<PeerStream, PeerError>>;

    /// Closes the connection at once, with a reason for the peer. What was not acknowledged is lost.
    fn close(&self, reason: &str);

    /// Waits until the connection is gone, and says why.
    fn closed(&self) -> BoxFuture<'_, PeerError>;

    /// How it fares.
    fn statistics(&self) -> PeerStatistics;
}

/// Both directions of a stream.
pub struct PeerStream {
    /// To the peer.
    pub send: Box<dyn PeerSend>,
    /// From the peer.
    pub receive: Box<dyn PeerReceive>,
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerStream")
    }
}

/// The sending half. Dropped before [`Self::finish`] it is reset: what a task did not finish does not look whole to the peer.
pub trait PeerSend: Send {
    /// Sends all chunks in order, waiting while the peer does not read; they are taken, not copied. Cancelled, some were sent.
    fn send<'a>(&'a mut self, chunks: &'a mut [Bytes]) -> BoxFuture<'a, Result<(), PeerError>>;

    /// Says that nothing follows. What was sent before is still delivered.
    fn finish(&mut self);

    /// Gives the stream up: the peer learns that it is not whole.
    fn reset(&mut self);
}

/// The receiving half. Dropped before its end it is stopped.
pub trait PeerReceive: Send {
    /// The next bytes in order, at most so many; none at the end. Cancelled, it loses nothing.
    fn receive(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Bytes>, PeerError>>;

    /// Takes no more: the sender learns that it may stop.
    fn stop(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_identity_is_not_printed() {
        let identity = PeerIdentity { certificates: vec![], key: Secret::new(vec![42]), authorities: vec![] };
        let printed = format!("{identity:?}");
        assert!(printed.contains("<redacted>") && !printed.contains("42"), "{printed}");
    }

    #[test]
    fn what_is_handed_to_the_kernel_in_one_call_fits_into_one_datagram_of_ip() {
        assert!(u32::from(PeerSettings::default().max_datagram_bytes) * 10 <= 65_507);
    }
}

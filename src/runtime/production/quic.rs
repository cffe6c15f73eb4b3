//! QUIC by quinn: one UDP socket per broker, which dials and is dialled. The peer layer calls it through `runtime::peers`.
//!
//! Who dials waits for one byte on a stream of its own, the greeting: in TLS 1.3 the dialling side is done before the other
//! one has looked at its certificate, and would take a connection for made that is about to be refused. After a restart the
//! endpoint tells peers that it does not know their connections any more (RFC 9000, 10.3), by tokens that follow from the
//! node's private key; so they dial anew at once instead of waiting for the idle time-out. Nothing is kept over a crash.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::RwLock;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    Connecting, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    IdleTimeout, Incoming, MtuDiscoveryConfig, ReadError, TokioRuntime, TransportConfig, VarInt, WriteError,
};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use tokio::net::lookup_host;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::lifeline::{Probe, lifeline};
use super::{KernelEntropy, tls};
use crate::runtime::entropy::Entropy;
use crate::runtime::net::BoxFuture;
use crate::runtime::peers::{
    CongestionControl, ExpectedPeer, Lifeline, PeerConnection, PeerEndpoint, PeerError, PeerIdentity, PeerNet,
    PeerProtocol, PeerReceive, PeerSend, PeerSettings, PeerStatistics, PeerStream, RemotePeer,
};

/// Addresses of one name that are tried one after another.
const MAX_ADDRESSES: usize = 4;
/// How long closing waits until peers could hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that joins asks one thing, at once; a place that it has without asking is taken back.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Brokers are rarely further from each other. Before a round trip was measured, what got lost is sent again after three of it.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(50);
/// While a peer is dialled: how often it is asked whether a process is there, and the pause before the second answer that counts.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
const SECOND_PROBE: Duration = Duration::from_millis(20);
/// Bytes that are kept of connections whose handshake has not begun: of one, and of all.
const INCOMING_BYTES: u64 = 64 << 10;
const INCOMING_TOTAL_BYTES: u64 = 1 << 20;
const CONNECTION_ID_BYTES: usize = 8;
/// The byte that accepts a connection.
const GREETING: u8 = 1;
/// What a name stands for where none is checked.
const ANY_MEMBER: &str = "alluvium.internal";

/// Codes for closing; people read the reason beside them.
const CLOSED: VarInt = VarInt::from_u32(0);
const REFUSED: VarInt = VarInt::from_u32(1);

/// QUIC over UDP.
#[derive(Clone, Copy, Debug)]
pub struct Quic;

impl PeerNet for Quic {
    fn bind(
        &self,
        address: SocketAddr,
        identity: PeerIdentity,
        settings: PeerSettings,
    ) -> BoxFuture<'_, io::Result<Arc<dyn PeerEndpoint>>> {
        Box::pin(async move {
            let endpoint = QuicEndpoint::bind(address, &identity, settings)?;
            Ok(Arc::new(endpoint) as Arc<dyn PeerEndpoint>)
        })
    }

    fn lifeline<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Lifeline>>> {
        Box::pin(lifeline(address))
    }
}

type Accepted = Option<Arc<dyn PeerConnection>>;

struct QuicEndpoint {
    endpoint: Endpoint,
    settings: PeerSettings,
    transport: Arc<TransportConfig>,
    /// For dialling members; none before this node has a certificate.
    member: RwLock<Option<quinn::ClientConfig>>,
    /// Places for connections that others make, and of those the ones for nodes that join.
    places: Arc<Semaphore>,
    joining_places: Arc<Semaphore>,
    /// Handshakes of others, all at once: a slow one holds up nobody.
    handshakes: Mutex<FuturesUnordered<BoxFuture<'static, Accepted>>>,
}

impl QuicEndpoint {
    fn bind(address: SocketAddr, identity: &PeerIdentity, settings: PeerSettings) -> io::Result<Self> {
        let transport = Arc::new(transport(&settings)?);
        let (listening, member) = configurations(identity, &settings, &transport)?;
        let socket = UdpSocket::bind(address)?;
        enlarge_buffers(&socket, settings.socket_buffer_bytes);
        let endpoint = Endpoint::new(endpoint_config(identity, &settings)?, listening, socket, Arc::new(TokioRuntime))?;
        let places = Arc::new(Semaphore::new(settings.max_incoming_connections));
        let joining_places = Arc::new(Semaphore::new(settings.max_joining_connections));
        let (member, handshakes) = (RwLock::new(member), Mutex::default());
        Ok(Self { endpoint, settings, transport, member, places, joining_places, handshakes })
    }

    /// What to dial with, and the name that the peer has to prove.
    fn expecting(&self, address: &str, expected: &ExpectedPeer) -> Result<(quinn::ClientConfig, String), PeerError> {
        let refused = |reason: String| PeerError::Refused { reason };
        let name = match expected {
            ExpectedPeer::Authority(authority) => {
                let tls = tls::joining(*authority).map_err(|error| refused(error.to_string()))?;
                let config = client(tls, &self.transport).map_err(|error| refused(error.to_string()))?;
                return Ok((config, ANY_MEMBER.to_owned()));
            }
            ExpectedPeer::Named(name) => name.clone(),
            ExpectedPeer::HostOfAddress => host_of(address).to_owned(),
        };
        let config = self.member.read().clone();
        let config =
            config.ok_or_else(|| refused("this node has no certificate yet: it has to join first".to_owned()))?;
        Ok((config, name))
    }

    async fn dial(&self, address: &str, expected: &ExpectedPeer) -> Result<(Connection, RemotePeer), PeerError> {
        let (config, name) = self.expecting(address, expected)?;
        let unusable = |reason: String| PeerError::Address { address: address.to_owned(), reason };
        let resolved = lookup_host(address).await.map_err(|error| unusable(error.to_string()))?;
        let takes_v6 = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        let mut failed = unusable("it has no address of the kind that --peer-listen is bound to".to_owned());
        for resolved in resolved.filter(|resolved| takes_v6 || resolved.is_ipv4()).take(MAX_ADDRESSES) {
            let connecting = match self.endpoint.connect_with(config.clone(), resolved, &name) {
                Ok(connecting) => connecting,
                Err(quinn::ConnectError::EndpointStopping) => return Err(PeerError::Local),
                Err(error) => return Err(unusable(error.to_string())),
            };
            let dialled = tokio::select! {
                greeted = greeted(connecting) => greeted,
                () = nobody_there(resolved) => {
                    Err(PeerError::Unreachable { reason: format!("no process has UDP port {resolved}") })
                }
            };
            match dialled {
                Ok(dialled) => return Ok(dialled),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Lets somebody in as far as the handshake, or turns them away.
    fn begin(&self, incoming: Incoming, under_way: usize) -> Option<BoxFuture<'static, Accepted>> {
        let (address, limit) = (incoming.remote_address(), self.settings.max_handshakes);
        if under_way >= limit {
            tracing::debug!(%address, "peer is refused: too many handshakes are under way");
            incoming.refuse();
            return None;
        }
        if under_way * 2 >= limit && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%address, %error, "peer is refused: its address can't be checked");
            }
            return None;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(%address, "peer is refused: too many connections are open");
            incoming.refuse();
            return None;
        };
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%address, %error, "handshake of a peer failed");
                return None;
            }
        };
        let (limit, joining_places) = (self.settings.handshake_timeout, Arc::clone(&self.joining_places));
        Some(Box::pin(async move {
            let greeting = timeout(limit, greet(connecting, joining_places)).await;
            match greeting.unwrap_or(Err(PeerError::TimedOut)) {
                Ok((connection, remote, joining)) => {
                    let places = vec![Some(place), joining];
                    Some(Arc::new(QuicConnection { connection, remote, _places: places }) as Arc<dyn PeerConnection>)
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "handshake of a peer failed");
                    None
                }
            }
        }))
    }
}

impl PeerEndpoint for QuicEndpoint {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    fn set_identity(&self, identity: PeerIdentity) -> io::Result<()> {
        let (listening, member) = configurations(&identity, &self.settings, &self.transport)?;
        self.endpoint.set_server_config(listening);
        *self.member.write() = member;
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        address: &'a str,
        expected: ExpectedPeer,
    ) -> BoxFuture<'a, Result<Arc<dyn PeerConnection>, PeerError>> {
        Box::pin(async move {
            let dialled = timeout(self.settings.handshake_timeout, self.dial(address, &expected)).await;
            let (connection, remote) = dialled.unwrap_or(Err(PeerError::TimedOut))?;
            Ok(Arc::new(QuicConnection { connection, remote, _places: Vec::new() }) as Arc<dyn PeerConnection>)
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn PeerConnection>>> {
        Box::pin(async move {
            let mut handshakes = self.handshakes.lock().await;
            loop {
                tokio::select! {
                    incoming = self.endpoint.accept() => {
                        let incoming = incoming?;
                        let begun = self.begin(incoming, handshakes.len());
                        handshakes.extend(begun);
                    }
                    Some(accepted) = handshakes.next(), if !handshakes.is_empty() => {
                        if accepted.is_some() {
                            return accepted;
                        }
                    }
                }
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.endpoint.close(CLOSED, b"the broker stops");
            if timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await.is_err() {
                tracing::debug!("some peers may not have heard that this broker stops");
            }
        })
    }
}

struct QuicConnection {
    connection: Connection,
    remote: RemotePeer,
    /// Given back with this handle.
    _places: Vec<Option<OwnedSemaphorePermit>>,
}

impl PeerConnection for QuicConnection {
    fn remote(&self) -> &RemotePeer {
        &self.remote
    }

    fn open(&self, priority: i32) -> BoxFuture<'_, Result<PeerStream, PeerError>> {
        Box::pin(async move {
            let (send, receive) = self.connection.open_bi().await.map_err(lost)?;
            // A stream that was just opened takes a priority, unless the connection is lost: then sending says so.
            let _ = send.set_priority(priority);
            Ok(stream(send, receive))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<PeerStream, PeerError>> {
        Box::pin(async move {
            let accepted = self.connection.accept_bi();
            let accepted = match self.remote.protocol {
                PeerProtocol::Member => accepted.await,
                PeerProtocol::Join => match timeout(JOIN_TIMEOUT, accepted).await {
                    Ok(accepted) => accepted,
                    Err(_) => {
                        self.close("nothing was asked for too long");
                        return Err(PeerError::Local);
                    }
                },
            };
            let (send, receive) = accepted.map_err(lost)?;
            Ok(stream(send, receive))
        })
    }

    fn close(&self, reason: &str) {
        self.connection.close(CLOSED, reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'_, PeerError> {
        Box::pin(async move { lost(self.connection.closed().await) })
    }

    fn statistics(&self) -> PeerStatistics {
        let stats = self.connection.stats();
        PeerStatistics {
            round_trip: stats.path.rtt,
            lost_packets: stats.path.lost_packets,
            congestion_window_bytes: stats.path.cwnd,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            datagram_bytes: stats.path.current_mtu,
        }
    }
}

fn stream(send: quinn::SendStream, receive: quinn::RecvStream) -> PeerStream {
    PeerStream {
        send: Box::new(QuicSend { stream: send, is_over: false }),
        receive: Box::new(QuicReceive { stream: receive }),
    }
}

struct QuicSend {
    stream: quinn::SendStream,
    is_over: bool,
}

impl PeerSend for QuicSend {
    fn send<'a>(&'a mut self, chunks: &'a mut [Bytes]) -> BoxFuture<'a, Result<(), PeerError>> {
        Box::pin(async move {
            self.stream.write_all_chunks(chunks).await.map_err(|error| match error {
                WriteError::Stopped(_) => PeerError::Reset,
                WriteError::ConnectionLost(error) => lost(error),
                WriteError::ClosedStream | WriteError::ZeroRttRejected => PeerError::Local,
            })
        })
    }

    fn finish(&mut self) {
        self.is_over = true;
        // Fails only for a stream that is over already.
        let _ = self.stream.finish();
    }

    fn reset(&mut self) {
        self.is_over = true;
        let _ = self.stream.reset(CLOSED);
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        // quinn would finish it.
        if !self.is_over {
            self.reset();
        }
    }
}

struct QuicReceive {
    stream: quinn::RecvStream,
}

impl PeerReceive for QuicReceive {
    fn receive(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Bytes>, PeerError>> {
        Box::pin(async move {
            let chunk = self.stream.read_chunk(max_bytes, true).await.map_err(unread)?;
            Ok(chunk.map(|chunk| chunk.bytes))
        })
    }

    fn stop(&mut self) {
        // Fails only for a stream that is over already.
        let _ = self.stream.stop(CLOSED);
    }
}

/// The dialling half of a handshake, up to the greeting.
async fn greeted(connecting: Connecting) -> Result<(Connection, RemotePeer), PeerError> {
    let connection = connecting.await.map_err(refused)?;
    let (remote, _) = remote(&connection)?;
    let mut greeting = connection.accept_uni().await.map_err(refused)?;
    match greeting.read_chunk(1, true).await {
        Ok(Some(chunk)) if chunk.bytes.first() == Some(&GREETING) => Ok((connection, remote)),
        Err(ReadError::ConnectionLost(error)) => Err(refused(error)),
        Ok(_) | Err(_) => Err(PeerError::Refused { reason: "the peer does not greet as brokers do".to_owned() }),
    }
}

/// The other half: looks at who dials, and greets.
async fn greet(
    connecting: Connecting,
    joining_places: Arc<Semaphore>,
) -> Result<(Connection, RemotePeer, Option<OwnedSemaphorePermit>), PeerError> {
    let connection = connecting.await.map_err(refused)?;
    let (mut remote, is_proven) = remote(&connection)?;
    let refuse = |reason: &str| {
        connection.close(REFUSED, reason.as_bytes());
        PeerError::Refused { reason: reason.to_owned() }
    };
    let joining = match remote.protocol {
        PeerProtocol::Member if !is_proven => {
            return Err(refuse("a member has to show its certificate: a node without one joins with a token"));
        }
        PeerProtocol::Member => None,
        PeerProtocol::Join => {
            remote.names = Vec::new();
            let place = joining_places.try_acquire_owned();
            Some(place.map_err(|_| refuse("too many nodes are joining: try again in a minute"))?)
        }
    };
    let mut greeting = connection.open_uni().await.map_err(refused)?;
    greeting.write_all(&[GREETING]).await.map_err(|error| PeerError::Refused { reason: error.to_string() })?;
    // Fails only for a stream that is over already.
    let _ = greeting.finish();
    Ok((connection, remote, joining))
}

/// Who is at the other end, and whether it has shown a certificate.
fn remote(connection: &Connection) -> Result<(RemotePeer, bool), PeerError> {
    let agreed = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = agreed.and_then(|agreed| agreed.protocol).as_deref().and_then(tls::protocol);
    let protocol =
        protocol.ok_or_else(|| PeerError::Refused { reason: "the peer speaks no protocol of brokers".to_owned() })?;
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let names = chain.as_ref().map(|chain| tls::names(chain)).unwrap_or_default();
    let address = connection.remote_address();
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let is_proven = chain.is_some_and(|chain| !chain.is_empty());
    Ok((RemotePeer { address, protocol, names }, is_proven))
}

/// Resolves once the machine of an address has said twice that no process has the port.
async fn nobody_there(address: SocketAddr) {
    let Ok(probe) = Probe::open(address) else { return pending().await };
    loop {
        sleep(PROBE_INTERVAL).await;
        if probe.ask().await {
            sleep(SECOND_PROBE).await;
            if probe.ask().await {
                return;
            }
        }
    }
}

/// Why a connection is gone.
fn lost(error: ConnectionError) -> PeerError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            PeerError::Closed { reason: reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() }
        }
        ConnectionError::Reset => PeerError::Reset,
        ConnectionError::TimedOut => PeerError::TimedOut,
        ConnectionError::LocallyClosed => PeerError::Local,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => PeerError::Closed { reason: error.to_string() },
    }
}

/// Why a connection was not made: whoever closes during the handshake refuses.
fn refused(error: ConnectionError) -> PeerError {
    match lost(error) {
        PeerError::Closed { reason } => PeerError::Refused { reason },
        other => other,
    }
}

/// Why nothing more is read.
fn unread(error: ReadError) -> PeerError {
    match error {
        ReadError::Reset(_) => PeerError::Reset,
        ReadError::ConnectionLost(error) => lost(error),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => PeerError::Local,
    }
}

/// The host of `host:port`, without the brackets of IPv6.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// For being dialled and for dialling members; neither without a certificate.
fn configurations(
    identity: &PeerIdentity,
    settings: &PeerSettings,
    transport: &Arc<TransportConfig>,
) -> io::Result<(Option<quinn::ServerConfig>, Option<quinn::ClientConfig>)> {
    if identity.certificates.is_empty() {
        return Ok((None, None));
    }
    let crypto = QuicServerConfig::try_from(tls::listening(identity)?).map_err(io::Error::other)?;
    let mut listening = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    listening
        .transport_config(Arc::clone(transport))
        .max_incoming(settings.max_handshakes)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES);
    let member = client(tls::member(identity)?, transport)?;
    Ok((Some(listening), Some(member)))
}

fn client(tls: rustls::ClientConfig, transport: &Arc<TransportConfig>) -> io::Result<quinn::ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::clone(transport));
    Ok(config)
}

fn transport(settings: &PeerSettings) -> io::Result<TransportConfig> {
    let idle_timeout = IdleTimeout::try_from(settings.idle_timeout)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut search = MtuDiscoveryConfig::default();
    search.interval(settings.datagram_search_interval).upper_bound(settings.max_datagram_bytes);
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = match settings.congestion_control {
        CongestionControl::Cubic => Arc::new(CubicConfig::default()),
        CongestionControl::Bbr => Arc::new(BbrConfig::default()),
        CongestionControl::NewReno => Arc::new(NewRenoConfig::default()),
    };
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle_timeout))
        .keep_alive_interval(Some(settings.keep_alive))
        .stream_receive_window(VarInt::from_u32(settings.stream_window_bytes))
        .receive_window(VarInt::from_u32(settings.connection_window_bytes))
        .send_window(u64::from(settings.send_window_bytes))
        .max_concurrent_bidi_streams(VarInt::from_u32(settings.max_streams))
        // The greeting.
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .initial_rtt(INITIAL_ROUND_TRIP)
        .mtu_discovery_config(Some(search))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(congestion);
    Ok(transport)
}

fn endpoint_config(identity: &PeerIdentity, settings: &PeerSettings) -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomIds));
    if !identity.certificates.is_empty() {
        // The same after a restart, so that peers recognize what tells them of it.
        let key = hmac::Key::new(hmac::HMAC_SHA256, identity.key.expose());
        let derived = hmac::sign(&key, b"alluvium-peer stateless resets");
        config.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())));
    }
    config
        .max_udp_payload_size(settings.max_datagram_bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(config)
}

/// Connection ids of which a process does not know whether they are its own or an earlier one's. With quinn's own, a restarted
/// endpoint would ignore packets of connections that it does not know, instead of answering that it does not.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        KernelEntropy.fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Asks for buffers that hold a burst of a fast link; the system's limit costs losses and no more.
fn enlarge_buffers(socket: &UdpSocket, bytes: u32) {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let enlarged = rustix::net::sockopt::set_socket_recv_buffer_size(socket, bytes)
        .and_then(|()| rustix::net::sockopt::set_socket_send_buffer_size(socket, bytes));
    if let Err(error) = enlarged {
        tracing::debug!(%error, "the peers' socket keeps buffers of the usual size");
    }
}

#[cfg(test)]
mod tests;

//! Requests among brokers: one stream each, over connections that are dialled when they are needed.
//!
//! [`Peers`] is what a node has of the others: where each is, and a connection to it. [`serve`] answers what others ask:
//! the first message of a stream says what it is about, and who registered for that kind takes the stream over. A request
//! is an envelope of JSON ([`Envelope`]) that names cluster and caller, and parts of bytes. Nothing here is kept over a crash.
//!
//! Every wait has a limit: dialling, sending and answers by the caller's time-out; requests of one connection by
//! [`MAX_REQUESTS`]; a message by the limit of its reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::authority;
use super::frame::{self, FrameError, Message};
pub use super::refusal::{Refusal, RefusalCode};
use crate::runtime::Runtime;
use crate::runtime::clock;
use crate::runtime::net::BoxFuture;
use crate::runtime::peers::{
    ExpectedPeer, PeerConnection, PeerEndpoint, PeerError, PeerProtocol, PeerReceive, PeerSend, PeerStream,
};
use crate::runtime::watch;
use crate::types::{ClusterId, Monotonic, NodeId};

/// Requests of one connection that are answered at once; more wait to be read.
pub const MAX_REQUESTS: usize = 256;
/// Largest message of a request or an answer: a part of a snapshot, or entries of the metadata log.
pub const MESSAGE_LIMIT_BYTES: usize = 64 << 20;
/// How long a caller may take to send what it asks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that was not reached is dialled again after so long; meanwhile requests fail at once.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);
const REDIAL_LONGEST: Duration = Duration::from_secs(1);
/// How long dialling may take: a peer in the same region answers within milliseconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are read of a stream at once.
const READ_BYTES: usize = 64 << 10;
/// Kind of an answer that refuses.
const REFUSED: u16 = 0;

/// The kinds of messages that begin a stream; those of one range belong to one room.
pub mod kind {
    /// Raft's AppendEntries.
    pub const RAFT_APPEND: u16 = 1;
    /// Raft's RequestVote.
    pub const RAFT_VOTE: u16 = 2;
    /// Raft's InstallSnapshot.
    pub const RAFT_SNAPSHOT: u16 = 3;
    /// Whether a vote would be given (Ongaro 2014, 9.6).
    pub const RAFT_PRE_VOTE: u16 = 4;
    /// Commands for the leader of the metadata.
    pub const METADATA_SUBMIT: u16 = 5;
    /// How far the metadata is committed.
    pub const METADATA_READ_INDEX: u16 = 6;
    /// A broker's heartbeat to the controller.
    pub const BROKER_HEARTBEAT: u16 = 7;
    /// A change of who votes, and what the leader knows of the quorum.
    pub const QUORUM_CHANGE: u16 = 8;
    /// What the leader knows of the quorum.
    pub const QUORUM_STATUS: u16 = 9;
    /// A node that wants to become a member.
    pub const JOIN: u16 = 16;
    /// Records of partitions.
    pub const REPLICATION: u16 = 32;
}

/// What every request begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<T> {
    /// The cluster that the caller belongs to; absent while it joins.
    pub cluster_id: Option<ClusterId>,
    /// The caller.
    pub from: NodeId,
    /// What it asks.
    pub body: T,
}

/// Why a request was not answered.
#[derive(Clone, Debug, Error)]
pub enum RpcError {
    /// Nobody knows where the peer is.
    #[error("no address is known of this broker node_id={0}")]
    NoAddress(NodeId),
    /// There is no connection, so nothing was sent.
    #[error("peer is not reached node_id={node_id}: {source}")]
    NotReached {
        /// The peer.
        node_id: NodeId,
        /// Why.
        source: PeerError,
    },
    /// The connection failed; whether the request arrived is not known.
    #[error("connection to a peer failed node_id={node_id}: {source}")]
    Broken {
        /// The peer.
        node_id: NodeId,
        /// Why.
        source: PeerError,
    },
    /// No answer came in time; whether the request arrived is not known.
    #[error("peer does not answer in time node_id={0}")]
    TimedOut(NodeId),
    /// The peer says no.
    #[error("peer refuses node_id={node_id}: {refusal}")]
    Refused {
        /// The peer.
        node_id: NodeId,
        /// What it says.
        refusal: Refusal,
    },
    /// The answer can't be read.
    #[error("answer of a peer can't be read node_id={node_id}: {reason}")]
    Malformed {
        /// The peer.
        node_id: NodeId,
        /// What is wrong with it.
        reason: String,
    },
}

impl RpcError {
    /// Whether the peer has certainly done nothing.
    pub const fn is_without_effect(&self) -> bool {
        matches!(self, Self::NoAddress(_) | Self::NotReached { .. } | Self::Refused { .. })
    }
}

/// Whether peers have certificates of the cluster's own authority, which name the node, or of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// A certificate names its node.
    ByNode,
    /// A certificate names the host that the node is reached by; the node says its number itself.
    ByHost,
}

/// One connection to a peer, or the attempt to get one.
#[derive(Default)]
struct Slot {
    connection: Option<Arc<dyn PeerConnection>>,
    failures: u32,
    not_before: Monotonic,
}

/// Whoever needs the connection waits for the same attempt.
type SharedSlot = Arc<AsyncMutex<Slot>>;

/// See the module.
pub struct Peers {
    runtime: Runtime,
    endpoint: Arc<dyn PeerEndpoint>,
    cluster_id: ClusterId,
    node_id: NodeId,
    naming: Naming,
    addresses: RwLock<BTreeMap<NodeId, String>>,
    slots: Mutex<BTreeMap<(NodeId, u16), SharedSlot>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers({})", self.node_id)
    }
}

impl Peers {
    /// The peers of a node, as they are reached through its endpoint.
    pub fn new(
        runtime: Runtime,
        endpoint: Arc<dyn PeerEndpoint>,
        cluster_id: ClusterId,
        node_id: NodeId,
        naming: Naming,
    ) -> Self {
        let (addresses, slots) = (RwLock::default(), Mutex::default());
        Self { runtime, endpoint, cluster_id, node_id, naming, addresses, slots }
    }

    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<dyn PeerEndpoint> {
        &self.endpoint
    }

    /// The clock that its waits go by.
    pub const fn clock(&self) -> &Arc<dyn clock::Clock> {
        &self.runtime.clock
    }

    /// This node.
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Says where a peer is from now on.
    pub fn set_address(&self, node_id: NodeId, address: &str) {
        let before = self.addresses.write().insert(node_id, address.to_owned());
        if before.is_some_and(|before| before != address) {
            self.disconnect(node_id, "you are reached elsewhere");
        }
    }

    /// Lets go of a peer that belongs to the cluster no more: it is not dialled, and what is open is closed.
    pub fn remove(&self, node_id: NodeId) {
        if self.addresses.write().remove(&node_id).is_some() {
            self.disconnect(node_id, "you were removed from the cluster");
        }
    }

    /// The peers whose address is known.
    pub fn known(&self) -> Vec<NodeId> {
        self.addresses.read().keys().copied().filter(|node_id| *node_id != self.node_id).collect()
    }

    /// Where a peer is.
    pub fn address(&self, node_id: NodeId) -> Option<String> {
        self.addresses.read().get(&node_id).cloned()
    }

    /// A connection to a peer, one of several that are told apart by a number; dialled if there is none.
    ///
    /// # Errors
    /// [`RpcError`]; nothing was sent.
    pub async fn connection(&self, node_id: NodeId, number: u16) -> Result<Arc<dyn PeerConnection>, RpcError> {
        let address = self.address(node_id).ok_or(RpcError::NoAddress(node_id))?;
        let slot = Arc::clone(self.slots.lock().entry((node_id, number)).or_default());
        let mut slot = slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok(Arc::clone(connection));
        }
        let now = self.runtime.clock.monotonic();
        let not_reached = |source| RpcError::NotReached { node_id, source };
        if now < slot.not_before {
            return Err(not_reached(PeerError::Unreachable { reason: "it was not reached a moment ago".to_owned() }));
        }
        let expected = match self.naming {
            Naming::ByNode => ExpectedPeer::Named(authority::node_name(self.cluster_id, node_id)),
            Naming::ByHost => ExpectedPeer::HostOfAddress,
        };
        let dialled =
            clock::timeout(&*self.runtime.clock, DIAL_TIMEOUT, self.endpoint.connect(&address, expected)).await;
        match dialled.unwrap_or(Err(PeerError::TimedOut)) {
            Ok(connection) => {
                *slot = Slot { connection: Some(Arc::clone(&connection)), ..Slot::default() };
                Ok(connection)
            }
            Err(error) => {
                let pause = REDIAL_PAUSE.saturating_mul(1 << slot.failures.min(6)).min(REDIAL_LONGEST);
                slot.failures = slot.failures.saturating_add(1);
                slot.not_before = self.runtime.clock.monotonic() + pause;
                Err(not_reached(error))
            }
        }
    }

    /// Closes the connections to a peer that will not answer over them: nobody waits for that any more.
    pub fn disconnect(&self, node_id: NodeId, reason: &str) {
        let slots = self.slots.lock();
        for slot in slots.range((node_id, 0)..=(node_id, u16::MAX)).map(|(_, slot)| slot) {
            // One that is being dialled finds out by itself.
            if let Some(connection) = slot.try_lock().ok().and_then(|mut slot| slot.connection.take()) {
                connection.close(reason);
            }
        }
    }

    /// Has the next request dial again, if the connection is still the one that failed.
    pub async fn forget(&self, node_id: NodeId, number: u16, failed: &Arc<dyn PeerConnection>) {
        let slot = self.slots.lock().get(&(node_id, number)).cloned();
        let Some(slot) = slot else { return };
        let mut slot = slot.lock().await;
        if slot.connection.as_ref().is_some_and(|connection| Arc::ptr_eq(connection, failed)) {
            slot.connection = None;
        }
    }

    /// Asks a peer and waits for its answer.
    ///
    /// # Errors
    /// [`RpcError`]; see [`RpcError::is_without_effect`].
    pub async fn call<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        node_id: NodeId,
        kind: u16,
        body: &B,
        parts: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<(A, Vec<Bytes>), RpcError> {
        let asked = async {
            let mut is_first = true;
            loop {
                let connection = self.connection(node_id, 0).await?;
                let answer = self.ask(&connection, kind, body, parts.clone()).await;
                if answer.is_err() {
                    self.forget(node_id, 0, &connection).await;
                }
                match answer {
                    // The peer had closed it, or restarted; it is dialled anew.
                    Err(AskError::NotOpened(_)) if std::mem::take(&mut is_first) => {}
                    answer => return answer.map_err(|error| error.of(node_id)),
                }
            }
        };
        let answered = clock::timeout(&*self.runtime.clock, timeout, asked).await;
        answered.unwrap_or(Err(RpcError::TimedOut(node_id)))
    }

    /// Begins a stream that the peer takes over, on one of several connections: gives its answer, what came behind that, and the stream.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn begin<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        node_id: NodeId,
        number: u16,
        kind: u16,
        priority: i32,
        body: &B,
        timeout: Duration,
    ) -> Result<(A, Bytes, PeerStream), RpcError> {
        let begun = async {
            let connection = self.connection(node_id, number).await?;
            let envelope = Envelope { cluster_id: Some(self.cluster_id), from: self.node_id, body };
            let begun = begin(&connection, kind, priority, &envelope).await;
            if begun.is_err() {
                self.forget(node_id, number, &connection).await;
            }
            begun.map_err(|error| error.of(node_id))
        };
        let begun = clock::timeout(&*self.runtime.clock, timeout, begun).await;
        begun.unwrap_or(Err(RpcError::TimedOut(node_id)))
    }

    async fn ask<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        connection: &Arc<dyn PeerConnection>,
        kind: u16,
        body: &B,
        parts: Vec<Bytes>,
    ) -> Result<(A, Vec<Bytes>), AskError> {
        let envelope = Envelope { cluster_id: Some(self.cluster_id), from: self.node_id, body };
        ask(connection, kind, &envelope, parts).await
    }
}

/// Why one request over one connection has no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// The connection was gone before anything was sent.
    #[error("{0}")]
    NotOpened(PeerError),
    /// The connection failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// What came can't be read.
    #[error("{0}")]
    Malformed(String),
    /// The peer says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<FrameError> for AskError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl AskError {
    fn of(self, node_id: NodeId) -> RpcError {
        match self {
            Self::NotOpened(source) => RpcError::NotReached { node_id, source },
            Self::Peer(source) => RpcError::Broken { node_id, source },
            Self::Malformed(reason) => RpcError::Malformed { node_id, reason },
            Self::Refused(refusal) => RpcError::Refused { node_id, refusal },
        }
    }
}

/// Asks over a connection, with an envelope of the caller's own. For who is no member yet.
///
/// # Errors
/// [`AskError`].
pub async fn ask<B: Serialize + Sync, A: DeserializeOwned>(
    connection: &Arc<dyn PeerConnection>,
    kind: u16,
    envelope: &Envelope<B>,
    parts: Vec<Bytes>,
) -> Result<(A, Vec<Bytes>), AskError> {
    let PeerStream { mut send, mut receive } = connection.open(0).await.map_err(AskError::NotOpened)?;
    say(send.as_mut(), kind, envelope, parts).await?;
    send.finish();
    let (answer, _) = read_message(receive.as_mut(), MESSAGE_LIMIT_BYTES).await?;
    let parts = answer.parts.clone();
    Ok((body_of(&answer)?, parts))
}

async fn begin<B: Serialize + Sync, A: DeserializeOwned>(
    connection: &Arc<dyn PeerConnection>,
    kind: u16,
    priority: i32,
    envelope: &Envelope<B>,
) -> Result<(A, Bytes, PeerStream), AskError> {
    let mut stream = connection.open(priority).await.map_err(AskError::NotOpened)?;
    say(stream.send.as_mut(), kind, envelope, Vec::new()).await?;
    let (answer, rest) = read_message(stream.receive.as_mut(), MESSAGE_LIMIT_BYTES).await?;
    Ok((body_of(&answer)?, rest, stream))
}

/// Says what a stream is about.
async fn say<B: Serialize + Sync>(
    send: &mut dyn PeerSend,
    kind: u16,
    envelope: &Envelope<B>,
    parts: Vec<Bytes>,
) -> Result<(), AskError> {
    let header = serde_json::to_vec(envelope).map_err(|error| AskError::Malformed(error.to_string()))?;
    let message = Message { kind, header: header.into(), parts };
    message.check(MESSAGE_LIMIT_BYTES)?;
    Ok(send.send(&mut frame::encode(&message)).await?)
}

fn body_of<A: DeserializeOwned>(answer: &Message) -> Result<A, AskError> {
    let malformed = |error: serde_json::Error| AskError::Malformed(error.to_string());
    if answer.kind == REFUSED {
        return Err(serde_json::from_slice::<Refusal>(&answer.header).map_err(malformed)?.into());
    }
    serde_json::from_slice(&answer.header).map_err(malformed)
}

/// Reads one message of a stream, and what came behind it.
async fn read_message(receive: &mut dyn PeerReceive, limit_bytes: usize) -> Result<(Message, Bytes), AskError> {
    let mut reader = frame::Reader::new(limit_bytes);
    loop {
        if let Some(message) = reader.next()? {
            return Ok((message, reader.into_rest()));
        }
        match receive.receive(READ_BYTES).await? {
            Some(bytes) => reader.push(bytes),
            None if reader.is_empty() => return Err(AskError::Malformed("the message is empty".to_owned())),
            None => return Err(AskError::Malformed("the message is cut short".to_owned())),
        }
    }
}

/// Who asks, as far as it is proven.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The member; none for one that joins.
    pub node_id: Option<NodeId>,
    /// Where it comes from.
    pub address: std::net::SocketAddr,
}

/// What a handler answers with.
pub struct Answer {
    /// JSON.
    pub header: Vec<u8>,
    /// Bytes beside it.
    pub parts: Vec<Bytes>,
}

impl Answer {
    /// An answer without parts.
    pub fn of<T: Serialize>(body: &T) -> Self {
        Self {
            header: serde_json::to_vec(body).expect("answers have string keys and memory does not fail"),
            parts: Vec::new(),
        }
    }
}

/// Answers the requests of some kinds.
pub trait Answers: Send + Sync {
    /// Answers one request, whose header is the body of its envelope.
    fn answer(
        &self,
        from: Caller,
        kind: u16,
        body: Bytes,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<Answer, Refusal>>;
}

/// Takes over streams of a kind.
pub trait TakesStreams: Send + Sync {
    /// Takes a stream over, until it ends, and says so first with [`accept`]. `first` are bytes behind the first message that were read
    /// with it.
    fn take(&self, from: NodeId, body: Bytes, first: Bytes, stream: PeerStream) -> BoxFuture<'static, ()>;
}

/// Tells the peer that its stream was taken over.
///
/// # Errors
/// [`PeerError`].
pub async fn accept<T: Serialize>(send: &mut dyn PeerSend, kind: u16, body: &T) -> Result<(), PeerError> {
    let Answer { header, parts } = Answer::of(body);
    send.send(&mut frame::encode(&Message { kind, header: header.into(), parts })).await
}

/// Who belongs to the cluster.
pub trait Membership: Send + Sync {
    /// Whether a node belongs to it, as far as this node knows.
    fn is_member(&self, node_id: NodeId) -> bool;

    /// Finds out whether one belongs to it all the same, as who came a moment ago, and says what its request of a kind is refused with.
    fn confirm(&self, node_id: NodeId, kind: u16) -> BoxFuture<'static, Result<(), Refusal>>;
}

/// Who answers what, and whom.
#[derive(Clone, Default)]
pub struct Handlers {
    answers: BTreeMap<u16, Arc<dyn Answers>>,
    streams: BTreeMap<u16, Arc<dyn TakesStreams>>,
    membership: Option<Arc<dyn Membership>>,
}

impl Handlers {
    /// Has requests of some kinds answered.
    pub fn answer(&mut self, kinds: &[u16], answers: &Arc<dyn Answers>) {
        self.answers.extend(kinds.iter().map(|kind| (*kind, Arc::clone(answers))));
    }

    /// Has streams of a kind taken over.
    pub fn take(&mut self, kind: u16, streams: Arc<dyn TakesStreams>) {
        self.streams.insert(kind, streams);
    }

    /// Has members alone answered from now on, and who joins.
    pub fn restrict_to(&mut self, membership: Arc<dyn Membership>) {
        self.membership = Some(membership);
    }

    async fn admit(&self, caller: &Caller, kind: u16) -> Result<(), Refusal> {
        match (&self.membership, caller.node_id) {
            (Some(membership), Some(node_id)) if !membership.is_member(node_id) => {
                membership.confirm(node_id, kind).await
            }
            // One that joins is no member yet, and as long as nobody knows who is, all are.
            _ => Ok(()),
        }
    }
}

/// Answers what others ask, until the endpoint is closed. `handlers` may grow meanwhile: parts of a broker start one after another.
pub async fn serve(peers: Arc<Peers>, handlers: watch::Receiver<Handlers>) {
    while let Some(connection) = peers.endpoint.accept().await {
        let (peers, handlers) = (Arc::clone(&peers), handlers.clone());
        let watch = peers.runtime.watch.clone();
        watch.spawn(async move { serve_connection(&peers, connection, handlers).await });
    }
}

async fn serve_connection(
    peers: &Arc<Peers>,
    connection: Arc<dyn PeerConnection>,
    handlers: watch::Receiver<Handlers>,
) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match connection.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, address = %connection.remote().address, "connection of a peer ended");
                return;
            }
        };
        let (peers, connection) = (Arc::clone(peers), Arc::clone(&connection));
        let handlers = handlers.borrow().clone();
        let watch = peers.runtime.watch.clone();
        watch.spawn(async move {
            let _place = place;
            if let Err(error) = peers.serve_stream(&connection, stream, &handlers).await {
                tracing::debug!(%error, address = %connection.remote().address, "request of a peer was not answered");
            }
        });
    }
}

impl Peers {
    async fn serve_stream(
        &self,
        connection: &Arc<dyn PeerConnection>,
        stream: PeerStream,
        handlers: &Handlers,
    ) -> Result<(), AskError> {
        let PeerStream { mut send, mut receive } = stream;
        let request = read_message(receive.as_mut(), MESSAGE_LIMIT_BYTES);
        let request = clock::timeout(&*self.runtime.clock, REQUEST_TIMEOUT, request).await;
        let (message, first) = request.unwrap_or(Err(AskError::Peer(PeerError::TimedOut)))?;
        let checked = match self.check(connection, &message) {
            Ok((caller, body)) => handlers.admit(&caller, message.kind).await.map(|()| (caller, body)),
            Err(refusal) => Err(refusal),
        };
        let answer = match checked {
            Err(refusal) => Err(refusal),
            Ok((caller, body)) => {
                if let (Some(streams), Some(node_id)) = (handlers.streams.get(&message.kind), caller.node_id) {
                    streams.take(node_id, body, first, PeerStream { send, receive }).await;
                    return Ok(());
                }
                match handlers.answers.get(&message.kind) {
                    Some(answers) => answers.answer(caller, message.kind, body, message.parts).await,
                    None => {
                        Err(Refusal::new(RefusalCode::Unknown, format!("nothing here answers kind {}", message.kind)))
                    }
                }
            }
        };
        let answer = match answer {
            Ok(Answer { header, parts }) => Message { kind: message.kind, header: header.into(), parts },
            Err(refusal) => {
                let header = serde_json::to_vec(&refusal).map_err(|error| AskError::Malformed(error.to_string()))?;
                Message { kind: REFUSED, header: header.into(), parts: Vec::new() }
            }
        };
        answer.check(MESSAGE_LIMIT_BYTES)?;
        send.send(&mut frame::encode(&answer)).await?;
        send.finish();
        Ok(())
    }

    /// Who asks: a node of this cluster, as its certificate says, or one that asks to join.
    fn check(&self, connection: &Arc<dyn PeerConnection>, message: &Message) -> Result<(Caller, Bytes), Refusal> {
        let malformed = |error: serde_json::Error| Refusal::new(RefusalCode::Malformed, error);
        let envelope: Envelope<Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&message.header).map_err(malformed)?;
        let remote = connection.remote();
        let body = Bytes::copy_from_slice(envelope.body.get().as_bytes());
        let foreign = |reason: String| Refusal::new(RefusalCode::Foreign, reason);
        let is_join = message.kind == kind::JOIN;
        match remote.protocol {
            PeerProtocol::Join if is_join => return Ok((Caller { node_id: None, address: remote.address }, body)),
            PeerProtocol::Join => {
                return Err(Refusal::new(
                    RefusalCode::Denied,
                    "only members may ask that: a joining node has no certificate",
                ));
            }
            // With a certificate of the operator's.
            PeerProtocol::Member if is_join => return Ok((Caller { node_id: None, address: remote.address }, body)),
            PeerProtocol::Member => {}
        }
        if envelope.cluster_id != Some(self.cluster_id) {
            let given = envelope.cluster_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(foreign(format!("this broker is of another cluster ours={} given={given}", self.cluster_id)));
        }
        let names = remote.names.iter().filter_map(|name| authority::node_of(name, self.cluster_id));
        match self.naming {
            Naming::ByNode if !names.clone().any(|node_id| node_id == envelope.from) => {
                Err(foreign(format!("the certificate is not that of node {}", envelope.from)))
            }
            _ => Ok((Caller { node_id: Some(envelope.from), address: remote.address }, body)),
        }
    }
}

//! The way to one follower, for some of the partitions that it follows: a connection with two streams, opened again whenever it is lost.
//!
//! Replicas that this broker leads enter and leave; while there is a session, [`Flows`] says what is sent next. A follower's
//! acknowledgements go to the replicas. Everything that waits here has a bound: windows bound what is under way, a frame what is
//! encoded at once, and what is said about partitions their number. A lost connection loses nothing: the next session begins
//! where each log of the follower ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Shared;
use super::flows::{Flows, Lane, Work};
use super::leading::Read;
use super::replica::Replica;
use super::throttle::Held;
use crate::log::{ReadError, ReplicaBatches};
use crate::peer::rpc::{RpcError, kind};
use crate::replication::follower::{FollowerState, Refusal};
use crate::replication::message::{
    FollowerSays, FrameReader, LeaderSays, Message, MessageError, decode, encode, stream_start,
};
use crate::replication::window::{Turn, WindowSettings};
use crate::runtime::clock;
use crate::runtime::peers::{PeerError, PeerReceive, PeerSend, PeerStream};
use crate::types::{BrokerEpoch, Monotonic, NodeId, Offset, TopicPartition};

/// What may be under way on each lane. Few bytes keep a live follower busy: they are acknowledged within milliseconds.
const WINDOWS: [WindowSettings; 2] = [
    WindowSettings { partition_bytes: 1 << 20, total_bytes: 8 << 20, turn_bytes: 256 << 10 },
    WindowSettings { partition_bytes: 2 << 20, total_bytes: 4 << 20, turn_bytes: 1 << 20 },
];
/// Records of a frame, about; and messages.
const FRAME_BYTES: usize = 256 << 10;
const FRAME_MESSAGES: usize = 4096;
/// Bytes that are read of a stream at once.
const READ_BYTES: usize = 64 << 10;
/// Longest frame of a follower.
pub(super) const WORDS_LIMIT_BYTES: usize = 1 << 20;
/// How long a follower may take to answer when a stream is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between a session that was lost and the next attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// What was not taken is tried again after so long, about.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);

/// What a leader's process says when it opens a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Opening {
    /// Its registration.
    pub(super) broker_epoch: BrokerEpoch,
}

/// What the follower's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Opened {
    /// Its registration.
    pub(super) broker_epoch: BrokerEpoch,
}

/// Why a session ended, or was not begun.
#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("the follower ended the stream")]
    Ended,
    #[error("the follower was started again meanwhile")]
    Restarted,
}

/// See the module.
pub(super) struct Link {
    follower: NodeId,
    /// Which of the connections to the follower it is.
    number: u16,
    replicas: Mutex<BTreeMap<TopicPartition, Arc<Replica>>>,
    session: RwLock<Option<Arc<Session>>>,
    entered: Notify,
}

/// A connection with one process of the follower.
struct Session {
    process: BrokerEpoch,
    flows: Mutex<Flows>,
    /// They have to wait until more may be sent in a second.
    held: Mutex<Held>,
    wakes: [Notify; 2],
}

impl Session {
    fn wake(&self, lane: Option<Lane>) {
        if let Some(lane) = lane {
            self.wakes[lane as usize].notify_one();
        }
    }
}

impl Link {
    pub(super) fn new(follower: NodeId, number: u16) -> Self {
        let (replicas, session) = (Mutex::default(), RwLock::new(None));
        Self { follower, number, replicas, session, entered: Notify::new() }
    }

    pub(super) const fn follower(&self) -> NodeId {
        self.follower
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.read().clone()
    }

    /// Begins with a replica that this broker leads.
    pub(super) fn enter(&self, replica: &Replica) {
        let Some(shared) = replica.shared_self() else { return };
        let mut replicas = self.replicas.lock();
        replicas.insert(replica.id(), shared);
        if let Some(session) = self.session() {
            session.flows.lock().enter(replica.id());
            session.wake(Some(Lane::Live));
        }
        self.entered.notify_one();
    }

    /// Ends with a replica.
    pub(super) fn leave(&self, id: TopicPartition) {
        let mut replicas = self.replicas.lock();
        replicas.remove(&id);
        if let Some(session) = self.session() {
            session.flows.lock().leave(id);
        }
    }

    /// A log ends later, or more of it can be read.
    pub(super) fn appended(&self, id: TopicPartition, log_end: Offset) {
        if let Some(session) = &*self.session.read() {
            let lane = session.flows.lock().appended(id, log_end);
            session.wake(lane);
        }
    }

    /// A leader got further.
    pub(super) fn progressed(&self, id: TopicPartition, now: Monotonic) {
        if let Some(session) = &*self.session.read() {
            let lane = session.flows.lock().progressed(id, now);
            session.wake(lane);
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&self) {
        self.replicas.lock().clear();
        *self.session.write() = None;
    }

    fn replica(&self, id: TopicPartition) -> Option<Arc<Replica>> {
        self.replicas.lock().get(&id).cloned()
    }

    /// Has sessions, one after another, for as long as the broker runs.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            while self.replicas.lock().is_empty() {
                self.entered.notified().await;
            }
            if let Err(error) = Self::meet(&self, &shared).await {
                tracing::debug!(%error, follower = %self.follower, "no session with a follower");
            }
            let replicas: Vec<_> = self.replicas.lock().values().cloned().collect();
            for replica in replicas {
                replica.disconnected(self.follower);
            }
            shared.runtime.clock.sleep(RECONNECT_PAUSE).await;
        }
    }

    /// One session.
    async fn meet(link: &Arc<Self>, shared: &Arc<Shared>) -> Result<(), LinkError> {
        let (live, opened) = link.open(shared, Lane::Live).await?;
        let (catch_up, opened_too) = link.open(shared, Lane::CatchUp).await?;
        if opened != opened_too {
            return Err(LinkError::Restarted);
        }
        let process = opened.broker_epoch;
        let (flows, wakes) = (Mutex::new(Flows::new(WINDOWS)), [Notify::new(), Notify::new()]);
        let session = Arc::new(Session { process, flows, held: Mutex::default(), wakes });
        {
            let replicas = link.replicas.lock();
            let mut flows = session.flows.lock();
            replicas.keys().for_each(|id| flows.enter(*id));
            drop(flows);
            *link.session.write() = Some(Arc::clone(&session));
        }
        tracing::info!(follower = %link.follower, connection = link.number, "replicating to a follower");
        shared.metrics.replication.sessions.inc();
        let ended = link.carry_on(shared, &session, [live, catch_up]).await;
        shared.metrics.replication.sessions.dec();
        *link.session.write() = None;
        tracing::info!(error = %ended, follower = %link.follower, connection = link.number, "a follower is lost");
        Err(ended)
    }

    async fn open(&self, shared: &Shared, lane: Lane) -> Result<((Bytes, PeerStream), Opened), LinkError> {
        // What is sent first goes first.
        let priority = 1 - lane as i32;
        let body = Opening { broker_epoch: shared.broker_epoch };
        let (peers, number) = (&shared.peers, self.number);
        let begun = peers.begin(self.follower, number, kind::REPLICATION, priority, &body, OPEN_TIMEOUT).await?;
        let (opened, first, stream) = begun;
        Ok(((first, stream), opened))
    }

    async fn carry_on(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        session: &Arc<Session>,
        streams: [(Bytes, PeerStream); 2],
    ) -> LinkError {
        let mut tasks = JoinSet::new();
        for (lane, (first, PeerStream { send, receive })) in Lane::BOTH.into_iter().zip(streams) {
            let (link, of, with) = (Arc::clone(self), Arc::clone(shared), Arc::clone(session));
            tasks.spawn(async move { link.send_on(&of, &with, lane, send).await });
            let (link, with) = (Arc::clone(self), Arc::clone(session));
            tasks.spawn(async move { link.receive_on(&with, lane, first, receive).await });
        }
        let (clock, link, with) = (Arc::clone(&shared.runtime.clock), Arc::clone(self), Arc::clone(session));
        tasks.spawn(async move {
            loop {
                clock.sleep(AGAIN_PAUSE).await;
                let begins = with.flows.lock().begin_again();
                with.wake(begins.then_some(Lane::Live));
                link.release(&with);
            }
        });
        match tasks.join_next().await.expect("there are tasks") {
            Ok(ended) => ended.err().unwrap_or(LinkError::Ended),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    /// Lets those ask again that wait until more may be sent.
    fn release(&self, session: &Session) {
        let held = session.held.lock().release();
        for (id, replica) in held.into_iter().filter_map(|id| Some((id, self.replica(id)?))) {
            let lane = session.flows.lock().appended(id, replica.log().offsets().log_end);
            session.wake(lane);
        }
    }

    async fn send_on(
        &self,
        shared: &Shared,
        session: &Session,
        lane: Lane,
        mut send: Box<dyn PeerSend>,
    ) -> Result<(), LinkError> {
        let clock = &*shared.runtime.clock;
        send.send(&mut [stream_start()]).await?;
        loop {
            let messages = self.collect(shared, session, lane).await;
            if messages.is_empty() {
                let patience = session.flows.lock().patience(lane, clock.monotonic());
                let woken = session.wakes[lane as usize].notified();
                match patience {
                    None => woken.await,
                    // Either is as good.
                    Some(patience) => clock::timeout(clock, patience, woken).await.unwrap_or(()),
                }
                continue;
            }
            let mut chunks = encode(&messages)?;
            send.send(&mut chunks).await?;
        }
    }

    /// What goes into the next frame.
    async fn collect(&self, shared: &Shared, session: &Session, lane: Lane) -> Vec<Message<LeaderSays>> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < FRAME_BYTES && messages.len() < FRAME_MESSAGES {
            let next = session.flows.lock().next(lane, shared.runtime.clock.monotonic());
            match next {
                None => break,
                Some(Work::Lead(id)) => messages.extend(self.replica(id).and_then(|replica| replica.introduction())),
                Some(Work::Advance(id)) => messages.extend(self.replica(id).and_then(|replica| replica.progress())),
                Some(Work::Continue(id)) => {
                    let given = self.replica(id).and_then(|replica| replica.continuation(self.follower));
                    if given.is_none() {
                        session.flows.lock().later(id);
                    }
                    messages.extend(given);
                }
                Some(Work::Send(turn)) => {
                    if let Some((message, sent)) = self.take_turn(shared, session, lane, turn).await {
                        bytes += sent;
                        messages.push(message);
                    }
                }
            }
        }
        shared.metrics.replication.sent_bytes.inc_by(bytes as u64);
        messages
    }

    async fn take_turn(
        &self,
        shared: &Shared,
        session: &Session,
        lane: Lane,
        turn: Turn,
    ) -> Option<(Message<LeaderSays>, usize)> {
        let id = turn.partition;
        let replica = self.replica(id)?;
        let mut read = replica.read(turn);
        match (&read, lane) {
            (Read::Disk(..), Lane::Live) => {
                session.flows.lock().change_lanes(id, Lane::CatchUp);
                session.wake(Some(Lane::CatchUp));
                return None;
            }
            // It has caught up with what is in memory.
            (Read::Ready(_) | Read::Nothing, Lane::CatchUp) => {
                session.flows.lock().change_lanes(id, Lane::Live);
                session.wake(Some(Lane::Live));
                return None;
            }
            _ => {}
        }
        if let Read::Disk(plan, epoch) = read {
            let Some(room) = shared.take_room(self.follower, turn) else {
                session.flows.lock().sent(lane, turn, turn.from, 0);
                session.held.lock().hold(id);
                return None;
            };
            let stretches = shared.readers.run(move || plan.execute()).await?;
            let batches = stretches.and_then(|stretches| {
                let corrupt = |error| ReadError::Corrupt { path: id.to_string().into(), file_offset: 0, error };
                ReplicaBatches::of_stored(turn.from, stretches).map_err(corrupt)
            });
            read = match batches {
                Ok(batches) if batches.is_empty() => Read::Nothing,
                Ok(batches) => {
                    let led = replica.lead(Some(epoch), |leading| leading.batches(&replica, batches));
                    led.map_or(Read::NotLed, Read::Ready)
                }
                // Planned again, it finds what is left.
                Err(ReadError::Removed { .. }) => Read::Behind,
                Err(error) => Read::Failed(error),
            };
            shared.throttle.lock().used(room, if let Read::Ready(batches) = &read { batches.bytes } else { 0 });
        }
        let mut flows = session.flows.lock();
        match read {
            Read::Ready(batches) => {
                flows.sent(lane, turn, batches.next, batches.bytes);
                return Some((batches.message, batches.bytes));
            }
            Read::Nothing => flows.sent(lane, turn, turn.from, 0),
            Read::Behind => flows.enter(id),
            Read::Failed(error) => {
                tracing::warn!(%error, partition = %id, follower = %self.follower, "records can't be read for a follower, and are tried again");
                flows.later(id);
            }
            Read::Disk(..) | Read::NotLed => flows.leave(id),
        }
        None
    }

    async fn receive_on(
        &self,
        session: &Session,
        lane: Lane,
        first: Bytes,
        mut receive: Box<dyn PeerReceive>,
    ) -> Result<(), LinkError> {
        let mut reader = FrameReader::new(WORDS_LIMIT_BYTES);
        reader.push(first);
        loop {
            while let Some(frame) = reader.next_frame()? {
                for message in decode::<FollowerSays>(frame)? {
                    self.hear(session, lane, &message);
                }
                // There may be room again.
                session.wake(Some(lane));
            }
            match receive.receive(READ_BYTES).await? {
                Some(bytes) => reader.push(bytes),
                None => return Ok(()),
            }
        }
    }

    fn hear(&self, session: &Session, lane: Lane, message: &Message<FollowerSays>) {
        let Message { partition: id, leader_epoch, says } = *message;
        let Some(replica) = self.replica(id) else { return };
        let is_newest = replica.led_in() == Some(leader_epoch);
        match says {
            FollowerSays::State { state: FollowerState { needs_continuation: true, .. }, .. } => {
                if is_newest {
                    session.flows.lock().needs_continuation(id, lane);
                }
            }
            FollowerSays::State { state: FollowerState { log_end, durable, .. }, log_start } => {
                if is_newest {
                    let (end, now) = (replica.log().offsets().log_end, replica.shared().runtime.clock.monotonic());
                    session.flows.lock().ready(id, lane, log_end, end, now);
                    replica.acknowledged(self.follower, session.process, leader_epoch, durable, log_start);
                }
            }
            FollowerSays::Durable { durable, log_start } => {
                session.flows.lock().acknowledged(id, lane, durable);
                replica.acknowledged(self.follower, session.process, leader_epoch, durable, log_start);
            }
            // Of a newer leader the image will tell.
            FollowerSays::Refused { why: Refusal::Stale | Refusal::NotLeader, .. } => {}
            FollowerSays::Refused { why: Refusal::Unprepared | Refusal::OutOfOrder, log_end } => {
                tracing::debug!(partition = %id, follower = %self.follower, %log_end, "a follower does not go on");
                session.flows.lock().refused(id, lane);
            }
        }
    }
}

//! What leaders send to this broker: the streams that they open, and what they are told back.
//!
//! A stream is read on whatever one of its partitions does: how much may be under way is bounded by the leader's windows. What is told
//! back waits in an [`Outbox`], in which a later word about what is durable takes the place of an earlier one. A stream that ends
//! takes its words along; the leader begins another one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use super::Replicator;
use super::link::{Opened, Opening};
use crate::peer::rpc::{TakesStreams, accept, kind};
use crate::replication::follower::Refusal;
use crate::replication::message::{
    FRAME_LIMIT_BYTES, FollowerSays, FrameReader, LeaderSays, Message, MessageError, decode, encode, stream_start,
};
use crate::runtime::net::BoxFuture;
use crate::runtime::peers::{PeerError, PeerSend, PeerStream};
use crate::types::{LeaderEpoch, NodeId, Offset, TopicPartition};

/// Bytes that are read of a stream at once.
const READ_BYTES: usize = 256 << 10;
/// Words of one frame; a leader takes frames of 1 MiB.
const FRAME_WORDS: usize = 10_000;

/// What one leader is told on one stream.
#[derive(Default)]
pub(super) struct Outbox {
    words: Mutex<Words>,
    wake: Notify,
}

#[derive(Default)]
struct Words {
    /// Few: what begins, and what is refused.
    first: Vec<Message<FollowerSays>>,
    /// With what is deleted.
    durable: BTreeMap<TopicPartition, (LeaderEpoch, Offset, Offset)>,
    is_closed: bool,
}

impl Outbox {
    /// Says something.
    pub(super) fn say(&self, message: Message<FollowerSays>) {
        let mut words = self.words.lock();
        if !words.is_closed {
            words.first.push(message);
            self.wake.notify_one();
        }
    }

    /// The leader is to say again what was too early.
    pub(super) fn refuse_unprepared(&self, partition: TopicPartition, leader_epoch: LeaderEpoch) {
        let says = FollowerSays::Refused { why: Refusal::Unprepared, log_end: Offset::ZERO };
        self.say(Message { partition, leader_epoch, says });
    }

    /// Says what is on stable storage, and what is deleted.
    pub(super) fn durable(&self, id: TopicPartition, leader_epoch: LeaderEpoch, durable: Offset, log_start: Offset) {
        let mut words = self.words.lock();
        if !words.is_closed {
            words.durable.insert(id, (leader_epoch, durable, log_start));
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        *self.words.lock() = Words { is_closed: true, ..Words::default() };
    }

    /// What was said since the last time, in frames.
    fn take(&self) -> Vec<Message<FollowerSays>> {
        let (mut taken, durable) = {
            let mut words = self.words.lock();
            (std::mem::take(&mut words.first), std::mem::take(&mut words.durable))
        };
        taken.extend(durable.into_iter().map(|(partition, (leader_epoch, durable, log_start))| Message {
            partition,
            leader_epoch,
            says: FollowerSays::Durable { durable, log_start },
        }));
        taken
    }

    async fn send_on(&self, mut send: Box<dyn PeerSend>) -> Result<(), PeerError> {
        loop {
            self.wake.notified().await;
            for words in self.take().chunks(FRAME_WORDS) {
                let mut chunks = encode(words).expect("words are small, and few in a frame");
                send.send(&mut chunks).await?;
            }
        }
    }
}

/// Why a stream of a leader ended.
#[derive(Debug, Error)]
enum IntakeError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("what the leader opens with can't be read: {0}")]
    Opening(#[from] serde_json::Error),
}

/// Takes the streams of leaders.
pub(super) struct Intake(pub(super) Arc<Replicator>);

impl TakesStreams for Intake {
    fn take(&self, from: NodeId, body: Bytes, first: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let replicator = Arc::clone(&self.0);
        Box::pin(async move {
            let outbox = Arc::new(Outbox::default());
            let ended = take_in(&replicator, from, &body, first, stream, &outbox).await;
            outbox.close();
            if let Err(error) = ended {
                tracing::debug!(%error, leader = %from, "a leader's stream ended");
            }
        })
    }
}

async fn take_in(
    replicator: &Replicator,
    from: NodeId,
    body: &Bytes,
    first: Bytes,
    stream: PeerStream,
    outbox: &Arc<Outbox>,
) -> Result<(), IntakeError> {
    let PeerStream { mut send, mut receive } = stream;
    let Opening { broker_epoch } = serde_json::from_slice(body)?;
    tracing::debug!(leader = %from, %broker_epoch, "taking records of a leader");
    let opened = Opened { broker_epoch: replicator.shared().broker_epoch };
    accept(send.as_mut(), kind::REPLICATION, &opened).await?;
    send.send(&mut [stream_start()]).await?;
    let writer = {
        let outbox = Arc::clone(outbox);
        let sends = async move {
            // Its end is the stream's, which the reader finds out.
            let _ = outbox.send_on(send).await;
        };
        AbortOnDrop(replicator.shared().runtime.watch.spawn(sends))
    };
    let mut reader = FrameReader::new(FRAME_LIMIT_BYTES);
    reader.push(first);
    loop {
        while let Some(frame) = reader.next_frame()? {
            for message in decode::<LeaderSays>(frame)? {
                replicator.hear(from, message, outbox);
            }
        }
        match receive.receive(READ_BYTES).await? {
            Some(bytes) => reader.push(bytes),
            None => break,
        }
    }
    drop(writer);
    Ok(())
}

/// A task that ends with who has this.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

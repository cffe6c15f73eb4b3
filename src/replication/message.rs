//! What leader and follower say to each other, as bytes on a stream. Pure.
//!
//! ```text
//! stream     version u8 (1), frame*
//! frame      length u32 of what follows, message*
//! message    kind u8, topic id 16 bytes, partition i32, leader epoch i32, and by its kind:
//!  1 Lead          local log start i64, log end i64, epochs u32 × (epoch i32, start i64)
//!  2 Continuation  length u32, a continuation as in the log's journal
//!  3 Records       progress, length u32, batches one after another
//!  4 Advance       progress: high watermark i64, log start i64, archived to i64
//! 16 State         log end i64, durable i64, log start i64, needs a continuation u8
//! 17 Durable       durable i64, log start i64
//! 18 Refused       why u8, log end i64
//! ```
//! Big-endian. Kinds below 16 go from the leader to the follower, the others back. A frame has messages of many partitions, so that
//! thousands of partitions with a record each cost few writes. Records are not copied on their way out, nor on their way in where a
//! frame arrives in one piece.
//!
//! Lengths are checked before anything is taken for them, and memory is taken for what has arrived and little beyond (`peer/pieces.rs`). What is
//! inside records and continuations is checked by who takes them. Nothing is kept; both ends begin anew with a session.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::divergence::{History, MAX_EPOCHS};
use super::follower::{FollowerState, Progress, Refusal};
use crate::log::EpochCache;
use crate::peer::pieces::Pieces;
use crate::types::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

/// The format that this version writes, and the only one that it reads.
pub const VERSION: u8 = 1;
/// Longest frame: a batch of the largest size that a topic may allow, and what goes with it.
pub const FRAME_LIMIT_BYTES: usize = 132 << 20;
const LENGTH_BYTES: usize = 4;
const EPOCH_BYTES: usize = 12;
/// Shorter than any message.
const LEAST_MESSAGE_BYTES: usize = 25;

const LEAD: u8 = 1;
const CONTINUATION: u8 = 2;
const RECORDS: u8 = 3;
const ADVANCE: u8 = 4;
const STATE: u8 = 16;
const DURABLE: u8 = 17;
const REFUSED: u8 = 18;

/// What a leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderSays {
    /// It leads, and begins a session.
    Lead(History),
    /// What the follower's log is to go on with, encoded by `log::Continuation`.
    Continuation(Bytes),
    /// Batches, one after another; in whatever pieces when they are sent, in one when they have arrived.
    Records {
        /// How far the leader is.
        progress: Progress,
        /// Whole batches as they are stored.
        batches: Vec<Bytes>,
    },
    /// How far the leader is.
    Advance(Progress),
}

/// What a follower says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerSays {
    /// How it begins.
    State {
        /// Where records go on, and what it has.
        state: FollowerState,
        /// Everything below is deleted there, for good.
        log_start: Offset,
    },
    /// What it has on stable storage.
    Durable {
        /// Everything below.
        durable: Offset,
        /// But for what is below this, which is deleted there, for good.
        log_start: Offset,
    },
    /// It does not do what it was told.
    Refused {
        /// Why.
        why: Refusal,
        /// Where its log ends.
        log_end: Offset,
    },
}

/// What is said, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<T> {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch of its leader; of a refusal the newest that the follower knows.
    pub leader_epoch: LeaderEpoch,
    /// The words.
    pub says: T,
}

/// What arrived can't be read. The stream is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Another version.
    #[error(
        "replication stream has another format version={version} known={VERSION}; brokers of a cluster differ by one \
         release at most"
    )]
    Version {
        /// Its number.
        version: u8,
    },
    /// A frame is too long.
    #[error("replication frame is too large size={size} limit={limit}")]
    TooLarge {
        /// What was announced.
        size: usize,
        /// What may be.
        limit: usize,
    },
    /// A message that this direction does not have.
    #[error("replication frame has a message of an unknown kind kind={kind}")]
    Kind {
        /// Its number.
        kind: u8,
    },
    /// Lengths or values that do not fit.
    #[error("replication frame has a damaged message: {what}")]
    Malformed {
        /// What does not fit.
        what: &'static str,
    },
}

const fn malformed(what: &'static str) -> MessageError {
    MessageError::Malformed { what }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::LeaderSays {}
    impl Sealed for super::FollowerSays {}
}

/// What is said in one direction; [`LeaderSays`] or [`FollowerSays`].
pub trait Says: Sized + sealed::Sealed {
    /// The number of its kind.
    fn kind(&self) -> u8;
    /// Writes its fields. Bytes that are not to be copied are given to `chunks`.
    fn put(&self, chunks: &mut Chunks);
    /// Reads its fields.
    ///
    /// # Errors
    /// [`MessageError`].
    fn take(kind: u8, leader_epoch: LeaderEpoch, frame: &mut Bytes) -> Result<Self, MessageError>;
}

/// Bytes in pieces, some of them shared with whoever has them.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: Vec<Bytes>,
    open: BytesMut,
    bytes: usize,
}

impl Chunks {
    fn share(&mut self, bytes: &Bytes) {
        if !bytes.is_empty() {
            self.close();
            self.bytes += bytes.len();
            self.chunks.push(bytes.clone());
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.bytes += self.open.len();
            self.chunks.push(self.open.split().freeze());
        }
    }

    fn offset(&mut self, offset: Offset) {
        self.open.put_i64(offset.0);
    }

    fn length(&mut self, length: usize) {
        self.open.put_u32(u32::try_from(length).expect("a frame is below 4 GiB"));
    }

    fn progress(&mut self, progress: Progress) {
        let Progress { high_watermark, log_start, archived_to } = progress;
        for offset in [high_watermark, log_start, archived_to] {
            self.offset(offset);
        }
    }
}

/// The first bytes of a stream.
pub const fn stream_start() -> Bytes {
    Bytes::from_static(&[VERSION])
}

/// A frame with these messages, in chunks.
///
/// # Errors
/// [`MessageError::TooLarge`]: who makes frames bounds what is in one.
pub fn encode<T: Says>(messages: &[Message<T>]) -> Result<Vec<Bytes>, MessageError> {
    let mut body = Chunks::default();
    for Message { partition, leader_epoch, says } in messages {
        body.open.put_u8(says.kind());
        body.open.put_slice(partition.topic_id.as_bytes());
        body.open.put_i32(partition.partition.0);
        body.open.put_i32(leader_epoch.0);
        says.put(&mut body);
    }
    body.close();
    if body.bytes > FRAME_LIMIT_BYTES {
        return Err(MessageError::TooLarge { size: body.bytes, limit: FRAME_LIMIT_BYTES });
    }
    let length = u32::try_from(body.bytes).expect("checked").to_be_bytes();
    body.chunks.insert(0, Bytes::copy_from_slice(&length));
    Ok(body.chunks)
}

/// The messages of a frame.
///
/// # Errors
/// [`MessageError`]; nothing of the frame is to be used.
pub fn decode<T: Says>(mut frame: Bytes) -> Result<Vec<Message<T>>, MessageError> {
    let mut messages = Vec::new();
    while !frame.is_empty() {
        if frame.len() < LEAST_MESSAGE_BYTES {
            return Err(malformed("it ends within a message"));
        }
        let kind = frame.get_u8();
        let mut topic_id = [0; 16];
        frame.copy_to_slice(&mut topic_id);
        let (topic_id, partition) = (TopicId::from_bytes(topic_id), PartitionIndex(frame.get_i32()));
        let leader_epoch = LeaderEpoch(frame.get_i32());
        if partition.0 < 0 || leader_epoch.0 < 0 {
            return Err(malformed("a partition or epoch is negative"));
        }
        let says = T::take(kind, leader_epoch, &mut frame)?;
        messages.push(Message { partition: TopicPartition { topic_id, partition }, leader_epoch, says });
    }
    Ok(messages)
}

impl Says for LeaderSays {
    fn kind(&self) -> u8 {
        match self {
            Self::Lead(_) => LEAD,
            Self::Continuation(_) => CONTINUATION,
            Self::Records { .. } => RECORDS,
            Self::Advance(_) => ADVANCE,
        }
    }

    fn put(&self, chunks: &mut Chunks) {
        match self {
            Self::Lead(History { epochs, local_log_start, log_end }) => {
                chunks.offset(*local_log_start);
                chunks.offset(*log_end);
                chunks.length(epochs.starts().len());
                for (epoch, start) in epochs.starts() {
                    chunks.open.put_i32(epoch.0);
                    chunks.offset(*start);
                }
            }
            Self::Continuation(continuation) => {
                chunks.length(continuation.len());
                chunks.share(continuation);
            }
            Self::Records { progress, batches } => {
                chunks.progress(*progress);
                chunks.length(batches.iter().map(Bytes::len).sum());
                batches.iter().for_each(|batch| chunks.share(batch));
            }
            Self::Advance(progress) => chunks.progress(*progress),
        }
    }

    fn take(kind: u8, leader_epoch: LeaderEpoch, frame: &mut Bytes) -> Result<Self, MessageError> {
        match kind {
            LEAD => Ok(Self::Lead(take_history(frame, leader_epoch)?)),
            CONTINUATION => Ok(Self::Continuation(take_bytes(frame)?)),
            RECORDS => {
                let progress = take_progress(frame)?;
                let batches = take_bytes(frame)?;
                Ok(Self::Records { progress, batches: vec![batches] })
            }
            ADVANCE => Ok(Self::Advance(take_progress(frame)?)),
            kind => Err(MessageError::Kind { kind }),
        }
    }
}

impl Says for FollowerSays {
    fn kind(&self) -> u8 {
        match self {
            Self::State { .. } => STATE,
            Self::Durable { .. } => DURABLE,
            Self::Refused { .. } => REFUSED,
        }
    }

    fn put(&self, chunks: &mut Chunks) {
        match self {
            Self::State { state, log_start } => {
                chunks.offset(state.log_end);
                chunks.offset(state.durable);
                chunks.offset(*log_start);
                chunks.open.put_u8(state.needs_continuation.into());
            }
            Self::Durable { durable, log_start } => {
                chunks.offset(*durable);
                chunks.offset(*log_start);
            }
            Self::Refused { why, log_end } => {
                chunks.open.put_u8(number_of(*why));
                chunks.offset(*log_end);
            }
        }
    }

    fn take(kind: u8, leader_epoch: LeaderEpoch, frame: &mut Bytes) -> Result<Self, MessageError> {
        match kind {
            STATE => {
                let (log_end, durable, log_start) = (take_offset(frame)?, take_offset(frame)?, take_offset(frame)?);
                let needs_continuation = match take_u8(frame)? {
                    0 => false,
                    1 => true,
                    _ => return Err(malformed("a flag is neither 0 nor 1")),
                };
                if durable > log_end {
                    return Err(malformed("more is durable than there is"));
                }
                let state = FollowerState { leader_epoch, log_end, durable, needs_continuation };
                Ok(Self::State { state, log_start })
            }
            DURABLE => Ok(Self::Durable { durable: take_offset(frame)?, log_start: take_offset(frame)? }),
            REFUSED => {
                let why = refusal_of(take_u8(frame)?).ok_or(malformed("a refusal has no known reason"))?;
                Ok(Self::Refused { why, log_end: take_offset(frame)? })
            }
            kind => Err(MessageError::Kind { kind }),
        }
    }
}

const fn number_of(why: Refusal) -> u8 {
    match why {
        Refusal::Stale => 1,
        Refusal::NotLeader => 2,
        Refusal::Unprepared => 3,
        Refusal::OutOfOrder => 4,
    }
}

const fn refusal_of(number: u8) -> Option<Refusal> {
    match number {
        1 => Some(Refusal::Stale),
        2 => Some(Refusal::NotLeader),
        3 => Some(Refusal::Unprepared),
        4 => Some(Refusal::OutOfOrder),
        _ => None,
    }
}

fn take_u8(frame: &mut Bytes) -> Result<u8, MessageError> {
    frame.try_get_u8().map_err(|_| malformed("it ends within a number"))
}

fn take_length(frame: &mut Bytes) -> Result<usize, MessageError> {
    let length = frame.try_get_u32().map_err(|_| malformed("it ends within a length"))?;
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

fn take_offset(frame: &mut Bytes) -> Result<Offset, MessageError> {
    let offset = frame.try_get_i64().map_err(|_| malformed("it ends within an offset"))?;
    if offset < 0 { Err(malformed("an offset is negative")) } else { Ok(Offset(offset)) }
}

fn take_bytes(frame: &mut Bytes) -> Result<Bytes, MessageError> {
    let length = take_length(frame)?;
    if length > frame.len() { Err(malformed("it ends within bytes")) } else { Ok(frame.split_to(length)) }
}

fn take_progress(frame: &mut Bytes) -> Result<Progress, MessageError> {
    let (high_watermark, log_start) = (take_offset(frame)?, take_offset(frame)?);
    Ok(Progress { high_watermark, log_start, archived_to: take_offset(frame)? })
}

fn take_history(frame: &mut Bytes, leader_epoch: LeaderEpoch) -> Result<History, MessageError> {
    let (local_log_start, log_end) = (take_offset(frame)?, take_offset(frame)?);
    let count = take_length(frame)?;
    if count > MAX_EPOCHS || count * EPOCH_BYTES > frame.len() {
        return Err(malformed("a history is too long"));
    }
    let mut starts = Vec::with_capacity(count);
    for _ in 0..count {
        let epoch = frame.try_get_i32().map_err(|_| malformed("it ends within an epoch"))?;
        starts.push((LeaderEpoch(epoch), take_offset(frame)?));
    }
    let is_within = starts.first().is_none_or(|(oldest, _)| oldest.0 >= 0)
        && starts.last().is_none_or(|(newest, start)| *newest <= leader_epoch && *start <= log_end);
    match EpochCache::from_starts(starts) {
        Some(epochs) if is_within && local_log_start <= log_end => Ok(History { epochs, local_log_start, log_end }),
        _ => Err(malformed("a history is not in order")),
    }
}

/// Makes frames of the bytes of a stream that arrive in whatever pieces.
#[derive(Debug)]
pub struct FrameReader {
    limit_bytes: usize,
    has_version: bool,
    /// Of the frame that is awaited, once it is known.
    length: Option<usize>,
    pieces: Pieces,
    broken: Option<MessageError>,
}

impl FrameReader {
    /// Reads a stream from its beginning, with frames of at most so many bytes.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, has_version: false, length: None, pieces: Pieces::default(), broken: None }
    }

    /// Takes what arrived next. [`Self::next_frame`] is asked before more is read.
    pub fn push(&mut self, bytes: Bytes) {
        self.pieces.push(bytes);
    }

    /// The next frame, if all of it has arrived; for [`decode`].
    ///
    /// # Errors
    /// [`MessageError`], from then on each time.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, MessageError> {
        match &self.broken {
            Some(error) => Err(error.clone()),
            None => self.advance().inspect_err(|error| self.broken = Some(error.clone())),
        }
    }

    fn advance(&mut self) -> Result<Option<Bytes>, MessageError> {
        if !self.has_version {
            let Some(version) = self.pieces.take(1) else { return Ok(None) };
            if version[0] != VERSION {
                return Err(MessageError::Version { version: version[0] });
            }
            self.has_version = true;
        }
        if self.length.is_none() {
            let Some(mut length) = self.pieces.take(LENGTH_BYTES) else { return Ok(None) };
            let (size, limit) = (take_length(&mut length)?, self.limit_bytes);
            if size > limit {
                return Err(MessageError::TooLarge { size, limit });
            }
            self.length = Some(size);
        }
        let frame = self.length.and_then(|length| self.pieces.take(length));
        if frame.is_some() {
            self.length = None;
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::peer::pieces::STEP_BYTES;

    fn message<T>(partition: i32, says: T) -> Message<T> {
        let topic_id = TopicId::from_bytes([7; 16]);
        Message { partition: TopicPartition::new(topic_id, partition), leader_epoch: LeaderEpoch(5), says }
    }

    fn stream<T: Says>(frames: &[Vec<Message<T>>]) -> Vec<u8> {
        let frames = frames.iter().flat_map(|messages| encode(messages).unwrap());
        std::iter::once(stream_start()).chain(frames).flatten().collect()
    }

    /// All frames in bytes that arrive in pieces of these lengths, again and again.
    fn read<T: Says>(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Vec<Message<T>>>, MessageError> {
        let mut reader = FrameReader::new(FRAME_LIMIT_BYTES);
        let (mut frames, mut rest, mut pieces) = (Vec::new(), bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            reader.push(Bytes::copy_from_slice(piece));
            rest = behind;
            while let Some(frame) = reader.next_frame()? {
                frames.push(decode(frame)?);
            }
            assert!(reader.pieces.held_bytes() <= bytes.len() + STEP_BYTES);
        }
        Ok(frames)
    }

    /// With the records of each message in one piece, as they arrive.
    fn joined(mut messages: Vec<Message<LeaderSays>>) -> Vec<Message<LeaderSays>> {
        for message in &mut messages {
            if let LeaderSays::Records { batches, .. } = &mut message.says {
                *batches = vec![batches.concat().into()];
            }
        }
        messages
    }

    #[test]
    fn a_message_has_the_bytes_that_the_format_says() {
        let says = FollowerSays::Durable { durable: Offset(9), log_start: Offset(4) };
        let bytes = stream(&[vec![message(3, says)]]);
        let (head, offsets) = ([0, 0, 0, 3, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 4]);
        let expected = [&[1_u8, 0, 0, 0, 41, 17][..], &[7; 16], &head, &offsets].concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn records_are_not_copied_on_their_way_out_nor_in_when_a_frame_arrives_in_one_piece() {
        let records = Bytes::from(vec![5; 1000]);
        let says = LeaderSays::Records { progress: Progress::default(), batches: vec![records.clone()] };
        let chunks = encode(&[message(0, says)]).unwrap();
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == records.as_ptr()));
        let arrived = Bytes::from([&[VERSION][..], &chunks.concat()].concat());
        let mut reader = FrameReader::new(FRAME_LIMIT_BYTES);
        reader.push(arrived.clone());
        let messages = decode::<LeaderSays>(reader.next_frame().unwrap().unwrap()).unwrap();
        let LeaderSays::Records { batches, .. } = &messages[0].says else { panic!("not records") };
        assert_eq!(batches[0], records);
        assert!(arrived.as_ptr_range().contains(&batches[0].as_ptr()));
    }

    #[test]
    fn another_version_and_too_long_a_frame_are_refused_from_then_on() {
        let mut reader = FrameReader::new(100);
        reader.push(Bytes::from_static(&[2]));
        assert_eq!(reader.next_frame(), Err(MessageError::Version { version: 2 }));
        let mut reader = FrameReader::new(100);
        reader.push(Bytes::from_static(&[1, 0, 0, 0, 101]));
        let too_large = Err(MessageError::TooLarge { size: 101, limit: 100 });
        assert_eq!(reader.next_frame(), too_large);
        reader.push(Bytes::from_static(&[0; 200]));
        assert_eq!(reader.next_frame(), too_large);
    }

    #[test]
    fn a_word_in_the_wrong_direction_is_refused() {
        let says = FollowerSays::Durable { durable: Offset(9), log_start: Offset(0) };
        let bytes = stream(&[vec![message(3, says)]]);
        assert_eq!(read::<LeaderSays>(&bytes, &[100]), Err(MessageError::Kind { kind: DURABLE }));
    }

    #[test]
    fn a_history_that_is_not_in_order_is_refused() {
        let epochs = |starts: &[(i32, i64)]| {
            let starts = starts.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect();
            EpochCache::from_starts(starts).unwrap()
        };
        let is_read = |starts: &[(i32, i64)], local_log_start, log_end| {
            let [local_log_start, log_end] = [local_log_start, log_end].map(Offset);
            let lead = LeaderSays::Lead(History { epochs: epochs(starts), local_log_start, log_end });
            read::<LeaderSays>(&stream(&[vec![message(0, lead)]]), &[1000]).is_ok()
        };
        assert!(is_read(&[(1, 0), (5, 20)], 10, 20));
        assert!(!is_read(&[(1, 0), (6, 20)], 10, 20), "an epoch after the leader's");
        assert!(!is_read(&[(1, 0), (5, 21)], 10, 20), "an epoch that begins behind the log");
        assert!(!is_read(&[(1, 0)], 21, 20));
        let mut bytes = stream(&[vec![message(0, LeaderSays::Lead(History::default()))]]);
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(read::<LeaderSays>(&bytes, &[1000]), Err(malformed("a history is too long")));
    }

    fn any_offset() -> impl Strategy<Value = Offset> {
        (0..i64::MAX).prop_map(Offset)
    }

    fn any_progress() -> impl Strategy<Value = Progress> {
        any::<[u32; 3]>().prop_map(|offsets| {
            let [high_watermark, log_start, archived_to] = offsets.map(|offset| Offset(offset.into()));
            Progress { high_watermark, log_start, archived_to }
        })
    }

    fn any_leader_says() -> impl Strategy<Value = LeaderSays> {
        let epochs = vec(1..100_i64, 0..5).prop_map(|steps| {
            let mut history = History::default();
            for (epoch, step) in (0..).zip(steps) {
                history.epochs.assign(LeaderEpoch(epoch), history.log_end);
                history.log_end = history.log_end + step;
            }
            LeaderSays::Lead(history)
        });
        let chunk = || vec(any::<u8>(), 0..60).prop_map(Bytes::from);
        prop_oneof![
            epochs,
            chunk().prop_map(LeaderSays::Continuation),
            (any_progress(), vec(chunk(), 0..4))
                .prop_map(|(progress, batches)| LeaderSays::Records { progress, batches }),
            any_progress().prop_map(LeaderSays::Advance),
        ]
    }

    fn any_follower_says() -> impl Strategy<Value = FollowerSays> {
        let leader_epoch = LeaderEpoch(5);
        prop_oneof![
            (any_offset(), any_offset(), any_offset(), any::<bool>()).prop_map(
                move |(one, other, log_start, needs_continuation)| {
                    let (log_end, durable) = (one.max(other), one.min(other));
                    let state = FollowerState { leader_epoch, log_end, durable, needs_continuation };
                    FollowerSays::State { state, log_start }
                }
            ),
            (any_offset(), any_offset()).prop_map(|(durable, log_start)| FollowerSays::Durable { durable, log_start }),
            (1..5_u8, any_offset())
                .prop_map(|(why, log_end)| FollowerSays::Refused { why: refusal_of(why).unwrap(), log_end }),
        ]
    }

    fn frames<S: Strategy>(says: S) -> impl Strategy<Value = Vec<Vec<Message<S::Value>>>> {
        vec(vec((0..9, says).prop_map(|(partition, says)| message(partition, says)), 0..4), 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn words_are_read_as_they_were_said_in_whatever_pieces_they_arrive(
            leader in frames(any_leader_says()),
            follower in frames(any_follower_says()),
            pieces in vec(1..50_usize, 1..10),
        ) {
            let bytes = stream(&leader);
            let leader: Vec<_> = leader.into_iter().map(joined).collect();
            prop_assert_eq!(read::<LeaderSays>(&bytes, &pieces), Ok(leader));
            prop_assert_eq!(read::<FollowerSays>(&stream(&follower), &pieces), Ok(follower));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_without_a_panic(
            leader in frames(any_leader_says()),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            pieces in vec(1..50_usize, 1..4),
        ) {
            let mut bytes = stream(&leader);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read::<LeaderSays>(&bytes, &pieces);
            let _ = read::<FollowerSays>(&bytes, &pieces);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_without_a_panic(bytes in vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode::<LeaderSays>(bytes.clone());
            let _ = decode::<FollowerSays>(bytes);
        }
    }
}

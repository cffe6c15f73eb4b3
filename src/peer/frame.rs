//! Messages on a stream of bytes between brokers. Pure.
//!
//! ```text
//! version u8 = 1, kind u16, flags u8 = 0, header_length u32, parts u16     big-endian
//! header                                                                   JSON, as its kind says
//! length u32, bytes                                                        once for each part
//! ```
//! The header says what is asked or answered; parts are bytes that are passed on as they are. Neither is copied on its way out, nor on
//! its way in where it arrives in one piece. Lengths are checked when they are read, and memory is taken for what has arrived
//! and for little beyond (`pieces`): a peer that announces much and sends nothing costs nothing. `peer/rpc.rs` reads and
//! writes them, and nothing is kept of them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::pieces::Pieces;

/// The layout of frames that this version writes, and the only one that it reads.
pub const VERSION: u8 = 1;
/// Longest header. Commands for the metadata are the longest: some megabytes, with the assignment of many partitions.
pub const HEADER_LIMIT_BYTES: usize = 16 << 20;
/// Longest part.
pub const PART_LIMIT_BYTES: usize = 128 << 20;
const PREFIX_BYTES: usize = 10;
const LENGTH_BYTES: usize = 4;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub kind: u16,
    /// JSON.
    pub header: Bytes,
    /// Bytes beside it, at most 65,535 of them.
    pub parts: Vec<Bytes>,
}

impl Message {
    /// Whether it can be sent to a reader with this limit.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn check(&self, limit_bytes: usize) -> Result<(), FrameError> {
        at_most("number of parts", self.parts.len(), usize::from(u16::MAX))?;
        at_most("header", self.header.len(), HEADER_LIMIT_BYTES)?;
        for part in &self.parts {
            at_most("part", part.len(), PART_LIMIT_BYTES)?;
        }
        let parts: usize = self.parts.iter().map(|part| LENGTH_BYTES + part.len()).sum();
        at_most("message", PREFIX_BYTES + self.header.len() + parts, limit_bytes)
    }
}

/// What arrived is not a message that may be read here. The stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A layout that this version does not know.
    #[error(
        "message has another layout version={version} known={VERSION}; brokers of a cluster differ by one release at most"
    )]
    Version {
        /// Its number.
        version: u8,
    },
    /// Nothing of version 1 has flags.
    #[error("message has flags that this version does not know flags={flags}")]
    Flags {
        /// All of them.
        flags: u8,
    },
    /// It is too long, or has too much of something.
    #[error("{what} of a message is too large size={size} limit={limit}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// What was announced.
        size: usize,
        /// What may be.
        limit: usize,
    },
}

const fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), FrameError> {
    if size > limit { Err(FrameError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// The bytes of a message, in chunks; header and parts are shared.
///
/// # Panics
/// When the message is beyond the limits of any reader: who makes large ones asks [`Message::check`] first.
pub fn encode(message: &Message) -> Vec<Bytes> {
    if let Err(error) = message.check(usize::MAX) {
        panic!("a message was made that nobody can read: {error}");
    }
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("the limits are below 4 GiB");
    let Message { kind, header, parts } = message;
    let mut lengths = BytesMut::with_capacity(PREFIX_BYTES + LENGTH_BYTES * parts.len());
    lengths.put_u8(VERSION);
    lengths.put_u16(*kind);
    lengths.put_u8(0);
    lengths.put_u32(length(header));
    lengths.put_u16(u16::try_from(parts.len()).expect("checked"));
    parts.iter().for_each(|part| lengths.put_u32(length(part)));
    let mut lengths = lengths.freeze();
    let mut chunks = Vec::with_capacity(2 + 2 * parts.len());
    chunks.extend([lengths.split_to(PREFIX_BYTES), header.clone()]);
    for part in parts {
        chunks.extend([lengths.split_to(LENGTH_BYTES), part.clone()]);
    }
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Prefix,
    Header(usize),
    Length,
    Part(usize),
}

impl Awaited {
    const fn length(self) -> usize {
        match self {
            Self::Prefix => PREFIX_BYTES,
            Self::Length => LENGTH_BYTES,
            Self::Header(length) | Self::Part(length) => length,
        }
    }
}

/// Makes messages of bytes that arrive in whatever pieces.
#[derive(Debug)]
pub struct Reader {
    limit_bytes: usize,
    pieces: Pieces,
    awaited: Awaited,
    message: Message,
    missing_parts: u16,
    /// Length of the message as far as it is known.
    message_bytes: usize,
    broken: Option<FrameError>,
}

impl Reader {
    /// Reads messages of at most so many bytes each, all lengths included.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            pieces: Pieces::default(),
            awaited: Awaited::Prefix,
            message: Message::default(),
            missing_parts: 0,
            message_bytes: 0,
            broken: None,
        }
    }

    /// Takes what arrived next. [`Self::next`] is asked before more is read from the peer.
    pub fn push(&mut self, bytes: Bytes) {
        self.pieces.push(bytes);
    }

    /// The next message, if all of it has arrived.
    ///
    /// # Errors
    /// [`FrameError`], from then on each time.
    #[expect(clippy::should_implement_trait, reason = "an iterator ends, and this one goes on when more is pushed")]
    pub fn next(&mut self) -> Result<Option<Message>, FrameError> {
        match self.broken {
            Some(error) => Err(error),
            None => self.advance().inspect_err(|error| self.broken = Some(*error)),
        }
    }

    /// Whether nothing has arrived since the last message.
    pub fn is_empty(&self) -> bool {
        self.awaited == Awaited::Prefix && self.pieces.is_empty()
    }

    /// What arrived behind the last message, for who goes on in another way.
    ///
    /// # Panics
    /// In the middle of a message.
    pub fn into_rest(self) -> Bytes {
        assert_eq!(self.awaited, Awaited::Prefix, "what is left over begins behind a message");
        self.pieces.into_rest()
    }

    fn advance(&mut self) -> Result<Option<Message>, FrameError> {
        while let Some(piece) = self.pieces.take(self.awaited.length()) {
            match self.awaited {
                Awaited::Prefix => {
                    self.begin(piece)?;
                    continue;
                }
                Awaited::Length => {
                    let length = as_usize(u32_of(piece));
                    at_most("part", length, PART_LIMIT_BYTES)?;
                    self.announce(length)?;
                    self.awaited = Awaited::Part(length);
                    continue;
                }
                Awaited::Header(_) => self.message.header = piece,
                Awaited::Part(_) => {
                    self.message.parts.push(piece);
                    self.missing_parts -= 1;
                }
            }
            if self.missing_parts > 0 {
                self.awaited = Awaited::Length;
                continue;
            }
            self.awaited = Awaited::Prefix;
            self.message_bytes = 0;
            return Ok(Some(std::mem::take(&mut self.message)));
        }
        Ok(None)
    }

    fn begin(&mut self, mut prefix: Bytes) -> Result<(), FrameError> {
        let (version, kind, flags) = (prefix.get_u8(), prefix.get_u16(), prefix.get_u8());
        let (header, parts) = (as_usize(prefix.get_u32()), prefix.get_u16());
        if version != VERSION {
            return Err(FrameError::Version { version });
        }
        if flags != 0 {
            return Err(FrameError::Flags { flags });
        }
        at_most("header", header, HEADER_LIMIT_BYTES)?;
        self.announce(PREFIX_BYTES + header + LENGTH_BYTES * usize::from(parts))?;
        self.message.kind = kind;
        self.missing_parts = parts;
        self.awaited = Awaited::Header(header);
        Ok(())
    }

    fn announce(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.message_bytes += bytes;
        at_most("message", self.message_bytes, self.limit_bytes)
    }
}

fn u32_of(mut bytes: Bytes) -> u32 {
    bytes.get_u32()
}

fn as_usize(length: u32) -> usize {
    usize::try_from(length).expect("there is no machine of less than 32 bits here")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::pieces::STEP_BYTES;
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn message(kind: u16, header: &str, parts: &[&[u8]]) -> Message {
        Message {
            kind,
            header: Bytes::copy_from_slice(header.as_bytes()),
            parts: parts.iter().map(|part| Bytes::copy_from_slice(part)).collect(),
        }
    }

    fn bytes_of(message: &Message) -> Vec<u8> {
        encode(message).concat()
    }

    /// All messages in bytes that arrive in pieces of these lengths, again and again.
    fn read(bytes: &[u8], pieces: &[usize], limit_bytes: usize) -> Result<Vec<Message>, FrameError> {
        let mut reader = Reader::new(limit_bytes);
        let (mut messages, mut rest, mut pieces) = (Vec::new(), bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            reader.push(Bytes::copy_from_slice(piece));
            rest = behind;
            while let Some(message) = reader.next()? {
                messages.push(message);
            }
            let held = reader.pieces.held_bytes();
            assert!(held <= bytes.len() - rest.len() + STEP_BYTES, "{held} bytes are held");
        }
        Ok(messages)
    }

    fn prefix(version: u8, flags: u8, header: u32, parts: u16) -> Vec<u8> {
        let mut bytes = vec![version, 0, 7, flags];
        bytes.extend(header.to_be_bytes());
        bytes.extend(parts.to_be_bytes());
        bytes
    }

    #[test]
    fn a_message_has_the_bytes_that_the_format_says() {
        let bytes = bytes_of(&message(0x0102, "{}", &[b"abc", b""]));
        assert_eq!(bytes, b"\x01\x01\x02\x00\x00\x00\x00\x02\x00\x02{}\x00\x00\x00\x03abc\x00\x00\x00\x00");
    }

    #[test]
    fn header_and_parts_are_not_copied_on_their_way_out_nor_in_when_they_arrive_in_one_piece() {
        let sent = message(7, "{\"a\":1}", &[&[5; 1000]]);
        let chunks = encode(&sent);
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == sent.header.as_ptr()));
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == sent.parts[0].as_ptr()));
        let arrived = Bytes::from(chunks.concat());
        let mut reader = Reader::new(LIMIT);
        reader.push(arrived.clone());
        let read = reader.next().unwrap().unwrap();
        assert_eq!(read, sent);
        assert!(arrived.as_ptr_range().contains(&read.parts[0].as_ptr()));
        assert!(reader.is_empty());
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_anything_of_them_arrives() {
        let too_large = |what, size, limit| Err(FrameError::TooLarge { what, size, limit });
        let header = u32::MAX as usize;
        assert_eq!(read(&prefix(1, 0, u32::MAX, 0), &[1], usize::MAX), too_large("header", header, HEADER_LIMIT_BYTES));
        assert_eq!(read(&prefix(1, 0, 1 << 20, 0), &[1], LIMIT), too_large("message", LIMIT + 10, LIMIT));
        let mut bytes = prefix(1, 0, 0, 1);
        bytes.extend(u32::MAX.to_be_bytes());
        assert_eq!(read(&bytes, &[3], usize::MAX), too_large("part", header, PART_LIMIT_BYTES));
        let mut bytes = prefix(1, 0, 0, 2);
        bytes.extend(((LIMIT - 18) as u32).to_be_bytes());
        assert_eq!(read(&bytes, &[100], LIMIT), Ok(vec![]));
        bytes.extend(std::iter::repeat_n(0, LIMIT - 18));
        bytes.extend(1_u32.to_be_bytes());
        assert_eq!(read(&bytes, &[1 << 16], LIMIT), too_large("message", LIMIT + 1, LIMIT));
    }

    #[test]
    fn another_version_and_unknown_flags_are_refused_and_nothing_is_read_after_that() {
        assert_eq!(read(&prefix(2, 0, 0, 0), &[100], LIMIT), Err(FrameError::Version { version: 2 }));
        let mut reader = Reader::new(LIMIT);
        reader.push(prefix(1, 8, 0, 0).into());
        assert_eq!(reader.next(), Err(FrameError::Flags { flags: 8 }));
        reader.push(bytes_of(&message(7, "{}", &[])).into());
        assert_eq!(reader.next(), Err(FrameError::Flags { flags: 8 }));
    }

    #[test]
    fn what_can_be_checked_can_be_read_and_nothing_else() {
        let sent = message(7, "{}", &[b"abc"]);
        assert_eq!(sent.check(19), Ok(()));
        assert_eq!(read(&bytes_of(&sent), &[4], 19).unwrap(), std::slice::from_ref(&sent));
        assert!(sent.check(18).is_err() && read(&bytes_of(&sent), &[4], 18).is_err());
        let parts = vec![Bytes::new(); 65_536];
        assert!(Message { parts, ..sent }.check(usize::MAX).is_err());
    }

    #[test]
    fn what_follows_a_message_is_left_for_who_goes_on() {
        for cut in [0, 1, 9] {
            let mut reader = Reader::new(LIMIT);
            let mut bytes = bytes_of(&message(7, "{}", &[]));
            let end = bytes.len();
            bytes.extend(b"0123456789abcdef");
            reader.push(Bytes::copy_from_slice(&bytes[..end + cut]));
            assert!(reader.next().unwrap().is_some());
            reader.push(Bytes::copy_from_slice(&bytes[end + cut..]));
            assert_eq!(reader.into_rest(), &b"0123456789abcdef"[..]);
        }
    }

    fn any_message() -> impl Strategy<Value = Message> {
        (any::<u16>(), vec(any::<u8>(), 0..40), vec(vec(any::<u8>(), 0..40), 0..5)).prop_map(|(kind, header, parts)| {
            Message { kind, header: header.into(), parts: parts.into_iter().map(Bytes::from).collect() }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn messages_are_read_as_they_were_sent_in_whatever_pieces_they_arrive(
            sent in vec(any_message(), 0..4),
            pieces in vec(1..50_usize, 1..10),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
            prop_assert_eq!(read(&bytes, &pieces, LIMIT), Ok(sent));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_without_a_panic_and_without_memory_for_what_did_not_come(
            sent in any_message(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            pieces in vec(1..50_usize, 1..4),
        ) {
            let mut bytes = bytes_of(&sent);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read(&bytes, &pieces, usize::MAX);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_without_a_panic(
            bytes in vec(any::<u8>(), 0..200),
            pieces in vec(1..50_usize, 1..4),
        ) {
            let _ = read(&bytes, &pieces, LIMIT);
            let _ = read(&[&[VERSION, 0, 7, 0, 0][..], &bytes].concat(), &pieces, LIMIT);
        }
    }
}

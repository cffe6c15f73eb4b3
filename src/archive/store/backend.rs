//! The contract between [`super::Store`] and a place that keeps objects: single attempts, no retries, no limits.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use xxhash_rust::xxh3::Xxh3;

use super::StoreError;
use crate::runtime::disk::File;
use crate::runtime::net::BoxFuture;
use crate::types::Timestamp;

/// The result of one attempt.
pub type Attempt<T> = Result<T, StoreError>;

/// Names one state of an object for conditional writes: an entity tag or a content hash. Opaque; compare only for equality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// What a conditional write expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No object.
    Absent,
    /// An object in exactly this state.
    Version(Version),
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key, relative to the store's root.
    pub key: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was written, by the store's clock, where that is known. Nothing is decided by it but what people are told.
    pub modified: Option<Timestamp>,
}

/// Content of an immutable object: small ones from memory, large ones from a spooled file, so that an upload needs
/// memory for a few parts only.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes in memory.
    Memory(Bytes),
    /// The first `length` bytes of a local file that nobody changes meanwhile.
    Spooled {
        /// The file.
        file: Arc<dyn File>,
        /// Bytes of it that count.
        length: u64,
        /// What they hash to (XXH3, 128 bits), where who reads them all is to know that it reads what was verified.
        hash: Option<u128>,
    },
}

impl Payload {
    /// Length in bytes.
    pub const fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spooled { length, .. } => *length,
        }
    }

    /// Reads up to `limit` bytes from `offset`; short only at the end. Blocks on the disk for a spooled payload.
    pub fn read(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.length().saturating_sub(offset)).unwrap_or(usize::MAX).min(limit);
        match self {
            Self::Memory(bytes) => {
                let start = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(bytes.slice(start..start + left))
            }
            Self::Spooled { file, .. } => {
                let mut part = vec![0; left];
                file.read_exact_at(&mut part, offset)?;
                Ok(part.into())
            }
        }
    }
}

/// Reads a payload from its beginning to its end, as it is sent.
pub struct PayloadReader {
    payload: Payload,
    offset: u64,
    hash: Xxh3,
}

impl PayloadReader {
    /// At the beginning.
    pub fn new(payload: &Payload) -> Self {
        Self { payload: payload.clone(), offset: 0, hash: Xxh3::new() }
    }

    /// Whether everything was read.
    pub const fn is_at_end(&self) -> bool {
        self.offset == self.payload.length()
    }

    /// The next bytes, up to `limit` of them. Blocks on the disk for a spooled payload.
    ///
    /// # Errors
    /// Those of the disk; `InvalidData` with the last bytes, if all of them are not those that were spooled. Nothing is to be
    /// made of what was read before, then.
    pub fn read(&mut self, limit: usize) -> io::Result<Bytes> {
        let part = self.payload.read(self.offset, limit)?;
        self.offset += part.len() as u64;
        if let Payload::Spooled { hash: Some(expected), .. } = self.payload {
            self.hash.update(&part);
            if self.is_at_end() && self.hash.digest128() != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the spooled file changed since it was written",
                ));
            }
        }
        Ok(part)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// A place that keeps objects. Every method is one attempt; a failed or dropped write may still happen later.
pub trait Backend: Send + Sync + Debug {
    /// Writes a whole object, durably, replacing any object of that key. Readers see all of it or nothing.
    fn put<'a>(&'a self, key: &'a str, payload: &'a Payload) -> BoxFuture<'a, Attempt<()>>;

    /// Reads a whole object and the version that was read.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<(Bytes, Version)>>;

    /// Reads byte ranges of an object, in the order asked for.
    fn get_ranges<'a>(&'a self, key: &'a str, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Attempt<Vec<Bytes>>>;

    /// The length of an object in bytes.
    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<u64>>;

    /// Objects whose key begins with `prefix`, which ends with `/` or is empty. Not a snapshot; never a source of truth.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Attempt<Listed>>;

    /// The names directly below `prefix` that have objects below them, sorted; `prefix` as in [`Backend::list`].
    fn directories<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Attempt<Vec<String>>>;

    /// Removes an object; one that is absent is removed already.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<()>>;

    /// Writes a small object if it is in the expected state, atomically against every other writer of that key.
    fn replace<'a>(&'a self, key: &'a str, content: Bytes, expected: &'a Expected) -> BoxFuture<'a, Attempt<Version>>;
}

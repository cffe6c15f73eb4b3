//! Bytes of a stream that arrive in whatever pieces, and are wanted in others. Pure.
//!
//! What arrives in one piece is given away without a copy. Memory is taken for what has arrived and for [`STEP_BYTES`] at most
//! beyond: a peer that announces much and sends nothing costs nothing. The readers of frames, here and in `replication`, are made of
//! it, and check lengths before they ask for so much. Nothing is kept.

use std::collections::VecDeque;

use bytes::Bytes;

/// Memory that is taken ahead of the bytes that will fill it.
pub const STEP_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Pieces {
    /// What arrived and was not looked at.
    chunks: VecDeque<Bytes>,
    /// The beginning of what is wanted, if that came in more than one chunk.
    partial: Vec<u8>,
}

impl Pieces {
    /// Takes what arrived next.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// So many bytes, once all of them are there. Until then the same number is asked for.
    pub fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.partial.is_empty() {
            if length == 0 {
                return Some(Bytes::new());
            }
            if self.chunks.front()?.len() >= length {
                return self.take_of_front(length);
            }
        }
        while self.partial.len() < length {
            let missing = length - self.partial.len();
            let bytes = self.take_of_front(missing)?;
            if self.partial.capacity() - self.partial.len() < bytes.len() {
                self.partial.reserve_exact(bytes.len().max(missing.min(STEP_BYTES)));
            }
            self.partial.extend_from_slice(&bytes);
        }
        Some(std::mem::take(&mut self.partial).into())
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.chunks.is_empty()
    }

    /// All that is there.
    pub fn into_rest(mut self) -> Bytes {
        if self.partial.is_empty() && self.chunks.len() <= 1 {
            return self.chunks.pop_front().unwrap_or_default();
        }
        self.chunks.iter().for_each(|chunk| self.partial.extend_from_slice(chunk));
        self.partial.into()
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.partial.capacity() + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }

    /// At most so many bytes of the first chunk; none without a chunk.
    fn take_of_front(&mut self, most: usize) -> Option<Bytes> {
        let front = self.chunks.front_mut()?;
        let bytes = front.split_to(most.min(front.len()));
        if front.is_empty() {
            self.chunks.pop_front();
        }
        Some(bytes)
    }
}

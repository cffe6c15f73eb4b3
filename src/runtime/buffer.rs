//! Memory aligned for direct IO, made without unsafe code: a larger allocation whose aligned middle is used.

use bytes::{Buf, Bytes, BytesMut};

use super::disk::DIRECT_ALIGNMENT_BYTES;

/// A growable buffer with a fixed capacity whose first byte is aligned to [`DIRECT_ALIGNMENT_BYTES`]. It never
/// reallocates: growing past the capacity is a bug of the caller and panics.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: BytesMut,
    capacity: usize,
}

impl AlignedBuffer {
    /// Allocates room for `capacity` bytes, rounded up to the alignment.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(DIRECT_ALIGNMENT_BYTES);
        let mut bytes = BytesMut::with_capacity(capacity + DIRECT_ALIGNMENT_BYTES);
        let gap = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT_BYTES);
        bytes.resize(gap, 0);
        bytes.advance(gap);
        Self { bytes, capacity }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.capacity - self.bytes.len()
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "aligned buffer over its capacity");
        self.bytes.extend_from_slice(bytes);
    }

    /// Fills with zeros up to the next multiple of the alignment.
    pub fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(DIRECT_ALIGNMENT_BYTES);
        assert!(length <= self.capacity, "capacity is a multiple of the alignment");
        self.bytes.resize(length, 0);
    }

    /// The bytes written so far, to be patched.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Ends writing and shares the bytes; the first is still aligned.
    pub fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_before_and_after_freezing() {
        for capacity in [1, 4096, 100_000, 1 << 20] {
            let mut buffer = AlignedBuffer::with_capacity(capacity);
            buffer.extend(&vec![7; capacity]);
            buffer.pad();
            assert_eq!(buffer.len() % DIRECT_ALIGNMENT_BYTES, 0);
            let bytes = buffer.freeze();
            assert_eq!(bytes.as_ptr().align_offset(DIRECT_ALIGNMENT_BYTES), 0);
        }
    }
}

//! Memory aligned for direct IO, made without unsafe code (a larger allocation whose aligned middle is used), and kept for
//! the next buffer when one is dropped.
//!
//! Fresh memory is dear: the kernel clears each page at its first use, which costs more than copying into it, and under some
//! hypervisors several times more. The log moves all its bytes through such buffers, so the process keeps a bounded amount
//! of them. What an earlier use left in a buffer is never handed out: only bytes that were written are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;

use super::disk::DIRECT_ALIGNMENT_BYTES;

/// Larger buffers are rare and not kept.
const LARGEST_KEPT_BYTES: usize = 4 << 20;

/// Buffers that nobody uses.
static FREE: Mutex<Free> = Mutex::new(Free::new());
/// See [`keep_at_most`].
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(16 << 20);

struct Free {
    by_capacity: BTreeMap<usize, Class>,
    bytes: usize,
    takes: u64,
}

/// Free buffers of one capacity.
#[derive(Default)]
struct Class {
    buffers: Vec<BytesMut>,
    /// Which take asked for one last.
    last_take: u64,
}

impl Free {
    const fn new() -> Self {
        Self { by_capacity: BTreeMap::new(), bytes: 0, takes: 0 }
    }

    fn take(&mut self, capacity: usize) -> Option<BytesMut> {
        self.takes += 1;
        let class = self.by_capacity.entry(capacity).or_default();
        class.last_take = self.takes;
        let kept = class.buffers.pop()?;
        self.bytes -= capacity;
        Some(kept)
    }

    /// Keeps a buffer, in the place of those that were not asked for since one of its capacity was. What has to go is returned,
    /// to be freed without the lock.
    fn keep(&mut self, buffer: BytesMut, most_bytes: usize) -> Vec<BytesMut> {
        let capacity = buffer.len();
        let mut gone = Vec::new();
        let last_take = self.by_capacity.entry(capacity).or_default().last_take;
        while self.bytes + capacity > most_bytes {
            let others = self.by_capacity.values_mut().filter(|class| !class.buffers.is_empty());
            let stale = others.min_by_key(|class| class.last_take).filter(|class| class.last_take < last_take);
            let Some(buffer_gone) = stale.and_then(|class| class.buffers.pop()) else {
                gone.push(buffer);
                return gone;
            };
            self.bytes -= buffer_gone.len();
            gone.push(buffer_gone);
        }
        self.bytes += capacity;
        self.by_capacity.entry(capacity).or_default().buffers.push(buffer);
        gone
    }
}

/// Bounds the memory that is kept for buffers to come, 16 MiB until this is called. Less costs page faults.
pub fn keep_at_most(bytes: usize) {
    KEPT_BYTES.store(bytes, Ordering::Relaxed);
}

/// The capacity that is allocated for `bytes`: four sizes between each two powers of two, so that most buffers fit again.
fn class_of(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(DIRECT_ALIGNMENT_BYTES);
    bytes.next_multiple_of(step)
}

/// Aligned memory, all of it initialised; goes back to the free ones when dropped.
#[derive(Debug)]
struct Memory {
    bytes: BytesMut,
}

impl Memory {
    fn take(bytes: usize) -> Self {
        let capacity = class_of(bytes);
        let kept = FREE.lock().take(capacity);
        let bytes = kept.unwrap_or_else(|| {
            let mut bytes = BytesMut::zeroed(capacity + DIRECT_ALIGNMENT_BYTES);
            bytes.advance(bytes.as_ptr().align_offset(DIRECT_ALIGNMENT_BYTES));
            bytes.truncate(capacity);
            bytes
        });
        Self { bytes }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let capacity = self.bytes.len();
        if capacity > LARGEST_KEPT_BYTES {
            return;
        }
        let gone = FREE.lock().keep(std::mem::take(&mut self.bytes), KEPT_BYTES.load(Ordering::Relaxed));
        drop(gone);
    }
}

/// A growable buffer with a fixed capacity whose first byte is aligned to [`DIRECT_ALIGNMENT_BYTES`]. It never
/// reallocates: growing past the capacity is a bug of the caller and panics.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Memory,
    used: usize,
}

impl AlignedBuffer {
    /// Room for `capacity` bytes, rounded up to the alignment or somewhat more.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { memory: Memory::take(capacity.max(1)), used: 0 }
    }

    /// A buffer of `length` bytes to be read into; until then they are anything.
    pub fn for_reading(length: usize) -> Self {
        Self { used: length, ..Self::with_capacity(length) }
    }

    /// Bytes written so far.
    pub const fn len(&self) -> usize {
        self.used
    }

    /// True before the first byte.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.memory.bytes.len() - self.used
    }

    /// Memory that the buffer holds, and the bytes that it is frozen to.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes.len()
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "aligned buffer over its capacity");
        self.memory.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// Fills with zeros up to the next multiple of the alignment.
    pub fn pad(&mut self) {
        let length = self.used.next_multiple_of(DIRECT_ALIGNMENT_BYTES);
        assert!(length <= self.memory.bytes.len(), "capacity is a multiple of the alignment");
        self.memory.bytes[self.used..length].fill(0);
        self.used = length;
    }

    /// Starts anew in the same memory.
    pub const fn clear(&mut self) {
        self.used = 0;
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes[..self.used]
    }

    /// The bytes written so far, to be patched.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes[..self.used]
    }

    /// Ends writing and shares the bytes; the first is still aligned.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
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

    #[test]
    fn a_buffer_used_again_shows_nothing_of_its_earlier_use() {
        // A size that no other test uses: the free buffers belong to the process.
        let capacity = 3_000_000;
        let mut first = AlignedBuffer::with_capacity(capacity);
        first.extend(&vec![7; capacity]);
        let bytes = first.freeze();
        let (address, slice) = (bytes.as_ptr(), bytes.slice(10..20));
        drop(bytes);
        assert_ne!(AlignedBuffer::with_capacity(capacity).bytes().as_ptr(), address, "a slice still holds the memory");
        drop(slice);
        let again: Vec<_> = (0..2).map(|_| AlignedBuffer::with_capacity(capacity)).collect();
        let mut again = again.into_iter().find(|buffer| buffer.memory.bytes.as_ptr() == address).expect("kept");
        assert!(again.is_empty());
        again.extend(&[1; 5000]);
        again.pad();
        assert_eq!(again.bytes()[5000..], [0; 3192]);
    }

    #[test]
    fn buffers_that_nobody_asks_for_make_way_for_those_that_are_asked_for() {
        let mut free = Free::new();
        let buffer = |capacity| BytesMut::zeroed(capacity);
        assert!(free.take(10).is_none());
        for _ in 0..10 {
            assert!(free.keep(buffer(10), 100).is_empty());
        }
        assert_eq!(free.keep(buffer(10), 100).len(), 1, "no more than may be kept");
        assert_eq!(free.keep(buffer(30), 100).len(), 1, "nobody asked for it");
        assert!(free.take(30).is_none());
        assert_eq!(free.keep(buffer(30), 100).len(), 3);
        assert_eq!(free.bytes, 100);
        assert!(free.take(30).is_some() && free.take(30).is_none() && free.take(10).is_some());
        assert_eq!(free.bytes, 60);
    }

    #[test]
    fn little_is_lost_by_rounding() {
        for bytes in [1, 4095, 4096, 4097, 70_000, 1_048_577, 4_000_000] {
            let class = class_of(bytes);
            assert!(class >= bytes && class.is_multiple_of(DIRECT_ALIGNMENT_BYTES), "{bytes}");
            assert!(class <= bytes + (bytes / 4).max(DIRECT_ALIGNMENT_BYTES), "{bytes} took {class}");
        }
    }
}

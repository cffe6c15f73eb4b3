//! The journal of a data directory: one stream of blocks to which the appends of all its partitions go in shared groups.
//!
//! Partitions [`push`](Journal::push) writes while they hold their own lock, which fixes the order; the journal's lane takes
//! what has gathered, forms one block, writes it with a single direct, synchronous write, and hands each partition its part
//! of the block (with `write.caching` on for all of the group's topics, the write is direct alone): the very memory that was written becomes the partition's tail. The queue is bounded by the admission
//! permits that appenders hold (see `directory`).
//!
//! After a crash: every write that was completed is found by replay (see [`files`]); one that was not may or may not be.
//! A write error is final: the journal is closed, all queued writes fail, and the directory goes offline.

mod block;
mod entry;
mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

pub use block::{Block, read as read_block};
pub use entry::{Entry, EntryError, Mark, read_entry};
pub use files::{
    Appended, Durability, FILE_HEADER_BYTES, JournalFiles, JournalSettings, ReplayPosition, decode_header,
};

use crate::record::place_batch;
use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::Disk;
use crate::types::{LeaderEpoch, Offset, TopicPartition};
use block::{BLOCK_HEADER_BYTES, block_bytes};
use entry::{ENTRY_HEADER_BYTES, encode_mark, write_append_header};

/// Payload above which a group is written rather than let grow. Larger groups save little per byte and delay the first.
const GROUP_TARGET_BYTES: usize = 1 << 20;

/// A partition as the journal sees it.
pub trait Client: Send + Sync {
    /// Number of the partition within its directory; orders completions.
    fn number(&self) -> u32;
    /// Which partition it is.
    fn partition(&self) -> TopicPartition;
    /// Its writes in one block, in the order in which they were pushed, are as safe as they asked to be. `memory_bytes` is its share of
    /// the memory that the block takes, which is more than its batches.
    fn completed(self: &Arc<Self>, sequence: u64, writes: Vec<Completed>, memory_bytes: usize);
}

/// Something for the journal to write.
pub enum Write<C> {
    /// A batch that takes its place in the log here.
    Append {
        /// The partition.
        client: Arc<C>,
        /// One batch, as the producer sent it.
        batch: Bytes,
        /// Its first offset.
        base_offset: Offset,
        /// The epoch that it is appended in.
        leader_epoch: LeaderEpoch,
        /// What its completion waits for. A block waits for the most that one of its writes asks for.
        durability: Durability,
    },
    /// Any other change of a partition.
    Mark {
        /// The partition.
        client: Arc<C>,
        /// The change.
        mark: Mark,
    },
}

impl<C: Client> Write<C> {
    fn entry_bytes(&self) -> usize {
        match self {
            Self::Append { batch, .. } => ENTRY_HEADER_BYTES + batch.len(),
            Self::Mark { client, mark } => encode_mark(client.partition(), mark).len(),
        }
    }

    const fn durability(&self) -> Durability {
        match self {
            Self::Append { durability, .. } => *durability,
            Self::Mark { .. } => Durability::Stable,
        }
    }

    const fn client(&self) -> &Arc<C> {
        match self {
            Self::Append { client, .. } | Self::Mark { client, .. } => client,
        }
    }
}

/// A write that is on stable storage.
#[derive(Clone, Debug)]
pub enum Completed {
    /// The batch, with its place set, in the block's memory.
    Append(Bytes),
    /// The change.
    Mark(Mark),
}

/// What a run of the lane did, for the driver to act on.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing was queued.
    Idle,
    /// A group was written; there may be more.
    Wrote {
        /// Bytes written to disk.
        bytes: usize,
        /// Entries in the group.
        entries: u32,
        /// Time of the write.
        took: Duration,
    },
    /// There is no room, or no file descriptor, for another file; run again later.
    Shortage(std::io::Error),
    /// All files are full; run again once a checkpoint has released one.
    Full,
    /// The disk failed; the journal is closed for good.
    Failed,
}

struct Queue<C> {
    writes: VecDeque<Write<C>>,
    closed: bool,
}

struct Written<C> {
    files: JournalFiles,
    /// A group that found all files full.
    stalled: Option<Group<C>>,
}

struct Group<C> {
    buffer: AlignedBuffer,
    durability: Durability,
    entries: Vec<(u32, GroupEntry)>,
    /// Partitions of the group, by number.
    clients: BTreeMap<u32, Arc<C>>,
}

enum GroupEntry {
    Append { start: usize, end: usize },
    Mark(Mark),
}

/// See the module.
pub struct Journal<C> {
    queue: Mutex<Queue<C>>,
    written: Mutex<Written<C>>,
    completed: Mutex<ReplayPosition>,
}

impl<C: Client> Journal<C> {
    /// Takes over files that replay has brought to `end`.
    pub fn new(files: JournalFiles, end: ReplayPosition) -> Self {
        Self {
            queue: Mutex::new(Queue { writes: VecDeque::new(), closed: false }),
            written: Mutex::new(Written { files, stalled: None }),
            completed: Mutex::new(end),
        }
    }

    /// Queues a write; refused (false) once the journal has failed. The caller wakes the lane.
    pub fn push(&self, write: Write<C>) -> bool {
        let mut queue = self.queue.lock();
        if !queue.closed {
            queue.writes.push_back(write);
        }
        !queue.closed
    }

    /// Most bytes of one group, hence of one mark.
    pub fn group_limit_bytes(&self) -> usize {
        self.written.lock().files.group_limit_bytes()
    }

    /// Where replay would continue after everything that has been handed to partitions so far.
    pub fn completed(&self) -> ReplayPosition {
        *self.completed.lock()
    }

    /// Lets files be used again whose blocks are all below `sequence`; how many were.
    pub fn release_below(&self, sequence: u64) -> usize {
        self.written.lock().files.release_below(sequence)
    }

    /// Brings all blocks that were handed to partitions to stable storage. A failure is final.
    pub fn sync(&self) -> std::io::Result<()> {
        self.written.lock().files.sync()
    }

    /// Bytes of all files.
    pub fn allocated_bytes(&self) -> u64 {
        self.written.lock().files.allocated_bytes()
    }

    /// Makes the next file ahead of need, without holding up writes. Called by a lane other than the journal's.
    pub fn prepare_spare(&self, disk: &dyn Disk) -> std::io::Result<()> {
        let Some(spare) = self.written.lock().files.spare_wanted() else { return Ok(()) };
        let made = spare.make(disk);
        self.written.lock().files.spare_made(&spare, made.is_ok());
        made
    }

    /// Writes one group, if anything is queued, and completes it. Called by the lane only.
    pub fn run(&self) -> Outcome {
        let mut written = self.written.lock();
        let group = match written.stalled.take() {
            Some(group) => group,
            None => match self.gather(written.files.group_limit_bytes().min(GROUP_TARGET_BYTES)) {
                Some(group) => group,
                None => return Outcome::Idle,
            },
        };
        let Group { buffer, durability, entries, clients } = group;
        let memory_bytes = buffer.memory_bytes();
        let count = u32::try_from(entries.len()).expect("a group is bounded");
        match written.files.append(buffer, count, durability) {
            Ok(Appended::Written { bytes, end, took }) => {
                drop(written);
                self.complete(&bytes, memory_bytes, entries, &clients, end);
                Outcome::Wrote { bytes: bytes.len(), entries: count, took }
            }
            Ok(Appended::Full { buffer, shortage }) => {
                written.stalled = Some(Group { buffer, durability, entries, clients });
                shortage.map_or(Outcome::Full, Outcome::Shortage)
            }
            Err(error) => {
                tracing::error!(%error, "journal write failed");
                Outcome::Failed
            }
        }
    }

    /// Takes queued writes, in order, up to the limit, and lays them out as a block.
    fn gather(&self, limit_bytes: usize) -> Option<Group<C>> {
        let mut taken = Vec::new();
        let mut payload_bytes = 0;
        {
            let mut queue = self.queue.lock();
            while let Some(write) = queue.writes.front() {
                let bytes = write.entry_bytes();
                if !taken.is_empty() && payload_bytes + bytes > limit_bytes {
                    break;
                }
                payload_bytes += bytes;
                taken.extend(queue.writes.pop_front());
            }
        }
        if taken.is_empty() {
            return None;
        }
        let stable = taken.iter().any(|write| write.durability() == Durability::Stable);
        let durability = if stable { Durability::Stable } else { Durability::Written };
        let mut buffer = block::begin(block_bytes(payload_bytes));
        debug_assert_eq!(buffer.len(), BLOCK_HEADER_BYTES);
        let mut entries = Vec::with_capacity(taken.len());
        let mut clients = BTreeMap::new();
        for write in taken {
            let number = write.client().number();
            entries.push((number, lay_out(&mut buffer, &write)));
            clients.entry(number).or_insert_with(|| Arc::clone(write.client()));
        }
        Some(Group { buffer, durability, entries, clients })
    }

    fn complete(
        &self,
        bytes: &Bytes,
        memory_bytes: usize,
        entries: Vec<(u32, GroupEntry)>,
        clients: &BTreeMap<u32, Arc<C>>,
        end: ReplayPosition,
    ) {
        let sequence = end.sequence - 1;
        let mut parts: BTreeMap<u32, (Vec<Completed>, usize)> = BTreeMap::new();
        let mut batch_bytes = 0;
        for (number, entry) in entries {
            let (writes, own_bytes) = parts.entry(number).or_default();
            writes.push(match entry {
                GroupEntry::Append { start, end } => {
                    *own_bytes += end - start;
                    batch_bytes += end - start;
                    Completed::Append(bytes.slice(start..end))
                }
                GroupEntry::Mark(mark) => Completed::Mark(mark),
            });
        }
        let shared_bytes = (memory_bytes - batch_bytes) / parts.len().max(1);
        for (number, (writes, own_bytes)) in parts {
            clients[&number].completed(sequence, writes, own_bytes + shared_bytes);
        }
        *self.completed.lock() = end;
    }

    /// Closes the journal for good: what is queued is dropped and nothing more is taken. The directory tells those who wait.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.writes.clear();
    }
}

/// Copies a write into the block; an append gets its offset and epoch on the way, so that this is its only copy.
fn lay_out<C: Client>(buffer: &mut AlignedBuffer, write: &Write<C>) -> GroupEntry {
    match write {
        Write::Append { client, batch, base_offset, leader_epoch, .. } => {
            let mut header = [0; ENTRY_HEADER_BYTES];
            write_append_header(client.partition(), batch.len(), &mut header);
            buffer.extend(&header);
            let start = buffer.len();
            buffer.extend(batch);
            place_batch(&mut buffer.bytes_mut()[start..], *base_offset, *leader_epoch);
            GroupEntry::Append { start, end: buffer.len() }
        }
        Write::Mark { client, mark } => {
            buffer.extend(&encode_mark(client.partition(), mark));
            GroupEntry::Mark(mark.clone())
        }
    }
}

//! The files of a journal: preallocated, written front to back by whole blocks, and used again once checkpoints passed them.
//!
//! A file is named by its slot, `journal/00000003.journal`. Its first 4096 bytes hold, twice (at 0 and 2048):
//!
//! ```text
//!  0 stamp   56 lap u64   64 first_sequence u64   72 replay_sequence u64   80 crc u32 (CRC-32C of bytes 56..80)
//! ```
//! `replay_sequence` is where replay would have started when the lap began. A file is used again only after that passed all
//! its blocks, so the largest one of all files says which blocks must still be here, with or without a checkpoint.
//! Blocks follow from 4096 on. A new lap writes a new header; the order of files is the order of `first_sequence`. Every
//! start of the process begins a new lap, so a torn block at the end of the last one is never written around. A process that
//! ends before its lap has a block leaves a header without any, and the next lap begins with the same sequence, mostly in
//! another file: the lap with that block is the later one.
//!
//! After a crash: the blocks from the replay position on are the truth. The chain ends at the first position without a valid
//! block of the right lap and sequence where no file continues it. A valid later block of the same lap, a file that begins
//! beyond the expected sequence, or a block from there on in a file whose header can't be read means damage: that is reported
//! and the directory stays offline. Only the loss of the newest file, as a whole or of its first bytes, can't be told from one
//! never written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use super::block::{self, Block, BlockPosition};
use crate::log::error::OpenError;
use crate::log::stamp::{Identity, Kind, STAMP_BYTES, StampError};
use crate::runtime::Runtime;
use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::{DIRECT_ALIGNMENT_BYTES, Disk, File, Open, is_shortage};

/// Bytes before the first block of a file.
pub const FILE_HEADER_BYTES: usize = DIRECT_ALIGNMENT_BYTES;
const SECOND_COPY_AT: usize = FILE_HEADER_BYTES / 2;
const HEADER_BYTES: usize = STAMP_BYTES + 28;
const KIND: Kind = Kind { magic: *b"ALLVJRNL", name: "journal" };

/// A position in the journal from which replay can start: just before the block `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayPosition {
    /// Lap of the file; zero before the first block ever.
    pub lap: u64,
    /// Byte offset in that file.
    pub file_offset: u64,
    /// Sequence of the next block.
    pub sequence: u64,
}

impl ReplayPosition {
    /// Where the journal of a new directory starts.
    pub const START: Self = Self { lap: 0, file_offset: 0, sequence: 1 };
}

/// Sizes of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalSettings {
    /// Size of one file. Smaller files free space sooner; each costs one header write per lap.
    pub file_bytes: u64,
    /// Most bytes of all files together. More lets partitions gather more data between checkpoints, and costs disk space
    /// and time at a restart after a crash.
    pub max_bytes: u64,
}

/// A file that holds blocks.
#[derive(Clone, Copy, Debug)]
struct Lap {
    slot: u32,
    lap: u64,
    first_sequence: u64,
    replay_sequence: u64,
}

/// What a header says of the file's current use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields {
    lap: u64,
    first_sequence: u64,
    replay_sequence: u64,
}

/// The first page of a file that begins a lap.
fn encode_header(identity: &Identity, lap: &Lap) -> Bytes {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    KIND.write(identity, &mut header);
    header.put_u64_le(lap.lap);
    header.put_u64_le(lap.first_sequence);
    header.put_u64_le(lap.replay_sequence);
    let crc = crc32c::crc32c(&header[STAMP_BYTES..]);
    header.put_u32_le(crc);
    header.resize(SECOND_COPY_AT, 0);
    let mut buffer = AlignedBuffer::with_capacity(FILE_HEADER_BYTES);
    buffer.extend(&header);
    buffer.extend(&header);
    buffer.freeze()
}

/// The first undamaged copy of a header, whosever it is and of whatever format, and what it says.
pub fn decode_header(page: &[u8; FILE_HEADER_BYTES]) -> Option<(&[u8], HeaderFields)> {
    let (first, second) = page.split_at(SECOND_COPY_AT);
    [first, second].into_iter().find_map(|copy| {
        let mut fields = &copy[STAMP_BYTES..HEADER_BYTES];
        let computed = crc32c::crc32c(&fields[..HEADER_BYTES - STAMP_BYTES - 4]);
        let (lap, first_sequence, replay_sequence) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
        let is_whole = fields.get_u32_le() == computed && !matches!(KIND.read(copy), Err(StampError::Damaged { .. }));
        is_whole.then_some((copy, HeaderFields { lap, first_sequence, replay_sequence }))
    })
}

/// A file that holds blocks, and of which no copy of the header can be read.
#[derive(Clone, Copy, Debug)]
struct Headless {
    slot: u32,
    /// The largest sequence of its blocks.
    last_sequence: u64,
}

/// What a write of a block waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Stable storage, for this block and all before it.
    Stable,
    /// The operating system's hands, where the death of the process can't reach it (`write.caching`).
    Written,
}

#[derive(Debug)]
struct Active {
    lap: u64,
    slot: u32,
    file: Arc<dyn File>,
    /// For writes that don't wait for stable storage.
    cached: CachedFile,
    position: u64,
    bytes: u64,
}

/// Opened with the first write.
#[derive(Debug, Default)]
struct CachedFile(Option<Arc<dyn File>>);

impl CachedFile {
    fn open(&mut self, disk: &dyn Disk, path: &Path) -> io::Result<&dyn File> {
        if self.0.is_none() {
            self.0 = Some(disk.open(path, Open::Direct)?);
        }
        Ok(&**self.0.as_ref().expect("just opened"))
    }
}

fn slot_name(slot: u32) -> String {
    format!("{slot:08}.journal")
}

/// A file that is to be made.
#[derive(Debug)]
pub struct Spare {
    slot: u32,
    path: PathBuf,
    bytes: u64,
}

impl Spare {
    /// Writes the file's zeros and makes its name durable; leaves nothing behind on failure.
    pub fn make(&self, disk: &dyn Disk) -> io::Result<()> {
        let directory = self.path.parent().expect("the journal's directory");
        let made = disk.open(&self.path, Open::CreateEmpty).and_then(|file| file.preallocate(self.bytes));
        made.and_then(|()| disk.sync_directory(directory)).inspect_err(|_| {
            // A leftover is harmless: it has no header, and is emptied when its slot is used.
            let _ = disk.remove_file(&self.path);
        })
    }
}

/// What became of an attempt to append a block.
#[derive(Debug)]
pub enum Appended {
    /// On stable storage.
    Written {
        /// The block.
        bytes: Bytes,
        /// Where replay would continue.
        end: ReplayPosition,
        /// Time of the write.
        took: Duration,
    },
    /// No file has room, and no more may be made: a checkpoint must free one.
    Full {
        /// The block.
        buffer: AlignedBuffer,
        /// What keeps another file from being used, though one may be.
        shortage: Option<io::Error>,
    },
}

/// The files of one journal. Owned by the journal's lane once the directory is open.
pub struct JournalFiles {
    runtime: Runtime,
    directory: PathBuf,
    identity: Identity,
    settings: JournalSettings,
    /// Size of every file, by slot.
    slots: BTreeMap<u32, u64>,
    /// Files with blocks that may be needed, oldest first; the last is the active one, if any.
    laps: VecDeque<Lap>,
    free: Vec<u32>,
    /// Of no concern unless what they hold is missing at the end of replay.
    headless: Vec<Headless>,
    spare_under_way: bool,
    active: Option<Active>,
    next_sequence: u64,
    /// Blocks up to this sequence are on stable storage.
    synced: u64,
    /// Everything below is in synced segments, as the newest durable checkpoint says.
    replay_sequence: u64,
}

impl JournalFiles {
    /// Reads the headers of all files in `directory`, which is made if absent.
    pub fn open(
        runtime: Runtime,
        directory: &Path,
        identity: Identity,
        settings: JournalSettings,
    ) -> Result<Self, OpenError> {
        runtime.disk.create_directory(directory)?;
        let mut files = Self {
            runtime,
            directory: directory.to_owned(),
            identity,
            settings,
            slots: BTreeMap::new(),
            laps: VecDeque::new(),
            free: Vec::new(),
            headless: Vec::new(),
            spare_under_way: false,
            active: None,
            next_sequence: ReplayPosition::START.sequence,
            synced: ReplayPosition::START.sequence - 1,
            replay_sequence: ReplayPosition::START.sequence,
        };
        let mut laps = Vec::new();
        for entry in files.runtime.disk.list(directory)? {
            let Some(slot) = entry.name.strip_suffix(".journal").and_then(|slot| slot.parse().ok()) else { continue };
            files.slots.insert(slot, entry.length);
            match files.read_header(slot)? {
                Some(lap) => laps.push(lap),
                None => {
                    files.free.push(slot);
                    files.headless.extend(files.blocks_without_header(slot)?);
                }
            }
        }
        files.put_in_order(&mut laps)?;
        files.laps = laps.into();
        Ok(files)
    }

    fn put_in_order(&self, laps: &mut [Lap]) -> io::Result<()> {
        laps.sort_by_key(|lap| lap.first_sequence);
        for alike in laps.chunk_by_mut(|lap, next| lap.first_sequence == next.first_sequence) {
            if alike.len() == 1 {
                continue;
            }
            let with_block: BTreeSet<_> = alike
                .iter()
                .map(|lap| Ok(self.has_first_block(lap)?.then_some(lap.slot)))
                .collect::<io::Result<_>>()?;
            alike.sort_by_key(|lap| with_block.contains(&Some(lap.slot)));
        }
        Ok(())
    }

    fn has_first_block(&self, lap: &Lap) -> io::Result<bool> {
        let content = self.read_from(lap.slot, FILE_HEADER_BYTES as u64)?;
        let first = BlockPosition { lap: lap.lap, sequence: lap.first_sequence };
        Ok(block::read(&content).is_some_and(|block| block.position == first))
    }

    /// The content of a file from `file_offset` on.
    fn read_from(&self, slot: u32, file_offset: u64) -> io::Result<Bytes> {
        let file = self.runtime.disk.open(&self.path(slot), Open::Read)?;
        let length = file.length()?.saturating_sub(file_offset);
        let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut content, file_offset)?;
        Ok(content.into())
    }

    fn path(&self, slot: u32) -> PathBuf {
        self.directory.join(slot_name(slot))
    }

    /// The lap that a file is in; `None` for one that was made but never used, or whose header is damaged.
    fn read_header(&self, slot: u32) -> Result<Option<Lap>, OpenError> {
        let file = self.runtime.disk.open(&self.path(slot), Open::Read)?;
        let mut bytes = [0; FILE_HEADER_BYTES];
        if file.read_at(&mut bytes, 0)? < FILE_HEADER_BYTES {
            return Ok(None);
        }
        let Some((copy, fields)) = decode_header(&bytes) else { return Ok(None) };
        KIND.check(copy, &self.identity)?;
        let HeaderFields { lap, first_sequence, replay_sequence } = fields;
        Ok(Some(Lap { slot, lap, first_sequence, replay_sequence }))
    }

    /// What a file holds whose header can't be read: the largest sequence of its blocks. One that was never used is zeros there,
    /// and one of which header and first block are zeros can't be told from it.
    fn blocks_without_header(&self, slot: u32) -> io::Result<Option<Headless>> {
        let file = self.runtime.disk.open(&self.path(slot), Open::Read)?;
        let mut begin = [0; FILE_HEADER_BYTES + size_of::<u32>()];
        if file.read_at(&mut begin, 0)? < begin.len() || begin.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let mut rest = self.read_from(slot, FILE_HEADER_BYTES as u64)?;
        let mut last_sequence = None;
        while !rest.is_empty() {
            let found = block::read(&rest);
            // Past a whole block, for what clients sent may look like one.
            rest.advance(found.as_ref().map_or(DIRECT_ALIGNMENT_BYTES, |block| block.file_bytes).min(rest.len()));
            last_sequence = last_sequence.max(found.map(|block| block.position.sequence));
        }
        Ok(last_sequence.map(|last_sequence| Headless { slot, last_sequence }))
    }

    /// Where replay has to start when no checkpoint says so: at or before the position of the newest one. `None` in a journal
    /// without blocks.
    pub fn oldest_needed(&self) -> Result<Option<ReplayPosition>, OpenError> {
        let Some(sequence) = self.laps.iter().map(|lap| lap.replay_sequence).max() else { return Ok(None) };
        let Some(lap) = self.laps.iter().rev().find(|lap| lap.first_sequence <= sequence) else {
            return Err(OpenError::JournalDamaged { path: self.directory.clone(), file_offset: 0, sequence });
        };
        let file_offset = FILE_HEADER_BYTES as u64;
        Ok(Some(ReplayPosition { lap: lap.lap, file_offset, sequence: lap.first_sequence }))
    }

    /// Walks the blocks from `from` on and calls `each` for every one, in order. Returns where the chain ends.
    pub fn replay(
        &self,
        from: ReplayPosition,
        mut each: impl FnMut(&Block) -> Result<(), OpenError>,
    ) -> Result<ReplayPosition, OpenError> {
        let mut position = from;
        let is_start = |lap: &Lap| lap.lap == from.lap || lap.first_sequence == from.sequence;
        let Some(first) = self.laps.iter().position(is_start) else {
            // Only a directory that never wrote a block has no file for its replay position.
            if from == ReplayPosition::START && self.laps.is_empty() {
                return self.ends_at(position);
            }
            let (path, file_offset) = (self.directory.clone(), from.file_offset);
            return Err(OpenError::JournalDamaged { path, file_offset, sequence: from.sequence });
        };
        for lap in self.laps.iter().skip(first) {
            let start = if lap.lap == from.lap { from.file_offset } else { FILE_HEADER_BYTES as u64 };
            if lap.lap != from.lap && lap.first_sequence > position.sequence {
                return Err(self.damaged(lap, start, position.sequence));
            }
            if lap.lap != from.lap && lap.first_sequence < position.sequence {
                // A lap that began at the same sequence but never got a block.
                continue;
            }
            position =
                self.replay_file(lap, ReplayPosition { lap: lap.lap, file_offset: start, ..position }, &mut each)?;
        }
        self.ends_at(position)
    }

    /// The end of the chain, if no file holds what should follow.
    fn ends_at(&self, position: ReplayPosition) -> Result<ReplayPosition, OpenError> {
        match self.headless.iter().find(|file| file.last_sequence >= position.sequence) {
            None => Ok(position),
            Some(file) => Err(OpenError::JournalDamaged {
                path: self.path(file.slot),
                file_offset: 0,
                sequence: position.sequence,
            }),
        }
    }

    fn replay_file(
        &self,
        lap: &Lap,
        mut position: ReplayPosition,
        each: &mut impl FnMut(&Block) -> Result<(), OpenError>,
    ) -> Result<ReplayPosition, OpenError> {
        let mut rest = self.read_from(lap.slot, position.file_offset)?;
        while let Some(found) = block::read(&rest) {
            let expected = BlockPosition { lap: lap.lap, sequence: position.sequence };
            if found.position != expected || found.file_bytes > rest.len() {
                break;
            }
            each(&found)?;
            position.sequence += 1;
            position.file_offset += found.file_bytes as u64;
            rest.advance(found.file_bytes);
        }
        // A torn write can only be the last one, or one of the last that were not synced: a later block of this lap that was
        // written when the missing one was on stable storage means that this is gone.
        while rest.len() > DIRECT_ALIGNMENT_BYTES {
            rest.advance(DIRECT_ALIGNMENT_BYTES);
            if block::read(&rest)
                .is_some_and(|later| later.position.lap == lap.lap && later.synced >= position.sequence)
            {
                return Err(self.damaged(lap, position.file_offset, position.sequence));
            }
        }
        Ok(position)
    }

    fn damaged(&self, lap: &Lap, file_offset: u64, sequence: u64) -> OpenError {
        OpenError::JournalDamaged { path: self.path(lap.slot), file_offset, sequence }
    }

    /// Ends replay: what lies between `start` and `end` is kept until released, and new blocks continue there in a new lap. What
    /// was replayed is brought to stable storage first: of blocks that a killed process only wrote the disk may know nothing yet,
    /// and new blocks say that everything before them is safe.
    pub fn resume_at(&mut self, start: ReplayPosition, end: ReplayPosition) -> io::Result<()> {
        self.next_sequence = end.sequence;
        self.synced = end.sequence - 1;
        self.release_below(start.sequence);
        // A file whose lap began exactly at the end holds no block yet.
        while self.laps.back().is_some_and(|lap| lap.first_sequence >= end.sequence) {
            let lap = self.laps.pop_back().expect("just looked at");
            self.free.push(lap.slot);
        }
        for lap in &self.laps {
            self.runtime.disk.open(&self.path(lap.slot), Open::Write)?.sync_data()?;
        }
        Ok(())
    }

    /// Names the file that should be made ahead of need, as writing its zeros takes long; the slot is taken at once. The
    /// caller makes it without holding up the journal, then says how that went with [`Self::spare_made`].
    pub fn spare_wanted(&mut self) -> Option<Spare> {
        let half_full = self.active.as_ref().is_none_or(|active| active.position > active.bytes / 2);
        if !self.free.is_empty() || self.spare_under_way || !half_full || !self.may_grow(self.settings.file_bytes) {
            return None;
        }
        self.spare_under_way = true;
        Some(self.new_slot(self.settings.file_bytes))
    }

    /// Takes a spare file into use, or gives its slot back.
    pub fn spare_made(&mut self, spare: &Spare, made: bool) {
        self.spare_under_way = false;
        if made {
            self.free.push(spare.slot);
        } else {
            self.slots.remove(&spare.slot);
        }
    }

    fn new_slot(&mut self, bytes: u64) -> Spare {
        let slot = self.slots.keys().next_back().map_or(0, |last| last + 1);
        self.slots.insert(slot, bytes);
        Spare { slot, path: self.path(slot), bytes }
    }

    /// Most bytes of a group, so that a few of them fit a file.
    pub fn group_limit_bytes(&self) -> usize {
        usize::try_from(self.settings.file_bytes / 4).unwrap_or(usize::MAX)
    }

    /// Bytes of all files.
    pub fn allocated_bytes(&self) -> u64 {
        self.slots.values().sum()
    }

    fn may_grow(&self, by_bytes: u64) -> bool {
        self.slots.is_empty() || self.slots.values().sum::<u64>() + by_bytes <= self.settings.max_bytes
    }

    /// Sees to it that a file of `bytes` may be made, giving up free files that are too small. With nothing more to give up
    /// and nothing to wait for, the limit yields: the block is larger than the settings foresaw.
    fn make_room(&mut self, bytes: u64) -> io::Result<bool> {
        while !self.may_grow(bytes) {
            let Some(slot) = self.free.pop() else { return Ok(self.laps.len() <= 1) };
            self.runtime.disk.remove_file(&self.path(slot))?;
            self.slots.remove(&slot);
        }
        Ok(true)
    }

    fn add_slot(&mut self, bytes: u64) -> io::Result<()> {
        let spare = self.new_slot(bytes);
        let made = spare.make(&*self.runtime.disk);
        if made.is_ok() {
            self.free.push(spare.slot);
        } else {
            self.slots.remove(&spare.slot);
        }
        made
    }

    /// Writes one block.
    pub fn append(&mut self, mut buffer: AlignedBuffer, entries: u32, durability: Durability) -> io::Result<Appended> {
        let needed = buffer.len().next_multiple_of(DIRECT_ALIGNMENT_BYTES) as u64;
        let has_room = self.active.as_ref().is_some_and(|active| active.position + needed <= active.bytes);
        if !has_room {
            // A lap follows only what is on stable storage; and a sync that failed is not tried again, whatever its error.
            self.sync()?;
            match self.begin_lap(needed) {
                Ok(true) => {}
                Ok(false) => return Ok(Appended::Full { buffer, shortage: None }),
                // Nothing was written; what is acknowledged is in files that are there.
                Err(error) if is_shortage(&error) => return Ok(Appended::Full { buffer, shortage: Some(error) }),
                Err(error) => return Err(error),
            }
        }
        if durability == Durability::Stable {
            self.sync()?;
        }
        let active = self.active.as_mut().expect("a lap with room was just begun or found");
        let file = match durability {
            Durability::Stable => Ok(&*active.file),
            Durability::Written => {
                active.cached.open(&*self.runtime.disk, &self.directory.join(slot_name(active.slot)))
            }
        };
        let file = match file {
            Err(error) if is_shortage(&error) => return Ok(Appended::Full { buffer, shortage: Some(error) }),
            file => file?,
        };
        let sequence = self.next_sequence;
        block::finish(&mut buffer, BlockPosition { lap: active.lap, sequence }, entries, self.synced);
        let bytes = buffer.freeze();
        let began = self.runtime.clock.monotonic();
        file.write_all_at(&bytes, active.position)?;
        if durability == Durability::Stable {
            self.synced = sequence;
        }
        let took = self.runtime.clock.monotonic().since(began);
        active.position += bytes.len() as u64;
        self.next_sequence += 1;
        let end = ReplayPosition { lap: active.lap, file_offset: active.position, sequence: sequence + 1 };
        Ok(Appended::Written { bytes, end, took })
    }

    /// Brings blocks that were only written to stable storage. A failure is final.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.synced + 1 < self.next_sequence
            && let Some(active) = &self.active
        {
            active.file.sync_data()?;
            self.synced = self.next_sequence - 1;
        }
        Ok(())
    }

    /// Opens a free file for a new lap with room for a block of `needed` bytes; false when there is none.
    fn begin_lap(&mut self, needed: u64) -> io::Result<bool> {
        // Both are multiples of the alignment.
        let bytes = self.settings.file_bytes.max(needed + FILE_HEADER_BYTES as u64);
        let fitting =
            |files: &Self| files.free.iter().position(|slot| files.slots[slot] >= needed + FILE_HEADER_BYTES as u64);
        let index = match fitting(self) {
            Some(index) => index,
            None if !self.make_room(bytes)? => return Ok(false),
            None => {
                self.add_slot(bytes)?;
                fitting(self).expect("one was just made")
            }
        };
        let slot = self.free[index];
        let lap = Lap {
            slot,
            lap: self.runtime.entropy.number() | 1,
            first_sequence: self.next_sequence,
            replay_sequence: self.replay_sequence,
        };
        let file = self.runtime.disk.open(&self.path(slot), Open::Durable)?;
        file.write_all_at(&encode_header(&self.identity, &lap), 0)?;
        self.free.swap_remove(index);
        self.laps.push_back(lap);
        let (position, bytes) = (FILE_HEADER_BYTES as u64, self.slots[&slot]);
        self.active = Some(Active { lap: lap.lap, slot, file, cached: CachedFile::default(), position, bytes });
        Ok(true)
    }

    /// Frees the files whose blocks are all below `sequence`, for a durable checkpoint says that replay starts there.
    pub fn release_below(&mut self, sequence: u64) -> usize {
        let mut released = 0;
        self.replay_sequence = self.replay_sequence.max(sequence);
        while self.laps.get(1).is_some_and(|next| next.first_sequence <= sequence) {
            let lap = self.laps.pop_front().expect("there are at least two");
            self.free.push(lap.slot);
            released += 1;
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::decoders::identity;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_header_reads_back_as_long_as_one_of_its_copies_is_whole(
            identity in identity(),
            [lap, first_sequence, replay_sequence] in any::<[u64; 3]>(),
            (first, second) in (0..HEADER_BYTES, 0..HEADER_BYTES),
            mask in 1..=u8::MAX,
        ) {
            let written = encode_header(&identity, &Lap { slot: 0, lap, first_sequence, replay_sequence });
            let mut page = [0; FILE_HEADER_BYTES];
            page.copy_from_slice(&written);
            let read = |page: &[u8; FILE_HEADER_BYTES]| decode_header(page).map(|(_, fields)| fields);
            let fields = HeaderFields { lap, first_sequence, replay_sequence };
            prop_assert_eq!(read(&page), Some(fields));
            page[first] ^= mask;
            prop_assert_eq!(read(&page), Some(fields));
            page[SECOND_COPY_AT + second] ^= mask;
            prop_assert_eq!(read(&page), None);
        }
    }
}

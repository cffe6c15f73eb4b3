//! Local files that hold an encoded segment between encoding, verification and upload.
//!
//! A slot is a pair of files that one upload uses at a time. Slots are written over, not truncated: the space that an
//! upload needed stays reserved for the next one, or a disk that filled up meanwhile could never archive its way out.
//! For the same reason the files stay over a restart. Nothing here is synced, and what the files hold is never read before
//! it is written again: only their room is kept.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::Xxh3;

use crate::archive::manifest::Hex128;
use crate::archive::store::Payload;
use crate::runtime::disk::{Disk, File, Open};

/// Bytes gathered before a write to the file.
const WRITE_BYTES: usize = 1 << 20;

/// The slots; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    free: Arc<Mutex<Vec<Slot>>>,
    permits: Arc<Semaphore>,
}

/// The two files of a slot.
#[derive(Clone, Debug)]
struct Slot {
    parquet: Arc<dyn File>,
    companion: Arc<dyn File>,
}

impl Spool {
    /// Opens `slots` slots in `directory`, as far as they are there with the room that they have, and removes everything
    /// else in it. Blocks on the disk: called at start-up.
    pub fn open(disk: &dyn Disk, directory: &Path, slots: usize) -> io::Result<Self> {
        disk.create_directory(directory)?;
        let names: Vec<[String; 2]> =
            (0..slots.max(1)).map(|number| [format!("{number}.parquet"), format!("{number}.aux")]).collect();
        let mut kept = Vec::new();
        for entry in disk.list(directory)? {
            let path = directory.join(&entry.name);
            match entry.is_directory {
                true => disk.remove_directory(&path)?,
                false if names.as_flattened().contains(&entry.name) => kept.push(entry.name),
                false => disk.remove_file(&path)?,
            }
        }
        let file = |name: &String| -> io::Result<Arc<dyn File>> {
            let how = if kept.contains(name) { Open::Write } else { Open::CreateEmpty };
            disk.open(&directory.join(name), how)
        };
        let slots =
            names.iter().map(|[parquet, companion]| Ok(Slot { parquet: file(parquet)?, companion: file(companion)? }));
        let free: Vec<Slot> = slots.collect::<io::Result<_>>()?;
        let permits = Arc::new(Semaphore::new(free.len()));
        Ok(Self { free: Arc::new(Mutex::new(free)), permits })
    }

    /// Waits for a free slot.
    pub async fn acquire(&self) -> SpoolSlot {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let slot = self.free.lock().pop().expect("there are as many slots as permits");
        SpoolSlot { slot, free: Arc::clone(&self.free), _permit: permit }
    }
}

/// One upload's use of a slot; goes back when dropped.
#[derive(Debug)]
pub struct SpoolSlot {
    slot: Slot,
    free: Arc<Mutex<Vec<Slot>>>,
    _permit: OwnedSemaphorePermit,
}

impl SpoolSlot {
    /// Starts writing the Parquet object.
    pub(super) fn parquet(&self) -> SpoolWriter {
        SpoolWriter::new(Arc::clone(&self.slot.parquet))
    }

    /// Starts writing the companion object.
    pub(super) fn companion(&self) -> SpoolWriter {
        SpoolWriter::new(Arc::clone(&self.slot.companion))
    }
}

impl Drop for SpoolSlot {
    fn drop(&mut self) {
        self.free.lock().push(self.slot.clone());
    }
}

/// Writes a spooled file from its beginning.
pub(super) struct SpoolWriter {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    hash: Xxh3,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpoolWriter({})", self.position())
    }
}

impl SpoolWriter {
    fn new(file: Arc<dyn File>) -> Self {
        Self { file, buffer: Vec::with_capacity(WRITE_BYTES), written: 0, hash: Xxh3::new() }
    }

    /// Bytes so far.
    pub(super) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Ends writing: what was written can be read and uploaded, and should hash to what is given with it.
    pub(super) fn finish(&mut self) -> io::Result<(Payload, Hex128)> {
        self.flush()?;
        let hash = self.hash.digest128();
        let payload = Payload::Spooled { file: Arc::clone(&self.file), length: self.written, hash: Some(hash) };
        Ok((payload, Hex128(hash)))
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.flush()?;
        }
        if bytes.len() >= WRITE_BYTES {
            self.file.write_all_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    const LENGTH: usize = 100_000;

    async fn spooled(spool: &Spool, content: &[u8]) -> io::Result<Payload> {
        let slot = spool.acquire().await;
        let mut writer = slot.parquet();
        writer.write_all(content)?;
        Ok(writer.finish()?.0)
    }

    fn take_all(disk: &SimDisk, path: &Path) -> u64 {
        let left = disk.space(path).unwrap().available_bytes;
        let other = disk.open(path, Open::CreateEmpty).unwrap();
        other.write_all_at(&vec![0; usize::try_from(left).unwrap()], 0).unwrap();
        left
    }

    #[tokio::test]
    async fn a_slot_keeps_its_room_over_a_restart_on_a_disk_that_others_filled() {
        let disk = SimDisk::new(1);
        disk.set_capacity(10 * LENGTH as u64);
        let directory = Path::new("/data/spool");
        let spool = Spool::open(&disk, directory, 1).unwrap();
        spooled(&spool, &vec![1; LENGTH]).await.unwrap();
        drop(spool);
        disk.put(&directory.join("1.parquet"), vec![0; 1000]);

        for round in 0..2 {
            let spool = Spool::open(&disk, directory, 1).unwrap();
            let names: Vec<_> = disk.list(directory).unwrap().into_iter().map(|entry| entry.name).collect();
            assert_eq!(names, ["0.aux", "0.parquet"]);
            take_all(&disk, Path::new(&format!("/data/other {round}")));
            let payload = spooled(&spool, &vec![2; LENGTH - 7]).await.unwrap();
            let read = payload.read(0, usize::MAX).unwrap();
            assert!(read.len() == LENGTH - 7 && read.iter().all(|&byte| byte == 2), "nothing of what was there before");
            assert!(spooled(&spool, &vec![2; LENGTH + 1]).await.is_err(), "the disk is full");
        }
    }
}

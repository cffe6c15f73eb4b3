//! Local files that hold an encoded segment between encoding, verification and upload.
//!
//! A slot is a pair of files that one upload uses at a time. Slots are written over, not truncated: the space that an
//! upload needed stays reserved for the next one, or a disk that filled up meanwhile could never archive its way out.
//! Nothing here is synced and nothing survives: opening the spool empties its directory.

use std::io::{self, Write};
use std::path::PathBuf;
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
    /// Empties `directory` and makes `slots` slots in it. Blocks on the disk: called at start-up.
    pub fn open(disk: &dyn Disk, directory: &std::path::Path, slots: usize) -> io::Result<Self> {
        if disk.exists(directory)? {
            disk.remove_directory(directory)?;
        }
        disk.create_directory(directory)?;
        let file = |name: String| -> io::Result<Arc<dyn File>> {
            let path: PathBuf = directory.join(name);
            disk.open(&path, Open::CreateEmpty)
        };
        let slots = (0..slots.max(1)).map(|number| {
            Ok(Slot { parquet: file(format!("{number}.parquet"))?, companion: file(format!("{number}.aux"))? })
        });
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
        let payload = Payload::Spooled { file: Arc::clone(&self.file), length: self.written };
        Ok((payload, Hex128(self.hash.digest128())))
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

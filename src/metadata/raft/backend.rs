//! redb on the disk seam, so that simulated disks and power cuts reach the metadata database.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use crate::runtime::disk::File;

/// One redb file. The data directory's lock keeps other processes out, so redb's own locks are left out.
#[derive(Debug)]
pub(super) struct FileBackend(pub(super) Arc<dyn File>);

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    /// A file that grows gets its blocks at once: what redb writes later needs no room, and a disk that others have filled
    /// stops the metadata only when there is more of it.
    fn set_len(&self, length: u64) -> io::Result<()> {
        if length > self.0.length()? {
            self.0.preallocate(length)?;
        }
        self.0.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

//! redb on the disk seam, so that simulated disks and power cuts reach the metadata database.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use crate::runtime::disk::File;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// One redb file. The data directory's lock keeps other processes out, so redb's own locks are left out.
#[derive(Debug)]
pub(super) struct FileBackend(pub(super) Arc<dyn File>);

impl FileBackend {
    /// Writes zeros.
    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let zeros = &ZEROS[..usize::try_from(to - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()))];
            self.0.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        Ok(())
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    /// A file that grows gets its blocks at once: what redb writes later needs no room, and a disk that others have filled
    /// stops the metadata only when there is more of it. The length changes first, and in one step, since redb opens no
    /// file of a length in between.
    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.0.length()?;
        self.0.set_length(length)?;
        let filled = self.fill(before, length);
        if filled.is_err() {
            // The file can be opened in either length.
            let _ = self.0.set_length(before);
        }
        filled
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::power_cut::{PowerCutDisk, Unsynced};
    use super::*;
    use crate::runtime::disk::{Disk, Open};

    #[test]
    fn a_file_has_a_length_that_was_asked_for_whenever_the_power_goes() {
        let (path, before, after) = (Path::new("/grows"), 4096, 200_000);
        for cut in 0.. {
            let disk = PowerCutDisk::new();
            let backend = FileBackend(disk.open(path, Open::CreateNew).unwrap());
            backend.set_len(before).unwrap();
            backend.sync_data().unwrap();
            disk.sync_directory(Path::new("/")).unwrap();
            disk.cut_before(disk.operations() + cut);
            let grown = backend.set_len(after);
            for unsynced in [Unsynced::Kept, Unsynced::Torn(cut + 1)] {
                let length = disk.after_power_cut(unsynced).open(path, Open::Write).unwrap().length().unwrap();
                assert!([before, after].contains(&length), "cut before operation {cut}: {length}");
            }
            if grown.is_ok() {
                assert!(cut > 2, "its blocks were not written");
                break;
            }
        }
    }
}

//! A disk whose syncs do nothing, so that a test can prove that it notices: it cuts the power and has to find loss.
//!
//! Compiled with debug assertions only. No release build contains it, so no setting, variable or mistake can reach it there.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LocalDisk;
use crate::runtime::disk::{DirectoryEntry, DirectoryLock, Disk, File, Open, OpenDirectory, Space};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct UnsyncedDisk;

#[derive(Debug)]
struct UnsyncedDirectory;

impl OpenDirectory for UnsyncedDirectory {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for UnsyncedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let how = if how == Open::Durable { Open::Write } else { how };
        Ok(Arc::new(UnsyncedFile(LocalDisk.open(path, how)?)))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open_directory(&self, _path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        Ok(Box::new(UnsyncedDirectory))
    }

    fn sync_filesystem(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove_directory(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        LocalDisk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        LocalDisk.exists(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        LocalDisk.real_path(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        LocalDisk.space(path)
    }

    fn boot_id(&self) -> Option<String> {
        LocalDisk.boot_id()
    }

    fn lock(&self, directory: &Path) -> io::Result<Option<Box<dyn DirectoryLock>>> {
        LocalDisk.lock(directory)
    }
}

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn File>);

impl File for UnsyncedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_slices_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_slices_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
}

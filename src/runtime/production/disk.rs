//! The local file system.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{FlockOperation, OFlags};

use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::{
    DIRECT_ALIGNMENT_BYTES, DirectoryEntry, DirectoryLock, Disk, File, Open, OpenDirectory, Space,
};
use crate::types::Timestamp;

/// Size of the zero-filled writes of [`File::preallocate`].
const PREALLOCATE_CHUNK_BYTES: usize = 1 << 20;

/// Where Linux tells the identity of its boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Files of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct LocalDisk;

impl LocalDisk {
    /// Opens with direct IO where the file system can, else without.
    fn open_direct(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<fs::File> {
        let mut open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).expect("open flags are an int");
            options.custom_flags(flags).open(path)
        };
        match open(flags | OFlags::DIRECT) {
            // tmpfs and some network file systems have no direct IO.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => open(flags),
            result => result,
        }
    }
}

impl Disk for LocalDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        let file = match how {
            Open::Read => options.open(path),
            Open::Write => options.write(true).open(path),
            Open::CreateNew => options.write(true).create_new(true).open(path),
            Open::CreateEmpty => options.write(true).create(true).truncate(true).open(path),
            Open::CreatePrivate => options.write(true).create_new(true).mode(0o600).open(path),
            Open::Durable => Self::open_direct(options.write(true), path, OFlags::DSYNC),
            Open::Direct => Self::open_direct(options.write(true), path, OFlags::empty()),
            Open::ReadDirect => Self::open_direct(&mut options, path, OFlags::empty()),
        }?;
        Ok(Arc::new(LocalFile { file, direct: matches!(how, Open::Durable | Open::Direct | Open::ReadDirect) }))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            // Whoever made it may have been killed before its name was durable. The parents of a broker's own directories
            // may be closed to it, and are not its work.
            return match path.parent().map(|parent| self.sync_directory(parent)) {
                Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_directory(parent)?;
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result?,
            }
            return self.sync_directory(parent);
        }
        fs::create_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.open_directory(path)?.sync()
    }

    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        Ok(Box::new(LocalDirectory(fs::File::open(path)?)))
    }

    fn sync_filesystem(&self, path: &Path) -> io::Result<()> {
        rustix::fs::syncfs(fs::File::open(path)?)?;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_directory = metadata.is_dir();
            let since_epoch = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified = since_epoch.and_then(|since| i64::try_from(since.as_millis()).ok()).map(Timestamp);
            let length = if is_directory { 0 } else { metadata.len() };
            entries.push(DirectoryEntry { name, is_directory, length, modified });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn boot_id(&self) -> Option<String> {
        let read = fs::read_to_string(BOOT_ID).ok()?;
        Some(read.trim().to_owned()).filter(|boot| !boot.is_empty())
    }

    fn lock(&self, directory: &Path) -> io::Result<Option<Box<dyn DirectoryLock>>> {
        let path = directory.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(FileLock { _file: file }))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct LocalDirectory(fs::File);

impl OpenDirectory for LocalDirectory {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// An advisory lock that the kernel releases when the process ends, however it ends.
#[derive(Debug)]
struct FileLock {
    _file: fs::File,
}

impl DirectoryLock for FileLock {}

#[derive(Debug)]
struct LocalFile {
    file: fs::File,
    direct: bool,
}

impl File for LocalFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    // The end of the file; direct IO could not go on from here to be told so.
                    if self.direct && !read.is_multiple_of(DIRECT_ALIGNMENT_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_slices_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut rest = slices;
        let mut position = offset;
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.file, &rest[..rest.len().min(1024)], position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let mut zeros = AlignedBuffer::with_capacity(PREALLOCATE_CHUNK_BYTES);
        zeros.extend(&[0; PREALLOCATE_CHUNK_BYTES]);
        let mut position = self.length()?;
        // The zeros are never read: they would only push other pages out of the cache. A refusal costs just that.
        let past_cache = |past_cache| {
            let flags = if past_cache { OFlags::DIRECT } else { OFlags::empty() };
            let _ = rustix::fs::fcntl_setfl(&self.file, flags);
        };
        past_cache(position.is_multiple_of(DIRECT_ALIGNMENT_BYTES as u64));
        let written = loop {
            let chunk = usize::try_from(length.saturating_sub(position)).unwrap_or(usize::MAX).min(zeros.len());
            if chunk == 0 {
                break Ok(());
            }
            if let Err(error) = self.write_all_at(&zeros.bytes()[..chunk], position) {
                break Err(error);
            }
            position += chunk as u64;
        };
        past_cache(false);
        written?;
        self.file.sync_all()
    }
}

//! The disk seam: positional files, directories and their durability, as the storage layers need them.
//!
//! All calls block and are made from lanes (see [`super::tasks`]), never from network tasks. What the traits promise is
//! what POSIX file systems give: bytes written are visible at once to readers of this process, and survive a power cut
//! only after [`File::sync_data`] (or when the file was opened with [`Open::Durable`]); a created, renamed or removed name
//! survives only after [`Disk::sync_directory`] on its directory. After a failed sync nothing may be assumed of the file: the
//! caller takes its directory out of service and never retries.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::Timestamp;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file must not exist.
    CreateNew,
    /// For reading and writing; made if absent, emptied if present.
    CreateEmpty,
    /// As [`Open::CreateNew`], and nobody but this user may read the file, not even while it is made.
    CreatePrivate,
    /// For reading and for writes that are on stable storage when they return. The file must exist and be preallocated;
    /// memory, offset and length of each write are multiples of [`DIRECT_ALIGNMENT_BYTES`].
    Durable,
    /// For reading and writing past the page cache, durable after [`File::sync_data`]; the file must exist. Memory, offset and
    /// length of each call are multiples of [`DIRECT_ALIGNMENT_BYTES`]; a read is cut short by the end of the file.
    Direct,
    /// As [`Open::Direct`], for reading alone.
    ReadDirect,
}

/// Alignment of memory, offset and length for direct IO.
pub const DIRECT_ALIGNMENT_BYTES: usize = 4096;

/// The process has as many files open as it may.
pub const EMFILE: i32 = 24;
/// The system has.
const ENFILE: i32 = 23;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The last part of the path.
    pub name: String,
    /// True for a directory.
    pub is_directory: bool,
    /// Length of a file in bytes; zero for a directory.
    pub length: u64,
    /// When its content was last changed, by the file system's clock, where that is known. For people and hints alone.
    pub modified: Option<Timestamp>,
}

/// Room on the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system in bytes.
    pub total_bytes: u64,
    /// Bytes that this process may still use.
    pub available_bytes: u64,
}

/// Held for as long as the lock on a directory is to last; dropping it releases the lock.
pub trait DirectoryLock: Send + Sync + Debug {}

/// A directory that is open.
pub trait OpenDirectory: Send + Sync + Debug {
    /// Makes its names durable, as [`Disk::sync_directory`] does.
    fn sync(&self) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Makes a directory and its parents, and makes their names durable.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory ahead of a change of its names, so that nothing is lacking when they are to be made durable.
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>>;

    /// Makes everything written to the file system that holds `path` durable, files and names alike.
    fn sync_filesystem(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, replacing what had that name. Atomic; durable after [`Disk::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all below it.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>>;

    /// Whether a file or directory has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The one path of a file or directory that has no links in it; a file system without links gives the same path.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    /// Room on the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Identity of the machine's present boot, where it is known: while it is the same, what was written is there, synced or not.
    fn boot_id(&self) -> Option<String> {
        None
    }

    /// Locks a directory against every other process; `Ok(None)` when another process holds the lock.
    fn lock(&self, directory: &Path) -> io::Result<Option<Box<dyn DirectoryLock>>>;
}

/// An open file. Positional, so that readers and the one writer share it without a cursor.
pub trait File: Send + Sync + Debug {
    /// Reads up to `bytes.len()` bytes at `offset`; short only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all slices one after another at `offset`.
    fn write_slices_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes all written bytes, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Cuts or extends the file; an extension reads as zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Writes zeros up to `length` and makes them durable, so that later writes below it change no metadata.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Reads exactly `bytes.len()` bytes at `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.read_at(bytes, offset)?;
        if read < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Whether an error says that something ran short that may come back: room, or file descriptors.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) || is_descriptor_shortage(error)
}

/// Whether an error says that file descriptors ran out. No sync ends like this: only what is opened for one.
pub fn is_descriptor_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// The same error again: it is told apart by its code.
pub fn same_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Replaces a small file in one step that holds across a power cut: a temporary file is written, synced, renamed over
/// `path`, and the directory synced. Readers see the old or the new content, never a mixture.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, Open::CreateEmpty)?;
    put_in_place(disk, file, &temporary, path, content)
}

/// As [`replace_file`], for what nobody but this user may read.
pub fn replace_private_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // What a crash left may have been made for everybody to read.
    match disk.remove_file(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let file = disk.open(&temporary, Open::CreatePrivate)?;
    put_in_place(disk, file, &temporary, path, content)
}

fn put_in_place(disk: &dyn Disk, file: Arc<dyn File>, temporary: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    file.write_all_at(content, 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(temporary, path)?;
    // The parent of a bare name is the empty path, which no directory has.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    disk.sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Reads a whole file of at most `limit_bytes`.
pub fn read_file(disk: &dyn Disk, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let length = file.length()?;
    if length > limit_bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("file is larger than expected length_bytes={length} limit_bytes={limit_bytes}"),
        ));
    }
    let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

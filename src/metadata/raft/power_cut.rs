//! A disk for tests whose power can be cut before any of its operations: what was not synced is then lost, in whole or
//! torn in pages, as a seed decides.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::runtime::disk::{DirectoryEntry, DirectoryLock, Disk, File, Open, OpenDirectory, Space};

/// Pages survive a power cut whole or not at all; a write of several may be torn between them.
const PAGE_BYTES: usize = 512;

/// What the disk is to keep after the power cut of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsynced {
    /// Nothing.
    Lost,
    /// All, as if it had just been written back.
    Kept,
    /// Each page by a coin toss from a seed.
    Torn(u64),
}

/// The disk. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct PowerCutDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Operations that change or sync something, so far.
    operations: u64,
    /// The operation before which the power goes.
    cut_before: Option<u64>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<Content>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

impl PowerCutDisk {
    pub(super) fn new() -> Self {
        Self { state: Arc::default() }
    }

    /// Cuts the power before an operation, counted from when the disk was made.
    pub(super) fn cut_before(&self, operation: u64) {
        self.state.lock().cut_before = Some(operation);
    }

    /// Changes and syncs so far.
    pub(super) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The disk after its power came back.
    pub(super) fn after_power_cut(&self, unsynced: Unsynced) -> Self {
        let state = self.state.lock();
        let mut seed = match unsynced {
            Unsynced::Torn(seed) => seed,
            Unsynced::Lost | Unsynced::Kept => 0,
        };
        let names = if unsynced == Unsynced::Kept { state.names.clone() } else { state.durable_names.clone() };
        let files = state.files.iter().map(|file| {
            let bytes = match unsynced {
                Unsynced::Lost => file.durable.clone(),
                Unsynced::Kept => file.bytes.clone(),
                Unsynced::Torn(_) => torn(file, &mut seed),
            };
            Content { durable: bytes.clone(), bytes }
        });
        let files = files.collect();
        Self {
            state: Arc::new(Mutex::new(State {
                names: names.clone(),
                durable_names: names,
                files,
                ..State::default()
            })),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.cut_before.is_some_and(|cut| state.operations >= cut) {
            return Err(io::Error::other("the power is cut"));
        }
        state.operations += 1;
        change(&mut state)
    }
}

fn not_simulated() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the metadata does without this operation")
}

/// Some pages of what was written over what was durable.
fn torn(file: &Content, seed: &mut u64) -> Vec<u8> {
    let mut coin = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed & 1 == 0
    };
    let length = if coin() { file.bytes.len() } else { file.durable.len() };
    let mut bytes = file.durable.clone();
    bytes.resize(length, 0);
    for start in (0..length).step_by(PAGE_BYTES) {
        let end = (start + PAGE_BYTES).min(length).min(file.bytes.len());
        if start < end && coin() {
            bytes[start..end].copy_from_slice(&file.bytes[start..end]);
        }
    }
    bytes
}

impl Disk for PowerCutDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let opened = |index| -> Arc<dyn File> { Arc::new(OpenFile { disk: self.clone(), index }) };
        let known = self.state.lock().names.get(path).copied();
        match (how, known) {
            (Open::CreateNew | Open::CreatePrivate, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (Open::CreateNew | Open::CreateEmpty | Open::CreatePrivate, _) => self.change(|state| {
                let index = state.files.len();
                state.files.push(Content::default());
                state.names.insert(path.to_owned(), index);
                Ok(opened(index))
            }),
            (_, known) => known.map(opened).ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.durable_names.retain(|name, _| name.parent() != Some(path));
            let names: Vec<_> = state.names.iter().filter(|(name, _)| name.parent() == Some(path)).collect();
            let names: Vec<_> = names.into_iter().map(|(name, index)| (name.clone(), *index)).collect();
            state.durable_names.extend(names);
            Ok(())
        })
    }

    fn open_directory(&self, _path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        Err(not_simulated())
    }

    fn sync_filesystem(&self, _path: &Path) -> io::Result<()> {
        Err(not_simulated())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let index = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), index);
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(())
        })
    }

    fn remove_directory(&self, _path: &Path) -> io::Result<()> {
        Err(not_simulated())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let state = self.state.lock();
        let entry = |(name, index): (&PathBuf, &usize)| {
            let length = state.files[*index].bytes.len() as u64;
            let name = name.strip_prefix(path).ok()?.to_str()?.to_owned();
            Some(DirectoryEntry { name, is_directory: false, length, modified: None })
        };
        Ok(state.names.iter().filter_map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state.lock().names.contains_key(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        Err(not_simulated())
    }

    fn lock(&self, _directory: &Path) -> io::Result<Option<Box<dyn DirectoryLock>>> {
        Err(not_simulated())
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: PowerCutDisk,
    index: usize,
}

impl OpenFile {
    fn change(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        self.disk.change(|state| {
            change(&mut state.files[self.index]);
            Ok(())
        })
    }
}

impl File for OpenFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        let content = &state.files[self.index].bytes;
        let start = usize::try_from(offset).unwrap().min(content.len());
        let read = bytes.len().min(content.len() - start);
        bytes[..read].copy_from_slice(&content[start..start + read]);
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|content| {
            let start = usize::try_from(offset).unwrap();
            let end = start + bytes.len();
            content.bytes.resize(content.bytes.len().max(end), 0);
            content.bytes[start..end].copy_from_slice(bytes);
        })
    }

    fn write_slices_at(&self, _slices: &mut [IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Err(not_simulated())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|content| content.durable.clone_from(&content.bytes))
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().files[self.index].bytes.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|content| content.bytes.resize(usize::try_from(length).unwrap(), 0))
    }

    fn preallocate(&self, _length: u64) -> io::Result<()> {
        Err(not_simulated())
    }
}

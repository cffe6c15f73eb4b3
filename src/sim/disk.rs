//! A disk with a volatile cache, in memory.
//!
//! What it keeps apart: what readers see (page cache) and what a power cut leaves. At a cut every write since the last sync
//! of its file may be there whole, in part (whole sectors of 512 bytes, from the front or scattered) or not at all,
//! independently of the others; so may every change of a directory since it was synced. A write in flight at the moment of
//! the cut is torn the same way, also on a file opened for durable writes. The model is harsher than journaling file systems.

mod by_hand;
mod copy;
mod meanwhile;
mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::Random;
use crate::runtime::disk::{
    DIRECT_ALIGNMENT_BYTES, DirectoryEntry, DirectoryLock, Disk, File, Open, OpenDirectory, Space,
};

pub(crate) use copy::DiskCopy;
use meanwhile::Meanwhile;
pub(crate) use meanwhile::Operation;
use moves::Moves;

const SECTOR_BYTES: usize = 512;

/// Ways in which a disk may lie, to prove that tests notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lies {
    /// Syncing a file does nothing.
    pub(crate) syncs: bool,
    /// Durable writes are not.
    pub(crate) durable_writes: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    /// Applies a random part, as a power cut may.
    fn tear(&self, content: &mut Vec<u8>, random: &mut Random) {
        match (self, random.below(4)) {
            (_, 0) => {}
            (_, 1) | (Self::Length(_), _) => self.apply(content),
            (Self::Write { offset, bytes }, kind) => {
                let sectors = bytes.len().div_ceil(SECTOR_BYTES).max(1);
                let whole = usize::try_from(random.below(sectors as u64 + 1)).expect("small");
                for sector in 0..sectors {
                    let kept = if kind == 2 { sector < whole } else { random.chance(50) };
                    let part = sector * SECTOR_BYTES..bytes.len().min((sector + 1) * SECTOR_BYTES);
                    if kept {
                        let bytes = bytes[part.clone()].to_vec();
                        Self::Write { offset: offset + part.start, bytes }.apply(content);
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    visible: BTreeMap<PathBuf, Name>,
    durable: BTreeMap<PathBuf, Name>,
    moves: Moves,
    random: Random,
    lies: Lies,
    /// Changes until the power goes.
    fuse: Option<u64>,
    powered: bool,
    /// Bytes that fit.
    capacity: u64,
    /// Bytes that were read of files.
    read_bytes: u64,
    fail_syncs: bool,
    /// Grows with every start of a process; handles of earlier ones are dead.
    generation: u64,
    /// How often the power came back.
    boots: u64,
    locked: BTreeSet<PathBuf>,
    trace: DefaultHasher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Directory,
    File(u64),
}

/// See the module. Clones share the disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    world: Arc<Mutex<World>>,
    meanwhile: Meanwhile,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Name::Directory)]);
        let world = World {
            inodes: BTreeMap::new(),
            next_inode: 1,
            visible: root.clone(),
            durable: root,
            moves: Moves::default(),
            random: Random::new(seed),
            lies: Lies::default(),
            fuse: None,
            powered: true,
            capacity: u64::MAX,
            read_bytes: 0,
            fail_syncs: false,
            generation: 0,
            boots: 0,
            locked: BTreeSet::new(),
            trace: DefaultHasher::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), meanwhile: Meanwhile::default() }
    }

    pub(crate) fn set_lies(&self, lies: Lies) {
        self.world.lock().lies = lies;
    }

    /// The power goes in the middle of the change number `changes` from now.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.world.lock().fuse = Some(changes);
    }

    pub(crate) fn is_powered(&self) -> bool {
        self.world.lock().powered
    }

    /// Has `then` happen before every change, which its error makes fail, until the process ends.
    pub(crate) fn meanwhile(&self, then: impl FnMut(Operation, &Path) -> io::Result<()> + Send + 'static) {
        self.meanwhile.set(then);
    }

    pub(crate) fn trace(&self) -> u64 {
        self.world.lock().trace.finish()
    }

    /// The process ended; what it wrote stays.
    pub(crate) fn restart(&self) {
        self.meanwhile.clear();
        let mut world = self.world.lock();
        world.generation += 1;
        world.locked.clear();
        world.fuse = None;
        world.powered = true;
        world.fail_syncs = false;
    }

    /// The power went: keeps what was durable, and random pieces of what was not.
    pub(crate) fn power_cut(&self) {
        self.restart();
        let mut guard = self.world.lock();
        let world = &mut *guard;
        world.boots += 1;
        world.decide_moves();
        let mut names = world.durable.clone();
        let touched: BTreeSet<_> = world.visible.keys().chain(world.durable.keys()).cloned().collect();
        for path in touched {
            if world.visible.get(&path) != world.durable.get(&path) && world.random.chance(50) {
                match world.visible.get(&path) {
                    Some(&name) => names.insert(path, name),
                    None => names.remove(&path),
                };
            }
        }
        // What lies below a directory that is gone is gone too.
        let all = names.clone();
        names.retain(|path, _| path.ancestors().skip(1).all(|parent| all.get(parent) == Some(&Name::Directory)));
        for inode in world.inodes.values_mut() {
            let mut content = std::mem::take(&mut inode.durable);
            for change in inode.pending.drain(..) {
                change.tear(&mut content, &mut world.random);
            }
            inode.visible = content.clone();
            inode.durable = content;
        }
        world.visible = names.clone();
        world.durable = names;
    }
}

impl World {
    fn check_power(&self) -> io::Result<()> {
        if self.powered { Ok(()) } else { Err(io::Error::other("power is off")) }
    }

    /// Counts a change; true when the power goes in the middle of it.
    fn burn(&mut self, what: &impl Hash) -> io::Result<bool> {
        self.check_power()?;
        what.hash(&mut self.trace);
        match &mut self.fuse {
            Some(0) => {
                self.powered = false;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn inode_at(&self, path: &Path) -> io::Result<u64> {
        match self.visible.get(path) {
            Some(&Name::File(inode)) => Ok(inode),
            Some(Name::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<u64> = self
            .visible
            .values()
            .filter_map(|name| match name {
                Name::File(inode) => Some(*inode),
                Name::Directory => None,
            })
            .collect();
        inodes.iter().map(|inode| self.inodes[inode].visible.len() as u64).sum()
    }

    fn change(&mut self, inode: u64, change: Change, durable: bool) -> io::Result<()> {
        let key = match &change {
            Change::Write { offset, bytes } => (inode, *offset, bytes.len(), xxh3_64(bytes)),
            Change::Length(length) => (inode, *length, usize::MAX, 0),
        };
        let cut = self.burn(&key)?;
        if self.capacity != u64::MAX
            && let Change::Write { offset, bytes } = &change
        {
            let growth = (offset + bytes.len()).saturating_sub(self.inodes[&inode].visible.len()) as u64;
            if growth > 0 && self.used() + growth > self.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let durable = durable && !self.lies.durable_writes && !cut;
        let inode = self.inodes.get_mut(&inode).expect("open files have an inode");
        change.apply(&mut inode.visible);
        if durable {
            change.apply(&mut inode.durable);
        } else {
            inode.pending.push(change);
        }
        if cut { Err(io::Error::other("power went")) } else { Ok(()) }
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        if self.burn(&("sync", inode))? {
            return Err(io::Error::other("power went"));
        }
        if self.fail_syncs {
            return Err(io::Error::other("sync failed"));
        }
        if !self.lies.syncs {
            let inode = self.inodes.get_mut(&inode).expect("open files have an inode");
            inode.durable = inode.visible.clone();
            inode.pending.clear();
        }
        Ok(())
    }

    /// Changes names, as one step.
    fn change_names(&mut self, what: &impl Hash, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let cut = self.burn(what)?;
        change(self);
        if cut { Err(io::Error::other("power went")) } else { Ok(()) }
    }

    fn sync_names(&mut self, directory: &Path) {
        self.settle_moves(directory);
        let is_in = |path: &Path| path.parent() == Some(directory);
        let visible: Vec<_> =
            self.visible.iter().filter(|(path, _)| is_in(path)).map(|(path, name)| (path.clone(), *name)).collect();
        self.durable.retain(|path, _| !is_in(path));
        self.durable.extend(visible);
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        let parent = path.parent().expect("files have a parent");
        if self.visible.get(parent) != Some(&Name::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_names(&("create", path), |world| {
            world.visible.insert(path.to_owned(), Name::File(inode));
        })?;
        Ok(inode)
    }
}

#[derive(Debug)]
struct SimDirectory {
    disk: SimDisk,
    path: PathBuf,
}

impl OpenDirectory for SimDirectory {
    fn sync(&self) -> io::Result<()> {
        self.disk.sync_directory(&self.path)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.meanwhile.happens(Operation::Open, path)?;
        let mut world = self.world.lock();
        world.check_power()?;
        let inode = match (how, world.inode_at(path)) {
            (Open::CreateNew | Open::CreatePrivate, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Open::CreateEmpty, Ok(inode)) => {
                world.change(inode, Change::Length(0), false)?;
                inode
            }
            (_, Ok(inode)) => inode,
            (Open::CreateNew | Open::CreateEmpty | Open::CreatePrivate, Err(error))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                world.create(path)?
            }
            (_, Err(error)) => return Err(error),
        };
        let generation = world.generation;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, how, generation }))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        for directory in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !world.visible.contains_key(directory) {
                world.change_names(&("mkdir", directory), |world| {
                    // A directory made anew has nothing of one that had its name.
                    world.settle_moves(directory);
                    world.durable.retain(|path, _| !path.starts_with(directory));
                    world.visible.insert(directory.to_owned(), Name::Directory);
                    world.durable.insert(directory.to_owned(), Name::Directory);
                })?;
            }
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.meanwhile.happens(Operation::SyncDirectory, path)?;
        let mut world = self.world.lock();
        if world.burn(&("syncdir", path))? {
            return Err(io::Error::other("power went"));
        }
        if world.fail_syncs {
            return Err(io::Error::other("sync failed"));
        }
        if world.visible.get(path) != Some(&Name::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.sync_names(path);
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        self.meanwhile.happens(Operation::Open, path)?;
        Ok(Box::new(SimDirectory { disk: self.clone(), path: path.to_owned() }))
    }

    fn sync_filesystem(&self, path: &Path) -> io::Result<()> {
        self.meanwhile.happens(Operation::SyncFilesystem, path)?;
        let mut world = self.world.lock();
        let inodes: Vec<_> = world.inodes.keys().copied().collect();
        for inode in inodes {
            world.sync(inode)?;
        }
        let directories: Vec<_> = world.visible.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for directory in directories {
            world.sync_names(&directory);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.lock().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.meanwhile.happens(Operation::Remove, path)?;
        let mut world = self.world.lock();
        world.inode_at(path)?;
        world.change_names(&("remove", path), |world| {
            world.visible.remove(path);
        })
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let below: Vec<_> = world.visible.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for name in below.into_iter().rev() {
            world.change_names(&("remove", &name), |world| {
                world.visible.remove(&name);
            })?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let world = self.world.lock();
        world.check_power()?;
        if world.visible.get(path) != Some(&Name::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let in_it = world.visible.iter().filter(|(name, _)| name.parent() == Some(path));
        Ok(in_it
            .map(|(name, kind)| DirectoryEntry {
                name: name.file_name().expect("not the root").to_string_lossy().into_owned(),
                is_directory: *kind == Name::Directory,
                length: match kind {
                    Name::File(inode) => world.inodes[inode].visible.len() as u64,
                    Name::Directory => 0,
                },
                modified: None,
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let world = self.world.lock();
        world.check_power()?;
        Ok(world.visible.contains_key(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let world = self.world.lock();
        Ok(Space { total_bytes: world.capacity, available_bytes: world.capacity.saturating_sub(world.used()) })
    }

    fn boot_id(&self) -> Option<String> {
        Some(self.world.lock().boots.to_string())
    }

    fn lock(&self, directory: &Path) -> io::Result<Option<Box<dyn DirectoryLock>>> {
        let mut world = self.world.lock();
        if !world.locked.insert(directory.to_owned()) {
            return Ok(None);
        }
        let (disk, generation) = (self.clone(), world.generation);
        Ok(Some(Box::new(SimLock { disk, directory: directory.to_owned(), generation })))
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    directory: PathBuf,
    generation: u64,
}

impl DirectoryLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.disk.world.lock();
        if world.generation == self.generation {
            world.locked.remove(&self.directory);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: u64,
    how: Open,
    generation: u64,
}

impl SimFile {
    fn with<T>(&self, then: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.disk.world.lock();
        world.check_power()?;
        if world.generation != self.generation {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        then(&mut world)
    }

    /// Direct IO of anything but whole pages fails on real disks.
    fn check_alignment(&self, offset: u64, length: usize) {
        if matches!(self.how, Open::Durable | Open::Direct | Open::ReadDirect) {
            let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT_BYTES as u64);
            assert!(
                aligned && length.is_multiple_of(DIRECT_ALIGNMENT_BYTES),
                "direct IO at {offset} of {length} bytes"
            );
        }
    }
}

impl File for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check_alignment(offset, bytes.len());
        self.with(|world| {
            let content = &world.inodes[&self.inode].visible;
            let start = usize::try_from(offset).expect("small").min(content.len());
            let end = content.len().min(start + bytes.len());
            bytes[..end - start].copy_from_slice(&content[start..end]);
            world.read_bytes += (end - start) as u64;
            Ok(end - start)
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_alignment(offset, bytes.len());
        self.disk.meanwhile.happens(Operation::Write, &self.path)?;
        let durable = self.how == Open::Durable;
        let offset = usize::try_from(offset).expect("small");
        self.with(|world| world.change(self.inode, Change::Write { offset, bytes: bytes.to_vec() }, durable))
    }

    fn write_slices_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_all_at(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.meanwhile.happens(Operation::Sync, &self.path)?;
        self.with(|world| world.sync(self.inode))
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|world| Ok(world.inodes[&self.inode].visible.len() as u64))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).expect("small");
        self.with(|world| world.change(self.inode, Change::Length(length), self.how == Open::Durable))
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).expect("small");
        self.with(|world| {
            let start = world.inodes[&self.inode].visible.len();
            let bytes = vec![0; length.saturating_sub(start)];
            world.change(self.inode, Change::Write { offset: start, bytes }, false)?;
            world.sync(self.inode)
        })
    }
}

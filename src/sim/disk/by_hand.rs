//! What tests do to the disk and to files by hand, and see of them.

use std::path::{Path, PathBuf};

use super::{Inode, Name, SimDisk};

impl SimDisk {
    /// Lets at most this many bytes of files fit.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.world.lock().capacity = bytes;
    }

    /// Has every sync fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.world.lock().fail_syncs = true;
    }

    /// Flips one bit of a file, visibly and durably.
    pub(crate) fn flip_bit(&self, path: &Path, byte: usize) {
        let mut world = self.world.lock();
        let Some(&Name::File(inode)) = world.visible.get(path) else { panic!("no file {}", path.display()) };
        let inode = world.inodes.get_mut(&inode).expect("named");
        inode.visible[byte] ^= 0x04;
        if let Some(durable) = inode.durable.get_mut(byte) {
            *durable ^= 0x04;
        }
    }

    /// A file is gone, visibly and durably.
    pub(crate) fn lose(&self, path: &Path) {
        let mut world = self.world.lock();
        assert!(world.visible.remove(path).is_some(), "no file {}", path.display());
        world.durable.remove(path);
    }

    /// What a file holds.
    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let world = self.world.lock();
        let Some(Name::File(inode)) = world.visible.get(path) else { panic!("no file {}", path.display()) };
        world.inodes[inode].visible.clone()
    }

    /// A file is there with this content, visibly and durably.
    pub(crate) fn put(&self, path: &Path, content: Vec<u8>) {
        let mut world = self.world.lock();
        let inode = world.next_inode;
        world.next_inode += 1;
        world.inodes.insert(inode, Inode { visible: content.clone(), durable: content, pending: Vec::new() });
        world.visible.insert(path.to_owned(), Name::File(inode));
        world.durable.insert(path.to_owned(), Name::File(inode));
    }

    /// How many bytes of files have been read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.world.lock().read_bytes
    }

    /// All files, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let world = self.world.lock();
        world.visible.iter().filter(|(_, name)| **name != Name::Directory).map(|(path, _)| path.clone()).collect()
    }
}

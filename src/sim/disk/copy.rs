//! Copies of directories, and putting them back.

use std::path::{Path, PathBuf};

use super::{Name, SimDisk};

/// Directories and files with their content. The empty one stands for a directory that is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskCopy(Vec<(PathBuf, Option<Vec<u8>>)>);

impl SimDisk {
    /// Everything below a directory, as a backup of a running machine has it.
    pub(crate) fn copy(&self, directory: &Path) -> DiskCopy {
        let world = self.world.lock();
        let below = world.visible.iter().filter(|(path, _)| path.starts_with(directory));
        let copied = below.map(|(path, name)| match name {
            Name::Directory => (path.clone(), None),
            Name::File(inode) => (path.clone(), Some(world.inodes[inode].visible.clone())),
        });
        DiskCopy(copied.collect())
    }

    /// Puts a copy in the place of a directory, visibly and durably.
    pub(crate) fn put_back(&self, directory: &Path, copy: &DiskCopy) {
        {
            let mut world = self.world.lock();
            world.visible.retain(|path, _| !path.starts_with(directory));
            world.durable.retain(|path, _| !path.starts_with(directory));
            for path in copy.0.iter().filter(|(_, content)| content.is_none()).map(|(path, _)| path) {
                world.visible.insert(path.clone(), Name::Directory);
                world.durable.insert(path.clone(), Name::Directory);
            }
        }
        for (path, content) in &copy.0 {
            if let Some(content) = content {
                self.put(path, content.clone());
            }
        }
    }
}

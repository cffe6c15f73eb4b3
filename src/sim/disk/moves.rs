//! Renames of directories: with all that is below them, as a whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Name, World};

/// Those that a power cut may undo, oldest first: from where to where.
#[derive(Debug, Default)]
pub(super) struct Moves(Vec<(PathBuf, PathBuf)>);

fn move_names(names: &mut BTreeMap<PathBuf, Name>, from: &Path, to: &Path) {
    let below: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
    for path in below {
        let name = names.remove(&path).expect("just looked at");
        names.insert(path.strip_prefix(from).map(|rest| to.join(rest)).expect("it is below"), name);
    }
}

impl World {
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let is_directory = match self.visible.get(from) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(name) => *name == Name::Directory,
        };
        self.change_names(&("rename", from, to), |world| {
            move_names(&mut world.visible, from, to);
            if is_directory {
                world.moves.0.push((from.to_owned(), to.to_owned()));
            }
        })
    }

    /// Makes certain what `directory` is told of by a sync, or by its own name when that is taken again.
    pub(super) fn settle_moves(&mut self, directory: &Path) {
        let is_told = |path: &Path| path == directory || path.parent() == Some(directory);
        let settled: Vec<_> = self.moves.0.extract_if(.., |(from, to)| is_told(from) || is_told(to)).collect();
        for (from, to) in settled {
            move_names(&mut self.durable, &from, &to);
        }
    }

    /// The power went: what was not certain happened or did not.
    pub(super) fn decide_moves(&mut self) {
        for (from, to) in std::mem::take(&mut self.moves.0) {
            if self.random.chance(50) {
                move_names(&mut self.durable, &from, &to);
            } else {
                move_names(&mut self.visible, &to, &from);
            }
        }
    }
}

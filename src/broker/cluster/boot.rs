//! Whether the machine may have lost what this broker wrote and did not sync: it lost its power or was reset, and the broker had not
//! stopped in good order. Then copies of topics with `write.caching` may lack what was acknowledged, and step back (decision 0073).
//!
//! `<first data directory>/peers/boot` says in which boot of its machine the broker began, or that it stopped in good order. It is
//! written once the metadata knows what it said before, and before anything is acknowledged. A process that is killed leaves it as it is,
//! and what it wrote is with the kernel. Where it is missing or can't be read, something may have been lost. All calls block.

use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::disk::{Disk, read_file, replace_file};

/// A boot's identity has some tens of bytes.
const LIMIT_BYTES: u64 = 4096;
/// What is there after a stop in good order.
const STOPPED: &str = "1 stopped\n";

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct BootMark(PathBuf);

impl BootMark {
    /// Of a broker with that first data directory.
    pub(in crate::broker) fn of(first_directory: &Path) -> Self {
        Self(first_directory.join("peers").join("boot"))
    }

    /// The file.
    pub(in crate::broker) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether something may be lost that was written and not synced before.
    pub(in crate::broker) fn may_have_lost_unsynced(&self, disk: &dyn Disk) -> bool {
        let found = match read_file(disk, &self.0, LIMIT_BYTES) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(error) => {
                tracing::warn!(%error, path = %self.0.display(), "it can't be read whether the machine went down uncleanly, and it counts as if it had");
                return true;
            }
        };
        let is_same_boot = disk.boot_id().is_some_and(|boot| found == content(&boot).as_bytes());
        if found == STOPPED.as_bytes() || is_same_boot {
            return false;
        }
        tracing::warn!(
            "the machine was started anew, and the broker had not been stopped before: copies of topics with write.caching step back for others"
        );
        true
    }

    /// This broker runs from now on, and what it writes may not be synced.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::broker) fn begin(&self, disk: &dyn Disk) -> io::Result<()> {
        // What matches no boot is as good as nothing.
        self.write(disk, &content(&disk.boot_id().unwrap_or_default()))
    }

    /// It has stopped, and everything is synced.
    ///
    /// # Errors
    /// The disk's; what was there before stays.
    pub(in crate::broker) fn end(&self, disk: &dyn Disk) -> io::Result<()> {
        self.write(disk, STOPPED)
    }

    fn write(&self, disk: &dyn Disk, content: &str) -> io::Result<()> {
        disk.create_directory(self.0.parent().expect("the file is in a directory"))?;
        replace_file(disk, &self.0, content.as_bytes())
    }
}

fn content(boot: &str) -> String {
    format!("1 boot {boot}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Machine;

    fn mark() -> BootMark {
        BootMark::of(Path::new("/data"))
    }

    #[test]
    fn a_power_cut_may_lose_something_and_a_killed_process_and_a_stop_in_good_order_do_not() {
        let machine = Machine::new(1);
        let disk = &machine.disk;
        assert!(mark().may_have_lost_unsynced(disk), "nothing is known");
        mark().begin(disk).unwrap();
        machine.kill();
        assert!(!mark().may_have_lost_unsynced(disk));
        mark().begin(disk).unwrap();
        machine.power_cut();
        assert!(mark().may_have_lost_unsynced(disk));
        machine.kill();
        assert!(mark().may_have_lost_unsynced(disk), "the metadata was not told yet");
        mark().begin(disk).unwrap();
        mark().end(disk).unwrap();
        machine.power_cut();
        assert!(!mark().may_have_lost_unsynced(disk));
    }

    #[test]
    fn what_can_not_be_read_is_no_word_that_all_is_well() {
        let machine = Machine::new(2);
        mark().begin(&machine.disk).unwrap();
        replace_file(&machine.disk, mark().path(), b"2 stopped\n").unwrap();
        assert!(mark().may_have_lost_unsynced(&machine.disk));
        replace_file(&machine.disk, mark().path(), &[b'x'; 5000]).unwrap();
        assert!(mark().may_have_lost_unsynced(&machine.disk));
    }
}

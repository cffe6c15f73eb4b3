//! What else happens in the process while the disk carries something out: how a test has two lanes meet.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

/// What the disk is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// To open a file.
    Open,
    /// To write to a file.
    Write,
    /// To sync a file.
    Sync,
    /// To sync the names in a directory.
    SyncDirectory,
    /// To sync all.
    SyncFilesystem,
    /// To remove a file.
    Remove,
}

type Then = Box<dyn FnMut(Operation, &Path) -> io::Result<()> + Send>;

#[derive(Clone, Default)]
pub(super) struct Meanwhile(Arc<Mutex<Option<Then>>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Meanwhile")
    }
}

impl Meanwhile {
    pub(super) fn set(&self, then: impl FnMut(Operation, &Path) -> io::Result<()> + Send + 'static) {
        *self.0.lock() = Some(Box::new(then));
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// Has it happen. What it does itself with the disk goes undisturbed.
    pub(super) fn happens(&self, operation: Operation, path: &Path) -> io::Result<()> {
        let Some(mut then) = self.0.lock().take() else { return Ok(()) };
        let result = then(operation, path);
        self.0.lock().get_or_insert(then);
        result
    }
}

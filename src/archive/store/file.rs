//! A `file://` store: objects are files of one directory tree, written through the disk seam, shared by the processes of
//! one machine.
//!
//! ```text
//! <root>/<key>              one file per object, complete and synced before it gets its name
//! <root>/.locks/lock        held during a conditional write, against every other process
//! <root>/.incoming/<hex>/   unfinished writes of one process; removed by the next process that finds it unlocked
//! ```
//! After a power cut an object is there whole or not at all, and a conditional write that was answered is there. A write
//! that got its name but could not be made durable poisons the store until a restart, since a reader could already see
//! what the disk may forget; opening the store to write syncs the file system for the same reason. One that is opened to read
//! makes and changes nothing.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Mutex;

use super::backend::{Attempt, Backend, Expected, Listed, Payload, PayloadReader, Version};
use super::{LocationError, StoreError};
use crate::archive::workers::Workers;
use crate::runtime::Runtime;
use crate::runtime::clock::Clock;
use crate::runtime::disk::{DirectoryLock, Disk, Open, read_file};
use crate::runtime::net::BoxFuture;

/// Bytes copied at a time when an object is written.
const COPY_BYTES: usize = 1 << 20;
/// Largest object that is read whole; heads, spills and companions are far smaller.
const WHOLE_READ_LIMIT_BYTES: u64 = 1 << 30;
/// How often the lock of another process is tried, and the pause between tries.
const LOCK_ATTEMPTS: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Objects in a directory.
pub(super) struct FileBackend {
    files: Arc<Files>,
    workers: Workers,
    clock: Arc<dyn Clock>,
    /// One conditional write of this process at a time; other processes are held off by the lock file.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Files {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Where this process puts unfinished writes; `None` when it only reads.
    incoming: Option<Incoming>,
    poisoned: AtomicBool,
}

/// How often a process looks for a directory that is its own: others that start at the same time may be in the way.
const OPEN_ATTEMPTS: usize = 16;

#[derive(Debug)]
struct Incoming {
    directory: PathBuf,
    _lock: Box<dyn DirectoryLock>,
    next: AtomicU64,
}

impl fmt::Debug for FileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBackend({})", self.files.root.display())
    }
}

impl FileBackend {
    /// Opens the store in `root`, making the directory if need be. Blocks on the disk: called at start-up.
    pub(super) fn open(runtime: &Runtime, root: &Path, workers: Workers) -> Result<Self, LocationError> {
        let incoming = Incoming::open(runtime, root)
            .map_err(|cause| LocationError::Directory { path: root.display().to_string(), cause })?;
        Ok(Self::over(runtime, root, workers, Some(incoming)))
    }

    /// The store in `root` for somebody who only reads: the directory may be read-only, and is not touched here.
    pub(super) fn open_to_read(runtime: &Runtime, root: &Path, workers: Workers) -> Self {
        Self::over(runtime, root, workers, None)
    }

    fn over(runtime: &Runtime, root: &Path, workers: Workers, incoming: Option<Incoming>) -> Self {
        let disk = Arc::clone(&runtime.disk);
        let files = Files { disk, root: root.to_owned(), incoming, poisoned: AtomicBool::new(false) };
        Self { files: Arc::new(files), workers, clock: Arc::clone(&runtime.clock), turn: Mutex::new(()) }
    }

    /// A write that its caller has given up gets no name: the caller may write something else to the payload's file by now.
    async fn put_while_wanted(&self, key: &str, payload: Payload) -> Attempt<()> {
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let put = move |files: &Files, key: &str| files.put(key, &payload, &|| is_wanted.strong_count() > 0);
        let result = self.on_disk(key, put).await;
        drop(wanted);
        result
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Files, &str) -> Attempt<T> + Send + 'static,
    ) -> Attempt<T> {
        let (files, key) = (Arc::clone(&self.files), key.to_owned());
        self.workers.run(move || work(&files, &key)).await
    }
}

impl Incoming {
    fn open(runtime: &Runtime, root: &Path) -> io::Result<Self> {
        let disk = runtime.disk.as_ref();
        disk.create_directory(&root.join(".locks"))?;
        let all = root.join(".incoming");
        disk.create_directory(&all)?;
        remove_abandoned(disk, &all)?;
        for _ in 0..OPEN_ATTEMPTS {
            let directory = all.join(format!("{:016x}", runtime.entropy.number()));
            disk.create_directory(&directory)?;
            // Another process that starts may have taken it for abandoned before it was locked.
            if let Some(lock) = unless_gone(disk.lock(&directory))?.flatten() {
                disk.sync_filesystem(root)?;
                return Ok(Self { directory, _lock: lock, next: AtomicU64::new(0) });
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    fn next_path(&self) -> PathBuf {
        self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Files {
    fn path(&self, key: &str) -> Attempt<PathBuf> {
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && part != "lock";
        if key.split('/').all(is_plain) {
            return Ok(self.root.join(key));
        }
        let cause = io::Error::new(io::ErrorKind::InvalidFilename, "a part of the key is empty, hidden or reserved");
        Err(StoreError::Rejected { key: key.to_owned(), cause: Box::new(cause) })
    }

    fn check_poison(&self, key: &str) -> Attempt<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(StoreError::Poisoned { key: key.to_owned() });
        }
        Ok(())
    }

    fn incoming(&self, key: &str) -> Attempt<&Incoming> {
        self.incoming.as_ref().ok_or_else(|| {
            let cause = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the store was opened to read");
            StoreError::Denied { key: key.to_owned(), cause: Box::new(cause) }
        })
    }

    fn put(&self, key: &str, payload: &Payload, is_wanted: &dyn Fn() -> bool) -> Attempt<()> {
        self.check_poison(key)?;
        let target = self.path(key)?;
        let temporary = self.incoming(key)?.next_path();
        let parent = target.parent().expect("a key has at least one part below the root");
        let named = self.write_whole(&temporary, payload, is_wanted).and_then(|()| {
            self.disk.create_directory(parent)?;
            // Once the object has its name, nothing may be lacking to make that durable.
            let directory = self.disk.open_directory(parent)?;
            self.disk.rename(&temporary, &target).map(|()| directory)
        });
        let directory = named.map_err(|error| {
            // Gives the space back when the disk is full; a leftover goes with the directory.
            let _ = self.disk.remove_file(&temporary);
            failure(key, error)
        })?;
        directory.sync().map_err(|error| {
            self.poisoned.store(true, Ordering::Release);
            tracing::error!(key, %error, "file store failed to make a write durable; it takes no more writes");
            StoreError::Poisoned { key: key.to_owned() }
        })
    }

    fn write_whole(&self, temporary: &Path, payload: &Payload, is_wanted: &dyn Fn() -> bool) -> io::Result<()> {
        let file = self.disk.open(temporary, Open::CreateEmpty)?;
        let (mut reader, mut offset) = (PayloadReader::new(payload), 0);
        while !reader.is_at_end() {
            let part = reader.read(COPY_BYTES)?;
            file.write_all_at(&part, offset)?;
            offset += part.len() as u64;
        }
        file.sync_data()?;
        drop(file);
        // Asked after the last byte was read: until then it was the caller's.
        if !is_wanted() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody waits for this write any more"));
        }
        Ok(())
    }

    /// A whole object, such as a manifest. What may vanish is not given out, as more would be built on it.
    fn read(&self, key: &str) -> Attempt<(Bytes, Version)> {
        self.check_poison(key)?;
        let content = read_file(self.disk.as_ref(), &self.path(key)?, WHOLE_READ_LIMIT_BYTES)
            .map_err(|error| failure(key, error))?;
        let version = version_of(&content);
        Ok((content.into(), version))
    }

    fn read_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Attempt<Vec<Bytes>> {
        let file = self.disk.open(&self.path(key)?, Open::Read).map_err(|error| failure(key, error))?;
        let length = file.length().map_err(|error| failure(key, error))?;
        let mut contents = Vec::with_capacity(ranges.len());
        for range in ranges {
            if range.end > length {
                return Err(StoreError::WrongLength { key: key.to_owned(), expected: range.end, found: length });
            }
            let mut content = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut content, range.start).map_err(|error| failure(key, error))?;
            contents.push(content.into());
        }
        Ok(contents)
    }

    fn size(&self, key: &str) -> Attempt<u64> {
        let file = self.disk.open(&self.path(key)?, Open::Read).map_err(|error| failure(key, error))?;
        file.length().map_err(|error| failure(key, error))
    }

    fn delete(&self, key: &str) -> Attempt<()> {
        self.incoming(key)?;
        match self.disk.remove_file(&self.path(key)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure(key, error)),
            // Not synced: a deletion that a power cut undoes leaves an orphan, which is swept again.
            _ => Ok(()),
        }
    }

    /// One conditional write under the lock; `None` when another process holds it.
    fn try_replace(&self, key: &str, content: &Bytes, expected: &Expected) -> Attempt<Option<Version>> {
        self.check_poison(key)?;
        self.incoming(key)?;
        let locks = self.root.join(".locks");
        let Some(_lock) = self.disk.lock(&locks).map_err(|error| failure(key, error))? else {
            return Ok(None);
        };
        let found = match self.read(key) {
            Ok((_, version)) => Expected::Version(version),
            Err(StoreError::NotFound { .. }) => Expected::Absent,
            Err(error) => return Err(error),
        };
        if found != *expected {
            return Err(StoreError::ConditionFailed { key: key.to_owned() });
        }
        self.put(key, &Payload::Memory(content.clone()), &|| true)?;
        Ok(Some(version_of(content)))
    }

    /// The names of one directory: objects, and directories still to be walked, both as keys.
    fn list_one(&self, directory: &str) -> Attempt<(Vec<Listed>, Vec<String>)> {
        let entries = match self.disk.list(&self.root.join(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(|error| failure(directory, error))?,
        };
        let (mut objects, mut directories) = (Vec::new(), Vec::new());
        for entry in entries.into_iter().filter(|entry| !entry.name.starts_with('.')) {
            let key = format!("{directory}{}", entry.name);
            if entry.is_directory {
                directories.push(format!("{key}/"));
            } else {
                objects.push(Listed { key, length: entry.length, modified: entry.modified });
            }
        }
        // The walk takes directories from the end.
        directories.reverse();
        Ok((objects, directories))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A clean stop leaves nothing behind; after any other the next opening removes it.
        if let Some(incoming) = &self.incoming {
            let _ = self.disk.remove_directory(&incoming.directory);
        }
    }
}

impl Backend for FileBackend {
    fn put<'a>(&'a self, key: &'a str, payload: &'a Payload) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(self.put_while_wanted(key, payload.clone()))
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<(Bytes, Version)>> {
        Box::pin(self.on_disk(key, Files::read))
    }

    fn get_ranges<'a>(&'a self, key: &'a str, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Attempt<Vec<Bytes>>> {
        let ranges = ranges.to_vec();
        Box::pin(self.on_disk(key, move |files, key| files.read_ranges(key, &ranges)))
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<u64>> {
        Box::pin(self.on_disk(key, Files::size))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Attempt<Listed>> {
        let walk = stream::unfold(vec![prefix.to_owned()], move |mut directories| async move {
            let directory = directories.pop()?;
            match self.on_disk(&directory, Files::list_one).await {
                Ok((objects, deeper)) => {
                    directories.extend(deeper);
                    Some((objects.into_iter().map(Ok).collect(), directories))
                }
                Err(error) => Some((vec![Err(error)], Vec::new())),
            }
        });
        walk.flat_map(stream::iter).boxed()
    }

    fn directories<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Attempt<Vec<String>>> {
        Box::pin(async move {
            let (_, directories) = self.on_disk(prefix, Files::list_one).await?;
            let names = directories.iter().rev().filter_map(|key| key.strip_prefix(prefix)?.strip_suffix('/'));
            Ok(names.map(str::to_owned).collect())
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(self.on_disk(key, Files::delete))
    }

    fn replace<'a>(&'a self, key: &'a str, content: Bytes, expected: &'a Expected) -> BoxFuture<'a, Attempt<Version>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            for _ in 0..LOCK_ATTEMPTS {
                let (content, expected) = (content.clone(), expected.clone());
                let tried = self.on_disk(key, move |files, key| files.try_replace(key, &content, &expected));
                if let Some(version) = tried.await? {
                    return Ok(version);
                }
                self.clock.sleep(LOCK_PAUSE).await;
            }
            Err(StoreError::Contended { key: key.to_owned() })
        })
    }
}

/// Removes what processes that no longer run left unfinished. Several may do so at once.
fn remove_abandoned(disk: &dyn Disk, all_incoming: &Path) -> io::Result<()> {
    for entry in disk.list(all_incoming)?.into_iter().filter(|entry| entry.is_directory) {
        let directory = all_incoming.join(&entry.name);
        if unless_gone(disk.lock(&directory))?.flatten().is_some() {
            unless_gone(disk.remove_directory(&directory))?;
        }
    }
    Ok(())
}

/// What came of something that was done to a directory, unless that was not there any more, or somebody put a lock there who found
/// it taken: that one goes at the next start.
fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(None),
        done => done.map(Some),
    }
}

/// A content hash: contents that are conditionally written carry a generation and a nonce, so equal hashes mean equal states.
fn version_of(content: &[u8]) -> Version {
    Version(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(content)))
}

fn failure(key: &str, error: io::Error) -> StoreError {
    let key = key.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { key },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Denied { key, cause: Box::new(error) }
        }
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory => StoreError::Rejected { key, cause: Box::new(error) },
        _ => StoreError::Unavailable { key, cause: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::archive::store::{Location, ReplaceError, Store, StoreSettings, Unobserved};
    use crate::runtime::tasks::Priority;
    use crate::sim::{Lies, Machine, Operation, Random, SimDisk};

    fn parts(disk: &SimDisk) -> (Runtime, Location, StoreSettings, Workers) {
        let runtime = Runtime { disk: Arc::new(disk.clone()), ..Runtime::production() };
        let workers = Workers::start(runtime.tasks.as_ref(), "store", Priority::Foreground, 1);
        let settings = StoreSettings { backoff_first_ms: 1, max_attempts: 2, ..StoreSettings::default() };
        (runtime, Location::parse("file:///bucket").expect("a store URL"), settings, workers)
    }

    fn open(disk: &SimDisk) -> Result<Store, LocationError> {
        let (runtime, location, settings, workers) = parts(disk);
        Store::open(&runtime, &location, settings, workers, Arc::new(Unobserved))
    }

    #[test]
    fn processes_that_start_at_once_each_open_the_store() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().join("bucket").display());
        let open = || {
            let runtime = Runtime::production();
            let workers = Workers::start(runtime.tasks.as_ref(), "store", Priority::Foreground, 1);
            let location = Location::parse(&url).unwrap();
            Store::open(&runtime, &location, StoreSettings::default(), workers, Arc::new(Unobserved)).map(drop)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..20).try_for_each(|_| open()))).collect();
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
    }

    fn content(number: u64) -> Bytes {
        format!("{number}:{}", "x".repeat(3000)).into()
    }

    /// Writes until the power goes: objects, and one head over and over. Returns how many writes of each were answered.
    async fn write_until_dark(disk: &SimDisk) -> (u64, u64) {
        let Ok(store) = open(disk) else { return (0, 0) };
        let mut expected = Expected::Absent;
        for number in 1.. {
            if store.put_immutable(&format!("log/p={}/{number}", number % 3), content(number)).await.is_err() {
                return (number - 1, number - 1);
            }
            match store.replace("topics/head.json", content(number), expected).await {
                Ok(version) => expected = Expected::Version(version),
                Err(_) => return (number, number - 1),
            }
        }
        unreachable!("the power goes before numbers end")
    }

    /// Whether everything that was answered before a power cut is there after it, and everything else whole or not at all.
    async fn survives(seed: u64, lies: Lies) -> bool {
        let disk = SimDisk::new(seed);
        disk.set_lies(lies);
        disk.cut_power_after(seed % 97);
        let (objects, heads) = write_until_dark(&disk).await;
        disk.power_cut();
        let store = open(&disk).expect("a store opens after a power cut");
        for number in 1..=objects + 1 {
            match store.get(&format!("log/p={}/{number}", number % 3)).await {
                Ok((found, _)) if found == content(number) => {}
                Err(StoreError::NotFound { .. }) if number > objects => {}
                _ => return false,
            }
        }
        match store.get("topics/head.json").await {
            Ok((found, _)) => found == content(heads) || found == content(heads + 1),
            Err(_) => heads == 0,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_was_answered_survives_a_power_cut_at_any_write() {
        for seed in 0..150 {
            assert!(survives(seed, Lies::default()).await, "seed {seed}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_disk_that_lies_about_syncs_is_noticed() {
        let lies = Lies { syncs: true, ..Lies::default() };
        let mut lost = 0;
        for seed in 0..30 {
            lost += u32::from(!survives(seed, lies).await);
        }
        assert!(lost > 10, "lost in {lost} of 30 power cuts");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_only_reads_changes_nothing() {
        let disk = SimDisk::new(1);
        let writer = open(&disk).expect("a fresh store opens");
        writer.put_immutable("a/1", content(1)).await.expect("the disk is well");
        // The power goes with the next change.
        disk.cut_power_after(0);
        let (runtime, location, settings, workers) = parts(&disk);
        let reader = Store::open_to_read(&runtime, &location, settings, workers).expect("nothing is made");
        assert_eq!(reader.get("a/1").await.expect("it is there").0, content(1));
        assert_eq!(reader.directories("").await.expect("it can be listed"), ["a"]);
        let is_denied = |error: &StoreError| matches!(error, StoreError::Denied { .. });
        assert!(is_denied(&reader.put_immutable("a/2", content(2)).await.expect_err("it only reads")));
        assert!(is_denied(&reader.delete("a/1").await.expect_err("it only reads")));
        let replaced = reader.replace("a/head", content(3), Expected::Absent).await;
        assert!(matches!(&replaced, Err(ReplaceError::Store(error)) if is_denied(error)), "{replaced:?}");
        assert!(disk.is_powered(), "something was changed");
    }

    #[tokio::test]
    async fn a_write_that_its_caller_gave_up_never_gets_its_name() {
        let (machine, mut random) = (Machine::new(1), Random::new(1));
        let runtime = machine.runtime();
        let workers = Workers::start(&*runtime.tasks, "store", Priority::Foreground, 1);
        let backend = FileBackend::open(&runtime, Path::new("/bucket"), workers).expect("a fresh store opens");
        let payload = Payload::Memory(content(1));
        let mut given_up = backend.put("log/1", &payload);
        assert!((&mut given_up).now_or_never().is_none(), "it waits for a lane");
        drop(given_up);
        let mut awaited = backend.put("log/2", &payload);
        assert!((&mut awaited).now_or_never().is_none());
        machine.tasks.run_all(&mut random);
        awaited.now_or_never().expect("the lane is done").expect("the disk is well");
        let names = |path: &PathBuf| path.starts_with("/bucket/log");
        let written: Vec<_> = machine.disk.files().into_iter().filter(names).collect();
        assert_eq!(written, [Path::new("/bucket/log/2")]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_failed_sync_poisons_the_store_until_a_restart() {
        let disk = SimDisk::new(1);
        let store = open(&disk).expect("a fresh store opens");
        store.put_immutable("a/1", content(1)).await.expect("the disk is well");
        disk.fail_syncs();
        store.put_immutable("a/2", content(2)).await.expect_err("nothing is answered that is not durable");
        let replaced = store.replace("a/head", content(3), Expected::Absent).await;
        assert!(matches!(replaced, Err(ReplaceError::Unknown { .. } | ReplaceError::Store(_))));
        drop(store);
        disk.restart();
        let store = open(&disk).expect("a restart begins anew");
        let mut fails = true;
        disk.meanwhile(move |operation, path| {
            let is_name = operation == Operation::SyncDirectory && path.ends_with("a");
            if is_name && std::mem::take(&mut fails) { Err(io::Error::other("sync failed")) } else { Ok(()) }
        });
        let replaced = store.replace("a/head", content(4), Expected::Absent).await;
        assert!(matches!(replaced, Err(ReplaceError::Unknown { .. } | ReplaceError::Store(_))));
        assert!(disk.files().iter().any(|path| path.ends_with("a/head")), "it is there, and may vanish");
        let read = store.get("a/head").await;
        assert!(matches!(read, Err(StoreError::Poisoned { .. })), "{read:?}");
        drop(store);
        disk.restart();
        let store = open(&disk).expect("a restart begins anew");
        assert_eq!(store.get("a/1").await.expect("it was durable").0, content(1));
        store.put_immutable("a/2", content(2)).await.expect("the disk is well again");
    }
}

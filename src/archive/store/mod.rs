//! The one way to the bucket: immutable objects, ranged reads, listings, and conditional writes that can be trusted.
//!
//! [`Store`] wraps a [`Backend`] (a bucket, a directory, memory) with limits on concurrent requests, a time limit per
//! attempt, bounded retries with jittered backoff, and the reading of ambiguous answers. All of the archive goes through
//! it. What holds after a crash: a [`Store::put_immutable`] that returned is durable and whole; a [`Store::replace`] that
//! returned is durable; one that did not return may still happen later, which is why contents that are replaced carry a
//! nonce. [`Store::probe`] refuses stores whose conditional writes are not real.

mod backend;
mod cloud;
#[cfg(test)]
pub(in crate::archive) mod conformance;
mod error;
pub mod faulty;
mod file;
mod location;
mod probe;
mod retry;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;

pub use backend::{Attempt, Backend, Expected, Listed, Payload, PayloadReader, Version};
pub use error::{LocationError, ReplaceError, StoreError};
pub use location::{Location, Scheme};
pub use probe::ProbeError;
pub use retry::jittered;

use crate::archive::workers::Workers;
use crate::runtime::Runtime;
use crate::runtime::clock::{self, Clock};
use retry::Backoff;

/// Bytes of an upload that one request takes at most. Where there are more it has the time limit of an attempt for each of its
/// requests, which end by themselves: an upload that is given up from outside leaves its parts behind.
const PART_BYTES: u64 = 8 << 20;
/// Requests of such an upload beside its parts, some of which are sent side by side: it is begun, completed or aborted.
const OTHER_REQUESTS: u64 = 2;

/// How the store is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// How long one request is waited for, in milliseconds. Longer hides a hanging store from its readers; shorter fails
    /// slow but healthy requests. Uploads get more, by their length.
    pub attempt_timeout_ms: u64,
    /// How long a connection to the store is waited for, in milliseconds; never longer than an attempt.
    pub connect_timeout_ms: u64,
    /// Requests for one operation before it fails, the first included. More rides out longer storms and holds the caller
    /// for longer.
    pub max_attempts: u32,
    /// First pause before another request, in milliseconds; doubles from there, with jitter.
    pub backoff_first_ms: u64,
    /// Longest pause before another request, in milliseconds.
    pub backoff_longest_ms: u64,
    /// Reads that may be under way at once. Each holds up to a row group (about 16 MiB) in memory.
    pub concurrent_reads: usize,
    /// Writes and deletions that may be under way at once. Each upload holds up to two parts of 8 MiB.
    pub concurrent_writes: usize,
    /// Whether uploads to S3 carry a SHA-256 checksum that the store verifies. Costs nothing beyond the request signature;
    /// only for stores that refuse it should this be off.
    pub checksum_uploads: bool,
    /// Options of the bucket's client by their usual names, as `AWS_ENDPOINT`, `AWS_REGION`, `AWS_ALLOW_HTTP` or
    /// `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`; unknown ones are ignored, so that a whole environment can be passed.
    pub options: StoreOptions,
}

/// Options by name. Some are secrets: printing shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(pub BTreeMap<String, String>);

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            attempt_timeout_ms: 30_000,
            connect_timeout_ms: 5_000,
            max_attempts: 6,
            backoff_first_ms: 50,
            backoff_longest_ms: 5_000,
            concurrent_reads: 48,
            concurrent_writes: 16,
            checksum_uploads: true,
            options: StoreOptions::default(),
        }
    }
}

/// The kinds of request, for counting and for planned faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Writing an immutable object.
    Put,
    /// Reading a whole object.
    Get,
    /// Reading ranges of an object.
    GetRanges,
    /// Asking for an object's length.
    Size,
    /// Listing.
    List,
    /// Removing an object.
    Delete,
    /// A conditional write.
    Replace,
}

impl Operation {
    /// A short name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetRanges => "get_ranges",
            Self::Size => "size",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Replace => "replace",
        }
    }
}

/// Is told of every single request, for metrics. Called on network tasks: must not block.
pub trait StoreObserver: Send + Sync {
    /// One request ended after `elapsed`; `error` is what went wrong, also when a retry follows.
    fn request(&self, operation: Operation, elapsed: Duration, error: Option<&StoreError>);

    /// A request is about to be made; [`StoreObserver::request`] follows, unless the caller gives up meanwhile.
    fn begin(&self) -> InFlight;

    /// Contents of so many bytes were written or read.
    fn transferred(&self, operation: Operation, bytes: u64);
}

/// Counts as one request under way until it is dropped.
pub type InFlight = Box<dyn std::any::Any + Send>;

/// Observes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl StoreObserver for Unobserved {
    fn request(&self, _operation: Operation, _elapsed: Duration, _error: Option<&StoreError>) {}

    fn begin(&self) -> InFlight {
        Box::new(())
    }

    fn transferred(&self, _operation: Operation, _bytes: u64) {}
}

/// Handle to a store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    settings: StoreSettings,
    runtime: Runtime,
    observer: Arc<dyn StoreObserver>,
    reads: Semaphore,
    writes: Semaphore,
    is_durable: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.inner.backend)
    }
}

impl Store {
    /// Opens the store that `location` names. A `file` store touches the disk here; a bucket is first spoken to by
    /// [`Store::probe`]. `workers` do the blocking file work.
    pub fn open(
        runtime: &Runtime,
        location: &Location,
        settings: StoreSettings,
        workers: Workers,
        observer: Arc<dyn StoreObserver>,
    ) -> Result<Self, LocationError> {
        let backend: Arc<dyn Backend> = match location.scheme {
            Scheme::File => Arc::new(file::FileBackend::open(runtime, &location.directory, workers)?),
            Scheme::Memory => Arc::new(cloud::CloudBackend::in_memory(workers)),
            Scheme::S3 | Scheme::Google | Scheme::Azure => {
                Arc::new(cloud::CloudBackend::connect(location, &settings, workers)?)
            }
        };
        Ok(Self::at(runtime, location, backend, settings, observer))
    }

    /// Like [`Store::open`], for somebody who only reads: makes and syncs nothing, so that a directory may be read-only.
    pub fn open_to_read(
        runtime: &Runtime,
        location: &Location,
        settings: StoreSettings,
        workers: Workers,
    ) -> Result<Self, LocationError> {
        let observer = Arc::new(Unobserved);
        if location.scheme != Scheme::File {
            return Self::open(runtime, location, settings, workers, observer);
        }
        let backend = Arc::new(file::FileBackend::open_to_read(runtime, &location.directory, workers));
        Ok(Self::at(runtime, location, backend, settings, observer))
    }

    fn at(
        runtime: &Runtime,
        location: &Location,
        backend: Arc<dyn Backend>,
        settings: StoreSettings,
        observer: Arc<dyn StoreObserver>,
    ) -> Self {
        let mut store = Self::over(runtime, backend, settings, observer);
        Arc::get_mut(&mut store.inner).expect("not shared yet").is_durable = location.is_durable();
        store
    }

    /// A store over any backend, which counts as durable.
    pub fn over(
        runtime: &Runtime,
        backend: Arc<dyn Backend>,
        settings: StoreSettings,
        observer: Arc<dyn StoreObserver>,
    ) -> Self {
        let reads = Semaphore::new(settings.concurrent_reads.max(1));
        let writes = Semaphore::new(settings.concurrent_writes.max(1));
        let runtime = runtime.clone();
        let inner = Inner { backend, settings, runtime, observer, reads, writes, is_durable: true };
        Self { inner: Arc::new(inner) }
    }

    /// The same store with its backend wrapped, as by a [`faulty::FaultyBackend`].
    #[must_use]
    pub fn wrapped(&self, wrap: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Self {
        let inner = &self.inner;
        let backend = wrap(Arc::clone(&inner.backend));
        let mut store = Self::over(&inner.runtime, backend, inner.settings.clone(), Arc::clone(&inner.observer));
        Arc::get_mut(&mut store.inner).expect("not shared yet").is_durable = inner.is_durable;
        store
    }

    /// The clock that requests are timed with.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.runtime.clock
    }

    /// The same store spoken to in another way.
    #[cfg(test)]
    pub(super) fn configured(&self, settings: StoreSettings) -> Self {
        let inner = &self.inner;
        Self::over(&inner.runtime, Arc::clone(&inner.backend), settings, Arc::clone(&inner.observer))
    }

    /// Whether the store outlives the process; local data is deleted only on the strength of one that does.
    pub fn is_durable(&self) -> bool {
        self.inner.is_durable
    }

    /// Writes an object under a key that no other writer uses, and has the store confirm its length.
    pub async fn put_immutable(&self, key: &str, payload: impl Into<Payload>) -> Result<(), StoreError> {
        let payload = payload.into();
        let expected = payload.length();
        let parts = expected.div_ceil(PART_BYTES);
        let requests = if parts > 1 { parts + OTHER_REQUESTS } else { 0 };
        let slowness_ms = self.inner.settings.attempt_timeout_ms.saturating_mul(requests);
        let slowness = Duration::from_millis(slowness_ms);
        self.retried(Operation::Put, key, slowness, || self.inner.backend.put(key, &payload)).await?;
        self.inner.observer.transferred(Operation::Put, expected);
        let found = self.size(key).await?;
        if found != expected {
            return Err(StoreError::WrongLength { key: key.to_owned(), expected, found });
        }
        Ok(())
    }

    /// Reads a whole, small object and the version that was read.
    pub async fn get(&self, key: &str) -> Result<(Bytes, Version), StoreError> {
        let found = self.retried(Operation::Get, key, Duration::ZERO, || self.inner.backend.get(key)).await?;
        self.inner.observer.transferred(Operation::Get, found.0.len() as u64);
        Ok(found)
    }

    /// Reads a whole, small object; `None` when there is none.
    pub async fn get_if_present(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        match self.get(key).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads ranges of an object, in the order asked for. Each answer has exactly the length of its range.
    pub async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.retried(Operation::GetRanges, key, Duration::ZERO, || async {
            let contents = self.inner.backend.get_ranges(key, ranges).await?;
            for (range, content) in ranges.iter().zip(&contents) {
                let (expected, found) = (range.end - range.start, content.len() as u64);
                if expected != found {
                    return Err(StoreError::WrongLength { key: key.to_owned(), expected, found });
                }
            }
            let bytes = contents.iter().map(|content| content.len() as u64).sum();
            self.inner.observer.transferred(Operation::GetRanges, bytes);
            Ok(contents)
        })
        .await
    }

    /// The length of an object in bytes.
    pub async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.retried(Operation::Size, key, Duration::ZERO, || self.inner.backend.size(key)).await
    }

    /// Objects whose key begins with `prefix`, which ends with `/` or is empty. Not retried, not a snapshot, never a
    /// source of truth. Ends with an error when nothing comes for the time limit of an attempt.
    pub fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed, StoreError>> {
        assert!(prefix.is_empty() || prefix.ends_with('/'), "listings are by directory");
        let inner = &*self.inner;
        let start = inner.runtime.clock.monotonic();
        let timeout_ms = inner.settings.attempt_timeout_ms;
        let ended = move |error: Option<&StoreError>| {
            inner.observer.request(Operation::List, inner.runtime.clock.monotonic().since(start), error);
        };
        let next = move |listing: Option<BoxStream<'a, Result<Listed, StoreError>>>| async move {
            let mut listing = listing?;
            let clock = &*inner.runtime.clock;
            let found = clock::timeout(clock, Duration::from_millis(timeout_ms), listing.next()).await;
            let timed_out = || Some(Err(StoreError::TimedOut { key: prefix.to_owned(), timeout_ms }));
            match found.unwrap_or_else(|_| timed_out()) {
                Some(Ok(listed)) => Some((Ok(listed), Some(listing))),
                Some(Err(error)) => {
                    ended(Some(&error));
                    Some((Err(error), None))
                }
                None => {
                    ended(None);
                    None
                }
            }
        };
        stream::unfold(Some(inner.backend.list(prefix)), next).boxed()
    }

    /// The names directly below `prefix` that have objects below them, sorted. Also no source of truth.
    pub async fn directories(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        assert!(prefix.is_empty() || prefix.ends_with('/'), "listings are by directory");
        self.retried(Operation::List, prefix, Duration::ZERO, || self.inner.backend.directories(prefix)).await
    }

    /// Removes an object; one that is absent is removed already.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.retried(Operation::Delete, key, Duration::ZERO, || self.inner.backend.delete(key)).await
    }

    /// Writes `content` if the object is in the `expected` state. `content` must be unique to this call, by a nonce: after
    /// any ambiguous answer the object is read, and found to hold it, or what was expected (then the same write is tried
    /// again), or another's (a conflict). The traps that this covers: a lost reply; 409, which S3 gives while another
    /// conditional write is under way; a create refused because its own first attempt had succeeded.
    pub async fn replace(&self, key: &str, content: Bytes, expected: Expected) -> Result<Version, ReplaceError> {
        let mut backoff = self.backoff();
        let mut may_have_happened = false;
        loop {
            let attempt = || self.inner.backend.replace(key, content.clone(), &expected);
            let error = match self.attempt(Operation::Replace, key, Duration::ZERO, attempt).await {
                Ok(version) if !version.0.is_empty() => {
                    self.inner.observer.transferred(Operation::Replace, content.len() as u64);
                    return Ok(version);
                }
                Ok(_) => StoreError::Contended { key: key.to_owned() },
                Err(error) => error,
            };
            match &error {
                StoreError::ConditionFailed { .. } | StoreError::Contended { .. } => {}
                error if error.is_transient() => may_have_happened = true,
                _ if may_have_happened => return Err(ReplaceError::Unknown { key: key.to_owned(), source: error }),
                _ => return Err(error.into()),
            }
            match self.get_if_present(key).await {
                Ok(Some((found, version))) if found == content => return Ok(version),
                Ok(found) => {
                    let state = found.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
                    if state != expected {
                        return Err(ReplaceError::Conflict { key: key.to_owned() });
                    }
                }
                Err(error) => return Err(ReplaceError::Unknown { key: key.to_owned(), source: error }),
            }
            let Some(pause) = backoff.next_pause() else {
                return Err(match error {
                    error if may_have_happened => ReplaceError::Unknown { key: key.to_owned(), source: error },
                    StoreError::ConditionFailed { key } | StoreError::Contended { key } => {
                        ReplaceError::Conflict { key }
                    }
                    error => error.into(),
                });
            };
            self.inner.runtime.clock.sleep(pause).await;
        }
    }

    fn backoff(&self) -> Backoff<'_> {
        Backoff::new(&self.inner.settings, self.inner.runtime.entropy.as_ref())
    }

    /// Repeats an idempotent request until it succeeds, fails for good, or was made often enough.
    async fn retried<T, F: Future<Output = Attempt<T>>>(
        &self,
        operation: Operation,
        key: &str,
        slowness: Duration,
        request: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut backoff = self.backoff();
        loop {
            let error = match self.attempt(operation, key, slowness, &request).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            let Some(pause) = backoff.next_pause() else { return Err(error) };
            tracing::debug!(operation = operation.name(), key, %error, ?pause, "store request failed, trying again");
            self.inner.runtime.clock.sleep(pause).await;
        }
    }

    /// One request, within the limits on time and concurrency.
    async fn attempt<T, F: Future<Output = Attempt<T>>>(
        &self,
        operation: Operation,
        key: &str,
        slowness: Duration,
        request: impl Fn() -> F,
    ) -> Attempt<T> {
        let inner = &self.inner;
        let slots = match operation {
            Operation::Get | Operation::GetRanges | Operation::Size => &inner.reads,
            Operation::Put | Operation::List | Operation::Delete | Operation::Replace => &inner.writes,
        };
        let _slot = slots.acquire().await.expect("the semaphore is never closed");
        let timeout = Duration::from_millis(inner.settings.attempt_timeout_ms) + slowness;
        let start = inner.runtime.clock.monotonic();
        let _in_flight = inner.observer.begin();
        let result = clock::timeout(&*inner.runtime.clock, timeout, request()).await.unwrap_or_else(|_| {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            Err(StoreError::TimedOut { key: key.to_owned(), timeout_ms })
        });
        let elapsed = inner.runtime.clock.monotonic().since(start);
        inner.observer.request(operation, elapsed, result.as_ref().err());
        result
    }
}

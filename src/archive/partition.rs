//! One partition's archive: the head as this process last saw it, and the driver of every change to it.
//!
//! Changes go one at a time: read the head (or remember it), let the pure machine make the next one, write it
//! conditionally, start over when someone else was faster. What holds after a crash is what the head in the bucket says.
//! Readers take the remembered head without waiting for a change that is under way. A head that nobody uses is forgotten
//! (see [`Heads`]) and read again when it is needed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use super::bucket::{Bucket, BucketError};
use super::heads::Heads;
use super::key::{PartitionKeys, SegmentName};
use super::manifest::{
    CommitFacts, Head, HeadIdentity, Hex128, ManifestError, Segment, SnapshotRef, SpillList, SpillRef, Tombstone,
    Tombstoned, TopicState, TransitionError, Upkeep, Writer,
};
use super::parquet::read_companion_tail;
use super::store::{Expected, ReplaceError, Store, StoreError, Version};
use crate::log::ProducerSnapshot;
use crate::runtime::Runtime;
use crate::types::{Offset, Timestamp};

/// Times that one change starts over because another writer was faster. A partition has one leader; more is a fault.
const CONFLICTS: usize = 8;

/// Why a head was not read or changed.
#[derive(Debug, Error)]
pub enum HeadError {
    /// The machine refuses the change.
    #[error(transparent)]
    Refused(#[from] TransitionError),
    /// There is no head: the partition was never taken over, or its topic is gone.
    #[error("the partition has no archive yet key={key}")]
    Absent {
        /// Where the head would be.
        key: String,
    },
    /// An object of the archive is not what it should be.
    #[error("archive object {key}: {source}")]
    Manifest {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The change may or may not have happened; the next call finds out.
    #[error("the outcome of a change of the archive is unknown key={key}: {source}")]
    Unknown {
        /// The head.
        key: String,
        /// The last failure.
        source: StoreError,
    },
    /// The archive goes on otherwise than this log: another process has archived in this one's place.
    #[error(
        "the archive holds other records than this log key={key} offset={offset}; another process archives in this one's \
         place, as from a copy of its data directory: stop the wrong one"
    )]
    Diverged {
        /// The head.
        key: String,
        /// The first offset where they may differ.
        offset: Offset,
    },
    /// The archive could not be compared with this log.
    #[error("the archive could not be compared with this log key={key}: {cause}")]
    NotCompared {
        /// The head.
        key: String,
        /// Why not.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log does not take the leader epoch in which the archive is to be written.
    #[error("the log can't be led in a new epoch key={key}: {cause}")]
    NotLed {
        /// The head.
        key: String,
        /// Why not.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Other writers kept being faster.
    #[error("the archive's head is contended key={key}")]
    Contended {
        /// The head.
        key: String,
    },
    /// The caller's log holds other records than the archive, or fewer. Nothing of it may be archived.
    #[error("log and archive contradict each other archived_to={next_offset} log_end={log_end} key={key}")]
    Contradicted {
        /// The head.
        key: String,
        /// Where the archive ends.
        next_offset: Offset,
        /// Where the log ends.
        log_end: Offset,
    },
    /// The topic's description could not be read, or forbids the change.
    #[error(transparent)]
    Topic(#[from] BucketError),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HeadError {
    /// Whether another process has taken over: stop writing, delete nothing.
    pub const fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Refused(TransitionError::Fenced { .. } | TransitionError::Rival { .. })
                | Self::Diverged { .. }
                | Self::Contradicted { .. }
        )
    }

    /// Whether the partition is led in a newer epoch of this life of the cluster.
    pub fn is_deposed(&self) -> bool {
        match self {
            Self::Refused(TransitionError::Fenced { ours, current }) => ours.incarnation == current.incarnation,
            _ => false,
        }
    }
}

/// Handle to one partition's archive; cheap to clone.
#[derive(Clone, Debug)]
pub struct PartitionArchive {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    runtime: Runtime,
    keys: PartitionKeys,
    identity: HeadIdentity,
    /// Held for the length of a change.
    stored: tokio::sync::Mutex<Option<Stored>>,
    /// What readers see.
    current: RwLock<Option<Arc<Head>>>,
    /// What is kept of the last head that was seen, also when the head itself is not.
    upkeep: Mutex<Option<Upkeep>>,
    heads: Heads,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.heads.drop_head(self.keys.partition());
    }
}

/// A head that was read from, or written to, the bucket.
#[derive(Clone, Debug)]
struct Stored {
    head: Arc<Head>,
    version: Version,
}

impl Inner {
    /// Forgets the head, unless a change of it is under way.
    fn forget(&self) -> bool {
        let Ok(mut stored) = self.stored.try_lock() else { return false };
        *stored = None;
        *self.current.write() = None;
        true
    }
}

impl PartitionArchive {
    /// The archive of one partition, whose head is remembered as `heads` allow. Nothing is read yet.
    pub fn new(bucket: Bucket, runtime: Runtime, identity: HeadIdentity, heads: Heads) -> Self {
        let keys = bucket.keys().topic(&identity.topic, identity.topic_id).partition(identity.partition.0);
        let (stored, current, upkeep) = (tokio::sync::Mutex::new(None), RwLock::new(None), Mutex::new(None));
        let inner = Inner { bucket, runtime, keys, identity, stored, current, upkeep, heads };
        Self { inner: Arc::new(inner) }
    }

    /// Which partition.
    pub fn identity(&self) -> &HeadIdentity {
        &self.inner.identity
    }

    /// Its keys.
    pub fn keys(&self) -> &PartitionKeys {
        &self.inner.keys
    }

    /// The store it is in.
    pub fn store(&self) -> &Store {
        self.inner.bucket.store()
    }

    /// The head as last read or written, if any is remembered. May be behind the bucket's.
    pub fn head(&self) -> Option<Arc<Head>> {
        let head = self.inner.current.read().clone();
        if head.is_some() {
            self.inner.heads.touch(self.keys().partition());
        }
        head
    }

    /// What the head that was last seen leaves to be done. May be behind the bucket's.
    pub fn upkeep(&self) -> Option<Upkeep> {
        *self.inner.upkeep.lock()
    }

    /// Reads the head from the bucket; `None` when there is none.
    pub async fn refresh(&self) -> Result<Option<Arc<Head>>, HeadError> {
        let mut stored = self.inner.stored.lock().await;
        *stored = self.load().await?;
        Ok(self.publish(stored.as_ref()))
    }

    /// Makes `writer` the one that may change the head, or makes the first head. Only a topic that the bucket describes as live
    /// gets a first head.
    pub async fn take_over(&self, writer: Writer) -> Result<Arc<Head>, HeadError> {
        if self.refresh().await?.is_none() {
            self.create(writer).await?;
        }
        self.change(|head, nonce| match head.writer == writer {
            true => Ok(None),
            false => head.take_over(writer, nonce).map(Some),
        })
        .await
    }

    /// Commits an uploaded segment, spilling older ones first when the head is full. A segment that is there already, by
    /// an earlier try whose answer was lost, counts as committed.
    pub async fn commit(&self, writer: Writer, segment: &Segment, facts: &CommitFacts) -> Result<Arc<Head>, HeadError> {
        // Anew when the head was changed between the list and the head that refers to it.
        for _ in 0..CONFLICTS {
            let head = match self.head() {
                Some(head) => Some(head),
                // Forgotten while the segment was uploaded.
                None => self.refresh().await?,
            };
            if !head.is_some_and(|head| head.needs_spill()) {
                break;
            }
            self.spill(writer).await?;
        }
        self.change(|head, nonce| {
            if head.segments.iter().any(|known| known.name == segment.name) {
                return Ok(None);
            }
            head.commit(writer, segment.clone(), facts, nonce).map(Some)
        })
        .await
    }

    /// Moves older segments to a list of their own.
    async fn spill(&self, writer: Writer) -> Result<(), HeadError> {
        let nonce = self.nonce();
        let Some(head) = self.refresh().await?.filter(|head| head.needs_spill()) else { return Ok(()) };
        let (_, reference, list) = head.spill(writer, nonce)?;
        let key = reference.key(&self.inner.keys);
        // Written before the head refers to it. The key holds the generation, so another writer's list of the same
        // generation has the same segments in it.
        self.store().put_immutable(&key, list.to_bytes()).await?;
        self.change(|current, nonce| match current.generation == head.generation {
            true => Ok(Some(current.spill(writer, nonce)?.0)),
            false => Ok(None),
        })
        .await
        .map(drop)
    }

    /// Moves the log start up to `offset`, and turns segments below it into tombstones whose time comes after `grace`.
    pub async fn advance_log_start(
        &self,
        writer: Writer,
        offset: Offset,
        grace: Duration,
    ) -> Result<Arc<Head>, HeadError> {
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let not_before = Timestamp(self.inner.runtime.clock.wall().0.saturating_add(grace_ms));
        let head = match self.head() {
            Some(head) => head,
            None => self.refresh().await?.ok_or_else(|| self.absent())?,
        };
        let straddled = match head.straddled_spill(offset) {
            Some(reference) => Some((*reference, self.read_spill(reference).await?)),
            None => None,
        };
        self.change(|head, nonce| {
            // The list only helps with the very reference that it was read for.
            let list = straddled.as_ref().filter(|(reference, _)| head.straddled_spill(offset) == Some(reference));
            let offset = offset.max(head.log_start_offset);
            head.advance_log_start(writer, offset, list.map(|(_, list)| list), not_before, nonce).map(Some)
        })
        .await
    }

    /// Forgets tombstones whose objects were deleted, all but the companion of `kept`, which held the snapshot of producers. If
    /// that has moved on meanwhile its tombstone stays.
    pub async fn drop_tombstones(
        &self,
        writer: Writer,
        deleted: &[Tombstone],
        kept: Option<SegmentName>,
    ) -> Result<Arc<Head>, HeadError> {
        let now = self.inner.runtime.clock.wall();
        self.change(|head, nonce| {
            let left = kept.filter(|&kept| head.producer_snapshot.is_none_or(|snapshot| snapshot.segment != kept));
            let is_left = |tombstone: &Tombstone| left.is_some_and(|left| tombstone.what == Tombstoned::Segment(left));
            let deleted: Vec<_> = deleted.iter().filter(|tombstone| !is_left(tombstone)).copied().collect();
            head.drop_tombstones(writer, &deleted, now, nonce).map(Some)
        })
        .await
    }

    /// Reads a spilled list.
    pub async fn read_spill(&self, reference: &SpillRef) -> Result<SpillList, HeadError> {
        let key = reference.key(&self.inner.keys);
        let (bytes, _) = self.store().get(&key).await?;
        SpillList::parse(&bytes, &self.inner.identity, reference).map_err(|source| HeadError::Manifest { key, source })
    }

    /// Reads the producers' state at the head's end; `None` when no producer is remembered there.
    pub async fn read_producers(&self, head: &Head) -> Result<Option<ProducerSnapshot>, HeadError> {
        let Some(SnapshotRef { segment, start, end }) = head.producer_snapshot else { return Ok(None) };
        let key = self.inner.keys.companion(&segment);
        let range = start..end;
        let frame = self.store().get_ranges(&key, std::slice::from_ref(&range)).await?.swap_remove(0);
        let content = read_companion_tail(frame).ok().and_then(|tail| tail.producer_snapshot);
        let snapshot = content.and_then(|content| ProducerSnapshot::decode(&content));
        match snapshot.filter(|snapshot| snapshot.offset == segment.next) {
            Some(snapshot) => Ok(Some(snapshot)),
            None => Err(HeadError::Manifest { key, source: ManifestError::Snapshot }),
        }
    }

    async fn create(&self, writer: Writer) -> Result<(), HeadError> {
        let identity = &self.inner.identity;
        match self.inner.bucket.topic(&identity.topic, identity.topic_id).await? {
            Some(description) if description.state == TopicState::Live => {}
            _ => return Err(BucketError::TopicDeleted { topic: identity.topic.clone() }.into()),
        }
        let head = Head::first(identity.clone(), writer, self.nonce());
        let key = self.inner.keys.head();
        match self.store().replace(&key, head.to_bytes(), Expected::Absent).await {
            Ok(_) | Err(ReplaceError::Conflict { .. }) => Ok(()),
            Err(ReplaceError::Unknown { key, source }) => Err(HeadError::Unknown { key, source }),
            Err(ReplaceError::Store(source)) => Err(source.into()),
        }
    }

    /// Changes the head; `make` returns `None` when there is nothing to change.
    async fn change(
        &self,
        make: impl Fn(&Head, Hex128) -> Result<Option<Head>, TransitionError>,
    ) -> Result<Arc<Head>, HeadError> {
        let key = self.inner.keys.head();
        let mut stored = self.inner.stored.lock().await;
        for _ in 0..CONFLICTS {
            if stored.is_none() {
                *stored = self.load().await?;
                self.publish(stored.as_ref());
            }
            let Stored { head, version } = stored.clone().ok_or_else(|| self.absent())?;
            let next = match make(&head, self.nonce()) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(head),
                Err(refusal) => {
                    // What is remembered may be behind the bucket: the next call reads again.
                    *stored = None;
                    return Err(refusal.into());
                }
            };
            assert!(next.check().is_ok(), "a transition broke the rules of the head");
            match self.store().replace(&key, next.to_bytes(), Expected::Version(version)).await {
                Ok(version) => {
                    *stored = Some(Stored { head: Arc::new(next), version });
                    self.publish(stored.as_ref());
                    return stored.as_ref().map(|stored| Arc::clone(&stored.head)).ok_or_else(|| self.absent());
                }
                Err(ReplaceError::Conflict { .. }) => *stored = None,
                Err(ReplaceError::Unknown { source, .. }) => {
                    *stored = None;
                    return Err(HeadError::Unknown { key, source });
                }
                Err(ReplaceError::Store(source)) => return Err(source.into()),
            }
        }
        Err(HeadError::Contended { key })
    }

    async fn load(&self) -> Result<Option<Stored>, HeadError> {
        let key = self.inner.keys.head();
        let Some((bytes, version)) = self.store().get_if_present(&key).await? else { return Ok(None) };
        let head = Head::parse(&bytes, &self.inner.identity).map_err(|source| HeadError::Manifest { key, source })?;
        Ok(Some(Stored { head: Arc::new(head), version }))
    }

    fn publish(&self, stored: Option<&Stored>) -> Option<Arc<Head>> {
        let head = stored.map(|stored| Arc::clone(&stored.head));
        self.inner.current.write().clone_from(&head);
        *self.inner.upkeep.lock() = head.as_deref().map(Head::upkeep);
        let (heads, partition) = (&self.inner.heads, self.keys().partition());
        match &head {
            Some(head) => {
                let inner = Arc::downgrade(&self.inner);
                let forget = move || inner.upgrade().is_none_or(|inner| inner.forget());
                heads.note(partition, head.memory_bytes(), Box::new(forget));
            }
            None => heads.drop_head(partition),
        }
        head
    }

    fn absent(&self) -> HeadError {
        HeadError::Absent { key: self.inner.keys.head() }
    }

    fn nonce(&self) -> Hex128 {
        Hex128::from_entropy(self.inner.runtime.entropy.identity())
    }
}

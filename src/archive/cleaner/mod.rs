//! Makes the archive smaller: retention, tombstones, orphans, and deleted topics.
//!
//! Order is what keeps this safe. The log start moves up in the head before anything is deleted; objects are deleted only
//! after their tombstone's grace, and the tombstone goes last, so that a crash repeats work and loses none. An object that
//! no head lists is deleted only if its name carries a fence below the head's, as that writer can never commit again, and only
//! where the head has its offsets: beyond the head's end it may be all that there is, should the head have been lost. No
//! clock and no listing decides whether deleting is safe; a clock that jumps only hastens or delays, and retention by time
//! moves a bounded way per pass.

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{StreamExt, TryStreamExt};
use thiserror::Error;

use super::bucket::{Bucket, BucketError};
use super::key::{SegmentName, TopicKeys, parse_topic};
use super::manifest::{Head, Retention, Segment, Tombstone, Tombstoned, TopicDescription, TopicState, Writer};
use super::partition::{HeadError, PartitionArchive};
use super::planner::EXPIRED_PER_PASS;
use super::store::{Store, StoreError};
use crate::types::{Offset, Timestamp, TopicId};

/// Tombstones whose objects are deleted in one pass over a partition; bounds the requests of a pass.
const TOMBSTONES_PER_PASS: usize = 64;
/// Objects that are taken from one listing before they are deleted; bounds memory, and the work of a sweep.
const LISTED_PER_PASS: usize = 1000;
/// Deletions of one pass that are under way at once.
const CONCURRENT_DELETES: usize = 4;

/// Why cleaning stopped.
#[derive(Debug, Error)]
pub enum CleanError {
    /// The head could not be read or changed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The topic's description could not be read or changed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The log start that retention calls for, going by archived segments, oldest first. `unarchived_bytes` are those of the
/// log that only the local disk has; they count towards the size and are never expired here.
pub fn retention_start<'a>(
    segments: impl IntoIterator<Item = &'a Segment>,
    total_bytes: u64,
    keep: Retention,
    now: Timestamp,
    log_start_offset: Offset,
) -> Offset {
    let mut start = log_start_offset;
    let mut bytes = total_bytes;
    let live = segments.into_iter().filter(|segment| segment.next() > log_start_offset);
    for (segment, number) in live.zip(0..) {
        let oldest = segment.into();
        let expires =
            keep.is_exceeded(&oldest, bytes) || (number < EXPIRED_PER_PASS && keep.passes(&oldest, bytes, now));
        if !expires {
            break;
        }
        bytes = bytes.saturating_sub(segment.log_bytes);
        start = segment.next();
    }
    start
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Objects deleted.
    pub objects: u64,
}

/// The log start that retention calls for in one pass, not below the head's. Reads the list of the oldest segments where the
/// head does not hold them itself.
pub async fn retained_from(
    partition: &PartitionArchive,
    head: &Head,
    keep: Retention,
    unarchived_bytes: u64,
    now: Timestamp,
) -> Result<Offset, CleanError> {
    let total = head.log_bytes().saturating_add(unarchived_bytes);
    Ok(match head.spills.iter().find(|spill| spill.next > head.log_start_offset) {
        // The oldest segments are in a list: one list a pass.
        Some(spill) => {
            let list = partition.read_spill(spill).await?;
            let expired = list.segments.iter().filter(|segment| segment.next() <= head.log_start_offset);
            let total = expired.fold(total, |total, segment| total.saturating_sub(segment.log_bytes));
            retention_start(&list.segments, total, keep, now, head.log_start_offset)
        }
        None => retention_start(&head.segments, total, keep, now, head.log_start_offset),
    })
}

/// Deletes the objects of tombstones whose time has come, then the tombstones. Reads the head first, so that only what a
/// committed head has tombstoned is ever deleted, also by a writer that does not know yet that it is deposed.
pub async fn sweep_tombstones(
    partition: &PartitionArchive,
    writer: Writer,
    now: Timestamp,
) -> Result<Cleaned, CleanError> {
    let Some(head) = partition.refresh().await? else { return Ok(Cleaned::default()) };
    let due: Vec<Tombstone> = head.due_tombstones(now).take(TOMBSTONES_PER_PASS).copied().collect();
    if due.is_empty() {
        return Ok(Cleaned::default());
    }
    let kept = head.producer_snapshot.map(|snapshot| snapshot.segment);
    let kept_key = kept.map(|segment| partition.keys().companion(&segment));
    let may_go = |key: &String| kept_key.as_ref() != Some(key);
    let mut keys = Vec::new();
    for tombstone in &due {
        match tombstone.what {
            Tombstoned::Segment(name) => keys.extend(segment_keys(partition, &name)),
            Tombstoned::Spill(spill) => {
                let list = match partition.read_spill(&spill).await {
                    Ok(list) => list.segments,
                    // An earlier pass got as far as the list itself, and so was done with its segments.
                    Err(HeadError::Store(StoreError::NotFound { .. })) => Vec::new(),
                    Err(error) => return Err(error.into()),
                };
                let live = list.iter().filter(|segment| segment.next() > spill.live_from);
                let segments: Vec<String> = live.flat_map(|segment| segment_keys(partition, &segment.name)).collect();
                // The list goes last, or a crash would leave its segments without a name.
                delete_all(partition.store(), segments.into_iter().filter(may_go).collect()).await?;
                keys.push(spill.key(partition.keys()));
            }
        }
    }
    let objects = delete_all(partition.store(), keys.into_iter().filter(may_go).collect()).await?;
    partition.drop_tombstones(writer, &due, kept).await?;
    Ok(Cleaned { objects })
}

/// Deletes log objects and spilled lists that no head refers to and no writer can commit any more; a bounded number of
/// them, the rest is found by the next pass. Objects beyond the head's end stay until it has passed them, and all lists with
/// them: a head that was lost, or put back to an earlier state, knows nothing of what was committed.
pub async fn sweep_orphans(partition: &PartitionArchive) -> Result<Cleaned, CleanError> {
    let Some(head) = partition.refresh().await? else { return Ok(Cleaned::default()) };
    let known = known_segments(partition, &head).await?;
    let keys = partition.keys();
    let is_beyond = AtomicBool::new(false);
    let is_orphan = |key: &str| {
        let unknown = keys.parse_segment(key).filter(|name| name.fence < head.writer.fence && !known.contains(name));
        let beyond = unknown.is_some_and(|name| name.next > head.next_offset);
        is_beyond.fetch_or(beyond, Ordering::Relaxed);
        unknown.is_some() && !beyond
    };
    let mut orphans = list_some(partition.store(), keys.log_directory(), is_orphan).await?;
    let is_whole = orphans.len() < LISTED_PER_PASS;
    if !is_whole || is_beyond.into_inner() {
        let objects = delete_all(partition.store(), orphans).await?;
        return Ok(Cleaned { objects });
    }
    let spills = known_spills(partition, &head);
    // A list is written for one generation of the head; once that has passed without it, it is never referred to.
    let is_unused = |key: &str| {
        keys.parse_spill(key).is_some_and(|generation| generation <= head.generation && !spills.contains(key))
    };
    orphans.extend(list_some(partition.store(), &keys.spill_directory(), is_unused).await?);
    let objects = delete_all(partition.store(), orphans).await?;
    Ok(Cleaned { objects })
}

/// Deletes what reached the bucket of topics that were deleted already: objects of an upload that was under way when the
/// topic went. `lives` says which topics the cluster has; the bucket's own description decides all the same.
pub async fn sweep_deleted_topics(bucket: &Bucket, lives: impl Fn(TopicId) -> bool) -> Result<Cleaned, CleanError> {
    let mut cleaned = Cleaned::default();
    let directory = bucket.keys().logs();
    for name in bucket.store().directories(&directory).await? {
        let key = format!("{directory}{name}/");
        let Some((name, topic_id)) = parse_topic(&key).filter(|&(_, topic_id)| !lives(topic_id)) else { continue };
        let description = bucket.topic(name, topic_id).await?;
        if let Some(topic) = description.filter(|topic| topic.state == TopicState::Purged) {
            cleaned.objects += delete_objects(bucket, &topic).await?;
        }
    }
    Ok(cleaned)
}

/// Deletes everything of a deleted topic but its description, which says that it is gone. Safe to repeat.
pub async fn purge_topic(bucket: &Bucket, topic: &TopicDescription) -> Result<Cleaned, CleanError> {
    let deleting = TopicDescription { state: TopicState::Deleting, ..topic.clone() };
    bucket.describe_topic(&deleting).await?;
    let objects = delete_objects(bucket, topic).await?;
    bucket.describe_topic(&TopicDescription { state: TopicState::Purged, ..deleting }).await?;
    Ok(Cleaned { objects })
}

/// Deletes all of a topic's objects but its description.
async fn delete_objects(bucket: &Bucket, topic: &TopicDescription) -> Result<u64, CleanError> {
    let keys: TopicKeys = bucket.keys().topic(&topic.topic, topic.topic_id);
    let description = keys.description();
    let mut objects = 0;
    // Heads first: without them nothing can be committed, and what is uploaded meanwhile is swept later.
    for directory in [keys.metadata_directory(), keys.log_directory()] {
        loop {
            let found = list_some(bucket.store(), directory, |key| key != description).await?;
            let is_last = found.len() < LISTED_PER_PASS;
            objects += delete_all(bucket.store(), found).await?;
            if is_last {
                break;
            }
        }
    }
    Ok(objects)
}

/// Keys below a directory that are wanted, a bounded number of them.
async fn list_some(store: &Store, directory: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, StoreError> {
    let keys = store.list(directory).map_ok(|object| object.key);
    keys.try_filter(|key| std::future::ready(wanted(key))).take(LISTED_PER_PASS).try_collect().await
}

/// Every segment that the head refers to, by itself or by its lists.
async fn known_segments(partition: &PartitionArchive, head: &Head) -> Result<BTreeSet<SegmentName>, CleanError> {
    let mut known = head.known_segments();
    let tombstoned = head.tombstones.iter().filter_map(|tombstone| match tombstone.what {
        Tombstoned::Spill(spill) => Some(spill),
        Tombstoned::Segment(_) => None,
    });
    for spill in tombstoned {
        match partition.read_spill(&spill).await {
            Ok(list) => known.extend(list.segments.iter().map(|segment| segment.name)),
            Err(HeadError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for spill in &head.spills {
        known.extend(partition.read_spill(spill).await?.segments.iter().map(|segment| segment.name));
    }
    Ok(known)
}

fn known_spills(partition: &PartitionArchive, head: &Head) -> BTreeSet<String> {
    let tombstoned = head.tombstones.iter().filter_map(|tombstone| match &tombstone.what {
        Tombstoned::Spill(spill) => Some(spill),
        Tombstoned::Segment(_) => None,
    });
    head.spills.iter().chain(tombstoned).map(|spill| spill.key(partition.keys())).collect()
}

fn segment_keys(partition: &PartitionArchive, name: &SegmentName) -> [String; 2] {
    [partition.keys().parquet(name), partition.keys().companion(name)]
}

async fn delete_all(store: &Store, keys: Vec<String>) -> Result<u64, StoreError> {
    let count = keys.len() as u64;
    let deletions = futures_util::stream::iter(keys.into_iter().map(|key| async move { store.delete(&key).await }));
    deletions.buffer_unordered(CONCURRENT_DELETES).try_collect::<()>().await?;
    Ok(count)
}

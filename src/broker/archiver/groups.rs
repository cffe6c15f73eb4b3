//! Snapshots of committed offsets in the bucket, so that a restored cluster's consumers go on where they were.
//!
//! A group that no coordinator answers for, because its log is damaged or in a directory that is not here, is kept as the
//! bucket's last snapshot has it. Nothing else knows where it was, and all others go on.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::lost_offsets::{Reason, with_groups};
use super::{Archiver, Owner};
use crate::archive::bucket::BucketError;
use crate::archive::manifest::{ManifestError, Registered, compress_group_snapshot};
use crate::broker::Broker;
use crate::group::records::LogRecord;
use crate::group::{ReadGroups, partition_of, snapshot};
use crate::runtime::clock::Interval;
use crate::types::Monotonic;

/// Age that the newest snapshot may reach; what consumers committed later is read again after a restore.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before groups that can't be read yet are looked at again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long groups that can't be read are waited for: their coordinators load at a start, and after a failed append.
const LOADING_PATIENCE: Duration = Duration::from_secs(10);
/// What is complained of when groups can't be read; no topic has this name.
const COMPLAINT: &str = "groups that can't be read";

/// A snapshot that is not in the bucket.
#[derive(Debug, Error)]
enum PutError {
    #[error(transparent)]
    Snapshot(#[from] ManifestError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// What this process has stored.
struct Stored {
    writer: Registered,
    snapshot: Vec<u8>,
    is_fenced: bool,
}

impl Archiver {
    /// Keeps a snapshot in the bucket, and gives it back.
    async fn put_group_snapshot(&self, writer: Registered, snapshot: Vec<u8>) -> Result<Vec<u8>, PutError> {
        let compress = move || (compress_group_snapshot(&snapshot), snapshot);
        let (compressed, snapshot) = self.workers.run(compress).await;
        self.bucket.put_group_snapshot(writer, compressed?).await?;
        Ok(snapshot)
    }

    /// Stores a snapshot, unless it is the one that was stored last.
    async fn store_group_snapshot(&self, stored: &mut Stored, snapshot: Vec<u8>) {
        if snapshot == stored.snapshot {
            return;
        }
        match self.put_group_snapshot(stored.writer, snapshot).await {
            Ok(snapshot) => stored.snapshot = snapshot,
            Err(error @ PutError::Bucket(BucketError::Fenced { .. })) => {
                self.metrics.archive.fenced_commits.inc();
                if !std::mem::replace(&mut stored.is_fenced, true) {
                    tracing::error!(%error, "committed offsets are not kept in the bucket");
                }
            }
            Err(error @ PutError::Snapshot(_)) => {
                tracing::error!(%error, "committed offsets are not kept in the bucket");
            }
            Err(error) => tracing::warn!(%error, "the bucket's snapshot of groups is behind"),
        }
    }

    /// What the bucket's snapshot has of the groups that could not be read.
    async fn kept_groups(&self, read: &ReadGroups) -> Result<Vec<LogRecord>, Reason> {
        let Some(snapshot) = self.bucket.group_snapshot().await? else { return Ok(Vec::new()) };
        let records = with_groups(&snapshot)?.into_iter();
        let unread = records.filter(|(group, _)| read.unread.contains(&partition_of(group, read.partitions)));
        Ok(unread.map(|(_, record)| record).collect())
    }

    /// Says once in a while that groups can't be read.
    fn complain_of_unread(&self, read: &ReadGroups, now: Monotonic) {
        if self.complaints.lock().is_due(COMPLAINT, now) {
            tracing::warn!(
                partitions = ?read.unread,
                "no coordinator answers for these partitions of __consumer_offsets: the bucket's snapshot keeps their groups as they were"
            );
        }
    }
}

impl Broker {
    /// Keeps a snapshot of the groups in the bucket for as long as the broker runs; a new one only when something changed.
    pub(in crate::broker) async fn snapshot_groups_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let clock = &self.runtime().clock;
        let mut interval = Interval::new(clock, SNAPSHOT_INTERVAL);
        let Owner { incarnation, process, node_id, .. } = archiver.owner;
        let writer = Registered { incarnation, broker_epoch: self.epoch(), broker: node_id, process };
        let mut stored = Stored { writer, snapshot: Vec::new(), is_fenced: false };
        let mut unread_since = None;
        loop {
            interval.tick().await;
            let Some(mut read) = self.read_groups().await else {
                interval.reset_after(RETRY_INTERVAL);
                continue;
            };
            if read.unread.is_empty() {
                unread_since = None;
            } else {
                let now = clock.monotonic();
                if now.since(*unread_since.get_or_insert(now)) < LOADING_PATIENCE {
                    interval.reset_after(RETRY_INTERVAL);
                    continue;
                }
                archiver.complain_of_unread(&read, now);
            }
            let unread = i64::try_from(read.unread.len()).unwrap_or(i64::MAX);
            archiver.metrics.group.unsaved_partitions.set(unread);
            if unread > 0 {
                match archiver.kept_groups(&read).await {
                    Ok(kept) => read.records.extend(kept),
                    Err(error) => {
                        tracing::warn!(%error, "the bucket's snapshot of groups is behind, and can't be read");
                        continue;
                    }
                }
            }
            archiver.store_group_snapshot(&mut stored, snapshot::encode(&read.records)).await;
        }
    }
}

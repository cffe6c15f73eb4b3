//! Snapshots of committed offsets in the bucket, so that a restored cluster's consumers go on where they were.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{Archiver, Owner};
use crate::archive::bucket::BucketError;
use crate::archive::manifest::{ManifestError, Registered, compress_group_snapshot};
use crate::broker::Broker;
use crate::runtime::clock::Interval;

/// Age that the newest snapshot may reach; what consumers committed later is read again after a restore.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before groups that can't be read yet are looked at again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A snapshot that is not in the bucket.
#[derive(Debug, Error)]
enum PutError {
    #[error(transparent)]
    Snapshot(#[from] ManifestError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl Archiver {
    /// Keeps a snapshot in the bucket, and gives it back.
    async fn put_group_snapshot(&self, writer: Registered, snapshot: Vec<u8>) -> Result<Vec<u8>, PutError> {
        let compress = move || (compress_group_snapshot(&snapshot), snapshot);
        let (compressed, snapshot) = self.workers.run(compress).await;
        self.bucket.put_group_snapshot(writer, compressed?).await?;
        Ok(snapshot)
    }
}

impl Broker {
    /// Keeps a snapshot of the groups in the bucket for as long as the broker runs; a new one only when something changed, and
    /// none while groups are missing from it.
    pub(in crate::broker) async fn snapshot_groups_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let mut interval = Interval::new(&self.runtime().clock, SNAPSHOT_INTERVAL);
        let Owner { incarnation, process, node_id, .. } = archiver.owner;
        let writer = Registered { incarnation, broker_epoch: self.epoch(), broker: node_id, process };
        let mut stored = Vec::new();
        let mut is_fenced = false;
        loop {
            interval.tick().await;
            if !self.coordinates_all() {
                interval.reset_after(RETRY_INTERVAL);
                continue;
            }
            match self.groups().snapshot().await {
                Ok(snapshot) if snapshot == stored => {}
                // Some of them may have ended meanwhile, which left their groups out.
                Ok(_) if !self.coordinates_all() => {}
                Ok(snapshot) => match archiver.put_group_snapshot(writer, snapshot).await {
                    Ok(snapshot) => stored = snapshot,
                    Err(error @ PutError::Bucket(BucketError::Fenced { .. })) => {
                        archiver.metrics.archive.fenced_commits.inc();
                        if !std::mem::replace(&mut is_fenced, true) {
                            tracing::error!(%error, "committed offsets are not kept in the bucket");
                        }
                    }
                    Err(error @ PutError::Snapshot(_)) => {
                        tracing::error!(%error, "committed offsets are not kept in the bucket");
                    }
                    Err(error) => tracing::warn!(%error, "the bucket's snapshot of groups is behind"),
                },
                // A coordinator is loading; the next look finds it done.
                Err(error) => {
                    tracing::debug!(%error, "groups can't be read yet");
                    interval.reset_after(RETRY_INTERVAL);
                }
            }
        }
    }
}

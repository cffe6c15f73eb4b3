//! Snapshots of committed offsets in the bucket, so that a restored cluster's consumers go on where they were.

use std::sync::Arc;
use std::time::Duration;

use super::Archiver;
use crate::archive::bucket::BucketError;
use crate::broker::Broker;
use crate::runtime::clock::Interval;

/// Age that the newest snapshot may reach; what consumers committed later is read again after a restore.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(60);

impl Broker {
    /// Keeps a snapshot of the groups in the bucket for as long as the broker runs; a new one only when something changed.
    pub(in crate::broker) async fn snapshot_groups_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let mut interval = Interval::new(&self.runtime().clock, SNAPSHOT_INTERVAL);
        let mut stored = Vec::new();
        loop {
            interval.tick().await;
            match self.groups().snapshot().await {
                Ok(snapshot) if snapshot == stored => {}
                Ok(snapshot) => match archiver.store_groups(&snapshot).await {
                    Ok(()) => stored = snapshot,
                    Err(error) => tracing::warn!(%error, "the bucket's snapshot of groups is behind"),
                },
                // A coordinator is loading; the next look finds it done.
                Err(error) => tracing::debug!(%error, "groups can't be read yet"),
            }
        }
    }
}

impl Archiver {
    /// Stores a snapshot under a generation above every one that is there.
    async fn store_groups(&self, snapshot: &[u8]) -> Result<(), BucketError> {
        let latest = self.bucket.latest_group_snapshot().await?.map_or(0, |(generation, _)| generation);
        self.bucket.put_group_snapshot(latest + 1, snapshot).await
    }
}

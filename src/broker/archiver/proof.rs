//! Proof that the store keeps its promises and that the bucket is this cluster's, before anything is written to it.
//!
//! A new data directory does not start without it. One that was used before had its bucket proved then: when the store does
//! not answer now, or denies access, the broker serves all the same, since a bucket that is gone must not keep a crashed broker
//! from coming back. Nothing is archived and nothing of the bucket is changed until the proof succeeds; local data waits.
//!
//! Each broker of a cluster proves it for itself. They do not meet: what is probed has random names, and only the first broker finds no
//! stamp; the others find its stamp when they join, and a bucket without it is never theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{ArchiveStartError, Archiver, Owner};
use crate::archive::bucket::{Bucket, BucketError, LocalData};
use crate::archive::store::{ProbeError, StoreError, jittered};
use crate::runtime::clock;

/// How long a start waits for a store that does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long the proof may take with one that does: it is some twenty requests, one after another.
const PROOF_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause before the store is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

impl ArchiveStartError {
    /// What the store said, if it failed.
    const fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Probe(ProbeError::Failed { source, .. }) | Self::Bucket(BucketError::Store(source)) => Some(source),
            Self::Silent | Self::Probe(_) | Self::Bucket(_) | Self::Location(_) | Self::Directory(_) => None,
        }
    }

    /// Whether the store only did not answer, as it may later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Silent) || self.store_error().is_some_and(StoreError::is_transient)
    }

    /// Whether the store says nothing of itself.
    fn is_outage(&self) -> bool {
        matches!(self, Self::Silent) || self.store_error().is_some_and(StoreError::is_outage)
    }
}

/// Something that happens once. Those who wait go on in the order in which they came, which keeps simulations the same.
#[derive(Debug)]
pub(super) struct Latch {
    is_set: AtomicBool,
    waiting: Notify,
}

impl Latch {
    pub(super) fn new(is_set: bool) -> Self {
        Self { is_set: AtomicBool::new(is_set), waiting: Notify::new() }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    async fn wait(&self) {
        let waiting = self.waiting.notified();
        // Looked at after the place in the row was taken, so that no call is missed.
        if !self.is_set() {
            waiting.await;
        }
    }
}

async fn prove(bucket: &Bucket, owner: Owner) -> Result<(), ArchiveStartError> {
    let proof = async {
        bucket.store().probe().await?;
        bucket.claim(owner.local, owner.incarnation).await?;
        Ok(())
    };
    let clock = bucket.store().clock();
    let stamp = bucket.keys().cluster();
    match clock::timeout(&**clock, PATIENCE, bucket.store().get_if_present(&stamp)).await {
        Err(_) => return Err(ArchiveStartError::Silent),
        Ok(Err(source)) if source.is_outage() => {
            return Err(ProbeError::Failed { during: "looking for the cluster's stamp", source }.into());
        }
        Ok(_) => {}
    }
    clock::timeout(&**clock, PROOF_TIMEOUT, proof).await.unwrap_or(Err(ArchiveStartError::Silent))
}

/// Proves the bucket at the start; false when that has to be done later.
pub(super) async fn prove_at_start(bucket: &Bucket, owner: Owner) -> Result<bool, ArchiveStartError> {
    match prove(bucket, owner).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_outage() && owner.local != LocalData::Unused => {
            tracing::error!(%error, "starting without the object store: nothing is archived until it answers");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl Archiver {
    /// Whether the bucket may be written to.
    pub(super) fn is_proved(&self) -> bool {
        self.proved.is_set()
    }

    /// Waits until the bucket may be written to.
    pub(super) async fn proved(&self) {
        self.proved.wait().await;
    }

    /// Proves a bucket that did not answer at the start.
    pub(in crate::broker) async fn prove_later(self: Arc<Self>) {
        while !self.is_proved() {
            self.runtime.clock.sleep(jittered(RETRY_INTERVAL, &*self.runtime.entropy)).await;
            match prove(&self.bucket, self.owner).await {
                Ok(()) => {
                    tracing::info!("the object store answers");
                    self.proved.set();
                }
                Err(error) if error.is_transient() => tracing::warn!(%error, "the object store does not answer yet"),
                Err(error) => tracing::error!(%error, "nothing is archived until the object store is put right"),
            }
        }
    }
}

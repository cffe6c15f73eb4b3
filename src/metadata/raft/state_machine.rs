//! openraft's state machine: the image, published to the broker after every applied entry.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use openraft::{Entry, EntryPayload, RaftSnapshotBuilder, StorageIOError};

use super::super::command::Command;
use super::super::image::Image;
use super::super::{machine, snapshot};
use super::error::{StoreError, for_openraft};
use super::lane::StoreLane;
use super::snapshot_files::{SnapshotFiles, snapshot_meta};
use super::{CommandGroup, GroupOutcome, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use crate::runtime::clock::Clock;
use crate::runtime::disk::is_shortage;
use crate::runtime::watch;

/// How long a snapshot waits when the disk is full, or no file can be opened.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// The image and where it stands in the log.
pub(super) struct StateMachine {
    image: Image,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    images: watch::Sender<Arc<Image>>,
    /// Weight of the commands that a restart would apply again.
    replay_weight: watch::Sender<usize>,
    snapshots: Arc<StoreLane<SnapshotFiles>>,
    clock: Arc<dyn Clock>,
}

/// An image to be written as a snapshot, and what it covers.
pub(super) struct SnapshotBuilder {
    image: Image,
    meta: SnapshotMeta,
    snapshots: Arc<StoreLane<SnapshotFiles>>,
    clock: Arc<dyn Clock>,
}

impl StateMachine {
    /// Starts from the newest snapshot, or from nothing.
    ///
    /// # Errors
    /// [`StoreError`] if there is a snapshot that can't be read.
    pub(super) async fn open(
        snapshots: Arc<StoreLane<SnapshotFiles>>,
        images: watch::Sender<Arc<Image>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let newest = snapshots.run(|files| files.read()).await??;
        let (meta, image) = match newest {
            Some((meta, bytes)) => (meta, snapshot::decode(&bytes)?),
            None => (SnapshotMeta::default(), Image::default()),
        };
        images.send_replace(Arc::new(image.clone()));
        let (last_applied, membership) = (meta.last_log_id, meta.last_membership);
        let replay_weight = watch::Sender::new(0);
        Ok(Self { image, last_applied, membership, images, replay_weight, snapshots, clock })
    }

    /// Follows the weight of the commands that are not yet in a snapshot.
    pub(super) fn replay_weight(&self) -> watch::Receiver<usize> {
        self.replay_weight.subscribe()
    }

    fn apply_entry(&mut self, entry: Entry<TypeConfig>) -> GroupOutcome {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => GroupOutcome(Vec::new()),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                GroupOutcome(Vec::new())
            }
            EntryPayload::Normal(CommandGroup(commands)) => {
                let outcomes = commands.iter().map(|command| machine::apply(&mut self.image, command)).collect();
                machine::advance(&mut self.image, entry.log_id.index);
                self.replay_weight.send_modify(|weight| *weight += commands.iter().map(Command::weight).sum::<usize>());
                GroupOutcome(outcomes)
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<GroupOutcome>, StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let outcomes = entries.into_iter().map(|entry| self.apply_entry(entry)).collect();
        // Published before openraft hears of it: whoever awaited a command finds it in the image.
        self.images.send_replace(Arc::new(self.image.clone()));
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.replay_weight.send_replace(0);
        SnapshotBuilder {
            image: self.image.clone(),
            meta: snapshot_meta(self.last_applied, self.membership.clone()),
            snapshots: Arc::clone(&self.snapshots),
            clock: Arc::clone(&self.clock),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let (bytes, written_meta) = (snapshot.into_inner(), meta.clone());
        let installed = self.snapshots.run(move |files| {
            let image = snapshot::decode(&bytes)?;
            files.write(&written_meta, &bytes)?;
            Ok(image)
        });
        self.image = for_openraft(installed.await)
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), error))?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.images.send_replace(Arc::new(self.image.clone()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let newest = for_openraft(self.snapshots.run(|files| files.read()).await)
            .map_err(|error| StorageIOError::read_snapshot(None, error))?;
        Ok(newest.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        loop {
            let (image, meta) = (self.image.clone(), self.meta.clone());
            let built = self.snapshots.run(move |files| {
                let bytes = snapshot::encode(&image);
                files.write(&meta, &bytes)?;
                Ok(bytes)
            });
            match built.await {
                // The log still has everything.
                Ok(Err(StoreError::Disk { source, path })) if is_shortage(&source) => {
                    tracing::warn!(error = %source, path = %path.display(), "metadata snapshot waits");
                    self.clock.sleep(SNAPSHOT_RETRY).await;
                }
                built => {
                    let bytes = for_openraft(built)
                        .map_err(|error| StorageIOError::write_snapshot(Some(self.meta.signature()), error))?;
                    return Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(bytes)) });
                }
            }
        }
    }
}

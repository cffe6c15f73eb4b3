//! The bucket as a whole: whose it is, which topics it knows, and the small snapshots that a restore starts from.
//!
//! Everything here is a small object that is changed by conditional writes or written once. After a crash each is there as
//! it was before or after.

use bytes::Bytes;
use futures_util::stream::TryStreamExt;
use thiserror::Error;

use super::key::{BUCKET_ROOT, ClusterKeys};
use super::manifest::{
    ClusterStamp, Hex128, MANIFEST_FORMAT, ManifestError, ProducerIdMark, TopicDescription, TopicState,
    compress_manifest, decompress_manifest,
};
use super::store::{Expected, ReplaceError, Store, StoreError};
use crate::runtime::Runtime;
use crate::types::{ClusterId, Incarnation, ProducerId, TopicId};

/// Conflicts that one change rides out; each means that someone else changed the object meanwhile.
const CONFLICTS: usize = 8;
/// Snapshots of group offsets that are kept; older ones go when a new one is written.
const GROUP_SNAPSHOTS_KEPT: usize = 3;

/// Why the bucket cannot be used, or was not changed.
#[derive(Debug, Error)]
pub enum BucketError {
    /// The bucket holds another cluster.
    #[error("the object store holds another cluster found={found} ours={ours}; give this cluster a prefix of its own")]
    ForeignCluster {
        /// The cluster in the bucket.
        found: ClusterId,
        /// The cluster of the data directory.
        ours: ClusterId,
    },
    /// The data directory is new, but the bucket holds a cluster.
    #[error(
        "the object store holds a cluster but the data directory is empty cluster={found}; bring its data directory back, or give this cluster another prefix"
    )]
    NeedsRestore {
        /// The cluster in the bucket.
        found: ClusterId,
    },
    /// The cluster was restored elsewhere since this data directory last ran.
    #[error("the cluster was restored elsewhere ours={ours} found={found}; this data directory is of its former life")]
    Superseded {
        /// The life that the data directory belongs to.
        ours: Incarnation,
        /// The life that the bucket is in.
        found: Incarnation,
    },
    /// An object of the bucket is not what it should be.
    #[error("object {key} of the archive: {source}")]
    Manifest {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Others kept changing the object.
    #[error("object of the archive is contended key={key}")]
    Contended {
        /// The object.
        key: String,
    },
    /// The topic is being deleted, or gone.
    #[error("topic is deleted in the archive topic={topic}")]
    TopicDeleted {
        /// Its name.
        topic: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bucket of one cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Store,
    keys: ClusterKeys,
    runtime: Runtime,
}

impl Bucket {
    /// The bucket of `cluster_id` in `store`. Nothing is read yet.
    pub const fn new(store: Store, runtime: Runtime, cluster_id: ClusterId) -> Self {
        Self { store, keys: ClusterKeys::new(cluster_id), runtime }
    }

    /// The store.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The keys.
    pub const fn keys(&self) -> &ClusterKeys {
        &self.keys
    }

    /// The clusters that a store holds.
    pub async fn clusters(store: &Store) -> Result<Vec<ClusterId>, BucketError> {
        let names = store.directories(BUCKET_ROOT).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Makes sure that the bucket is this cluster's and in the life that the data directory knows, or stamps an unused one.
    /// `is_new` tells that the data directory has never been used, as far as it knows. Returns the stamp in force.
    pub async fn claim(&self, is_new: bool, incarnation: Incarnation) -> Result<ClusterStamp, BucketError> {
        let ours = self.keys.cluster_id();
        let key = self.keys.cluster();
        for _ in 0..CONFLICTS {
            if let Some((bytes, _)) = self.store.get_if_present(&key).await? {
                let stamp =
                    ClusterStamp::parse(&bytes).map_err(|source| BucketError::Manifest { key: key.clone(), source })?;
                return match stamp.incarnation == incarnation {
                    true => Ok(stamp),
                    false => Err(BucketError::Superseded { ours: incarnation, found: stamp.incarnation }),
                };
            }
            if let Some(&found) = Self::clusters(&self.store).await?.iter().find(|&&found| found != ours) {
                return Err(match is_new {
                    true => BucketError::NeedsRestore { found },
                    false => BucketError::ForeignCluster { found, ours },
                });
            }
            let mut stamp = ClusterStamp::first(ours, self.runtime.clock.wall(), self.nonce());
            stamp.incarnation = incarnation;
            match self.store.replace(&key, stamp.to_bytes(), Expected::Absent).await {
                Ok(_) => return Ok(stamp),
                Err(ReplaceError::Conflict { .. }) => {}
                Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => return Err(source.into()),
            }
        }
        Err(BucketError::Contended { key })
    }

    /// Reads a topic's description.
    pub async fn topic(&self, name: &str, topic_id: TopicId) -> Result<Option<TopicDescription>, BucketError> {
        let key = self.keys.topic(name, topic_id).description();
        match self.store.get_if_present(&key).await? {
            Some((bytes, _)) => {
                TopicDescription::parse(&bytes).map(Some).map_err(|source| BucketError::Manifest { key, source })
            }
            None => Ok(None),
        }
    }

    /// Writes what a restore needs to know of a topic. A topic that is being deleted never becomes live again.
    pub async fn describe_topic(&self, wanted: &TopicDescription) -> Result<(), BucketError> {
        let key = self.keys.topic(&wanted.topic, wanted.topic_id).description();
        for _ in 0..CONFLICTS {
            let expected = match self.store.get_if_present(&key).await? {
                None => Expected::Absent,
                Some((bytes, version)) => {
                    let found = TopicDescription::parse(&bytes)
                        .map_err(|source| BucketError::Manifest { key: key.clone(), source })?;
                    if found.state != TopicState::Live && wanted.state == TopicState::Live {
                        return Err(BucketError::TopicDeleted { topic: wanted.topic.clone() });
                    }
                    if (TopicDescription { nonce: wanted.nonce, ..found }) == *wanted {
                        return Ok(());
                    }
                    Expected::Version(version)
                }
            };
            let description = TopicDescription { nonce: self.nonce(), format: MANIFEST_FORMAT, ..wanted.clone() };
            match self.store.replace(&key, description.to_bytes(), expected).await {
                Ok(_) => return Ok(()),
                Err(ReplaceError::Conflict { .. }) => {}
                Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => return Err(source.into()),
            }
        }
        Err(BucketError::Contended { key })
    }

    /// Keeps a snapshot of the groups' committed offsets, in the group coordinator's own format, and drops old ones.
    pub async fn put_group_snapshot(&self, generation: u64, snapshot: &[u8]) -> Result<(), BucketError> {
        let content = compress_manifest(snapshot);
        self.store.put_immutable(&self.keys.group_snapshot(generation), content).await?;
        let directory = self.keys.group_snapshots();
        let mut kept: Vec<String> = self.store.list(&directory).map_ok(|object| object.key).try_collect().await?;
        kept.sort();
        for old in kept.iter().rev().skip(GROUP_SNAPSHOTS_KEPT) {
            self.store.delete(old).await?;
        }
        Ok(())
    }

    /// The latest snapshot of the groups' committed offsets and its generation.
    pub async fn latest_group_snapshot(&self) -> Result<Option<(u64, Bytes)>, BucketError> {
        let directory = self.keys.group_snapshots();
        let keys: Vec<String> = self.store.list(&directory).map_ok(|object| object.key).try_collect().await?;
        let Some(latest) = keys.iter().max() else { return Ok(None) };
        let (bytes, _) = self.store.get(latest).await?;
        let name = latest.strip_prefix(&directory).and_then(|name| name.strip_suffix(".zst"));
        let generation = name.and_then(|name| name.parse().ok()).unwrap_or_default();
        let snapshot =
            decompress_manifest(&bytes).map_err(|source| BucketError::Manifest { key: latest.clone(), source })?;
        Ok(Some((generation, snapshot)))
    }

    /// Raises the mark below which producer ids may have been handed out; it never goes back.
    pub async fn raise_producer_ids(&self, next_producer_id: ProducerId) -> Result<(), BucketError> {
        let key = self.keys.producer_ids();
        for _ in 0..CONFLICTS {
            let expected = match self.store.get_if_present(&key).await? {
                None => Expected::Absent,
                Some((bytes, version)) => {
                    let found = ProducerIdMark::parse(&bytes)
                        .map_err(|source| BucketError::Manifest { key: key.clone(), source })?;
                    if found.next_producer_id >= next_producer_id {
                        return Ok(());
                    }
                    Expected::Version(version)
                }
            };
            let mark = ProducerIdMark { format: MANIFEST_FORMAT, next_producer_id, nonce: self.nonce() };
            match self.store.replace(&key, mark.to_bytes(), expected).await {
                Ok(_) => return Ok(()),
                Err(ReplaceError::Conflict { .. }) => {}
                Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => return Err(source.into()),
            }
        }
        Err(BucketError::Contended { key })
    }

    fn nonce(&self) -> Hex128 {
        Hex128::from_entropy(self.runtime.entropy.identity())
    }
}

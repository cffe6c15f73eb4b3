//! The bucket as a whole: whose it is, which topics it knows, and the small snapshots that a restore starts from.
//!
//! Everything here is a small object that is changed by conditional writes or written once. After a crash each is there as
//! it was before or after.

use bytes::Bytes;
use futures_util::stream::TryStreamExt;
use thiserror::Error;

use super::key::{BUCKET_ROOT, ClusterKeys, parse_group_snapshot};
use super::manifest::{
    ClusterStamp, GroupShares, GroupSnapshotMark, Hex128, MANIFEST_FORMAT, ManifestError, ProducerIdMark, Registered,
    TopicDescription, TopicState, decompress_group_snapshot, hash_of,
};
use super::store::{Expected, ReplaceError, Store, StoreError, Version};
use crate::runtime::Runtime;
use crate::types::{ClusterId, Incarnation, ProducerId, TopicId};

/// Conflicts that one change rides out; each means that someone else changed the object meanwhile.
const CONFLICTS: usize = 8;
/// Snapshots of group offsets that are kept; older ones go when a new one is written.
const GROUP_SNAPSHOTS_KEPT: u64 = 3;

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
        "the object store holds a cluster but the data directory is empty cluster={found}; bring its data directory back, restore it with `alluvium restore`, or give this cluster another prefix"
    )]
    NeedsRestore {
        /// The cluster in the bucket.
        found: ClusterId,
    },
    /// The bucket is unused, but records that the data directory knows are in an archive alone.
    #[error(
        "the object store holds nothing of this cluster, in whose archive alone older records are cluster={ours}; start with the store that it ran with"
    )]
    Unused {
        /// The cluster of this data directory.
        ours: ClusterId,
    },
    /// The cluster was restored elsewhere since this data directory last ran.
    #[error(
        "the cluster was restored elsewhere ours={ours} found={found}; this data directory is of its former life; use the one that it was restored to, or another prefix"
    )]
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
    /// Another process stores what this one should: both run on copies of one data directory.
    #[error(
        "another process stores the snapshots of groups broker={} epoch={} process={}; stop the one that should not be there",
        writer.broker, writer.broker_epoch, writer.process
    )]
    Fenced {
        /// Who wrote last.
        writer: Registered,
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

/// What a data directory has of its cluster, as far as that decides which bucket it can run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalData {
    /// It has never been used, as far as it knows.
    Unused,
    /// Every record that clients can read.
    Whole,
    /// Recent records: older ones are in the archive alone.
    Recent,
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
    /// Returns the stamp in force.
    pub async fn claim(&self, local: LocalData, incarnation: Incarnation) -> Result<ClusterStamp, BucketError> {
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
                return Err(match local {
                    LocalData::Unused => BucketError::NeedsRestore { found },
                    LocalData::Whole | LocalData::Recent => BucketError::ForeignCluster { found, ours },
                });
            }
            if local == LocalData::Recent {
                return Err(BucketError::Unused { ours });
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

    /// The stamp that is in the bucket; none where it holds nothing of this cluster.
    pub async fn stamp(&self) -> Result<Option<ClusterStamp>, BucketError> {
        let key = self.keys.cluster();
        match self.store.get_if_present(&key).await? {
            Some((bytes, _)) => {
                ClusterStamp::parse(&bytes).map(Some).map_err(|source| BucketError::Manifest { key, source })
            }
            None => Ok(None),
        }
    }

    /// Begins another life of the cluster, after all that the bucket has been in and after `others`: whoever belongs to an earlier one
    /// is refused from then on. The one that was begun with this nonce is that one still. Returns the stamp in force.
    pub async fn begin_incarnation(&self, nonce: Hex128, others: Incarnation) -> Result<ClusterStamp, BucketError> {
        let key = self.keys.cluster();
        for _ in 0..CONFLICTS {
            let (before, expected) = match self.store.get_if_present(&key).await? {
                Some((bytes, version)) => {
                    let found = ClusterStamp::parse(&bytes)
                        .map_err(|source| BucketError::Manifest { key: key.clone(), source })?;
                    if found.nonce == nonce {
                        return Ok(found);
                    }
                    (found, Expected::Version(version))
                }
                None => {
                    let now = self.runtime.clock.wall();
                    (ClusterStamp::first(self.keys.cluster_id(), now, nonce), Expected::Absent)
                }
            };
            let Some(incarnation) = before.incarnation.max(others).0.checked_add(1).map(Incarnation) else {
                return Err(BucketError::Contended { key });
            };
            let stamp = ClusterStamp { incarnation, nonce, ..before };
            match self.store.replace(&key, stamp.to_bytes(), expected).await {
                Ok(_) => return Ok(stamp),
                Err(ReplaceError::Conflict { .. }) => {}
                Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => return Err(source.into()),
            }
        }
        Err(BucketError::Contended { key })
    }

    /// Refuses who belongs to another life of the cluster than the bucket is in.
    pub async fn check_incarnation(&self, ours: Incarnation) -> Result<(), BucketError> {
        match self.stamp().await? {
            Some(ClusterStamp { incarnation: found, .. }) if found != ours => {
                Err(BucketError::Superseded { ours, found })
            }
            _ => Ok(()),
        }
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

    /// Makes sure that a topic is described before anything of it is stored, by whatever is known of it. One that is described
    /// already is left to who keeps descriptions up to date and may know more.
    pub async fn describe_first(&self, wanted: &TopicDescription) -> Result<(), BucketError> {
        match self.topic(&wanted.topic, wanted.topic_id).await? {
            Some(found) if found.state == TopicState::Live => return Ok(()),
            Some(_) => return Err(BucketError::TopicDeleted { topic: wanted.topic.clone() }),
            None => {}
        }
        let key = self.keys.topic(&wanted.topic, wanted.topic_id).description();
        let description = TopicDescription { nonce: self.nonce(), format: MANIFEST_FORMAT, ..wanted.clone() };
        match self.store.replace(&key, description.to_bytes(), Expected::Absent).await {
            // Who was faster has described it.
            Ok(_) | Err(ReplaceError::Conflict { .. }) => Ok(()),
            Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => Err(source.into()),
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

    /// Keeps a snapshot of the groups' committed offsets in the place of the one that `found` names, in the group coordinator's own
    /// format and compressed by [`compress_group_snapshot`](super::manifest::compress_group_snapshot), and drops old ones. It counts
    /// once the mark names it, which an earlier registration, or another process of the same one, can't have it do. False where
    /// another one counts meanwhile: what is to be stored is to be made anew, then.
    pub async fn put_group_snapshot(
        &self,
        found: Option<(GroupSnapshotMark, Version)>,
        writer: Registered,
        shares: Option<GroupShares>,
        content: Bytes,
    ) -> Result<bool, BucketError> {
        if let Some((found, _)) = found.as_ref().filter(|(found, _)| !found.may_be_followed(&writer, shares.is_some()))
        {
            return Err(BucketError::Fenced { writer: found.writer });
        }
        let generation = found.as_ref().map_or(0, |(found, _)| found.generation) + 1;
        let expected = found.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
        let hash = hash_of(&content);
        self.store.put_immutable(&self.keys.group_snapshot(generation, hash), content).await?;
        let (format, cluster_id, nonce) = (MANIFEST_FORMAT, self.keys.cluster_id(), self.nonce());
        let mark = GroupSnapshotMark { format, cluster_id, writer, generation, hash, shares, nonce };
        match self.store.replace(&self.keys.group_snapshot_mark(), mark.to_bytes(), expected).await {
            Ok(_) => {
                // The new one counts; what came before takes room until the next one.
                if let Err(error) = self.drop_group_snapshots(generation).await {
                    tracing::warn!(%error, "older snapshots of groups stay in the bucket");
                }
                Ok(true)
            }
            Err(ReplaceError::Conflict { .. }) => Ok(false),
            Err(ReplaceError::Unknown { source, .. } | ReplaceError::Store(source)) => Err(source.into()),
        }
    }

    /// Drops what came before the snapshots that are kept, and what lost a race against one of them.
    async fn drop_group_snapshots(&self, newest: u64) -> Result<(), BucketError> {
        let directory = self.keys.group_snapshots();
        let keys: Vec<String> = self.store.list(&directory).map_ok(|object| object.key).try_collect().await?;
        let is_old = |key: &&String| {
            parse_group_snapshot(key)
                .is_none_or(|(generation, _)| generation.saturating_add(GROUP_SNAPSHOTS_KEPT) <= newest)
        };
        for old in keys.iter().filter(is_old) {
            self.store.delete(old).await?;
        }
        Ok(())
    }

    /// What says which snapshot of the groups counts.
    pub async fn group_snapshot_mark(&self) -> Result<Option<(GroupSnapshotMark, Version)>, BucketError> {
        let key = self.keys.group_snapshot_mark();
        let Some((bytes, version)) = self.store.get_if_present(&key).await? else { return Ok(None) };
        let mark = GroupSnapshotMark::parse(&bytes).map_err(|source| BucketError::Manifest { key, source })?;
        Ok(Some((mark, version)))
    }

    /// The snapshot of the groups that a mark names. Others may have replaced it since, and dropped it.
    pub async fn marked_group_snapshot(&self, mark: &GroupSnapshotMark) -> Result<Bytes, BucketError> {
        let key = self.keys.group_snapshot(mark.generation, mark.hash);
        let (bytes, _) = self.store.get(&key).await?;
        decompress_group_snapshot(&bytes, mark.hash).map_err(|source| BucketError::Manifest { key, source })
    }

    /// The snapshot of the groups' committed offsets that counts.
    pub async fn group_snapshot(&self) -> Result<Option<Bytes>, BucketError> {
        let Some((mut mark, _)) = self.group_snapshot_mark().await? else { return Ok(None) };
        for _ in 0..CONFLICTS {
            let error = match self.marked_group_snapshot(&mark).await {
                Err(error @ BucketError::Store(_)) => error,
                read => return read.map(Some),
            };
            match self.group_snapshot_mark().await? {
                Some((newer, _)) if newer.generation != mark.generation => mark = newer,
                _ => return Err(error),
            }
        }
        Err(BucketError::Contended { key: self.keys.group_snapshot_mark() })
    }

    /// Raises the mark below which producer ids may have been handed out; it never goes back. Returns the mark in force: one
    /// that is higher was written by a process on a later or another copy of the data directory.
    pub async fn raise_producer_ids(&self, next_producer_id: ProducerId) -> Result<ProducerId, BucketError> {
        let key = self.keys.producer_ids();
        for _ in 0..CONFLICTS {
            let expected = match self.store.get_if_present(&key).await? {
                None => Expected::Absent,
                Some((bytes, version)) => {
                    let found = ProducerIdMark::parse(&bytes)
                        .map_err(|source| BucketError::Manifest { key: key.clone(), source })?;
                    if found.next_producer_id >= next_producer_id {
                        return Ok(found.next_producer_id);
                    }
                    Expected::Version(version)
                }
            };
            let cluster_id = self.keys.cluster_id();
            let mark = ProducerIdMark { format: MANIFEST_FORMAT, cluster_id, next_producer_id, nonce: self.nonce() };
            match self.store.replace(&key, mark.to_bytes(), expected).await {
                Ok(_) => return Ok(next_producer_id),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::manifest::compress_group_snapshot;
    use crate::archive::store::Operation;
    use crate::archive::store::faulty::{Fault, FaultyBackend};
    use crate::archive::tests::open_store;
    use crate::types::{BrokerEpoch, BrokerIncarnationId, NodeId};

    fn bucket() -> Bucket {
        Bucket::new(open_store("memory:///"), Runtime::production(), ClusterId::from_bytes([1; 16]))
    }

    fn process(broker_epoch: i64, process: u8) -> Registered {
        Registered {
            incarnation: Incarnation(0),
            broker_epoch: BrokerEpoch(broker_epoch),
            broker: NodeId(1),
            process: BrokerIncarnationId::from_bytes([process; 16]),
        }
    }

    fn packed(snapshot: &[u8]) -> Bytes {
        compress_group_snapshot(snapshot).unwrap()
    }

    async fn put(bucket: &Bucket, writer: Registered, snapshot: &[u8]) -> Result<(), BucketError> {
        let found = bucket.group_snapshot_mark().await?;
        bucket.put_group_snapshot(found, writer, None, packed(snapshot)).await.map(|is_stored| assert!(is_stored))
    }

    async fn snapshot(bucket: &Bucket) -> Bytes {
        bucket.group_snapshot().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_topic_that_is_described_is_not_described_anew_by_who_only_needs_that() {
        let bucket = bucket();
        let description = |partitions, state| TopicDescription {
            format: MANIFEST_FORMAT,
            cluster_id: bucket.keys.cluster_id(),
            topic: "flights".to_owned(),
            topic_id: TopicId::from_bytes([2; 16]),
            partitions,
            configs: std::collections::BTreeMap::new(),
            state,
            nonce: Hex128(0),
        };
        let partitions =
            async || bucket.topic("flights", TopicId::from_bytes([2; 16])).await.unwrap().unwrap().partitions;
        bucket.describe_first(&description(3, TopicState::Live)).await.unwrap();
        assert_eq!(partitions().await, 3);
        bucket.describe_topic(&description(8, TopicState::Live)).await.unwrap();
        bucket.describe_first(&description(3, TopicState::Live)).await.unwrap();
        assert_eq!(partitions().await, 8, "an older image says less");
        bucket.describe_topic(&description(8, TopicState::Deleting)).await.unwrap();
        let refused = bucket.describe_first(&description(8, TopicState::Live)).await;
        assert!(matches!(refused, Err(BucketError::TopicDeleted { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn each_restore_begins_a_life_of_its_own_and_an_interrupted_one_goes_on_in_its_own() {
        let bucket = bucket();
        bucket.claim(LocalData::Unused, Incarnation(0)).await.unwrap();
        let begin = async |nonce, others| {
            let stamp = bucket.begin_incarnation(Hex128(nonce), Incarnation(others)).await.unwrap();
            stamp.incarnation.get()
        };
        assert_eq!((begin(1, 0).await, begin(1, 0).await), (1, 1));
        assert_eq!((begin(2, 0).await, begin(1, 0).await), (2, 3), "somebody else restored meanwhile");
        assert_eq!(begin(4, 7).await, 8, "heads are of a later life than the stamp says");
        assert!(matches!(bucket.check_incarnation(Incarnation(0)).await, Err(BucketError::Superseded { .. })));
        bucket.check_incarnation(Incarnation(8)).await.unwrap();
        let refused = bucket.claim(LocalData::Whole, Incarnation(0)).await;
        assert!(matches!(refused, Err(BucketError::Superseded { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn of_two_processes_on_copies_of_a_directory_one_stores_the_snapshots_of_groups() {
        let bucket = bucket();
        put(&bucket, process(5, 1), b"before").await.unwrap();
        // Two start alike; a third is of an older state still.
        put(&bucket, process(6, 2), b"first").await.unwrap();
        for late in [process(6, 3), process(4, 4), process(5, 1)] {
            let refused = put(&bucket, late, b"late").await;
            assert!(matches!(refused, Err(BucketError::Fenced { writer }) if writer == process(6, 2)), "{refused:?}");
            assert_eq!(snapshot(&bucket).await, "first");
        }
        put(&bucket, process(6, 2), b"second").await.unwrap();
        assert_eq!(snapshot(&bucket).await, "second");
        // The next start of one of them takes over, and the other learns of it.
        put(&bucket, process(7, 5), b"third").await.unwrap();
        assert!(put(&bucket, process(6, 2), b"late").await.is_err());
        assert_eq!(snapshot(&bucket).await, "third");
    }

    #[tokio::test]
    async fn a_snapshot_of_very_many_groups_can_be_read_again() {
        let bucket = bucket();
        let large = vec![7; 65 << 20];
        put(&bucket, process(1, 1), &large).await.unwrap();
        assert!(snapshot(&bucket).await == large);
    }

    #[tokio::test]
    async fn a_few_snapshots_of_groups_are_kept() {
        let bucket = bucket();
        for number in 0..10 {
            put(&bucket, process(1, 1), format!("{number}").as_bytes()).await.unwrap();
        }
        let directory = bucket.keys.group_snapshots();
        let keys: Vec<String> = bucket.store.list(&directory).map_ok(|object| object.key).try_collect().await.unwrap();
        let mut kept: Vec<u64> = keys.iter().map(|key| parse_group_snapshot(key).unwrap().0).collect();
        kept.sort_unstable();
        assert_eq!((kept, snapshot(&bucket).await), (vec![8, 9, 10], Bytes::from_static(b"9")));
    }

    #[tokio::test]
    async fn a_snapshot_of_groups_counts_whether_or_not_older_ones_can_be_deleted() {
        let fault = |operation| if operation == Operation::Delete { Fault::Denied } else { Fault::None };
        let plan = Box::new(move |_, operation, _: &str| fault(operation));
        let store = open_store("memory:///").wrapped(|backend| Arc::new(FaultyBackend::new(backend, plan)));
        let bucket = Bucket { store, ..bucket() };
        for number in 0..10 {
            put(&bucket, process(1, 1), format!("{number}").as_bytes()).await.unwrap();
        }
        assert_eq!(snapshot(&bucket).await, "9");
    }

    #[tokio::test]
    async fn the_mark_of_producer_ids_never_goes_back_and_tells_who_is_behind() {
        let bucket = bucket();
        for (raised, in_force) in [(1000, 1000), (500, 1000), (1000, 1000), (3000, 3000), (2000, 3000)] {
            assert_eq!(bucket.raise_producer_ids(ProducerId(raised)).await.unwrap(), ProducerId(in_force));
        }
    }
}

//! A new cluster from the bucket of one that is lost: what `alluvium restore` does.
//!
//! [`Restore::look`] reads what the bucket has and says what there is to restore, and what stands in the way. [`Restore::run`] does it,
//! in this order, so that it can end anywhere and be begun again (decision 0082):
//! 1. `place`: the data directories are taken, and marked;
//! 2. `cluster.json` begins another incarnation: brokers of the former life are refused from their next start on;
//! 3. every head is taken over, which fences out a broker of the former life that runs still, and tells how far each partition is
//!    archived for good; so is the snapshot of groups, with no offset beyond that (`offsets`);
//! 4. `founding`: the metadata say what the bucket says;
//! 5. the mark goes, and a broker may start.
//!
//! No record is read or copied: the broker serves them from the bucket, and its logs go on where the archive ends.

mod error;
mod founding;
mod offsets;
mod place;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};

pub use error::RestoreError;
pub use offsets::AheadOffset;
pub(in crate::broker) use place::is_begun;

use founding::Founding;
use offsets::{Bounded, bounded};
use place::{Marker, Place};
use plan::{Found, Plan, PlannedTopic, end, newest_timestamp};

use super::archiver;
use super::settings::BrokerSettings;
use crate::archive::bucket::{Bucket, BucketError};
use crate::archive::heads::Heads;
use crate::archive::inspect::{InspectError, Inspector};
use crate::archive::key::Fence;
use crate::archive::manifest::{
    Head, HeadIdentity, ProducerIdMark, Registered, TopicState, Writer, compress_group_snapshot,
};
use crate::archive::partition::PartitionArchive;
use crate::archive::store::{Store, StoreError};
use crate::archive::workers::Workers;
use crate::group::records::LogRecord;
use crate::group::snapshot;
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::telemetry::Metrics;
use crate::types::{
    BrokerEpoch, ClusterId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerId, Timestamp, TopicId,
};

/// A bucket that changed within this time is taken for one whose cluster lives. One that lives changes it about once a minute while
/// consumers commit offsets, and else as segments are sealed.
const LIVELY_MS: i64 = 10 * 60 * 1000;
/// Lanes for what takes a while.
const LANES: usize = 2;
/// Heads that are taken over at once.
const AT_ONCE: usize = 16;
/// Bytes of heads that are remembered; none is read twice.
const HEAD_BYTES: u64 = 1 << 20;
/// Attempts to store the snapshot of groups; each that fails means that somebody else stored one meanwhile.
const CONFLICTS: usize = 8;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Which cluster, where the store holds several.
    pub cluster: Option<ClusterId>,
    /// Topics that are left out, by name or identity.
    pub without: Vec<String>,
    /// Whether committed offsets are left out.
    pub without_groups: bool,
    /// Whether the cluster counts as lost although its bucket was changed lately.
    pub force: bool,
}

/// When an object was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastChange {
    /// The object.
    pub key: String,
    /// When, by the store's clock.
    pub at: Timestamp,
}

/// One partition, as it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredPartition {
    /// Its number.
    pub partition: PartitionIndex,
    /// Its first offset.
    pub log_start: Offset,
    /// The first offset that is not archived: records that had it, or a later one, are lost.
    pub end: Offset,
    /// The largest timestamp of its records, if it has any.
    pub newest: Option<Timestamp>,
    /// Bytes that its records take in the log.
    pub log_bytes: u64,
}

/// One topic, as it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTopic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub topic_id: TopicId,
    /// How many replicas have to have a record before it is acknowledged, where the topic wants more than one.
    pub least_in_sync: Option<i32>,
    /// Its partitions.
    pub partitions: Vec<RestoredPartition>,
}

/// Committed offsets, as they are restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredGroups {
    /// Groups.
    pub groups: usize,
    /// Offsets of all of them.
    pub offsets: usize,
    /// Those that were beyond the archive's end.
    pub ahead: Vec<AheadOffset>,
    /// When the snapshot that they are of was stored, where the store tells. None where there is no snapshot.
    pub stored: Option<Timestamp>,
}

/// What is restored, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The life that it was in.
    pub before: Incarnation,
    /// The life that begins; none as long as nothing is done.
    pub incarnation: Option<Incarnation>,
    /// The topics, by name.
    pub topics: Vec<RestoredTopic>,
    /// Topics whose deletion goes on, by name.
    pub deleted: Vec<String>,
    /// Topics that are left out, by name and identity.
    pub left_out: Vec<(String, TopicId)>,
    /// Committed offsets.
    pub groups: RestoredGroups,
    /// The first producer id to be given out.
    pub next_producer_id: ProducerId,
    /// The bucket's last change, where the store tells.
    pub last_change: Option<LastChange>,
}

/// A cluster that is to be restored.
pub struct Restore {
    runtime: Runtime,
    settings: BrokerSettings,
    options: RestoreOptions,
    cluster_id: ClusterId,
    before: Incarnation,
    plan: Plan,
    /// The records of the bucket's snapshot of groups; none where there is no snapshot.
    groups: Option<Vec<LogRecord>>,
    groups_stored: Option<Timestamp>,
    producer_ids: Option<ProducerId>,
    last_change: Option<LastChange>,
    place: Result<(), RestoreError>,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Restore({})", self.cluster_id)
    }
}

impl Restore {
    /// Reads what the bucket has of the cluster that is to be restored into the data directories of these settings. Changes nothing.
    ///
    /// # Errors
    /// [`RestoreError`] where the bucket can't be read or holds nothing to restore. What else stands in the way is in
    /// [`Restore::obstacles`].
    pub async fn look(
        runtime: &Runtime,
        settings: &BrokerSettings,
        options: RestoreOptions,
    ) -> Result<Self, RestoreError> {
        let location = &settings.archive.location;
        if !location.is_durable() {
            return Err(RestoreError::NotDurable);
        }
        let workers = Workers::start(&*runtime.tasks, "restore", Priority::Foreground, LANES);
        let store = Store::open_to_read(runtime, location, settings.archive.store.clone(), workers.clone())?;
        let inspector = match Inspector::open(store.clone(), options.cluster, workers).await {
            // A directory that is not there.
            Err(InspectError::Bucket(BucketError::Store(StoreError::NotFound { .. }))) => {
                return Err(InspectError::NoCluster.into());
            }
            opened => opened?,
        };
        let cluster_id = inspector.cluster_id();
        let bucket = Bucket::new(store, runtime.clone(), cluster_id);
        let stamp = bucket.stamp().await?;
        let mut found = Vec::new();
        for topic in inspector.topics().await? {
            let headless = inspector.headless(&topic).await?;
            found.push(Found { topic, headless });
        }
        if stamp.is_none() && found.is_empty() {
            return Err(InspectError::NoCluster.into());
        }
        let place = place::look(&*runtime.disk, &settings.directories, cluster_id);
        let marker = place.as_ref().ok().and_then(Option::as_ref);
        let own = own_keys(&bucket, &found, marker).await;
        let changes = changes(&bucket, &own).await?;
        let mut plan =
            Plan::new(cluster_id, found, &options.without).map_err(|named| RestoreError::UnknownTopic { named })?;
        let groups = match read_groups(&bucket).await? {
            Ok(groups) => groups,
            Err(_) if options.without_groups => None,
            Err(damage) => {
                plan.damage.push(format!("committed offsets: {damage}"));
                None
            }
        };
        let before = stamp.map_or(Incarnation(0), |stamp| stamp.incarnation).max(plan.incarnation());
        Ok(Self {
            runtime: runtime.clone(),
            settings: settings.clone(),
            cluster_id,
            before,
            plan,
            groups: groups.filter(|_| !options.without_groups),
            options,
            groups_stored: changes.groups,
            producer_ids: read_producer_ids(&bucket).await?,
            last_change: changes.last,
            place: place.map(drop),
        })
    }

    /// Why [`Restore::run`] would refuse.
    pub fn obstacles(&self) -> Vec<String> {
        let place = self.place.as_ref().err().map(ToString::to_string);
        place.into_iter().chain(self.refusal().map(|refusal| refusal.to_string())).collect()
    }

    /// What would be restored.
    ///
    /// # Errors
    /// [`RestoreError::Offsets`].
    pub fn report(&self) -> Result<RestoreReport, RestoreError> {
        Ok(self.report_of(&self.bounded_groups()?, None))
    }

    /// What says that this cluster is not to be restored, apart from the data directories.
    fn refusal(&self) -> Option<RestoreError> {
        if !self.plan.damage.is_empty() {
            return Some(RestoreError::Damaged { problems: self.plan.damage.clone() });
        }
        let now = self.runtime.clock.wall();
        let last = self.last_change.as_ref().filter(|_| !self.options.force)?;
        let ago_ms = now.get().saturating_sub(last.at.get());
        // One of the future is of a clock that goes before ours.
        let is_lively = ago_ms < LIVELY_MS;
        is_lively.then(|| RestoreError::Alive { key: last.key.clone(), seconds_ago: ago_ms.max(0) / 1000 })
    }

    /// Restores the cluster: on return a broker can be started on the data directories, and no other one of it archives any more.
    ///
    /// # Errors
    /// [`RestoreError`]. Begun again in the same data directories it goes on.
    pub async fn run(mut self) -> Result<RestoreReport, RestoreError> {
        std::mem::replace(&mut self.place, Ok(()))?;
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let place = Place::take(&self.runtime, &self.settings.directories, self.cluster_id)?;
        let metrics = Metrics::new();
        let store = archiver::open_store(&self.runtime, &self.settings.archive, &metrics)?;
        store.probe().await?;
        let bucket = Bucket::new(store, self.runtime.clone(), self.cluster_id);
        let Marker { nonce, process, .. } = place.marker;
        let stamp = bucket.begin_incarnation(nonce, self.before).await?;
        let incarnation = stamp.incarnation;
        self.read_again(&bucket).await?;
        let fence = Fence { incarnation, leader_epoch: LeaderEpoch(0) };
        self.take_over(&bucket, Writer { fence, broker: self.settings.node_id, process }).await?;
        let groups = self.bounded_groups()?;
        let writer = Registered { incarnation, broker_epoch: BrokerEpoch(0), broker: self.settings.node_id, process };
        self.keep_groups(&bucket, writer, &groups.records).await?;
        let next_producer_id = self.plan.next_producer_id(self.producer_ids);
        let founding = Founding {
            runtime: &self.runtime,
            settings: &self.settings,
            cluster_id: self.cluster_id,
            incarnation,
            next_producer_id,
            plan: &self.plan,
            has_groups: !groups.records.is_empty(),
        };
        founding.found(&metrics).await?;
        place.finish()?;
        Ok(self.report_of(&groups, Some(incarnation)))
    }

    /// Reads what a broker of the former life may have changed since it was looked at.
    async fn read_again(&mut self, bucket: &Bucket) -> Result<(), RestoreError> {
        if !self.options.without_groups {
            let damaged = |damage| RestoreError::Damaged { problems: vec![format!("committed offsets: {damage}")] };
            self.groups = read_groups(bucket).await?.map_err(damaged)?;
        }
        let mut deleted = BTreeSet::new();
        for topic in &mut self.plan.topics {
            match bucket.topic(&topic.name, topic.topic_id).await? {
                Some(found) if found.state == TopicState::Live => topic.describe(&found),
                Some(_) => drop(deleted.insert(topic.topic_id)),
                None => {}
            }
        }
        self.plan.bury(&deleted);
        Ok(())
    }

    /// Takes over all heads, and makes those that are missing.
    async fn take_over(&mut self, bucket: &Bucket, writer: Writer) -> Result<(), RestoreError> {
        let heads = Heads::new(HEAD_BYTES);
        let archives: Vec<PartitionArchive> = self
            .plan
            .topics
            .iter()
            .flat_map(|topic| {
                let identity = |partition| HeadIdentity {
                    cluster_id: self.cluster_id,
                    topic: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partition,
                };
                let archive = |partition| {
                    PartitionArchive::new(bucket.clone(), self.runtime.clone(), identity(partition), heads.clone())
                };
                topic.owned().into_iter().map(archive).collect::<Vec<_>>()
            })
            .collect();
        let taken = futures_util::stream::iter(archives).map(|archive| async move { archive.take_over(writer).await });
        let taken: Vec<Arc<Head>> = taken.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut by_topic: BTreeMap<TopicId, BTreeMap<PartitionIndex, Arc<Head>>> = BTreeMap::new();
        for head in taken {
            by_topic.entry(head.identity.topic_id).or_default().insert(head.identity.partition, head);
        }
        for topic in &mut self.plan.topics {
            topic.heads = by_topic.remove(&topic.topic_id).unwrap_or_default();
        }
        Ok(())
    }

    fn bounded_groups(&self) -> Result<Bounded, RestoreError> {
        let end_of = |name: &str, topic_id, partition| self.plan.topic(name, topic_id)?.end(partition);
        Ok(bounded(self.groups.clone().unwrap_or_default(), end_of)?)
    }

    /// Has the bucket's snapshot of groups be what is restored. No broker of the former life stores another one after that.
    async fn keep_groups(
        &self,
        bucket: &Bucket,
        writer: Registered,
        records: &[LogRecord],
    ) -> Result<(), RestoreError> {
        let workers = Workers::start(&*self.runtime.tasks, "restore", Priority::Foreground, 1);
        let encoded = snapshot::encode(records);
        let compressed: Bytes = workers.run(move || compress_group_snapshot(&encoded)).await?;
        for _ in 0..CONFLICTS {
            let found = match bucket.group_snapshot_mark().await {
                // It can't be read, and is done without.
                Err(BucketError::Manifest { key, .. }) if self.options.without_groups => {
                    bucket.store().delete(&key).await?;
                    None
                }
                found => found?,
            };
            if bucket.put_group_snapshot(found, writer, None, compressed.clone()).await? {
                return Ok(());
            }
        }
        Err(BucketError::Contended { key: bucket.keys().group_snapshot_mark() }.into())
    }

    fn report_of(&self, groups: &Bounded, incarnation: Option<Incarnation>) -> RestoreReport {
        let mut topics: Vec<RestoredTopic> = self.plan.topics.iter().map(restored).collect();
        topics.sort_by(|one, two| one.name.cmp(&two.name));
        RestoreReport {
            cluster_id: self.cluster_id,
            before: self.before,
            incarnation,
            topics,
            deleted: self.plan.deleted.iter().map(|topic| topic.name.clone()).collect(),
            left_out: self.plan.left_out.clone(),
            groups: RestoredGroups {
                groups: groups.groups,
                offsets: groups.offsets,
                ahead: groups.ahead.clone(),
                stored: self.groups_stored.filter(|_| self.groups.is_some()),
            },
            next_producer_id: self.plan.next_producer_id(self.producer_ids),
            last_change: self.last_change.clone(),
        }
    }
}

fn restored(topic: &PlannedTopic) -> RestoredTopic {
    let partitions = (0..topic.partitions).map(PartitionIndex).map(|partition| {
        let head = topic.heads.get(&partition);
        RestoredPartition {
            partition,
            log_start: head.map_or(Offset::ZERO, |head| head.log_start_offset),
            end: head.map_or(Offset::ZERO, |head| end(head)),
            newest: head.and_then(|head| newest_timestamp(head)),
            log_bytes: head.map_or(0, |head| head.log_bytes()),
        }
    });
    RestoredTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        least_in_sync: topic.least_in_sync(),
        partitions: partitions.collect(),
    }
}

/// The records of the bucket's snapshot of groups, if it has one; or what is wrong with it.
async fn read_groups(bucket: &Bucket) -> Result<Result<Option<Vec<LogRecord>>, String>, RestoreError> {
    match bucket.group_snapshot().await {
        Ok(None) => Ok(Ok(None)),
        Ok(Some(bytes)) => Ok(snapshot::parse(&bytes).map(Some).map_err(|error| error.to_string())),
        Err(error @ (BucketError::Manifest { .. } | BucketError::Store(StoreError::NotFound { .. }))) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The mark of producer ids, if there is one that can be read. It is not needed: so many are passed over that none is given out again.
async fn read_producer_ids(bucket: &Bucket) -> Result<Option<ProducerId>, RestoreError> {
    let found = bucket.store().get_if_present(&bucket.keys().producer_ids()).await?;
    let mark = found.and_then(|(bytes, _)| ProducerIdMark::parse(&bytes).ok());
    Ok(mark.map(|mark| mark.next_producer_id))
}

/// What an interrupted attempt changed itself.
async fn own_keys(bucket: &Bucket, found: &[Found], marker: Option<&Marker>) -> BTreeSet<String> {
    let Some(marker) = marker else { return BTreeSet::new() };
    let is_own = |head: &Head| head.writer.process == marker.process;
    let heads = found.iter().flat_map(|Found { topic, .. }| {
        let keys = bucket.keys().topic(&topic.name, topic.topic_id);
        let own = topic.heads.iter().filter(|(_, head)| is_own(head));
        own.map(move |(partition, _)| keys.partition(partition.get()).head()).collect::<Vec<_>>()
    });
    let mut own: BTreeSet<String> = heads.collect();
    if let Ok(Some((mark, _))) = bucket.group_snapshot_mark().await
        && mark.writer.process == marker.process
    {
        own.extend([bucket.keys().group_snapshot_mark(), bucket.keys().group_snapshot(mark.generation, mark.hash)]);
    }
    own
}

/// When the bucket was changed.
#[derive(Debug, Default)]
struct Changes {
    last: Option<LastChange>,
    /// The snapshot of groups.
    groups: Option<Timestamp>,
}

/// When what a cluster keeps up to date was last changed, but for some objects.
async fn changes(bucket: &Bucket, own: &BTreeSet<String>) -> Result<Changes, RestoreError> {
    let (keys, mut changes) = (bucket.keys(), Changes::default());
    let groups = keys.group_snapshot_mark();
    let of_cluster = format!("{}meta/", keys.root());
    for directory in [keys.topics(), of_cluster] {
        let mut objects = bucket.store().list(&directory);
        while let Some(object) = objects.try_next().await? {
            let Some(at) = object.modified else { continue };
            if object.key == groups {
                changes.groups = Some(at);
            }
            let is_later = changes.last.as_ref().is_none_or(|last| last.at < at);
            if is_later && !own.contains(&object.key) {
                changes.last = Some(LastChange { key: object.key, at });
            }
        }
    }
    Ok(changes)
}

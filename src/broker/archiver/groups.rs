//! Snapshots of committed offsets in the bucket, so that a restored cluster's consumers go on where they were.
//!
//! There is one snapshot for the whole cluster. A broker by itself stores all of it; brokers of a cluster store what their
//! coordinators know, and leave as it is what others do. Each partition's share has the epoch of the leader that told it, so that a
//! leader that was replaced and does not know takes nothing away from its successor (decision 0078). A broker looks at each turn
//! whether its share is there still.
//!
//! A group that no coordinator answers for, because its log is damaged or in a directory that is not here, is kept as the
//! bucket's last snapshot has it. Nothing else knows where it was, and all others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::lost_offsets::{Reason, records_of};
use super::{Archiver, Owner};
use crate::archive::bucket::{Bucket, BucketError};
use crate::archive::manifest::{GroupShares, GroupSnapshotMark, ManifestError, Registered, compress_group_snapshot};
use crate::archive::store::Version;
use crate::archive::workers::Workers;
use crate::broker::Broker;
use crate::broker::admin::OFFSETS_TOPIC;
use crate::group::records::{Key, LogRecord};
use crate::group::{ReadGroups, partition_of, snapshot};
use crate::runtime::clock::Interval;
use crate::types::{Monotonic, PartitionIndex, TopicId};

/// Age that the newest snapshot may reach; what consumers committed later is read again after a restore.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before groups that can't be read yet are looked at again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long groups that can't be read are waited for: their coordinators load at a start, and after a failed append.
const LOADING_PATIENCE: Duration = Duration::from_secs(10);
/// Attempts to store a share; each that fails means that another broker stored its own meanwhile.
const CONFLICTS: usize = 8;
/// What is complained of when groups can't be read; no topic has this name.
const COMPLAINT: &str = "groups that can't be read";

/// A snapshot that is not in the bucket.
#[derive(Debug, Error)]
enum PutError {
    #[error(transparent)]
    Snapshot(#[from] ManifestError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("the snapshot of those that are to be kept can't be read: {0}")]
    Kept(Reason),
}

/// What a broker knows of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    /// The records of their groups.
    records: Vec<LogRecord>,
    /// The partitions that groups are spread over.
    partitions: i32,
    /// Those whose groups it knows.
    known: BTreeSet<PartitionIndex>,
    /// The same as shares; none of a broker by itself, which knows of no others.
    shares: Option<GroupShares>,
}

impl Told {
    /// What was read of coordinators, which ran in at least the epochs of `shares`.
    fn new(read: ReadGroups, shares: Option<GroupShares>) -> Self {
        let ReadGroups { records, partitions, unread } = read;
        let is_known = |partition: &PartitionIndex| {
            let is_share = shares.as_ref().is_none_or(|it| it.leader_epochs.contains_key(&partition.0));
            is_share && !unread.contains(partition)
        };
        let known = (0..partitions).map(PartitionIndex).filter(is_known).collect();
        Self { records, partitions, known, shares: None }.within(shares)
    }

    /// The part that is of these shares.
    fn within(mut self, shares: Option<GroupShares>) -> Self {
        self.shares = shares.map(|mut shares| {
            shares.leader_epochs.retain(|number, _| self.known.contains(&PartitionIndex(*number)));
            self.known.retain(|partition| shares.leader_epochs.contains_key(&partition.0));
            shares
        });
        let (partitions, known) = (self.partitions, &self.known);
        self.records.retain(|record| match Key::decode(&record.key) {
            Ok(Key::Offset { group, .. } | Key::Group { group }) => known.contains(&partition_of(&group, partitions)),
            Err(_) => false,
        });
        self
    }

    /// Whether it knows all groups.
    fn is_all(&self) -> bool {
        (0..self.partitions).all(|number| self.known.contains(&PartitionIndex(number)))
    }
}

/// What this process has stored.
struct Stored {
    writer: Registered,
    told: Option<Told>,
    is_fenced: bool,
}

/// Where snapshots of groups are kept.
struct Shelf<'a> {
    bucket: &'a Bucket,
    workers: &'a Workers,
}

impl Shelf<'_> {
    /// Stores what is told, unless it was stored last and is there still.
    async fn put(&self, stored: &Stored, told: &Told) -> Result<(), PutError> {
        let is_old = stored.told.as_ref() == Some(told);
        if is_old && told.shares.is_none() {
            return Ok(());
        }
        for _ in 0..CONFLICTS {
            let found = self.bucket.group_snapshot_mark().await?;
            let there = found.as_ref().and_then(|(mark, _)| mark.shares.as_ref());
            if is_old && told.shares.as_ref().zip(there).is_some_and(|(own, there)| there.have(own)) {
                return Ok(());
            }
            // What later leaders have stored is newer than what is known of their groups here.
            let own = told.shares.as_ref().map(|own| there.map_or_else(|| own.clone(), |there| there.newest_of(own)));
            if own.as_ref().is_some_and(|own| own.leader_epochs.is_empty()) {
                return Ok(());
            }
            if self.put_share(found, stored.writer, told.clone().within(own)).await? {
                return Ok(());
            }
        }
        Err(BucketError::Contended { key: self.bucket.keys().group_snapshot_mark() }.into())
    }

    /// Puts what is told in the place of what a snapshot has of these groups. False if another one counts meanwhile.
    async fn put_share(
        &self,
        found: Option<(GroupSnapshotMark, Version)>,
        writer: Registered,
        told: Told,
    ) -> Result<bool, PutError> {
        let kept = if told.is_all() { Kept::default() } else { self.kept_groups(found.as_ref(), &told).await? };
        let shares = told.shares.map(|own| kept.shares.map_or_else(|| own.clone(), |there| there.with(&own)));
        let records = [told.records, kept.records].concat();
        let compressed = self.workers.run(move || compress_group_snapshot(&snapshot::encode(&records))).await?;
        Ok(self.bucket.put_group_snapshot(found, writer, shares, compressed).await?)
    }

    /// What the bucket's snapshot has of the groups that are not told.
    async fn kept_groups(&self, found: Option<&(GroupSnapshotMark, Version)>, told: &Told) -> Result<Kept, PutError> {
        let Some((mark, _)) = found else { return Ok(Kept::default()) };
        let read = self.bucket.marked_group_snapshot(mark).await.map(Some);
        let records = match (records_of(read).map_err(PutError::Kept)?, &told.shares) {
            (Ok(records), _) => records,
            (Err(reason), None) => return Err(PutError::Kept(reason.into())),
            (Err(reason), Some(_)) => {
                // The others find that theirs are not there, and store them again.
                tracing::error!(reason, "the bucket's snapshot of groups can't be read, and is begun anew");
                return Ok(Kept::default());
            }
        };
        let is_told = |group: &str| told.known.contains(&partition_of(group, told.partitions));
        let kept = records.into_iter().filter(|(group, _)| !is_told(group)).map(|(_, record)| record);
        Ok(Kept { records: kept.collect(), shares: mark.shares.clone() })
    }
}

impl Archiver {
    /// Stores what is told, or says why that is not done.
    async fn store_groups(&self, stored: &mut Stored, told: Told) {
        let shelf = Shelf { bucket: &self.bucket, workers: &self.workers };
        match shelf.put(stored, &told).await {
            Ok(()) => stored.told = Some(told),
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

    /// Says once in a while that groups can't be read.
    fn complain_of_unread(&self, unread: &BTreeSet<PartitionIndex>, now: Monotonic) {
        if self.complaints.lock().is_due(COMPLAINT, now) {
            tracing::warn!(
                partitions = ?unread,
                "no coordinator answers for these partitions of __consumer_offsets: the bucket's snapshot keeps their groups as they were"
            );
        }
    }
}

/// What stays of a snapshot when a share of it is stored anew.
#[derive(Default)]
struct Kept {
    records: Vec<LogRecord>,
    shares: Option<GroupShares>,
}

impl Broker {
    /// Keeps a snapshot of the groups in the bucket for as long as the broker runs; a new one only when something changed.
    pub(in crate::broker) async fn snapshot_groups_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let clock = &self.runtime().clock;
        let mut interval = Interval::new(clock, SNAPSHOT_INTERVAL);
        let Owner { incarnation, process, node_id, .. } = archiver.owner;
        let writer = Registered { incarnation, broker_epoch: self.epoch(), broker: node_id, process };
        let mut stored = Stored { writer, told: None, is_fenced: false };
        let mut unread_since = None;
        loop {
            interval.tick().await;
            // Before they are read: what a coordinator says is of this epoch, or of a later one.
            let shares = self.group_shares();
            let Some(read) = self.read_groups().await else {
                interval.reset_after(RETRY_INTERVAL);
                continue;
            };
            let unread = self.own_of(&read.unread);
            if unread.is_empty() {
                unread_since = None;
            } else {
                let now = clock.monotonic();
                if now.since(*unread_since.get_or_insert(now)) < LOADING_PATIENCE {
                    interval.reset_after(RETRY_INTERVAL);
                    continue;
                }
                archiver.complain_of_unread(&unread, now);
            }
            archiver.metrics.group.unsaved_partitions.set(i64::try_from(unread.len()).unwrap_or(i64::MAX));
            archiver.store_groups(&mut stored, Told::new(read, shares)).await;
        }
    }

    /// The shares in the snapshot that this broker's coordinators have; none where it has all of it, as it is by itself.
    fn group_shares(&self) -> Option<GroupShares> {
        self.cluster.as_ref()?;
        let (topic_id, leader_epochs) = self.coordinated_epochs().unwrap_or_else(|| (TopicId::ZERO, BTreeMap::new()));
        Some(GroupShares { topic_id, leader_epochs })
    }

    /// Those partitions whose groups no other broker has a coordinator for.
    fn own_of(&self, partitions: &BTreeSet<PartitionIndex>) -> BTreeSet<PartitionIndex> {
        let image = self.image();
        let Some(topic) = image.topic_named(OFFSETS_TOPIC) else { return BTreeSet::new() };
        let is_own = |partition: &&PartitionIndex| match topic.partition(partition.0) {
            Some(state) => state.leader.map_or(state.replica_on(self.node_id()).is_some(), |it| it == self.node_id()),
            None => false,
        };
        partitions.iter().filter(is_own).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::archive::manifest::Hex128;
    use crate::archive::store::Location;
    use crate::broker::BrokerSettings;
    use crate::broker::archiver::open_store;
    use crate::runtime::Runtime;
    use crate::runtime::tasks::Priority;
    use crate::telemetry::Metrics;
    use crate::types::{BrokerEpoch, BrokerIncarnationId, ClusterId, Incarnation, LeaderEpoch, NodeId};

    const PARTITIONS: i32 = 4;

    fn shares(topic: u8, epochs: &[(i32, i32)]) -> GroupShares {
        let leader_epochs = epochs.iter().map(|&(number, epoch)| (number, LeaderEpoch(epoch))).collect();
        GroupShares { topic_id: TopicId::from_bytes([topic; 16]), leader_epochs }
    }

    fn group_on(partition: i32) -> String {
        let mut names = (0..).map(|number| format!("group {number}"));
        names.find(|name| partition_of(name, PARTITIONS).0 == partition).unwrap()
    }

    fn record(partition: i32, value: &'static str) -> LogRecord {
        LogRecord { key: Key::encode_group(&group_on(partition)), value: Some(value.into()) }
    }

    fn read(known: &[i32]) -> ReadGroups {
        read_as(known, "mine")
    }

    fn read_as(known: &[i32], value: &'static str) -> ReadGroups {
        let records = known.iter().map(|&number| record(number, value)).collect();
        let is_unread = |partition: &PartitionIndex| !known.contains(&partition.0);
        let unread = (0..PARTITIONS).map(PartitionIndex).filter(is_unread).collect();
        ReadGroups { records, partitions: PARTITIONS, unread }
    }

    #[test]
    fn what_is_told_is_of_coordinators_that_ran_and_answered() {
        let told = Told::new(read(&[0, 1]), Some(shares(1, &[(1, 5), (2, 5)])));
        assert_eq!(told.known, BTreeSet::from([PartitionIndex(1)]), "0 began later, and 2 did not answer");
        assert_eq!(told.shares, Some(shares(1, &[(1, 5)])));
        assert_eq!(told.records, [record(1, "mine")]);
        let alone = Told::new(read(&[0, 1, 2, 3]), None);
        assert!(alone.is_all() && !told.is_all());
    }

    #[test]
    fn a_leader_that_was_replaced_takes_nothing_from_its_successor() {
        let there = shares(1, &[(0, 5), (1, 7)]);
        let own = shares(1, &[(0, 6), (1, 6), (2, 1)]);
        assert!(!there.have(&own));
        let newest = there.newest_of(&own);
        assert_eq!(newest, shares(1, &[(0, 6), (2, 1)]));
        let merged = there.with(&newest);
        assert_eq!(merged, shares(1, &[(0, 6), (1, 7), (2, 1)]));
        assert!(merged.have(&own), "there is nothing more to store");
        let told = Told::new(read(&[0, 1, 2]), Some(own)).within(Some(newest));
        assert_eq!(told.records, [record(0, "mine"), record(2, "mine")]);
    }

    #[test]
    fn of_a_topic_that_was_made_again_the_snapshot_begins_anew() {
        let (there, own) = (shares(1, &[(0, 50), (1, 70)]), shares(2, &[(0, 0)]));
        assert!(!there.have(&own));
        assert_eq!(there.newest_of(&own), own);
        assert_eq!(there.with(&own), own);
    }

    #[test]
    fn who_may_store_is_told_by_shares_among_brokers_and_by_registrations_otherwise() {
        let process = |broker, epoch, incarnation| Registered {
            incarnation: Incarnation(incarnation),
            broker_epoch: BrokerEpoch(epoch),
            broker: NodeId(broker),
            process: BrokerIncarnationId::from_bytes([u8::try_from(epoch).unwrap(); 16]),
        };
        let mark = |shares| GroupSnapshotMark {
            format: 1,
            cluster_id: ClusterId::from_bytes([1; 16]),
            writer: process(1, 5, 1),
            generation: 1,
            hash: Hex128(1),
            shares,
            nonce: Hex128(2),
        };
        let (alone, shared) = (mark(None), mark(Some(shares(1, &[(0, 1)]))));
        assert!(shared.may_be_followed(&process(2, 4, 1), true), "brokers take turns");
        assert!(alone.may_be_followed(&process(2, 4, 1), true));
        assert!(!alone.may_be_followed(&process(1, 4, 1), true), "an earlier process of the same broker");
        assert!(!shared.may_be_followed(&process(2, 9, 0), true), "of the cluster's former life");
        assert!(!shared.may_be_followed(&process(1, 4, 1), false));
        assert!(shared.may_be_followed(&process(1, 6, 1), false), "it is by itself again");
        let text = String::from_utf8(alone.to_bytes().to_vec()).unwrap();
        assert!(!text.contains("shares"), "as release 0.1.0 wrote it: {text}");
        for mark in [alone, shared] {
            assert_eq!(GroupSnapshotMark::parse(&mark.to_bytes()).unwrap(), mark);
        }
    }

    /// A bucket in memory, and a broker of each number that stores there.
    fn world() -> (Bucket, Workers, [Stored; 2]) {
        let runtime = Runtime::production();
        let mut settings = BrokerSettings::small(Path::new("/unused"));
        settings.archive.location = Location::parse("memory:///").unwrap();
        let store = open_store(&runtime, &settings.archive, &Metrics::new()).unwrap();
        let workers = Workers::start(&*runtime.tasks, "groups", Priority::Foreground, 1);
        let process = |number: i32| Registered {
            incarnation: Incarnation(0),
            broker_epoch: BrokerEpoch(number.into()),
            broker: NodeId(number),
            process: BrokerIncarnationId::from_bytes([1; 16]),
        };
        let brokers = [1, 2].map(|number| Stored { writer: process(number), told: None, is_fenced: false });
        (Bucket::new(store, runtime, ClusterId::from_bytes([1; 16])), workers, brokers)
    }

    async fn store(shelf: &Shelf<'_>, broker: &mut Stored, told: Told) {
        shelf.put(broker, &told).await.unwrap();
        broker.told = Some(told);
    }

    /// What the snapshot has of each partition's group.
    async fn stored(bucket: &Bucket) -> Vec<Option<LogRecord>> {
        let snapshot = bucket.group_snapshot().await.unwrap().unwrap();
        let records = snapshot::parse(&snapshot).unwrap();
        let of = |number| Key::encode_group(&group_on(number));
        (0..PARTITIONS).map(|number| records.iter().find(|it| it.key == of(number)).cloned()).collect()
    }

    #[tokio::test]
    async fn the_shares_of_several_brokers_make_one_snapshot_whoever_stores_last() {
        let (bucket, workers, [mut first, mut second]) = world();
        let shelf = Shelf { bucket: &bucket, workers: &workers };
        store(&shelf, &mut first, Told::new(read_as(&[0, 1], "first"), Some(shares(1, &[(0, 1), (1, 1)])))).await;
        let of_second = Told::new(read_as(&[2, 3], "second"), Some(shares(1, &[(2, 1), (3, 1)])));
        store(&shelf, &mut second, of_second).await;
        let all = [(0, "first"), (1, "first"), (2, "second"), (3, "second")];
        assert_eq!(stored(&bucket).await, all.map(|(number, value)| Some(record(number, value))));

        // The second leads one more, which the first does not know yet.
        let epochs = shares(1, &[(1, 2), (2, 1), (3, 1)]);
        let of_second = Told::new(read_as(&[1, 2, 3], "second"), Some(epochs));
        store(&shelf, &mut second, of_second.clone()).await;
        store(&shelf, &mut first, Told::new(read_as(&[0, 1], "late"), Some(shares(1, &[(0, 1), (1, 1)])))).await;
        let all = [(0, "late"), (1, "second"), (2, "second"), (3, "second")];
        assert_eq!(stored(&bucket).await, all.map(|(number, value)| Some(record(number, value))));

        // Nothing is stored again without need.
        let mark = bucket.group_snapshot_mark().await.unwrap();
        store(&shelf, &mut second, of_second.clone()).await;
        assert_eq!(bucket.group_snapshot_mark().await.unwrap(), mark);

        // One that can't read what is there begins anew, and the other has its share there again.
        let (mark, _) = mark.unwrap();
        bucket.store().delete(&bucket.keys().group_snapshot(mark.generation, mark.hash)).await.unwrap();
        store(&shelf, &mut first, Told::new(read_as(&[0], "anew"), Some(shares(1, &[(0, 1)])))).await;
        store(&shelf, &mut second, of_second).await;
        let all = [(0, "anew"), (1, "second"), (2, "second"), (3, "second")];
        assert_eq!(stored(&bucket).await, all.map(|(number, value)| Some(record(number, value))));
    }

    #[tokio::test]
    async fn a_broker_by_itself_keeps_groups_that_it_can_not_read_and_begins_nothing_anew() {
        let (bucket, workers, [mut broker, _]) = world();
        let shelf = Shelf { bucket: &bucket, workers: &workers };
        store(&shelf, &mut broker, Told::new(read_as(&[0, 1, 2, 3], "all"), None)).await;
        store(&shelf, &mut broker, Told::new(read_as(&[0, 1, 3], "newer"), None)).await;
        let all = [(0, "newer"), (1, "newer"), (2, "all"), (3, "newer")];
        assert_eq!(stored(&bucket).await, all.map(|(number, value)| Some(record(number, value))));
        let (mark, _) = bucket.group_snapshot_mark().await.unwrap().unwrap();
        assert_eq!(mark.shares, None);
        bucket.store().delete(&bucket.keys().group_snapshot(mark.generation, mark.hash)).await.unwrap();
        let refused = shelf.put(&broker, &Told::new(read(&[0]), None)).await;
        assert!(matches!(refused, Err(PutError::Kept(_))), "{refused:?}");
    }
}

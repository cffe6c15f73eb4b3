//! What of a bucket is restored: which topics, from which heads, and what stands in the way. Pure; `restore` reads the bucket for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::archive::inspect::{ArchivedTopic, Headless};
use crate::archive::manifest::{Head, TopicDescription, TopicState};
use crate::metadata::image::ArchiveMark;
use crate::types::{ClusterId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerId, Timestamp, TopicId};

/// Leader epochs that the former life may have begun without archiving anything in them. Clients may know those: metadata with
/// lower ones they would take for old.
const EPOCHS_PASSED_OVER: i32 = 1000;
/// Producer ids that the former life may have given out without the bucket knowing.
const PRODUCER_IDS_PASSED_OVER: i64 = 1_000_000;
/// The setting that keeps a topic's records out of the archive.
const ARCHIVED: &str = "remote.storage.enable";
/// The setting for how many replicas have to have a record before it is acknowledged.
const LEAST_IN_SYNC: &str = "min.insync.replicas";

/// What the bucket has of one topic.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) topic: ArchivedTopic,
    pub(super) headless: Vec<Headless>,
}

/// A topic that is restored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedTopic {
    pub(super) name: String,
    pub(super) topic_id: TopicId,
    pub(super) partitions: i32,
    pub(super) configs: BTreeMap<String, String>,
    pub(super) heads: BTreeMap<PartitionIndex, Arc<Head>>,
}

/// A topic whose deletion was under way; it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeletedTopic {
    pub(super) name: String,
    pub(super) topic_id: TopicId,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) topics: Vec<PlannedTopic>,
    pub(super) deleted: Vec<DeletedTopic>,
    /// Topics that are left out as it was asked for, by name and identity.
    pub(super) left_out: Vec<(String, TopicId)>,
    /// What can't be read or told, a sentence each.
    pub(super) damage: Vec<String>,
}

impl PlannedTopic {
    fn new(description: &TopicDescription, heads: BTreeMap<PartitionIndex, Arc<Head>>) -> Self {
        let mut topic = Self {
            name: description.topic.clone(),
            topic_id: description.topic_id,
            partitions: 0,
            configs: BTreeMap::new(),
            heads,
        };
        topic.describe(description);
        topic
    }

    /// Takes over what a description says. A topic may have got partitions that it does not tell of yet.
    pub(super) fn describe(&mut self, description: &TopicDescription) {
        let with_heads = self.heads.last_key_value().map_or(0, |(last, _)| last.get().saturating_add(1));
        self.partitions = description.partitions.max(with_heads);
        self.configs.clone_from(&description.configs);
    }

    /// The partitions whose heads the restored cluster has to have. Where nothing was archived somebody else could begin to.
    pub(super) fn owned(&self) -> Vec<PartitionIndex> {
        let is_archived = self.configs.get(ARCHIVED).is_none_or(|value| value != "false");
        let all = (0..self.partitions).map(PartitionIndex);
        all.filter(|partition| is_archived || self.heads.contains_key(partition)).collect()
    }

    /// Where a partition goes on; none where there is no such partition.
    pub(super) fn end(&self, partition: i32) -> Option<Offset> {
        let is_there = (0..self.partitions).contains(&partition);
        is_there.then(|| self.heads.get(&PartitionIndex(partition)).map_or(Offset::ZERO, |head| end(head)))
    }

    /// How many replicas have to have a record, where more than one has to.
    pub(super) fn least_in_sync(&self) -> Option<i32> {
        let set = self.configs.get(LEAST_IN_SYNC).and_then(|value| value.parse().ok());
        set.filter(|least| *least > 1)
    }
}

impl Plan {
    /// Makes a plan of what was found, without the topics of these names or identities.
    ///
    /// # Errors
    /// One of them that is not there.
    pub(super) fn new(cluster_id: ClusterId, found: Vec<Found>, without: &[String]) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut unused: BTreeSet<&String> = without.iter().collect();
        for Found { topic, headless } in found {
            let id = topic.topic_id.to_string();
            let is_meant = |named: &String| *named == topic.name || *named == id;
            let is_left_out = without.iter().any(is_meant);
            unused.retain(|named| !is_meant(named));
            let state = topic.description.as_ref().map(|description| description.state);
            match state {
                Some(TopicState::Purged) => {}
                Some(TopicState::Deleting) => {
                    plan.deleted.push(DeletedTopic { name: topic.name, topic_id: topic.topic_id });
                }
                _ if is_left_out => plan.left_out.push((topic.name, topic.topic_id)),
                _ => plan.take(cluster_id, topic, &headless),
            }
        }
        if let Some(unknown) = unused.into_iter().next() {
            return Err(unknown.clone());
        }
        plan.find_twins();
        Ok(plan)
    }

    /// Takes in a topic that lives, as far as that can be told.
    fn take(&mut self, cluster_id: ClusterId, topic: ArchivedTopic, headless: &[Headless]) {
        let ArchivedTopic { name, topic_id, description, heads, unreadable } = topic;
        let damage = |what: String| format!("topic {name} ({topic_id}): {what}");
        let unread = unreadable.iter().map(|(key, why)| damage(format!("{why} key={key}")));
        let mut found: Vec<String> = unread.collect();
        found.extend(headless.iter().map(|lost| damage(format!("partition {}: {lost}", lost.partition))));
        match &description {
            // What is there and can't be read is told already.
            None if unreadable.keys().any(|key| key.ends_with("/topic.json")) => {}
            None => found.push(damage("its description (topic.json) is missing".to_owned())),
            Some(found_as) if found_as.cluster_id != cluster_id || found_as.topic_id != topic_id => {
                found.push(damage("its description is of another topic or cluster".to_owned()));
            }
            Some(_) => {}
        }
        let others = heads.iter().filter(|(_, head)| head.identity.cluster_id != cluster_id);
        found.extend(
            others.map(|(partition, _)| damage(format!("partition {partition}: its head is of another cluster"))),
        );
        match description.filter(|_| found.is_empty()) {
            Some(description) => self.topics.push(PlannedTopic::new(&description, heads)),
            None => self.damage.append(&mut found),
        }
    }

    /// Finds topics of one name. One of them was deleted, and the bucket did not hear of it.
    fn find_twins(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<TopicId>> = BTreeMap::new();
        self.topics.iter().for_each(|topic| by_name.entry(&topic.name).or_default().push(topic.topic_id));
        let twins = by_name.iter().filter(|(_, ids)| ids.len() > 1).map(|(name, ids)| {
            let ids: Vec<_> = ids.iter().map(TopicId::to_string).collect();
            format!(
                "several topics are called {name}, of which all but one were deleted at the end: leave those out, by identity: {}",
                ids.join(", ")
            )
        });
        let mut twins: Vec<String> = twins.collect();
        self.damage.append(&mut twins);
    }

    /// Moves topics that turned out to be deleted to the others of that kind.
    pub(super) fn bury(&mut self, deleted: &BTreeSet<TopicId>) {
        let all = std::mem::take(&mut self.topics).into_iter();
        let (gone, live): (Vec<_>, Vec<_>) = all.partition(|topic| deleted.contains(&topic.topic_id));
        self.topics = live;
        let listed = gone.into_iter().map(|PlannedTopic { name, topic_id, .. }| DeletedTopic { name, topic_id });
        self.deleted.extend(listed);
    }

    fn heads(&self) -> impl Iterator<Item = &Arc<Head>> {
        self.topics.iter().flat_map(|topic| topic.heads.values())
    }

    /// The latest life of the cluster that any head knows.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.heads().map(|head| head.writer.fence.incarnation).max().unwrap_or_default()
    }

    /// A leader epoch that none of the former life is above.
    pub(super) fn newest_leader_epoch(&self) -> LeaderEpoch {
        let of_head = |head: &Arc<Head>| {
            let last = head.epochs.last().map(|last| last.epoch);
            last.into_iter().chain([head.writer.fence.leader_epoch]).max()
        };
        let newest = self.heads().filter_map(of_head).max().unwrap_or_default();
        LeaderEpoch(newest.get().saturating_add(EPOCHS_PASSED_OVER))
    }

    /// The first producer id to give out; `mark` is what the bucket says.
    pub(super) fn next_producer_id(&self, mark: Option<ProducerId>) -> ProducerId {
        let used = self.heads().map(|head| head.max_producer_id).max().unwrap_or(ProducerId::NONE);
        let known = mark.unwrap_or_default().get().max(used.get().saturating_add(1));
        ProducerId(known.saturating_add(PRODUCER_IDS_PASSED_OVER))
    }

    /// The topic that a committed offset is of, by what it says.
    pub(super) fn topic(&self, name: &str, topic_id: TopicId) -> Option<&PlannedTopic> {
        self.topics.iter().find(|topic| topic.name == name && (topic_id.is_zero() || topic.topic_id == topic_id))
    }
}

/// Where a log goes on: after what is archived, and after what was deleted without being archived.
pub(super) fn end(head: &Head) -> Offset {
    head.next_offset.max(head.log_start_offset)
}

/// How far the metadata is to know a partition's archive to reach; none where its log begins at the first offset.
pub(super) fn mark(head: &Head) -> Option<ArchiveMark> {
    let next_offset = end(head);
    let last = head.epochs.iter().rev().find(|epoch| epoch.start < next_offset);
    let leader_epoch = last.map_or(LeaderEpoch(0), |last| last.epoch);
    (next_offset > Offset::ZERO).then_some(ArchiveMark { next_offset, leader_epoch })
}

/// The largest timestamp of the records that a head lists.
pub(super) fn newest_timestamp(head: &Head) -> Option<Timestamp> {
    let spilled = head.spills.iter().map(|spill| spill.max_timestamp);
    spilled.chain(head.segments.iter().map(|segment| segment.max_timestamp)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::key::Fence;
    use crate::archive::manifest::{EpochStart, HeadIdentity, Hex128, MANIFEST_FORMAT, Writer};
    use crate::types::{BrokerIncarnationId, NodeId};

    const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

    fn id(number: u8) -> TopicId {
        TopicId::from_bytes([number; 16])
    }

    fn head(number: u8, partition: i32, epoch: i32) -> Head {
        let identity = HeadIdentity {
            cluster_id: CLUSTER,
            topic: format!("topic {number}"),
            topic_id: id(number),
            partition: PartitionIndex(partition),
        };
        let fence = Fence { incarnation: Incarnation(2), leader_epoch: LeaderEpoch(epoch) };
        let process = BrokerIncarnationId::from_bytes([3; 16]);
        Head::first(identity, Writer { fence, broker: NodeId(1), process }, Hex128(0))
    }

    fn found(number: u8, name: &str, state: TopicState, partitions: i32, heads: Vec<Head>) -> Found {
        let description = TopicDescription {
            format: MANIFEST_FORMAT,
            cluster_id: CLUSTER,
            topic: name.to_owned(),
            topic_id: id(number),
            partitions,
            configs: BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]),
            state,
            nonce: Hex128(0),
        };
        let topic = ArchivedTopic {
            name: name.to_owned(),
            topic_id: id(number),
            description: Some(description),
            heads: heads.into_iter().map(|head| (head.identity.partition, Arc::new(head))).collect(),
            unreadable: BTreeMap::new(),
        };
        Found { topic, headless: Vec::new() }
    }

    fn plan(found: Vec<Found>, without: &[&str]) -> Result<Plan, String> {
        let without: Vec<String> = without.iter().map(|name| (*name).to_owned()).collect();
        Plan::new(CLUSTER, found, &without)
    }

    #[test]
    fn topics_that_live_are_restored_and_those_that_were_deleted_stay_so() {
        let found = vec![
            found(1, "gone", TopicState::Purged, 1, Vec::new()),
            found(2, "going", TopicState::Deleting, 1, vec![head(2, 0, 9)]),
            found(3, "flights", TopicState::Live, 2, vec![head(3, 0, 4), head(3, 3, 5)]),
        ];
        let plan = plan(found, &[]).unwrap();
        assert_eq!(plan.deleted, [DeletedTopic { name: "going".to_owned(), topic_id: id(2) }]);
        let [topic] = &plan.topics[..] else { panic!("{:?}", plan.topics) };
        assert_eq!((topic.partitions, topic.owned().len()), (4, 4), "partitions that the description lacks still");
        assert_eq!((topic.end(1), topic.end(4)), (Some(Offset::ZERO), None));
        assert_eq!((plan.incarnation(), plan.newest_leader_epoch()), (Incarnation(2), LeaderEpoch(1005)));
        assert!(plan.damage.is_empty());
    }

    #[test]
    fn what_can_not_be_told_stands_in_the_way_until_it_is_left_out() {
        let damaged = || {
            let mut undescribed = found(1, "undescribed", TopicState::Live, 1, Vec::new());
            undescribed.topic.description = None;
            let mut unreadable = found(2, "unreadable", TopicState::Live, 2, vec![head(2, 0, 1)]);
            unreadable.topic.unreadable = BTreeMap::from([("x/p=00001/head.json".to_owned(), "checksum".to_owned())]);
            vec![undescribed, unreadable, found(3, "whole", TopicState::Live, 1, Vec::new())]
        };
        let refused = plan(damaged(), &[]).unwrap();
        assert_eq!(refused.damage.len(), 2, "{:?}", refused.damage);
        let left = plan(damaged(), &["undescribed", &id(2).to_string()]).unwrap();
        assert_eq!((left.damage.len(), left.left_out.len(), left.topics.len()), (0, 2, 1));
        assert_eq!(plan(damaged(), &["elsewhere"]).unwrap_err(), "elsewhere");
    }

    #[test]
    fn of_two_topics_of_one_name_somebody_has_to_say_which_was_deleted() {
        let twins =
            || vec![found(1, "t", TopicState::Live, 1, Vec::new()), found(2, "t", TopicState::Live, 1, Vec::new())];
        let refused = plan(twins(), &[]).unwrap();
        assert!(refused.damage[0].contains(&id(2).to_string()), "{:?}", refused.damage);
        let left = plan(twins(), &[&id(1).to_string()]).unwrap();
        assert_eq!((left.damage.len(), left.topics[0].topic_id), (0, id(2)));
    }

    #[test]
    fn a_log_goes_on_after_all_that_was_ever_given_out_as_far_as_the_head_knows() {
        let epochs = [(1, 0), (4, 10), (6, 30)];
        let epochs = epochs.map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) });
        let archived = Head { next_offset: Offset(30), epochs: epochs.to_vec(), ..head(1, 0, 6) };
        let of_last = ArchiveMark { next_offset: Offset(30), leader_epoch: LeaderEpoch(4) };
        assert_eq!(mark(&archived), Some(of_last), "nothing of epoch 6 is archived");
        let deleted = Head { log_start_offset: Offset(40), ..archived };
        assert_eq!(mark(&deleted).map(|mark| mark.next_offset), Some(Offset(40)));
        assert_eq!(mark(&head(1, 0, 6)), None);
    }

    #[test]
    fn producer_ids_of_the_former_life_are_passed_over() {
        let with = Head { max_producer_id: ProducerId(70), ..head(1, 0, 6) };
        let plan = plan(vec![found(1, "t", TopicState::Live, 1, vec![with])], &[]).unwrap();
        assert_eq!(plan.next_producer_id(None), ProducerId(1_000_071));
        assert_eq!(plan.next_producer_id(Some(ProducerId(2000))), ProducerId(1_002_000));
    }

    #[test]
    fn heads_of_a_topic_that_is_not_archived_are_left_alone_but_for_those_that_are_there() {
        let mut local = found(1, "local", TopicState::Live, 3, vec![head(1, 1, 1)]);
        let description = local.topic.description.as_mut().unwrap();
        description.configs.insert(ARCHIVED.to_owned(), "false".to_owned());
        description.configs.insert(LEAST_IN_SYNC.to_owned(), "2".to_owned());
        let plan = plan(vec![local], &[]).unwrap();
        assert_eq!(plan.topics[0].owned(), [PartitionIndex(1)]);
        assert_eq!(plan.topics[0].least_in_sync(), Some(2));
    }
}

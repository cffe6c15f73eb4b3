//! Committed offsets of topics that were deleted: every coordinator forgets them, and none waits for another.
//!
//! A deleted topic stays listed in the metadata until each has. So a crash, a log that hangs, and one that is still read only
//! put it off: a coordinator hears of all that is listed when it begins. One that hears of a topic again finds nothing more.
//!
//! In a cluster the broker that has the metadata forget a topic knows of its own coordinators alone. Others keep a topic in mind
//! until each of theirs has heard of it, whatever the metadata lists by then. Only where a coordinator ends before it has, and the
//! next one begins after the metadata forgot, do offsets of a topic stay that is gone: nobody is given them, and they expire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::admin::OFFSETS_TOPIC;
use crate::group::request::DeletedTopics;
use crate::group::{Caller, GroupError};
use crate::metadata::Image;
use crate::metadata::image::{DeletedTopic, TopicChange};
use crate::runtime::clock::Clock;
use crate::runtime::watch;
use crate::types::{NodeId, TopicId, TopicPartition};

/// Pause before a coordinator that can't do it now is told again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A deleted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone {
    topic: Arc<DeletedTopic>,
    /// No other topic has the name now: an offset that was committed for the name alone was committed for this one.
    is_name_free: bool,
}

type Listed = BTreeMap<TopicId, Gone>;
/// Which of them one coordinator has forgotten.
pub(super) type Forgotten = Arc<Mutex<BTreeSet<TopicId>>>;

/// How far the metadata was followed.
#[derive(Debug, Default)]
struct Followed {
    image: Option<Image>,
    /// Deleted topics that the metadata has forgotten, and a coordinator here has not.
    kept: BTreeMap<TopicId, Arc<DeletedTopic>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DeletedOffsets {
    followed: Mutex<Followed>,
    /// What the coordinators here are to forget.
    listed: watch::Sender<Arc<Listed>>,
    /// Which of them each coordinator has forgotten, by its partition.
    forgotten: Mutex<BTreeMap<TopicPartition, Forgotten>>,
}

impl Default for DeletedOffsets {
    fn default() -> Self {
        Self { followed: Mutex::default(), listed: watch::Sender::new(Arc::default()), forgotten: Mutex::default() }
    }
}

impl DeletedOffsets {
    /// Tells the coordinators what the newest image lists, and what was deleted and forgotten since the one before.
    pub(super) fn list(&self, image: &Image) {
        let mut followed = self.followed.lock();
        let Followed { image: older, kept } = &mut *followed;
        let before = older.replace(image.clone());
        let unlisted = before.iter().flat_map(|before| image.topic_changes(before)).filter_map(|change| match change {
            TopicChange::Deleted(topic) if !image.is_deleted(topic.topic_id) => Some(Arc::new(DeletedTopic {
                topic_id: topic.topic_id,
                name: topic.name.to_string(),
                partitions: topic.partition_count(),
            })),
            _ => None,
        });
        kept.extend(unlisted.map(|topic| (topic.topic_id, topic)));
        let listed = Arc::clone(&self.listed.borrow());
        let dropped = listed.values().map(|gone| &gone.topic).filter(|topic| !image.is_deleted(topic.topic_id));
        kept.extend(dropped.map(|topic| (topic.topic_id, Arc::clone(topic))));
        kept.retain(|topic_id, _| !self.is_forgotten_here(*topic_id));
        let kept = &*kept;
        let is_name_free = |topic: &DeletedTopic| image.topic_named(&topic.name).is_none();
        let is_known = |topic: &Arc<DeletedTopic>| {
            listed.get(&topic.topic_id).is_some_and(|known| known.is_name_free == is_name_free(topic))
        };
        let wanted = || image.deleted_topics().chain(kept.values());
        if wanted().count() != listed.len() || !wanted().all(is_known) {
            let gone = |topic: &Arc<DeletedTopic>| {
                (topic.topic_id, Gone { is_name_free: is_name_free(topic), topic: Arc::clone(topic) })
            };
            self.listed.send_replace(Arc::new(wanted().map(gone).collect()));
        }
    }

    /// Whether every coordinator here has forgotten a topic's offsets.
    fn is_forgotten_here(&self, topic_id: TopicId) -> bool {
        self.forgotten.lock().values().all(|by_one| by_one.lock().contains(&topic_id))
    }

    /// Before a coordinator begins on a partition: it has forgotten nothing. The one before it may have forgotten what it has
    /// again, from the bucket.
    pub(super) fn begin(&self, partition: TopicPartition) -> Forgotten {
        let forgotten = Forgotten::default();
        let mut all = self.forgotten.lock();
        // Those of an earlier topic have ended.
        all.retain(|other, _| other.topic_id == partition.topic_id);
        all.insert(partition, Arc::clone(&forgotten));
        forgotten
    }

    /// What the coordinator of a partition has forgotten does not count any more: its log is given up.
    pub(super) fn give_up(&self, partition: TopicPartition) {
        self.forgotten.lock().remove(&partition);
    }

    /// What has a coordinator that began forget what is listed, until it ends.
    pub(super) fn follow(
        &self,
        forgotten: Forgotten,
        coordinator: Caller,
        clock: Arc<dyn Clock>,
    ) -> impl Future<Output = ()> + Send + use<> {
        forget(coordinator, self.listed.subscribe(), forgotten, clock)
    }

    /// Whether no coordinator has offsets of a deleted topic any more, as far as this broker can tell: those of other brokers do
    /// what it takes by themselves.
    pub(super) fn are_forgotten(&self, image: &Image, node_id: NodeId, topic_id: TopicId) -> bool {
        let Some(offsets) = image.topic_named(OFFSETS_TOPIC) else { return true };
        let forgotten = self.forgotten.lock();
        (0..).zip(&offsets.partitions).all(|(number, partition)| {
            let id = TopicPartition::new(offsets.topic_id, number);
            match partition.leader {
                // One that begins when its offsets are restored hears of what is listed then.
                Some(leader) if leader != node_id => !image.unrestored().contains(&id),
                _ => forgotten.get(&id).is_some_and(|by_one| by_one.lock().contains(&topic_id)),
            }
        })
    }
}

/// Has one coordinator forget what is listed.
async fn forget(
    coordinator: Caller,
    mut listed: watch::Receiver<Arc<Listed>>,
    forgotten: Forgotten,
    clock: Arc<dyn Clock>,
) {
    loop {
        let topics = Arc::clone(&listed.borrow_and_update());
        let (ids, due) = due(&topics, &forgotten.lock());
        if !due.is_empty() {
            match coordinator.forget_topics(Arc::new(due)).await {
                Ok(()) => {}
                Err(GroupError::NotCoordinator) => return,
                Err(error) => {
                    tracing::debug!(%error, "offsets of deleted topics are not forgotten yet");
                    clock.sleep(RETRY_INTERVAL).await;
                    continue;
                }
            }
        }
        {
            let mut forgotten = forgotten.lock();
            forgotten.retain(|topic_id| topics.contains_key(topic_id));
            forgotten.extend(ids);
        }
        tokio::select! {
            biased;
            () = coordinator.ended() => return,
            changed = listed.changed() => if changed.is_err() { return },
        }
    }
}

/// What is listed and not forgotten: the topics, and which offsets go.
fn due(listed: &Listed, forgotten: &BTreeSet<TopicId>) -> (Vec<TopicId>, DeletedTopics) {
    let (mut ids, mut due) = (Vec::new(), DeletedTopics::new());
    for (&topic_id, gone) in listed.iter().filter(|(topic_id, _)| !forgotten.contains(topic_id)) {
        ids.push(topic_id);
        let identities = due.entry(gone.topic.name.as_str().into()).or_default();
        identities.insert(topic_id);
        if gone.is_name_free {
            identities.insert(TopicId::ZERO);
        }
    }
    (ids, due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Command, machine, testing};
    use crate::types::PartitionIndex;

    fn create(image: &mut Image, number: u64, name: &str) -> TopicId {
        let command = testing::create_topic(image, number, name, 2);
        machine::apply(image, &command).unwrap();
        testing::topic_id(number)
    }

    fn delete(image: &mut Image, topic_id: TopicId) {
        machine::apply(image, &Command::DeleteTopic { topic_id }).unwrap();
    }

    #[test]
    fn what_was_committed_for_a_name_alone_stays_where_another_topic_has_the_name() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let (taken, free) = (create(&mut image, 1, "taken"), create(&mut image, 2, "free"));
        delete(&mut image, taken);
        delete(&mut image, free);
        create(&mut image, 3, "taken");
        let deleted = DeletedOffsets::default();
        deleted.list(&image);
        let listed = Arc::clone(&deleted.listed.borrow());
        let (ids, all) = due(&listed, &BTreeSet::new());
        assert_eq!(ids, [taken, free]);
        assert_eq!(all["taken"], BTreeSet::from([taken]));
        assert_eq!(all["free"], BTreeSet::from([free, TopicId::ZERO]));
        let (ids, rest) = due(&listed, &BTreeSet::from([taken]));
        assert_eq!((ids, rest.len()), (vec![free], 1));

        // Told once, until something is new.
        let mut follower = deleted.listed.subscribe();
        deleted.list(&image);
        assert!(!follower.has_changed().unwrap());
        delete(&mut image, testing::topic_id(3));
        deleted.list(&image);
        assert!(follower.has_changed().unwrap());
        assert!(follower.borrow_and_update()[&taken].is_name_free);
    }

    #[test]
    fn what_a_coordinator_has_forgotten_does_not_count_once_its_log_is_given_up() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let (offsets, gone) = (create(&mut image, 1, OFFSETS_TOPIC), create(&mut image, 2, "gone"));
        delete(&mut image, gone);
        let deleted = DeletedOffsets::default();
        let partition = |index| TopicPartition { topic_id: offsets, partition: PartitionIndex(index) };
        for index in 0..2 {
            assert!(!deleted.are_forgotten(&image, NodeId(1), gone));
            deleted.begin(partition(index)).lock().insert(gone);
        }
        assert!(deleted.are_forgotten(&image, NodeId(1), gone));
        deleted.give_up(partition(1));
        assert!(!deleted.are_forgotten(&image, NodeId(1), gone));
        deleted.begin(partition(1)).lock().insert(gone);
        assert!(deleted.are_forgotten(&image, NodeId(1), gone));
        deleted.begin(partition(1));
        assert!(!deleted.are_forgotten(&image, NodeId(1), gone), "its successor has to, again");
    }

    #[test]
    fn a_topic_that_the_metadata_has_forgotten_is_kept_in_mind_until_each_coordinator_here_has_heard_of_it() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let offsets = create(&mut image, 1, OFFSETS_TOPIC);
        let (listed, unseen) = (create(&mut image, 2, "listed"), create(&mut image, 3, "unseen"));
        let deleted = DeletedOffsets::default();
        let coordinators = [0, 1].map(|number| deleted.begin(TopicPartition::new(offsets, number)));
        let known = |deleted: &DeletedOffsets| Vec::from_iter(deleted.listed.borrow().keys().copied());
        delete(&mut image, listed);
        deleted.list(&image);
        assert_eq!(known(&deleted), [listed]);
        // Of the other one this broker sees neither the deletion nor how it is forgotten.
        delete(&mut image, unseen);
        for topic_id in [listed, unseen] {
            machine::apply(&mut image, &Command::ForgetTopic { topic_id }).unwrap();
        }
        deleted.list(&image);
        assert_eq!(known(&deleted), [listed, unseen]);
        coordinators[0].lock().extend([listed, unseen]);
        coordinators[1].lock().insert(unseen);
        deleted.list(&image);
        assert_eq!(known(&deleted), [listed]);
        deleted.give_up(TopicPartition::new(offsets, 1));
        deleted.list(&image);
        assert!(known(&deleted).is_empty(), "the one that had not heard of it is gone");
    }

    #[test]
    fn a_topic_stays_listed_while_a_partition_has_no_coordinator_and_not_for_those_of_others() {
        let mut image = testing::image_with_brokers(&[(1, "rack"), (2, "rack")]);
        let (offsets, gone) = (create(&mut image, 1, OFFSETS_TOPIC), create(&mut image, 2, "gone"));
        delete(&mut image, gone);
        let deleted = DeletedOffsets::default();
        let leader_of = |image: &Image, number| image.topic(offsets).unwrap().partition(number).unwrap().leader;
        let own: Vec<i32> = (0..2).filter(|number| leader_of(&image, *number) == Some(NodeId(1))).collect();
        for number in own {
            assert!(!deleted.are_forgotten(&image, NodeId(1), gone));
            deleted.begin(TopicPartition::new(offsets, number)).lock().insert(gone);
        }
        assert!(deleted.are_forgotten(&image, NodeId(1), gone));
        let lost =
            TopicPartition::new(offsets, (0..2).find(|number| leader_of(&image, *number) != Some(NodeId(1))).unwrap());
        machine::apply(&mut image, &Command::NoteLost { partition: lost }).unwrap();
        assert!(!deleted.are_forgotten(&image, NodeId(1), gone));
    }
}

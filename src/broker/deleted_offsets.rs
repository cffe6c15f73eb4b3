//! Committed offsets of topics that were deleted: every coordinator forgets them, and none waits for another.
//!
//! A deleted topic stays listed in the metadata until each has. So a crash, a log that hangs, and one that is still read only
//! put it off: a coordinator hears of all that is listed when it begins. One that hears of a topic again finds nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::admin::OFFSETS_TOPIC;
use crate::group::request::DeletedTopics;
use crate::group::{Caller, GroupError};
use crate::metadata::Image;
use crate::metadata::image::DeletedTopic;
use crate::runtime::clock::Clock;
use crate::runtime::watch;
use crate::types::{TopicId, TopicPartition};

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

/// See the module.
#[derive(Debug)]
pub(super) struct DeletedOffsets {
    listed: watch::Sender<Arc<Listed>>,
    /// Which of them each coordinator has forgotten, by its partition.
    forgotten: Mutex<BTreeMap<TopicPartition, Forgotten>>,
}

impl Default for DeletedOffsets {
    fn default() -> Self {
        Self { listed: watch::Sender::new(Arc::default()), forgotten: Mutex::default() }
    }
}

impl DeletedOffsets {
    /// Tells the coordinators what an image lists.
    pub(super) fn list(&self, image: &Image) {
        let is_name_free = |topic: &Arc<DeletedTopic>| image.topic_named(&topic.name).is_none();
        self.listed.send_if_modified(|listed| {
            let known = listed.iter().map(|(topic_id, gone)| (*topic_id, gone.is_name_free));
            let is_new = !known.eq(image.deleted_topics().map(|topic| (topic.topic_id, is_name_free(topic))));
            if is_new {
                let gone = |topic: &Arc<DeletedTopic>| {
                    (topic.topic_id, Gone { is_name_free: is_name_free(topic), topic: Arc::clone(topic) })
                };
                *listed = Arc::new(image.deleted_topics().map(gone).collect());
            }
            is_new
        });
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

    /// Whether no coordinator has offsets of a deleted topic any more.
    pub(super) fn are_forgotten(&self, image: &Image, topic_id: TopicId) -> bool {
        let Some(offsets) = image.topic_named(OFFSETS_TOPIC) else { return true };
        let forgotten = self.forgotten.lock();
        (0..offsets.partition_count()).all(|partition| {
            let by_one = forgotten.get(&TopicPartition::new(offsets.topic_id, partition));
            by_one.is_some_and(|by_one| by_one.lock().contains(&topic_id))
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
            assert!(!deleted.are_forgotten(&image, gone));
            deleted.begin(partition(index)).lock().insert(gone);
        }
        assert!(deleted.are_forgotten(&image, gone));
        deleted.give_up(partition(1));
        assert!(!deleted.are_forgotten(&image, gone));
        deleted.begin(partition(1)).lock().insert(gone);
        assert!(deleted.are_forgotten(&image, gone));
        deleted.begin(partition(1));
        assert!(!deleted.are_forgotten(&image, gone), "its successor has to, again");
    }
}

//! Committed offsets of topics that were deleted: every coordinator forgets them, and none waits for another.
//!
//! A deleted topic stays listed in the metadata until each has. So a crash, a log that hangs, and one that is still read only
//! put it off: a coordinator hears of all that is listed when it begins. One that hears of a topic again finds nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::admin::OFFSETS_TOPIC;
use crate::group::request::DeletedTopics;
use crate::group::{Caller, GroupError};
use crate::metadata::Image;
use crate::runtime::clock::Clock;
use crate::types::{TopicId, TopicPartition};

/// Pause before a coordinator that can't do it now is told again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A deleted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone {
    name: Arc<str>,
    /// No other topic has the name now: an offset that was committed for the name alone was committed for this one.
    is_name_free: bool,
}

type Listed = BTreeMap<TopicId, Gone>;
type Forgotten = Arc<Mutex<BTreeSet<TopicId>>>;

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
        let gone = image.deleted_topics().map(|topic| {
            let is_name_free = image.topic_named(&topic.name).is_none();
            (topic.topic_id, Gone { name: topic.name.as_str().into(), is_name_free })
        });
        let gone: Listed = gone.collect();
        self.listed.send_if_modified(|listed| {
            let is_new = **listed != gone;
            if is_new {
                *listed = Arc::new(gone);
            }
            is_new
        });
    }

    /// What has the coordinator that begins on a partition forget what is listed, until it ends.
    pub(super) fn follow(
        &self,
        partition: TopicPartition,
        coordinator: Caller,
        clock: Arc<dyn Clock>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let forgotten = Forgotten::default();
        let mut all = self.forgotten.lock();
        // Those of an earlier topic have ended.
        all.retain(|other, _| other.topic_id == partition.topic_id);
        // One that was here before may have forgotten what its successor has again, from the bucket.
        all.insert(partition, Arc::clone(&forgotten));
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
        let due = due(&topics, &forgotten.lock());
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
        *forgotten.lock() = topics.keys().copied().collect();
        tokio::select! {
            biased;
            () = coordinator.ended() => return,
            changed = listed.changed() => if changed.is_err() { return },
        }
    }
}

fn due(listed: &Listed, forgotten: &BTreeSet<TopicId>) -> DeletedTopics {
    let mut due = DeletedTopics::new();
    for (&topic_id, gone) in listed.iter().filter(|(topic_id, _)| !forgotten.contains(topic_id)) {
        let identities = due.entry(Arc::clone(&gone.name)).or_default();
        identities.insert(topic_id);
        if gone.is_name_free {
            identities.insert(TopicId::ZERO);
        }
    }
    due
}

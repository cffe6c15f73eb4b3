//! What the bucket knows beside records, so that a cluster can be restored from it alone: topics and their settings, and how
//! far producer ids were handed out. And the end of deleted topics: their objects go, then the metadata forgets them.
//!
//! Follows the image. What fails is tried again at the next look; a deleted topic stays listed in the metadata until nothing
//! of it is left, so a restart goes on with it.
//!
//! In a cluster one broker does it, the one that keeps house, and describes everything anew when it begins to. Two at once do no
//! harm: the mark of producer ids only rises, and a topic that is being deleted never lives again. A description of an older image
//! could take a newer one's place; so each is made when it is written, by a broker that keeps house then, and what is left is a request
//! that the bucket carries out late.
//!
//! Brokers that are away may have logs of a deleted topic, and learn only by the list that these may go. So a topic stays listed
//! until none has been away for a while: one that has just gone is taken for there, and one that came back has to see the list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Archiver;
use crate::archive::bucket::BucketError;
use crate::archive::cleaner::{self, CleanError};
use crate::archive::manifest::{Hex128, MANIFEST_FORMAT, TopicDescription, TopicState};
use crate::broker::Broker;
use crate::metadata::image::{DeletedTopic, Topic, TopicChange};
use crate::metadata::{Command, Image};
use crate::types::{Monotonic, ProducerId, TopicId};

/// Pause between looks while something is left to do, or another broker keeps house.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// For how many sessions no broker of a cluster may have been away before a deleted topic is forgotten.
const LISTED_SESSIONS: u32 = 2;

impl Broker {
    /// Keeps the bucket's picture of the cluster up to date for as long as the broker runs.
    pub(in crate::broker) async fn describe_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let mut described: Option<Arc<Image>> = None;
        let mut undescribed = BTreeSet::new();
        let mut is_behind_bucket = false;
        let mut purged = BTreeMap::new();
        loop {
            let newest = self.image();
            if !self.keeps_house() {
                described = None;
                undescribed.clear();
                purged.clear();
                archiver.let_go_of_deleted(&newest);
                self.runtime().clock.sleep(RETRY_INTERVAL).await;
                continue;
            }
            match self.describe(&archiver, described.as_deref(), &newest, &mut undescribed).await {
                Ok(Some(mark)) => {
                    described = Some(Arc::clone(&newest));
                    self.heed_producer_ids(mark, &mut is_behind_bucket).await;
                }
                // Another broker keeps house by now.
                Ok(None) => continue,
                Err(error) => tracing::warn!(%error, "the bucket's description of the cluster is behind"),
            }
            let is_behind = described.as_ref().is_none_or(|described| described.version() != newest.version());
            let left = self.bury(&archiver, &newest, &mut purged).await;
            if is_behind || left || !undescribed.is_empty() {
                self.runtime().clock.sleep(RETRY_INTERVAL).await;
            } else {
                self.image_applied.notified().await;
            }
        }
    }

    /// Writes what changed between two images, everything when there is no earlier one, and the topics that were `left` before.
    /// Returns the mark of producer ids that the bucket has; none where another broker has come to keep house meanwhile.
    async fn describe(
        &self,
        archiver: &Archiver,
        before: Option<&Image>,
        after: &Image,
        left: &mut BTreeSet<TopicId>,
    ) -> Result<Option<ProducerId>, BucketError> {
        let changed: Vec<Arc<Topic>> = match before {
            None => after.topics().cloned().collect(),
            Some(before) => after.topic_changes(before).filter_map(living).collect(),
        };
        left.extend(changed.iter().filter(|topic| !topic.internal).map(|topic| topic.topic_id));
        if !left.is_empty() {
            // What a restored cluster says of its topics is not to be changed by one that it took the place of.
            archiver.bucket.check_incarnation(archiver.owner.incarnation).await?;
        }
        for topic_id in left.clone() {
            if !self.keeps_house() {
                return Ok(None);
            }
            // As it is by now: with many topics this takes a while.
            if let Some(topic) = self.image().topic(topic_id) {
                match archiver.bucket.describe_topic(&archiver.description(topic)).await {
                    Ok(()) => {}
                    // So it is for all others.
                    Err(BucketError::Store(error)) if error.is_outage() => return Err(error.into()),
                    Err(error) => {
                        if archiver.complaints.lock().is_due(&topic.name, self.runtime().clock.monotonic()) {
                            tracing::warn!(%error, topic = %topic.name, "the bucket's description of a topic is behind");
                        }
                        continue;
                    }
                }
            }
            left.remove(&topic_id);
        }
        let next = after.next_producer_id();
        match before {
            Some(before) if before.next_producer_id() == next => Ok(Some(next)),
            _ => archiver.bucket.raise_producer_ids(next).await.map(Some),
        }
    }

    /// Passes over producer ids that the bucket knows of and the metadata does not.
    async fn heed_producer_ids(&self, mark: ProducerId, is_behind_bucket: &mut bool) {
        if mark > self.image().next_producer_id() && self.cluster.is_some() {
            // Who kept house before may have told the bucket first.
            self.runtime().clock.sleep(RETRY_INTERVAL).await;
        }
        let ours = self.image().next_producer_id();
        if mark > ours && !std::mem::replace(is_behind_bucket, true) {
            tracing::error!(
                %mark, %ours,
                "the bucket knows of producer ids that this data directory has not given out: it is an old copy, or another process runs on a copy; they are passed over"
            );
        }
        if let Err(error) = self.pass_over_producer_ids(mark).await {
            tracing::warn!(%error, "producer ids that others gave out are not passed over yet");
        }
    }

    /// Deletes what is left of deleted topics; true when there is something to come back for. `purged` are those of which the
    /// bucket has nothing any more, and since when no broker has been away.
    async fn bury(&self, archiver: &Archiver, image: &Image, purged: &mut BTreeMap<TopicId, Monotonic>) -> bool {
        let mut left = false;
        let clock = &self.runtime().clock;
        let misses_directory = image.deleted_topics().next().is_some() && self.misses_directory(image);
        if misses_directory {
            let now = clock.monotonic();
            purged.values_mut().for_each(|since| *since = now);
        }
        let listed_for = self.settings.cluster.as_ref().map(|cluster| cluster.session_timeout * LISTED_SESSIONS);
        for topic in image.deleted_topics() {
            let is_on_disk = self
                .directories()
                .iter()
                .flat_map(|directory| directory.logs())
                .any(|log| log.partition().topic_id == topic.topic_id);
            let result = match is_on_disk {
                true => Ok(false),
                false if purged.contains_key(&topic.topic_id) => Ok(true),
                false => archiver.purge(topic).await.map(|()| {
                    purged.insert(topic.topic_id, clock.monotonic());
                    true
                }),
            };
            let since = purged.get(&topic.topic_id).copied();
            let is_early = since.zip(listed_for).is_some_and(|(since, time)| clock.monotonic().since(since) < time);
            match result {
                // Its logs may be there, and are known by this alone when the directory is back.
                Ok(true) if misses_directory || is_early => left = true,
                // Some coordinator may still have its offsets, and is told of it by this alone after a crash.
                Ok(true) if !self.have_forgotten_offsets(topic.topic_id) => left = true,
                Ok(true) => {
                    purged.remove(&topic.topic_id);
                    if let Err(error) = self.submit(Command::ForgetTopic { topic_id: topic.topic_id }).await {
                        tracing::warn!(%error, topic = %topic.name, "deleted topic is not forgotten yet");
                        left = true;
                    }
                }
                Ok(false) => left = true,
                Err(error) => {
                    tracing::warn!(%error, topic = %topic.name, "deleted topic is not gone from the bucket yet");
                    left = true;
                }
            }
        }
        left
    }

    /// Whether a data directory is not here, or not where another broker has it: one that does not open, or is not configured and has
    /// partitions by the metadata. Or all of a broker's, as it is away.
    fn misses_directory(&self, image: &Image) -> bool {
        let mut partitions = image.topics().flat_map(|topic| &topic.partitions);
        self.unopened_directories().next().is_some()
            || image.brokers().any(|broker| !broker.state.is_active())
            || partitions.any(|partition| !image.offline_nodes(partition).is_empty())
    }
}

impl Archiver {
    /// What a restore needs to create a topic again.
    pub(super) fn description(&self, topic: &Topic) -> TopicDescription {
        TopicDescription {
            partitions: topic.partition_count(),
            configs: topic.configs.values.clone(),
            state: TopicState::Live,
            ..self.unknown(&topic.name, topic.topic_id)
        }
    }

    /// Of a topic of which no more is known, as it is gone.
    fn unknown(&self, name: &str, topic_id: TopicId) -> TopicDescription {
        TopicDescription {
            format: MANIFEST_FORMAT,
            cluster_id: self.bucket.keys().cluster_id(),
            topic: name.to_owned(),
            topic_id,
            partitions: 0,
            configs: BTreeMap::new(),
            state: TopicState::Deleting,
            nonce: Hex128::from_entropy(self.runtime.entropy.identity()),
        }
    }

    /// Lets go of what is held of topics that another broker buries.
    fn let_go_of_deleted(&self, image: &Image) {
        self.partitions.lock().retain(|id, _| image.topic(id.topic_id).is_some());
        self.attempts.lock().retain(|id, _| image.topic(id.topic_id).is_some());
    }

    async fn purge(&self, topic: &DeletedTopic) -> Result<(), CleanError> {
        // The topic may live on in a cluster that was restored meanwhile.
        self.bucket.check_incarnation(self.owner.incarnation).await?;
        self.partitions.lock().retain(|id, _| id.topic_id != topic.topic_id);
        self.attempts.lock().retain(|id, _| id.topic_id != topic.topic_id);
        // One that was never described may be just now, by a request that is still on its way.
        let unknown = || TopicDescription { partitions: topic.partitions, ..self.unknown(&topic.name, topic.topic_id) };
        let description = self.bucket.topic(&topic.name, topic.topic_id).await?.unwrap_or_else(unknown);
        let cleaned = cleaner::purge_topic(&self.bucket, &description).await?;
        self.metrics.archive.deleted_objects.inc_by(cleaned.objects);
        Ok(())
    }
}

fn living(change: TopicChange) -> Option<Arc<Topic>> {
    match change {
        TopicChange::Created(topic) | TopicChange::Changed { after: topic, .. } => Some(topic),
        TopicChange::Deleted(_) => None,
    }
}

//! Which topics and partitions the bucket holds, and which of them can't be told from their heads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures_util::stream::TryStreamExt;

use super::{InspectError, Inspector};
use crate::archive::key::{parse_partition, parse_topic, shown_name};
use crate::archive::manifest::{Head, HeadIdentity, TopicDescription, TopicState, check_identity};
use crate::types::{PartitionIndex, Timestamp, TopicId};

/// The first commit of a partition follows its first upload at once. Objects that have waited for longer than this are no
/// longer taken for one that is under way.
const FIRST_COMMIT_MS: i64 = 10 * 60 * 1000;

/// One archived topic.
#[derive(Clone, Debug)]
pub struct ArchivedTopic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub topic_id: TopicId,
    /// Its description, unless that is missing or can't be read.
    pub description: Option<TopicDescription>,
    /// The heads of its partitions.
    pub heads: BTreeMap<PartitionIndex, Arc<Head>>,
    /// What is wrong with its description and heads that are there and can't be read, by their keys.
    pub unreadable: BTreeMap<String, String>,
}

impl ArchivedTopic {
    fn new(name: String, topic_id: TopicId) -> Self {
        let (heads, unreadable) = (BTreeMap::new(), BTreeMap::new());
        Self { name, topic_id, description: None, heads, unreadable }
    }

    /// Takes the whole name from what is in the bucket, as keys may not show all of it.
    fn name_in_full(&mut self) {
        let described = self.description.iter().map(|description| &description.topic);
        let mut names = described.chain(self.heads.values().map(|head| &head.identity.topic));
        if let Some(name) = names.find(|name| shown_name(name) == self.name) {
            self.name = name.clone();
        }
    }

    fn is(&self, state: TopicState) -> bool {
        self.description.as_ref().is_some_and(|found| found.state == state)
    }

    /// Partitions whose heads can't be read.
    pub fn unreadable_heads(&self) -> impl Iterator<Item = (PartitionIndex, String)> {
        let head = |(key, why): (&String, &String)| {
            parse_partition(key).map(|partition| (partition, format!("{why} key={key}")))
        };
        self.unreadable.iter().filter_map(head)
    }
}

/// Log objects of a partition without a head, which nothing can be read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headless {
    /// The partition.
    pub partition: PartitionIndex,
    /// Where its head should be.
    pub key: String,
    /// How many objects there are.
    pub objects: u64,
    /// When the newest of them was written, where the store tells.
    pub newest: Option<Timestamp>,
    /// They are of more than one segment, and so a head was committed between them.
    pub had_head: bool,
}

impl Headless {
    /// Whether the objects are too old to be of a first upload that is under way.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        self.had_head || self.newest.is_none_or(|newest| now.0.saturating_sub(newest.0) > FIRST_COMMIT_MS)
    }
}

impl fmt::Display for Headless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects without a head: its first upload is under way or broke off, or the head is lost ")?;
        write!(f, "objects={} key={}", self.objects, self.key)
    }
}

impl Inspector {
    /// All topics that are or were archived, by name. What can't be read of one is kept with it.
    pub async fn topics(&self) -> Result<Vec<ArchivedTopic>, InspectError> {
        self.topics_shown(|_| true).await
    }

    /// Those whose keys show such a name; nothing is read of others.
    async fn topics_shown(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<ArchivedTopic>, InspectError> {
        let mut topics: BTreeMap<(String, TopicId), ArchivedTopic> = BTreeMap::new();
        let directory = self.keys.topics();
        let mut objects = self.store.list(&directory);
        while let Some(object) = objects.try_next().await? {
            let Some((name, topic_id)) = parse_topic(&object.key).filter(|(name, _)| is_wanted(name)) else { continue };
            let topic = topics
                .entry((name.to_owned(), topic_id))
                .or_insert_with(|| ArchivedTopic::new(name.to_owned(), topic_id));
            let is_known = match object.key.rsplit('/').next() {
                Some("topic.json") => {
                    self.read(&object.key, TopicDescription::parse).await.map(|found| topic.description = Some(found))
                }
                Some("head.json") => self.head(&object.key, topic_id).await.map(|head| {
                    topic.heads.insert(head.identity.partition, Arc::new(head));
                }),
                _ => continue,
            };
            match is_known {
                Err(InspectError::Manifest { key, source }) => drop(topic.unreadable.insert(key, source.to_string())),
                other => other?,
            }
        }
        let logs = self.keys.logs();
        for directory in self.store.directories(&logs).await? {
            // A topic of which nothing but its records is left.
            if let Some((name, topic_id)) = parse_topic(&format!("{logs}{directory}/"))
                && is_wanted(name)
            {
                let unknown = || ArchivedTopic::new(name.to_owned(), topic_id);
                topics.entry((name.to_owned(), topic_id)).or_insert_with(unknown);
            }
        }
        let mut topics: Vec<ArchivedTopic> = topics.into_values().collect();
        topics.iter_mut().for_each(ArchivedTopic::name_in_full);
        Ok(topics)
    }

    /// The head under a key. One that was put there from elsewhere would hide what belongs there.
    async fn head(&self, key: &str, topic_id: TopicId) -> Result<Head, InspectError> {
        let head = self.read(key, Head::parse_any).await?;
        let partition = parse_partition(key).unwrap_or(head.identity.partition);
        let expected = HeadIdentity { topic_id, partition, ..head.identity.clone() };
        check_identity(&expected, &head.identity)
            .map_err(|source| InspectError::Manifest { key: key.to_owned(), source })?;
        Ok(head)
    }

    /// The topic of this name; of several that had it, one by one, the live one, or else any.
    pub async fn topic(&self, name: &str) -> Result<ArchivedTopic, InspectError> {
        let shown = shown_name(name);
        let topics = self.topics_shown(|found| found == shown).await?;
        let mut found: Vec<ArchivedTopic> = topics.into_iter().filter(|topic| topic.name == name).collect();
        let at = found.iter().position(|topic| topic.is(TopicState::Live)).unwrap_or(0);
        if found.is_empty() {
            return Err(InspectError::NoTopic { topic: name.to_owned() });
        }
        Ok(found.swap_remove(at))
    }

    /// The partitions of a topic that have log objects and no head. None of a deleted topic, whose heads go first.
    pub async fn headless(&self, topic: &ArchivedTopic) -> Result<Vec<Headless>, InspectError> {
        let mut found = Vec::new();
        if topic.is(TopicState::Deleting) || topic.is(TopicState::Purged) {
            return Ok(found);
        }
        let keys = self.keys.topic(&topic.name, topic.topic_id);
        for name in self.store.directories(keys.log_directory()).await? {
            let directory = format!("{}{name}/", keys.log_directory());
            let Some(partition) = parse_partition(&directory) else { continue };
            let partition_keys = keys.partition(partition.0);
            let key = partition_keys.head();
            if topic.heads.contains_key(&partition) || topic.unreadable.contains_key(&key) {
                continue;
            }
            let (mut objects, mut newest, mut bases) = (0, None, BTreeSet::new());
            let mut listing = self.store.list(&directory);
            while let Some(object) = listing.try_next().await? {
                objects += 1;
                newest = newest.max(object.modified);
                bases.extend(partition_keys.parse_segment(&object.key).map(|name| name.base));
            }
            // A head that is there by now was committed during this look.
            if objects > 0 && self.store.get_if_present(&key).await?.is_none() {
                found.push(Headless { partition, key, objects, newest, had_head: bases.len() > 1 });
            }
        }
        Ok(found)
    }
}

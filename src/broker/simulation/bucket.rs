//! What must hold of the bucket after every change, and a whole check of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::TryStreamExt;

use super::{Check, Part, Parts, ensure};
use crate::archive::inspect::Inspector;
use crate::archive::key::{ClusterKeys, PartitionKeys};
use crate::archive::manifest::{Head, Segment};
use crate::archive::store::simulated::{Changed, SimBucket};
use crate::archive::store::{Store, StoreSettings, Unobserved};
use crate::archive::workers::Workers;
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::types::{ClusterId, Offset, Timestamp, TopicPartition};

/// The heads that are in the bucket.
#[derive(Default)]
pub(super) struct Heads {
    heads: BTreeMap<String, (TopicPartition, Arc<Head>)>,
}

impl Heads {
    pub(super) fn of(&self, id: TopicPartition) -> Option<&Arc<Head>> {
        self.heads.values().find(|(of, _)| *of == id).map(|(_, head)| head)
    }

    /// Takes note of changes, and judges them.
    pub(super) fn follow(&mut self, parts: &Parts, changes: Vec<Changed>, now: Timestamp) -> Check {
        for change in changes {
            if change.key.ends_with("/head.json") {
                self.follow_head(parts, &change, now)?;
            } else if change.after.is_none() {
                let keeper = self.heads.values().find(|(_, head)| needs(head).any(|key| key == change.key));
                ensure!(keeper.is_none(), "{} was deleted, and its head names it", change.key);
                let lives =
                    |(id, head): &(TopicPartition, Arc<Head>)| parts.contains_key(id) && beyond(head, &change.key);
                let beyond = self.heads.values().find(|head| lives(head));
                ensure!(beyond.is_none(), "{} was deleted, and its head ends before it", change.key);
            } else if let Some(before) = &change.before {
                let same = change.after.as_ref() == Some(before);
                ensure!(same || !change.key.contains("/log/"), "{} was written twice", change.key);
            }
        }
        Ok(())
    }

    fn follow_head(&mut self, parts: &Parts, change: &Changed, now: Timestamp) -> Check {
        let parse = |bytes: &bytes::Bytes| Head::parse_any(bytes).map_err(|error| format!("{}: {error}", change.key));
        let Some(after) = &change.after else {
            self.heads.remove(&change.key);
            return Ok(());
        };
        let after = parse(after)?;
        let id = TopicPartition::new(after.identity.topic_id, after.identity.partition.0);
        if let Some(before) = &change.before {
            let before = parse(before)?;
            let wrong = |what: &str| Err(format!("{what} of a head: {before:?} and then {after:?}"));
            if after.writer.fence < before.writer.fence || after.generation <= before.generation {
                return wrong("deposed writer or lost change");
            }
            if after.next_offset < before.next_offset || after.log_start_offset < before.log_start_offset {
                return wrong("step back");
            }
        }
        if let Some(part) = parts.get(&id) {
            let mut model = part.model.lock();
            model.let_time_pass(now);
            let (log_start, highest) = (after.log_start_offset, model.highest_log_start());
            model.archive_starts(log_start);
            drop(model);
            ensure!(log_start <= highest, "the archive of {} starts at {log_start}, asked was {highest}", part.name());
        }
        self.heads.insert(change.key.clone(), (id, Arc::new(after)));
        Ok(())
    }

    /// Heads of partitions that nobody has any more. One that lists nothing may be made by a request of the dead that came
    /// after the deletion; it is in nobody's way.
    pub(super) fn strays(&self, parts: &Parts) -> Vec<String> {
        let strays = self.heads.iter().filter(|(_, (id, head))| !parts.contains_key(id) && !head.segments.is_empty());
        strays.map(|(key, _)| key.clone()).collect()
    }

    /// Objects of segments that nothing in the bucket needs. What lies beyond its head stays until that has passed it.
    pub(super) fn orphans(&self, bucket: &SimBucket) -> Vec<String> {
        let known: Vec<String> = self.heads.values().flat_map(|(_, head)| known(head)).collect();
        let is_beyond = |key: &String| self.heads.values().any(|(_, head)| beyond(head, key));
        let mut keys = bucket.keys();
        keys.retain(|key| key.contains("/log/") && !known.contains(key) && !is_beyond(key));
        keys
    }
}

/// Whether an object is of the head's partition, and ends beyond what that has.
fn beyond(head: &Head, key: &str) -> bool {
    keys(head).parse_segment(key).is_some_and(|name| name.next > head.next_offset)
}

fn keys(head: &Head) -> PartitionKeys {
    let identity = &head.identity;
    ClusterKeys::new(identity.cluster_id).topic(&identity.topic, identity.topic_id).partition(identity.partition.0)
}

/// Keys of the objects that readers of a head need.
fn needs(head: &Head) -> impl Iterator<Item = String> + '_ {
    let keys = keys(head);
    let objects = move |segment: &Segment| [keys.parquet(&segment.name), keys.companion(&segment.name)];
    head.segments.iter().filter(|segment| segment.next() > head.log_start_offset).flat_map(objects)
}

/// Keys of all objects that a head knows of.
fn known(head: &Head) -> Vec<String> {
    let keys = keys(head);
    let names = head.known_segments();
    names.iter().flat_map(|name| [keys.parquet(name), keys.companion(name)]).collect()
}

/// Checks the bucket as `archive verify` does, and compares what it holds with the models. Nothing else happens meanwhile.
pub(super) async fn verify(runtime: Runtime, bucket: SimBucket, cluster: ClusterId, parts: Vec<Arc<Part>>) -> Check {
    let store = Store::over(&runtime, Arc::new(bucket), StoreSettings::default(), Arc::new(Unobserved));
    let workers = Workers::start(&*runtime.tasks, "verify", Priority::Background, 1);
    let failed = |error: &dyn std::fmt::Display| format!("archive verify: {error}");
    let inspector = Inspector::open(store, Some(cluster), workers).await.map_err(|error| failed(&error))?;
    for topic in inspector.topics().await.map_err(|error| failed(&error))? {
        ensure!(topic.unreadable.is_empty(), "archive verify: {:?}", topic.unreadable);
        for (index, head) in &topic.heads {
            let Some(part) = parts.iter().find(|part| part.id == TopicPartition::new(topic.topic_id, index.0)) else {
                continue;
            };
            let partition = inspector.partition(&topic, head).await.map_err(|error| failed(&error))?;
            let report = inspector.verify(&partition, |_| {}).await;
            ensure!(report.problems.is_empty(), "archive verify of {}: {:?}", part.name(), report.problems);
            let batches = inspector.batches(&partition, Offset::ZERO).map_ok(|archived| archived.batch);
            let batches: Vec<_> = batches.try_collect().await.map_err(|error| failed(&error))?;
            let Some(first) = batches.first() else { continue };
            let model = part.model.lock();
            let compared = model.check_read(first.header().base_offset, &batches);
            compared.map_err(|error| format!("archive of {}: {error}", part.name()))?;
        }
    }
    Ok(())
}

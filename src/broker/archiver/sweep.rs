//! The loop that looks for orphans: objects that an upload left behind when its process, its leadership or its topic ended.
//!
//! What is safe to delete is told by fences and heads, not by clocks (see [`cleaner`]), so the loop may run at any time and
//! end anywhere. It takes one partition after the other, and a bounded number of objects of each.
//!
//! A partition is swept by the broker that leads it, what deleted topics left by the one that keeps house. Neither is needed to be
//! safe: what may go is read from the bucket each time, and says the same to whoever asks.

use std::sync::Arc;
use std::time::Duration;

use super::Archiver;
use crate::archive::cleaner;
use crate::broker::Broker;
use crate::types::TopicPartition;

impl Broker {
    /// Sweeps for as long as the broker runs, at random times: brokers that start together, or often, neither sweep all at
    /// once nor never.
    pub(in crate::broker) async fn sweep_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        loop {
            archiver.runtime.clock.sleep(archiver.until_next_sweep()).await;
            let objects = self.sweep(&archiver).await;
            if objects > 0 {
                tracing::info!(objects, "orphaned objects were deleted from the archive");
            }
        }
    }

    /// One sweep over all partitions that this broker leads, and over what deleted topics left; returns the objects deleted.
    async fn sweep(&self, archiver: &Archiver) -> u64 {
        let image = self.image();
        let mut objects = 0;
        for topic in image.topics().filter(|topic| !topic.internal) {
            for (partition, index) in topic.partitions.iter().zip(0..) {
                let id = TopicPartition::new(topic.topic_id, index);
                let archive = archiver.partition(id).filter(|_| partition.leader == Some(self.node_id()));
                let Some(archive) = archive else { continue };
                match cleaner::sweep_orphans(&archive).await {
                    Ok(cleaned) => objects += archiver.note_orphans(cleaned.objects),
                    Err(error) => tracing::warn!(%error, partition = %id, "orphaned objects stay until the next sweep"),
                }
                archiver.metrics.archive.swept_partitions.inc();
            }
        }
        if !self.keeps_house() {
            return objects;
        }
        let lives = |topic_id| archiver.image().topic(topic_id).is_some();
        match cleaner::sweep_deleted_topics(&archiver.bucket, lives).await {
            Ok(cleaned) => objects += archiver.note_orphans(cleaned.objects),
            Err(error) => tracing::warn!(%error, "objects of deleted topics stay until the next sweep"),
        }
        objects
    }
}

impl Archiver {
    fn note_orphans(&self, objects: u64) -> u64 {
        self.metrics.archive.orphaned_objects.inc_by(objects);
        self.metrics.archive.deleted_objects.inc_by(objects);
        objects
    }

    /// Anything between now and twice the interval, hence one interval on average.
    fn until_next_sweep(&self) -> Duration {
        let interval_ms = u64::try_from(self.settings.sweep_interval.as_millis()).unwrap_or(u64::MAX / 2);
        Duration::from_millis(self.runtime.entropy.number() % (2 * interval_ms).max(1))
    }
}

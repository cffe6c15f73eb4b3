//! A check of what the bucket holds beside records: what a restore would begin with.

use std::fmt;

use bytes::Bytes;
use futures_util::stream::TryStreamExt;

use super::{ArchivedTopic, InspectError, Inspector};
use crate::archive::key::parse_group_snapshot;
use crate::archive::manifest::{
    ClusterStamp, GroupSnapshotMark, ManifestError, ProducerIdMark, decompress_group_snapshot,
};
use crate::types::ClusterId;

/// What a check of the cluster's own objects covered and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterReport {
    /// Objects read.
    pub objects: u64,
    /// What is wrong, each with its object and what that means.
    pub problems: Vec<String>,
}

impl ClusterReport {
    fn note(&mut self, key: &str, what: impl fmt::Display, so: &str) {
        self.problems.push(format!("{what}: {so} key={key}"));
    }

    /// Parses an object that was read; what is wrong with it is noted.
    fn parsed<T>(
        &mut self,
        key: &str,
        bytes: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, ManifestError>,
        so: &str,
    ) -> Option<T> {
        self.objects += 1;
        parse(bytes).map_err(|error| self.note(key, error, so)).ok()
    }
}

const MISSING: &str = "object is missing";
const NO_STAMP: &str = "whose bucket this is, and in which life of the cluster, can't be told";
const NO_MARK: &str = "a restore could give producer ids out again";
const NO_GROUPS: &str = "a restore would not know where consumers were";
const NO_TOPIC: &str = "a restore would not know of the topic and its settings";
const FOREIGN: &str = "it belongs elsewhere";

impl Inspector {
    /// Checks the cluster's stamp, the mark of producer ids, the snapshots of groups, and that a topic's description and heads
    /// are that topic's. `decode` reads a snapshot of groups, whose format is not the archive's.
    ///
    /// # Errors
    /// [`InspectError`] when the store fails.
    pub async fn verify_cluster<E: fmt::Display>(
        &self,
        topic: &ArchivedTopic,
        decode: impl Fn(&Bytes) -> Result<(), E>,
    ) -> Result<ClusterReport, InspectError> {
        let mut report = ClusterReport::default();
        let stamp = self.small(&self.keys.cluster(), ClusterStamp::parse, NO_STAMP, &mut report).await?;
        self.belongs(&self.keys.cluster(), stamp.map(|stamp| stamp.cluster_id), &mut report);
        let mark = self.small(&self.keys.producer_ids(), ProducerIdMark::parse, NO_MARK, &mut report).await?;
        self.belongs(&self.keys.producer_ids(), mark.map(|mark| mark.cluster_id), &mut report);
        self.verify_groups(decode, &mut report).await?;
        self.verify_identities(topic, &mut report);
        Ok(report)
    }

    async fn verify_groups<E: fmt::Display>(
        &self,
        decode: impl Fn(&Bytes) -> Result<(), E>,
        report: &mut ClusterReport,
    ) -> Result<(), InspectError> {
        let key = self.keys.group_snapshot_mark();
        let mark = self.small(&key, GroupSnapshotMark::parse, NO_GROUPS, report).await?;
        self.belongs(&key, mark.as_ref().map(|mark| mark.cluster_id), report);
        let current = mark.map(|mark| self.keys.group_snapshot(mark.generation, mark.hash));
        let directory = self.keys.group_snapshots();
        let keys: Vec<String> = self.store.list(&directory).map_ok(|object| object.key).try_collect().await?;
        // The one that counts is missed by its name; the older ones are spares, which a running broker drops now and then.
        let older = keys.into_iter().filter(|key| Some(key) != current.as_ref());
        for key in current.iter().cloned().chain(older) {
            let Some((bytes, _)) = self.store.get_if_present(&key).await? else {
                if Some(&key) == current.as_ref() {
                    report.note(&key, MISSING, NO_GROUPS);
                }
                continue;
            };
            let parse = |bytes: &[u8]| match parse_group_snapshot(&key) {
                Some((_, hash)) => decompress_group_snapshot(bytes, hash),
                None => Err(ManifestError::Checksum),
            };
            let Some(snapshot) = report.parsed(&key, &bytes, parse, NO_GROUPS) else { continue };
            if let Err(error) = decode(&snapshot) {
                report.note(&key, error, NO_GROUPS);
            }
        }
        Ok(())
    }

    fn verify_identities(&self, topic: &ArchivedTopic, report: &mut ClusterReport) {
        let keys = self.keys.topic(&topic.name, topic.topic_id);
        let ours = (self.cluster_id(), topic.name.as_str(), topic.topic_id);
        let key = keys.description();
        match &topic.description {
            None => match topic.unreadable.get(&key) {
                Some(error) => report.note(&key, error, NO_TOPIC),
                None => report.note(&key, MISSING, NO_TOPIC),
            },
            Some(found) if (found.cluster_id, found.topic.as_str(), found.topic_id) == ours => {}
            Some(_) => report.note(&key, "object names another topic or cluster", FOREIGN),
        }
        for (partition, head) in &topic.heads {
            let identity = &head.identity;
            let key = keys.partition(partition.0).head();
            if (identity.cluster_id, identity.topic.as_str(), identity.topic_id) != ours {
                report.note(&key, "object names another topic or cluster", FOREIGN);
            }
        }
    }

    fn belongs(&self, key: &str, found: Option<ClusterId>, report: &mut ClusterReport) {
        if let Some(found) = found.filter(|found| *found != self.cluster_id()) {
            report.note(key, format_args!("object names another cluster {found}"), FOREIGN);
        }
    }

    /// Reads a small object; what is wrong with it goes into the report.
    async fn small<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, ManifestError>,
        so: &str,
        report: &mut ClusterReport,
    ) -> Result<Option<T>, InspectError> {
        let Some((bytes, _)) = self.store.get_if_present(key).await? else {
            report.note(key, MISSING, so);
            return Ok(None);
        };
        Ok(report.parsed(key, &bytes, parse, so))
    }
}

//! The first broker of a restored cluster: its data directories, and metadata that say what the bucket says.
//!
//! What a running broker needs to go on from the archive it does itself, as it does after a lost data directory: a log that does not
//! hold what the metadata knows to be archived is continued where its head ends (`archiver::catch_up`), and committed offsets that
//! are noted as lost come from the bucket's snapshot (`archiver::lost_offsets`). So it is enough to note both.

use std::collections::BTreeMap;

use futures_util::stream::{StreamExt, TryStreamExt};

use super::RestoreError;
use super::plan::{Plan, mark};
use crate::broker::BrokerSettings;
use crate::broker::admin::{OFFSETS_TOPIC, offsets_configs};
use crate::broker::start::METADATA_DIRECTORY;
use crate::log::{DirectoryMetrics, LogDirectory, Owner};
use crate::metadata::command::{CreateTopic, Endpoint, RegisterBroker, SecurityProtocol};
use crate::metadata::{Command, CommandError, Metadata, MetadataSettings, MetadataStore, placement};
use crate::runtime::Runtime;
use crate::telemetry::{MemoryShare, Metrics};
use crate::types::{
    BrokerIncarnationId, ClusterId, DirectoryId, Incarnation, LeaderEpoch, ProducerId, TopicId, TopicPartition,
};

/// Commands that are under way at once; they share the metadata's syncs.
const AT_ONCE: usize = 256;

/// What the metadata begin with.
pub(super) struct Founding<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) settings: &'a BrokerSettings,
    pub(super) cluster_id: ClusterId,
    pub(super) incarnation: Incarnation,
    pub(super) next_producer_id: ProducerId,
    pub(super) plan: &'a Plan,
    /// Whether the bucket has committed offsets.
    pub(super) has_groups: bool,
}

fn refused(what: impl Into<String>) -> impl FnOnce(CommandError) -> RestoreError {
    let what = what.into();
    move |error| RestoreError::Refused { what, error }
}

impl Founding<'_> {
    /// Makes the data directories and the metadata. They are empty before.
    pub(super) async fn found(&self, metrics: &Metrics) -> Result<(), RestoreError> {
        let directories = self.make_directories(metrics)?;
        let (path, node_id) = (self.settings.directories[0].join(METADATA_DIRECTORY), self.settings.node_id);
        let store = MetadataStore::found(self.runtime, &path, node_id, self.cluster_id).await?;
        let metadata = Metadata::start(self.runtime, &path, store, MetadataSettings::new(node_id), None).await?;
        let filled = self.fill(&metadata, &directories).await;
        metadata.shutdown().await;
        filled
    }

    fn make_directories(&self, metrics: &Metrics) -> Result<Vec<DirectoryId>, RestoreError> {
        let (cluster_id, node_id, incarnation) = (self.cluster_id, self.settings.node_id, self.incarnation);
        let owner = Owner { cluster_id, node_id, incarnation };
        let make = |path: &std::path::PathBuf| {
            let tail_bytes = metrics.memory.used_bytes.of(MemoryShare::Tail).clone();
            let metrics = DirectoryMetrics { journal: metrics.journal.clone(), log: metrics.log.clone(), tail_bytes };
            let (directory, _) = LogDirectory::open(self.runtime, path, owner, self.settings.directory, metrics)
                .map_err(|error| RestoreError::Directory { path: path.clone(), error })?;
            let directory_id = directory.identity().directory_id;
            directory.close();
            Ok::<_, RestoreError>(directory_id)
        };
        self.settings.directories.iter().map(make).collect()
    }

    async fn fill(&self, metadata: &Metadata, directories: &[DirectoryId]) -> Result<(), RestoreError> {
        let (incarnation, next_producer_id) = (self.incarnation, self.next_producer_id);
        let begin = Command::BeginIncarnation { incarnation, next_producer_id };
        metadata.submit(begin).await.map_err(refused("its incarnation"))?;
        self.register(metadata, directories, None).await?;
        for topic in &self.plan.deleted {
            // The broker goes on with the deletion of what the metadata lists as deleted.
            self.create(metadata, &topic.name, topic.topic_id, 1, BTreeMap::new(), false).await?;
            let delete = Command::DeleteTopic { topic_id: topic.topic_id };
            metadata.submit(delete).await.map_err(refused(format!("the deletion of topic {}", topic.name)))?;
        }
        for topic in &self.plan.topics {
            let configs = topic.configs.clone();
            self.create(metadata, &topic.name, topic.topic_id, topic.partitions, configs, false).await?;
        }
        let lost = self.lost_offsets(metadata).await?;
        // What is led from here on is led in epochs that nobody has seen.
        self.register(metadata, directories, Some(self.plan.newest_leader_epoch())).await?;
        let archived = self.plan.topics.iter().flat_map(|topic| {
            topic.heads.iter().filter_map(move |(number, head)| {
                let partition = TopicPartition::new(topic.topic_id, number.get());
                mark(head).map(|mark| Command::NoteArchiving { partition, mark })
            })
        });
        let notes = lost.into_iter().map(|partition| Command::NoteLost { partition }).chain(archived);
        let noted = futures_util::stream::iter(notes).map(|note| metadata.submit(note)).buffer_unordered(AT_ONCE);
        noted.try_for_each(|_| std::future::ready(Ok(()))).await.map_err(refused("what is archived"))
    }

    /// Announces this broker. Where clients and other brokers reach it they hear from the process that serves.
    async fn register(
        &self,
        metadata: &Metadata,
        directories: &[DirectoryId],
        newest_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<(), RestoreError> {
        let security_protocol = SecurityProtocol::Plaintext;
        let nowhere = Endpoint { host: "localhost".to_owned(), port: 0, security_protocol };
        let command = Command::RegisterBroker(RegisterBroker {
            cluster_id: self.cluster_id,
            node_id: self.settings.node_id,
            incarnation_id: BrokerIncarnationId::from_entropy(self.runtime.entropy.identity()),
            listeners: BTreeMap::from([("restore".to_owned(), nowhere)]),
            rack: self.settings.rack.clone(),
            directories: directories.to_vec(),
            newest_leader_epoch,
            missed_registrations: 0,
            peer: None,
            starts_fenced: false,
            may_have_lost_unsynced: false,
        });
        metadata.submit(command).await.map(drop).map_err(refused("this broker"))
    }

    async fn create(
        &self,
        metadata: &Metadata,
        name: &str,
        topic_id: TopicId,
        partitions: i32,
        configs: BTreeMap<String, String>,
        internal: bool,
    ) -> Result<(), RestoreError> {
        let what = format!("topic {name}");
        let placed = placement::place(&metadata.image(), partitions, 1);
        let assignment = placed.map_err(|error| refused(what.clone())(error.into()))?;
        let command = CreateTopic { name: name.to_owned(), topic_id, assignment, configs, internal };
        metadata.submit(Command::CreateTopic(command)).await.map(drop).map_err(refused(what))
    }

    /// Makes the topic of committed offsets, where there are any, and gives its partitions, all of which lack theirs.
    async fn lost_offsets(&self, metadata: &Metadata) -> Result<Vec<TopicPartition>, RestoreError> {
        if !self.has_groups {
            return Ok(Vec::new());
        }
        let (partitions, topic_id) =
            (self.settings.topics.offsets_partitions, TopicId::from_entropy(self.runtime.entropy.identity()));
        self.create(metadata, OFFSETS_TOPIC, topic_id, partitions, offsets_configs(), true).await?;
        Ok((0..partitions).map(|number| TopicPartition::new(topic_id, number)).collect())
    }
}

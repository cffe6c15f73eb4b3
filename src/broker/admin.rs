//! Changes that administrators ask for: topics, partitions, configurations, and records to be deleted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;

use super::Broker;
use super::cluster_admin::default_replication_factor;
use super::error::PartitionError;
use super::partitions::Leader;
use crate::log::AppendError;
use crate::metadata::command::{Assignment, CreatePartitions, CreateTopic, ReplicaPlace};
use crate::metadata::config_definition::ConfigError;
use crate::metadata::image::{Configs, Topic};
use crate::metadata::machine::check_new_name;
use crate::metadata::topic_config::{ConfigOperation, TopicKind};
use crate::metadata::{Command, CommandError, Image, Rejection, broker_config, placement, topic_config, topic_name};
use crate::runtime::clock;
use crate::types::{NodeId, Offset, TopicId};

/// With a single replica Kafka deletes records at once, whatever the client says; here that is a sync of the journal.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The topic that holds committed offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Names of topics that Kafka's brokers keep for themselves and this one does not have yet.
const RESERVED_TOPICS: [&str; 3] = ["__transaction_state", "__share_group_state", "__cluster_metadata"];
/// Size at which its segments are sealed. The coordinators rewrite their live state long before, and what they passed goes by
/// whole segments: this bounds the disk that each of its partitions takes.
pub const OFFSETS_SEGMENT_BYTES: u32 = 16 << 20;

/// An administrative request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// The metadata quorum refuses it, or can't be reached.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No topic has this name.
    #[error("no such topic")]
    UnknownTopic,
    /// No topic has this identity.
    #[error("no topic has this identity")]
    UnknownTopicId,
    /// The time that the client gives its request was over when it came.
    #[error("the request has no time to be done in; give it a timeout above 0")]
    NoTime,
    /// One request asks for too much.
    #[error("one request asks for too many partitions requested={requested} limit={limit}; ask in several")]
    TooManyAtOnce {
        /// Partitions that it asks for.
        requested: u64,
        /// The limit.
        limit: u64,
    },
    /// A configuration was given no value.
    #[error("a configuration value can't be null")]
    NullConfig,
    /// The request contradicts itself; the text is for the client.
    #[error("{0}")]
    Invalid(&'static str),
    /// The partitions of a manual assignment are wrong; the text is for the client.
    #[error("{0}")]
    InvalidAssignment(String),
    /// There are that many partitions already, or more.
    #[error("the topic already has {existing} partition(s), so it can't have {requested}")]
    NotMorePartitions {
        /// Partitions now.
        existing: i32,
        /// Partitions asked for.
        requested: i32,
    },
    /// The topic is one of the broker's own: which of its partitions a group belongs to follows from their number.
    #[error("the topic is internal, and has {existing} partition(s)")]
    FixedPartitions {
        /// Partitions that it has, or will have.
        existing: i32,
    },
    /// The metadata would grow on a disk of which only the reserve is left, which it may need for what is there.
    #[error("only the reserve of the metadata's disk is left; free space, and try again")]
    DiskFull,
    /// The broker would hold more partitions than it may.
    #[error("the broker would hold more partitions than it may requested={requested} limit={limit}")]
    TooManyPartitions {
        /// Partitions that there would be.
        requested: u64,
        /// The limit.
        limit: usize,
    },
}

impl From<Rejection> for AdminError {
    fn from(rejection: Rejection) -> Self {
        Self::Command(rejection.into())
    }
}

/// What a configuration belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, or with none the default of all brokers.
    Broker(Option<NodeId>),
}

/// A change of configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEdit {
    /// Single operations (IncrementalAlterConfigs).
    Operations(Vec<(String, ConfigOperation)>),
    /// The whole (AlterConfigs).
    Replace(BTreeMap<String, String>),
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions; −1 for the broker's default. Ignored beside an assignment.
    pub partitions: i32,
    /// Replicas of each partition; −1 for the broker's default. Ignored beside an assignment.
    pub replication_factor: i16,
    /// Partitions with the brokers of each, or empty for the broker's choice.
    pub assignment: Vec<(i32, Vec<NodeId>)>,
    /// Configuration of its own.
    pub configs: BTreeMap<String, String>,
    /// Another configuration was named without a value.
    pub has_null_config: bool,
}

impl NewTopic {
    /// A topic with all of the broker's defaults.
    pub fn by_default(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignment: Vec::new(),
            configs: BTreeMap::new(),
            has_null_config: false,
        }
    }
}

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicName {
    /// By its name.
    Name(String),
    /// By its identity.
    Id(TopicId),
}

impl Broker {
    /// Creates a topic, or only checks whether it could be.
    ///
    /// # Errors
    /// [`AdminError`]; nothing was created.
    pub async fn create_topic(&self, topic: NewTopic, validate_only: bool) -> Result<Arc<Topic>, AdminError> {
        if topic.name == OFFSETS_TOPIC {
            let own = self.new_offsets_topic();
            let asked = if topic.assignment.is_empty() { topic.partitions } else { own.partitions };
            if asked != -1 && asked != own.partitions {
                return Err(AdminError::FixedPartitions { existing: own.partitions });
            }
            return self.create(own, TopicKind::Internal, validate_only).await;
        }
        if RESERVED_TOPICS.contains(&&*topic.name) {
            return Err(AdminError::Invalid("the name is kept for a topic of the broker's own"));
        }
        self.create(topic, TopicKind::Ordinary, validate_only).await
    }

    /// How committed offsets are kept, whoever asks for the topic first.
    fn new_offsets_topic(&self) -> NewTopic {
        NewTopic {
            partitions: self.settings.topics.offsets_partitions,
            configs: offsets_configs(),
            ..NewTopic::by_default(OFFSETS_TOPIC)
        }
    }

    /// The topic of committed offsets, created when it is not there yet.
    ///
    /// # Errors
    /// [`AdminError`] when it can't be created.
    pub async fn offsets_topic(&self) -> Result<Arc<Topic>, AdminError> {
        if let Some(topic) = self.image().topic_named(OFFSETS_TOPIC) {
            self.coordinate();
            return Ok(Arc::clone(topic));
        }
        let topic = match self.create(self.new_offsets_topic(), TopicKind::Internal, false).await {
            // Somebody else was faster.
            Err(AdminError::Command(CommandError::Rejected(Rejection::TopicExists { .. }))) => {
                self.image().topic_named(OFFSETS_TOPIC).cloned().ok_or(AdminError::UnknownTopic)?
            }
            created => created?,
        };
        self.coordinate();
        Ok(topic)
    }

    /// A topic that a client asked for and that is created if there is none, as far as that is allowed.
    ///
    /// # Errors
    /// [`AdminError`]; among others for an illegal name.
    pub async fn auto_create_topic(&self, name: &str) -> Result<Arc<Topic>, AdminError> {
        if name == OFFSETS_TOPIC {
            return self.offsets_topic().await;
        }
        match self.create_topic(NewTopic::by_default(name), false).await {
            Err(AdminError::Command(CommandError::Rejected(Rejection::TopicExists { .. }))) => {
                self.image().topic_named(name).cloned().ok_or(AdminError::UnknownTopic)
            }
            created => created,
        }
    }

    async fn create(&self, topic: NewTopic, kind: TopicKind, validate_only: bool) -> Result<Arc<Topic>, AdminError> {
        let image = self.image();
        // In Kafka's order: the name, the configuration, and then where the partitions are to be.
        check_new_name(&image, &topic.name)?;
        if topic.has_null_config {
            return Err(AdminError::NullConfig);
        }
        let configs = topic_config::create(&topic.configs, kind, &self.layers(&image))?;
        let assignment = self.place_topic(&image, &topic)?;
        if kind != TopicKind::Internal {
            self.check_disk()?;
        }
        self.check_room(&image, assignment.len())?;
        let command = CreateTopic {
            name: topic.name,
            topic_id: TopicId::from_entropy(self.runtime.entropy.identity()),
            assignment,
            configs,
            internal: kind == TopicKind::Internal,
        };
        if validate_only {
            let mut trial = Image::clone(&image);
            let topic_id = command.topic_id;
            crate::metadata::machine::apply(&mut trial, &Command::CreateTopic(command))?;
            return trial.topic(topic_id).cloned().ok_or(AdminError::UnknownTopic);
        }
        let (name, topic_id) = (command.name.clone(), command.topic_id);
        self.submit(Command::CreateTopic(command)).await?;
        tracing::info!(topic = name, %topic_id, "topic created");
        self.image().topic(topic_id).cloned().ok_or(AdminError::UnknownTopic)
    }

    fn place_topic(&self, image: &Image, topic: &NewTopic) -> Result<Assignment, AdminError> {
        if !topic.assignment.is_empty() {
            if topic.partitions != -1 || topic.replication_factor != -1 {
                return Err(AdminError::Invalid(
                    "partitions and replication factor must be -1 where replicas are assigned by hand",
                ));
            }
            let mut assigned: Vec<_> = topic.assignment.iter().collect();
            assigned.sort_by_key(|(index, _)| *index);
            // A partition that is assigned twice has no place in it either.
            if !assigned.iter().map(|(index, _)| *index).eq(0..i32::try_from(assigned.len()).unwrap_or(0)) {
                return Err(AdminError::InvalidAssignment(
                    "partitions should be a consecutive 0-based integer sequence".to_owned(),
                ));
            }
            return assigned.into_iter().zip(0..).map(|((_, nodes), number)| assign(image, nodes, number)).collect();
        }
        let partitions = match topic.partitions {
            -1 => self.settings.topics.default_partitions,
            number => number,
        };
        let replication_factor = match topic.replication_factor {
            -1 => default_replication_factor(image),
            number => number,
        };
        Ok(placement::place(image, partitions, replication_factor)?)
    }

    /// Leaves the reserve of the metadata's disk to what is there.
    fn check_disk(&self) -> Result<(), AdminError> {
        let of_metadata = |path: &Path| self.settings.directories.first().is_some_and(|first| first == path);
        let mut directories = self.directories().iter().filter(|directory| of_metadata(directory.path()));
        if directories.any(|directory| directory.holds_producers()) { Err(AdminError::DiskFull) } else { Ok(()) }
    }

    fn check_room(&self, image: &Image, more: usize) -> Result<(), AdminError> {
        let limit = self.settings.topics.max_partitions;
        let requested = image.partition_count() + more as u64;
        if requested > limit as u64 {
            return Err(AdminError::TooManyPartitions { requested, limit });
        }
        Ok(())
    }

    /// Deletes a topic. Its records can't be read from then on; files and archived objects go later.
    ///
    /// # Errors
    /// [`AdminError`]; nothing was deleted.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<Arc<Topic>, AdminError> {
        let image = self.image();
        let found = match topic {
            TopicName::Name(name) => image.topic_named(name).ok_or(AdminError::UnknownTopic)?,
            TopicName::Id(topic_id) => image.topic(*topic_id).ok_or(AdminError::UnknownTopicId)?,
        };
        self.submit(Command::DeleteTopic { topic_id: found.topic_id }).await?;
        tracing::info!(topic = %found.name, topic_id = %found.topic_id, "topic deleted");
        Ok(Arc::clone(found))
    }

    /// Raises the number of a topic's partitions, or only checks whether that could be done.
    ///
    /// # Errors
    /// [`AdminError`]; nothing was changed.
    pub async fn create_partitions(
        &self,
        name: &str,
        count: i32,
        assignment: Option<Vec<Vec<NodeId>>>,
        validate_only: bool,
    ) -> Result<(), AdminError> {
        let image = self.image();
        let topic = image.topic_named(name).ok_or(AdminError::UnknownTopic)?;
        let existing = topic.partition_count();
        if topic.internal {
            return Err(AdminError::FixedPartitions { existing });
        }
        if count <= existing {
            return Err(AdminError::NotMorePartitions { existing, requested: count });
        }
        let added = count - existing;
        let replicas = topic.partition(0).map_or(1, |partition| partition.replicas.len());
        let assignment = match assignment {
            Some(assignment) if i32::try_from(assignment.len()) != Ok(added) => {
                let text = format!("{added} partitions are added, but {} are assigned", assignment.len());
                return Err(AdminError::InvalidAssignment(text));
            }
            Some(assignment) => {
                let wrong = assignment.iter().find(|nodes| nodes.len() != replicas);
                if let Some(wrong) = wrong {
                    let text = format!("a partition is given {} replica(s), but others have {replicas}", wrong.len());
                    return Err(AdminError::InvalidAssignment(text));
                }
                let assigned = assignment.iter().zip(0..).map(|(nodes, number)| assign(&image, nodes, number));
                assigned.collect::<Result<_, _>>()?
            }
            None => placement::place(&image, added, i16::try_from(replicas).unwrap_or(i16::MAX))?,
        };
        self.check_disk()?;
        self.check_room(&image, assignment.len())?;
        let mut logs = self.directories().iter().flat_map(|directory| directory.logs());
        if logs.any(|log| log.partition().topic_id == topic.topic_id && image.partition(log.partition()).is_none()) {
            return Err(AdminError::Invalid(
                "logs of such partitions are there which the metadata does not know; move them away, the broker's log names them",
            ));
        }
        let command = CreatePartitions { topic_id: topic.topic_id, existing, assignment };
        if validate_only {
            crate::metadata::machine::apply(&mut Image::clone(&image), &Command::CreatePartitions(command))?;
            return Ok(());
        }
        self.submit(Command::CreatePartitions(command)).await?;
        Ok(())
    }

    /// Changes configurations, or only checks whether that could be done. A change by somebody else at the same time is taken
    /// in and the edit resolved again.
    ///
    /// # Errors
    /// [`AdminError`]; nothing was changed.
    pub async fn alter_configs(
        &self,
        resource: &ConfigResource,
        edit: &ConfigEdit,
        validate_only: bool,
    ) -> Result<(), AdminError> {
        let resolve = |image: &Image| self.resolve_configs(image, resource, edit);
        if validate_only {
            return resolve(&self.image()).map(|_| ());
        }
        self.timed(self.metadata.submit_resolved(resolve)).await.map(|_| ())
    }

    fn resolve_configs(
        &self,
        image: &Image,
        resource: &ConfigResource,
        edit: &ConfigEdit,
    ) -> Result<Command, AdminError> {
        let layers = self.layers(image);
        match resource {
            ConfigResource::Topic(name) => {
                // In Kafka's order: what is wrong with the values comes before there is no such topic.
                let (topic, none) = (image.topic_named(name), Configs::default());
                let kind = if topic.is_some_and(|it| it.internal) { TopicKind::Internal } else { TopicKind::Ordinary };
                let current = topic.map_or(&none, |topic| &topic.configs);
                let change = match edit {
                    ConfigEdit::Operations(edits) => topic_config::alter(current, edits, kind, &layers),
                    ConfigEdit::Replace(values) => topic_config::replace(current, values, kind, &layers),
                };
                if !matches!(change, Err(ConfigError::NotAList { .. } | ConfigError::TooLong)) {
                    check_config_topic(name)?;
                }
                let (change, topic) = (change?, topic.ok_or(AdminError::UnknownTopic)?);
                Ok(Command::AlterTopicConfigs { topic_id: topic.topic_id, change })
            }
            ConfigResource::Broker(node_id) => {
                let current = image.broker_configs(*node_id).map(|configs| Configs::clone(configs)).unwrap_or_default();
                let change = match edit {
                    ConfigEdit::Operations(edits) => broker_config::alter(*node_id, &current, edits, &layers)?,
                    ConfigEdit::Replace(values) => broker_config::replace(*node_id, &current, values)?,
                };
                Ok(Command::AlterBrokerConfigs { node_id: *node_id, change })
            }
        }
    }

    /// Makes the records before `offset` unreadable, for good (DeleteRecords); −1 stands for the high watermark. Gives the first
    /// readable offset then, once all replicas that are in sync have deleted them too: whoever leads next does not serve them again.
    ///
    /// # Errors
    /// [`PartitionError`]; after [`PartitionError::TimedOut`] they may or may not be deleted.
    pub async fn delete_records(
        &self,
        leader: &Leader,
        offset: Offset,
        timeout: Duration,
    ) -> Result<Offset, PartitionError> {
        let log = leader.partition.log();
        let offsets = log.offsets();
        let offset = if offset == Offset(-1) { offsets.high_watermark } else { offset };
        if offset < Offset::ZERO || offset > offsets.high_watermark {
            return Err(PartitionError::OutOfRange { offset, high_watermark: offsets.high_watermark });
        }
        let advance = async {
            let log_start = leader.advance_log_start(offset).await?;
            match leader.partition.deleted_below(leader.epoch, offset).await {
                true => Ok(log_start),
                false => Err(PartitionError::NotLeader { leader: None }),
            }
        };
        let timeout = timeout.max(LEAST_PATIENCE);
        clock::timeout(&*self.runtime.clock, timeout, advance).await.unwrap_or(Err(PartitionError::TimedOut))
    }
}

impl Leader {
    /// Moves the first readable offset up to `offset`, and waits until that is durable. Gives what it is then.
    pub(super) async fn advance_log_start(&self, offset: Offset) -> Result<Offset, PartitionError> {
        let log = self.partition.log();
        log.advance_log_start(offset)?;
        loop {
            let notify = Arc::new(Notify::new());
            log.watch(&notify);
            let log_start = log.offsets().log_start;
            if log_start >= offset {
                return Ok(log_start);
            }
            if log.is_deleted() {
                return Err(AppendError::Deleted.into());
            }
            let directory = self.partition.directory();
            if directory.is_offline() {
                return Err(AppendError::Offline { directory_id: directory.identity().directory_id }.into());
            }
            notify.notified().await;
        }
    }
}

/// Whether a topic of this name may have configurations (`ControllerConfigurationValidator.validateTopicName`).
/// What is configured for the topic of committed offsets.
pub(super) fn offsets_configs() -> BTreeMap<String, String> {
    let segment_bytes = OFFSETS_SEGMENT_BYTES.to_string();
    let configs =
        [("cleanup.policy", "compact"), ("remote.storage.enable", "false"), ("segment.bytes", &segment_bytes)];
    configs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn check_config_topic(name: &str) -> Result<(), AdminError> {
    if name.is_empty() {
        return Err(AdminError::Invalid("Default topic resources are not allowed."));
    }
    Ok(topic_name::validate(name)?)
}

/// The replicas of one partition by hand, of those that are made at once; which data directory of each broker is the broker's
/// choice.
fn assign(image: &Image, nodes: &[NodeId], number: usize) -> Result<Vec<ReplicaPlace>, AdminError> {
    let unknown = |node_id: &NodeId| AdminError::InvalidAssignment(format!("there is no broker {node_id}"));
    let brokers = nodes.iter().map(|node_id| image.broker(*node_id).ok_or_else(|| unknown(node_id)));
    let brokers: Vec<_> = brokers.collect::<Result<_, _>>()?;
    if !brokers.is_empty() && !brokers.iter().any(|broker| broker.state.is_active()) {
        let text = "all brokers that are named for a partition are fenced, or about to shut down";
        return Err(AdminError::InvalidAssignment(text.to_owned()));
    }
    let turn = usize::try_from(image.partition_count()).unwrap_or(0) + number;
    let place = |broker: &Arc<crate::metadata::image::Broker>| ReplicaPlace {
        node_id: broker.node_id,
        directory: broker.directories[turn % broker.directories.len()],
    };
    Ok(brokers.into_iter().map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{machine, testing};

    #[test]
    fn replicas_that_are_placed_by_hand_are_on_brokers_of_which_one_could_lead() {
        let mut image = testing::image_with_brokers(&[(1, "a"), (2, "b"), (3, "c")]);
        let assigned = |image: &Image, nodes: &[i32]| {
            let nodes: Vec<_> = nodes.iter().map(|node| NodeId(*node)).collect();
            let places = assign(image, &nodes, 0);
            places.map(|places| places.iter().map(|place| place.node_id.get()).collect::<Vec<_>>())
        };
        assert_eq!(assigned(&image, &[3, 1, 2]), Ok(vec![3, 1, 2]));
        assert!(matches!(assigned(&image, &[1, 4]), Err(AdminError::InvalidAssignment(_))));
        for node in [1, 2] {
            let broker_epoch = image.broker(NodeId(node)).unwrap().epoch;
            machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
        }
        assert_eq!(assigned(&image, &[1, 3]), Ok(vec![1, 3]));
        assert!(matches!(assigned(&image, &[1, 2]), Err(AdminError::InvalidAssignment(_))));
    }
}

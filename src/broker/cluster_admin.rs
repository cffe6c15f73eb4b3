//! Changes of the cluster that administrators ask for: leaders, places of replicas, the quorum's voters, and brokers that are
//! gone for good.
//!
//! Called by `server`. What is asked for is looked at in the image first, for Kafka's errors, and then decided by commands, of
//! which the metadata alone keeps what came of them: after a crash there is nothing here to resume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use thiserror::Error;

use super::Broker;
use crate::metadata::command::{Election, ReplicaPlace};
use crate::metadata::image::{BrokerState, Partition};
use crate::metadata::{Command, CommandError, Image, MemberChange, MemberError, QuorumStatus, Rejection};
use crate::types::{DirectoryId, NodeId, TopicPartition};

/// Replicas of a partition where nobody says how many, as far as there are brokers; told as `default.replication.factor`.
const MAX_DEFAULT_REPLICATION_FACTOR: usize = 3;
/// Elections of one command: many at a time, in an entry that still is small.
const ELECTIONS_AT_ONCE: usize = 1000;
/// Reassignments that are submitted at a time; they share log entries.
const REASSIGNMENTS_AT_ONCE: usize = 256;
/// Partitions that one request may move, as in Apache Kafka (`QuorumController.MAX_RECORDS_PER_USER_OP`).
pub const MAX_REASSIGNMENTS: usize = 10_000;

/// A change of the cluster is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// The metadata quorum refuses it, or can't be reached.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The quorum's members can't be changed like that.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The time that the client gives its request is over.
    #[error("the request's time is over; what is left can be asked for again")]
    NoTime,
    /// No topic has this name, or the topic has no such partition.
    #[error("no such topic or partition")]
    UnknownPartition,
    /// There is a leader, or the preferred one leads.
    #[error("the partition has the leader that it is to have")]
    ElectionNotNeeded,
    /// The preferred leader can't lead.
    #[error("the preferred leader is not in sync, or not available")]
    NoPreferredLeader,
    /// Nobody can lead.
    #[error("no replica of the partition is available")]
    NoEligibleLeader,
    /// There is nothing to cancel.
    #[error("the replicas of the partition are not being moved")]
    NoReassignment,
    /// The new places of a partition's replicas are wrong; the text is for the client.
    #[error("{0}")]
    InvalidTarget(String),
    /// The number of replicas would change, which the client rules out.
    #[error("the partition has {current} replica(s) and would have {requested}, but the number is not to change")]
    FactorChange {
        /// Replicas that it has, or will have after the reassignment that is under way.
        current: usize,
        /// Replicas asked for.
        requested: usize,
    },
    /// One request asks for too much.
    #[error(
        "one request asks for too many partitions requested={requested} limit={limit}; ask in several",
        limit = MAX_REASSIGNMENTS
    )]
    TooManyAtOnce {
        /// Partitions that it asks for.
        requested: usize,
    },
    /// The voter's directory is another one.
    #[error("the node's metadata is in another directory node_id={node_id} directory_id={directory_id}")]
    OtherDirectory {
        /// The node.
        node_id: NodeId,
        /// The directory that holds its metadata.
        directory_id: DirectoryId,
    },
}

impl From<Rejection> for ClusterError {
    fn from(rejection: Rejection) -> Self {
        Self::Command(rejection.into())
    }
}

/// New places for the replicas of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The brokers, preferred leader first; none takes back what is under way.
    pub target: Option<Vec<NodeId>>,
}

/// Replicas of a partition where nobody says how many: of those who are there, none has to wait for one that is not.
pub(super) fn default_replication_factor(image: &Image) -> i16 {
    let active = image.brokers().filter(|broker| broker.state.is_active()).count();
    i16::try_from(active.clamp(1, MAX_DEFAULT_REPLICATION_FACTOR)).expect("a default of a few replicas")
}

impl Broker {
    /// The broker that clients are told to be the controller: any one would do, since all take what is meant for it. The leader of
    /// the metadata, where it is a broker that is alive, takes the shortest way.
    pub fn controller(&self, image: &Image) -> NodeId {
        let is_alive = |leader: &NodeId| image.broker(*leader).is_some_and(|it| it.state == BrokerState::Active);
        self.metadata.leader().filter(is_alive).unwrap_or(self.node_id())
    }

    /// What the leader of the metadata knows of the quorum; none while there is none.
    pub async fn quorum_status(&self) -> Option<QuorumStatus> {
        self.metadata.quorum_status().await
    }

    /// Whether another is to lead a partition, by an image.
    pub fn needs_election(image: &Image, id: TopicPartition, how: Election) -> bool {
        check_election(image, id, how).is_ok()
    }

    /// Elects leaders, of each partition one result in the same order. On return this broker's image has the leaders that were
    /// elected.
    pub async fn elect_leaders(
        &self,
        partitions: &[TopicPartition],
        how: Election,
        timeout: Duration,
    ) -> Vec<Result<(), ClusterError>> {
        let (image, clock) = (self.image(), &self.runtime.clock);
        let began = clock.monotonic();
        let mut results: Vec<_> = partitions.iter().map(|id| check_election(&image, *id, how)).collect();
        let wanted: Vec<usize> = (0..partitions.len()).filter(|&at| results[at].is_ok()).collect();
        for places in wanted.chunks(ELECTIONS_AT_ONCE) {
            let elected = match clock.monotonic().since(began) < timeout {
                true => self.elect(places.iter().map(|&at| partitions[at]).collect(), how).await,
                false => vec![Err(ClusterError::NoTime); places.len()],
            };
            assert_eq!(elected.len(), places.len(), "an election has one outcome for each partition");
            for (&at, result) in places.iter().zip(elected) {
                results[at] = result;
            }
        }
        results
    }

    async fn elect(&self, partitions: Vec<TopicPartition>, how: Election) -> Vec<Result<(), ClusterError>> {
        if let Err(error) = self.submit(Command::ElectLeaders { partitions: partitions.clone(), how }).await {
            return vec![Err(error.into()); partitions.len()];
        }
        // This broker's image has what came of it.
        let image = self.image();
        partitions.into_iter().map(|id| elected(&image, id, how)).collect()
    }

    /// Has the replicas of partitions move, or takes that back; of each one result in the same order. They move on after this has
    /// returned.
    pub async fn reassign(&self, wanted: &[Reassignment], may_change_factor: bool) -> Vec<Result<(), ClusterError>> {
        if wanted.len() > MAX_REASSIGNMENTS {
            return vec![Err(ClusterError::TooManyAtOnce { requested: wanted.len() }); wanted.len()];
        }
        let image = self.image();
        let mut directories = Directories::of(&image);
        let mut results = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(REASSIGNMENTS_AT_ONCE) {
            let commands: Vec<_> =
                some.iter().map(|one| resolve(&image, &mut directories, one, may_change_factor)).collect();
            results.extend(join_all(commands.into_iter().map(|command| self.assign(command))).await);
        }
        results
    }

    async fn assign(&self, command: Result<Option<Command>, ClusterError>) -> Result<(), ClusterError> {
        if let Some(command) = command? {
            self.submit(command).await?;
        }
        Ok(())
    }

    /// Makes a member of the quorum vote. `directory` is the one that holds its metadata, by which Kafka tells a node from an
    /// earlier one of its number.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn add_voter(&self, node_id: NodeId, directory: DirectoryId) -> Result<(), ClusterError> {
        let status = self.quorum_status().await.ok_or(MemberError::NotLeader { leader: None })?;
        if status.voters.contains(&node_id) {
            return Err(MemberError::AlreadyVotes { node_id }.into());
        }
        let directory_id = self.metadata_directory(node_id).ok_or(MemberError::UnknownMember { node_id })?;
        if directory_id != directory {
            return Err(ClusterError::OtherDirectory { node_id, directory_id });
        }
        Ok(self.metadata.change_members(MemberChange::AddVoter { node_id }).await?)
    }

    /// Has a node vote no more. It stays a member.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn remove_voter(&self, node_id: NodeId, directory: DirectoryId) -> Result<(), ClusterError> {
        let status = self.quorum_status().await.ok_or(MemberError::NotLeader { leader: None })?;
        // Of a voter that is no broker any more nothing is known.
        let is_other = self.metadata_directory(node_id).is_some_and(|known| known != directory);
        if is_other || !status.voters.contains(&node_id) {
            return Err(MemberError::DoesNotVote { node_id }.into());
        }
        Ok(self.metadata.change_members(MemberChange::RemoveVoter { node_id }).await?)
    }

    /// Whether a node votes that is no broker any more: nobody knows its directory, and none is told nor asked for.
    pub async fn votes_unregistered(&self, node_id: NodeId) -> bool {
        let status = self.quorum_status().await;
        self.metadata_directory(node_id).is_none() && status.is_some_and(|status| status.voters.contains(&node_id))
    }

    /// The directory that holds a node's metadata: the first of its broker.
    pub fn metadata_directory(&self, node_id: NodeId) -> Option<DirectoryId> {
        self.image().broker(node_id)?.directories.first().copied()
    }

    /// Removes a broker that is gone for good, from the metadata and then from the quorum.
    ///
    /// # Errors
    /// [`ClusterError`]. After the broker was removed from the metadata alone, this can be called again.
    pub async fn unregister(&self, node_id: NodeId) -> Result<(), ClusterError> {
        match self.submit(Command::UnregisterBroker { node_id }).await {
            Ok(_) => tracing::info!(%node_id, "broker unregistered"),
            Err(CommandError::Rejected(unknown @ Rejection::UnknownBroker { .. })) => {
                let status = self.quorum_status().await;
                if !status.is_some_and(|status| status.progress.contains_key(&node_id)) {
                    return Err(unknown.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.metadata.change_members(MemberChange::Remove { node_id }).await?)
    }
}

/// Whether there is something to elect.
fn check_election(image: &Image, id: TopicPartition, how: Election) -> Result<(), ClusterError> {
    let partition = image.partition(id).ok_or(ClusterError::UnknownPartition)?;
    let is_led = match how {
        Election::Preferred => partition.leader == partition.replica_nodes().next(),
        Election::Unclean => partition.leader.is_some(),
    };
    if is_led { Err(ClusterError::ElectionNotNeeded) } else { Ok(()) }
}

/// What an election has led to.
fn elected(image: &Image, id: TopicPartition, how: Election) -> Result<(), ClusterError> {
    match (check_election(image, id, how), how) {
        (Err(ClusterError::ElectionNotNeeded), _) => Ok(()),
        (Err(error), _) => Err(error),
        (Ok(()), Election::Preferred) => Err(ClusterError::NoPreferredLeader),
        (Ok(()), Election::Unclean) => Err(ClusterError::NoEligibleLeader),
    }
}

/// What a reassignment comes to; no command where all is as it is to be.
fn resolve(
    image: &Image,
    directories: &mut Directories<'_>,
    wanted: &Reassignment,
    may_change_factor: bool,
) -> Result<Option<Command>, ClusterError> {
    let topic = image.topic_named(&wanted.topic).ok_or(ClusterError::UnknownPartition)?;
    let partition = topic.partition(wanted.partition).ok_or(ClusterError::UnknownPartition)?;
    let id = TopicPartition::new(topic.topic_id, wanted.partition);
    let Some(target) = &wanted.target else {
        return match partition.moving {
            Some(_) => Ok(Some(Command::AssignReplicas { partition: id, target: None })),
            None => Err(ClusterError::NoReassignment),
        };
    };
    check_target(image, target)?;
    let current = partition.replicas.len() - partition.moving.as_ref().map_or(0, |moving| moving.removing.len());
    if !may_change_factor && target.len() != current {
        return Err(ClusterError::FactorChange { current, requested: target.len() });
    }
    if partition.moving.is_none() && partition.replica_nodes().eq(target.iter().copied()) {
        return Ok(None);
    }
    let target = target.iter().map(|node_id| directories.place(partition, *node_id)).collect();
    Ok(Some(Command::AssignReplicas { partition: id, target: Some(target) }))
}

/// Checks new places in Kafka's order (`ReplicationControlManager.validateManualPartitionAssignment`).
fn check_target(image: &Image, target: &[NodeId]) -> Result<(), ClusterError> {
    if target.is_empty() {
        return Err(ClusterError::InvalidTarget("a partition has at least one replica".to_owned()));
    }
    let mut seen = BTreeSet::new();
    for node_id in target {
        if image.broker(*node_id).is_none() {
            return Err(ClusterError::InvalidTarget(format!("there is no broker {node_id}")));
        }
        if !seen.insert(node_id) {
            return Err(ClusterError::InvalidTarget(format!("broker {node_id} is named twice")));
        }
    }
    Ok(())
}

/// The data directories of brokers, to place replicas where the fewest are.
struct Directories<'a> {
    image: &'a Image,
    /// Replicas of brokers that have several directories; counted when one of theirs is placed first.
    used: BTreeMap<NodeId, BTreeMap<DirectoryId, usize>>,
}

impl<'a> Directories<'a> {
    const fn of(image: &'a Image) -> Self {
        Self { image, used: BTreeMap::new() }
    }

    /// Where a broker that is registered is to have its replica: where that is, or else in the directory with the fewest.
    fn place(&mut self, partition: &Partition, node_id: NodeId) -> ReplicaPlace {
        if let Some(replica) = partition.replica_on(node_id) {
            return ReplicaPlace { node_id, directory: replica.directory };
        }
        let broker = self.image.broker(node_id).expect("the target names registered brokers");
        if let [directory] = broker.directories[..] {
            return ReplicaPlace { node_id, directory };
        }
        let used = self.used.entry(node_id).or_insert_with(|| self.image.directories_in_use(node_id));
        let replicas_in = |directory: &&DirectoryId| used.get(*directory).copied().unwrap_or(0);
        let directory =
            *broker.directories.iter().min_by_key(replicas_in).expect("a registered broker has a directory");
        *used.entry(directory).or_default() += 1;
        ReplicaPlace { node_id, directory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{CreateTopic, RegisterBroker};
    use crate::metadata::{machine, testing};
    use crate::types::BrokerIncarnationId;

    const TOPIC: &str = "events";

    fn directory(number: u8) -> DirectoryId {
        DirectoryId::from_bytes([number; 16])
    }

    /// Three brokers, of which the third has two directories, and partitions on the first two.
    fn image(partitions: usize) -> Image {
        let mut image = testing::image_with_brokers(&[(1, "a"), (2, "b")]);
        let first = image.broker(NodeId(1)).unwrap();
        let third = RegisterBroker {
            cluster_id: image.cluster_id(),
            node_id: NodeId(3),
            incarnation_id: BrokerIncarnationId::from_bytes([3; 16]),
            listeners: first.listeners.clone(),
            rack: None,
            directories: vec![directory(7), directory(8)],
            newest_leader_epoch: None,
            missed_registrations: 0,
            peer: None,
            starts_fenced: false,
            may_have_lost_unsynced: false,
        };
        machine::apply(&mut image, &Command::RegisterBroker(third)).unwrap();
        let place = |node| {
            let node_id = NodeId(node);
            ReplicaPlace { node_id, directory: image.broker(node_id).unwrap().directories[0] }
        };
        let topic = CreateTopic {
            name: TOPIC.to_owned(),
            topic_id: testing::topic_id(1),
            assignment: vec![vec![place(1), place(2)]; partitions],
            configs: BTreeMap::new(),
            internal: false,
        };
        machine::apply(&mut image, &Command::CreateTopic(topic)).unwrap();
        image
    }

    fn resolved(image: &Image, target: Option<&[i32]>, may_change: bool) -> Result<Option<Command>, ClusterError> {
        let target = target.map(|ids| ids.iter().map(|id| NodeId(*id)).collect());
        let wanted = Reassignment { topic: TOPIC.to_owned(), partition: 0, target };
        resolve(image, &mut Directories::of(image), &wanted, may_change)
    }

    #[test]
    fn places_of_replicas_are_checked_before_anything_is_asked_of_the_cluster() {
        let image = image(1);
        let is_invalid = |target: &[i32]| {
            let refused = resolved(&image, Some(target), true);
            assert!(matches!(refused, Err(ClusterError::InvalidTarget(_))), "{target:?}: {refused:?}");
        };
        is_invalid(&[]);
        is_invalid(&[1, 1]);
        is_invalid(&[1, 9]);
        assert_eq!(resolved(&image, None, true), Err(ClusterError::NoReassignment));
        let changes = ClusterError::FactorChange { current: 2, requested: 1 };
        assert_eq!(resolved(&image, Some(&[2]), false), Err(changes));
        assert_eq!(resolved(&image, Some(&[1, 2]), false), Ok(None), "all is as it is to be");
        let Ok(Some(Command::AssignReplicas { target: Some(target), .. })) = resolved(&image, Some(&[2, 1]), false)
        else {
            panic!("replicas that are there can change places");
        };
        assert_eq!(target.iter().map(|place| place.node_id).collect::<Vec<_>>(), [NodeId(2), NodeId(1)]);
        let elsewhere = resolved(&image, Some(&[3, 1]), false);
        assert!(matches!(elsewhere, Ok(Some(Command::AssignReplicas { .. }))), "{elsewhere:?}");
        let unknown = Reassignment { topic: TOPIC.to_owned(), partition: 1, target: None };
        let refused = resolve(&image, &mut Directories::of(&image), &unknown, true);
        assert_eq!(refused, Err(ClusterError::UnknownPartition));
    }

    #[test]
    fn new_replicas_go_where_the_broker_has_the_fewest_and_others_stay() {
        let image = image(3);
        let topic = image.topic_named(TOPIC).unwrap();
        let mut directories = Directories::of(&image);
        let placed: Vec<_> =
            (0..3).map(|index| directories.place(topic.partition(index).unwrap(), NodeId(3)).directory).collect();
        assert_eq!(placed, [directory(7), directory(8), directory(7)]);
        let partition = topic.partition(0).unwrap();
        assert_eq!(directories.place(partition, NodeId(2)).directory, partition.replicas[1].directory);
    }

    #[test]
    fn an_election_is_needed_where_another_than_the_preferred_leads_or_nobody() {
        let mut image = image(1);
        let id = TopicPartition::new(testing::topic_id(1), 0);
        for how in [Election::Preferred, Election::Unclean] {
            assert_eq!(check_election(&image, id, how), Err(ClusterError::ElectionNotNeeded));
            let unknown = TopicPartition::new(testing::topic_id(2), 0);
            assert_eq!(check_election(&image, unknown, how), Err(ClusterError::UnknownPartition));
        }
        let broker_epoch = image.broker(NodeId(1)).unwrap().epoch;
        machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(1), broker_epoch }).unwrap();
        assert_eq!(check_election(&image, id, Election::Preferred), Ok(()));
        assert_eq!(check_election(&image, id, Election::Unclean), Err(ClusterError::ElectionNotNeeded));
        assert_eq!(elected(&image, id, Election::Preferred), Err(ClusterError::NoPreferredLeader));
    }

    #[test]
    fn partitions_have_as_many_replicas_as_there_are_active_brokers_and_three_at_most() {
        let mut image = image(1);
        assert_eq!(default_replication_factor(&image), 3);
        for (node, left) in [(3, 2), (2, 1), (1, 1)] {
            let broker_epoch = image.broker(NodeId(node)).unwrap().epoch;
            machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
            assert_eq!(default_replication_factor(&image), left);
        }
        let many: Vec<_> = (1..=5).map(|node| (node, "a")).collect();
        assert_eq!(default_replication_factor(&testing::image_with_brokers(&many)), 3);
    }
}

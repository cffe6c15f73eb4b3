//! The handle to the metadata quorum: opening it, submitting commands, reading the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::command::{Command, Outcome};
use super::super::controller::machine::{ControllerSettings, Heartbeat, HeartbeatReply};
use super::super::error::{CommandError, MetadataError, Rejection};
use super::super::image::{BrokerState, Image};
use super::acknowledged::Acknowledged;
use super::answers::{KINDS, QuorumAnswers};
use super::campaign::{Campaign, leads};
use super::controlling::Controlling;
use super::lifelines::watch_over;
use super::log_database::Founding;
use super::members::{MemberChange, MemberError};
use super::membership::{Members, read_index};
use super::network::PeerNetwork;
use super::proposer::{Pending, Proposer, QUEUE_COMMANDS, Request};
use super::{
    LogDatabase, LogStore, Raft, RaftMetrics, SnapshotFiles, Stamp, StateMachine, StoreError, StoreLane, on_seams,
};
use crate::peer::rpc::{Answers, Handlers, Membership, Peers, RefusalCode, RpcError, kind};
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::runtime::watch;
use crate::types::{ClusterId, NodeId};

/// Entries that stay in the log behind a snapshot, so that a follower that lags a little needs no snapshot.
const LAGGING_ENTRIES: u64 = 256;
/// How often a change of configuration is resolved before its sender hears that others were always faster.
const RESOLVE_ATTEMPTS: u32 = 16;
/// A quorum of one leads at once; longer than this means that the disk hangs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a node that starts says that it waits for a majority of the voters.
const WAITING_NOTICE: Duration = Duration::from_secs(10);
/// Pause before the leader is asked again how far the log is committed.
const READ_INDEX_PAUSE: Duration = Duration::from_millis(50);
/// How long a peer may take to pass on where this node is.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a leader is heard. It is also how long openraft waits for an answer before it asks again.
const HEARTBEAT_MS: u64 = 250;
/// How long the answer to a broker's heartbeat is waited for.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one part of a snapshot may take to arrive, and the last one to be written down.
const SNAPSHOT_PART_TIMEOUT_MS: u64 = 60_000;

/// How the metadata quorum runs on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataSettings {
    /// This node's number. It is written into the directory and can't change.
    pub node_id: NodeId,
    /// Commands (and partitions that they create) after which a new snapshot is written and the log behind it goes; as many
    /// as the cluster has partitions and topics, if that is more, so that writing snapshots costs no more than the commands
    /// did. More makes restarts apply more (some microseconds each) and the log larger; fewer writes the image more often.
    pub snapshot_interval_commands: usize,
}

impl MetadataSettings {
    /// The defaults for a node.
    pub const fn new(node_id: NodeId) -> Self {
        Self { node_id, snapshot_interval_commands: 10_000 }
    }
}

/// The metadata's storage, open and not yet at work: the node's identity is known, and peers can be told of it.
pub struct MetadataStore {
    database: Arc<StoreLane<LogDatabase>>,
    stamp: Stamp,
}

/// A node's part of the peer plane, for the quorum.
#[derive(Clone)]
pub struct PeerPlane {
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Who answers them here.
    pub handlers: Arc<watch::Sender<Handlers>>,
    /// Where they reach this node, as `host:port`.
    pub address: String,
    /// How this node controls the cluster while it leads.
    pub controller: ControllerSettings,
    /// Whether this node has a certificate to show.
    pub has_identity: bool,
}

/// Handle to the metadata quorum.
pub struct Metadata {
    pub(super) raft: Raft,
    stamp: Stamp,
    pub(super) database: Arc<StoreLane<LogDatabase>>,
    images: watch::Receiver<Arc<Image>>,
    /// What openraft says of itself: its own channel wakes those who wait in an order that no seed repeats.
    metrics: watch::Receiver<RaftMetrics>,
    requests: mpsc::Sender<Request>,
    proposer: Mutex<Option<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
    pub(super) runtime: Runtime,
    pub(super) peers: Option<Arc<Peers>>,
    controlling: Option<Arc<Controlling>>,
}

impl fmt::Debug for MetadataStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataStore").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

impl MetadataStore {
    /// Whether a directory has metadata of a node.
    ///
    /// # Errors
    /// [`MetadataError`]: the directory can't be looked at.
    pub fn exists(runtime: &Runtime, directory: &Path) -> Result<bool, MetadataError> {
        Ok(LogDatabase::exists(runtime.disk.as_ref(), directory)?)
    }

    /// Opens the storage of a node. In an empty directory makes one: of the cluster that the node `joined`, or else of a new one.
    ///
    /// # Errors
    /// [`MetadataError`]: the directory can't be read, or belongs to another node or a newer version.
    pub async fn open(
        runtime: &Runtime,
        directory: &Path,
        node_id: NodeId,
        joined: Option<ClusterId>,
    ) -> Result<Self, MetadataError> {
        let founding = match joined {
            Some(cluster_id) => Founding { cluster_id, joined: true },
            None => Founding { cluster_id: ClusterId::from_entropy(runtime.entropy.identity()), joined: false },
        };
        Self::open_as(runtime, directory, node_id, founding).await
    }

    /// Opens the storage of the first node of a cluster that is restored and has its identity already; made in an empty directory.
    ///
    /// # Errors
    /// [`MetadataError`]: the directory can't be read, or belongs to another node or a newer version.
    pub async fn found(
        runtime: &Runtime,
        directory: &Path,
        node_id: NodeId,
        cluster_id: ClusterId,
    ) -> Result<Self, MetadataError> {
        Self::open_as(runtime, directory, node_id, Founding { cluster_id, joined: false }).await
    }

    async fn open_as(
        runtime: &Runtime,
        directory: &Path,
        node_id: NodeId,
        founding: Founding,
    ) -> Result<Self, MetadataError> {
        let (disk, path) = (Arc::clone(&runtime.disk), directory.to_owned());
        let open = move || LogDatabase::open(disk.as_ref(), &path, node_id, founding);
        let lane = StoreLane::start(runtime.tasks.as_ref(), "metadata", Priority::Foreground, open).await?;
        let stamp = lane.run(|database| database.stamp()).await?;
        Ok(Self { database: Arc::new(lane), stamp })
    }

    /// The cluster that the node belongs to.
    pub const fn cluster_id(&self) -> ClusterId {
        self.stamp.cluster_id
    }
}

impl Metadata {
    /// Opens the metadata of a node without peers: makes a new cluster with a quorum of one in an empty directory, or resumes.
    /// On return the image holds every command that was ever acknowledged, and commands can be submitted.
    ///
    /// # Errors
    /// [`MetadataError`]: the directory can't be read, belongs to another node or a newer version, or has no quorum.
    pub async fn open(runtime: &Runtime, directory: &Path, settings: MetadataSettings) -> Result<Self, MetadataError> {
        let store = MetadataStore::open(runtime, directory, settings.node_id, None).await?;
        Self::start(runtime, directory, store, settings, None).await
    }

    /// Begins to work on a storage that is open, with what there is of peers. Waits for a majority of the voters, however long
    /// that takes: on return the image holds every command that was ever acknowledged, and commands can be submitted.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub async fn start(
        runtime: &Runtime,
        directory: &Path,
        store: MetadataStore,
        settings: MetadataSettings,
        plane: Option<PeerPlane>,
    ) -> Result<Self, MetadataError> {
        let MetadataStore { database, stamp } = store;
        let last = database.run(|database| database.last_index()).await??;
        let files = SnapshotFiles::new(Arc::clone(&runtime.disk), directory.to_owned(), stamp);
        let tasks = runtime.tasks.as_ref();
        let snapshots = StoreLane::start(tasks, "metadata-snap", Priority::Background, || Ok::<_, StoreError>(files));
        let (publisher, images) = watch::channel(Arc::new(Image::default()));
        let machine = StateMachine::open(Arc::new(snapshots.await?), publisher, Arc::clone(&runtime.clock)).await?;
        let replay_weight = machine.replay_weight();
        let log = LogStore::new(Arc::clone(&database));
        let peers = plane.as_ref().map(|plane| Arc::clone(&plane.peers));
        let acknowledged = Arc::new(Acknowledged::default());
        let network = PeerNetwork { peers: peers.clone(), acknowledged: Arc::clone(&acknowledged) };
        let raft = Raft::new(settings.node_id, Arc::new(raft_config(stamp)), network, log, machine);
        let raft = on_seams(runtime, raft).await.map_err(MetadataError::quorum)?;
        let (observed, metrics) = watch::channel(raft.metrics().borrow().clone());
        runtime.watch.spawn(republish(raft.clone(), observed));
        let (requests, queue) = mpsc::channel(QUEUE_COMMANDS);
        runtime.watch.spawn(compact(raft.clone(), replay_weight, images.clone(), settings.snapshot_interval_commands));
        let stop = watch::Sender::new(false);
        let proposer = Proposer {
            node_id: settings.node_id,
            raft: raft.clone(),
            peers: peers.clone(),
            clock: Arc::clone(&runtime.clock),
            images: images.clone(),
            metrics: metrics.clone(),
            stop: stop.subscribe(),
        };
        let proposer = Mutex::new(Some(runtime.watch.spawn(proposer.run(queue))));
        let runtime = runtime.clone();
        let controlling = None;
        let mut metadata =
            Self { raft, stamp, database, images, metrics, requests, proposer, stop, runtime, peers, controlling };
        metadata.controlling = metadata.take_part(plane.as_ref(), acknowledged);
        on_seams(&metadata.runtime, metadata.begin(plane, last)).await?;
        if metadata.image().cluster_id().is_zero() {
            metadata.submit(Command::SetClusterId(stamp.cluster_id)).await.map_err(MetadataError::quorum)?;
        }
        Ok(metadata)
    }

    /// Answers peers, stands for election when the leader is missed, and controls the cluster while it leads. A node without peers is a
    /// quorum of one, and its broker by itself.
    fn take_part(&self, plane: Option<&PeerPlane>, acknowledged: Arc<Acknowledged>) -> Option<Arc<Controlling>> {
        let PeerPlane { peers, handlers, controller, .. } = plane?;
        let (raft, runtime) = (&self.raft, &self.runtime);
        let campaign = Arc::new(Campaign::new(runtime, self.stamp.node_id));
        let controlling = Arc::new(Controlling::new(
            runtime.clone(),
            raft.clone(),
            self.metrics.clone(),
            acknowledged,
            self.images.clone(),
            self.requests.clone(),
            controller.clone(),
        ));
        let answers: Arc<dyn Answers> = Arc::new(QuorumAnswers {
            raft: raft.clone(),
            campaign: Arc::clone(&campaign),
            controlling: Arc::clone(&controlling),
            runtime: runtime.clone(),
        });
        let membership: Arc<dyn Membership> = Arc::new(Members {
            runtime: runtime.clone(),
            node_id: self.stamp.node_id,
            raft: raft.clone(),
            peers: Arc::clone(peers),
            metrics: self.metrics.clone(),
            images: self.images.clone(),
        });
        handlers.send_modify(|handlers| {
            handlers.answer(KINDS, &answers);
            handlers.restrict_to(membership);
        });
        let (watched, watching) = watch::channel(BTreeMap::new());
        let follow = follow_addresses(self.metrics.clone(), self.images.clone(), Arc::clone(peers), watched);
        runtime.watch.spawn(follow);
        let (told, decides, connected) = (Arc::clone(&campaign), Arc::clone(&controlling), Arc::clone(peers));
        let tell = move |gone: BTreeSet<NodeId>| {
            for node_id in gone {
                connected.disconnect(node_id, "your process is gone");
                told.gone(node_id);
                decides.gone(node_id);
            }
        };
        runtime.watch.spawn(watch_over(runtime.clone(), watching, tell));
        runtime.watch.spawn(Arc::clone(&controlling).run());
        runtime.watch.spawn(campaign.run(raft.clone(), self.metrics.clone(), Arc::clone(peers)));
        Some(controlling)
    }

    /// Has this node lead, where it is the only voter, or waits for the quorum; and then until the image has all that is committed.
    async fn begin(&self, plane: Option<PeerPlane>, last_index: Option<u64>) -> Result<(), MetadataError> {
        let node_id = self.stamp.node_id;
        let is_initialized = self.raft.is_initialized().await.map_err(MetadataError::quorum)?;
        if !is_initialized && !self.stamp.joined {
            let address = plane.as_ref().map(|plane| plane.address.clone()).unwrap_or_default();
            let members = BTreeMap::from([(node_id, BasicNode::new(address))]);
            self.raft.initialize(members).await.map_err(MetadataError::quorum)?;
        }
        let is_alone = move |state: &openraft::RaftState<_, _, _>| {
            let members = state.membership_state.effective();
            members.voter_ids().eq([node_id])
        };
        if !self.raft.with_raft_state(is_alone).await.map_err(MetadataError::quorum)? {
            return match plane {
                None => Err(MetadataError::NeedsPeers),
                Some(plane) if !plane.has_identity => Err(MetadataError::NoIdentity),
                Some(plane) => self.catch_up_from(Some(&plane.address)).await,
            };
        }
        if is_initialized && self.raft.metrics().borrow().state != ServerState::Leader {
            self.raft.trigger().elect().await.map_err(MetadataError::quorum)?;
        }
        let wait = self.raft.wait(Some(OPEN_TIMEOUT));
        let ready = wait.metrics(
            |metrics| {
                metrics.state == ServerState::Leader && metrics.last_applied.map(|log_id| log_id.index) >= last_index
            },
            "the only voter leads and has applied its log",
        );
        ready.await.map_err(MetadataError::quorum)?;
        if let Some(plane) = plane {
            self.announce(&plane.address).await?;
        }
        Ok(())
    }

    /// Tells the leader, by way of whoever is known, where this node is reached now; it may have moved. True when it knows.
    ///
    /// # Errors
    /// [`MetadataError::Removed`].
    async fn announce(&self, address: &str) -> Result<bool, MetadataError> {
        let change = MemberChange::Add { node_id: self.stamp.node_id, address: address.to_owned() };
        if self.change_members(change.clone()).await.is_ok() {
            return Ok(true);
        }
        let Some(peers) = &self.peers else { return Ok(false) };
        for node_id in peers.known() {
            let asked = peers.call(node_id, kind::QUORUM_CHANGE, &change, Vec::new(), ANNOUNCE_TIMEOUT).await;
            match asked {
                Ok((Ok::<(), MemberError>(()), _)) => return Ok(true),
                Err(RpcError::Refused { refusal, .. }) if refusal.code == RefusalCode::Removed => {
                    return Err(MetadataError::Removed);
                }
                Ok((Err(_), _)) | Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Waits until this node has applied all that is committed now, as the leader says.
    ///
    /// # Errors
    /// [`MetadataError`]: the quorum has stopped on this node.
    pub async fn catch_up(&self) -> Result<(), MetadataError> {
        self.catch_up_from(None).await
    }

    /// Does that, and first tells the leader where this node is.
    async fn catch_up_from(&self, mut address: Option<&str>) -> Result<(), MetadataError> {
        let clock = &self.runtime.clock;
        let mut noticed = clock.monotonic();
        let index = loop {
            if let Some(here) = address
                && self.announce(here).await?
            {
                address = None;
            }
            if address.is_none()
                && let Some(index) = read_index(&self.raft, self.stamp.node_id, self.peers.as_deref()).await
            {
                break index;
            }
            if let Err(fatal) = self.raft.metrics().borrow().running_state.clone() {
                return Err(MetadataError::quorum(fatal));
            }
            if clock.monotonic().since(noticed) >= WAITING_NOTICE {
                noticed = clock.monotonic();
                let members = self.raft.metrics().borrow().membership_config.membership().to_string();
                tracing::warn!(
                    members,
                    "waiting for the metadata quorum: a majority of its voters has to run and reach each other"
                );
            }
            clock.sleep(READ_INDEX_PAUSE).await;
        };
        let mut metrics = self.metrics.clone();
        let applied = metrics.wait_for(|metrics| metrics.last_applied.map(|log_id| log_id.index) >= index);
        applied.await.map_err(MetadataError::quorum)?;
        Ok(())
    }

    /// The newest image. Cheap; never waits for a command that is being applied.
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.images.borrow())
    }

    /// Follows the image. Images in between may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Image>> {
        self.images.clone()
    }

    /// Identity of the cluster that this node belongs to.
    pub const fn cluster_id(&self) -> ClusterId {
        self.stamp.cluster_id
    }

    /// This node.
    pub const fn node_id(&self) -> NodeId {
        self.stamp.node_id
    }

    /// Whether this node leads the quorum, and a majority has answered it lately.
    pub fn leads(&self) -> bool {
        leads(&self.raft.metrics().borrow())
    }

    /// Has the quorum decide on a command, wherever its leader is. On return its effect is durable and in [`Metadata::image`].
    /// Commands that are submitted at the same time share one sync.
    ///
    /// # Errors
    /// [`CommandError`]. Only after [`CommandError::Rejected`] and [`CommandError::NotLeader`] is it certain that the command
    /// has no effect.
    pub async fn submit(&self, command: Command) -> Result<Outcome, CommandError> {
        let (reply, outcome) = oneshot::channel();
        let request = Request::Submit(Pending { command, reply });
        self.requests.send(request).await.map_err(|_| CommandError::Stopped)?;
        outcome.await.map_err(|_| CommandError::Stopped)?
    }

    /// Resolves a command against the newest image and submits it; resolves it again when somebody else's change of the
    /// same configuration came first. For commands that carry a [`ConfigChange`](super::super::command::ConfigChange).
    ///
    /// # Errors
    /// What `resolve` fails with, and [`CommandError`] made into it.
    pub async fn submit_resolved<E: From<CommandError>>(
        &self,
        resolve: impl Fn(&Image) -> Result<Command, E>,
    ) -> Result<Outcome, E> {
        for _ in 1..RESOLVE_ATTEMPTS {
            match self.submit(resolve(&self.image())?).await {
                Err(CommandError::Rejected(Rejection::ConfigChanged { .. })) => {}
                result => return Ok(result?),
            }
        }
        Ok(self.submit(resolve(&self.image())?).await?)
    }

    /// Tells the controller, wherever it is, that this broker lives.
    ///
    /// # Errors
    /// [`CommandError`]: it was not told, or did not answer.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<HeartbeatReply, CommandError> {
        let leader = self.metrics.borrow().current_leader;
        match (leader, &self.peers, &self.controlling) {
            (Some(leader), Some(peers), _) if leader != self.node_id() => {
                let asked = peers.call(leader, kind::BROKER_HEARTBEAT, &heartbeat, Vec::new(), HEARTBEAT_TIMEOUT).await;
                match asked {
                    Ok((reply, _)) => Ok(reply),
                    // It was unregistered, and to take part it has to join anew.
                    Err(RpcError::Refused { refusal, .. }) if refusal.code == RefusalCode::Removed => {
                        Ok(HeartbeatReply { is_fenced: true, may_shut_down: true, is_stale: true })
                    }
                    Err(error) if error.is_without_effect() => Err(CommandError::NotLeader { leader: Some(leader) }),
                    Err(_) => Err(CommandError::TimedOut),
                }
            }
            (Some(_), _, Some(controlling)) => controlling.heartbeat(heartbeat),
            _ => Err(CommandError::NotLeader { leader }),
        }
    }

    /// Waits until the quorum has stopped on this node: by [`Metadata::shutdown`], or because its storage failed, in which
    /// case the broker has to stop as well.
    pub async fn stopped(&self) {
        let mut metrics = self.metrics.clone();
        while metrics.borrow_and_update().running_state.is_ok() && metrics.changed().await.is_ok() {}
    }

    /// Stops: answers what was submitted, then closes the storage. Later calls of [`Metadata::submit`] fail.
    pub async fn shutdown(&self) {
        let proposer = self.proposer.lock().take();
        let Some(proposer) = proposer else { return };
        self.stop.send_replace(true);
        let _ = self.requests.send(Request::Stop).await;
        if let Err(error) = proposer.await {
            tracing::error!(%error, "the metadata proposer ended abnormally");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the metadata quorum ended abnormally");
        }
        match self.database.run(LogDatabase::flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the next start has to apply some metadata again"),
            Err(error) => tracing::error!(%error, "the metadata storage ended abnormally"),
        }
    }
}

fn raft_config(stamp: Stamp) -> Config {
    Config {
        cluster_name: stamp.cluster_id.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        // Elections are `campaign`'s. To openraft the longer one is for how long a voter keeps to a leader that it has heard.
        enable_elect: false,
        election_timeout_min: HEARTBEAT_MS + 1,
        election_timeout_max: HEARTBEAT_MS + 2,
        install_snapshot_timeout: SNAPSHOT_PART_TIMEOUT_MS,
        // `compact` decides, since entries differ too much in size to be counted.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: LAGGING_ENTRIES,
        ..Config::default()
    }
}

/// Has a snapshot written whenever a restart would apply more than the image itself holds. Ends with the quorum.
async fn compact(
    raft: Raft,
    mut replay_weight: watch::Receiver<usize>,
    images: watch::Receiver<Arc<Image>>,
    interval: usize,
) {
    while replay_weight.changed().await.is_ok() {
        let held = {
            let image = images.borrow();
            image.topic_count() + usize::try_from(image.partition_count()).expect("MAX_CLUSTER_PARTITIONS fits")
        };
        // openraft ignores the wish while it writes another snapshot; the next command renews it.
        if *replay_weight.borrow_and_update() >= interval.max(held) && raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Passes on what openraft says of itself, until it has stopped.
async fn republish(raft: Raft, observed: watch::Sender<RaftMetrics>) {
    let mut metrics = raft.metrics();
    loop {
        let newest = metrics.borrow_and_update().clone();
        let has_stopped = newest.running_state.is_err();
        observed.send_replace(newest);
        if has_stopped || metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Learns from the membership where peers are and who has left, and says whose processes to look at. Ends with the quorum.
async fn follow_addresses(
    mut metrics: watch::Receiver<RaftMetrics>,
    mut images: watch::Receiver<Arc<Image>>,
    peers: Arc<Peers>,
    watching: watch::Sender<BTreeMap<NodeId, String>>,
) {
    // What a node that just joined was told is not in its own log yet.
    let mut seen = BTreeSet::new();
    loop {
        let metrics_now: RaftMetrics = metrics.borrow_and_update().clone();
        let image = Arc::clone(&images.borrow_and_update());
        if metrics_now.running_state.is_err() {
            return;
        }
        let membership = metrics_now.membership_config.membership();
        let mut present: BTreeSet<NodeId> = membership.nodes().map(|(node_id, _)| *node_id).collect();
        present.extend(image.brokers().map(|broker| broker.node_id));
        seen.difference(&present).for_each(|node_id| peers.remove(*node_id));
        seen = present;
        let reached = membership.nodes().filter(|(_, node)| !node.addr.is_empty());
        let mut known: BTreeMap<NodeId, String> =
            reached.map(|(node_id, node)| (*node_id, node.addr.clone())).collect();
        known.iter().for_each(|(node_id, address)| peers.set_address(*node_id, address));
        // A follower looks at the leader, and the leader at all brokers that serve.
        let me = peers.node_id();
        let is_watched = |node_id: NodeId| match leads(&metrics_now) {
            true => image.broker(node_id).is_some_and(|broker| broker.state != BrokerState::Fenced),
            false => metrics_now.current_leader == Some(node_id),
        };
        known.retain(|node_id, _| *node_id != me && is_watched(*node_id));
        let watched = known;
        watching.send_if_modified(|before| {
            let is_new = *before != watched;
            *before = watched;
            is_new
        });
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            changed = images.changed() => if changed.is_err() { return },
        }
    }
}

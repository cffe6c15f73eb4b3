//! The handle to the metadata quorum: opening it, submitting commands, reading the image.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::super::command::{Command, Outcome};
use super::super::error::{CommandError, MetadataError, Rejection};
use super::super::image::Image;
use super::{
    CommandGroup, LogDatabase, LogStore, NoPeers, Raft, SnapshotFiles, Stamp, StateMachine, StoreError, StoreLane,
    on_seams,
};
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::types::{ClusterId, NodeId};

/// Commands that wait to be proposed; more wait to be let in. Each is small, but for assignments of new partitions.
const QUEUE_COMMANDS: usize = 1024;
/// Most commands of one log entry.
const GROUP_COMMANDS: usize = 256;
/// Weight after which a group takes no more commands, which bounds a log entry to some megabytes.
const GROUP_WEIGHT: usize = 10_000;
/// Entries that stay in the log behind a snapshot, so that a follower that lags a little needs no snapshot.
const LAGGING_ENTRIES: u64 = 256;
/// How often a change of configuration is resolved before its sender hears that others were always faster.
const RESOLVE_ATTEMPTS: u32 = 16;
/// A quorum of one leads at once; longer than this means that the disk hangs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Handle to the metadata quorum.
pub struct Metadata {
    pub(super) raft: Raft,
    stamp: Stamp,
    pub(super) database: Arc<StoreLane<LogDatabase>>,
    images: watch::Receiver<Arc<Image>>,
    requests: mpsc::Sender<Request>,
    proposer: Mutex<Option<JoinHandle<()>>>,
}

/// Everything that wakes the proposer.
enum Request {
    Submit(Pending),
    Stop,
}

struct Pending {
    command: Command,
    reply: oneshot::Sender<Result<Outcome, CommandError>>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

impl Metadata {
    /// Opens the metadata of a node: makes a new cluster with a quorum of one in an empty directory, or resumes. On return
    /// the image holds every command that was ever acknowledged, and commands can be submitted.
    ///
    /// # Errors
    /// [`MetadataError`]: the directory can't be read, belongs to another node or a newer version, or has no quorum.
    pub async fn open(runtime: &Runtime, directory: &Path, settings: MetadataSettings) -> Result<Self, MetadataError> {
        let tasks = runtime.tasks.as_ref();
        let (disk, path) = (Arc::clone(&runtime.disk), directory.to_owned());
        let new_cluster_id = ClusterId::from_entropy(runtime.entropy.identity());
        let open = move || LogDatabase::open(disk.as_ref(), &path, settings.node_id, new_cluster_id);
        let database = Arc::new(StoreLane::start(tasks, "metadata", Priority::Foreground, open).await?);
        let (stamp, last) = database.run(|database| (database.stamp(), database.last_index())).await?;
        let last = last?;

        let files = SnapshotFiles::new(Arc::clone(&runtime.disk), directory.to_owned(), stamp);
        let snapshots = StoreLane::start(tasks, "metadata-snap", Priority::Background, || Ok::<_, StoreError>(files));
        let (publisher, images) = watch::channel(Arc::new(Image::default()));
        let machine = StateMachine::open(Arc::new(snapshots.await?), publisher, Arc::clone(&runtime.clock)).await?;
        let replay_weight = machine.replay_weight();
        let store = LogStore::new(Arc::clone(&database));
        let config = Arc::new(raft_config(stamp));
        let raft = Raft::new(settings.node_id, config, NoPeers, store, machine);
        let raft = on_seams(runtime, raft).await.map_err(MetadataError::quorum)?;

        let (requests, queue) = mpsc::channel(QUEUE_COMMANDS);
        runtime.watch.spawn(compact(raft.clone(), replay_weight, images.clone(), settings.snapshot_interval_commands));
        let proposer = runtime.watch.spawn(propose_all(raft.clone(), queue));
        let proposer = Mutex::new(Some(proposer));
        let metadata = Self { raft, stamp, database, images, requests, proposer };
        on_seams(runtime, metadata.lead(last)).await?;
        if metadata.image().cluster_id().is_zero() {
            metadata.submit(Command::SetClusterId(stamp.cluster_id)).await.map_err(MetadataError::quorum)?;
        }
        Ok(metadata)
    }

    /// Has a quorum of one elect this node at once, and waits until the image holds the whole log.
    async fn lead(&self, last_index: Option<u64>) -> Result<(), MetadataError> {
        let node_id = self.stamp.node_id;
        if !self.raft.is_initialized().await.map_err(MetadataError::quorum)? {
            let members = BTreeMap::from([(node_id, BasicNode::default())]);
            self.raft.initialize(members).await.map_err(MetadataError::quorum)?;
        } else if self.raft.metrics().borrow().state != ServerState::Leader {
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

    /// Has the quorum decide on a command. On return its effect is durable and in [`Metadata::image`]. Commands that are
    /// submitted at the same time share one sync.
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

    /// Waits until the quorum has stopped on this node: by [`Metadata::shutdown`], or because its storage failed, in which
    /// case the broker has to stop as well.
    pub async fn stopped(&self) {
        let mut metrics = self.raft.metrics();
        while metrics.borrow_and_update().running_state.is_ok() && metrics.changed().await.is_ok() {}
    }

    /// Stops: answers what was submitted, then closes the storage. Later calls of [`Metadata::submit`] fail.
    pub async fn shutdown(&self) {
        let proposer = self.proposer.lock().take();
        let Some(proposer) = proposer else { return };
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
        heartbeat_interval: 250,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
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

/// Proposes commands, one log entry at a time; what arrives meanwhile becomes the next entry.
async fn propose_all(raft: Raft, mut requests: mpsc::Receiver<Request>) {
    let mut stopping = false;
    while !stopping {
        let Some(Request::Submit(first)) = requests.recv().await else { break };
        let mut weight = first.command.weight();
        let mut group = vec![first];
        while group.len() < GROUP_COMMANDS && weight < GROUP_WEIGHT {
            match requests.try_recv() {
                Ok(Request::Submit(next)) => {
                    weight += next.command.weight();
                    group.push(next);
                }
                Ok(Request::Stop) => {
                    stopping = true;
                    break;
                }
                Err(_) => break,
            }
        }
        propose(&raft, group).await;
    }
    requests.close();
    // Those who were let in before the door closed learn that nobody will propose their command.
    while requests.recv().await.is_some() {}
}

async fn propose(raft: &Raft, group: Vec<Pending>) {
    let (commands, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.command, one.reply)).unzip();
    let failure = match raft.client_write(CommandGroup(commands)).await {
        Ok(written) => {
            let outcomes = written.data.0;
            assert_eq!(outcomes.len(), replies.len(), "every command of a group has an outcome");
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // Who gave up waiting does not need the outcome.
                let _ = reply.send(outcome.map_err(CommandError::Rejected));
            }
            return;
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            CommandError::NotLeader { leader: forward.leader_id }
        }
        Err(error) => {
            tracing::error!(%error, "the metadata quorum has stopped");
            CommandError::Stopped
        }
    };
    for reply in replies {
        let _ = reply.send(Err(failure.clone()));
    }
}

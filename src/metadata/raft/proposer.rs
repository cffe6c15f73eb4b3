//! Commands on their way into the log: grouped, and proposed here or by the leader.
//!
//! One group is on its way at a time; what arrives meanwhile becomes the next. On the leader a group is one log entry. Elsewhere it
//! is one request to the leader, and its senders are answered once this node's image has it too. A command whose group may have
//! reached the leader is never sent twice: its sender hears that its fate is not known.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::super::command::{Command, Outcome};
use super::super::error::{CommandError, Rejection};
use super::super::image::Image;
use super::wire::{SubmitAnswer, SubmitBody};
use super::{CommandGroup, Raft, RaftMetrics};
use crate::peer::rpc::{Peers, RefusalCode, RpcError, kind};
use crate::runtime::clock::{self, Clock};
use crate::runtime::watch;
use crate::types::{Monotonic, NodeId};

/// Commands that wait to be proposed; more wait to be let in. Each is small, but for assignments of new partitions.
pub(super) const QUEUE_COMMANDS: usize = 1024;
/// Most commands of one log entry.
const GROUP_COMMANDS: usize = 256;
/// Weight after which a group takes no more commands, which bounds a log entry to some megabytes.
const GROUP_WEIGHT: usize = 10_000;
/// How long a command waits for a leader, and then for its outcome. Longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer of a leader is waited for that leads no more.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long commands are waited for when this node stops.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a leader is looked for again.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(20);

/// Everything that wakes the proposer.
pub(super) enum Request {
    /// A command.
    Submit(Pending),
    /// No more commands follow.
    Stop,
}

/// A command and who waits for it.
pub(super) struct Pending {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Result<Outcome, CommandError>>,
}

/// What a group came to: the entry that has it, and an outcome for each command.
pub(super) type Proposed = Result<(u64, Vec<Result<Outcome, Rejection>>), CommandError>;

/// See the module.
pub(super) struct Proposer {
    pub(super) node_id: NodeId,
    pub(super) raft: Raft,
    pub(super) peers: Option<Arc<Peers>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) images: watch::Receiver<Arc<Image>>,
    pub(super) metrics: watch::Receiver<RaftMetrics>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Has the log take a group here. Only after [`CommandError::NotLeader`] is it certain that it has no effect.
pub(super) async fn propose(raft: &Raft, clock: &dyn Clock, commands: Vec<Command>) -> Proposed {
    let write = clock::timeout(clock, PATIENCE, raft.client_write(CommandGroup(commands)));
    match write.await {
        Ok(Ok(written)) => Ok((written.log_id.index, written.data.0)),
        // openraft says so before it takes an entry, or once another leader has voided it.
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(CommandError::NotLeader { leader: forward.leader_id })
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the metadata quorum has stopped");
            Err(CommandError::Stopped)
        }
        Err(clock::Elapsed) => Err(CommandError::TimedOut),
    }
}

impl Proposer {
    /// Proposes what arrives until it is told to stop.
    pub(super) async fn run(self, mut requests: mpsc::Receiver<Request>) {
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
            self.settle(group).await;
        }
        requests.close();
        // Those who were let in before the door closed learn that nobody will propose their command.
        while requests.recv().await.is_some() {}
    }

    async fn settle(&self, group: Vec<Pending>) {
        let (commands, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.command, one.reply)).unzip();
        let settled = tokio::select! {
            biased;
            settled = self.submit(commands) => settled,
            () = self.stopped() => Err(CommandError::Stopped),
        };
        match settled {
            Ok((_, outcomes)) => {
                assert_eq!(outcomes.len(), replies.len(), "every command of a group has an outcome");
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Who gave up waiting does not need the outcome.
                    let _ = reply.send(outcome.map_err(CommandError::Rejected));
                }
            }
            Err(failure) => {
                for reply in replies {
                    let _ = reply.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Waits until this node is told to stop, and a moment longer: a quorum that works needs no more, and one that does not
    /// holds up nobody.
    async fn stopped(&self) {
        // An error means that it was not even told.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
        self.clock.sleep(LAST_PATIENCE).await;
    }

    async fn submit(&self, commands: Vec<Command>) -> Proposed {
        let deadline = self.clock.monotonic() + PATIENCE;
        loop {
            let leader = self.raft.metrics().borrow().current_leader;
            let attempt = match (leader, &self.peers) {
                (Some(leader), Some(peers)) if leader != self.node_id => {
                    self.forward(peers, leader, &commands, deadline).await
                }
                (Some(_), _) => propose(&self.raft, &*self.clock, commands.clone()).await,
                (None, _) => Err(CommandError::NotLeader { leader: None }),
            };
            match attempt {
                Err(CommandError::NotLeader { .. })
                    if self.clock.monotonic() < deadline && self.raft.metrics().borrow().running_state.is_ok() =>
                {
                    self.clock.sleep(LEADERLESS_PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    /// Waits until another node leads, and a moment longer.
    async fn leader_changed(&self, from: NodeId) {
        let mut metrics = self.metrics.clone();
        let is_another = |leader: Option<NodeId>| leader.is_some_and(|leader| leader != from);
        // An error means that the quorum has stopped here.
        let _ = metrics.wait_for(|metrics| is_another(metrics.current_leader)).await;
        self.clock.sleep(LAST_WORDS).await;
    }

    /// Sends a group to the leader, and waits until this node's image has it.
    async fn forward(&self, peers: &Peers, leader: NodeId, commands: &[Command], deadline: Monotonic) -> Proposed {
        let timeout = deadline.since(self.clock.monotonic());
        let body = SubmitBody { commands: commands.to_vec() };
        let asked = peers.call::<_, SubmitAnswer>(leader, kind::METADATA_SUBMIT, &body, Vec::new(), timeout);
        let answer = tokio::select! {
            biased;
            answer = asked => answer,
            // It may have done what it was asked, and will hardly say so any more.
            () = self.leader_changed(leader) => Err(RpcError::TimedOut(leader)),
        };
        let answer = match answer {
            Ok((answer, _)) if answer.outcomes.len() == commands.len() => answer,
            Ok(_) => {
                tracing::error!(%leader, "the leader of the metadata answered for another number of commands");
                return Err(CommandError::TimedOut);
            }
            Err(RpcError::Refused { refusal, .. }) if refusal.code != RefusalCode::Failed => {
                return Err(CommandError::NotLeader { leader: Some(leader) });
            }
            Err(error) if error.is_without_effect() => return Err(CommandError::NotLeader { leader: Some(leader) }),
            Err(error) => {
                tracing::debug!(%error, "it is not known what became of commands for the metadata");
                return Err(CommandError::TimedOut);
            }
        };
        let mut images = self.images.clone();
        let applied = images.wait_for(|image| image.version() >= answer.index);
        match clock::timeout(&*self.clock, deadline.since(self.clock.monotonic()), applied).await {
            Ok(Ok(_)) => Ok((answer.index, answer.outcomes)),
            Ok(Err(_)) => Err(CommandError::Stopped),
            // They took effect, but what follows would not find it here yet.
            Err(clock::Elapsed) => Err(CommandError::TimedOut),
        }
    }
}

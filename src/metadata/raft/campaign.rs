//! The driver of [`Candidacy`]: hears of the leader, asks voters, and has openraft stand.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::candidacy::{Action, Candidacy, Event, Standing};
use super::wire::{PreVoteAnswer, VoteHeader};
use super::{LogId, Raft, RaftMetrics, Vote};
use crate::peer::rpc::{Peers, kind};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::types::NodeId;

/// How long a leader that no majority answers counts as one.
pub(super) const LEADER_PATIENCE_MS: u64 = 1500;
/// How long a voter's answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Answers that wait to be looked at.
const QUEUE_ANSWERS: usize = 64;

/// A node's candidacy, and who has to hear that it changed.
pub(super) struct Campaign {
    runtime: Runtime,
    candidacy: Mutex<Candidacy>,
    changed: Notify,
}

/// What openraft says that this node is.
fn standing(raft: &Raft) -> Standing {
    let last_log_id = raft.data_metrics().borrow().last_log;
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    Standing {
        leads: leads(&metrics),
        leader: metrics.current_leader,
        voters: metrics.membership_config.membership().get_joint_config().clone(),
        last_log_id,
    }
}

/// Whether this node leads, and a majority has answered lately.
pub(super) fn leads(metrics: &RaftMetrics) -> bool {
    let is_alone = metrics.membership_config.membership().voter_ids().count() == 1;
    let is_heard = metrics.millis_since_quorum_ack.is_some_and(|ms| ms < LEADER_PATIENCE_MS);
    metrics.state == ServerState::Leader && (is_alone || is_heard)
}

impl Campaign {
    /// Of a node that has just started.
    pub(super) fn new(runtime: &Runtime, node_id: NodeId) -> Self {
        let candidacy = Candidacy::new(node_id, runtime.clock.monotonic(), runtime.entropy.number());
        Self { runtime: runtime.clone(), candidacy: Mutex::new(candidacy), changed: Notify::new() }
    }

    /// A request of the present leader was accepted.
    pub(super) fn heard(&self) {
        self.handle(Event::Heard);
    }

    /// A node's process is gone.
    pub(super) fn gone(&self, node_id: NodeId) {
        self.handle(Event::Gone(node_id));
        self.changed.notify_one();
    }

    /// Whether this node would vote for a candidate with that log.
    pub(super) fn asked(&self, candidate: NodeId, last_log_id: Option<LogId>) -> bool {
        self.candidacy.lock().asked(self.runtime.clock.monotonic(), candidate, last_log_id)
    }

    fn handle(&self, event: Event) -> Vec<Action> {
        self.candidacy.lock().handle(self.runtime.clock.monotonic(), event)
    }

    /// Runs until the quorum stops on this node.
    pub(super) async fn run(self: Arc<Self>, raft: Raft, mut metrics: watch::Receiver<RaftMetrics>, peers: Arc<Peers>) {
        let (answered, mut answers) = mpsc::channel(QUEUE_ANSWERS);
        loop {
            let mut actions = self.handle(Event::Standing(standing(&raft)));
            actions.extend(self.handle(Event::Tick));
            for action in actions {
                self.act(action, &raft, &peers, &answered).await;
            }
            let due = self.candidacy.lock().next_timeout();
            let pause = self.runtime.clock.sleep(due.since(self.runtime.clock.monotonic()));
            tokio::select! {
                biased;
                Some(event) = answers.recv() => {
                    for action in self.handle(event) {
                        self.act(action, &raft, &peers, &answered).await;
                    }
                }
                changed = metrics.changed() => {
                    if changed.is_err() || metrics.borrow().running_state.is_err() {
                        return;
                    }
                }
                () = self.changed.notified() => {}
                () = pause => {}
            }
        }
    }

    async fn act(&self, action: Action, raft: &Raft, peers: &Arc<Peers>, answered: &mpsc::Sender<Event>) {
        match action {
            Action::Stand => {
                tracing::info!("standing for leadership of the metadata");
                if let Err(error) = raft.trigger().elect().await {
                    tracing::debug!(%error, "the quorum has stopped");
                }
            }
            Action::Ask { round, voters } => {
                let last_log_id = raft.data_metrics().borrow().last_log;
                let vote: Vote = raft.metrics().borrow().vote;
                for node_id in voters {
                    let (peers, answered) = (Arc::clone(peers), answered.clone());
                    self.runtime.watch.spawn(async move {
                        let body = VoteHeader::new(vote, last_log_id);
                        let asked = peers.call(node_id, kind::RAFT_PRE_VOTE, &body, Vec::new(), ANSWER_TIMEOUT).await;
                        let would_vote = matches!(asked, Ok((PreVoteAnswer { would_vote: true }, _)));
                        // Who asked may have ended.
                        let _ = answered.try_send(Event::Answered { round, node_id, would_vote });
                    });
                }
            }
        }
    }
}

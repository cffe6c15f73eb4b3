//! The driver of the [`Controller`]: it exists where this node leads the quorum, begins anew in each term, and hears of brokers by
//! their heartbeats and from their machines.
//!
//! What it decides becomes commands like any other. Nothing of it is kept: the next leader begins with the same image, and grants
//! every broker a whole session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::super::command::Command;
use super::super::controller::machine::{
    Action, Controller, ControllerSettings, Event, Heartbeat, HeartbeatReply, Members,
};
use super::super::error::CommandError;
use super::super::image::Image;
use super::acknowledged::Acknowledged;
use super::campaign::{LEADER_PATIENCE_MS, leads};
use super::members::{MemberChange, change, status};
use super::proposer::{Pending, Request};
use super::{Raft, RaftMetrics};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::types::{Monotonic, NodeId};

/// Pause after a change of the quorum that failed.
const CHANGE_PAUSE: Duration = Duration::from_secs(2);
/// How long the driver waits for something to happen at most.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Controlling {
    runtime: Runtime,
    raft: Raft,
    metrics: watch::Receiver<RaftMetrics>,
    acknowledged: Arc<Acknowledged>,
    images: watch::Receiver<Arc<Image>>,
    requests: mpsc::Sender<Request>,
    settings: ControllerSettings,
    /// With the term in which it began.
    machine: Mutex<Option<(u64, Controller)>>,
    changed: Notify,
    /// A change of the quorum is under way.
    is_changing: AtomicBool,
}

impl Controlling {
    pub(super) fn new(
        runtime: Runtime,
        raft: Raft,
        metrics: watch::Receiver<RaftMetrics>,
        acknowledged: Arc<Acknowledged>,
        images: watch::Receiver<Arc<Image>>,
        requests: mpsc::Sender<Request>,
        settings: ControllerSettings,
    ) -> Self {
        let (machine, changed, is_changing) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
        Self { runtime, raft, metrics, acknowledged, images, requests, settings, machine, changed, is_changing }
    }

    /// Runs until the quorum stops on this node.
    pub(super) async fn run(self: Arc<Self>) {
        let (mut metrics, mut images) = (self.metrics.clone(), self.images.clone());
        loop {
            let due = self.follow(&metrics.borrow_and_update().clone(), &images.borrow_and_update().clone());
            let pause = due.map_or(LONGEST_WAIT, |due| due.since(self.runtime.clock.monotonic()));
            let pause = self.runtime.clock.sleep(pause);
            tokio::select! {
                biased;
                changed = metrics.changed() => {
                    if changed.is_err() || metrics.borrow().running_state.is_err() {
                        return;
                    }
                }
                changed = images.changed() => if changed.is_err() { return },
                () = self.changed.notified() => {}
                () = pause => {}
            }
        }
    }

    /// Begins, goes on or ends, and says when to look again.
    fn follow(self: &Arc<Self>, metrics: &RaftMetrics, image: &Arc<Image>) -> Option<Monotonic> {
        // Before its first own entry the image may lack what an earlier leader had committed.
        let has_begun = metrics.last_applied.is_some_and(|log_id| log_id.leader_id.term == metrics.current_term);
        if !leads(metrics) || !has_begun {
            if self.machine.lock().take().is_some() {
                tracing::info!(term = metrics.current_term, "this node controls the cluster no more");
            }
            return None;
        }
        let now = self.runtime.clock.monotonic();
        let mut machine = self.machine.lock();
        if machine.as_ref().is_none_or(|(term, _)| *term != metrics.current_term) {
            tracing::info!(term = metrics.current_term, "this node controls the cluster");
            *machine = Some((metrics.current_term, Controller::new(now, Arc::clone(image), self.settings.clone())));
        }
        let (_, controller) = machine.as_mut().expect("it was made");
        let mut actions = controller.handle(now, Event::Image(Arc::clone(image)));
        actions.extend(controller.handle(now, Event::Members(members(metrics))));
        if controller.next_timeout() <= now {
            actions.extend(controller.handle(now, Event::Tick));
        }
        let due = controller.next_timeout();
        drop(machine);
        self.act(actions);
        Some(due)
    }

    /// A broker's sign of life, and the answer to it.
    ///
    /// # Errors
    /// [`CommandError::NotLeader`].
    pub(super) fn heartbeat(self: &Arc<Self>, heartbeat: Heartbeat) -> Result<HeartbeatReply, CommandError> {
        let not_leader = || CommandError::NotLeader { leader: self.metrics.borrow().current_leader };
        let now = self.runtime.clock.monotonic();
        if !self.is_followed(now) {
            return Err(not_leader());
        }
        let mut actions = {
            let mut machine = self.machine.lock();
            let (_, controller) = machine.as_mut().ok_or_else(not_leader)?;
            controller.handle(now, Event::Heartbeat(heartbeat))
        };
        let Some(Action::Reply(reply)) = actions.pop() else { unreachable!("a heartbeat is answered last") };
        self.act(actions);
        self.changed.notify_one();
        Ok(reply)
    }

    /// Whether nobody else can control the cluster yet: those who have heard this node as their leader elect no other one until they
    /// have missed it for so long. A broker that is answered counts on leading what it leads for a session, and it may, since the next
    /// controller grants everybody a whole session, too.
    fn is_followed(&self, now: Monotonic) -> bool {
        let metrics = self.metrics.borrow();
        let voters = metrics.membership_config.membership().get_joint_config();
        let heard = self.acknowledged.by_majority(now, metrics.id, voters);
        heard.is_some_and(|heard| now.since(heard) < Duration::from_millis(LEADER_PATIENCE_MS))
    }

    /// A broker's process is gone.
    pub(super) fn gone(self: &Arc<Self>, node_id: NodeId) {
        let Some(broker_epoch) = self.images.borrow().broker(node_id).map(|broker| broker.epoch) else { return };
        let actions = {
            let mut machine = self.machine.lock();
            let Some((_, controller)) = machine.as_mut() else { return };
            controller.handle(self.runtime.clock.monotonic(), Event::ProcessGone { node_id, broker_epoch })
        };
        self.act(actions);
        self.changed.notify_one();
    }

    fn act(self: &Arc<Self>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Submit(command) => {
                    let this = Arc::clone(self);
                    self.runtime.watch.spawn(async move { this.submit(command).await });
                }
                Action::ChangeVoters(voters) => self.change(MemberChange::SetVoters { voters }),
                Action::Reply(_) => unreachable!("only a heartbeat is answered"),
            }
        }
    }

    async fn submit(&self, command: Command) {
        tracing::info!(?command, "the controller decides");
        let (reply, outcome) = oneshot::channel();
        if self.requests.send(Request::Submit(Pending { command, reply })).await.is_err() {
            return;
        }
        match outcome.await {
            Ok(Ok(_)) | Err(_) => {}
            // It is decided again if it is still wanted.
            Ok(Err(error)) => tracing::warn!(%error, "what the controller decided did not take effect"),
        }
    }

    /// Makes a change of the quorum, unless one is under way: it is wanted again, then.
    fn change(self: &Arc<Self>, wanted: MemberChange) {
        if self.is_changing.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        self.runtime.watch.spawn(async move {
            tracing::info!(?wanted, "the quorum changes");
            if let Err(error) = change(&this.raft, wanted).await {
                tracing::warn!(%error, "the quorum is not changed yet");
                this.runtime.clock.sleep(CHANGE_PAUSE).await;
            }
            this.is_changing.store(false, Ordering::Release);
            this.changed.notify_one();
        });
    }
}

/// The members, as the leader knows them.
fn members(metrics: &RaftMetrics) -> Members {
    let Some(status) = status(metrics) else { return Members::default() };
    let lag = |index: u64| status.last_index.saturating_sub(index);
    let learners = status.progress.iter().filter(|(node_id, _)| !status.voters.contains(node_id));
    let learners = learners.map(|(node_id, index)| (*node_id, index.map(lag))).collect();
    Members { voters: status.voters, learners }
}

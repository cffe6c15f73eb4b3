//! The heartbeats of this broker, and what the controller answers: that it takes part, that it may go, or that another process has
//! taken its number.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::log::LogDirectory;
use crate::metadata::Metadata;
use crate::metadata::controller::machine::{Heartbeat, HeartbeatReply, Wants};
use crate::metadata::image::BrokerState;
use crate::runtime::Runtime;
use crate::types::{BrokerEpoch, DirectoryId, Monotonic, NodeId};

/// Between two heartbeats; a session is many times as long.
const INTERVAL: Duration = Duration::from_millis(250);
/// While the broker waits to be let in, or to go.
const EAGER_INTERVAL: Duration = Duration::from_millis(50);
/// How often a broker that is not let in says so.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a broker that stops waits to be let go: longer than the controller keeps one.
const DRAIN_PATIENCE: Duration = Duration::from_secs(35);

/// See the module.
pub(in crate::broker) struct Heartbeats {
    runtime: Runtime,
    metadata: Arc<Metadata>,
    node_id: NodeId,
    epoch: BrokerEpoch,
    directories: Vec<Arc<LogDirectory>>,
    /// How long it may be silent, as far as it knows: brokers of a cluster are set alike.
    session: Duration,
    wants: Mutex<Wants>,
    /// When the last heartbeat was sent that the controller answered to a broker that takes part.
    answered: Mutex<Option<Monotonic>>,
    /// Another process has registered with this broker's number.
    replaced: Notify,
    wake: Notify,
    may_go: Notify,
}

impl Heartbeats {
    /// Of a broker that has registered.
    pub(in crate::broker) fn new(
        runtime: &Runtime,
        metadata: &Arc<Metadata>,
        epoch: BrokerEpoch,
        directories: &[Arc<LogDirectory>],
        session: Duration,
    ) -> Self {
        Self {
            runtime: runtime.clone(),
            metadata: Arc::clone(metadata),
            node_id: metadata.node_id(),
            epoch,
            directories: directories.to_vec(),
            session,
            wants: Mutex::new(Wants::Serve),
            answered: Mutex::new(None),
            replaced: Notify::new(),
            wake: Notify::new(),
            may_go: Notify::new(),
        }
    }

    fn offline_directories(&self) -> Vec<DirectoryId> {
        let offline = self.directories.iter().filter(|directory| directory.is_offline());
        offline.map(|directory| directory.identity().directory_id).collect()
    }

    async fn beat(&self) -> Option<HeartbeatReply> {
        let heartbeat = Heartbeat {
            node_id: self.node_id,
            broker_epoch: self.epoch,
            applied_version: self.metadata.image().version(),
            wants: *self.wants.lock(),
            offline_directories: self.offline_directories(),
        };
        let sent = self.runtime.clock.monotonic();
        match self.metadata.heartbeat(heartbeat).await {
            Ok(reply) => {
                *self.answered.lock() = Some(sent).filter(|_| !reply.is_fenced && !reply.is_stale);
                Some(reply)
            }
            Err(error) => {
                tracing::debug!(%error, "the controller did not hear this broker");
                None
            }
        }
    }

    /// Waits until the controller lets this broker take part, and this broker knows.
    pub(in crate::broker) async fn until_unfenced(&self) {
        let mut noticed = self.runtime.clock.monotonic();
        loop {
            let image = self.metadata.image();
            let is_in = image
                .broker(self.node_id)
                .is_some_and(|broker| broker.epoch == self.epoch && broker.state == BrokerState::Active);
            if is_in {
                return;
            }
            self.beat().await;
            if self.runtime.clock.monotonic().since(noticed) >= NOTICE_INTERVAL {
                noticed = self.runtime.clock.monotonic();
                tracing::warn!("waiting for the controller to let this broker take part");
            }
            self.runtime.clock.sleep(EAGER_INTERVAL).await;
        }
    }

    /// Beats for as long as the broker runs.
    pub(in crate::broker) async fn beat_forever(self: Arc<Self>) {
        loop {
            let reply = self.beat().await;
            if reply.is_some_and(|reply| reply.is_stale) {
                self.replaced.notify_one();
            }
            if reply.is_some_and(|reply| reply.may_shut_down) {
                self.may_go.notify_one();
            }
            let is_eager = *self.wants.lock() == Wants::ShutDown;
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = self.runtime.clock.sleep(if is_eager { EAGER_INTERVAL } else { INTERVAL }) => {}
            }
        }
    }

    /// Whether the controller has heard this broker within a session, so that it has not fenced it for its silence. One that was
    /// cut off from the others, or stood still, does not know whether it leads what it led.
    pub(in crate::broker) fn are_answered(&self) -> bool {
        let now = self.runtime.clock.monotonic();
        self.answered.lock().is_some_and(|answered| now.since(answered) < self.session)
    }

    /// Waits until another process has registered with this broker's number.
    pub(in crate::broker) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// Has others lead what this broker leads, and waits until they do, or until it does not make sense to wait any longer.
    pub(in crate::broker) async fn drain(&self) {
        *self.wants.lock() = Wants::ShutDown;
        self.wake.notify_one();
        tokio::select! {
            biased;
            () = self.may_go.notified() => {}
            () = self.runtime.clock.sleep(DRAIN_PATIENCE) => {
                tracing::warn!("stopping although the controller did not say that others lead in this broker's place");
            }
        }
    }
}

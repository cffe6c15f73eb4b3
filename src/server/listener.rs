//! Accepting connections within limits, and ending them all at shutdown.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::connection::{self, Peer};
use super::frame_memory::FrameMemory;
use super::handlers::Handlers;
use super::settings::ConnectionLimits;
use crate::broker::Broker;
use crate::metadata::broker_config;
use crate::runtime::net::{Listener, Stream};
use crate::runtime::watch;
use crate::telemetry::{MemoryShare, RefuseReason, spans};

/// How long to wait after accepting failed, which it does while file descriptors are used up.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Shared {
    pub(super) broker: Arc<Broker>,
    pub(super) handlers: Handlers,
    pub(super) limits: ConnectionLimits,
    /// Memory of requests.
    pub(super) frames: Arc<FrameMemory>,
    drain_timeout: Duration,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Shared {
    pub(super) fn new(broker: Arc<Broker>, limits: ConnectionLimits, drain_timeout: Duration) -> Self {
        let used_bytes = broker.metrics().memory.used_bytes.of(MemoryShare::Frames).clone();
        Self {
            handlers: Handlers::new(broker.metrics()),
            frames: Arc::new(FrameMemory::new(limits.total_frame_bytes, used_bytes)),
            broker,
            limits,
            drain_timeout,
            open: Mutex::default(),
        }
    }

    /// Counts a connection in, unless there are too many.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admission, RefuseReason> {
        let in_all = self.limit("max.connections", self.limits.connections);
        let per_address = self.limit("max.connections.per.ip", self.limits.connections_per_address);
        let mut open = self.open.lock();
        if open.total >= in_all {
            return Err(RefuseReason::Total);
        }
        if open.by_address.get(&address).is_some_and(|count| *count >= per_address) {
            return Err(RefuseReason::PerAddress);
        }
        *open.by_address.entry(address).or_default() += 1;
        open.total += 1;
        let metrics = &self.broker.metrics().server;
        metrics.accepted_connections.inc();
        metrics.connections.inc();
        Ok(Admission { shared: Arc::clone(self), address })
    }

    /// A limit as it was lowered while the broker runs; what it was started with is never passed.
    fn limit(&self, name: &str, started_with: usize) -> usize {
        let image = self.broker.image();
        let set = broker_config::effective(name, &self.broker.layers(&image));
        set.and_then(|set| set.parse().ok()).map_or(started_with, |set: usize| set.min(started_with))
    }
}

/// A connection's place; given back when dropped, however the connection ends.
struct Admission {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
        self.shared.broker.metrics().server.connections.dec();
    }
}

/// Accepts and serves until told to stop, then waits for the connections' requests under way.
pub(super) async fn serve(
    socket: Box<dyn Listener>,
    name: Arc<str>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut fails = false;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(ended) = connections.join_next() => {
                note_end(ended);
                continue;
            }
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                fails = false;
                start(&mut connections, stream, address, &name, &shared, &stopped);
            }
            // Connections that the client gave up before they were accepted cost nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, listener = %name, "accepting connections fails; trying until it works");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(socket);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.drain_timeout, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut off at shutdown");
        connections.shutdown().await;
    }
}

fn start(
    connections: &mut JoinSet<()>,
    stream: Box<dyn Stream>,
    address: SocketAddr,
    name: &Arc<str>,
    shared: &Arc<Shared>,
    stopped: &watch::Receiver<bool>,
) {
    let admission = match shared.admit(address.ip()) {
        Ok(admission) => admission,
        Err(reason) => {
            shared.broker.metrics().server.refused_connections.of(reason).inc();
            tracing::debug!(%address, reason = reason.name(), "connection refused");
            return;
        }
    };
    let peer = Peer { address, listener: Arc::clone(name) };
    let (shared, stopped) = (Arc::clone(shared), stopped.clone());
    let span = spans::connection(name, address);
    let serve = async move {
        connection::serve(stream, peer, shared, stopped).await;
        drop(admission);
    };
    connections.spawn(serve.instrument(span));
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection panicked and was closed; see the panic message above");
    }
}

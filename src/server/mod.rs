//! The Kafka listeners: connections in, answers out, and the translation between the wire and the broker.
//!
//! ```text
//!   listener ─ accepts within limits ─▶ connection ─ frames ─▶ handlers ─▶ broker
//!                                           ◀─ answers, in the order of the requests ─┘
//! ```
//! Requests of a connection are started in order. A produce request's records have their place in the log before the next
//! request is looked at; only its wait for the disk, and a fetch's wait for records, go on beside later requests. Nothing here
//! survives a crash, and a panic ends the one connection that it happens in.

mod connection;
mod errors;
mod frame_memory;
mod handlers;
mod listener;
mod settings;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinHandle;

pub use settings::{ConnectionLimits, ListenerSettings, ServerSettings};

use crate::broker::{Broker, BrokerSettings, StartError};
use crate::metadata::command::{Endpoint, SecurityProtocol};
use crate::runtime::Runtime;
use crate::runtime::net::Listener;
use crate::runtime::watch;
use crate::telemetry::{Metrics, Readiness};

/// An address can't be listened on.
#[derive(Debug, Error)]
#[error("cannot listen listener={listener} address={address}: {error}")]
pub struct ListenError {
    /// Name of the listener.
    pub listener: String,
    /// Its address.
    pub address: SocketAddr,
    /// What the operating system said.
    pub error: io::Error,
}

/// How often the data directories are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Listeners that are bound. Who connects waits until a [`Server`] takes them over.
pub struct BoundListeners {
    settings: ServerSettings,
    bound: Vec<(ListenerSettings, Box<dyn Listener>, SocketAddr)>,
}

impl BoundListeners {
    /// Binds all listeners.
    ///
    /// # Errors
    /// [`ListenError`]; none is left bound.
    pub async fn bind(settings: ServerSettings, runtime: &Runtime) -> Result<Self, ListenError> {
        let mut bound = Vec::new();
        for listener in &settings.listeners {
            let failed = |error| ListenError { listener: listener.name.clone(), address: listener.address, error };
            let socket = runtime.net.bind(listener.address).await.map_err(failed)?;
            let address = socket.local_address().map_err(failed)?;
            bound.push((listener.clone(), socket, address));
        }
        Ok(Self { settings, bound })
    }
}

/// A broker that serves. Stopped by [`Server::shutdown`]; dropping it leaves the work to the next start's recovery.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    addresses: BTreeMap<String, SocketAddr>,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    readiness: Readiness,
    watch: JoinHandle<()>,
}

impl Server {
    /// Opens the broker, and serves. Ready when it returns; `readiness` follows what may end that.
    ///
    /// `broker_settings.endpoints` is filled in here, from the addresses that were bound.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(
        listeners: BoundListeners,
        mut broker_settings: BrokerSettings,
        runtime: Runtime,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> Result<Self, StartError> {
        readiness.not_ready("kafka", "recovering");
        let BoundListeners { settings, bound } = listeners;
        broker_settings.endpoints = bound.iter().map(|(listener, _, address)| endpoint(listener, *address)).collect();
        let broker = Broker::open(runtime, broker_settings, metrics).await?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(listener::Shared::new(Arc::clone(&broker), settings.limits, settings.drain_timeout));
        let mut addresses = BTreeMap::new();
        let mut listeners = Vec::new();
        for (listener, socket, address) in bound {
            addresses.insert(listener.name.clone(), address);
            let serve = listener::serve(socket, Arc::from(listener.name), Arc::clone(&shared), stopped.clone());
            listeners.push(tokio::spawn(serve));
        }
        readiness.ready("kafka");
        let watch = tokio::spawn(watch_directories(readiness.clone(), Arc::downgrade(&broker)));
        Ok(Self { broker, addresses, stop, listeners, readiness, watch })
    }

    /// The addresses that were bound, by name of listener.
    pub const fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// The broker.
    pub const fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Accepts no more, lets requests under way end within the drain timeout, those that wait for something at once, and
    /// closes everything so that the next start has nothing to recover.
    pub async fn shutdown(self) {
        self.watch.abort();
        self.readiness.not_ready("kafka", "stopping");
        self.broker.drain().await;
        self.stop.send_replace(true);
        self.broker.stop_waiting();
        for listener in self.listeners {
            if let Err(error) = listener.await {
                tracing::error!(%error, "a listener ended abnormally");
            }
        }
        self.broker.shutdown().await;
    }
}

/// A broker none of whose data directories takes appends is not ready.
async fn watch_directories(readiness: Readiness, broker: Weak<Broker>) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    while let Some(broker) = broker.upgrade() {
        match broker.is_writable() {
            true => readiness.ready("data"),
            false => readiness.not_ready("data", "all data directories are offline"),
        }
        drop(broker);
        ticks.tick().await;
    }
}

fn endpoint(listener: &ListenerSettings, bound: SocketAddr) -> (String, Endpoint) {
    let (host, port) = match &listener.advertised {
        Some((host, 0)) => (host.clone(), bound.port()),
        Some((host, port)) => (host.clone(), *port),
        None => (bound.ip().to_string(), bound.port()),
    };
    (listener.name.clone(), Endpoint { host, port, security_protocol: SecurityProtocol::Plaintext })
}

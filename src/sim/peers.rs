//! The simulated network among brokers: connections that pass bytes, and faults, all drawn from one seed. Tests only.
//!
//! A [`SimNetwork`] is shared by the machines of a test, each of which is a [`SimHost`] of it. It has a time of its own, which
//! stands still until the test lets it pass ([`SimNetwork::pass`]), as it does with the clock of each machine: what arrives,
//! arrives in the order of its time, and tasks see it when they run next. So two runs with one seed are equal as long as the
//! test's own turns are, and [`SimNetwork::trace`] says so. Certificates are plain text ([`identity`]). What differs from the
//! real network: reading gives room back to the sender at once, and priorities of streams say nothing.

mod world;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::runtime::net::BoxFuture;
use crate::runtime::peers::{
    ExpectedPeer, Lifeline, PeerConnection, PeerEndpoint, PeerError, PeerIdentity, PeerNet, PeerReceive, PeerSend,
    PeerSettings, PeerStatistics, PeerStream, RemotePeer, Secret,
};
use world::{Item, World};

/// What a node shows whom an authority has named, as text.
pub(crate) fn identity(authority: &str, names: &[&str]) -> PeerIdentity {
    PeerIdentity {
        certificates: vec![format!("{authority}: {}", names.join(" ")).into_bytes()],
        key: Secret::new(Vec::new()),
        authorities: vec![authority.as_bytes().to_vec()],
    }
}

/// See the module. Clones share the network.
#[derive(Clone)]
pub(crate) struct SimNetwork {
    world: Arc<Mutex<World>>,
}

impl SimNetwork {
    /// A network on which everything takes 0.1 to 1 ms.
    pub(crate) fn new(seed: u64) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed))) }
    }

    /// Changes the world, and wakes whom that concerns once it is free again.
    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let (result, woken) = {
            let mut world = self.world.lock();
            let result = change(&mut world);
            (result, std::mem::take(&mut world.woken))
        };
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// The machine of a name, by which it is reached: `name:port`. It is made when it is asked for first.
    pub(crate) fn host(&self, name: &str) -> SimHost {
        SimHost { network: self.clone(), ip: self.with(|world| world.host(name)) }
    }

    /// How long everything takes from now on: so long at least and at most.
    pub(crate) fn set_delay(&self, least: Duration, most: Duration) {
        self.with(|world| world.set_delay(least, most));
    }

    /// Lets time pass: what is due by then arrives.
    pub(crate) fn pass(&self, duration: Duration) {
        self.with(|world| world.pass(duration));
    }

    /// Time until something arrives or runs out.
    pub(crate) fn until_next(&self) -> Option<Duration> {
        self.with(|world| world.until_next())
    }

    /// From now on nothing gets from one machine to another; the way back is cut by another call.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.with(|world| world.cut(from, to));
    }

    /// Ends [`Self::cut`]: what was held arrives.
    pub(crate) fn heal(&self, from: &str, to: &str) {
        self.with(|world| world.heal(from, to));
    }

    /// Breaks the connections between two machines, on both sides.
    pub(crate) fn reset(&self, one: &str, other: &str) {
        self.with(|world| world.reset(one, other));
    }

    /// A hash of everything that arrived so far.
    pub(crate) fn trace(&self) -> u64 {
        self.with(|world| world.trace())
    }
}

/// One machine's place in the network.
#[derive(Clone)]
pub(crate) struct SimHost {
    network: SimNetwork,
    ip: IpAddr,
}

impl SimHost {
    /// The machine is up; nothing is bound yet.
    pub(crate) fn power_on(&self) {
        self.network.with(|world| world.set_powered(self.ip, true));
    }

    /// The machine is down: nothing answers.
    pub(crate) fn power_off(&self) {
        self.network.with(|world| world.set_powered(self.ip, false));
    }

    /// Its process is gone, without a word; lifelines tell.
    pub(crate) fn kill(&self) {
        self.network.with(|world| world.kill(self.ip));
    }
}

impl PeerNet for SimHost {
    fn bind(
        &self,
        address: SocketAddr,
        identity: PeerIdentity,
        settings: PeerSettings,
    ) -> BoxFuture<'_, io::Result<Arc<dyn PeerEndpoint>>> {
        Box::pin(async move {
            let (address, id) = self.network.with(|world| world.bind(self.ip, address.port(), identity, settings))?;
            Ok(Arc::new(SimEndpoint { network: self.network.clone(), address, id }) as Arc<dyn PeerEndpoint>)
        })
    }

    fn lifeline<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Lifeline>>> {
        Box::pin(async move {
            let resolved = self.network.with(|world| world.resolve(address));
            let to = resolved.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
            Ok(Box::new(SimLifeline { network: self.network.clone(), from: self.ip, to }) as Box<dyn Lifeline>)
        })
    }
}

struct SimLifeline {
    network: SimNetwork,
    from: IpAddr,
    to: SocketAddr,
}

impl Lifeline for SimLifeline {
    fn is_gone(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.network.with(|world| world.is_gone(self.from, self.to)) })
    }
}

struct SimEndpoint {
    network: SimNetwork,
    address: SocketAddr,
    /// Tells it from those that were, or will be, bound there.
    id: u64,
}

impl PeerEndpoint for SimEndpoint {
    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn set_identity(&self, identity: PeerIdentity) -> io::Result<()> {
        self.network.with(|world| world.set_identity(self.address, self.id, identity));
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        address: &'a str,
        expected: ExpectedPeer,
    ) -> BoxFuture<'a, Result<Arc<dyn PeerConnection>, PeerError>> {
        Box::pin(async move {
            let link = self.network.with(|world| world.dial((self.address, self.id), address, expected))?;
            // Dropped with this future, it gives the attempt up.
            let handle = Handle { network: self.network.clone(), link, side: 0 };
            let remote = poll_fn(|context| self.network.with(|world| world.poll_dialled(link, context))).await?;
            Ok(Arc::new(SimConnection { handle, remote }) as Arc<dyn PeerConnection>)
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn PeerConnection>>> {
        Box::pin(async move {
            let accepted =
                poll_fn(|context| self.network.with(|world| world.poll_accept((self.address, self.id), context)));
            let (link, remote) = accepted.await?;
            // Its handle was counted when it came.
            let handle = Handle { network: self.network.clone(), link, side: 1 };
            Some(Arc::new(SimConnection { handle, remote }) as Arc<dyn PeerConnection>)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.network.with(|world| world.close_endpoint((self.address, self.id))) })
    }
}

impl Drop for SimEndpoint {
    fn drop(&mut self) {
        self.network.with(|world| world.unbind((self.address, self.id)));
    }
}

/// One that keeps a side of a connection open.
struct Handle {
    network: SimNetwork,
    link: u64,
    side: usize,
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.network.with(|world| world.add_handle(self.link, self.side));
        Self { network: self.network.clone(), link: self.link, side: self.side }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.network.with(|world| world.drop_handle(self.link, self.side));
    }
}

struct SimConnection {
    handle: Handle,
    remote: RemotePeer,
}

impl SimConnection {
    fn stream(&self, stream: u64) -> PeerStream {
        PeerStream {
            send: Box::new(SimSend { handle: self.handle.clone(), stream }),
            receive: Box::new(SimReceive { handle: self.handle.clone(), stream }),
        }
    }
}

impl PeerConnection for SimConnection {
    fn remote(&self) -> &RemotePeer {
        &self.remote
    }

    fn open(&self, _priority: i32) -> BoxFuture<'_, Result<PeerStream, PeerError>> {
        let Handle { network, link, side } = &self.handle;
        Box::pin(async move {
            let stream = poll_fn(|context| network.with(|world| world.poll_open(*link, *side, context))).await?;
            Ok(self.stream(stream))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<PeerStream, PeerError>> {
        let Handle { network, link, side } = &self.handle;
        Box::pin(async move {
            let stream =
                poll_fn(|context| network.with(|world| world.poll_accept_stream(*link, *side, context))).await?;
            Ok(self.stream(stream))
        })
    }

    fn close(&self, reason: &str) {
        self.handle.network.with(|world| world.close(self.handle.link, self.handle.side, reason));
    }

    fn closed(&self) -> BoxFuture<'_, PeerError> {
        let Handle { network, link, side } = &self.handle;
        Box::pin(poll_fn(move |context| network.with(|world| world.poll_closed(*link, *side, context))))
    }

    fn statistics(&self) -> PeerStatistics {
        self.handle.network.with(|world| world.statistics(self.handle.link, self.handle.side))
    }
}

struct SimSend {
    handle: Handle,
    stream: u64,
}

impl PeerSend for SimSend {
    fn send<'a>(&'a mut self, chunks: &'a mut [Bytes]) -> BoxFuture<'a, Result<(), PeerError>> {
        let Handle { network, link, side } = &self.handle;
        let stream = self.stream;
        Box::pin(async move {
            for chunk in chunks {
                poll_fn(|context| network.with(|world| world.poll_send(*link, *side, stream, chunk, context))).await?;
            }
            Ok(())
        })
    }

    fn finish(&mut self) {
        let Handle { network, link, side } = &self.handle;
        network.with(|world| world.end_half(*link, *side, self.stream, Item::Finished));
    }

    fn reset(&mut self) {
        let Handle { network, link, side } = &self.handle;
        network.with(|world| world.end_half(*link, *side, self.stream, Item::Reset));
    }
}

impl Drop for SimSend {
    fn drop(&mut self) {
        self.reset();
        let Handle { network, link, side } = &self.handle;
        network.with(|world| world.drop_sender(*link, *side, self.stream));
    }
}

struct SimReceive {
    handle: Handle,
    stream: u64,
}

impl PeerReceive for SimReceive {
    fn receive(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Bytes>, PeerError>> {
        let Handle { network, link, side } = &self.handle;
        let stream = self.stream;
        Box::pin(poll_fn(move |context| {
            network.with(|world| world.poll_receive(*link, *side, stream, max_bytes, context))
        }))
    }

    fn stop(&mut self) {
        let Handle { network, link, side } = &self.handle;
        network.with(|world| world.stop(*link, *side, self.stream));
    }
}

impl Drop for SimReceive {
    fn drop(&mut self) {
        self.stop();
        let Handle { network, link, side } = &self.handle;
        network.with(|world| world.drop_receiver(*link, *side, self.stream));
    }
}

#[cfg(test)]
mod tests;

//! What the simulated network consists of, and what happens on it: [`super`] hands it to tasks.
//!
//! Time is in nanoseconds since the network was made. Side 0 of a link dialled, side 1 was dialled.

mod links;
mod streams;
mod trust;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use crate::runtime::peers::{ExpectedPeer, PeerError, PeerIdentity, PeerProtocol, PeerSettings, RemotePeer};
use crate::sim::Random;

/// First of the ports that are picked.
const FIRST_PORT: u16 = 40_000;

/// An endpoint's address, and which of those that were bound there.
type EndpointId = (SocketAddr, u64);

/// What travels on a half of a stream.
#[derive(Clone, Debug, Hash)]
pub(super) enum Item {
    Chunk(Bytes),
    Finished,
    Reset,
}

/// What happens at some time. Those that travel are held where their way is cut.
#[derive(Clone, Copy, Debug, Hash)]
enum Event {
    /// A dialled endpoint hears of it, and answers by the verdict.
    Hello {
        link: u64,
    },
    Verdict {
        link: u64,
    },
    /// The next item of a half of a stream, whose sender is `from`.
    Arrival {
        link: u64,
        stream: u64,
        from: usize,
    },
    /// A receiver takes no more.
    Stop {
        link: u64,
        stream: u64,
        by: usize,
    },
    /// The other side has closed.
    Closed {
        link: u64,
        to: usize,
    },
    /// The other side does not know the connection.
    Lost {
        link: u64,
        side: usize,
    },
    /// The idle time-out may be over.
    Silence {
        link: u64,
        side: usize,
    },
}

struct Host {
    name: String,
    is_powered: bool,
}

struct Endpoint {
    id: u64,
    identity: PeerIdentity,
    settings: PeerSettings,
    is_open: bool,
    /// Links that nobody has accepted.
    waiting: VecDeque<u64>,
    wakers: Vec<Waker>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The handshake is under way.
    Pending,
    Open,
    Over(PeerError),
}

struct Side {
    address: SocketAddr,
    settings: PeerSettings,
    state: State,
    /// Names in the certificate of the other side.
    remote_names: Vec<String>,
    handles: usize,
    /// Streams that the other side opened and nobody has accepted.
    waiting: VecDeque<u64>,
    opened: u32,
    silent_since_ns: Option<u64>,
    sent_bytes: u64,
    received_bytes: u64,
    /// Why it closed.
    closing: Option<String>,
    wakers: Vec<Waker>,
}

impl Side {
    fn new(address: SocketAddr, settings: PeerSettings) -> Self {
        Self {
            address,
            settings,
            state: State::Pending,
            remote_names: Vec::new(),
            handles: 0,
            waiting: VecDeque::new(),
            opened: 0,
            silent_since_ns: None,
            sent_bytes: 0,
            received_bytes: 0,
            closing: None,
            wakers: Vec::new(),
        }
    }

    fn over(&self) -> Option<&PeerError> {
        match &self.state {
            State::Over(error) => Some(error),
            State::Pending | State::Open => None,
        }
    }
}

/// One direction of a stream.
#[derive(Default)]
struct Half {
    in_flight: VecDeque<Item>,
    arrived: VecDeque<Bytes>,
    /// Bytes in flight and of what has arrived.
    unread_bytes: usize,
    end: Option<Item>,
    is_ended: bool,
    is_stopped: bool,
    stop_is_known: bool,
    sender_is_dropped: bool,
    receiver_is_dropped: bool,
    wakers: Vec<Waker>,
}

struct Stream {
    opened_by: usize,
    is_announced: bool,
    /// By their senders.
    halves: [Half; 2],
}

/// What a dialling side shows, and expects.
struct Offer {
    identity: PeerIdentity,
    expected: ExpectedPeer,
    host: String,
}

struct Link {
    offer: Offer,
    verdict: Option<Result<(), PeerError>>,
    protocol: PeerProtocol,
    sides: [Side; 2],
    streams: BTreeMap<u64, Stream>,
}

impl Link {
    fn remote(&self, side: usize) -> RemotePeer {
        let Side { address, .. } = self.sides[1 - side];
        RemotePeer { address, protocol: self.protocol, names: self.sides[side].remote_names.clone() }
    }

    fn way(&self, from: usize) -> (IpAddr, IpAddr) {
        (self.sides[from].address.ip(), self.sides[1 - from].address.ip())
    }
}

pub(super) struct World {
    /// Who is to be woken once the world is free.
    pub(super) woken: Vec<Waker>,
    random: Random,
    now_ns: u64,
    /// Counts events, endpoints, links and streams.
    sequence: u64,
    /// Shortest delay, and how much it may be longer.
    delay_ns: (u64, u64),
    hosts: Vec<Host>,
    endpoints: BTreeMap<SocketAddr, Endpoint>,
    links: BTreeMap<u64, Link>,
    events: BTreeMap<(u64, u64), Event>,
    /// Ways that are cut, and what is held on them.
    cuts: BTreeMap<(IpAddr, IpAddr), Vec<Event>>,
    trace: DefaultHasher,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            woken: Vec::new(),
            random: Random::new(seed ^ 0x9ee5),
            now_ns: 0,
            sequence: 0,
            delay_ns: (100_000, 900_000),
            hosts: Vec::new(),
            endpoints: BTreeMap::new(),
            links: BTreeMap::new(),
            events: BTreeMap::new(),
            cuts: BTreeMap::new(),
            trace: DefaultHasher::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn schedule(&mut self, after_ns: u64, event: Event) {
        let key = (self.now_ns + after_ns, self.next());
        self.events.insert(key, event);
    }

    /// Sends something on its way.
    fn dispatch(&mut self, event: Event) {
        let (least, spread) = self.delay_ns;
        let delay = least + self.random.below(spread + 1);
        self.schedule(delay, event);
    }

    pub(super) fn set_delay(&mut self, least: Duration, most: Duration) {
        self.delay_ns = (nanoseconds(least), nanoseconds(most.saturating_sub(least)));
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn until_next(&self) -> Option<Duration> {
        let ((due_ns, _), _) = self.events.first_key_value()?;
        Some(Duration::from_nanos(due_ns - self.now_ns))
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        let end_ns = self.now_ns + nanoseconds(duration);
        while let Some(first) = self.events.first_entry().filter(|first| first.key().0 <= end_ns) {
            self.now_ns = first.key().0;
            let event = first.remove();
            self.happen(event);
        }
        self.now_ns = end_ns;
    }

    // Machines, and what goes wrong among them.

    fn ip_of(index: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(index + 1).expect("a test has few machines")))
    }

    fn known(&self, name: &str) -> Option<IpAddr> {
        self.hosts.iter().position(|host| host.name == name).map(Self::ip_of)
    }

    pub(super) fn host(&mut self, name: &str) -> IpAddr {
        self.known(name).unwrap_or_else(|| {
            self.hosts.push(Host { name: name.to_owned(), is_powered: true });
            Self::ip_of(self.hosts.len() - 1)
        })
    }

    fn is_powered(&self, ip: IpAddr) -> bool {
        self.hosts.iter().enumerate().any(|(index, host)| Self::ip_of(index) == ip && host.is_powered)
    }

    pub(super) fn set_powered(&mut self, ip: IpAddr, is_powered: bool) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if Self::ip_of(index) == ip {
                host.is_powered = is_powered;
            }
        }
        if !is_powered {
            self.kill(ip);
        }
    }

    pub(super) fn kill(&mut self, ip: IpAddr) {
        for id in self.ids_of(|side| side.address.ip() == ip) {
            self.end(id.0, id.1, PeerError::Local);
        }
        let bound: Vec<EndpointId> = self.endpoints.iter().map(|(address, endpoint)| (*address, endpoint.id)).collect();
        for id in bound.into_iter().filter(|(address, _)| address.ip() == ip) {
            self.unbind(id);
        }
    }

    pub(super) fn cut(&mut self, from: &str, to: &str) {
        let way = (self.host(from), self.host(to));
        self.cuts.entry(way).or_default();
        self.listen();
    }

    pub(super) fn heal(&mut self, from: &str, to: &str) {
        let way = (self.host(from), self.host(to));
        for held in self.cuts.remove(&way).unwrap_or_default() {
            self.dispatch(held);
        }
        self.listen();
    }

    pub(super) fn reset(&mut self, one: &str, other: &str) {
        let (one, other) = (self.host(one), self.host(other));
        let broken = |link: &Link| link.way(0) == (one, other) || link.way(1) == (one, other);
        let broken: Vec<u64> = self.links.iter().filter(|(_, link)| broken(link)).map(|(id, _)| *id).collect();
        for link in broken {
            self.end(link, 0, PeerError::Reset);
            self.end(link, 1, PeerError::Reset);
        }
    }

    pub(super) fn resolve(&self, address: &str) -> Result<SocketAddr, PeerError> {
        if let Ok(address) = address.parse() {
            return Ok(address);
        }
        let named = address.rsplit_once(':');
        let named = named.and_then(|(host, port)| Some((self.known(host)?, port.parse::<u16>().ok()?)));
        let unknown =
            || PeerError::Address { address: address.to_owned(), reason: "no such machine and port".to_owned() };
        named.map(SocketAddr::from).ok_or_else(unknown)
    }

    pub(super) fn is_gone(&self, from: IpAddr, to: SocketAddr) -> bool {
        let is_cut = self.cuts.contains_key(&(from, to.ip())) || self.cuts.contains_key(&(to.ip(), from));
        !is_cut && self.is_powered(to.ip()) && !self.endpoints.contains_key(&to)
    }

    // Endpoints.

    pub(super) fn bind(
        &mut self,
        ip: IpAddr,
        port: u16,
        identity: PeerIdentity,
        settings: PeerSettings,
    ) -> io::Result<EndpointId> {
        if !self.is_powered(ip) {
            return Err(io::Error::other("power is off"));
        }
        let is_free = |port: &u16| !self.endpoints.contains_key(&SocketAddr::new(ip, *port));
        let port = if port == 0 { (FIRST_PORT..).find(is_free) } else { Some(port).filter(is_free) };
        let address = SocketAddr::new(ip, port.ok_or(io::ErrorKind::AddrInUse)?);
        let id = self.next();
        let (waiting, wakers) = (VecDeque::new(), Vec::new());
        self.endpoints.insert(address, Endpoint { id, identity, settings, is_open: true, waiting, wakers });
        // Those who dialled an earlier process here learn it when they say next that they are there.
        let is_orphan = |link: &Link| {
            let [dialler, dialled] = &link.sides;
            let is_lost = dialled.over().is_some() && dialled.closing.is_none();
            dialled.address == address && is_lost && dialler.state == State::Open
        };
        let orphans: Vec<(u64, Duration)> = self
            .links
            .iter()
            .filter(|(_, link)| is_orphan(link))
            .map(|(id, link)| (*id, link.sides[0].settings.keep_alive))
            .collect();
        for (link, keep_alive) in orphans {
            self.schedule(nanoseconds(keep_alive), Event::Lost { link, side: 0 });
        }
        Ok((address, id))
    }

    fn endpoint(&mut self, (address, id): EndpointId) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(&address).filter(|endpoint| endpoint.id == id)
    }

    pub(super) fn set_identity(&mut self, address: SocketAddr, id: u64, identity: PeerIdentity) {
        if let Some(endpoint) = self.endpoint((address, id)) {
            endpoint.identity = identity;
        }
    }

    pub(super) fn poll_accept(&mut self, id: EndpointId, context: &Context<'_>) -> Poll<Option<(u64, RemotePeer)>> {
        let Some(endpoint) = self.endpoint(id).filter(|endpoint| endpoint.is_open) else { return Poll::Ready(None) };
        let Some(accepted) = endpoint.waiting.pop_front() else { return wait(&mut endpoint.wakers, context) };
        let link = self.links.get(&accepted).expect("a link that waits has a handle");
        Poll::Ready(Some((accepted, link.remote(1))))
    }

    pub(super) fn close_endpoint(&mut self, id: EndpointId) {
        let Some(endpoint) = self.endpoint(id) else { return };
        endpoint.is_open = false;
        let mut wakers = std::mem::take(&mut endpoint.wakers);
        self.woken.append(&mut wakers);
        for (link, side) in self.ids_of(|side| side.address == id.0) {
            self.close(link, side, "the broker stops");
        }
    }

    pub(super) fn unbind(&mut self, id: EndpointId) {
        if self.endpoint(id).is_none() {
            return;
        }
        let Some(mut endpoint) = self.endpoints.remove(&id.0) else { return };
        self.woken.append(&mut endpoint.wakers);
        for link in endpoint.waiting {
            self.drop_handle(link, 1);
        }
    }

    // What happens, to connections and streams as the other files tell.

    /// The way that an event takes from machine to machine.
    fn way(&self, event: Event) -> Option<(IpAddr, IpAddr)> {
        let (link, from) = match event {
            Event::Hello { link } => (link, 0),
            Event::Verdict { link } => (link, 1),
            Event::Arrival { link, from, .. } => (link, from),
            Event::Stop { link, by, .. } => (link, by),
            Event::Closed { link, to } => (link, 1 - to),
            Event::Lost { link, side } => (link, 1 - side),
            Event::Silence { .. } => return None,
        };
        self.links.get(&link).map(|link| link.way(from))
    }

    fn happen(&mut self, event: Event) {
        if let Some(held) = self.way(event).and_then(|way| self.cuts.get_mut(&way)) {
            held.push(event);
            return;
        }
        (self.now_ns, event).hash(&mut self.trace);
        match event {
            Event::Hello { link } => self.hello(link),
            Event::Verdict { link } => self.verdict(link),
            Event::Arrival { link, stream, from } => self.arrival(link, stream, from),
            Event::Stop { link, stream, by } => {
                let link = self.links.get_mut(&link);
                if let Some(found) = link.and_then(|link| link.streams.get_mut(&stream)) {
                    let half = &mut found.halves[1 - by];
                    half.stop_is_known = true;
                    self.woken.append(&mut half.wakers);
                }
            }
            Event::Closed { link, to } => {
                let closing = self.links.get(&link).and_then(|found| found.sides[1 - to].closing.clone());
                self.end(link, to, PeerError::Closed { reason: closing.unwrap_or_default() });
            }
            Event::Lost { link, side } => self.end(link, side, PeerError::Reset),
            Event::Silence { link, side } => {
                let Some(found) = self.links.get(&link) else { return };
                let Side { silent_since_ns, ref settings, .. } = found.sides[side];
                if silent_since_ns.is_some_and(|since| self.now_ns - since >= nanoseconds(settings.idle_timeout)) {
                    self.end(link, side, PeerError::TimedOut);
                }
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("centuries are not simulated")
}

fn wait<T>(wakers: &mut Vec<Waker>, context: &Context<'_>) -> Poll<T> {
    if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        wakers.push(context.waker().clone());
    }
    Poll::Pending
}

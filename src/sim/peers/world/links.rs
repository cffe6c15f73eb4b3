//! Connections of the simulated network: dialled, accepted or refused, closed, lost.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Duration;

use super::trust::judge;
use super::{EndpointId, Event, Link, Offer, Side, State, World, nanoseconds, wait};
use crate::runtime::peers::{ExpectedPeer, PeerError, PeerProtocol, PeerSettings, PeerStatistics, RemotePeer};

impl World {
    pub(in crate::sim::peers) fn dial(
        &mut self,
        from: EndpointId,
        to: &str,
        expected: ExpectedPeer,
    ) -> Result<u64, PeerError> {
        let address = self.resolve(to)?;
        let endpoint = self.endpoint(from).filter(|endpoint| endpoint.is_open).ok_or(PeerError::Local)?;
        let (identity, settings) = (endpoint.identity.clone(), endpoint.settings.clone());
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).to_owned();
        let mut dialler = Side::new(from.0, settings);
        dialler.handles = 1;
        let sides = [dialler, Side::new(address, PeerSettings::default())];
        let offer = Offer { identity, expected, host };
        let id = self.next();
        let (protocol, streams) = (PeerProtocol::Member, BTreeMap::new());
        self.links.insert(id, Link { offer, verdict: None, protocol, sides, streams });
        self.dispatch(Event::Hello { link: id });
        self.listen();
        Ok(id)
    }

    pub(in crate::sim::peers) fn poll_dialled(
        &mut self,
        link: u64,
        context: &Context<'_>,
    ) -> Poll<Result<RemotePeer, PeerError>> {
        let Some(link) = self.links.get_mut(&link) else { return Poll::Ready(Err(PeerError::Local)) };
        match &link.sides[0].state {
            State::Open => Poll::Ready(Ok(link.remote(0))),
            State::Over(error) => Poll::Ready(Err(error.clone())),
            State::Pending => wait(&mut link.sides[0].wakers, context),
        }
    }

    pub(super) fn ids_of(&self, wanted: impl Fn(&Side) -> bool) -> Vec<(u64, usize)> {
        let sides = self.links.iter().flat_map(|(id, link)| [(*id, 0, &link.sides[0]), (*id, 1, &link.sides[1])]);
        sides.filter(|(_, _, side)| wanted(side)).map(|(id, number, _)| (id, number)).collect()
    }

    pub(in crate::sim::peers) fn add_handle(&mut self, link: u64, side: usize) {
        if let Some(link) = self.links.get_mut(&link) {
            link.sides[side].handles += 1;
        }
    }

    pub(in crate::sim::peers) fn drop_handle(&mut self, id: u64, side: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.sides[side].handles -= 1;
        if link.sides[side].handles > 0 {
            return;
        }
        match link.sides[side].state {
            State::Open => self.close(id, side, ""),
            State::Pending => self.end(id, side, PeerError::Local),
            State::Over(_) => {}
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if side == 0 && link.sides[1].state == State::Pending {
            link.sides[1].state = State::Over(PeerError::Local);
        }
        // What was closed travels still.
        let is_done = |side: &Side| side.handles == 0 && side.over().is_some();
        if link.sides.iter().all(is_done)
            && let Some(mut link) = self.links.remove(&id)
        {
            self.woken.extend(link.sides.iter_mut().flat_map(|side| std::mem::take(&mut side.wakers)));
            let halves = link.streams.values_mut().flat_map(|stream| stream.halves.iter_mut());
            self.woken.extend(halves.flat_map(|half| std::mem::take(&mut half.wakers)));
        }
    }

    /// A side of a connection is over; everybody on it learns why.
    pub(super) fn end(&mut self, id: u64, side: usize, error: PeerError) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.sides[side].over().is_none()) else { return };
        link.sides[side].state = State::Over(error);
        self.woken.append(&mut link.sides[side].wakers);
        for half in link.streams.values_mut().flat_map(|stream| stream.halves.iter_mut()) {
            self.woken.append(&mut half.wakers);
        }
        self.listen();
    }

    pub(in crate::sim::peers) fn close(&mut self, id: u64, side: usize, reason: &str) {
        let open = self.links.get_mut(&id).filter(|link| link.sides[side].state == State::Open);
        let Some(link) = open else { return };
        link.sides[side].closing = Some(reason.to_owned());
        self.dispatch(Event::Closed { link: id, to: 1 - side });
        self.end(id, side, PeerError::Local);
    }

    /// Finds out who hears from the other side and who does not, and lets time-outs begin and end.
    pub(super) fn listen(&mut self) {
        let mut begun = Vec::new();
        for (id, link) in &mut self.links {
            for side in 0..2 {
                let is_cut = self.cuts.contains_key(&link.way(1 - side));
                let other_is_over = link.sides[1 - side].over().is_some();
                let this = &mut link.sides[side];
                let hears = this.state == State::Open && !other_is_over && !is_cut;
                if hears || this.over().is_some() {
                    this.silent_since_ns = None;
                } else if this.silent_since_ns.is_none() && (side == 0 || this.state == State::Open) {
                    this.silent_since_ns = Some(self.now_ns);
                    begun.push((nanoseconds(this.settings.idle_timeout), Event::Silence { link: *id, side }));
                }
            }
        }
        for (after_ns, event) in begun {
            self.schedule(after_ns, event);
        }
    }

    pub(in crate::sim::peers) fn poll_closed(
        &mut self,
        link: u64,
        side: usize,
        context: &Context<'_>,
    ) -> Poll<PeerError> {
        let Some(link) = self.links.get_mut(&link) else { return Poll::Ready(PeerError::Local) };
        match link.sides[side].over() {
            Some(error) => Poll::Ready(error.clone()),
            None => wait(&mut link.sides[side].wakers, context),
        }
    }

    pub(in crate::sim::peers) fn statistics(&self, link: u64, side: usize) -> PeerStatistics {
        let (least, spread) = self.delay_ns;
        let round_trip = Duration::from_nanos(2 * least + spread);
        let Some(link) = self.links.get(&link) else { return PeerStatistics::default() };
        let Side { sent_bytes, received_bytes, .. } = link.sides[side];
        PeerStatistics { round_trip, sent_bytes, received_bytes, ..PeerStatistics::default() }
    }

    /// A dialled machine looks at who is there.
    pub(super) fn hello(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.sides[0].over().is_none()) else { return };
        let address = link.sides[1].address;
        let verdict = match self.endpoints.get_mut(&address).filter(|endpoint| endpoint.is_open) {
            Some(endpoint) => judge(&link.offer, &endpoint.identity).map(|met| (endpoint, met)),
            None => Err(PeerError::Unreachable { reason: format!("no process has UDP port {address}") }),
        };
        let verdict = match verdict {
            Ok((endpoint, (protocol, of_dialler, of_dialled))) => {
                link.protocol = protocol;
                link.sides[0].remote_names = of_dialled;
                let side = &mut link.sides[1];
                (side.remote_names, side.settings) = (of_dialler, endpoint.settings.clone());
                (side.state, side.handles) = (State::Open, 1);
                endpoint.waiting.push_back(id);
                self.woken.append(&mut endpoint.wakers);
                Ok(())
            }
            Err(error) => {
                link.sides[1].state = State::Over(PeerError::Local);
                Err(error)
            }
        };
        // A machine that is down says nothing.
        let is_silent = matches!(verdict, Err(PeerError::Unreachable { .. })) && !self.is_powered(address.ip());
        if let Some(link) = self.links.get_mut(&id).filter(|_| !is_silent) {
            link.verdict = Some(verdict);
            self.dispatch(Event::Verdict { link: id });
        }
        self.listen();
    }

    /// The dialling side learns whether it is let in.
    pub(super) fn verdict(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.sides[0].state == State::Pending) else { return };
        match link.verdict.take() {
            Some(Err(error)) => self.end(id, 0, error),
            Some(Ok(())) => {
                link.sides[0].state = State::Open;
                self.woken.append(&mut link.sides[0].wakers);
                self.listen();
            }
            None => {}
        }
    }
}

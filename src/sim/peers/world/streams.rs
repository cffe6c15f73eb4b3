//! Streams of the simulated network: opened, written, read, given up.

use std::hash::Hash;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Event, Half, Item, Stream, World, wait};
use crate::runtime::peers::PeerError;

impl World {
    pub(in crate::sim::peers) fn poll_open(
        &mut self,
        id: u64,
        side: usize,
        context: &Context<'_>,
    ) -> Poll<Result<u64, PeerError>> {
        let stream = self.next();
        let Some(link) = self.links.get_mut(&id) else { return Poll::Ready(Err(PeerError::Local)) };
        if let Some(error) = link.sides[side].over() {
            return Poll::Ready(Err(error.clone()));
        }
        if link.sides[side].opened >= link.sides[1 - side].settings.max_streams {
            return wait(&mut link.sides[side].wakers, context);
        }
        link.sides[side].opened += 1;
        link.streams.insert(stream, Stream { opened_by: side, is_announced: false, halves: Default::default() });
        Poll::Ready(Ok(stream))
    }

    pub(in crate::sim::peers) fn poll_accept_stream(
        &mut self,
        id: u64,
        side: usize,
        context: &Context<'_>,
    ) -> Poll<Result<u64, PeerError>> {
        let Some(link) = self.links.get_mut(&id) else { return Poll::Ready(Err(PeerError::Local)) };
        let side = &mut link.sides[side];
        match (side.waiting.pop_front(), side.over()) {
            (Some(stream), _) => Poll::Ready(Ok(stream)),
            (None, Some(error)) => Poll::Ready(Err(error.clone())),
            (None, None) => wait(&mut side.wakers, context),
        }
    }

    /// Sends as much of a chunk as there is room for, until nothing is left.
    pub(in crate::sim::peers) fn poll_send(
        &mut self,
        id: u64,
        side: usize,
        stream: u64,
        chunk: &mut Bytes,
        context: &Context<'_>,
    ) -> Poll<Result<(), PeerError>> {
        let Some(link) = self.links.get_mut(&id) else { return Poll::Ready(Err(PeerError::Local)) };
        if let Some(error) = link.sides[side].over() {
            return Poll::Ready(Err(error.clone()));
        }
        let window_bytes = usize::try_from(link.sides[1 - side].settings.stream_window_bytes).unwrap_or(usize::MAX);
        let Some(found) = link.streams.get_mut(&stream) else { return Poll::Ready(Err(PeerError::Local)) };
        let half = &mut found.halves[side];
        if half.is_ended || half.stop_is_known {
            return Poll::Ready(Err(if half.stop_is_known { PeerError::Reset } else { PeerError::Local }));
        }
        let part = chunk.split_to(chunk.len().min(window_bytes - half.unread_bytes.min(window_bytes)));
        let pending = if chunk.is_empty() { Poll::Ready(Ok(())) } else { wait(&mut half.wakers, context) };
        if !part.is_empty() {
            half.unread_bytes += part.len();
            link.sides[side].sent_bytes += part.len() as u64;
            half.in_flight.push_back(Item::Chunk(part));
            self.dispatch(Event::Arrival { link: id, stream, from: side });
        }
        pending
    }

    pub(in crate::sim::peers) fn end_half(&mut self, id: u64, side: usize, stream: u64, item: Item) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.sides[side].over().is_none()) else { return };
        let Some(found) = link.streams.get_mut(&stream) else { return };
        let half = &mut found.halves[side];
        if !half.is_ended {
            half.is_ended = true;
            half.in_flight.push_back(item);
            self.dispatch(Event::Arrival { link: id, stream, from: side });
        }
    }

    pub(in crate::sim::peers) fn poll_receive(
        &mut self,
        id: u64,
        side: usize,
        stream: u64,
        max_bytes: usize,
        context: &Context<'_>,
    ) -> Poll<Result<Option<Bytes>, PeerError>> {
        let Some(link) = self.links.get_mut(&id) else { return Poll::Ready(Err(PeerError::Local)) };
        let over = link.sides[side].over().cloned();
        let Some(found) = link.streams.get_mut(&stream) else { return Poll::Ready(Err(PeerError::Local)) };
        let half = &mut found.halves[1 - side];
        if half.is_stopped {
            return Poll::Ready(Err(PeerError::Local));
        }
        if let Some(first) = half.arrived.front_mut() {
            let part = first.split_to(first.len().min(max_bytes));
            if first.is_empty() {
                half.arrived.pop_front();
            }
            half.unread_bytes -= part.len();
            self.woken.append(&mut half.wakers);
            return Poll::Ready(Ok(Some(part)));
        }
        match (&half.end, over) {
            (Some(Item::Reset), _) => Poll::Ready(Err(PeerError::Reset)),
            (Some(_), _) => Poll::Ready(Ok(None)),
            (None, Some(error)) => Poll::Ready(Err(error)),
            (None, None) => wait(&mut half.wakers, context),
        }
    }

    pub(in crate::sim::peers) fn stop(&mut self, id: u64, side: usize, stream: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.sides[side].over().is_none()) else { return };
        let Some(found) = link.streams.get_mut(&stream) else { return };
        let half = &mut found.halves[1 - side];
        if half.end.is_none() && !half.is_stopped {
            half.is_stopped = true;
            self.dispatch(Event::Stop { link: id, stream, by: side });
        }
    }

    pub(in crate::sim::peers) fn drop_sender(&mut self, id: u64, side: usize, stream: u64) {
        self.drop_half(id, stream, |found| found.halves[side].sender_is_dropped = true);
    }

    pub(in crate::sim::peers) fn drop_receiver(&mut self, id: u64, side: usize, stream: u64) {
        self.drop_half(id, stream, |found| found.halves[1 - side].receiver_is_dropped = true);
    }

    /// Once nobody has any part of a stream, its place is free.
    fn drop_half(&mut self, id: u64, stream: u64, mark: impl FnOnce(&mut Stream)) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(found) = link.streams.get_mut(&stream) else { return };
        mark(found);
        let is_done = |half: &Half| half.sender_is_dropped && half.receiver_is_dropped;
        if found.halves.iter().all(is_done) {
            let opened_by = found.opened_by;
            if let Some(mut gone) = link.streams.remove(&stream) {
                self.woken.extend(gone.halves.iter_mut().flat_map(|half| std::mem::take(&mut half.wakers)));
            }
            link.sides[opened_by].opened -= 1;
            self.woken.append(&mut link.sides[opened_by].wakers);
        }
    }

    /// The next item of a half of a stream is there.
    pub(super) fn arrival(&mut self, id: u64, stream: u64, from: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(found) = link.streams.get_mut(&stream) else { return };
        let item = found.halves[from].in_flight.pop_front().expect("an event for each item");
        item.hash(&mut self.trace);
        let side = &mut link.sides[1 - from];
        if side.over().is_some() {
            return;
        }
        if found.opened_by == from && !found.is_announced {
            found.is_announced = true;
            side.waiting.push_back(stream);
            self.woken.append(&mut side.wakers);
        }
        let half = &mut found.halves[from];
        match item {
            Item::Chunk(chunk) if half.is_stopped => half.unread_bytes -= chunk.len(),
            Item::Chunk(chunk) => {
                side.received_bytes += chunk.len() as u64;
                half.arrived.push_back(chunk);
            }
            Item::Finished => half.end = Some(Item::Finished),
            Item::Reset => {
                half.arrived.clear();
                half.end = Some(Item::Reset);
            }
        }
        self.woken.append(&mut half.wakers);
    }
}

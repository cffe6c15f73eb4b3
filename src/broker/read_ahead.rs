//! Reads the next piece of a segment before its reader asks for it, so that a consumer that catches up never waits for a disk.
//!
//! Segments are read past the page cache, so nobody else reads ahead. A reader shows itself by asking for what follows on an
//! earlier read; only then is the piece after that one read too, into a share of memory of its own. Nothing depends on it:
//! a piece that was given up or failed is read again by who wants it, and so is one that found too little room in two answers.
//! Called by `fetch`; all of it is memory, which a crash loses without a trace.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::fetch::Isolation;
use super::readers::Readers;
use crate::log::ReadError;
use crate::telemetry::{MemoryPool, TakenMemory};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Readers that are remembered; the one that read longest ago goes first.
const MAX_PLACES: usize = 256;

/// Where a reader is expected next. An epoch ends before anything at an offset can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: TopicPartition,
    pub(super) epoch: LeaderEpoch,
    pub(super) isolation: Isolation,
    pub(super) offset: Offset,
}

/// What is known at the place where a reader is.
#[derive(Debug)]
pub(super) enum Found {
    /// It was not expected here.
    Nothing,
    /// It was: it reads on.
    Expected,
    /// And what it wants is read, or about to be.
    Ahead(Ahead),
}

/// A piece that is being read ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    batches: oneshot::Receiver<Result<Vec<Bytes>, ReadError>>,
    /// As many as they are at most.
    most_bytes: usize,
    /// An answer had too little room for it.
    passed_over: bool,
    _memory: TakenMemory,
}

impl Found {
    /// Whether it is more than an answer with so much room left can take, and should wait for the next one. That is said once:
    /// what never finds the room that it needs is read again, as much as fits.
    pub(super) const fn has_to_wait(&mut self, limit: usize) -> bool {
        match self {
            Self::Nothing | Self::Expected => false,
            Self::Ahead(ahead) => ahead.most_bytes > limit && !std::mem::replace(&mut ahead.passed_over, true),
        }
    }
}

impl Ahead {
    /// The batches, if there are any and they are no more than `limit` bytes, or one that may be more.
    pub(super) async fn batches(self, limit: usize, may_exceed: bool) -> Option<Vec<Bytes>> {
        let batches = self.batches.await.ok()?.ok()?;
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        let fits = bytes <= limit || (may_exceed && batches.len() == 1);
        (fits && bytes > 0).then_some(batches)
    }
}

/// The readers, and what was read for them.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// The one that read last is last.
    places: Mutex<VecDeque<(Place, Option<Ahead>)>>,
    memory: MemoryPool,
}

impl ReadAhead {
    /// Reads ahead into `memory`, of all readers together.
    pub(super) fn new(memory: MemoryPool) -> Self {
        Self { places: Mutex::default(), memory }
    }

    /// What is known at a place; it is forgotten by that.
    pub(super) fn take(&self, place: &Place) -> Found {
        let mut places = self.places.lock();
        let found = places.iter().position(|(other, _)| other == place).and_then(|at| places.remove(at));
        match found {
            None => Found::Nothing,
            Some((_, None)) => Found::Expected,
            Some((_, Some(ahead))) => Found::Ahead(ahead),
        }
    }

    /// Undoes [`Self::take`].
    pub(super) fn give_back(&self, place: Place, found: Found) {
        match found {
            Found::Nothing => {}
            Found::Expected => self.expect(place),
            Found::Ahead(ahead) => self.insert(place, Some(ahead)),
        }
    }

    /// A reader will go on at a place.
    pub(super) fn expect(&self, place: Place) {
        self.insert(place, None);
    }

    /// Reads at most `bytes` for who will go on at a place; only expects it there when the memory or the lanes are in use.
    pub(super) fn begin(
        &self,
        place: Place,
        bytes: usize,
        readers: &Readers,
        read: impl FnOnce() -> Result<Vec<Bytes>, ReadError> + Send + 'static,
    ) {
        let memory = self.room(bytes);
        let ahead = memory.and_then(|memory| {
            let batches = readers.try_run(read)?;
            Some(Ahead { batches, most_bytes: bytes, passed_over: false, _memory: memory })
        });
        self.insert(place, ahead);
    }

    fn insert(&self, place: Place, ahead: Option<Ahead>) {
        let mut places = self.places.lock();
        if places.len() == MAX_PLACES {
            places.pop_front();
        }
        places.push_back((place, ahead));
    }

    /// Memory for so many bytes, for which those who read longest ago lose what was read for them.
    fn room(&self, bytes: usize) -> Option<TakenMemory> {
        if bytes > self.memory.all_bytes() {
            return None;
        }
        let mut places = self.places.lock();
        loop {
            let memory = self.memory.try_take(bytes);
            if memory.is_some() {
                return memory;
            }
            let oldest = places.iter().position(|(_, ahead)| ahead.is_some())?;
            places.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::telemetry::Gauge;
    use crate::types::TopicId;

    fn place(offset: i64) -> Place {
        Place {
            partition: TopicPartition::new(TopicId::from_bytes([1; 16]), 0),
            epoch: LeaderEpoch(1),
            isolation: Isolation::ReadUncommitted,
            offset: Offset(offset),
        }
    }

    fn begin(read_ahead: &ReadAhead, readers: &Readers, offset: i64, bytes: usize) {
        read_ahead.begin(place(offset), bytes, readers, move || Ok(vec![Bytes::from(vec![0; bytes])]));
    }

    #[tokio::test]
    async fn readers_that_went_away_make_room_for_those_that_read() {
        let readers = Readers::start(&*Runtime::production().tasks, 1);
        let read_ahead = ReadAhead::new(MemoryPool::new(3 << 20, Gauge::default()));
        for offset in 0..10 {
            begin(&read_ahead, &readers, offset, 1 << 20);
        }
        assert!(matches!(read_ahead.take(&place(6)), Found::Nothing), "made room");
        let found = read_ahead.take(&place(7));
        read_ahead.give_back(place(7), found);
        let Found::Ahead(ahead) = read_ahead.take(&place(7)) else { panic!("not read ahead") };
        assert_eq!(ahead.batches(1 << 20, false).await.unwrap()[0].len(), 1 << 20);
        assert!(matches!(read_ahead.take(&place(7)), Found::Nothing), "taken once");
        begin(&read_ahead, &readers, 10, 4 << 20);
        assert!(matches!(read_ahead.take(&place(10)), Found::Expected), "more than all its memory");
        (0..1000).for_each(|offset| read_ahead.expect(place(offset)));
        assert_eq!(read_ahead.places.lock().len(), MAX_PLACES);
    }

    #[tokio::test]
    async fn no_more_is_given_than_fits() {
        let readers = Readers::start(&*Runtime::production().tasks, 1);
        let read_ahead = ReadAhead::new(MemoryPool::new(3 << 20, Gauge::default()));
        for (limit, may_exceed, fits) in [(100, false, true), (99, true, true), (99, false, false)] {
            begin(&read_ahead, &readers, 0, 100);
            let Found::Ahead(ahead) = read_ahead.take(&place(0)) else { panic!("not read ahead") };
            assert_eq!(ahead.batches(limit, may_exceed).await.is_some(), fits);
        }
        read_ahead.begin(place(0), 1, &readers, || Err(ReadError::Deleted));
        let Found::Ahead(ahead) = read_ahead.take(&place(0)) else { panic!("not read ahead") };
        assert_eq!(ahead.batches(100, true).await, None, "who asks reads again and is told");
    }
}

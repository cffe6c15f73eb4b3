//! A clock that stands still until it is moved.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::runtime::clock::{Clock, Sleep};
use crate::types::{Monotonic, Timestamp};

const WALL_START_MS: i64 = 1_700_000_000_000;

#[derive(Debug, Default)]
struct State {
    elapsed_ns: u64,
    /// How far somebody set the wall clock ahead, or back.
    wall_offset_ms: i64,
    next_sleeper: u64,
    /// Who sleeps, by when to wake up.
    sleepers: BTreeMap<(u64, u64), Waker>,
}

/// See the module. Clones share the time.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimClock {
    state: Arc<Mutex<State>>,
}

impl SimClock {
    /// Lets time pass, and wakes those whose time has come in the order of their times.
    pub(super) fn pass(&self, duration: Duration) {
        let due = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            state.elapsed_ns += u64::try_from(duration.as_nanos()).expect("centuries are not simulated");
            let later = state.sleepers.split_off(&(state.elapsed_ns + 1, 0));
            std::mem::replace(&mut state.sleepers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Sets the wall clock to so much ahead of the time that passed.
    pub(super) fn set_wall(&self, offset_ms: i64) {
        self.state.lock().wall_offset_ms = offset_ms;
    }

    /// Time until somebody has to wake up.
    pub(super) fn until_next(&self) -> Option<Duration> {
        let state = self.state.lock();
        let (deadline, _) = state.sleepers.keys().next()?;
        Some(Duration::from_nanos(deadline.saturating_sub(state.elapsed_ns)))
    }

    /// The process ended, and nobody sleeps any more.
    pub(super) fn forget_all(&self) {
        let forgotten = std::mem::take(&mut self.state.lock().sleepers);
        drop(forgotten);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.state.lock().elapsed_ns)
    }

    fn wall(&self) -> Timestamp {
        let state = self.state.lock();
        Timestamp(WALL_START_MS + state.wall_offset_ms + (state.elapsed_ns / 1_000_000).cast_signed())
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let key = {
            let mut state = self.state.lock();
            state.next_sleeper += 1;
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            (state.elapsed_ns.saturating_add(nanoseconds), state.next_sleeper)
        };
        let sleeper = Sleeper { state: Arc::clone(&self.state), key };
        Box::pin(poll_fn(move |context| {
            let mut state = sleeper.state.lock();
            if state.elapsed_ns >= sleeper.key.0 {
                return Poll::Ready(());
            }
            state.sleepers.insert(sleeper.key, context.waker().clone());
            Poll::Pending
        }))
    }
}

/// Takes a sleeper off the list when nobody waits for it any more.
struct Sleeper {
    state: Arc<Mutex<State>>,
    key: (u64, u64),
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let forgotten = self.state.lock().sleepers.remove(&self.key);
        drop(forgotten);
    }
}

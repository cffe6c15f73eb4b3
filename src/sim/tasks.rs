//! Lanes that run only when the test says so.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Random;
use crate::runtime::tasks::{LaneControl, LaneWork, Priority, Tasks};

struct SimLane {
    work: Mutex<Option<LaneWork>>,
    woken: Mutex<bool>,
}

impl LaneControl for SimLane {
    fn wake(&self) {
        *self.woken.lock() = true;
    }

    fn stop(&self) {
        *self.woken.lock() = false;
        // Work that stops its own lane holds it just now.
        if let Some(mut work) = self.work.try_lock() {
            *work = None;
        }
    }
}

/// The lanes of one process.
#[derive(Default)]
pub(crate) struct SimTasks {
    lanes: Mutex<Vec<Arc<SimLane>>>,
}

impl Tasks for SimTasks {
    fn start_lane(&self, _name: &str, _priority: Priority, work: LaneWork) -> Arc<dyn LaneControl> {
        let lane = Arc::new(SimLane { work: Mutex::new(Some(work)), woken: Mutex::new(false) });
        self.lanes.lock().push(Arc::clone(&lane));
        lane
    }
}

impl SimTasks {
    /// Runs one woken lane, drawn at random; false when none is woken.
    pub(crate) fn run_one(&self, random: &mut Random) -> bool {
        let woken: Vec<_> = self.lanes.lock().iter().filter(|lane| *lane.woken.lock()).cloned().collect();
        if woken.is_empty() {
            return false;
        }
        let lane = &woken[usize::try_from(random.below(woken.len() as u64)).expect("small")];
        *lane.woken.lock() = false;
        if let Some(work) = lane.work.lock().as_mut() {
            work();
        }
        true
    }

    /// Runs lanes until none is woken; gives up after a bound, as a lane that always wakes another is a bug.
    pub(crate) fn run_all(&self, random: &mut Random) {
        for _ in 0..100_000 {
            if !self.run_one(random) {
                return;
            }
        }
        panic!("lanes keep waking each other");
    }

    /// The process is gone.
    pub(crate) fn forget_all(&self) {
        let lanes = std::mem::take(&mut *self.lanes.lock());
        for lane in lanes {
            lane.stop();
        }
    }
}

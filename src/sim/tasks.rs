//! Lanes that run only when the test says so.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Random;
use crate::runtime::tasks::{LaneControl, LaneWork, Priority, Tasks};

struct SimLane {
    name: String,
    work: Mutex<Option<LaneWork>>,
    woken: Mutex<bool>,
    /// How often it was run.
    runs: Mutex<u64>,
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
    fn start_lane(&self, name: &str, _priority: Priority, work: LaneWork) -> Arc<dyn LaneControl> {
        let (name, work, woken) = (name.to_owned(), Mutex::new(Some(work)), Mutex::new(false));
        let lane = Arc::new(SimLane { name, work, woken, runs: Mutex::default() });
        self.lanes.lock().push(Arc::clone(&lane));
        lane
    }
}

impl SimTasks {
    /// Runs one woken lane, drawn at random; false when none is woken.
    pub(crate) fn run_one(&self, random: &mut Random) -> bool {
        self.run_one_of(random, |_| true)
    }

    /// As [`Self::run_one`], of the lanes that have a name. A lane that runs already, and waits for what the disk does meanwhile,
    /// is not run again.
    pub(crate) fn run_named(&self, random: &mut Random, name: &str) -> bool {
        self.run_one_of(random, |lane| lane.name == name)
    }

    fn run_one_of(&self, random: &mut Random, may_run: impl Fn(&SimLane) -> bool) -> bool {
        let is_ready = |lane: &&Arc<SimLane>| may_run(lane) && *lane.woken.lock() && lane.work.try_lock().is_some();
        let woken: Vec<_> = self.lanes.lock().iter().filter(is_ready).cloned().collect();
        if woken.is_empty() {
            return false;
        }
        let lane = &woken[usize::try_from(random.below(woken.len() as u64)).expect("small")];
        *lane.woken.lock() = false;
        *lane.runs.lock() += 1;
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

    /// How often the lanes of a name were run.
    pub(crate) fn runs(&self, name: &str) -> u64 {
        self.lanes.lock().iter().filter(|lane| lane.name == name).map(|lane| *lane.runs.lock()).sum()
    }

    /// The process is gone.
    pub(crate) fn forget_all(&self) {
        let lanes = std::mem::take(&mut *self.lanes.lock());
        for lane in lanes {
            lane.stop();
        }
    }
}

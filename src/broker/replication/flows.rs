//! What one follower is to be told in one session, and in which order. Pure.
//!
//! A session has two lanes, each a stream of its own: *live* for what is in memory, *catch-up* for what has to be read from segments
//! and goes last on the wire, so that a replica that has much to catch up never delays those that are close. A partition begins live, and
//! changes lanes with a new `Lead`: what is under way on the other lane still arrives, and the follower passes over what it has.
//!
//! The driver (`link`) asks for the next work of a lane and says what came of it. It is gone with its session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::replication::window::{Turn, Window, WindowSettings};
use crate::types::{Monotonic, Offset, TopicPartition};

/// How long progress without records may wait for company.
const ADVANCE_PAUSE: Duration = Duration::from_millis(5);

/// One of the two streams of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// For what is in memory.
    Live = 0,
    /// For what is read from segments.
    CatchUp = 1,
}

impl Lane {
    pub(super) const BOTH: [Self; 2] = [Self::Live, Self::CatchUp];
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Say that this broker leads.
    Lead(TopicPartition),
    /// Give what the follower's log is to go on with.
    Continue(TopicPartition),
    /// Read and send; it is over with [`Flows::sent`].
    Send(Turn),
    /// Say how far the leader is.
    Advance(TopicPartition),
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    lane: Lane,
    /// The follower said where it goes on.
    flows: bool,
}

#[derive(Debug)]
struct LaneState {
    window: Window,
    first: VecDeque<Work>,
    /// Those whose progress is not told, and since when there are any.
    dirty: BTreeSet<TopicPartition>,
    dirty_since: Monotonic,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flows {
    flows: BTreeMap<TopicPartition, Flow>,
    lanes: [LaneState; 2],
    /// Those that begin again after a pause.
    later: BTreeSet<TopicPartition>,
}

impl Flows {
    /// With nothing to say yet; what may be under way on each lane is bounded.
    pub(super) fn new(settings: [WindowSettings; 2]) -> Self {
        let lane = |settings| LaneState {
            window: Window::new(settings),
            first: VecDeque::new(),
            dirty: BTreeSet::new(),
            dirty_since: Monotonic::default(),
        };
        Self { flows: BTreeMap::new(), lanes: settings.map(lane), later: BTreeSet::new() }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        &mut self.lanes[lane as usize]
    }

    /// Begins with a partition, or begins again.
    pub(super) fn enter(&mut self, partition: TopicPartition) {
        self.begin_on(partition, Lane::Live);
    }

    fn begin_on(&mut self, partition: TopicPartition, lane: Lane) {
        self.leave(partition);
        self.flows.insert(partition, Flow { lane, flows: false });
        self.lane(lane).first.push_back(Work::Lead(partition));
    }

    /// Nothing of a partition is said any more.
    pub(super) fn leave(&mut self, partition: TopicPartition) {
        self.later.remove(&partition);
        if let Some(flow) = self.flows.remove(&partition) {
            let lane = self.lane(flow.lane);
            lane.window.stop(partition);
            lane.dirty.remove(&partition);
            lane.first.retain(|work| !matches!(work, Work::Lead(of) | Work::Continue(of) if *of == partition));
        }
    }

    fn flowing(&self, partition: TopicPartition) -> Option<Lane> {
        self.flows.get(&partition).filter(|flow| flow.flows).map(|flow| flow.lane)
    }

    /// Whether what comes on this lane is about the partition's newest beginning.
    fn is_on(&self, partition: TopicPartition, lane: Lane) -> bool {
        self.flows.get(&partition).is_some_and(|flow| flow.lane == lane)
    }

    /// The log of a partition ends later, or more of it can be read; tells which lane has something to do.
    pub(super) fn appended(&mut self, partition: TopicPartition, log_end: Offset) -> Option<Lane> {
        let lane = self.flowing(partition)?;
        self.lane(lane).window.appended(partition, log_end);
        Some(lane)
    }

    /// The leader of a partition got further.
    pub(super) fn progressed(&mut self, partition: TopicPartition, now: Monotonic) -> Option<Lane> {
        let lane = self.flowing(partition)?;
        let state = self.lane(lane);
        let is_first = state.dirty.is_empty();
        if is_first {
            state.dirty_since = now;
        }
        // One that is awake for the first looks for all.
        (state.dirty.insert(partition) && is_first).then_some(lane)
    }

    /// The follower takes records from an offset on. It is also told how far the leader is, whether there are any or not.
    pub(super) fn ready(
        &mut self,
        partition: TopicPartition,
        lane: Lane,
        from: Offset,
        log_end: Offset,
        now: Monotonic,
    ) {
        if let Some(flow) = self.flows.get_mut(&partition).filter(|flow| flow.lane == lane) {
            flow.flows = true;
            self.lane(lane).window.begin(partition, from, log_end);
            self.progressed(partition, now);
        }
    }

    /// The follower needs a continuation first.
    pub(super) fn needs_continuation(&mut self, partition: TopicPartition, lane: Lane) {
        if self.is_on(partition, lane) {
            self.lane(lane).first.push_back(Work::Continue(partition));
        }
    }

    /// The follower has everything below an offset on stable storage.
    pub(super) fn acknowledged(&mut self, partition: TopicPartition, lane: Lane, durable: Offset) {
        self.lane(lane).window.acknowledged(partition, durable);
    }

    /// The follower did not take it: it is told again, after a pause.
    pub(super) fn refused(&mut self, partition: TopicPartition, lane: Lane) {
        if self.is_on(partition, lane) {
            self.later(partition);
        }
    }

    /// A partition begins again, after a pause.
    pub(super) fn later(&mut self, partition: TopicPartition) {
        if let Some(flow) = self.flows.get_mut(&partition) {
            flow.flows = false;
            let lane = flow.lane;
            self.lane(lane).window.stop(partition);
            self.lane(lane).dirty.remove(&partition);
            self.later.insert(partition);
        }
    }

    /// The pause is over; tells whether anybody waited for that.
    pub(super) fn begin_again(&mut self) -> bool {
        let later = std::mem::take(&mut self.later);
        later.iter().for_each(|partition| self.enter(*partition));
        !later.is_empty()
    }

    /// What is in memory no more goes on on the other lane, and what is again comes back.
    pub(super) fn change_lanes(&mut self, partition: TopicPartition, to: Lane) {
        if self.flows.get(&partition).is_some_and(|flow| flow.lane != to) {
            self.begin_on(partition, to);
        }
    }

    /// A turn is over: so much was sent, up to an offset.
    pub(super) fn sent(&mut self, lane: Lane, turn: Turn, next: Offset, bytes: usize) {
        let state = self.lane(lane);
        state.window.sent(turn, next, bytes);
        if bytes > 0 {
            state.dirty.remove(&turn.partition);
        }
    }

    /// What is to be done next on a lane.
    pub(super) fn next(&mut self, lane: Lane, now: Monotonic) -> Option<Work> {
        let state = self.lane(lane);
        if let Some(first) = state.first.pop_front() {
            return Some(first);
        }
        if let Some(turn) = state.window.next_turn() {
            return Some(Work::Send(turn));
        }
        let is_due = now.since(state.dirty_since) >= ADVANCE_PAUSE;
        if is_due { state.dirty.pop_first().map(Work::Advance) } else { None }
    }

    /// How long a lane may wait at most until it is asked again; for ever if it is not told otherwise.
    pub(super) fn patience(&self, lane: Lane, now: Monotonic) -> Option<Duration> {
        let state = &self.lanes[lane as usize];
        (!state.dirty.is_empty()).then(|| ADVANCE_PAUSE.saturating_sub(now.since(state.dirty_since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;

    const NOW: Monotonic = Monotonic(1_000_000_000);

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([7; 16]), number)
    }

    fn flows() -> Flows {
        let settings = WindowSettings { partition_bytes: 100, total_bytes: 1000, turn_bytes: 40 };
        Flows::new([settings, settings])
    }

    /// One that follows from 5 on, of a log that ends at 9.
    fn flowing() -> Flows {
        let mut flows = flows();
        flows.enter(partition(0));
        assert_eq!(flows.next(Lane::Live, NOW), Some(Work::Lead(partition(0))));
        flows.ready(partition(0), Lane::Live, Offset(5), Offset(9), NOW);
        flows
    }

    fn turn(flows: &mut Flows, lane: Lane) -> Turn {
        match flows.next(lane, NOW) {
            Some(Work::Send(turn)) => turn,
            other => panic!("no turn but {other:?}"),
        }
    }

    #[test]
    fn a_partition_is_introduced_before_anything_is_sent() {
        let mut flows = flows();
        flows.enter(partition(0));
        assert_eq!(flows.appended(partition(0), Offset(9)), None);
        assert_eq!(flows.next(Lane::Live, NOW), Some(Work::Lead(partition(0))));
        assert_eq!(flows.next(Lane::Live, NOW), None);
        flows.ready(partition(0), Lane::Live, Offset(5), Offset(9), NOW);
        assert_eq!(turn(&mut flows, Lane::Live).from, Offset(5));
    }

    #[test]
    fn progress_waits_for_records_to_go_with_but_not_for_long() {
        let mut flows = flowing();
        let first = turn(&mut flows, Lane::Live);
        flows.sent(Lane::Live, first, Offset(9), 10);
        assert_eq!(flows.patience(Lane::Live, NOW), None, "it went with the records");
        assert_eq!(flows.progressed(partition(0), NOW), Some(Lane::Live));
        assert_eq!(flows.progressed(partition(0), NOW), None, "the lane is awake already");
        assert_eq!(flows.next(Lane::Live, NOW), None);
        assert_eq!(flows.patience(Lane::Live, NOW), Some(ADVANCE_PAUSE));
        assert_eq!(flows.next(Lane::Live, NOW + ADVANCE_PAUSE), Some(Work::Advance(partition(0))));
        assert_eq!(flows.next(Lane::Live, NOW + ADVANCE_PAUSE), None);
    }

    #[test]
    fn a_follower_that_lacks_nothing_is_told_how_far_its_leader_is() {
        let mut flows = flows();
        flows.enter(partition(0));
        flows.next(Lane::Live, NOW);
        flows.ready(partition(0), Lane::Live, Offset(9), Offset(9), NOW);
        assert_eq!(flows.next(Lane::Live, NOW + ADVANCE_PAUSE), Some(Work::Advance(partition(0))));
    }

    #[test]
    fn what_is_in_memory_no_more_goes_on_on_the_other_lane() {
        let mut flows = flowing();
        let first = turn(&mut flows, Lane::Live);
        flows.change_lanes(partition(0), Lane::CatchUp);
        flows.sent(Lane::Live, first, first.from, 0);
        assert_eq!(flows.next(Lane::Live, NOW), None);
        assert_eq!(flows.next(Lane::CatchUp, NOW), Some(Work::Lead(partition(0))));
        flows.ready(partition(0), Lane::Live, Offset(7), Offset(9), NOW);
        assert_eq!(flows.next(Lane::Live, NOW), None, "an answer to the earlier beginning is late");
        flows.ready(partition(0), Lane::CatchUp, Offset(7), Offset(9), NOW);
        assert_eq!(turn(&mut flows, Lane::CatchUp).from, Offset(7));
        flows.change_lanes(partition(0), Lane::Live);
        assert_eq!(flows.next(Lane::CatchUp, NOW), None);
        assert_eq!(flows.next(Lane::Live, NOW), Some(Work::Lead(partition(0))));
    }

    #[test]
    fn what_was_refused_begins_again_after_a_pause_and_what_left_does_not() {
        let mut flows = flowing();
        flows.enter(partition(1));
        flows.refused(partition(0), Lane::CatchUp);
        assert!(!flows.begin_again(), "that was about an earlier beginning");
        flows.refused(partition(0), Lane::Live);
        flows.refused(partition(1), Lane::Live);
        flows.leave(partition(1));
        assert_eq!(flows.next(Lane::Live, NOW), None);
        assert!(flows.begin_again());
        assert_eq!(flows.next(Lane::Live, NOW), Some(Work::Lead(partition(0))));
        assert_eq!(flows.next(Lane::Live, NOW), None);
    }

    #[test]
    fn a_continuation_is_given_on_the_lane_where_it_was_asked_for() {
        let mut flows = flowing();
        flows.needs_continuation(partition(0), Lane::CatchUp);
        assert_eq!(flows.next(Lane::CatchUp, NOW), None);
        flows.needs_continuation(partition(0), Lane::Live);
        assert_eq!(flows.next(Lane::Live, NOW), Some(Work::Continue(partition(0))));
    }
}

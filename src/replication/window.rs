//! What is sent next to one follower, and how much of it may be under way: not acknowledged as durable. Pure.
//!
//! Each partition has a window of its own, so that one that the follower's log does not take holds up no other, and all together
//! have one, so that a follower has a bound on what it must hold. Partitions with something to send take turns. A batch is never
//! divided: where one is larger than its window, it is sent when nothing else of the partition is under way, and what is under way of
//! a partition is at most its window and one batch.
//!
//! The driver of a stream has one for each session, asks it for the next turn, reads the log, and says what it sent. It is gone with
//! its session, and what was under way is sent again from where the follower's log ends.

use std::collections::{BTreeMap, VecDeque};

use crate::types::{Offset, TopicPartition};

/// Bounds of a window.
#[derive(Clone, Copy, Debug)]
pub struct WindowSettings {
    /// What may be under way of one partition.
    pub partition_bytes: usize,
    /// What may be under way of all.
    pub total_bytes: usize,
    /// What one turn takes.
    pub turn_bytes: usize,
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self { partition_bytes: 1 << 20, total_bytes: 16 << 20, turn_bytes: 256 << 10 }
    }
}

/// A partition's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose it is.
    pub partition: TopicPartition,
    /// First offset to be sent.
    pub from: Offset,
    /// Room for so much; more only of a single batch.
    pub max_bytes: usize,
}

#[derive(Clone, Debug)]
struct Flow {
    next: Offset,
    log_end: Offset,
    /// Ends and sizes of what is under way.
    sent: VecDeque<(Offset, usize)>,
    sent_bytes: usize,
    /// It has a turn that is not over, with so much room.
    turn_bytes: Option<usize>,
    is_queued: bool,
}

impl Flow {
    /// It has something to send and room for a good part of it.
    fn is_ready(&self, partition_bytes: usize) -> bool {
        self.turn_bytes.is_none() && self.next < self.log_end && self.sent_bytes <= partition_bytes / 2
    }

    fn bytes(&self) -> usize {
        self.sent_bytes + self.turn_bytes.unwrap_or(0)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Window {
    settings: WindowSettings,
    flows: BTreeMap<TopicPartition, Flow>,
    /// Those that are ready, in the order of their turns.
    queue: VecDeque<TopicPartition>,
    /// Of all flows, turns included.
    bytes: usize,
}

impl Window {
    /// Begins with nothing to send.
    pub const fn new(settings: WindowSettings) -> Self {
        Self { settings, flows: BTreeMap::new(), queue: VecDeque::new(), bytes: 0 }
    }

    /// The follower takes records of a partition from an offset on; the log ends at `log_end`. What was under way is not any more.
    pub fn begin(&mut self, partition: TopicPartition, from: Offset, log_end: Offset) {
        self.stop(partition);
        let (sent, is_queued) = (VecDeque::new(), false);
        self.flows.insert(partition, Flow { next: from, log_end, sent, sent_bytes: 0, turn_bytes: None, is_queued });
        self.enqueue(partition);
    }

    /// Nothing is sent of a partition any more. A turn that it has is void.
    pub fn stop(&mut self, partition: TopicPartition) {
        if let Some(flow) = self.flows.remove(&partition) {
            self.bytes -= flow.bytes();
            if flow.is_queued {
                self.queue.retain(|queued| *queued != partition);
            }
        }
    }

    /// The log of a partition ends later.
    pub fn appended(&mut self, partition: TopicPartition, log_end: Offset) {
        if let Some(flow) = self.flows.get_mut(&partition) {
            flow.log_end = flow.log_end.max(log_end);
            self.enqueue(partition);
        }
    }

    /// The follower has everything below an offset on stable storage.
    pub fn acknowledged(&mut self, partition: TopicPartition, durable: Offset) {
        let Some(flow) = self.flows.get_mut(&partition) else { return };
        while let Some((_, bytes)) = flow.sent.pop_front_if(|(end, _)| *end <= durable) {
            flow.sent_bytes -= bytes;
            self.bytes -= bytes;
        }
        self.enqueue(partition);
    }

    /// Whose turn is next, if there is room. It is over with [`Self::sent`].
    pub fn next_turn(&mut self) -> Option<Turn> {
        let room = self.settings.total_bytes.checked_sub(self.bytes).filter(|room| *room > 0)?;
        let partition = self.queue.pop_front()?;
        let flow = self.flows.get_mut(&partition).expect("only flows are queued");
        flow.is_queued = false;
        let max_bytes = room.min(self.settings.turn_bytes).min(self.settings.partition_bytes - flow.sent_bytes);
        flow.turn_bytes = Some(max_bytes);
        self.bytes += max_bytes;
        Some(Turn { partition, from: flow.next, max_bytes })
    }

    /// A turn is over: so much was sent, up to an offset. When nothing was, the log had nothing to read yet, and the partition waits until
    /// it is told that there is more.
    pub fn sent(&mut self, turn: Turn, next: Offset, bytes: usize) {
        let Some(flow) = self.flows.get_mut(&turn.partition) else { return };
        // It may have begun anew since.
        let Some(turn_bytes) = flow.turn_bytes.take_if(|_| flow.next == turn.from) else { return };
        self.bytes -= turn_bytes;
        if bytes == 0 {
            flow.log_end = flow.next;
            return;
        }
        assert!(next > flow.next, "something was sent, up to where it began: {turn:?}");
        flow.next = next;
        flow.log_end = flow.log_end.max(next);
        flow.sent.push_back((next, bytes));
        flow.sent_bytes += bytes;
        self.bytes += bytes;
        self.enqueue(turn.partition);
    }

    /// Bytes under way, those of turns included.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets a partition wait for its turn, if it is ready.
    fn enqueue(&mut self, partition: TopicPartition) {
        let ready = |flow: &&mut Flow| !flow.is_queued && flow.is_ready(self.settings.partition_bytes);
        if let Some(flow) = self.flows.get_mut(&partition).filter(ready) {
            flow.is_queued = true;
            self.queue.push_back(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::types::TopicId;

    const SETTINGS: WindowSettings = WindowSettings { partition_bytes: 100, total_bytes: 250, turn_bytes: 40 };

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([7; 16]), number)
    }

    /// Gives the next turn, and sends ten bytes an offset.
    fn turn(window: &mut Window) -> Option<(i32, i64)> {
        let turn = window.next_turn()?;
        let offsets = i64::try_from(turn.max_bytes / 10).unwrap().max(1);
        window.sent(turn, turn.from + offsets, usize::try_from(offsets).unwrap() * 10);
        Some((turn.partition.partition.0, turn.from.0))
    }

    #[test]
    fn partitions_take_turns_within_their_windows() {
        let mut window = Window::new(SETTINGS);
        for number in 0..2 {
            window.begin(partition(number), Offset(0), Offset(100));
        }
        let turns: Vec<_> = std::iter::from_fn(|| turn(&mut window)).collect();
        assert_eq!(turns, [(0, 0), (1, 0), (0, 4), (1, 4)], "more than half of each window is under way");
        window.acknowledged(partition(1), Offset(4));
        assert_eq!(turn(&mut window), Some((1, 8)));
        assert_eq!(turn(&mut window), None);
        assert_eq!(window.bytes(), 160);
    }

    #[test]
    fn a_partition_that_is_not_acknowledged_holds_up_no_other() {
        let mut window = Window::new(SETTINGS);
        for number in 0..2 {
            window.begin(partition(number), Offset(0), Offset(1000));
        }
        for _ in 0..2 {
            assert_eq!(turn(&mut window).map(|(number, _)| number), Some(0));
            assert_eq!(turn(&mut window).map(|(number, _)| number), Some(1));
        }
        for round in 0..20 {
            window.acknowledged(partition(1), Offset(8 + round * 4));
            assert_eq!(turn(&mut window), Some((1, 8 + round * 4)));
        }
    }

    #[test]
    fn all_together_have_a_bound() {
        let mut window = Window::new(SETTINGS);
        for number in 0..10 {
            window.begin(partition(number), Offset(0), Offset(100));
        }
        let turns = std::iter::from_fn(|| turn(&mut window)).count();
        assert_eq!((turns, window.bytes()), (7, 250));
        window.stop(partition(0));
        assert_eq!(window.bytes(), 210);
        assert!(turn(&mut window).is_some());
    }

    #[test]
    fn a_partition_waits_while_its_log_has_nothing_to_read() {
        let mut window = Window::new(SETTINGS);
        window.begin(partition(0), Offset(5), Offset(9));
        let first = window.next_turn().unwrap();
        window.sent(first, first.from, 0);
        assert_eq!((window.next_turn(), window.bytes()), (None, 0));
        window.appended(partition(0), Offset(9));
        assert_eq!(turn(&mut window), Some((0, 5)));
    }

    #[test]
    fn a_turn_from_before_a_new_beginning_does_not_count() {
        let mut window = Window::new(SETTINGS);
        window.begin(partition(0), Offset(5), Offset(9));
        let first = window.next_turn().unwrap();
        window.begin(partition(0), Offset(2), Offset(9));
        window.sent(first, Offset(9), 40);
        assert_eq!(window.bytes(), 0);
        assert_eq!(turn(&mut window), Some((0, 2)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(i32),
        Stop(i32),
        Append(i32, i64),
        Send(usize),
        Acknowledge(i32, i64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4).prop_map(Step::Begin),
            (0..4).prop_map(Step::Stop),
            (0..4, 0..200_i64).prop_map(|(number, end)| Step::Append(number, end)),
            (1..90_usize).prop_map(Step::Send),
            (0..4, 0..200_i64).prop_map(|(number, end)| Step::Acknowledge(number, end)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_bounds_hold_whatever_happens_and_all_that_is_ready_gets_its_turn(steps in vec(any_step(), 0..120)) {
            let mut window = Window::new(SETTINGS);
            for step in steps {
                match step {
                    Step::Begin(number) => window.begin(partition(number), Offset(0), Offset(50)),
                    Step::Stop(number) => window.stop(partition(number)),
                    Step::Append(number, end) => window.appended(partition(number), Offset(end)),
                    Step::Acknowledge(number, end) => window.acknowledged(partition(number), Offset(end)),
                    // A batch may be larger than the room.
                    Step::Send(bytes) => if let Some(turn) = window.next_turn() {
                        window.sent(turn, turn.from.next(), bytes);
                    },
                }
                let bytes: usize = window.flows.values().map(Flow::bytes).sum();
                prop_assert_eq!(bytes, window.bytes());
                prop_assert!(bytes <= SETTINGS.total_bytes + 90);
                for (partition, flow) in &window.flows {
                    prop_assert!(flow.sent_bytes <= SETTINGS.partition_bytes + 90);
                    prop_assert_eq!(flow.is_queued, flow.is_ready(SETTINGS.partition_bytes));
                    prop_assert_eq!(flow.is_queued, window.queue.contains(partition));
                }
            }
        }
    }
}

//! One partition that this broker follows: what it does about its own log, takes of its leader, and tells it. Pure.
//!
//! ```text
//! Lead ─▶ compare histories ─▶ nothing to do ────────────────▶ State ─▶ following: records, in order, in this epoch
//!                           ├▶ truncate ── Settled ──────────▶ State
//!                           └▶ State: begin anew ─▶ Continuation ─▶ reset ── Settled ─▶ State
//! ```
//! Once it follows in an epoch, its log is a part of the leader's, and stays so: it takes only records of this epoch's leader that
//! go on where its log ends. Another session of the same epoch therefore begins where the log ends, and histories are
//! not compared again; a message that was late would have records cut off that are acknowledged.
//!
//! The driver makes one when the image or a leader says that another broker leads, after `PartitionLog::begin_replicated` and
//! `follow_epoch`; it feeds events and carries the actions out, in order. What is not durable may be gone after a crash; a new
//! machine then begins with what the log has, but only once the process has an image with its own registration: what an earlier
//! process acknowledged, it acknowledged in an epoch that such an image knows, and a leader of an older one would have it cut off.

use super::divergence::{History, Remedy, compare};
use crate::types::{LeaderEpoch, NodeId, Offset};

/// What the log says, as of now and not of when something was queued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// What it is made of.
    pub history: History,
    /// What is on stable storage.
    pub durable: Offset,
    /// What is known to be committed.
    pub high_watermark: Offset,
}

/// How far a leader is, told with records or alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything below is committed.
    pub high_watermark: Offset,
    /// Everything below is deleted.
    pub log_start: Offset,
    /// Everything below, from the log start on, is archived.
    pub archived_to: Offset,
}

/// The place of a batch, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// Its first offset.
    pub base_offset: Offset,
    /// The first offset after it.
    pub next_offset: Offset,
    /// The epoch in which it was appended.
    pub leader_epoch: LeaderEpoch,
}

/// What happens to a follower.
#[derive(Clone, Debug)]
pub enum Event {
    /// A newer image.
    Image {
        /// Who leads, if anybody does.
        leader: Option<NodeId>,
        /// In which epoch.
        leader_epoch: LeaderEpoch,
    },
    /// A leader begins a session.
    Lead {
        /// The leader, by its certificate.
        from: NodeId,
        /// The epoch in which it leads.
        leader_epoch: LeaderEpoch,
        /// What its log is made of.
        leader: History,
        /// The own log.
        local: Local,
    },
    /// The leader gives what the log is to go on with.
    Continuation {
        /// The leader's epoch.
        leader_epoch: LeaderEpoch,
    },
    /// A truncation or reset is durable.
    Settled(Local),
    /// Batches, one after another.
    Records {
        /// The leader's epoch.
        leader_epoch: LeaderEpoch,
        /// Their places.
        batches: Vec<BatchPlace>,
        /// How far the leader is.
        progress: Progress,
    },
    /// The log did not take what it was to append, or not all of it.
    NotAppended(Local),
    /// The leader got further.
    Advance {
        /// The leader's epoch.
        leader_epoch: LeaderEpoch,
        /// How far it is.
        progress: Progress,
    },
    /// What is below this offset is on stable storage here.
    Durable(Offset),
}

/// Why a follower does not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is a newer leader epoch, and nothing of the older one is taken.
    Stale,
    /// Another broker leads in this epoch.
    NotLeader,
    /// The leader has to begin a session first, or to wait until the follower is ready.
    Unprepared,
    /// The batches do not go on where the log ends, or were not taken: the leader has to begin again.
    OutOfOrder,
}

/// What a follower tells a leader that began a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerState {
    /// The epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// Where its log ends, and records go on.
    pub log_end: Offset,
    /// What is on stable storage.
    pub durable: Offset,
    /// It has nothing that the leader's local log goes on from: it needs a continuation first. The other offsets then say
    /// nothing.
    pub needs_continuation: bool,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the log follow this epoch.
    Follow(LeaderEpoch),
    /// Tell the leader, on its newest session.
    SendState(FollowerState),
    /// Cut the log, and tell when that is durable.
    Truncate {
        /// Where.
        to: Offset,
        /// Records are cut off that were committed: an unclean election.
        loses_committed: bool,
    },
    /// Once everything is durable, let the log go on with the continuation that came, and tell when that is durable.
    Reset {
        /// As of a truncation.
        loses_committed: bool,
    },
    /// Append the batches behind the first so many, or tell that they were not taken.
    Append {
        /// Batches that the log has already.
        skip: usize,
    },
    /// Raise the high watermark.
    Commit(Offset),
    /// Delete what is below.
    AdvanceLogStart(Offset),
    /// Note that everything below is archived.
    AdvanceArchived(Offset),
    /// Tell the leader what is on stable storage.
    SendDurable {
        /// The epoch in which it follows.
        leader_epoch: LeaderEpoch,
        /// The offset.
        durable: Offset,
    },
    /// Tell the sender.
    Refuse {
        /// Why.
        why: Refusal,
        /// The newest epoch that is known.
        leader_epoch: LeaderEpoch,
        /// Where the log ends.
        log_end: Offset,
    },
}

#[derive(Clone, Debug)]
enum Phase {
    /// No leader of this epoch has begun.
    Waiting,
    /// It needs a continuation.
    Asking { loses_committed: bool },
    /// A truncation or reset is under way, by the word of the leader of an epoch. A leader of a later epoch may wait for it.
    Settling { leader_epoch: LeaderEpoch, waiting: Option<History> },
    /// Its log is a part of the leader's.
    Following,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct FollowerReplica {
    leader: Option<NodeId>,
    leader_epoch: LeaderEpoch,
    phase: Phase,
    log_end: Offset,
    durable: Offset,
    /// What the log was told of the leader's progress.
    applied: Progress,
    /// What the leader said in this epoch.
    told: Progress,
}

impl FollowerReplica {
    /// Begins to follow in an epoch that the log follows already.
    pub fn new(leader: Option<NodeId>, leader_epoch: LeaderEpoch, local: &Local) -> Self {
        let mut follower = Self {
            leader,
            leader_epoch,
            phase: Phase::Waiting,
            log_end: Offset::ZERO,
            durable: Offset::ZERO,
            applied: Progress::default(),
            told: Progress::default(),
        };
        follower.look(local);
        follower
    }

    /// Who leads, as far as it is known.
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The newest epoch that is known.
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// What it has on stable storage, as it told or tells its leader.
    pub const fn durable(&self) -> Offset {
        self.durable
    }

    /// Its log is a part of the leader's.
    pub const fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    /// The only entrance.
    ///
    /// # Panics
    /// When a truncation is reported that nobody asked for.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Image { leader, leader_epoch } => {
                if leader_epoch > self.leader_epoch {
                    self.begin_epoch(leader, leader_epoch, &mut out);
                } else if leader_epoch == self.leader_epoch {
                    self.leader = self.leader.or(leader);
                }
            }
            Event::Lead { from, leader_epoch, leader, local } => {
                self.lead(from, leader_epoch, leader, &local, &mut out);
            }
            Event::Continuation { leader_epoch } => self.take_continuation(leader_epoch, &mut out),
            Event::Settled(local) => self.settled(&local, &mut out),
            Event::Records { leader_epoch, batches, progress } => {
                self.records(leader_epoch, &batches, progress, &mut out);
            }
            Event::NotAppended(local) => {
                self.look(&local);
                out.push(self.refusal(Refusal::OutOfOrder));
            }
            Event::Advance { leader_epoch, progress } => {
                if leader_epoch < self.leader_epoch {
                    out.push(self.refusal(Refusal::Stale));
                } else if leader_epoch == self.leader_epoch && self.is_following() {
                    self.advance(progress, &mut out);
                }
            }
            Event::Durable(durable) => self.became_durable(durable, &mut out),
        }
        out
    }

    fn refusal(&self, why: Refusal) -> Action {
        Action::Refuse { why, leader_epoch: self.leader_epoch, log_end: self.log_end }
    }

    fn state(&self, needs_continuation: bool) -> Action {
        let Self { leader_epoch, log_end, durable, .. } = *self;
        Action::SendState(FollowerState { leader_epoch, log_end, durable, needs_continuation })
    }

    /// Takes from the log what may have changed without this machine.
    fn look(&mut self, local: &Local) {
        self.log_end = local.history.log_end;
        self.durable = local.durable;
        self.applied.high_watermark = local.high_watermark;
    }

    fn begin_epoch(&mut self, leader: Option<NodeId>, leader_epoch: LeaderEpoch, out: &mut Vec<Action>) {
        self.leader = leader;
        self.leader_epoch = leader_epoch;
        // What an earlier leader said was committed is so in its log, which an unclean election gives up.
        self.told = Progress::default();
        match &mut self.phase {
            Phase::Settling { waiting, .. } => *waiting = None,
            phase => *phase = Phase::Waiting,
        }
        out.push(Action::Follow(leader_epoch));
    }

    fn lead(&mut self, from: NodeId, epoch: LeaderEpoch, leader: History, local: &Local, out: &mut Vec<Action>) {
        if epoch < self.leader_epoch {
            return out.push(self.refusal(Refusal::Stale));
        }
        if epoch > self.leader_epoch {
            self.begin_epoch(Some(from), epoch, out);
        } else if self.leader.is_some_and(|leader| leader != from) {
            return out.push(self.refusal(Refusal::NotLeader));
        }
        self.leader = Some(from);
        match &mut self.phase {
            // The state follows when it is settled.
            Phase::Settling { leader_epoch, .. } if *leader_epoch == epoch => {}
            Phase::Settling { waiting, .. } => *waiting = Some(leader),
            Phase::Following => {
                self.look(local);
                // What the leader's local log begins after is archived, and so committed.
                let is_short = self.log_end < leader.local_log_start;
                if is_short {
                    self.phase = Phase::Asking { loses_committed: false };
                }
                out.push(self.state(is_short));
            }
            Phase::Waiting | Phase::Asking { .. } => self.decide(&leader, local, out),
        }
    }

    fn decide(&mut self, leader: &History, local: &Local, out: &mut Vec<Action>) {
        self.look(local);
        let verdict = compare(leader, &local.history, local.high_watermark);
        let loses_committed = verdict.loses_committed;
        match verdict.remedy {
            Remedy::Append { .. } => self.follow(out),
            Remedy::Truncate { to } => {
                self.phase = Phase::Settling { leader_epoch: self.leader_epoch, waiting: None };
                out.push(Action::Truncate { to, loses_committed });
            }
            Remedy::Reset => {
                self.phase = Phase::Asking { loses_committed };
                out.push(self.state(true));
            }
        }
    }

    fn follow(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Following;
        out.push(self.state(false));
    }

    fn take_continuation(&mut self, leader_epoch: LeaderEpoch, out: &mut Vec<Action>) {
        if leader_epoch < self.leader_epoch {
            return out.push(self.refusal(Refusal::Stale));
        }
        // It may have been asked for twice.
        if let (Phase::Asking { loses_committed }, true) = (&self.phase, leader_epoch == self.leader_epoch) {
            let loses_committed = *loses_committed;
            self.phase = Phase::Settling { leader_epoch, waiting: None };
            out.push(Action::Reset { loses_committed });
        }
    }

    fn settled(&mut self, local: &Local, out: &mut Vec<Action>) {
        let Phase::Settling { leader_epoch, waiting } = std::mem::replace(&mut self.phase, Phase::Waiting) else {
            panic!("a log was cut that its follower did not have cut: {self:?}");
        };
        self.look(local);
        match waiting {
            Some(leader) => self.decide(&leader, local, out),
            None if leader_epoch == self.leader_epoch => self.follow(out),
            None => {}
        }
    }

    fn records(&mut self, epoch: LeaderEpoch, batches: &[BatchPlace], progress: Progress, out: &mut Vec<Action>) {
        if epoch < self.leader_epoch {
            return out.push(self.refusal(Refusal::Stale));
        }
        if epoch > self.leader_epoch || !self.is_following() {
            return out.push(self.refusal(Refusal::Unprepared));
        }
        let skip = batches.iter().take_while(|batch| batch.next_offset <= self.log_end).count();
        let mut end = self.log_end;
        for batch in &batches[skip..] {
            if batch.base_offset != end || batch.next_offset <= end || batch.leader_epoch > epoch {
                return out.push(self.refusal(Refusal::OutOfOrder));
            }
            end = batch.next_offset;
        }
        if skip < batches.len() {
            self.log_end = end;
            out.push(Action::Append { skip });
        }
        self.advance(progress, out);
    }

    fn became_durable(&mut self, durable: Offset, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Settling { .. }) {
            return;
        }
        let durable = durable.min(self.log_end);
        if durable <= self.durable {
            return;
        }
        self.durable = durable;
        if self.is_following() {
            out.push(Action::SendDurable { leader_epoch: self.leader_epoch, durable });
            self.apply(out);
        }
    }

    fn advance(&mut self, progress: Progress, out: &mut Vec<Action>) {
        self.told.high_watermark = self.told.high_watermark.max(progress.high_watermark);
        self.told.log_start = self.told.log_start.max(progress.log_start);
        self.told.archived_to = self.told.archived_to.max(progress.archived_to);
        self.apply(out);
    }

    /// Tells the log what it may know by now: nothing beyond what is durable here.
    fn apply(&mut self, out: &mut Vec<Action>) {
        let committed = self.told.high_watermark.min(self.durable);
        if committed > self.applied.high_watermark {
            self.applied.high_watermark = committed;
            out.push(Action::Commit(committed));
        }
        let log_start = self.told.log_start.min(self.applied.high_watermark);
        if log_start > self.applied.log_start {
            self.applied.log_start = log_start;
            out.push(Action::AdvanceLogStart(log_start));
        }
        if self.told.archived_to > self.applied.archived_to {
            self.applied.archived_to = self.told.archived_to;
            out.push(Action::AdvanceArchived(self.applied.archived_to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EpochCache;

    const LEADER: NodeId = NodeId(1);
    const NOTHING: [Action; 0] = [];

    fn history(starts: &[(i32, i64)], local_log_start: i64, log_end: i64) -> History {
        let starts = starts.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect();
        let epochs = EpochCache::from_starts(starts).unwrap();
        History { epochs, local_log_start: Offset(local_log_start), log_end: Offset(log_end) }
    }

    /// A log that ends at an offset, all durable, with half of it committed.
    fn local(starts: &[(i32, i64)], log_end: i64) -> Local {
        let history = history(starts, 0, log_end);
        Local { history, durable: Offset(log_end), high_watermark: Offset(log_end / 2) }
    }

    fn lead(epoch: i32, leader: History, local: Local) -> Event {
        Event::Lead { from: LEADER, leader_epoch: LeaderEpoch(epoch), leader, local }
    }

    fn state(epoch: i32, at: i64, needs_continuation: bool) -> Action {
        let [log_end, durable] = [Offset(at); 2];
        Action::SendState(FollowerState { leader_epoch: LeaderEpoch(epoch), log_end, durable, needs_continuation })
    }

    fn records(epoch: i32, ends: &[i64], high_watermark: i64) -> Event {
        let place = |pair: &[i64]| BatchPlace {
            base_offset: Offset(pair[0]),
            next_offset: Offset(pair[1]),
            leader_epoch: LeaderEpoch(epoch),
        };
        let progress = Progress { high_watermark: Offset(high_watermark), ..Progress::default() };
        Event::Records { leader_epoch: LeaderEpoch(epoch), batches: ends.windows(2).map(place).collect(), progress }
    }

    fn refusal(why: Refusal, epoch: i32, log_end: i64) -> Action {
        Action::Refuse { why, leader_epoch: LeaderEpoch(epoch), log_end: Offset(log_end) }
    }

    /// Follows in epoch 3 with a log of 20 records.
    fn following() -> FollowerReplica {
        let mut follower = FollowerReplica::new(Some(LEADER), LeaderEpoch(3), &local(&[(1, 0)], 20));
        let actions = follower.handle(lead(3, history(&[(1, 0), (3, 25)], 0, 25), local(&[(1, 0)], 20)));
        assert_eq!(actions, [state(3, 20, false)]);
        follower
    }

    #[test]
    fn records_are_taken_where_the_log_ends_and_acknowledged_when_they_are_durable() {
        let mut follower = following();
        let actions = follower.handle(records(3, &[20, 24, 25], 24));
        assert_eq!(actions, [Action::Append { skip: 0 }, Action::Commit(Offset(20))]);
        let durable = |at| Action::SendDurable { leader_epoch: LeaderEpoch(3), durable: Offset(at) };
        let actions = follower.handle(Event::Durable(Offset(24)));
        assert_eq!(actions, [durable(24), Action::Commit(Offset(24))]);
        assert_eq!(follower.handle(Event::Durable(Offset(25))), [durable(25)]);
        assert_eq!(follower.handle(Event::Durable(Offset(25))), NOTHING);
    }

    #[test]
    fn batches_that_came_before_are_passed_over_and_a_gap_is_refused() {
        let mut follower = following();
        follower.handle(records(3, &[20, 24], 0));
        assert_eq!(follower.handle(records(3, &[20, 24, 25], 0)), [Action::Append { skip: 1 }]);
        assert_eq!(follower.handle(records(3, &[20, 24, 25], 0)), NOTHING);
        assert_eq!(follower.handle(records(3, &[26, 27], 0)), [refusal(Refusal::OutOfOrder, 3, 25)]);
        assert_eq!(follower.handle(records(3, &[24, 27], 0)), [refusal(Refusal::OutOfOrder, 3, 25)]);
        let actions = follower.handle(Event::NotAppended(local(&[(1, 0)], 24)));
        assert_eq!(actions, [refusal(Refusal::OutOfOrder, 3, 24)]);
    }

    #[test]
    fn nothing_is_taken_of_an_epoch_that_has_passed_or_has_not_begun() {
        let mut follower = following();
        assert_eq!(follower.handle(records(2, &[20, 24], 20)), [refusal(Refusal::Stale, 3, 20)]);
        let stale = follower.handle(lead(2, history(&[], 0, 0), local(&[(1, 0)], 20)));
        assert_eq!(stale, [refusal(Refusal::Stale, 3, 20)]);
        assert_eq!(follower.handle(records(4, &[20, 24], 20)), [refusal(Refusal::Unprepared, 3, 20)]);
        let image = Event::Image { leader: Some(NodeId(2)), leader_epoch: LeaderEpoch(4) };
        assert_eq!(follower.handle(image), [Action::Follow(LeaderEpoch(4))]);
        assert_eq!(follower.handle(records(3, &[20, 24], 20)), [refusal(Refusal::Stale, 4, 20)]);
        assert_eq!(follower.handle(records(4, &[20, 24], 20)), [refusal(Refusal::Unprepared, 4, 20)]);
        let other = follower.handle(lead(4, history(&[], 0, 0), local(&[(1, 0)], 20)));
        assert_eq!(other, [refusal(Refusal::NotLeader, 4, 20)]);
    }

    #[test]
    fn what_contradicts_the_leader_is_cut_off_before_anything_is_taken() {
        let own = || local(&[(1, 0), (2, 12)], 20);
        let mut follower = FollowerReplica::new(None, LeaderEpoch(3), &own());
        let leader = || history(&[(1, 0), (3, 15)], 0, 16);
        let cut = [Action::Truncate { to: Offset(12), loses_committed: false }];
        assert_eq!(follower.handle(lead(3, leader(), own())), cut);
        assert_eq!(follower.handle(records(3, &[15, 16], 16)), [refusal(Refusal::Unprepared, 3, 20)]);
        assert_eq!(follower.handle(Event::Durable(Offset(20))), NOTHING);
        assert_eq!(follower.handle(lead(3, leader(), own())), NOTHING, "another session, while it is being cut");
        assert_eq!(follower.handle(Event::Settled(local(&[(1, 0)], 12))), [state(3, 12, false)]);
        assert!(follower.is_following());
    }

    #[test]
    fn a_leader_that_comes_while_the_log_is_being_cut_is_compared_after_it() {
        let own = || local(&[(1, 0), (2, 12)], 20);
        let mut follower = FollowerReplica::new(None, LeaderEpoch(3), &own());
        follower.handle(lead(3, history(&[(1, 0), (3, 15)], 0, 16), own()));
        let actions = follower.handle(lead(4, history(&[(1, 0), (4, 9)], 0, 9), own()));
        assert_eq!(actions, [Action::Follow(LeaderEpoch(4))]);
        let actions = follower.handle(Event::Settled(local(&[(1, 0)], 12)));
        assert_eq!(actions, [Action::Truncate { to: Offset(9), loses_committed: false }]);
        let image = Event::Image { leader: None, leader_epoch: LeaderEpoch(5) };
        assert_eq!(follower.handle(image), [Action::Follow(LeaderEpoch(5))]);
        assert_eq!(follower.handle(Event::Settled(local(&[(1, 0)], 9))), NOTHING, "nobody leads");
        assert!(!follower.is_following());
    }

    #[test]
    fn a_log_that_ends_before_the_leaders_local_log_begins_anew() {
        let mut follower = FollowerReplica::new(Some(LEADER), LeaderEpoch(3), &local(&[(1, 0)], 20));
        let leader = || history(&[(1, 0), (3, 25)], 22, 30);
        assert_eq!(follower.handle(lead(3, leader(), local(&[(1, 0)], 20))), [state(3, 20, true)]);
        let continuation = || Event::Continuation { leader_epoch: LeaderEpoch(3) };
        assert_eq!(follower.handle(continuation()), [Action::Reset { loses_committed: false }]);
        assert_eq!(follower.handle(continuation()), NOTHING, "it was asked for twice");
        let begun = Local { high_watermark: Offset(22), ..local(&[(1, 0)], 22) };
        assert_eq!(follower.handle(Event::Settled(begun.clone())), [state(3, 22, false)]);
        // The leader's local log passes it while there is no session.
        let later = lead(3, history(&[(3, 25)], 28, 30), begun);
        assert_eq!(follower.handle(later), [state(3, 22, true)]);
    }

    #[test]
    fn a_late_message_of_the_same_epoch_cuts_nothing_off() {
        let mut follower = following();
        follower.handle(records(3, &[20, 25, 30], 20));
        follower.handle(Event::Durable(Offset(30)));
        let late = lead(3, history(&[(1, 0), (3, 25)], 0, 25), local(&[(1, 0), (3, 25)], 30));
        assert_eq!(follower.handle(late), [state(3, 30, false)]);
    }

    #[test]
    fn deletion_and_archiving_reach_a_follower_no_further_than_what_it_knows_to_be_committed() {
        let mut follower = following();
        let [high_watermark, log_start, archived_to] = [24, 22, 10].map(Offset);
        let progress = Progress { high_watermark, log_start, archived_to };
        let actions = follower.handle(Event::Advance { leader_epoch: LeaderEpoch(3), progress });
        let expected =
            [Action::Commit(Offset(20)), Action::AdvanceLogStart(Offset(20)), Action::AdvanceArchived(Offset(10))];
        assert_eq!(actions, expected);
        assert_eq!(follower.handle(Event::Advance { leader_epoch: LeaderEpoch(3), progress }), NOTHING);
    }
}

//! When this node stands for leadership of the metadata. Pure.
//!
//! openraft's own election timer is off: a node that was cut off would come back with a later term and depose a leader that
//! all others follow. Here a node that misses the leader first asks the voters whether they would vote for it (pre-vote:
//! Ongaro 2014, 9.6), and stands only if a majority says so; no term changes before. A voter says yes if it misses the leader too
//! and its own log is not ahead. That the leader's process is gone, as its machine tells, counts as missing it at once.
//!
//! The driver is `campaign`; `answers` asks it for others. Nothing is kept over a crash: a node that starts misses the leader.

use std::collections::BTreeSet;
use std::time::Duration;

use super::LogId;
use crate::types::{Monotonic, NodeId};

/// How long the leader is missed before a node asks for votes: at least so long, and at most twice. Longer than any stall of a disk
/// that is worth riding out; leaders that are certainly gone are not waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a node waits that has just started, at most: whoever is led says no to it.
const FIRST_PATIENCE: Duration = Duration::from_millis(400);
/// How long a node waits after the leader's process is gone, at most: so that two seldom stand at once.
const GONE_PATIENCE: Duration = Duration::from_millis(60);
/// How long openraft's voters keep to a leader that they have heard, and a little longer: it is no use to stand before.
const LEASE: Duration = Duration::from_millis(270);
/// How long answers are waited for before they are asked for again, at least.
const ROUND: Duration = Duration::from_millis(300);

/// What this node is in the quorum, as openraft says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// It leads, and has been heard by a majority lately.
    pub(super) leads: bool,
    /// The leader that it follows, or is.
    pub(super) leader: Option<NodeId>,
    /// The voters: two sets during a joint change.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    /// The newest entry of its log.
    pub(super) last_log_id: Option<LogId>,
}

/// What happens to a candidacy.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A request of the present leader was accepted.
    Heard,
    /// A node's process is gone.
    Gone(NodeId),
    /// openraft says something new.
    Standing(Standing),
    /// A voter answered a round.
    Answered {
        /// Of which round.
        round: u64,
        /// The voter.
        node_id: NodeId,
        /// What it said.
        would_vote: bool,
    },
    /// Time passed.
    Tick,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask voters whether they would vote for this node.
    Ask {
        /// To be given back with the answers.
        round: u64,
        /// Whom.
        voters: BTreeSet<NodeId>,
    },
    /// Have openraft stand for election.
    Stand,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Candidacy {
    node_id: NodeId,
    standing: Standing,
    /// When the leader was heard last; none if never in this life, or if it is gone.
    heard: Option<Monotonic>,
    /// When votes are asked for, unless the leader is heard.
    due: Monotonic,
    round: u64,
    /// Who said yes to the round.
    yes: BTreeSet<NodeId>,
    random: u64,
}

impl Candidacy {
    /// A node that has just started.
    pub(super) fn new(node_id: NodeId, now: Monotonic, seed: u64) -> Self {
        let (standing, yes) = (Standing::default(), BTreeSet::new());
        let mut candidacy = Self { node_id, standing, heard: None, due: now, round: 0, yes, random: seed };
        candidacy.due = now + candidacy.drawn(Duration::ZERO, FIRST_PATIENCE);
        candidacy
    }

    /// When [`Event::Tick`] is due.
    pub(super) const fn next_timeout(&self) -> Monotonic {
        self.due
    }

    /// Whether this node would vote for a candidate with that log. If so, it gives up a round of its own: of two that ask each
    /// other at once, the one with the longer log goes on, or the higher number.
    pub(super) fn asked(&mut self, now: Monotonic, candidate: NodeId, last_log_id: Option<LogId>) -> bool {
        let is_asking = !self.yes.is_empty();
        let is_ahead = match is_asking {
            true => (last_log_id, candidate) > (self.standing.last_log_id, self.node_id),
            false => last_log_id >= self.standing.last_log_id,
        };
        let would_vote = !self.has_leader(now) && is_ahead;
        if would_vote {
            self.yes.clear();
            self.due = self.due.max(now + self.drawn(ROUND, ROUND));
        }
        would_vote
    }

    fn has_leader(&self, now: Monotonic) -> bool {
        self.standing.leads || self.heard.is_some_and(|heard| now.since(heard) < PATIENCE)
    }

    /// Takes note of something.
    pub(super) fn handle(&mut self, now: Monotonic, event: Event) -> Vec<Action> {
        match event {
            Event::Heard => {
                self.heard = Some(now);
                self.due = now + self.drawn(PATIENCE, PATIENCE);
                self.yes.clear();
            }
            Event::Gone(node_id) => {
                if self.standing.leader == Some(node_id)
                    && node_id != self.node_id
                    && let Some(heard) = self.heard.take()
                {
                    self.due = now.max(heard + LEASE) + self.drawn(Duration::ZERO, GONE_PATIENCE);
                }
            }
            Event::Standing(standing) => {
                if standing.leader != self.standing.leader && standing.leader.is_some() && !standing.leads {
                    // Its first request comes at once.
                    self.heard.get_or_insert(now);
                    self.due = now + self.drawn(PATIENCE, PATIENCE);
                }
                self.standing = standing;
            }
            Event::Answered { round, node_id, would_vote } => {
                let counts = round == self.round && would_vote && !self.yes.is_empty() && !self.has_leader(now);
                if counts && self.yes.insert(node_id) && self.may_stand() {
                    self.yes.clear();
                    self.due = now + self.drawn(ROUND, ROUND);
                    return vec![Action::Stand];
                }
            }
            Event::Tick => return self.tick(now),
        }
        Vec::new()
    }

    fn tick(&mut self, now: Monotonic) -> Vec<Action> {
        if now < self.due {
            return Vec::new();
        }
        self.yes.clear();
        self.due = now + self.drawn(ROUND, ROUND);
        let voters: BTreeSet<NodeId> = self.standing.voters.iter().flatten().copied().collect();
        if self.has_leader(now) || !voters.contains(&self.node_id) {
            self.due = now + self.drawn(PATIENCE, PATIENCE);
            return Vec::new();
        }
        self.round += 1;
        self.yes = BTreeSet::from([self.node_id]);
        if self.may_stand() {
            self.yes.clear();
            return vec![Action::Stand];
        }
        vec![Action::Ask {
            round: self.round,
            voters: voters.into_iter().filter(|voter| *voter != self.node_id).collect(),
        }]
    }

    /// Whether a majority of each set of voters said yes.
    fn may_stand(&self) -> bool {
        let is_majority = |voters: &BTreeSet<NodeId>| voters.intersection(&self.yes).count() > voters.len() / 2;
        !self.standing.voters.is_empty() && self.standing.voters.iter().all(is_majority)
    }

    /// A duration of `least`, and up to `more` beyond it.
    fn drawn(&mut self, least: Duration, more: Duration) -> Duration {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let more_us = u64::try_from(more.as_micros()).expect("some seconds");
        least + Duration::from_micros((z ^ (z >> 31)) % more_us.max(1))
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    const ME: NodeId = NodeId(1);

    fn at(ms: u64) -> Monotonic {
        Monotonic::default() + Duration::from_millis(ms)
    }

    fn log(index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(1, NodeId(2)), index))
    }

    fn standing(leader: Option<i32>) -> Standing {
        let voters = vec![[1, 2, 3].map(NodeId).into()];
        Standing { leads: leader == Some(1), leader: leader.map(NodeId), voters, last_log_id: log(5) }
    }

    fn follower(leader: Option<i32>) -> Candidacy {
        let mut candidacy = Candidacy::new(ME, at(0), 7);
        candidacy.handle(at(0), Event::Standing(standing(leader)));
        candidacy
    }

    fn tick(candidacy: &mut Candidacy) -> (Monotonic, Vec<Action>) {
        let now = candidacy.next_timeout();
        (now, candidacy.handle(now, Event::Tick))
    }

    fn round_of(actions: &[Action]) -> u64 {
        match actions {
            [Action::Ask { round, voters }] => {
                assert_eq!(*voters, BTreeSet::from([NodeId(2), NodeId(3)]));
                *round
            }
            other => panic!("no round: {other:?}"),
        }
    }

    fn yes(round: u64, node: i32) -> Event {
        Event::Answered { round, node_id: NodeId(node), would_vote: true }
    }

    #[test]
    fn a_node_that_hears_its_leader_never_asks_for_votes() {
        let mut candidacy = follower(Some(2));
        for ms in (0..60_000).step_by(250) {
            assert!(candidacy.handle(at(ms), Event::Tick).is_empty());
            candidacy.handle(at(ms), Event::Heard);
            assert!(!candidacy.asked(at(ms + 1000), NodeId(3), log(9)));
        }
    }

    #[test]
    fn a_leader_that_is_missed_is_waited_for_and_then_a_majority_has_to_miss_it_too() {
        let mut candidacy = follower(Some(2));
        candidacy.handle(at(100), Event::Heard);
        let (now, actions) = tick(&mut candidacy);
        assert!(now >= at(1600) && now <= at(3100), "{now:?}");
        let round = round_of(&actions);
        assert!(candidacy.handle(now, yes(round - 1, 3)).is_empty(), "of an earlier round");
        let no = Event::Answered { round, node_id: NodeId(2), would_vote: false };
        assert!(candidacy.handle(now, no).is_empty());
        assert_eq!(candidacy.handle(now, yes(round, 3)), [Action::Stand]);
        assert!(candidacy.handle(now, yes(round, 2)).is_empty(), "once a round");
        assert!(candidacy.next_timeout() > now);
    }

    #[test]
    fn a_leader_whose_process_is_gone_is_not_waited_for() {
        let mut candidacy = follower(Some(2));
        candidacy.handle(at(1000), Event::Heard);
        candidacy.handle(at(1100), Event::Gone(NodeId(3)));
        assert!(candidacy.next_timeout() > at(2000), "another node's");
        assert!(!candidacy.asked(at(1100), NodeId(3), log(5)));
        candidacy.handle(at(1100), Event::Gone(NodeId(2)));
        assert!(candidacy.next_timeout() >= at(1270) && candidacy.next_timeout() <= at(1330));
        assert!(!candidacy.asked(at(1100), NodeId(3), log(4)), "its log lacks what this one has");
        let (_, actions) = tick(&mut candidacy);
        round_of(&actions);
    }

    #[test]
    fn of_two_that_ask_each_other_one_gives_up() {
        let mut candidacy = follower(None);
        assert!(candidacy.asked(at(10), NodeId(3), log(5)), "it has not asked yet");
        assert!(candidacy.next_timeout() >= at(310), "and waits for the other's election");
        let (now, actions) = tick(&mut candidacy);
        let round = round_of(&actions);
        assert!(!candidacy.asked(now, NodeId(0), log(5)), "the higher number goes on");
        assert!(candidacy.asked(now, NodeId(0), log(6)), "but for a longer log");
        assert!(candidacy.handle(now, yes(round, 2)).is_empty(), "it has given up");
        let (now, _) = tick(&mut candidacy);
        assert!(candidacy.asked(now, NodeId(3), log(5)));
    }

    #[test]
    fn a_node_that_starts_asks_soon_and_stops_when_it_is_led() {
        let mut candidacy = follower(None);
        assert!(candidacy.next_timeout() <= at(400));
        let (now, actions) = tick(&mut candidacy);
        let round = round_of(&actions);
        candidacy.handle(now, Event::Heard);
        assert!(candidacy.handle(now, yes(round, 2)).is_empty(), "it is led by now");
    }

    #[test]
    fn a_lone_voter_stands_at_once_and_a_learner_never_does() {
        let mut candidacy = Candidacy::new(ME, at(0), 7);
        let (_, actions) = tick(&mut candidacy);
        assert!(actions.is_empty(), "it is no voter");
        let alone = Standing { voters: vec![[ME].into()], ..Standing::default() };
        candidacy.handle(at(0), Event::Standing(alone));
        assert_eq!(tick(&mut candidacy).1, [Action::Stand]);
    }

    #[test]
    fn a_joint_change_needs_a_majority_of_both_sets() {
        let mut candidacy = Candidacy::new(ME, at(0), 7);
        let voters = vec![[ME].into(), [1, 2, 3].map(NodeId).into()];
        candidacy.handle(at(0), Event::Standing(Standing { voters, ..Standing::default() }));
        let (now, actions) = tick(&mut candidacy);
        let round = round_of(&actions);
        assert_eq!(candidacy.handle(now, yes(round, 3)), [Action::Stand]);
    }

    #[test]
    fn a_leader_that_a_majority_hears_votes_for_nobody() {
        assert!(!follower(Some(1)).asked(at(60_000), NodeId(3), log(9)));
    }
}

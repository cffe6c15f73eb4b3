//! One partition that this broker leads, in one leader epoch: what is committed, and who is in sync. Pure.
//!
//! Committed is what all in-sync replicas have on stable storage. Who is in sync is decided by the metadata, on this machine's
//! proposals; between a proposal and its outcome the *maximal* in-sync set counts, which has everybody who may be in it. A replica may
//! join when it has all that is or may be committed: everything below the high watermark, which a new leader knows late,
//! and below the beginning of its epoch. It leaves when it has not been caught up for the lag time. Nothing is committed while there
//! are fewer in-sync replicas than the topic asks for (KIP-966), so that those that left below that number are as good as these.
//!
//! The driver makes one when the image says that this broker leads, and another for each leader epoch; it feeds events, carries the
//! actions out and wakes the machine at [`LeaderReplica::next_timeout`]. After a crash there is a new epoch and a new machine, which
//! begins with the high watermark that the log is sure of.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::{BrokerEpoch, LeaderEpoch, Monotonic, NodeId, Offset, PartitionEpoch};

/// How patient a leader is.
#[derive(Clone, Copy, Debug)]
pub struct LeaderSettings {
    /// How long a replica may be behind and in sync (Kafka's `replica.lag.time.max.ms`).
    pub lag_max: Duration,
    /// Between a proposal that failed and the next.
    pub retry_pause: Duration,
}

impl Default for LeaderSettings {
    fn default() -> Self {
        Self { lag_max: Duration::from_secs(10), retry_pause: Duration::from_millis(500) }
    }
}

/// What the image says of one replica, the leader's own among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The broker that has it.
    pub node_id: NodeId,
    /// The term of the broker's registration.
    pub broker_epoch: BrokerEpoch,
    /// It belongs to the in-sync set.
    pub is_in_sync: bool,
    /// The broker is active, and has the replica's directory.
    pub is_available: bool,
}

/// What the image says of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which state of the partition this is.
    pub partition_epoch: PartitionEpoch,
    /// Its replicas.
    pub members: Vec<Member>,
    /// In-sync replicas without which nothing is committed; of a partition with fewer replicas, all.
    pub min_in_sync: usize,
}

/// What the log is when it is led from now on.
#[derive(Clone, Copy, Debug)]
pub struct LeaderStart {
    /// This broker.
    pub node_id: NodeId,
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// Where the log ends, and the epoch begins.
    pub log_end: Offset,
    /// What is on stable storage.
    pub durable: Offset,
    /// What is known to be committed.
    pub high_watermark: Offset,
}

/// What happens to a leader.
#[derive(Clone, Debug)]
pub enum Event {
    /// A newer image, of the same leader epoch.
    Assigned(Assignment),
    /// The log ends at this offset now.
    Appended(Offset),
    /// What is below this offset is on stable storage here.
    Durable(Offset),
    /// A follower has everything below an offset on stable storage, and its log agrees with this one so far.
    Acknowledged {
        /// The follower.
        node_id: NodeId,
        /// The registration of the process that says so.
        broker_epoch: BrokerEpoch,
        /// The epoch in which it follows.
        leader_epoch: LeaderEpoch,
        /// The offset.
        durable: Offset,
        /// What is below is deleted there, for good.
        log_start: Offset,
    },
    /// There is no session to a follower any more.
    Disconnected(NodeId),
    /// The proposal for a partition epoch failed. Each proposal is answered by this or by a newer image; one that may have got to
    /// the metadata is not sent again by the driver.
    ProposalFailed {
        /// Of the proposal.
        partition_epoch: PartitionEpoch,
        /// It was refused, and never takes effect. Otherwise its fate is not known.
        is_void: bool,
    },
    /// Time has passed.
    Tick,
}

/// A change of the in-sync set that the metadata is asked for. Of the same set as before it is also asked for, to learn what
/// became of an earlier proposal: what is accepted always raises the partition epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The state of the partition that is to be changed.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas, each with the registration that it was known by.
    pub in_sync: Vec<(NodeId, BrokerEpoch)>,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Everything below is committed: more than before.
    pub commit: Option<Offset>,
    /// Ask the metadata for it.
    pub propose: Option<Proposal>,
}

/// What a follower's process said last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    broker_epoch: BrokerEpoch,
    durable: Offset,
    log_start: Offset,
}

#[derive(Clone, Debug)]
struct Follower {
    member: Member,
    heard: Option<Heard>,
    is_connected: bool,
    /// When it last had all that the leader had.
    caught_up_at: Option<Monotonic>,
    /// What the leader had at some time. Once the follower has it, it was caught up at that time, and the leader looks again. A look
    /// waits until it is reached: acknowledgements come with each group, always a little behind the end.
    looked: (Offset, Monotonic),
}

impl Follower {
    /// What the process that the image knows, or a newer one, has on stable storage.
    fn durable(&self) -> Option<Offset> {
        self.heard.filter(|heard| heard.broker_epoch >= self.member.broker_epoch).map(|heard| heard.durable)
    }

    fn has_deleted(&self, below: Offset) -> bool {
        let heard = self.heard.filter(|heard| heard.broker_epoch >= self.member.broker_epoch);
        heard.is_some_and(|heard| heard.log_start >= below)
    }

    fn has_all(&self, log_end: Offset) -> bool {
        self.durable().is_some_and(|durable| durable >= log_end)
    }

    /// It may be in the in-sync set as far as its process goes.
    fn is_eligible(&self) -> bool {
        let is_known = self.heard.is_some_and(|heard| heard.broker_epoch == self.member.broker_epoch);
        self.member.is_available && self.is_connected && is_known
    }

    fn acknowledge(&mut self, heard: Heard, log_end: Offset, now: Monotonic) {
        let durable = heard.durable.min(log_end);
        match &mut self.heard {
            Some(last) if heard.broker_epoch < last.broker_epoch => return,
            Some(last) if heard.broker_epoch == last.broker_epoch => {
                last.durable = last.durable.max(durable);
                last.log_start = last.log_start.max(heard.log_start);
            }
            last => *last = Some(Heard { durable, ..heard }),
        }
        self.is_connected = true;
        if durable >= self.looked.0 {
            self.caught_up_at = self.caught_up_at.max(Some(self.looked.1));
            self.looked = (log_end, now);
        }
        if durable >= log_end {
            self.caught_up_at = Some(now);
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct LeaderReplica {
    settings: LeaderSettings,
    node_id: NodeId,
    leader_epoch: LeaderEpoch,
    epoch_start: Offset,
    log_end: Offset,
    durable: Offset,
    high_watermark: Offset,
    partition_epoch: PartitionEpoch,
    min_in_sync: usize,
    own: Member,
    followers: Vec<Follower>,
    /// A proposal is under way.
    is_proposing: bool,
    /// Who may have joined by proposals for this partition epoch; part of the maximal in-sync set.
    joining: BTreeSet<NodeId>,
    /// The fate of an earlier proposal for this partition epoch is not known.
    is_uncertain: bool,
    retry_at: Option<Monotonic>,
}

impl LeaderReplica {
    /// Begins to lead.
    ///
    /// # Panics
    /// When the image does not have this broker among the in-sync replicas.
    pub fn new(
        now: Monotonic,
        settings: LeaderSettings,
        start: LeaderStart,
        assignment: Assignment,
    ) -> (Self, Actions) {
        let LeaderStart { node_id, leader_epoch, log_end, durable, high_watermark } = start;
        assert!(high_watermark <= durable && durable <= log_end, "a log's offsets are in order: {start:?}");
        let mut leader = Self {
            settings,
            node_id,
            leader_epoch,
            epoch_start: log_end,
            log_end,
            durable,
            high_watermark,
            partition_epoch: assignment.partition_epoch,
            min_in_sync: assignment.min_in_sync,
            own: own_member(&assignment, node_id),
            followers: Vec::new(),
            is_proposing: false,
            joining: BTreeSet::new(),
            is_uncertain: false,
            retry_at: None,
        };
        leader.assign(now, assignment);
        let actions = leader.act(now);
        (leader, actions)
    }

    /// The epoch in which it leads.
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Everything below is committed.
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The state of the partition that it knows.
    pub const fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    /// How many replicas are in sync as far as is known, and without how many nothing is committed.
    pub fn in_sync(&self) -> (usize, usize) {
        let followers = self.followers.iter().filter(|follower| follower.member.is_in_sync).count();
        (followers + 1, self.min_in_sync)
    }

    /// Whether all who are in sync, or may be, have deleted what is below an offset, so that none of them serves it again as the next
    /// leader.
    pub fn is_deleted_below(&self, offset: Offset) -> bool {
        let counts =
            |follower: &&Follower| follower.member.is_in_sync || self.joining.contains(&follower.member.node_id);
        self.followers.iter().filter(counts).all(|follower| follower.has_deleted(offset))
    }

    /// Whether a follower that asks for it may be given a continuation that begins at an offset, and so give up the records
    /// that it has: not while it may be elected for having what is committed beyond that. Once it has been behind for the lag time it
    /// is in sync no more.
    pub fn may_begin_anew(&self, node_id: NodeId, at: Offset) -> bool {
        let is_in_sync = |follower: &Follower| follower.member.node_id == node_id && follower.member.is_in_sync;
        let counts = self.joining.contains(&node_id) || self.followers.iter().any(is_in_sync);
        !counts || at >= self.high_watermark.max(self.epoch_start)
    }

    /// The only entrance.
    ///
    /// # Panics
    /// When the image or the log contradicts what they said before.
    pub fn handle(&mut self, now: Monotonic, event: Event) -> Actions {
        match event {
            Event::Assigned(assignment) => self.assign(now, assignment),
            Event::Appended(log_end) => self.appended(now, log_end),
            Event::Durable(durable) => self.durable = self.durable.max(durable.min(self.log_end)),
            Event::Acknowledged { node_id, broker_epoch, leader_epoch, durable, log_start } => {
                // Another epoch's word is about another log.
                if leader_epoch == self.leader_epoch {
                    let log_end = self.log_end;
                    if let Some(follower) = self.follower(node_id) {
                        follower.acknowledge(Heard { broker_epoch, durable, log_start }, log_end, now);
                    }
                }
            }
            Event::Disconnected(node_id) => {
                if let Some(follower) = self.follower(node_id) {
                    follower.is_connected = false;
                }
            }
            Event::ProposalFailed { partition_epoch, is_void } => self.proposal_failed(now, partition_epoch, is_void),
            Event::Tick => {}
        }
        self.act(now)
    }

    /// When the machine has something to do though nothing happens.
    pub fn next_timeout(&self, now: Monotonic) -> Option<Monotonic> {
        let behind = self.followers.iter().filter(|follower| !follower.has_all(self.log_end));
        let lags = behind.filter_map(|follower| follower.caught_up_at).map(|at| at + self.settings.lag_max);
        lags.chain(self.retry_at).filter(|at| *at > now).min()
    }

    fn follower(&mut self, node_id: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.member.node_id == node_id)
    }

    fn assign(&mut self, now: Monotonic, assignment: Assignment) {
        if assignment.partition_epoch < self.partition_epoch {
            return;
        }
        if assignment.partition_epoch > self.partition_epoch {
            // Every proposal for the epoch before it has taken effect, or never will.
            self.joining.clear();
            (self.is_proposing, self.is_uncertain, self.retry_at) = (false, false, None);
        }
        self.own = own_member(&assignment, self.node_id);
        self.partition_epoch = assignment.partition_epoch;
        // KIP-966 takes the number of replicas for it where that is smaller.
        self.min_in_sync = assignment.min_in_sync.min(assignment.members.len());
        let mut known = std::mem::take(&mut self.followers);
        for member in assignment.members.into_iter().filter(|member| member.node_id != self.node_id) {
            let last = known.iter().position(|follower| follower.member.node_id == member.node_id);
            let mut follower = last.map(|last| known.swap_remove(last)).unwrap_or_else(|| Follower {
                member: Member { is_in_sync: false, ..member },
                heard: None,
                is_connected: false,
                caught_up_at: None,
                looked: (self.log_end, now),
            });
            if member.is_in_sync && !follower.member.is_in_sync {
                // It has the lag time from now on, whatever it had when it joined.
                follower.caught_up_at = Some(now);
            }
            follower.member = member;
            self.followers.push(follower);
        }
    }

    fn appended(&mut self, now: Monotonic, log_end: Offset) {
        let before = self.log_end;
        assert!(log_end >= before, "a leader's log never shrinks: {before} to {log_end}");
        self.log_end = log_end;
        for follower in self.followers.iter_mut().filter(|follower| follower.has_all(before)) {
            follower.caught_up_at = Some(now);
            follower.looked = (log_end, now);
        }
    }

    fn proposal_failed(&mut self, now: Monotonic, partition_epoch: PartitionEpoch, is_void: bool) {
        if !self.is_proposing || partition_epoch != self.partition_epoch {
            return;
        }
        self.is_proposing = false;
        self.retry_at = Some(now + self.settings.retry_pause);
        if !is_void {
            self.is_uncertain = true;
        } else if !self.is_uncertain {
            self.joining.clear();
        }
    }

    fn act(&mut self, now: Monotonic) -> Actions {
        let commit = self.committable(now).filter(|offset| *offset > self.high_watermark);
        if let Some(offset) = commit {
            self.high_watermark = offset;
        }
        Actions { commit, propose: self.propose(now) }
    }

    fn committable(&self, now: Monotonic) -> Option<Offset> {
        let in_sync = self.followers.iter().filter(|follower| follower.member.is_in_sync).count() + 1;
        if in_sync < self.min_in_sync {
            return None;
        }
        let counting = self.followers.iter().filter(|follower| {
            follower.member.is_in_sync
                || self.joining.contains(&follower.member.node_id)
                || self.is_awaited(follower, now)
        });
        let durable = counting.map(|follower| follower.durable().unwrap_or(Offset::ZERO));
        Some(durable.fold(self.durable, Offset::min))
    }

    /// A follower that is about to join: without waiting for it, a leader that is alone would always be a round trip ahead.
    fn is_awaited(&self, follower: &Follower, now: Monotonic) -> bool {
        follower.is_eligible() && !self.is_behind(follower, now)
    }

    /// It has not had all of the log for the lag time.
    fn is_behind(&self, follower: &Follower, now: Monotonic) -> bool {
        let is_recent = |at: Monotonic| now.since(at) < self.settings.lag_max;
        !follower.has_all(self.log_end) && !follower.caught_up_at.is_some_and(is_recent)
    }

    fn belongs(&self, follower: &Follower, now: Monotonic) -> bool {
        if follower.member.is_in_sync {
            return follower.member.is_available && !self.is_behind(follower, now);
        }
        let all_committed = self.high_watermark.max(self.epoch_start);
        follower.is_eligible() && follower.durable().is_some_and(|durable| durable >= all_committed)
    }

    fn propose(&mut self, now: Monotonic) -> Option<Proposal> {
        if self.is_proposing || !self.own.is_available || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let is_out_of_place = |follower: &Follower| self.belongs(follower, now) != follower.member.is_in_sync;
        // Whoever may have joined counts until the metadata says what became of it.
        if self.joining.is_empty() && !self.followers.iter().any(is_out_of_place) {
            return None;
        }
        let mut in_sync = vec![(self.own.node_id, self.own.broker_epoch)];
        let mut joining = Vec::new();
        for follower in self.followers.iter().filter(|follower| self.belongs(follower, now)) {
            in_sync.push((follower.member.node_id, follower.member.broker_epoch));
            joining.extend((!follower.member.is_in_sync).then_some(follower.member.node_id));
        }
        self.joining.extend(joining);
        self.is_proposing = true;
        self.retry_at = None;
        Some(Proposal { partition_epoch: self.partition_epoch, in_sync })
    }
}

fn own_member(assignment: &Assignment, node_id: NodeId) -> Member {
    let own = assignment.members.iter().find(|member| member.node_id == node_id && member.is_in_sync);
    *own.unwrap_or_else(|| panic!("the image has a leader that is not in sync: node {node_id} in {assignment:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: NodeId = NodeId(1);
    const EPOCH: LeaderEpoch = LeaderEpoch(5);

    fn at(ms: u64) -> Monotonic {
        Monotonic::default() + Duration::from_millis(ms)
    }

    fn assignment(partition_epoch: i32, in_sync: &[i32], min_in_sync: usize) -> Assignment {
        let member = |node_id: i32| Member {
            node_id: NodeId(node_id),
            broker_epoch: BrokerEpoch(i64::from(node_id) * 10),
            is_in_sync: in_sync.contains(&node_id),
            is_available: true,
        };
        let members = [1, 2, 3].map(member).to_vec();
        Assignment { partition_epoch: PartitionEpoch(partition_epoch), members, min_in_sync }
    }

    /// Leads a log of 100 records, 60 of them committed for certain.
    fn leader(in_sync: &[i32], min_in_sync: usize) -> LeaderReplica {
        let [log_end, durable, high_watermark] = [100, 100, 60].map(Offset);
        let start = LeaderStart { node_id: LEADER, leader_epoch: EPOCH, log_end, durable, high_watermark };
        LeaderReplica::new(at(0), LeaderSettings::default(), start, assignment(1, in_sync, min_in_sync)).0
    }

    fn acknowledged(node_id: i32, durable: i64) -> Event {
        Event::Acknowledged {
            node_id: NodeId(node_id),
            broker_epoch: BrokerEpoch(i64::from(node_id) * 10),
            leader_epoch: EPOCH,
            durable: Offset(durable),
            log_start: Offset::ZERO,
        }
    }

    fn commits(leader: &mut LeaderReplica, ms: u64, event: Event) -> Option<i64> {
        leader.handle(at(ms), event).commit.map(Offset::get)
    }

    fn proposes(leader: &mut LeaderReplica, ms: u64, event: Event) -> Option<Vec<i32>> {
        let proposal = leader.handle(at(ms), event).propose?;
        Some(proposal.in_sync.iter().map(|(node_id, _)| node_id.0).collect())
    }

    #[test]
    fn what_all_in_sync_replicas_have_on_stable_storage_is_committed() {
        let mut leader = leader(&[1, 2, 3], 2);
        assert_eq!(commits(&mut leader, 1, acknowledged(2, 90)), None, "nothing was heard of the third");
        assert_eq!(commits(&mut leader, 2, acknowledged(3, 80)), Some(80));
        assert_eq!(commits(&mut leader, 3, Event::Appended(Offset(120))), None);
        assert_eq!(commits(&mut leader, 4, acknowledged(2, 120)), None);
        assert_eq!(commits(&mut leader, 5, acknowledged(3, 120)), Some(100), "the leader's own disk counts too");
        assert_eq!(commits(&mut leader, 6, Event::Durable(Offset(120))), Some(120));
        assert_eq!(commits(&mut leader, 7, acknowledged(3, 70)), None, "it never retreats");
    }

    #[test]
    fn what_is_deleted_is_so_once_all_who_may_lead_next_have_deleted_it() {
        let mut leader = leader(&[1, 2], 1);
        let deleted = |node_id: i32, broker_epoch, log_start| Event::Acknowledged {
            node_id: NodeId(node_id),
            broker_epoch: BrokerEpoch(broker_epoch),
            leader_epoch: EPOCH,
            durable: Offset(50),
            log_start: Offset(log_start),
        };
        assert!(!leader.is_deleted_below(Offset(1)), "nothing was heard of the second");
        leader.handle(at(1), deleted(2, 20, 30));
        assert!(leader.is_deleted_below(Offset(30)) && !leader.is_deleted_below(Offset(31)));
        leader.handle(at(2), deleted(2, 20, 10));
        leader.handle(at(2), deleted(2, 19, 40));
        assert!(leader.is_deleted_below(Offset(30)) && !leader.is_deleted_below(Offset(31)), "neither was new");
        // Another process has what it found on its disk.
        let mut later = assignment(2, &[1, 2], 1);
        later.members[1].broker_epoch = BrokerEpoch(21);
        leader.handle(at(3), Event::Assigned(later));
        assert!(!leader.is_deleted_below(Offset(30)));
        leader.handle(at(4), deleted(2, 21, 30));
        assert!(leader.is_deleted_below(Offset(30)));
        // One that joins counts before it has joined for certain.
        assert_eq!(proposes(&mut leader, 5, acknowledged(3, 100)), Some(vec![1, 2, 3]));
        assert!(!leader.is_deleted_below(Offset(30)));
        leader.handle(at(6), deleted(3, 30, 30));
        assert!(leader.is_deleted_below(Offset(30)));
    }

    #[test]
    fn a_word_of_another_epoch_or_an_earlier_process_does_not_count() {
        let mut leader = leader(&[1, 2], 1);
        let stale = |broker_epoch, leader_epoch| Event::Acknowledged {
            node_id: NodeId(2),
            broker_epoch: BrokerEpoch(broker_epoch),
            leader_epoch: LeaderEpoch(leader_epoch),
            durable: Offset(100),
            log_start: Offset::ZERO,
        };
        assert_eq!(commits(&mut leader, 1, stale(20, 4)), None);
        assert_eq!(commits(&mut leader, 1, stale(19, 5)), None);
        assert_eq!(commits(&mut leader, 1, acknowledged(2, 70)), Some(70));
        let mut later = assignment(2, &[1, 2], 1);
        later.members[1].broker_epoch = BrokerEpoch(21);
        assert_eq!(commits(&mut leader, 2, Event::Assigned(later)), None);
        assert_eq!(commits(&mut leader, 3, acknowledged(2, 100)), None, "that process is gone");
        assert_eq!(commits(&mut leader, 4, stale(21, 5)), Some(100));
    }

    #[test]
    fn nothing_is_committed_below_the_least_number_of_in_sync_replicas() {
        let mut leader = leader(&[1], 2);
        assert_eq!(commits(&mut leader, 1, Event::Appended(Offset(110))), None);
        assert_eq!(commits(&mut leader, 1, Event::Durable(Offset(110))), None);
        assert_eq!(proposes(&mut leader, 2, acknowledged(2, 110)), Some(vec![1, 2]));
        assert_eq!(commits(&mut leader, 3, Event::Tick), None, "it is not sure yet that the second has joined");
        assert_eq!(commits(&mut leader, 4, Event::Assigned(assignment(2, &[1, 2], 2))), Some(110));
        assert_eq!(commits(&mut leader, 5, Event::Assigned(assignment(3, &[1], 9))), None);
        let mut two = assignment(4, &[1, 2], 9);
        two.members.truncate(2);
        leader.handle(at(6), Event::Appended(Offset(120)));
        leader.handle(at(6), Event::Durable(Offset(120)));
        leader.handle(at(6), acknowledged(2, 120));
        assert_eq!(commits(&mut leader, 7, Event::Assigned(two)), Some(120), "there are no more than two");
    }

    #[test]
    fn a_replica_joins_when_it_has_all_that_may_be_committed() {
        let mut leader = leader(&[1, 3], 1);
        assert_eq!(proposes(&mut leader, 1, acknowledged(2, 60)), None, "earlier leaders may have committed up to 100");
        assert_eq!(proposes(&mut leader, 2, acknowledged(2, 99)), None);
        assert_eq!(proposes(&mut leader, 3, acknowledged(2, 100)), Some(vec![1, 2, 3]));
        assert_eq!(proposes(&mut leader, 4, acknowledged(2, 100)), None, "one proposal at a time");
        // From now on nothing is committed without it.
        leader.handle(at(5), Event::Appended(Offset(110)));
        leader.handle(at(5), Event::Durable(Offset(110)));
        assert_eq!(commits(&mut leader, 6, acknowledged(3, 110)), Some(100));
        assert_eq!(commits(&mut leader, 7, Event::Assigned(assignment(2, &[1, 2, 3], 1))), None);
        assert_eq!(commits(&mut leader, 8, acknowledged(2, 110)), Some(110));
    }

    #[test]
    fn who_may_have_joined_counts_until_the_metadata_says_otherwise() {
        let mut leader = leader(&[1], 1);
        assert_eq!(leader.high_watermark(), Offset(100));
        assert_eq!(proposes(&mut leader, 1, acknowledged(2, 100)), Some(vec![1, 2]));
        let failed = |is_void| Event::ProposalFailed { partition_epoch: PartitionEpoch(1), is_void };
        assert_eq!(proposes(&mut leader, 2, failed(false)), None);
        leader.handle(at(3), Event::Disconnected(NodeId(2)));
        leader.handle(at(3), Event::Appended(Offset(110)));
        assert_eq!(commits(&mut leader, 3, Event::Durable(Offset(110))), None);
        assert_eq!(leader.next_timeout(at(3)), Some(at(502)));
        assert_eq!(proposes(&mut leader, 502, Event::Tick), Some(vec![1]), "the same set, to learn the other's fate");
        assert_eq!(commits(&mut leader, 503, failed(true)), None, "the first may still take effect");
        assert_eq!(proposes(&mut leader, 1003, Event::Tick), Some(vec![1]));
        assert_eq!(commits(&mut leader, 1004, Event::Assigned(assignment(2, &[1], 1))), Some(110));
    }

    #[test]
    fn a_proposal_that_was_refused_is_made_again_after_a_pause() {
        let mut leader = leader(&[1], 1);
        assert_eq!(proposes(&mut leader, 1, acknowledged(2, 100)), Some(vec![1, 2]));
        let failed = Event::ProposalFailed { partition_epoch: PartitionEpoch(1), is_void: true };
        assert_eq!(proposes(&mut leader, 2, failed), None);
        assert_eq!(proposes(&mut leader, 501, Event::Tick), None);
        assert_eq!(proposes(&mut leader, 502, Event::Tick), Some(vec![1, 2]));
    }

    #[test]
    fn a_replica_leaves_when_it_has_not_been_caught_up_for_the_lag_time() {
        let mut leader = leader(&[1, 2, 3], 1);
        for node_id in [2, 3] {
            leader.handle(at(1), acknowledged(node_id, 100));
        }
        assert_eq!(leader.next_timeout(at(1)), None, "nothing is appended, and nobody is behind");
        leader.handle(at(60_000), Event::Appended(Offset(110)));
        leader.handle(at(60_000), Event::Durable(Offset(110)));
        leader.handle(at(61_000), acknowledged(3, 110));
        assert_eq!(leader.next_timeout(at(61_000)), Some(at(70_000)));
        assert_eq!(proposes(&mut leader, 69_999, Event::Tick), None);
        assert_eq!(proposes(&mut leader, 70_000, Event::Tick), Some(vec![1, 3]));
        assert_eq!(commits(&mut leader, 70_001, Event::Tick), None, "until it has left, it counts");
        assert_eq!(commits(&mut leader, 70_002, Event::Assigned(assignment(2, &[1, 3], 1))), Some(110));
    }

    #[test]
    fn a_replica_that_keeps_up_is_in_sync_though_it_is_always_a_little_behind() {
        let mut leader = leader(&[1, 2], 1);
        leader.handle(at(0), acknowledged(2, 100));
        for second in 1..60 {
            let end = 100 + i64::try_from(second).unwrap() * 10;
            leader.handle(at(second * 1000), Event::Appended(Offset(end)));
            assert_eq!(proposes(&mut leader, second * 1000 + 900, acknowledged(2, end - 15)), None, "second {second}");
        }
        assert_eq!(proposes(&mut leader, 75_000, Event::Tick), Some(vec![1]));
    }

    #[test]
    fn a_leader_that_is_alone_waits_for_a_follower_that_has_caught_up() {
        let mut leader = leader(&[1], 1);
        // The leader's own disk is always faster than the follower's word.
        leader.handle(at(1), Event::Appended(Offset(110)));
        assert_eq!(commits(&mut leader, 1, Event::Durable(Offset(110))), Some(110));
        assert_eq!(proposes(&mut leader, 2, acknowledged(2, 105)), None);
        leader.handle(at(3), Event::Appended(Offset(120)));
        assert_eq!(commits(&mut leader, 3, Event::Durable(Offset(120))), None, "it had all of an earlier look");
        assert_eq!(proposes(&mut leader, 4, acknowledged(2, 115)), Some(vec![1, 2]));
    }

    #[test]
    fn a_replica_in_sync_is_not_made_to_give_up_what_is_committed() {
        let leader = leader(&[1, 2], 1);
        assert!(!leader.may_begin_anew(NodeId(2), Offset(99)));
        assert!(leader.may_begin_anew(NodeId(2), Offset(100)));
        assert!(leader.may_begin_anew(NodeId(3), Offset(10)));
    }

    #[test]
    fn a_follower_that_is_gone_is_not_waited_for() {
        let mut leader = leader(&[1], 1);
        leader.handle(at(1), Event::Appended(Offset(110)));
        leader.handle(at(1), Event::Durable(Offset(110)));
        leader.handle(at(2), acknowledged(2, 105));
        leader.handle(at(3), Event::Appended(Offset(120)));
        leader.handle(at(3), Event::Durable(Offset(120)));
        assert_eq!(commits(&mut leader, 4, Event::Disconnected(NodeId(2))), Some(120));
    }
}

//! The rules of a classic group, each as Apache Kafka 4.3.1 shows them on the wire.

use super::*;
use crate::group::request::{GroupState, JoinRefused, JoinedGroup, LeavingMember, MemberProtocol, SyncedGroup};
use crate::group::timers::Now;
use crate::group::{GroupError, GroupSettings};
use crate::types::{Monotonic, Timestamp};

const SECOND: u64 = 1_000_000_000;

/// A group with a clock, and the tokens of its askers.
struct Bench {
    group: ClassicGroup,
    now: Now,
    next_token: u64,
    replies: BTreeMap<Token, Reply>,
    /// Stores whose durability has not been reported.
    stores: Vec<(StoredGroup, Option<Assignments>)>,
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Monotonic(seconds * SECOND), wall: Timestamp(i64::try_from(seconds).unwrap() * 1000) }
}

fn id(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn join(member_id: &str, instance: Option<&str>, protocols: &[&str]) -> JoinGroup {
    JoinGroup {
        group_id: id("g"),
        member_id: id(member_id),
        group_instance_id: instance.map(id),
        client_id: id("c"),
        client_host: id("/127.0.0.1"),
        api_version: 3,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: id("consumer"),
        protocols: protocols.iter().map(|name| MemberProtocol { name: id(name), metadata: Bytes::new() }).collect(),
        reason: None,
    }
}

impl Bench {
    fn new(settings: GroupSettings) -> Self {
        let group = ClassicGroup::new(id("g"), Arc::new(settings), at(0));
        Self { group, now: at(0), next_token: 0, replies: BTreeMap::new(), stores: Vec::new() }
    }

    fn immediate() -> Self {
        Self::new(GroupSettings { initial_rebalance_delay: std::time::Duration::ZERO, ..GroupSettings::default() })
    }

    fn handle(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.group.handle(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Reply(token, reply) => {
                    assert!(self.replies.insert(token, reply).is_none(), "one reply a request")
                }
                Action::Store { group, then } => self.stores.push((group, then)),
            }
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn advance(&mut self, seconds: u64) {
        self.now = at(self.now.monotonic.0 / SECOND + seconds);
        self.handle(Event::Timeout);
    }

    fn join(&mut self, join: JoinGroup) -> Token {
        let token = self.token();
        let member_uuid = Uuid::from_u128(token.0.into());
        self.handle(Event::Join { token, join, member_uuid });
        token
    }

    fn joined(&mut self, token: Token) -> JoinedGroup {
        match self.replies.remove(&token) {
            Some(Reply::JoinGroup(Ok(joined))) => joined,
            other => panic!("not joined: {other:?}"),
        }
    }

    fn refused(&mut self, token: Token) -> JoinRefused {
        match self.replies.remove(&token) {
            Some(Reply::JoinGroup(Err(refused))) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn sync(&mut self, generation: i32, member_id: &Arc<str>, assignments: &[(&Arc<str>, &'static str)]) -> Token {
        let token = self.token();
        let assignments = assignments.iter().map(|&(member, text)| (Arc::clone(member), Bytes::from(text))).collect();
        let sync = SyncGroup {
            group_id: id("g"),
            generation,
            member_id: Arc::clone(member_id),
            group_instance_id: None,
            protocol_type: None,
            protocol: None,
            assignments,
        };
        self.handle(Event::Sync { token, sync });
        token
    }

    fn synced(&mut self, token: Token) -> Result<SyncedGroup, GroupError> {
        match self.replies.remove(&token) {
            Some(Reply::SyncGroup(result)) => result,
            other => panic!("not synced: {other:?}"),
        }
    }

    /// Reports the oldest store durable.
    fn store(&mut self) -> StoredGroup {
        let (group, then) = self.stores.remove(0);
        if let Some(assignments) = then {
            self.handle(Event::Stored(assignments));
        }
        group
    }

    fn heartbeat(&mut self, generation: i32, member_id: &Arc<str>, instance: Option<&str>) -> Result<(), GroupError> {
        let token = self.token();
        let heartbeat = Heartbeat {
            group_id: id("g"),
            generation,
            member_id: Arc::clone(member_id),
            group_instance_id: instance.map(id),
        };
        self.handle(Event::Heartbeat { token, heartbeat });
        match self.replies.remove(&token) {
            Some(Reply::Heartbeat(result)) => result,
            other => panic!("no heartbeat: {other:?}"),
        }
    }

    fn leave(&mut self, member_id: &str, instance: Option<&str>) -> Option<GroupError> {
        let token = self.token();
        let member = LeavingMember { member_id: id(member_id), group_instance_id: instance.map(id), reason: None };
        self.handle(Event::Leave { token, leave: LeaveGroup { group_id: id("g"), members: vec![member] } });
        match self.replies.remove(&token) {
            Some(Reply::LeaveGroup(Ok(results))) => results[0].error,
            other => panic!("no leave: {other:?}"),
        }
    }

    /// A stable group with one member per join; returns their ids, the leader first.
    fn stable(&mut self, joins: &[JoinGroup]) -> Vec<Arc<str>> {
        let tokens: Vec<Token> = joins.iter().map(|join| self.join(join.clone())).collect();
        self.handle(Event::Timeout);
        let joined: Vec<JoinedGroup> = tokens.into_iter().map(|token| self.joined(token)).collect();
        let leader = Arc::clone(&joined[0].leader);
        let generation = joined[0].generation;
        let mut members: Vec<Arc<str>> = joined.into_iter().map(|joined| joined.member_id).collect();
        members.sort_by_key(|member| *member != leader);
        let syncs: Vec<Token> = members.clone().iter().map(|member| self.sync(generation, member, &[])).collect();
        self.store();
        for sync in syncs {
            self.synced(sync).unwrap();
        }
        assert_eq!(self.group.state(), GroupState::Stable);
        members
    }
}

#[test]
fn a_new_member_is_told_its_id_and_joins_with_it() {
    let mut bench = Bench::immediate();
    let token = bench.join(JoinGroup { api_version: 4, ..join("", None, &["range"]) });
    let JoinRefused { error, member_id } = bench.refused(token);
    assert_eq!(error, GroupError::MemberIdRequired);
    assert_eq!(&*member_id, "c-00000000-0000-0000-0000-000000000001");
    assert_eq!(bench.heartbeat(0, &member_id, None), Err(GroupError::UnknownMemberId));
    let token = bench.join(join(&member_id, None, &["range"]));
    bench.handle(Event::Timeout);
    let joined = bench.joined(token);
    assert_eq!((joined.generation, &joined.leader), (1, &member_id));
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn an_id_that_is_never_joined_with_is_forgotten_after_the_session_timeout() {
    let mut bench = Bench::immediate();
    let token = bench.join(JoinGroup { api_version: 4, ..join("", None, &["range"]) });
    let member_id = bench.refused(token).member_id;
    assert!(!bench.group.is_idle());
    bench.advance(10);
    assert!(bench.group.is_idle() && bench.group.next_timeout().is_none());
    let token = bench.join(join(&member_id, None, &["range"]));
    assert_eq!(bench.refused(token).error, GroupError::UnknownMemberId);
}

#[test]
fn the_first_rebalance_waits_for_more_members_but_not_for_ever() {
    let mut bench = Bench::new(GroupSettings::default());
    let first = bench.join(join("", None, &["range"]));
    bench.advance(2);
    let second = bench.join(join("", None, &["range"]));
    bench.advance(1);
    assert!(bench.replies.is_empty(), "a member that joined meanwhile prolongs the wait");
    bench.advance(3);
    assert_eq!(bench.joined(first).members.len(), 2);
    assert_eq!(bench.joined(second).generation, 1);
}

#[test]
fn members_get_the_assignment_once_it_is_durable_and_not_before() {
    let mut bench = Bench::immediate();
    let (first, second) = (bench.join(join("", None, &["range"])), bench.join(join("", None, &["range"])));
    bench.handle(Event::Timeout);
    let leader = bench.joined(first);
    let follower = bench.joined(second);
    assert!(follower.members.is_empty(), "only the leader is told of the members");
    let waiting = bench.sync(1, &follower.member_id, &[]);
    let leading = bench.sync(1, &leader.member_id, &[(&leader.member_id, "a"), (&follower.member_id, "b")]);
    assert!(bench.replies.is_empty());
    assert_eq!(bench.group.state(), GroupState::CompletingRebalance);
    let stored = bench.store();
    assert_eq!(bench.synced(waiting).unwrap().assignment, "b");
    assert_eq!(bench.synced(leading).unwrap().assignment, "a");
    assert_eq!(stored.members.len(), 2);

    let again = ClassicGroup::from_stored(id("g"), Arc::new(GroupSettings::default()), at(0), stored).unwrap();
    assert_eq!((again.state(), again.generation, again.leader), (GroupState::Stable, 1, Some(leader.member_id)));
}

#[test]
fn assignments_that_come_too_late_are_not_given_out() {
    let mut bench = Bench::immediate();
    let first = bench.join(join("", None, &["range"]));
    bench.handle(Event::Timeout);
    let leader = bench.joined(first).member_id;
    let leading = bench.sync(1, &leader, &[(&leader, "a")]);
    bench.join(join("", None, &["range"]));
    assert_eq!(bench.synced(leading), Err(GroupError::RebalanceInProgress));
    bench.store();
    assert!(bench.replies.is_empty() && bench.group.state() == GroupState::PreparingRebalance);
}

#[test]
fn assignments_that_do_not_fit_the_log_are_refused() {
    let mut bench = Bench::immediate();
    let first = bench.join(join("", None, &["range"]));
    bench.handle(Event::Timeout);
    let leader = bench.joined(first).member_id;
    let leading = bench.sync(1, &leader, &[(&leader, "a")]);
    let (_, then) = bench.stores.remove(0);
    bench.handle(Event::StoreRefused(then.unwrap()));
    assert_eq!(bench.synced(leading), Err(GroupError::UnknownServerError));
    assert_eq!(bench.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn the_protocol_is_the_one_with_most_votes_that_all_support() {
    let mut bench = Bench::immediate();
    let protocols: [&[&str]; 3] = [&["sticky", "range", "robin"], &["range", "robin"], &["robin", "range"]];
    let tokens: Vec<Token> = protocols.iter().map(|names| bench.join(join("", None, names))).collect();
    bench.handle(Event::Timeout);
    assert_eq!(bench.joined(tokens[0]).protocol.as_deref(), Some("range"));
    let token = bench.join(join("", None, &["sticky"]));
    assert_eq!(bench.refused(token).error, GroupError::InconsistentGroupProtocol);
    let token = bench.join(JoinGroup { protocol_type: id("connect"), ..join("", None, &["range"]) });
    assert_eq!(bench.refused(token).error, GroupError::InconsistentGroupProtocol);
}

#[test]
fn a_silent_member_is_expelled_and_the_rest_rebalance() {
    let mut bench = Bench::immediate();
    let members = bench.stable(&[join("", None, &["range"]), join("", None, &["range"])]);
    bench.advance(9);
    assert_eq!(bench.heartbeat(1, &members[0], None), Ok(()));
    bench.advance(1);
    assert_eq!(bench.heartbeat(1, &members[0], None), Err(GroupError::RebalanceInProgress));
    assert_eq!(bench.heartbeat(1, &members[1], None), Err(GroupError::UnknownMemberId));
    let token = bench.join(join(&members[0], None, &["range"]));
    let joined = bench.joined(token);
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
    assert_eq!(bench.heartbeat(1, &members[0], None), Err(GroupError::IllegalGeneration));
}

#[test]
fn members_that_wait_for_the_rest_are_not_expelled() {
    let mut bench = Bench::immediate();
    let members = bench.stable(&[join("", None, &["range"]), join("", None, &["range"])]);
    let waiting = bench.join(join(&members[0], None, &["range"]));
    for _ in 0..5 {
        bench.advance(9);
        assert_eq!(bench.heartbeat(1, &members[1], None), Err(GroupError::RebalanceInProgress));
    }
    bench.advance(15);
    // The one that only ever heartbeats loses its place when the rebalance timeout ends the wait.
    assert_eq!(bench.joined(waiting).members.len(), 1);
}

#[test]
fn a_member_that_never_syncs_is_expelled_after_the_rebalance_timeout() {
    let mut bench = Bench::immediate();
    let (first, second) = (bench.join(join("", None, &["range"])), bench.join(join("", None, &["range"])));
    bench.handle(Event::Timeout);
    let (leader, silent) = (bench.joined(first).member_id, bench.joined(second).member_id);
    let token = bench.sync(1, &leader, &[]);
    bench.store();
    bench.synced(token).unwrap();
    for _ in 0..12 {
        bench.advance(5);
        let alive = [bench.heartbeat(1, &leader, None), bench.heartbeat(1, &silent, None)];
        assert_eq!(alive[0].is_ok(), alive[1].is_ok());
    }
    assert_eq!(bench.heartbeat(1, &silent, None), Err(GroupError::UnknownMemberId));
    assert_eq!(bench.heartbeat(1, &leader, None), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_group_whose_members_leave_is_empty_in_a_stored_generation() {
    let mut bench = Bench::immediate();
    let members = bench.stable(&[join("", None, &["range"])]);
    assert_eq!(bench.leave("nobody", None), Some(GroupError::UnknownMemberId));
    assert_eq!(bench.leave(&members[0], None), None);
    assert_eq!((bench.group.state(), bench.group.is_idle()), (GroupState::Empty, true));
    let stored = bench.store();
    assert_eq!((stored.generation, stored.members.len(), &*stored.protocol_type), (2, 0, "consumer"));
    assert_eq!(stored.state_timestamp, Some(bench.now.wall));
    assert_eq!(bench.group.next_timeout(), None);
}

#[test]
fn a_returning_static_member_takes_its_place_without_a_rebalance() {
    let mut bench = Bench::immediate();
    let old = bench.stable(&[join("", Some("one"), &["range"])]).remove(0);
    let token = bench.join(JoinGroup { api_version: 9, ..join("", Some("one"), &["range"]) });
    let joined = bench.joined(token);
    assert!(joined.skip_assignment && joined.members.len() == 1 && joined.leader == joined.member_id);
    assert_eq!(bench.store().members[0].member_id, joined.member_id);
    assert_eq!(bench.heartbeat(1, &old, Some("one")), Err(GroupError::FencedInstanceId));
    assert_eq!(bench.heartbeat(1, &old, None), Err(GroupError::UnknownMemberId));
    assert_eq!(bench.heartbeat(1, &joined.member_id, Some("one")), Ok(()));

    // An older client is told of its former self as the leader, so that it does not assign.
    let token = bench.join(join("", Some("one"), &["range"]));
    let again = bench.joined(token);
    assert_eq!((again.leader, again.members.len()), (joined.member_id, 0));
    assert_eq!(bench.leave("", Some("two")), Some(GroupError::UnknownMemberId));
    assert_eq!(bench.leave("", Some("one")), None);
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_in_a_rebalance() {
    let mut bench = Bench::immediate();
    let joins = [
        JoinGroup { session_timeout_ms: 300_000, ..join("", Some("one"), &["range"]) },
        JoinGroup { session_timeout_ms: 300_000, ..join("", None, &["range"]) },
    ];
    let members = bench.stable(&joins);
    let dynamic = members.iter().find(|member| member.starts_with("c-")).unwrap();
    bench.join(JoinGroup { session_timeout_ms: 300_000, ..join("", None, &["range"]) });
    let token = bench.join(joins[1].clone());
    bench.advance(60);
    let joined = bench.joined(token);
    assert_eq!(bench.group.members.len(), 3, "two that joined and the static one");
    assert_ne!(&*joined.leader, "one", "a leader has joined");
    assert_eq!(bench.heartbeat(2, dynamic, None), Err(GroupError::UnknownMemberId));
}

#[test]
fn silent_static_members_that_wait_for_nobody_cost_one_timer_a_second() {
    let mut bench = Bench::immediate();
    bench.stable(&[join("", Some("one"), &["range"]), join("", Some("two"), &["range"])]);
    bench.join(JoinGroup { rebalance_timeout_ms: 0, ..join("", Some("one"), &["range"]) });
    assert_eq!(bench.leave("", Some("two")), None);
    bench.advance(1);
    let due = bench.group.next_timeout().unwrap();
    assert!(due > bench.now.monotonic, "it would be looked at again at once");
}

#[test]
fn a_negative_rebalance_timeout_waits_for_nobody_where_there_is_one() {
    for (api_version, is_over) in [(1, true), (0, false)] {
        let mut bench = Bench::immediate();
        let of = |rebalance_timeout_ms| JoinGroup { api_version, rebalance_timeout_ms, ..join("", None, &["range"]) };
        bench.stable(&[JoinGroup { api_version: 1, ..of(1_000) }]);
        let token = bench.join(of(-1));
        bench.advance(1);
        assert_eq!(bench.replies.contains_key(&token), is_over, "version {api_version}");
    }
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut bench = Bench::new(GroupSettings {
        max_size: 1,
        initial_rebalance_delay: std::time::Duration::ZERO,
        ..GroupSettings::default()
    });
    let members = bench.stable(&[join("", None, &["range"])]);
    let token = bench.join(join("", None, &["range"]));
    assert_eq!(bench.refused(token).error, GroupError::GroupMaxSizeReached);
    let token = bench.join(join(&members[0], None, &["range"]));
    assert_eq!(bench.joined(token).generation, 2);
}

#[test]
fn a_retried_join_or_sync_frees_the_earlier_one() {
    let mut bench = Bench::immediate();
    let members = bench.stable(&[join("", None, &["range"]), join("", None, &["range"])]);
    let earlier = bench.join(join(&members[0], None, &["range"]));
    bench.join(join(&members[0], None, &["range"]));
    assert_eq!(bench.refused(earlier).error, GroupError::RebalanceInProgress);
}

#[test]
fn a_follower_that_joins_again_with_nothing_new_does_not_disturb() {
    let mut bench = Bench::immediate();
    let members = bench.stable(&[join("", None, &["range"]), join("", None, &["range"])]);
    let token = bench.join(join(&members[1], None, &["range"]));
    assert_eq!(bench.joined(token).generation, 1);
    bench.join(join(&members[1], None, &["range", "robin"]));
    assert_eq!(bench.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn whoever_waits_is_told_when_the_group_is_given_up() {
    let mut bench = Bench::immediate();
    let waiting = bench.join(join("", None, &["range"]));
    let mut actions = Vec::new();
    bench.group.abandon(GroupError::NotCoordinator, &mut actions);
    assert!(matches!(actions[..], [Action::Reply(token, Reply::JoinGroup(Err(_)))] if token == waiting));
}

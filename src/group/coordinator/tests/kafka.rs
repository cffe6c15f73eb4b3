//! A table of odd requests and what Apache Kafka 4.3.1 answered each of them with on the wire, in this order, on one broker.
//!
//! The steps were run with `group.initial.rebalance.delay.ms=0`, JoinGroup 5 (3 where said), SyncGroup 3, Heartbeat 3,
//! LeaveGroup 3, OffsetCommit 7, OffsetFetch 5, OffsetDelete 0 and DeleteGroups 1. Numbers are Kafka's error codes.

use super::*;
use crate::group::request::{Heartbeat, LeaveGroup, LeavingMember};

const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff";

/// Asks like the client of the table; every answer is a code.
impl Bench {
    fn join_code(&mut self, join: JoinGroup) -> (i16, Arc<str>) {
        self.next_token += 1;
        let (token, member_uuid) = (Token(self.next_token), uuid::Uuid::from_u128(self.next_token.into()));
        self.handle(Event::Request { token, request: Request::JoinGroup { join, member_uuid } });
        self.handle(Event::Timeout);
        match self.answer(token) {
            Reply::JoinGroup(Ok(joined)) => (0, joined.member_id),
            Reply::JoinGroup(Err(refused)) => (refused.error.code(), refused.member_id),
            other => panic!("not a join: {other:?}"),
        }
    }

    fn code(&mut self, request: Request) -> i16 {
        let token = self.ask(request);
        let refused = |error: Option<GroupError>| error.map_or(0, GroupError::code);
        match self.answer(token) {
            Reply::SyncGroup(result) => refused(result.err()),
            Reply::Heartbeat(result) | Reply::DeleteGroup(result) => refused(result.err()),
            Reply::OffsetCommit(result) | Reply::OffsetDelete(result) => {
                refused(result.map_or_else(Some, |topics| topics[0].partitions[0].1))
            }
            Reply::LeaveGroup(result) => refused(result.map_or_else(Some, |members| members[0].error)),
            other => panic!("no code in {other:?}"),
        }
    }
}

fn odd_join(group: &str, member: &str) -> JoinGroup {
    let Request::JoinGroup { join, .. } = join(group, member, SUBSCRIPTION) else { unreachable!() };
    JoinGroup { api_version: 5, ..join }
}

fn odd_sync(generation: i32, member: &str, instance: Option<&str>, group: &str) -> Request {
    Request::SyncGroup(SyncGroup {
        group_id: id(group),
        generation,
        member_id: id(member),
        group_instance_id: instance.map(id),
        protocol_type: None,
        protocol: None,
        assignments: vec![(id(member), Bytes::from_static(b"assigned"))],
    })
}

fn beat(group: &str, generation: i32, member: &str, instance: Option<&str>) -> Request {
    let group_instance_id = instance.map(id);
    Request::Heartbeat(Heartbeat { group_id: id(group), generation, member_id: id(member), group_instance_id })
}

fn commit(group: &str, generation: i32, member: &str, instance: Option<&str>) -> Request {
    let commit = OffsetCommit { generation, member_id: id(member), api_version: 7, ..simple(group, 0, 1) };
    Request::OffsetCommit(OffsetCommit { group_instance_id: instance.map(id), ..commit })
}

fn leave(group: &str, member: &str, instance: Option<&str>) -> Request {
    let member = LeavingMember { member_id: id(member), group_instance_id: instance.map(id), reason: None };
    Request::LeaveGroup(LeaveGroup { group_id: id(group), members: vec![member] })
}

fn delete_offsets(group: &str) -> Request {
    Request::OffsetDelete(OffsetDelete { group_id: id(group), topics: vec![(id("t"), vec![0])] })
}

fn delete(group: &str) -> Request {
    Request::DeleteGroup { group_id: id(group) }
}

#[test]
fn dynamic_members_are_answered_as_by_apache_kafka() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.join_code(odd_join("", "")), (24, id("")));
    assert_eq!(bench.join_code(JoinGroup { session_timeout_ms: 10, ..odd_join("odd", "") }), (26, id("")));
    assert_eq!(bench.join_code(JoinGroup { session_timeout_ms: 100_000_000, ..odd_join("odd", "") }), (26, id("")));
    assert_eq!(bench.join_code(odd_join("odd", "x")), (25, id("x")));
    assert_eq!(bench.join_code(JoinGroup { protocol_type: id(""), ..odd_join("odd", "") }), (23, id("")));
    assert_eq!(bench.join_code(JoinGroup { protocols: Vec::new(), ..odd_join("odd", "") }), (23, id("")));

    let (code, m) = bench.join_code(odd_join("odd", ""));
    assert_eq!(
        (code, bench.describe("odd").state, bench.describe("nope").state),
        (79, GroupState::Empty, GroupState::Dead)
    );
    assert_eq!(bench.code(beat("odd", 0, &m, None)), 25);
    assert_eq!(bench.code(odd_sync(0, &m, None, "odd")), 25);
    assert_eq!(bench.code(commit("odd", -1, "", None)), 0);
    assert_eq!((bench.code(leave("odd", "zz", None)), bench.code(leave("odd", "", Some("inst")))), (25, 25));
    assert_eq!(bench.code(leave("nogroup", "zz", None)), 25);

    assert_eq!(bench.join_code(odd_join("odd", &m)), (0, Arc::clone(&m)));
    let table = [
        (beat("odd", 1, &m, None), 0),
        (beat("odd", 2, &m, None), 22),
        (beat("odd", 1, "q", None), 25),
        (beat("odd", 1, &m, Some("inst")), 25),
        (beat("nogroup", 1, "q", None), 25),
        (commit("odd", 1, &m, None), 27),
        (commit("odd", -1, "", None), 25),
        (delete_offsets("odd"), 86),
        (odd_sync(2, &m, None, "odd"), 22),
        (odd_sync(1, "q", None, "odd"), 25),
        (odd_sync(1, "q", None, "nogroup"), 25),
        (odd_sync(1, &m, None, "odd"), 0),
        (odd_sync(1, &m, None, "odd"), 0),
        (commit("odd", 1, &m, None), 0),
        (commit("odd", 0, &m, None), 22),
        (commit("odd", 2, &m, None), 22),
        (commit("odd", 1, "q", None), 25),
        (commit("odd", -1, &m, None), 22),
        (commit("odd", -1, "", None), 25),
        (commit("nogroup", 3, "q", None), 22),
        (commit("odd", 1, &m, Some("i")), 25),
        (commit("", -1, "", None), 0),
        (delete_offsets("odd"), 86),
        (delete_offsets("nogroup"), 69),
        (delete_offsets(""), 24),
        (delete("odd"), 68),
        (delete("nogroup"), 69),
        (delete(""), 0),
    ];
    for (step, (request, code)) in table.into_iter().enumerate() {
        assert_eq!(bench.code(request), code, "step {step}");
    }
    assert_eq!(bench.describe("odd").members[0].assignment, "assigned");
    let other = MemberProtocol { name: id("other"), metadata: Bytes::new() };
    assert_eq!(bench.join_code(JoinGroup { protocols: vec![other], ..odd_join("odd", "") }).0, 23);
    assert_eq!(bench.join_code(JoinGroup { protocol_type: id("connect"), ..odd_join("odd", "") }).0, 23);
    assert_eq!(bench.join_code(odd_join("odd", &m)).0, 0);
    let table = [
        (beat("odd", 1, &m, None), 22),
        (leave("odd", &m, None), 0),
        (beat("odd", 2, &m, None), 25),
        (odd_sync(2, &m, None, "odd"), 25),
        (commit("odd", -1, "", None), 0),
        (commit("odd", 1, &m, None), 25),
        (commit("odd", -1, &m, None), 0),
        (delete_offsets("odd"), 0),
    ];
    for (step, (request, code)) in table.into_iter().enumerate() {
        assert_eq!(bench.code(request), code, "step {step}");
    }
    assert_eq!(bench.join_code(odd_join("odd", &m)).0, 25);
}

#[test]
fn groups_without_members_are_answered_as_by_apache_kafka() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.code(commit("simple", -1, "", None)), 0);
    assert_eq!((bench.describe("simple").state, &*bench.describe("simple").protocol_type), (GroupState::Empty, ""));
    assert_eq!(bench.code(delete_offsets("simple")), 0);
    assert_eq!(bench.list(ListGroups::default()).len(), 1, "it stays, without offsets");
    assert_eq!((bench.code(delete("simple")), bench.list(ListGroups::default()).len()), (0, 0));
    let connect = JoinGroup { api_version: 3, protocol_type: id("connect"), ..odd_join("conn", "") };
    assert_eq!(bench.join_code(connect).0, 0);
    assert_eq!(bench.code(delete_offsets("conn")), 68);
}

#[test]
fn static_members_are_answered_as_by_apache_kafka() {
    let mut bench = Bench::new(settings());
    let join = JoinGroup { group_instance_id: Some(id("one")), ..odd_join("stat", "") };
    let (code, old) = bench.join_code(join.clone());
    assert_eq!((code, bench.code(odd_sync(1, &old, Some("one"), "stat"))), (0, 0));
    let (code, new) = bench.join_code(join.clone());
    assert_eq!(code, 0);
    let table = [
        (beat("stat", 1, &old, Some("one")), 82),
        (beat("stat", 1, &old, None), 25),
        (commit("stat", 1, &old, Some("one")), 82),
        (beat("stat", 1, &new, Some("one")), 0),
        (odd_sync(1, &new, Some("one"), "stat"), 0),
        (odd_sync(1, &old, Some("one"), "stat"), 82),
        (leave("stat", &old, Some("one")), 82),
        (leave("stat", "", Some("two")), 25),
        (leave("stat", "", Some("one")), 0),
    ];
    assert_eq!(bench.join_code(JoinGroup { member_id: Arc::clone(&old), ..join }), (82, old.clone()));
    for (step, (request, code)) in table.into_iter().enumerate() {
        assert_eq!(bench.code(request), code, "step {step}");
    }
    assert_eq!(bench.describe("stat").state, GroupState::Empty);
}

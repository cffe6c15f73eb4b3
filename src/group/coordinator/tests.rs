//! The coordinator against a log in memory: order, durability, visibility, limits. Long because one bench drives all of it.

use std::time::Duration;

use super::*;
use crate::group::request::{
    CommitPartition, CommitTopic, DeletedTopics, DescribedGroup, FetchedPartition, GroupState, JoinGroup, JoinedGroup,
    ListGroups, ListedGroup, MemberProtocol, OffsetCommit, OffsetDelete, OffsetFetch, SyncGroup,
};
use crate::types::{LeaderEpoch, Timestamp, TopicId};

mod kafka;
mod rewriting;
mod simulation;

const SECOND: u64 = 1_000_000_000;

/// A log in memory: batches with their base offsets.
#[derive(Clone, Debug, Default)]
struct Log {
    start: Offset,
    next: Offset,
    batches: Vec<(Offset, Vec<LogRecord>)>,
}

fn bytes_of(records: &[LogRecord]) -> u64 {
    records.iter().map(|record| record.bytes() as u64).sum()
}

impl Log {
    fn append(&mut self, records: Vec<LogRecord>) -> Offset {
        let base = self.next;
        self.next = base + i64::try_from(records.len()).unwrap();
        self.batches.push((base, records));
        base
    }

    fn advance(&mut self, start: Offset) {
        self.start = start;
        self.batches.retain(|(base, records)| *base + i64::try_from(records.len()).unwrap() > start);
    }

    fn bytes(&self) -> u64 {
        self.batches.iter().map(|(_, records)| bytes_of(records)).sum()
    }

    /// What a replay of this log yields.
    fn state(&self) -> LoggedState {
        let mut state = LoggedState::default();
        for record in self.batches.iter().flat_map(|(_, records)| records) {
            state.apply(record).unwrap();
        }
        state
    }
}

/// A coordinator, its log, and the appends that have not been reported.
struct Bench {
    coordinator: Coordinator,
    log: Log,
    now: Now,
    next_token: u64,
    replies: BTreeMap<Token, Reply>,
    appending: Option<Vec<LogRecord>>,
    /// Report every append as soon as it is asked for.
    prompt: bool,
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Monotonic(seconds * SECOND), wall: Timestamp(i64::try_from(seconds).unwrap() * 1000) }
}

fn id(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn topics_deleted(topics: &[(&str, TopicId)]) -> Request {
    let mut deleted = DeletedTopics::new();
    for (name, topic_id) in topics {
        deleted.entry(id(name)).or_default().insert(*topic_id);
    }
    Request::TopicsDeleted { topics: Arc::new(deleted) }
}

fn unavailable() -> OffsetsLogError {
    OffsetsLogError::Unavailable { reason: "away".to_owned() }
}

fn settings() -> GroupSettings {
    GroupSettings { initial_rebalance_delay: Duration::ZERO, ..GroupSettings::default() }
}

impl Bench {
    fn new(settings: GroupSettings) -> Self {
        Self::on(Log::default(), settings, at(1))
    }

    /// A coordinator that has loaded the log.
    fn on(log: Log, settings: GroupSettings, now: Now) -> Self {
        let coordinator = Coordinator::new(Arc::new(settings), now);
        let replies = BTreeMap::new();
        let mut bench = Self { coordinator, log, now, next_token: 0, replies, appending: None, prompt: true };
        bench.handle(Event::Timeout);
        bench
    }

    fn handle(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.coordinator.handle(self.now, event) {
                match action {
                    Action::Reply(token, reply) => assert!(self.replies.insert(token, reply).is_none(), "one reply"),
                    Action::Append(records) if self.prompt => events.push_back(self.append(records)),
                    Action::Append(records) => assert!(self.appending.replace(records).is_none(), "one append"),
                    Action::Load => {
                        let batches = self.log.batches.clone();
                        events.extend(batches.into_iter().map(|(_, records)| {
                            let bytes = bytes_of(&records);
                            Event::Replay { records, bytes }
                        }));
                        events.push_back(Event::Loaded { next_offset: self.log.next });
                    }
                    Action::AdvanceLogStart(offset) => {
                        self.log.advance(offset);
                        events.push_back(Event::LogStartAdvanced { offset });
                    }
                }
            }
        }
    }

    fn append(&mut self, records: Vec<LogRecord>) -> Event {
        let bytes = bytes_of(&records);
        Event::Appended { base_offset: self.log.append(records), bytes }
    }

    /// Makes the append under way durable.
    fn finish_append(&mut self) {
        let records = self.appending.take().expect("an append is under way");
        let event = self.append(records);
        self.handle(event);
    }

    fn advance(&mut self, seconds: u64) {
        self.now = at(self.now.monotonic.0 / SECOND + seconds);
        self.handle(Event::Timeout);
    }

    fn ask(&mut self, request: Request) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.handle(Event::Request { token, request });
        token
    }

    fn answer(&mut self, token: Token) -> Reply {
        self.replies.remove(&token).expect("answered")
    }

    fn commit(&mut self, commit: OffsetCommit) -> Token {
        self.ask(Request::OffsetCommit(commit))
    }

    fn committed(&mut self, token: Token) -> Result<Option<GroupError>, GroupError> {
        match self.answer(token) {
            Reply::OffsetCommit(result) => result.map(|topics| topics[0].partitions[0].1),
            other => panic!("not a commit: {other:?}"),
        }
    }

    fn fetch(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        let topics = vec![crate::group::request::FetchTopic {
            topic: id(topic),
            topic_id: TopicId::ZERO,
            partitions: vec![partition],
        }];
        let token = self.ask(Request::OffsetFetch(OffsetFetch { group_id: id(group), topics: Some(topics) }));
        match self.answer(token) {
            Reply::OffsetFetch(Ok(topics)) => topics[0].partitions[0].offset,
            other => panic!("not fetched: {other:?}"),
        }
    }

    fn list(&mut self, list: ListGroups) -> Vec<ListedGroup> {
        let token = self.ask(Request::ListGroups(list));
        match self.answer(token) {
            Reply::ListGroups(Ok(groups)) => groups,
            other => panic!("not listed: {other:?}"),
        }
    }

    fn describe(&mut self, group: &str) -> DescribedGroup {
        let token = self.ask(Request::DescribeGroup { group_id: id(group) });
        match self.answer(token) {
            Reply::DescribeGroup(Ok(described)) => described,
            other => panic!("not described: {other:?}"),
        }
    }

    /// Joins a member without waiting for anything, and syncs if it leads; returns what it was told.
    fn join_alone(&mut self, group: &str, metadata: &'static [u8]) -> JoinedGroup {
        let token = self.ask(join(group, "", metadata));
        self.handle(Event::Timeout);
        let joined = match self.answer(token) {
            Reply::JoinGroup(Ok(joined)) => joined,
            other => panic!("not joined: {other:?}"),
        };
        let token = self.ask(sync(group, &joined));
        if self.prompt {
            assert!(matches!(self.answer(token), Reply::SyncGroup(Ok(_))));
        }
        joined
    }
}

fn join(group: &str, member: &str, metadata: &'static [u8]) -> Request {
    let join = JoinGroup {
        group_id: id(group),
        member_id: id(member),
        group_instance_id: None,
        client_id: id("c"),
        client_host: id("/127.0.0.1"),
        api_version: 3,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: id("consumer"),
        protocols: vec![MemberProtocol { name: id("range"), metadata: Bytes::from_static(metadata) }],
        reason: None,
    };
    Request::JoinGroup { join, member_uuid: uuid::Uuid::nil() }
}

fn sync(group: &str, joined: &JoinedGroup) -> Request {
    Request::SyncGroup(SyncGroup {
        group_id: id(group),
        generation: joined.generation,
        member_id: Arc::clone(&joined.member_id),
        group_instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(Arc::clone(&joined.member_id), Bytes::from_static(b"all"))],
    })
}

/// A commit to topic `t` by a consumer that is no member.
fn simple(group: &str, partition: i32, offset: i64) -> OffsetCommit {
    let partition = CommitPartition { partition, offset, leader_epoch: LeaderEpoch::NONE, metadata: Arc::from("meta") };
    OffsetCommit {
        group_id: id(group),
        generation: -1,
        member_id: id(""),
        group_instance_id: None,
        api_version: 8,
        retention_ms: None,
        topics: vec![CommitTopic { topic: id("t"), topic_id: TopicId::ZERO, partitions: vec![partition] }],
    }
}

fn by_member(group: &str, joined: &JoinedGroup, offset: i64) -> OffsetCommit {
    let member_id = Arc::clone(&joined.member_id);
    OffsetCommit { generation: joined.generation, member_id, ..simple(group, 0, offset) }
}

#[test]
fn a_commit_is_answered_and_visible_only_once_it_is_durable() {
    let mut bench = Bench::new(settings());
    bench.prompt = false;
    let commit = bench.commit(simple("g", 0, 5));
    let later = bench.commit(simple("g", 0, 6));
    let topics = None;
    let fetch = bench.ask(Request::OffsetFetch(OffsetFetch { group_id: id("g"), topics }));
    assert!(bench.replies.is_empty());
    assert!(bench.list(ListGroups::default()).is_empty(), "what is not durable does not show");
    bench.finish_append();
    assert_eq!(bench.committed(commit), Ok(None));
    assert!(!bench.replies.contains_key(&later));
    bench.finish_append();
    assert_eq!(bench.committed(later), Ok(None));
    let Reply::OffsetFetch(Ok(topics)) = bench.answer(fetch) else { panic!("fetched") };
    let expected =
        FetchedPartition { partition: 0, offset: 6, leader_epoch: LeaderEpoch::NONE, metadata: Arc::from("meta") };
    assert_eq!(topics[0].partitions, [expected], "a fetch sees the commits before it");
}

#[test]
fn commits_that_come_during_an_append_share_the_next_one() {
    let mut bench = Bench::new(settings());
    bench.prompt = false;
    let tokens: Vec<Token> = (0..100).map(|partition| bench.commit(simple("g", partition, 1))).collect();
    bench.finish_append();
    bench.finish_append();
    assert!(bench.appending.is_none());
    assert_eq!(bench.log.batches[1].1.len(), 99);
    assert!(tokens.into_iter().all(|token| bench.committed(token) == Ok(None)));
}

#[test]
fn a_failed_append_refuses_all_that_waits_and_the_log_is_read_again() {
    let mut bench = Bench::new(settings());
    bench.commit(simple("g", 0, 5));
    bench.prompt = false;
    let in_flight = bench.commit(simple("g", 0, 6));
    let queued = bench.commit(simple("g", 0, 7));
    let waiting = bench.ask(join("other", "", b""));
    let fetching = bench.ask(Request::OffsetFetch(OffsetFetch { group_id: id("g"), topics: None }));
    // The append reached the log, and nobody was told.
    let records = bench.appending.take().unwrap();
    bench.log.append(records);
    bench.handle(Event::AppendFailed { error: unavailable() });
    assert_eq!(bench.committed(in_flight), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(bench.committed(queued), Err(GroupError::CoordinatorNotAvailable));
    // Consumers before 3.9 end on the other one.
    assert_eq!(bench.answer(fetching), Reply::OffsetFetch(Err(GroupError::NotCoordinator)));
    assert!(
        matches!(bench.answer(waiting), Reply::JoinGroup(Err(refused)) if refused.error == GroupError::CoordinatorNotAvailable)
    );
    let early = bench.commit(simple("g", 0, 8));
    assert_eq!(bench.committed(early), Err(GroupError::CoordinatorLoadInProgress));
    let heartbeat = crate::group::request::Heartbeat {
        group_id: id("g"),
        generation: 1,
        member_id: id("m"),
        group_instance_id: None,
    };
    let token = bench.ask(Request::Heartbeat(heartbeat));
    assert_eq!(bench.answer(token), Reply::Heartbeat(Ok(())), "members stay calm while the coordinator loads");
    bench.advance(1);
    bench.prompt = true;
    assert_eq!(bench.fetch("g", "t", 0), 6);
}

#[test]
fn a_coordinator_whose_log_another_leads_ends_and_does_not_read_it_again() {
    let mut bench = Bench::new(settings());
    bench.commit(simple("g", 0, 5));
    bench.prompt = false;
    let in_flight = bench.commit(simple("g", 0, 6));
    bench.handle(Event::AppendFailed { error: OffsetsLogError::NotLeader });
    assert_eq!(bench.committed(in_flight), Err(GroupError::NotCoordinator));
    let late = bench.commit(simple("g", 0, 7));
    assert_eq!(bench.committed(late), Err(GroupError::NotCoordinator));
    assert_eq!(bench.coordinator.next_timeout(), None);

    let mut loading = Coordinator::new(Arc::new(settings()), at(1));
    assert_eq!(loading.handle(at(1), Event::Timeout), [Action::Load]);
    loading.handle(at(1), Event::LoadFailed { error: OffsetsLogError::NotLeader });
    assert_eq!((loading.next_timeout(), loading.failure()), (None, None), "nothing is wrong with it");
}

#[test]
fn what_no_coordinator_takes_is_refused_by_whoever_is_asked() {
    let mut bench = Bench::new(settings());
    bench.handle(Event::Resign);
    for (group, session_timeout_ms, error, member) in [
        ("", 10_000, GroupError::InvalidGroupId, "m"),
        ("g", 1, GroupError::InvalidSessionTimeout, "m"),
        ("g", 10_000, GroupError::NotCoordinator, ""),
    ] {
        let Request::JoinGroup { join, member_uuid } = join(group, "m", b"") else { unreachable!() };
        let join = JoinGroup { session_timeout_ms, ..join };
        let token = bench.ask(Request::JoinGroup { join, member_uuid });
        let refused = JoinRefused { error, member_id: id(member) };
        assert_eq!(bench.answer(token), Reply::JoinGroup(Err(refused)), "{error}");
    }
}

#[test]
fn who_resigns_refuses_everything() {
    let mut bench = Bench::new(settings());
    bench.prompt = false;
    let waiting = bench.commit(simple("g", 0, 5));
    bench.handle(Event::Resign);
    assert_eq!(bench.committed(waiting), Err(GroupError::NotCoordinator));
    bench.appending = None;
    bench.handle(Event::Appended { base_offset: Offset(0), bytes: 1 });
    let later = bench.commit(simple("g", 0, 5));
    assert_eq!(bench.committed(later), Err(GroupError::NotCoordinator));
    assert_eq!(bench.coordinator.next_timeout(), None);
}

#[test]
fn a_log_that_cannot_be_read_is_not_coordinated() {
    let mut log = Log::default();
    log.append(vec![LogRecord { key: Bytes::from_static(&[0, 9]), value: None }]);
    let mut bench = Bench::on(log, settings(), at(1));
    let token = bench.commit(simple("g", 0, 5));
    assert_eq!(bench.committed(token), Err(GroupError::NotCoordinator));
    let failure = bench.coordinator.failure().unwrap();
    assert!(failure.error.contains("offset -1"), "{failure:?}");
}

#[test]
fn groups_and_offsets_survive_a_restart() {
    let mut bench = Bench::new(settings());
    let joined = bench.join_alone("g", b"");
    let token = bench.commit(by_member("g", &joined, 42));
    assert_eq!(bench.committed(token), Ok(None));
    let mut again = Bench::on(bench.log.clone(), settings(), at(100));
    assert_eq!(again.coordinator.logged, bench.coordinator.logged);
    assert_eq!(again.describe("g"), bench.describe("g"));
    assert_eq!(again.describe("g").state, GroupState::Stable);
    let token = again.commit(by_member("g", &joined, 43));
    assert_eq!(again.committed(token), Ok(None), "the member goes on as if nothing had happened");
    again.advance(10);
    assert_eq!(again.describe("g").state, GroupState::Empty, "had it died, its session would have ended");
    assert_eq!(again.fetch("g", "t", 0), 43);
}

#[test]
fn commits_of_a_stale_generation_are_refused() {
    let mut bench = Bench::new(settings());
    let first = bench.join_alone("g", b"");
    let token = bench.ask(join("g", &first.member_id, b"more"));
    let Reply::JoinGroup(Ok(second)) = bench.answer(token) else { panic!("joined") };
    let token = bench.commit(by_member("g", &second, 1));
    assert_eq!(bench.committed(token), Err(GroupError::RebalanceInProgress));
    bench.ask(sync("g", &second));
    let stale = bench.commit(by_member("g", &first, 1));
    assert_eq!(bench.committed(stale), Err(GroupError::IllegalGeneration));
    let foreign = bench.commit(simple("g", 0, 1));
    assert_eq!(bench.committed(foreign), Err(GroupError::UnknownMemberId));
    let unknown = OffsetCommit { generation: 3, ..simple("nobody", 0, 1) };
    let token = bench.commit(unknown.clone());
    assert_eq!(bench.committed(token), Err(GroupError::IllegalGeneration));
    let token = bench.commit(OffsetCommit { api_version: 9, ..unknown });
    assert_eq!(bench.committed(token), Err(GroupError::GroupIdNotFound));
    assert_eq!(bench.fetch("g", "t", 0), -1);
}

#[test]
fn a_log_of_which_something_is_gone_is_not_read_again_and_one_that_only_fails_is() {
    let mut coordinator = Coordinator::new(Arc::new(settings()), at(1));
    assert_eq!(coordinator.handle(at(1), Event::Timeout), [Action::Load]);
    assert!(coordinator.handle(at(1), Event::LoadFailed { error: unavailable() }).is_empty());
    assert_eq!(coordinator.failure().map(|failure| failure.is_final), Some(false));
    assert_eq!(coordinator.handle(at(2), Event::Timeout), [Action::Load]);
    let error = OffsetsLogError::Damaged { reason: "a hole".to_owned() };
    assert!(coordinator.handle(at(2), Event::LoadFailed { error }).is_empty());
    assert!(coordinator.failure().is_some_and(|failure| failure.is_final && failure.error.contains("a hole")));
    assert_eq!((coordinator.stats().failed, coordinator.next_timeout()), (1, None));
    let (token, request) = (Token(1), Request::DescribeGroup { group_id: id("g") });
    let refused = Reply::DescribeGroup(Err(GroupError::NotCoordinator));
    assert_eq!(coordinator.handle(at(3), Event::Request { token, request }), [Action::Reply(token, refused)]);
    coordinator.handle(at(3), Event::Resign);
    assert_eq!(coordinator.stats().failed, 0);
}

#[test]
fn offsets_of_a_topic_that_was_deleted_and_made_again_are_not_found() {
    let mut bench = Bench::new(settings());
    let old = TopicId::from_bytes([1; 16]);
    let mut commit = simple("g", 0, 5);
    commit.topics[0].topic_id = old;
    bench.commit(commit);
    let fetch = |topic_id| OffsetFetch {
        group_id: id("g"),
        topics: Some(vec![crate::group::request::FetchTopic { topic: id("t"), topic_id, partitions: vec![0] }]),
    };
    for (topic_id, offset) in [(old, 5), (TopicId::ZERO, 5), (TopicId::from_bytes([2; 16]), -1)] {
        let token = bench.ask(Request::OffsetFetch(fetch(topic_id)));
        let Reply::OffsetFetch(Ok(topics)) = bench.answer(token) else { panic!("fetched") };
        assert_eq!(topics[0].partitions[0].offset, offset);
    }
    bench.ask(topics_deleted(&[("t", TopicId::from_bytes([2; 16])), ("t", TopicId::ZERO), ("u", old)]));
    assert_eq!(bench.fetch("g", "t", 0), 5);
    bench.ask(topics_deleted(&[("t", TopicId::from_bytes([2; 16])), ("t", old)]));
    assert_eq!(bench.fetch("g", "t", 0), -1);
}

#[test]
fn offsets_that_are_on_their_way_into_the_log_go_with_their_topic() {
    let mut bench = Bench::new(settings());
    bench.commit(simple("g", 0, 1));
    bench.prompt = false;
    let under_way = bench.commit(simple("g", 1, 5));
    let queued = bench.commit(simple("g", 2, 6));
    let deleted = bench.ask(topics_deleted(&[("t", TopicId::ZERO)]));
    let later = bench.commit(simple("h", 0, 7));
    while bench.appending.is_some() {
        bench.finish_append();
    }
    assert!([under_way, queued, later].into_iter().all(|token| bench.committed(token) == Ok(None)));
    assert_eq!(bench.answer(deleted), Reply::TopicsDeleted(Ok(())));
    assert_eq!([0, 1, 2].map(|partition| bench.fetch("g", "t", partition)), [-1; 3]);
}

#[test]
fn what_is_committed_for_a_topic_that_was_made_again_stays() {
    let (old, new) = (TopicId::from_bytes([1; 16]), TopicId::from_bytes([2; 16]));
    let commit = |topic_id, partition, offset| {
        let mut commit = simple("g", partition, offset);
        commit.topics[0].topic_id = topic_id;
        commit
    };
    // With an append under way when the topic goes, and with one that is yet to begin.
    for is_appending in [true, false] {
        let mut bench = Bench::new(settings());
        bench.commit(commit(old, 0, 1));
        bench.prompt = false;
        if is_appending {
            bench.commit(simple("other", 0, 7));
        }
        bench.commit(commit(old, 1, 5));
        let deleted = bench.ask(topics_deleted(&[("t", old), ("t", TopicId::ZERO)]));
        let later = bench.commit(commit(new, 0, 9));
        while bench.appending.is_some() {
            bench.finish_append();
        }
        assert_eq!(bench.answer(deleted), Reply::TopicsDeleted(Ok(())));
        assert_eq!(bench.committed(later), Ok(None));
        assert_eq!([0, 1].map(|partition| bench.fetch("g", "t", partition)), [9, -1]);
    }
}

#[test]
fn groups_are_deleted_with_their_offsets_when_they_are_empty() {
    let mut bench = Bench::new(settings());
    let joined = bench.join_alone("g", b"\0\0\0\0\0\x01\0\x01t");
    bench.commit(by_member("g", &joined, 1));
    let delete = Request::DeleteGroup { group_id: id("g") };
    let token = bench.ask(delete.clone());
    assert_eq!(bench.answer(token), Reply::DeleteGroup(Err(GroupError::NonEmptyGroup)));
    let offsets = OffsetDelete { group_id: id("g"), topics: vec![(id("t"), vec![0]), (id("u"), vec![0])] };
    let token = bench.ask(Request::OffsetDelete(offsets.clone()));
    let Reply::OffsetDelete(Ok(topics)) = bench.answer(token) else { panic!("deleted") };
    assert_eq!(topics[0].partitions, [(0, Some(GroupError::GroupSubscribedToTopic))]);
    assert_eq!(topics[1].partitions, [(0, None)]);
    bench.advance(10);
    let token = bench.ask(Request::OffsetDelete(offsets));
    assert!(matches!(bench.answer(token), Reply::OffsetDelete(Ok(topics)) if topics[0].partitions == [(0, None)]));
    assert_eq!(bench.fetch("g", "t", 0), -1);
    let token = bench.ask(delete.clone());
    assert_eq!(bench.answer(token), Reply::DeleteGroup(Ok(())));
    let token = bench.ask(delete);
    assert_eq!(bench.answer(token), Reply::DeleteGroup(Err(GroupError::GroupIdNotFound)));
    assert_eq!(bench.describe("g").state, GroupState::Dead);
    assert_eq!(bench.log.state(), LoggedState::default());
}

#[test]
fn lists_are_filtered_by_state_and_type() {
    let mut bench = Bench::new(settings());
    bench.commit(simple("simple", 0, 1));
    bench.join_alone("stable", b"");
    let names = |groups: Vec<ListedGroup>| groups.into_iter().map(|group| group.group_id).collect::<Vec<_>>();
    let states = |states: &[&str]| ListGroups { states: states.iter().map(|&s| id(s)).collect(), types: vec![] };
    assert_eq!(names(bench.list(states(&[]))), [id("simple"), id("stable")]);
    assert_eq!(names(bench.list(states(&["STABLE", "Dead"]))), [id("stable")]);
    assert_eq!(names(bench.list(ListGroups { types: vec![id("Classic")], ..states(&["empty"]) })), [id("simple")]);
    assert!(bench.list(ListGroups { types: vec![id("consumer")], ..states(&[]) }).is_empty());
}

#[test]
fn offsets_expire_when_their_group_has_been_empty_for_the_retention() {
    let day = 24 * 60 * 60;
    let mut bench = Bench::new(settings());
    bench.commit(OffsetCommit { retention_ms: Some(1000 * day), ..simple("own", 0, 1) });
    bench.commit(simple("simple", 0, 1));
    let joined = bench.join_alone("g", b"\0\0\0\0\0\x01\0\x01t");
    bench.commit(by_member("g", &joined, 1));
    for _ in 0..3 {
        for _ in 0..(day as u64) / 9 {
            bench.commit(by_member("g", &joined, 1));
            bench.now = at(bench.now.monotonic.0 / SECOND + 9);
        }
        bench.handle(Event::Timeout);
    }
    assert_eq!((bench.fetch("own", "t", 0), bench.fetch("simple", "t", 0)), (-1, 1));
    bench.advance(4 * day as u64);
    assert_eq!((bench.fetch("simple", "t", 0), bench.fetch("g", "t", 0)), (-1, 1));
    bench.advance(7 * day as u64 + 601);
    bench.advance(601);
    assert_eq!(bench.fetch("g", "t", 0), -1);
    assert!(bench.list(ListGroups::default()).is_empty(), "empty groups go with their last offset");
    assert_eq!(bench.log.state(), LoggedState::default());
}

#[test]
fn a_fresh_commit_is_not_swept_away_with_the_expired_one_before_it() {
    let mut bench = Bench::new(settings());
    bench.commit(simple("g", 0, 1));
    bench.prompt = false;
    bench.commit(simple("other", 0, 1));
    bench.commit(simple("g", 0, 2));
    // The look for expired offsets is due while the new commit waits.
    bench.now = at(8 * 24 * 60 * 60);
    bench.handle(Event::Timeout);
    bench.finish_append();
    while bench.appending.is_some() {
        bench.finish_append();
    }
    bench.prompt = true;
    assert_eq!(bench.fetch("g", "t", 0), 2);
}

#[test]
fn commits_and_groups_that_are_too_large_are_refused() {
    let mut bench = Bench::new(GroupSettings { max_batch_bytes: 10_000, ..settings() });
    let mut commit = simple("g", 0, 5);
    commit.topics[0].partitions[0].metadata = "x".repeat(4097).into();
    let token = bench.commit(commit.clone());
    assert_eq!(bench.committed(token), Ok(Some(GroupError::OffsetMetadataTooLarge)));
    commit.topics[0].partitions[0].metadata = "ü".repeat(4096).into();
    let token = bench.commit(commit.clone());
    assert_eq!(bench.committed(token), Ok(None), "the limit counts characters");
    let partition = commit.topics[0].partitions[0].clone();
    commit.topics[0].partitions = vec![partition; 2];
    let token = bench.commit(commit);
    assert_eq!(bench.committed(token), Err(GroupError::InvalidCommitOffsetSize));

    let token = bench.ask(join("g", "", &[0; 10_000]));
    bench.handle(Event::Timeout);
    let Reply::JoinGroup(Ok(joined)) = bench.answer(token) else { panic!("joined") };
    let token = bench.ask(sync("g", &joined));
    assert_eq!(bench.answer(token), Reply::SyncGroup(Err(GroupError::UnknownServerError)));
    let long = "x".repeat(40_000);
    let token = bench.commit(simple(&long, 0, 1));
    assert_eq!(bench.committed(token), Err(GroupError::InvalidGroupId));
}

#[test]
fn memory_is_bounded_and_what_is_there_goes_on_working() {
    let mut bench = Bench::new(GroupSettings { max_state_bytes: 40_000, ..settings() });
    let joined = bench.join_alone("g", b"");
    bench.commit(by_member("g", &joined, 1));
    let refused = (0..1000).find(|&partition| {
        let token = bench.commit(simple("other", partition, 1));
        bench.committed(token) != Ok(None)
    });
    assert!(refused.is_some_and(|partition| partition > 50));
    assert!(bench.coordinator.stats().state_bytes < 41_000);
    let token = bench.commit(by_member("g", &joined, 2));
    assert_eq!(bench.committed(token), Ok(None));
    let token = bench.ask(join("new", "", b""));
    assert!(
        matches!(bench.answer(token), Reply::JoinGroup(Err(refused)) if refused.error == GroupError::GroupMaxSizeReached)
    );
    let token = bench.ask(join("g", &joined.member_id, b""));
    assert!(matches!(bench.answer(token), Reply::JoinGroup(Ok(_))));
    bench.handle(Event::Timeout);
    bench.ask(Request::DeleteGroup { group_id: id("other") });
    let token = bench.commit(simple("other", 0, 1));
    assert_eq!(bench.committed(token), Ok(None), "deleting makes room");
}

#[test]
fn requests_wait_in_their_queue_while_much_waits_for_the_log() {
    let mut bench = Bench::new(GroupSettings { max_queued_bytes: 1000, ..settings() });
    bench.prompt = false;
    while bench.coordinator.accepts_requests() {
        bench.commit(simple("g", 0, 1));
    }
    bench.finish_append();
    assert!(bench.coordinator.accepts_requests());
}

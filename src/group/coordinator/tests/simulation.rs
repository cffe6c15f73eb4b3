//! Many members against one coordinator for simulated minutes: they join, leave, die, stall and come back as zombies, while
//! appends fail, replies are lost and the coordinator crashes. The seed decides everything.
//!
//! Checked all along: nobody owns a partition that another owns in the same generation; commits of a generation that has
//! been superseded are refused; an offset that was acknowledged is never found lower; what the coordinator holds is what a
//! replay of its log yields. In the end, when the faults cease, every member has its share.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::group::request::{FetchTopic, Heartbeat, LeaveGroup, LeavingMember};
use crate::sim::number;

const PARTITIONS: u8 = 6;
const CLIENTS: usize = 5;
/// When the faults cease, and when the run ends.
const HEALED_MS: u64 = 180_000;
const END_MS: u64 = 360_000;
/// A client sends its request again after this.
const REQUEST_TIMEOUT_MS: u64 = 3_000;

/// A bug that the checks must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// A crash loses the last append, which was acknowledged.
    LosesDurable,
    /// Requests are answered before their append is durable.
    AnswersEarly,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Out,
    Joined,
    Assigned,
    Consuming,
}

/// One consumer.
struct Client {
    instance: Option<Arc<str>>,
    member_id: Arc<str>,
    joined: Option<JoinedGroup>,
    stage: Stage,
    owned: Vec<u8>,
    positions: BTreeMap<i32, i64>,
    /// The request under way, and when it is given up.
    waiting: Option<(Token, u64)>,
    stalled_until: u64,
}

/// A commit that has reached the coordinator.
#[derive(Clone, Copy)]
struct Committing {
    partition: i32,
    offset: i64,
    /// Its generation had been superseded when it came: others had assignments already.
    stale: bool,
}

/// A request that has reached the coordinator: from whom, and what was acknowledged by then.
struct Asked {
    client: usize,
    committing: Option<Committing>,
    acknowledged: BTreeMap<i32, i64>,
}

#[derive(Debug)]
enum Step {
    Act(usize),
    Arrive(usize, Token, Request),
    AppendDone(u64),
    Advance(u64, Offset),
    Restart,
}

struct World {
    random: Random,
    planted: Planted,
    now_ms: u64,
    /// Steps to come, in order of time, then of planning.
    steps: BTreeMap<(u64, u64), Step>,
    planned: u64,
    coordinator: Option<Coordinator>,
    /// Counts the coordinators, so that steps for a dead one are dropped.
    incarnation: u64,
    log: Log,
    appending: Option<Vec<LogRecord>>,
    clients: Vec<Client>,
    next_token: u64,
    asked: BTreeMap<Token, Asked>,
    /// Highest offset acknowledged, by partition.
    acknowledged: BTreeMap<i32, i64>,
    /// Owners by generation and partition.
    owners: BTreeMap<(i32, u8), Arc<str>>,
    newest_synced: i32,
    trace: DefaultHasher,
    crashes: u64,
}

impl World {
    fn new(seed: u64, planted: Planted) -> Self {
        let clients = (0..CLIENTS).map(|number| Client {
            instance: (number == 0).then(|| id("static")),
            member_id: id(""),
            joined: None,
            stage: Stage::Out,
            owned: Vec::new(),
            positions: BTreeMap::new(),
            waiting: None,
            stalled_until: 0,
        });
        let mut world = Self {
            random: Random(seed),
            planted,
            now_ms: 1,
            steps: BTreeMap::new(),
            planned: 0,
            coordinator: None,
            incarnation: 0,
            log: Log::default(),
            appending: None,
            clients: clients.collect(),
            next_token: 0,
            asked: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            owners: BTreeMap::new(),
            newest_synced: 0,
            trace: DefaultHasher::new(),
            crashes: 0,
        };
        world.plan(0, Step::Restart);
        for client in 0..CLIENTS {
            world.plan(10 * client as u64, Step::Act(client));
        }
        world
    }

    fn now(&self) -> Now {
        let ms = i64::try_from(self.now_ms).unwrap();
        Now { monotonic: Monotonic(self.now_ms * 1_000_000), wall: Timestamp(ms) }
    }

    fn healthy(&self) -> bool {
        self.now_ms >= HEALED_MS
    }

    fn plan(&mut self, after_ms: u64, step: Step) {
        self.planned += 1;
        self.steps.insert((self.now_ms + after_ms, self.planned), step);
    }

    /// Runs to the end; returns a fingerprint of all that happened, and the crashes, or what was violated.
    fn run(mut self) -> Result<(u64, u64), String> {
        while self.now_ms < END_MS {
            let deadline = self.coordinator.as_ref().and_then(Coordinator::next_timeout);
            let deadline_ms = deadline.map_or(u64::MAX, |deadline| deadline.0.div_ceil(1_000_000));
            let Some((&(at, order), _)) = self.steps.first_key_value() else { break };
            if deadline_ms <= at {
                self.now_ms = self.now_ms.max(deadline_ms);
                self.tell(Event::Timeout)?;
                continue;
            }
            self.now_ms = at;
            let Some(step) = self.steps.remove(&(at, order)) else { break };
            self.step(step)?;
        }
        self.check_settled()?;
        Ok((self.trace.finish(), self.crashes))
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Act(client) => {
                self.act(client);
                let pause = 50 + self.random.below(400);
                self.plan(pause, Step::Act(client));
                if !self.healthy() && self.random.percent(1) && self.random.percent(20) {
                    self.crash()?;
                }
            }
            Step::Arrive(client, token, request) => {
                let acknowledged = self.acknowledged.clone();
                let committing = match &request {
                    Request::OffsetCommit(commit) => {
                        let stale = commit.generation < self.newest_synced;
                        let CommitPartition { partition, offset, .. } = commit.topics[0].partitions[0];
                        Some(Committing { partition, offset, stale })
                    }
                    _ => None,
                };
                self.asked.insert(token, Asked { client, committing, acknowledged });
                self.tell(Event::Request { token, request })?;
            }
            Step::AppendDone(incarnation) if incarnation == self.incarnation => {
                let fate = if self.healthy() { 99 } else { self.random.below(100) };
                if (2..8).contains(&fate) {
                    return self.crash();
                }
                let Some(records) = self.appending.take() else { return Ok(()) };
                if fate < 2 {
                    // Nobody knows whether it is in the log: here it is in one case of two.
                    if fate == 0 {
                        self.log.append(records);
                    }
                    return self.tell(Event::AppendFailed { error: unavailable() });
                }
                let bytes = bytes_of(&records);
                let base_offset = self.log.append(records);
                self.tell(Event::Appended { base_offset, bytes })?;
                self.check_replay()?;
            }
            Step::Advance(incarnation, offset) if incarnation == self.incarnation => {
                self.log.advance(offset);
                self.tell(Event::LogStartAdvanced { offset })?;
                self.check_replay()?;
            }
            Step::Restart => {
                let settings = GroupSettings {
                    initial_rebalance_delay: Duration::from_millis(500),
                    rewrite_min_bytes: 3_000,
                    max_batch_bytes: 2_000,
                    ..GroupSettings::default()
                };
                self.incarnation += 1;
                self.coordinator = Some(Coordinator::new(Arc::new(settings), self.now()));
            }
            Step::AppendDone(_) | Step::Advance(..) => {}
        }
        Ok(())
    }

    /// The coordinator dies; what it was appending is in the log or not, and so is the new start of the log.
    fn crash(&mut self) -> Result<(), String> {
        if self.coordinator.take().is_some() {
            self.crashes += 1;
            self.incarnation += 1;
            self.asked.clear();
            let landed = self.random.percent(50);
            if let Some(records) = self.appending.take()
                && landed
            {
                self.log.append(records);
            }
            if self.planted == Planted::LosesDurable {
                self.log.batches.pop();
            }
            let downtime = 100 + self.random.below(2_000);
            self.plan(downtime, Step::Restart);
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) -> Result<(), String> {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.now();
            let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
            for action in coordinator.handle(now, event) {
                format!("{} {action:?}", self.now_ms).hash(&mut self.trace);
                match action {
                    Action::Reply(token, reply) => self.answer(token, reply)?,
                    Action::Append(records) => {
                        assert!(records.iter().map(LogRecord::bytes).sum::<usize>() <= 2_000, "batches are bounded");
                        if self.planted == Planted::AnswersEarly {
                            events.push_back(Event::Appended { base_offset: self.log.next, bytes: 0 });
                        }
                        self.appending = Some(records);
                        let delay = 1 + self.random.below(20);
                        self.plan(delay, Step::AppendDone(self.incarnation));
                    }
                    Action::Load => {
                        for (_, records) in self.log.batches.clone() {
                            let bytes = bytes_of(&records);
                            events.push_back(Event::Replay { records, bytes });
                        }
                        events.push_back(Event::Loaded { next_offset: self.log.next });
                    }
                    Action::AdvanceLogStart(offset) => self.plan(5, Step::Advance(self.incarnation, offset)),
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, client: usize, request: Request) {
        self.next_token += 1;
        let token = Token(self.next_token);
        let delay = 1 + self.random.below(30);
        // A stalled client's last request may arrive when it wakes up.
        let stalled = self.clients[client].stalled_until.saturating_sub(self.now_ms);
        let until = self.now_ms + delay + stalled + REQUEST_TIMEOUT_MS;
        // A join may wait for the whole rebalance.
        let patience = if matches!(request, Request::JoinGroup { .. }) { 20_000 } else { 0 };
        self.clients[client].waiting = Some((token, until + patience));
        self.plan(delay + stalled, Step::Arrive(client, token, request));
    }

    /// A client does the next thing.
    fn act(&mut self, number: usize) {
        let now_ms = self.now_ms;
        if now_ms < self.clients[number].stalled_until
            || self.clients[number].waiting.as_ref().is_some_and(|&(_, until)| now_ms < until)
        {
            return;
        }
        let (luck, healthy) = (self.random.below(1000), self.healthy());
        if !healthy && luck < 10 {
            // Like a process that is stopped: it goes on later as if nothing had happened.
            self.clients[number].stalled_until = now_ms + self.random.below(40_000);
        } else if !healthy && luck < 13 {
            // Like one that is killed and started anew.
            let client = &mut self.clients[number];
            (client.member_id, client.stage) = (id(""), Stage::Out);
        }
        let client = &self.clients[number];
        let (member_id, instance) = (Arc::clone(&client.member_id), client.instance.clone());
        let generation = client.joined.as_ref().map_or(-1, |joined| joined.generation);
        let request = match client.stage {
            Stage::Out => self.join_request(number),
            Stage::Joined => Request::SyncGroup(SyncGroup {
                group_id: id("g"),
                generation,
                member_id,
                group_instance_id: instance,
                protocol_type: None,
                protocol: None,
                assignments: share_out(client.joined.as_ref()),
            }),
            Stage::Assigned => {
                let partitions = client.owned.iter().map(|&partition| i32::from(partition)).collect();
                let topics = Some(vec![FetchTopic { topic: id("t"), topic_id: TopicId::ZERO, partitions }]);
                Request::OffsetFetch(OffsetFetch { group_id: id("g"), topics })
            }
            Stage::Consuming if !healthy && luck > 990 => {
                let member = LeavingMember { member_id, group_instance_id: instance, reason: None };
                Request::LeaveGroup(LeaveGroup { group_id: id("g"), members: vec![member] })
            }
            Stage::Consuming if luck < 600 && !client.owned.is_empty() => {
                let partition = i32::from(client.owned[luck as usize % client.owned.len()]);
                let offset = client.positions.get(&partition).map_or(0, |position| position + 1);
                self.clients[number].positions.insert(partition, offset);
                let commit = simple("g", partition, offset);
                Request::OffsetCommit(OffsetCommit { generation, member_id, group_instance_id: instance, ..commit })
            }
            Stage::Consuming => {
                Request::Heartbeat(Heartbeat { group_id: id("g"), generation, member_id, group_instance_id: instance })
            }
        };
        self.send(number, request);
    }

    fn join_request(&mut self, number: usize) -> Request {
        let Request::JoinGroup { join, .. } = join("g", "", b"\0\0\0\0\0\x01\0\x01t") else { unreachable!() };
        let client = &self.clients[number];
        let join = JoinGroup {
            member_id: Arc::clone(&client.member_id),
            group_instance_id: client.instance.clone(),
            api_version: if number.is_multiple_of(2) { 9 } else { 3 },
            // Long enough that a rebalance goes on without a static member that stalls, which then is in the past.
            session_timeout_ms: if client.instance.is_some() { 120_000 } else { join.session_timeout_ms },
            rebalance_timeout_ms: 5_000,
            ..join
        };
        let member_uuid = uuid::Uuid::from_u64_pair(self.random.next(), self.random.next());
        Request::JoinGroup { join, member_uuid }
    }

    /// A reply comes; or is lost on the way, or comes too late for a client that has given up.
    fn answer(&mut self, token: Token, reply: Reply) -> Result<(), String> {
        let Some(Asked { client: number, committing, acknowledged }) = self.asked.remove(&token) else {
            return Err(format!("a reply that nobody asked for: {token:?}"));
        };
        if let (Reply::OffsetCommit(Ok(topics)), Some(Committing { partition, offset, stale })) = (&reply, committing)
            && topics[0].partitions[0].1.is_none()
        {
            if stale {
                return Err(format!("a commit of a generation of the past was let through at {} ms", self.now_ms));
            }
            let highest = self.acknowledged.entry(partition).or_insert(-1);
            *highest = offset.max(*highest);
        }
        if let Reply::OffsetFetch(Ok(topics)) = &reply {
            for fetched in &topics[0].partitions {
                let floor = acknowledged.get(&fetched.partition).copied().unwrap_or(-1);
                if fetched.offset < floor {
                    return Err(format!("offset {floor} was acknowledged, {} found", fetched.offset));
                }
            }
        }
        if let Reply::SyncGroup(Ok(synced)) = &reply {
            self.check_owner(number, &synced.assignment)?;
        }
        let lost = !self.healthy() && self.random.percent(1);
        if !lost && self.clients[number].waiting.as_ref().is_some_and(|&(asked, _)| asked == token) {
            self.clients[number].waiting = None;
            self.take(number, reply);
        }
        Ok(())
    }

    /// Notes who owns what in the generation that the asker was told.
    fn check_owner(&mut self, number: usize, assignment: &Bytes) -> Result<(), String> {
        let client = &self.clients[number];
        let Some(joined) = &client.joined else { return Ok(()) };
        self.newest_synced = self.newest_synced.max(joined.generation);
        let owner = client.instance.clone().unwrap_or_else(|| Arc::clone(&joined.member_id));
        for &partition in assignment {
            let known = self.owners.entry((joined.generation, partition)).or_insert_with(|| Arc::clone(&owner));
            if *known != owner {
                let generation = joined.generation;
                return Err(format!("{owner} and {known} both own partition {partition} in generation {generation}"));
            }
        }
        Ok(())
    }

    fn take(&mut self, number: usize, reply: Reply) {
        let slow = !self.healthy() && self.random.percent(20);
        let client = &mut self.clients[number];
        let error = match reply {
            Reply::JoinGroup(Ok(joined)) => {
                client.member_id = Arc::clone(&joined.member_id);
                (client.joined, client.stage) = (Some(joined), Stage::Joined);
                return;
            }
            Reply::JoinGroup(Err(refused)) if refused.error == GroupError::MemberIdRequired => {
                client.member_id = refused.member_id;
                return;
            }
            Reply::SyncGroup(Ok(synced)) => {
                client.owned = synced.assignment.to_vec();
                client.positions.clear();
                client.stage = Stage::Assigned;
                return;
            }
            Reply::OffsetFetch(Ok(topics)) => {
                client.positions = topics[0].partitions.iter().map(|found| (found.partition, found.offset)).collect();
                client.stage = Stage::Consuming;
                return;
            }
            Reply::LeaveGroup(_) => GroupError::UnknownMemberId,
            Reply::JoinGroup(Err(refused)) => refused.error,
            Reply::OffsetCommit(Ok(topics)) => match topics[0].partitions[0].1 {
                Some(error) => error,
                None => return,
            },
            Reply::Heartbeat(Ok(())) => return,
            Reply::SyncGroup(Err(error)) | Reply::OffsetFetch(Err(error)) | Reply::OffsetCommit(Err(error)) => error,
            Reply::Heartbeat(Err(error)) => error,
            other => panic!("not asked for: {other:?}"),
        };
        match error {
            GroupError::UnknownMemberId | GroupError::FencedInstanceId => {
                (client.member_id, client.stage) = (id(""), Stage::Out);
            }
            GroupError::IllegalGeneration => client.stage = Stage::Out,
            // A slow client goes on in the old generation for a while.
            GroupError::RebalanceInProgress if !slow => client.stage = Stage::Out,
            _ => {}
        }
    }

    fn check_replay(&self) -> Result<(), String> {
        let Some(coordinator) = &self.coordinator else { return Ok(()) };
        let same = coordinator.phase != Phase::Active || coordinator.logged == self.log.state();
        if same { Ok(()) } else { Err(format!("the log says something else at {} ms", self.now_ms)) }
    }

    fn check_settled(&mut self) -> Result<(), String> {
        self.check_replay()?;
        let consuming = self.clients.iter().filter(|client| client.stage == Stage::Consuming);
        let owned: Vec<u8> = consuming.clone().flat_map(|client| client.owned.iter().copied()).collect();
        let distinct: BTreeSet<u8> = owned.iter().copied().collect();
        let all =
            consuming.count() == CLIENTS && owned.len() == distinct.len() && distinct.len() == PARTITIONS as usize;
        if all { Ok(()) } else { Err(format!("not everybody has a share in the end: {owned:?}")) }
    }
}

/// What the leader assigns: each partition to one member, in turn.
fn share_out(joined: Option<&JoinedGroup>) -> Vec<(Arc<str>, Bytes)> {
    let members = joined.map_or(&[][..], |joined| &joined.members);
    let share = |number: usize| (0..PARTITIONS).filter(|&p| p as usize % members.len() == number).collect::<Vec<u8>>();
    members.iter().enumerate().map(|(number, member)| (Arc::clone(&member.member_id), share(number).into())).collect()
}

#[test]
fn members_and_offsets_survive_every_fault_and_runs_repeat() {
    let (first, count) = (number("ALLUVIUM_SIM_SEED", 1), number("ALLUVIUM_SIM_SEEDS", 6));
    let (mut crashes, mut traces) = (0, BTreeSet::new());
    for seed in first..first + count {
        let replay =
            format!("replay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib group::coordinator");
        let run = World::new(seed, Planted::Nothing).run().unwrap_or_else(|error| panic!("{error}\n{replay}"));
        assert_eq!(World::new(seed, Planted::Nothing).run(), Ok(run), "two runs differ\n{replay}");
        crashes += run.1;
        traces.insert(run.0);
    }
    assert!(traces.len() as u64 == count && crashes > 0, "seeds differ, and coordinators crash");
}

#[test]
fn planted_bugs_are_found() {
    for planted in [Planted::LosesDurable, Planted::AnswersEarly] {
        assert!((0..10).any(|seed| World::new(seed, planted).run().is_err()));
    }
}

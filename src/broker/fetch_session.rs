//! Incremental fetch sessions (KIP-227). Pure: the clock and random numbers come in as arguments.
//!
//! A consumer sends its whole list of partitions once; afterwards only what changed, and gets back only what is new. The
//! broker keeps the list under a session id, in a cache of bounded size: a session that has not been used for a while, or an
//! old one that is smaller, gives way to a new one, and its consumer starts over with a full fetch. Lost in a crash, with the
//! same effect. The partitions of all sessions are bounded too: a session that finds no room is not begun, and one that grows
//! beyond it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::types::{LeaderEpoch, Monotonic, Offset, TopicId};

/// How long a session must be unused, or have lived, before another may take its place (`FetchSessionCache`'s eviction time).
const EVICTION_AGE: Duration = Duration::from_secs(120);
/// The weight of all sessions together, see [`weight`]: what clients name is kept whether it exists or not, and this bounds
/// it to about 64 MiB.
const MAX_WEIGHT: usize = 1 << 18;
/// A topic's name of so many bytes weighs as much as its partition.
const NAME_BYTES: usize = 256;
/// The epoch of a request that wants a new session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that wants none.
const FINAL_EPOCH: i32 = -1;

/// A partition as a fetch names it: by the topic's identity, or by its name where the identity is zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The topic's identity, or zero.
    pub topic_id: TopicId,
    /// The topic's name, or empty.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

/// What a fetch wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPartition {
    /// First offset wanted.
    pub offset: Offset,
    /// Most bytes.
    pub max_bytes: i32,
    /// The leader epoch that the client knows, or none.
    pub leader_epoch: LeaderEpoch,
    /// The leader epoch of the last record that it has, or none.
    pub last_fetched_epoch: LeaderEpoch,
}

/// A fetch as it came.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The session, or 0.
    pub session_id: i32,
    /// Its epoch: 0 begins a session, −1 wants none.
    pub epoch: i32,
    /// Partitions by identity (version 13 and later).
    pub uses_topic_ids: bool,
    /// Partitions that are new or changed, or all.
    pub partitions: Vec<(PartitionKey, SessionPartition)>,
    /// Partitions to leave out from now on.
    pub forgotten: Vec<PartitionKey>,
}

/// A fetch that can't go on with its session; the client starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// Kafka's FETCH_SESSION_ID_NOT_FOUND.
    #[error("no such fetch session")]
    NotFound,
    /// Kafka's INVALID_FETCH_SESSION_EPOCH.
    #[error("the fetch session's epoch is another")]
    InvalidEpoch,
    /// Kafka's FETCH_SESSION_TOPIC_ID_ERROR.
    #[error("the fetch session names topics differently")]
    TopicIds,
}

/// The partitions to fetch, and how the answer is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchContext {
    /// The partitions, in order.
    pub partitions: Vec<(PartitionKey, SessionPartition)>,
    kind: ContextKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContextKind {
    Sessionless,
    Full { uses_topic_ids: bool },
    Incremental { session_id: i32, epoch: i32 },
}

/// What the answer says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// High watermark, or −1.
    pub high_watermark: i64,
    /// Log start offset, or −1.
    pub log_start_offset: i64,
    /// There are records.
    pub has_records: bool,
    /// There is an error, or the client's log has left the leader's.
    pub is_error: bool,
    /// The client is sent to another replica.
    pub is_sent_on: bool,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    uses_topic_ids: bool,
    created: Monotonic,
    last_used: Monotonic,
    next_order: u64,
    partitions: BTreeMap<PartitionKey, Held>,
    order: BTreeMap<u64, PartitionKey>,
    weight: usize,
}

#[derive(Debug)]
struct Held {
    wanted: SessionPartition,
    order: u64,
    /// What the client was told last.
    told: Option<(i64, i64)>,
}

/// All sessions of a broker.
#[derive(Debug, Default)]
pub struct FetchSessions {
    capacity: usize,
    sessions: BTreeMap<i32, Session>,
    by_last_used: BTreeSet<(Monotonic, i32)>,
    weight: usize,
}

impl FetchSessions {
    /// None yet; at most `capacity` at a time.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Sessions now.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Takes in a request and says what to fetch.
    pub fn begin(&mut self, request: SessionRequest, now: Monotonic) -> Result<FetchContext, SessionError> {
        let SessionRequest { session_id, epoch, uses_topic_ids, partitions, forgotten } = request;
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            if session_id != 0 {
                self.remove(session_id);
            }
            let kind = match epoch {
                INITIAL_EPOCH => ContextKind::Full { uses_topic_ids },
                _ => ContextKind::Sessionless,
            };
            return Ok(FetchContext { partitions, kind });
        }
        let session = self.sessions.get_mut(&session_id).ok_or(SessionError::NotFound)?;
        if session.epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(SessionError::TopicIds);
        }
        let before = session.weight;
        partitions.into_iter().for_each(|(key, wanted)| session.put(key, wanted));
        forgotten.iter().for_each(|key| session.forget(key));
        self.weight = self.weight - before + session.weight;
        if self.weight > MAX_WEIGHT {
            self.remove(session_id);
            return Err(SessionError::NotFound);
        }
        if session.partitions.is_empty() {
            self.remove(session_id);
            return Ok(FetchContext { partitions: Vec::new(), kind: ContextKind::Sessionless });
        }
        session.epoch = next_epoch(epoch);
        let kind = ContextKind::Incremental { session_id, epoch: session.epoch };
        let partitions = session.order.values().map(|key| (key.clone(), session.partitions[key].wanted)).collect();
        self.by_last_used.remove(&(session.last_used, session_id));
        session.last_used = now;
        self.by_last_used.insert((now, session_id));
        Ok(FetchContext { partitions, kind })
    }

    /// Notes what is answered, in the order of the context's partitions. Gives the session id for the answer, and which
    /// partitions it has to name. `random` gives the id of a new session.
    pub fn end(
        &mut self,
        context: &FetchContext,
        answers: &[Answered],
        now: Monotonic,
        random: impl FnMut() -> i32,
    ) -> Result<(i32, Vec<bool>), SessionError> {
        assert_eq!(context.partitions.len(), answers.len(), "every partition has an answer");
        match context.kind {
            ContextKind::Sessionless => Ok((0, vec![true; answers.len()])),
            ContextKind::Full { uses_topic_ids } => {
                let session_id = self.create(context, answers, uses_topic_ids, now, random);
                Ok((session_id, vec![true; answers.len()]))
            }
            ContextKind::Incremental { session_id, epoch } => {
                let session = self.sessions.get_mut(&session_id).ok_or(SessionError::NotFound)?;
                if session.epoch != epoch {
                    return Err(SessionError::InvalidEpoch);
                }
                let pairs = context.partitions.iter().zip(answers);
                Ok((session_id, pairs.map(|((key, _), answer)| session.tell(key, answer)).collect()))
            }
        }
    }

    fn create(
        &mut self,
        context: &FetchContext,
        answers: &[Answered],
        uses_topic_ids: bool,
        now: Monotonic,
        mut random: impl FnMut() -> i32,
    ) -> i32 {
        let partitions: usize = context.partitions.iter().map(|(key, _)| weight(key)).sum();
        if !self.make_room(partitions, now) {
            return 0;
        }
        let session_id = loop {
            let id = random() & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_topic_ids,
            created: now,
            last_used: now,
            next_order: 0,
            partitions: BTreeMap::new(),
            order: BTreeMap::new(),
            weight: 0,
        };
        for ((key, wanted), answer) in context.partitions.iter().zip(answers) {
            session.put(key.clone(), *wanted);
            session.tell(key, answer);
        }
        self.weight += session.weight;
        self.sessions.insert(session_id, session);
        self.by_last_used.insert((now, session_id));
        session_id
    }

    /// Makes room for a session of that weight, if there can be.
    fn make_room(&mut self, wanted: usize, now: Monotonic) -> bool {
        while self.sessions.len() >= self.capacity || self.weight + wanted > MAX_WEIGHT {
            if wanted > MAX_WEIGHT || !self.evict_for(wanted, now) {
                return false;
            }
        }
        true
    }

    /// Evicts one session for one of that weight: one that is unused for long, else an old one that is smaller.
    fn evict_for(&mut self, wanted: usize, now: Monotonic) -> bool {
        let Some(&(last_used, oldest)) = self.by_last_used.first() else { return false };
        if now.since(last_used) > EVICTION_AGE {
            self.remove(oldest);
            return true;
        }
        let settled = self.sessions.iter().filter(|(_, session)| now.since(session.created) > EVICTION_AGE);
        let smallest = settled.min_by_key(|(id, session)| (session.weight, **id));
        match smallest.map(|(id, session)| (*id, session.weight)) {
            Some((id, weight)) if weight < wanted => {
                self.remove(id);
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, session_id: i32) {
        if let Some(session) = self.sessions.remove(&session_id) {
            self.by_last_used.remove(&(session.last_used, session_id));
            self.weight -= session.weight;
        }
    }
}

impl Session {
    fn put(&mut self, key: PartitionKey, wanted: SessionPartition) {
        if let Some(held) = self.partitions.get_mut(&key) {
            held.wanted = wanted;
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        self.weight += weight(&key);
        self.order.insert(order, key.clone());
        self.partitions.insert(key, Held { wanted, order, told: None });
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(held) = self.partitions.remove(key) {
            self.order.remove(&held.order);
            self.weight -= weight(key);
        }
    }

    /// Notes an answer; true when the client has to see it. A partition that gave records goes to the end of the order, so that
    /// none is starved by those before it.
    fn tell(&mut self, key: &PartitionKey, answer: &Answered) -> bool {
        let Some(held) = self.partitions.get_mut(key) else { return false };
        let now_told = (answer.high_watermark, answer.log_start_offset);
        // Whom it is sent to is told whenever it asks here again (KIP-392).
        let news = answer.is_error || answer.is_sent_on || answer.has_records || held.told != Some(now_told);
        // An error is told again and again, until it has passed; then whatever comes is news.
        held.told = (!answer.is_error).then_some(now_told);
        if answer.has_records {
            self.order.remove(&held.order);
            held.order = self.next_order;
            self.next_order += 1;
            self.order.insert(held.order, key.clone());
        }
        news
    }
}

/// What a partition costs: one, and more for a name that is longer than topics' names are.
fn weight(key: &PartitionKey) -> usize {
    1 + key.topic.len() / NAME_BYTES
}

/// Epochs count from 1 and start over after the largest number.
const fn next_epoch(epoch: i32) -> i32 {
    match epoch {
        i32::MAX => 1,
        other => other + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic_id: TopicId::from_entropy([1; 16]), topic: "".into(), partition }
    }

    fn wanted(offset: i64) -> SessionPartition {
        let none = LeaderEpoch::NONE;
        SessionPartition { offset: Offset(offset), max_bytes: 1000, leader_epoch: none, last_fetched_epoch: none }
    }

    fn request(session_id: i32, epoch: i32, partitions: &[i32]) -> SessionRequest {
        let partitions = partitions.iter().map(|&number| (key(number), wanted(0))).collect();
        SessionRequest { session_id, epoch, uses_topic_ids: true, partitions, forgotten: Vec::new() }
    }

    fn quiet(high_watermark: i64) -> Answered {
        Answered { high_watermark, log_start_offset: 0, has_records: false, is_error: false, is_sent_on: false }
    }

    fn open(sessions: &mut FetchSessions, id: i32, partitions: &[i32], now: Monotonic) -> i32 {
        let context = sessions.begin(request(0, 0, partitions), now).unwrap();
        let answers = vec![quiet(0); partitions.len()];
        sessions.end(&context, &answers, now, || id).unwrap().0
    }

    #[test]
    fn an_incremental_fetch_names_only_what_is_new() {
        let mut sessions = FetchSessions::new(10);
        let now = Monotonic(0);
        assert_eq!(open(&mut sessions, 7, &[0, 1, 2], now), 7);
        let context = sessions.begin(request(7, 1, &[]), now).unwrap();
        assert_eq!(context.partitions.len(), 3);
        let records = Answered { has_records: true, ..quiet(0) };
        let (id, named) = sessions.end(&context, &[records, quiet(0), quiet(5)], now, || 0).unwrap();
        assert_eq!((id, named), (7, vec![true, false, true]));
        // What gave records comes last the next time.
        let context = sessions.begin(request(7, 2, &[]), now).unwrap();
        let order: Vec<_> = context.partitions.iter().map(|(key, _)| key.partition).collect();
        assert_eq!(order, [1, 2, 0]);
        let (_, named) = sessions.end(&context, &[quiet(0), quiet(5), quiet(0)], now, || 0).unwrap();
        assert_eq!(named, [false; 3]);
    }

    #[test]
    fn an_error_is_told_until_it_has_passed() {
        let mut sessions = FetchSessions::new(10);
        let now = Monotonic(0);
        open(&mut sessions, 7, &[0], now);
        let failed = Answered { log_start_offset: -1, is_error: true, ..quiet(-1) };
        let answers = [(failed, true), (failed, true), (quiet(0), true), (quiet(0), false)];
        for (epoch, (answer, is_named)) in (1..).zip(answers) {
            let context = sessions.begin(request(7, epoch, &[]), now).unwrap();
            assert_eq!(sessions.end(&context, &[answer], now, || 0).unwrap().1, [is_named], "{epoch}");
        }
    }

    #[test]
    fn a_client_that_comes_back_is_sent_on_again_and_its_place_in_the_order_stays() {
        let mut sessions = FetchSessions::new(10);
        let now = Monotonic(0);
        open(&mut sessions, 7, &[0, 1], now);
        let sent_on = Answered { is_sent_on: true, ..quiet(0) };
        for epoch in 1..3 {
            let context = sessions.begin(request(7, epoch, &[]), now).unwrap();
            assert_eq!(context.partitions[0].0, key(0));
            assert_eq!(sessions.end(&context, &[sent_on, quiet(0)], now, || 0).unwrap().1, [true, false], "{epoch}");
        }
        let context = sessions.begin(request(7, 3, &[]), now).unwrap();
        assert_eq!(sessions.end(&context, &[quiet(0), quiet(0)], now, || 0).unwrap().1, [false; 2]);
    }

    #[test]
    fn partitions_are_added_changed_and_forgotten() {
        let mut sessions = FetchSessions::new(10);
        let now = Monotonic(0);
        open(&mut sessions, 7, &[0, 1], now);
        let mut change = request(7, 1, &[2]);
        change.partitions.push((key(1), wanted(42)));
        change.forgotten.push(key(0));
        let context = sessions.begin(change, now).unwrap();
        assert_eq!(context.partitions, [(key(1), wanted(42)), (key(2), wanted(0))]);
        let mut rest = request(7, 2, &[]);
        rest.forgotten = vec![key(1), key(2)];
        let context = sessions.begin(rest, now).unwrap();
        assert_eq!(sessions.end(&context, &[], now, || 0), Ok((0, Vec::new())));
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn wrong_sessions_and_epochs_are_refused() {
        let mut sessions = FetchSessions::new(10);
        let now = Monotonic(0);
        open(&mut sessions, 7, &[0], now);
        assert_eq!(sessions.begin(request(8, 1, &[]), now), Err(SessionError::NotFound));
        assert_eq!(sessions.begin(request(7, 2, &[]), now), Err(SessionError::InvalidEpoch));
        let by_name = SessionRequest { uses_topic_ids: false, ..request(7, 1, &[]) };
        assert_eq!(sessions.begin(by_name, now), Err(SessionError::TopicIds));
        // A full fetch ends the session that it names.
        assert!(sessions.begin(request(7, -1, &[0]), now).is_ok());
        assert_eq!(sessions.begin(request(7, 1, &[]), now), Err(SessionError::NotFound));
    }

    #[test]
    fn a_full_cache_gives_up_only_what_is_unused_or_old_and_smaller() {
        let mut sessions = FetchSessions::new(1);
        assert_eq!(open(&mut sessions, 1, &[0, 1], Monotonic(0)), 1);
        // Too young to go.
        assert_eq!(open(&mut sessions, 2, &[0, 1, 2], Monotonic(SECOND)), 0);
        sessions.begin(request(1, 1, &[]), Monotonic(121 * SECOND)).unwrap();
        // Old enough, but not smaller.
        assert_eq!(open(&mut sessions, 2, &[0], Monotonic(122 * SECOND)), 0);
        assert_eq!(open(&mut sessions, 2, &[0, 1, 2], Monotonic(122 * SECOND)), 2);
        // Unused for long enough.
        assert_eq!(open(&mut sessions, 3, &[0], Monotonic(243 * SECOND)), 3);
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn what_all_sessions_hold_is_bounded_however_they_come_to_it() {
        let named = |number: usize, bytes: usize| {
            let key = PartitionKey { topic_id: TopicId::ZERO, topic: "x".repeat(bytes).into(), partition: 0 };
            (PartitionKey { partition: i32::try_from(number).unwrap(), ..key }, wanted(0))
        };
        let long = 200 * NAME_BYTES;
        let mut sessions = FetchSessions::new(10);
        let mut next = 0;
        let mut more = |session_id, epoch, count: usize, bytes| {
            let partitions = (next..next + count).map(|number| named(number, bytes)).collect();
            next += count;
            SessionRequest { session_id, epoch, uses_topic_ids: true, partitions, forgotten: Vec::new() }
        };
        for id in 1..=2 {
            let context = sessions.begin(more(0, 0, 500, long), Monotonic(0)).unwrap();
            let answers = vec![quiet(0); context.partitions.len()];
            assert_eq!(sessions.end(&context, &answers, Monotonic(0), || id).unwrap().0, id);
        }
        // A third finds room, and less is left than it wants to grow by.
        assert_eq!(open(&mut sessions, 3, &[0, 1], Monotonic(0)), 3);
        assert_eq!(sessions.begin(more(3, 1, 400, long), Monotonic(0)), Err(SessionError::NotFound));
        assert_eq!((sessions.count(), sessions.weight), (2, 2 * 500 * 201));
        // Naming again what is known, or instead of something else, costs nothing.
        let known: Vec<_> = (0..500).map(|number| named(number, long)).collect();
        let again = SessionRequest { partitions: known.clone(), ..request(1, 1, &[]) };
        assert_eq!(sessions.begin(again, Monotonic(0)).unwrap().partitions.len(), 500);
        let forgotten = known.into_iter().map(|(key, _)| key).collect();
        let moved = SessionRequest { forgotten, ..more(1, 2, 500, long) };
        assert_eq!(sessions.begin(moved, Monotonic(0)).unwrap().partitions.len(), 500);
        // Neither is there room for a new one of that size, until another is unused for long.
        let context = sessions.begin(more(0, 0, 500, long), Monotonic(SECOND)).unwrap();
        assert_eq!(sessions.end(&context, &vec![quiet(0); 500], Monotonic(SECOND), || 9).unwrap().0, 0);
        assert_eq!(sessions.end(&context, &vec![quiet(0); 500], Monotonic(121 * SECOND), || 9).unwrap().0, 9);
        assert_eq!((sessions.count(), sessions.weight), (2, 2 * 500 * 201));
    }
}

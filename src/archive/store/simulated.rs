//! A bucket in memory that all processes of a simulation share and that outlives them.
//!
//! A request waits until the simulation carries it out, in any order. It may be refused without effect, have its effect and
//! lose its answer, never be answered, or come so late that its sender has given up, or is dead and has a successor. The
//! same seed and the same requests give the same answers: tests compare the [`SimBucket::trace`] of two runs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use super::backend::{Attempt, Backend, Expected, Listed, Payload, PayloadReader, Version};
use super::error::StoreError;
use crate::archive::manifest::Head;
use crate::runtime::net::BoxFuture;
use crate::sim::Random;
use crate::types::Monotonic;

/// Of the requests of a dead process this many percent are still on their way.
const LATE_PERCENT: u64 = 60;

/// How often what goes wrong, in percent of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Refused without effect.
    pub(crate) refused: u64,
    /// Carried out, and the answer lost.
    pub(crate) lost: u64,
    /// On their way for long, perhaps longer than anybody waits.
    pub(crate) slow: u64,
    /// Of conditional writes: refused because another is under way.
    pub(crate) contended: u64,
}

impl Weather {
    /// Every request is refused.
    pub(crate) const OUTAGE: Self = Self { refused: 100, lost: 0, slow: 0, contended: 0 };
}

/// Ways in which a bucket may lie, to prove that tests notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketLies {
    /// Conditional writes happen whatever is there.
    pub(crate) conditions: bool,
    /// A conditional write that is refused is answered as if it had happened.
    pub(crate) refusals: bool,
    /// After a conditional write whose answer was lost, the next reads give the content from before it.
    pub(crate) stale: bool,
    /// A change of a head's writer alone is answered and never made.
    pub(crate) take_overs: bool,
    /// Now and then a bit of an archived object flips.
    pub(crate) contents: bool,
}

/// What a change of an object was.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) key: String,
    pub(crate) before: Option<Bytes>,
    pub(crate) after: Option<Bytes>,
}

enum Ask {
    Put(Bytes),
    Get,
    GetRanges(Vec<Range<u64>>),
    Size,
    List,
    Directories,
    Delete,
    Replace(Bytes, Expected),
}

#[derive(Debug)]
enum Reply {
    Done,
    Content(Bytes, Version),
    Ranges(Vec<Bytes>),
    Size(u64),
    Listing(Vec<Listed>),
    Names(Vec<String>),
    Version(Version),
}

struct Request {
    key: String,
    ask: Ask,
    reply: oneshot::Sender<Attempt<Reply>>,
    /// Not carried out before this time.
    not_before: Monotonic,
}

#[derive(Clone, Debug)]
struct Object {
    content: Bytes,
    version: u64,
    /// What reads are given instead, and how many of them.
    stale: Option<(Bytes, u32)>,
}

struct State {
    objects: BTreeMap<String, Object>,
    versions: u64,
    queue: Vec<Request>,
    random: Random,
    weather: Weather,
    lies: BucketLies,
    now: Monotonic,
    changes: Vec<Changed>,
    trace: DefaultHasher,
}

/// See the module. Clones share the bucket.
#[derive(Clone)]
pub(crate) struct SimBucket {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimBucket")
    }
}

impl SimBucket {
    pub(crate) fn new(seed: u64, lies: BucketLies) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            versions: 0,
            queue: Vec::new(),
            random: Random::new(seed ^ 0xb0c4e7),
            weather: Weather::default(),
            lies,
            now: Monotonic::default(),
            changes: Vec::new(),
            trace: DefaultHasher::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    pub(crate) fn trace(&self) -> u64 {
        self.state.lock().trace.finish()
    }

    /// Every object's key.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// What changed since this was last asked for.
    pub(crate) fn take_changes(&self) -> Vec<Changed> {
        std::mem::take(&mut self.state.lock().changes)
    }

    /// Carries out one request, drawn at random; false when there is none whose time has come.
    pub(crate) fn run_one(&self, now: Monotonic) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.now = now;
        let ready: Vec<usize> = (0..state.queue.len()).filter(|&at| state.queue[at].not_before <= now).collect();
        if ready.is_empty() {
            return false;
        }
        let at = ready[usize::try_from(state.random.below(ready.len() as u64)).expect("small")];
        let request = state.queue.remove(at);
        let answer = state.carry_out(&request.key, request.ask);
        drop(guard);
        // The sender may have given up.
        let _ = request.reply.send(answer);
        true
    }

    /// The process that sent the requests is gone. Some of them will still arrive.
    pub(crate) fn abandon(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (queue, now) = (std::mem::take(&mut state.queue), state.now);
        for request in queue {
            let is_write = matches!(request.ask, Ask::Put(_) | Ask::Delete | Ask::Replace(..));
            if is_write && state.random.chance(LATE_PERCENT) {
                let delay = Duration::from_millis(state.random.below(20_000));
                state.queue.push(Request { not_before: now + delay, ..request });
            }
        }
    }

    /// Whether requests are on their way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    async fn ask(&self, key: &str, ask: Ask) -> Attempt<Reply> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let slow = state.weather.slow;
            let delay = if state.random.chance(slow) { state.random.below(15_000) } else { 0 };
            let not_before = state.now + Duration::from_millis(delay);
            state.queue.push(Request { key: key.to_owned(), ask, reply, not_before });
        }
        answer.await.unwrap_or_else(|_| Err(unavailable(key)))
    }
}

impl State {
    /// Has a request take its effect, or not; gives the answer that its sender gets.
    fn carry_out(&mut self, key: &str, ask: Ask) -> Attempt<Reply> {
        key.hash(&mut self.trace);
        let roll = self.random.below(100);
        if roll < self.weather.refused {
            "refused".hash(&mut self.trace);
            if self.lies.refusals && matches!(ask, Ask::Replace(..)) && is_head(key) {
                self.versions += 1;
                return Ok(Reply::Version(version(self.versions)));
            }
            return Err(unavailable(key));
        }
        let is_lost = roll < self.weather.refused + self.weather.lost;
        let is_replace = matches!(ask, Ask::Replace(..));
        if is_replace && roll >= 100 - self.weather.contended.min(100) {
            "contended".hash(&mut self.trace);
            return Err(StoreError::Contended { key: key.to_owned() });
        }
        let before = self.objects.get(key).map(|object| object.content.clone());
        let answer = self.effect(key, ask);
        self.hash_answer(&answer);
        if is_lost {
            "lost".hash(&mut self.trace);
            if let (true, true, Some(before)) = (is_replace && answer.is_ok(), self.lies.stale, before) {
                self.objects.get_mut(key).expect("just written").stale = Some((before, 2));
            }
            return Err(unavailable(key));
        }
        answer
    }

    fn effect(&mut self, key: &str, ask: Ask) -> Attempt<Reply> {
        let absent = || StoreError::NotFound { key: key.to_owned() };
        match ask {
            Ask::Put(content) => {
                let flips = self.lies.contents && key.contains("/log/") && self.random.chance(10);
                self.write(key, if flips { flipped(&content) } else { content });
                Ok(Reply::Done)
            }
            Ask::Get => {
                let object = self.objects.get_mut(key).ok_or_else(absent)?;
                let version = version(object.version);
                let content = match object.stale.take() {
                    Some((content, reads)) => {
                        object.stale = (reads > 1).then(|| (content.clone(), reads - 1));
                        content
                    }
                    None => object.content.clone(),
                };
                Ok(Reply::Content(content, version))
            }
            Ask::GetRanges(ranges) => {
                let content = &self.objects.get(key).ok_or_else(absent)?.content;
                let found = content.len() as u64;
                let piece = |range: &Range<u64>| {
                    if range.end > found {
                        return Err(StoreError::WrongLength { key: key.to_owned(), expected: range.end, found });
                    }
                    let at = |offset| usize::try_from(offset).expect("small");
                    Ok(content.slice(at(range.start)..at(range.end)))
                };
                Ok(Reply::Ranges(ranges.iter().map(piece).collect::<Result<_, _>>()?))
            }
            Ask::Size => Ok(Reply::Size(self.objects.get(key).ok_or_else(absent)?.content.len() as u64)),
            Ask::List => {
                let below = self.objects.iter().filter(|(name, _)| name.starts_with(key));
                let listed = below.map(|(name, object)| {
                    let length = object.content.len() as u64;
                    Listed { key: name.clone(), length, modified: None }
                });
                Ok(Reply::Listing(listed.collect()))
            }
            Ask::Directories => {
                let below = self.objects.keys().filter_map(|name| name.strip_prefix(key)?.split_once('/'));
                let mut names: Vec<String> = below.map(|(name, _)| name.to_owned()).collect();
                names.dedup();
                Ok(Reply::Names(names))
            }
            Ask::Delete => {
                if let Some(object) = self.objects.remove(key) {
                    self.changes.push(Changed { key: key.to_owned(), before: Some(object.content), after: None });
                }
                Ok(Reply::Done)
            }
            Ask::Replace(content, expected) => {
                let found =
                    self.objects.get(key).map_or(Expected::Absent, |object| Expected::Version(version(object.version)));
                // The probe of a start sees nothing of the lie, as where only some of many servers lie.
                if found != expected && !(self.lies.conditions && is_head(key)) {
                    return Err(StoreError::ConditionFailed { key: key.to_owned() });
                }
                if self.lies.take_overs && self.is_take_over(key, &content) {
                    return Ok(Reply::Version(version(self.objects[key].version)));
                }
                self.write(key, content);
                Ok(Reply::Version(version(self.versions)))
            }
        }
    }

    fn is_take_over(&self, key: &str, content: &Bytes) -> bool {
        let heads = self.objects.get(key).map(|object| (Head::parse_any(&object.content), Head::parse_any(content)));
        let Some((Ok(before), Ok(after))) = heads else { return false };
        after == Head { writer: after.writer, generation: after.generation, nonce: after.nonce, ..before }
    }

    fn write(&mut self, key: &str, content: Bytes) {
        xxh3_64(&content).hash(&mut self.trace);
        self.versions += 1;
        let object = Object { content: content.clone(), version: self.versions, stale: None };
        let before = self.objects.insert(key.to_owned(), object).map(|object| object.content);
        self.changes.push(Changed { key: key.to_owned(), before, after: Some(content) });
    }

    fn hash_answer(&mut self, answer: &Attempt<Reply>) {
        match answer {
            Ok(Reply::Ranges(pieces)) => pieces.iter().for_each(|piece| xxh3_64(piece).hash(&mut self.trace)),
            Ok(Reply::Listing(listed)) => listed.len().hash(&mut self.trace),
            Ok(answer) => std::mem::discriminant(answer).hash(&mut self.trace),
            Err(error) => std::mem::discriminant(error).hash(&mut self.trace),
        }
    }
}

impl Backend for SimBucket {
    fn put<'a>(&'a self, key: &'a str, payload: &'a Payload) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(async move {
            let length = usize::try_from(payload.length()).expect("small");
            let content = PayloadReader::new(payload).read(length).map_err(|cause| broken(key, cause))?;
            self.ask(key, Ask::Put(content)).await.map(|_| ())
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<(Bytes, Version)>> {
        Box::pin(async move {
            match self.ask(key, Ask::Get).await? {
                Reply::Content(content, version) => Ok((content, version)),
                other => unreachable!("{other:?}"),
            }
        })
    }

    fn get_ranges<'a>(&'a self, key: &'a str, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Attempt<Vec<Bytes>>> {
        Box::pin(async move {
            match self.ask(key, Ask::GetRanges(ranges.to_vec())).await? {
                Reply::Ranges(pieces) => Ok(pieces),
                other => unreachable!("{other:?}"),
            }
        })
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<u64>> {
        Box::pin(async move {
            match self.ask(key, Ask::Size).await? {
                Reply::Size(length) => Ok(length),
                other => unreachable!("{other:?}"),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Attempt<Listed>> {
        let listing = self.ask(prefix, Ask::List).map(|reply| match reply {
            Ok(Reply::Listing(listed)) => listed.into_iter().map(Ok).collect(),
            Ok(other) => unreachable!("{other:?}"),
            Err(error) => vec![Err(error)],
        });
        listing.into_stream().flat_map(stream::iter).boxed()
    }

    fn directories<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Attempt<Vec<String>>> {
        Box::pin(async move {
            match self.ask(prefix, Ask::Directories).await? {
                Reply::Names(names) => Ok(names),
                other => unreachable!("{other:?}"),
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(async move { self.ask(key, Ask::Delete).await.map(|_| ()) })
    }

    fn replace<'a>(&'a self, key: &'a str, content: Bytes, expected: &'a Expected) -> BoxFuture<'a, Attempt<Version>> {
        Box::pin(async move {
            match self.ask(key, Ask::Replace(content, expected.clone())).await? {
                Reply::Version(version) => Ok(version),
                other => unreachable!("{other:?}"),
            }
        })
    }
}

fn is_head(key: &str) -> bool {
    key.ends_with("/head.json")
}

fn flipped(content: &[u8]) -> Bytes {
    let mut content = content.to_vec();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    content.into()
}

fn version(number: u64) -> Version {
    Version(format!("v{number}"))
}

fn unavailable(key: &str) -> StoreError {
    StoreError::Unavailable { key: key.to_owned(), cause: "bad weather".into() }
}

fn broken(key: &str, cause: std::io::Error) -> StoreError {
    StoreError::Unavailable { key: key.to_owned(), cause: cause.into() }
}

//! The driver of one coordinator: a task that owns the machine and does what it says.
//!
//! The task waits for one thing at a time (a request, an append, a read, a deadline), tells the machine, and carries out
//! its actions in order. It keeps no state that matters after a crash. Requests come through a bounded queue, which is not
//! drained while too much waits for the log, so that a slow log slows its clients and nothing else.

use std::collections::HashMap;
use std::future::pending;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::coordinator::{Action, Coordinator, CoordinatorStats, Event, LoadFailure};
use super::records::LogRecord;
use super::request::{DeletedTopics, Reply, Request, Token};
use super::{GroupError, GroupSettings, Now};
use crate::record::{Batch, BatchBuilder, BatchOptions, RecordError, Records};
use crate::runtime::Runtime;
use crate::runtime::clock::Clock;
use crate::telemetry::{Gauge, GroupMetrics};
use crate::types::{LeaderEpoch, Monotonic, Offset, PartitionIndex};

/// Requests that wait for one coordinator; more wait with their senders. Each costs the bytes that its client sent.
const QUEUED_REQUESTS: usize = 256;
/// Bytes read from the log at a time while loading.
const LOAD_BYTES: usize = 1 << 20;
/// Bytes that one batch of the log may have when it is decompressed; this driver writes them uncompressed.
const MAX_OFFSETS_BATCH_BYTES: usize = 64 << 20;

/// The log of one partition of `__consumer_offsets`, as its leader has it.
///
/// It is led in one epoch: whatever else is appended, by this broker in another epoch or by others, this log refuses from then on.
/// Errors mean "not now", unless they say otherwise: the coordinator reads the log again and goes by what is there.
pub trait OffsetsLog: Send + Sync + 'static {
    /// Start and end of what is committed, once everything appended before has been settled.
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>>;

    /// Whole batches from the one that holds `from` on, about `max_bytes` but at least one; none at the end.
    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>>;

    /// Appends a batch in the leader epoch and resolves to its base offset once it is committed. After an error that may come to be
    /// all the same: [`OffsetsLog::range`] settles it, and what it does not cover then, it never will.
    fn append(&self, batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>>;

    /// Drops everything before `start`, which is the base offset of a batch. Durable before later appends are.
    fn advance_start(&self, start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>>;
}

/// The log does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetsLogError {
    /// This broker does not lead the partition any more, or not in that epoch, which is so for good.
    #[error("not the leader of the offsets partition")]
    NotLeader,
    /// The log can't be read or written now.
    #[error("offsets log is unavailable: {reason}")]
    Unavailable {
        /// What the log says.
        reason: String,
    },
    /// Something of the log is gone, which waiting does not bring back.
    #[error("offsets log is damaged: {reason}")]
    Damaged {
        /// What the log says.
        reason: String,
    },
}

/// What feeds the metrics of coordinators.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorMetrics {
    /// What they hold and do.
    pub groups: GroupMetrics,
    /// Memory that their state takes.
    pub used_bytes: Gauge,
}

/// A running coordinator. Dropping it resigns, and ends the task.
#[derive(Debug)]
pub struct Session {
    requests: mpsc::Sender<Call>,
    has_failed: Arc<AtomicBool>,
    /// Closes with the session, while requests may still be on their way.
    _lease: oneshot::Sender<()>,
}

type Call = (Request, oneshot::Sender<Reply>);

impl Session {
    /// Starts the coordinator of a partition on its log; it loads first. Runs on the current tokio runtime. `memory_bytes` is what
    /// the state of all coordinators takes that share a limit.
    pub fn start(
        partition: PartitionIndex,
        log: Arc<dyn OffsetsLog>,
        settings: Arc<GroupSettings>,
        runtime: &Runtime,
        metrics: CoordinatorMetrics,
        memory_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let clock = Arc::clone(&runtime.clock);
        let (sender, requests) = mpsc::channel(QUEUED_REQUESTS);
        let (lease, resigned) = oneshot::channel();
        let max_state_bytes = settings.max_state_bytes;
        let coordinator = Coordinator::new(settings, now(&*clock));
        let has_failed = Arc::new(AtomicBool::new(false));
        let driver = Driver {
            partition,
            coordinator,
            log,
            clock,
            metrics,
            max_state_bytes,
            memory_bytes,
            published: CoordinatorStats::default(),
            failure: None,
            has_failed: Arc::clone(&has_failed),
            waiting: HashMap::new(),
            next_token: 0,
            appending: None,
            loading: None,
            advancing: None,
        };
        runtime.watch.spawn(driver.run(requests, resigned));
        Self { requests: sender, has_failed, _lease: lease }
    }

    /// Whether the coordinator can't load its log, and does not try again.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Sends requests; they are answered even if the session ends meanwhile.
    pub(super) fn caller(&self) -> Caller {
        Caller { requests: self.requests.clone() }
    }
}

/// Sends requests to a session.
#[derive(Clone, Debug)]
pub struct Caller {
    requests: mpsc::Sender<Call>,
}

impl Caller {
    /// Has the coordinator forget the offsets of topics that were deleted; resolves when that is durable. It may be asked again.
    ///
    /// # Errors
    /// [`GroupError::NotCoordinator`] once the coordinator has ended; others pass.
    pub async fn forget_topics(&self, topics: Arc<DeletedTopics>) -> Result<(), GroupError> {
        match self.call(Request::TopicsDeleted { topics }).await {
            Reply::TopicsDeleted(result) => result,
            other => unreachable!("a reply has the kind of its request: {other:?}"),
        }
    }

    /// Waits until the coordinator has ended.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    /// Asks, and waits for the reply.
    pub(super) async fn call(&self, request: Request) -> Reply {
        let refused = request.refused(GroupError::NotCoordinator);
        let (sender, reply) = oneshot::channel();
        if self.requests.send((request, sender)).await.is_err() {
            return refused;
        }
        reply.await.unwrap_or(refused)
    }
}

/// How far reading the log is.
enum Loading {
    /// Its range has been asked for.
    Range(BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>>),
    /// The batches from `from` on have been asked for; the last ends at `end`.
    Read { from: Offset, end: Offset, read: BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> },
    /// Everything up to `end` has been read.
    Done { end: Offset },
}

struct Driver {
    partition: PartitionIndex,
    coordinator: Coordinator,
    log: Arc<dyn OffsetsLog>,
    clock: Arc<dyn Clock>,
    metrics: CoordinatorMetrics,
    /// Of all coordinators together.
    max_state_bytes: usize,
    memory_bytes: Arc<AtomicUsize>,
    /// What the metrics have been told, and the other coordinators.
    published: CoordinatorStats,
    /// What was said of the log that can't be read.
    failure: Option<LoadFailure>,
    has_failed: Arc<AtomicBool>,
    waiting: HashMap<Token, oneshot::Sender<Reply>>,
    next_token: u64,
    appending: Option<BoxFuture<'static, Event>>,
    loading: Option<Loading>,
    advancing: Option<BoxFuture<'static, Event>>,
}

impl Driver {
    async fn run(mut self, mut requests: mpsc::Receiver<Call>, mut resigned: oneshot::Receiver<()>) {
        loop {
            // In this order, so that a run depends on what is ready and on nothing else.
            let event = tokio::select! {
                biased;
                _ = &mut resigned => break,
                event = settled(&mut self.appending) => event,
                event = load(&mut self.loading, &*self.log) => event,
                event = settled(&mut self.advancing) => event,
                () = sleep_until(&*self.clock, self.coordinator.next_timeout()) => Event::Timeout,
                call = requests.recv(), if self.coordinator.accepts_requests() => match call {
                    Some((request, reply)) => {
                        self.next_token += 1;
                        let token = Token(self.next_token);
                        self.waiting.insert(token, reply);
                        Event::Request { token, request }
                    }
                    None => break,
                },
            };
            self.step(event);
        }
        self.step(Event::Resign);
        self.publish(CoordinatorStats { groups: 0, members: 0, offsets: 0, state_bytes: 0, ..self.published });
    }

    fn step(&mut self, event: Event) {
        let others = self.memory_bytes.load(Ordering::Relaxed).saturating_sub(self.published.state_bytes);
        self.coordinator.limit_state(self.max_state_bytes.saturating_sub(others));
        for action in self.coordinator.handle(now(&*self.clock), event) {
            match action {
                // The asker may have given up.
                Action::Reply(token, reply) => drop(self.waiting.remove(&token).map(|waiting| waiting.send(reply))),
                Action::Append(records) => self.appending = Some(self.append(&records)),
                Action::Load => self.loading = Some(Loading::Range(self.log.range())),
                Action::AdvanceLogStart(offset) => {
                    let advance = self.log.advance_start(offset);
                    self.advancing = Some(Box::pin(async move {
                        if let Err(error) = advance.await {
                            tracing::warn!(%error, %offset, "offsets log keeps its start for now");
                        }
                        Event::LogStartAdvanced { offset }
                    }));
                }
            }
        }
        self.publish(self.coordinator.stats());
        self.tell_failure();
    }

    /// Says why the log is not loaded, once: it may be tried again and again.
    fn tell_failure(&mut self) {
        let failure = self.coordinator.failure();
        if failure == self.failure.as_ref() {
            return;
        }
        let partition = self.partition;
        match failure {
            Some(LoadFailure { error, is_final: true }) => tracing::error!(
                error,
                %partition,
                "offsets log can't be read; its groups have no coordinator until the log is put right, or until what is damaged is given up (DeleteRecords)"
            ),
            Some(LoadFailure { error, is_final: false }) => {
                tracing::warn!(error, %partition, "offsets log can't be loaded now; it is tried again");
            }
            None => {}
        }
        self.has_failed.store(failure.is_some_and(|failure| failure.is_final), Ordering::Relaxed);
        self.failure = failure.cloned();
    }

    fn append(&self, records: &[LogRecord]) -> BoxFuture<'static, Event> {
        let timestamp = self.clock.wall();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in records {
            builder.append(timestamp, Some(&record.key), record.value.as_deref(), std::iter::empty());
        }
        let log = Arc::clone(&self.log);
        let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE);
        Box::pin(async move {
            let appended = match batch {
                Ok(batch) => {
                    let bytes = batch.bytes().len() as u64;
                    log.append(batch).await.map(|base_offset| Event::Appended { base_offset, bytes })
                }
                Err(error) => Err(OffsetsLogError::Unavailable { reason: error.to_string() }),
            };
            appended.unwrap_or_else(|error| Event::AppendFailed { error })
        })
    }

    fn publish(&mut self, stats: CoordinatorStats) {
        let grown = |new: usize, old: usize| i64::try_from(new).unwrap_or(0) - i64::try_from(old).unwrap_or(0);
        let earlier = std::mem::replace(&mut self.published, stats);
        let CoordinatorMetrics { groups, used_bytes } = &self.metrics;
        used_bytes.inc_by(grown(stats.state_bytes, earlier.state_bytes));
        self.memory_bytes.fetch_add(stats.state_bytes, Ordering::Relaxed);
        self.memory_bytes.fetch_sub(earlier.state_bytes, Ordering::Relaxed);
        groups.groups.inc_by(grown(stats.groups, earlier.groups));
        groups.members.inc_by(grown(stats.members, earlier.members));
        groups.offsets.inc_by(grown(stats.offsets, earlier.offsets));
        groups.failed_coordinators.inc_by(grown(stats.failed, earlier.failed));
        groups.rebalances.inc_by(stats.rebalances - earlier.rebalances);
        groups.expired_members.inc_by(stats.expired_members - earlier.expired_members);
        groups.committed_offsets.inc_by(stats.committed_offsets - earlier.committed_offsets);
    }
}

fn now(clock: &dyn Clock) -> Now {
    Now { monotonic: clock.monotonic(), wall: clock.wall() }
}

/// Waits for a future that stays in its slot when the wait is dropped; for ever when there is none.
async fn settled<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => pending().await,
    }
}

async fn sleep_until(clock: &dyn Clock, deadline: Option<Monotonic>) {
    match deadline {
        Some(deadline) => clock.sleep(deadline.since(clock.monotonic())).await,
        None => pending().await,
    }
}

/// Reads the log piece by piece; resolves to each piece, then to its end, and waits for ever when nothing is to be read.
async fn load(loading: &mut Option<Loading>, log: &dyn OffsetsLog) -> Event {
    loop {
        let read = match loading {
            None => return pending().await,
            Some(Loading::Range(range)) => range.await.map(|range| (None, range.start, range.end)),
            Some(Loading::Read { from, end, read }) => {
                let batches = read.await;
                let read = batches.and_then(|batches| decode(&batches, *from));
                read.map(|(records, bytes, next)| (Some(Event::Replay { records, bytes }), next, *end))
            }
            Some(Loading::Done { end }) => {
                let next_offset = *end;
                *loading = None;
                return Event::Loaded { next_offset };
            }
        };
        match read {
            Ok((replay, from, end)) => {
                *loading = Some(match from < end {
                    true => Loading::Read { from, end, read: log.read(from, LOAD_BYTES) },
                    false => Loading::Done { end },
                });
                if let Some(replay) = replay {
                    return replay;
                }
            }
            Err(error) => {
                *loading = None;
                return Event::LoadFailed { error };
            }
        }
    }
}

/// Walks all records that a log has, in order.
///
/// # Errors
/// [`OffsetsLogError`]; some were walked then.
pub async fn walk_log(log: &dyn OffsetsLog, mut each: impl FnMut(LogRecord) + Send) -> Result<(), OffsetsLogError> {
    let Range { start: mut from, end } = log.range().await?;
    while from < end {
        let (records, _, next) = decode(&log.read(from, LOAD_BYTES).await?, from)?;
        records.into_iter().for_each(&mut each);
        from = next;
    }
    Ok(())
}

/// The records of batches from `from` on, the bytes of the batches, and the offset after them. The records are copies: some live
/// long, and would keep the whole read in memory.
fn decode(batches: &[Batch], from: Offset) -> Result<(Vec<LogRecord>, u64, Offset), OffsetsLogError> {
    let unreadable = |error: RecordError, next: Offset| {
        let advice = format!("delete the records below offset {next}");
        OffsetsLogError::Damaged { reason: format!("{error}; {advice}") }
    };
    let (mut records, mut bytes, mut next) = (Vec::new(), 0, from);
    for batch in batches {
        let header = batch.header();
        bytes += batch.bytes().len() as u64;
        next = next.max(header.next_offset());
        if header.attributes.is_control() {
            continue;
        }
        let payload = batch.decompressed(MAX_OFFSETS_BATCH_BYTES);
        let payload = payload.map_err(|error| unreadable(error, header.next_offset()))?;
        for record in Records::new(&payload, header.record_count) {
            let record = record.map_err(|error| unreadable(error, header.next_offset()))?;
            if let Some(key) = record.key
                && header.base_offset + i64::from(record.offset_delta) >= from
            {
                let value = record.value.map(Bytes::copy_from_slice);
                records.push(LogRecord { key: Bytes::copy_from_slice(key), value });
            }
        }
    }
    if next == from {
        return Err(OffsetsLogError::Damaged { reason: format!("no batch at offset {from}") });
    }
    Ok((records, bytes, next))
}

#[cfg(test)]
mod tests;

//! Many lives of one data directory under a seed: appends, reads, truncations, deletions, full disks, kills and power cuts,
//! checked against a model after every step and every recovery.
//!
//! `ALLUVIUM_SIM_SEEDS` sets how many seeds run (and `ALLUVIUM_SIM_SEED` the first), for longer runs in CI; a failure prints
//! the seed. Long because one model is compared with one log in all that can happen to it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{
    AppendError, Continuation, DirectoryMetrics, DirectorySettings, JournalSettings, Level, LogDirectory, LogSettings,
    Owner, PartitionLog, ProducerState, Wait,
};
use crate::record::{Batch, BatchBuilder, BatchOptions, Batches};
use crate::runtime::disk::EMFILE;
use crate::sim::{Lies, Machine, Operation, Random, number};
use crate::types::{
    ClusterId, Incarnation, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition,
};

const DATA: &str = "/data";
const LIVES: usize = 6;

/// A batch that was appended, as it must be read back.
#[derive(Clone, Debug)]
struct Written {
    base_offset: Offset,
    next_offset: Offset,
    bytes: Bytes,
    producer: usize,
    base_sequence: i32,
}

#[derive(Default)]
struct Model {
    batches: Vec<Written>,
    /// Offsets below this were acknowledged.
    acknowledged: Offset,
    /// Highest log start that was asked for, and the highest that is certain.
    log_start: Offset,
    certain_log_start: Offset,
    /// A truncation that may or may not have happened.
    cut: Option<Offset>,
    /// Where the log went on without what it had before: for certain, and perhaps.
    continued_at: Offset,
    continuing_at: Option<Offset>,
    waits: Vec<(Offset, Wait)>,
    epoch: LeaderEpoch,
    deletion_asked: bool,
    deletion_certain: bool,
    /// A checkpoint was lost: deleted records may be back, or be taken for archived ones.
    checkpoint_lost: bool,
}

impl Model {
    fn log_end(&self) -> Offset {
        self.batches.last().map_or(self.continued_at, |last| last.next_offset)
    }

    fn continue_at(&mut self, at: Offset) {
        self.batches.clear();
        self.waits.clear();
        self.acknowledged = at;
        self.continued_at = at;
        (self.log_start, self.certain_log_start) = (at, at);
    }

    fn next_sequence(&self, producer: usize) -> i32 {
        let last = self.batches.iter().rev().find(|batch| batch.producer == producer);
        last.map_or(0, |batch| batch.base_sequence + i32::try_from(batch.next_offset - batch.base_offset).unwrap())
    }

    fn truncate(&mut self, end: Offset) {
        self.batches.retain(|batch| batch.next_offset <= end);
        self.acknowledged = self.acknowledged.min(end);
        self.waits.retain(|(offset, _)| *offset <= end);
    }
}

struct World {
    machine: Machine,
    random: Random,
    directory: Option<LogDirectory>,
    models: BTreeMap<TopicPartition, Model>,
    next_topic: u8,
    next_value: u64,
    /// The checkpoint has been lost since the last start that worked.
    checkpoint_lost: bool,
    /// The process lacks file descriptors, where that is tried.
    starved: Arc<AtomicBool>,
}

type Check = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

mod replica;

fn settings() -> DirectorySettings {
    DirectorySettings {
        journal: JournalSettings { file_bytes: 32 << 10, max_bytes: 192 << 10 },
        tail_bytes: 16 << 10,
        index_bytes: 256,
        unwritten_bytes: 64 << 10,
        write_behind_bytes: 3 << 10,
        checkpoint_bytes: 60 << 10,
        checkpoint_interval: std::time::Duration::from_secs(5),
        max_producers: 10_000,
        removed_bytes: 1,
    }
}

fn log_settings() -> LogSettings {
    LogSettings { segment_bytes: 12 << 10, segment_age: std::time::Duration::from_secs(30), ..LogSettings::default() }
}

/// Every third topic is written with caching.
fn is_cached(partition: TopicPartition) -> bool {
    partition.topic_id.as_bytes()[0].is_multiple_of(3)
}

impl World {
    fn new(seed: u64, lies: Lies) -> Self {
        let machine = Machine::new(seed);
        machine.disk.set_lies(lies);
        let mut world = Self {
            machine,
            random: Random::new(seed),
            directory: None,
            models: BTreeMap::new(),
            next_topic: 0,
            next_value: 0,
            checkpoint_lost: false,
            starved: Arc::default(),
        };
        for _ in 0..3 {
            world.add_topic();
        }
        world
    }

    fn add_topic(&mut self) {
        self.next_topic += 1;
        let partition = TopicPartition::new(TopicId::from_bytes([self.next_topic; 16]), 0);
        self.models.insert(partition, Model { epoch: LeaderEpoch::NONE, ..Model::default() });
    }

    fn open(&mut self) -> Check {
        let owner =
            Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
        match LogDirectory::open(
            &self.machine.runtime(),
            Path::new(DATA),
            owner,
            settings(),
            DirectoryMetrics::default(),
        ) {
            Ok((directory, _)) => {
                self.directory = Some(directory);
                self.machine.let_journals_go_on(self.random.next());
            }
            // The power may go during recovery too.
            Err(_) if !self.machine.disk.is_powered() => {}
            Err(error) => return Err(format!("directory does not open: {error}")),
        }
        Ok(())
    }

    /// From now on most of what needs a file descriptor fails while the process is starved of them.
    fn limit_descriptors(&mut self) {
        let (starved, mut random) = (Arc::clone(&self.starved), Random::new(self.random.next()));
        self.machine.disk.meanwhile(move |operation, _| {
            let needs_one = matches!(operation, Operation::Open | Operation::SyncDirectory | Operation::SyncFilesystem);
            let fails = needs_one && starved.load(Ordering::Relaxed) && random.chance(70);
            if fails { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
        });
    }

    /// Has everything done that is to be done.
    fn run_all(&mut self) {
        let starved = self.starve(false);
        // What failed is tried again by the clock.
        self.directory.as_ref().expect("open").tick();
        self.machine.tasks.run_all(&mut self.random);
        self.starve(starved);
        self.acknowledge();
    }

    fn starve(&mut self, starved: bool) -> bool {
        self.starved.swap(starved, Ordering::Relaxed)
    }

    fn log(&self, partition: TopicPartition) -> Arc<PartitionLog> {
        let settings = LogSettings { write_caching: is_cached(partition), ..log_settings() };
        self.directory.as_ref().expect("open").log_or_create(partition, settings)
    }

    fn any_partition(&mut self) -> TopicPartition {
        let alive: Vec<_> =
            self.models.iter().filter(|(_, model)| !model.deletion_asked).map(|(partition, _)| *partition).collect();
        alive[usize::try_from(self.random.below(alive.len() as u64)).unwrap()]
    }

    fn batch(&mut self, producer: usize, base_sequence: i32) -> Batch {
        let count = 1 + i32::try_from(self.random.below(3)).unwrap();
        let options = BatchOptions {
            producer_id: ProducerId(100 + i64::try_from(producer).unwrap()),
            producer_epoch: ProducerEpoch(0),
            base_sequence,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        for _ in 0..count {
            self.next_value += 1;
            let size = if self.random.chance(5) { 6000 } else { self.random.below(400) };
            let mut value = vec![self.next_value as u8; usize::try_from(size).unwrap()];
            value.extend_from_slice(&self.next_value.to_be_bytes());
            let timestamp = Timestamp(i64::try_from(self.next_value).unwrap());
            builder.append(timestamp, None, Some(&value), std::iter::empty());
        }
        builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
    }

    fn append(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        let producer = usize::try_from(self.random.below(3)).unwrap();
        let sequence = self.models[&partition].next_sequence(producer);
        let batch = self.batch(producer, sequence);
        let now = self.machine.runtime().clock.wall();
        let Some(permit) = self.directory.as_ref().expect("open").try_admit_producer(batch.bytes().len()) else {
            return Ok(());
        };
        let model = self.models.get_mut(&partition).expect("known");
        if model.epoch == LeaderEpoch::NONE {
            model.epoch = log.epochs().latest().unwrap_or(LeaderEpoch::NONE).next();
            if log.begin_epoch(model.epoch).is_err() {
                model.epoch = LeaderEpoch::NONE;
                return Ok(());
            }
        }
        let appended = match log.append(&batch, model.epoch, now, Some(permit)) {
            Ok(appended) => appended,
            Err(AppendError::Offline { .. } | AppendError::Deleted) => return Ok(()),
            Err(error) => return Err(format!("append refused: {error}")),
        };
        ensure!(appended.duplicate.is_none(), "a new batch was taken for a duplicate");
        ensure!(appended.base_offset == model.log_end(), "offset {} is not {}", appended.base_offset, model.log_end());
        model.batches.push(Written {
            base_offset: appended.base_offset,
            next_offset: appended.next_offset,
            bytes: batch.placed(appended.base_offset, model.epoch).bytes().clone(),
            producer,
            base_sequence: sequence,
        });
        model.waits.push((appended.next_offset, log.when(Level::Committed, appended.next_offset)));
        Ok(())
    }

    /// Collects acknowledgements.
    fn acknowledge(&mut self) {
        for model in self.models.values_mut() {
            let mut reached = model.acknowledged;
            model.waits.retain_mut(|(offset, wait)| {
                let done = match wait {
                    Wait::Ready => true,
                    Wait::Pending(receiver) => receiver.try_recv().is_ok(),
                };
                if done {
                    reached = reached.max(*offset);
                }
                !done
            });
            model.acknowledged = reached;
        }
    }

    fn read_some(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        if log.is_deleted() {
            return Ok(());
        }
        let offsets = log.offsets();
        offsets.check();
        let span = (offsets.high_watermark - offsets.local_log_start).max(1).cast_unsigned();
        let from = offsets.local_log_start + self.random.below(span).cast_signed();
        let limit = 1 + usize::try_from(self.random.below(9000)).unwrap();
        let plan = log.read(from, offsets.high_watermark, limit).map_err(|error| error.to_string())?;
        let chunks = match plan.execute() {
            Ok(chunks) => chunks,
            Err(_) if !self.machine.disk.is_powered() || self.starved.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => return Err(format!("read at {from} failed: {error}")),
        };
        let model = &self.models[&partition];
        let mut expected = model
            .batches
            .iter()
            .filter(|batch| batch.next_offset > from && batch.next_offset <= offsets.high_watermark);
        ensure!(from >= offsets.high_watermark || !chunks.is_empty(), "nothing at {from}: {offsets:?}");
        for chunk in chunks {
            let Some(batch) = expected.next() else { return Err(format!("too much was read at {from}")) };
            ensure!(batch.bytes == chunk, "wrong batch at {from}: expected offset {}", batch.base_offset);
        }
        Ok(())
    }

    fn find_timestamp(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        let offsets = log.offsets();
        let sought = Timestamp(self.random.below(self.next_value + 10).cast_signed());
        let found = match log.find_timestamp(sought, offsets.high_watermark).execute() {
            Ok(found) => found.map(|batch| batch.header().base_offset),
            Err(_) => return Ok(()),
        };
        let expected = self.models[&partition].batches.iter().find(|batch| {
            let header = Batches::new(batch.bytes.clone()).next().unwrap().unwrap();
            header.header().max_timestamp >= sought
                && batch.next_offset > offsets.local_log_start
                && batch.next_offset <= offsets.high_watermark
        });
        let expected = expected.map(|batch| batch.base_offset);
        ensure!(log.is_deleted() || found == expected, "timestamp {sought}: found {found:?}, not {expected:?}");
        Ok(())
    }

    /// Sends one of the last five batches of a producer again.
    fn retry(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        let model = &self.models[&partition];
        let producer = usize::try_from(self.random.below(3)).unwrap();
        let own: Vec<_> = model.batches.iter().filter(|batch| batch.producer == producer).cloned().collect();
        if own.is_empty() || model.epoch == LeaderEpoch::NONE {
            return Ok(());
        }
        let back = usize::try_from(self.random.below(own.len().min(5) as u64)).unwrap();
        let again = &own[own.len() - 1 - back];
        if again.base_offset < log.offsets().local_log_start {
            // A truncation looks producers up in the local log, which may have begun later.
            return Ok(());
        }
        let batch = Batches::new(again.bytes.clone()).next().unwrap().unwrap();
        let now = self.machine.runtime().clock.wall();
        match log.append(&batch, model.epoch, now, None) {
            Ok(appended) => {
                ensure!(appended.duplicate.is_some(), "a retry of offset {} was appended again", again.base_offset);
                ensure!(appended.base_offset == again.base_offset, "a retry was found at the wrong place");
                Ok(())
            }
            Err(AppendError::Offline { .. } | AppendError::Deleted) => Ok(()),
            Err(error) => Err(format!("a retry was refused: {error}")),
        }
    }

    fn truncate(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        let offsets = log.offsets();
        let model = self.models.get_mut(&partition).expect("known");
        let floor = offsets.local_log_start.max(model.log_start);
        let candidates: Vec<_> =
            model.batches.iter().map(|batch| batch.base_offset).filter(|&base| base >= floor).collect();
        if candidates.is_empty() || log.is_deleted() {
            return Ok(());
        }
        // Rarely far back, mostly near the end.
        let span = if self.random.chance(20) { candidates.len() } else { candidates.len().min(4) };
        let end = candidates[candidates.len() - 1 - usize::try_from(self.random.below(span as u64)).unwrap()];
        if log.truncate_to(end).is_err() {
            return Ok(());
        }
        model.cut = Some(end);
        self.run_all();
        if log.truncated() {
            let model = self.models.get_mut(&partition).expect("known");
            model.truncate(end);
            model.cut = None;
        }
        Ok(())
    }

    /// Gives up what the log has, as when an archive is found to be further.
    fn continue_at(&mut self, partition: TopicPartition) {
        let log = self.log(partition);
        let offsets = log.offsets();
        // Nothing is archived here, so the log begins where it goes on; backwards it may go too.
        let at = Offset((offsets.log_end.0 + self.random.below(20).cast_signed() - 5).max(offsets.log_start.0));
        let mut epochs = log.epochs();
        epochs.truncate_to(at);
        let continuation = Continuation { log_start: at, at, epochs, producers: ProducerState::default() };
        let model = self.models.get_mut(&partition).expect("known");
        if model.log_start > at || log.continue_at(continuation).is_err() {
            return;
        }
        model.continuing_at = Some(at);
        self.run_all();
        if log.truncated() {
            let model = self.models.get_mut(&partition).expect("known");
            model.continue_at(at);
            model.continuing_at = None;
        }
    }

    fn advance_log_start(&mut self, partition: TopicPartition) {
        let log = self.log(partition);
        let offsets = log.offsets();
        let span = (offsets.high_watermark - offsets.log_start + 1).cast_unsigned();
        let target = offsets.log_start + self.random.below(span).cast_signed();
        if log.advance_log_start(target).is_ok() {
            let model = self.models.get_mut(&partition).expect("known");
            model.log_start = model.log_start.max(target);
        }
    }

    fn delete(&mut self, partition: TopicPartition) {
        let log = self.log(partition);
        if log.delete().is_ok() {
            self.models.get_mut(&partition).expect("known").deletion_asked = true;
            self.add_topic();
        }
    }

    fn step(&mut self) -> Check {
        let partition = self.any_partition();
        match self.random.below(100) {
            0..55 => self.append(partition)?,
            55..65 => self.read_some(partition)?,
            65..70 => self.retry(partition)?,
            70..73 => self.find_timestamp(partition)?,
            73..76 => self.truncate(partition)?,
            76..78 => self.advance_log_start(partition),
            78 if self.random.chance(50) => self.continue_at(partition),
            78 => self.delete(partition),
            79 => self.log(partition).request_roll(),
            80 => self.directory.as_ref().expect("open").request_checkpoint(),
            81 | 82 => {
                let below = self.log(partition).offsets().log_start;
                // A power cut may interrupt it.
                let _ = self.log(partition).remove_local_below(below);
            }
            83..86 => {
                self.machine.pass_ms(700);
                self.directory.as_ref().expect("open").tick();
            }
            _ => {
                self.machine.tasks.run_one(&mut self.random);
            }
        }
        self.acknowledge();
        Ok(())
    }

    /// One life of the process, from start to whatever ends it.
    fn live(&mut self) -> Check {
        let ending = self.random.below(10);
        if ending < 7 {
            self.machine.disk.cut_power_after(self.random.below(500));
        }
        if self.random.chance(20) {
            self.lose_checkpoint();
        }
        self.open()?;
        if self.directory.is_some() {
            self.check_recovered()?;
            let is_limited = self.random.chance(40);
            if is_limited {
                self.limit_descriptors();
            }
            for _ in 0..400 {
                if is_limited && self.random.chance(4) {
                    let starved = self.starve(false);
                    self.starve(!starved);
                }
                self.step()?;
                if !self.machine.disk.is_powered() {
                    break;
                }
                ensure!(!self.directory.as_ref().expect("open").is_offline(), "the directory is offline");
            }
            self.starve(false);
        }
        let directory = self.directory.take();
        match (ending, directory) {
            (0..7, directory) => {
                self.machine.power_cut();
                // What was only written may be gone, from some batch on.
                let cached = self.models.iter_mut().filter(|(partition, _)| is_cached(**partition));
                cached.for_each(|(_, model)| model.acknowledged = model.certain_log_start);
                drop(directory);
            }
            (9, Some(directory)) => {
                directory.close();
            }
            (_, directory) => {
                self.machine.kill();
                drop(directory);
            }
        }
        self.machine.tasks.forget_all();
        self.machine.disk.restart();
        Ok(())
    }

    /// The checkpoint's file goes, or loses its end; not a bit of it, which would be mended by being lost twice.
    fn lose_checkpoint(&mut self) {
        let path = Path::new(DATA).join("checkpoint");
        if self.machine.disk.files().contains(&path) {
            self.checkpoint_lost = true;
            let mut content = self.machine.disk.content(&path);
            // A disk that lies may have left nothing in it.
            if self.random.chance(50) || content.pop().is_none() {
                self.machine.disk.lose(&path);
            } else {
                self.machine.disk.put(&path, content);
            }
        }
    }

    /// What was acknowledged is there, in order, once; what was not may be there, as a prefix of what was appended.
    fn check_recovered(&mut self) -> Check {
        if std::mem::take(&mut self.checkpoint_lost) {
            for model in self.models.values_mut() {
                model.checkpoint_lost = true;
                model.certain_log_start = Offset::ZERO;
            }
        }
        let partitions: Vec<_> = self.models.keys().copied().collect();
        for partition in partitions {
            let is_here = self.directory.as_ref().expect("open").log(partition).is_some();
            let model = &self.models[&partition];
            if model.deletion_asked && (model.deletion_certain || !is_here) {
                ensure!(!is_here, "a deleted partition came back");
                self.models.get_mut(&partition).expect("known").deletion_certain = true;
                continue;
            }
            self.check_partition(partition).map_err(|error| format!("partition {partition}: {error}"))?;
        }
        let gone = |_: &TopicPartition, model: &mut Model| !model.deletion_certain;
        self.models.retain(gone);
        Ok(())
    }

    fn check_partition(&mut self, partition: TopicPartition) -> Check {
        let log = self.log(partition);
        let offsets = log.offsets();
        offsets.check();
        let model = self.models.get_mut(&partition).expect("known");
        model.waits.clear();
        model.epoch = LeaderEpoch::NONE;
        if let Some(at) = model.continuing_at.take().filter(|&at| offsets.log_start >= at && offsets.log_end == at) {
            model.continue_at(at);
        }
        let was_cut = model.cut.take().filter(|&cut| offsets.log_end <= cut);
        if let Some(cut) = was_cut {
            model.acknowledged = model.acknowledged.min(cut);
        }
        let (end, acknowledged) = (offsets.log_end, model.acknowledged);
        ensure!(end >= acknowledged, "acknowledged records are lost: {acknowledged} > {end}");
        ensure!(offsets.high_watermark == end, "a single replica commits what it has: {offsets:?}");
        ensure!(
            offsets.log_start >= model.certain_log_start && offsets.log_start <= model.log_start,
            "log start {} is not within {}..={}",
            offsets.log_start,
            model.certain_log_start,
            model.log_start
        );
        model.certain_log_start = offsets.log_start;
        model.log_start = offsets.log_start;
        model.truncate(end);
        ensure!(model.log_end() == end, "log ends at {end}, within a batch or beyond {}", model.log_end());
        let mut from = offsets.local_log_start;
        let nothing_is_archived = offsets.local_log_start == offsets.log_start || model.checkpoint_lost;
        ensure!(nothing_is_archived, "nothing is archived here: {offsets:?}");
        while from < end {
            let read = log.read(from, end, 4096).and_then(super::ReadPlan::execute);
            let chunks = match read {
                Ok(chunks) => chunks,
                Err(_) if !self.machine.disk.is_powered() => return Ok(()),
                Err(error) => return Err(format!("read at {from} failed: {error}")),
            };
            ensure!(!chunks.is_empty(), "nothing at {from} of {offsets:?}");
            for chunk in chunks {
                let expected = model.batches.iter().find(|batch| batch.next_offset > from);
                let expected = expected.expect("the model reaches as far as the log");
                ensure!(chunk == expected.bytes, "wrong bytes at {from}");
                from = expected.next_offset;
            }
        }
        Ok(())
    }
}

/// Runs one seed; the trace, or what went wrong.
fn run(seed: u64, lies: Lies) -> Result<u64, String> {
    let mut world = World::new(seed, lies);
    for life in 0..LIVES {
        world.live().map_err(|error| format!("life {life}: {error}"))?;
    }
    // A last start, on a disk that works.
    world.open().map_err(|error| format!("last start: {error}"))?;
    world.check_recovered().map_err(|error| format!("last start: {error}"))?;
    let trace = world.machine.trace();
    drop(world.directory.take());
    world.machine.kill();
    Ok(trace)
}

/// Runs one seed twice, which has to go the same way.
fn run_twice(seed: u64) -> Result<(), String> {
    let trace = run(seed, Lies::default())?;
    let again = run(seed, Lies::default()).map_err(|error| format!("only in the second run: {error}"))?;
    if trace == again { Ok(()) } else { Err(format!("the second run differs: {trace:x} and {again:x}")) }
}

#[test]
fn acknowledged_records_survive_every_crash() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", 60) {
        if let Err(error) = run_twice(seed) {
            panic!("{error}\nreplay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib log::simulation");
        }
    }
}

#[test]
fn a_disk_that_does_not_keep_its_word_is_found_out() {
    let found = |lies| (1..30).filter(|&seed| run(seed, lies).is_err()).count();
    let lost_journal = found(Lies { durable_writes: true, ..Lies::default() });
    let lost_segments = found(Lies { syncs: true, ..Lies::default() });
    assert!(lost_journal > 5, "durable writes that are not: found in {lost_journal} of 29 runs");
    assert!(lost_segments > 5, "syncs that do nothing: found in {lost_segments} of 29 runs");
}

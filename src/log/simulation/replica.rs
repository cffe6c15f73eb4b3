//! Lives of logs that are one of several replicas: leaders' batches and own ones, new leader epochs, cuts where histories part, high
//! watermarks as they are told, kills and power cuts.
//!
//! Checked against a model: what was durable is there after any crash, in the epochs that it was appended in; a high watermark is
//! never beyond what is durable, nor beyond what was ever committed; a follower reads what the log has.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Check, DATA, LIVES, log_settings, settings};
use crate::log::{
    AppendError, DirectoryMetrics, LogDirectory, Owner, PartitionLog, ReplicaBatches, ReplicaRead, ReplicaRun,
    Replication,
};
use crate::record::{Batch, BatchBuilder, BatchOptions};
use crate::sim::{Machine, Random, number};
use crate::types::{ClusterId, Incarnation, LeaderEpoch, NodeId, Offset, Timestamp, TopicId, TopicPartition};

const PARTITIONS: usize = 2;

#[derive(Default)]
struct Model {
    /// With their place, from the first offset on.
    batches: Vec<Batch>,
    /// Everything below was durable.
    durable: Offset,
    /// The most that was ever committed.
    committed: Offset,
    /// Highest log start that was asked for, and the highest that is certain.
    log_start: Offset,
    certain_log_start: Offset,
    /// A cut that may or may not have happened.
    cut: Option<Offset>,
    epoch: LeaderEpoch,
}

impl Model {
    fn end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, |last| last.header().next_offset())
    }

    fn truncate(&mut self, end: Offset) {
        self.batches.retain(|batch| batch.header().next_offset() <= end);
        self.durable = self.durable.min(end);
    }
}

struct World {
    machine: Machine,
    random: Random,
    directory: Option<LogDirectory>,
    models: Vec<Model>,
    next_value: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let models = (0..PARTITIONS).map(|_| Model::default()).collect();
        Self { machine: Machine::new(seed), random: Random::new(seed), directory: None, models, next_value: 0 }
    }

    fn open(&mut self) -> Check {
        let owner =
            Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
        let (runtime, metrics) = (self.machine.runtime(), DirectoryMetrics::default());
        match LogDirectory::open(&runtime, Path::new(DATA), owner, settings(), metrics) {
            Ok((directory, _)) => {
                self.directory = Some(directory);
                self.machine.let_journals_go_on(self.random.next());
            }
            Err(_) if !self.machine.disk.is_powered() => {}
            Err(error) => return Err(format!("directory does not open: {error}")),
        }
        Ok(())
    }

    fn directory(&self) -> &LogDirectory {
        self.directory.as_ref().expect("open")
    }

    fn log(&self, index: usize) -> Arc<PartitionLog> {
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), i32::try_from(index).unwrap());
        self.directory().log_or_create(partition, log_settings())
    }

    fn run_all(&mut self) {
        self.directory().tick();
        self.machine.tasks.run_all(&mut self.random);
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap()
    }

    /// An offset from `from` up to `to`.
    fn within(&mut self, from: Offset, to: Offset) -> Offset {
        from + self.random.below((to - from + 1).cast_unsigned()).cast_signed()
    }

    fn batch(&mut self) -> Batch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for _ in 0..=self.random.below(3) {
            self.next_value += 1;
            let size = if self.random.chance(5) { 6000 } else { self.below(400) };
            let mut value = vec![self.next_value as u8; size];
            value.extend_from_slice(&self.next_value.to_be_bytes());
            builder.append(Timestamp(self.next_value.cast_signed()), None, Some(&value), std::iter::empty());
        }
        builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
    }

    /// Takes batches, as a leader from producers or as a follower from the leader.
    fn append(&mut self, index: usize) -> Check {
        let log = self.log(index);
        let (now, epoch) = (self.machine.runtime().clock.wall(), self.models[index].epoch);
        let is_led = log.replication() == Replication::Led;
        let count = if is_led { 1 } else { 1 + self.below(3) };
        let (mut batches, mut end): (Vec<Batch>, _) = (Vec::new(), self.models[index].end());
        let last = self.models[index].batches.last().map_or(epoch, |last| last.header().leader_epoch);
        // The leader may have more of the epoch before its own.
        let older = if self.random.chance(30) { last } else { epoch };
        for nth in 0..count {
            let is_own = is_led || nth > 0;
            let batch = self.batch().placed(end, if is_own { epoch } else { older });
            end = batch.header().next_offset();
            batches.push(batch);
        }
        let run = batches.iter().map(|batch| &batch.bytes()[..]).collect::<Vec<_>>().concat();
        let Some(permit) = self.directory().try_admit_producer(run.len()) else { return Ok(()) };
        let appended = if is_led {
            log.append(&batches[0], epoch, now, Some(permit)).map(|appended| appended.next_offset)
        } else {
            let run = ReplicaRun::new(Bytes::from(run)).map_err(|error| error.to_string())?;
            log.append_replica(&run, epoch, now, Some(permit)).map(|appended| appended.log_end)
        };
        match appended {
            Ok(log_end) => {
                ensure!(log_end == end, "the log ends at {log_end}, not at {end}");
                self.models[index].batches.extend(batches);
                Ok(())
            }
            Err(AppendError::Offline { .. } | AppendError::Truncating) => Ok(()),
            Err(error) => Err(format!("append refused: {error}")),
        }
    }

    fn commit(&mut self, index: usize) -> Check {
        let log = self.log(index);
        let before = log.offsets();
        if !log.truncated() {
            return Ok(());
        }
        // Also what is not durable yet, or long committed.
        let offset = self.within(before.log_start, before.log_end);
        let reached = log.commit(offset);
        let expected = before.high_watermark.max(offset.min(before.durable));
        ensure!(reached == expected, "committed {reached}, not {expected}, of {before:?}");
        let model = &mut self.models[index];
        model.committed = model.committed.max(reached);
        Ok(())
    }

    fn read_some(&mut self, index: usize) -> Check {
        let log = self.log(index);
        let offsets = log.offsets();
        let bases = self.models[index].batches.iter().map(|batch| batch.header().base_offset);
        let bases: Vec<_> = bases.filter(|&base| base >= offsets.local_log_start).collect();
        if bases.is_empty() || !log.truncated() {
            return Ok(());
        }
        let from = bases[self.below(bases.len())];
        let limit = 1 + self.below(9000);
        let read = match log.read_for_replica(from, limit).map_err(|error| error.to_string())? {
            ReplicaRead::Ready(read) => read,
            ReplicaRead::Disk(read) => match read.execute() {
                Ok(stretches) => ReplicaBatches::of_stored(from, stretches).map_err(|error| error.to_string())?,
                Err(_) if !self.machine.disk.is_powered() => return Ok(()),
                Err(error) => return Err(format!("read at {from} failed: {error}")),
            },
        };
        let is_read =
            |batch: &&Batch| batch.header().base_offset >= from && batch.header().next_offset() <= read.next_offset;
        let expected = self.models[index].batches.iter().filter(is_read);
        let expected = expected.map(|batch| &batch.bytes()[..]).collect::<Vec<_>>().concat();
        ensure!(read.chunks.concat() == expected, "wrong bytes at {from}");
        ensure!(read.bytes == expected.len(), "{} bytes are taken for {}", expected.len(), read.bytes);
        ensure!(!read.is_empty() || from >= offsets.durable, "nothing at {from}: {offsets:?}");
        Ok(())
    }

    /// Another leader: this log, or one that may have another history from some batch on that is not committed.
    fn begin_epoch(&mut self, index: usize) -> Check {
        let log = self.log(index);
        if !log.truncated() {
            return Ok(());
        }
        let epoch = self.models[index].epoch.next();
        let is_led = self.random.chance(40);
        let begun = if is_led { log.begin_epoch(epoch) } else { log.follow_epoch(epoch) };
        match begun {
            Ok(()) => self.models[index].epoch = epoch,
            Err(AppendError::Offline { .. }) => return Ok(()),
            Err(error) => return Err(format!("epoch refused: {error}")),
        }
        if !is_led && self.random.chance(50) {
            self.truncate(index);
        }
        Ok(())
    }

    fn truncate(&mut self, index: usize) {
        let log = self.log(index);
        let offsets = log.offsets();
        let floor = self.models[index].committed.max(offsets.local_log_start).max(self.models[index].log_start);
        let bases = self.models[index].batches.iter().map(|batch| batch.header().base_offset);
        let bases: Vec<_> = bases.filter(|&base| base >= floor).collect();
        if bases.is_empty() {
            return;
        }
        let end = bases[self.below(bases.len())];
        if log.truncate_to(end).is_err() {
            return;
        }
        self.models[index].cut = Some(end);
        self.run_all();
        if log.truncated() {
            self.models[index].truncate(end);
            self.models[index].cut = None;
        }
    }

    fn advance_log_start(&mut self, index: usize) {
        let log = self.log(index);
        let offsets = log.offsets();
        let target = self.within(offsets.log_start, offsets.high_watermark);
        if log.advance_log_start(target).is_ok() {
            let model = &mut self.models[index];
            model.log_start = model.log_start.max(target);
        }
    }

    fn step(&mut self) -> Check {
        let index = self.below(PARTITIONS);
        match self.random.below(100) {
            0..45 => self.append(index)?,
            45..55 => self.commit(index)?,
            55..65 => self.read_some(index)?,
            65..71 => self.begin_epoch(index)?,
            71..73 => self.advance_log_start(index),
            73..75 => self.log(index).request_roll(),
            75..77 => self.directory().request_checkpoint(),
            77..79 => {
                let log = self.log(index);
                // A power cut may interrupt it.
                let _ = log.remove_local_below(log.offsets().log_start);
            }
            79..82 => {
                self.machine.pass_ms(700);
                self.directory().tick();
            }
            _ => {
                self.machine.tasks.run_one(&mut self.random);
            }
        }
        (0..PARTITIONS).try_for_each(|index| self.check(index))
    }

    fn check(&mut self, index: usize) -> Check {
        let offsets = self.log(index).offsets();
        offsets.check();
        let model = &mut self.models[index];
        let committed = model.committed.max(offsets.log_start);
        ensure!(offsets.high_watermark <= committed, "more than {committed} is committed: {offsets:?}");
        if model.cut.is_none() {
            ensure!(offsets.log_end == model.end(), "the log ends elsewhere than at {}: {offsets:?}", model.end());
            model.durable = offsets.durable;
        }
        Ok(())
    }

    fn check_recovered(&mut self, index: usize) -> Check {
        let log = self.log(index);
        let offsets = log.offsets();
        offsets.check();
        let model = &mut self.models[index];
        if let Some(cut) = model.cut.take().filter(|&cut| offsets.log_end <= cut) {
            model.durable = model.durable.min(cut);
        }
        let (end, durable) = (offsets.log_end, model.durable);
        ensure!(end >= durable, "what was durable is lost: {durable} > {end}");
        ensure!(end >= model.committed, "what was committed is lost: {} > {end}", model.committed);
        let (from, to) = (model.certain_log_start, model.log_start);
        ensure!((from..=to).contains(&offsets.log_start), "log start is not within {from}..={to}: {offsets:?}");
        (model.certain_log_start, model.log_start) = (offsets.log_start, offsets.log_start);
        model.truncate(end);
        ensure!(model.end() == end, "log ends at {end}, within a batch or beyond {}", model.end());
        log.begin_replicated(None);
        let offsets = log.offsets();
        let committed = model.committed.max(offsets.log_start);
        ensure!(offsets.high_watermark <= committed, "more than {committed} is taken for committed: {offsets:?}");
        let epochs = log.epochs();
        for batch in &model.batches {
            let header = batch.header();
            if header.base_offset < offsets.local_log_start {
                continue;
            }
            let (base, epoch) = (header.base_offset, epochs.epoch_at(header.base_offset));
            ensure!(epoch == Some(header.leader_epoch), "{epoch:?} at {base}, not {}", header.leader_epoch);
            let read = log.read(base, header.next_offset(), 1).and_then(crate::log::ReadPlan::execute);
            match read {
                Ok(read) => ensure!(*batch.bytes() == read.concat(), "wrong bytes at {base}"),
                Err(_) if !self.machine.disk.is_powered() => return Ok(()),
                Err(error) => return Err(format!("read at {base} failed: {error}")),
            }
        }
        self.begin_epoch(index)
    }

    fn check_all_recovered(&mut self) -> Check {
        for index in 0..PARTITIONS {
            self.check_recovered(index).map_err(|error| format!("partition {index}: {error}"))?;
        }
        Ok(())
    }

    fn live(&mut self) -> Check {
        let ending = self.random.below(10);
        if ending < 7 {
            self.machine.disk.cut_power_after(self.random.below(500));
        }
        let checkpoint = Path::new(DATA).join("checkpoint");
        if self.random.chance(15) && self.machine.disk.files().contains(&checkpoint) {
            // Deleted records may be back, or be taken for archived ones.
            self.machine.disk.lose(&checkpoint);
            self.models.iter_mut().for_each(|model| model.certain_log_start = Offset::ZERO);
        }
        self.open()?;
        if self.directory.is_some() {
            self.check_all_recovered()?;
            for _ in 0..400 {
                if !self.machine.disk.is_powered() {
                    break;
                }
                self.step()?;
                let is_offline = self.machine.disk.is_powered() && self.directory().is_offline();
                ensure!(!is_offline, "the directory is offline");
            }
        }
        let directory = self.directory.take();
        match (ending, directory) {
            (0..7, directory) => {
                self.machine.power_cut();
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
}

fn run(seed: u64) -> Check {
    let mut world = World::new(seed);
    for life in 0..LIVES {
        world.live().map_err(|error| format!("life {life}: {error}"))?;
    }
    world.open().map_err(|error| format!("last start: {error}"))?;
    world.check_all_recovered().map_err(|error| format!("last start: {error}"))?;
    drop(world.directory.take());
    world.machine.kill();
    Ok(())
}

#[test]
fn replicas_keep_what_was_durable_and_take_nothing_else_for_committed() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", 60) {
        if let Err(error) = run(seed) {
            panic!(
                "{error}\nreplay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib log::simulation::replica"
            );
        }
    }
}

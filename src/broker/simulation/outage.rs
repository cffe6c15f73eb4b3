//! A bucket that is away for hours, as when a region is: clients notice nothing, it is asked now and then, and once it is back
//! everything gets there by itself. And a backlog beside which the disk has little room.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::clients::odd_batch;
use super::planted::Planted;
use super::world::{World, runtime};
use super::{Check, Part, ensure, watch_panics};
use crate::archive::store::simulated::Weather;
use crate::broker::{Acknowledgement, Broker, Leader, NewTopic, RoomWait};
use crate::log::Offsets;
use crate::record::{Batch, BatchBuilder, BatchOptions};
use crate::runtime::disk::Disk;
use crate::types::{LeaderEpoch, Offset, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const OUTAGE: Duration = Duration::from_secs(3 * 3600);
/// Within this the archive goes on after that: a pause is a minute at most.
const RESUMED: Duration = Duration::from_secs(120);
/// How often clients come meanwhile, and how long they wait at most.
const VISITS: Duration = Duration::from_secs(300);
const PROMPT: Duration = Duration::from_secs(5);
/// Time that passes at once. Timers that are shorter run late, as on a busy machine.
const STEP_MS: u64 = 500;

const FETCH_BYTES: usize = 8000;
const VALUE_BYTES: usize = 5000;
/// Batches of a backlog.
const BACKLOG: usize = 400;

const NO_POWER: &str = "the power went";
const BEHIND: &str = "behind the archive";

/// One life of a broker whose disk works, and a check of its bucket after that.
fn live(life: impl AsyncFnOnce(&mut World) -> Check) -> Check {
    watch_panics();
    let mut world = World::new(1, Planted::Nothing);
    let process = runtime();
    let lived = process.block_on(life(&mut world));
    world.broker = None;
    world.machine.kill();
    world.bucket.abandon();
    drop(process);
    lived.and_then(|()| world.verify())
}

#[test]
fn an_outage_of_hours_delays_the_archive_and_nothing_else() {
    live(World::stay_through_an_outage).unwrap();
}

#[test]
fn a_backlog_that_begins_to_matter_is_archived_on_urgent_lanes() {
    live(World::archive_a_backlog).unwrap();
}

impl World {
    async fn stay_through_an_outage(&mut self) -> Check {
        ensure!(self.open().await?, "{NO_POWER}");
        self.create_topics().await?;
        let parts: Vec<_> = self.parts.values().cloned().collect();
        let (mut archived, mut logs) = (Vec::new(), Vec::new());
        for part in &parts {
            self.archive_all(part).await?;
        }
        for part in &parts {
            archived.push(self.offsets(part)?.archived_to);
            logs.push(Arc::clone(self.client(part)?.ok_or(BEHIND)?.leader.partition.log()));
        }
        self.bucket.set_weather(Weather::OUTAGE);
        let (clock, failed) = (self.machine.runtime().clock, self.broker().metrics().archive.failed_uploads.clone());
        self.visit(&parts, HOUR).await?;
        let (noted, failed_before) = (clock.monotonic(), failed.get());
        self.visit(&parts, OUTAGE - HOUR).await?;
        let minutes = clock.monotonic().since(noted).as_secs() / 60;
        let failed_of_each = (failed.get() - failed_before) / parts.len() as u64;
        // Each pause is between half a minute and a minute, and the attempts take some time too.
        let is_bounded = failed_of_each <= 2 * minutes && failed_of_each >= minutes / 2;
        ensure!(is_bounded, "each partition was tried {failed_of_each} times in {minutes} minutes");
        for (part, &archived) in parts.iter().zip(&archived) {
            self.check_kept(part, archived).await?;
        }
        self.bucket.set_weather(Weather::default());
        let goes_on = || logs.iter().zip(&archived).all(|(log, &archived)| log.offsets().archived_to > archived);
        self.pass_until("the archive goes on with all partitions", RESUMED, goes_on).await?;
        for part in &parts {
            self.archive_all(part).await?;
            self.read_all(part).await?;
        }
        Ok(())
    }

    /// Has clients come now and then, for so long.
    async fn visit(&mut self, parts: &[Arc<Part>], duration: Duration) -> Check {
        for _ in 0..duration.as_secs() / VISITS.as_secs() {
            for part in parts {
                self.serve(part).await?;
            }
            self.pass(VISITS).await?;
        }
        Ok(())
    }

    /// A producer is acknowledged, and a reader at the end gets what it wrote, both at once.
    async fn serve(&mut self, part: &Arc<Part>) -> Check {
        let clock = self.machine.runtime().clock;
        let client = self.client(part)?.ok_or(BEHIND)?;
        let (began, end) = (clock.monotonic(), self.offsets(part)?.log_end);
        let batch = odd_batch(&mut self.random, clock.wall(), None);
        self.until("append", client.clone().append(batch)).await?.ok_or(NO_POWER)??;
        let acknowledged = part.model.lock().acknowledged;
        let fetch = async move { client.fetch(end, FETCH_BYTES).await };
        let next = self.until("fetch", fetch).await?.ok_or(NO_POWER)??;
        let took = clock.monotonic().since(began);
        let is_served = acknowledged > end && next > end && took < PROMPT;
        ensure!(is_served, "{}: {acknowledged} acknowledged, {next} read, {end} before, in {took:?}", part.name());
        Ok(())
    }

    /// What only the local disk has is there, and is read without the bucket.
    async fn check_kept(&mut self, part: &Arc<Part>, archived: Offset) -> Check {
        let offsets = self.offsets(part)?;
        let is_kept = offsets.archived_to == archived && offsets.local_log_start.max(offsets.log_start) <= archived;
        ensure!(is_kept, "{}: {archived} was archived, and then {offsets:?}", part.name());
        let client = self.client(part)?.ok_or(BEHIND)?;
        let mut at = archived;
        while at < offsets.high_watermark {
            let (reader, from) = (client.clone(), at);
            let fetch = async move { reader.fetch(from, FETCH_BYTES).await };
            at = self.until("fetch", fetch).await?.ok_or(NO_POWER)??;
            ensure!(at > from, "{}: nothing comes at {from} of {offsets:?}", part.name());
        }
        Ok(())
    }

    async fn archive_a_backlog(&mut self) -> Check {
        ensure!(self.open().await?, "{NO_POWER}");
        let broker = self.broker();
        let leader = self.create_backlog().await?;
        let (log, tasks) = (Arc::clone(leader.partition.log()), Arc::clone(&self.machine.tasks));
        let archive = broker.metrics().archive.clone();
        let (usual, urgent) = (|| tasks.runs("archive-0"), || tasks.runs("urgent-0"));
        let is_archived = || log.offsets().archived_to == log.offsets().log_end;
        self.produce(&leader, 10).await?;
        log.request_roll();
        self.pass_until("little is archived", MINUTE, is_archived).await?;
        let runs = (usual(), urgent());
        ensure!(runs.0 > 0 && runs.1 == 0, "little was archived by {runs:?} runs of usual and urgent lanes");

        self.bucket.set_weather(Weather::OUTAGE);
        self.produce(&leader, BACKLOG).await?;
        log.request_roll();
        let waiting = (BACKLOG * VALUE_BYTES) as u64;
        let waits = || archive.lag_bytes.get().cast_unsigned() > waiting;
        self.pass_until("much waits", MINUTE, waits).await?;
        ensure!(archive.urgent.get() == 0, "it is urgent while there is room");
        // Producers would be slowed down by a quarter of what the disk can take; this is a sixth.
        let space = self.machine.disk.space(Path::new("/")).map_err(|error| error.to_string())?;
        self.machine.disk.set_capacity(space.total_bytes - space.available_bytes + 5 * waiting);
        self.pass_until("what waits is urgent", MINUTE, || archive.urgent.get() == 1).await?;
        self.bucket.set_weather(Weather::default());
        self.pass_until("much is archived", 2 * RESUMED, is_archived).await?;
        let runs = urgent();
        ensure!(runs > 0, "no urgent lane was used");

        self.pass_until("nothing is urgent", MINUTE, || archive.urgent.get() == 0).await?;
        self.produce(&leader, 10).await?;
        log.request_roll();
        self.pass_until("little is archived again", MINUTE, is_archived).await?;
        ensure!(urgent() == runs, "urgent lanes go on when nothing is");
        Ok(())
    }

    async fn create_backlog(&mut self) -> Result<Leader, String> {
        let broker = self.broker();
        let create = async move {
            let topic = NewTopic { partitions: 1, ..NewTopic::by_default("backlog") };
            let topic = broker.create_topic(topic, false).await.map_err(|error| error.to_string())?;
            broker.leader(&topic, 0, LeaderEpoch::NONE).map_err(|error| error.to_string())
        };
        self.until("creation of a topic", create).await?.ok_or(NO_POWER)?
    }

    /// Appends batches of some kilobytes, one after another.
    async fn produce(&mut self, leader: &Leader, batches: usize) -> Check {
        let now = self.machine.runtime().clock.wall();
        for _ in 0..batches {
            let (broker, leader) = (self.broker(), leader.clone());
            let produced = async move { produce(&broker, &leader, &batch(now)).await };
            self.until("append", produced).await?.ok_or(NO_POWER)??;
        }
        Ok(())
    }

    fn offsets(&mut self, part: &Arc<Part>) -> Result<Offsets, String> {
        Ok(self.client(part)?.ok_or(BEHIND)?.leader.partition.log().offsets())
    }

    /// Lets time pass until something is so.
    async fn pass_until(&mut self, what: &str, limit: Duration, is_so: impl Fn() -> bool) -> Check {
        let clock = self.machine.runtime().clock;
        let began = clock.monotonic();
        while !is_so() {
            ensure!(clock.monotonic().since(began) < limit, "not within {limit:?}: {what}");
            self.pass(SECOND).await?;
        }
        Ok(())
    }

    /// Lets time pass in which no client does anything.
    async fn pass(&mut self, duration: Duration) -> Check {
        let clock = self.machine.runtime().clock;
        let end = clock.monotonic() + duration;
        while clock.monotonic() < end {
            self.machine.pass_ms(STEP_MS);
            loop {
                self.turn().await?;
                self.machine.tasks.run_all(&mut self.random);
                if !self.bucket.run_one(clock.monotonic()) {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn batch(timestamp: Timestamp) -> Batch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(timestamp, None, Some(&[7; VALUE_BYTES]), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

async fn produce(broker: &Broker, leader: &Leader, batch: &Batch) -> Check {
    let room = RoomWait { timeout: HOUR, held_bytes: VALUE_BYTES };
    let appended = broker.append(leader, batch.bytes().clone(), true, room).await;
    let produced = appended.map_err(|error| error.to_string())?;
    let acknowledged = broker.acknowledge(leader, &produced, Acknowledgement::All, HOUR).await;
    acknowledged.map_err(|error| error.to_string())
}

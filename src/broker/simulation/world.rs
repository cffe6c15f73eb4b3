//! The machine, the bucket and the clients, and one life of the broker after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::yield_now;

use super::bucket::{self, Heads};
use super::clients::{Client, odd_batch};
use super::model::Model;
use super::planted::Planted;
use super::{Check, Notes, Part, Parts, ensure};
use crate::archive::store::simulated::{SimBucket, Weather};
use crate::archive::store::{Store, StoreSettings, Unobserved};
use crate::broker::{Broker, BrokerSettings, NewTopic, PartitionError, TopicName};
use crate::log::{DirectorySettings, JournalSettings};
use crate::sim::{DiskCopy, Machine, Random};
use crate::telemetry::Metrics;
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp, TopicPartition};

const FIRST: &str = "/first";
/// The data directory that gets lost; the metadata is in the other.
const SECOND: &str = "/second";
/// Steps of one life.
const STEPS: usize = 1200;
/// Steps after which something that should end has not.
pub(super) const PATIENCE: usize = 60_000;
/// Longest time that passes at once.
const LONGEST: Duration = Duration::from_millis(60);

/// How often orphans are looked for, on average.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(3);

/// A topic's name, number of partitions and configuration.
type Plan = (&'static str, i32, &'static [(&'static str, &'static str)]);

const TOPICS: &[Plan] = &[
    ("away", 2, &[("internal.segment.bytes", "4000"), ("local.retention.ms", "1")]),
    ("kept", 2, &[("internal.segment.bytes", "6000"), ("segment.ms", "8000"), ("local.retention.bytes", "9000")]),
    ("cached", 1, &[("internal.segment.bytes", "4000"), ("local.retention.ms", "1"), ("write.caching", "true")]),
    ("short", 1, &[("internal.segment.bytes", "3500"), ("local.retention.ms", "500"), ("retention.ms", "9000")]),
];
const SHORT_RETENTION_MS: i64 = 9000;

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) bucket: SimBucket,
    pub(super) random: Random,
    /// Draws where the wall clock jumps to.
    clocks: Random,
    planted: Planted,
    pub(super) parts: Parts,
    pub(super) heads: Heads,
    notes: Arc<Mutex<Notes>>,
    pub(super) broker: Option<Arc<Broker>>,
    /// Where each sequential consumer is.
    consumers: BTreeMap<TopicPartition, Arc<Mutex<Offset>>>,
    /// An old copy of the second data directory.
    copy: Option<DiskCopy>,
    /// The partitions of the second data directory, as far as is known.
    second: BTreeSet<TopicPartition>,
    /// Whether the one or the other directory has had no checkpoint since it was lost.
    has_lost_checkpoint: [bool; 2],
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Self {
        let machine = Machine::new(seed);
        machine.disk.set_lies(planted.disk_lies());
        Self {
            machine,
            bucket: SimBucket::new(seed, planted.bucket_lies()),
            random: Random::new(seed),
            clocks: Random::new(!seed),
            planted,
            parts: Parts::new(),
            heads: Heads::default(),
            notes: Arc::default(),
            broker: None,
            consumers: BTreeMap::new(),
            copy: None,
            second: BTreeSet::new(),
            has_lost_checkpoint: [false; 2],
        }
    }

    /// A hash of everything that happened.
    pub(super) fn trace(&self) -> u64 {
        let mut trace = self.notes.lock().trace.clone();
        (self.machine.trace(), self.bucket.trace()).hash(&mut trace);
        trace.finish()
    }

    fn settings() -> BrokerSettings {
        let mut settings = BrokerSettings::small(Path::new(FIRST));
        settings.directories = vec![PathBuf::from(FIRST), PathBuf::from(SECOND)];
        settings.directory = DirectorySettings {
            journal: JournalSettings { file_bytes: 32 << 10, max_bytes: 192 << 10 },
            tail_bytes: 8 << 10,
            index_bytes: 256,
            unwritten_bytes: 64 << 10,
            write_behind_bytes: 3 << 10,
            checkpoint_bytes: 60 << 10,
            checkpoint_interval: Duration::from_secs(4),
            max_producers: 10_000,
            removed_bytes: 1,
        };
        let archiver = &mut settings.archive.archiver;
        archiver.cache_bytes = 24 << 10;
        archiver.uploads = 2;
        archiver.retention_interval = Duration::from_secs(2);
        archiver.deletion_grace = Duration::from_secs(1);
        archiver.sweep_interval = SWEEP_INTERVAL;
        archiver.head_bytes = 8 << 10;
        settings.archive.store = StoreSettings {
            attempt_timeout_ms: 4000,
            max_attempts: 3,
            backoff_longest_ms: 400,
            ..StoreSettings::default()
        };
        settings
    }

    /// Something happens in the machine or the bucket.
    pub(super) async fn turn(&mut self) -> Check {
        let runtime_now = self.machine.runtime().clock.monotonic();
        match self.random.below(10) {
            0..=3 => _ = self.machine.tasks.run_one(&mut self.random),
            4..=6 => _ = self.bucket.run_one(runtime_now),
            _ => self.machine.pass_until_next(LONGEST),
        }
        for _ in 0..3 {
            yield_now().await;
        }
        let now = self.machine.runtime().clock.wall();
        self.heads.follow(&self.parts, self.bucket.take_changes(), now)?;
        ensure!(!super::PANICKED.get() || !self.machine.disk.is_powered(), "a panic");
        match self.notes.lock().failure.take() {
            Some(failure) if self.machine.disk.is_powered() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Lets things happen until a future is done; `None` when the power went before.
    pub(super) async fn until<T: Send + 'static>(
        &mut self,
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<Option<T>, String> {
        let task = tokio::spawn(future);
        for _ in 0..PATIENCE {
            if task.is_finished() {
                return task.await.map(Some).map_err(|error| format!("{what}: {error}"));
            }
            if !self.machine.disk.is_powered() {
                return Ok(None);
            }
            self.turn().await?;
        }
        Err(format!("{what} does not end"))
    }

    /// Starts the broker, now and then with a clock that was set; false when the power went meanwhile.
    pub(super) async fn open(&mut self) -> Result<bool, String> {
        if self.clocks.below(3) == 0 {
            self.machine.set_wall(self.clocks.below(40_000).cast_signed() - 20_000);
        }
        let (bucket, planted) = (self.bucket.clone(), self.planted);
        let opened = Broker::open_with(
            self.machine.runtime(),
            Self::settings(),
            Metrics::new(),
            move |runtime, settings, _| {
                Ok(Store::over(runtime, Arc::new(bucket), settings.store.clone(), Arc::new(Unobserved)))
            },
            move |reader| planted.read_through(reader),
        );
        match self.until("start", opened).await? {
            Some(Ok(broker)) => {
                self.broker = Some(broker);
                self.machine.let_journals_go_on(self.random.next());
            }
            _ if !self.machine.disk.is_powered() => return Ok(false),
            Some(Err(error)) => return Err(format!("the broker does not start: {error}: {error:?}")),
            None => return Ok(false),
        }
        for part in self.parts.values() {
            part.model.lock().is_settled = false;
        }
        Ok(true)
    }

    pub(super) fn broker(&self) -> Arc<Broker> {
        Arc::clone(self.broker.as_ref().expect("open"))
    }

    /// Finds out what became of deletions that a crash interrupted, and creates the topics that are not there.
    pub(super) async fn create_topics(&mut self) -> Check {
        let image = self.broker().image();
        for part in self.parts.values() {
            let (mut model, is_there) = (part.model.lock(), image.topic(part.id.topic_id).is_some());
            ensure!(is_there || model.is_deleted, "topic {} is lost", part.topic);
            model.is_deleted = !is_there;
        }
        self.parts.retain(|_, part| !part.model.lock().is_deleted);
        for &(name, partitions, configs) in TOPICS {
            let broker = self.broker();
            if broker.image().topic_named(name).is_none() {
                let configs = configs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
                let new = NewTopic { partitions, configs, ..NewTopic::by_default(name) };
                let create = async move { broker.create_topic(new, false).await.map_err(|error| error.to_string()) };
                let Some(created) = self.until("creation of a topic", create).await? else { return Ok(()) };
                if let Err(error) = created {
                    ensure!(!self.machine.disk.is_powered(), "topic {name}: {error}");
                    return Ok(());
                }
            }
            self.learn_topic(name, partitions);
        }
        Ok(())
    }

    /// Deletes a topic, and creates another of its name.
    async fn replace_topic(&mut self) -> Check {
        let (name, ..) = TOPICS[usize::try_from(self.random.below(TOPICS.len() as u64)).expect("small")];
        for part in self.parts.values().filter(|part| part.topic == name) {
            part.model.lock().is_deleted = true;
        }
        let broker = self.broker();
        let delete = async move { broker.delete_topic(&TopicName::Name(name.to_owned())).await.map(|_| ()) };
        match self.until("deletion of a topic", delete).await? {
            Some(Err(error)) if self.machine.disk.is_powered() => Err(format!("{name} is not deleted: {error}")),
            Some(Ok(())) => self.create_topics().await,
            _ => Ok(()),
        }
    }

    fn learn_topic(&mut self, name: &str, partitions: i32) {
        let image = self.broker().image();
        let Some(topic) = image.topic_named(name) else { return };
        for index in 0..partitions {
            let id = TopicPartition::new(topic.topic_id, index);
            let (retention_ms, is_cached) = ((name == "short").then_some(SHORT_RETENTION_MS), name == "cached");
            let model = Mutex::new(Model { retention_ms, is_cached, is_settled: true, ..Model::default() });
            let part = Part { topic: name.to_owned(), id, model };
            self.parts.entry(id).or_insert_with(|| Arc::new(part));
            self.consumers.entry(id).or_default();
        }
    }

    /// A client of a partition that can be used just now.
    pub(super) fn client(&mut self, part: &Arc<Part>) -> Result<Option<Client>, String> {
        let broker = self.broker();
        let image = broker.image();
        let topic = image.topic(part.id.topic_id).ok_or("a topic is gone")?;
        let leader = match broker.leader(topic, part.id.partition.get(), LeaderEpoch::NONE) {
            Ok(leader) => leader,
            Err(PartitionError::Behind) => return Ok(None),
            Err(_) if !self.machine.disk.is_powered() => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", part.name())),
        };
        let offsets = leader.partition.log().offsets();
        let mut model = part.model.lock();
        if !model.is_settled {
            let head = self.heads.of(part.id).map(|head| (head.log_start_offset, head.next_offset));
            tracing::debug!(part = part.name(), ?offsets, ?head, is_rolled_back = model.is_rolled_back, "settled");
            model.settle(&offsets, head).map_err(|error| format!("{}: {error}", part.name()))?;
        }
        drop(model);
        let (notes, disk) = (Arc::clone(&self.notes), self.machine.disk.clone());
        Ok(Some(Client { broker, leader, part: Arc::clone(part), notes, disk }))
    }

    fn any_part(&mut self) -> Arc<Part> {
        let at = usize::try_from(self.random.below(self.parts.len() as u64)).expect("small");
        Arc::clone(self.parts.values().nth(at).expect("counted"))
    }

    /// A client does something.
    fn act(&mut self) -> Check {
        let part = self.any_part();
        let Some(client) = self.client(&part)? else { return Ok(()) };
        if self.random.chance(5) {
            self.planted.touch(client.leader.partition.log());
        }
        self.check_tiers(&client)?;
        let offsets = client.leader.partition.log().offsets();
        let span = (offsets.high_watermark - offsets.log_start).max(1).cast_unsigned();
        let anywhere = offsets.log_start + self.random.below(span).cast_signed();
        match self.random.below(100) {
            0..45 => self.append(client),
            45..60 => self.consume(client),
            60..75 => {
                let max_bytes = 1 + usize::try_from(self.random.below(4000)).expect("small");
                let reader = client.clone();
                client.spawn("fetch", async move { reader.fetch(anywhere, max_bytes).await.map(|_| ()) });
            }
            75..77 => client.clone().spawn("search", client.largest()),
            77..82 => {
                let sought = Timestamp(self.machine.runtime().clock.wall().0 - self.random.below(30_000).cast_signed());
                client.clone().spawn("search", client.search(sought));
            }
            82..90 => client.epoch_end(anywhere)?,
            90..96 => self.retry(client),
            96..98 if anywhere - offsets.log_start < 20 => {
                client.clone().spawn("deletion", client.delete_records(anywhere));
            }
            98 => client.leader.partition.log().request_roll(),
            _ => client.leader.partition.directory().request_checkpoint(),
        }
        Ok(())
    }

    fn producer(&mut self) -> ProducerId {
        ProducerId(100 + self.random.below(3).cast_signed())
    }

    pub(super) fn append(&mut self, client: Client) {
        let is_idempotent = self.random.chance(70);
        let producer = self.producer();
        let mut model = client.part.model.lock();
        if std::mem::replace(&mut model.is_appending, true) {
            return;
        }
        let producer = is_idempotent.then(|| (producer, model.next_sequence(producer)));
        drop(model);
        let batch = odd_batch(&mut self.random, self.machine.runtime().clock.wall(), producer);
        client.clone().spawn("append", client.append(batch));
    }

    fn retry(&mut self, client: Client) {
        let producer = self.producer();
        let mut model = client.part.model.lock();
        let remembered = model.remembered(producer);
        if remembered.is_empty() || std::mem::replace(&mut model.is_appending, true) {
            return;
        }
        drop(model);
        let at = usize::try_from(self.random.below(remembered.len() as u64)).expect("small");
        client.clone().spawn("retry", client.retry(remembered[at].clone()));
    }

    /// Reads on where the partition's sequential consumer is.
    fn consume(&mut self, client: Client) {
        let max_bytes = 1 + usize::try_from(self.random.below(6000)).expect("small");
        let place = Arc::clone(&self.consumers[&client.part.id]);
        let log_start = client.leader.partition.log().offsets().log_start;
        let restart = self.random.chance(2);
        let reader = client.clone();
        client.spawn("consumer", async move {
            let from = if restart { log_start } else { (*place.lock()).max(log_start) };
            let end = reader.leader.partition.log().offsets().high_watermark;
            let next = reader.fetch(from.min(end), max_bytes).await?;
            *place.lock() = next;
            Ok(())
        });
    }

    /// What is gone from the local disk is in the bucket, and the ladder holds.
    pub(super) fn check_tiers(&mut self, client: &Client) -> Check {
        let offsets = client.leader.partition.log().offsets();
        let mut model = client.part.model.lock();
        model.let_time_pass(self.machine.runtime().clock.wall());
        model.check_offsets(&offsets).map_err(|error| format!("{}: {error}", client.part.name()))?;
        let archived = self.heads.of(client.part.id).map_or(Offset::ZERO, |head| head.next_offset);
        let deleted = self.heads.of(client.part.id).map_or(Offset::ZERO, |head| head.log_start_offset);
        ensure!(
            deleted <= offsets.log_start.max(model.forgot_below),
            "{}: the bucket has nothing below {deleted}, and the log does not know: {offsets:?}",
            client.part.name()
        );
        // A log that lost its checkpoint does not know what was deleted after it had been announced to the archive in vain.
        let highest = if model.lost_history { Offset::MAX } else { offsets.log_start.max(archived) };
        ensure!(
            offsets.local_log_start <= highest && offsets.archived_to <= highest,
            "{}: the bucket holds what is below {archived}, and the log believes {offsets:?}",
            client.part.name()
        );
        Ok(())
    }

    fn draw_weather(&mut self) {
        let fine = Weather { refused: 2, lost: 1, slow: 1, contended: 1 };
        let weather = match self.random.below(10) {
            0..=5 => fine,
            6..=7 => Weather { refused: 12, lost: 12, slow: 5, contended: 5 },
            8 => Weather { refused: 5, lost: 40, slow: 10, contended: 5 },
            _ => Weather::OUTAGE,
        };
        self.bucket.set_weather(weather);
    }

    async fn steps(&mut self) -> Check {
        for _ in 0..STEPS {
            if self.random.chance(1) {
                self.draw_weather();
            }
            if self.random.below(3000) == 0 {
                self.replace_topic().await?;
            }
            if self.machine.disk.is_powered() && self.random.chance(35) {
                self.act()?;
            }
            self.turn().await?;
            if !self.machine.disk.is_powered() {
                break;
            }
        }
        Ok(())
    }

    /// One life of the broker, from its start to whatever ends it.
    pub(super) fn live(&mut self) -> Check {
        let is_first = self.parts.is_empty();
        if !is_first && self.random.chance(20) {
            self.roll_back();
        } else if !is_first && self.random.chance(15) {
            self.lose_checkpoint();
        }
        self.note_lost_checkpoints();
        let ending = self.random.below(10);
        if ending < 5 && !is_first {
            self.machine.disk.cut_power_after(self.random.below(1500));
        }
        if is_first {
            self.bucket.set_weather(Weather::default());
        } else {
            self.draw_weather();
        }
        let process = runtime();
        let lived = process.block_on(async {
            if self.open().await? {
                self.create_topics().await?;
                if self.machine.disk.is_powered() {
                    self.steps().await?;
                }
            }
            if ending == 9 && self.machine.disk.is_powered() { self.shut_down().await } else { Ok(()) }
        });
        self.remember_second();
        self.broker = None;
        if ending < 5 {
            self.machine.power_cut();
            self.parts.values().for_each(|part| part.model.lock().lose_power());
        } else {
            self.machine.kill();
        }
        self.bucket.abandon();
        drop(process);
        self.machine.disk.restart();
        lived?;
        if self.random.chance(40) {
            self.copy = Some(self.machine.disk.copy(Path::new(SECOND)));
        }
        if self.random.chance(40) { self.verify() } else { Ok(()) }
    }

    async fn shut_down(&mut self) -> Check {
        // Clients go first, as no request may be under way.
        self.remember_second();
        let broker = self.broker.take().expect("open");
        let _ = self.until("shutdown", broker.shutdown()).await?;
        Ok(())
    }

    fn remember_second(&mut self) {
        let Some(broker) = &self.broker else { return };
        for partition in broker.partitions() {
            // One whose directory was lost may have got a place in the other.
            if partition.directory().path() == Path::new(SECOND) {
                self.second.insert(partition.log().partition());
            } else {
                self.second.remove(&partition.log().partition());
            }
        }
    }

    /// The second data directory is lost, or an old copy of it is put back.
    fn roll_back(&mut self) {
        match self.copy.take().filter(|_| self.random.chance(70)) {
            Some(copy) => self.machine.disk.put_back(Path::new(SECOND), &copy),
            None => self.machine.disk.put_back(Path::new(SECOND), &DiskCopy::default()),
        }
        for id in &self.second {
            if let Some(part) = self.parts.get(id) {
                part.model.lock().is_rolled_back = true;
            }
        }
    }

    /// The checkpoint of one of the data directories is lost.
    fn lose_checkpoint(&mut self) {
        let is_second = self.random.chance(50);
        let path = Path::new(if is_second { SECOND } else { FIRST }).join("checkpoint");
        if self.machine.disk.files().contains(&path) {
            self.machine.disk.lose(&path);
            self.has_lost_checkpoint[usize::from(is_second)] = true;
        }
    }

    /// Which partitions begin without a checkpoint: also those whose broker ended before it had stored another.
    fn note_lost_checkpoints(&mut self) {
        let files = self.machine.disk.files();
        for (at, directory) in [FIRST, SECOND].into_iter().enumerate() {
            self.has_lost_checkpoint[at] &= !files.contains(&Path::new(directory).join("checkpoint"));
        }
        for (id, part) in &self.parts {
            if self.has_lost_checkpoint[usize::from(self.second.contains(id))] {
                part.model.lock().is_rebuilt = true;
            }
        }
    }

    /// Checks the whole bucket, in fine weather.
    pub(super) fn verify(&mut self) -> Check {
        let Some(cluster) = self.cluster() else { return Ok(()) };
        self.bucket.set_weather(Weather::default());
        let (parts, bucket) = (self.parts.values().cloned().collect(), self.bucket.clone());
        let check = bucket::verify(self.machine.runtime(), bucket, cluster, parts);
        let process = runtime();
        let checked = process.block_on(self.until("verify", check));
        drop(process);
        self.machine.tasks.forget_all();
        checked?.unwrap_or(Ok(()))
    }

    fn cluster(&self) -> Option<crate::types::ClusterId> {
        self.parts.keys().find_map(|id| self.heads.of(*id)).map(|head| head.identity.cluster_id)
    }
}

/// A thread's worth of tokio, without its timers and sockets: whatever waits for them would panic.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("needs nothing")
}

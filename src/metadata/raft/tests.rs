//! The storage under openraft's suite and power cuts, and the quorum as the broker sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::testing::{StoreBuilder, Suite};

use super::log_database::Founding;
use super::power_cut::{PowerCutDisk, Unsynced};
use super::*;
use crate::metadata::command::ConfigChange;
use crate::metadata::error::{CommandError, MetadataError};
use crate::metadata::image::{Configs, Image};
use crate::metadata::testing::{CLUSTER, create_topic, epoch_of, register};
use crate::runtime::Runtime;
use crate::runtime::disk::{self, Disk, Open};
use crate::runtime::production::{LocalDisk, Threads};
use crate::runtime::tasks::Priority;
use crate::runtime::watch;
use crate::types::ClusterId;

const NODE: NodeId = NodeId(1);
const FOUNDING: Founding = Founding { cluster_id: CLUSTER, joined: false };

impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        Self(i32::try_from(number).unwrap())
    }
}

/// Makes stores for openraft's suite, each in a directory of its own.
struct Builder<F>(F);

impl<F, G> StoreBuilder<TypeConfig, LogStore, StateMachine, G> for Builder<F>
where
    F: Fn() -> (G, Arc<dyn Disk>, PathBuf) + Send + Sync,
    G: Send + Sync,
{
    async fn build(&self) -> Result<(G, LogStore, StateMachine), StorageError> {
        let (guard, disk, directory) = (self.0)();
        let (file_disk, path) = (Arc::clone(&disk), directory.clone());
        let open = move || LogDatabase::open(disk.as_ref(), &path, NODE, FOUNDING);
        let database = StoreLane::start(&Threads, "test-log", Priority::Foreground, open).await.unwrap();
        let stamp = database.run(|database| database.stamp()).await.unwrap();
        let files = SnapshotFiles::new(file_disk, directory, stamp);
        let snapshots = StoreLane::start(&Threads, "test-snap", Priority::Background, || Ok::<_, StoreError>(files));
        let (images, _) = watch::channel(Arc::new(Image::default()));
        let machine =
            StateMachine::open(Arc::new(snapshots.await.unwrap()), images, Runtime::production().clock).await.unwrap();
        Ok((guard, LogStore::new(Arc::new(database)), machine))
    }
}

#[test]
fn openrafts_storage_suite_passes_on_files() {
    let builder = Builder(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        (directory, Arc::new(LocalDisk) as Arc<dyn Disk>, path)
    });
    Suite::test_all(builder).unwrap();
}

#[test]
fn openrafts_storage_suite_passes_on_a_simulated_disk() {
    let builder = Builder(|| ((), Arc::new(PowerCutDisk::new()) as Arc<dyn Disk>, PathBuf::from("/metadata")));
    Suite::test_all(builder).unwrap();
}

fn runtime_on(disk: &PowerCutDisk) -> Runtime {
    Runtime { disk: Arc::new(disk.clone()), ..Runtime::production() }
}

fn local() -> (tempfile::TempDir, Runtime) {
    (tempfile::tempdir().unwrap(), Runtime::production())
}

async fn open(runtime: &Runtime, directory: &Path) -> Metadata {
    Metadata::open(runtime, directory, MetadataSettings::new(NODE)).await.unwrap()
}

/// Has a snapshot written that covers all that is applied. openraft ignores the wish while it writes another.
async fn write_snapshot(metadata: &Metadata) -> Result<(), String> {
    let applied = metadata.raft.metrics().borrow().last_applied;
    for _ in 0..200 {
        metadata.raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
        let wait = metadata.raft.wait(Some(Duration::from_millis(100)));
        let covered = wait.metrics(|metrics| metrics.snapshot >= applied, "a snapshot");
        if on_seams(&Runtime::production(), covered).await.is_ok() {
            return Ok(());
        }
        if let Err(error) = &metadata.raft.metrics().borrow().running_state {
            return Err(error.to_string());
        }
    }
    Err("no snapshot came".to_owned())
}

/// Registers this node as a broker of the cluster.
async fn join(metadata: &Metadata, incarnation: u64) -> Result<Outcome, CommandError> {
    let command = register(NODE.get(), incarnation);
    let cluster_id = metadata.cluster_id();
    metadata.submit(Command::RegisterBroker(crate::metadata::command::RegisterBroker { cluster_id, ..command })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_identity_and_commands_over_restarts_and_restarts_at_once() {
    let (directory, runtime) = local();
    let metadata = open(&runtime, directory.path()).await;
    let cluster_id = metadata.cluster_id();
    assert_eq!(metadata.image().cluster_id(), cluster_id);
    let epoch = epoch_of(join(&metadata, 1).await.unwrap());
    metadata.submit(create_topic(&metadata.image(), 1, "flights", 3)).await.unwrap();
    assert_eq!(metadata.image().topic_named("flights").unwrap().partition_count(), 3);
    metadata.shutdown().await;
    assert_eq!(join(&metadata, 2).await, Err(CommandError::Stopped));
    drop(metadata);

    let before = runtime.clock.monotonic();
    let metadata = open(&runtime, directory.path()).await;
    let took = runtime.clock.monotonic().since(before);
    assert!(took < Duration::from_millis(900), "a quorum of one does not wait for an election time-out: {took:?}");
    assert_eq!(metadata.cluster_id(), cluster_id);
    assert_eq!(metadata.image().topic_named("flights").unwrap().partition_count(), 3);
    assert!(epoch_of(join(&metadata, 2).await.unwrap()) > epoch);
    let partition = crate::types::TopicPartition::new(crate::metadata::testing::topic_id(1), 0);
    assert_eq!(metadata.image().partition(partition).unwrap().leader_epoch.get(), 1);
    metadata.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_another_node_is_refused() {
    let (directory, runtime) = local();
    open(&runtime, directory.path()).await.shutdown().await;
    let other = Metadata::open(&runtime, directory.path(), MetadataSettings::new(NodeId(2))).await;
    assert!(matches!(other, Err(MetadataError::Store(StoreError::ForeignNode { found: NODE, .. }))), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_command_says_why_and_subscribers_see_accepted_ones() {
    let (directory, runtime) = local();
    let metadata = open(&runtime, directory.path()).await;
    let mut images = metadata.subscribe();
    join(&metadata, 1).await.unwrap();
    images.wait_for(|image| image.brokers().count() == 1).await.unwrap();
    let create = create_topic(&metadata.image(), 1, "t", 1);
    metadata.submit(create.clone()).await.unwrap();
    let again = metadata.submit(create).await.unwrap_err();
    assert_eq!(again, CommandError::Rejected(Rejection::TopicExists { name: "t".to_owned() }));
    assert_eq!(again.kafka_error_code(), 36);
    metadata.shutdown().await;
    metadata.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commands_share_log_entries() {
    let (directory, runtime) = local();
    let metadata = Arc::new(open(&runtime, directory.path()).await);
    join(&metadata, 1).await.unwrap();
    let before = metadata.image().version();
    let submit = |number: u64| {
        let metadata = Arc::clone(&metadata);
        async move { metadata.submit(create_topic(&metadata.image(), number, &format!("t{number}"), 1)).await }
    };
    let outcomes = futures_util::future::join_all((1..=500).map(submit)).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(metadata.image().topic_count(), 500);
    let entries = metadata.image().version() - before;
    assert!(entries < 100, "{entries} entries for 500 concurrent commands");
    metadata.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commands_survive_snapshot_purge_and_restart() {
    let (directory, runtime) = local();
    let settings = MetadataSettings { snapshot_interval_commands: 1_000, ..MetadataSettings::new(NODE) };
    let metadata = Arc::new(Metadata::open(&runtime, directory.path(), settings).await.unwrap());
    join(&metadata, 1).await.unwrap();
    for wave in 0..20 {
        let submit = |number: u64| {
            let metadata = Arc::clone(&metadata);
            async move { metadata.submit(create_topic(&metadata.image(), number, &format!("t{number}"), 1)).await }
        };
        let outcomes = futures_util::future::join_all((wave * 500 + 1..=(wave + 1) * 500).map(submit)).await;
        assert!(outcomes.iter().all(Result::is_ok));
    }
    assert!(metadata.raft.metrics().borrow().snapshot.is_some(), "snapshots come by themselves");
    write_snapshot(&metadata).await.unwrap();
    let image = metadata.image();
    metadata.shutdown().await;
    let range = metadata.database.run(|database| database.range()).await.unwrap().unwrap();
    let kept = range.last.unwrap().index - range.purged.map_or(0, |log_id| log_id.index);
    assert!(kept <= 256, "the log behind a snapshot goes, but {kept} entries are left");
    drop(metadata);

    let metadata = open(&runtime, directory.path()).await;
    assert_eq!(metadata.image().topic_count(), 10_000);
    assert_eq!(crate::metadata::snapshot::encode(&metadata.image()), crate::metadata::snapshot::encode(&image));
    metadata.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_a_configuration_are_resolved_again_and_none_is_lost() {
    let (directory, runtime) = local();
    let metadata = Arc::new(open(&runtime, directory.path()).await);
    let append = |number: usize| {
        let metadata = Arc::clone(&metadata);
        async move {
            let resolve = |image: &Image| {
                let current =
                    image.broker_configs(None).map_or_else(Configs::default, |configs| Configs::clone(configs));
                let list = current.values.get("list").cloned().unwrap_or_default();
                let values = BTreeMap::from([("list".to_owned(), Some(format!("{list}{number},")))]);
                let change = ConfigChange { expected_version: current.version, values };
                Ok::<_, CommandError>(Command::AlterBrokerConfigs { node_id: None, change })
            };
            metadata.submit_resolved(resolve).await
        }
    };
    let outcomes = futures_util::future::join_all((0..8).map(append)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(metadata.image().broker_configs(None).unwrap().values["list"].matches(',').count(), 8);
    metadata.shutdown().await;
}

#[test]
fn a_newer_directory_format_and_a_corrupt_snapshot_are_refused() {
    let disk = PowerCutDisk::new();
    let directory = Path::new("/metadata");
    let database = LogDatabase::open(&disk, directory, NODE, FOUNDING).unwrap();
    let files = SnapshotFiles::new(Arc::new(disk.clone()), directory.to_owned(), database.stamp());
    let log_id = LogId::new(openraft::CommittedLeaderId::new(1, NODE), 5);
    let meta = snapshot_files::snapshot_meta(Some(log_id), StoredMembership::default());
    files.write(&meta, b"image").unwrap();
    assert_eq!(files.read().unwrap(), Some((meta, b"image".to_vec())));

    let file = disk.open(&directory.join(format!("snapshot-{:020}", 5)), Open::Write).unwrap();
    file.write_all_at(b"I", file.length().unwrap() - 5).unwrap();
    let error = files.read().unwrap_err();
    assert!(error.to_string().starts_with("metadata snapshot file are corrupt"), "{error}");
    file.write_all_at(br#"{"format":2"#, 0).unwrap();
    assert!(files.read().unwrap_err().to_string().contains("newer version"));
}

#[test]
fn a_damaged_byte_in_the_database_is_found_or_does_not_matter() {
    let disk = PowerCutDisk::new();
    let directory = Path::new("/metadata");
    let path = directory.join("metadata.redb");
    let entry = |index: u64| {
        let log_id = LogId::new(openraft::CommittedLeaderId::new(1, NODE), index);
        let group = CommandGroup(vec![Command::SetClusterId(CLUSTER); 20]);
        Entry { log_id, payload: openraft::EntryPayload::Normal(group) }
    };
    let mut database = LogDatabase::open(&disk, directory, NODE, FOUNDING).unwrap();
    let entries: Vec<_> = (0..20).map(|index| (index, codec::encode_entry(&entry(index)))).collect();
    database.append(&entries).unwrap();
    database.save_vote(&Vote::new_committed(1, NODE)).unwrap();
    drop(database);
    let content = disk::read_file(&disk, &path, u64::MAX).unwrap();
    let mut found = 0;
    for at in (0..content.len()).step_by(997).filter(|at| content[*at] != 0) {
        let file = disk.open(&path, Open::CreateEmpty).unwrap();
        let mut damaged = content.clone();
        damaged[at] ^= 0x55;
        file.write_all_at(&damaged, 0).unwrap();
        let read = LogDatabase::open(&disk, directory, NODE, FOUNDING)
            .and_then(|database| Ok((database.entries(.., usize::MAX)?, database.vote()?)));
        match read {
            Ok((entries, vote)) => {
                assert!(entries == (0..20).map(entry).collect::<Vec<_>>(), "damage at {at} changed the log");
                assert_eq!(vote, Some(Vote::new_committed(1, NODE)), "damage at {at} changed the vote");
            }
            Err(_) => found += 1,
        }
    }
    assert!(found > 0, "no damage was found");
}

/// What a workload was told before the power went.
#[derive(Default)]
struct Told {
    cluster_id: Option<ClusterId>,
    acknowledged: u64,
    asked: u64,
}

/// Opens, creates topics one after another, writes snapshots in between, and stops at the first error.
async fn work(disk: &PowerCutDisk, told: &mut Told) -> Result<(), String> {
    let settings = MetadataSettings { snapshot_interval_commands: 1_000, ..MetadataSettings::new(NODE) };
    let metadata =
        Metadata::open(&runtime_on(disk), Path::new("/metadata"), settings).await.map_err(|e| e.to_string())?;
    let result = async {
        assert!(told.cluster_id.is_none_or(|cluster_id| cluster_id == metadata.cluster_id()), "another cluster");
        told.cluster_id = Some(metadata.cluster_id());
        told.asked = metadata.image().topic_count() as u64;
        join(&metadata, told.asked + 1).await.map_err(|e| e.to_string())?;
        for _ in 0..4 {
            told.asked += 1;
            let command = create_topic(&metadata.image(), told.asked, &format!("t{}", told.asked), 1);
            metadata.submit(command).await.map_err(|e| e.to_string())?;
            told.acknowledged = told.asked;
        }
        write_snapshot(&metadata).await
    };
    let result = result.await;
    metadata.shutdown().await;
    result
}

/// Reads what a disk holds and compares it with what the workload was told.
async fn check(disk: &PowerCutDisk, told: &Told, context: &str) {
    let metadata = Metadata::open(&runtime_on(disk), Path::new("/metadata"), MetadataSettings::new(NODE)).await;
    let metadata = metadata.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let image = metadata.image();
    assert!(told.cluster_id.is_none_or(|cluster_id| cluster_id == image.cluster_id()), "{context}");
    let found = image.topic_count() as u64;
    assert!(found >= told.acknowledged, "{context}: {found} of {} acknowledged topics", told.acknowledged);
    assert!(found <= told.asked, "{context}: more topics than were asked for");
    for number in 1..=found {
        assert!(image.topic_named(&format!("t{number}")).is_some(), "{context}: a hole at {number}");
    }
    metadata.shutdown().await;
}

#[test]
fn no_power_cut_between_two_disk_operations_loses_an_acknowledged_command() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let whole = PowerCutDisk::new();
    let mut told = Told::default();
    tokio.block_on(work(&whole, &mut told)).unwrap();
    assert_eq!(told.acknowledged, 4);
    let operations = whole.operations();
    for cut in 0..operations {
        let disk = PowerCutDisk::new();
        disk.cut_before(cut);
        let mut told = Told::default();
        let _ = tokio.block_on(work(&disk, &mut told));
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(cut + 1)] {
            let context = format!("power cut before operation {cut} of {operations}, unsynced data {unsynced:?}");
            tokio.block_on(check(&disk.after_power_cut(unsynced), &told, &context));
        }
        // The power goes again while the node recovers or goes on.
        let disk = disk.after_power_cut(Unsynced::Torn(cut + 1));
        disk.cut_before(cut * 7 % operations);
        let _ = tokio.block_on(work(&disk, &mut told));
        let context = format!("second power cut, after the one before operation {cut} of {operations}");
        tokio.block_on(check(&disk.after_power_cut(Unsynced::Lost), &told, &context));
    }
}

//! `alluvium restore`: makes a new cluster from the bucket of one that is lost, and says what is not in it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::archive::of_store;
use super::composition::broker_settings;
use super::config::SettingArguments;
use super::format::date;
use super::{Context, Exit, Failure, Output};
use crate::archive::bucket::BucketError;
use crate::archive::partition::HeadError;
use crate::archive::store::ProbeError;
use crate::broker::{BrokerSettings, Restore, RestoreError, RestoreOptions, RestoreReport, RestoredTopic};
use crate::config::{ByteSize, Config};
use crate::types::{ClusterId, Timestamp};

/// Offsets beyond the archive that are shown one by one; JSON has them all.
const SHOWN: usize = 20;

/// Arguments of `alluvium restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// Store of the lost cluster: file:///path, s3://bucket/prefix, gs://… or az://… [default: as `serve` would use]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// Data directory to restore into, empty or not there yet [default: as `serve` would use]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Number of the broker that the restored cluster begins with [default: 1]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    node_id: Option<String>,
    /// Settings file (TOML), as for `serve`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, as section.key=value; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which cluster, where the store holds several
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// Leave out a topic, by its name or identity; its objects stay where they are. Can be repeated
    #[arg(long, value_name = "TOPIC")]
    without: Vec<String>,
    /// Leave out committed offsets: all groups begin anew
    #[arg(long)]
    without_groups: bool,
    /// Go on although the store was changed lately, as by a cluster that still runs
    #[arg(long)]
    force: bool,
    /// Only say what would be restored, and what stands in the way
    #[arg(long)]
    dry_run: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Inspect(error) => error.into(),
            RestoreError::Location(error) => error.into(),
            other => {
                let exit = exit_of(&other);
                Self::of(other).with_exit(exit)
            }
        }
    }
}

fn exit_of(error: &RestoreError) -> Exit {
    match error {
        RestoreError::NotDurable | RestoreError::UnknownTopic { .. } => Exit::Usage,
        RestoreError::Damaged { .. }
        | RestoreError::Offsets(_)
        | RestoreError::Marker { .. }
        | RestoreError::Bucket(BucketError::Manifest { .. })
        | RestoreError::Head(HeadError::Manifest { .. }) => Exit::Damaged,
        RestoreError::Store(store)
        | RestoreError::Bucket(BucketError::Store(store))
        | RestoreError::Head(HeadError::Store(store)) => of_store(store),
        RestoreError::Probe(ProbeError::Failed { source, .. }) if source.is_transient() => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// Runs `alluvium restore`.
pub(super) fn run(arguments: &RestoreArguments, context: &mut Context) -> Result<(), Failure> {
    let RestoreArguments { config, object_store, data_dir, node_id, set, .. } = arguments;
    let settings = SettingArguments::for_restore(config, object_store, data_dir, node_id, set);
    let (_, config) = settings.resolve(context)?;
    if let Some(directory) = config.store.directory()
        && !context.runtime.disk.exists(&directory)?
    {
        return Err(Failure::usage(format!("there is no archive in {}; check --object-store", directory.display())));
    }
    let broker = broker_settings(&config)?;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = tokio.block_on(restore(arguments, &config, &broker, context));
    // A lane may be in a call that takes long, or hangs.
    tokio.shutdown_background();
    ended
}

async fn restore(
    arguments: &RestoreArguments,
    config: &Config,
    broker: &BrokerSettings,
    context: &mut Context,
) -> Result<(), Failure> {
    let options = RestoreOptions {
        cluster: arguments.cluster,
        without: arguments.without.clone(),
        without_groups: arguments.without_groups,
        force: arguments.force,
    };
    let restore = Restore::look(&context.runtime, broker, options).await?;
    if arguments.dry_run {
        let (report, obstacles) = (restore.report()?, restore.obstacles());
        show(&report, &obstacles, arguments, &mut context.output)?;
        context.output.flush()?;
        return match obstacles.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(Exit::Failed, obstacles.join("\n"))),
        };
    }
    let report = restore.run().await?;
    show(&report, &[], arguments, &mut context.output)?;
    if arguments.json {
        return Ok(());
    }
    let directories: Vec<_> = config.data.directories.iter().map(|path| path.display().to_string()).collect();
    let output = &mut context.output;
    output.line(format!("restored into {}; start the broker with the same settings:", directories.join(", ")))?;
    let number = config.node_id;
    let url = &config.store.url;
    output.line(format!("  alluvium serve --node-id {number} --data-dir {} --object-store {url}", directories[0]))
}

/// What is not in the restored cluster, a sentence each.
fn not_restored(report: &RestoreReport, arguments: &RestoreArguments) -> Vec<String> {
    let groups = &report.groups;
    let mut lost = vec![
        "records from each partition's end on: they were not archived yet when the cluster was lost".to_owned(),
        match (groups.offsets, arguments.without_groups) {
            (_, true) => "committed offsets: they are left out, and all groups begin anew".to_owned(),
            (0, false) => "committed offsets: the store has none, and all groups begin anew".to_owned(),
            (_, false) => {
                let stored = groups.stored.map(|at| format!(" at {}", date(at))).unwrap_or_default();
                format!(
                    "offsets that were committed after they were last stored{stored}: groups read those records again"
                )
            }
        },
    ];
    if !groups.ahead.is_empty() {
        let count = groups.ahead.len();
        lost.push(format!("{count} committed offsets beyond the archive: their groups go on at the partition's end"));
    }
    lost.push("topics, and changes of topics, of the last seconds".to_owned());
    lost.push("settings of brokers that were made while they ran, and feature levels".to_owned());
    lost.push(
        "replicas on other brokers: each partition has one, on this broker; let others join, then move replicas to them"
            .to_owned(),
    );
    let wants_more: Vec<&str> =
        report.topics.iter().filter(|topic| topic.least_in_sync.is_some()).map(|topic| &*topic.name).collect();
    if !wants_more.is_empty() {
        let names = wants_more.join(", ");
        lost.push(format!("until then topics with min.insync.replicas above 1 take no records with acks=all: {names}"));
    }
    lost
}

fn show(
    report: &RestoreReport,
    obstacles: &[String],
    arguments: &RestoreArguments,
    output: &mut Output,
) -> Result<(), Failure> {
    let lost = not_restored(report, arguments);
    if arguments.json { output.json(&as_json(report, obstacles, &lost)) } else { print(report, &lost, output) }
}

fn as_json(report: &RestoreReport, obstacles: &[String], lost: &[String]) -> Value {
    let at = |timestamp: Option<Timestamp>| timestamp.map(Timestamp::get);
    let ahead = report.groups.ahead.iter().map(|ahead| {
        json!({
            "group": ahead.group, "topic": ahead.topic, "partition": ahead.partition,
            "committed": ahead.offset.get(), "offset": ahead.end.get(),
        })
    });
    let change =
        report.last_change.as_ref().map(|change| json!({ "object": change.key, "timestamp": change.at.get() }));
    json!({
        "cluster": report.cluster_id.to_string(),
        "incarnation_before": report.before.get(),
        "incarnation": report.incarnation.map(|incarnation| incarnation.get()),
        "topics": report.topics.iter().map(topic_json).collect::<Vec<_>>(),
        "deleted": report.deleted,
        "left_out": report.left_out.iter()
            .map(|(name, id)| json!({ "topic": name, "id": id.to_string() })).collect::<Vec<_>>(),
        "groups": {
            "groups": report.groups.groups, "offsets": report.groups.offsets,
            "stored": at(report.groups.stored), "ahead": ahead.collect::<Vec<_>>(),
        },
        "next_producer_id": report.next_producer_id.get(),
        "last_change": change,
        "not_restored": lost,
        "obstacles": obstacles,
    })
}

fn topic_json(topic: &RestoredTopic) -> Value {
    let partitions = topic.partitions.iter().map(|one| {
        json!({
            "partition": one.partition.get(), "log_start_offset": one.log_start.get(), "end_offset": one.end.get(),
            "newest_timestamp": one.newest.map(Timestamp::get), "log_bytes": one.log_bytes,
        })
    });
    json!({
        "topic": topic.name, "id": topic.topic_id.to_string(), "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn print(report: &RestoreReport, lost: &[String], output: &mut Output) -> Result<(), Failure> {
    let (cluster, before) = (report.cluster_id, report.before);
    match report.incarnation {
        Some(now) => output.line(format!("cluster {cluster}, incarnation {now} after {before}"))?,
        None => output.line(format!("cluster {cluster}, incarnation {before}; nothing was changed"))?,
    }
    if let Some(change) = &report.last_change {
        output.line(format!("the store was last changed at {} ({})", date(change.at), change.key))?;
    }
    let rows = report.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|one| {
            vec![
                topic.name.clone(),
                one.partition.to_string(),
                format!("{}..{}", one.log_start, one.end),
                one.newest.map(date).unwrap_or_default(),
                ByteSize(one.log_bytes).to_string(),
            ]
        })
    });
    let rows: Vec<Vec<String>> = rows.collect();
    output.table(&["TOPIC", "PARTITION", "OFFSETS", "NEWEST-RECORD", "LOG-BYTES"], &rows)?;
    output.line(format!("{} groups, {} committed offsets", report.groups.groups, report.groups.offsets))?;
    for ahead in report.groups.ahead.iter().take(SHOWN) {
        let (place, offset, end) = (format!("{} {}", ahead.topic, ahead.partition), ahead.offset, ahead.end);
        output.line(format!("  group {} was at {offset} of {place}, and goes on at {end}", ahead.group))?;
    }
    for name in &report.deleted {
        output.line(format!("the deletion of topic {name} goes on"))?;
    }
    for (name, id) in &report.left_out {
        output.line(format!("topic {name} ({id}) is left out"))?;
    }
    output.line("not in the restored cluster:")?;
    lost.iter().try_for_each(|what| output.line(format!("  {what}")))
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::alluvium;

    /// Runs `alluvium restore` on a store, into a directory beside it.
    fn restore(root: &std::path::Path, store: &str, more: &[&str]) -> Result<String, String> {
        let data = root.join("data").display().to_string();
        let mut arguments = vec!["restore", "--object-store", store, "--data-dir", &data];
        arguments.extend_from_slice(more);
        alluvium(&arguments, &[])
    }

    #[test]
    fn a_place_that_holds_no_archive_is_refused_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let missing = format!("file://{}", root.path().join("missing").display());
        let error = restore(root.path(), &missing, &[]).unwrap_err();
        assert!(error.starts_with("there is no archive in") && error.contains("--object-store"), "{error}");
        std::fs::create_dir(root.path().join("store")).unwrap();
        let empty = format!("file://{}", root.path().join("store").display());
        let error = restore(root.path(), &empty, &[]).unwrap_err();
        assert!(error.contains("holds no archive"), "{error}");
        let nobodys = "00000000000000000000000000000001";
        let error = restore(root.path(), &empty, &["--cluster", nobodys, "--dry-run"]).unwrap_err();
        assert!(error.contains("holds no archive"), "{error}");
        let error = restore(root.path(), "memory:///", &["--dry-run"]).unwrap_err();
        assert!(error.contains("in memory holds nothing to restore"), "{error}");
        assert!(!root.path().join("data").exists());
        assert_eq!(std::fs::read_dir(root.path().join("store")).unwrap().count(), 0);
    }
}

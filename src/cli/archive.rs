//! `alluvium archive`: looks into the bucket alone, with no broker running; only [`flush`](super::flush) asks a broker.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::client::{ClientArguments, block_on};
use super::composition::store_settings;
use super::config::SettingArguments;
use super::flush::flush;
use super::format::{Placed, TEMPLATE_HELP, Template, date, to_json};
use super::progress::Progress;
use super::{Context, Exit, Failure, Output};
use crate::archive::bucket::{Bucket, BucketError};
use crate::archive::inspect::{
    ArchivedPartition, ArchivedTopic, ClusterReport, Headless, InspectError, Inspector, VerifyReport,
};
use crate::archive::manifest::Segment;
use crate::archive::parquet::Fate;
use crate::archive::partition::HeadError;
use crate::archive::remote_reader::ReadError;
use crate::archive::store::{Location, LocationError, Store, StoreError};
use crate::archive::workers::Workers;
use crate::config::{ByteSize, Interval};
use crate::group::snapshot;
use crate::record::MAX_DECOMPRESSED_BYTES;
use crate::runtime::tasks::Priority;
use crate::types::{ClusterId, Offset, PartitionIndex, Timestamp};

/// Lanes that decode Parquet.
const DECODE_LANES: usize = 2;

/// Which archive.
#[derive(Debug, Args)]
pub struct StoreArguments {
    /// Store of the archive: file:///path, s3://bucket/prefix, gs://… or az://… [default: as `serve` would use]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// Settings file (TOML), for the store's endpoint and region
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, as section.key=value; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which cluster, where the store holds several
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Which part of an archive.
#[derive(Debug, Args)]
pub struct TopicArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Which topic, by its name
    topic: String,
    /// Only this partition; can be repeated
    #[arg(long = "partition", short, value_name = "NUMBER", allow_negative_numbers = true)]
    partitions: Vec<i32>,
}

/// The archive.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// List what is archived: offset and time ranges, sizes, files
    Ls {
        #[command(flatten)]
        store: StoreArguments,
        /// Which topic; all topics when left out
        topic: Option<String>,
        /// Only this partition of the topic; can be repeated
        #[arg(long = "partition", short, value_name = "NUMBER", requires = "topic", allow_negative_numbers = true)]
        partitions: Vec<i32>,
    },
    /// Show the head of each partition, and its segments with their objects
    Describe(TopicArguments),
    /// Check everything: manifests, checksums, gaps, overlaps, and that every row decodes
    Verify(TopicArguments),
    /// Print archived records, as consumers of committed data see them
    Cat {
        #[command(flatten)]
        what: TopicArguments,
        /// First offset of each partition
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: i64,
        /// Stop after so many records
        #[arg(long, short = 'n', value_name = "NUMBER")]
        count: Option<u64>,
        /// Text for each record
        #[arg(long, value_name = "TEMPLATE", conflicts_with = "json", default_value = r"%s\n", long_help = TEMPLATE_HELP)]
        format: String,
    },
    /// Have a broker seal and archive what a topic holds now
    Flush {
        #[command(flatten)]
        client: ClientArguments,
        /// Which topic
        topic: String,
        /// Return once everything is in the archive, however long that takes, or fail after DURATION
        #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
        wait: Option<Option<Interval>>,
        /// Print the result as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs `alluvium archive`.
pub(super) fn run(command: ArchiveCommand, context: &mut Context) -> Result<(), Failure> {
    block_on(async {
        match command {
            ArchiveCommand::Ls { store, topic: None, .. } => list_topics(&store, context).await,
            ArchiveCommand::Ls { store, topic: Some(topic), partitions } => {
                list_partitions(&TopicArguments { store, topic, partitions }, context).await
            }
            ArchiveCommand::Describe(what) => describe(&what, context).await,
            ArchiveCommand::Verify(what) => verify(&what, context).await,
            ArchiveCommand::Cat { what, from, count, format } => {
                let template = Template::parse(&format)?;
                cat(&what, Offset(from.max(0)), count.unwrap_or(u64::MAX), &template, context).await
            }
            ArchiveCommand::Flush { client, topic, wait, json } => flush(&client, &topic, wait, json, context).await,
        }
    })
}

impl From<LocationError> for Failure {
    fn from(error: LocationError) -> Self {
        Self::of(error).with_exit(Exit::Usage)
    }
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let exit = match &error {
            InspectError::Manifest { .. } | InspectError::Record(_) => Exit::Damaged,
            InspectError::Bucket(BucketError::Manifest { .. }) => Exit::Damaged,
            // What comes first is a listing: there is no bucket.
            InspectError::Bucket(BucketError::Store(StoreError::NotFound { .. })) => Exit::Failed,
            InspectError::Store(store) | InspectError::Bucket(BucketError::Store(store)) => of_store(store),
            InspectError::Read(read) => of_read(read),
            InspectError::NoCluster | InspectError::SeveralClusters { .. } | InspectError::NoTopic { .. } => {
                Exit::Usage
            }
            InspectError::Bucket(_) => Exit::Failed,
        };
        Self::of(error).with_exit(exit)
    }
}

pub(super) fn of_store(error: &StoreError) -> Exit {
    match error {
        // Some other object names it.
        StoreError::NotFound { .. } | StoreError::WrongLength { .. } => Exit::Damaged,
        error if error.is_transient() => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::Store(store) | ReadError::Head(HeadError::Store(store)) => of_store(store),
        ReadError::Damaged { .. } | ReadError::Head(HeadError::Manifest { .. }) => Exit::Damaged,
        ReadError::Shared(error) => of_read(error),
        _ => Exit::Failed,
    }
}

/// Opens the archive that the arguments name.
async fn open(arguments: &StoreArguments, context: &Context) -> Result<Inspector, Failure> {
    let settings = SettingArguments::for_store(&arguments.config, &arguments.object_store, &arguments.set);
    let (store, archive) = settings.resolve_store(context)?;
    if let Some(directory) = store.directory()
        && !context.runtime.disk.exists(&directory)?
    {
        return Err(Failure::usage(format!("there is no archive in {}; check --object-store", directory.display())));
    }
    let runtime = &context.runtime;
    let workers = Workers::start(&*runtime.tasks, "inspect", Priority::Foreground, DECODE_LANES);
    let location = Location::parse(store.url.as_str())?;
    let store = Store::open_to_read(runtime, &location, store_settings(&store, &archive), workers.clone())?;
    if let Some(cluster) = arguments.cluster
        && !Bucket::clusters(&store).await.map_err(InspectError::from)?.contains(&cluster)
    {
        return Err(Failure::usage(format!(
            "the object store holds no cluster {cluster}; check --cluster and the URL"
        )));
    }
    Ok(Inspector::open(store, arguments.cluster, workers).await?)
}

/// The partitions that the arguments name.
struct Selection {
    topic: ArchivedTopic,
    /// Those that can be read, with their segments.
    partitions: Vec<ArchivedPartition>,
    /// Those that can't, and why.
    lost: Vec<(PartitionIndex, String)>,
    /// Those that have no head, perhaps not yet.
    begun: Vec<Headless>,
}

impl Selection {
    /// Ends a command that has shown the others.
    fn end(self) -> Result<(), Failure> {
        let name = &self.topic.name;
        let lines = self.lost.iter().map(|(partition, why)| format!("partition {partition} of {name}: {why}"));
        damaged(lines.collect())
    }
}

/// Fails with what is damaged, a line each, if anything is.
fn damaged(lines: Vec<String>) -> Result<(), Failure> {
    if lines.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Damaged, lines.join("\n"))) }
}

/// Finds the partitions that the arguments name. One that can't be read hides no other.
async fn select(inspector: &Inspector, what: &TopicArguments, now: Timestamp) -> Result<Selection, Failure> {
    let topic = inspector.topic(&what.topic).await?;
    let is_wanted =
        |partition: PartitionIndex| what.partitions.is_empty() || what.partitions.contains(&partition.get());
    let mut partitions = Vec::new();
    let mut lost: Vec<_> = topic.unreadable_heads().filter(|(partition, _)| is_wanted(*partition)).collect();
    for (&partition, head) in topic.heads.iter().filter(|(partition, _)| is_wanted(**partition)) {
        match inspector.partition(&topic, head).await {
            Ok(found) => partitions.push(found),
            // One of its lists of segments is gone or damaged.
            Err(error @ (InspectError::Manifest { .. } | InspectError::Store(StoreError::NotFound { .. }))) => {
                lost.push((partition, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let headless = inspector.headless(&topic).await?.into_iter().filter(|found| is_wanted(found.partition));
    let (gone, begun): (Vec<_>, Vec<_>) = headless.partition(|found| found.is_lost(now));
    lost.extend(gone.into_iter().map(|found| (found.partition, found.to_string())));
    lost.sort();
    let read = partitions.iter().map(|found| found.head.identity.partition);
    let others = begun.iter().map(|found| found.partition).chain(lost.iter().map(|(partition, _)| *partition));
    let known: BTreeSet<i32> = read.chain(others).map(PartitionIndex::get).collect();
    if let Some(missing) = what.partitions.iter().find(|&wanted| !known.contains(wanted)) {
        return Err(Failure::usage(format!("nothing of partition {missing} of {} is archived", what.topic)));
    }
    Ok(Selection { topic, partitions, lost, begun })
}

/// Totals over the segments of a partition.
#[derive(Debug, Default)]
struct Totals {
    records: u64,
    log_bytes: u64,
    stored_bytes: u64,
    min_timestamp: Option<Timestamp>,
    max_timestamp: Option<Timestamp>,
}

impl Totals {
    fn of<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Self {
        segments.into_iter().fold(Self::default(), |totals, segment| Self {
            records: totals.records + segment.record_count,
            log_bytes: totals.log_bytes + segment.log_bytes,
            stored_bytes: totals.stored_bytes + segment.stored_bytes(),
            min_timestamp: [totals.min_timestamp, Some(segment.min_timestamp)].into_iter().flatten().min(),
            max_timestamp: totals.max_timestamp.max(Some(segment.max_timestamp)),
        })
    }
}

async fn list_topics(arguments: &StoreArguments, context: &mut Context) -> Result<(), Failure> {
    let inspector = open(arguments, context).await?;
    let now = context.runtime.clock.wall();
    let (mut rows, mut lost) = (Vec::new(), Vec::new());
    for topic in inspector.topics().await? {
        lost.extend(topic.unreadable.iter().map(|(key, why)| format!("topic {}: {why} key={key}", topic.name)));
        let headless = inspector.headless(&topic).await?.into_iter().filter(|found| found.is_lost(now));
        lost.extend(headless.map(|found| format!("partition {} of {}: {found}", found.partition, topic.name)));
        let log_bytes: u64 = topic.heads.values().map(|head| head.log_bytes()).sum();
        let state = topic.description.as_ref().map_or(Value::Null, |found| json!(found.state));
        if arguments.json {
            context.output.json(&json!({
                "topic": topic.name, "id": topic.topic_id.to_string(), "state": state,
                "partitions": topic.heads.len(), "log_bytes": log_bytes,
            }))?;
        }
        let state = state.as_str().unwrap_or("unknown").to_owned();
        let bytes = ByteSize(log_bytes).to_string();
        rows.push(vec![topic.name, topic.topic_id.to_string(), state, topic.heads.len().to_string(), bytes]);
    }
    if !arguments.json {
        context.output.table(&["TOPIC", "ID", "STATE", "PARTITIONS", "LOG-BYTES"], &rows)?;
    }
    context.output.flush()?;
    damaged(lost)
}

async fn list_partitions(what: &TopicArguments, context: &mut Context) -> Result<(), Failure> {
    let inspector = open(&what.store, context).await?;
    let selection = select(&inspector, what, context.runtime.clock.wall()).await?;
    let mut rows = Vec::new();
    for partition in &selection.partitions {
        let head = &partition.head;
        let totals = Totals::of(&partition.segments);
        let time = |timestamp: Option<Timestamp>| timestamp.map(date).unwrap_or_default();
        if what.store.json {
            context.output.json(&json!({
                "topic": what.topic, "partition": head.identity.partition.get(),
                "log_start_offset": head.log_start_offset.get(), "next_offset": head.next_offset.get(),
                "min_timestamp": totals.min_timestamp.map(Timestamp::get),
                "max_timestamp": totals.max_timestamp.map(Timestamp::get),
                "segments": partition.segments.len(), "records": totals.records,
                "log_bytes": totals.log_bytes, "stored_bytes": totals.stored_bytes,
            }))?;
        }
        rows.push(vec![
            head.identity.partition.to_string(),
            format!("{}..{}", head.log_start_offset, head.next_offset),
            time(totals.min_timestamp),
            time(totals.max_timestamp),
            partition.segments.len().to_string(),
            totals.records.to_string(),
            totals.log_bytes.to_string(),
            totals.stored_bytes.to_string(),
        ]);
    }
    if !what.store.json {
        let heading = ["PARTITION", "OFFSETS", "FROM", "TO", "SEGMENTS", "RECORDS", "LOG-BYTES", "STORED-BYTES"];
        context.output.table(&heading, &rows)?;
    }
    context.output.flush()?;
    selection.end()
}

async fn describe(what: &TopicArguments, context: &mut Context) -> Result<(), Failure> {
    let inspector = open(&what.store, context).await?;
    let selection = select(&inspector, what, context.runtime.clock.wall()).await?;
    let (topic, output) = (&selection.topic, &mut context.output);
    if !what.store.json {
        output.line(format!("topic {} id {} in cluster {}", topic.name, topic.topic_id, inspector.cluster_id()))?;
        for (name, value) in topic.description.iter().flat_map(|description| &description.configs) {
            output.line(format!("  {name}={value}"))?;
        }
    }
    selection.partitions.iter().try_for_each(|found| describe_partition(found, what.store.json, output))?;
    output.flush()?;
    selection.end()
}

fn describe_partition(partition: &ArchivedPartition, json: bool, output: &mut Output) -> Result<(), Failure> {
    let head = &partition.head;
    let objects = |segment: &Segment| {
        let keys = [
            (segment.parquet_bytes, partition.keys.parquet(&segment.name)),
            (segment.companion_bytes, partition.keys.companion(&segment.name)),
        ];
        keys.into_iter().filter(|(bytes, _)| *bytes > 0).map(|(_, key)| key).collect::<Vec<_>>()
    };
    if json {
        for segment in &partition.segments {
            let mut object = json!(segment);
            object["topic"] = json!(head.identity.topic);
            object["partition"] = json!(head.identity.partition.get());
            object["objects"] = json!(objects(segment));
            output.json(&object)?;
        }
        return Ok(());
    }
    output.line(format!(
        "partition {}: offsets {}..{}, head generation {} by broker {} in epoch {}, {} spilled lists, {} tombstones",
        head.identity.partition,
        head.log_start_offset,
        head.next_offset,
        head.generation,
        head.writer.broker,
        head.writer.fence.leader_epoch,
        head.spills.len(),
        head.tombstones.len(),
    ))?;
    for segment in &partition.segments {
        output.line(format!(
            "  {}..{}  {}..{}  {} records in {} batches, {} bytes as {}",
            segment.base(),
            segment.next(),
            date(segment.min_timestamp),
            date(segment.max_timestamp),
            segment.record_count,
            segment.batch_count,
            segment.log_bytes,
            segment.stored_bytes(),
        ))?;
        objects(segment).iter().try_for_each(|key| output.line(format!("    {key}")))?;
    }
    Ok(())
}

async fn verify(what: &TopicArguments, context: &mut Context) -> Result<(), Failure> {
    let inspector = open(&what.store, context).await?;
    let selection = select(&inspector, what, context.runtime.clock.wall()).await?;
    let decode = |snapshot: &Bytes| snapshot::parse(snapshot).map(drop);
    let cluster = inspector.verify_cluster(&selection.topic, decode).await?;
    let mut problems = cluster.problems.len() + selection.lost.len();
    for partition in &selection.partitions {
        let index = partition.head.identity.partition;
        let segments = partition.segments.len();
        let progress = Progress::new(context.runtime.clock.clone(), "checked", true);
        let report = inspector.verify(partition, |report| progress.note(&checked(report, segments))).await;
        progress.clear();
        problems += report.problems.len();
        if what.store.json {
            let found = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
            context.output.json(&json!({
                "topic": what.topic, "partition": index.get(), "ok": report.problems.is_empty(),
                "segments": report.segments, "batches": report.batches, "records": report.records,
                "stored_bytes": report.stored_bytes, "problems": found,
            }))?;
            continue;
        }
        let verdict = if report.problems.is_empty() { "ok" } else { "DAMAGED" };
        context.output.line(format!("{verdict} {} partition {index}: {}", what.topic, checked(&report, segments)))?;
        for problem in &report.problems {
            context.output.line(format!("  {problem}"))?;
        }
    }
    report_unread(&selection, what.store.json, &mut context.output)?;
    report_cluster(&cluster, what.store.json, context)?;
    if problems == 0 {
        return Ok(());
    }
    context.output.flush()?;
    Err(Failure::new(Exit::Damaged, format!("the archive of {} has {problems} problems, listed above", what.topic)))
}

/// Says of which partitions nothing could be checked.
fn report_unread(selection: &Selection, json: bool, output: &mut Output) -> Result<(), Failure> {
    let topic = &selection.topic.name;
    for (partition, why) in &selection.lost {
        if json {
            let index = partition.get();
            output.json(&json!({ "topic": topic, "partition": index, "ok": false, "problems": [why] }))?;
        } else {
            output.line(format!("DAMAGED {topic} partition {partition}: nothing could be checked\n  {why}"))?;
        }
    }
    for begun in &selection.begun {
        let (partition, note) = (begun.partition, begun.to_string());
        if json {
            output.json(&json!({ "topic": topic, "partition": partition.get(), "ok": true, "note": note }))?;
        } else {
            output.line(format!("new {topic} partition {partition}: {note}"))?;
        }
    }
    Ok(())
}

fn report_cluster(cluster: &ClusterReport, json: bool, context: &mut Context) -> Result<(), Failure> {
    let ok = cluster.problems.is_empty();
    if json {
        return context.output.json(&json!({ "ok": ok, "objects": cluster.objects, "problems": cluster.problems }));
    }
    let verdict = if ok { "ok" } else { "DAMAGED" };
    context.output.line(format!("{verdict} what a restore begins with: {} objects", cluster.objects))?;
    cluster.problems.iter().try_for_each(|problem| context.output.line(format!("  {problem}")))
}

fn checked(report: &VerifyReport, segments: usize) -> String {
    format!(
        "{} of {segments} segments, {} batches, {} records, {} bytes",
        report.segments, report.batches, report.records, report.stored_bytes
    )
}

async fn cat(
    what: &TopicArguments,
    from: Offset,
    count: u64,
    template: &Template,
    context: &mut Context,
) -> Result<(), Failure> {
    let inspector = open(&what.store, context).await?;
    let selection = select(&inspector, what, context.runtime.clock.wall()).await?;
    let mut left = count;
    let mut text = Vec::new();
    for partition in &selection.partitions {
        let index = partition.head.identity.partition.get();
        let from = from.max(partition.head.log_start_offset);
        let mut batches = inspector.batches(partition, from);
        while left > 0
            && let Some(archived) = batches.try_next().await?
        {
            if matches!(archived.fate, Fate::Control | Fate::Aborted) {
                continue;
            }
            let payload = archived.batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
            text.clear();
            for record in archived.batch.header().records(&payload) {
                let record = record?;
                if record.offset < from || left == 0 {
                    continue;
                }
                let placed = Placed { topic: &what.topic, partition: index, record };
                if what.store.json {
                    text.extend_from_slice(to_json(&placed).to_string().as_bytes());
                    text.push(b'\n');
                } else {
                    template.render(&placed, &mut text);
                }
                left -= 1;
            }
            context.output.bytes(&text)?;
        }
    }
    context.output.flush()?;
    selection.end()
}

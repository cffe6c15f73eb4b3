//! `alluvium log`: looks into segment and index files, without a broker and without changing anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::format::{Placed, Template, date, to_json};
use super::log_index::{self, INDEX_LIMIT_BYTES, is_index};
use super::{Context, Exit, Failure, Output};
use crate::log::{
    Extent, Identity, ReadError, SEGMENT_HEADER_BYTES, Scanned, Segment, SegmentHeader, SegmentHome, SegmentIndex,
    checkpointed_segments, parse_index_file_name, parse_segment_file_name,
};
use crate::record::{Batch, MAX_DECOMPRESSED_BYTES, RecordError};
use crate::runtime::disk::{Disk, Open, read_file};
use crate::types::Offset;

/// The deepest directory that is looked into, counted from the one given.
const MAX_DEPTH: usize = 8;
const RECORD_TEMPLATE: &str = r"  %o %D key=%k headers=[%h] value=%s\n";

/// Segment files.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Print the batches of segments, or the entries of an index
    Dump {
        /// A segment or an index, or a directory that holds segments at any depth
        path: PathBuf,
        /// Print records too
        #[arg(long)]
        records: bool,
        /// One JSON object for each batch, or for each record with --records
        #[arg(long)]
        json: bool,
    },
    /// Check segments and indexes, and name the first bad byte
    Verify {
        /// A segment or an index, or a directory that holds segments at any depth
        path: PathBuf,
        /// One JSON object for each file
        #[arg(long)]
        json: bool,
    },
}

/// Runs `alluvium log`.
pub(super) fn run(command: LogCommand, context: &mut Context) -> Result<(), Failure> {
    let disk = Arc::clone(&context.runtime.disk);
    match command {
        LogCommand::Dump { path, records, json } => {
            if is_index(&path) {
                return log_index::dump(&*disk, &path, json, &mut context.output);
            }
            let mut bad = 0;
            for path in segments(&*disk, &path)? {
                bad += dump(&disk, &path, records, json, &mut context.output)?;
            }
            context.output.flush()?;
            match bad {
                0 => Ok(()),
                _ => Err(Failure::new(Exit::Damaged, format!("{bad} batches are damaged; their lines say so"))),
            }
        }
        LogCommand::Verify { path, json } => verify_all(&disk, &path, json, &mut context.output),
    }
}

/// The segment files at or below a path, sorted.
fn segments(disk: &dyn Disk, path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    if !disk.exists(path).map_err(unreadable)? {
        return Err(Failure::usage(format!("there is no {}", path.display())));
    }
    let mut found = Vec::new();
    match disk.list(path) {
        Ok(_) => collect(disk, path, MAX_DEPTH, &mut found).map_err(unreadable)?,
        Err(_) => found.push(path.to_owned()),
    }
    found.retain(|found| found == path || !is_index(found));
    if found.is_empty() {
        return Err(Failure::usage(format!("there are no segments in {}", path.display())));
    }
    Ok(found)
}

fn collect(disk: &dyn Disk, directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        let is_ours = parse_segment_file_name(&entry.name).or_else(|| parse_index_file_name(&entry.name)).is_some();
        if !entry.is_directory && is_ours {
            found.push(path);
        } else if entry.is_directory && depth > 0 {
            collect(disk, &path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// A segment file opened for looking at, whosever it is.
struct Opened {
    identity: Identity,
    header: SegmentHeader,
    file_bytes: u64,
    segment: Segment,
}

fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<Opened, Failure> {
    let damaged = |why: String| Failure::new(Exit::Damaged, format!("{}: {why}", path.display()));
    let file = disk.open(path, Open::Read)?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
    let file_bytes = file.length()?;
    let read = file.read_at(&mut bytes, 0)?;
    let (header, identity) =
        SegmentHeader::decode(&bytes[..read]).map_err(|error| damaged(format!("byte 0: {error}")))?;
    let extent = Extent { file_bytes, next_offset: Offset::MAX };
    let segment = Segment::existing(&SegmentHome::new(disk, identity), path.to_owned(), header, extent);
    Ok(Opened { identity, header, file_bytes, segment })
}

/// Prints a segment. How many of its batches have a wrong checksum; those are marked, and their records left out.
fn dump(disk: &Arc<dyn Disk>, path: &Path, records: bool, json: bool, output: &mut Output) -> Result<u64, Failure> {
    let opened = open(disk, path)?;
    let header = opened.header;
    let template = Template::parse(RECORD_TEMPLATE)?;
    let topic = header.partition.topic_id.to_string();
    let mut bad = 0;
    if !json {
        let (created, name) = (date(header.created_at), path.display());
        output.line(format!("{name}: partition {} begun {created}, {} bytes", header.partition, opened.file_bytes))?;
    }
    for scanned in opened.segment.scan(SEGMENT_HEADER_BYTES, Offset::MAX).map_err(damaged)? {
        let Scanned { batch, position } = scanned.map_err(damaged)?;
        if let Err(error) = batch.verify_checksum() {
            bad += 1;
            let mut object = batch_json(&batch, position);
            object["error"] = json!(error.to_string());
            let text = || format!("{}, DAMAGED: {error}", batch_text(&batch, position));
            if json {
                output.json(&object)?
            } else {
                output.line(text())?
            }
            continue;
        }
        match (json, records) {
            (true, false) => output.json(&batch_json(&batch, position))?,
            (false, _) => output.line(batch_text(&batch, position))?,
            (true, true) => {}
        }
        if records {
            let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
            let mut lines = Vec::new();
            for record in batch.header().records(&payload) {
                let placed = Placed { topic: &topic, partition: header.partition.partition.get(), record: record? };
                if json {
                    output.json(&to_json(&placed))?;
                } else {
                    template.render(&placed, &mut lines);
                }
            }
            output.bytes(&lines)?;
        }
    }
    Ok(bad)
}

fn damaged(error: ReadError) -> Failure {
    Failure::of(error).with_exit(Exit::Damaged)
}

fn codec(batch: &Batch) -> &'static str {
    batch.header().attributes.compression().map_or("unknown", crate::record::Compression::name)
}

fn batch_text(batch: &Batch, position: u64) -> String {
    let header = batch.header();
    let mut text = format!(
        "offset {}..{} at byte {position}: {} bytes, {} records, {}, epoch {}, up to {}",
        header.base_offset,
        header.next_offset(),
        batch.bytes().len(),
        header.record_count,
        codec(batch),
        header.leader_epoch,
        date(header.max_timestamp),
    );
    if header.producer_id.is_some() {
        let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
        text.push_str(&format!(", producer {id} epoch {epoch} sequence {sequence}"));
    }
    if header.attributes.is_control() {
        text.push_str(", control");
    } else if header.attributes.is_transactional() {
        text.push_str(", transactional");
    }
    text
}

fn batch_json(batch: &Batch, position: u64) -> Value {
    let header = batch.header();
    json!({
        "base_offset": header.base_offset.get(),
        "next_offset": header.next_offset().get(),
        "position": position,
        "bytes": batch.bytes().len(),
        "records": header.record_count,
        "codec": codec(batch),
        "leader_epoch": header.leader_epoch.get(),
        "base_timestamp": header.base_timestamp.get(),
        "max_timestamp": header.max_timestamp.get(),
        "producer_id": header.producer_id.get(),
        "producer_epoch": header.producer_epoch.get(),
        "base_sequence": header.base_sequence,
        "transactional": header.attributes.is_transactional(),
        "control": header.attributes.is_control(),
    })
}

/// What a whole segment holds.
#[derive(Debug, Default)]
struct Contents {
    batches: u64,
    records: u64,
    file_bytes: u64,
    next_offset: Offset,
}

/// The first thing that is wrong with a segment.
#[derive(Debug)]
struct Flaw {
    /// The byte of the segment's file, as far as there is one.
    position: Option<u64>,
    /// The byte of its index, where that is what is wrong.
    index_position: Option<u64>,
    /// What is wrong, and where.
    why: String,
}

impl Flaw {
    /// One that is not at a byte.
    fn of(why: &str) -> Self {
        Self { position: None, index_position: None, why: why.to_owned() }
    }

    fn at(position: u64, why: impl std::fmt::Display) -> Self {
        Self { position: Some(position), ..Self::of(&format!("byte {position}: {why}")) }
    }
}

impl From<ReadError> for Flaw {
    fn from(error: ReadError) -> Self {
        let position = match &error {
            ReadError::Corrupt { file_offset, .. } => Some(*file_offset),
            _ => None,
        };
        Self { position, ..Self::of(&error.to_string()) }
    }
}

/// Checks every segment, and that those of one partition follow each other. All are checked before the command fails.
fn verify_all(disk: &Arc<dyn Disk>, path: &Path, json: bool, output: &mut Output) -> Result<(), Failure> {
    let paths = segments(&**disk, path)?;
    let mut bad = 0;
    let mut before: Option<(SegmentHeader, Offset)> = None;
    let mut identity = None;
    for path in &paths {
        if is_index(path) {
            bad += u64::from(verify_lone_index(disk, path, json, output)?);
            continue;
        }
        let (header, checked) = match open(disk, path) {
            Ok(opened) => {
                identity = Some(opened.identity);
                (Some(opened.header), verify(&**disk, path, &opened, before))
            }
            Err(failure) => {
                let position = (failure.exit() == Exit::Damaged).then_some(0);
                (None, Err(Flaw { position, ..Flaw::of(&failure.to_string()) }))
            }
        };
        let shown = path.display().to_string();
        match (&checked, json) {
            (Ok(contents), false) => output.line(format!(
                "ok {shown}: {} batches, {} records up to offset {}, {} bytes",
                contents.batches, contents.records, contents.next_offset, contents.file_bytes
            ))?,
            (Ok(contents), true) => output.json(&json!({
                "path": shown, "ok": true, "batches": contents.batches, "records": contents.records,
                "next_offset": contents.next_offset.get(), "bytes": contents.file_bytes,
            }))?,
            (Err(flaw), _) => say_damaged(path, flaw, json, output)?,
        }
        bad += u64::from(checked.is_err());
        before = header.zip(checked.ok()).map(|(header, contents)| (header, contents.next_offset));
    }
    for (path, why) in lost_segments(&**disk, path, identity)? {
        say_damaged(&path, &Flaw::of(why), json, output)?;
        bad += 1;
    }
    if bad == 0 {
        return Ok(());
    }
    output.flush()?;
    Err(Failure::new(Exit::Damaged, format!("{bad} files are damaged or missing; their lines say where")))
}

fn say_damaged(path: &Path, flaw: &Flaw, json: bool, output: &mut Output) -> Result<(), Failure> {
    let shown = path.display().to_string();
    if json {
        return output.json(&json!({ "path": shown, "ok": false, "position": flaw.position, "error": flaw.why }));
    }
    output.line(format!("DAMAGED {shown}: {}", flaw.why))
}

/// Checks an index that was named, against its segment where that is beside it, which tells the byte that is bad: by itself it
/// may only tell that there is one. Whether it is damaged.
fn verify_lone_index(disk: &Arc<dyn Disk>, path: &Path, json: bool, output: &mut Output) -> Result<bool, Failure> {
    let segment = path.with_extension("segment");
    let has_segment = disk.exists(&segment)?;
    let compared = || {
        let opened = open(disk, &segment).map_err(|failure| Flaw::of(&failure.to_string()))?;
        verify(&**disk, &segment, &opened, None).map_err(|flaw| Flaw {
            position: flaw.index_position,
            ..Flaw::of(&format!("{}: {}", segment.display(), flaw.why))
        })
    };
    let checked = if has_segment { compared().map(drop) } else { Ok(()) };
    let checked = checked
        .and_then(|()| log_index::check(&**disk, path).map_err(|(position, why)| Flaw { position, ..Flaw::of(&why) }));
    let shown = path.display().to_string();
    match &checked {
        Err(flaw) => say_damaged(path, flaw, json, output)?,
        Ok(entries) if json => output.json(&json!({
            "path": shown, "ok": true, "entries": entries, "compared": has_segment,
        }))?,
        Ok(entries) => {
            let compared = if has_segment { "as its segment has them" } else { "and no segment beside it" };
            output.line(format!("ok {shown}: {entries} entries, {compared}"))?;
        }
    }
    Ok(checked.is_err())
}

/// Segments below a directory that are known to have been there and are not: their index is, which goes first when one is
/// removed, or a whole checkpoint vouches for them.
fn lost_segments(
    disk: &dyn Disk,
    path: &Path,
    identity: Option<Identity>,
) -> Result<BTreeMap<PathBuf, &'static str>, Failure> {
    let mut files = Vec::new();
    if disk.list(path).is_ok() {
        collect(disk, path, MAX_DEPTH, &mut files)?;
    }
    let indexed = files.iter().filter(|file| is_index(file));
    let mut expected: BTreeMap<PathBuf, &'static str> =
        indexed.map(|file| (file.with_extension("segment"), "it is missing, and its index is there")).collect();
    // Partitions lie three levels below their data directory.
    for directory in path.ancestors().take(4) {
        let Some(identity) = identity.filter(|_| disk.list(path).is_ok()) else { break };
        let listed = checkpointed_segments(disk, directory, &identity).unwrap_or_default();
        let here = listed.into_iter().filter(|file| file.starts_with(path));
        // The directory of a topic that was deleted since is gone.
        let kept = here.filter(|file| file.parent().is_some_and(|parent| disk.list(parent).is_ok()));
        expected.extend(kept.map(|file| (file, "it is missing, and the checkpoint lists it")));
    }
    expected.retain(|file, _| !files.contains(file));
    Ok(expected)
}

/// Checks one segment: every batch and record, and its index. Names the first bad byte.
fn verify(
    disk: &dyn Disk,
    path: &Path,
    opened: &Opened,
    before: Option<(SegmentHeader, Offset)>,
) -> Result<Contents, Flaw> {
    let header = opened.header;
    let named = path.file_name().and_then(|name| parse_segment_file_name(&name.to_string_lossy()));
    if named.is_some_and(|named| named != header.base_offset) {
        return Err(Flaw::at(0, format_args!("the header says that it begins at offset {}", header.base_offset)));
    }
    if let Some((previous, next_offset)) = before
        && previous.partition == header.partition
        && next_offset != header.base_offset
    {
        let base_offset = header.base_offset;
        let why = format_args!("begins at offset {base_offset}, and the segment before it ends at {next_offset}");
        return Err(Flaw::at(0, why));
    }
    let mut contents =
        Contents { file_bytes: opened.file_bytes, next_offset: header.base_offset, ..Contents::default() };
    let mut index = SegmentIndex::new(header.base_offset);
    for scanned in opened.segment.scan(SEGMENT_HEADER_BYTES, Offset::MAX)? {
        let Scanned { batch, position } = scanned?;
        verify_batch(&batch, contents.next_offset).map_err(|why| Flaw::at(position, why))?;
        index.observe(batch.header(), position).map_err(|why| Flaw::at(position, why))?;
        contents.batches += 1;
        contents.records += u64::from(batch.header().record_count.cast_unsigned());
        contents.next_offset = batch.header().next_offset();
    }
    verify_index(disk, path, opened, &index, contents.next_offset)?;
    Ok(contents)
}

fn verify_batch(batch: &Batch, expected: Offset) -> Result<(), String> {
    let text = |error: RecordError| error.to_string();
    let header = batch.header();
    batch.verify_checksum().map_err(text)?;
    // Nothing is compacted, so there are no gaps; the checksum does not cover the base offset.
    if header.base_offset != expected {
        return Err(format!("the batch begins at offset {} and not at {expected}", header.base_offset));
    }
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(text)?;
    for record in header.records(&payload) {
        let offset = record.map_err(text)?.offset;
        if offset < header.base_offset || offset >= header.next_offset() {
            return Err(format!("a record has offset {offset}, outside its batch"));
        }
    }
    Ok(())
}

/// Compares an index, where there is one, with what the segment gives. A broker rebuilds a bad one by itself.
fn verify_index(
    disk: &dyn Disk,
    path: &Path,
    opened: &Opened,
    rebuilt: &SegmentIndex,
    next_offset: Offset,
) -> Result<(), Flaw> {
    let index_path = path.with_extension("index");
    let unreadable = |error: std::io::Error| Flaw::of(&error.to_string());
    if !disk.exists(&index_path).map_err(unreadable)? {
        return Ok(());
    }
    let stored = read_file(disk, &index_path, INDEX_LIMIT_BYTES).map_err(unreadable)?;
    let expected = rebuilt.encode(&opened.identity, next_offset, opened.file_bytes);
    let differs = stored.iter().zip(&expected).position(|(stored, expected)| stored != expected);
    match differs.or((stored.len() != expected.len()).then(|| stored.len().min(expected.len()))) {
        None => Ok(()),
        Some(byte) => {
            let why = format!(
                "its index differs from what the segment holds at byte {byte}; delete {} and a broker makes it anew",
                index_path.display()
            );
            Err(Flaw { index_position: Some(byte as u64), ..Flaw::of(&why) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, Compression};
    use crate::runtime::production::LocalDisk;
    use crate::types::{ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, Timestamp, TopicId, TopicPartition};

    /// Writes a segment of three batches of two records, with its index.
    fn write_segment(directory: &Path) -> PathBuf {
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        let identity = Identity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            directory_id: DirectoryId::from_bytes([2; 16]),
            node_id: NodeId(1),
            incarnation: Incarnation(0),
        };
        let header = SegmentHeader {
            partition: TopicPartition::new(TopicId::from_bytes([3; 16]), 0),
            base_offset: Offset(10),
            created_at: Timestamp(1_357_016_400_000),
        };
        let (segment, mut writer) = Segment::create(&SegmentHome::new(&disk, identity), directory, header).unwrap();
        let batches: Vec<Batch> = (0..3)
            .map(|index| {
                let mut builder = BatchBuilder::new(BatchOptions::compressed(Compression::Lz4));
                for value in [b"one", b"two"] {
                    builder.append(Timestamp(1_357_016_400_000), None, Some(value), std::iter::empty());
                }
                builder.build(Offset(10 + 2 * index), LeaderEpoch(4)).unwrap()
            })
            .collect();
        segment.append(&mut writer, &batches).unwrap();
        segment.store_index().unwrap();
        segment.path().to_owned()
    }

    fn verify_path(path: &Path) -> Result<Contents, String> {
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        let opened = open(&disk, path).map_err(|failure| failure.to_string())?;
        verify(&*disk, path, &opened, None).map_err(|flaw| flaw.why)
    }

    /// What `verify --json` prints of one segment.
    fn verdict(path: &Path) -> Value {
        let directory = tempfile::tempdir().unwrap();
        let printed = directory.path().join("printed");
        let mut output = Output::to(std::fs::File::create(&printed).unwrap());
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        assert!(verify_all(&disk, path, true, &mut output).is_err());
        serde_json::from_slice(&std::fs::read(&printed).unwrap()).unwrap()
    }

    #[test]
    fn a_whole_segment_is_found_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_segment(directory.path());
        let contents = verify_path(&path).unwrap();
        assert_eq!((contents.batches, contents.records, contents.next_offset), (3, 6, Offset(16)));
        assert_eq!(segments(&LocalDisk, directory.path()).unwrap_or_default(), [path]);
    }

    #[test]
    fn every_changed_byte_is_found_and_its_batch_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_segment(directory.path());
        let whole = std::fs::read(&path).unwrap();
        let batch_bytes = (whole.len() - 128) / 3;
        for position in 128..whole.len() {
            // Nothing covers the leader epoch, which the broker sets.
            if (12..16).contains(&((position - 128) % batch_bytes)) {
                continue;
            }
            let mut changed = whole.clone();
            changed[position] ^= 0x01;
            std::fs::write(&path, &changed).unwrap();
            let why = verify_path(&path).expect_err(&format!("byte {position}"));
            let batch = 128 + (position - 128) / batch_bytes * batch_bytes;
            // A lying length or offset is noticed where the next batch should be.
            let next = batch + batch_bytes;
            assert!(
                why.contains(&batch.to_string()) || why.contains(&next.to_string()) || why.contains("index"),
                "byte {position}: {why}"
            );
        }
    }

    #[test]
    fn the_first_bad_byte_is_a_field_of_the_json() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_segment(directory.path());
        let whole = std::fs::read(&path).unwrap();
        let batch_bytes = (whole.len() - 128) / 3;
        for (changed, expected) in [(0, 0), (128 + 61, 128), (128 + batch_bytes + 61, 128 + batch_bytes)] {
            let mut bytes = whole.clone();
            bytes[changed] ^= 0x01;
            std::fs::write(&path, &bytes).unwrap();
            let verdict = verdict(&path);
            assert_eq!((&verdict["ok"], &verdict["position"]), (&json!(false), &json!(expected)), "{verdict}");
        }
    }

    #[test]
    fn a_bad_index_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_segment(directory.path());
        let index = path.with_extension("index");
        let mut content = std::fs::read(&index).unwrap();
        *content.last_mut().unwrap() ^= 1;
        std::fs::write(&index, content).unwrap();
        let why = verify_path(&path).unwrap_err();
        assert!(why.contains("a broker makes it anew"), "{why}");
    }

    /// What a command prints, and whether it found damage.
    fn run_on(path: &Path, is_dump: bool, json: bool) -> (String, Option<Exit>) {
        let captured = crate::cli::tests::Captured::default();
        let (disk, mut output): (Arc<dyn Disk>, _) = (Arc::new(LocalDisk), Output::to(captured.clone()));
        let result = match is_dump {
            true if is_index(path) => log_index::dump(&*disk, path, json, &mut output),
            true => dump(&disk, path, true, json, &mut output).map(|bad| assert_eq!(bad, 1)),
            false => verify_all(&disk, path, json, &mut output),
        };
        output.flush().unwrap();
        (captured.text(), result.err().map(|failure| failure.exit()))
    }

    #[test]
    fn an_index_is_printed_and_checked_by_itself_and_against_its_segment() {
        let directory = tempfile::tempdir().unwrap();
        let segment = write_segment(directory.path());
        let index = segment.with_extension("index");
        let (printed, _) = run_on(&index, true, false);
        assert!(printed.contains("index of a segment up to offset 16") && printed.contains("1 entries"), "{printed}");
        assert!(printed.lines().nth(1).unwrap().starts_with("offset 10 at byte 128"), "{printed}");
        let (printed, _) = run_on(&index, true, true);
        let entry: Value = serde_json::from_str(printed.lines().nth(1).unwrap()).unwrap();
        assert_eq!((&entry["offset"], &entry["position"]), (&json!(10), &json!(128)));
        let (said, exit) = run_on(&index, false, false);
        assert!(exit.is_none() && said.contains("1 entries, as its segment has them"), "{said}");

        // Whole by itself, and of a segment that is longer.
        let content = std::fs::read(&segment).unwrap();
        std::fs::write(&segment, &content[..128 + (content.len() - 128) / 3]).unwrap();
        let (said, exit) = run_on(&index, false, false);
        assert!(exit == Some(Exit::Damaged) && said.contains("its index differs"), "{said}");
        std::fs::remove_file(&segment).unwrap();
        let (said, exit) = run_on(&index, false, false);
        assert!(exit.is_none() && said.contains("no segment beside it"), "{said}");
        let whole = std::fs::read(&index).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&index, changed).unwrap();
            assert_eq!(run_on(&index, false, false).1, Some(Exit::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_batch_with_a_wrong_checksum_is_marked_and_the_others_are_printed() {
        let directory = tempfile::tempdir().unwrap();
        let segment = write_segment(directory.path());
        let mut content = std::fs::read(&segment).unwrap();
        let batch_bytes = (content.len() - 128) / 3;
        content[128 + 2 * batch_bytes - 1] ^= 1;
        std::fs::write(&segment, &content).unwrap();
        let (printed, _) = run_on(&segment, true, false);
        let marked: Vec<&str> = printed.lines().filter(|line| line.contains("DAMAGED")).collect();
        assert!(matches!(&marked[..], [line] if line.starts_with("offset 12..14")), "{printed}");
        assert_eq!(printed.matches("value=one").count(), 2, "{printed}");
        let (printed, _) = run_on(&segment, true, true);
        assert_eq!(printed.matches("\"error\":").count(), 1, "{printed}");
    }

    #[test]
    fn a_segment_that_is_missing_beside_its_index_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let segment = write_segment(directory.path());
        std::fs::write(directory.path().join("00000000000000000003.index"), b"").unwrap();
        let (said, exit) = run_on(directory.path(), false, false);
        assert_eq!(exit, Some(Exit::Damaged));
        assert!(said.contains(&format!("ok {}", segment.display())), "{said}");
        assert!(said.contains("00000000000000000003.segment: it is missing"), "{said}");
    }
}

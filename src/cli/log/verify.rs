//! `alluvium log verify`: every byte of segments, whether they are where they belong, and whether all are there.
//!
//! What a segment can't tell of itself, the checkpoint of its data directory does: how long it is, which leader epochs its
//! batches have, and that it was there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::index::{self, INDEX_LIMIT_BYTES, is_index};
use super::{MAX_DEPTH, Opened, collect, no_segments, open, segments};
use crate::cli::progress::Progress;
use crate::cli::{Exit, Failure, Output};
use crate::log::{
    Extent, Identity, OpenError, ReadError, SEGMENT_HEADER_BYTES, Scanned, SegmentHeader, SegmentIndex, Vouched,
    VouchedSegment, parse_segment_file_name,
};
use crate::record::{Batch, MAX_DECOMPRESSED_BYTES, RecordError};
use crate::runtime::Runtime;
use crate::runtime::disk::{Disk, read_file};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// What a whole segment holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) batches: u64,
    pub(super) records: u64,
    file_bytes: u64,
    pub(super) next_offset: Offset,
    /// Of its last batch, or of one before it.
    epoch: Option<LeaderEpoch>,
}

/// The first thing that is wrong with a segment.
#[derive(Debug)]
pub(super) struct Flaw {
    /// The byte of the segment's file, as far as there is one.
    position: Option<u64>,
    /// The byte of its index, where that is what is wrong.
    index_position: Option<u64>,
    /// What is wrong, and where.
    pub(super) why: String,
}

impl Flaw {
    /// One that is not at a byte.
    pub(super) fn of(why: &str) -> Self {
        Self { position: None, index_position: None, why: why.to_owned() }
    }

    pub(super) fn at(position: u64, why: impl std::fmt::Display) -> Self {
        Self { position: Some(position), ..Self::of(&format!("byte {position}: {why}")) }
    }

    /// How a command ends that can't go on behind it.
    pub(super) const fn exit(&self) -> Exit {
        if self.position.is_some() { Exit::Damaged } else { Exit::Failed }
    }
}

impl From<ReadError> for Flaw {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Corrupt { file_offset, error, .. } => Self::at(*file_offset, error),
            _ => Self::of(&error.to_string()),
        }
    }
}

/// Checks every segment, that those of one partition follow each other, and that none is missing. All are checked before the
/// command fails.
pub(super) fn verify_all(runtime: &Runtime, path: &Path, json: bool, output: &mut Output) -> Result<(), Failure> {
    let disk = &runtime.disk;
    let mut bad = 0;
    // Before any file is opened, which may grow meanwhile.
    let vouched = match vouched(runtime, path) {
        Err(OpenError::Io(error)) => return Err(error.into()),
        Err(error) => {
            say_damaged(path, &Flaw::of(&error.to_string()), json, output)?;
            bad += 1;
            None
        }
        Ok(found) => found,
    };
    let paths = segments(&**disk, path)?;
    let mut progress = Progress::new(Arc::clone(&runtime.clock), "checked", true);
    let mut before: Option<(SegmentHeader, Contents)> = None;
    for path in &paths {
        if is_index(path) {
            bad += u64::from(verify_lone_index(disk, path, vouched.as_ref(), json, &mut progress, output)?);
            continue;
        }
        let checked = open(disk, path).and_then(|opened| {
            let contents = verify(&**disk, path, &opened, before.take(), vouched.as_ref(), &mut progress)?;
            Ok((opened.header, contents))
        });
        progress.make_way();
        if checked.is_err() && !disk.exists(path)? {
            // It left meanwhile. If it should not have, it is missed below.
            continue;
        }
        match &checked {
            Ok((_, contents)) => say_whole(path, contents, json, output)?,
            Err(flaw) => say_damaged(path, flaw, json, output)?,
        }
        bad += u64::from(checked.is_err());
        before = checked.ok();
    }
    progress.finish();
    let lost = lost_segments(runtime, path, vouched)?;
    for (path, why) in &lost {
        say_damaged(path, &Flaw::of(why), json, output)?;
        bad += 1;
    }
    match bad {
        0 if paths.is_empty() => Err(no_segments(path)),
        0 => Ok(()),
        _ => {
            output.flush()?;
            Err(Failure::new(Exit::Damaged, format!("{bad} files are damaged or missing; their lines say where")))
        }
    }
}

/// What is certain of what is at a path. A broker at work may go on between its checkpoint and its journal: then once more.
fn vouched(runtime: &Runtime, path: &Path) -> Result<Option<Vouched>, OpenError> {
    Vouched::find(runtime, path).or_else(|_| Vouched::find(runtime, path))
}

fn say_whole(path: &Path, contents: &Contents, json: bool, output: &mut Output) -> Result<(), Failure> {
    let Contents { batches, records, file_bytes, next_offset, .. } = contents;
    let shown = path.display().to_string();
    if json {
        return output.json(&json!({
            "path": shown, "ok": true, "batches": batches, "records": records, "next_offset": next_offset.get(),
            "bytes": file_bytes,
        }));
    }
    output.line(format!(
        "ok {shown}: {batches} batches, {records} records up to offset {next_offset}, {file_bytes} bytes"
    ))
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
fn verify_lone_index(
    disk: &Arc<dyn Disk>,
    path: &Path,
    vouched: Option<&Vouched>,
    json: bool,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<bool, Failure> {
    let segment = path.with_extension("segment");
    let has_segment = disk.exists(&segment)?;
    let mut compared = || {
        let whole = open(disk, &segment).and_then(|opened| verify(&**disk, &segment, &opened, None, vouched, progress));
        whole.map_err(|flaw| Flaw {
            position: flaw.index_position,
            ..Flaw::of(&format!("{}: {}", segment.display(), flaw.why))
        })
    };
    let checked = if has_segment { compared().map(drop) } else { Ok(()) };
    let checked = checked
        .and_then(|()| index::check(&**disk, path).map_err(|(position, why)| Flaw { position, ..Flaw::of(&why) }));
    progress.make_way();
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

/// Segments at or below a path that are known to have been there and are not: their index is, which goes first when one is
/// removed, or the checkpoint vouches for them.
fn lost_segments(
    runtime: &Runtime,
    path: &Path,
    known: Option<Vouched>,
) -> Result<BTreeMap<PathBuf, &'static str>, Failure> {
    let disk = &*runtime.disk;
    if disk.list(path).is_err() {
        // A file, which was checked.
        return Ok(BTreeMap::new());
    }
    let mut files = Vec::new();
    collect(disk, path, MAX_DEPTH, &mut files)?;
    let files = BTreeSet::from_iter(files);
    let indexed = files.iter().filter(|file| is_index(file)).map(|file| file.with_extension("segment"));
    let mut lost: BTreeMap<PathBuf, &'static str> = indexed
        .filter(|file| !files.contains(file))
        .map(|file| (file, "it is missing, and its index is there"))
        .collect();
    let missing = |known: Option<Vouched>| known.map(|known| known.missing(path, &files)).unwrap_or_default();
    let mut listed = missing(known);
    if !listed.is_empty() {
        // What left a broker at work meanwhile did so by the word of a later checkpoint, or of the journal.
        let now = missing(vouched(runtime, path).map_err(Failure::of)?);
        listed.retain(|file| now.contains(file));
    }
    lost.extend(listed.into_iter().map(|file| (file, "it is missing, and the checkpoint lists it")));
    Ok(lost)
}

/// Checks one segment: its place, every batch and record, and its index. Names the first bad byte.
pub(super) fn verify(
    disk: &dyn Disk,
    path: &Path,
    opened: &Opened,
    before: Option<(SegmentHeader, Contents)>,
    vouched: Option<&Vouched>,
    progress: &mut Progress,
) -> Result<Contents, Flaw> {
    let header = opened.header;
    check_place(path, opened, vouched)?;
    let known = vouched.and_then(|vouched| vouched.segment(path));
    if let Some(VouchedSegment { bytes, .. }) = known.filter(|known| opened.file_bytes < known.bytes) {
        let why = format_args!("the file ends here, and the checkpoint has it up to byte {bytes}; restore it");
        return Err(Flaw::at(opened.file_bytes, why));
    }
    let before = before.filter(|(previous, _)| previous.partition == header.partition).map(|(_, contents)| contents);
    if let Some(Contents { next_offset, .. }) = before
        && next_offset != header.base_offset
    {
        let base_offset = header.base_offset;
        let why = format_args!("begins at offset {base_offset}, and the segment before it ends at {next_offset}");
        return Err(Flaw::at(0, why));
    }
    let (file_bytes, next_offset) = (opened.file_bytes, header.base_offset);
    let epoch = before.and_then(|before| before.epoch);
    let mut contents = Contents { batches: 0, records: 0, file_bytes, next_offset, epoch };
    let mut index = SegmentIndex::new(header.base_offset);
    for scanned in opened.segment.scan(SEGMENT_HEADER_BYTES, Offset::MAX)? {
        let Scanned { batch, position } = scanned?;
        verify_batch(&batch, contents.next_offset).map_err(|why| Flaw::at(position, why))?;
        verify_epoch(&batch, contents.epoch, known).map_err(|why| Flaw::at(position, why))?;
        index.observe(batch.header(), position).map_err(|why| Flaw::at(position, why))?;
        let records = u64::from(batch.header().record_count.cast_unsigned());
        progress.batch(records, batch.bytes().len());
        contents.batches += 1;
        contents.records += records;
        contents.next_offset = batch.header().next_offset();
        contents.epoch = Some(batch.header().leader_epoch);
    }
    verify_index(disk, path, opened, &index, contents.next_offset)?;
    Ok(contents)
}

/// Compares what a segment says of itself with where it lies, as far as the names on the way there tell that.
fn check_place(path: &Path, opened: &Opened, vouched: Option<&Vouched>) -> Result<(), Flaw> {
    let Opened { header: SegmentHeader { partition, base_offset, .. }, identity: found, .. } = opened;
    if let Some(Vouched { identity, .. }) = vouched
        && *found != (Identity { incarnation: found.incarnation, ..*identity })
    {
        let why =
            format_args!("the segment belongs to another data directory ({found}); bring back the one that was here");
        return Err(Flaw::at(0, why));
    }
    let name = |level| path.ancestors().nth(level).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let place =
        name(2).parse().ok().zip(name(1).parse().ok()).map(|(topic_id, index)| TopicPartition::new(topic_id, index));
    let is_elsewhere = place.is_some_and(|place| place != *partition)
        || parse_segment_file_name(&name(0)).is_some_and(|named| named != *base_offset);
    if !is_elsewhere {
        return Ok(());
    }
    let TopicPartition { topic_id, partition } = partition;
    let why = format_args!(
        "the segment belongs elsewhere: its header says topic {topic_id}, partition {partition}, offset {base_offset}; move it there"
    );
    Err(Flaw::at(0, why))
}

/// Checks the leader epoch of a batch, which its checksum does not cover: they never go back, and the checkpoint may know it.
fn verify_epoch(batch: &Batch, before: Option<LeaderEpoch>, known: Option<&VouchedSegment>) -> Result<(), String> {
    let (offset, epoch) = (batch.header().base_offset, batch.header().leader_epoch);
    if let Some(certain) = known.and_then(|known| known.epoch_at(offset)).filter(|certain| *certain != epoch) {
        return Err(format!("the batch has leader epoch {epoch}, and the checkpoint has {certain} at offset {offset}"));
    }
    match before.filter(|before| *before > epoch) {
        Some(before) => Err(format!("the batch has leader epoch {epoch}, after one with {before}, which can't be")),
        None => Ok(()),
    }
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
    if let Ok((_, Extent { file_bytes, .. })) = SegmentIndex::read(&stored, opened.header.base_offset)
        && file_bytes > opened.file_bytes
    {
        let why = format_args!("the file ends here, and its index has it up to byte {file_bytes}; restore it");
        return Err(Flaw::at(opened.file_bytes, why));
    }
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

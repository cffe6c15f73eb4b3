//! `alluvium log`: looks into segment and index files, without a broker and without changing anything.

mod index;
mod verify;

#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use self::index::is_index;
use self::verify::{Flaw, verify_all};
use super::format::{Placed, Template, date, to_json};
use super::progress::Progress;
use super::{Context, Exit, Failure, Output};
use crate::log::{
    Extent, Identity, REMOVED_DIRECTORY, ReadError, SEGMENT_HEADER_BYTES, Scanned, Segment, SegmentHeader, SegmentHome,
    parse_index_file_name, parse_segment_file_name,
};
use crate::record::{Batch, MAX_DECOMPRESSED_BYTES};
use crate::runtime::disk::{Disk, Open};
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
                return index::dump(&*disk, &path, json, &mut context.output);
            }
            let found = segments(&*disk, &path)?;
            if found.is_empty() {
                return Err(no_segments(&path));
            }
            let clock = Arc::clone(&context.runtime.clock);
            let mut progress = Progress::new(clock, "printed", !std::io::stdout().is_terminal());
            let output = &mut context.output;
            let dumped = found.iter().try_fold(0_u64, |bad, path| {
                dump(&disk, path, records, json, &mut progress, output).map(|more| bad + more)
            });
            progress.finish();
            output.flush()?;
            match dumped? {
                0 => Ok(()),
                bad => Err(Failure::new(Exit::Damaged, format!("{bad} batches are damaged; their lines say so"))),
            }
        }
        LogCommand::Verify { path, json } => {
            // What lies above it tells where a segment belongs, and what there should be.
            let path = context.working_directory.join(path).components().collect::<PathBuf>();
            verify_all(&context.runtime, &path, json, &mut context.output)
        }
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
    Ok(found)
}

fn no_segments(path: &Path) -> Failure {
    Failure::usage(format!("there are no segments in {}", path.display()))
}

fn collect(disk: &dyn Disk, directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        let is_ours = parse_segment_file_name(&entry.name).or_else(|| parse_index_file_name(&entry.name)).is_some();
        if !entry.is_directory && is_ours {
            found.push(path);
        } else if entry.is_directory && depth > 0 && entry.name != REMOVED_DIRECTORY {
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

fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<Opened, Flaw> {
    let unreadable = |error: std::io::Error| Flaw::of(&format!("it can't be read: {error}"));
    let file = disk.open(path, Open::Read).map_err(unreadable)?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
    let file_bytes = file.length().map_err(unreadable)?;
    let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
    if read < bytes.len() {
        let why = format!("the file ends here, within the header of {SEGMENT_HEADER_BYTES} bytes; restore it");
        return Err(Flaw::at(read as u64, why));
    }
    let (header, identity) = SegmentHeader::decode(&bytes).map_err(|error| Flaw::at(0, error))?;
    let extent = Extent { file_bytes, next_offset: Offset::MAX };
    let segment = Segment::existing(&SegmentHome::new(disk, identity), path.to_owned(), header, extent);
    Ok(Opened { identity, header, file_bytes, segment })
}

/// Prints a segment. How many of its batches have a wrong checksum; those are marked, and their records left out.
fn dump(
    disk: &Arc<dyn Disk>,
    path: &Path,
    records: bool,
    json: bool,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<u64, Failure> {
    let opened =
        open(disk, path).map_err(|flaw| Failure::new(flaw.exit(), format!("{}: {}", path.display(), flaw.why)))?;
    let header = opened.header;
    let template = Template::parse(RECORD_TEMPLATE)?.with_nulls();
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
        progress.batch(u64::from(batch.header().record_count.cast_unsigned()), batch.bytes().len());
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

//! `alluvium log` on index files: what they say, and whether it is so.

use std::path::Path;

use serde_json::json;

use crate::cli::format::date;
use crate::cli::{Exit, Failure, Output};
use crate::log::{Extent, SegmentIndex, parse_index_file_name};
use crate::runtime::disk::{Disk, read_file};
use crate::types::Offset;

/// The largest index file that is read.
pub(super) const INDEX_LIMIT_BYTES: u64 = 64 << 20;

/// Whether a path names an index file.
pub(super) fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "index")
}

/// Reads an index by itself. In a file of another name offsets count from the beginning of its segment.
fn read(disk: &dyn Disk, path: &Path) -> Result<(SegmentIndex, Extent), String> {
    let named = path.file_name().and_then(|name| parse_index_file_name(&name.to_string_lossy()));
    let content = read_file(disk, path, INDEX_LIMIT_BYTES).map_err(|error| error.to_string())?;
    SegmentIndex::read(&content, named.unwrap_or(Offset::ZERO)).map_err(|error| error.to_string())
}

/// Prints what an index says.
pub(super) fn dump(disk: &dyn Disk, path: &Path, json: bool, output: &mut Output) -> Result<(), Failure> {
    let shown = path.display();
    let damaged = |why: String| Failure::new(Exit::Damaged, format!("{shown}: {why}"));
    let (index, extent) = read(disk, path).map_err(damaged)?;
    let (entries, max_timestamp) = (index.entries().len(), index.max_timestamp());
    if json {
        output.json(&json!({
            "next_offset": extent.next_offset.get(), "segment_bytes": extent.file_bytes,
            "max_timestamp": max_timestamp.get(), "entries": entries,
        }))?;
    } else {
        output.line(format!(
            "{shown}: index of a segment up to offset {} and {}, {} bytes, {entries} entries",
            extent.next_offset,
            date(max_timestamp),
            extent.file_bytes,
        ))?;
    }
    for (offset, position, before) in index.entries() {
        if json {
            output.json(&json!({
                "offset": offset.get(), "position": position, "max_timestamp_before": before.get(),
            }))?;
        } else {
            output.line(format!("offset {offset} at byte {position}, up to {} before it", date(before)))?;
        }
    }
    Ok(())
}

/// Checks an index by itself: stamp, checksum, and the order of its entries. How many entries it has, or what is wrong, and at
/// which byte, unless only the checksum tells that something is.
pub(super) fn check(disk: &dyn Disk, path: &Path) -> Result<usize, (Option<u64>, String)> {
    let (index, extent) = read(disk, path).map_err(|why| (None, why))?;
    match index.disorder(extent) {
        None => Ok(index.entries().len()),
        Some(byte) => Err((Some(byte as u64), format!("byte {byte}: the entry is out of order"))),
    }
}

//! Lines of a file or of standard input, read by a lane, so that a slow source does not hold back what came before.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::runtime::Runtime;
use crate::runtime::disk::{File, Open};
use crate::runtime::tasks::{Lane, Priority};

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Groups of lines that wait to be taken.
const WAITING_GROUPS: usize = 4;
/// The longest line.
const MAX_LINE_BYTES: usize = 64 << 20;

/// A source of lines.
pub(super) struct Lines {
    groups: mpsc::Receiver<io::Result<Vec<Vec<u8>>>>,
    lane: Option<Lane>,
}

impl Lines {
    /// Lines of a file, or of standard input without one.
    pub(super) fn open(runtime: &Runtime, path: Option<&Path>) -> io::Result<Self> {
        let source: Box<dyn Read + Send> = match path {
            Some(path) => Box::new(FileReader { file: runtime.disk.open(path, Open::Read)?, position: 0 }),
            None => Box::new(io::stdin()),
        };
        let (sender, groups) = mpsc::channel(WAITING_GROUPS);
        let mut pending = Some((BufReader::with_capacity(READ_BYTES, source), sender));
        let work = Box::new(move || {
            if let Some((source, sender)) = pending.take() {
                read_all(source, &sender);
            }
        });
        let lane = Lane::start(&*runtime.tasks, "input", Priority::Foreground, work);
        lane.wake();
        Ok(Self { groups, lane: Some(lane) })
    }

    /// The lines that arrived together, without their line feeds; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Vec<Vec<u8>>>> {
        let group = self.groups.recv().await;
        if group.is_none() {
            self.lane = None;
        }
        group
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // A lane that waits for standard input can't be stopped; it ends with the process.
        std::mem::forget(self.lane.take());
    }
}

fn read_all(mut source: BufReader<Box<dyn Read + Send>>, sender: &mpsc::Sender<io::Result<Vec<Vec<u8>>>>) {
    let mut partial = Vec::new();
    loop {
        let group = read_group(&mut source, &mut partial);
        let end = !matches!(&group, Ok(Some(_)));
        if let Some(group) = group.transpose()
            && sender.blocking_send(group).is_err()
        {
            return;
        }
        if end {
            return;
        }
    }
}

/// The lines that end in what one read gives; `None` at the end. An unfinished line is kept in `partial`.
fn read_group(source: &mut BufReader<Box<dyn Read + Send>>, partial: &mut Vec<u8>) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut lines = Vec::new();
    while lines.is_empty() {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            let last = std::mem::take(partial);
            return Ok((!last.is_empty()).then(|| vec![last]));
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            partial.extend_from_slice(&rest[..end]);
            lines.push(std::mem::take(partial));
            rest = &rest[end + 1..];
        }
        partial.extend_from_slice(rest);
        let read = bytes.len();
        source.consume(read);
        if partial.len() > MAX_LINE_BYTES {
            let text = format!("a line is longer than {} MiB", MAX_LINE_BYTES >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(Some(lines))
}

/// A file read from front to back.
struct FileReader {
    file: Arc<dyn File>,
    position: u64,
}

impl Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive_and_the_last_needs_no_line_feed() {
        let text = b"one\n\ntwo\nthree".to_vec();
        for capacity in [1, 2, 3, 64] {
            let source: Box<dyn Read + Send> = Box::new(io::Cursor::new(text.clone()));
            let mut source = BufReader::with_capacity(capacity, source);
            let (mut partial, mut lines) = (Vec::new(), Vec::new());
            while let Some(group) = read_group(&mut source, &mut partial).unwrap() {
                lines.extend(group);
            }
            assert_eq!(lines, [&b"one"[..], b"", b"two", b"three"], "{capacity}");
        }
    }
}

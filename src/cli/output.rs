//! Standard output, buffered, and quiet about a reader that leaves.

use std::io::{self, BufWriter, IsTerminal, Write};

use super::Failure;
use super::exit::OutputClosed;

const BUFFER_BYTES: usize = 64 << 10;

/// Where a command's result goes.
pub struct Output {
    writer: BufWriter<Box<dyn Write>>,
    /// People see each line when it is written; pipes get full buffers.
    eager: bool,
}

impl Output {
    /// Standard output.
    pub fn standard() -> Self {
        let stdout = io::stdout();
        let eager = stdout.is_terminal();
        Self { writer: BufWriter::with_capacity(BUFFER_BYTES, Box::new(stdout)), eager }
    }

    /// Output into `writer`, for tests.
    pub fn to(writer: impl Write + 'static) -> Self {
        Self { writer: BufWriter::with_capacity(BUFFER_BYTES, Box::new(writer)), eager: false }
    }

    /// Writes text and a line feed.
    pub fn line(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.bytes(text)?;
        self.bytes(b"\n")?;
        if self.eager { self.flush() } else { Ok(()) }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.writer.write_all(bytes.as_ref()).map_err(failure)
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(value.to_string())
    }

    /// Writes a table with aligned columns: a heading, and rows of as many cells.
    pub fn table(&mut self, heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([heading[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&heading).chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Hands everything over.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(failure)
    }
}

fn failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return OutputClosed.into();
    }
    Failure::from(anyhow::Error::new(error).context("writing to standard output failed"))
}

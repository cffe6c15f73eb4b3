//! One line on standard error that tells how far long work is, on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::clock::Clock;
use crate::types::Monotonic;

const INTERVAL: Duration = Duration::from_millis(200);
/// The clock is looked at once in so many records: for each it would cost more than the record.
const RECORDS_A_LOOK: u64 = 256;

/// Counts records and bytes, and shows them a few times a second.
pub(super) struct Progress {
    clock: Arc<dyn Clock>,
    verb: &'static str,
    visible: bool,
    start: Monotonic,
    shown: Monotonic,
    records: u64,
    bytes: u64,
}

impl Progress {
    /// Starts at zero. `visible` is whether the command leaves the terminal free; without a terminal nothing is shown.
    pub(super) fn new(clock: Arc<dyn Clock>, verb: &'static str, visible: bool) -> Self {
        let start = clock.monotonic();
        let visible = visible && io::stderr().is_terminal();
        Self { clock, verb, visible, start, shown: start, records: 0, bytes: 0 }
    }

    /// Counts one record.
    pub(super) fn record(&mut self, bytes: usize) {
        self.batch(1, bytes);
    }

    /// Counts the records of a batch.
    pub(super) fn batch(&mut self, records: u64, bytes: usize) {
        let looks = self.records / RECORDS_A_LOOK;
        self.records += records;
        self.bytes += bytes as u64;
        if self.visible && self.records / RECORDS_A_LOOK > looks {
            let now = self.clock.monotonic();
            if now.since(self.shown) >= INTERVAL {
                self.shown = now;
                self.show("\r");
            }
        }
    }

    /// Records so far.
    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    /// Shows a text in place of the line.
    pub(super) fn note(&self, text: &str) {
        if self.visible {
            // Progress that can't be shown is not worth failing for.
            let _ = write!(io::stderr(), "\r{} {text}\x1b[K", self.verb);
        }
    }

    /// Takes the line away if what is printed next comes to the same terminal.
    pub(super) fn make_way(&self) {
        if io::stdout().is_terminal() {
            self.clear();
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.visible {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// Shows the last state and ends the line.
    pub(super) fn finish(self) {
        if self.visible {
            self.show("\r");
            let _ = writeln!(io::stderr());
        }
    }

    fn show(&self, start_of_line: &str) {
        let seconds = self.clock.monotonic().since(self.start).as_secs_f64().max(0.001);
        let mib = self.bytes as f64 / f64::from(1 << 20);
        let (verb, records, rate) = (self.verb, self.records, mib / seconds);
        // Progress that can't be shown is not worth failing for.
        let _ = write!(io::stderr(), "{start_of_line}{verb} {records} records, {mib:.1} MiB, {rate:.1} MiB/s\x1b[K");
    }
}

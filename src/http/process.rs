//! The process's own figures, read from the kernel when they are asked for.

use std::path::Path;

use crate::runtime::disk::{Disk, Open};
use crate::telemetry::ProcessMetrics;

/// Reads resident memory and open files. What can't be read stays as it was.
pub(super) fn observe(disk: &dyn Disk, metrics: &ProcessMetrics) {
    if let Some(bytes) = resident_bytes(disk) {
        metrics.resident_bytes.set(bytes);
    }
    if let Ok(files) = disk.list(Path::new("/proc/self/fd")) {
        metrics.open_files.set(i64::try_from(files.len()).unwrap_or(i64::MAX));
    }
}

/// The line `VmRSS:   12345 kB` of `/proc/self/status` (proc(5)).
fn resident_bytes(disk: &dyn Disk) -> Option<i64> {
    let mut bytes = [0; 4096];
    let read = disk.open(Path::new("/proc/self/status"), Open::Read).ok()?.read_at(&mut bytes, 0).ok()?;
    let line = std::str::from_utf8(&bytes[..read]).ok()?.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

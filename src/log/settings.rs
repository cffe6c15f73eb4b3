//! Settings of logs and of the directories that hold them. Plain data; `config` and topic configs fill it in.

use std::time::Duration;

use super::journal::JournalSettings;

/// Settings of one partition's log, from its topic's configuration. May change while the log is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`: size at which the active segment is sealed. Smaller segments reach the archive sooner and make
    /// more, smaller objects.
    pub segment_bytes: u32,
    /// `segment.ms`: age at which the active segment is sealed; never with [`Duration::MAX`]. Decides how fresh the table is,
    /// and the number of objects of a quiet partition.
    pub segment_age: Duration,
    /// `write.caching`: acknowledge what the operating system has, without waiting for stable storage. A power cut may then
    /// cost the newest records of the partition; it costs no others.
    pub write_caching: bool,
    /// `producer.id.expiration.ms`: how long an idle producer is remembered. Longer costs memory and checkpoint bytes.
    pub producer_expiration: Duration,
    /// Most producers remembered; beyond it the longest idle are forgotten, and a retry of theirs could be stored twice.
    pub max_producers: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            segment_age: Duration::from_secs(3600),
            write_caching: false,
            // A log that was recovered forgets nobody before it is told what its topic wants.
            producer_expiration: Duration::MAX,
            max_producers: 10_000,
        }
    }
}

impl LogSettings {
    /// Those of a log that was recovered, before it is told what its topic wants: it seals nothing for its age.
    pub(super) fn untold() -> Self {
        Self { segment_age: Duration::MAX, ..Self::default() }
    }
}

/// Settings of a data directory.
#[derive(Clone, Copy, Debug)]
pub struct DirectorySettings {
    /// Sizes of the journal.
    pub journal: JournalSettings,
    /// Memory for records that consumers near the end of their partitions read. Less sends them to the page cache.
    pub tail_bytes: usize,
    /// Memory for the indexes of sealed segments. Less has readers that are behind read them from the disk more often.
    pub index_bytes: usize,
    /// Most bytes accepted from producers and not yet written to segments. Producers wait when it is used up.
    pub unwritten_bytes: usize,
    /// Bytes of one partition that make it worth writing to its segment before it has to be.
    pub write_behind_bytes: usize,
    /// Journal bytes since the last checkpoint that make another one due. Less shortens the restart after a crash and
    /// syncs segments more often.
    pub checkpoint_bytes: u64,
    /// Time since the last checkpoint that makes another one due, if anything was written.
    pub checkpoint_interval: Duration,
    /// Most producers that all partitions remember together; each keeps its last.
    pub max_producers: usize,
    /// Bytes of deleted partitions that are removed before what is to be written has its turn. More has it wait.
    pub removed_bytes: u64,
}

impl Default for DirectorySettings {
    fn default() -> Self {
        Self {
            journal: JournalSettings { file_bytes: 16 << 20, max_bytes: 512 << 20 },
            tail_bytes: 112 << 20,
            index_bytes: 16 << 20,
            unwritten_bytes: 128 << 20,
            write_behind_bytes: 1 << 20,
            checkpoint_bytes: 192 << 20,
            checkpoint_interval: Duration::from_secs(60),
            max_producers: 100_000,
            removed_bytes: 256 << 20,
        }
    }
}

//! `alluvium archive`: looks into the bucket alone.

use clap::{Args, Subcommand};

use super::client::ClientArguments;
use super::{Context, Exit, Failure};

/// Which part of which archive.
#[derive(Debug, Args)]
pub struct ArchiveArguments {
    /// Which topic, by its name
    topic: String,
    /// Only this partition
    #[arg(long, short, value_name = "NUMBER")]
    partition: Option<i32>,
    /// Store of the archive: file:///path, s3://bucket/prefix, gs://… or az://…
    #[arg(long, value_name = "URL")]
    object_store: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// The archive.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// List what is archived: offset and time ranges, sizes, files
    Ls(ArchiveArguments),
    /// Show the head object and manifests
    Describe(ArchiveArguments),
    /// Check everything: manifests, checksums, gaps, overlaps, and that every row decodes
    Verify(ArchiveArguments),
    /// Print archived records
    Cat(ArchiveArguments),
    /// Have a broker seal and archive what a topic holds now
    Flush {
        #[command(flatten)]
        client: ClientArguments,
        /// Which topic
        topic: String,
        /// Return once everything is in the archive
        #[arg(long)]
        wait: bool,
    },
}

/// Runs `alluvium archive`.
pub(super) fn run(_command: ArchiveCommand, _context: &mut Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "this build cannot read archives yet"))
}

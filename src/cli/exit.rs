//! How a command ends.

use std::fmt;
use std::process::ExitCode;

use thiserror::Error;

use crate::record::RecordError;
use crate::telemetry::LogError;

/// Exit codes; documented in `--help`, and never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It was refused or broke off.
    Failed = 1,
    /// An argument, a setting or input that does not read.
    Usage = 2,
    /// A check found data that is missing or wrong.
    Damaged = 3,
    /// No broker or store answered in time.
    Unreachable = 4,
    /// `cluster status` found partitions, or the metadata, without a leader.
    Offline = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Whoever read standard output has left, as `head` does.
#[derive(Debug, Error)]
#[error("standard output is closed")]
pub(super) struct OutputClosed;

/// Why a command did not do what it was asked, and the exit code for it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// A failure in words: what, why, and what to do.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, error: anyhow::Error::msg(text.into()) }
    }

    /// A failure that an error tells.
    pub fn of(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }

    /// Wrong usage.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The exit code.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    pub(super) fn is_output_closed(&self) -> bool {
        self.error.is::<OutputClosed>()
    }
}

/// Errors that end a command with [`Exit::Failed`] wherever they occur; others choose their code.
macro_rules! failed {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(error)
            }
        })+
    };
}

failed!(anyhow::Error, std::io::Error, OutputClosed, LogError);

/// Data that is there and does not read.
impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::of(error).with_exit(Exit::Damaged)
    }
}

impl fmt::Display for Failure {
    /// The error and, where its text does not say it, what caused it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.error.to_string();
        for cause in self.error.chain().skip(1).map(ToString::to_string) {
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        f.write_str(&text)
    }
}

//! What can be wrong with a configuration, one line each.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// One thing that is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set: `FILE:LINE`, a variable or a flag; empty for a default.
    pub origin: String,
    /// What is wrong, beginning with the setting's name, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.origin, self.text) }
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file: {source} path={}; check --config, and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// Settings that are unknown, unreadable or contradict each other; at least one.
    #[error("{}", lines(problems))]
    Invalid {
        /// All that was found.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl ConfigError {
    /// An error of one problem.
    pub(super) fn one(origin: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Invalid { problems: vec![Problem { origin: origin.into(), text: text.into() }] }
    }
}

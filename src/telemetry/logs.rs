//! Sets up the process's log: text or JSON lines on standard error.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter is not understood: {source} filter={filter}")]
    Filter {
        /// What was given.
        filter: String,
        /// Where it went wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another log was set up in this process before.
    #[error("the log of this process is already set up")]
    AlreadyInstalled,
}

/// Sends this process's log to standard error. `filter` is a level, or a comma-separated list of `target=level` as in
/// `info,alluvium::archive=debug`. Called once, by the command line; libraries and tests never need it.
pub fn install_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    installed.map_err(|_| LogError::AlreadyInstalled)
}

/// Checks a filter without setting anything up.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse(filter).map(|_| ())
}

/// Libraries whose `info` is about their own inner life are quieter, unless the filter names them. While a peer can't be reached,
/// openraft warns of every message to it and logs an error for it besides, some ten times a second; the controller says once what
/// it decides about the broker. Other errors of openraft are rare, and stay.
pub const QUIETER: &str = "openraft=error,openraft::replication=off";

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // A later directive for the same target takes the place of an earlier one.
    EnvFilter::try_new(format!("{QUIETER},{filter}"))
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_target() {
        for filter in ["info", "warn,alluvium::archive=debug", "off"] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        let error = check_filter("alluvium=loud").unwrap_err().to_string();
        assert!(error.ends_with("filter=alluvium=loud"), "{error}");
    }
}

//! Arguments of every command that talks to brokers.

use std::future::Future;

use clap::Args;

use super::{ClientError, Cluster};
use crate::cli::{Context, Failure};
use crate::config::{HostPort, Interval};

/// Which cluster, and how long to wait for it.
#[derive(Clone, Debug, Args)]
pub struct ClientArguments {
    /// Brokers to begin with, as host:port, separated by commas
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:9092", value_parser = addresses)]
    bootstrap: String,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: Interval,
}

impl ClientArguments {
    /// The cluster they name; nothing is connected yet.
    pub fn cluster(&self, context: &Context) -> Cluster {
        Cluster::new(context.runtime.clone(), &self.bootstrap, self.timeout.duration())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = error.exit();
        Self::of(error).with_exit(exit)
    }
}

/// Runs a command's work on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Checks that a list of brokers is one.
fn addresses(text: &str) -> Result<String, String> {
    text.split(',').try_for_each(|address| address.trim().parse::<HostPort>().map(drop))?;
    Ok(text.to_owned())
}

/// Splits `name=value` arguments.
pub fn pairs(flag: &str, texts: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| {
        let pair = text.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned()));
        pair.ok_or_else(|| Failure::usage(format!("{flag} {text}: write it as name=value")))
    };
    texts.iter().map(pair).collect()
}

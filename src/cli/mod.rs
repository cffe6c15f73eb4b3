//! The command line: serve, and the small clients and inspectors.
//!
//! Each command is a file with its arguments and one `run`. A command writes its result to [`Output`], which is standard
//! output, and nothing else to it; progress and problems go to standard error. Whatever goes wrong becomes one line that
//! says what, why and what to do, and an [`Exit`] code; there is never a backtrace for bad input.

mod archive;
pub mod client;
mod cluster;
mod composition;
mod config;
mod consume;
mod exit;
mod flush;
mod format;
mod lines;
mod log;
mod output;
mod produce;
mod progress;
mod restore;
mod serve;
mod topic;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};
pub use output::Output;

use crate::config::VARIABLE_PREFIX;
use crate::runtime::Runtime;

/// What `--help` says about exit codes; the table of [`Exit`].
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: it was refused or broke off; the error says why
  2  wrong usage: an argument, a setting or input that does not read
  3  damaged: a check found data that is missing or wrong
  4  unreachable: no broker or store answered in time; trying again may help
  5  offline: `cluster status` found partitions, or the metadata, without a leader";

/// A streaming broker that speaks the Apache Kafka protocol and keeps its history as Parquet
#[derive(Debug, Parser)]
#[command(name = "alluvium", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker; the same options without any command do so too
    Serve(serve::ServeArguments),
    /// Create, list, describe, alter and delete topics of any Kafka cluster
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Send records to a topic of any Kafka cluster
    Produce(produce::ProduceArguments),
    /// Read records from a topic of any Kafka cluster
    Consume(consume::ConsumeArguments),
    /// Show a cluster and its quorum, move replicas and leaders, change who votes, and make tokens for brokers that join
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Look into the archive in object storage; no broker needs to run
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Make a new cluster from the object store of one that is lost
    Restore(restore::RestoreArguments),
    /// Look into segment files on the local disk
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Print, document and check the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// The machine. A debug build can be told not to sync, which `tests/chaos` has to notice; a release build can't.
fn machine(environment: &[(String, String)]) -> Runtime {
    #[cfg(debug_assertions)]
    if environment.iter().any(|(name, _)| name == "ALLUVIUM_TEST_WITHOUT_SYNC") {
        return Runtime::without_syncing();
    }
    let _ = environment;
    Runtime::production()
}

/// What a command is given besides its arguments: the machine, the environment, and where its result goes.
pub struct Context {
    runtime: Runtime,
    environment: Vec<(String, String)>,
    working_directory: PathBuf,
    output: Output,
}

/// Runs the command line and gives the process's exit code.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let environment = match readable(environment) {
        Ok(environment) => environment,
        Err(failure) => return report(&failure),
    };
    let working_directory = match std::env::current_dir() {
        Ok(directory) => directory,
        Err(error) => return report(&Failure::new(Exit::Failed, format!("the working directory is gone: {error}"))),
    };
    let output = Output::standard();
    let mut context = Context { runtime: machine(&environment), environment, working_directory, output };
    match run(arguments, &mut context).and_then(|()| context.output.flush()) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => report(&failure),
    }
}

/// The variables that are text. Others belong to somebody else; a setting among them would be passed over in silence.
fn readable(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Failure> {
    let mut readable = Vec::new();
    for (name, value) in environment {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => readable.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with(VARIABLE_PREFIX) => {
                return Err(Failure::usage(format!("{name}: the variable is not UTF-8")));
            }
            _ => {}
        }
    }
    Ok(readable)
}

fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(serve) => serve::run(&serve, context),
        Command::Topic(topic) => topic::run(topic, context),
        Command::Produce(produce) => produce::run(&produce, context),
        Command::Consume(consume) => consume::run(&consume, context),
        Command::Cluster(cluster) => cluster::run(cluster, context),
        Command::Archive(archive) => archive::run(archive, context),
        Command::Restore(restore) => restore::run(&restore, context),
        Command::Log(log) => log::run(log, context),
        Command::Config(config) => config::run(config, context),
    }
}

/// Prints what is wrong as one line, and the exit code for it. Nobody is told when whoever read the output has left.
fn report(failure: &Failure) -> ExitCode {
    if failure.is_output_closed() {
        return Exit::Done.into();
    }
    for line in failure.to_string().lines() {
        // There is nobody left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "error: {line}");
    }
    failure.exit().into()
}

/// Prints help and version as they are, and a wrong argument as one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = write!(std::io::stdout(), "{}", error.render());
        return Exit::Done.into();
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = write!(std::io::stderr(), "{}", error.render());
        return Exit::Usage.into();
    }
    let _ = writeln!(std::io::stderr(), "{}", one_line(&error.render().to_string()));
    Exit::Usage.into()
}

/// The sentences of clap's message, without its usage block and its own words about help.
fn one_line(message: &str) -> String {
    let is_end = |line: &str| line.starts_with("Usage:") || line.starts_with("For more information");
    let kept = message.lines().map(str::trim).take_while(|line| !is_end(line));
    let sentences: Vec<&str> = kept.filter(|line| !line.is_empty()).collect();
    format!("{}; see --help", sentences.join(" "))
}

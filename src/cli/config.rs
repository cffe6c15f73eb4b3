//! `alluvium config`: what is set, what can be set, and whether it is right. Also the arguments that set things.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Context, Exit, Failure};
use crate::config::{
    ArchiveSettings, Assignment, Config, ConfigError, Loaded, Machine, Secret, Sources, StoreConfig, load, print,
    print_json, reference, resolve, resolve_directories, resolve_store,
};
use crate::runtime::disk::read_file;

/// A token has some hundred bytes.
const TOKEN_FILE_LIMIT_BYTES: u64 = 4096;

/// Flags that are settings; those of `serve` and of `config print` and `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct SettingArguments {
    /// Settings file (TOML); `alluvium config docs` prints one with every setting
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This broker's number, another one for each broker of a cluster [default: 1]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    node_id: Option<String>,
    /// Data directory [default: ./alluvium-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address of the Kafka listener; port 0 picks a free port [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDR")]
    kafka_listen: Option<String>,
    /// Host and port that Kafka clients are told to connect to [default: the listener's; where that is every address, the
    /// machine's]
    #[arg(long, value_name = "ADDR")]
    kafka_advertise: Option<String>,
    /// Address of health and metrics over HTTP; port 0 picks a free port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Address for the other brokers of a cluster, a UDP port, always encrypted [default: none, a broker by itself]
    #[arg(long, value_name = "ADDR")]
    peer_listen: Option<String>,
    /// Peer addresses of members of the cluster to join, separated by commas; without it an empty data directory begins a
    /// cluster
    #[arg(long, value_name = "ADDR,...")]
    join: Option<String>,
    /// Token that lets this broker join, from `alluvium cluster token`. Other users of this machine can see it here:
    /// --join-token-file and ALLUVIUM__CLUSTER__JOIN_TOKEN keep it from them
    #[arg(long, value_name = "TOKEN", value_parser = secret)]
    join_token: Option<Secret>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", conflicts_with = "join_token")]
    join_token_file: Option<PathBuf>,
    /// Store of the archive: file:///path, memory:///, s3://bucket/prefix, gs://… or az://… [default: in the data directory]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// Serve on addresses that other machines reach, without encryption or authentication
    #[arg(long)]
    allow_insecure: bool,
    /// Any setting, as section.key=value; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingArguments {
    /// The flags that say where the archive is.
    pub(super) fn for_store(config: &Option<PathBuf>, object_store: &Option<String>, set: &[String]) -> Self {
        Self { config: config.clone(), object_store: object_store.clone(), set: set.to_vec(), ..Self::default() }
    }

    /// The flags that say where the data directories are.
    pub(super) fn for_directories(config: &Option<PathBuf>, data_dir: &Option<String>, set: &[String]) -> Self {
        Self { config: config.clone(), data_dir: data_dir.clone(), set: set.to_vec(), ..Self::default() }
    }

    /// The flags that say which cluster is restored, and where.
    pub(super) fn for_restore(
        config: &Option<PathBuf>,
        object_store: &Option<String>,
        data_dir: &Option<String>,
        node_id: &Option<String>,
        set: &[String],
    ) -> Self {
        let (data_dir, node_id) = (data_dir.clone(), node_id.clone());
        Self { data_dir, node_id, ..Self::for_store(config, object_store, set) }
    }

    /// The settings that flags give, the general ones last, so that they win.
    fn assignments(&self, context: &Context) -> Result<Vec<Assignment>, Failure> {
        let named = [
            ("--node-id", "cluster.node_id", &self.node_id),
            ("--peer-listen", "cluster.peer_listen", &self.peer_listen),
            ("--join", "cluster.join", &self.join),
            ("--kafka-listen", "listeners.kafka.default.address", &self.kafka_listen),
            ("--kafka-advertise", "listeners.kafka.default.advertised", &self.kafka_advertise),
            ("--http-listen", "listeners.http", &self.http_listen),
            ("--object-store", "archive.url", &self.object_store),
        ];
        let mut assignments: Vec<Assignment> = named
            .into_iter()
            .filter_map(|(flag, key, text)| Some(Assignment::text(key, text.as_ref()?, flag)))
            .collect();
        assignments.extend(self.data_dir.iter().map(|path| Assignment::one("data.directories", path, "--data-dir")));
        let token = |token: &Secret, flag: &str| Assignment::text("cluster.join_token", token.expose(), flag);
        assignments.extend(self.join_token.iter().map(|given| token(given, "--join-token")));
        if let Some(path) = &self.join_token_file {
            assignments.push(token(&read_token(path, context)?, "--join-token-file"));
        }
        if self.allow_insecure {
            assignments.push(Assignment::text("listeners.allow_insecure", "true", "--allow-insecure"));
        }
        for set in &self.set {
            let (key, text) = set.split_once('=').ok_or_else(|| {
                Failure::usage(format!(
                    "--set {set}: write it as section.key=value, like --set network.max_frame=64MiB"
                ))
            })?;
            assignments.push(Assignment::text(key.trim(), text.trim(), format!("--set {}", key.trim())));
        }
        Ok(assignments)
    }

    /// Reads and checks the settings of all sources.
    pub(super) fn resolve(&self, context: &Context) -> Result<(Loaded, Config), Failure> {
        let (loaded, machine) = self.load(context)?;
        let config = resolve(&loaded, &context.environment, &machine, &*context.runtime.disk).map_err(refused)?;
        Ok((loaded, config))
    }

    /// Like [`Self::resolve`], for the archive's settings alone: what is wrong for a broker on this machine does not matter.
    pub(super) fn resolve_store(&self, context: &Context) -> Result<(StoreConfig, ArchiveSettings), Failure> {
        let (loaded, machine) = self.load(context)?;
        let store = resolve_store(&loaded, &context.environment, &machine).map_err(refused)?;
        Ok((store, loaded.settings.archive))
    }

    /// Like [`Self::resolve`], for the data directories alone.
    pub(super) fn resolve_directories(&self, context: &Context) -> Result<Vec<PathBuf>, Failure> {
        let (loaded, machine) = self.load(context)?;
        resolve_directories(&loaded, &machine, &*context.runtime.disk).map_err(refused)
    }

    fn load(&self, context: &Context) -> Result<(Loaded, Machine), Failure> {
        let disk = &*context.runtime.disk;
        let (environment, flags) = (context.environment.clone(), self.assignments(context)?);
        let sources = Sources { file: self.config.clone(), environment, flags };
        let loaded = load(&sources, disk).map_err(refused)?;
        Ok((loaded, Machine::probe(disk, context.working_directory.clone())))
    }
}

/// What a file of a token holds. It is trimmed, as an editor or `echo` ends it with a line feed.
fn read_token(path: &Path, context: &Context) -> Result<Secret, Failure> {
    let path = context.working_directory.join(path);
    let cannot_read = |error: io::Error| {
        let shown = path.display();
        let text = format!("--join-token-file: cannot read {shown}: {error}; check that this user may read it");
        Failure::usage(text)
    };
    let bytes = read_file(&*context.runtime.disk, &path, TOKEN_FILE_LIMIT_BYTES).map_err(cannot_read)?;
    let text = String::from_utf8(bytes).map_err(|_| cannot_read(io::ErrorKind::InvalidData.into()))?;
    Ok(Secret::new(text.trim().to_owned()))
}

/// Takes what is given on the command line out of sight.
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

fn refused(error: ConfigError) -> Failure {
    Failure::of(error).with_exit(Exit::Usage)
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting in effect and where it comes from
    Print {
        #[command(flatten)]
        settings: Box<SettingArguments>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every setting with its documentation and default, as a file to start from
    Docs,
    /// Check a file, the environment and flags, and say what is wrong
    Check {
        #[command(flatten)]
        settings: Box<SettingArguments>,
        /// Print the result as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs `alluvium config`.
pub(super) fn run(command: ConfigCommand, context: &mut Context) -> Result<(), Failure> {
    match command {
        ConfigCommand::Docs => context.output.bytes(reference()),
        ConfigCommand::Print { settings, json } => {
            let (loaded, _) = settings.resolve(context)?;
            if json { context.output.json(&print_json(&loaded)) } else { context.output.bytes(print(&loaded)) }
        }
        ConfigCommand::Check { settings, json } => {
            let resolved = settings.resolve(context);
            if json && let Err(failure) = &resolved {
                let problems = failure.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
                context.output.json(&json!({ "ok": false, "problems": problems, "warnings": [] }))?;
                context.output.flush()?;
            }
            let (_, config) = resolved?;
            if json {
                return context.output.json(&json!({ "ok": true, "problems": [], "warnings": config.warnings }));
            }
            for warning in &config.warnings {
                context.output.line(format!("warning: {warning}"))?;
            }
            context.output.line("the configuration is right")
        }
    }
}

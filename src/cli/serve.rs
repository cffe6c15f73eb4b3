//! `alluvium serve`: runs a broker until it is told to stop.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::config::SettingArguments;
use super::{Context, Exit, Failure};
use crate::config::Config;
use crate::http::{HttpServer, HttpState};
use crate::runtime::Runtime;
use crate::runtime::disk::DirectoryLock;
use crate::telemetry::{Metrics, Readiness, install_logs};

/// How long HTTP answers under way may take once everything else has stopped.
const HTTP_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Arguments of `alluvium serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    settings: SettingArguments,
    /// Write {"kafka":"ADDR","http":"ADDR"} with the bound addresses to FILE once the broker serves
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Runs `alluvium serve`.
pub(super) fn run(arguments: &ServeArguments, context: &mut Context) -> Result<(), Failure> {
    let (_, config) = arguments.settings.resolve(context)?;
    install_logs(config.telemetry.log_format, &config.telemetry.log_filter)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(serve(arguments, &config, context))
}

async fn serve(arguments: &ServeArguments, config: &Config, context: &mut Context) -> Result<(), Failure> {
    let mut stop = StopSignal::listen()?;
    let runtime = context.runtime.clone();
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    metrics.process.start_time_seconds.set(runtime.clock.wall().get() / 1000);
    let _locks = lock_directories(config, &runtime)?;
    let state = HttpState { metrics, readiness: readiness.clone(), runtime };
    let http = HttpServer::start(config.http, state).await.map_err(|error| cannot_listen(config, &error))?;
    // The composition root takes over from here once it exists; until then nothing pretends to be ready.
    readiness.not_ready("kafka", "this build has no Kafka server yet");
    if let Some(path) = &arguments.ready_file {
        tracing::warn!(path = %path.display(), "the ready file is not written, since this build has no Kafka server yet");
    }
    context.output.line(format!(
        "alluvium {}: http on {}; NO KAFKA SERVER YET",
        env!("CARGO_PKG_VERSION"),
        http.address()
    ))?;
    context.output.flush()?;
    stop.wait().await;
    tracing::info!("stopping; a second signal ends at once");
    tokio::select! {
        () = http.stop(HTTP_STOP_LIMIT) => Ok(()),
        () = stop.wait() => Err(Failure::new(Exit::Failed, "ended by a second signal before everything was drained")),
    }
}

/// Locks every data directory, made if absent, until the process ends.
fn lock_directories(config: &Config, runtime: &Runtime) -> Result<Vec<Box<dyn DirectoryLock>>, Failure> {
    let mut locks = Vec::new();
    for directory in &config.data.directories {
        let shown = directory.display();
        let unusable = |error: std::io::Error| {
            Failure::new(
                Exit::Failed,
                format!("cannot use the data directory {shown}: {error}; check its owner and permissions"),
            )
        };
        runtime.disk.create_directory(directory).map_err(unusable)?;
        locks.push(runtime.disk.lock(directory).map_err(unusable)?.ok_or_else(|| {
            let text =
                format!("another process uses the data directory {shown}; stop it, or choose another with --data-dir");
            Failure::new(Exit::Failed, text)
        })?);
    }
    Ok(locks)
}

fn cannot_listen(config: &Config, error: &std::io::Error) -> Failure {
    let address = config.http;
    Failure::new(
        Exit::Failed,
        format!("cannot listen on {address} for HTTP: {error}; choose another with --http-listen"),
    )
}

/// Raises the limit on open files to what the system allows: each partition and each connection needs some.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let mut wanted = limit;
    wanted.current = limit.maximum;
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::warn!(%error, files = limit.current, "the limit on open files could not be raised");
    }
}

/// SIGTERM and SIGINT.
struct StopSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

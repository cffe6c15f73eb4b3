//! `alluvium serve`: runs a broker until it is told to stop, or can't go on.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::composition::{broker_settings, server_settings, tell_limits};
use super::config::SettingArguments;
use super::{Context, Exit, Failure};
use crate::broker::{Broker, JoinError, StartError};
use crate::config::{Config, DEFAULT_LISTENER, TelemetrySettings};
use crate::http::{HttpServer, HttpState};
use crate::log::Rebuilt;
use crate::runtime::disk::{Disk, replace_file};
use crate::server::{BoundListeners, ListenError, Server};
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
    let path = arguments.ready_file.as_ref().map(|path| context.working_directory.join(path));
    let mut earlier = EarlierReadyFile { disk: Arc::clone(&context.runtime.disk), path };
    let ended = set_up_and_serve(arguments, &mut earlier, context);
    // It is there still where the start failed too early to tell whose it is.
    ended.and(earlier.remove())
}

fn set_up_and_serve(
    arguments: &ServeArguments,
    earlier: &mut EarlierReadyFile,
    context: &mut Context,
) -> Result<(), Failure> {
    let (_, config) = arguments.settings.resolve(context)?;
    let TelemetrySettings { log_format, log_filter } = &config.telemetry;
    install_logs(*log_format, log_filter)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = tokio.block_on(serve(arguments, &config, earlier, context));
    // What is to outlive the process is safe by now. A lane of the archive may be in a call that takes long, or hangs.
    tokio.shutdown_background();
    ended
}

async fn serve(
    arguments: &ServeArguments,
    config: &Config,
    earlier: &mut EarlierReadyFile,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut stop = StopSignal::listen()?;
    let runtime = context.runtime.clone();
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    readiness.not_ready("kafka", "starting");
    metrics.process.start_time_seconds.set(runtime.clock.wall().get() / 1000);
    tell_limits(config, &metrics);
    let state = HttpState { metrics: Arc::clone(&metrics), readiness: readiness.clone(), runtime: runtime.clone() };
    let http = HttpServer::start(config.http, state).await;
    let http = http.map_err(|error| {
        earlier.keep_if(error.kind() == ErrorKind::AddrInUse);
        cannot_listen(config, &error)
    })?;
    let broker = broker_settings(config).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let listeners = BoundListeners::bind(server_settings(config), &runtime).await;
    let listeners = listeners.map_err(|error| {
        earlier.keep_if(error.error.kind() == ErrorKind::AddrInUse);
        cannot_listen_for_kafka(config, &error)
    })?;
    // Tasks of their own, since disks and recovery keep their thread busy, and signals are heeded meanwhile.
    let (of_lock, to_lock) = (runtime.clone(), broker.clone());
    let locking = tokio::spawn(async move { Broker::lock(&of_lock, &to_lock) });
    let lock = stop.or_done(locking).await?.map_err(|error| {
        earlier.keep_if(matches!(error, StartError::Locked { .. }));
        not_started(error)
    })?;
    earlier.remove()?;
    // The broker takes it for as long as it lasts.
    drop(lock);
    let starting = tokio::spawn(Server::start(listeners, broker, runtime, metrics, readiness));
    let server = stop.or_done(starting).await?.map_err(not_started)?;
    look_at_file_limit(config, server.broker().recovery().partitions);
    match announce(config, context, &server, &http) {
        Err(failure) if failure.is_output_closed() => {
            tracing::warn!("whoever started this broker does not read its output; it serves all the same");
        }
        told => told?,
    }
    write_ready_file(arguments, context, &server, &http)?;
    let broken = tokio::select! {
        () = stop.wait() => None,
        why = server.broker().stopped() => Some(Failure::new(Exit::Failed, format!("the broker can't go on: {why}"))),
    };
    tracing::info!("stopping; a second signal ends at once");
    // It waits for lanes in their last call, which keeps its thread; signals are heeded meanwhile.
    let drain = async {
        server.shutdown().await;
        http.stop(HTTP_STOP_LIMIT).await;
    };
    let drained = tokio::spawn(async { tokio::task::block_in_place(|| Handle::current().block_on(drain)) });
    tokio::select! {
        drained = drained => drained.map_err(Failure::of).and(broken.map_or(Ok(()), Err)),
        () = stop.wait() => end_at_once(Exit::Failed, "ended by a second signal before everything was drained"),
    }
}

/// Ends the process as it is: nothing waits for a disk or a store that may hang. Recovery is made for that.
fn end_at_once(exit: Exit, why: &str) -> ! {
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{why}");
    std::process::exit(exit as i32)
}

/// A ready file from before this start. Left by a process that has ended, it would tell that this one is ready, so it goes
/// before recovery begins, or as the start fails. But a broker that was started once more by mistake keeps its own.
struct EarlierReadyFile {
    disk: Arc<dyn Disk>,
    /// `None` once nothing is to be done about it any more.
    path: Option<PathBuf>,
}

impl EarlierReadyFile {
    /// Leaves it to the process that has what this one needs, if there is one.
    fn keep_if(&mut self, is_in_use: bool) {
        if is_in_use {
            self.path = None;
        }
    }

    fn remove(&mut self) -> Result<(), Failure> {
        let Some(path) = self.path.take() else { return Ok(()) };
        match self.disk.remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let shown = path.display();
                let text = format!(
                    "cannot remove the ready file {shown} of an earlier start: {error}; remove it, or name another"
                );
                Err(Failure::new(Exit::Failed, text))
            }
            _ => Ok(()),
        }
    }
}

/// Says where everything is, to whoever started the broker.
fn announce(config: &Config, context: &mut Context, server: &Server, http: &HttpServer) -> Result<(), Failure> {
    let broker = server.broker();
    let recovery = broker.recovery();
    context.output.line(format!("alluvium {}", env!("CARGO_PKG_VERSION")))?;
    for (name, &address) in server.addresses() {
        let listener = config.listeners.iter().find(|listener| listener.name == *name);
        let advertised = listener.map(|listener| listener.advertise(address).to_string());
        let elsewhere = advertised.filter(|advertised| *advertised != address.to_string());
        let elsewhere = elsewhere.map(|advertised| format!(", advertised as {advertised}")).unwrap_or_default();
        context.output.line(format!("  kafka     {address} ({name}{elsewhere})"))?;
    }
    context.output.line(format!("  http      {}", http.address()))?;
    if let Some(peers) = broker.image().broker(broker.node_id()).and_then(|known| known.peer.as_ref()) {
        let address = config.peers.as_ref().map(|peers| peers.listen).filter(|listen| listen.port() != 0);
        let elsewhere = address.filter(|address| address.to_string() != *peers);
        let elsewhere = elsewhere.map(|address| format!(" (listening on {address})")).unwrap_or_default();
        context.output.line(format!("  peers     {peers}{elsewhere}"))?;
    }
    context.output.line(format!("  cluster   {} node {}", broker.cluster_id(), broker.node_id()))?;
    for directory in broker.directories() {
        context.output.line(format!("  data      {}", directory.path().display()))?;
    }
    for path in broker.unopened_directories() {
        context.output.line(format!("  OFFLINE   {}, see the log", path.display()))?;
    }
    context.output.line(format!("  archive   {}", config.store.url))?;
    context
        .output
        .line(format!("  recovered {} partitions, {} bytes replayed", recovery.partitions, recovery.replayed_bytes))?;
    if recovery.rebuilt != Rebuilt::default() {
        let Rebuilt { partitions, segments, bytes } = recovery.rebuilt;
        let what = format!("of {partitions} partitions from {segments} segments, {bytes} bytes read");
        context.output.line(format!("  rebuilt   the lost checkpoint {what}"))?;
    }
    if recovery.unavailable > 0 {
        context.output.line(format!("  MISSING   segments of {} partitions, see the log", recovery.unavailable))?;
    }
    for warning in &config.warnings {
        context.output.line(format!("  WARNING   {warning}"))?;
    }
    context.output.flush()
}

/// Says where everything is, to whoever waits for the ready file.
fn write_ready_file(
    arguments: &ServeArguments,
    context: &Context,
    server: &Server,
    http: &HttpServer,
) -> Result<(), Failure> {
    let Some(path) = &arguments.ready_file else { return Ok(()) };
    // The listener that --kafka-listen sets, where there are several.
    let addresses = server.addresses();
    let kafka = addresses.get(DEFAULT_LISTENER).or_else(|| addresses.values().next()).map(ToString::to_string);
    let ready = serde_json::json!({ "kafka": kafka, "http": http.address().to_string() });
    let path = context.working_directory.join(path);
    replace_file(&*context.runtime.disk, &path, ready.to_string().as_bytes())
        .map_err(|error| cannot_write(&path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let text = format!(
        "cannot write the ready file {}: {error}; give --ready-file a path in a directory that is there and writable",
        path.display()
    );
    Failure::new(Exit::Failed, text)
}

fn not_started(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Archive { error, .. } if error.is_transient() => Exit::Unreachable,
        StartError::Join(JoinError::Unreachable { .. }) => Exit::Unreachable,
        StartError::Join(JoinError::NoToken | JoinError::Token(_)) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::of(error).with_exit(exit)
}

/// What to do about an address is said in the words of the command line.
fn cannot_listen_for_kafka(config: &Config, error: &ListenError) -> Failure {
    let ListenError { listener, address, error } = error;
    let flag = match config.listeners.len() {
        1 => "--kafka-listen".to_owned(),
        _ => format!("listeners.kafka.{listener}.address"),
    };
    Failure::new(Exit::Failed, format!("cannot listen on {address} for Kafka: {error}; choose another with {flag}"))
}

fn cannot_listen(config: &Config, error: &io::Error) -> Failure {
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

/// Says so if the limit on open files does not do for the partitions that are there, all connections, and a few thousand more.
fn look_at_file_limit(config: &Config, partitions: usize) {
    const ALL_ELSE: usize = 5000;
    let needed = (config.network.max_connections + 2 * partitions + ALL_ELSE) as u64;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|&files| files < needed) {
        tracing::warn!(
            files,
            needed,
            "the limit on open files is low; raise the hard limit (LimitNOFILE, ulimit -Hn), or lower network.max_connections"
        );
    }
}

/// SIGTERM and SIGINT.
struct StopSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a part of the start. A signal meanwhile ends the process.
    async fn or_done<T>(&mut self, part: JoinHandle<T>) -> Result<T, Failure> {
        tokio::select! {
            done = part => done.map_err(Failure::of),
            () = self.wait() => end_at_once(Exit::Done, "stopped by a signal before it served; the next start recovers"),
        }
    }
}

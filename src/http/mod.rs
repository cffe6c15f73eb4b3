//! Health, metrics and, later, the administration endpoints over HTTP.
//!
//! | path | answers |
//! |---|---|
//! | `/health/live` | 200 while the process runs: restart it when this fails |
//! | `/health/ready` | 200 when it serves, else 503, with the reasons as JSON: send it no traffic |
//! | `/metrics` | every metric in the Prometheus text format |
//!
//! Started by the command line, on loopback unless told otherwise. Bounds: [`MAX_CONNECTIONS`] at a time, each for one
//! request and for [`CONNECTION_LIFETIME`] (for [`SILENCE`] until it is answered), bodies of [`MAX_BODY_BYTES`]. A scrape
//! therefore never takes from what clients need.

mod listener;
mod process;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::telemetry::{Metrics, Readiness};

/// Connections at a time; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a connection may last, idle or not, so that silent ones can't use up [`MAX_CONNECTIONS`].
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How long a new connection may take to ask something, so that those which don't keep no probe of the broker's health
/// waiting.
pub const SILENCE: Duration = Duration::from_secs(3);
/// The largest request body.
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// What the endpoints show.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// Counters and timings.
    pub metrics: Arc<Metrics>,
    /// Why the broker is not ready.
    pub readiness: Readiness,
    /// The machine, for the process's own figures.
    pub runtime: Runtime,
}

/// A running HTTP server. Stopped by [`HttpServer::stop`]; dropping it closes the listener.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<io::Result<()>>,
}

impl HttpServer {
    /// Listens and serves in a task of its own.
    pub async fn start(address: SocketAddr, state: HttpState) -> io::Result<Self> {
        let listener = state.runtime.net.bind(address).await?;
        let address = listener.local_address()?;
        let (stop, mut stopped) = watch::channel(false);
        let listener = listener::Bounded::new(listener);
        let service = router(state);
        let task = tokio::spawn(async move {
            axum::serve(listener, service)
                .with_graceful_shutdown(async move {
                    // An error means that the handle was dropped, which stops the server too.
                    let _ = stopped.changed().await;
                })
                .await
        });
        Ok(Self { address, stop, task })
    }

    /// The address that was bound.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, and waits up to `limit` for answers under way.
    pub async fn stop(self, limit: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(limit, self.task).await.is_err() {
            tracing::debug!("http connections were cut off at shutdown");
        }
    }
}

fn router(state: HttpState) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(map_response(last))
        .with_state(state)
}

/// A connection has one request: kept open they would keep others out, for what a scrape now and then does not miss.
async fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn live() -> Response {
    answer(StatusCode::OK, &json!({ "live": true }))
}

async fn ready(State(state): State<HttpState>) -> Response {
    let reasons = state.readiness.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
}

async fn metrics(State(state): State<HttpState>) -> Response {
    process::observe(&*state.runtime.disk, &state.metrics.process);
    state.metrics.process.ready.set(i64::from(state.readiness.reasons().is_empty()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.encode()).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let error = format!("there is no {}; there are /health/live, /health/ready and /metrics", uri.path());
    answer(StatusCode::NOT_FOUND, &json!({ "error": error }))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

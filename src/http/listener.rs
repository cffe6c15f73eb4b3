//! Accepts HTTP connections within bounds: so many at a time, each for so long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::{CONNECTION_LIFETIME, MAX_CONNECTIONS, SILENCE};
use crate::runtime::net::{Listener, Stream};

/// How long to wait after accepting failed, which it does while descriptors are used up.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener that holds a permit for every open connection.
pub(super) struct Bounded {
    listener: Box<dyn Listener>,
    permits: Arc<Semaphore>,
}

impl Bounded {
    pub(super) fn new(listener: Box<dyn Listener>) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let lifetime = Box::pin(sleep(SILENCE));
                    return (Connection { stream, lifetime, is_answered: false, _permit: permit }, peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting an http connection failed");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_address()
    }
}

/// A connection that fails to read once its lifetime is over.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    lifetime: Pin<Box<Sleep>>,
    /// An answer has begun, so a whole request has come; until then it lives for [`SILENCE`] alone.
    is_answered: bool,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lifetime.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, bytes)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.lifetime.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !std::mem::replace(&mut self.is_answered, true) {
            self.lifetime.as_mut().reset(Instant::now() + CONNECTION_LIFETIME);
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! One connection: frames in, requests started in order, answers out in order, all within bounds.
//!
//! Reading and writing are two halves of one task. A request takes its share of memory as its body arrives, and for what it
//! decodes to, and gives it back once its answer is written, or earlier where nothing of what it brought is needed any more.
//! Answers that were made and not taken count as requests in flight, by their size, and large ones take memory for answers;
//! fetches are worked on one at a time. So a client that sends faster than it is served, or does not take its answers, is not read from
//! any more, and nobody else notices. Where others miss the memory that a connection holds, it has to go on or end.
//!
//! As with Apache Kafka, a client that has closed only its own half gets the answers to what it had sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::frame_memory::{ConnectionMemory, RequestMemory};
use super::handlers::{Answer, Answering, Begun, HeldMemory, Request, Turn};
use super::listener::Shared;
use super::settings::ConnectionLimits;
use crate::protocol::{
    ELEMENT_BYTES, LENGTH_PREFIX_BYTES, ProtocolError, RequestHeader, check_request, frame_bytes, split_request,
};
use crate::runtime::net::Stream;
use crate::runtime::watch;
use crate::telemetry::{RefuseReason, TakenMemory};

/// What an idle connection has ready to read into: most requests fit, and ten thousand connections cost ten megabytes.
const READ_AHEAD_BYTES: usize = 1024;
/// An answer that waits to be written counts as one more request in flight for each time that it has so many bytes.
const ANSWER_UNIT_BYTES: usize = 16 << 10;
/// The rate that a client is expected to keep, beyond the time that it is given anyway.
const SLOWEST_BYTES_PER_SECOND: usize = 1 << 20;
/// A client that takes or sends nothing for such a part of the time that requests have is not waited for where memory is
/// scarce.
const STALLED_PART: u32 = 6;
/// Most pieces of an answer that are handed to the operating system at a time (`IOV_MAX` is 1024 on Linux).
const MAX_SLICES: usize = 64;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Name of the listener that it came in by.
    pub(super) listener: Arc<str>,
}

/// Why a connection ends.
#[derive(Debug, Error)]
enum End {
    #[error("closed by the client")]
    Closed,
    #[error("the broker is shutting down")]
    Shutdown,
    #[error("idle for too long")]
    Idle,
    #[error("too slow")]
    Slow,
    #[error("closed because of an error that its request can't be told")]
    Unanswerable,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A request that was started.
struct Started {
    answering: Answering,
    /// Its share of the requests in flight, given back once its answer is written.
    in_flight: OwnedSemaphorePermit,
    memory: HeldMemory,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: Box<dyn Stream>, peer: Peer, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let limits = shared.limits;
    let (read, write) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::channel(limits.requests_in_flight);
    let own_bytes = limits.connection_frame_bytes.max(limits.frame_bytes);
    let memory = Arc::new(ConnectionMemory::new(own_bytes, Arc::clone(&shared.frames)));
    let writing = write_answers(write, receiver, Arc::clone(&shared), Arc::clone(&memory));
    let incoming = Incoming {
        read,
        buffer: BytesMut::new(),
        memory,
        in_flight: Arc::new(Semaphore::new(limits.requests_in_flight)),
        shared: Arc::clone(&shared),
    };
    let reader = Reader { incoming, peer, stopped };
    let end = Box::pin(run(reader, sender, writing)).await;
    let refused = &shared.broker.metrics().server.refused_connections;
    match &end {
        End::Closed | End::Unanswerable | End::Io(_) => {}
        End::Shutdown => _ = refused.of(RefuseReason::Shutdown).inc(),
        End::Idle | End::Slow => _ = refused.of(RefuseReason::Idle).inc(),
        End::Protocol(_) => _ = refused.of(RefuseReason::BadFrame).inc(),
    }
    tracing::debug!(reason = %end, "connection ended");
}

/// Reads and writes until one of the two ends. Requests that were started are still answered, unless the connection is known
/// to be broken.
async fn run(mut reader: Reader, sender: mpsc::Sender<Started>, writing: impl Future<Output = Result<(), End>>) -> End {
    let mut writing = std::pin::pin!(writing);
    let end = tokio::select! {
        end = reader.start_requests(&sender) => end,
        written = &mut writing => return written.err().unwrap_or(End::Closed),
    };
    drop(sender);
    reader.incoming.memory.end();
    match end {
        End::Io(_) => end,
        end => writing.await.err().unwrap_or(end),
    }
}

struct Reader {
    incoming: Incoming,
    peer: Peer,
    stopped: watch::Receiver<bool>,
}

impl Reader {
    /// Starts requests one after another, until the connection is to end.
    async fn start_requests(&mut self, sender: &mpsc::Sender<Started>) -> End {
        loop {
            match self.start_request(sender).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn start_request(&mut self, sender: &mpsc::Sender<Started>) -> Result<(), End> {
        let (request, mut in_flight) = tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stop| *stop) => return Err(End::Shutdown),
            arrived = self.incoming.next() => arrived?,
        };
        let Incoming { shared, in_flight: all, .. } = &self.incoming;
        let others = u32::try_from(shared.limits.requests_in_flight - 1).unwrap_or(u32::MAX);
        let turn = Turn::new(Arc::clone(all), others);
        let (begun, memory) = shared.handlers.start(&shared.broker, &self.peer, request, turn).await?;
        let Begun { answering, answer_bytes, pause } = begun;
        if let Some(bytes) = answer_bytes {
            let more = (bytes / ANSWER_UNIT_BYTES).min(shared.limits.requests_in_flight - 1);
            // Earlier answers do not wait for this one.
            in_flight.merge(acquire(all, u32::try_from(more).unwrap_or(u32::MAX)).await);
        }
        sender.send(Started { answering, in_flight, memory }).await.map_err(|_| End::Closed)?;
        if pause.is_zero() {
            return Ok(());
        }
        // Its client was told to pause; one that does not finds that nobody listens (KIP-219).
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.stopped.wait_for(|stop| *stop) => Err(End::Shutdown),
        }
    }
}

struct Incoming {
    read: ReadHalf<Box<dyn Stream>>,
    /// Bytes read and not yet taken as a request.
    buffer: BytesMut,
    memory: Arc<ConnectionMemory>,
    in_flight: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Reads the next request, once there is room for it, with its share of the requests in flight.
    async fn next(&mut self) -> Result<(Request, OwnedSemaphorePermit), End> {
        let limits = self.shared.limits;
        let in_flight = acquire(&self.in_flight, 1).await;
        let length = self.wait_for_prefix(&limits).await?;
        let mut memory = self.memory.begin(length).await;
        let frame = self.read_frame(length, &limits, &mut memory).await?;
        self.shared.broker.metrics().server.request_bytes.inc_by((length + LENGTH_PREFIX_BYTES) as u64);
        let (header, body) = split_request(frame)?;
        let decoded = decoded_bytes(&header, &body)?;
        if decoded > 0 {
            self.memory.add(&mut memory, decoded).await;
        }
        Ok((Request { header, body, memory, connection: Arc::clone(&self.memory) }, in_flight))
    }

    /// Waits for the next request's length.
    async fn wait_for_prefix(&mut self, limits: &ConnectionLimits) -> Result<usize, End> {
        while self.buffer.len() < LENGTH_PREFIX_BYTES {
            self.buffer.reserve(READ_AHEAD_BYTES);
            let read = timeout(limits.idle_timeout, self.read.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| End::Idle)?? == 0 {
                return Err(End::Closed);
            }
        }
        let mut prefix = [0; LENGTH_PREFIX_BYTES];
        self.buffer.copy_to_slice(&mut prefix);
        Ok(frame_bytes(prefix, limits.frame_bytes)?)
    }

    /// Reads the rest of a request. Memory grows with what has arrived, whatever the length claims; waiting for it is not
    /// the client's fault, and takes nothing of its time. Where others miss it, the client has the time of what it has sent,
    /// and not of what it announced.
    async fn read_frame(
        &mut self,
        length: usize,
        limits: &ConnectionLimits,
        memory: &mut RequestMemory,
    ) -> Result<Bytes, End> {
        let clock = &self.shared.broker.runtime().clock;
        let stalled = limits.request_timeout / STALLED_PART;
        let (mut taken, mut idle) = (Duration::ZERO, Duration::ZERO);
        let mut granted = 0;
        while granted < length {
            granted += self.memory.grow(memory, length - granted).await;
            while self.buffer.len() < granted {
                let missing = granted - self.buffer.len();
                self.buffer.reserve(missing);
                let began = clock.monotonic();
                let look = stalled.min(time_for(length, limits).saturating_sub(taken));
                let read = timeout(look, read_some(&mut self.read, &mut self.buffer, missing)).await;
                let waited = clock.monotonic().since(began);
                taken += waited;
                idle = if read.is_ok() { Duration::ZERO } else { idle + waited };
                let is_late = || idle >= stalled || taken > time_for(self.buffer.len(), limits);
                if taken >= time_for(length, limits) || (self.memory.is_missed() && is_late()) {
                    return Err(End::Slow);
                }
                if let Ok(read) = read
                    && read? == 0
                {
                    return Err(End::Closed);
                }
            }
        }
        Ok(take_frame(&mut self.buffer, length))
    }
}

/// What a request takes once it is decoded, beside its frame, where that is worth counting.
fn decoded_bytes(header: &RequestHeader, body: &[u8]) -> Result<usize, ProtocolError> {
    if body.len() < READ_AHEAD_BYTES || !header.api.accepts(header.version) {
        return Ok(0);
    }
    Ok(check_request(header.api, header.version, body)? * ELEMENT_BYTES)
}

/// Takes a request that has arrived.
fn take_frame(buffer: &mut BytesMut, length: usize) -> Bytes {
    let frame = buffer.split_to(length).freeze();
    if length > READ_AHEAD_BYTES {
        // What is left of a large request's memory would keep all of it alive.
        *buffer = BytesMut::from(&buffer[..]);
    }
    frame
}

/// Reads at most `limit` bytes, so that a large request's buffer holds that request alone.
async fn read_some(read: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
    read.take(limit as u64).read_buf(buffer).await
}

/// Waits for permits of a semaphore that has as many.
pub(super) async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_many_owned(permits)
        .await
        .expect("these semaphores are never closed, and no request is larger than all their permits")
}

/// Time that a client has for so many bytes.
fn time_for(bytes: usize, limits: &ConnectionLimits) -> Duration {
    limits.request_timeout + Duration::from_millis((bytes * 1000 / SLOWEST_BYTES_PER_SECOND) as u64)
}

/// Writes answers in the order of their requests. What a request has to do besides waiting is done before it comes here,
/// except by fetches: those are worked on once they are the next to be answered.
async fn write_answers(
    mut write: WriteHalf<Box<dyn Stream>>,
    mut started: mpsc::Receiver<Started>,
    shared: Arc<Shared>,
    requests: Arc<ConnectionMemory>,
) -> Result<(), End> {
    while let Some(Started { answering, in_flight, memory }) = started.recv().await {
        send(&mut write, answering.await, &shared, &requests).await?;
        drop((in_flight, memory));
    }
    Ok(())
}

async fn send(
    write: &mut (impl AsyncWrite + Unpin),
    answer: Answer,
    shared: &Shared,
    requests: &ConnectionMemory,
) -> Result<(), End> {
    let (pieces, memory) = match answer {
        Answer::Frame(pieces, memory) => (pieces, memory),
        Answer::None => return Ok(()),
        Answer::Close => return Err(End::Unanswerable),
    };
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let is_missed = || requests.is_missed() || memory.as_ref().is_some_and(TakenMemory::is_scarce);
    write_pieces(write, pieces.into(), &shared.limits, is_missed).await?;
    shared.broker.metrics().server.response_bytes.inc_by(bytes as u64);
    Ok(())
}

/// Writes pieces one after another, many at a time and none copied. A client that takes nothing of them for long is gone. Where
/// others miss the memory of its answer, or of requests behind it, one that takes nothing for a while, or takes them slower
/// than is expected, counts as gone, too.
async fn write_pieces(
    write: &mut (impl AsyncWrite + Unpin),
    mut pieces: VecDeque<Bytes>,
    limits: &ConnectionLimits,
    is_missed: impl Fn() -> bool,
) -> Result<(), End> {
    let (began, mut all_written, mut idle) = (Instant::now(), 0, Duration::ZERO);
    while !pieces.is_empty() {
        let slices: Vec<IoSlice<'_>> = pieces.iter().take(MAX_SLICES).map(|piece| IoSlice::new(piece)).collect();
        let stalled = limits.request_timeout / STALLED_PART;
        let look = stalled.min(limits.idle_timeout.saturating_sub(idle));
        let taken = timeout(look, write.write_vectored(&slices)).await;
        idle = if taken.is_ok() { Duration::ZERO } else { idle + look };
        let is_late = || began.elapsed() > time_for(all_written, limits);
        if idle >= limits.idle_timeout || (is_missed() && (idle >= stalled || is_late())) {
            return Err(End::Slow);
        }
        let Ok(taken) = taken else { continue };
        let mut written = taken?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        all_written += written;
        while let Some(first) = pieces.front_mut() {
            if first.len() > written {
                first.advance(written);
                break;
            }
            written -= first.len();
            pieces.pop_front();
        }
    }
    timeout(limits.idle_timeout, write.flush()).await.map_err(|_| End::Slow)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Gauge, MemoryPool};

    #[test]
    fn a_connection_does_not_keep_the_memory_of_a_large_request() {
        let large = READ_AHEAD_BYTES + 1;
        let mut buffer = BytesMut::from(&vec![7; large + 3][..]);
        let frame = take_frame(&mut buffer, large);
        assert!(frame.len() == large && frame.is_unique());
        assert!(buffer[..] == [7; 3] && buffer.capacity() < READ_AHEAD_BYTES);
    }

    fn pieces() -> VecDeque<Bytes> {
        [5, 6, 7].map(|byte| Bytes::from(vec![byte; 40])).into()
    }

    /// What a client gets that takes a byte at a time, and how writing ended.
    async fn take_slowly(limits: &ConnectionLimits, memory: &TakenMemory) -> (Result<(), End>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(1);
        let writing = async move { write_pieces(&mut ours, pieces(), limits, || memory.is_scarce()).await };
        let taking = async {
            let mut taken = Vec::new();
            while theirs.read_buf(&mut taken).await.unwrap() > 0 {
                tokio::time::sleep(limits.idle_timeout / 40).await;
            }
            taken
        };
        tokio::join!(writing, taking)
    }

    #[tokio::test]
    async fn a_client_has_the_time_that_it_takes_as_long_as_it_takes_something_and_there_is_memory() {
        let idle_timeout = Duration::from_millis(400);
        let limits =
            ConnectionLimits { idle_timeout, request_timeout: idle_timeout / 4, ..ConnectionLimits::default() };
        let answers = MemoryPool::new(100 << 10, Gauge::default());
        let memory = answers.take(50 << 10).await;
        let (written, taken) = take_slowly(&limits, &memory).await;
        assert!(written.is_ok(), "{written:?}");
        assert_eq!(taken, [[5; 40], [6; 40], [7; 40]].concat());
        let (mut ours, _idle) = tokio::io::duplex(1);
        let written = write_pieces(&mut ours, pieces(), &limits, || memory.is_scarce()).await;
        assert!(matches!(written, Err(End::Slow)), "{written:?}");

        let _others = answers.take(45 << 10).await;
        let (written, taken) = take_slowly(&limits, &memory).await;
        assert!(matches!(written, Err(End::Slow)) && !taken.is_empty(), "{written:?}");
    }
}

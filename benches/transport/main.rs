//! The way between brokers alone, with nothing behind it: what QUIC costs as brokers use it, beside TCP with TLS on the same work, and
//! what a stream for each partition costs beside few streams that partitions share.
//!
//! ```text
//! cargo bench --bench transport                 3 rounds, a minute each on 2 cores
//! cargo bench --bench transport -- 5 4          5 rounds with 4 GiB in each row of the first table
//! ```
//! One process is both ends, over loopback, so CPU is that of sender and receiver together. Both ways have the same pieces in the
//! same order, one piece under way while the one before it is acknowledged, the same TLS 1.3 of the same library, and certificates on both
//! sides. TCP has blocking threads, which is the least that it can cost. Rows run in turns, and ratios are taken within a round: a
//! shared machine is not the same from minute to minute. Nothing is decided by a time.

// A benchmark reads the clock, and TCP has threads of its own here.
#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use alluvium::peer::authority::{Authority, NodeKey, node_name};
use alluvium::runtime::Runtime;
use alluvium::runtime::peers::{ExpectedPeer, PeerIdentity, PeerReceive, PeerSettings, PeerStream};
use alluvium::types::{ClusterId, NodeId};
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, version};
use tokio::task::JoinSet;

/// What is given to a stream at once, as links do.
const CHUNK_BYTES: usize = 256 << 10;
/// What is read at once.
const READ_BYTES: usize = 256 << 10;
/// Of the first table.
const PIECE_BYTES: usize = 4 << 20;
/// A follower's word about one batch, with its topic and partition.
const WORD_BYTES: usize = 33;
const PARTITIONS: usize = 1000;
const BATCH_BYTES: usize = 1 << 10;
/// Batches of each partition.
const BATCHES: usize = 128;
/// Batches of a frame that partitions share.
const FRAME_BATCHES: usize = 250;
/// What `/proc` counts in: hundredths of a second on every Linux that brokers run on.
const TICKS_A_SECOND: f64 = 100.0;

/// What is moved.
#[derive(Clone, Copy)]
struct Work {
    connections: usize,
    /// Of each connection.
    streams: usize,
    /// Of each stream.
    pieces: usize,
    piece_bytes: usize,
    acknowledgement_bytes: usize,
}

impl Work {
    const fn bytes(&self) -> usize {
        self.connections * self.streams * self.pieces * self.piece_bytes
    }

    /// So many gibibytes in large pieces.
    const fn bulk(connections: usize, gibibytes: usize) -> Self {
        let pieces = gibibytes * (1 << 30) / PIECE_BYTES / connections;
        let acknowledgement_bytes = PIECE_BYTES / CHUNK_BYTES * WORD_BYTES;
        Self { connections, streams: 1, pieces, piece_bytes: PIECE_BYTES, acknowledgement_bytes }
    }

    /// The batches of all partitions in frames, over streams that they share.
    const fn shared(streams: usize) -> Self {
        let pieces = PARTITIONS * BATCHES / FRAME_BATCHES / streams;
        let (piece_bytes, acknowledgement_bytes) = (FRAME_BATCHES * BATCH_BYTES, FRAME_BATCHES * WORD_BYTES);
        Self { connections: 1, streams, pieces, piece_bytes, acknowledgement_bytes }
    }

    /// The same batches, each partition's in a stream of its own.
    const fn a_stream_for_each_partition() -> Self {
        let (piece_bytes, acknowledgement_bytes) = (BATCH_BYTES, WORD_BYTES);
        Self { connections: 1, streams: PARTITIONS, pieces: BATCHES, piece_bytes, acknowledgement_bytes }
    }
}

/// Over what it is moved.
#[derive(Clone, Copy)]
enum Way {
    /// As brokers do, in datagrams of at most so many bytes.
    Quic(u16),
    TcpWithTls,
}

struct Row {
    name: String,
    way: Way,
    work: Work,
    /// The row that it is compared with.
    beside: usize,
}

/// Time on the clock, and of processors.
#[derive(Clone, Copy)]
struct Spent {
    seconds: f64,
    cpu_seconds: f64,
}

impl Spent {
    fn since(began: Instant, cpu_before: f64) -> Self {
        Self { seconds: began.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - cpu_before }
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux tells a process about itself");
    let behind_name = text.rsplit(')').next().expect("there is a name in parentheses");
    let fields = behind_name.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().expect("it is a number")).sum::<f64>() / TICKS_A_SECOND
}

/// Two members of a cluster.
struct Pair {
    from: PeerIdentity,
    to: PeerIdentity,
    name_of_to: String,
}

impl Pair {
    fn new() -> Self {
        let runtime = Runtime::production();
        let (cluster_id, now) = (ClusterId::from_entropy(runtime.entropy.identity()), runtime.clock.wall());
        let authority = Authority::new(cluster_id, now).expect("the system gives random numbers");
        let member = |node_id| {
            let key = NodeKey::generate().expect("the system gives random numbers");
            let request = key.certificate_request().expect("a fresh key signs");
            let issued = authority.issue(cluster_id, node_id, &request, runtime.entropy.identity(), now);
            let certificates = vec![issued.expect("the request is a node's")];
            PeerIdentity { certificates, key: key.pkcs8().clone(), authorities: vec![authority.certificate.clone()] }
        };
        let name_of_to = node_name(cluster_id, NodeId(2));
        Self { from: member(NodeId(1)), to: member(NodeId(2)), name_of_to }
    }
}

/// Sends all pieces of a stream.
async fn pump(mut stream: PeerStream, work: Work) {
    let chunk = Bytes::from(vec![7_u8; work.piece_bytes.min(CHUNK_BYTES)]);
    for piece in 0..work.pieces {
        let mut left = work.piece_bytes;
        while left > 0 {
            let part = chunk.slice(..left.min(chunk.len()));
            left -= part.len();
            stream.send.send(&mut [part]).await.expect("the other end reads");
        }
        if piece > 0 {
            take(stream.receive.as_mut(), work.acknowledgement_bytes).await;
        }
    }
    take(stream.receive.as_mut(), work.acknowledgement_bytes).await;
    stream.send.finish();
}

/// Takes them, and acknowledges each.
async fn drain(mut stream: PeerStream, work: Work) {
    let acknowledgement = Bytes::from(vec![9_u8; work.acknowledgement_bytes]);
    for _ in 0..work.pieces {
        take(stream.receive.as_mut(), work.piece_bytes).await;
        stream.send.send(&mut [acknowledgement.clone()]).await.expect("the other end reads");
    }
    stream.send.finish();
}

async fn take(receive: &mut dyn PeerReceive, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let got = receive.receive(left.min(READ_BYTES)).await.expect("the other end sends");
        left -= got.expect("the stream does not end within a piece").len();
    }
}

async fn over_quic(pair: &Pair, work: Work, max_datagram_bytes: u16) -> Spent {
    let runtime = Runtime::production();
    let settings = || PeerSettings { max_datagram_bytes, ..PeerSettings::default() };
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let from = runtime.peers.bind(free, pair.from.clone(), settings()).await.expect("loopback has free ports");
    let to = runtime.peers.bind(free, pair.to.clone(), settings()).await.expect("loopback has free ports");
    let address = to.local_address().expect("it is bound").to_string();
    let mut ends = Vec::new();
    for _ in 0..work.connections {
        let connecting = from.connect(&address, ExpectedPeer::Named(pair.name_of_to.clone()));
        let (dialled, accepted) = tokio::join!(connecting, to.accept());
        ends.push((dialled.expect("both are members"), accepted.expect("the endpoint is open")));
    }
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let mut tasks = JoinSet::new();
    for (dialled, accepted) in &ends {
        let accepted = Arc::clone(accepted);
        tasks.spawn(async move {
            let mut drains = JoinSet::new();
            for _ in 0..work.streams {
                let stream = accepted.accept().await.expect("the other end opens as many");
                drains.spawn(drain(stream, work));
            }
            drains.join_all().await;
        });
        for _ in 0..work.streams {
            let dialled = Arc::clone(dialled);
            tasks.spawn(async move {
                let stream = dialled.open(0).await.expect("as many may be open");
                pump(stream, work).await;
            });
        }
    }
    tasks.join_all().await;
    let spent = Spent::since(began, cpu_before);
    from.close().await;
    to.close().await;
    spent
}

/// The same as [`pump`] and [`drain`] on a stream that blocks.
fn pump_blocking(stream: &mut (impl Read + Write), work: Work) {
    let chunk = vec![7_u8; work.piece_bytes.min(CHUNK_BYTES)];
    let mut acknowledgement = vec![0_u8; work.acknowledgement_bytes];
    for piece in 0..work.pieces {
        let mut left = work.piece_bytes;
        while left > 0 {
            let part = &chunk[..left.min(chunk.len())];
            left -= part.len();
            stream.write_all(part).expect("the other end reads");
        }
        stream.flush().expect("the other end reads");
        if piece > 0 {
            stream.read_exact(&mut acknowledgement).expect("the other end acknowledges");
        }
    }
    stream.read_exact(&mut acknowledgement).expect("the other end acknowledges");
}

fn drain_blocking(stream: &mut (impl Read + Write), work: Work) {
    let (mut buffer, acknowledgement) = (vec![0_u8; READ_BYTES], vec![9_u8; work.acknowledgement_bytes]);
    for _ in 0..work.pieces {
        let mut left = work.piece_bytes;
        while left > 0 {
            let room = left.min(buffer.len());
            let got = stream.read(&mut buffer[..room]).expect("the other end sends");
            assert!(got > 0, "the stream does not end within a piece");
            left -= got;
        }
        stream.write_all(&acknowledgement).expect("the other end reads");
        stream.flush().expect("the other end reads");
    }
}

/// What both sides of TLS over TCP are set to: as `runtime/production/tls.rs` does it for QUIC.
fn tls(pair: &Pair) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let shown = |identity: &PeerIdentity| {
        let chain = identity.certificates.iter().map(|der| CertificateDer::from(der.clone())).collect::<Vec<_>>();
        let key = PrivateKeyDer::try_from(identity.key.expose().clone()).expect("it was made as PKCS#8");
        (chain, key)
    };
    let roots = |identity: &PeerIdentity| {
        let mut roots = RootCertStore::empty();
        for authority in &identity.authorities {
            roots.add(CertificateDer::from(authority.clone())).expect("it was made as an authority");
        }
        roots
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&pair.to).into(), Arc::clone(&provider));
    let (chain, key) = shown(&pair.to);
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(verifier.build().expect("there is an authority"))
        .with_single_cert(chain, key)
        .expect("key and certificate belong together");
    let (chain, key) = shown(&pair.from);
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(roots(&pair.from))
        .with_client_auth_cert(chain, key)
        .expect("key and certificate belong together");
    (Arc::new(client), Arc::new(server))
}

fn over_tcp(pair: &Pair, work: Work) -> Spent {
    let (client, server) = tls(pair);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let mut ends = Vec::new();
    for _ in 0..work.connections {
        let dialled = TcpStream::connect(address).expect("somebody listens");
        let (accepted, _) = listener.accept().expect("somebody dials");
        for socket in [&dialled, &accepted] {
            socket.set_nodelay(true).expect("the socket is open");
        }
        let name = ServerName::try_from(pair.name_of_to.clone()).expect("it is a DNS name");
        let dialling = ClientConnection::new(Arc::clone(&client), name).expect("the settings are right");
        let listening = ServerConnection::new(Arc::clone(&server)).expect("the settings are right");
        ends.push((StreamOwned::new(dialling, dialled), StreamOwned::new(listening, accepted)));
    }
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    std::thread::scope(|scope| {
        for (from, to) in &mut ends {
            scope.spawn(move || pump_blocking(from, work));
            scope.spawn(move || drain_blocking(to, work));
        }
    });
    Spent::since(began, cpu_before)
}

fn rows(gibibytes: usize) -> Vec<Row> {
    let usual = PeerSettings::default().max_datagram_bytes;
    let mut rows: Vec<Row> = Vec::new();
    for connections in [1, 2, 4] {
        let (work, beside) = (Work::bulk(connections, gibibytes), rows.len());
        let name = |way: &str| format!("{way}, connections: {connections}");
        rows.push(Row { name: name("TCP with TLS"), way: Way::TcpWithTls, work, beside });
        rows.push(Row { name: name("QUIC"), way: Way::Quic(usual), work, beside });
    }
    for datagram in [1200, 1452] {
        let (name, work) = (format!("QUIC, connections: 1, datagrams of {datagram} bytes"), Work::bulk(1, gibibytes));
        rows.push(Row { name, way: Way::Quic(datagram), work, beside: 0 });
    }
    let beside = rows.len();
    for streams in [2, 1, 8] {
        let name = format!("{PARTITIONS} partitions, streams that they share: {streams}");
        rows.push(Row { name, way: Way::Quic(usual), work: Work::shared(streams), beside });
    }
    let (name, work) = (format!("{PARTITIONS} partitions, a stream each"), Work::a_stream_for_each_partition());
    rows.push(Row { name, way: Way::Quic(usual), work, beside });
    rows
}

/// Median, least and most.
fn shown(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2}–{most:.2})", values[values.len() / 2])
}

fn main() {
    // Cargo adds a flag of its own.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (rounds, gibibytes) = (numbers.next().unwrap_or(3).max(1), numbers.next().unwrap_or(1).max(1));
    let (pair, rows) = (Pair::new(), rows(gibibytes));
    let tokio = tokio::runtime::Runtime::new().expect("threads can be started");
    let mut spent: Vec<Vec<Spent>> = vec![Vec::new(); rows.len()];
    for round in 0..rounds {
        for (row, spent) in rows.iter().zip(&mut spent) {
            spent.push(match row.way {
                Way::Quic(datagram) => tokio.block_on(over_quic(&pair, row.work, datagram)),
                Way::TcpWithTls => over_tcp(&pair, row.work),
            });
        }
        println!("round {} of {rounds} is over", round + 1);
    }
    println!("| row | CPU s/GiB, both ends | MiB/s | CPU, beside | the row |\n|---|---|---|---|---|");
    for (row, of_row) in rows.iter().zip(&spent) {
        let gibibytes = row.work.bytes() as f64 / f64::from(1 << 30);
        let costs = of_row.iter().map(|spent| spent.cpu_seconds / gibibytes).collect();
        let rates = of_row.iter().map(|spent| gibibytes * 1024.0 / spent.seconds).collect();
        let ratios = of_row.iter().zip(&spent[row.beside]).map(|(one, other)| one.cpu_seconds / other.cpu_seconds);
        let (costs, rates, ratios) = (shown(costs), shown(rates), shown(ratios.collect()));
        println!("| {} | {costs} | {rates} | {ratios} | {} |", row.name, rows[row.beside].name);
    }
}

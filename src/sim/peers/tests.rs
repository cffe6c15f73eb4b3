//! What tests of brokers may rely on: order, held bytes, silence, and two runs that are equal.

use std::future::Future;

use futures_util::FutureExt;
use ring::digest;

use super::*;
use crate::runtime::peers::PeerProtocol;
use crate::sim::Machine;

const IDLE: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(20);

/// Runs a task while time passes from one event to the next.
fn play<T: Send + 'static>(network: &SimNetwork, future: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let played = tokio::spawn(future);
        for _ in 0..100_000 {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            if played.is_finished() {
                return played.await.unwrap();
            }
            network.pass(network.until_next().expect("somebody waits for what never happens"));
        }
        panic!("it takes too long");
    })
}

fn named(name: &str) -> ExpectedPeer {
    ExpectedPeer::Named(name.to_owned())
}

fn bind(network: &SimNetwork, host: &str, identity: PeerIdentity, settings: PeerSettings) -> Arc<dyn PeerEndpoint> {
    let host = network.host(host);
    let bound = host.bind("0.0.0.0:9092".parse().unwrap(), identity, settings).now_or_never();
    bound.expect("it waits for nothing").unwrap()
}

fn refusal(network: &SimNetwork, from: &Arc<dyn PeerEndpoint>, expected: ExpectedPeer) -> PeerError {
    let from = Arc::clone(from);
    let dialled = play(network, async move { from.connect("b:9092", expected).await.err() });
    dialled.expect("it is refused")
}

/// Two brokers, and a connection between them.
struct Pair {
    network: SimNetwork,
    a: Arc<dyn PeerEndpoint>,
    b: Arc<dyn PeerEndpoint>,
    dialled: Arc<dyn PeerConnection>,
    accepted: Arc<dyn PeerConnection>,
}

impl Pair {
    fn new(seed: u64, settings: &PeerSettings) -> Self {
        let network = SimNetwork::new(seed);
        let a = bind(&network, "a", identity("one", &["a"]), settings.clone());
        let b = bind(&network, "b", identity("one", &["b", "b.test"]), settings.clone());
        let (dialled, accepted) = Self::connect(&network, &a, &b);
        Self { network, a, b, dialled, accepted }
    }

    fn connect(
        network: &SimNetwork,
        a: &Arc<dyn PeerEndpoint>,
        b: &Arc<dyn PeerEndpoint>,
    ) -> (Arc<dyn PeerConnection>, Arc<dyn PeerConnection>) {
        let (a, b) = (Arc::clone(a), Arc::clone(b));
        let (dialled, accepted) =
            play(network, async move { tokio::join!(a.connect("b:9092", named("b")), b.accept()) });
        (dialled.unwrap(), accepted.unwrap())
    }
}

async fn read_all(receive: &mut dyn PeerReceive) -> Result<Vec<u8>, PeerError> {
    let mut all = Vec::new();
    while let Some(bytes) = receive.receive(1000).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Opens a stream and sends some bytes at once, as far as there is room.
fn begin(connection: &Arc<dyn PeerConnection>, bytes: &'static [u8]) -> PeerStream {
    let mut stream = connection.open(0).now_or_never().expect("there is room").unwrap();
    stream.send.send(&mut [Bytes::from_static(bytes)]).now_or_never().expect("there is room").unwrap();
    stream
}

#[test]
fn bytes_of_a_stream_arrive_in_order_and_streams_do_not_wait_for_each_other() {
    let Pair { network, dialled, accepted, .. } = Pair::new(1, &PeerSettings::default());
    assert_eq!((dialled.remote().names.len(), accepted.remote().names.as_slice()), (2, &["a".to_owned()][..]));
    let sent: Vec<u8> = (0..200).collect();
    let expected = sent.clone();
    let mut firsts = play(&network, async move {
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(dialled.open(0).await.unwrap());
        }
        for (number, stream) in (0..20).zip(&mut streams) {
            let mut chunks: Vec<_> = sent.chunks(7).map(Bytes::copy_from_slice).collect();
            stream.send.send(&mut [Bytes::from(vec![number])]).await.unwrap();
            stream.send.send(&mut chunks).await.unwrap();
            stream.send.finish();
        }
        let mut firsts = Vec::new();
        for _ in 0..20 {
            let mut stream = accepted.accept().await.unwrap();
            let read = read_all(stream.receive.as_mut()).await.unwrap();
            assert_eq!(read[1..], expected);
            firsts.push(read[0]);
        }
        firsts
    });
    assert!(!firsts.is_sorted(), "another one was sooner");
    firsts.sort_unstable();
    assert!(firsts.into_iter().eq(0..20));
}

#[test]
fn what_a_cut_holds_arrives_when_it_heals() {
    let Pair { network, dialled, accepted, .. } = Pair::new(2, &PeerSettings::default());
    network.cut("a", "b");
    let mut stream = begin(&dialled, b"held");
    stream.send.finish();
    let mut back = begin(&accepted, b"not held");
    back.send.finish();
    network.pass(IDLE / 2);
    assert!(accepted.accept().now_or_never().is_none());
    let mut received = dialled.accept().now_or_never().unwrap().unwrap();
    assert_eq!(read_all(received.receive.as_mut()).now_or_never().unwrap().unwrap(), b"not held");
    network.heal("a", "b");
    network.pass(MOMENT);
    let mut received = accepted.accept().now_or_never().unwrap().unwrap();
    assert_eq!(read_all(received.receive.as_mut()).now_or_never().unwrap().unwrap(), b"held");
    network.pass(3 * IDLE);
    assert!(dialled.closed().now_or_never().is_none());
}

#[test]
fn who_hears_nothing_for_too_long_gives_up_and_the_other_side_after_it() {
    let Pair { network, a, b, dialled, accepted } = Pair::new(3, &PeerSettings::default());
    network.cut("a", "b");
    network.pass(IDLE - MOMENT);
    assert!(accepted.closed().now_or_never().is_none());
    network.pass(2 * MOMENT);
    assert_eq!(accepted.closed().now_or_never(), Some(PeerError::TimedOut));
    assert!(dialled.closed().now_or_never().is_none());
    network.pass(IDLE);
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::TimedOut));
    assert_eq!(dialled.open(0).now_or_never().unwrap().err(), Some(PeerError::TimedOut));
    assert_eq!(refusal(&network, &a, named("b")), PeerError::TimedOut);
    network.heal("a", "b");
    Pair::connect(&network, &a, &b);
}

#[test]
fn a_killed_process_is_silent_and_its_machine_says_that_it_is_gone() {
    let Pair { network, a, b, dialled, accepted: _accepted } = Pair::new(4, &PeerSettings::default());
    let mut lifeline = network.host("a").lifeline("b:9092").now_or_never().unwrap().unwrap();
    let mut is_gone = || lifeline.is_gone().now_or_never().unwrap();
    assert!(!is_gone());
    network.host("b").kill();
    assert!(is_gone());
    network.cut("b", "a");
    assert!(!is_gone(), "the answer does not get here");
    network.heal("b", "a");
    assert!(matches!(refusal(&network, &a, named("b")), PeerError::Unreachable { .. }));
    network.pass(IDLE / 2);
    assert!(dialled.closed().now_or_never().is_none());
    network.pass(IDLE);
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::TimedOut));
    assert!(b.accept().now_or_never().unwrap().is_none());
    network.host("b").power_off();
    assert!(!is_gone(), "nobody is there who could say so");
    network.host("b").power_on();
    assert!(is_gone());
}

#[test]
fn a_process_that_starts_again_does_not_know_the_connections_of_the_one_before() {
    let Pair { network, a, b: _b, dialled, accepted: _accepted } = Pair::new(5, &PeerSettings::default());
    network.host("b").kill();
    let again = bind(&network, "b", identity("one", &["b"]), PeerSettings::default());
    network.pass(Duration::from_secs(2));
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::Reset));
    Pair::connect(&network, &a, &again);
}

#[test]
fn senders_wait_for_readers_and_for_places_of_streams() {
    let settings = PeerSettings { stream_window_bytes: 8, max_streams: 2, ..PeerSettings::default() };
    let Pair { network, dialled, accepted, .. } = Pair::new(6, &settings);
    let mut stream = dialled.open(0).now_or_never().unwrap().unwrap();
    let mut chunks = [Bytes::from_static(b"0123456789")];
    assert!(stream.send.send(&mut chunks).now_or_never().is_none());
    network.pass(MOMENT);
    let mut received = accepted.accept().now_or_never().unwrap().unwrap();
    assert_eq!(received.receive.receive(3).now_or_never().unwrap().unwrap().unwrap(), b"012"[..]);
    stream.send.send(&mut chunks).now_or_never().unwrap().unwrap();
    let second = begin(&dialled, b"2");
    assert!(dialled.open(0).now_or_never().is_none());
    network.pass(MOMENT);
    drop((second, accepted.accept().now_or_never().unwrap().unwrap()));
    begin(&dialled, b"3");
    // Who reads no more says so, and what was not finished does not look whole.
    received.receive.stop();
    drop(received.send);
    network.pass(MOMENT);
    let stopped = stream.send.send(&mut [Bytes::from_static(b"4")]).now_or_never();
    assert_eq!(stopped, Some(Err(PeerError::Reset)));
    assert_eq!(stream.receive.receive(1).now_or_never(), Some(Err(PeerError::Reset)));
}

#[test]
fn closing_tells_why_and_a_break_is_a_reset() {
    let Pair { network, a, b, dialled, accepted } = Pair::new(7, &PeerSettings::default());
    dialled.close("enough");
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::Local));
    network.pass(MOMENT);
    assert_eq!(accepted.closed().now_or_never(), Some(PeerError::Closed { reason: "enough".to_owned() }));
    let (dialled, accepted) = Pair::connect(&network, &a, &b);
    network.reset("b", "a");
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::Reset));
    assert_eq!(accepted.closed().now_or_never(), Some(PeerError::Reset));
    let (dialled, accepted) = Pair::connect(&network, &a, &b);
    drop(accepted);
    network.pass(MOMENT);
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::Closed { reason: String::new() }));
    let (dialled, _accepted) = Pair::connect(&network, &a, &b);
    b.close().now_or_never().unwrap();
    network.pass(MOMENT);
    assert_eq!(dialled.closed().now_or_never(), Some(PeerError::Closed { reason: "the broker stops".to_owned() }));
}

#[test]
fn members_are_told_from_strangers_and_from_those_who_join() {
    let Pair { network, a, b, .. } = Pair::new(8, &PeerSettings::default());
    let is_refused = |error: PeerError| matches!(error, PeerError::Refused { .. });
    assert!(is_refused(refusal(&network, &a, named("c"))));
    a.set_identity(identity("other", &["a"])).unwrap();
    assert!(is_refused(refusal(&network, &a, named("b"))));
    a.set_identity(PeerIdentity { authorities: vec![b"one".to_vec()], ..identity("other", &["a"]) }).unwrap();
    assert!(is_refused(refusal(&network, &a, ExpectedPeer::HostOfAddress)));
    let fingerprint =
        |name: &str| -> [u8; 32] { digest::digest(&digest::SHA256, name.as_bytes()).as_ref().try_into().unwrap() };
    assert!(is_refused(refusal(&network, &a, ExpectedPeer::Authority(fingerprint("other")))));
    let expected = ExpectedPeer::Authority(fingerprint("one"));
    let joined = play(&network, async move {
        let (dialled, accepted) = tokio::join!(a.connect("b:9092", expected), b.accept());
        (dialled.unwrap(), accepted.unwrap())
    });
    assert_eq!((joined.1.remote().protocol, joined.1.remote().names.len()), (PeerProtocol::Join, 0));
}

#[test]
fn a_machine_takes_its_endpoint_with_it() {
    let network = SimNetwork::new(9);
    let machine = Machine::in_network(9, network.host("b"));
    let bind = || {
        let (peers, identity) = (machine.runtime().peers, identity("one", &["b"]));
        let bound = peers.bind("0.0.0.0:0".parse().unwrap(), identity, PeerSettings::default());
        bound.now_or_never().unwrap().unwrap()
    };
    let address = bind().local_address().unwrap().to_string();
    let mut lifeline = network.host("a").lifeline(&address).now_or_never().unwrap().unwrap();
    let mut is_gone = || lifeline.is_gone().now_or_never().unwrap();
    assert!(is_gone(), "it was dropped");
    let _first = bind();
    assert!(!is_gone());
    machine.kill();
    assert!(is_gone());
    let _second = bind();
    machine.power_cut();
    assert!(!is_gone());
    let _third = bind();
    assert!(!is_gone());
}

#[test]
fn two_runs_of_a_seed_are_equal() {
    let run = |seed: u64| {
        let Pair { network, dialled, accepted, .. } = Pair::new(seed, &PeerSettings::default());
        network.set_delay(Duration::from_micros(10), Duration::from_millis(3));
        network.cut("b", "a");
        let answered = async move {
            for number in 0..20_u8 {
                let mut asked = dialled.open(0).await.unwrap();
                asked.send.send(&mut [Bytes::from(vec![number; 100])]).await.unwrap();
                asked.send.finish();
                let mut answered = accepted.accept().await.unwrap();
                assert_eq!(read_all(answered.receive.as_mut()).await.unwrap().len(), 100);
                drop(answered);
            }
        };
        play(&network, answered);
        network.heal("b", "a");
        network.pass(MOMENT);
        network.trace()
    };
    assert_eq!(run(10), run(10));
    assert_ne!(run(10), run(11));
}

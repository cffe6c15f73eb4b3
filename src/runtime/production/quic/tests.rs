//! Endpoints on the loopback: who is let in, what streams carry, and what a peer learns of an end.

use futures_util::future::join_all;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::digest;

use super::*;
use crate::runtime::peers::Secret;

struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn identity(&self, name: &str) -> PeerIdentity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        PeerIdentity {
            certificates: vec![certificate],
            key: Secret::new(key.serialize_der()),
            authorities: vec![self.certificate.clone()],
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        digest::digest(&digest::SHA256, &self.certificate).as_ref().try_into().unwrap()
    }
}

fn no_identity() -> PeerIdentity {
    PeerIdentity { certificates: vec![], key: Secret::new(vec![]), authorities: vec![] }
}

fn named(name: &str) -> ExpectedPeer {
    ExpectedPeer::Named(name.to_owned())
}

async fn bind(identity: &PeerIdentity) -> Arc<dyn PeerEndpoint> {
    bind_with(identity, PeerSettings::default()).await
}

async fn bind_with(identity: &PeerIdentity, settings: PeerSettings) -> Arc<dyn PeerEndpoint> {
    Quic.bind("127.0.0.1:0".parse().unwrap(), identity.clone(), settings).await.unwrap()
}

fn address_of(endpoint: &Arc<dyn PeerEndpoint>) -> String {
    endpoint.local_address().unwrap().to_string()
}

async fn connected(
    from: &Arc<dyn PeerEndpoint>,
    to: &Arc<dyn PeerEndpoint>,
    expected: ExpectedPeer,
) -> (Arc<dyn PeerConnection>, Arc<dyn PeerConnection>) {
    let address = address_of(to);
    let (dialled, accepted) = tokio::join!(from.connect(&address, expected), to.accept());
    (dialled.unwrap(), accepted.unwrap())
}

async fn refusal(from: &Arc<dyn PeerEndpoint>, to: &Arc<dyn PeerEndpoint>, expected: ExpectedPeer) -> String {
    let address = address_of(to);
    let refused = tokio::select! {
        dialled = from.connect(&address, expected) => dialled.err(),
        _ = to.accept() => None,
    };
    match refused {
        Some(PeerError::Refused { reason }) => reason,
        other => panic!("not refused but {other:?}"),
    }
}

async fn read_all(receive: &mut dyn PeerReceive) -> Result<Vec<u8>, PeerError> {
    let mut all = Vec::new();
    while let Some(bytes) = receive.receive(64 << 10).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Asks over a stream from one side and answers from the other.
async fn exchange(from: &Arc<dyn PeerConnection>, to: &Arc<dyn PeerConnection>) {
    let mut asked = from.open(0).await.unwrap();
    asked.send.send(&mut [Bytes::from_static(b"how "), Bytes::from_static(b"far?")]).await.unwrap();
    asked.send.finish();
    let mut answered = to.accept().await.unwrap();
    assert_eq!(read_all(answered.receive.as_mut()).await.unwrap(), b"how far?");
    answered.send.send(&mut [Bytes::from_static(b"12")]).await.unwrap();
    answered.send.finish();
    assert_eq!(read_all(asked.receive.as_mut()).await.unwrap(), b"12");
}

#[tokio::test]
async fn members_know_each_other_and_exchange_streams_both_ways() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let (dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    assert_eq!(dialled.remote().names, ["node-2.test"]);
    assert_eq!(accepted.remote().names, ["node-1.test"]);
    assert_eq!(accepted.remote().protocol, PeerProtocol::Member);
    assert_eq!(accepted.remote().address, a.local_address().unwrap());
    exchange(&dialled, &accepted).await;
    exchange(&accepted, &dialled).await;
    let statistics = dialled.statistics();
    assert!(statistics.sent_bytes > 0 && statistics.received_bytes > 0 && statistics.datagram_bytes >= 1200);
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_by_either_side() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (a, b) = (bind(&ours.identity("node-1.test")).await, bind(&theirs.identity("node-2.test")).await);
    refusal(&a, &b, named("node-2.test")).await;
    let mut trusting = theirs.identity("node-3.test");
    trusting.authorities.push(ours.certificate.clone());
    let c = bind(&trusting).await;
    refusal(&c, &a, named("node-1.test")).await;
}

#[tokio::test]
async fn a_certificate_has_to_name_the_expected_peer_or_host() {
    let authority = Authority::new("one");
    let a = bind(&authority.identity("node-1.test")).await;
    let (b, c) = (bind(&authority.identity("node-2.test")).await, bind(&authority.identity("127.0.0.1")).await);
    refusal(&a, &b, named("node-3.test")).await;
    refusal(&a, &b, ExpectedPeer::HostOfAddress).await;
    let (dialled, accepted) = connected(&a, &c, ExpectedPeer::HostOfAddress).await;
    exchange(&dialled, &accepted).await;
}

#[tokio::test]
async fn a_member_that_shows_no_certificate_is_refused_with_a_reason() {
    let authority = Authority::new("one");
    let b = bind(&authority.identity("node-2.test")).await;
    let mut tls = tls::joining(authority.fingerprint()).unwrap();
    tls.alpn_protocols = vec![b"alluvium-peer/1".to_vec()];
    let config = client(tls, &Arc::new(transport(&PeerSettings::default()).unwrap())).unwrap();
    let hostile = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = hostile.connect_with(config, b.local_address().unwrap(), ANY_MEMBER).unwrap();
    let refused = tokio::select! {
        dialled = greeted(connecting) => dialled.map(|_| ()),
        _ = b.accept() => panic!("it was let in"),
    };
    let Err(PeerError::Refused { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("has to show its certificate"), "{reason}");
}

#[tokio::test]
async fn a_node_joins_by_the_fingerprint_of_the_authority_and_by_no_other() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let (joining, b) = (bind(&no_identity()).await, bind(&authority.identity("node-2.test")).await);
    let (dialled, accepted) = connected(&joining, &b, ExpectedPeer::Authority(authority.fingerprint())).await;
    assert_eq!((accepted.remote().protocol, accepted.remote().names.len()), (PeerProtocol::Join, 0));
    exchange(&dialled, &accepted).await;
    let reason = refusal(&joining, &b, ExpectedPeer::Authority(other.fingerprint())).await;
    assert!(reason.contains("join token"), "{reason}");
    let reason = refusal(&joining, &b, named("node-2.test")).await;
    assert!(reason.contains("has to join first"), "{reason}");
    // With a certificate it is a member, on the same socket.
    joining.set_identity(authority.identity("node-3.test")).unwrap();
    let (dialled, accepted) = connected(&b, &joining, named("node-3.test")).await;
    exchange(&dialled, &accepted).await;
}

#[tokio::test]
async fn a_fingerprint_alone_does_not_let_a_leaf_of_another_authority_pass() {
    let (authority, other) = (Authority::new("one"), Authority::new("one"));
    let mut forged = other.identity("node-2.test");
    forged.certificates.push(authority.certificate.clone());
    let (joining, b) = (bind(&no_identity()).await, bind(&forged).await);
    refusal(&joining, &b, ExpectedPeer::Authority(authority.fingerprint())).await;
}

#[tokio::test]
async fn a_new_identity_counts_for_new_connections_and_leaves_the_old_ones() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let (old, accepted) = connected(&a, &b, named("node-2.test")).await;
    let mut mixed = authority.identity("node-9.test");
    mixed.key = authority.identity("node-8.test").key;
    assert_eq!(b.set_identity(mixed).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    b.set_identity(authority.identity("node-9.test")).unwrap();
    refusal(&a, &b, named("node-2.test")).await;
    let (new, accepted_new) = connected(&a, &b, named("node-9.test")).await;
    exchange(&new, &accepted_new).await;
    exchange(&old, &accepted).await;
    let (_, accepted) = connected(&b, &a, named("node-1.test")).await;
    assert_eq!(accepted.remote().names, ["node-9.test"]);
}

#[tokio::test]
async fn a_stream_that_was_not_finished_does_not_look_whole() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let (dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    let mut cut = dialled.open(0).await.unwrap();
    cut.send.send(&mut [Bytes::from_static(b"half of")]).await.unwrap();
    let mut received = accepted.accept().await.unwrap();
    drop(cut.send);
    assert_eq!(read_all(received.receive.as_mut()).await, Err(PeerError::Reset));
    // And the other way round: who is told to stop learns it.
    received.receive.stop();
    let mut unread = dialled.open(0).await.unwrap();
    unread.send.send(&mut [Bytes::from_static(b"nobody reads")]).await.unwrap();
    drop(accepted.accept().await.unwrap());
    let stopped = async {
        loop {
            if let Err(error) = unread.send.send(&mut [Bytes::from_static(b"this")]).await {
                return error;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert_eq!(timeout(Duration::from_secs(5), stopped).await, Ok(PeerError::Reset));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_its_sender_and_no_other_stream() {
    let authority = Authority::new("one");
    let settings = PeerSettings { stream_window_bytes: 64 << 10, ..PeerSettings::default() };
    let a = bind(&authority.identity("node-1.test")).await;
    let b = bind_with(&authority.identity("node-2.test"), settings).await;
    let (dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    let mut held = dialled.open(0).await.unwrap();
    let mut chunks = vec![Bytes::from(vec![7; 32 << 10]); 8];
    assert!(timeout(Duration::from_millis(300), held.send.send(&mut chunks)).await.is_err(), "it waits");
    let mut unread = accepted.accept().await.unwrap();
    exchange(&dialled, &accepted).await;
    let finish = async {
        held.send.send(&mut chunks).await.unwrap();
        held.send.finish();
    };
    let ((), read) = tokio::join!(finish, read_all(unread.receive.as_mut()));
    assert!(read.unwrap().len() >= 64 << 10);
}

#[tokio::test]
async fn closing_tells_the_peer_why() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let (dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    accepted.close("enough");
    assert_eq!(dialled.closed().await, PeerError::Closed { reason: "enough".to_owned() });
    assert_eq!(accepted.closed().await, PeerError::Local);
    assert_eq!(dialled.open(0).await.err(), Some(PeerError::Closed { reason: "enough".to_owned() }));
    let (dialled, _accepted) = connected(&a, &b, named("node-2.test")).await;
    b.close().await;
    assert_eq!(dialled.closed().await, PeerError::Closed { reason: "the broker stops".to_owned() });
    assert!(b.accept().await.is_none());
    assert_eq!(b.connect(&address_of(&a), named("node-1.test")).await.err(), Some(PeerError::Local));
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused() {
    let authority = Authority::new("one");
    let settings = PeerSettings { max_incoming_connections: 1, ..PeerSettings::default() };
    let a = bind(&authority.identity("node-1.test")).await;
    let b = bind_with(&authority.identity("node-2.test"), settings).await;
    let (_dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    refusal(&a, &b, named("node-2.test")).await;
    drop(accepted);
    let _connected = connected(&a, &b, named("node-2.test")).await;
}

#[tokio::test]
async fn junk_leaves_an_endpoint_as_it_is() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let junk = async {
        for length in [0, 1, 7, 20, 21, 40, 1200, 1400, 6000] {
            for first in [0x00, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
                let mut datagram = vec![first; length];
                datagram.iter_mut().skip(5).step_by(3).for_each(|byte| *byte = 8);
                let _ = socket.send_to(&datagram, b.local_address().unwrap());
            }
            tokio::task::yield_now().await;
        }
        pending::<()>().await;
    };
    let (dialled, accepted) = tokio::select! {
        connected = connected(&a, &b, named("node-2.test")) => connected,
        () = junk => unreachable!("it never ends"),
    };
    exchange(&dialled, &accepted).await;
}

#[tokio::test]
async fn nobody_waits_for_a_port_that_no_process_has() {
    let authority = Authority::new("one");
    let a = bind(&authority.identity("node-1.test")).await;
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let dialled = timeout(Duration::from_secs(2), a.connect(&free, named("node-2.test"))).await;
    assert!(matches!(dialled, Ok(Err(PeerError::Unreachable { .. }))));
    for nonsense in ["", "no port", "127.0.0.1:x", "127.0.0.1:0", "[::1]:9"] {
        let dialled = a.connect(nonsense, named("node-2.test")).await;
        assert!(matches!(dialled, Err(PeerError::Address { .. })), "{nonsense}");
    }
}

#[tokio::test]
async fn a_lifeline_tells_when_the_socket_of_an_endpoint_is_gone_and_not_before() {
    let authority = Authority::new("one");
    let b = bind(&authority.identity("node-2.test")).await;
    let mut lifeline = Quic.lifeline(&address_of(&b)).await.unwrap();
    for _ in 0..5 {
        assert!(!lifeline.is_gone().await);
    }
    b.close().await;
    drop(b);
    let gone = async {
        while !lifeline.is_gone().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.unwrap();
}

#[test]
fn the_peer_of_a_process_that_was_killed_and_started_again_learns_it_before_the_idle_timeout() {
    let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, killed, started) = (start(), start(), start());
    let authority = Authority::new("one");
    let identity = authority.identity("node-2.test");
    let b = killed.block_on(bind(&identity));
    let address = b.local_address().unwrap();
    let accepting = Arc::clone(&b);
    let accepting = killed.spawn(async move { accepting.accept().await });
    let (a, dialled) = ours.block_on(async {
        let a = bind(&authority.identity("node-1.test")).await;
        let dialled = a.connect(&address.to_string(), named("node-2.test")).await.unwrap();
        (a, dialled)
    });
    let accepted = killed.block_on(accepting).unwrap().unwrap();
    // Nobody is left who could send a last word.
    killed.shutdown_timeout(Duration::from_secs(2));
    drop((accepted, b));
    let again = started.block_on(timeout_in(async {
        loop {
            match Quic.bind(address, identity.clone(), PeerSettings::default()).await {
                Ok(endpoint) => return endpoint,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }));
    let learned = ours.block_on(timeout_in(async { dialled.closed().await }));
    // A driver that had not ended yet may have had a last word after all.
    assert!(matches!(learned, PeerError::Reset | PeerError::Closed { .. }), "{learned:?}");
    drop((a, again));
}

/// Half of the idle time-out.
async fn timeout_in<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), future).await.expect("it takes less than the idle time-out")
}

/// Sends on many streams at once, and checks what arrives.
async fn transfer(from: &Arc<dyn PeerConnection>, to: &Arc<dyn PeerConnection>) {
    const STREAMS: u8 = 16;
    const CHUNKS: usize = 32;
    const CHUNK_BYTES: usize = 16 << 10;
    let send = move |number: u8| async move {
        let mut stream = from.open(i32::from(number)).await.unwrap();
        let mut chunks = vec![Bytes::from(vec![number; CHUNK_BYTES]); CHUNKS];
        stream.send.send(&mut chunks).await.unwrap();
        stream.send.finish();
        stream.receive.receive(1).await.unwrap();
    };
    let receive = async {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(to.accept().await.unwrap());
        }
        let reads = streams.iter_mut().map(|stream| read_all(stream.receive.as_mut()));
        let mut numbers: Vec<u8> = Vec::new();
        for read in join_all(reads).await {
            let read = read.unwrap();
            assert!(read.len() == CHUNKS * CHUNK_BYTES && read.iter().all(|byte| *byte == read[0]));
            numbers.push(read[0]);
        }
        streams.iter_mut().for_each(|stream| stream.send.finish());
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..STREAMS));
    };
    tokio::join!(join_all((0..STREAMS).map(send)), receive);
}

#[tokio::test]
async fn many_streams_carry_much_at_once_also_in_the_largest_datagrams() {
    let authority = Authority::new("one");
    let (a, b) = (bind(&authority.identity("node-1.test")).await, bind(&authority.identity("node-2.test")).await);
    let (dialled, accepted) = connected(&a, &b, named("node-2.test")).await;
    let largest = async {
        while dialled.statistics().datagram_bytes < 6000 {
            transfer(&dialled, &accepted).await;
        }
        transfer(&dialled, &accepted).await;
    };
    timeout(Duration::from_secs(60), largest).await.unwrap();
}

//! Connections end to end, in one process: order, limits, damage, and a restart.

mod cluster;
mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ApiVersionsRequest, CreateTopicsRequest, CreateTopicsResponse,
    FetchRequest, FetchResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, MetadataRequest,
    ProduceRequest, ProduceResponse, TopicName, alter_configs_request, incremental_alter_configs_request,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::protocol::ApiRequest;
use crate::record::{BatchBuilder, BatchOptions};
use crate::types::{LeaderEpoch, Offset, Timestamp};

const TOPIC: &str = "events";

/// Longer than anything takes that is not held up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A multiple of it.
const VERY_LONG_MS: i32 = 600_000;

async fn start(directory: &std::path::Path, limits: ConnectionLimits) -> Server {
    let listener =
        ListenerSettings { name: "default".to_owned(), address: "127.0.0.1:0".parse().unwrap(), advertised: None };
    let settings = ServerSettings { listeners: vec![listener], limits, drain_timeout: 2 * PATIENCE };
    let broker = BrokerSettings { endpoints: BTreeMap::new(), ..BrokerSettings::small(directory) };
    let (runtime, metrics) = (Runtime::production(), Metrics::new());
    let listeners = BoundListeners::bind(settings, &runtime).await.unwrap();
    Server::start(listeners, broker, runtime, metrics, Readiness::default()).await.unwrap()
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        Self { stream: TcpStream::connect(server.addresses()["default"]).await.unwrap() }
    }

    async fn send(&mut self, frames: &[Bytes]) {
        self.stream.write_all(&frames.concat()).await.unwrap();
    }

    /// The next answer: its correlation id, and its body.
    async fn receive(&mut self) -> (i32, Bytes) {
        let length = self.stream.read_u32().await.unwrap();
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame).await.unwrap();
        let mut frame = Bytes::from(frame);
        (frame.get_i32(), frame)
    }

    async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }
}

/// A request of a version without tagged fields.
fn frame<R: ApiRequest>(request: &R, version: i16, correlation_id: i32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32(0);
    out.put_i16(R::API.key());
    out.put_i16(version);
    out.put_i32(correlation_id);
    out.put_i16(-1);
    request.encode(&mut out, version).unwrap();
    let length = u32::try_from(out.len() - 4).unwrap();
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn create(correlation_id: i32) -> Bytes {
    let topic = MetadataRequestTopic::default().with_name(Some(topic()));
    let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
    frame(&request, 4, correlation_id)
}

fn produce(value: &str, correlation_id: i32) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Timestamp(1), None, Some(value.as_bytes()), std::iter::empty());
    let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
    let partition = PartitionProduceData::default().with_records(Some(batch.bytes().clone()));
    let topic = TopicProduceData::default().with_name(topic()).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![topic]);
    frame(&request, 7, correlation_id)
}

fn fetch(offset: i64, max_wait_ms: i32, correlation_id: i32) -> Bytes {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic]);
    frame(&request, 4, correlation_id)
}

fn fetched(mut body: Bytes) -> (i64, usize) {
    let response = FetchResponse::decode(&mut body, 4).unwrap();
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    (partition.high_watermark, partition.records.as_ref().map_or(0, Bytes::len))
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_and_a_waiting_fetch_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), ConnectionLimits::default()).await;
    let (mut one, mut other) = (Client::connect(&server).await, Client::connect(&server).await);
    one.send(&[create(1)]).await;
    assert_eq!(one.receive().await.0, 1);
    // The fetch waits for records that a later request of the same connection brings.
    one.send(&[fetch(0, 30_000, 2), frame(&ApiVersionsRequest::default(), 0, 3), produce("a", 4)]).await;
    other.send(&[frame(&ApiVersionsRequest::default(), 0, 9)]).await;
    assert_eq!(other.receive().await.0, 9);
    let (correlation_id, body) = one.receive().await;
    assert_eq!(correlation_id, 2);
    let (high_watermark, bytes) = fetched(body);
    assert!(high_watermark == 1 && bytes > 0);
    assert_eq!((one.receive().await.0, one.receive().await.0), (3, 4));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_in_the_order_of_pipelined_requests_and_found_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), ConnectionLimits::default()).await;
    let mut client = Client::connect(&server).await;
    client.send(&[create(0)]).await;
    client.receive().await;
    let frames: Vec<_> = (0..20).map(|number| produce(&format!("value {number}"), number)).collect();
    client.send(&frames).await;
    for number in 0..20 {
        let (correlation_id, mut body) = client.receive().await;
        let response = ProduceResponse::decode(&mut body, 7).unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((correlation_id, partition.error_code, partition.base_offset), (number, 0, i64::from(number)));
    }
    drop(client);
    server.shutdown().await;

    let server = start(directory.path(), ConnectionLimits::default()).await;
    assert_eq!(server.broker().recovery().replayed_blocks, 0);
    let mut client = Client::connect(&server).await;
    client.send(&[fetch(0, 0, 1), fetch(19, 0, 2)]).await;
    let (all, last) = (fetched(client.receive().await.1), fetched(client.receive().await.1));
    assert_eq!((all.0, last.0), (20, 20));
    assert!(all.1 > last.1 && last.1 > 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_frames_end_their_own_connection_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let limits = ConnectionLimits { frame_bytes: 1 << 16, ..ConnectionLimits::default() };
    let server = start(directory.path(), limits).await;
    let mut steady = Client::connect(&server).await;
    let damaged: [&[u8]; 4] = [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x0a\x03\xe7\0\0\0\0\0\x01\xff\xff",
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    ];
    for bytes in damaged {
        let mut client = Client::connect(&server).await;
        client.stream.write_all(bytes).await.unwrap();
        assert!(client.is_closed().await, "{bytes:?}");
    }
    steady.send(&[frame(&ApiVersionsRequest::default(), 0, 5)]).await;
    assert_eq!(steady.receive().await.0, 5);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_refused_until_one_ends() {
    let directory = tempfile::tempdir().unwrap();
    let limits = ConnectionLimits { connections_per_address: 1, ..ConnectionLimits::default() };
    let server = start(directory.path(), limits).await;
    let mut first = Client::connect(&server).await;
    first.send(&[frame(&ApiVersionsRequest::default(), 0, 1)]).await;
    assert_eq!(first.receive().await.0, 1);
    assert!(Client::connect(&server).await.is_closed().await);
    drop(first);
    for _ in 0..200 {
        let mut next = Client::connect(&server).await;
        if next.stream.write_all(&frame(&ApiVersionsRequest::default(), 0, 2)).await.is_ok()
            && next.stream.read_u32().await.is_ok()
        {
            return server.shutdown().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of a connection that ended was not given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closed_its_half_gets_the_answers_to_what_it_sent() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), ConnectionLimits::default()).await;
    let mut client = Client::connect(&server).await;
    client.send(&[create(1)]).await;
    client.receive().await;
    let half_a_frame = frame(&ApiVersionsRequest::default(), 0, 4).slice(..9);
    client.send(&[fetch(0, 300, 2), frame(&ApiVersionsRequest::default(), 0, 3), half_a_frame]).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!((client.receive().await.0, client.receive().await.0), (2, 3));
    assert!(client.is_closed().await);
    // It may be gone as a whole: its place is not kept for as long as it wanted to wait.
    let mut client = Client::connect(&server).await;
    client.send(&[fetch(0, VERY_LONG_MS, 5)]).await;
    client.stream.shutdown().await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.receive()).await;
    assert_eq!(answer.expect("a fetch waits for records that nobody may be there to take").0, 5);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_requests_that_do_not_come_hold_up_nobody_and_no_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let frame_bytes = 4 << 20;
    let limits = ConnectionLimits { frame_bytes, total_frame_bytes: frame_bytes, ..ConnectionLimits::default() };
    let server = start(directory.path(), limits).await;
    let mut announcing = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&server).await;
        client.stream.write_all(&u32::try_from(frame_bytes).unwrap().to_be_bytes()).await.unwrap();
        client.stream.write_all(b"\0\x03").await.unwrap();
        announcing.push(client);
    }
    let mut steady = Client::connect(&server).await;
    for number in 0..20 {
        steady.send(&[frame(&ApiVersionsRequest::default(), 0, number)]).await;
        let answer = tokio::time::timeout(PATIENCE / 4, steady.receive()).await;
        assert_eq!(answer.expect("a request waits for others that do not come").0, number);
    }
    tokio::time::timeout(PATIENCE, server.shutdown()).await.expect("the shutdown waits for half a request");
}

/// A client that takes all of the memory for requests by what it sends, and the time in which another one is answered.
async fn answered_beside(limits: ConnectionLimits, frames: &[Bytes]) -> Result<(), tokio::time::error::Elapsed> {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), limits).await;
    let (mut greedy, mut steady) = (Client::connect(&server).await, Client::connect(&server).await);
    greedy.send(&[create(1)]).await;
    greedy.receive().await;
    let used = server.broker().metrics().memory.used_bytes.of(crate::telemetry::MemoryShare::Frames).clone();
    let frames = frames.concat();
    let greedy = tokio::spawn(async move {
        // It may be cut off meanwhile.
        let _ = greedy.stream.write_all(&frames).await;
        greedy
    });
    let is_taken = async {
        while usize::try_from(used.get()).unwrap() < limits.total_frame_bytes / 8 * 7 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_taken).await.expect("what was sent is not counted");
    steady.send(&[frame(&ApiVersionsRequest::default(), 0, 9)]).await;
    let answer = tokio::time::timeout(PATIENCE, steady.receive()).await.map(|(number, _)| assert_eq!(number, 9));
    greedy.abort();
    drop(greedy.await);
    server.shutdown().await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_does_not_wait_where_others_miss_what_its_connection_holds() {
    let partitions = vec![FetchPartition::default().with_partition_max_bytes(1); 20_000];
    let wide = FetchRequest::default().with_topics(vec![FetchTopic::default().with_partitions(partitions)]);
    let limits = ConnectionLimits { total_frame_bytes: 4 << 20, ..ConnectionLimits::default() };
    let answered = answered_beside(limits, &[fetch(0, VERY_LONG_MS, 2), frame(&wide, 4, 3)]).await;
    answered.expect("others wait for the memory of requests behind one that waits for records");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_nobody_takes_are_counted_and_not_waited_for_where_others_miss_them() {
    let partitions = vec![PartitionProduceData::default(); 20_000];
    let topic = TopicProduceData::default().with_name(topic()).with_partition_data(partitions);
    let refused = frame(&ProduceRequest::default().with_acks(2).with_topic_data(vec![topic]), 7, 2);
    let request_timeout = Duration::from_secs(6);
    let limits = ConnectionLimits { total_frame_bytes: 32 << 20, request_timeout, ..ConnectionLimits::default() };
    let answered = answered_beside(limits, &vec![refused; 30]).await;
    answered.expect("others wait for the memory of answers that nobody takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_within_a_request_is_not_waited_for_where_others_miss_its_memory() {
    let frame_bytes = 128 << 20;
    let request_timeout = Duration::from_secs(6);
    let limits =
        ConnectionLimits { frame_bytes, total_frame_bytes: 4 << 20, request_timeout, ..ConnectionLimits::default() };
    // Its length alone gives it more time than the other one has.
    let announced = Bytes::from(u32::try_from(frame_bytes).unwrap().to_be_bytes().to_vec());
    let answered = answered_beside(limits, &[announced, vec![0; 8 << 20].into()]).await;
    answered.expect("others wait for the memory of a request that does not go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_answers_has_few_of_them_made() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), ConnectionLimits::default()).await;
    let mut client = Client::connect(&server).await;
    client.send(&[create(0)]).await;
    client.receive().await;
    client.send(&[produce(&"x".repeat(900_000), 1)]).await;
    client.receive().await;
    // A fetch at a time, and as many large answers as make a megabyte, beside what the sockets take.
    let unknown = |number| MetadataRequestTopic::default().with_name(Some(TopicName(format!("{number:0200}").into())));
    let wide = MetadataRequest::default().with_topics(Some((0..2000).map(unknown).collect()));
    let (metadata, fetches) = (Client::connect(&server), Client::connect(&server));
    let (mut metadata, mut fetches) = (metadata.await, fetches.await);
    fetches.send(&(0..60).map(|number| fetch(0, 0, number)).collect::<Vec<_>>()).await;
    let wide = frame(&wide, 4, 1);
    let sending = tokio::spawn(async move {
        loop {
            metadata.send(std::slice::from_ref(&wide)).await;
        }
    });
    let metrics = server.broker().metrics();
    let requests = || metrics.api("Metadata").requests.get();
    let made = || metrics.fetch.batches.get();
    let mut before = (0, 0);
    // Until nothing goes on any more.
    while std::mem::replace(&mut before, (requests(), made())) != (requests(), made()) || requests() < 10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(made() < 30, "{} fetches were answered to a client that reads nothing", made());
    let waiting = metrics.server.requests_in_flight.get();
    assert!(waiting < 70, "{waiting} answers wait for clients that read nothing");
    sending.abort();
    drop(fetches);
    server.shutdown().await;
}

/// Requests that give the topic a cleanup policy: the topic's own creation, and its change in both ways.
fn with_policy(policy: &'static str) -> [Bytes; 3] {
    let (name, value) = (StrBytes::from_static_str("cleanup.policy"), StrBytes::from_static_str(policy));
    let config = CreatableTopicConfig::default().with_name(name.clone()).with_value(Some(value.clone()));
    let new = CreatableTopic::default().with_name(topic()).with_num_partitions(1).with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![new.with_configs(vec![config])]);

    let config = alter_configs_request::AlterableConfig::default().with_name(name.clone());
    let resource = alter_configs_request::AlterConfigsResource::default().with_resource_type(2);
    let resource = resource.with_resource_name(topic().0).with_configs(vec![config.with_value(Some(value.clone()))]);
    let replace = AlterConfigsRequest::default().with_resources(vec![resource]);

    let config = incremental_alter_configs_request::AlterableConfig::default().with_name(name);
    let resource = incremental_alter_configs_request::AlterConfigsResource::default().with_resource_type(2);
    let resource = resource.with_resource_name(topic().0).with_configs(vec![config.with_value(Some(value))]);
    let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    [frame(&create, 2, 1), frame(&replace, 1, 2), frame(&alter, 0, 3)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_compacts_is_refused_in_words_and_the_others_are_taken() {
    for (policy, is_taken) in
        [("delete", true), ("", true), ("compact", false), ("compact,delete", false), ("delete,compact", false)]
    {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path(), ConnectionLimits::default()).await;
        let mut client = Client::connect(&server).await;
        let own =
            || server.broker().image().topic_named(TOPIC).map(|one| one.configs.values.get("cleanup.policy").cloned());
        let set = is_taken.then(|| Some(policy.to_owned()));
        let [made, replaced, altered] = with_policy(policy);
        let refusal = format!(
            "Invalid value {policy} for configuration cleanup.policy: compaction is not supported yet; use 'delete', \
             or leave the list empty to keep all records"
        );
        let expected = if is_taken { (0, None) } else { (40, Some(StrBytes::from_string(refusal))) };

        client.send(&[made]).await;
        let answer = CreateTopicsResponse::decode(&mut client.receive().await.1, 2).unwrap().topics.remove(0);
        assert_eq!((answer.error_code, answer.error_message), expected, "{policy}");
        assert_eq!(own(), set, "{policy}");
        if !is_taken {
            client.send(&[create(0)]).await;
            client.receive().await;
        }
        client.send(&[replaced]).await;
        let answer = AlterConfigsResponse::decode(&mut client.receive().await.1, 1).unwrap().responses.remove(0);
        assert_eq!((answer.error_code, answer.error_message), expected, "{policy}");
        client.send(&[altered]).await;
        let answer = IncrementalAlterConfigsResponse::decode(&mut client.receive().await.1, 0).unwrap();
        let answer = answer.responses.into_iter().next().unwrap();
        assert_eq!((answer.error_code, answer.error_message), expected, "{policy}");
        assert_eq!(own(), Some(set.flatten()), "{policy}");
        server.shutdown().await;
    }
}

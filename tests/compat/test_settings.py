"""What settings of the whole broker change for its clients; each case has a broker of its own."""

import time

import pytest

from harness import batch, schema, topics
from harness.broker import Alluvium, free_ports, run
from harness.wire import Connection

MEBIBYTE = 1 << 20
UNKNOWN_TOPIC = 3


@pytest.fixture
def serve(tmp_path):
    """Starts the one broker of a case with settings of its own, and ends it."""
    started = []

    def start(*settings, arguments=()):
        sets = [part for one in settings for part in ("--set", one)]
        started.append(Alluvium(tmp_path / "broker", *sets, *arguments))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


def produce(broker, topic, count=1, producer=None, value_bytes=100):
    """Produces so many batches of one record, one after another, by an idempotent producer if it is given one."""
    with Connection(broker.bootstrap, 30) as connection:
        for sequence in range(count):
            record = batch.Record(sequence.to_bytes(8) + bytes(value_bytes))
            data = batch.build([record], "none", (*producer, sequence)) if producer else batch.build([record])
            entry = {"Name": topic, "PartitionData": [{"Index": 0, "Records": data}]}
            asked = {"Acks": -1, "TimeoutMs": 10_000, "TopicData": [entry]}
            answer = connection.ask("Produce", 9, asked)["Responses"][0]["PartitionResponses"][0]
            assert answer["ErrorCode"] == 0, answer


def numbers(broker, topic):
    return [int.from_bytes(record.value[:8]) for record in topics.records(broker.bootstrap, topic)]


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_topics_are_created_automatically_only_if_that_is_on(serve, is_on):
    broker = serve(f"topics.auto_create={str(is_on).lower()}")
    asked = {"Topics": [{"TopicId": schema.ZERO_ID, "Name": "typing-mistake"}], "AllowAutoTopicCreation": True}
    with Connection(broker.bootstrap) as connection:
        answers = [connection.ask("Metadata", 12, asked)["Topics"][0]["ErrorCode"]]
        while is_on and answers[-1]:
            time.sleep(0.05)
            answers.append(connection.ask("Metadata", 12, asked)["Topics"][0]["ErrorCode"])
        every = connection.ask("Metadata", 12, {"Topics": None, "AllowAutoTopicCreation": True})["Topics"]
    assert set(answers) <= ({0} | topics.NOT_YET if is_on else {UNKNOWN_TOPIC}), answers
    assert [one["Name"] for one in every] == (["typing-mistake"] if is_on else [])


def test_each_listener_tells_its_own_advertised_address(serve, tmp_path):
    port = free_ports(2)
    inside, outside = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
    config = tmp_path / "alluvium.toml"
    config.write_text(f"""
        [listeners.kafka]
        inside = {{ address = "{inside}" }}
        outside = {{ address = "{outside}", advertised = "broker.example.org:19092" }}
    """)
    broker = serve(arguments=["--config", config])
    told = {}
    for address in (broker.bootstrap, inside, outside):
        with Connection(address) as connection:
            (one,) = connection.ask("Metadata", 12, {"Topics": [], "AllowAutoTopicCreation": False})["Brokers"]
            (same,) = connection.ask("DescribeCluster", 1, {"EndpointType": 1})["Brokers"]
        told[address] = f"{one['Host']}:{one['Port']}"
        assert told[address] == f"{same['Host']}:{same['Port']}"
    assert told == {broker.bootstrap: broker.bootstrap, inside: inside, outside: "broker.example.org:19092"}


def test_local_segments_stay_within_their_most_and_the_archive_has_the_rest(serve, eventually):
    broker = serve("data.local_max=4MiB", "data.checkpoint_interval=1s", "data.retention_interval=1s")
    kept = {"segment.bytes": MEBIBYTE, "local.retention.ms": -1, "local.retention.bytes": -1}
    topics.create(broker.bootstrap, "kept", 1, kept)
    produce(broker, "kept", 200, value_bytes=100_000)
    local_start = lambda: topics.offset(broker.bootstrap, "kept", 0, topics.EARLIEST_LOCAL)
    # Twenty segments, of which four and the active one may stay.
    eventually(lambda: local_start() >= 140)
    assert local_start() <= 170
    assert numbers(broker, "kept") == list(range(200))


def test_nothing_local_goes_for_an_archive_in_memory_which_begins_anew_with_the_process(serve):
    broker = serve("data.checkpoint_interval=1s", "data.retention_interval=1s", arguments=["--object-store", "memory:///"])
    topics.create(broker.bootstrap, "kept", 1, {"segment.bytes": MEBIBYTE, "local.retention.bytes": 1})
    produce(broker, "kept", 50, value_bytes=100_000)
    run("archive", "flush", "kept", "--wait", "--bootstrap", broker.bootstrap)
    assert topics.offset(broker.bootstrap, "kept", 0, topics.LATEST_TIERED) == 49
    time.sleep(3)
    assert topics.offset(broker.bootstrap, "kept", 0, topics.EARLIEST_LOCAL) == 0
    for stop in (broker.kill, broker.stop):
        stop()
        broker.start()
        assert numbers(broker, "kept") == list(range(50))
        run("archive", "flush", "kept", "--wait", "--bootstrap", broker.bootstrap)
        assert topics.offset(broker.bootstrap, "kept", 0, topics.LATEST_TIERED) == 49


def test_silent_producers_are_forgotten(serve, eventually):
    broker = serve("producers.id_expiration=2s")
    topics.create(broker.bootstrap, "silent")
    with Connection(broker.bootstrap) as connection:
        identity = connection.ask("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 1000})
        produce(broker, "silent", 3, (identity["ProducerId"], identity["ProducerEpoch"]))
        asked = {"Topics": [{"Name": "silent", "PartitionIndexes": [0]}]}
        known = lambda: connection.ask("DescribeProducers", 0, asked)["Topics"][0]["Partitions"][0]["ActiveProducers"]
        assert [one["LastSequence"] for one in known()] == [2]
        eventually(lambda: not known())

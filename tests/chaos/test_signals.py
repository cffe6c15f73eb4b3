"""A broker that is told to stop while a client does not take its answers, or its store hangs: it waits so long and no longer.

    tests/tools pytest tests/chaos/test_signals.py
"""

import os
import signal
import socket
import time

import pytest

from harness import batch, topics
from harness.broker import Alluvium
from harness.wire import Connection

RECORDS, RECORD_BYTES = 40, 500_000


@pytest.fixture
def broker(tmp_path):
    started = Alluvium(tmp_path / "broker", "--set", "network.drain_timeout=5s")
    topics.create(started.bootstrap, "large")
    with Connection(started.bootstrap) as connection:
        for _ in range(RECORDS):
            entry = {"Name": "large", "PartitionData": [{"Index": 0, "Records": batch.build([batch.Record(bytes(RECORD_BYTES))])}]}
            answer = connection.ask("Produce", 9, {"Acks": -1, "TimeoutMs": 10_000, "TopicData": [entry]})
            assert answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0
    yield started
    started.kill()


@pytest.fixture
def idler(broker):
    """A client with an answer under way that it does not take: more than both kernels' buffers hold."""
    connection = Connection(broker.bootstrap)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wanted = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": RECORDS * RECORD_BYTES}
    body = {"MaxWaitMs": 500, "MinBytes": 0, "MaxBytes": RECORDS * RECORD_BYTES, "IsolationLevel": 0}
    connection.send("Fetch", 12, body | {"Topics": [{"Topic": "large", "Partitions": [wanted]}]})
    time.sleep(1)
    yield connection
    connection.close()


def tell(broker):
    broker.process.send_signal(signal.SIGTERM)


def everything_is_there_again(broker):
    broker.start()
    assert len(topics.records(broker.bootstrap, "large")) == RECORDS
    broker.stop()


def test_one_signal_ends_it_with_status_0_once_it_has_waited(broker, idler):
    began = time.monotonic()
    tell(broker)
    assert broker.process.wait(timeout=20) == 0
    assert time.monotonic() - began > 4, "it did not wait for the client"
    everything_is_there_again(broker)


def test_a_second_signal_ends_it_at_once(broker, idler):
    tell(broker)
    time.sleep(1)
    assert broker.process.poll() is None, "it did not wait for the client"
    tell(broker)
    assert broker.process.wait(timeout=2) == 1
    assert "second signal" in broker.log.read_text()
    everything_is_there_again(broker)


def test_a_store_that_hangs_is_not_waited_for(tmp_path):
    broker = Alluvium(tmp_path / "broker", "--set", "archive.cache=0B", "--set", "network.drain_timeout=1s")
    try:
        topics.create(broker.bootstrap, "old", configs={"local.retention.ms": "1", "local.retention.bytes": "1", "segment.ms": "500"})
        with Connection(broker.bootstrap) as connection:
            entry = {"Name": "old", "PartitionData": [{"Index": 0, "Records": batch.build([batch.Record(b"value")])}]}
            connection.ask("Produce", 9, {"Acks": -1, "TimeoutMs": 10_000, "TopicData": [entry]})
        while topics.offset(broker.bootstrap, "old", 0, -4) == 0:
            time.sleep(0.2)
        # Whoever opens a pipe without a writer waits for one.
        (store,) = (tmp_path / "broker").rglob("object-store")
        (segment,) = store.rglob("*.parquet")
        segment.unlink()
        os.mkfifo(segment)
        with Connection(broker.bootstrap) as connection:
            wanted = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
            body = {"MaxWaitMs": 500, "MinBytes": 1, "MaxBytes": 1000, "IsolationLevel": 0}
            connection.send("Fetch", 12, body | {"Topics": [{"Topic": "old", "Partitions": [wanted]}]})
            time.sleep(1)
            tell(broker)
            assert broker.process.wait(timeout=20) == 0
    finally:
        broker.kill()


def join(connection, group, member="", metadata=b""):
    protocols = [{"Name": "range", "Metadata": metadata}]
    body = {"GroupId": group, "SessionTimeoutMs": 60_000, "RebalanceTimeoutMs": 120_000, "MemberId": member}
    connection.send("JoinGroup", 4, body | {"ProtocolType": "consumer", "Protocols": protocols})


def joined(connection, group):
    """A member of the group; a first join is told the name to join by."""
    join(connection, group)
    member = connection.receive()["MemberId"]
    join(connection, group, member)
    return member


def test_who_waits_for_something_to_happen_is_answered_and_not_waited_for(tmp_path):
    broker = Alluvium(tmp_path / "broker", "--set", "network.drain_timeout=5m", "--set", "groups.initial_rebalance_delay=0ms")
    topics.create(broker.bootstrap, "quiet")
    try:
        with Connection(broker.bootstrap, 60) as poller, Connection(broker.bootstrap, 60) as first, Connection(broker.bootstrap, 60) as second:
            for _ in range(100):
                joined(first, "group")
                if first.receive()["ErrorCode"] == 0:
                    break
                time.sleep(0.2)
            joined(second, "group")  # waits for the first one to join again
            wanted = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
            body = {"MaxWaitMs": 300_000, "MinBytes": 1, "MaxBytes": 1000, "IsolationLevel": 0}
            poller.send("Fetch", 12, body | {"Topics": [{"Topic": "quiet", "Partitions": [wanted]}]})
            time.sleep(1)
            tell(broker)
            assert poller.receive()["ErrorCode"] == 0
            assert second.receive()["ErrorCode"] == 16, "not told to find another coordinator"
        assert broker.process.wait(timeout=60) == 0
    finally:
        broker.kill()

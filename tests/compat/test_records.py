"""What one client writes, every client reads back the same: in each codec, with every odd record."""

import time
from dataclasses import replace

import pytest

from compat.clients import ALL
from compat.clients.base import Refused
from harness import batch
from harness.batch import CODECS, Record
from harness.odd_records import BINARY, EVENT_TIME, TEXT
from harness.wire import Connection


def records_for(writer):
    """The odd records that a client can express."""
    if not writer.binary:
        return TEXT
    if writer.sets_null_headers:
        return TEXT + BINARY
    return TEXT + [replace(one, headers=[pair for pair in one.headers if pair[1] is not None]) for one in BINARY]


def shape(record, times):
    return record.key, record.value, list(record.headers), record.timestamp if times else None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("writer", ALL, ids=lambda client: client.name)
def test_records_come_back_as_they_were_written(clients, writer, codec, new_topic):
    topic, before = new_topic(), int(time.time() * 1000) - 1000
    sent = records_for(writer)
    clients(writer).produce(topic, sent, codec)
    stored = read_raw(clients.bootstrap, topic)
    # Some leave a record as it is when compressing makes it no smaller; the long one always gets smaller.
    assert codec in {CODECS[found.attributes & 7] for found in stored} <= {codec, "none"}
    for reader in ALL:
        readable = sent if reader.binary else TEXT
        found = clients(reader).consume(topic, 0, 0, len(readable))
        assert [record.offset for record in found] == list(range(len(readable)))
        expected = [shape(record, writer.sets_times) for record in readable]
        assert [shape(record, writer.sets_times) for record in found] == expected, reader.name
        if not writer.sets_times:
            assert all(before <= record.timestamp <= time.time() * 1000 + 1000 for record in found)


@pytest.mark.parametrize("writer", ALL, ids=lambda client: client.name)
def test_topics_are_created_when_first_written_to(clients, writer, fresh_name):
    topic = fresh_name("auto")
    try:
        clients(writer).produce(topic, TEXT[:1])
    except Refused as refused:
        # A client that gives up while the topic is being made has still had it made.
        assert "UNKNOWN_TOPIC" in str(refused).upper().replace(" ", "_"), refused
        clients(writer).produce(topic, TEXT[:1])
    assert read_raw(clients.bootstrap, topic)[0].records[0].value == b"plain"


@pytest.mark.parametrize("writer", [client for client in ALL if client.binary], ids=lambda client: client.name)
def test_big_messages_pass_up_to_the_limit_and_no_further(clients, writer, new_topic):
    topic = new_topic()
    fits, too_big = Record(b"\x01" * 1_000_000, b"k"), Record(b"\x01" * 1_100_000, b"k")
    clients(writer).produce(topic, [fits])
    with pytest.raises(Refused):
        clients(writer).produce(topic, [too_big])
    assert clients(writer).consume(topic, 0, 0, 1)[0].value == fits.value


@pytest.mark.parametrize("reader", [client for client in ALL if hasattr(client, "list_offset")], ids=lambda c: c.name)
def test_offsets_are_found_by_time(clients, reader, new_topic):
    topic = new_topic()
    clients(ALL[1]).produce(topic, [Record(b"v", b"k", [], EVENT_TIME + 1000 * n) for n in range(10)])
    asked = {-2: 0, -1: 10, EVENT_TIME: 0, EVENT_TIME + 1: 1, EVENT_TIME + 4500: 5, EVENT_TIME + 9000: 9}
    for timestamp, offset in asked.items():
        assert clients(reader).list_offset(topic, 0, timestamp) == offset, timestamp
    try:
        assert clients(reader).list_offset(topic, 0, -3) == 9
    except NotImplementedError:
        pass


def read_raw(bootstrap, topic):
    """The batches of partition 0 as they are stored."""
    with Connection(bootstrap) as connection:
        wanted = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 24}
        body = {"MaxWaitMs": 1000, "MinBytes": 1, "MaxBytes": 1 << 24}
        body["Topics"] = [{"Topic": topic, "Partitions": [wanted]}]
        return batch.parse(connection.ask("Fetch", 12, body)["Responses"][0]["Partitions"][0]["Records"])

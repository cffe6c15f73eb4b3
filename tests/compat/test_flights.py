"""Real data through every client: all flights, in order per carrier, with their times, read back identical by another."""

import hashlib
from collections import defaultdict

import pytest

from compat.clients import ALL, Franz, Java, LibRdKafka
from compat.clients.base import line, lines_of
from harness import flights
from harness.batch import CODECS

WRITERS = [client for client in ALL if hasattr(client, "produce_file")]
PARTITIONS = 6


def pairs(full):
    """Every writer with every codec, or each writer with one so that each codec is used."""
    chosen = [(writer, codec) for writer in WRITERS for codec in CODECS]
    return chosen if full else [(writer, CODECS[index % len(CODECS)]) for index, writer in enumerate(WRITERS)]


def pytest_generate_tests(metafunc):
    chosen = pairs(metafunc.config.getoption("--full"))
    names = [f"{writer.name}-{codec}" for writer, codec in chosen]
    metafunc.parametrize(("writer", "codec"), chosen, ids=names)


@pytest.fixture(scope="module")
def source():
    """The source per carrier, with times and without, as digests."""
    timed, bare = defaultdict(hashlib.sha256), defaultdict(hashlib.sha256)
    for key, timestamp, value in lines_of(flights.file()):
        timed[key].update(b"%d\t%s\n" % (timestamp, value))
        bare[key].update(value + b"\n")
    return [{key: total.hexdigest() for key, total in side.items()} for side in (timed, bare)]


def test_all_flights_come_back_in_order(clients, writer, codec, source, new_topic):
    # The flights are of 2013: where history expires after a week, it would expire while it is read.
    topic = new_topic(PARTITIONS, retention_ms="-1")
    assert clients(writer).produce_file(topic, flights.file(), codec) == flights.COUNT
    ends = [clients(LibRdKafka).list_offset(topic, partition, -1) for partition in range(PARTITIONS)]
    assert sum(ends) == flights.COUNT
    found, digests = defaultdict(hashlib.sha256), []
    for partition, end in enumerate(ends):
        total = hashlib.sha256()
        for record in clients(LibRdKafka).consume(topic, partition, 0, end) if end else []:
            found[record.key].update((b"%d\t" % record.timestamp if writer.sets_times else b"") + record.value + b"\n")
            total.update(line(record))
        digests.append(total.hexdigest())
    assert {key: total.hexdigest() for key, total in found.items()} == source[0 if writer.sets_times else 1]
    for reader in (Java, Franz):
        for partition, end in enumerate(ends):
            if end:
                assert clients(reader).digest(topic, partition, 0, end) == digests[partition], reader.name

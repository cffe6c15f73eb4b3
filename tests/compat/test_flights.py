"""Real data through every client: all flights, in order per carrier, with their times, read back identical wherever they are.

A client writes the first of the flights in a codec and reads them back from the hot log, and again from the archive once
nothing of them is left on the disk. It writes the others on top and reads all of them across the seam, as other clients do.
At each stage offsets are found by time.

    tests/tools pytest tests/compat/test_flights.py            each client with one codec, so that each codec is used
    tests/tools pytest tests/compat/test_flights.py --full     each client with each codec, and half of the flights go first
"""

import hashlib
from collections import defaultdict

import pytest

from compat.clients import ALL, Franz, Java, LibRdKafka
from compat.clients.base import line, lines_of
from harness import flights, topics
from harness.batch import CODECS
from harness.broker import run

WRITERS = [client for client in ALL if hasattr(client, "produce_file")]
PARTITIONS = 3
# Small segments, so that there are several files, and the batches that the clients like. The flights are of 2013: by age all of
# them may go at any time.
CONFIGS = {"segment.bytes": 4 << 20, "max.message.bytes": 4 << 20}
CONFIGS |= {"retention.ms": -1, "local.retention.ms": -1, "local.retention.bytes": -1}
TIMES = 8  # that are looked up in each partition


def pairs(full):
    """Every writer with every codec, or each writer with one so that each codec is used."""
    chosen = [(writer, codec) for writer in WRITERS for codec in CODECS]
    return chosen if full else [(writer, CODECS[index % len(CODECS)]) for index, writer in enumerate(WRITERS)]


def pytest_generate_tests(metafunc):
    chosen = pairs(metafunc.config.getoption("--full"))
    names = [f"{writer.name}-{codec}" for writer, codec in chosen]
    metafunc.parametrize(("writer", "codec"), chosen, ids=names)


@pytest.fixture(scope="module")
def parts(full, tmp_path_factory):
    """The flights in two files, with how many are in each: those that go to the archive, which are read twice, and the others."""
    lines = flights.file().read_bytes().splitlines(keepends=True)
    middle = len(lines) // (2 if full else 4)
    found = []
    for name, part in ("first", lines[:middle]), ("others", lines[middle:]):
        path = tmp_path_factory.mktemp("flights") / name
        path.write_bytes(b"".join(part))
        found.append((path, len(part)))
    return found


@pytest.fixture(scope="module")
def source(parts):
    """What the topic has to hold after each part, per carrier, with times and without, as digests."""
    timed, bare, found = defaultdict(hashlib.sha256), defaultdict(hashlib.sha256), []
    for path, _ in parts:
        for key, timestamp, value in lines_of(path):
            timed[key].update(b"%d\t%s\n" % (timestamp, value))
            bare[key].update(value + b"\n")
        found.append({True: hexdigests(timed), False: hexdigests(bare)})
    return found


def test_all_flights_come_back_wherever_they_are(broker, clients, writer, codec, parts, source, fresh_name, eventually):
    topic = topics.create(broker.bootstrap, fresh_name("flights"), PARTITIONS, CONFIGS)
    client, expected = clients(writer), Expected(clients(LibRdKafka), topic, writer.sets_times)
    write(client, topic, parts[0], codec)
    expected.grow(source[0])
    assert all(local == 0 for local, _ in places(broker, topic))
    compare("hot", client, expected, broker)
    if broker.kind == "alluvium":
        run("archive", "flush", topic, "--wait", "--bootstrap", broker.bootstrap)
        clients(LibRdKafka).alter_config(topic, {"local.retention.ms": "1", "local.retention.bytes": "1"})
        eventually(lambda: all(local == end for local, end in places(broker, topic)))
        compare("archived", client, expected, broker)
    write(client, topic, parts[1], codec)
    expected.grow(source[1])
    at_the_seam = lambda: all(0 < local < end for local, end in places(broker, topic))
    assert at_the_seam() or broker.kind != "alluvium"
    compare("seam", client, expected, broker)
    for reader in {Java, Franz} - {writer}:
        for partition, total in enumerate(expected.totals):
            found = clients(reader).digest(topic, partition, 0, expected.ends[partition])
            assert found == total.hexdigest(), f"{reader.name} reads something else"
    assert at_the_seam() or broker.kind != "alluvium"


def write(client, topic, part, codec):
    path, count = part
    assert client.produce_file(topic, path, codec) == count


def places(broker, topic):
    """Of each partition: where the disk begins, and where the log ends."""
    asked = topics.EARLIEST_LOCAL, topics.LATEST
    return [[topics.offset(broker.bootstrap, topic, each, at) for at in asked] for each in range(PARTITIONS)]


def compare(stage, client, expected, broker):
    """Has a client read everything, and looks up times."""
    topic = expected.topic
    for partition, total in enumerate(expected.totals):
        found = client.digest(topic, partition, 0, expected.ends[partition])
        assert found == total.hexdigest(), f"{stage}: {client.name} reads something else from partition {partition}"
        times = expected.times[partition]
        some = times[:: len(times) // TIMES]
        for time in [0, *some, *(one + 1 for one in some), max(times) + 1]:
            found = topics.offset(broker.bootstrap, topic, partition, time)
            assert found == first_at(times, time), f"{stage}: at {time} in partition {partition}"
        latest = topics.offset(broker.bootstrap, topic, partition, topics.MAX_TIMESTAMP)
        assert times[latest] == max(times), f"{stage}: {latest} is not the latest in partition {partition}"
        if hasattr(client, "list_offset"):
            for time in (times[len(times) // 3], times[-1]):
                found = client.list_offset(topic, partition, time)
                assert found == first_at(times, time), f"{stage}: {client.name} at {time} in partition {partition}"


def first_at(times, time):
    """The first offset whose time is not before this one."""
    return next((offset for offset, other in enumerate(times) if other >= time), -1)


class Expected:
    """What a topic holds, as one client reads it: checked against the source, and then what others are held against."""

    def __init__(self, client, topic, is_timed):
        self.client, self.topic, self.is_timed = client, topic, is_timed
        self.carriers = defaultdict(hashlib.sha256)
        self.ends = [0] * PARTITIONS
        self.totals = [hashlib.sha256() for _ in range(PARTITIONS)]
        self.times = [[] for _ in range(PARTITIONS)]

    def grow(self, source):
        """Reads what has come, after which everything has to be as the source."""
        for partition, start in enumerate(self.ends):
            end = self.client.list_offset(self.topic, partition, -1)
            assert end > start, f"nothing was written to partition {partition}"
            for record in self.client.consume(self.topic, partition, start, end - start):
                time = b"%d\t" % record.timestamp if self.is_timed else b""
                self.carriers[record.key].update(time + record.value + b"\n")
                self.totals[partition].update(line(record))
                self.times[partition].append(record.timestamp)
            self.ends[partition] = end
        assert hexdigests(self.carriers) == source[self.is_timed]


def hexdigests(totals):
    return {key: total.hexdigest() for key, total in totals.items()}

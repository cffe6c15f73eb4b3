"""All flights of 2013: read back equal hot, archived and across the seam, found by their time, and a table to everyone."""

import csv
import hashlib
from collections import defaultdict
from types import SimpleNamespace

import confluent_kafka
import pyarrow.parquet
import pytest

from archive.conftest import archive, flags, flush
from archive.readers import READERS, mean
from compat.clients import LibRdKafka
from compat.clients.base import lines_of
from harness import flights, s3, topics
from harness.broker import Alluvium
from harness.patience import wait_until

PARTITIONS = 3
# Small segments, so that there are many files; the flights are of 2013, so by age all of them may go at any time.
CONFIGS = {"segment.bytes": 2 << 20, "local.retention.ms": -1, "local.retention.bytes": -1}
STAGES = ["hot", "seam", "archived"]
TIMES = 8  # that are looked up in each partition


@pytest.fixture(scope="module")
def source():
    """Each partition's records as they are to be: carriers are dealt out by their place in the alphabet."""
    rows = list(lines_of(flights.file()))
    carriers = sorted({carrier for carrier, _, _ in rows})
    dealt = [[] for _ in range(PARTITIONS)]
    for row in rows:
        dealt[carriers.index(row[0]) % PARTITIONS].append(row)
    return dealt


@pytest.fixture(scope="module", params=["file", "s3"])
def flown(request, tmp_path_factory, source):
    """The flights in a topic, and what a consumer found at each stage of their way into the archive."""
    directory = tmp_path_factory.mktemp("flights")
    store = s3.FileStore(directory / "store")
    if request.param == "s3":
        store = s3.S3Store(request.getfixturevalue("seaweedfs").port, "flights")
    broker = Alluvium(directory / "broker", *flags(store), environment=store.environment)
    topics.create(broker.bootstrap, "flights", PARTITIONS, CONFIGS)
    produce(broker, source)
    client, found = LibRdKafka(broker.bootstrap), {}
    found["hot"] = observe(broker, client, source)
    client.alter_config("flights", {"local.retention.ms": "1", "local.retention.bytes": "1"})
    wait_until(lambda: all(place[0] == place[1] > 0 for place in tiers(broker)))
    found["seam"] = observe(broker, client, source)
    flush(broker, "flights")
    wait_until(lambda: all(place[0] == place[2] for place in tiers(broker)))
    found["archived"] = observe(broker, client, source)
    yield SimpleNamespace(store=store, found=found)
    broker.stop()


def produce(broker, source):
    """Every flight with its own time, by an idempotent producer."""
    settings = {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 20}
    producer, errors = confluent_kafka.Producer(settings), []
    delivered = lambda error, _: errors.append(error) if error else None
    for partition, rows in enumerate(source):
        for key, timestamp, value in rows:
            while True:
                try:
                    producer.produce("flights", value, key, partition, timestamp=timestamp, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
    assert producer.flush(60) == 0 and not errors, errors[:1]


def tiers(broker):
    """Of each partition: where the disk begins, where the archive ends, where the log ends."""
    asked = topics.EARLIEST_LOCAL, topics.EARLIEST_PENDING_UPLOAD, topics.LATEST
    return [[topics.offset(broker.bootstrap, "flights", each, at) for at in asked] for each in range(PARTITIONS)]


def observe(broker, client, source):
    """What a consumer finds now: where everything is, a digest of each partition, offsets by time."""
    seen = SimpleNamespace(tiers=tiers(broker), digests=[], by_time=[])
    for partition, rows in enumerate(source):
        seen.digests.append(client.digest("flights", partition, 0, len(rows)))
        looked_up = {time: topics.offset(broker.bootstrap, "flights", partition, time) for time in times_of(rows)}
        seen.by_time.append(looked_up | {-3: topics.offset(broker.bootstrap, "flights", partition, topics.MAX_TIMESTAMP)})
    return seen


def times_of(rows):
    """Times to look up: before all, of some records, between some, and after all."""
    some = rows[:: len(rows) // TIMES]
    return [0, *(time for _, time, _ in some), *(time + 1 for _, time, _ in some), max(time for _, time, _ in rows) + 1]


@pytest.mark.parametrize("stage", STAGES)
def test_every_flight_comes_back(flown, source, stage):
    found = flown.found[stage]
    for partition, rows in enumerate(source):
        local_start, archived_to, end = found.tiers[partition]
        assert end == len(rows)
        where = {"hot": local_start == 0, "seam": 0 < local_start <= archived_to < end, "archived": local_start == end}
        assert where[stage], found.tiers
        total = hashlib.sha256()
        for key, time, value in rows:
            total.update(b"%s\t%d\t%s\n" % (key, time, value))
        assert found.digests[partition] == total.hexdigest()


@pytest.mark.parametrize("stage", STAGES)
def test_flights_are_found_by_their_time(flown, source, stage):
    for partition, rows in enumerate(source):
        found = flown.found[stage].by_time[partition]
        times = [time for _, time, _ in rows]
        for time in times_of(rows):
            expected = next((offset for offset, other in enumerate(times) if other >= time), -1)
            assert found[time] == expected, time
        assert times[found[-3]] == max(times)


@pytest.fixture(scope="module")
def files(flown):
    """The Parquet files that the archive lists, oldest first, by partition; there are no others in the bucket."""
    listed = defaultdict(list)
    for segment in archive(flown.store, "describe", "flights"):
        listed[segment["partition"]] += [key for key in segment["objects"] if key.endswith(".parquet")]
    assert sorted(sum(listed.values(), [])) == s3.keys(flown.store, ".parquet")
    assert all(len(keys) > 1 for keys in listed.values()), "the files are to be several"
    return listed


@pytest.fixture(scope="module")
def delays():
    """The arrival delays of each carrier, by the source."""
    found = defaultdict(list)
    with flights.table() as rows:
        for row in csv.DictReader(rows):
            found[row["carrier"]].append(None if row["arr_delay"] in ("", "NA") else float(row["arr_delay"]))
    return found


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_mean_delay_of_each_carrier_is_that_of_the_source(flown, files, delays, reader):
    found = reader.mean_delays(flown.store, sum(files.values(), []))
    assert {carrier: count for carrier, (_, count) in found.items()} == {key: len(all_) for key, all_ in delays.items()}
    assert {carrier: delay for carrier, (delay, _) in found.items()} == pytest.approx(
        {carrier: mean(values) for carrier, values in delays.items()}
    )


def test_statistics_tell_what_is_in_a_file(flown, files, source):
    """By them readers skip what they don't need: row groups are in order, their bounds exact, and pages have an index."""
    for partition, keys in files.items():
        expected = 0
        for key in keys:
            metadata = pyarrow.parquet.read_metadata(key, filesystem=flown.store.files)
            names = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
            for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
                column = {name: group.column(names.index(name)) for name in ("kafka_offset", "kafka_timestamp", "key")}
                rows = source[partition][expected : expected + group.num_rows]
                offsets, times = column["kafka_offset"].statistics, column["kafka_timestamp"].statistics
                assert (offsets.min, offsets.max) == (expected, expected + group.num_rows - 1)
                known = [round(bound.timestamp() * 1000) for bound in (times.min, times.max)]
                assert known == [bound(time for _, time, _ in rows) for bound in (min, max)]
                assert [column[name].statistics.null_count for name in column] == [0, 0, 0]
                indexed = column["kafka_offset"], column["kafka_timestamp"]
                assert all(one.has_offset_index and one.has_column_index for one in indexed)
                expected += group.num_rows
        assert expected == len(source[partition])

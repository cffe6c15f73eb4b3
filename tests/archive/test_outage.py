"""The bucket fails in every way while producers, tail consumers and readers of history run.

Each fault is on for some seconds, and again after as many without it: the machine is shared with others, so that only what was
measured side by side compares. Who writes and who reads the tail does not notice; who reads history waits or gets errors and
then goes on; nothing that is not archived leaves the disk; afterwards all of it is archived, in order, once.

    tests/tools pytest tests/archive/test_outage.py              some seconds of each fault
    ALLUVIUM_FAULT_SECONDS=120 tests/tools pytest tests/archive/test_outage.py
"""

import json
import os
import statistics
import threading
import time
from types import SimpleNamespace

import confluent_kafka
import pytest

from archive.conftest import archive, flags, flush
from chaos import ledger, power
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import Alluvium
from harness.faulty_proxy import FAULTS, FaultyProxy
from harness.patience import wait_until
from harness.steady_load import SteadyLoad, numbers, percentile
from harness.wire import Connection

FAULT_S = float(os.environ.get("ALLUVIUM_FAULT_SECONDS", "4"))
ROUNDS = 3  # in each of which a fault is off for as long, and then on
# Seals often, so that uploads are under way at every moment, and keeps nothing on the disk that may go.
RESTLESS = {"segment.ms": 500, "local.retention.ms": 1, "local.retention.bytes": 1}
HISTORY = [Record(b"%d" % number * 100, b"key") for number in range(300)]
# Old records are read from the bucket each time, and a request that hangs is given up soon.
IMPATIENT = ["archive.cache=0B", "archive.request_timeout=2s", "archive.read_ahead=0B"]
MAX_TIMESTAMP, KAFKA_STORAGE_ERROR = -3, 56
# By what the p99 of most seconds, and of most rounds, may differ with a fault: by factor or by milliseconds.
OF_SECONDS, OF_ROUNDS = (2, 10), (5, 100)
# Faults that let no request through, or none that reads.
TOTAL = {"errors", "denied", "hang", "reset", "gone", "lost_replies"}


@pytest.fixture(scope="module")
def scene(seaweedfs, tmp_path_factory):
    """A broker whose bucket is behind a proxy, with history in it that is gone from the disk, and a load that never ends."""
    proxy = FaultyProxy(seaweedfs.port)
    store, direct = (s3.S3Store(port, "outage") for port in (proxy.port, seaweedfs.port))
    arguments = flags(store, *IMPATIENT)
    broker = Alluvium(tmp_path_factory.mktemp("outage"), *arguments, environment=store.environment)
    topics.create(broker.bootstrap, "history", configs=RESTLESS)
    topics.create(broker.bootstrap, "load", configs=RESTLESS)
    LibRdKafka(broker.bootstrap).produce("history", HISTORY, "lz4")
    flush(broker, "history")
    wait_until(lambda: topics.offset(broker.bootstrap, "history", 0, topics.EARLIEST_LOCAL) == len(HISTORY))
    load = SteadyLoad(broker.bootstrap, "load")
    time.sleep(2)
    yield SimpleNamespace(proxy=proxy, direct=direct, broker=broker, load=load)
    load.stop()
    broker.stop()
    proxy.stop()


@pytest.mark.timeout(300 + 3 * ROUNDS * FAULT_S)
@pytest.mark.parametrize("fault", FAULTS)
def test_only_readers_of_history_notice_a_failing_bucket(scene, fault):
    broker, load = scene.broker, scene.load
    first, failed_before, errors_before = load.acknowledged, scene.proxy.failed, store_errors(broker)
    rounds = [one_round(scene, fault) for _ in range(ROUNDS)]
    assert scene.proxy.failed > failed_before or fault == "gone", "the fault was not met"
    assert store_errors(broker) > errors_before or fault not in TOTAL, "no failed request was counted"
    calm, stormy = zip(*rounds)
    report(fault, calm, stormy)
    for who in ("produce", "tail"):
        unchanged(who, calm, stormy)
    assert not load.failures, load.failures[:3]
    early = [pair for one in calm + stormy for pair in one.seen.ends if pair[0] > pair[1]]
    assert not early, f"records left the disk before they were in the bucket: {early}"
    for one in stormy if fault in TOTAL else []:
        assert one.was_waiting, "history was read through a bucket that does not answer"
        tail = len(sum(one.latencies["tail"], []))
        assert one.hot > tail / 3, f"{one.hot} of {tail} records of the tail came beside what the bucket did not give"
        assert one.seen.was_unavailable, "the store counted as available all the time"
        assert one.seen.most_lag_s >= FAULT_S - 2, f"the age of what is not archived rose to {one.seen.most_lag_s} s only"
    wait_until_calm(scene)
    last = load.acknowledged
    flush(broker, "load")
    assert archive(scene.direct, "verify", "load")[0]["ok"]
    assert archive(scene.direct, "ls", "load")[0]["next_offset"] >= last
    found = numbers(topics.records(broker.bootstrap, "load", start=first))
    assert found == list(range(first, first + len(found))) and len(found) >= last - first


def store_errors(broker):
    """Requests to the bucket that failed, of all kinds."""
    return sum(value for name, value in broker.metrics().items() if name.startswith("alluvium_store_errors_total{"))


def one_round(scene, fault):
    """What happened in some seconds without a fault, and in as many with it."""
    wait_until_calm(scene)
    calm = phase(scene)
    read_to_the_end(calm.reader)
    with scene.proxy.failing(fault):
        stormy = phase(scene)
    read_to_the_end(stormy.reader)
    return calm, stormy


def phase(scene):
    """Some seconds in which a reader of history begins."""
    with scene.load.measured() as latencies:
        reader, watch = HistoryReader(scene.broker), Watch(scene)
        time.sleep(FAULT_S)
        was_waiting, hot, seen = reader.is_alive(), reader.hot, watch.end()
    assert seen.ends, "nobody looked at the disk and the bucket"
    return SimpleNamespace(latencies=latencies, reader=reader, was_waiting=was_waiting, hot=hot, seen=seen)


def read_to_the_end(reader):
    """Waits for a reader of history, who gets all of it."""
    reader.join(60)
    assert not reader.is_alive(), "history is not read to its end after the outage"
    assert reader.found == [record.value for record in HISTORY]


def wait_until_calm(scene):
    """Waits until nothing is left of an outage: all that was acknowledged by now is archived."""
    broker, due = scene.broker, scene.load.acknowledged
    wait_until(lambda: topics.offset(broker.bootstrap, "load", 0, topics.LATEST_TIERED) >= due - 1, every_s=0.5)
    wait_until(lambda: broker.metrics()["alluvium_store_available"] == 1)


def unchanged(who, calm, stormy):
    """Holds the p99 with a fault against that without it."""
    within_noise(who, by_second(who, calm), by_second(who, stormy), *OF_SECONDS)
    within_noise(who, by_round(who, calm), by_round(who, stormy), *OF_ROUNDS)


def within_noise(who, calm, stormy, factor, more_ms):
    """Where most of the stormy are worse than most of the calm they are so by little; what mixes is the machine's noise."""
    before, during = statistics.median(calm), statistics.median(stormy)
    is_apart = percentile(stormy, 0.25) > percentile(calm, 0.75)
    is_more = during > max(factor * before, before + more_ms)
    assert not (is_apart and is_more), f"{who}: p99 {before:.1f} ms, with the fault {during:.1f} ms"


def by_second(who, phases):
    """The p99 of each second of some phases."""
    return [percentile(second, 0.99) for one in phases for second in one.latencies[who]]


def by_round(who, phases):
    """The p99 of each phase."""
    return [percentile(sum(one.latencies[who], []), 0.99) for one in phases]


def test_the_newest_record_is_told_without_the_bucket_and_the_oldest_is_not(scene):
    topics.create(scene.broker.bootstrap, "newest", configs={"local.retention.ms": 1, "local.retention.bytes": 1})
    client = LibRdKafka(scene.broker.bootstrap)
    client.produce("newest", [Record(b"old", timestamp=1000)], "none")
    flush(scene.broker, "newest")
    wait_until(lambda: topics.offset(scene.broker.bootstrap, "newest", 0, topics.EARLIEST_LOCAL) == 1)
    client.produce("newest", [Record(b"new", timestamp=2000)], "none")
    with scene.proxy.failing("errors"), Connection(scene.broker.bootstrap, 60) as connection:
        (found,) = topics.list_offsets(connection, "newest", [0], MAX_TIMESTAMP)
        assert (found["ErrorCode"], found["Offset"], found["Timestamp"]) == (0, 1, 2000)
        (found,) = topics.list_offsets(connection, "newest", [0], 1000)
        assert found["ErrorCode"] == KAFKA_STORAGE_ERROR
        failed = lambda: scene.broker.metrics()["alluvium_archive_read_failed_reads_total"]
        before, wanted = failed(), {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20}
        body = {"MaxWaitMs": 500, "MinBytes": 1, "MaxBytes": 1 << 20, "IsolationLevel": 0}
        body["Topics"] = [{"Topic": "newest", "Partitions": [wanted]}]
        fetch = lambda: connection.ask("Fetch", 12, body)["Responses"][0]["Partitions"][0]["ErrorCode"]
        wait_until(lambda: fetch() == KAFKA_STORAGE_ERROR)
        assert failed() > before


def test_a_broker_that_is_killed_comes_back_while_the_bucket_is_gone(scene):
    broker, load = scene.broker, scene.load
    with scene.proxy.failing("gone"):
        broker.kill()
        broker.start()
        before = load.acknowledged
        wait_until(lambda: load.acknowledged > before)
        assert topics.offset(broker.bootstrap, "load", 0, topics.LATEST) > before
    flush(broker, "load")
    assert archive(scene.direct, "verify", "load")[0]["ok"]


def test_the_archive_holds_all_of_the_load_once_and_in_order(scene):
    scene.load.stop()
    flush(scene.broker, "load")
    count = scene.load.acknowledged
    assert count == scene.load.sent
    printed = archive(scene.direct, "cat", "load")
    assert [one["offset"] for one in printed] == list(range(count))
    assert numbers(topics.records(scene.broker.bootstrap, "load")) == list(range(count))


class HistoryReader(threading.Thread):
    """A consumer that reads history from its beginning and the load's tail beside it, by the same fetches.

    What it found of history, how many records of the tail, and the errors that it was told.
    """

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.found, self.hot, self.errors = broker, [], 0, []
        self.start()

    def run(self):
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "unused"})
        places = ("history", 0), ("load", confluent_kafka.OFFSET_END)
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset) for topic, offset in places])
        while len(self.found) < len(HISTORY):
            if (message := consumer.poll(0.1)) is None:
                continue
            if error := message.error():
                self.errors.append(str(error))
            elif message.topic() == "load":
                self.hot += 1
            else:
                self.found.append(message.value())
        consumer.close()


class Watch(threading.Thread):
    """Looks at metrics, disk and bucket over and over during a fault."""

    def __init__(self, scene):
        super().__init__(daemon=True)
        self.scene, self.ended = scene, threading.Event()
        self.was_unavailable, self.most_lag_s, self.ends, self.failure = False, 0, [], None
        self.head = next(key for key in s3.keys(scene.direct, "head.json") if "/load-" in key)
        self.start()

    def run(self):
        try:
            while not self.ended.wait(0.2):
                self._look()
        except Exception as failure:
            self.failure = failure

    def _look(self):
        metrics = self.scene.broker.metrics()
        self.was_unavailable |= metrics["alluvium_store_available"] == 0
        self.most_lag_s = max(self.most_lag_s, metrics["alluvium_archive_lag_seconds"])
        local_start = topics.offset(self.scene.broker.bootstrap, "load", 0, topics.EARLIEST_LOCAL)
        try:
            head = json.loads(self.scene.direct.files.open_input_file(self.head).read())
        except json.JSONDecodeError:
            return  # written between the looks at its length and at its content
        self.ends.append((local_start, head["next_offset"]))

    def end(self):
        self.ended.set()
        self.join(30)
        assert not self.is_alive() and not self.failure, self.failure
        return self


def report(fault, calm, stormy):
    """Prints what a fault did, for whoever reads the log."""
    for who in ("produce", "tail"):
        shown = []
        for phases in (calm, stormy):
            seconds = by_second(who, phases)
            figures = *(percentile(seconds, share) for share in (0.25, 0.5, 0.75)), statistics.median(by_round(who, phases))
            shown.append("/".join(f"{figure:.1f}" for figure in figures))
        print(f"{fault:12} {who:8} p99 in ms of seconds (25, 50, 75 %)/rounds (50 %): {shown[0]} calm, {shown[1]} with the fault")
    lags = [f"{one.seen.most_lag_s:.0f} s" for one in stormy]
    told = {error for one in stormy for error in one.reader.errors}
    unavailable = [one.seen.was_unavailable for one in stormy]
    print(f"{fault:12} unavailable {unavailable}, lag up to {lags}, history was told {told or 'nothing'}")


@pytest.mark.timeout(300)
def test_a_disk_that_fills_while_the_bucket_is_gone_slows_producers_down_and_loses_nothing(seaweedfs, tmp_path):
    power.skip_unless_root()
    proxy = FaultyProxy(seaweedfs.port)
    store, direct = (s3.S3Store(port, "filling") for port in (proxy.port, seaweedfs.port))
    disk, broker = power.Disk(tmp_path, "ext4", size_mib=160), None
    small = ["data.journal_file=4MiB", "data.journal_max=16MiB", "data.free_min=8MiB", "data.checkpoint_interval=1s"]
    try:
        broker = Alluvium(disk.mountpoint / "broker", *flags(store, *small), environment=store.environment)
        topics.create(broker.bootstrap, "filling", ledger.PARTITIONS, {"segment.bytes": 1 << 20, "local.retention.ms": 1})
        load = ledger.Load(broker.bootstrap, "filling", 1)
        load.start()
        wait_until(lambda: topics.offset(broker.bootstrap, "filling", 0, topics.LATEST_TIERED) > 0)
        said = lambda text: text in broker.log.read_text(errors="replace")
        with proxy.failing("gone"):
            wait_until(lambda: said("producers are slowed down"))
            wait_until(lambda: broker.metrics()["alluvium_log_time_to_full_seconds"] < 3600, within_s=120)
            assert os.statvfs(disk.mountpoint).f_bavail > 0
            topics.offset(broker.bootstrap, "filling", 0, topics.LATEST_TIERED)  # the rest is served
        before = load.acknowledged
        wait_until(lambda: load.acknowledged > before + 2000, within_s=120)
        load.stop()
        load.settle()
        ledger.verify(broker.bootstrap, load.writers)
        flush(broker, "filling")
        assert archive(direct, "verify", "filling")[0]["ok"]
        assert not said("offline")
    finally:
        if broker:
            broker.kill()
        proxy.stop()
        disk.remove()

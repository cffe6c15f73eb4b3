"""The bucket fails in every way while producers, tail consumers and readers of history run.

Each fault is on for some seconds. Who writes and who reads the tail does not notice; who reads history waits or gets errors
and then goes on; nothing that is not archived leaves the disk; afterwards all of it is archived, in order, once.

    tests/tools pytest tests/archive/test_outage.py              some seconds of each fault
    ALLUVIUM_FAULT_SECONDS=120 tests/tools pytest tests/archive/test_outage.py
"""

import json
import os
import threading
import time
from types import SimpleNamespace

import confluent_kafka
import pytest

from archive.conftest import archive, flags, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import Alluvium
from harness.faulty_proxy import FAULTS, FaultyProxy
from harness.patience import wait_until
from harness.steady_load import SteadyLoad, numbers, percentile

FAULT_S = float(os.environ.get("ALLUVIUM_FAULT_SECONDS", "4"))
# Seals often, so that uploads are under way at every moment, and keeps nothing on the disk that may go.
RESTLESS = {"segment.ms": 500, "local.retention.ms": 1, "local.retention.bytes": 1}
HISTORY = [Record(b"%d" % number * 100, b"key") for number in range(300)]
# Old records are read from the bucket each time, and a request that hangs is given up soon.
IMPATIENT = ["archive.cache=0B", "archive.request_timeout=2s", "archive.read_ahead=0B"]
# A fault changes the p99 by no more than this, the machine being shared with others: by factor, or by milliseconds.
NOISE_FACTOR, NOISE_MS = 5, 100
# Faults that let no request through, or none that reads.
TOTAL = {"errors", "hang", "reset", "gone", "lost_replies"}


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


@pytest.mark.parametrize("fault", FAULTS)
def test_only_readers_of_history_notice_a_failing_bucket(scene, fault):
    broker, load, proxy = scene.broker, scene.load, scene.proxy
    first, failed_before = load.acknowledged, proxy.failed
    with load.measured() as calm:
        time.sleep(FAULT_S)
    with load.measured() as stormy, proxy.failing(fault):
        reader, watch = HistoryReader(broker), Watch(scene)
        time.sleep(FAULT_S)
        was_waiting, hot, seen = reader.is_alive(), reader.hot, watch.end()
    reader.join(60)
    assert proxy.failed > failed_before or fault == "gone", "the fault was not met"
    assert not reader.is_alive() and reader.found == [record.value for record in HISTORY], "history was not read to its end after the outage"
    report(fault, calm, stormy, seen, reader)
    for who in ("produce", "tail"):
        before, during = percentile(calm[who], 0.99), percentile(stormy[who], 0.99)
        assert during < max(NOISE_FACTOR * before, before + NOISE_MS), f"{who}: p99 {before:.1f} ms, then {during:.1f} ms"
    assert not load.failures, load.failures[:3]
    if fault in TOTAL:
        assert was_waiting, "history was read through a bucket that does not answer"
        assert hot > len(stormy["tail"]) / 3, f"{hot} records of the tail came beside what the bucket did not give"
        assert seen.was_unavailable, "the store counted as available all the time"
        assert seen.most_lag_s >= FAULT_S - 2, f"the age of what is not archived rose to {seen.most_lag_s} s only"
    early = [pair for pair in seen.ends if pair[0] > pair[1]]
    assert seen.ends and not early, f"records left the disk before they were in the bucket: {early}"
    wait_until(lambda: broker.metrics()["alluvium_store_available"] == 1)
    last = load.acknowledged
    flush(broker, "load")
    wait_until(lambda: broker.metrics()["alluvium_archive_lag_seconds"] <= 3)
    assert archive(scene.direct, "verify", "load")[0]["ok"]
    assert archive(scene.direct, "ls", "load")[0]["next_offset"] >= last
    found = numbers(topics.records(broker.bootstrap, "load", start=first))
    assert found == list(range(first, first + len(found))) and len(found) >= last - first


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
    printed = archive(scene.direct, "cat", "load", "--format", "unused")
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
        self.was_unavailable, self.most_lag_s, self.ends = False, 0, []
        self.head = next(key for key in s3.keys(scene.direct, "head.json") if "/load-" in key)
        self.start()

    def run(self):
        while not self.ended.wait(0.2):
            metrics = self.scene.broker.metrics()
            self.was_unavailable |= metrics["alluvium_store_available"] == 0
            self.most_lag_s = max(self.most_lag_s, metrics["alluvium_archive_lag_seconds"])
            local_start = topics.offset(self.scene.broker.bootstrap, "load", 0, topics.EARLIEST_LOCAL)
            head = json.loads(self.scene.direct.files.open_input_file(self.head).read())
            self.ends.append((local_start, head["next_offset"]))

    def end(self):
        self.ended.set()
        self.join(30)
        return self


def report(fault, calm, stormy, seen, reader):
    """Prints what a fault did, for whoever reads the log."""
    for who in ("produce", "tail"):
        shown = [f"{percentile(one[who], share):.1f}" for one in (calm, stormy) for share in (0.5, 0.99, 1)]
        print(f"{fault:12} {who:8} p50/p99/max ms: {'/'.join(shown[:3])} calm, {'/'.join(shown[3:])} with the fault")
    told = f"; history was told {reader.errors[0]}" if reader.errors else ""
    print(f"{fault:12} unavailable {seen.was_unavailable}, lag up to {seen.most_lag_s:.0f} s{told}")

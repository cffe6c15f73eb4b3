"""A disk that breaks under load: one whose file system turns read-only, and one that takes writes and can't sync them.

What is on it is refused in time, until a restart on a disk that works; then everything acknowledged is there. What is on
another disk goes on. So it does beside a disk that is only slow, or hangs; and that needs no restart.

    tests/tools pytest tests/chaos/test_broken_disk.py
"""

import json
import math
import os
import random
import time
import urllib.error
import urllib.request

import pytest

from chaos import ledger, power
from chaos.ledger import goes_on, wait_until
from harness import topics
from harness.broker import Alluvium
from harness.wire import Connection

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
MEBIBYTE = 1 << 20
STORAGE_ERROR = 56
# Segments that are sealed and looked up while the disk breaks.
CONFIGS = {"segment.bytes": MEBIBYTE, "local.retention.bytes": 4 * MEBIBYTE}
OFTEN = ["data.journal_file=4MiB", "data.journal_max=16MiB", "data.free_min=1MiB", "data.checkpoint_interval=1s"]


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """What is refused until a restart is sent again until then."""
    monkeypatch.setattr(ledger, "PATIENCE", math.inf)


@pytest.fixture
def serve(tmp_path):
    """Starts the one broker of a case with data directories of its own, the metadata in the first."""
    started = []

    def start(*directories):
        store, arguments = tmp_path / "store", []
        for path in (store, *directories):
            path.mkdir(parents=True)
        for setting in (*OFTEN, f"data.directories={','.join(map(str, directories))}", f"archive.url=file://{store}"):
            arguments += ["--set", setting]
        broker = Alluvium(tmp_path / "broker", *arguments)
        broker.store = store
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def disk(request, tmp_path):
    """A small disk of a kind."""
    made = power.make(getattr(request, "param", "ext4"), tmp_path)
    yield made
    made.remove()


def load_on(broker):
    """A load, whose first records are acknowledged."""
    print(f"replay with ALLUVIUM_SEED={SEED}")
    topics.create(broker.bootstrap, "broken", ledger.PARTITIONS, CONFIGS)
    load = ledger.Load(broker.bootstrap, "broken", SEED)
    load.start()
    goes_on(broker, load.writers)
    return load


def are_refused(broker, writers):
    """Every one of these producers is told that the disk is broken, again and again, and nothing else."""
    for writer in writers:
        writer.refused_with.clear()
    wait_until(lambda: all(STORAGE_ERROR in writer.refused_with for writer in writers), "producers are not refused", broker)
    stalled, refused = [writer.acknowledged for writer in writers], [writer.refusals for writer in writers]
    wait_until(lambda: all(writer.refusals > was + 20 for writer, was in zip(writers, refused)), "no answers", broker)
    assert [writer.acknowledged for writer in writers] == stalled, "acknowledged by a disk that is broken"


def can_be_read(broker, writers):
    """Whatever was acknowledged is still read."""
    for writer in writers:
        acknowledged = writer.acknowledged
        assert len(topics.records(broker.bootstrap, writer.topic, writer.partition)) >= acknowledged, "reads do not go on"


def log_directories(broker):
    """Data directories by path: the error, and the partitions of the load."""
    with Connection(broker.bootstrap, 30) as connection:
        answer = connection.ask("DescribeLogDirs", 4, {"Topics": None})["Results"]
    in_load = lambda one: {place["PartitionIndex"] for topic in one["Topics"] if topic["Name"] == "broken" for place in topic["Partitions"]}
    return {one["LogDir"]: (one["ErrorCode"], in_load(one)) for one in answer}


def readiness(broker):
    """Status and reasons."""
    try:
        with urllib.request.urlopen(f"http://{broker.http}/health/ready", timeout=10) as answer:
            return answer.status, json.load(answer)["reasons"]
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)["reasons"]


class Scene:
    """A load on two data directories, of which the second is on the disk that breaks."""

    def __init__(self, serve, disk, tmp_path):
        self.disk, self.sound_path, self.broken_path = disk, tmp_path / "sound", disk.mountpoint / "data"
        self.broker = serve(self.sound_path, self.broken_path)
        self.load = load_on(self.broker)
        (_, here), (error, there) = (log_directories(self.broker)[str(path)] for path in (self.sound_path, self.broken_path))
        assert not error and here and there and here | there == set(range(ledger.PARTITIONS)), (error, here, there)
        self.sound, self.broken = ([self.load.writers[at] for at in sorted(places)] for places in (here, there))

    def half_goes_on(self):
        """What is on the sound disk goes on, all is read, and the broker says what is broken."""
        are_refused(self.broker, self.broken)
        goes_on(self.broker, self.sound)
        can_be_read(self.broker, self.load.writers)
        found = log_directories(self.broker)
        assert found[str(self.broken_path)][0] == STORAGE_ERROR and found[str(self.sound_path)][0] == 0, found
        assert self.broker.metrics()["alluvium_log_offline_directories"] == 1
        assert readiness(self.broker) == (200, {})

    def all_goes_on_after_a_restart(self):
        all_goes_on_after_a_restart(self.broker, self.load, self.disk)


def all_goes_on_after_a_restart(broker, load, disk):
    """Mounts the disk anew, starts again, and finds everything that was acknowledged, in the archive, too."""
    assert broker.process.poll() is None, broker.tail()
    assert "panicked" not in broker.log.read_text(errors="replace"), broker.tail()
    broker.kill()
    load.stop()
    disk.restore()
    broker.start()
    load.start()
    goes_on(broker, load.writers)
    load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)
    ledger.verify_archive(broker, "broken", broker.store)
    assert broker.metrics()["alluvium_log_offline_directories"] == 0
    broker.stop()
    print(f"{load.acknowledged} records acknowledged")


def test_a_file_system_that_turns_read_only_takes_its_partitions_out_of_service_and_no_others(serve, disk, tmp_path):
    scene = Scene(serve, disk, tmp_path)
    disk.turn_read_only()
    scene.half_goes_on()
    scene.all_goes_on_after_a_restart()


def test_a_broker_whose_only_disk_turns_read_only_refuses_producers_serves_readers_and_says_so(serve, disk):
    broker = serve(disk.mountpoint / "data")
    load = load_on(broker)
    assert readiness(broker) == (200, {})
    disk.turn_read_only()
    are_refused(broker, load.writers)
    can_be_read(broker, load.writers)
    wait_until(lambda: readiness(broker)[0] == 503, "it counts as ready", broker)
    assert "offline" in readiness(broker)[1]["data"]
    all_goes_on_after_a_restart(broker, load, disk)


@pytest.mark.parametrize("disk", ["unjournaled"], indirect=True)
def test_a_sync_that_failed_under_load_is_never_trusted_again(serve, disk, tmp_path):
    scene = Scene(serve, disk, tmp_path)
    with disk.failing_syncs():
        are_refused(scene.broker, scene.broken)
    # From here on a sync would succeed, of what the failed one had lost, too.
    scene.half_goes_on()
    scene.all_goes_on_after_a_restart()


@pytest.mark.parametrize("disk", ["unjournaled"], indirect=True)
def test_a_sync_that_failed_behind_idle_producers_is_never_trusted_again(serve, disk, tmp_path):
    scene = Scene(serve, disk, tmp_path)

    def fails_with_idle_producers():
        scene.load.stop()
        with disk.failing_syncs():
            time.sleep(2)
        scene.load.start()
        # A checkpoint may have come just before the fault, and left nothing to be synced.
        return "log directory is offline" in scene.broker.log.read_text(errors="replace")

    wait_until(fails_with_idle_producers, "no sync fails", scene.broker)
    scene.half_goes_on()
    scene.all_goes_on_after_a_restart()


def at_rest(writers):
    """What was acknowledged of each, once that has not changed for some time."""
    acknowledged = lambda: [writer.acknowledged for writer in writers]
    for _ in range(30):
        before = acknowledged()
        time.sleep(2)
        if acknowledged() == before:
            return before
    raise AssertionError("acknowledged by a disk that does nothing")


@pytest.mark.parametrize("disk", ["volatile"], indirect=True)
def test_a_disk_that_hangs_or_is_slow_holds_up_what_is_on_it_and_no_more(serve, disk, tmp_path):
    scene = Scene(serve, disk, tmp_path)
    broker, writers = scene.broker, scene.load.writers
    with disk.standing_still():
        held_up = at_rest(scene.broken)  # what it had done by then is told
        goes_on(broker, scene.sound)
        assert [writer.acknowledged for writer in scene.broken] == held_up, "acknowledged by a disk that does nothing"
    with disk.slow():
        goes_on(broker, writers)
        can_be_read(broker, writers)
        assert not any(error for error, _ in log_directories(broker).values())
        assert readiness(broker) == (200, {})
    goes_on(broker, writers)
    scene.load.stop()
    scene.load.settle()
    ledger.verify(broker.bootstrap, writers)
    ledger.verify_archive(broker, "broken", broker.store)
    said = broker.log.read_text(errors="replace")
    assert "offline" not in said and "panicked" not in said, broker.tail()
    broker.stop()

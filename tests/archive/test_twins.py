"""Two processes that believe they are the same broker: one runs on a copy of the other's data directory.

The conditional writes, the fences and the comparison of what another has archived keep the archive one log's history, whole
and in order. Who lost says so, and keeps its own records on its own disk: they never pass for archived because the other's
are.
"""

import shutil
import time

import pytest

from archive.conftest import archive, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.faulty_proxy import FaultyProxy
from harness.patience import wait_until

RESTLESS = {"segment.ms": 200, "local.retention.ms": 1, "local.retention.bytes": 1}
EACH = 10
ROUNDS = ["first", "second", "third"]
COMPLAINT = "another process archives this partition"
TIMEOUT_S = 2


@pytest.fixture
def original(serve, store):
    """A broker with something archived, stopped."""
    broker = serve(store, "original")
    topics.create(broker.bootstrap, "twins", configs=RESTLESS)
    produce(broker, "both")
    flush(broker, "twins")
    broker.stop()
    return broker


@pytest.fixture
def twin(serve, store, tmp_path, original):
    """Starts a broker on a copy of the data directory."""
    shutil.copytree(original.directory / "data", tmp_path / "twin" / "data")
    return lambda: serve(store, "twin")


@pytest.fixture
def proxy(seaweedfs):
    """A way to the bucket that can fail."""
    made = FaultyProxy(seaweedfs.port)
    yield made
    made.stop()


def produce(broker, name):
    LibRdKafka(broker.bootstrap).produce("twins", [Record(b"%s %d" % (name.encode(), at)) for at in range(EACH)])


def named(*names):
    return [f"{name} {at}" for name in names for at in range(EACH)]


def values(broker):
    return [record.value.decode() for record in topics.records(broker.bootstrap, "twins")]


def is_fenced(broker):
    return broker.metrics()["alluvium_archive_fenced_commits_total"] > 0


def archived(store):
    """What the archive holds, which has to be whole."""
    verified = archive(store, "verify", "twins")
    assert all(part["ok"] for part in verified), verified
    return [one["value"] for one in archive(store, "cat", "twins")]


def test_of_two_that_start_alike_one_archives_and_the_other_keeps_its_own(original, twin, store):
    original.start()
    copy = twin()
    for name in ROUNDS:
        produce(original, f"original {name}")
        time.sleep(0.5)
        produce(copy, f"twin {name}")
        time.sleep(0.5)
    wait_until(lambda: is_fenced(original) or is_fenced(copy))
    winner, loser = (copy, original) if is_fenced(original) else (original, copy)
    flush(winner, "twins")
    of = {original: "original", copy: "twin"}
    logs = {broker: named("both", *(f"{of[broker]} {name}" for name in ROUNDS)) for broker in (original, copy)}
    assert archived(store) == logs[winner]
    # Both still give all that they acknowledged, the loser from its disk.
    wait_until(lambda: topics.offset(winner.bootstrap, "twins", 0, topics.EARLIEST_LOCAL) == len(logs[winner]))
    assert {broker: values(broker) for broker in logs} == logs
    assert topics.offset(loser.bootstrap, "twins", 0, topics.EARLIEST_PENDING_UPLOAD) <= EACH
    assert COMPLAINT in loser.tail(10_000) and COMPLAINT not in winner.tail(10_000)
    # That does not change by starting again, which begins a leader epoch above the other's.
    loser.kill()
    loser.start()
    wait_until(lambda: is_fenced(loser))
    assert values(loser) == logs[loser] and archived(store) == logs[winner]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_data_directory_from_before_is_no_way_back(original, twin, store):
    original.start()
    produce(original, "original")
    flush(original, "twins")
    original.stop()
    copy = twin()
    produce(copy, "twin first")
    produce(copy, "twin second")
    wait_until(lambda: is_fenced(copy))
    assert archived(store) == named("both", "original")
    assert values(copy) == named("both", "twin first", "twin second")
    copy.stop()
    original.start()
    assert values(original) == named("both", "original")


def test_one_that_stood_still_in_the_middle_of_an_upload_finds_that_another_took_its_place(proxy, serve, seaweedfs, fresh_name, tmp_path):
    prefix = fresh_name("case")
    near, direct = (s3.S3Store(port, prefix) for port in (proxy.port, seaweedfs.port))
    original = serve(near, "original", f"archive.request_timeout={TIMEOUT_S}s")
    topics.create(original.bootstrap, "twins", configs=RESTLESS)
    produce(original, "both")
    flush(original, "twins")
    before = s3.keys(direct, ".parquet")
    with proxy.failing("slow"):
        produce(original, "original first")
        # The records are in the bucket, and the head that has to name them is not written yet, or is under way.
        wait_until(lambda: s3.keys(direct, ".parquet") != before)
        with original.paused():
            paused = time.monotonic()
            shutil.copytree(original.directory / "data", tmp_path / "twin" / "data")
            copy = serve(direct, "twin")
            produce(copy, "twin first")
            flush(copy, "twins")
            time.sleep(max(0, paused + 2 * TIMEOUT_S - time.monotonic()))
    produce(original, "original second")
    wait_until(lambda: is_fenced(original))
    produce(copy, "twin second")
    flush(copy, "twins")
    both = named("both", "original first")
    assert archived(direct) == both + named("twin first", "twin second") == values(copy)
    # What it acknowledged before and after is there, and stays on its disk.
    assert values(original) == both + named("original second")
    assert topics.offset(original.bootstrap, "twins", 0, topics.EARLIEST_PENDING_UPLOAD) <= len(both)
    assert COMPLAINT in original.tail(10_000) and COMPLAINT not in copy.tail(10_000)

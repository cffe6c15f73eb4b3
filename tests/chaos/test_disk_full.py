"""A file system that fills up under load: nothing acknowledged is lost, reads go on, and room brings service back by itself.

    tests/tools pytest tests/chaos/test_disk_full.py
"""

import os
import random
import re
import time

import pytest

from chaos import ledger, power
from chaos.ledger import wait_until
from harness import commits, topics
from harness.broker import Alluvium, run
from harness.wire import Connection

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
MEBIBYTE = 1 << 20
KAFKA_STORAGE_ERROR = 56
# Nothing goes to the archive, or all of it does; either way it stays on the disk.
KEPT = {"segment.bytes": MEBIBYTE, "local.retention.ms": -1, "local.retention.bytes": -1}
TOPICS = {"local": KEPT | {"remote.storage.enable": "false"}, "archived": KEPT}
FULL = re.compile("for now; producers wait")


@pytest.fixture
def disk(tmp_path):
    """A small file system."""
    power.skip_unless_root()
    made = power.Disk(tmp_path, "ext4", size_mib=160)
    yield made
    made.remove()


@pytest.fixture
def broker(disk, tmp_path, request):
    """A broker whose data is on the small file system, while its archive and what it prints are elsewhere."""
    store, directory, data = tmp_path / "store", tmp_path / "broker", disk.mountpoint / "data"
    for each in (store, directory, data):
        each.mkdir()
    (directory / "data").symlink_to(data)
    arguments = ["--object-store", f"file://{store}"]
    free_min = getattr(request, "param", "1MiB")
    for setting in ("data.journal_file=4MiB", "data.journal_max=16MiB", f"data.free_min={free_min}", "data.checkpoint_interval=1s"):
        arguments += ["--set", setting]
    started = Alluvium(directory, *arguments)
    started.disk, started.ballast, started.store = disk.mountpoint, disk.mountpoint / "ballast", store
    yield started
    started.kill()


@pytest.fixture(params=TOPICS)
def load(broker, request):
    """A load on a topic of either kind."""
    print(f"replay with ALLUVIUM_SEED={SEED}")
    topics.create(broker.bootstrap, "full", ledger.PARTITIONS, TOPICS[request.param])
    made = ledger.Load(broker.bootstrap, "full", SEED)
    made.is_archived = request.param == "archived"
    made.start()
    wait_until(lambda: made.acknowledged > 2000, "nothing is produced", broker)
    return made


def available_bytes(directory):
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


def fill(path, leave_bytes=0):
    """Takes all the room that there is, to the last byte that a file can have, or until so much is left."""
    with path.open("ab", buffering=0) as ballast:
        chunk = bytes(MEBIBYTE)
        while chunk and not (leave_bytes and available_bytes(path.parent) <= leave_bytes):
            try:
                ballast.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]


def fill_until_all_wait(broker, load):
    """Fills the disk until no producer is answered any more."""
    fill(broker.ballast)
    wait_until(lambda: FULL.search(broker.log.read_text(errors="replace")), "the disk does not fill", broker)
    # The journal still has some room; then all wait.
    stalled = -1
    while load.acknowledged != stalled:
        stalled = load.acknowledged
        time.sleep(3)


def read_all(broker, load):
    """Reads go on: everything acknowledged is there."""
    for writer in load.writers:
        acknowledged = writer.acknowledged
        assert len(topics.records(broker.bootstrap, writer.topic, writer.partition)) >= acknowledged, "reads do not go on"


def serves_again(broker, load):
    """Makes room, which is all that it takes; then everything is there, also in the archive."""
    stalled = load.acknowledged
    broker.ballast.unlink()
    wait_until(lambda: load.acknowledged > stalled + 2000, "service does not come back", broker)
    load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)
    assert "offline" not in broker.log.read_text(errors="replace")
    if load.is_archived:
        run("archive", "flush", "full", "--wait", "--bootstrap", broker.bootstrap)
        run("archive", "verify", "full", "--object-store", f"file://{broker.store}")
    print(f"{load.acknowledged} records acknowledged, {stalled} of them before there was room")


def test_a_full_disk_loses_nothing_and_serves_again_once_there_is_room(broker, load):
    fill_until_all_wait(broker, load)
    read_all(broker, load)
    serves_again(broker, load)


def test_a_broker_that_was_killed_starts_on_a_full_disk_and_serves_again_once_there_is_room(broker, load):
    fill_until_all_wait(broker, load)
    broker.kill()
    load.stop()
    fill(broker.ballast)
    broker.start()
    read_all(broker, load)
    load.start()
    time.sleep(3)
    read_all(broker, load)
    serves_again(broker, load)


@pytest.mark.parametrize("broker", ["8MiB"], indirect=True)
@pytest.mark.parametrize("load", ["local"], indirect=True)  # what is archived takes room of its own on its way
def test_producers_wait_once_only_the_reserve_is_left_and_what_has_to_be_written_finds_room(broker, load):
    commits.find_coordinator(broker.bootstrap, "group")
    committer = commits.Committer(broker.bootstrap, "group", "full", ledger.PARTITIONS)
    committer.commit(1)
    said = lambda text: text in broker.log.read_text(errors="replace")
    # The room is looked at once a second, in which producers at full speed write all of it.
    fill(broker.ballast, leave_bytes=20 * MEBIBYTE)
    wait_until(lambda: said("producers are slowed down"), "producers are not slowed down", broker)
    fill(broker.ballast, leave_bytes=5 * MEBIBYTE)
    wait_until(lambda: said("only the reserve of the disk is left"), "producers are not held back", broker)
    stalled = -1
    while load.acknowledged != stalled:
        stalled = load.acknowledged
        time.sleep(3)
    assert available_bytes(broker.disk) > 0
    with Connection(broker.bootstrap) as connection:
        topic = {"Name": "more", "NumPartitions": 1, "ReplicationFactor": 1}
        refused = connection.ask("CreateTopics", 7, {"Topics": [topic], "timeoutMs": 10_000})["Topics"][0]
    assert refused["ErrorCode"] == KAFKA_STORAGE_ERROR, refused
    read_all(broker, load)
    committer.commit(2)
    serves_again(broker, load)
    assert not FULL.search(broker.log.read_text(errors="replace")), "the reserve was given to producers"
    assert said("producers go on")


@pytest.mark.parametrize("broker", ["8MiB"], indirect=True)
def test_active_segments_are_archived_early_where_others_take_the_room(broker):
    topics.create(broker.bootstrap, "active", ledger.PARTITIONS, {"local.retention.ms": -1, "local.retention.bytes": -1})
    empty_bytes = available_bytes(broker.disk)
    load = ledger.Load(broker.bootstrap, "active", SEED)
    load.start()
    wait_until(lambda: available_bytes(broker.disk) < empty_bytes - 30 * MEBIBYTE, "too little is produced", broker)
    partitions = range(ledger.PARTITIONS)
    local_starts = lambda: [topics.offset(broker.bootstrap, "active", at, topics.EARLIEST_LOCAL) for at in partitions]
    assert not any(local_starts()), "no segment is sealed before the disk runs short"
    # Room is made of archived segments once less than six times the reserve is free.
    fill(broker.ballast, leave_bytes=40 * MEBIBYTE)
    wait_until(lambda: any(local_starts()), "the active segments stay", broker)
    load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)

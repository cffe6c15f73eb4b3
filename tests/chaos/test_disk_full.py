"""A file system that fills up under load: nothing acknowledged is lost, reads go on, and room brings service back by itself.

    tests/tools pytest tests/chaos/test_disk_full.py
"""

import os
import random
import time

import pytest

from chaos import ledger, power
from harness import topics
from harness.broker import Alluvium

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
# Nothing leaves for the archive, which needs room itself.
CONFIGS = {"segment.bytes": "1048576", "remote.storage.enable": "false"}
MEBIBYTE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A small file system."""
    power.skip_unless_root()
    made = power.Disk(tmp_path, "ext4", size_mib=160)
    yield made
    made.remove()


def fill(path):
    """Takes all the room that there is."""
    with path.open("wb", buffering=0) as ballast:
        chunk = bytes(MEBIBYTE)
        while chunk:
            try:
                ballast.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]


def wait_until(reached, failure, broker, within_s=60):
    end = time.monotonic() + within_s
    while not reached():
        assert broker.process.poll() is None, f"the broker ended:\n{broker.tail()}"
        assert time.monotonic() < end, f"{failure}:\n{broker.tail()}"
        time.sleep(0.1)


def test_a_full_disk_loses_nothing_and_serves_again_once_there_is_room(disk, tmp_path):
    print(f"replay with ALLUVIUM_SEED={SEED}")
    store = tmp_path / "store"
    store.mkdir()
    arguments = ["--object-store", f"file://{store}"]
    for setting in ("data.journal_file=4MiB", "data.journal_max=16MiB", "data.free_min=1MiB"):
        arguments += ["--set", setting]
    broker = Alluvium(disk.mountpoint / "broker", *arguments)
    try:
        topics.create(broker.bootstrap, "full", ledger.PARTITIONS, CONFIGS)
        load = ledger.Load(broker.bootstrap, "full", SEED)
        load.start()
        wait_until(lambda: load.acknowledged > 2000, "nothing is produced", broker)
        ballast = disk.mountpoint / "ballast"
        fill(ballast)
        full = "no space left"
        wait_until(lambda: full in broker.log.read_text(errors="replace"), "the disk does not fill", broker)
        # The journal still has some room; then all wait.
        stalled = -1
        while load.acknowledged != stalled:
            stalled = load.acknowledged
            time.sleep(3)
        for writer in load.writers:
            acknowledged = writer.acknowledged
            assert len(topics.records(broker.bootstrap, writer.topic, writer.partition)) >= acknowledged, "reads do not go on"
        ballast.unlink()
        wait_until(lambda: load.acknowledged > stalled + 2000, "service does not come back", broker)
        load.stop()
        load.settle()
        ledger.verify(broker.bootstrap, load.writers)
        assert "offline" not in broker.log.read_text(errors="replace")

        # Killed while it is full, it starts again in the room that it has, and has everything.
        load.start()
        fill(ballast)
        time.sleep(1)
        broker.kill()
        load.stop()
        ballast.unlink()
        broker.start()
        load.settle()
        ledger.verify(broker.bootstrap, load.writers)
        print(f"{load.acknowledged} records acknowledged, {stalled} of them before the disk was full")
    finally:
        broker.kill()

"""Power cuts under load, over the data directory, the metadata and the archive's own directory: nothing acknowledged is
lost, be it records, topics, their configuration or committed offsets. And the test of the test: with syncing switched off it
has to fail.

    ALLUVIUM_SEED=7 ALLUVIUM_ROUNDS=50 tests/tools pytest tests/chaos/test_power.py
"""

import os
import random
import re
import time

import pytest

from chaos import clerk, ledger, power
from harness import topics
from harness.broker import Alluvium, binary

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
ROUNDS = int(os.environ.get("ALLUVIUM_ROUNDS", "8"))
CONFIGS = {"segment.bytes": "1048576", "local.retention.bytes": "2097152"}
# Makes every sync of the broker and of what it embeds an empty act; only debug builds know it (see `runtime/production`).
WITHOUT_SYNC = {"ALLUVIUM_TEST_WITHOUT_SYNC": "1"}


@pytest.fixture(params=["ext4", "xfs", "volatile"])
def disk(request, tmp_path):
    """A fresh file system of each kind."""
    made = power.make(request.param, tmp_path)
    yield made
    made.remove()


def cut_power_under_load(disk, rounds, seed, environment=None):
    """Runs the rounds; raises where something acknowledged is missing."""
    chance = random.Random(seed)
    directory = disk.mountpoint / "broker"
    broker = Alluvium(directory, environment=environment)
    try:
        topics.create(broker.bootstrap, "power", ledger.PARTITIONS, CONFIGS)
        load = ledger.Load(broker.bootstrap, "power", seed)
        beside = clerk.Clerk(broker.bootstrap, "power", ledger.PARTITIONS)
        for _ in range(rounds):
            load.start()
            beside.start()
            time.sleep(chance.uniform(0.2, 1.5))
            disk.cut_power()
            broker.kill()
            load.stop()
            beside.stop()
            disk.restore()
            broker.start()
            beside.verify()
            load.settle()
            ledger.verify(broker.bootstrap, load.writers)
        ledger.verify_archive(broker, "power")
        assert beside.made and beside.configured[0] and beside.committed[0], "the clerk got nothing done"
        print(f"{len(beside.made)} topics, and {beside.committed[0]} rounds of commits and changes of a configuration")
        return load.acknowledged
    finally:
        broker.kill()


@pytest.mark.timeout(300 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_by_a_power_cut(disk):
    print(f"replay with ALLUVIUM_SEED={SEED} ALLUVIUM_ROUNDS={ROUNDS}")
    acknowledged = cut_power_under_load(disk, ROUNDS, SEED)
    print(f"{acknowledged} records acknowledged over {ROUNDS} power cuts of {disk.kind}")


def test_without_syncing_the_power_cut_is_noticed(disk):
    if "release" in binary().parts:
        pytest.skip("a release build can't be told not to sync: that needs a debug build")
    with pytest.raises((AssertionError, RuntimeError)) as failure:
        cut_power_under_load(disk, 6, SEED, WITHOUT_SYNC)
    # What was acknowledged is gone, or the broker refuses to start on what it finds; other failures prove nothing.
    known = "refused for ever, error 3$|acknowledged|holds record|is damaged|metadata can't be opened"
    assert re.search(known, str(failure.value)), failure.value

"""kill -9 at random moments under load: every acknowledged record is there exactly once, in order, and the archive is whole.

    tests/tools pytest tests/chaos/test_kill.py                      20 rounds of a random seed
    ALLUVIUM_SEED=7 ALLUVIUM_ROUNDS=200 tests/tools pytest tests/chaos/test_kill.py
"""

import os
import random
import time

import pytest

from chaos import ledger
from harness import topics
from harness.broker import Alluvium

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
ROUNDS = int(os.environ.get("ALLUVIUM_ROUNDS", "20"))
# Everything is read back each time, and there is more of it each time.
VERIFY_EVERY = max(5, ROUNDS // 8)
# What a start may take: it should be less than a second, but machines are shared.
LONGEST_START_S = 20
# Small segments, so that a run seals, uploads and deletes locally many times.
CONFIGS = {"segment.bytes": "1048576", "local.retention.bytes": "2097152"}
# Acknowledged by the leader alone, once the operating system has it: the death of the process takes nothing of that either.
CACHED = CONFIGS | {"write.caching": "true"}


@pytest.mark.timeout(300 + 10 * ROUNDS)
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path):
    print(f"replay with ALLUVIUM_SEED={SEED} ALLUVIUM_ROUNDS={ROUNDS}")
    chance = random.Random(SEED)
    broker = Alluvium(tmp_path)
    topics.create(broker.bootstrap, "kill", ledger.PARTITIONS, CONFIGS)
    topics.create(broker.bootstrap, "cached", 1, CACHED)
    load = ledger.Load(broker.bootstrap, "kill", SEED)
    load.writers += ledger.Load(broker.bootstrap, "cached", SEED, 1, acks=1).writers
    slowest = 0.0
    for number in range(ROUNDS):
        load.start()
        time.sleep(chance.uniform(0.05, 1.5))
        broker.kill()
        slowest = max(slowest, broker.start())
        if number % VERIFY_EVERY == VERIFY_EVERY - 1:
            time.sleep(chance.uniform(0.05, 0.5))
            load.stop()
            load.settle()
            ledger.verify(broker.bootstrap, load.writers)
        else:
            load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)
    for topic in ("kill", "cached"):
        ledger.verify_archive(broker, topic)
    print(f"{load.acknowledged} records acknowledged over {ROUNDS} kills; slowest start {slowest:.2f} s")
    assert slowest < LONGEST_START_S, f"{slowest:.2f} s"
    broker.stop()

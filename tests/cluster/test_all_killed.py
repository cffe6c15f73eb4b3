"""kill -9 of all brokers at once under load: every acknowledged record and every acknowledged commit is there afterwards.

    ALLUVIUM_SEED=7 ALLUVIUM_ROUNDS=50 tests/tools pytest tests/cluster/test_all_killed.py
"""

import os
import random
import time

import pytest

from cluster.workload import Workload

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
ROUNDS = int(os.environ.get("ALLUVIUM_ROUNDS", "2"))


@pytest.mark.timeout(240 + 40 * ROUNDS)
def test_nothing_acknowledged_is_lost_where_all_are_killed_at_once(three):
    print(f"replay with ALLUVIUM_SEED={SEED} ALLUVIUM_ROUNDS={ROUNDS}")
    chance, slowest = random.Random(SEED), 0
    with Workload(three) as work:
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.2, 2))
            three.kill(*three.nodes)
            # In any order: what one needs of another it waits for.
            order = chance.sample(sorted(three.nodes), len(three.nodes))
            slowest = max(slowest, three.start(*order))
            work.until_goes_on()
        work.no_send_failed()
        work.settle()
    print(f"{ROUNDS} rounds; all served again within {slowest:.2f} s at most")


def test_nothing_acknowledged_is_lost_where_one_comes_back_later(three):
    """Who comes back first was not the one to go last: it may lack what the others acknowledged, and must not lead alone."""
    print(f"replay with ALLUVIUM_SEED={SEED}")
    chance = random.Random(SEED)
    with Workload(three) as work:
        first, *others = chance.sample(sorted(three.nodes), 3)
        three.kill(first)
        work.until_goes_on()
        three.kill(*others)
        # Two of three are a majority, and one of them has everything.
        last = others.pop()
        three.start(first, *others)
        work.until_goes_on()
        three.start(last)
        work.no_send_failed()
        work.settle()

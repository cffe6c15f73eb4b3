"""SIGSTOP for longer than a session: others go on, and what wakes up does not believe that it still leads.

    ALLUVIUM_SEED=7 tests/tools pytest tests/cluster/test_pauses.py
"""

import os
import random
import time

import pytest

from cluster.workload import Workload

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
SESSION_S = 3  # cluster.session_timeout


@pytest.fixture
def chance():
    """The schedule."""
    print(f"replay with ALLUVIUM_SEED={SEED}")
    return random.Random(SEED)


def fenced(cluster):
    return cluster.status().found["fenced"]


def test_a_leader_that_stands_still_is_replaced_and_knows_so_when_it_wakes(three, chance, eventually):
    with Workload(three) as work:
        for _ in range(2):
            partition = chance.randrange(work.partitions)
            leader = three.leader_of(work.topic, partition)
            three.pause(leader)
            began = time.monotonic()
            eventually(lambda: three.describe(work.topic)[partition].leader not in (leader, -1))
            work.until_goes_on()
            print(f"broker {leader}: all partitions were written to again after {time.monotonic() - began:.2f} s")
            assert fenced(three) == [leader]
            time.sleep(chance.uniform(0, SESSION_S))
            three.resume(leader)
            work.until_goes_on()
            three.wait_isr(work.topic, 3)
        work.no_send_failed()
        work.settle()


def test_a_leader_that_stands_still_for_less_than_a_session_may_go_on(three, chance):
    with Workload(three) as work:
        for _ in range(4):
            leader = three.leader_of(work.topic, chance.randrange(work.partitions))
            three.pause(leader)
            time.sleep(chance.uniform(0.2, 0.8 * SESSION_S))
            three.resume(leader)
            work.until_goes_on()
        work.no_send_failed()
        work.settle()


def test_a_follower_that_stands_still_holds_up_nobody_for_long(three, chance):
    with Workload(three) as work:
        partition = chance.randrange(work.partitions)
        place = three.describe(work.topic)[partition]
        follower = chance.choice([node for node in place.replicas if node != place.leader])
        three.pause(follower)
        began = time.monotonic()
        three.wait_isr(work.topic, 2)
        work.until_goes_on()
        print(f"written to again after {time.monotonic() - began:.2f} s")
        three.resume(follower)
        three.wait_isr(work.topic, 3)
        work.no_send_failed()
        work.settle()


def test_a_paused_leader_that_is_killed_acknowledges_nothing_any_more(three, chance):
    """Requests that it had taken and not read are lost with it; clients send them again to others."""
    with Workload(three) as work:
        leader = three.leader_of(work.topic, chance.randrange(work.partitions))
        three.pause(leader)
        time.sleep(chance.uniform(0.1, 2 * SESSION_S))
        three.kill(leader)
        work.until_goes_on()
        three.start(leader)
        work.no_send_failed()
        work.settle()

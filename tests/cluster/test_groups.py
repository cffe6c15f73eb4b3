"""Groups whose coordinator is killed: what was committed is found, members keep on, and nobody's commit goes back.

    ALLUVIUM_SEED=7 ALLUVIUM_ROUNDS=20 tests/tools pytest tests/cluster/test_groups.py
"""

import os
import random
import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from cluster import replicas
from cluster.workload import CONSUMER, Workload

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
ROUNDS = int(os.environ.get("ALLUVIUM_ROUNDS", "2"))
GROUPS = 20


@pytest.mark.timeout(240 + 60 * ROUNDS)
def test_members_go_on_where_their_coordinator_is_killed(three):
    print(f"replay with ALLUVIUM_SEED={SEED} ALLUVIUM_ROUNDS={ROUNDS}")
    chance, waits = random.Random(SEED), []
    with Workload(three, members=3) as work:
        for _ in range(ROUNDS):
            until_commits_go_on(work)
            time.sleep(chance.uniform(0, 1))
            coordinator = three.coordinator_of(work.group)
            three.kill(coordinator)
            waits.append(until_commits_go_on(work))
            assert three.coordinator_of(work.group) != coordinator
            three.start(coordinator)
            three.until_well()
        work.no_send_failed()
        work.settle()
    print(f"commits in every partition again after {', '.join(f'{wait:.2f}' for wait in waits)} s")


def until_commits_go_on(work, within_s=90):
    """Waits until something is committed in every partition, and returns the seconds."""
    began, missing = time.monotonic(), set(range(work.partitions))
    seen = len(work.history.events)
    while missing:
        assert time.monotonic() < began + within_s, f"no commits in {sorted(missing)}; {work.history.errors()}"
        events = work.history.events[seen:]
        seen += len(events)
        missing -= {event.partition for event in events if (event.what, event.kind) == ("commit", "ok")}
        time.sleep(0.05)
    return time.monotonic() - began


def test_what_was_committed_is_found_by_every_group_after_each_kill(three):
    """Many groups, so that each broker coordinates some."""
    topic = three.create("positions", partitions=3, min_insync_replicas=2)
    groups = [f"group-{number}" for number in range(GROUPS)]

    def with_consumer(group, work):
        consumer = Consumer(CONSUMER | {"bootstrap.servers": three.bootstrap, "group.id": group})
        try:
            return work(consumer)
        finally:
            consumer.close()

    def commit(group, offset):
        places = [TopicPartition(topic, partition, offset) for partition in range(3)]
        answered = with_consumer(group, lambda consumer: consumer.commit(offsets=places, asynchronous=False))
        assert not any(place.error for place in answered), answered

    def committed(group):
        places = [TopicPartition(topic, partition) for partition in range(3)]
        found = with_consumer(group, lambda consumer: consumer.committed(places, timeout=60))
        assert not any(place.error for place in found), found
        return [place.offset for place in found]

    coordinators = set()
    for offset, number in enumerate(three.nodes, start=1):
        for group in groups:
            commit(group, offset)
        coordinators |= {three.coordinator_of(group) for group in groups}
        three.kill(number)
        for group in groups:
            assert committed(group) == [offset] * 3, group
        three.start(number)
        three.until_well()
    assert len(coordinators) > 1, "one broker coordinated all of them"
    replicas.agreed(three, "__consumer_offsets")

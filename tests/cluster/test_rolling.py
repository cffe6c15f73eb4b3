"""Brokers that are stopped and started one after another under load: no record fails, none is lost, and hardly one waits.

    tests/tools pytest -s tests/cluster/test_rolling.py
"""

import time

from cluster import replicas
from cluster.workload import Workload


def test_brokers_restart_one_by_one_and_no_send_fails(three):
    gaps = []
    with Workload(three) as work:
        for number in three.nodes:
            began = time.monotonic()
            three.stop(number)
            stopped = time.monotonic()
            three.start(number)
            work.until_goes_on()
            three.until_well()
            now = time.monotonic()
            gap = max(work.history.longest_gap("idempotent", partition, began, now) for partition in range(work.partitions))
            gaps.append(gap)
            print(f"broker {number}: stopped within {stopped - began:.2f} s, all well after {now - began:.2f} s, gap {gap:.2f} s")
        work.no_send_failed()
        work.settle()
    print(f"longest gap between acknowledgements in a partition {max(gaps):.2f} s")


def test_a_broker_that_is_told_to_stop_leads_nothing_when_it_ends(three):
    three.create("led", 12, min_insync_replicas=2)
    controller = three.metadata_leader
    leader = next(place.leader for place in three.describe("led").values() if place.leader != controller)
    three.stop(leader)
    # The controller let it go, so it knows already.
    for partition, place in three.describe("led", via=controller).items():
        assert place.leader not in (leader, -1), f"led-{partition} is led by {place.leader}"


def test_what_was_stopped_holds_on_disk_what_it_served(three):
    with Workload(three) as work:
        work.until_goes_on()
        work.settle()
        served, topic_id = replicas.agreed(three, work.topic), three.topic_id(work.topic)
    # All at once: the last of them has nobody to hand over to.
    for node in three.nodes.values():
        node.terminate()
    for node in three.nodes.values():
        node.until_stopped()
    for number, node in three.nodes.items():
        for partition, batches in served.items():
            differ = replicas.differences({"of all": batches, number: replicas.on_disk(node, topic_id, partition)})
            assert not differ, f"{work.topic}-{partition}: {differ}"

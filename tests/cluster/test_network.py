"""Brokers that can't reach each other, or only one way, while clients reach them all: nothing acknowledged is lost, and those
who are more than half go on.

    ALLUVIUM_SEED=7 ALLUVIUM_ROUNDS=10 tests/tools pytest tests/cluster/test_network.py

It takes root and network namespaces; what the kernel lacks is skipped.
"""

import os
import random
import time

import pytest

from cluster.network import Network
from cluster.nodes import Cluster
from cluster.workload import Workload

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
ROUNDS = int(os.environ.get("ALLUVIUM_ROUNDS", "1"))
SESSION_S = 3  # cluster.session_timeout
# The addresses are none of loopback, and reach nobody outside.
OPEN = ["--set", "listeners.allow_insecure=true"]


@pytest.fixture
def chance():
    """The schedule."""
    print(f"replay with ALLUVIUM_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture
def make(tmp_path):
    """Makes a cluster on machines of its own."""
    made = []

    def build(size, voters=3):
        network = Network(size)
        cluster = Cluster(tmp_path / "cluster", *OPEN, place=network.place, voters=voters)
        made.append((network, cluster))
        cluster.directory.mkdir()
        cluster.form(size)
        return network, cluster

    yield build
    for network, cluster in made:
        cluster.end()
        network.remove()


def set_apart(cluster, number, partition, topic):
    """Waits until another broker leads a partition, as far as the others know."""
    cluster.apart.add(number)
    leader = cluster.leader_of(topic, partition)
    assert leader != number
    return leader


def healed(network, cluster, work):
    """Has all reach each other, and waits until all is well."""
    network.heal()
    cluster.apart.clear()
    work.until_goes_on()
    cluster.until_well()


def ways(number, others):
    """How a broker can be cut off: whom nobody hears, who hears nobody, and both."""
    return {
        "both ways": lambda network: network.split([number], others),
        "not heard": lambda network: network.cut([number], others),
        "hears nothing": lambda network: network.cut(others, [number]),
    }


@pytest.mark.timeout(300 + 120 * ROUNDS)
@pytest.mark.parametrize("way", ["both ways", "not heard", "hears nothing"])
def test_a_leader_that_is_cut_off_acknowledges_nothing_and_is_replaced(make, chance, way):
    network, cluster = make(3)
    with Workload(cluster) as work:
        for _ in range(ROUNDS):
            partition = chance.randrange(work.partitions)
            leader = cluster.leader_of(work.topic, partition)
            others = [number for number in cluster.nodes if number != leader]
            ways(leader, others)[way](network)
            began = time.monotonic()
            set_apart(cluster, leader, partition, work.topic)
            work.until_goes_on()
            print(f"broker {leader}, {way}: written to everywhere again after {time.monotonic() - began:.2f} s")
            time.sleep(chance.uniform(0, SESSION_S))
            healed(network, cluster, work)
        work.no_send_failed()
        work.settle()


def test_who_was_cut_off_does_not_disturb_the_quorum_when_it_comes_back(make, chance):
    network, cluster = make(3)
    with Workload(cluster) as work:
        controller = cluster.metadata_leader
        lone = chance.choice([number for number in cluster.nodes if number != controller])
        network.split([lone], [number for number in cluster.nodes if number != lone])
        cluster.apart.add(lone)
        # Time for many elections that it would call.
        time.sleep(4 * SESSION_S)
        work.until_goes_on()
        assert cluster.metadata_leader == controller
        healed(network, cluster, work)
        assert cluster.metadata_leader == controller
        work.settle()


@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_two_who_do_not_reach_each_other_and_a_third_that_both_reach(make, chance):
    """A bridge: whoever leads, somebody can't reach it."""
    network, cluster = make(3)
    with Workload(cluster) as work:
        for _ in range(ROUNDS):
            one, other = chance.sample(sorted(cluster.nodes), 2)
            network.split([one], [other])
            # Neither is asked, as one of them may know little.
            cluster.apart |= {one, other}
            time.sleep(chance.uniform(1, 2) * SESSION_S)
            work.until_goes_on()
            healed(network, cluster, work)
        work.settle()


@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_the_larger_half_of_five_goes_on_and_the_smaller_does_not(make, chance):
    network, cluster = make(5, voters=5)
    # Of some partitions only one replica is with the larger half.
    with Workload(cluster, partitions=8, min_insync_replicas=1) as work:
        for _ in range(ROUNDS):
            small = chance.sample(sorted(cluster.nodes), 2)
            large = [number for number in cluster.nodes if number not in small]
            network.split(small, large)
            cluster.apart |= set(small)
            for partition in range(work.partitions):
                assert cluster.leader_of(work.topic, partition) in large
            work.until_goes_on()
            assert cluster.status().found["fenced"] == sorted(small)
            healed(network, cluster, work)
        work.settle()


def test_a_network_that_loses_datagrams_is_slower_and_that_is_all(make):
    network, cluster = make(3)
    with Workload(cluster) as work:
        with network.lossy(10):
            began = time.monotonic()
            while time.monotonic() < began + 4 * SESSION_S:
                work.until_goes_on()
            # No broker is missed for what is lost now and then.
            assert cluster.is_well(), cluster.status()
        work.no_send_failed()
        work.settle()


def test_a_network_that_delays_and_reorders_is_slower_and_that_is_all(make):
    network, cluster = make(3)
    with Workload(cluster) as work:
        with network.slow(delay_ms=40, jitter_ms=30):
            began = time.monotonic()
            while time.monotonic() < began + 4 * SESSION_S:
                work.until_goes_on()
        work.no_send_failed()
        work.settle()

"""A broker whose data is gone: the cluster gives it all again, and says what has to be done first where it votes.

    tests/tools pytest tests/cluster/test_lost_disk.py
"""

import shutil

from cluster import replicas
from cluster.workload import Workload
from compat.clients import LibRdKafka
from harness.batch import Record
from harness.broker import run

LOST = 3
COUNT = 500


def refused(node, words):
    """Starts a broker that has to end by itself, and say so."""
    node.launch()
    status, said = node.ended()
    assert status == 1 and words in said, f"{status}: {said}"


def test_a_voter_that_lost_everything_is_let_in_once_its_vote_is_taken(three):
    with Workload(three) as work:
        three.kill(LOST)
        shutil.rmtree(three.nodes[LOST].data[0])
        work.until_goes_on()
        # It could vote twice in a term, as it has forgotten that it did.
        del three.nodes[LOST]
        back = three.joining(LOST)
        refused(back, f"alluvium cluster remove-voter {LOST}")
        run("cluster", "remove-voter", LOST, "--bootstrap", three.bootstrap)
        three.nodes[LOST] = back
        three.start(LOST)
        three.until_well()
        work.until_goes_on()
        work.no_send_failed()
        work.settle()
    replicas.agreed(three, "__consumer_offsets")


def test_a_broker_without_a_vote_is_let_in_again_with_an_empty_disk(make_cluster):
    cluster = make_cluster(4)
    (observer,) = [node["id"] for node in cluster.status().found["observers"]]
    with Workload(cluster) as work:
        cluster.kill(observer)
        shutil.rmtree(cluster.nodes[observer].data[0])
        # Its token is still good, and nothing tells it from a broker that never was a member.
        cluster.start(observer)
        cluster.until_well()
        work.no_send_failed()
        work.settle()


def test_a_node_elsewhere_takes_the_number_of_one_that_is_gone(three, fresh_name):
    topic = three.create(fresh_name("moved"), partitions=4, min_insync_replicas=2)
    client = LibRdKafka(three.bootstrap)
    client.produce(topic, [Record(b"%d" % number) for number in range(COUNT)])
    three.kill(LOST)
    gone = three.nodes.pop(LOST)
    run("cluster", "remove-voter", LOST, "--bootstrap", three.bootstrap)
    elsewhere = three.joining(LOST, directory=three.directory / "elsewhere")
    assert elsewhere.bootstrap != gone.bootstrap and elsewhere.peer != gone.peer
    three.nodes[LOST] = elsewhere
    three.start(LOST)
    three.until_well()
    three.wait_isr(topic, 3)
    replicas.agreed(three, topic)
    found = LibRdKafka(elsewhere.bootstrap).consume(topic, 0, 0, COUNT)
    assert [int(record.value) for record in found] == list(range(COUNT))


def test_a_second_disk_that_is_replaced_by_an_empty_one_is_filled_again(make_cluster):
    cluster = make_cluster(2)
    third = cluster.joining(LOST)
    third.data = [third.directory / "data", third.directory / "second"]
    cluster.nodes[LOST] = third
    cluster.start(LOST)
    cluster.until_well()
    with Workload(cluster, partitions=8) as work:
        topic_id = cluster.topic_id(work.topic)
        assert (third.data[1] / "topics" / topic_id).exists(), "nothing lies on the second disk"
        cluster.kill(LOST)
        shutil.rmtree(third.data[1])
        third.data[1].mkdir()
        cluster.start(LOST)
        work.until_goes_on()
        cluster.wait_isr(work.topic, 3)
        work.no_send_failed()
        work.settle()


def test_a_broker_that_is_gone_for_good_is_forgotten(make_cluster, eventually):
    cluster = make_cluster(4)
    (observer,) = [node["id"] for node in cluster.status().found["observers"]]
    cluster.kill(observer)
    gone = cluster.nodes.pop(observer)
    # It is fenced once it is missed, and what to do about it is said.
    advice = f"alluvium cluster unregister {observer}"
    eventually(lambda: advice in run("cluster", "status", "--bootstrap", cluster.bootstrap))
    run("cluster", "unregister", observer, "--bootstrap", cluster.bootstrap)
    cluster.until_well()
    assert gone.number not in [broker["id"] for broker in cluster.status().found["brokers"]]

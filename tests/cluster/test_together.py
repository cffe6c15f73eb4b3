"""Three brokers from nothing, and what clients, our own command and Apache Kafka's console tools see of them.

    tests/tools pytest tests/cluster/test_together.py
"""

import json
import re

import pytest

from cluster import replicas
from cluster.nodes import HEALTHY, Cluster
from compat.clients import AioKafka, Kcat, KafkaPython, LibRdKafka
from compat.clients.base import Refused
from compat.clients.console import Tools, tool
from conftest import need
from harness.batch import Record
from harness.broker import Alluvium, run

COUNT = 100
TOPICS = "org.apache.kafka.tools.TopicCommand"
LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
ELECT = "org.apache.kafka.tools.LeaderElectionCommand"
QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
DESCRIBED = re.compile(r"Partition: (\d+)\s+Leader: (\S+)\s+Replicas: (\S*)\s+Isr: (\S*)")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """One cluster for all cases, which leave it well."""
    cluster = Cluster(tmp_path_factory.mktemp("together"))
    try:
        yield cluster.form(3)
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def kafka(three):
    """Runs a console tool by its class."""
    need("java")
    tools = Tools(three.bootstrap)
    yield tools.run
    tools.close()


def values(count=COUNT):
    return [Record(b"%d" % number) for number in range(count)]


def described(kafka, topic, *options):
    """Leader, replicas and replicas in sync of each partition that kafka-topics lists."""
    numbers = lambda text: [int(one) for one in text.split(",") if one]
    found = DESCRIBED.findall(kafka(TOPICS, "--describe", "--topic", topic, *options))
    return {int(partition): (leader, numbers(holders), numbers(isr)) for partition, leader, holders, isr in found}


def test_three_brokers_are_one_cluster(three):
    status = three.status()
    assert status.exit == HEALTHY, status
    found = status.found
    assert [broker["id"] for broker in found["brokers"]] == [1, 2, 3]
    addresses = [f"{broker['host']}:{broker['port']}" for broker in found["brokers"]]
    assert addresses == [node.bootstrap for node in three.nodes.values()]
    assert sorted(voter["id"] for voter in found["voters"]) == [1, 2, 3] and found["leader"] in (1, 2, 3)
    assert found["observers"] == found["fenced"] == found["offline"] == found["under_replicated"] == found["reassigning"] == []


@pytest.mark.parametrize("client", [LibRdKafka, KafkaPython, AioKafka, Kcat], ids=lambda client: client.name)
def test_what_is_produced_by_one_broker_is_consumed_by_another(three, client, fresh_name):
    if client is Kcat:
        need("kcat")
    topic = three.create(fresh_name("together"), min_insync_replicas=2)
    one, other = (client(three.nodes[number].bootstrap) for number in (1, 2))
    try:
        one.produce(topic, values())
        assert [record.value for record in other.consume(topic, 0, 0, COUNT)] == [record.value for record in values()]
    finally:
        one.close()
        other.close()
    replicas.agreed(three, topic)


def test_topics_get_three_replicas_where_nobody_says_how_many(three, fresh_name):
    topic = three.create(fresh_name("default"), replicas=-1)
    (place,) = three.describe(topic).values()
    assert sorted(place.replicas) == [1, 2, 3]


def test_topics_are_made_and_changed_through_any_broker(three, fresh_name, eventually):

    def has(client, topic, partitions):
        try:
            return client.partition_count(topic) == partitions
        except Refused:
            return False

    for number, node in three.nodes.items():
        topic, client = fresh_name(f"through-{number}"), LibRdKafka(node.bootstrap)
        client.create_topic(topic, 2, {"retention.ms": "12345"})
        for other in three.nodes.values():
            elsewhere = LibRdKafka(other.bootstrap)
            eventually(lambda: has(elsewhere, topic, 2))
            assert elsewhere.describe_config(topic)["retention.ms"] == "12345"
        client.delete_topic(topic)


def test_kafka_topics_tells_where_partitions_are(three, kafka, fresh_name):
    topic = three.create(fresh_name("described"), partitions=6)
    found = described(kafka, topic)
    assert found.keys() == set(range(6))
    for partition, place in three.describe(topic).items():
        leader, holders, isr = found[partition]
        assert (int(leader), holders, sorted(isr)) == (place.leader, place.replicas, [1, 2, 3])
    assert described(kafka, topic, "--under-replicated-partitions") == {}
    assert described(kafka, topic, "--unavailable-partitions") == {}


def test_kafka_topics_tells_what_is_lacking_while_a_broker_is_down(three, kafka, fresh_name):
    topic = three.create(fresh_name("lacking"), partitions=3, min_insync_replicas=2)
    alone = three.create(fresh_name("alone"), partitions=3, replicas=1)
    on_two = {partition for partition, place in three.describe(alone).items() if place.replicas == [2]}
    three.kill(2)
    three.wait_isr(topic, 2)
    lacking = described(kafka, topic, "--under-replicated-partitions")
    assert {partition: sorted(isr) for partition, (_, _, isr) in lacking.items()} == {0: [1, 3], 1: [1, 3], 2: [1, 3]}
    assert described(kafka, topic, "--under-min-isr-partitions") == {}
    assert described(kafka, topic, "--at-min-isr-partitions").keys() == {0, 1, 2}
    assert described(kafka, alone, "--unavailable-partitions").keys() == on_two
    three.start(2)
    three.until_well()
    assert described(kafka, topic, "--under-replicated-partitions") == described(kafka, alone, "--unavailable-partitions") == {}


def test_kafka_metadata_quorum_tells_who_leads_and_who_votes(three):
    need("java")
    leader = three.metadata_leader
    status = tool(three.bootstrap, QUORUM, "describe", "--status")
    assert re.search(r"LeaderId:\s+(\d+)", status)[1] == str(leader), status
    voters = next(line for line in status.splitlines() if line.startswith("CurrentVoters:"))
    assert sorted(map(int, re.findall(r'"id": (\d+)', voters))) == [1, 2, 3], status
    rows = [line.split() for line in tool(three.bootstrap, QUORUM, "describe", "--replication").splitlines()]
    roles = {int(row[0]): row[-1] for row in rows if row and row[0].isdigit()}
    assert roles == {number: "Leader" if number == leader else "Follower" for number in three.nodes}


def test_kafka_log_dirs_tells_what_each_broker_holds(three, kafka, fresh_name, eventually):
    topic = three.create(fresh_name("dirs"))
    LibRdKafka(three.bootstrap).produce(topic, values())
    end = replicas.agreed(three, topic)

    def sizes():
        text = kafka(LOG_DIRS, "--describe", "--topic-list", topic, "--broker-list", "1,2,3")
        found = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
        held = {}
        for broker in found["brokers"]:
            for directory in broker["logDirs"]:
                assert directory["error"] is None
                for one in directory["partitions"]:
                    assert one["partition"] == f"{topic}-0" and not one["isFuture"]
                    held[broker["broker"]] = one["size"], one["offsetLag"]
        return held

    def all_the_same():
        held = sizes()
        return held.keys() == {1, 2, 3} and {lag for _, lag in held.values()} == {0}

    eventually(all_the_same)
    assert all(size >= sum(map(len, end[0].values())) for size, _ in sizes().values())


def test_kafka_reassign_partitions_moves_replicas_and_tells_when(three, kafka, fresh_name, eventually, tmp_path):
    topic = three.create(fresh_name("moved"), replicas=1)
    LibRdKafka(three.bootstrap).produce(topic, values())
    (place,) = three.describe(topic).values()
    target = [node for node in (1, 2, 3) if node not in place.replicas]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": target}]}))
    # From one replica to two: the tool asks whether the number may change, and it may.
    assert "Successfully started" in kafka(REASSIGN, "--reassignment-json-file", str(plan), "--execute")
    verified = lambda: kafka(REASSIGN, "--reassignment-json-file", str(plan), "--verify", "--preserve-throttles")
    eventually(lambda: f"Reassignment of partition {topic}-0 is completed" in verified())
    assert "No partition reassignments found" in kafka(REASSIGN, "--list")
    (moved,) = three.describe(topic).values()
    assert moved.replicas == target and sorted(moved.isr) == target and moved.leader in target
    found = LibRdKafka(three.bootstrap).consume(topic, 0, 0, COUNT)
    assert [record.value for record in found] == [record.value for record in values()]
    replicas.agreed(three, topic)


def test_kafka_leader_election_has_the_preferred_replica_lead(three, kafka, fresh_name, eventually):
    topic = three.create(fresh_name("elected"), min_insync_replicas=2)
    preferred = three.describe(topic)[0].replicas[0]
    if three.leader_of(topic) == preferred:
        three.kill(preferred)
        eventually(lambda: three.describe(topic)[0].leader not in (preferred, -1))
        three.start(preferred)
        three.wait_isr(topic, 3)
    elect = ["--election-type", "preferred", "--topic", topic, "--partition", "0"]
    # It may lead already, if the cluster balances by itself.
    told = kafka(ELECT, *elect)
    assert "Successfully completed leader election" in told or "Valid replica already elected" in told, told
    eventually(lambda: three.describe(topic)[0].leader == preferred)
    three.until_well()


def test_a_broker_by_itself_becomes_the_first_of_three_with_all_it_had(make_cluster, fresh_name):
    cluster = make_cluster(1)
    topic, group = cluster.create(fresh_name("before"), replicas=1), fresh_name("group")
    client = LibRdKafka(cluster.bootstrap)
    client.produce(topic, values())
    assert len(client.consume_group(topic, group, COUNT // 2)) == COUNT // 2
    cluster.add(2)
    cluster.add(3)
    cluster.until_well()
    # What the cluster keeps for itself gets as many replicas as there are brokers.
    cluster.wait_isr("__consumer_offsets", 3)
    client = LibRdKafka(cluster.bootstrap)
    assert client.committed(group) == COUNT // 2
    found = client.consume(topic, 0, 0, COUNT)
    assert [record.value for record in found] == [record.value for record in values()]


def test_a_data_directory_of_a_lone_broker_becomes_the_first_of_three(make_cluster, fresh_name):
    """The broker was never told of peers before, and keeps its identity."""
    cluster, topic = make_cluster(0), fresh_name("lone")
    lone = Alluvium(cluster.directory / "broker-1", "--object-store", cluster.store)
    try:
        client = LibRdKafka(lone.bootstrap)
        client.create_topic(topic, 1, {})
        client.produce(topic, values())
        cluster_id = json.loads(run("cluster", "status", "--json", "--bootstrap", lone.bootstrap))["cluster_id"]
        lone.stop()
    finally:
        lone.kill()
    for number in (1, 2, 3):
        cluster.add(number)
    cluster.until_well()
    assert cluster.status().found["cluster_id"] == cluster_id
    found = LibRdKafka(cluster.nodes[2].bootstrap).consume(topic, 0, 0, COUNT)
    assert [record.value for record in found] == [record.value for record in values()]

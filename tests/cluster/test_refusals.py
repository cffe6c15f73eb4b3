"""What a cluster refuses, and what it says where it can't go on: each time what is wrong and what to do.

    tests/tools pytest tests/cluster/test_refusals.py
"""

import subprocess
import time

import pytest

from cluster.nodes import OFFLINE, Cluster
from harness import batch
from harness.broker import binary, run
from harness.wire import Connection

FAILED, USAGE, UNREACHABLE = 1, 2, 4  # how alluvium ends
STRANGER = 7
ACKS_ALL = -1
NO_TOKEN = "no token is like this"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """One cluster for all cases, which leave it well."""
    cluster = Cluster(tmp_path_factory.mktemp("refusals"))
    try:
        yield cluster.form(3)
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another cluster, of one."""
    cluster = Cluster(tmp_path_factory.mktemp("other"))
    try:
        yield cluster.form(1)
    finally:
        cluster.end()


@pytest.fixture
def stranger(three, tmp_path):
    """A broker that is none of the cluster's, and is refused; it tells with which status and words it ended."""

    def refused(number=STRANGER, **options):
        status, said = end_of(three.joining(number, directory=tmp_path / "stranger", **options))
        assert options.get("token", NO_TOKEN) not in said
        return status, said

    yield refused
    assert three.is_well(), three.status()
    assert STRANGER not in [broker["id"] for broker in three.status().found["brokers"]]


def end_of(node):
    node.launch()
    status, said = node.ended()
    assert "panicked" not in said, said
    return status, said


def test_a_token_that_is_none(stranger):
    status, said = stranger(token="alv1.nonsense")
    assert status == USAGE and "this is no join token" in said


def test_a_token_that_has_ended(three, stranger):
    token = three.token("--valid", "1s")
    time.sleep(2)
    status, said = stranger(token=token)
    assert status == FAILED and "the join token ended" in said and "make a new one" in said


def test_a_token_of_another_cluster(other, stranger):
    status, said = stranger(token=other.token())
    assert status == FAILED and "refuses" in said


def test_no_token(three, tmp_path):
    node = three.new(STRANGER, "--join", three.nodes[1].peer, directory=tmp_path / "stranger")
    status, said = end_of(node)
    assert status == USAGE and "joining needs a token" in said and "alluvium cluster token" in said


def test_the_store_of_another_cluster(other, stranger):
    status, said = stranger(store=other.store)
    assert status == FAILED and "object store is not the cluster's" in said and "--object-store of the others" in said


def test_an_empty_store(stranger, tmp_path):
    status, said = stranger(store=f"file://{tmp_path / 'empty'}")
    assert status == FAILED and "the object store holds nothing of the cluster" in said
    assert "--object-store of the others" in said


def test_a_number_that_is_taken(stranger):
    status, said = stranger(number=2)
    assert status == FAILED and "another --node-id" in said


def test_a_cluster_is_not_begun_in_the_store_of_another(three, tmp_path):
    """As by who forgets --join: an empty directory begins a cluster."""
    status, said = end_of(three.new(STRANGER, directory=tmp_path / "stranger"))
    assert status == FAILED and "cluster" in said and "object store" in said


def test_members_that_do_not_answer(three, tmp_path, full):
    if not full:
        pytest.skip("a broker asks for a minute before it gives up: run with --full")
    token = three.write_token(three.token())
    nobody = three.new(8, directory=tmp_path / "nobody").peer
    node = three.new(STRANGER, "--join", nobody, "--join-token-file", token, directory=tmp_path / "stranger")
    node.launch()
    status, said = node.ended(within_s=180)
    assert status == UNREACHABLE and "no member of the cluster can be reached" in said and nobody in said


def test_no_token_is_to_be_had_where_no_member_is(tmp_path):
    (tmp_path / "empty").mkdir()
    said = run("cluster", "token", "--data-dir", tmp_path / "empty", status=FAILED)
    assert "--peer-listen" in said and "--data-dir" in said


def test_a_token_is_not_told_to_whoever_reads_logs(three):
    tokens = [path.read_text().strip().split(".", 1)[1] for path in three.directory.glob("token-*")]
    assert tokens
    for node in three.nodes.values():
        log = node.log.read_text(errors="replace")
        assert not any(token in log for token in tokens)


def test_the_status_of_a_cluster_that_is_down(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.nodes[1] = cluster.new(1)
    status = cluster.status(timeout="2s")
    assert status.exit == UNREACHABLE and cluster.nodes[1].bootstrap in status.said


def produce(node, topic, value):
    """The error code of one produce request with acks=all."""
    entry = {"Name": topic, "PartitionData": [{"Index": 0, "Records": batch.build([batch.Record(value)])}]}
    with Connection(node.bootstrap, 60) as connection:
        answer = connection.ask("Produce", 9, {"Acks": ACKS_ALL, "TimeoutMs": 5000, "TopicData": [entry]})
    return answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"]


def test_a_lost_quorum_is_told_and_acknowledges_nothing(make_cluster, eventually):
    cluster = make_cluster(3)
    topic = cluster.create("quorum", min_insync_replicas=2)
    left = cluster.leader_of(topic)
    gone = [number for number in cluster.nodes if number != left]
    assert produce(cluster.nodes[left], topic, b"before") == 0
    cluster.kill(*gone)
    # Nobody is fenced, as there is nobody to decide that; but nobody decides is said.
    eventually(lambda: cluster.status().exit == OFFLINE)
    status = cluster.status()
    assert status.found["leader"] is None and status.found["voters"] == []
    assert "the metadata has no leader: more than half of its voters have to run" in status.said
    shown = subprocess.run(
        [binary(), "cluster", "status", "--bootstrap", cluster.nodes[left].bootstrap], capture_output=True, text=True
    )
    assert shown.returncode == OFFLINE and "NO LEADER" in shown.stdout
    assert produce(cluster.nodes[left], topic, b"meanwhile") != 0
    began = time.monotonic()
    wanted = {"Name": "impossible", "NumPartitions": 1, "ReplicationFactor": 1}
    with Connection(cluster.nodes[left].bootstrap, 60) as connection:
        made = connection.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 3000})["Topics"][0]
    assert made["ErrorCode"] != 0 and time.monotonic() - began < 30, made
    # One more is a majority.
    cluster.start(gone[0])
    cluster.wait_isr(topic, 2)
    eventually(lambda: cluster.status().found["fenced"] == [gone[1]])
    eventually(lambda: produce(cluster.nodes[cluster.leader_of(topic)], topic, b"after") == 0)
    cluster.start(gone[1])
    cluster.until_well()

"""Apache Kafka's console tools for administrators."""

import json

import pytest

from compat.clients import LibRdKafka
from compat.clients.base import Refused
from compat.clients.console import Tools
from harness.batch import Record

COUNT = 10


@pytest.fixture(scope="module")
def run(broker):
    """Runs a tool by its short name."""
    names = {
        "topics": "org.apache.kafka.tools.TopicCommand",
        "configs": "kafka.admin.ConfigCommand",
        "groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "offsets": "org.apache.kafka.tools.GetOffsetShell",
        "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
        "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
        "cluster": "org.apache.kafka.tools.ClusterTool",
        "versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    }
    tools = Tools(broker.bootstrap)
    yield lambda name, *arguments: tools.run(names[name], *arguments)
    tools.close()


@pytest.fixture
def filled(clients, new_topic):
    """A topic of one partition with records of times 1000, 2000, …"""
    topic = new_topic()
    clients(LibRdKafka).produce(topic, [Record(b"%d" % n, timestamp=1000 * (n + 1)) for n in range(COUNT)])
    return topic


@pytest.fixture
def group(clients, filled, fresh_name):
    """An empty group that has committed half of the topic."""
    name = fresh_name("console")
    clients(LibRdKafka).consume_group(filled, name, COUNT // 2)
    return name


def test_topics(run, fresh_name):
    topic = fresh_name("console")
    create = ["--create", "--topic", topic, "--partitions", "2", "--config", "segment.bytes=1048576"]
    run("topics", *create)
    run("topics", *create, "--if-not-exists")
    with pytest.raises(Refused, match="already exists"):
        run("topics", *create)
    assert topic in run("topics", "--list")
    described = run("topics", "--describe", "--topic", topic)
    assert "PartitionCount: 2" in described and "segment.bytes=1048576" in described
    assert topic in run("topics", "--describe", "--topics-with-overrides")
    assert topic not in run("topics", "--describe", "--unavailable-partitions")
    assert topic not in run("topics", "--describe", "--under-replicated-partitions")
    run("topics", "--alter", "--topic", topic, "--partitions", "3")
    assert "PartitionCount: 3" in run("topics", "--describe", "--topic", topic)
    run("topics", "--delete", "--topic", topic)
    assert topic not in run("topics", "--list").split()


def test_configurations_of_a_topic(run, new_topic):
    of_topic = ["--entity-type", "topics", "--entity-name", new_topic()]
    run("configs", *of_topic, "--alter", "--add-config", "retention.ms=99999,cleanup.policy=[delete]")
    assert "retention.ms=99999" in run("configs", *of_topic, "--describe")
    every = run("configs", *of_topic, "--describe", "--all")
    assert "DYNAMIC_TOPIC_CONFIG:retention.ms=99999" in every and "max.message.bytes" in every
    run("configs", *of_topic, "--alter", "--delete-config", "retention.ms")
    assert "retention.ms=99999" not in run("configs", *of_topic, "--describe")
    with pytest.raises(Refused):
        run("configs", *of_topic, "--alter", "--add-config", "retention.ms=soon")
    with pytest.raises(Refused):
        run("configs", *of_topic, "--alter", "--add-config", "no.such.config=1")


def test_configurations_of_brokers(run):
    one, default = ["--entity-type", "brokers", "--entity-name", "1"], ["--entity-type", "brokers", "--entity-default"]
    every = run("configs", *one, "--describe", "--all")
    assert "group.min.session.timeout.ms" in every and "log.dirs" in every
    for broker, source in [(default, "DYNAMIC_DEFAULT_BROKER_CONFIG"), (one, "DYNAMIC_BROKER_CONFIG")]:
        run("configs", *broker, "--alter", "--add-config", "log.segment.bytes=2097152")
        assert "log.segment.bytes=2097152" in run("configs", *broker, "--describe")
        assert f"{source}:log.segment.bytes=2097152" in run("configs", *one, "--describe", "--all")
        run("configs", *broker, "--alter", "--delete-config", "log.segment.bytes")
    assert "log.segment.bytes=2097152" not in run("configs", *one, "--describe")
    with pytest.raises(Refused, match="Cannot update these configs dynamically"):
        run("configs", *one, "--alter", "--add-config", "log.dirs=/elsewhere")


def offset_of(run, group, topic):
    """CURRENT-OFFSET, LOG-END-OFFSET and LAG that the tool shows."""
    described = run("groups", "--describe", "--group", group)
    row = next(line.split() for line in described.splitlines() if topic in line)
    return tuple(map(int, row[3:6]))


def test_groups_are_listed_and_described(run, filled, group):
    assert group in run("groups", "--list")
    assert any(group in line and "Empty" in line for line in run("groups", "--list", "--state").splitlines())
    assert group in run("groups", "--list", "--state", "empty") and group not in run("groups", "--list", "--state", "stable")
    assert any(group in line and "Classic" in line for line in run("groups", "--list", "--type").splitlines())
    assert offset_of(run, group, filled) == (5, 10, 5)
    state = run("groups", "--describe", "--group", group, "--state")
    assert any(group in line and "Empty" in line for line in state.splitlines())
    run("groups", "--describe", "--group", group, "--members")
    assert filled in run("groups", "--describe", "--all-groups", "--offsets")


def test_members_of_a_group_are_described(run, clients, filled, fresh_name):
    group = fresh_name("console")
    member = clients(LibRdKafka)._consumer(group)
    member.subscribe([filled])
    for _ in range(600):
        member.poll(0.05)
        if member.assignment():
            break
    members = run("groups", "--describe", "--group", group, "--members", "--verbose")
    assert any(group in line and filled in line for line in members.splitlines())
    state = run("groups", "--describe", "--group", group, "--state")
    assert any(group in line and "Stable" in line for line in state.splitlines())
    with pytest.raises(Refused, match="inactive|not empty|Stable"):
        run("groups", "--delete", "--group", group)
    member.close()


RESETS = [
    (["--to-earliest"], 0),
    (["--to-latest"], 10),
    (["--to-offset", "3"], 3),
    (["--shift-by", "-2"], 3),
    (["--shift-by", "2"], 7),
    (["--to-current"], 5),
    (["--to-datetime", "1970-01-01T00:00:07.000"], 6),
    (["--by-duration", "PT1S"], 10),
]


@pytest.mark.parametrize(("how", "expected"), RESETS, ids=[how[0][2:] + "".join(how[1:]) for how, _ in RESETS])
def test_offsets_of_a_group_are_reset(run, filled, group, how, expected):
    reset = ["--group", group, "--topic", filled, "--reset-offsets", *how]
    shown = run("groups", *reset, "--dry-run")
    assert str(expected) in [line for line in shown.splitlines() if filled in line][-1].split(), shown
    assert offset_of(run, group, filled)[0] == 5
    run("groups", *reset, "--execute")
    assert offset_of(run, group, filled) == (expected, 10, 10 - expected)


def test_offsets_of_a_group_go_through_a_file(run, filled, group, tmp_path):
    exported = run("groups", "--group", group, "--topic", filled, "--reset-offsets", "--to-earliest", "--export", "--dry-run")
    plan = tmp_path / "plan.csv"
    plan.write_text(next(line for line in exported.splitlines() if filled in line) + "\n")
    run("groups", "--group", group, "--reset-offsets", "--from-file", str(plan), "--execute")
    assert offset_of(run, group, filled)[0] == 0


def test_offsets_and_groups_are_deleted(run, filled, group):
    run("groups", "--delete-offsets", "--group", group, "--topic", filled)
    assert filled not in run("groups", "--describe", "--group", group)
    run("groups", "--group", group, "--topic", filled, "--reset-offsets", "--to-earliest", "--execute")
    run("groups", "--delete", "--group", group)
    assert group not in run("groups", "--list")
    with pytest.raises(Refused):
        run("groups", "--delete", "--group", group)


def test_offsets_of_a_topic_at_every_special_time(run, filled):
    at = lambda *arguments: run("offsets", "--topic", filled, *arguments).strip()
    assert at() == f"{filled}:0:10"
    for named, number, expected in [
        ("latest", "-1", 10),
        ("earliest", "-2", 0),
        ("max-timestamp", "-3", 9),
        ("earliest-local", "-4", 0),
        (None, "3500", 3),
    ]:
        times = [time for time in (named, number) if time]
        assert [at("--time", time) for time in times] == [f"{filled}:0:{expected}"] * len(times)
    # Nothing of it is archived yet: the tool leaves a partition without an answer out, or says where uploads begin.
    assert at("--time", "latest-tiered") in ("", f"{filled}:0:-1")
    assert at("--time", "earliest-pending-upload") in ("", f"{filled}:0:-1", f"{filled}:0:0")


def test_records_are_deleted(run, filled, tmp_path):
    wanted = tmp_path / "delete.json"
    wanted.write_text(json.dumps({"version": 1, "partitions": [{"topic": filled, "partition": 0, "offset": 3}]}))
    assert "low_watermark: 3" in run("delete-records", "--offset-json-file", str(wanted))
    assert run("offsets", "--topic", filled, "--time", "earliest").strip() == f"{filled}:0:3"


def test_log_directories(run, filled):
    described = run("log-dirs", "--describe", "--topic-list", filled)
    found = json.loads(next(line for line in described.splitlines() if line.startswith("{")))
    directories = found["brokers"][0]["logDirs"]
    (partition,) = [one for directory in directories for one in directory["partitions"] if one["partition"] == f"{filled}-0"]
    assert partition["size"] > 0 and partition["offsetLag"] == 0 and not partition["isFuture"]
    assert all(directory["error"] is None for directory in directories)


def test_the_cluster_and_its_versions(run):
    assert "Cluster ID:" in run("cluster", "cluster-id")
    assert "Produce(0): " in run("versions") and "UNSUPPORTED" in run("versions")

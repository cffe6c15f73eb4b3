"""Topics and their configurations by every client that has an admin interface, and by the console tools."""

import pytest

from compat.clients import ALL, LibRdKafka
from compat.clients.base import Refused
from compat.clients.console import tool
from harness.batch import Record

ADMINS = [client for client in ALL if hasattr(client, "create_topic")]


@pytest.mark.parametrize("admin", ADMINS, ids=lambda client: client.name)
def test_topics_live_and_die(clients, admin, fresh_name, eventually):
    client, topic = clients(admin), fresh_name("admin")
    client.create_topic(topic, 2, {"retention.ms": "86400000"})
    eventually(lambda: client.partition_count(topic) == 2)
    with pytest.raises(Refused):
        client.create_topic(topic, 2, {})
    with pytest.raises(Refused):
        client.create_topic(fresh_name("admin"), 1, {"retention.ms": "soon"})
    assert client.describe_config(topic)["retention.ms"] == "86400000"
    client.alter_config(topic, {"retention.ms": "1234567"})
    eventually(lambda: client.describe_config(topic)["retention.ms"] == "1234567")
    with pytest.raises(Refused):
        client.alter_config(topic, {"no.such.config": "1"})
    client.add_partitions(topic, 3)
    eventually(lambda: client.partition_count(topic) == 3)
    with pytest.raises(Refused):
        client.add_partitions(topic, 2)
    client.delete_topic(topic)
    with pytest.raises(Refused):
        client.delete_topic(topic)


@pytest.mark.parametrize("admin", ADMINS, ids=lambda client: client.name)
def test_records_are_deleted_up_to_an_offset(clients, admin, new_topic):
    client, topic = clients(admin), new_topic()
    clients(LibRdKafka).produce(topic, [Record(b"%d" % n) for n in range(10)])
    client.delete_records(topic, 0, 4)
    assert client.list_offset(topic, 0, -2) == 4
    assert [record.offset for record in client.consume(topic, 0, 4, 6)] == list(range(4, 10))
    with pytest.raises(Refused):
        client.delete_records(topic, 0, 11)


def test_the_console_tools_manage_topics(broker, fresh_name):
    topics = lambda *arguments: tool(broker.bootstrap, "org.apache.kafka.tools.TopicCommand", *arguments)
    configs = lambda *arguments: tool(broker.bootstrap, "kafka.admin.ConfigCommand", *arguments)
    topic = fresh_name("console")
    topics("--create", "--topic", topic, "--partitions", "2", "--config", "segment.bytes=1048576")
    assert topic in topics("--list")
    described = topics("--describe", "--topic", topic)
    assert "PartitionCount: 2" in described and "segment.bytes=1048576" in described
    topics("--alter", "--topic", topic, "--partitions", "3")
    assert "PartitionCount: 3" in topics("--describe", "--topic", topic)
    configs("--entity-type", "topics", "--entity-name", topic, "--alter", "--add-config", "retention.ms=99999")
    assert "retention.ms=99999" in configs("--entity-type", "topics", "--entity-name", topic, "--describe")
    configs("--entity-type", "topics", "--entity-name", topic, "--alter", "--delete-config", "retention.ms")
    assert "retention.ms=99999" not in configs("--entity-type", "topics", "--entity-name", topic, "--describe")
    topics("--delete", "--topic", topic)
    assert topic not in topics("--list").split()


def test_the_console_tools_manage_groups_offsets_and_records(broker, clients, new_topic, fresh_name, tmp_path):
    topic, group = new_topic(), fresh_name("console")
    clients(LibRdKafka).produce(topic, [Record(b"%d" % n) for n in range(10)])
    clients(LibRdKafka).consume_group(topic, group, 5)
    name = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    groups = lambda *arguments: tool(broker.bootstrap, name, *arguments)
    assert group in groups("--list")
    row = next(line.split() for line in groups("--describe", "--group", group).splitlines() if topic in line)
    assert row[3:6] == ["5", "10", "5"]
    groups("--group", group, "--topic", topic, "--reset-offsets", "--to-earliest", "--execute")
    row = next(line.split() for line in groups("--describe", "--group", group).splitlines() if topic in line)
    assert row[3:6] == ["0", "10", "10"]
    assert f"{topic}:0:10" in tool(broker.bootstrap, "org.apache.kafka.tools.GetOffsetShell", "--topic", topic)
    wanted = tmp_path / "delete.json"
    wanted.write_text(f'{{"version": 1, "partitions": [{{"topic": "{topic}", "partition": 0, "offset": 3}}]}}')
    deleted = tool(broker.bootstrap, "org.apache.kafka.tools.DeleteRecordsCommand", "--offset-json-file", str(wanted))
    assert "low_watermark: 3" in deleted
    assert topic in tool(broker.bootstrap, "org.apache.kafka.tools.LogDirsCommand", "--describe", "--topic-list", topic)
    groups("--delete", "--group", group)
    assert group not in groups("--list")

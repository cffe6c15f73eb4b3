"""Topics and their configurations by every client that has an admin interface."""

import pytest

from compat.clients import ALL, LibRdKafka
from compat.clients.base import Refused
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

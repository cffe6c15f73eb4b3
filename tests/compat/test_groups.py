"""Consumer groups: what one member committed is where the next begins, whichever client it is."""

import pytest

from compat.clients import ALL, LibRdKafka
from compat.clients.base import Refused
from harness.batch import Record

MEMBERS = [client for client in ALL if hasattr(client, "consume_group")]
ADMINS = [client for client in ALL if hasattr(client, "describe_group")]
HALF = 50


def fill(clients, topic):
    clients(LibRdKafka).produce(topic, [Record(b"%d" % n, b"k", [], 1_000_000 + n) for n in range(2 * HALF)])


@pytest.mark.parametrize("member", MEMBERS, ids=lambda client: client.name)
def test_a_group_resumes_where_it_committed(clients, member, new_topic, fresh_name):
    topic, group = new_topic(), fresh_name("group")
    fill(clients, topic)
    first = clients(member).consume_group(topic, group, HALF)
    second = clients(member).consume_group(topic, group, HALF)
    assert [int(record.value) for record in first + second] == list(range(2 * HALF))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda client: client.name)
def test_what_one_client_committed_another_resumes(clients, member, new_topic, fresh_name):
    topic, group = new_topic(), fresh_name("group")
    fill(clients, topic)
    clients(LibRdKafka).consume_group(topic, group, HALF)
    rest = clients(member).consume_group(topic, group, HALF)
    assert [int(record.value) for record in rest] == list(range(HALF, 2 * HALF))


@pytest.mark.parametrize("admin", ADMINS, ids=lambda client: client.name)
def test_groups_are_listed_described_and_deleted(clients, admin, new_topic, fresh_name):
    topic, group = new_topic(), fresh_name("group")
    fill(clients, topic)
    clients(LibRdKafka).consume_group(topic, group, HALF)
    client = clients(admin)
    assert group in client.list_groups()
    assert client.describe_group(group) == "Empty"
    assert client.committed(group) == HALF
    client.delete_group(group)
    assert group not in client.list_groups()
    with pytest.raises(Refused):
        client.delete_group(group)


def test_two_members_share_the_partitions_and_one_takes_over(clients, new_topic, fresh_name):
    topic, group = new_topic(4), fresh_name("group")
    members = [clients(LibRdKafka)._consumer(group) for _ in range(2)]
    for member in members:
        member.subscribe([topic])
    for _ in range(300):
        owned = [poll(member) for member in members]
        if sorted(map(len, owned)) == [2, 2]:
            break
    assert set(owned[0]) | set(owned[1]) == {0, 1, 2, 3}, owned
    members[0].close()
    for _ in range(300):
        if len(poll(members[1])) == 4:
            break
    assert set(poll(members[1])) == {0, 1, 2, 3}
    members[1].close()


def poll(member):
    """Lets a member do its work and returns the partitions that it owns."""
    member.poll(0.05)
    return [place.partition for place in member.assignment()]

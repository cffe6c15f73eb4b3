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


class Member:
    """A member that notes what it was given and what was taken from it."""

    def __init__(self, clients, topic, group, **options):
        self.given, self.taken = [], []
        self.consumer = clients(LibRdKafka)._consumer(group, **options)
        note = lambda kept: lambda _, places: kept.append([place.partition for place in places])
        self.consumer.subscribe([topic], on_assign=note(self.given), on_revoke=note(self.taken))


def settle(members, wanted):
    """Lets members do their work until they own what is wanted, each as a set."""
    for _ in range(600):
        owned = [set(poll(member.consumer)) for member in members]
        if wanted(owned):
            return owned
    raise AssertionError(owned)


def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(clients, new_topic, fresh_name):
    topic, group = new_topic(4), fresh_name("group")
    join = lambda name: Member(clients, topic, group, group_instance_id=name, session_timeout_ms=30_000)
    members = [join("one"), join("two")]
    owned = settle(members, lambda owned: sorted(map(len, owned)) == [2, 2])
    taken = len(members[1].taken)
    members[0].consumer.close()
    members[0] = join("one")
    assert settle(members, lambda owned: len(owned[0]) == 2) == owned
    assert len(members[1].taken) == taken
    for member in members:
        member.consumer.close()


def test_cooperative_members_keep_what_they_keep(clients, new_topic, fresh_name):
    topic, group = new_topic(4), fresh_name("group")
    join = lambda: Member(clients, topic, group, partition_assignment_strategy="cooperative-sticky")
    members = [join()]
    settle(members, lambda owned: len(owned[0]) == 4)
    members.append(join())
    owned = settle(members, lambda owned: sorted(map(len, owned)) == [2, 2])
    # Two partitions moved, and only those were ever taken from the first member.
    assert [set(places) for places in members[0].taken if places] == [owned[1]]
    assert owned[0] | owned[1] == {0, 1, 2, 3}
    members[1].consumer.close()
    settle(members[:1], lambda owned: len(owned[0]) == 4)
    assert [set(places) for places in members[0].taken if places] == [owned[1]]
    members[0].consumer.close()


def poll(member):
    """Lets a member do its work and returns the partitions that it owns."""
    member.poll(0.05)
    return [place.partition for place in member.assignment()]

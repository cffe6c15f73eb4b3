"""Every client settles on the same versions with the broker under test as with Apache Kafka: its newest, where it can."""

import pytest

from compat.clients import ALL
from compat.clients.base import Refused
from compat.conftest import Clients
from harness import broker as brokers
from harness.batch import Record
from harness.proxy import Proxy
from wire.scenarios_frames import APIS

# What every client that produces, consumes and looks around sends.
ALWAYS = {"ApiVersions", "Metadata", "Produce", "Fetch"}


class Watched:
    """A broker whose clients all come through a proxy."""

    def __init__(self, start):
        self.proxy = Proxy()
        self.broker = start(self.proxy.bootstrap)
        self.proxy.target = self.broker.bootstrap
        self.clients = Clients(self.proxy.bootstrap)

    def stop(self):
        for client in self.clients.open.values():
            client.close()
        self.broker.stop()
        self.proxy.stop()


@pytest.fixture(scope="module")
def watched(request):
    """The broker under test and Apache Kafka."""
    if request.config.getoption("--bootstrap"):
        pytest.skip("a broker that runs already can't be told to advertise the proxy")
    kafka = lambda address: brokers.Kafka(f"advertised.listeners=PLAINTEXT://{address}")
    ours = lambda address: brokers.Alluvium(None, "--kafka-advertise", address)
    both = [Watched(kafka if request.config.getoption("--broker") == "kafka" else ours), Watched(kafka)]
    yield both
    for one in both:
        one.stop()


def exercise(side, client, topic, group):
    """Everything that a client can do, and what it sent for that."""
    side.proxy.requests()
    client = side.clients(client)
    if hasattr(client, "create_topic"):
        client.create_topic(topic, 1, {"retention.ms": "86400000"})
    client.produce(topic, [Record(b"%d" % n, b"k", [], 1_000_000 + n) for n in range(10)])
    client.consume(topic, 0, 0, 10)
    client.consume_group(topic, group, 10)
    attempts = [
        lambda: client.list_offset(topic, 0, -3),
        lambda: client.list_offset(topic, 0, 1_000_005),
        lambda: client.partition_count(topic),
        lambda: client.add_partitions(topic, 2),
        lambda: client.alter_config(topic, {"retention.ms": "1234567"}),
        lambda: client.describe_config(topic),
        lambda: client.delete_records(topic, 0, 4),
        lambda: client.list_groups(),
        lambda: client.describe_group(group),
        lambda: client.committed(group),
        lambda: client.delete_group(group),
        lambda: client.delete_topic(topic),
    ]
    for attempt in attempts:
        try:
            attempt()
        except (AttributeError, NotImplementedError):
            pass  # a client that lacks the operation
        except Refused as refusal:
            raise AssertionError(f"{client.name}: {refusal}") from refusal
    return side.proxy.requests()


@pytest.mark.parametrize("client", ALL, ids=lambda client: client.name)
def test_versions_are_those_that_are_settled_on_with_kafka(watched, client, fresh_name):
    topic, group = fresh_name("versions"), fresh_name("versions")
    ours, theirs = (exercise(side, client, topic, group) for side in watched)
    assert ALWAYS <= set(ours), ours
    served = set(APIS) & set(ours) & set(theirs)
    different = {api: (ours[api], theirs[api]) for api in served if ours[api] != theirs[api]}
    assert not different, different
    # What only Kafka was asked is either not served, or a matter of chance.
    missing = set(theirs) & set(APIS) - set(ours)
    assert missing <= {"Heartbeat", "OffsetForLeaderEpoch"}, missing
    print({api: sorted(versions) for api, versions in sorted(ours.items(), key=lambda item: str(item[0]))})

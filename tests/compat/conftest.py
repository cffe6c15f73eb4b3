"""Clients are kept for the whole session: a Java process takes longer to start than its cases to run."""

import time

import pytest

from harness.wire import Connection


class Clients:
    """Gives the one instance of a client class."""

    def __init__(self, bootstrap):
        self.bootstrap, self.open = bootstrap, {}

    def __call__(self, client):
        if client not in self.open:
            self.open[client] = client(self.bootstrap)
        return self.open[client]


@pytest.fixture(scope="session")
def clients(broker):
    """Clients of the broker under test, by class."""
    kept = Clients(broker.bootstrap)
    yield kept
    for client in kept.open.values():
        client.close()


@pytest.fixture
def new_topic(broker, fresh_name):
    """Creates topics that are ready for use."""

    def create(partitions=1, **configs):
        name = fresh_name("compat")
        pairs = [{"Name": key.replace("_", "."), "Value": value} for key, value in configs.items()]
        with Connection(broker.bootstrap) as connection:
            wanted = {"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": pairs}
            made = connection.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 10_000})["Topics"][0]
            assert made["ErrorCode"] == 0, made
            places = [{"PartitionIndex": index, "CurrentLeaderEpoch": -1, "Timestamp": -1} for index in range(partitions)]
            asked = {"ReplicaId": -1, "Topics": [{"Name": name, "Partitions": places}]}
            for _ in range(500):
                found = connection.ask("ListOffsets", 6, asked)["Topics"][0]["Partitions"]
                if not any(place["ErrorCode"] for place in found):
                    return name
                time.sleep(0.02)
        raise AssertionError(f"{name} has no leaders: {found}")

    return create

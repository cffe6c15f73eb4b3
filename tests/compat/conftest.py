"""Clients are kept for the whole session: a Java process takes longer to start than its cases to run."""

import pytest

from harness import topics


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
        configs = {key.replace("_", "."): value for key, value in configs.items()}
        return topics.create(broker.bootstrap, fresh_name("compat"), partitions, configs)

    return create

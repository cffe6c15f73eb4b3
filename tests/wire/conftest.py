"""The wire suite needs two brokers at once: the one under test, and Apache Kafka."""

import pytest

from harness import broker as brokers


@pytest.fixture(scope="session")
def kafka():
    """Apache Kafka, whose answers are right by definition."""
    started = brokers.Kafka()
    yield started
    started.stop()

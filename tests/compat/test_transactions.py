"""Transactions are not served yet: each client says so at once, by the error that names the transactional id."""

import asyncio
import time

import aiokafka
import confluent_kafka
import kafka
import pytest

from compat.clients.base import Refused
from compat.clients.piped import Franz, Java

# Far less than any client retries for.
LIMIT_S = 20


def piped(kind):
    """A client in another language."""

    def begin(bootstrap):
        client = kind(bootstrap)
        try:
            with pytest.raises(Refused) as refused:
                client.begin_transactions()
        finally:
            client.close()
        return str(refused.value)

    begin.__name__ = kind.name
    return begin


def librdkafka(bootstrap):
    """By the confluent-kafka wheel."""
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "transactional.id": "tx"})
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        producer.init_transactions(60)
    return refused.value.args[0].name()


def kafka_python(bootstrap):
    """kafka-python."""
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, transactional_id="tx")
    try:
        with pytest.raises(kafka.errors.KafkaError) as refused:
            producer.init_transactions()
    finally:
        producer.close(timeout=1)
    return type(refused.value).__name__


def aiokafka_client(bootstrap):
    """aiokafka."""

    async def start():
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="tx")
        try:
            with pytest.raises(aiokafka.errors.KafkaError) as refused:
                await producer.start()
        finally:
            await producer.stop()
        return type(refused.value).__name__

    return asyncio.run(start())


CLIENTS = [librdkafka, kafka_python, aiokafka_client, piped(Java), piped(Franz)]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_transactional_producer_is_refused_at_once(broker, client):
    if broker.kind != "alluvium":
        pytest.skip("Apache Kafka serves transactions")
    began = time.monotonic()
    name = client(broker.bootstrap).replace("_", "").lower()
    assert "transactionalidauthorization" in name, name
    assert time.monotonic() - began < LIMIT_S

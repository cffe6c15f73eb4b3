"""`archive flush --wait` ends when nothing is left of what it waits for, though it never came to the bucket."""

import subprocess
from types import SimpleNamespace

import pytest

from archive.conftest import flags
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import Alluvium, binary, run
from harness.faulty_proxy import FaultyProxy
from harness.patience import wait_until

COUNT = 5
FAILED = 1
# A flush asks more than once a second.
PATIENCE_S = 60


@pytest.fixture(scope="module")
def stuck(seaweedfs, tmp_path_factory):
    """A broker whose bucket refuses everything since the broker has started."""
    proxy = FaultyProxy(seaweedfs.port)
    store = s3.S3Store(proxy.port, "flush")
    broker = Alluvium(tmp_path_factory.mktemp("flush"), *flags(store), environment=store.environment)
    with proxy.failing("errors"):
        yield SimpleNamespace(broker=broker, client=LibRdKafka(broker.bootstrap))
    broker.stop()
    proxy.stop()


@pytest.fixture
def topic(stuck, fresh_name):
    """Has records that are on the disk alone."""
    name = topics.create(stuck.broker.bootstrap, fresh_name("flushed"))
    stuck.client.produce(name, [Record(b"value")] * COUNT)
    return name


@pytest.fixture
def flushing(stuck, topic):
    """A flush that waits for the bucket."""
    command = [binary(), "archive", "flush", topic, "--wait", "--bootstrap", stuck.broker.bootstrap]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # It knows what it waits for before it changes the setting.
    begun = lambda: stuck.client.describe_config(topic)["archive.flush.timestamp"] != "-1"
    wait_until(lambda: begun() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    yield process
    process.kill()
    process.wait()


def test_a_flush_ends_when_the_records_are_deleted(stuck, topic, flushing):
    stuck.client.delete_records(topic, 0, COUNT - 1)
    with pytest.raises(subprocess.TimeoutExpired):
        flushing.wait(3)  # one is left
    stuck.client.delete_records(topic, 0, COUNT)
    printed, _ = flushing.communicate(timeout=PATIENCE_S)
    assert (flushing.returncode, printed) == (0, f"archived {topic}: {COUNT} offsets in 1 partitions\n")


def test_a_flush_does_not_wait_for_records_that_were_deleted_before(stuck, topic):
    stuck.client.delete_records(topic, 0, COUNT)
    run("archive", "flush", topic, "--wait", "--bootstrap", stuck.broker.bootstrap, within_s=PATIENCE_S)


def test_a_flush_ends_when_the_topic_is_deleted(stuck, topic, flushing):
    stuck.client.delete_topic(topic)
    printed, _ = flushing.communicate(timeout=PATIENCE_S)
    assert flushing.returncode == FAILED and topic in printed, printed


def test_a_flush_does_not_wait_for_another_topic_of_that_name(stuck, topic, flushing):
    stuck.client.delete_topic(topic)
    topics.create(stuck.broker.bootstrap, topic)
    printed, _ = flushing.communicate(timeout=PATIENCE_S)
    assert flushing.returncode == FAILED and topic in printed, printed

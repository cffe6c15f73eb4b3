"""`archive flush --wait` ends when nothing is left to wait for, though it never came to the bucket, and outlives a broker."""

import contextlib
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

SETTING = "archive.flush.timestamp"
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


@contextlib.contextmanager
def begun_flush(broker, client, topic):
    """A flush that has asked the broker and waits for the bucket."""
    command = [binary(), "archive", "flush", topic, "--wait", "--bootstrap", broker.bootstrap]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # It knows what it waits for before it changes the setting.
    wait_until(lambda: client.describe_config(topic)[SETTING] != "-1" or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def flushing(stuck, topic):
    """A flush that waits for the bucket."""
    with begun_flush(stuck.broker, stuck.client, topic) as process:
        yield process


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


def test_a_flush_gives_up_when_it_is_told_to(stuck, topic):
    printed = run("archive", "flush", topic, "--wait=1s", "--bootstrap", stuck.broker.bootstrap, status=FAILED)
    assert f"1 of 1 partitions of topic {topic} are not archived after 1s" in printed, printed


def test_a_flush_asks_again_when_the_broker_was_killed(seaweedfs, tmp_path, fresh_name):
    proxy = FaultyProxy(seaweedfs.port)
    store = s3.S3Store(proxy.port, fresh_name("killed"))
    broker = Alluvium(tmp_path / "broker", *flags(store), environment=store.environment)
    topic = topics.create(broker.bootstrap, fresh_name("flushed"))
    LibRdKafka(broker.bootstrap).produce(topic, [Record(b"value")] * COUNT)
    asked = lambda: LibRdKafka(broker.bootstrap).describe_config(topic)[SETTING]
    with contextlib.ExitStack() as outage:
        outage.enter_context(proxy.failing("errors"))
        with begun_flush(broker, LibRdKafka(broker.bootstrap), topic) as process:
            first = asked()
            broker.kill()
            broker.start()
            # It would wait for ever if the broker had not come to seal anything, which knows of no flush now.
            wait_until(lambda: asked() != first or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            outage.close()
            printed, _ = process.communicate(timeout=PATIENCE_S)
    broker.stop()
    proxy.stop()
    assert (process.returncode, printed) == (0, f"archived {topic}: {COUNT} offsets in 1 partitions\n")

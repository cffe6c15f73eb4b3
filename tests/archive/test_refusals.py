"""A broker does not start on a store that it can't trust or that is not its own, and says in one line what to do."""

import re
import shutil
from types import SimpleNamespace

import pytest

from archive.conftest import archive, flags, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import Alluvium
from harness.lax_s3 import LaxS3
from harness.patience import wait_until

FAILED, UNREACHABLE = 1, 4


@pytest.fixture
def owned(serve, store):
    """A store that holds the archive of a cluster, whose broker has ended."""
    broker = serve(store, "owner")
    topics.create(broker.bootstrap, "owned")
    LibRdKafka(broker.bootstrap).produce("owned", [Record(b"precious")])
    flush(broker, "owned")
    broker.stop()
    return broker


def refusal(store, directory, status=FAILED):
    """The one line of a broker that can't start."""
    (directory / "broker.log").unlink(missing_ok=True)
    with pytest.raises(RuntimeError) as refused:
        Alluvium(directory, *flags(store), environment=store.environment)
    text = str(refused.value)
    assert f"ended with {status}:" in text and "panicked" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    return lines[0]


def test_a_bucket_that_holds_another_cluster_is_refused_and_stays_as_it_was(owned, serve, store, tmp_path):
    # A cluster that has a life of its own already, elsewhere.
    other = serve(s3.FileStore(tmp_path / "elsewhere"), "other")
    other.stop()
    before = {key: store.files.open_input_file(key).read() for key in s3.keys(store)}
    error = refusal(store, other.directory)
    assert re.search("holds another cluster.*prefix of its own", error), error
    # Nor does one with no data at all pass for the owner.
    error = refusal(store, tmp_path / "empty")
    assert re.search("holds a cluster but the data directory is empty.*bring .* back.*another prefix", error), error
    # Not only the first time: what the refused start left on the disk does not pass for a data directory.
    assert "data directory is empty" in refusal(store, tmp_path / "empty")
    assert {key: store.files.open_input_file(key).read() for key in s3.keys(store)} == before
    owned.start()
    assert [record.value for record in topics.records(owned.bootstrap, "owned")] == [b"precious"]


def test_an_unused_bucket_is_refused_if_records_are_in_the_former_one_alone(serve, store, tmp_path):
    broker = serve(store)
    topics.create(broker.bootstrap, "gone", 1, {"local.retention.ms": "1"})
    client = LibRdKafka(broker.bootstrap)
    client.produce("gone", [Record(b"precious")])
    flush(broker, "gone")
    wait_until(lambda: topics.offset(broker.bootstrap, "gone", 0, topics.EARLIEST_LOCAL) == 1)
    broker.stop()
    for mistaken in (s3.FileStore(tmp_path / "unused"), SimpleNamespace(url="memory:///", environment={})):
        error = refusal(mistaken, broker.directory)
        assert re.search("holds nothing of this cluster.*start with the store that it ran with", error), error
    broker.start()
    assert [record.value for record in topics.records(broker.bootstrap, "gone")] == [b"precious"]


def test_an_unused_bucket_gets_all_that_is_still_local_before_any_of_it_goes(serve, store, tmp_path):
    broker = serve(store)
    topics.create(broker.bootstrap, "moved")
    client = LibRdKafka(broker.bootstrap)
    for number in range(3):
        client.produce("moved", [Record(b"%d" % number)])
        flush(broker, "moved")
    broker.stop()
    # The former bucket is not there to be read any more.
    moved = Alluvium(broker.directory, *flags(s3.FileStore(tmp_path / "other")))
    local_start = lambda: topics.offset(moved.bootstrap, "moved", 0, topics.EARLIEST_LOCAL)
    client = LibRdKafka(moved.bootstrap)
    client.alter_config("moved", {"local.retention.ms": "1"})
    wait_until(lambda: local_start() == 3)
    assert archive(s3.FileStore(tmp_path / "other"), "verify", "moved")[0]["ok"]
    assert [record.value for record in topics.records(moved.bootstrap, "moved")] == [b"0", b"1", b"2"]
    moved.stop()


@pytest.fixture
def put_back(serve, tmp_path):
    """A broker whose store was put back to where it had the first of three records; told whether the local log keeps them."""

    def begin(stays_local):
        store = s3.FileStore(tmp_path / "store")
        broker = serve(store)
        topics.create(broker.bootstrap, "twice", 1, {} if stays_local else {"local.retention.ms": "1"})
        client = LibRdKafka(broker.bootstrap)
        for number in range(3):
            client.produce("twice", [Record(b"%d" % number)])
            flush(broker, "twice")
            if number == 0:
                broker.stop()
                shutil.copytree(tmp_path / "store", tmp_path / "before")
                broker.start()
        wait_until(lambda: stays_local or local_start(broker) == 3)
        broker.stop()
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "before").rename(tmp_path / "store")
        broker.start()
        return broker, store, client

    return begin


def local_start(broker):
    return topics.offset(broker.bootstrap, "twice", 0, topics.EARLIEST_LOCAL)


def test_a_bucket_that_was_put_back_gets_again_what_it_lacks(put_back):
    broker, store, client = put_back(stays_local=True)
    wait_until(lambda: archive(store, "ls", "twice")[0]["next_offset"] == 3)
    client.alter_config("twice", {"local.retention.ms": "1"})
    wait_until(lambda: local_start(broker) == 3)
    assert [record.value for record in topics.records(broker.bootstrap, "twice")] == [b"0", b"1", b"2"]


def test_what_no_tier_has_any_more_is_told_and_can_be_given_up(put_back):
    broker, store, client = put_back(stays_local=False)
    client.produce("twice", [Record(b"3")])
    client.alter_config("twice", {"segment.ms": "1"})
    wait_until(lambda: "neither the archive nor the local log has the records from 1 to 3" in broker.tail())
    assert archive(store, "ls", "twice")[0]["next_offset"] == 1
    client.delete_records("twice", 0, 3)
    flush(broker, "twice")
    assert archive(store, "verify", "twice")[0]["ok"]
    wait_until(lambda: local_start(broker) == 4)
    assert [record.value for record in topics.records(broker.bootstrap, "twice", start=3)] == [b"3"]


def test_a_store_that_is_not_mounted_is_none_to_archive_into_anew(serve, tmp_path):
    store, elsewhere = s3.FileStore(tmp_path / "store"), tmp_path / "unmounted"
    broker = serve(store)
    topics.create(broker.bootstrap, "twice")
    client = LibRdKafka(broker.bootstrap)
    client.produce("twice", [Record(b"0")])
    flush(broker, "twice")
    (tmp_path / "store").rename(elsewhere)
    (tmp_path / "store").mkdir()
    client.produce("twice", [Record(b"1")])
    client.alter_config("twice", {"segment.ms": "1"})
    wait_until(lambda: "segment was not archived" in broker.tail())
    assert not list((tmp_path / "store").rglob("*.json"))
    shutil.rmtree(tmp_path / "store")
    elsewhere.rename(tmp_path / "store")
    wait_until(lambda: archive(store, "ls", "twice")[0]["next_offset"] == 2)
    assert archive(store, "verify", "twice")[0]["ok"]


def test_a_store_that_ignores_conditions_is_refused(tmp_path):
    server = LaxS3()
    error = refusal(s3.S3Store(server.port, "lax"), tmp_path / "broker")
    assert "does not honour conditional writes" in error and "use a store that does" in error, error
    assert not [key for key in server.server.objects if "alluvium/v1" in key], "something was left in such a store"
    server.stop()


def test_a_store_that_is_not_there_is_refused_in_a_line(tmp_path):
    store = s3.S3Store(s3.free_ports(1), "nowhere")
    error = refusal(store, tmp_path / "broker", UNREACHABLE)
    assert "object store" in error, error

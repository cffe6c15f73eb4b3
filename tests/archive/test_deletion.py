"""What is to go from the archive goes, in every tier: by retention, by DeleteRecords, and with its topic."""

from types import SimpleNamespace

import pytest

from archive.conftest import archive, flush, parquet_files
from harness import s3, topics
from harness.batch import Record
from harness.patience import wait_until

ROUNDS, EACH = 3, 5


@pytest.fixture
def filled(home, fresh_name):
    """A topic of a few archived segments."""
    topic = topics.create(home.broker.bootstrap, fresh_name("full"))
    for number in range(ROUNDS):
        home.client.produce(topic, [Record(b"%d" % number * 1000) for _ in range(EACH)])
        flush(home.broker, topic)
    assert len(parquet_files(home.store, topic)) == ROUNDS
    return SimpleNamespace(topic=topic, **vars(home))


def log_start(filled):
    """Where the topic begins: for a consumer and, with no broker, for the archive alone."""
    [listed] = archive(filled.store, "ls", filled.topic)
    return topics.offset(filled.broker.bootstrap, filled.topic, 0, topics.EARLIEST), listed["log_start_offset"]


def files_left(filled):
    """How many Parquet files of the topic are in the bucket, listed or not."""
    return len([key for key in s3.keys(filled.store, ".parquet") if f"/log/{filled.topic}-" in key])


def offsets(filled):
    """All that a consumer can read."""
    start, _ = log_start(filled)
    return [record.offset for record in topics.records(filled.broker.bootstrap, filled.topic, start=start)]


def test_retention_by_size_removes_the_oldest_files(filled):
    newest = archive(filled.store, "describe", filled.topic)[-1]
    filled.client.alter_config(filled.topic, {"retention.bytes": str(newest["log_bytes"])})
    wait_until(lambda: files_left(filled) == 1)
    kept = (ROUNDS - 1) * EACH
    assert log_start(filled) == (kept, kept)
    assert offsets(filled) == list(range(kept, ROUNDS * EACH))
    assert archive(filled.store, "verify", filled.topic)[0]["ok"]


def test_retention_reaches_what_is_not_copied_any_more(filled):
    archived = ROUNDS * EACH
    filled.client.alter_config(filled.topic, {"remote.log.copy.disable": "true", "segment.ms": "1"})
    filled.client.produce(filled.topic, [Record(b"only here")])
    filled.client.alter_config(filled.topic, {"retention.ms": "1"})
    wait_until(lambda: log_start(filled) == (archived + 1, archived))
    wait_until(lambda: files_left(filled) == 0)


def test_retention_by_age_goes_on_after_a_restart_though_nothing_is_written(filled):
    filled.broker.stop()
    filled.broker.start()
    filled.client.alter_config(filled.topic, {"retention.ms": "1"})
    wait_until(lambda: files_left(filled) == 0)
    assert log_start(filled) == (ROUNDS * EACH, ROUNDS * EACH)
    filled.client.alter_config(filled.topic, {"retention.ms": "-1"})
    filled.client.produce(filled.topic, [Record(b"new")])
    assert offsets(filled) == [ROUNDS * EACH]


def test_deleted_records_leave_the_bucket(filled):
    # In the middle of the second file: the first one goes, the second stays for what is left in it.
    middle = EACH + 2
    filled.client.delete_records(filled.topic, 0, middle)
    wait_until(lambda: files_left(filled) == ROUNDS - 1)
    assert log_start(filled) == (middle, middle)
    assert [one["offset"] for one in archive(filled.store, "cat", filled.topic)] == list(range(middle, ROUNDS * EACH))
    filled.broker.kill()
    filled.broker.start()
    assert offsets(filled) == list(range(middle, ROUNDS * EACH))


def test_an_archive_that_was_given_up_leaves_what_the_local_log_has(filled):
    filled.client.alter_config(filled.topic, {"local.retention.ms": "1"})
    local_start = lambda: topics.offset(filled.broker.bootstrap, filled.topic, 0, topics.EARLIEST_LOCAL)
    wait_until(lambda: local_start() == ROUNDS * EACH)
    filled.client.alter_config(filled.topic, {"local.retention.ms": "-2"})
    filled.client.produce(filled.topic, [Record(b"local")])
    flush(filled.broker, filled.topic)
    filled.client.produce(filled.topic, [Record(b"local alone")])
    filled.client.alter_config(
        filled.topic, {"remote.storage.enable": "false", "remote.log.delete.on.disable": "true"}
    )
    wait_until(lambda: files_left(filled) == 1)
    kept = [ROUNDS * EACH, ROUNDS * EACH + 1]
    assert log_start(filled) == (kept[0], kept[0])
    assert offsets(filled) == kept
    filled.broker.stop()
    filled.broker.start()
    assert offsets(filled) == kept
    filled.client.alter_config(filled.topic, {"remote.storage.enable": "true"})
    flush(filled.broker, filled.topic)
    assert [one["offset"] for one in archive(filled.store, "cat", filled.topic)] == kept == offsets(filled)
    assert archive(filled.store, "verify", filled.topic)[0]["ok"]


def test_a_deleted_topic_leaves_the_bucket_and_its_name_begins_anew(filled):
    filled.client.delete_topic(filled.topic)
    is_left = lambda key: f"/{filled.topic}-" in key and not key.endswith("topic.json")
    wait_until(lambda: not [key for key in s3.keys(filled.store) if is_left(key)])
    topics.create(filled.broker.bootstrap, filled.topic)
    filled.client.produce(filled.topic, [Record(b"again")])
    flush(filled.broker, filled.topic)
    assert offsets(filled) == [0]
    [listed] = archive(filled.store, "ls", filled.topic)
    assert (listed["next_offset"], listed["records"]) == (1, 1)

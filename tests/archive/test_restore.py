"""A cluster is restored from its store alone, and the one that it takes the place of archives nothing more."""

import json

import pytest

from archive.conftest import archive, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import run
from harness.patience import wait_until

FAILED, USAGE, DAMAGED = 1, 2, 3
ARCHIVED = [str(number) for number in range(10)]
COMPLAINT = "another process archives this partition"


@pytest.fixture
def former(serve, store):
    """A broker with ten archived records and one that is not, and a topic of which nothing is archived."""
    broker = serve(store, "former")
    topics.create(broker.bootstrap, "flights")
    topics.create(broker.bootstrap, "empty", 3, {"retention.ms": 86_400_000})
    produce(broker, ARCHIVED)
    flush(broker, "flights")
    produce(broker, ["lost"])
    wait_until(lambda: len(s3.keys(store, "topic.json")) == 2)
    return broker


def produce(broker, names):
    LibRdKafka(broker.bootstrap).produce("flights", [Record(name.encode()) for name in names])


def values(broker):
    return [record.value.decode() for record in topics.records(broker.bootstrap, "flights")]


def restore(store, directory, *more, status=0):
    """Runs `alluvium restore`; its report, or its error."""
    arguments = ["restore", "--object-store", store.url, "--data-dir", str(directory / "data"), "--json", *more]
    printed = run(*arguments, environment=store.environment, status=status)
    return printed if status else json.loads(printed)


def test_what_was_archived_is_served_and_the_rest_is_told(former, serve, store, tmp_path):
    former.kill()
    error = restore(store, tmp_path / "new", status=FAILED)
    assert "may still run" in error and "--force" in error, error
    assert not (tmp_path / "new").exists()
    planned = restore(store, tmp_path / "new", "--force", "--dry-run")
    assert planned["incarnation"] is None and planned["obstacles"] == [] and not (tmp_path / "new").exists()
    report = restore(store, tmp_path / "new", "--force")
    assert (report["incarnation_before"], report["incarnation"]) == (0, 1)
    ends = {topic["topic"]: [one["end_offset"] for one in topic["partitions"]] for topic in report["topics"]}
    assert sorted(ends) == ["empty", "flights"] and ends["flights"] == [10] and ends["empty"] == [0, 0, 0]
    assert any("not archived yet" in lost for lost in report["not_restored"])
    # It is done, and is not done again.
    assert "not empty" in restore(store, tmp_path / "new", "--force", status=FAILED)

    new = serve(store, "new")
    assert values(new) == ARCHIVED
    LibRdKafka(new.bootstrap).produce("empty", [Record(b"again")])
    flush(new, "empty")
    assert all(part["ok"] for name in ends for part in archive(store, "verify", name))
    new.stop()
    with pytest.raises(RuntimeError) as refused:
        former.start()
    assert "restored elsewhere" in str(refused.value)


def test_a_cluster_that_was_not_lost_after_all_archives_nothing_more(former, serve, store, tmp_path):
    restore(store, tmp_path / "new", "--force")
    new = serve(store, "new")
    before = archive(store, "ls", "flights")
    LibRdKafka(former.bootstrap).alter_config("flights", {"segment.ms": "1"})
    produce(former, ["late"])
    wait_until(lambda: former.metrics()["alluvium_archive_fenced_commits_total"] > 0)
    assert COMPLAINT in former.tail(10_000)
    # Nor does it delete what lives on: it would have tried by now.
    LibRdKafka(former.bootstrap).delete_topic("empty")
    LibRdKafka(former.bootstrap).delete_topic("flights")
    wait_until(lambda: "deleted topic is not gone from the bucket yet" in former.tail(10_000))
    assert archive(store, "ls", "flights") == before
    assert all(part["ok"] for part in archive(store, "verify", "flights"))
    produce(new, ["restored"])
    flush(new, "flights")
    assert values(new) == [*ARCHIVED, "restored"]
    former.kill()


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_lost_head_is_told_and_its_topic_can_be_left_out(former, serve, store, tmp_path):
    former.stop()
    heads = [path for path in (tmp_path / "store").rglob("head.json") if "flights-" in str(path)]
    for head in heads:
        head.unlink()
    error = restore(store, tmp_path / "new", "--force", status=DAMAGED)
    assert "objects without a head" in error and "--without" in error, error
    before = s3.keys(store, ".parquet")
    assert "no topic of this name" in restore(store, tmp_path / "new", "--force", "--without", "fligths", status=USAGE)
    report = restore(store, tmp_path / "new", "--force", "--without", "flights")
    assert [topic["topic"] for topic in report["topics"]] == ["empty"]
    assert [topic["topic"] for topic in report["left_out"]] == ["flights"]
    serve(store, "new")
    assert s3.keys(store, ".parquet") == before


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_store_that_holds_no_archive_is_refused(store, tmp_path):
    (tmp_path / "store").mkdir(exist_ok=True)
    assert "holds no archive" in restore(store, tmp_path / "new", status=USAGE)
    assert not (tmp_path / "new").exists()

"""Data directories and buckets that earlier versions wrote, opened by the broker of today: it sees all that was there."""

import json
import re

import pytest

from formats import home
from harness import batch, commits, topics
from harness.broker import Alluvium, run
from harness.patience import wait_until

FIXTURES = sorted(path for path in home.FIXTURES.glob("format-*") if path.is_dir())
DUPLICATE_HAS_NO_ERROR, OUT_OF_ORDER = 0, 45


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def kept(request, tmp_path):
    """An unpacked fixture: where it is, and what is expected of it."""
    return tmp_path, home.unpack(request.param, tmp_path)


@pytest.fixture
def reopened(kept):
    """The same, with a broker on it."""
    directory, expected = kept
    broker = Alluvium(directory, *home.flags(directory))
    yield broker, expected
    broker.stop()


def verify(directory, names):
    """Checks hot segments and the bucket, object by object."""
    for name in home.DIRECTORIES:
        run("log", "verify", directory / name)
    for name in names:
        printed = run("archive", "verify", name, "--object-store", f"file://{directory}/data/object-store", "--json")
        assert all(json.loads(line)["ok"] for line in printed.splitlines()), printed


def test_there_are_fixtures():
    assert FIXTURES


def test_files_and_bucket_verify_before_and_after_a_broker_has_worked_on_them(kept):
    directory, expected = kept
    archived = [name for name in expected["topics"] if name in ("archived", "seam", "long")]
    verify(directory, archived)
    broker = Alluvium(directory, *home.flags(directory))
    run("archive", "flush", "seam", "--wait", "--bootstrap", broker.bootstrap)
    broker.stop()
    verify(directory, archived)


def test_all_records_are_there_local_archived_and_across_the_seam(reopened):
    broker, expected = reopened
    found = home.listing(broker.bootstrap, expected["topics"])
    assert found == expected["records"]
    tiered = topics.offset(broker.bootstrap, "seam", 0, topics.LATEST_TIERED)
    ends = {name: found[f"{name}/0"]["records"][-1][0] for name in ("seam", "archived", "long")}
    assert 0 <= tiered < ends["seam"], "the fixture has a seam"
    for name in ("archived", "long"):
        assert topics.offset(broker.bootstrap, name, 0, topics.LATEST_TIERED) == ends[name]


def test_records_that_only_the_journal_has_are_replayed(reopened):
    broker, _ = reopened
    (replayed,) = re.findall(r"recovered \d+ partitions, (\d+) bytes replayed", broker.log.read_text())
    assert int(replayed) > 0


def test_committed_offsets_are_there(reopened):
    broker, expected = reopened
    for group, committed in expected["committed"].items():
        offsets = {(topic, index): offset for topic, found in committed.items() for index, offset in enumerate(found)}
        commits.wait_for(broker.bootstrap, group, offsets)


def test_producers_are_remembered(reopened):
    broker, expected = reopened
    assert expected["producers"]
    for last in expected["producers"]:
        data = bytes.fromhex(last["data"])
        again = home.send(broker.bootstrap, last["topic"], data)
        assert (again["ErrorCode"], again["BaseOffset"]) == (DUPLICATE_HAS_NO_ERROR, last["offset"]), again
        producer_id, epoch, sequence = last["next"]
        gap = batch.build(home.numbered("gap", 1), producer=(producer_id, epoch, sequence + 1))
        assert home.send(broker.bootstrap, last["topic"], gap)["ErrorCode"] == OUT_OF_ORDER
        following = batch.build(home.numbered("next", 1), producer=(producer_id, epoch, sequence))
        assert home.send(broker.bootstrap, last["topic"], following)["ErrorCode"] == 0


def test_it_goes_on_archiving_what_it_finds(reopened):
    broker, expected = reopened
    run("archive", "flush", "seam", "--wait", "--bootstrap", broker.bootstrap)
    wait_until(lambda: not home.is_local(broker, "seam"))
    found = home.listing(broker.bootstrap, {"seam": 1})
    assert found["seam/0"] == expected["records"]["seam/0"]

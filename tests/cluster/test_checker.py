"""The checker finds every kind of violation that it knows, planted one at a time in a history without any.

    tests/tools pytest tests/cluster/test_checker.py
"""

import dataclasses

import pytest

from cluster import checker, replicas
from cluster.workload import Event, History
from harness import batch

PARTITIONS, EACH = 2, 6
IDEMPOTENT, PLAIN = "idempotent", "plain"


class Case:
    """A history, what is in the log in the end, and the group's offsets, as all of them should be; a plant spoils one thing."""

    def __init__(self):
        self.history, self.clock, self.logs = History(), 0, {}
        for partition in range(PARTITIONS):
            self.log = self.logs[partition] = []
            for number in range(EACH):
                for producer in (IDEMPOTENT, PLAIN):
                    self.send(producer, partition, number)
        # One that a producer never heard of again, and that is there; another that isn't.
        self.add(PLAIN, "send", "invoke", 0, -1, PLAIN, EACH)
        self.logs[0].append((2 * EACH, PLAIN, EACH))
        self.add(PLAIN, "send", "invoke", 1, -1, PLAIN, EACH)
        self.add(PLAIN, "send", "unknown", 1, -1, PLAIN, EACH)
        self.add("reader", "whole", "ok")
        for partition, log in self.logs.items():
            for offset, producer, number in log:
                self.add("reader", "poll", "ok", partition, offset, producer, number, "0")
        self.group()
        self.committed = {0: 6, 1: 12}

    def add(self, who, what, kind, *rest):
        self.clock += 1
        self.history.events.append(Event(self.clock, who, what, kind, *rest))

    def send(self, producer, partition, number):
        offset = len(self.log)
        self.log.append((offset, producer, number))
        self.add(producer, "send", "invoke", partition, -1, producer, number)
        self.add(producer, "send", "ok", partition, offset, producer, number)

    def group(self):
        """One member reads and commits partition 0 in two stretches, and another partition 1."""
        for who, partition, stretch, begin, end in [("m1", 0, "1", 0, 4), ("m2", 1, "1", 0, 12), ("m1", 0, "2", 4, 6)]:
            self.add(who, "assign", "ok", partition, -1, "", -1, stretch)
            for offset, producer, number in self.logs[partition][begin:end]:
                self.add(who, "poll", "ok", partition, offset, producer, number, stretch)
            self.add(who, "commit", "invoke", partition, end)
            self.add(who, "commit", "ok", partition, end)

    def find(self, what, **fields):
        """Where in the history an event is."""
        is_it = lambda event: event.what == what and all(getattr(event, name) == value for name, value in fields.items())
        return next(at for at, event in enumerate(self.history.events) if is_it(event))

    def change(self, at, **fields):
        self.history.events[at] = dataclasses.replace(self.history.events[at], **fields)

    def remove(self, at):
        return self.history.events.pop(at)

    def without_record(self, partition, producer, number):
        """Takes a record out of the log, and out of all that was read and committed, as if it had never been there."""
        (offset,) = [at for at, *key in self.logs[partition] if key == [producer, number]]
        self.logs[partition] = [one for one in self.logs[partition] if one[0] != offset]
        is_read = lambda event: event.what == "poll" and (event.partition, event.offset) == (partition, offset)
        self.history.events[:] = [event for event in self.history.events if not is_read(event)]

    def kinds(self):
        committed = self.committed
        return {violation.kind for violation in checker.check(self.history, self.logs, {IDEMPOTENT}, committed)}


def lost(case):
    case.without_record(0, IDEMPOTENT, 3)


def moved(case):
    # The record is where it was, and was acknowledged elsewhere.
    case.change(case.find("send", kind="ok", who=PLAIN, partition=1, number=2), offset=0)


def doubled(case):
    case.logs[1].append((12, IDEMPOTENT, 0))
    case.add("reader", "poll", "ok", 1, 12, IDEMPOTENT, 0, "0")


def reordered(case):
    log = case.logs[1]
    mine = [index for index, (_, producer, _) in enumerate(log) if producer == PLAIN]
    one, other = mine[1], mine[2]
    log[one], log[other] = (log[one][0], *log[other][1:]), (log[other][0], *log[one][1:])
    for index in (one, other):
        offset, producer, number = log[index]
        case.change(case.find("send", kind="ok", who=producer, partition=1, number=number), offset=offset)
        for at, event in enumerate(case.history.events):
            if event.what == "poll" and (event.partition, event.offset) == (1, offset):
                case.change(at, producer=producer, number=number)


def taken(case):
    case.change(case.find("send", kind="ok", who=IDEMPOTENT, partition=0, number=5), kind="fail", offset=-1)


def invented(case):
    case.remove(case.find("send", kind="invoke", who=PLAIN, partition=0, number=EACH))


def fatal(case):
    case.add(IDEMPOTENT, "error", "fatal", -1, -1, "", -1, "_OUT_OF_ORDER")


def out_of_range(case):
    case.add("reader", "error", "lost", -1, -1, "", -1, "offset out of range")


def changed(case):
    case.change(case.find("poll", who="reader", partition=0, offset=2), number=77)


def vanished(case):
    case.add("reader", "poll", "ok", 1, 12, PLAIN, EACH, "0")


def backwards(case):
    case.add("reader", "poll", "ok", 1, 3, *case.logs[1][3][1:], "0")


def twice(case):
    case.add("reader", "poll", "ok", 1, 11, *case.logs[1][11][1:], "0")


def skipped(case):
    at = case.find("poll", who="reader", partition=0, offset=4)
    # It is read in another stretch, so that it was seen.
    case.history.events.append(dataclasses.replace(case.remove(at), text="1"))


def unseen(case):
    case.remove(case.find("poll", who="reader", partition=1, offset=11))


def commit_backwards(case):
    case.add("m2", "commit", "invoke", 1, 10)
    case.add("m2", "commit", "ok", 1, 10)


def commit_lost(case):
    case.committed[0] = 4


def commit_invented(case):
    case.committed[0] = 7
    case.add("m1", "poll", "ok", 0, 6, *case.logs[0][6][1:], "2")


def resumed_before(case):
    first = case.logs[0][3]
    at = case.find("poll", who="m1", offset=4, text="2")
    case.history.events.insert(at, Event(0, "m1", "poll", "ok", 0, *first, "2"))


def resumed_behind(case):
    case.add("m1", "assign", "ok", 0, -1, "", -1, "3")
    case.add("m1", "poll", "ok", 0, 8, *case.logs[0][8][1:], "3")


def group_skipped(case):
    case.remove(case.find("poll", who="m2", partition=1, offset=0))
    case.change(case.find("assign", who="m2"), what="assigned without a bound")
    # So that it is known as a member all the same.
    case.add("m2", "assign", "ok", 0, -1, "", -1, "9")


PLANTS = {
    lost: {"lost"},
    moved: {"moved"},
    doubled: {"doubled"},
    reordered: {"reordered"},
    taken: {"taken"},
    invented: {"invented"},
    fatal: {"fatal"},
    out_of_range: {"fatal"},
    changed: {"changed"},
    vanished: {"changed"},
    backwards: {"backwards"},
    twice: {"backwards"},
    skipped: {"skipped"},
    unseen: {"unseen"},
    commit_backwards: {"commit-backwards"},
    commit_lost: {"commit-lost"},
    commit_invented: {"commit-invented"},
    resumed_before: {"resumed"},
    resumed_behind: {"resumed"},
    group_skipped: {"group-skipped"},
}


def test_a_history_without_violations_passes():
    assert Case().kinds() == set()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_found_and_nothing_else(plant):
    case = Case()
    plant(case)
    assert case.kinds() == PLANTS[plant]


def test_every_kind_is_planted():
    assert set().union(*PLANTS.values()) == set(checker.KINDS)


def test_a_producer_without_numbers_may_double_what_it_sends_again():
    case = Case()
    case.logs[1].append((12, PLAIN, 5))
    case.add("reader", "poll", "ok", 1, 12, PLAIN, 5, "0")
    assert case.kinds() == set()


def test_offsets_may_be_sparse():
    case = Case()
    for log in case.logs.values():
        log[:] = [(10 * offset, *record) for offset, *record in log]
    for at, event in enumerate(case.history.events):
        if event.offset >= 0:
            case.change(at, offset=10 * event.offset)
    case.committed = {partition: 10 * offset for partition, offset in case.committed.items()}
    assert case.kinds() == set()


def test_the_longest_gap_begins_with_the_last_acknowledgement_before():
    history = History()
    for at in (1, 2, 3, 7, 8, 20):
        history.events.append(Event(at, IDEMPOTENT, "send", "ok", 0))
    history.events.append(Event(5, IDEMPOTENT, "send", "ok", 1))
    assert history.longest_gap(IDEMPOTENT, 0, since=4, until=9) == 4
    assert history.longest_gap(IDEMPOTENT, 0, since=7.5, until=9) == 1


def test_replicas_that_differ_are_found():
    one, other = (batch.build([batch.Record(value)]) for value in (b"one 0", b"one 1"))
    assert replicas.differences({1: {0: one, 1: other}, 2: {0: one, 1: other}}) == []
    assert len(replicas.differences({1: {0: one}, 2: {0: other}})) == 1
    assert len(replicas.differences({1: {0: one, 1: other}, 2: {0: one}})) == 1
    assert len(replicas.differences({1: {0: one}, 2: {0: one, 1: other}, 3: {0: other}})) == 2
    assert len(replicas.differences({1: {}, 2: {0: one}})) == 1

"""Whether what clients of one topic were told holds, given what is in its log in the end. Pure.

Unknown outcomes are allowed either way. A producer that is not idempotent may have a record in the log twice, not out of
order. Offsets may be sparse: what comes next is what the log has next.
"""

import bisect
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """What was found; `kind` is one of KINDS."""

    kind: str
    text: str

    def __str__(self):
        return f"{self.kind}: {self.text}"


KINDS = {
    "lost": "acknowledged, and not in the log",
    "moved": "acknowledged at an offset where something else is",
    "doubled": "in the log twice, from an idempotent producer",
    "reordered": "behind a record that the same producer sent later",
    "taken": "in the log, though refused",
    "invented": "in the log, and never sent",
    "fatal": "a client could not go on",
    "changed": "read at an offset where the log has something else in the end",
    "backwards": "read again, or before what was read",
    "skipped": "not read, though what follows it was",
    "unseen": "not read by a reader of everything",
    "commit-backwards": "committed behind what was committed before",
    "commit-lost": "acknowledged as committed, and not found",
    "commit-invented": "found as committed, and never asked for",
    "resumed": "read anew from before what had been committed, or from behind all that was",
    "group-skipped": "committed as read, and read by no member of the group",
}


def check(history, logs, idempotent, committed=None):
    """All violations. `logs` has (offset, producer, number) of each record by partition, `idempotent` the producers that are,
    `committed` the offsets of the group in the end by partition; without it, groups are not looked at."""
    found = []

    def report(kind, text):
        assert kind in KINDS, kind
        found.append(Violation(kind, text))

    check_sends(history, logs, idempotent, report)
    check_polls(history, logs, report)
    if committed is not None:
        check_commits(history, logs, committed, report)
    for event in history.events:
        if event.what == "error" and event.kind in ("fatal", "lost"):
            report("fatal", f"{event.who}: {event.text}")
    return found


def check_sends(history, logs, idempotent, report):
    """Producers against the log."""
    sent, acknowledged, outcomes = set(), {}, {}
    for event in history.of("send"):
        key = event.producer, event.partition, event.number
        if event.kind == "invoke":
            sent.add(key)
        else:
            outcomes[key] = event.kind
        if event.kind == "ok":
            acknowledged[key] = event.offset
    places = defaultdict(list)
    for partition, log in logs.items():
        for offset, producer, number in log:
            places[producer, partition, number].append(offset)
    for key, offset in acknowledged.items():
        if key not in places:
            report("lost", f"{key}, acknowledged at {offset}")
        elif offset >= 0 and offset not in places[key]:
            report("moved", f"{key}, acknowledged at {offset}, is at {places[key]}")
    for key, offsets in places.items():
        if key not in sent:
            report("invented", f"{key} at {offsets}")
        if outcomes.get(key) == "fail":
            report("taken", f"{key} at {offsets}")
        if len(offsets) > 1 and key[0] in idempotent:
            report("doubled", f"{key} at {offsets}")
    check_order(logs, acknowledged, report)


def check_order(logs, acknowledged, report):
    """What a producer was acknowledged lies in the order in which it sent it, by where each record is first."""
    for partition, log in logs.items():
        highest, seen = {}, set()
        for offset, producer, number in log:
            key = producer, partition, number
            if key in seen or key not in acknowledged:
                continue
            seen.add(key)
            if number < highest.get(producer, -1):
                report("reordered", f"{key} at {offset} is behind {highest[producer]}")
            highest[producer] = max(number, highest.get(producer, -1))


def check_polls(history, logs, report):
    """What was read against the log, and each reading of a partition in itself."""
    at = {partition: {offset: record for offset, *record in log} for partition, log in logs.items()}
    order = {partition: [offset for offset, *_ in log] for partition, log in logs.items()}
    last, read = {}, defaultdict(lambda: defaultdict(set))
    for event in history.of("poll"):
        partition, offset = event.partition, event.offset
        read[event.who][partition].add(offset)
        if at.get(partition, {}).get(offset) != [event.producer, event.number]:
            there = at.get(partition, {}).get(offset)
            report("changed", f"{event.who} read {event.producer} {event.number} at {partition}-{offset}, where {there} is")
        # Each stretch between two assignments is read by itself.
        stretch = event.who, event.text, partition
        before = last.get(stretch)
        if before is not None and offset <= before:
            report("backwards", f"{event.who} read {partition}-{offset} after {before}")
        elif before is not None and (between := strictly_between(order.get(partition, []), before, offset)):
            report("skipped", f"{event.who} read {partition}-{offset} after {before}, and not {between[:3]}")
        last[stretch] = offset
    for reader in sorted({event.who for event in history.of("whole")}):
        for partition, offsets in order.items():
            if missing := sorted(set(offsets) - read[reader][partition]):
                report("unseen", f"{reader} did not read {len(missing)} of partition {partition}, the first at {missing[0]}")


def strictly_between(offsets, low, high):
    return offsets[bisect.bisect_right(offsets, low) : bisect.bisect_left(offsets, high)]


def check_commits(history, logs, committed, report):
    """Commits of a group in time, what members resumed from, and that what was committed had been read."""
    acknowledged, asked, floor = defaultdict(int), defaultdict(lambda: {0}), {}
    expects, read = {}, defaultdict(set)
    members = {event.who for event in history.of("assign")}
    for event in history.events:
        partition, key = event.partition, (event.who, event.partition)
        if event.what == "commit" and event.kind == "invoke":
            asked[partition].add(event.offset)
            # What was acknowledged before this one began; what is under way beside it may come before or after it.
            floor[key] = acknowledged[partition]
        elif event.what == "commit" and event.kind == "ok":
            if event.offset < floor.get(key, 0):
                report("commit-backwards", f"{event.who} committed {partition}-{event.offset} after {floor[key]}")
            acknowledged[partition] = max(acknowledged[partition], event.offset)
        elif event.what == "assign" and event.kind == "ok":
            expects[key] = acknowledged[partition]
        elif event.what == "poll" and key in expects:
            least = expects.pop(key)
            first = next_of(logs.get(partition, []), max(asked[partition]))
            if event.offset < least or event.offset > first:
                report("resumed", f"{event.who} began at {partition}-{event.offset}; {least} was committed, {first} the most")
        if event.what == "poll" and event.who in members:
            read[partition].add(event.offset)
    for partition, offset in committed.items():
        if offset < acknowledged[partition]:
            report("commit-lost", f"{partition}-{acknowledged[partition]} was acknowledged, {offset} is found")
        if offset not in asked[partition]:
            report("commit-invented", f"{partition}-{offset}")
        missing = [at for at, *_ in logs.get(partition, []) if at < offset and at not in read[partition]]
        if missing:
            report("group-skipped", f"{len(missing)} of partition {partition} below {offset}, the first at {missing[0]}")


def next_of(log, offset):
    """The first offset that a log has at or behind one."""
    return next((at for at, *_ in log if at >= offset), offset)

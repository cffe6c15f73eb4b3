"""What each replica of a partition holds, byte for byte, read from the broker or from its disk, and where two differ.

Followers serve what they know to be committed to whoever asks, so replicas can be compared while brokers run.
"""

import json
import struct
import time

from harness import batch
from harness.broker import run
from harness.topics import FETCH_BYTES, NOT_YET
from harness.wire import Closed, Connection

# A follower that does not know yet that an offset is committed, or whether its log is the leader's.
BEHIND = NOT_YET | {74, 78}
PATIENCE_S = 60
PREFIX = struct.Struct(">qi")


def pieces(data):
    """Base offset and bytes of each whole batch."""
    at = 0
    while at + PREFIX.size <= len(data):
        base, length = PREFIX.unpack_from(data, at)
        end = at + PREFIX.size + length
        if end > len(data):
            return
        yield base, data[at:end]
        at = end


def copy(bootstrap, topic, partition, end=None, within_s=PATIENCE_S):
    """The batches of one broker's replica, by base offset, up to an offset that it has to get to, or else up to its own end."""
    found, at, until = {}, 0, time.monotonic() + within_s
    answer = None
    while True:
        assert time.monotonic() < until, f"{bootstrap}: nothing at {at} of {topic}-{partition} for {within_s} s: {answer}"
        try:
            with Connection(bootstrap, within_s) as connection:
                while True:
                    answer = fetch(connection, topic, partition, at)
                    assert answer["ErrorCode"] in {0} | BEHIND, f"{bootstrap}: {answer}"
                    if answer["ErrorCode"]:
                        break
                    before = at
                    for base, data in pieces(answer["Records"] or b""):
                        assert base == at, f"{bootstrap}: {topic}-{partition} has {base} where {at} should be"
                        found[base], at = data, batch.parse(data)[0].next_offset
                    if at >= (answer["HighWatermark"] if end is None else end):
                        return found
                    if at == before:
                        break
                    until = time.monotonic() + within_s
        except (OSError, Closed):
            pass
        time.sleep(0.05)


def fetch(connection, topic, partition, offset):
    """What a broker answers for one partition."""
    wanted = {"Partition": partition, "FetchOffset": offset, "PartitionMaxBytes": FETCH_BYTES}
    body = {"MaxWaitMs": 100, "MinBytes": 0, "MaxBytes": FETCH_BYTES, "IsolationLevel": 0}
    body["Topics"] = [{"Topic": topic, "Partitions": [wanted]}]
    return connection.ask("Fetch", 12, body)["Responses"][0]["Partitions"][0]


def end_of(batches):
    """The offset behind the last of some batches."""
    return batch.parse(batches[max(batches)])[0].next_offset if batches else 0


def differences(copies):
    """Where replicas differ, in words; `copies` are batches by base offset, by broker."""
    found = []
    (first, reference), *others = copies.items()
    for other, batches in others:
        for base in sorted(reference.keys() | batches.keys()):
            if reference.get(base) != batches.get(base):
                has = lambda one: f"{len(one[base])} bytes" if base in one else "nothing"
                found.append(f"at {base} broker {first} has {has(reference)}, broker {other} {has(batches)}")
                break
    return found


def agreed(cluster, topic):
    """The batches of each partition, once every replica was seen to have the same."""
    agreed_on = {}
    for partition, place in sorted(cluster.describe(topic).items()):
        leader = cluster.leader_of(topic, partition)
        copies = {leader: copy(cluster.nodes[leader].bootstrap, topic, partition)}
        end = end_of(copies[leader])
        for other in place.replicas:
            if other != leader:
                held = copy(cluster.nodes[other].bootstrap, topic, partition, end)
                # What came meanwhile is none of the leader's copy.
                copies[other] = {base: data for base, data in held.items() if base < end}
        assert not (found := differences(copies)), f"{topic}-{partition}: {found}"
        agreed_on[partition] = copies[leader]
    return agreed_on


def on_disk(node, topic_id, partition):
    """The batches in the segments of a broker that was stopped."""
    found = {}
    (directory,) = [path for data in node.data for path in (data / "topics" / topic_id).glob(str(partition))]
    for segment in sorted(directory.glob("*.segment")):
        with segment.open("rb") as file:
            for line in run("log", "dump", segment, "--json").splitlines():
                row = json.loads(line)
                assert "error" not in row, f"{segment}: {row}"
                file.seek(row["position"])
                found[row["base_offset"]] = file.read(row["bytes"])
    return found


def records(batches):
    """Offset, producer and number of each record of the workload."""
    parsed = (record for base in sorted(batches) for one in batch.parse(batches[base]) for record in one.records)
    return [(record.offset, *named(record.value)) for record in parsed]


def value_of(producer, number):
    """The value of a record of the workload."""
    return f"{producer} {number}".encode()


def named(value):
    """Producer and number of a record of the workload, by its value."""
    producer, number = value.decode().rsplit(" ", 1)
    return producer, int(number)
